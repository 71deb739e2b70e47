"""The values of a monthly report. Sums are exact. Names of people are already hidden or replaced, as `mail.people` requires.

`plan.py` computes these values, and the other modules print them. SQL and formatting (rounding, words, colors) do not belong here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

from runspend.allocation.diagnostics import Coverage
from runspend.allocation.remedies import short_remedy
from runspend.allocation.storage_prices import BilledRate
from runspend.allocation.without_run import Group
from runspend.core.amounts import add
from runspend.core.service_kinds import AUTOPILOT_METERS, RESOURCE_TYPES, UNNAMED_SERVICES, advised_kind, kind_of
from runspend.schema.rows import first_day, month_after

MEASURES = ("effective_cost", "billed_cost", "contracted_cost", "list_cost")
# The parts of the bill in the order in which pages show them, with the ledger's targets of each part.
PARTS: dict[str, tuple[str, ...]] = {
    "allocated to runs": ("run", "logged_model"),
    "idle": ("idle",),
    "unallocated": ("unallocated",),
    "shared": ("shared",),
    "orphaned": ("orphan",),
    "out of scope": ("out_of_scope",),
}
PART_OF = {target: part for part, targets in PARTS.items() for target in targets}
PLATFORM = tuple(part for part in PARTS if part != "out of scope")


@dataclass(frozen=True)
class Costs:
    """An amount in all four measures."""

    effective_cost: Decimal = Decimal(0)
    billed_cost: Decimal = Decimal(0)
    contracted_cost: Decimal = Decimal(0)
    list_cost: Decimal = Decimal(0)

    def __getitem__(self, measure: str) -> Decimal:
        value: Decimal = getattr(self, measure)
        return value


@dataclass(frozen=True)
class Experiment:
    """Allocated cost of one experiment of one team. `previous_cost` is for the same days of the month before."""

    name: str
    tracking_server: str
    workspace: str
    experiment_id: str | None
    effective_cost: Decimal
    previous_cost: Decimal
    runs: int
    failed_runs: int
    gpu_seconds: float
    gpu_cost: Decimal
    label: str | None = None  # the name in the cost tables, if it is known and may be shown


@dataclass(frozen=True)
class Team:
    """One team and its experiments, most expensive first. `name` is None for runs without a team."""

    name: str | None
    effective_cost: Decimal
    previous_cost: Decimal
    runs: int
    failed_runs: int
    gpu_seconds: float
    gpu_cost: Decimal
    experiments: tuple[Experiment, ...]


@dataclass(frozen=True)
class Run:
    """One run and its cost from the month's charges."""

    tracking_server: str
    workspace: str
    run_id: str
    name: str
    experiment: str
    team: str | None
    person: str | None
    status: str | None
    start_time: datetime | None
    costs: Costs
    unused_cost: Decimal
    machine_seconds: float | None
    gpu_seconds: float | None
    confidence: str | None
    url: str | None


@dataclass(frozen=True)
class IdleDay:
    """The idle cost of a machine's Usage charges on one day. `used_share` is the share of the cost that runs used, from 0 to 1."""

    day: date
    idle_cost: Decimal
    used_share: float


