"""The values of an explanation: exact, not rounded, without layout.

Costs are exact decimals in the currency given with them. Times are UTC. Reading an explanation from the tables belongs in `run.py`,
writing it in `as_text.py` and `page.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal

from runspend.allocation.claimed_hours import ClaimedHours
from runspend.core.amounts import less

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
    """The key of a run, as everywhere in Runspend."""

    tracking_server: str
    workspace: str
    run_id: str

    @property
    def target_id(self) -> str:
        """The run's id as in `cost_allocations`."""
        return f"{self.tracking_server}/{self.workspace}/{self.run_id}"


@dataclass(frozen=True)
class Candidate:
    """A run that the user may have meant."""

    key: RunKey
    start_month: date
    run_name: str | None
    experiment_name: str | None
    start_time: datetime | None


@dataclass(frozen=True)
class Share:
    """One target's part of a charge: a run, or idle, unallocated and the like."""

    allocated_to: str
    run: RunKey | None
    run_name: str | None
    asked: str | None  # the run's request, in the kind that the runs were weighted by
    ratio: float
    effective_cost: Decimal


@dataclass(frozen=True)
class RunPart:
    """A run's part of one charge.

    The charge covers `lines` bill lines. `resource_id` is null if the charge has no single machine.
    """

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
    ran_seconds: float | None  # seconds that the run was on the machine during the charge; null if unknown
    ratio: float
    charge_cost: Decimal  # effective, of the whole charge
    costs: Costs
    unused_cost: Decimal | None
    overhead_cost: Decimal | None
    match_method: str
    confidence: str | None
    # For charges of a run: other_time, other_account, other_region, incomplete_inventory or the policy of `sharing`.
    reason: str | None
    weight_kind: str | None
    run_end_rule: str | None
    is_scaled: bool
    cost_status: str | None
    shared: tuple[Share, ...]  # the other targets' parts of the charge; empty for pooled charges
    other_runs: int  # number of other runs with a part
    nobodys: Decimal  # the part of the charge without a run


@dataclass(frozen=True)
class Block:
    """All of a run's parts that one rule allocated."""

    match_method: str
    confidence: str | None
    parts: tuple[RunPart, ...]


@dataclass(frozen=True)
class CurrencyCost:
    """The cost of a run in one currency: the parts, and the total from `run_costs` (null: it has no row)."""

    currency: str
    blocks: tuple[Block, ...]
    summed: Costs
    stated: Costs | None
    unused_cost: Decimal
    overhead_cost: Decimal
    cost_status: str | None
    confidence: str | None
    cost_with_children: Decimal | None
    idle_beside: Decimal  # idle cost of the same machines on those days
    idle_hours: int  # number of billed windows with that idle cost

    @property
    def difference(self) -> Decimal | None:
        """Effective cost of the parts minus that of `run_costs`."""
        return None if self.stated is None else less(self.summed.effective_cost, [self.stated.effective_cost])

    @property
    def parts(self) -> tuple[RunPart, ...]:
        """The parts of all blocks, in order."""
        return tuple(p for b in self.blocks for p in b.parts)


@dataclass(frozen=True)
class NoCost:
    """The reason why a run has no cost, and one action to take. `reason` is machine-readable."""

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
    """A change by a version of a bill for the services and days of the run. It includes the money of all runs and of idle time."""

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
    """A dimension that people group by, and its source."""

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
class Siblings:
    """The runs of the same experiment that have a cost, including this one: their number and median cost."""

    currency: str
    runs: int
    median: Decimal


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
    future_end_time: datetime | None  # the end in MLflow, if `end_time` replaces it
    gaps: tuple[tuple[datetime, datetime], ...]  # intervals in which it was stopped
    parent_run_id: str | None
    link: str | None
    asked_for: str | None
    dimensions: tuple[Dimension, ...]
    period: str | None  # only charges of this billing period; None for all
    currencies: tuple[CurrencyCost, ...]
    no_cost: NoCost | None
    bills: tuple[BillState, ...]
    artifacts: tuple[Stored, ...]
    changes: tuple[BillChange, ...]
    uses: tuple[Use, ...]  # of the run's machines, on the days it was charged
    siblings: tuple[Siblings, ...] = ()
    claimed_hours: tuple[ClaimedHours, ...] = ()  # of the instance types whose machines were allocated to it by type


@dataclass(frozen=True)
class MachineHour:
    """One window of a resource: its billed cost and the targets of that cost."""

    starts_at: datetime
    ends_at: datetime
    lines: int
    effective_cost: Decimal
    shares: tuple[Share, ...]  # one per target with lines added up; ratio is its part of the money


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
    """The target of a part of a charge."""

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
    """A bill line as it was delivered, and the target of each of its parts, or of each part of its pooled charge."""

    source: str
    period: str
    line_id: str
    facts: tuple[tuple[str, str], ...]  # FOCUS columns that have a value
    settled: tuple[tuple[str, str], ...]  # values determined when the bill was loaded
    charge_id: str | None  # null: the line is in a sum of out-of-scope money
    lines_in_charge: int
    currency: str
    line_costs: Costs | None  # null if the id is a charge's
    targets: tuple[Target, ...]
    summed: Costs
