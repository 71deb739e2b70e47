"""A cluster whose truth is known: its machines, runs and bill lines, and who truly gets which exact fraction of every line.

It follows the rules of the split (exclusive time, billed time, units) by slicing time. It uses no SQL and no code of the product.
`worlds.py` decides which machines and runs there are, and `files.py` writes them to files.
"""

from __future__ import annotations

import bisect
import datetime as dt
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise

SECOND, MINUTE, HOUR, DAY = 1_000, 60_000, 3_600_000, 86_400_000
IDLE, SHARED, NOBODY, ORPHAN = "idle", "shared", "nobody", "orphan"  # who gets the money that no run gets
ACCOUNT = "111122223333"
TEN = Decimal("0.0000000001")

Span = tuple[int, int]  # epoch milliseconds, half-open
Shares = dict[str, Fraction]  # run id or one of the four words above -> part of a charge


def millis(text: str) -> int:
    """Return a UTC time in epoch milliseconds."""
    return int(dt.datetime.fromisoformat(text).replace(tzinfo=dt.timezone.utc).timestamp() * 1000)


def moment(instant: int) -> dt.datetime:
    """Return the UTC time of epoch milliseconds."""
    return dt.datetime.fromtimestamp(instant / 1000, tz=dt.timezone.utc)


@dataclass(frozen=True)
class MachineType:
    """A machine type with its list price per hour and its sizes."""

    name: str
    price: Decimal
    gpus: int = 0
    cpus: int = 0
    memory_gb: int = 0


P4D = MachineType("p4d.24xlarge", Decimal("24.576"), 8, 96, 1152)
G5 = MachineType("g5.12xlarge", Decimal("5.672"), 4, 48, 192)
M5 = MachineType("m5.4xlarge", Decimal("0.768"), 0, 16, 64)


@dataclass(eq=False)
class Run:
    """One run: its times according to MLflow, and the machines it really used, with times. `end` is None if MLflow does not know it."""

    run_id: str
    start: int
    end: int | None
    experiment: str = "exp-0"
    parent: Run | None = None
    takes: Fraction | None = None  # GPUs or cores it has of each machine that hands them out; None: it shares machines evenly
    tags: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    last_metric: int | None = None
    uses: list[tuple[Machine, int, int]] = field(default_factory=list)

    def use(self, machine: Machine, start: int, end: int) -> None:
        """Put the run on the machine from `start` to `end`. The machine must be up for all of that time."""
        assert any(a <= start and end <= b for a, b in machine.up), (machine.name, start, end, machine.up)
        assert start < end
        self.uses.append((machine, start, end))
        machine.uses.append((self, start, end))

    def ancestors(self) -> list[Run]:
        """Return its parent, its parent's parent and so on."""
        return [] if self.parent is None else [self.parent, *self.parent.ancestors()]


@dataclass(eq=False)
class Machine:
    """One machine: the id that runs know, the id on the bill, the times it was up (and billed), and the runs on it."""

    name: str
    kind: MachineType
    up: list[Span]
    billed_as: str = ""
    account: str = ACCOUNT
    region: str = "eu-west-1"
    price: Decimal | None = None  # list price per hour; None: the type's
    tags: dict[str, str] = field(default_factory=dict)
    hands_out: int | None = None  # GPUs or cores that it hands out to runs; None: runs share it evenly
    uses: list[tuple[Run, int, int]] = field(default_factory=list)
    _slices: list[tuple[int, int, Shares]] | None = None

    def uptime(self, start: int, end: int) -> int:
        """Return how many milliseconds of a window it was up."""
        return sum(max(0, min(b, end) - max(a, start)) for a, b in self.up)

    def slices(self) -> list[tuple[int, int, Shares]]:
        """Cut its time at every start and end of a run, and return each run's part of the machine in each piece.

        A parent has a part only while none of its descendants is on the machine.
        """
        if self._slices is None:
            self._slices = []
            marks = sorted({t for _, start, end in self.uses for t in (start, end)})
            begins = sorted(self.uses, key=lambda use: use[1])
            active: list[tuple[Run, int]] = []
            for a, b in pairwise(marks):
                active = [(run, end) for run, end in active if end > a]
                while begins and begins[0][1] <= a:
                    run, _, end = begins.pop(0)
                    active.append((run, end))
                if active:
                    self._slices.append((a, b, self._parts([run for run, _ in active])))
        return self._slices

    def _parts(self, active: Sequence[Run]) -> Shares:
        above = {ancestor.run_id for run in active for ancestor in run.ancestors()}
        leaves = {run.run_id: run for run in active if run.run_id not in above}
        asked = {run_id: Fraction(1) if run.takes is None else run.takes for run_id, run in leaves.items()}
        whole = max(sum(asked.values()), Fraction(self.hands_out or 0))
        return {run_id: take / whole for run_id, take in asked.items()}

    def time_of_runs(self, start: int, end: int) -> Shares:
        """Return each run's own milliseconds of the machine in a window."""
        pieces, times = self.slices(), defaultdict(Fraction)
        for a, b, parts in pieces[max(0, bisect.bisect_right(pieces, start, key=lambda piece: piece[0]) - 1) :]:
            if a >= end:
                break
            length = min(b, end) - max(a, start)
            if length > 0:
                for run_id, part in parts.items():
                    times[run_id] += part * length
        return times

    def serves(self, month: str) -> bool:
        """True if a run was on it in a calendar month. Its empty time in that month is then idle, otherwise unallocated."""
        return any(f"{moment(start):%Y-%m}" <= month <= f"{moment(end - 1):%Y-%m}" for _, start, end in self.uses)