@dataclass(frozen=True)
class Resource:
    """Idle or unallocated cost of one machine or service.

    `idle_days` has the days on which an idle machine was billed. `has_allocated_cost`: whether a rule allocated a part of the cost to runs
    in the billing period. It is computed only for idle resources whose last run is unknown.
    """

    name: str
    service: str | None
    instance_type: str | None
    effective_cost: Decimal
    billed_seconds: float | None
    used_seconds: float | None
    last_run_id: str | None
    last_used_at: datetime | None
    owner: str | None
    reason: str | None
    idle_days: tuple[IdleDay, ...] = ()
    has_allocated_cost: bool = False
    meter: str = ""  # the meter with the largest unallocated cost. `cost_kind` is the kind of that cost
    cost_kind: str = ""

    @property
    def remedy(self) -> str:
        """What to do about the resource's cost without a run."""
        if self.reason == "unknown_run":
            return "fix its tag: no tracking server has that run"
        found = re.search(rf"(?i){RESOURCE_TYPES}", self.name)
        service, resource_type = self.service or "", found[0] if found else ""
        kind = kind_of(service, self.meter, resource_type, self.cost_kind, is_machine=bool(self.instance_type))
        kind = advised_kind(kind, service, resource_type)
        if (kind == "machine" and re.search(AUTOPILOT_METERS, self.meter.lower())) or (
            kind == "job" and not found and re.search(UNNAMED_SERVICES, service.lower())
        ):
            kind = "unnamed"
        if known := short_remedy(kind, service):
            return known
        if self.reason == "not_timed":
            return "its charges have no times by which to split them"
        return "tag it with mlflow_run_id, or let runs name it in runspend.resources"

    @property
    def suggestion(self) -> str | None:
        """What to do about the resource's idle time. None if its billed or used time is unknown."""
        if not self.billed_seconds or self.used_seconds is None:
            return None
        share = self.used_seconds / self.billed_seconds
        return "stop it: no run uses it" if share < 0.02 else "stop it between runs" if share < 0.5 else "schedule runs closer together"


@dataclass(frozen=True)
class Waste:
    """One kind of wasted money. Kinds overlap, so never add them: a failed run may also have unused GPUs."""

    kind: str  # failed, repeated, unused, no_run
    effective_cost: Decimal
    count: int
    items: tuple[tuple[str, str, str | None, Decimal], ...]  # name, experiment or type, person, cost


@dataclass(frozen=True)
class ConfidenceRow:
    """Ledger rows with one match method and confidence."""

    part: str
    match_method: str
    confidence: str | None
    effective_cost: Decimal
    ledger_rows: int
    runs: int


@dataclass(frozen=True)
class Reconciliation:
    """One bill of the billing period in its own currency: the delivered export, its loaded lines, and the ledger."""

    source: str
    currency: str
    version_number: int | None
    delivered_at: datetime | None
    row_count: int
    quarantined_rows: int
    quarantined_cost: Decimal
    rounded_cost: Decimal
    covered_until: datetime | None
    is_invoiced: bool
    export: Costs | None
    lines: Costs | None
    ledger: Costs | None
    invoices: tuple[tuple[str, Costs], ...]
    changes: tuple[tuple[int, Decimal, Decimal, date, date], ...]  # version, effective, billed, first and last charge date
    state: str = "open"  # open, final, closed
    ignored_changes: str | None = None  # changes after the month was closed that were not applied, in words
    restated_cost: Decimal = Decimal(0)  # effective cost from versions loaded after the month was closed

    @property
    def is_equal(self) -> bool:
        """Whether export, lines and ledger are equal in all four measures, to the last decimal place."""
        return self.export is not None and self.export == self.lines == self.ledger


@dataclass(frozen=True)
class Estimates:
    """Estimated cost of runs for time that no bill covers yet. No other figure includes it.

    `cost` is for machines. `token_cost` is for tokens, at MLflow's list prices.
    """

    cost: Decimal = Decimal(0)
    token_cost: Decimal = Decimal(0)
    days: tuple[tuple[date, Decimal], ...] = ()
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True)
class EstimateError:
    """The estimated and the billed cost of hours that were estimated in the last 30 days and that one bill now covers.

    `apart_cost` is the sum of the absolute differences.
    """

    source: str
    pipeline_runs: int
    estimated_cost: Decimal
    actual_cost: Decimal
    apart_cost: Decimal


@dataclass(frozen=True)
class Outlook:
    """The probable total of the ML platform at the end of the month, with its 80% interval."""

    total: Decimal
    low: Decimal
    high: Decimal


