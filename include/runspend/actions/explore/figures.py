"""The figures of a view, from the daily costs: its parts, its groups over time, and its most expensive runs.

Every amount is an exact decimal in one currency. Formatting does not belong here.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runspend.actions.costs.query import COST_KEYS, NoRate, in_one_currency
from runspend.actions.explain.figures import RunKey
from runspend.actions.explain.find import ask
from runspend.actions.explore.view import COLUMNS, NEVER_WITHOUT_RUN, ONLY_OF_RUNS, PARTS, SPREAD_PARTS, View, next_dimension
from runspend.config.settings import Settings
from runspend.core.amounts import EXACT, add, less, round_money
from runspend.core.errors import UsageError
from runspend.core.spread import Weight
from runspend.core.text import without_person
from runspend.warehouse.base import Reader
from runspend.warehouse.kept_rows import KeptRows, keep
from runspend.warehouse.sql_files import expand_macros, read_sql
from runspend.warehouse.team_views import OTHER_TEAMS, OTHERS

if TYPE_CHECKING:
    import pyarrow as pa

MOST_RUNS = 15
MOST_CHANGES = 5
MOST_PARTS = 1000  # rows of cost without a run
OUTSIDE = "out_of_scope"
NOTHING = Decimal(0)
# What a team sees instead of other teams' values. It is OTHER_TEAMS in dimensions that are not listed here. In place of a server, daily
# costs have OTHER_TEAMS and single charges have OTHERS.
MASKS = {"run": (OTHERS,), "server": (OTHERS, OTHER_TEAMS)}
Course = dict[tuple[tuple[Any, ...], date], Decimal]  # cost of each group by step

# The columns of the dimensions that runs have, in run_costs (c), run_costs_daily (d) and OF_MODELS (m). Only charges have the other
# dimensions.
RUN_KEYS = {
    "team": "c.team",
    "project": "c.project",
    "cost_center": "c.cost_center",
    "owner": "c.owner",
    "experiment": "c.experiment_name",
    "user": "c.user_name",
    "server": "d.tracking_server",
    "kind": "d.cost_kind",
    "source": "d.source",
    "allocated_to": "'run'",
    "currency": "d.billing_currency",
    "run": "d.run_id",
    "model": "m.model_name",
    "status": "c.run_status",
}
STEP_SQL = {
    "day": "charge_date",
    "week": "cast(date_trunc(charge_date, isoweek) as date)",
    "month": "cast(date_trunc(charge_date, month) as date)",
}


class SeveralCurrencies(UsageError):
    """Costs are in several currencies, which cannot be added. Each of `currencies` can be shown alone."""

    def __init__(self, why: str, currencies: Sequence[str]) -> None:
        super().__init__(why)
        self.currencies = tuple(currencies)


@dataclass(frozen=True)
class Amount:
    """A cost on the days of the view, and in the previous period."""

    cost: Decimal
    previous: Decimal

    @property
    def change(self) -> Decimal:
        """The cost minus the previous cost."""
        return less(self.cost, [self.previous])


@dataclass(frozen=True)
class RunCounts:
    """The number of runs of a group, the number of failed ones, their GPU time, and the cost of the charges with GPU time."""

    runs: int = 0
    failed_runs: int = 0
    gpu_seconds: float = 0.0
    gpu_cost: Decimal = NOTHING

    @property
    def gpu_hours(self) -> float | None:
        """The GPU hours. None if there are none."""
        return self.gpu_seconds / 3600 if self.gpu_seconds > 0 else None

    @property
    def gpu_hour_cost(self) -> Decimal | None:
        """The cost per GPU hour, to six decimals. None without GPU time."""
        if self.gpu_seconds <= 0:
            return None
        hours = EXACT.divide(Decimal(f"{self.gpu_seconds:.6f}"), Decimal(3600))
        return round_money(EXACT.divide(self.gpu_cost, hours), 6)


@dataclass(frozen=True)
class Group:
    """One row of the view: a group of costs with the same values, or a part of the bill without a run.

    `values` has one value per dimension of the view, or None if the costs have no value. `counts` is None for a part of the bill, and if
    runs do not have the view's dimensions. `spread` is the idle, shared and unallocated cost that was spread onto the group. The amount
    includes it. `is_others`: the row is a sum over teams that the viewer may not see, so it has no link to details.
    """

    values: tuple[str | None, ...]
    is_masked: bool  # whether a value is shown without the name of a person
    part: str | None
    amount: Amount
    course: tuple[Decimal, ...]
    counts: RunCounts | None
    spread: Decimal = NOTHING
    is_others: bool = False

    @property
    def runs(self) -> int | None:
        """The number of runs of the group."""
        return None if self.counts is None else self.counts.runs

    @property
    def failed_runs(self) -> int | None:
        """The number of failed runs of the group."""
        return None if self.counts is None else self.counts.failed_runs


@dataclass(frozen=True)
class Change:
    """One of the largest changes: a value of the first dimension, or a part without a run, and what changed most within it.

    `driver` is the value of the dimension `by` that changed most, and `driver_change` is its change. `driver` is None for cost that has no
    value of `by`.
    """

    value: str | None
    is_masked: bool
    part: str | None
    change: Decimal
    by: str
    driver: str | None
    driver_change: Decimal


@dataclass(frozen=True)
class Run:
    """One of the most expensive runs."""

    tracking_server: str
    workspace: str
    run_id: str
    name: str | None
    experiment: str | None
    user: str | None
    status: str | None
    start_time: datetime | None
    cost: Decimal
    gpu_seconds: float | None


@dataclass(frozen=True)
class Figures:
    """All figures on a page of the explorer. `rest_count`: the number of groups that are not shown.

    `has_long_charges`: whether a run has charges longer than a day. The cost of `runs` excludes these charges. `is_restricted`: whether
    the viewer sees the runs of some teams only. The run counts then include only those runs.
    """

    view: View
    currency: str
    newest: date
    steps: tuple[date, ...]
    parts: Mapping[str, Amount]
    groups: tuple[Group, ...]
    without_run: tuple[Group, ...]
    rest_count: int
    previous_course: tuple[Decimal, ...]
    runs: tuple[Run, ...]
    run_count: int | None
    failed_count: int | None
    has_long_charges: bool = False
    is_restricted: bool = False
    changes: tuple[Change, ...] = ()
    run_names: Mapping[str, str] = field(default_factory=dict)  # by run ID, for IDs in groups and filters that belong to one run only
    run_keys: Mapping[str, tuple[RunKey, ...]] = field(default_factory=dict)  # by run ID, for IDs in groups and filters

    @property
    def total(self) -> Amount:
        """The total of the view, without out-of-scope cost unless the view selects parts itself."""
        counted = [amount for part, amount in self.parts.items() if part != OUTSIDE or self.view.selects_parts]
        return Amount(add(a.cost for a in counted), add(a.previous for a in counted))

    @property
    def rest(self) -> Amount:
        """The sum of the groups that are not shown."""
        shown = [group.amount for group in (*self.groups, *self.without_run)]
        whole = self.total
        return Amount(less(whole.cost, (a.cost for a in shown)), less(whole.previous, (a.previous for a in shown)))


def read_figures(reader: Reader, settings: Settings, view: View, newest: date, *, hides_people: bool = False) -> Figures:
    """Return the figures of a view from the warehouse. `hides_people`: hide names of people that are part of other names.

    Raises SeveralCurrencies if the costs are in several currencies and an exchange rate is missing.
    """
    try:
        coarse = {key: values for key, values in view.where.items() if key in COST_KEYS}
        reader = in_one_currency(reader, settings, replace(view.selection, where=coarse))
    except NoRate as error:
        why = f"{str(error).partition(' Or show')[0]} Or select the costs of one currency: {', '.join(f'currency={c}' for c in error.currencies)}."
        raise SeveralCurrencies(why, error.currencies) from error
    steps = view.steps
    with keep({"kept_charges": _read_charges(reader, view)}) as kept:
        currency, parts = _parts(kept, settings)
        rows = [
            {**row, "cost": row["cost"] or NOTHING, "previous": row["previous"] or NOTHING, "spread": NOTHING, "is_spread": False}
            for row in _groups(kept, view)
        ]
        courses = _courses(kept, view)
        changes = _changes(kept, view, hides_people=hides_people)
    if view.is_spread:
        rows = _spread(rows, courses, view)
    left = [row for row in rows if not row["is_spread"]]
    counts: dict[tuple[Any, ...], RunCounts] | None = None
    runs_found: tuple[Run, ...] = ()
    run_count = failed_count = None
    has_long = False
    if (runs := _read_runs(reader, view)) is not None:
        with keep({"kept_runs": runs}) as kept:
            counts = _run_counts(kept, view) if _are_of_runs(view) else None
            runs_found, run_count, failed_count, has_long = _runs(kept, reader, hides_people=hides_people)
    groups = []
    is_restricted = settings.viewer is not None and settings.viewer.teams is not None
    for row in left:
        key = _key(row, view)
        is_others = is_restricted and any(value in MASKS.get(by, (OTHER_TEAMS,)) for by, value in zip(view.by, key, strict=False))
        counted = None if counts is None or row["part"] or is_others else counts.get(key[:-1], RunCounts())
        course = tuple(courses.get((key, step), NOTHING) for step in steps)
        values = tuple(map(without_person, key[:-1])) if hides_people else key[:-1]
        amount = Amount(row["cost"], row["previous"])
        groups.append(Group(values, values != key[:-1], row["part"], amount, course, counted, row["spread"], is_others))
    shown = tuple(g for g in groups if g.part is None)
    without_run = tuple(g for g in groups if g.part is not None)
    named = _named_runs(reader, view, shown)
    return Figures(
        view=view,
        currency=currency,
        newest=newest,
        steps=steps,
        parts=parts,
        groups=shown,
        without_run=without_run,
        rest_count=sum(
            max((row["groups_in_all"] for row in rows if (row["part"] is None) is is_run), default=0)
            - sum((row["part"] is None) is is_run for row in rows)
            for is_run in (True, False)
        ),
        previous_course=_previous_course(reader, view),
        runs=runs_found,
        run_count=run_count,
        failed_count=failed_count,
        has_long_charges=has_long,
        is_restricted=is_restricted,
        changes=changes,
        run_names={run_id: known[0][1] for run_id, known in named.items() if len(known) == 1 and known[0][1]},
        run_keys={run_id: tuple(key for key, _ in known) for run_id, known in named.items()},
    )


def _named_runs(reader: Reader, view: View, groups: Sequence[Group]) -> dict[str, list[tuple[RunKey, str | None]]]:
    """Return the key and MLflow's name of each run that the view groups by or selects, by run ID. Several servers may have the same ID."""
    ids = set(view.where.get("run", ()))
    if "run" in view.by:
        ids |= {group.values[view.by.index("run")] or "" for group in groups}
    found: dict[str, list[tuple[RunKey, str | None]]] = {}
    for row in ask(reader, "names", runs=sorted(ids - {""})) if ids - {""} else []:
        key = RunKey(row["tracking_server"], row["workspace"], row["run_id"])
        found.setdefault(key.run_id, []).append((key, row["run_name"]))
    return found


