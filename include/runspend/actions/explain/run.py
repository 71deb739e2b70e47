"""Explain a run's cost: every charge behind it, the run's share, the rule, and the other sharers.

`explain_run` only reads, and only the rows it needs. Each query filters by day, run or machine, so that the warehouse can
skip most of its files. Sums of costs are exact. `figures.py` defines the values, `no_cost.py` explains a missing cost, and
`layout.py` arranges the text.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

from runspend.actions.explain.figures import (
    MEASURES,
    BillChange,
    BillState,
    Block,
    Candidate,
    Costs,
    CurrencyCost,
    Dimension,
    RunExplanation,
    RunKey,
    RunPart,
    Share,
    Siblings,
    Stored,
    Use,
)
from runspend.actions.explain.find import ask, find_run
from runspend.actions.explain.no_cost import why_no_cost
from runspend.actions.report.plan import run_url
from runspend.allocation.claimed_hours import ClaimedHours, with_open_prices
from runspend.config.settings import Settings
from runspend.core.amounts import add
from runspend.core.text import without_person
from runspend.schema.rows import first_day
from runspend.warehouse.base import Reader

Row = dict[str, Any]
ChargeKey = tuple[str, date, str]
RULES = (
    "run_tag",
    "job_id",
    "resource_id",
    "attached",
    "artifact_bytes",
    "pool_time",
    "instance_type_time",
    "llm_identity",
    "llm_cost",
    "sharing",
)
ZERO = Decimal(0)
SILENT = timedelta(hours=24)
DEEPEST = 50  # maximum number of parent links to follow, the same as in the ledger


def explain_run(reader: Reader, text: str, settings: Settings, *, now: datetime, period: str | None = None) -> RunExplanation:
    """Return the explanation of a run's cost. `text` names the run; `period` ("YYYY-MM") limits the costs to one billing period."""
    found = find_run(reader, text, settings)
    key = found.key
    rows = _run_rows(reader, found)
    run = rows[0]
    parts = _parts(reader, key, rows, period)
    context = _read_context(reader, run, parts)
    made = [_part(p, context) for p in parts]
    stated = _stated(reader, key, rows, period)
    currencies = tuple(
        _currency(
            currency,
            [m for m, p in zip(made, parts, strict=True) if p["billing_currency"] == currency],
            stated.get(currency),
            rows,
            context,
        )
        for currency in sorted({p["billing_currency"] for p in parts} | set(stated))
    )
    bills = _bills(reader, {(p["source"], p["billing_period"]) for p in parts})
    days = [p["charge_date"] for p in parts]
    return RunExplanation(
        key=key,
        run_name=run["run_name"],
        experiment_id=run["experiment_id"],
        experiment_name=run["experiment_name"] if settings.mail.people == "show" else without_person(run["experiment_name"]),
        user_name=run["user_name"] if settings.mail.people == "show" else None,
        run_status=run["run_status"],
        lifecycle_stage=run["lifecycle_stage"],
        start_time=run["start_time"],
        end_time=run["end_time"],
        future_end_time=run["future_end_time"],
        gaps=gaps_of(run),
        parent_run_id=run["parent_run_id"],
        link=run_url(settings, key.tracking_server, run["experiment_id"], key.run_id),
        asked_for=asked_for(run),
        dimensions=tuple(
            Dimension(name, run[name], run[f"{name}_from"])
            for name in ("team", "project", "cost_center", "owner")
            if run[name] is not None and (name != "owner" or settings.mail.people == "show")
        ),
        period=period,
        currencies=currencies,
        no_cost=None if made else why_no_cost(reader, settings, rows, resources=stated_resources(reader, run), now=now),
        bills=bills,
        artifacts=_artifacts(reader, key),
        changes=_changes(reader, parts, min(days), max(days)) if days else (),
        uses=_uses(context),
        siblings=_siblings(reader, key, run["experiment_id"]) if made and period is None else (),
        claimed_hours=_claimed_hours(reader, made),
    )


def _siblings(reader: Reader, key: RunKey, experiment_id: str | None) -> tuple[Siblings, ...]:
    """Return the number and the median cost of the experiment's runs, one item per currency."""
    if experiment_id is None:
        return ()
    rows = ask(reader, "siblings", server=key.tracking_server, workspace=key.workspace, experiment=experiment_id)
    return tuple(Siblings(row["billing_currency"], row["runs"], row["median"]) for row in rows)


