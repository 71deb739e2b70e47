"""Worlds: what happened on a cluster, what MLflow knows of it, and what was billed. Each world is one function.

The same seed and size give the same world. Put a world into the section for the situation it shows. `cluster.py` computes who truly pays
for a line.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction

from runspend.core import machine_tags
from tests.benchmarks.accuracy.cluster import (
    ACCOUNT,
    DAY,
    G5,
    HOUR,
    IDLE,
    M5,
    MINUTE,
    NOBODY,
    ORPHAN,
    P4D,
    SECOND,
    SHARED,
    Line,
    Machine,
    MachineType,
    Run,
    Shares,
    bill_line,
    machine_columns,
    machine_lines,
    machine_shares,
    millis,
    moment,
    windows_of,
)

BEGIN = millis("2026-10-05")
WITH_IDS, WITHOUT_IDS = Fraction(1, 10**6), Fraction(5, 100)  # how far costs may be from the truth


@dataclass(frozen=True)
class Size:
    """The size of a world: its simultaneous machines, and its days."""

    machines: int
    days: int


SMALL, LARGE = Size(5, 2), Size(40, 14)


@dataclass(frozen=True)
class Object:
    """A file in the bucket with its size and storage class."""

    key: str
    size: int
    storage_class: str = "STANDARD"


@dataclass
class Night:
    """One pipeline run: its time, the bill at that time, and the objects in the bucket."""

    now: int
    lines: list[Line]
    objects: list[Object] = field(default_factory=list)


@dataclass
class World:
    """All facts of a world.

    `bar` is the largest allowed error of the runs' costs, as a share of the truth; None if the data cannot show the truth.
    """

    name: str
    draw: random.Random
    size: Size
    bar: Fraction | None = WITH_IDS
    is_identified: bool = True  # whether the data shows which run was where; if False, false matches are counted but are not faults
    idle_is_known: bool = True  # if False, the idle time of machines that no run ever states looks like another department's time
    begin: int = BEGIN
    runs: list[Run] = field(default_factory=list)
    machines: list[Machine] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    last: int | None = None
    billed: int = 0  # number of machines that are already billed
    earlier: list[Night] = field(default_factory=list)  # nights before the last one
    objects: list[Object] = field(default_factory=list)
    settings: str = ""  # added to runspend.yaml, with {bucket} and {endpoint} filled in
    focus: str = "1.2"  # version of the bill's columns
    artifact_root: str = "s3://acme-elsewhere"
    experiment_tags: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def end(self) -> int:
        """Return the time at which the bill ends."""
        return self.begin + self.size.days * DAY if self.last is None else self.last

    def instance(self) -> str:
        return f"i-{self.draw.getrandbits(68):017x}"

    def machine(self, kind: MachineType, up: list[tuple[int, int]], name: str = "", **more: object) -> Machine:
        """Add a machine that is up at these times: an EC2 instance, unless it has a name."""
        made = Machine(name or self.instance(), kind, up, **more)
        if not name:
            made.billed_as = f"arn:aws:ec2:eu-west-1:{made.account}:instance/{made.name}"
        self.machines.append(made)
        return made

    def run(self, start: int, end: int | None, on: Machine | None = None, *, states: bool = True, **more: object) -> Run:
        """Add a run. If `on` is given, the run is on that machine from start to end, and states it unless `states` is False."""
        drawn = f"exp-{self.draw.randrange(3)}"
        made = Run(f"{self.draw.getrandbits(128):032x}", start, end, **{"experiment": drawn} | more)
        self.runs.append(made)
        if on is not None:
            assert end is not None
            made.use(on, start, end)
            if states:
                made.tags["runspend.instance_id"] = on.name
        return made

    def bill_machines(self, **more: object) -> None:
        for machine in self.machines[self.billed :]:
            self.lines += machine_lines(machine, self.end, **more)
        self.billed = len(self.machines)

    def span(self, shortest: int, longest: int) -> int:
        """Return a random length of time in whole milliseconds."""
        return self.draw.randrange(shortest, longest)

    def now(self) -> int:
        return self.end + 6 * HOUR


def bill_the_rest(world: World) -> None:
    """Add the rest of every bill: tax, support, a credit without a run, an unused commitment, and another department's database."""
    start, end = world.begin, world.begin + HOUR
    rest = {"ServiceCategory": "Other", "ChargeFrequency": "Recurring"} | {
        c: world.lines[0].row[c] for c in ("SubAccountId", "BillingAccountId")
    }
    world.lines += [
        bill_line(start, end, Decimal("11.23"), {SHARED: Fraction(1)}, ChargeCategory="Tax", ServiceName="Tax", **rest),
        bill_line(
            start,
            end,
            Decimal("7.77"),
            {SHARED: Fraction(1)},
            ChargeCategory="Purchase",
            ServiceName="AWS Support (Business)",
            SkuId="support",
            **rest,
        ),
        bill_line(start, end, Decimal("-3.33"), {SHARED: Fraction(1)}, ChargeCategory="Credit", **rest),
        bill_line(
            start,
            end,
            Decimal("1.5"),
            {SHARED: Fraction(1)},
            CommitmentDiscountStatus="Unused",
            CommitmentDiscountId="sp-1",
            ResourceId="arn:aws:savingsplans::1:savingsplan/sp-1",
            **rest,
        ),
    ]
    database = {
        "ServiceCategory": "Databases",
        "ServiceName": "Amazon RDS",
        "SkuId": "rds",
        "SubAccountId": "999988887777",
        "SubAccountName": "shop",
    }
    world.lines += [
        bill_line(
            hour,
            hour + HOUR,
            Decimal("0.412"),
            {NOBODY: Fraction(1)},
            ResourceId="arn:aws:rds:eu-west-1:999988887777:db:shop",
            ConsumedQuantity="1",
            ConsumedUnit="Hours",
            **database,
        )
        for hour in windows_of([(world.begin, world.end)], HOUR)
    ]


# --- runs that state their machine ---------------------------------------------------------------------------------------


def fill(world: World, machine: Machine, *, gap: tuple[int, int], length: tuple[int, int], **more: object) -> list[Run]:
    """Add one run after the other to a machine, for as long as it is up."""
    runs = []
    for up, down in machine.up:
        start = up + world.span(SECOND, max(2 * SECOND, gap[1]))
        while (end := start + world.span(*length)) < down:
            runs.append(world.run(start, end, machine, **more))
            start = end + world.span(*gap)
    return runs


def one_run_a_machine(world: World) -> None:
    """Machines are always up and have one run at a time, with pauses between runs."""
    for _ in range(world.size.machines):
        fill(world, world.machine(G5, [(world.begin, world.end)]), gap=(0, 90 * MINUTE), length=(5 * MINUTE, 5 * HOUR))
    world.bill_machines()