def _key(row: Mapping[str, Any], view: View) -> tuple[Any, ...]:
    return (*(row[name] for name in _names(view)), row["part"])


def _charges_sql(view: View, *, is_whole: bool = False) -> tuple[str, dict[str, Any]]:
    """Return the SQL of the common table expression `charges`, and its parameters.

    Its columns are the groups, the part, the day, the cost on the view's days, and the cost in the previous period. Cost without a run has
    a part, but no value in dimensions that only runs have. Its team, project, cost center and owner come from the bill, if the bill names
    them. Out-of-scope cost is excluded unless the view selects parts itself or `is_whole` is set.
    """
    where, parameters = view.selection.condition(COLUMNS)
    if not is_whole and not view.selects_parts:
        where += f" and allocated_to <> '{OUTSIDE}'"
    columns = [COLUMNS[key] for key in view.by]
    groups = ", ".join(
        f"case when allocated_to = 'run' then {c} end as g{n}" if c in NEVER_WITHOUT_RUN else f"{c} as g{n}" for n, c in enumerate(columns)
    )
    before = view.previous if view.is_compared else (view.since, view.since)
    where += " and (charge_date >= @first_day or charge_date < @before_until)"
    parameters |= {"first_day": view.since, "before_from": before[0], "before_until": before[1]}
    sql = f"""charges as (
      select
        {groups}, {_part_sql(view)} as part, allocated_to, billing_currency, charge_date,
        case when charge_date >= @first_day then {view.measure}_cost end as cost,
        case when charge_date >= @before_from and charge_date < @before_until then {view.measure}_cost end as previous
      from {f"({read_sql(Path(__file__).parent, 'ledger')})" if view.is_fine else "cost_daily"}
      where {where}
    )"""
    return sql, parameters