@dataclass(frozen=True)
class CurrencyFigures:
    """All money of the month in one currency. Amounts in different currencies are never added.

    `converted_from`: the currencies that were converted to this one, at the exchange rate of each day.
    """

    currency: str
    converted_from: tuple[str, ...]
    covered_until: datetime | None
    parts: Mapping[str, Costs]
    kinds: Mapping[str, Decimal]
    confidence: Mapping[str, Decimal]
    provisional_cost: Decimal
    shared_by: Mapping[str, Decimal]
    days: tuple[tuple[date, Mapping[str, Decimal]], ...]
    previous_days: tuple[tuple[date, Decimal], ...]
    same_days: Mapping[str, Decimal]  # effective cost by part, on the days that are compared with the previous month
    same_days_before: Mapping[str, Decimal]  # the same for the same days of the previous month
    teams: tuple[Team, ...]
    people: tuple[tuple[str, Decimal], ...]
    runs: tuple[Run, ...]
    idle: tuple[Resource, ...]
    unallocated: tuple[Resource, ...]
    waste: tuple[Waste, ...]
    confidence_rows: tuple[ConfidenceRow, ...]
    reconciliation: tuple[Reconciliation, ...]
    estimates: Estimates
    estimate_errors: tuple[EstimateError, ...]
    only_this_month: Costs  # charge date in the month, but in another billing period
    only_this_period: Costs  # in the billing period, but charge date in another month
    # unallocated and out-of-scope cost of the billing period; one action, such as a tag, would explain each group
    groups: tuple[Group, ...] = ()
    coverage: tuple[Coverage, ...] = ()  # allocated cost of the month, by the source of its dimensions
    compared_days: int = 0  # the number of days that are compared with the previous month
    forecast: Outlook | None = None  # only for a month that is not over

    @property
    def platform(self) -> Costs:
        """The cost of the ML platform: the sum of all parts except out of scope."""
        return total(self.parts[p] for p in PLATFORM)

    @property
    def bill(self) -> Costs:
        """The sum of all parts, which is every charge of the month."""
        return total(self.parts.values())

    @property
    def run_count(self) -> int:
        """Number of runs with a charge in the month."""
        return sum(t.runs for t in self.teams)


@dataclass(frozen=True)
class BudgetFigures:
    """The state of a budget, as the last alert step judged it."""

    name: str
    budget_period: str
    amount: Decimal
    spent: Decimal | None  # None: not judged
    currency: str
    measure: str
    threshold_reached: str | None
    covered_until: datetime | None
    owner: str | None
    mailed_threshold: str | None
    mailed_at: datetime | None
    forecast: Decimal | None = None  # for the whole period; low and high are its 80% interval
    forecast_low: Decimal | None = None
    forecast_high: Decimal | None = None
    exceeded_on: date | None = None  # the day on which the amount was reached, or probably will be reached
    label: str | None = None  # the name in the settings or tables, if it may be shown


@dataclass(frozen=True)
class Held:
    """Bytes at the end of the month: of an experiment, of the orphaned artifacts in a store, or of objects that MLflow did not write."""

    kind: str  # experiment, orphan, other
    name: str
    bytes: int | None
    objects: int | None
    oldest_at: datetime | None
    newest_at: datetime | None
    is_partly_unknown: bool
    storage_cost: tuple[tuple[str, Decimal], ...] = ()


@dataclass(frozen=True)
class StoredClass:
    """Contents of one storage class of an artifact store at the end of the month. Bytes are None if the store does not report them."""

    store: str
    storage_class: str
    objects: int | None
    bytes: int | None
    noncurrent_bytes: int | None  # billed in addition to `bytes`; the other three are parts of `bytes`
    duplicate_bytes: int | None
    orphaned_bytes: int  # two measurements showed no owner
    unconfirmed_bytes: int  # one measurement showed no owner
    oldest_at: datetime | None
    newest_at: datetime | None
    rate: BilledRate | None = None

    def month_cost(self, count: int | None) -> Decimal | None:
        """Return the monthly cost of `count` bytes in this class at the bill's rate. None if the rate or `count` is unknown."""
        return None if self.rate is None or count is None else self.rate.of(count)