def parallel_runs(world: World) -> None:
    """Up to four runs share a machine. Hours are billed in two parts (committed and not), with licenses, credits and corrections."""
    for _ in range(world.size.machines):
        machine = world.machine(P4D, [(world.begin, world.end)])
        for _ in range(4):
            fill(world, machine, gap=(0, 3 * HOUR), length=(10 * MINUTE, 7 * HOUR))
        for whole in machine_lines(machine, world.end):
            start, row = millis_of(whole), whole.row
            part = Decimal(world.draw.randrange(1, 10)) / 10
            same = machine_columns(machine)
            for share, status, id_ in ((part, "Used", "sp-7"), (1 - part, "", "")):
                cost, hours = Decimal(row["ListCost"]) * share, Decimal(row["ConsumedQuantity"]) * share
                world.lines.append(
                    bill_line(
                        start,
                        start + HOUR,
                        cost,
                        whole.shares,
                        **same,
                        ConsumedQuantity=str(hours),
                        ConsumedUnit="Hours",
                        CommitmentDiscountStatus=status,
                        CommitmentDiscountId=id_,
                    )
                )
            world.lines.append(
                bill_line(
                    start, start + HOUR, Decimal("0.3456789012"), whole.shares, **same | {"SkuId": "licence", "SkuPriceId": "licence"}
                )
            )
            if world.draw.random() < 0.1:
                world.lines.append(bill_line(start, start + HOUR, Decimal("-1.2345678901"), whole.shares, **same, ChargeCategory="Credit"))
            if world.draw.random() < 0.1:
                world.lines.append(
                    bill_line(
                        start,
                        start + HOUR,
                        Decimal("-0.777"),
                        whole.shares,
                        **same,
                        ChargeClass="Correction",
                        ConsumedQuantity="-0.03",
                        ConsumedUnit="Hours",
                    )
                )