def _read_charges(reader: Reader, view: View) -> pa.Table:
    """Return all charges of the view, summed by group, driver, part, currency and step. `step` is null in the previous period."""
    wider = replace(view, by=(*view.by, *_drivers(view)))
    charges, parameters = _charges_sql(wider, is_whole=True)
    columns = f"{', '.join(_names(wider))}, allocated_to, billing_currency"
    return reader.query(
        f"""
        with {charges}
        select {columns}, case when charge_date >= @first_day then {STEP_SQL[view.every]} end as step, sum(cost) as cost, sum(previous) as previous
        from charges
        group by {columns}, step""",
        parameters,
    )


def _drivers(view: View) -> tuple[str, ...]:
    """Return the two dimensions that explain changes of the first dimension: one for runs, and one for cost without a run.

    Empty if the view is not compared with the previous period.
    """
    if not view.is_compared:
        return ()
    by = next_dimension(view.where, view.by[0])
    if not view.splits_parts and COLUMNS[by] in ONLY_OF_RUNS:  # parts have no rows of their own in this view
        by = "service" if view.by[0] != "service" else "account"
    return by, "service"


def _kept_sql(view: View, columns: Sequence[str]) -> str:
    """Return the SQL of the common table expression `charges` over the kept rows, without parts that the view excludes."""
    where = "true" if view.selects_parts else f"allocated_to <> '{OUTSIDE}'"
    return f"charges as (select {', '.join(columns)}, {_part_sql(view)} as part, step, cost, previous from kept_charges where {where})"