@dataclass(frozen=True)
class PolicyState:
    """Folders in one state in the plan of one retention policy. The saving is per month in `currency`, or None if no rate is known."""

    policy: str
    action: str
    state: str
    folders: int
    bytes: int | None
    monthly_saving: Decimal | None
    currency: str | None
    earliest_at: datetime | None


@dataclass(frozen=True)
class ArtifactFigures:
    """Contents of the artifact stores. `months` has bytes by month and storage class, only for MLflow's objects."""

    months: tuple[tuple[date, tuple[tuple[str, int], ...]], ...] = ()
    held: tuple[Held, ...] = ()
    stores: tuple[StoredClass, ...] = ()
    # store, kind of owner, number of owners whose bytes are gone, bytes they had
    dangling: tuple[tuple[str, str, int, int | None], ...] = ()
    currency: str = ""  # the currency of the rates
    policies: tuple[PolicyState, ...] = ()
    archives: tuple[tuple[str, str, int, int], ...] = ()  # action, state, folders, bytes

    @property
    def bytes(self) -> int:
        """The known bytes of MLflow's objects, including orphaned artifacts."""
        return sum(h.bytes or 0 for h in self.held if h.kind != "other")

    @property
    def orphaned_bytes(self) -> int:
        """The known bytes without a known owner, confirmed or not."""
        return sum(h.bytes or 0 for h in self.held if h.kind == "orphan")


@dataclass(frozen=True)
class SourceFigures:
    """The freshness of one source. `lag` is the time from `covered_until` to the time of the pipeline run."""

    name: str
    kind: str
    state: str
    covered_until: datetime | None
    lag: timedelta | None
    usual_lag: timedelta | None
    late_after: timedelta | None
    row_count: int | None
    last_error: str | None
    last_good_at: datetime | None


@dataclass(frozen=True)
class ReportFigures:
    """The figures of one month. `snapshot` identifies the content. It is on the page and in every row of the CSV files."""

    period: str
    now: datetime
    people: str
    build_id: str | None
    currencies: tuple[CurrencyFigures, ...]
    budgets: tuple[BudgetFigures, ...] = ()
    artifacts: ArtifactFigures = field(default_factory=ArtifactFigures)
    sources: tuple[SourceFigures, ...] = ()
    estimate_gaps: tuple[tuple[str, int], ...] = ()  # reason for a missing estimate, and the number of runs
    other_estimates: tuple[tuple[str, Estimates], ...] = ()  # in currencies that no bill of the month uses and that no rate converts
    estimate_note: str | None = None  # missing rates of those estimates
    problem: str | None = None  # why several currencies remain where there should be one
    site: str | None = None  # address of the live pages
    snapshot: str = ""
    trial_results: Mapping[str, str] = field(default_factory=dict)  # by currency, only on the page that `runspend try` writes

    @property
    def first(self) -> date:
        """First day of the month."""
        return first_day(self.period)

    @property
    def last(self) -> date:
        """Last day of the month."""
        return month_after(self.first, 1) - timedelta(days=1)


def total(costs: Iterable[Costs | Mapping[str, Any]]) -> Costs:
    """Return the exact sum in each of the four measures."""
    rows = list(costs)
    return Costs(*(add(c[m] for c in rows) for m in MEASURES))


def days_covered(first: date, until: datetime) -> int:
    """Return the number of days of the month that the bills cover until `until`. A day that is partly covered counts as a whole day."""
    start = datetime(first.year, first.month, 1, tzinfo=timezone.utc)
    whole = (month_after(first, 1) - first).days
    return max(0, min(whole, -((start - until) // timedelta(days=1))))