def gaps_of(run: Mapping[str, Any]) -> tuple[tuple[datetime, datetime], ...]:
    """Return the intervals in which the run was stopped, in order of time."""
    pairs = (gap.replace("Z", "+00:00").split("/") for gap in run["gaps"] or ())
    return tuple((datetime.fromisoformat(first), datetime.fromisoformat(after)) for first, after in pairs)


def _claimed_hours(reader: Reader, parts: Sequence[RunPart]) -> tuple[ClaimedHours, ...]:
    """Return the hours that runs claim of an instance type, for each type from which `instance_type_time` allocated cost to this run."""
    keys = {(p.billing_period, p.pool_key) for p in parts if p.match_method == "instance_type_time"}
    rows = ask(reader, "claimed_hours", periods=sorted({period for period, _ in keys})) if keys else []
    return tuple(one for one in with_open_prices(rows) if (one.billing_period, one.pool_key) in keys)


def asked_for(run: Mapping[str, Any]) -> str | None:
    """Return a description of the resources that a run requested, or None if it states none."""
    words = []
    if run["gpu_count"] is not None:
        words.append(f"{run['gpu_count']:g} GPU{'s' if run['gpu_count'] != 1 else ''}{' ' + run['gpu_type'] if run['gpu_type'] else ''}")
    if run["cpu_request"] is not None:
        words.append(f"{run['cpu_request']:g} cores")
    if run["memory_request_gb"] is not None:
        words.append(f"{run['memory_request_gb']:g} GiB")
    machines = run["num_nodes"] or len(run["resource_ids"] or ()) or None
    if machines is not None or run["instance_type"] is not None:
        place = f"{machines or 1} x {run['instance_type']}" if run["instance_type"] else f"{machines} machine{'s' if machines != 1 else ''}"
        words = [f"{', '.join(words)} on {place}" if words else place]
    words += [run["purchase_option"].replace("_", " ")] if run["purchase_option"] else []
    words += [
        f"in {place}"
        for place in (run["availability_zone"] or run["region_id"], run["sub_account_id"] and f"account {run['sub_account_id']}")
        if place
    ]
    return ", ".join(words) or None


def costs_of(row: Mapping[str, Any]) -> Costs:
    """Return the four measures of a row. A measure that is null becomes 0."""
    return Costs(*(row[m] if row[m] is not None else ZERO for m in MEASURES))


def summed(costs: Iterable[Costs]) -> Costs:
    """Return the exact sum of each measure."""
    all_costs = list(costs)
    return Costs(*(add([getattr(c, m) for c in all_costs]) for m in MEASURES))


def charge_of(row: Mapping[str, Any]) -> ChargeKey:
    """Return the key of a row's charge. It includes the bill and the period, because the id of a pooled charge may occur in several."""
    return row["source"], row["billing_period"], row["charge_id"]


def run_key_of(row: Mapping[str, Any]) -> RunKey | None:
    """Return the run that a ledger row belongs to."""
    return RunKey(row["tracking_server"], row["workspace"], row["run_id"]) if row["run_id"] is not None else None


class Names:
    """Names and requested resources of a set of runs, read with one query."""

    def __init__(self, reader: Reader, keys: Iterable[RunKey]) -> None:
        ids = sorted({k.run_id for k in keys})
        rows = ask(reader, "names", runs=ids) if ids else []
        self._rows = {RunKey(r["tracking_server"], r["workspace"], r["run_id"]): r for r in rows}

    def name(self, key: RunKey | None) -> str | None:
        """Return the run's name in MLflow, or None if it is unknown."""
        return self._rows.get(key, {}).get("run_name") if key is not None else None

    def asked(self, key: RunKey | None, weight_kind: str | None) -> str | None:
        """Return the run's request for one kind of resource, such as "2 GPUs", or None if it has none.

        `weight_kind` is the kind that weights the runs of a shared machine: gpu, cpu or memory.
        """
        row = self._rows.get(key) if key is not None else None
        if row is None:
            return None
        if weight_kind == "gpu" and row["gpu_count"] is not None:
            return f"{row['gpu_count']:g} GPU{'s' if row['gpu_count'] != 1 else ''}"
        if weight_kind == "cpu" and row["cpu_request"] is not None:
            return f"{row['cpu_request']:g} cores"
        if weight_kind == "memory" and row["memory_request_gb"] is not None:
            return f"{row['memory_request_gb']:g} GiB"
        return None