def _part_sql(view: View) -> str:
    return "case when allocated_to <> 'run' then allocated_to end" if view.splits_parts else "cast(null as string)"


def _parts(kept: KeptRows, settings: Settings) -> tuple[str, dict[str, Amount]]:
    rows = kept.query(
        "select allocated_to, billing_currency, sum(cost) as cost, sum(previous) as previous from kept_charges"
        " group by allocated_to, billing_currency order by allocated_to, billing_currency"
    ).to_pylist()
    currencies = sorted({row["billing_currency"] for row in rows})
    if len(currencies) > 1:
        raise SeveralCurrencies(
            f"cannot add costs in {', '.join(currencies)}: select one of them, such as currency={currencies[0]}.", currencies
        )
    found = {row["allocated_to"]: Amount(row["cost"] or NOTHING, row["previous"] or NOTHING) for row in rows}
    return next(iter(currencies), settings.currency), {part: found[part] for part in PARTS if part in found}


def _shown_sql(view: View) -> str:
    """Return the SQL of the common table expressions `charges` and `shown`.

    `shown` has the first `@top` groups in the order of the view, and the parts without a run.
    """
    names = _names(view)
    field, direction = view.order.removeprefix("-"), "desc" if view.order.startswith("-") else "asc"
    amount = {"cost": "coalesce(cost, bignumeric '0')", "change": "coalesce(cost, bignumeric '0') - coalesce(previous, bignumeric '0')"}
    order = [f"{name} {direction}" for name in names] if field == "name" else [f"{amount[field]} {direction}", *names]
    return f"""{_kept_sql(view, _names(view))},
    sums as (
      select {", ".join(names)}, part, sum(cost) as cost, sum(previous) as previous from charges group by {", ".join(names)}, part
    ),
    weighed as (
      select
        {", ".join(names)}, part, cost, previous,
        case when part is null and cost > 0 then cost else bignumeric '0' end as weight,
        case when part is null and previous > 0 then previous else bignumeric '0' end as previous_weight
      from sums
    ),
    placed as (
      select
        {", ".join(names)}, part, cost, previous{_places_sql(view)},
        row_number() over (partition by part is null order by {", ".join(order)}, part) as place,
        count(*) over (partition by part is null) as groups_in_all
      from weighed
    ),
    shown as (
      select *
      from placed
      where place <= case when part is null then @top else {MOST_PARTS} end
    )"""