def sweeps(world: World) -> None:
    """Parent runs have children and grandchildren on one or two machines. Half of the children have no tags, as with `MlflowClient.create_run`."""
    pairs = [
        [world.machine(G5, [(world.begin, world.end)]) for _ in range(world.draw.choice((1, 2)))]
        for _ in range(max(2, world.size.machines // 2))
    ]
    for machines in pairs:
        start = world.begin + world.span(SECOND, 2 * HOUR)
        while (end := start + world.span(HOUR, 8 * HOUR)) < world.end:
            parent = world.run(start, end)
            parent.tags["runspend.resource_ids"] = json.dumps([m.name for m in machines])
            for machine in machines:
                parent.use(machine, start, end)
            _add_children(world, parent, machines, depth=1)
            start = end + world.span(0, 2 * HOUR)
    world.bill_machines()


def _add_children(world: World, parent: Run, machines: list[Machine], depth: int) -> None:
    assert parent.end is not None
    length = parent.end - parent.start
    for _ in range(world.draw.randrange(1, 6)):
        start = parent.start + world.span(0, length // 2)
        child = world.run(start, start + world.span(length // 50 + 1, length // 2), parent=parent)
        child.tags["mlflow.parentRunId"] = parent.run_id
        mine = machines
        if world.draw.random() < 0.5:
            mine = [world.draw.choice(machines)]
            child.tags["runspend.instance_id"] = mine[0].name
        assert child.end is not None
        for machine in mine:
            child.use(machine, child.start, child.end)
        if depth < 2 and world.draw.random() < 0.4:
            _add_children(world, child, mine, depth + 1)


def multi_node(world: World) -> None:
    """Runs use two to four machines, each with its own start and end. Some runs list their machines without times."""
    machines = [world.machine(P4D, [(world.begin, world.end)]) for _ in range(max(4, world.size.machines))]
    for _ in range(world.size.machines * world.size.days * 2):
        start = world.begin + world.span(0, world.end - world.begin - 7 * HOUR)
        run = world.run(start, start + world.span(HOUR, 6 * HOUR))
        assert run.end is not None
        chosen, listed = world.draw.sample(machines, world.draw.randrange(2, 5)), []
        is_timed = world.draw.random() < 0.7
        for machine in chosen:
            a = run.start + (world.span(0, 20 * MINUTE) if is_timed else 0)
            b = run.end - (world.span(0, 30 * MINUTE) if is_timed else 0)
            run.use(machine, a, b)
            listed.append({"id": machine.name} | ({"from": iso(a), "to": iso(b)} if is_timed else {}))
        run.tags["runspend.resources"] = json.dumps(listed)
    world.bill_machines()


def shared_gpus(world: World) -> None:
    """Nodes have eight GPUs. A run requests half a GPU to eight GPUs, states the number, and waits until a node has that many free."""
    nodes = [world.machine(P4D, [(world.begin, world.end)], hands_out=8) for _ in range(world.size.machines)]
    for run, _ in schedule(world, nodes, [Fraction(1, 2), Fraction(1), Fraction(2), Fraction(4), Fraction(8)], busy=0.8):
        run.params["gpu_count"] = f"{float(run.takes or 0):g}"
    world.bill_machines()


def gpu_slices(world: World) -> None:
    """Like `shared_gpus`, but with MIG slices: a run has one to four sevenths of a GPU, half a GPU or a whole one. The plug-in states the share, or the run states a number of slices."""
    nodes = [world.machine(P4D, [(world.begin, world.end)], hands_out=8) for _ in range(world.size.machines)]
    slices = [Fraction(n, 7) for n in (1, 2, 3, 4)]
    for run, _ in schedule(world, nodes, [*slices, Fraction(1, 2), Fraction(1)], busy=0.8):
        takes = run.takes or Fraction(0)
        if takes in slices and world.draw.random() < 0.5:
            run.params |= {"gpu_type": "nvidia.com/mig-1g.5gb", "gpu_count": str(int(takes * 7))}
        else:
            run.tags[machine_tags.GPU_COUNT] = f"{float(takes):.4g}"
    world.bill_machines()


def shared_cores(world: World) -> None:
    """Like `shared_gpus`, but with CPU cores: a node has 16. Runs request half a core to eight cores, in cores or millicores."""
    nodes = [world.machine(M5, [(world.begin, world.end)], hands_out=16) for _ in range(world.size.machines)]
    for run, _ in schedule(world, nodes, [Fraction(1, 2), Fraction(1), Fraction(3), Fraction(8)], busy=0.8):
        run.params["cpu_request"] = f"{int((run.takes or 0) * 1000)}m" if world.draw.random() < 0.5 else f"{float(run.takes or 0):g}"
    world.bill_machines()


def schedule(
    world: World, nodes: list[Machine], sizes: list[Fraction], *, busy: float, states: bool = True
) -> Iterator[tuple[Run, Machine]]:
    """Yield runs that queue for a part of a node, first come, first served. On average, about `busy` of all parts are in use."""
    free_at: dict[Machine, list[tuple[int, Fraction]]] = {node: [] for node in nodes}
    capacity = sum(node.hands_out or 0 for node in nodes)
    mean_length, mean_size = 2.25 * HOUR, float(sum(sizes)) / len(sizes)
    clock, last = float(world.begin), world.begin
    while True:
        clock += world.draw.expovariate(capacity * busy / (mean_length * mean_size))
        take, start, length = world.draw.choice(sizes), max(int(clock) + 1, last), world.span(30 * MINUTE, 4 * HOUR)
        while True:
            fits = [n for n in nodes if sum(t for until, t in free_at[n] if until > start) + take <= (n.hands_out or 0)]
            if fits:
                break
            start = min(until for n in nodes for until, _ in free_at[n] if until > start)
        if start + length >= world.end:
            return
        node, last = world.draw.choice(fits), start
        free_at[node] = [(until, t) for until, t in free_at[node] if until > start] + [(start + length, take)]
        yield world.run(start, start + length, node, takes=take, states=states), node


def autoscaled(world: World) -> None:
    """A machine starts for a few runs and stops some time after them. The bill has partial hours and numeric ids, as on Google Cloud (FOCUS 1.0)."""
    world.focus = "1.0"
    for _ in range(world.size.machines * world.size.days * 3):
        boot = world.begin + world.span(0, world.end - world.begin - 12 * HOUR)
        boot -= boot % SECOND
        name = str(world.draw.randrange(10**18, 10**19))
        start, machine = boot + world.span(40 * SECOND, 8 * MINUTE), world.machine(G5, [], name=name)
        machine.billed_as = f"//compute.googleapis.com/projects/acme-ml/zones/europe-west4-a/instances/{name}"
        spans = []
        for _ in range(world.draw.randrange(1, 4)):
            spans.append((start, start + world.span(2 * MINUTE, 3 * HOUR)))
            start = max(boot + 40 * SECOND, spans[-1][1] + world.span(-20 * MINUTE, 20 * MINUTE))
        down = max(b for _, b in spans) + world.span(SECOND, 50 * MINUTE)
        machine.up = [(boot, down - down % SECOND + SECOND)]
        for a, b in spans:
            world.run(a, b, machine)
    google = {
        "ProviderName": "Google Cloud",
        "PublisherName": "Google Cloud",
        "InvoiceIssuerName": "Google Cloud",
        "ServiceName": "Compute Engine",
    }
    google |= {"SubAccountId": "acme-ml", "BillingAccountId": "01AB23-45CD67-89EF01"}
    world.bill_machines(columns=google)
    for line in list(world.lines):  # a license billed by the hour does not add time to the machine
        licence = bill_line(millis_of(line), millis_of(line) + HOUR, Decimal(line.row["ConsumedQuantity"]) * 2, line.shares)
        world.lines.append(
            Line(
                line.row | {c: v for c, v in licence.row.items() if c.endswith("Cost")} | {"SkuId": "licence", "SkuPriceId": "licence"},
                line.shares,
            )
        )


def spot(world: World) -> None:
    """Runs lose their machine, wait, and continue under the same id on another. They list their machines with times (FOCUS 1.3)."""
    world.focus = "1.3"
    for _ in range(world.size.machines * world.size.days * 2):
        start = clock = world.begin + world.span(0, world.end - world.begin - 20 * HOUR)
        run, listed = world.run(start, None), []
        for _ in range(world.draw.randrange(1, 5)):
            boot = clock - world.span(SECOND, 5 * MINUTE) if clock - 5 * MINUTE > world.begin else clock
            stop = clock + world.span(3 * MINUTE, 4 * HOUR)
            machine = world.machine(
                P4D, [(boot, stop + world.span(0, 2 * MINUTE))], price=Decimal(world.draw.randrange(60_000, 90_000)) / 10_000
            )
            run.use(machine, clock, stop)
            listed.append({"id": machine.name, "from": iso(clock), "to": iso(stop)})
            clock = stop + world.span(3 * MINUTE, 40 * MINUTE)
        run.end = run.uses[-1][2]
        run.tags["runspend.resources"] = json.dumps(listed)
    world.bill_machines(columns={"PricingCategory": "Dynamic"})


def daily_bills(world: World) -> None:
    """As on Azure, one charge covers the hours of one day. The bill writes machine ids in a different case than the runs do."""
    for number in range(world.size.machines):
        path = f"/subscriptions/1b2c/resourceGroups/RG-ML/providers/Microsoft.Compute/virtualMachines/vm-{number}"
        up = [(world.begin, world.end)]
        if number % 2:  # up for a part of each day
            up = [(day + world.span(0, 6 * HOUR), day + world.span(9 * HOUR, 24 * HOUR)) for day in range(world.begin, world.end, DAY)]
        machine = world.machine(M5, up, name=path)
        machine.billed_as = path.lower() if number % 3 else path.upper().replace("/SUBSCRIPTIONS/", "/subscriptions/")
        for _ in range(2):
            fill(world, machine, gap=(0, 3 * HOUR), length=(10 * MINUTE, 6 * HOUR))
    azure = {"ProviderName": "Microsoft", "PublisherName": "Microsoft", "InvoiceIssuerName": "Microsoft", "ServiceName": "Virtual Machines"}
    world.bill_machines(step=DAY, columns=azure)


def zombies(world: World) -> None:
    """Runs have no end. Some died after their last metric, others are still active at the end of the bill. Other runs use the machines after the dead ones."""
    for _ in range(world.size.machines):
        machine = world.machine(G5, [(world.begin, world.end)])
        for run in fill(world, machine, gap=(0, 90 * MINUTE), length=(10 * MINUTE, 5 * HOUR)):
            assert run.end is not None
            if world.draw.random() < 0.4 and run.end < world.end - 7 * HOUR:
                run.last_metric, run.end = run.end, None
        start = world.end - world.span(7 * HOUR, 30 * HOUR)
        alive = world.run(start, None, last_metric=world.end - world.span(MINUTE, 5 * HOUR))
        alive.use(machine, start, world.end)
        alive.tags["runspend.instance_id"] = machine.name
    world.bill_machines()


def silent_dead(world: World) -> None:
    """Runs have no end and logged nothing. The data does not show when they died."""
    world.bar, world.is_identified = None, False
    for _ in range(world.size.machines):
        for run in fill(world, world.machine(G5, [(world.begin, world.end)]), gap=(0, 90 * MINUTE), length=(10 * MINUTE, 5 * HOUR)):
            if world.draw.random() < 0.1:
                run.end = None
    world.bill_machines()


def reused_names(world: World) -> None:
    """Node names are reused for other machines, by these runs and by people without MLflow. Some runs name a node that no longer exists."""
    for number in range(world.size.machines):
        name, clock = f"gpu-node-{number:02d}", world.begin
        while clock < world.end:
            stop = min(world.end, clock + world.span(2 * HOUR, 12 * HOUR))
            stop -= stop % HOUR
            if stop <= clock:
                break
            machine = world.machine(world.draw.choice((G5, P4D)), [(clock, stop)], name=name)
            if world.draw.random() < 0.6:
                fill(world, machine, gap=(0, HOUR), length=(5 * MINUTE, 4 * HOUR))
            else:  # a run in another place states the same name while the bill has no such machine
                gap = world.span(1, 4) * HOUR
                stray = world.run(stop, stop + gap)
                stray.tags["runspend.instance_id"] = name
                stop += gap
            clock = stop
    named = {run.tags["runspend.instance_id"] for run in world.runs}
    for machine in world.machines:
        lines = machine_lines(machine, world.end)
        if not machine.uses and machine.name in named:
            for line in lines:  # runs state this name in the month, so the machine's empty time is idle
                line.shares = {IDLE: Fraction(1)}
        world.lines += lines


def restated(world: World) -> None:
    """The month is delivered twice: first with other prices and missing charges, then in its final form."""
    for _ in range(world.size.machines):
        fill(world, world.machine(G5, [(world.begin, world.end)]), gap=(0, 90 * MINUTE), length=(5 * MINUTE, 5 * HOUR))
    world.bill_machines()
    first = [
        Line(
            line.row
            | {c: str(Decimal(line.row[c]) * Decimal("1.1")) for c in ("ListCost", "ContractedCost", "EffectiveCost", "BilledCost")},
            line.shares,
        )
        for line in world.lines
        if world.draw.random() < 0.97
    ]
    world.earlier.append(Night(world.end + HOUR, first))


def month_ends(world: World) -> None:
    """The end of October: two bills, runs across midnight, a refund in November for an hour of October, and a machine unused in November."""
    for number in range(world.size.machines):
        machine = world.machine(G5, [(world.begin, world.end)])
        midnight = millis("2026-11-01")
        if number == 0:
            start = world.begin + world.span(SECOND, HOUR)
            while (end := start + world.span(10 * MINUTE, 4 * HOUR)) < midnight:
                world.run(start, end, machine)
                start = end + world.span(0, HOUR)
            world.run(min(start, midnight - 1), midnight, machine)
        else:
            fill(world, machine, gap=(0, HOUR), length=(10 * MINUTE, 9 * HOUR))
            world.run(midnight - world.span(HOUR, 4 * HOUR), midnight + world.span(HOUR, 4 * HOUR), machine)
        refunded = midnight - world.draw.randrange(1, 20) * HOUR
        refund = bill_line(
            refunded,
            refunded + HOUR,
            Decimal("-2.5"),
            machine_shares([machine], refunded, refunded + HOUR),
            **machine_columns(machine),
            ChargeClass="Correction",
        )
        refund.row |= {"BillingPeriodStart": "2026-11-01T00:00:00Z", "BillingPeriodEnd": "2026-12-01T00:00:00Z"}
        world.lines.append(refund)
    world.bill_machines()


# --- other ways of knowing ----------------------------------------------------------------------------------------------


def rented(world: World) -> None:
    """Each machine is rented for one run. Its charges have the run's id, from boot to release. One id is unknown to every server."""
    for number in range(world.size.machines * world.size.days * 2):
        boot = world.begin + world.span(0, world.end - world.begin - 9 * HOUR)
        machine = world.machine(P4D, [(boot, boot + world.span(HOUR, 8 * HOUR))])
        (a, b) = machine.up[0]
        run = world.run(a + 5 * MINUTE, b - 5 * MINUTE, params={"gpu_count": str(world.draw.randrange(1, 9))})
        run.uses.append((machine, a, b))
        stranger = f"{world.draw.getrandbits(128):032x}"
        machine.tags["mlflow_run_id"] = run.run_id if number else stranger
        lines = machine_lines(machine, world.end)
        for line in lines:
            line.shares = {run.run_id if number else NOBODY: Fraction(1)}
        if not number:
            run.uses.clear()
        world.lines += lines


def jobs(world: World) -> None:
    """A training job has one to four runs, with start-up, gaps and shutdown around them. SageMaker names jobs by ARN, SLURM by tag. Some SLURM job numbers are used again a day later."""
    world.last = world.begin + (world.size.days + 3) * DAY
    for number in range(world.size.machines * world.size.days * 2):
        boot = world.begin + world.span(0, world.size.days * DAY)
        is_sagemaker = number % 2 == 0
        name = f"Train-{world.draw.randrange(10**6):06d}-{number}" if is_sagemaker else str(700_000 + number)
        down = run_job(world, name, boot, is_sagemaker=is_sagemaker)
        if number % 4 == 1 and down < world.end - 2 * DAY:
            run_job(world, name, down + 26 * HOUR + world.span(0, HOUR), is_sagemaker=False)


def run_job(world: World, name: str, boot: int, *, is_sagemaker: bool) -> int:
    """Add one job with its lines, and return the time at which it ended."""
    arn = f"arn:aws:sagemaker:eu-west-1:{ACCOUNT}:training-job/{name.lower()}"
    machine = world.machine(P4D, [], name=arn if is_sagemaker else f"slurm-{name}-{boot}")
    start, spans = boot + world.span(2 * MINUTE, 70 * MINUTE), []
    for _ in range(world.draw.randrange(1, 5)):
        spans.append((start, start + world.span(3 * MINUTE, 2 * HOUR)))
        start = max(boot + MINUTE, spans[-1][1] + world.span(-15 * MINUTE, 15 * MINUTE))
    down = max(b for _, b in spans) + world.span(MINUTE, 70 * MINUTE)
    machine.up = [(boot, down)]
    for a, b in spans:
        run = world.run(a, b, machine, states=False)
        run.tags["sagemaker.training_job_name" if is_sagemaker else "runspend.job_id"] = name
    whole = machine.time_of_runs(boot, down)
    for line in machine_lines(machine, world.end):
        line.row |= (
            {"ServiceName": "Amazon SageMaker", "ServiceCategory": "AI and Machine Learning"}
            if is_sagemaker
            else {"Tags": json.dumps({"slurm_job_id": name})}
        )
        line.shares = job_shares(machine, whole, millis_of(line), millis_of(line) + HOUR)
        world.lines.append(line)
    return down


def job_shares(machine: Machine, whole: Shares, start: int, end: int) -> Shares:
    """Return each run's share of a window of a job.

    A run gets its own time in the window. Time that no run used is split by the runs' own time in the whole job.
    """
    times, up = machine.time_of_runs(start, end), machine.uptime(start, end)
    overhead = up - sum(times.values())
    return {run_id: (times.get(run_id, Fraction(0)) + overhead * time / sum(whole.values())) / up for run_id, time in whole.items()}


def attached(world: World) -> None:
    """Disks name their machine. Addresses and traffic share a cluster tag with several machines. Their cost follows the time of the machines."""
    cluster: list[Machine] = []
    for number in range(max(3, world.size.machines)):
        tags = {"aws:eks:cluster-name": "train"} if number % 2 else {}
        machine = world.machine(G5, [(world.begin, world.end)], tags=tags)
        cluster += [machine] if number % 2 else []
        for _ in range(2):
            fill(world, machine, gap=(0, 3 * HOUR), length=(10 * MINUTE, 7 * HOUR))
        bill_disk(world, machine, ConsumedQuantity="0.68", ConsumedUnit="GB-Months")
    for hour in windows_of([(world.begin, world.end)], HOUR):
        traffic = {
            "ResourceId": f"arn:aws:ec2:eu-west-1:{ACCOUNT}:natgateway/nat-1",
            "ServiceName": "Amazon VPC",
            "ServiceCategory": "Networking",
            "SkuId": "nat",
        }
        shares = machine_shares(cluster, hour, hour + HOUR)
        world.lines.append(
            bill_line(
                hour,
                hour + HOUR,
                Decimal(world.draw.randrange(1, 10**6)) / 10**6,
                shares,
                **traffic,
                ConsumedQuantity="3.1",
                ConsumedUnit="GB",
                Tags=json.dumps({"aws:eks:cluster-name": "train"}),
            )
        )
    world.bill_machines()


def bill_disk(world: World, machine: Machine, **columns: str) -> None:
    """Bill a disk that names its machine, in every hour of the machine."""
    for hour in windows_of(machine.up, HOUR):
        world.lines.append(
            bill_line(
                hour,
                hour + HOUR,
                Decimal("0.066"),
                machine_shares([machine], hour, hour + HOUR),
                ResourceId=f"arn:aws:ec2:eu-west-1:{ACCOUNT}:volume/vol-{machine.name[2:]}",
                ServiceName="Amazon EBS",
                ServiceCategory="Storage",
                SkuId="gp3",
                Tags=json.dumps({"runspend.attached_to": machine.name}),
                **columns,
            )
        )


def platform_lines(world: World) -> None:
    """`shared` declares databases, control planes, gateways, load balancers and registries as shared cost. A pool, a group and a type would match them too. Disks follow their machines."""
    nodes = [
        world.machine(G5, [(world.begin, world.end)], tags={"eks:nodegroup-name": "gpu", "aws:eks:cluster-name": "ml"})
        for _ in range(max(2, world.size.machines))
    ]
    for number, node in enumerate(nodes):
        runs = fill(
            world,
            node,
            gap=(0, 3 * HOUR),
            length=(10 * MINUTE, 5 * HOUR),
            states=number > 0,
            experiment="pooled" if number == 0 else "stated",
        )
        bill_disk(world, node)
        if number == 1:
            # a run's own tag takes precedence over the declaration
            own = {
                "ResourceId": f"arn:aws:rds:eu-west-1:{ACCOUNT}:db:scratch",
                "ServiceName": "Amazon RDS",
                "ServiceCategory": "Databases",
                "Tags": json.dumps({"mlflow_run_id": runs[0].run_id}),
            }
            start = runs[0].start - runs[0].start % HOUR
            world.lines.append(bill_line(start, start + HOUR, Decimal("0.5"), {runs[0].run_id: Fraction(1)}, **own))
    group = json.dumps({"aws:eks:cluster-name": "ml", "eks:nodegroup-name": "gpu"})
    services = [
        (
            "Amazon RDS",
            "Databases",
            f"arn:aws:rds:eu-west-1:{ACCOUNT}:db:mlflow",
            DAY,
            {"SkuPriceDetails": json.dumps({"InstanceType": "db.r5.large"})},
        ),
        ("Amazon Elastic Kubernetes Service", "Compute", f"arn:aws:eks:eu-west-1:{ACCOUNT}:cluster/ml", HOUR, {"Tags": group}),
        ("Amazon EC2", "Networking", f"arn:aws:ec2:eu-west-1:{ACCOUNT}:natgateway/nat-0", HOUR, {"Tags": group}),
        (
            "Elastic Load Balancing",
            "Networking",
            f"arn:aws:elasticloadbalancing:eu-west-1:{ACCOUNT}:loadbalancer/app/mlflow/1",
            HOUR,
            {"Tags": group},
        ),
        ("Amazon EC2 Container Registry (ECR)", "Storage", f"arn:aws:ecr:eu-west-1:{ACCOUNT}:repository/train", DAY, {}),
    ]
    for service, category, resource, step, more in services:
        for start in windows_of([(world.begin, world.end)], step):
            cost = Decimal(world.draw.randrange(1, 10**9)) / 10**9
            columns = {"ServiceName": service, "ServiceCategory": category, "ResourceId": resource, "SkuId": service, **more}
            world.lines.append(bill_line(start, start + step, cost, {SHARED: Fraction(1)}, **columns))
            if world.draw.random() < 0.1:
                world.lines.append(bill_line(start, start + step, -cost / 7, {SHARED: Fraction(1)}, **columns, ChargeCategory="Credit"))
    declared = [
        "{service: Amazon RDS}",
        "{service: '*Kubernetes*'}",
        "{resource: '*natgateway*'}",
        "{service: Elastic Load Balancing}",
        "{service: '*Registry*'}",
    ]
    mine = ", ".join(selector.replace("}", f", account: '{ACCOUNT}'}}") for selector in declared)
    world.settings = (
        f"shared: {{lines: [{mine}]}}\npools: [{{name: gpu, runs: {{experiment: pooled}}, lines: {{tag.eks:nodegroup-name: gpu}}}}]\n"
    )
    world.bill_machines()


def artifacts(world: World) -> None:
    """A bucket is measured three times in a month, in two storage classes. It has artifacts of runs, orphaned artifacts, and files that are not from MLflow."""
    start, middle, end = millis("2026-10-01"), millis("2026-10-16"), millis("2026-11-01")
    owned = [world.run(start - world.span(DAY, 3 * DAY), start - DAY + world.span(1, HOUR)) for _ in range(4 * world.size.machines)]

    def key(run_id: str) -> str:
        return f"mlflow/1/{run_id}/artifacts/model.bin"

    before, after = [], []
    for run in owned:
        run.experiment = "exp-0"
        size, class_ = world.draw.randrange(1, 40_000), world.draw.choice(("STANDARD", "STANDARD", "STANDARD_IA"))
        before.append((run.run_id, Object(key(run.run_id), size, class_)))
        if world.draw.random() < 0.7:
            after.append((run.run_id, Object(key(run.run_id), size * world.draw.choice((1, 1, 3)), class_)))
    gone = f"{world.draw.getrandbits(128):032x}"
    extra = [(ORPHAN, Object(key(gone), 30_000)), (NOBODY, Object("exports/2026/table.parquet", 25_000))]
    before += extra
    after += extra
    world.begin, world.last = start, end
    for class_, meter, price in (("STANDARD", "TimedStorage-ByteHrs", "0.00023"), ("STANDARD_IA", "TimedStorage-SIA-ByteHrs", "0.000125")):
        storage = {
            "ServiceName": "Amazon S3",
            "ServiceCategory": "Storage",
            "SkuId": meter,
            "SkuMeter": meter,
            "SkuPriceDetails": json.dumps({"StorageClass": class_}),
        }
        for day in range(start, end, DAY):
            sizes: Shares = defaultdict(Fraction)
            for owner, item in before if day < middle else after:
                if item.storage_class == class_:
                    sizes[owner] += item.size
            total = sum(sizes.values())
            shares = {owner: size / total for owner, size in sizes.items()}
            world.lines.append(
                bill_line(
                    day,
                    day + DAY,
                    Decimal(price) * int(total),
                    shares,
                    **storage,
                    ResourceId="arn:aws:s3:::{bucket}",
                    ConsumedQuantity="1",
                    ConsumedUnit="GB-Months",
                )
            )
    world.earlier += [
        Night(start, world.lines[:1], [item for _, item in before]),
        Night(middle, world.lines[:30], [item for _, item in after]),
    ]
    world.objects = [item for _, item in after]
    world.artifact_root = "s3://{bucket}/mlflow"
    world.settings = "stores: [{uri: 's3://{bucket}/', endpoint: '{endpoint}', region: us-east-1}]\n"


# --- nothing on the runs but what they asked for --------------------------------------------------------------------------


def pools(world: World) -> None:
    """Runs state nothing. The configuration says which runs ran on which node groups. One group rents whole machines, one shares GPUs, one serves two teams at two prices."""
    world.bar = WITHOUT_IDS
    for run, _ in one_at_a_time(world, fleet(world, P4D, world.size.machines, tags={"eks:nodegroup-name": "gpu-whole"})):
        run.experiment = "whole"
    for run in fill(world, world.machine(P4D, [(world.begin, world.end)]), gap=(0, HOUR), length=(HOUR, 5 * HOUR)):
        run.experiment = "whole"  # has a machine of its own and claims nothing from the pool
    for number in range(world.size.machines):
        node = world.machine(
            G5, [(world.begin, world.end)], hands_out=4, tags={"eks:nodegroup-name": "gpu-parts"}, price=G5.price * (100 + number % 3) / 100
        )
        for run, _ in schedule(world, [node], [Fraction(1), Fraction(2), Fraction(4)], busy=0.7, states=False):
            run.params["gpu_count"], run.experiment = f"{run.takes}", "parts"
        team = ("vision", "nlp")[number % 2]
        box = world.machine(
            M5, [(world.begin, world.end)], tags={"eks:nodegroup-name": "cpu", "team": team}, price=M5.price * (1 + number % 2)
        )
        for run, _ in one_at_a_time(world, [box]):
            run.experiment = f"team-{team}"
    world.experiment_tags = {f"team-{team}": {"team": team} for team in ("vision", "nlp")}
    world.settings = (
        "dimensions: {team: [experiment.tag.team, line.tag.team]}\n"
        "pools:\n"
        "  - {name: whole, runs: {experiment: whole}, lines: {tag.eks:nodegroup-name: gpu-whole}}\n"
        "  - {name: parts, runs: {experiment: parts}, lines: {tag.eks:nodegroup-name: gpu-parts}}\n"
        "  - {name: teams, runs: {experiment: team-*}, lines: {tag.eks:nodegroup-name: cpu}, equal: [team]}\n"
    )
    world.bill_machines()


def fleet(world: World, kind: MachineType, machines: int, **more: object) -> list[Machine]:
    """Return machines of a type in two accounts. Prices of the zones differ by 2%, and every third machine is off at night."""
    made = []
    for number in range(machines):
        up = [(world.begin, world.end)]
        if number % 3 == 2:
            up = [
                (day + 6 * HOUR + world.span(0, HOUR), day + 21 * HOUR + world.span(0, HOUR)) for day in range(world.begin, world.end, DAY)
            ]
        price = kind.price * (100 + number % 3) / 100
        made.append(world.machine(kind, up, account=(ACCOUNT, "444455556666")[number % 2], price=price, **more))
    return made


def one_at_a_time(world: World, machines: list[Machine]) -> Iterator[tuple[Run, Machine]]:
    """Add runs that state nothing and are alone on their machine, which they use 70% of the time."""
    for machine in machines:
        for run in fill(world, machine, gap=(0, 130 * MINUTE), length=(5 * MINUTE, 5 * HOUR), states=False):
            yield run, machine


def types_alone(world: World) -> None:
    """Runs state the type they requested and have one to four such machines to themselves, at 70% utilization. On every fourth machine, they also state its id."""
    world.bar = WITHOUT_IDS
    machines = fleet(world, P4D, world.size.machines)
    for run, machine in one_at_a_time(world, machines):
        run.params["instance_type"] = machine.kind.name
        if machines.index(machine) % 4 == 3:
            run.tags["runspend.instance_id"] = machine.name
    nodes = [world.machine(G5, [(world.begin, world.end)]) for _ in range(4 * max(1, world.size.machines // 4))]
    for first in range(0, len(nodes), 4):  # groups of four machines; runs take two or all four of them
        clock = world.begin
        while (end := clock + world.span(20 * MINUTE, 5 * HOUR)) < world.end:
            for group in world.draw.choice(([nodes[first : first + 4]], [nodes[first : first + 2], nodes[first + 2 : first + 4]])):
                run = world.run(clock, end, params={"instance_type": G5.name, "num_nodes": str(len(group))})
                for node in group:
                    run.use(node, clock, end)
            clock = end + world.span(0, 130 * MINUTE)
    for _ in range(4 * world.size.machines * world.size.days):  # and some machines that are started for one run each
        boot = world.begin + world.span(0, world.end - world.begin - 6 * HOUR)
        start = boot + world.span(MINUTE, 8 * MINUTE)
        end = start + world.span(10 * MINUTE, 5 * HOUR)
        box = world.machine(M5, [(boot, end + world.span(MINUTE, 30 * MINUTE))])
        world.run(start, end, box, states=False, params={"instance_type": M5.name})
    world.bill_machines()


def types_gpus(world: World) -> None:
    """Runs share nodes and state the type and the number of GPUs they requested. GPU utilization is 70%."""
    world.bar = WITHOUT_IDS
    nodes = [
        world.machine(P4D, [(world.begin, world.end)], hands_out=8, price=P4D.price * (100 + n % 3) / 100)
        for n in range(world.size.machines)
    ]
    for run, node in schedule(world, nodes, [Fraction(1), Fraction(2), Fraction(4), Fraction(8)], busy=0.7, states=False):
        run.params |= {"instance_type": node.kind.name, "gpu_count": f"{run.takes}"}
    world.bill_machines()


def types_shared(world: World) -> None:
    """Runs share machines and state only the type. The data does not show how many runs were on a machine."""
    world.bar = None
    for machine in fleet(world, G5, world.size.machines):
        for _ in range(3):
            for run in fill(world, machine, gap=(0, 4 * HOUR), length=(10 * MINUTE, 5 * HOUR), states=False):
                run.params["instance_type"] = machine.kind.name
    world.bill_machines()


def partial_ids(world: World) -> None:
    """Machines of one type and price are always up. All runs state the type. The share of runs that also state their machine grows from day to day: 0, 5, 50, 90, 95 and 100%."""
    shares = (0.0, 0.05, 0.5, 0.9, 0.95, 1.0)
    for run, machine in one_at_a_time(world, [world.machine(P4D, [(world.begin, world.end)]) for _ in range(world.size.machines)]):
        run.params["instance_type"] = machine.kind.name
        day = (run.start - world.begin) // DAY
        if world.draw.random() < shares[min(day * len(shares) // world.size.days, len(shares) - 1)]:
            run.tags["runspend.instance_id"] = machine.name
    world.bill_machines()


def one_tag(world: World) -> None:
    """For a month, runs state only their type or belong to a pool. Four five-minute smoke tests also state their machine."""
    world.idle_is_known = False
    typed = [world.machine(P4D, [(world.begin, world.end)]) for _ in range(world.size.machines)]
    pooled = [world.machine(G5, [(world.begin, world.end)], tags={"eks:nodegroup-name": "one-tag"}) for _ in range(world.size.machines)]
    for machines in (typed, pooled):
        for machine in machines[:2]:
            world.run(
                world.begin + 10 * MINUTE,
                world.begin + 15 * MINUTE,
                machine,
                experiment="smoke",
                params={"instance_type": machine.kind.name},
            )
        for machine in machines:
            start = world.begin + 20 * MINUTE
            while (end := start + world.span(5 * MINUTE, 5 * HOUR)) < world.end:
                run = world.run(start, end, machine, states=False)
                if machines is typed:
                    run.params["instance_type"] = machine.kind.name
                else:
                    run.experiment = "one-tag"
                start = end + world.span(0, 130 * MINUTE)
    world.settings = "pools: [{name: one-tag, runs: {experiment: one-tag}, lines: {tag.eks:nodegroup-name: one-tag}}]\n"
    world.bill_machines()


def pool_and_ids(world: World) -> None:
    """Two teams share a pool and the GPUs of its nodes. One team's runs state their machine; the other team's runs state nothing."""
    nodes = [
        world.machine(P4D, [(world.begin, world.end)], hands_out=8, tags={"eks:nodegroup-name": "two-teams"})
        for _ in range(world.size.machines)
    ]
    for run, node in schedule(world, nodes, [Fraction(1), Fraction(2), Fraction(4), Fraction(8)], busy=0.7, states=False):
        run.params["gpu_count"] = f"{run.takes}"
        run.experiment = world.draw.choice(("two-teams-a", "two-teams-b"))
        if run.experiment == "two-teams-a":
            run.tags["runspend.instance_id"] = node.name
    world.settings = "pools: [{name: two-teams, runs: {experiment: two-teams-*}, lines: {tag.eks:nodegroup-name: two-teams}}]\n"
    world.bill_machines()


STRANGER = "444455556666"  # another account
# The ways in which platforms let a run state its purchase option: SageMaker's estimator, SkyPilot, EKS, Google Cloud, Azure.
SAYS_SPOT = (
    {"use_spot_instances": "True"},
    {"use_spot": "true"},
    {"capacity_type": "SPOT"},
    {"provisioning_model": "SPOT"},
    {"vm_priority": "Spot"},
)
SAYS_ON_DEMAND = (
    {"use_spot_instances": "False"},
    {"use_spot": "false"},
    {"capacity_type": "ON_DEMAND"},
    {"provisioning_model": "STANDARD"},
    {"vm_priority": "Regular"},
)


def mixed_purchases(world: World, states: float) -> None:
    """Add machines of one type with one run at a time. Half of them are spot, at 40% of the price. A given share of the runs states which it had."""
    for number in range(2 * world.size.machines):
        is_spot = number % 2 == 1
        price = P4D.price * (100 + number % 3) / 100 * (Decimal("0.4") if is_spot else 1)
        machine = world.machine(P4D, [(world.begin, world.end)], price=price)
        for run in fill(world, machine, gap=(0, 130 * MINUTE), length=(5 * MINUTE, 5 * HOUR), states=False):
            run.params["instance_type"] = P4D.name
            if world.draw.random() < states:
                run.params |= world.draw.choice(SAYS_SPOT if is_spot else SAYS_ON_DEMAND)
        world.bill_machines(columns={"PricingCategory": "Dynamic" if is_spot else "Committed" if number % 4 == 2 else "Standard"})


def spot_mix(world: World) -> None:
    """Half of the machines are spot and half are on demand; each run states which it had. Machines of another type are in two regions at two prices, and runs state the region or the zone."""
    world.bar = WITHOUT_IDS
    mixed_purchases(world, states=1.0)
    for number in range(world.size.machines):
        region = ("us-east-1", "ap-southeast-2")[number % 2]
        machine = world.machine(G5, [(world.begin, world.end)], region=region, price=G5.price * (1, 2)[number % 2])
        for run in fill(world, machine, gap=(0, 130 * MINUTE), length=(5 * MINUTE, 5 * HOUR), states=False):
            run.params |= {"instance_type": G5.name} | world.draw.choice(
                ({"cloud.region": region}, {"AWS_REGION": region}, {"availability_zone": f"{region}a"})
            )
        world.bill_machines(columns={"AvailabilityZone": f"{region}a"})


def spot_mix_unstated(world: World) -> None:
    """The machines of `spot_mix`, but no run states which it had, and the data does not show it. Runspend reports the range of prices."""
    world.bar = None
    mixed_purchases(world, states=0.0)


def shared_type(world: World) -> None:
    """Another team, which does not use MLflow, has machines of the same type. Some runs state their account. Runs that share a machine claim more than they used; the excess comes from the other team's machines."""
    world.bar = None
    for number in range(world.size.machines):
        for kind in (P4D, G5):
            world.machine(kind, [(world.begin, world.end)], account=STRANGER)
        alone = world.machine(P4D, [(world.begin, world.end)])
        for run in fill(world, alone, gap=(0, 130 * MINUTE), length=(5 * MINUTE, 5 * HOUR), states=False):
            run.params |= {"instance_type": P4D.name, "aws_account_id": ACCOUNT}
        crowded = world.machine(G5, [(world.begin, world.end)])
        for _ in range(2 + number % 2):
            for run in fill(world, crowded, gap=(0, HOUR), length=(5 * MINUTE, 5 * HOUR), states=False):
                run.params["instance_type"] = G5.name
    world.bill_machines()


def same_names(world: World) -> None:
    """Jobs, instances and pods have the same name in two accounts, projects and clusters. Runs state the full name. For every third name, one of the two belongs to people without MLflow."""
    for number in range(world.size.machines):
        for side in (0, 1):
            is_used = number % 3 != side
            account, project, cluster = (ACCOUNT, STRANGER)[side], ("acme-ml", "acme-web")[side], ("hydra", "medusa")[side]
            named_job(
                world,
                f"arn:aws:sagemaker:eu-west-1:{account}:training-job/train-{number}",
                {},
                {"TRAINING_JOB_ARN": f"arn:aws:sagemaker:eu-west-1:{account}:training-job/Train-{number}"},
                is_used=is_used,
            )
            slurm = {"slurm_job_id": str(4700 + number), "cluster": cluster}
            named_job(
                world,
                f"node-{cluster}-{number}",
                slurm,
                {"SLURM_JOB_ID": str(4700 + number), "SLURM_CLUSTER_NAME": cluster},
                is_used=is_used,
            )
            places = {
                f"//compute.googleapis.com/projects/{project}/zones/europe-west4-a/instances/trainer-{number}": f"gce://{project}/europe-west4-a/trainer-{number}",
                f"arn:aws:eks:eu-west-1:{ACCOUNT}:pod/{cluster}/train/worker-{number}/{number}-{side}": f"k8s://{cluster}/train/worker-{number}",
            }
            for billed, stated in places.items():
                machine = world.machine(G5, [(world.begin, world.end)], name=billed)
                for run in fill(world, machine, gap=(0, 90 * MINUTE), length=(5 * MINUTE, 5 * HOUR), states=False) if is_used else []:
                    run.tags["instance_id"] = stated
    world.bill_machines()


def named_job(world: World, billed: str, tags: dict[str, str], stated: dict[str, str], *, is_used: bool) -> None:
    """Add a job with one run, two runs or none, on its own machine, in the middle of the world's time."""
    boot = world.begin + world.span(HOUR, 4 * HOUR)
    down = boot + world.span(5 * HOUR, 9 * HOUR)
    machine = world.machine(P4D, [(boot, down)], name=billed, tags=tags)
    start = boot + world.span(MINUTE, 30 * MINUTE)
    for _ in range(world.draw.choice((1, 2)) if is_used else 0):
        world.run(start, start + HOUR, machine, states=False).tags.update(stated)
        start += HOUR + world.span(MINUTE, 40 * MINUTE)
    whole = machine.time_of_runs(boot, down)
    for line in machine_lines(machine, world.end):
        line.shares = job_shares(machine, whole, millis_of(line), millis_of(line) + HOUR) if is_used else {NOBODY: Fraction(1)}
        world.lines.append(line)
    world.machines.remove(machine)


def mixed(world: World) -> None:
    """All kinds of evidence in one bill: jobs, rented machines, ids, disks, pools and types."""
    for part in (jobs, rented, shared_gpus, spot, attached, pools, types_alone):
        before = len(world.machines)
        part(world)
        for machine in world.machines[before:]:
            if part is types_alone and machine.kind is G5:
                bill_disk(world, machine)
        world.billed = len(world.machines)
    world.bar = WITHOUT_IDS


def iso(instant: int) -> str:
    """Return a time as a program would log it, to the millisecond."""
    return moment(instant).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def millis_of(line: Line) -> int:
    """Return when a line's charge period begins."""
    return millis(line.row["ChargePeriodStart"].removesuffix("Z"))


Maker = Callable[[World], None]

# By the allocation rule that allocates most of their charges.
WORLDS: dict[str, tuple[Maker, ...]] = {
    "run_tag": (rented,),
    "job_id": (jobs, same_names),
    "resource_id": (
        one_run_a_machine, parallel_runs, sweeps, multi_node, shared_gpus, gpu_slices, shared_cores, autoscaled, spot, daily_bills, zombies, silent_dead, reused_names, restated, month_ends,
    ),
    "attached": (attached, platform_lines),
    "artifact_bytes": (artifacts,),
    "pool_time": (pools, pool_and_ids),
    "instance_type_time": (partial_ids, one_tag, types_alone, types_gpus, types_shared, spot_mix, spot_mix_unstated, shared_type, mixed),
}  # fmt: skip


def together(name: str, *parts: Maker) -> Maker:
    """Put several worlds into one cluster and one bill.

    Worlds whose lines cover all machines come first; `jobs`, billed for three days longer, comes last.
    """

    def make(world: World) -> None:
        for part in parts:
            part(world)
            world.billed = len(world.machines)
        experiments = {run.experiment for run in world.runs}
        world.experiment_tags = {name: tags for name, tags in world.experiment_tags.items() if name in experiments}

    make.__name__ = name
    return make


def make_world(maker: Maker, size: Size, seed: int) -> World:
    """Create the world of a seed. Its bill lines are numbered, so that `judge.py` can find them again."""
    world = World(maker.__name__, random.Random(f"{seed} {maker.__name__}"), size)
    if maker is month_ends:
        world.begin = millis("2026-11-01") - max(1, size.days // 2) * DAY
    maker(world)
    bill_the_rest(world)
    for number, line in enumerate(world.lines):
        line.row["ChargeDescription"] = f"line {number}"
    return world
