"""What an explanation holds: values only, exact, nothing rounded, nothing laid out.

Costs are exact decimals in the currency beside them; times are UTC. How an explanation is read from the tables belongs in
`run.py`, how it is written in `as_text.py` and `page.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal

from runspend.allocation.claimed_hours import ClaimedHours
from runspend.core.amounts import add

MEASURES = ("effective_cost", "list_cost", "contracted_cost", "billed_cost")


@dataclass(frozen=True)
class Costs:
    """The four measures of one thing."""

    effective_cost: Decimal
    list_cost: Decimal
    contracted_cost: Decimal
    billed_cost: Decimal


@dataclass(frozen=True)
class RunKey:
    """A run, as everywhere."""

    tracking_server: str
    workspace: str
    run_id: str

    @property
    def target_id(self) -> str:
        """As in `cost_allocations`."""
        return f"{self.tracking_server}/{self.workspace}/{self.run_id}"


@dataclass(frozen=True)
class Candidate:
    """A run that may have been meant."""

    key: RunKey
    start_month: date
    run_name: str | None
    experiment_name: str | None
    start_time: datetime | None


@dataclass(frozen=True)
class Share:
    """Somebody's part of a charge: a run, or idle, unmatched and the like."""

    allocated_to: str
    run: RunKey | None
    run_name: str | None
    asked: str | None  # what the run asked for, in the kind the runs were weighed by
    ratio: float
    effective_cost: Decimal


@dataclass(frozen=True)
class Part:
    """A run's part of one charge. `lines` bill lines stand behind the charge; `resource_id` is null where it has no one machine."""

    source: str
    billing_period: date
    charge_id: str
    charge_date: date
    starts_at: datetime
    ends_at: datetime
    service_name: str | None
    charge_category: str | None
    sub_account_id: str | None
    resource_id: str | None
    resource_key: str | None
    pool_key: str | None
    cost_kind: str
    lines: int
    is_pooled: bool
    description: str | None
    pricing_category: str | None
    billed_seconds: float | None
    ran_seconds: float | None  # how long the run was on the machine in the charge's time; null where nobody can tell
    ratio: float
    charge_cost: Decimal  # effective, of the whole charge
    costs: Costs
    unused_cost: Decimal | None
    overhead_cost: Decimal | None
    match_method: str
    confidence: str | None
    reason: str | None  # of charges of a run: other_time, other_account, other_region, incomplete_inventory or the policy of `sharing`
    weight_kind: str | None
    run_end_rule: str | None
    is_scaled: bool
    cost_status: str | None
    shared: tuple[Share, ...]  # the others' parts of the charge; empty for pooled charges
    other_runs: int  # how many other runs have a part
    nobodys: Decimal  # what of the charge no run has


@dataclass(frozen=True)
class Block:
    """All of a run's parts that one rule settled."""

    match_method: str
    confidence: str | None
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class CurrencyCost:
    """What a run cost in one currency: the parts, and what `run_costs` says they come to (null: it has no row)."""

    currency: str
    blocks: tuple[Block, ...]
    summed: Costs
    stated: Costs | None
    unused_cost: Decimal
    overhead_cost: Decimal
    cost_status: str | None
    confidence: str | None
    cost_with_children: Decimal | None
    idle_beside: Decimal  # idle on the same machines those days
    idle_hours: int  # in how many billed windows

    @property
    def difference(self) -> Decimal | None:
        """Effective cost of the parts less that of `run_costs`."""
        return None if self.stated is None else add([self.summed.effective_cost, -self.stated.effective_cost])

    @property
    def parts(self) -> tuple[Part, ...]:
        """Of all blocks, in order."""
        return tuple(p for b in self.blocks for p in b.parts)


@dataclass(frozen=True)
class NoCost:
    """Why a run has no cost, and the one thing to do. `reason` is a word for machines."""

    reason: str
    why: str
    advice: str


@dataclass(frozen=True)
class BillState:
    """The version of a bill behind the figures."""

    source: str
    billing_period: date
    version_number: int | None
    covered_until: datetime | None


@dataclass(frozen=True)
class BillChange:
    """What a version of a bill changed for the services and days of the run; all runs' and idle time's money together."""

    source: str
    billing_period: date
    version_number: int
    charge_date: date
    service_name: str
    currency: str
    costs: Costs


@dataclass(frozen=True)
class Stored:
    """Artifacts of the run in one storage class, as last measured."""

    where: str
    storage_class: str
    objects: int | None
    bytes: int | None
    since: datetime
    until: datetime | None


@dataclass(frozen=True)
class Dimension:
    """A name people group by, and where it came from."""

    name: str
    value: str
    came_from: str | None


@dataclass(frozen=True)
class Use:
    """One target's share of one window of one machine, for the picture and the table of a machine's hours."""

    starts_at: datetime
    ends_at: datetime
    resource_id: str
    allocated_to: str
    run: RunKey | None
    run_name: str | None
    ratio: float


@dataclass(frozen=True)
class RunExplanation:
    """Everything behind a run's cost."""

    key: RunKey
    run_name: str | None
    experiment_id: str | None
    experiment_name: str | None
    user_name: str | None
    run_status: str | None
    lifecycle_stage: str | None
    start_time: datetime | None
    end_time: datetime | None
    future_end_time: datetime | None  # what MLflow states, where `end_time` is taken in its place
    gaps: tuple[tuple[datetime, datetime], ...]  # when it was stopped
    parent_run_id: str | None
    link: str | None
    asked_for: str | None
    dimensions: tuple[Dimension, ...]
    period: str | None  # only charges of this billing period, or all
    currencies: tuple[CurrencyCost, ...]
    no_cost: NoCost | None
    bills: tuple[BillState, ...]
    artifacts: tuple[Stored, ...]
    changes: tuple[BillChange, ...]
    uses: tuple[Use, ...]  # of the run's machines, in the days it was charged
    claimed_hours: tuple[ClaimedHours, ...] = ()  # of the instance types whose machines it got by type


@dataclass(frozen=True)
class MachineHour:
    """One window of a resource: what it billed and whose it was."""

    starts_at: datetime
    ends_at: datetime
    lines: int
    effective_cost: Decimal
    shares: tuple[Share, ...]  # one per target, lines added up; ratio is its part of the money


@dataclass(frozen=True)
class User:
    """A target's money on a resource over the whole period."""

    share: Share
    windows: int


@dataclass(frozen=True)
class ResourceExplanation:
    """A resource by hour in one billing period and currency."""

    resource_id: str
    instance_type: str | None
    period: str
    other_periods: tuple[str, ...]
    currency: str
    effective_cost: Decimal
    hours: tuple[MachineHour, ...]
    users: tuple[User, ...]


@dataclass(frozen=True)
class Target:
    """Where a part of a charge went."""

    allocated_to: str
    run: RunKey | None
    owner_id: str | None
    run_name: str | None
    ratio: float
    costs: Costs
    match_method: str
    confidence: str | None
    reason: str | None
    weight_kind: str | None
    run_end_rule: str | None
    is_scaled: bool


@dataclass(frozen=True)
class LineExplanation:
    """A bill line as it was delivered, and where each part of it, or of the charge it was pooled into, went."""

    source: str
    period: str
    line_id: str
    facts: tuple[tuple[str, str], ...]  # FOCUS columns that have a value
    settled: tuple[tuple[str, str], ...]  # what was settled when the bill was loaded
    charge_id: str | None  # null: the line is in a sum of what is out of scope
    lines_in_charge: int
    currency: str
    line_costs: Costs | None  # null where the id is a charge's
    targets: tuple[Target, ...]
    summed: Costs