def _places_sql(view: View) -> str:
    """Return the columns by which cost is spread over groups: a group's weight, the sum of weights up to it, and the sum of all weights.

    The sums are over the groups that share the same cost: those with equal values of the bill's dimensions. Empty if the view does not
    spread cost.
    """
    if not view.is_spread:
        return ""
    among = "".join(f"partition by {names} " for names in [", ".join(_bill_names(view))] if names)
    order = f"order by cost desc, {', '.join(_names(view))}, part rows between unbounded preceding and current row"
    return "".join(
        f", {kind}weight, sum({kind}weight) over ({among}{order}) as {kind}up_to, sum({kind}weight) over ({among}) as {kind}whole"
        for kind in ("", "previous_")
    )


def _bill_names(view: View) -> list[str]:
    """Return the columns of the dimensions that cost without a run also has."""
    return [name for name, key in zip(_names(view), view.by, strict=True) if COLUMNS[key] not in ONLY_OF_RUNS]


def _spread(rows: Sequence[dict[str, Any]], courses: Course, view: View) -> list[dict[str, Any]]:
    """Spread idle, shared and unallocated cost over the groups, in `rows` and in `courses`. Return the rows in the order of the view.

    A part is not spread if no group with a positive cost has the same values of the bill's dimensions. It is not spread either if the bill
    names its team, project, cost center or owner.
    """
    names = _bill_names(view)
    own = [name for name in _names(view) if name not in names]
    parts = [row for row in rows if row["part"] in SPREAD_PARTS and all(row[name] is None for name in own)]
    groups = [row for row in rows if row["part"] is None]
    for row in groups:
        key = _key(row, view)
        same = [part for part in parts if all(part[name] == row[name] for name in names)]
        now, before = (Weight(row[f"{k}weight"], row[f"{k}up_to"], row[f"{k}whole"]) for k in ("", "previous_"))
        for part in same:
            part_so_far = spread_so_far = NOTHING
            # The share of a step is the growth of the cumulative share. So the total share is the same for days, weeks and months.
            for step in view.steps:
                part_so_far = add([part_so_far, courses.get((_key(part, view), step))])
                share = now.share(part_so_far)
                courses[key, step] = less(add([courses.get((key, step)), share]), [spread_so_far])
                spread_so_far = share
            row["spread"] = add([row["spread"], spread_so_far])
        row["cost"] = add([row["cost"], row["spread"]])
        row["previous"] = add([row["previous"], *(before.share(part["previous"]) for part in same)])
    for part in parts:
        if part["whole"]:
            part["cost"] = NOTHING
            for step in view.steps:
                courses.pop((_key(part, view), step), None)
        if part["previous_whole"]:
            part["previous"] = NOTHING
        part["is_spread"] = bool(part["whole"]) and not part["previous"]
    field, is_falling = view.order.removeprefix("-"), view.order.startswith("-")
    if field == "name":
        return list(rows)
    groups.sort(key=lambda row: row["cost"] if field == "cost" else row["cost"] - row["previous"], reverse=is_falling)
    return [*groups, *(row for row in rows if row["part"] is not None)]


def _names(view: View) -> list[str]:
    return [f"g{number}" for number in range(len(view.by))]


def _groups(kept: KeptRows, view: View) -> list[dict[str, Any]]:
    """Return the rows of the first `view.top` groups, then those of the parts without a run."""
    sql = f"with {_shown_sql(view)} select * from shown order by part is not null, place"
    rows: list[dict[str, Any]] = kept.query(sql, {"top": view.top}).to_pylist()
    return rows


def _courses(kept: KeptRows, view: View) -> Course:
    """Return the cost of each shown group by step."""
    names = ", ".join(f"c.{name}" for name in _names(view))
    same = " and ".join(f"c.{name} is not distinct from p.{name}" for name in (*_names(view), "part"))
    rows = kept.query(
        f"with {_shown_sql(view)} select {names}, c.part, c.step, sum(c.cost) as cost from charges c join shown p on {same}"
        f" where c.step is not null group by {names}, c.part, c.step",
        {"top": view.top},
    ).to_pylist()
    return {(_key(row, view), row["step"]): row["cost"] or NOTHING for row in rows}