@dataclass
class RunContext:
    """The data that `_part` needs in addition to a run's parts, read once for all parts."""

    run: Row
    names: Names
    line_counts: dict[ChargeKey, int] = field(default_factory=dict)  # bill lines of each pooled charge
    machine_rows: list[Row] = field(default_factory=list)  # every target of the run's machines on its days
    by_charge: dict[ChargeKey, list[Row]] = field(default_factory=dict)
    totals: dict[ChargeKey, Row] = field(default_factory=dict)  # of charges without a machine of their own
    lines: dict[str, Row] = field(default_factory=dict)
    resources: list[Row] = field(default_factory=list)  # stated machines, see `stated_resources`


def _run_rows(reader: Reader, found: Candidate) -> list[Row]:
    """Return one row of the run for each billing currency. A run without a cost has one row, with nulls."""
    key = found.key
    return ask(reader, "run", month=found.start_month, run_id=key.run_id, server=key.tracking_server, workspace=key.workspace)


def _parts(reader: Reader, key: RunKey, rows: Sequence[Row], period: str | None) -> list[Row]:
    firsts = [r["first_charge_date"] for r in rows if r["first_charge_date"] is not None]
    lasts = [r["last_charge_date"] for r in rows if r["last_charge_date"] is not None]
    if not firsts:
        return []
    parts = ask(reader, "parts", target=key.target_id, first_date=min(firsts), last_date=max(lasts))
    return [p for p in parts if period in (None, f"{p['billing_period']:%Y-%m}")]


def stated_resources(reader: Reader, run: Mapping[str, Any]) -> list[Row]:
    """Return the machines that a run states or, if it states none, those of its nearest ancestor that states any, as in the ledger."""
    server, run_id, parent, seen = run["tracking_server"], run["run_id"], run["parent_run_id"], set[str]()
    while len(seen) < DEEPEST:
        found = ask(reader, "resources", runs=[run_id], server=server)
        seen.add(run_id)
        if found or parent is None or parent in seen:
            return found
        above = ask(reader, "ancestor", run_id=parent, server=server)
        if not above:
            return []
        run_id, parent = above[0]["run_id"], above[0]["parent_run_id"]
    return []


def _read_context(reader: Reader, run: Row, parts: Sequence[Row]) -> RunContext:
    """Return the context of a run's parts. A few queries read it, each limited to the charges, machines and days of these parts."""
    if not parts:
        return RunContext(run, Names(reader, ()))
    counts = {charge_of(r): r["line_count"] for r in ask(reader, "charge_lines", charges=sorted({p["charge_id"] for p in parts}))}
    own = [p for p in parts if p["resource_id"] is not None and charge_of(p) not in counts]
    others = [p for p in parts if p["resource_id"] is None or charge_of(p) in counts]
    machine_rows: list[Row] = []
    lines: list[Row] = []
    if own:
        resources, days = sorted({p["resource_id"] for p in own}), [p["charge_date"] for p in own]
        machine_rows = ask(reader, "machines", resources=resources, first_date=min(days), last_date=max(days))
        periods, ids = sorted({p["billing_period"] for p in own}), sorted({p["charge_id"] for p in own})
        lines = ask(reader, "lines", first_resource=resources[0], last_resource=resources[-1], periods=periods, lines=ids)
    totals: list[Row] = []
    if others:
        days = [p["charge_date"] for p in others]
        totals = ask(reader, "charge_totals", charges=sorted({p["charge_id"] for p in others}), first_date=min(days), last_date=max(days))
    by_charge: dict[ChargeKey, list[Row]] = defaultdict(list)
    for row in machine_rows:
        by_charge[charge_of(row)].append(row)
    keys = {key for key in map(run_key_of, machine_rows) if key is not None}
    return RunContext(
        run=run,
        names=Names(reader, keys),
        line_counts=counts,
        machine_rows=machine_rows,
        by_charge=by_charge,
        totals={charge_of(r): r for r in totals},
        lines={r["line_id"]: r for r in lines},
        resources=stated_resources(reader, run) if own else [],
    )


