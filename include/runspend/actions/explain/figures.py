"""The values of an explanation: exact, not rounded, without layout.

Costs are exact decimals, each in the currency that is given with it. Times are UTC. `run.py` reads the values from the tables;
`as_text.py` and `page.py` write them.
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
    """The four cost measures of one charge, part or sum."""

    effective_cost: Decimal
    list_cost: Decimal
    contracted_cost: Decimal
    billed_cost: Decimal


@dataclass(frozen=True)
class RunKey:
    """The key of a run in every table: tracking server, workspace and run id."""

    tracking_server: str
    workspace: str
    run_id: str

    @property
    def target_id(self) -> str:
        """The run's `target_id` in `cost_allocations`."""
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
    """One target's part of a charge. The target is a run, or for example `idle` or `unallocated`."""

    allocated_to: str
    run: RunKey | None
    run_name: str | None
    asked: str | None  # the run's request for the resource by which the runs are weighted, such as "2 GPUs"
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
    charge_cost: Decimal  # effective cost of the whole charge
    costs: Costs
    unused_cost: Decimal | None
    overhead_cost: Decimal | None
    match_method: str
    confidence: str | None
    # other_time, other_account, other_region, ambiguous_name, incomplete_inventory, or the policy of `sharing`; often null.
    reason: str | None
    weight_kind: str | None
    run_end_rule: str | None
    is_scaled: bool
    cost_status: str | None
    shared: tuple[Share, ...]  # the other targets' parts of the charge; empty for pooled charges
    other_runs: int  # number of other runs that have a part of the charge
    nobodys: Decimal  # effective cost of the charge that was allocated to no run


@dataclass(frozen=True)
class Block:
    """All of a run's parts that one rule allocated."""

    match_method: str
    confidence: str | None
    parts: tuple[RunPart, ...]


@dataclass(frozen=True)
class CurrencyCost:
    """The cost of a run in one currency: its parts by rule, their sum, and the total from `run_costs`.

    `stated` is that total, or None if `run_costs` has no row for the run.
    """

    currency: str
    blocks: tuple[Block, ...]
    summed: Costs
    stated: Costs | None
    unused_cost: Decimal
    overhead_cost: Decimal
    cost_status: str | None
    confidence: str | None
    cost_with_children: Decimal | None
    idle_beside: Decimal  # idle cost of the run's machines on the days of its charges; not part of the run's cost
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
    """The version of a bill on which the explanation is based."""

    source: str
    billing_period: date
    version_number: int | None
    covered_until: datetime | None


@dataclass(frozen=True)
class BillChange:
    """A cost change by a later version of a bill, for one service and day of the run.

    It is the change of the whole service on that day, for all runs and idle time, not only for this run.
    """

    source: str
    billing_period: date
    version_number: int
    charge_date: date
    service_name: str
    currency: str
    costs: Costs


@dataclass(frozen=True)
class Stored:
    """The run's artifacts of one storage class in one folder, as last measured."""

    where: str
    storage_class: str
    objects: int | None
    bytes: int | None
    since: datetime
    until: datetime | None


@dataclass(frozen=True)
class Dimension:
    """A dimension of the run, such as its team, and where the value came from."""

    name: str
    value: str
    came_from: str | None


@dataclass(frozen=True)
class Use:
    """One target's share of one billed window of one machine, for the timeline of the page."""

    starts_at: datetime
    ends_at: datetime
    resource_id: str
    allocated_to: str
    run: RunKey | None
    run_name: str | None
    ratio: float


@dataclass(frozen=True)
class Siblings:
    """The number and the median cost of the experiment's runs that have a cost, including this run."""

    currency: str
    runs: int
    median: Decimal


@dataclass(frozen=True)
class RunExplanation:
    """The explanation of a run's cost: the run, its costs by currency and rule, and the bills and machines behind them."""

    key: RunKey
    run_name: str | None
    experiment_id: str | None
    experiment_name: str | None
    user_name: str | None
    run_status: str | None
    lifecycle_stage: str | None
    start_time: datetime | None
    end_time: datetime | None
    future_end_time: datetime | None  # the end in MLflow, if it was in the future; `end_time` then replaces it
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
    uses: tuple[Use, ...]  # of the run's machines, on the days of its charges
    siblings: tuple[Siblings, ...] = ()
    claimed_hours: tuple[ClaimedHours, ...] = ()  # of the types from which it got cost by type


@dataclass(frozen=True)
class MachineHour:
    """One window of a resource: its billed cost and the targets of that cost."""

    starts_at: datetime
    ends_at: datetime
    lines: int
    effective_cost: Decimal
    shares: tuple[Share, ...]  # one per target, its charges summed; `ratio` is its part of the window's cost


@dataclass(frozen=True)
class User:
    """A target's cost on a resource in the whole billing period."""

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
    """One target of a charge: its share and cost, and the rule that found it."""

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
    """A bill line as it was delivered, and the targets of its parts. For a pooled line, these are the parts of the pooled charge."""

    source: str
    period: str
    line_id: str
    facts: tuple[tuple[str, str], ...]  # FOCUS columns that have a value
    settled: tuple[tuple[str, str], ...]  # values that Runspend derived when it loaded the bill
    charge_id: str | None  # null if the line is out of scope: it counts only in totals
    lines_in_charge: int
    currency: str
    line_costs: Costs | None  # null if the id is that of a pooled charge
    targets: tuple[Target, ...]
    summed: Costs