def _changes(kept: KeptRows, view: View, *, hides_people: bool) -> tuple[Change, ...]:
    """Return the values of the first dimension that changed most, up or down.

    Each comes with the driver that changed most in the same direction. Empty if the view is not compared with the previous period.
    """
    if not view.is_compared:
        return ()
    by, other = _drivers(view)
    of_runs = COLUMNS[by] in ONLY_OF_RUNS
    driver, driver_of_parts = (f"g{len(view.by) + n}" for n in (0, 1))
    rows = kept.query(
        f"""
        with {_kept_sql(replace(view, by=(view.by[0], by, other)), ["g0", driver, driver_of_parts])},
        changed as (
          select
            g0, part, {f"case when part is null then {driver} else {driver_of_parts} end" if of_runs else driver} as driver,
            coalesce(sum(cost), bignumeric '0') - coalesce(sum(previous), bignumeric '0') as change
          from charges
          group by g0, part, driver
        ),
        summed as (select g0, part, driver, change, sum(change) over (partition by g0, part) as whole from changed),
        placed as (
          select
            g0, part, driver, change, whole,
            row_number() over (partition by g0, part order by case when whole < 0 then change else -change end, driver) as place,
            dense_rank() over (order by abs(whole) desc, g0, part) as rank
          from summed
          where whole <> 0
        )
        select g0, part, driver, change, whole from placed where place = 1 and rank <= {MOST_CHANGES} order by rank"""
    ).to_pylist()
    found = []
    for row in rows:
        value, reason = (without_person(row[name]) if hides_people else row[name] for name in ("g0", "driver"))
        named = other if row["part"] is not None and of_runs else by
        found.append(Change(value, value != row["g0"], row["part"], row["whole"], named, reason, row["change"]))
    return tuple(found)


def _previous_course(reader: Reader, view: View) -> tuple[Decimal, ...]:
    """Return the total cost of the previous period, mapped to the steps of the view. Empty if the view is not compared."""
    if not view.is_compared:
        return ()
    # Daily costs have `kind`, so single charges are read only if a filter needs them.
    charges, parameters = _charges_sql(replace(view, by=("kind",)))
    days = reader.query(
        f"with {charges} select charge_date, sum(previous) as previous from charges where charge_date < @before_until group by charge_date",
        parameters,
    ).to_pylist()
    begin, _ = view.previous
    sums = [NOTHING] * len(view.steps)
    for row in days:  # map each day to the day of the view with the same distance from its first day
        place = bisect_right(view.steps, min(view.since + (row["charge_date"] - begin), view.last)) - 1
        sums[place] = add([sums[place], row["previous"]])
    return tuple(sums)


# The charges of runs on the days of the view. The explorer spreads a charge longer than a day over its days, without its run (see
# ledger.sql), but run_costs_daily has the whole charge on its first day. So the second query subtracts it again from the cost of its run.
# The run still counts as charged on these days, unless the charge starts more than 31 days before the view.
CHARGED = expand_macros("""(
    select tracking_server, workspace, run_id, charge_date, cost_kind, source, billing_currency, {measure}_cost as cost, gpu_seconds, false as is_long
    from run_costs_daily
    where charge_date >= @first_day and charge_date < @until
    union all
    select
      tracking_server, workspace, run_id, greatest(charge_date, @first_day), cost_kind, source, billing_currency,
      case when charge_date >= @first_day then -{measure}_cost end, cast(null as float64), true
    from cost_allocations
    where allocated_to = 'run' and not at_most_a_day(charge_period_start, charge_period_end)
      and charge_date >= date_sub(@first_day, interval 31 day) and charge_date < @until
      and date(timestamp_sub(charge_period_end, interval 1 microsecond)) >= @first_day
  ) d""")

# A run with bills in two currencies has two rows in run_costs, each with its own daily costs.
JOINED = """{charged} join run_costs c
    on c.tracking_server = d.tracking_server and c.workspace = d.workspace and c.run_id = d.run_id and c.billing_currency = d.billing_currency"""

# The registered model of which a run made a version: of several models, the first by name, so that the cost counts once.
OF_MODELS = """ left join (
    select tracking_server, workspace, run_id, min(model_name) as model_name from model_versions where run_id is not null group by tracking_server, workspace, run_id
  ) m on m.tracking_server = d.tracking_server and m.workspace = d.workspace and m.run_id = d.run_id"""
RUN = "tracking_server, workspace, run_id"