def _part(row: Row, context: RunContext) -> RunPart:
    """Return the run's part of one charge, together with the other targets' parts of it."""
    charge = context.by_charge.get(charge_of(row), [])
    is_pooled = charge_of(row) in context.line_counts
    line = context.lines.get(row["charge_id"], {})
    if charge and not is_pooled:
        me = (context.run["tracking_server"], context.run["workspace"], context.run["run_id"])
        rest = [r for r in charge if (r["tracking_server"], r["workspace"], r["run_id"]) != me]
        shared = tuple(
            sorted(
                (_share(r, row["weight_kind"], context.names) for r in rest),
                key=lambda s: (s.run is None, -s.ratio, s.allocated_to, str(s.run)),
            )
        )
        # The bill line has the whole cost. The rows of this charge may have less of it: if the machine also belongs to a pool or an
        # instance type, they cover only the runs that state the machine.
        charge_cost = line["effective_cost"] or ZERO if "effective_cost" in line else add([r["effective_cost"] or ZERO for r in charge])
        other_runs, nobodys = sum(s.run is not None for s in shared), add([s.effective_cost for s in shared if s.run is None])
    else:
        total = context.totals[charge_of(row)]
        shared, charge_cost, other_runs, nobodys = (), total["effective_cost"], total["runs"] - 1, total["unused_cost"] or ZERO
    billed = line.get("billed_nanoseconds")
    return RunPart(
        source=row["source"],
        billing_period=row["billing_period"],
        charge_id=row["charge_id"],
        charge_date=row["charge_date"],
        starts_at=row["charge_period_start"],
        ends_at=row["charge_period_end"],
        service_name=row["service_name"],
        charge_category=row["charge_category"],
        sub_account_id=row["sub_account_id"],
        resource_id=row["resource_id"],
        resource_key=line.get("resource_key"),
        pool_key=row["pool_key"],
        cost_kind=row["cost_kind"],
        lines=context.line_counts.get(charge_of(row), 1),
        is_pooled=is_pooled,
        description=line.get("charge_description"),
        pricing_category=line.get("pricing_category"),
        billed_seconds=None if billed is None or billed < 0 else billed / 1e9,  # negative in a reversal: not a time
        ran_seconds=_ran_seconds(row, line.get("resource_key"), context),
        ratio=row["allocated_ratio"] if row["allocated_ratio"] is not None else 1.0,
        charge_cost=charge_cost,
        costs=costs_of(row),
        unused_cost=row["unused_cost"],
        overhead_cost=row["overhead_cost"],
        match_method=row["match_method"],
        confidence=row["confidence"],
        reason=row["reason"],
        weight_kind=row["weight_kind"],
        run_end_rule=row["run_end_rule"],
        is_scaled=bool(row["is_scaled"]),
        cost_status=row["cost_status"],
        shared=shared,
        other_runs=other_runs,
        nobodys=nobodys,
    )


def _share(row: Row, weight_kind: str | None, names: Names) -> Share:
    key = run_key_of(row)
    return Share(
        row["allocated_to"],
        key,
        names.name(key),
        names.asked(key, weight_kind),
        row["allocated_ratio"] or 0.0,
        row["effective_cost"] or ZERO,
    )


def _ran_seconds(row: Row, resource_key: str | None, context: RunContext) -> float | None:
    """Return how many seconds the run was on the charge's machine during the charge, by the run's own clock.

    Returns None if the run does not state the machine.
    """
    run = context.run
    seconds, is_known = 0.0, False
    last = (resource_key or "").rpartition("/")[2]
    mine = [stated for stated in context.resources if stated["resource_key"] == resource_key]
    # The bill may name the machine with a longer or shorter path, so compare the last part as well.
    for stated in mine or [stated for stated in context.resources if (stated["resource_key"] or "").rpartition("/")[2] == last]:
        began, ended = stated["used_from"] or run["start_time"], stated["used_to"] or _end_of(run, row)
        if began is None or ended is None:
            continue
        is_known = True
        began, ended = max(began, row["charge_period_start"]), min(ended, row["charge_period_end"])
        stopped = sum(max((min(ended, after) - max(began, first)).total_seconds(), 0.0) for first, after in gaps_of(run))
        seconds += max((ended - began).total_seconds() - stopped, 0.0)
    return seconds if is_known else None


def _end_of(run: Row, row: Row) -> datetime | None:
    """Return the run's end as the ledger determined it, or None if it is unknown."""
    if run["end_time"] is not None or run["start_time"] is None:
        end: datetime | None = run["end_time"]
        return end
    by_rule = {"last_sign": run["last_sign_at"], "silent": run["start_time"] + SILENT}
    found: datetime | None = by_rule.get(row["run_end_rule"] or "", row["charge_period_end"])
    return found


def _stated(reader: Reader, key: RunKey, rows: Sequence[Row], period: str | None) -> dict[str, Costs]:
    """Return the run's cost by currency from `run_costs`, or for one billing period from `run_costs_daily`."""
    if period is None:
        return {
            r["billing_currency"]: costs_of(r)
            for r in rows
            if r["is_summarized"] and r["billing_currency"] and r["first_charge_date"] is not None
        }
    first = first_day(period)
    found = ask(reader, "run_period", run_id=key.run_id, server=key.tracking_server, workspace=key.workspace, period=first)
    return {r["billing_currency"]: costs_of(r) for r in found}