def machine_shares(machines: Iterable[Machine], start: int, end: int) -> Shares:
    """Return each run's share of these machines in a window, by its own time. Time without a run is idle or unallocated."""
    shares: Shares = defaultdict(Fraction)
    total, month = 0, f"{moment(start):%Y-%m}"
    for machine in machines:
        times, up = machine.time_of_runs(start, end), machine.uptime(start, end)
        for run_id, time in times.items():
            shares[run_id] += time
        shares[IDLE if machine.serves(month) else NOBODY] += up - sum(times.values())
        total += up
    return {target: time / total for target, time in shares.items() if time}


@dataclass(eq=False)
class Line:
    """One bill line as FOCUS writes it, and everyone's true part of it."""

    row: dict[str, str]
    shares: Shares

    def cost(self, column: str = "EffectiveCost") -> Fraction:
        return Fraction(self.row[column])


def bill_line(start: int, end: int, list_cost: Decimal, shares: Mapping[str, Fraction], **columns: str) -> Line:
    """Return a line whose four costs all differ and have ten decimals. Columns that are not given have the values of an AWS usage line."""
    month = moment(start).replace(day=1, hour=0, minute=0, second=0)
    row = {
        "ListCost": str(list_cost.quantize(TEN)),
        "ContractedCost": str((list_cost * Decimal("0.95")).quantize(TEN)),
        "EffectiveCost": str((list_cost * Decimal("0.9137")).quantize(TEN)),
        "BilledCost": str((list_cost * Decimal("0.871")).quantize(TEN)),
        "BillingAccountId": "000011112222",
        "BillingAccountName": "Acme",
        "BillingCurrency": "USD",
        "BillingPeriodStart": time_text(month),
        "BillingPeriodEnd": time_text((month + dt.timedelta(days=32)).replace(day=1)),
        "ChargeCategory": "Usage",
        "ChargeFrequency": "Usage-Based",
        "ChargePeriodStart": time_text(moment(start)),
        "ChargePeriodEnd": time_text(moment(end)),
        "InvoiceIssuerName": "AWS",
        "ProviderName": "AWS",
        "PublisherName": "AWS",
        "RegionId": "eu-west-1",
        "ServiceCategory": "Compute",
        "ServiceName": "Amazon EC2",
        "SubAccountId": ACCOUNT,
        "SubAccountName": "ml",
        "Tags": "{}",
    }
    assert set(columns) <= set(COLUMNS), set(columns) - set(COLUMNS)
    assert sum(shares.values()) == 1, shares
    return Line(row | columns, dict(shares))


def time_text(when: dt.datetime) -> str:
    return f"{when:%Y-%m-%dT%H:%M:%SZ}"


def quantity_text(time: int) -> str:
    """Return milliseconds as hours, with ten decimals."""
    return str((Decimal(time) / HOUR).quantize(TEN))


def machine_lines(machine: Machine, until: int, *, step: int = HOUR, columns: Mapping[str, str] | None = None) -> list[Line]:
    """Return the machine's own cost: one line per window (an hour or a day), with its uptime as the quantity."""
    lines = []
    for start in windows_of(machine.up, step):
        end = start + step
        up = machine.uptime(start, min(end, until))
        if start >= until or not up:
            continue
        cost = (machine.kind.price if machine.price is None else machine.price) * up / HOUR
        lines.append(
            bill_line(
                start,
                end,
                cost,
                machine_shares([machine], start, end),
                **machine_columns(machine) | {"ConsumedQuantity": quantity_text(up), "ConsumedUnit": "Hours"} | dict(columns or {}),
            )
        )
    return lines


def machine_columns(machine: Machine) -> dict[str, str]:
    """Return the columns that identify a line's machine and state its size."""
    kind = machine.kind
    details = (
        {"InstanceType": kind.name}
        | {k: v for k, v in (("GpuCount", kind.gpus), ("CoreCount", kind.cpus)) if v}
        | ({"MemorySize": f"{kind.memory_gb} GiB"} if kind.memory_gb else {})
    )
    return {
        "ResourceId": machine.billed_as or machine.name,
        "SkuId": f"box-{kind.name}",
        "SkuPriceId": f"box-{kind.name}.od",
        "SkuPriceDetails": json.dumps(details),
        "ServiceSubcategory": "Virtual Machines",
        "SubAccountId": machine.account,
        "RegionId": machine.region,
        "Tags": json.dumps(machine.tags),
    }


def windows_of(spans: Iterable[Span], step: int) -> list[int]:
    """Return the starts of all windows of length `step` that overlap these time ranges."""
    return sorted({start for a, b in spans for start in range(a - a % step, b, step)})


COLUMNS = (
    "AvailabilityZone,BilledCost,BillingAccountId,BillingAccountName,BillingCurrency,BillingPeriodEnd,BillingPeriodStart,ChargeCategory,ChargeClass,"
    "ChargeDescription,ChargeFrequency,ChargePeriodEnd,ChargePeriodStart,CommitmentDiscountId,CommitmentDiscountStatus,CommitmentDiscountType,ConsumedQuantity,ConsumedUnit,ContractedCost,EffectiveCost,InvoiceId,"
    "InvoiceIssuerName,ListCost,PricingCategory,PricingQuantity,PricingUnit,ProviderName,PublisherName,RegionId,ResourceId,ResourceName,ResourceType,ServiceCategory,"
    "ServiceName,ServiceSubcategory,SkuId,SkuMeter,SkuPriceDetails,SkuPriceId,SubAccountId,SubAccountName,Tags"
).split(",")