def _read_runs(reader: Reader, view: View) -> pa.Table | None:
    """Return the cost of each run in each group. None if runs do not have the dimensions that the view filters by.

    If runs do not have the dimensions that the view groups by, the rows have no group.
    """
    if set(view.where) - RUN_KEYS.keys():
        return None
    where, parameters = view.selection.condition(RUN_KEYS)
    names = _names(view) if _are_of_runs(view) else []
    groups = "".join(f"{RUN_KEYS[key]} as {name}, " for key, name in zip(view.by, names, strict=False))
    return reader.query(
        f"""
        select
          {groups}d.tracking_server, d.workspace, d.run_id, c.run_status in ('FAILED', 'KILLED') as is_failed, sum(d.cost) as cost,
          logical_or(d.is_long) as has_long,
          -- Whole microseconds, because a sum of floats depends on row order.
          sum(cast(round(d.gpu_seconds * 1e6) as int64)) as gpu_microseconds,
          sum(case when d.gpu_seconds > 0 then d.cost end) as gpu_cost
        from {JOINED.format(charged=CHARGED.format(measure=view.measure))}{OF_MODELS if "model" in (*view.by, *view.where) else ""}
        where {where} and d.charge_date >= @first_day
        group by {"".join(f"{name}, " for name in names)}d.tracking_server, d.workspace, d.run_id, is_failed""",
        parameters | {"first_day": view.since},
    )


def _are_of_runs(view: View) -> bool:
    """Whether runs have all dimensions by which the view groups."""
    return not set(view.by) - RUN_KEYS.keys()


def _run_counts(kept: KeptRows, view: View) -> dict[tuple[Any, ...], RunCounts]:
    """Return the run counts of each group, by its values."""
    names = ", ".join(_names(view))
    rows = kept.query(
        f"""
        select
          {names}, count(*) as runs, sum(case when is_failed then 1 else 0 end) as failed, sum(gpu_microseconds) as gpu_microseconds,
          sum(gpu_cost) as gpu_cost
        from kept_runs
        group by {names}"""
    ).to_pylist()
    return {
        tuple(row[name] for name in _names(view)): RunCounts(
            row["runs"], int(row["failed"] or 0), int(row["gpu_microseconds"] or 0) / 1e6, row["gpu_cost"] or NOTHING
        )
        for row in rows
    }


def _runs(kept: KeptRows, reader: Reader, *, hides_people: bool) -> tuple[tuple[Run, ...], int, int, bool]:
    """Return the most expensive runs, how many runs there are, how many of them failed, and whether any has charges longer than a day."""
    rows = kept.query(
        f"""
        with found as (
          select {RUN}, is_failed, sum(cost) as cost, sum(gpu_microseconds) as gpu_microseconds, logical_or(has_long) as has_long
          from kept_runs
          group by {RUN}, is_failed
        )
        select *, count(*) over () as runs, sum(case when is_failed then 1 else 0 end) over () as failed, logical_or(has_long) over () as any_long
        from found
        order by cost desc, run_id, tracking_server, workspace
        limit {MOST_RUNS}"""
    ).to_pylist()
    if not rows:
        return (), 0, 0, False
    described = reader.query(
        f"""
        select
          {RUN}, min(run_name) as run_name, min(experiment_name) as experiment_name, min(user_name) as user_name, min(run_status) as run_status,
          min(start_time) as start_time
        from run_costs
        where run_id in unnest(@runs)
        group by {RUN}""",
        {"runs": sorted({row["run_id"] for row in rows})},
    ).to_pylist()
    named = {(row["tracking_server"], row["workspace"], row["run_id"]): row for row in described}
    found = []
    for row in rows:
        key = (row["tracking_server"], row["workspace"], row["run_id"])
        about, gpu = named[key], row["gpu_microseconds"]
        experiment = without_person(about["experiment_name"]) if hides_people else about["experiment_name"]
        found.append(
            Run(
                *key,
                about["run_name"],
                experiment,
                about["user_name"],
                about["run_status"],
                about["start_time"],
                row["cost"] or NOTHING,
                None if gpu is None else int(gpu) / 1e6,
            )
        )
    return tuple(found), rows[0]["runs"], int(rows[0]["failed"] or 0), bool(rows[0]["any_long"])