def _currency(currency: str, parts: Sequence[RunPart], stated: Costs | None, rows: Sequence[Row], context: RunContext) -> CurrencyCost:
    grouped: dict[tuple[str, str | None], list[RunPart]] = defaultdict(list)
    for part in parts:
        grouped[part.match_method, part.confidence].append(part)
    order = sorted(grouped, key=lambda k: (RULES.index(k[0]) if k[0] in RULES else len(RULES), k[0], k[1] or ""))
    row = next((r for r in rows if r["billing_currency"] == currency), {})
    idle = [r for r in context.machine_rows if r["allocated_to"] == "idle" and r["billing_currency"] == currency]
    return CurrencyCost(
        currency=currency,
        blocks=tuple(Block(method, confidence, tuple(grouped[method, confidence])) for method, confidence in order),
        summed=summed(p.costs for p in parts),
        stated=stated,
        unused_cost=add([p.unused_cost for p in parts if p.unused_cost is not None]),
        overhead_cost=add([p.overhead_cost for p in parts if p.overhead_cost is not None]),
        cost_status=row.get("cost_status"),
        confidence=row.get("confidence"),
        cost_with_children=row.get("cost_with_children"),
        idle_beside=add([r["effective_cost"] or ZERO for r in idle]),
        idle_hours=len({(r["resource_id"], r["charge_period_start"]) for r in idle}),
    )


def _uses(context: RunContext) -> tuple[Use, ...]:
    """Return who used the run's machines and when.

    If a window has several charges for the machine itself, the shares come from the most expensive one.
    """
    dearest: dict[tuple[str, datetime], tuple[Decimal, ChargeKey]] = {}
    for key_of_charge, charge in context.by_charge.items():
        first = charge[0]
        if first["cost_kind"] == "compute" and first["charge_category"] == "Usage" and first["match_method"] != "attached":
            candidate = (add([r["effective_cost"] or ZERO for r in charge]), key_of_charge)
            slot = (first["resource_id"], first["charge_period_start"])
            dearest[slot] = max(dearest.get(slot, candidate), candidate)
    chosen = {key_of_charge for _, key_of_charge in dearest.values()}
    return tuple(
        Use(
            r["charge_period_start"],
            r["charge_period_end"],
            r["resource_id"],
            r["allocated_to"],
            key,
            context.names.name(key),
            r["allocated_ratio"] or 0.0,
        )
        for r, key in ((r, run_key_of(r)) for r in context.machine_rows if charge_of(r) in chosen)
    )


def _bills(reader: Reader, wanted: set[tuple[str, date]]) -> tuple[BillState, ...]:
    if not wanted:
        return ()
    rows = ask(reader, "bills")
    return tuple(
        BillState(r["source"], r["billing_period"], r["version_number"], r["covered_until"])
        for r in rows
        if (r["source"], r["billing_period"]) in wanted
    )


def _artifacts(reader: Reader, key: RunKey) -> tuple[Stored, ...]:
    """Return the run's artifacts as last measured: the newest interval of each store and storage class."""
    newest: dict[tuple[str, str], Stored] = {}
    for r in ask(reader, "artifacts", run_id=key.run_id, server=key.tracking_server):
        where = f"{r['store'].rstrip('/')}/{r['prefix'] or ''}"
        newest.setdefault(
            (where, r["storage_class"]), Stored(where, r["storage_class"], r["objects"], r["bytes"], r["valid_from"], r["valid_to"])
        )
    return tuple(newest.values())


def _changes(reader: Reader, parts: Sequence[Row], first: date, last: date) -> tuple[BillChange, ...]:
    """Return the changes that later bill versions made to the services and accounts of the run's charges, on the same days."""
    touched = {(p["source"], p["charge_date"], p["service_name"] or "", p["sub_account_id"] or "") for p in parts}
    rows = ask(reader, "changes", first_date=first, last_date=last, services=sorted({service for _, _, service, _ in touched}))
    return tuple(
        BillChange(
            r["source"], r["billing_period"], r["version_number"], r["charge_date"], r["service_name"], r["billing_currency"], costs_of(r)
        )
        for r in rows
        if (r["source"], r["charge_date"], r["service_name"], r["sub_account_id"]) in touched
    )
