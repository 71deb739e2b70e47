"""Read the figures of a month from the warehouse and sum them exactly.

`plan_report` only reads: the same tables, period, settings and `now` give the same figures. The queries are GoogleSQL in `sql/`. The
figures are defined in `figures.py`.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from runspend.actions.report.artifacts import artifact_figures
from runspend.actions.report.figures import (
    PART_OF,
    PARTS,
    PLATFORM,
    BudgetFigures,
    ConfidenceRow,
    CurrencyFigures,
    EstimateError,
    Estimates,
    Experiment,
    IdleDay,
    Outlook,
    Reconciliation,
    ReportFigures,
    Resource,
    Run,
    SourceFigures,
    Team,
    Waste,
    days_covered,
    total,
)
from runspend.allocation.diagnostics import coverage as dimension_coverage
from runspend.allocation.diagnostics import shared_kinds
from runspend.allocation.remedies import remedy
from runspend.allocation.storage_prices import billed_rates
from runspend.allocation.without_run import Group, unallocated_groups
from runspend.config.exchange_rates import describe_missing_rates, missing_rates, stretches
from runspend.config.settings import Settings
from runspend.core.amounts import add
from runspend.core.text import PERSONAL
from runspend.schema.rows import first_day, month_after
from runspend.schema.tables import CONFIDENCES
from runspend.warehouse.base import Reader

SQL = Path(__file__).parent / "sql"
HISTORY = timedelta(days=400)  # how far back a forecast reads costs

Row = dict[str, Any]


class Forecast(Protocol):
    """The probable total of a month, with its 80% interval."""

    @property
    def total(self) -> Decimal: ...
    @property
    def low(self) -> Decimal: ...
    @property
    def high(self) -> Decimal: ...


# A function that forecasts the month's total from costs by (day, target) and the first day that is not completely billed. It returns None
# if the history is too short.
Forecaster = Callable[[Mapping[tuple[date, str], Decimal], date], Forecast | None]


@dataclass
class People:
    """Names of people, shown as `mail.people` allows. A pseudonym is a number within one report: a hash would let readers guess the name."""

    mode: str
    known: dict[str, str] = field(default_factory=dict)

    def name(self, person: str | None) -> str | None:
        """Return the name to print for this person. None if the person is unknown or may not be shown."""
        if not person or self.mode == "hide":
            return None
        if self.mode == "show":
            return person
        return self.known.setdefault(person, f"person {len(self.known) + 1}")

    def path(self, experiment: str) -> str:
        """Return the experiment name that may be shown. Databricks puts a person's mail address into experiment names."""
        if self.mode == "show":
            return experiment
        return PERSONAL.sub(lambda m: f"/{m[1]}/{self.name(m[2]) or '…'}", experiment)


def plan_report(reader: Reader, period: str, *, settings: Settings, now: datetime, forecast: Forecaster | None = None) -> ReportFigures:
    """Return the figures of one month ("YYYY-MM"), by charge date unless stated otherwise. All of them come from one state of the warehouse.

    `forecast` estimates the total of a month that is not completely billed yet.
    """
    first = first_day(period)
    ask = _questions(reader, first)
    loads = ask("loads")
    days = ask("days")
    guessed = ask("estimates")
    shown, problem = _one_currency(reader, settings, days, guessed)
    converted = shown is not reader
    tell = _questions(shown, first)
    days = tell("days") if converted else days
    covered = _covered_until(loads)
    compared = days_covered(first, min(covered.values(), default=now))
    previous_first = month_after(first, -1)
    previous_next = min(previous_first + timedelta(days=compared), first)
    people = People(settings.mail.people)
    tables = {"days": _by_currency(days), "teams": _by_currency(tell("teams", previous_next=previous_next))}
    tables |= {name: _by_currency(tell(name)) for name in ("parts", "shared", "people", "top_runs", "unallocated", "bridge")}
    tables |= {name: _by_currency(tell(name)) for name in ("team_runs", "idle_days", "waste_runs", "confidence", "estimates")}
    tables["estimate_errors"] = _by_currency(tell("estimate_errors", judged_since=now - timedelta(days=30)))
    # Bills reconcile in their own currency.
    bills = {name: _by_currency(ask(name)) for name in ("changes", "lines", "ledger")}
    bills["loads"] = _by_currency([r for r in loads if r["state"] == "current" and r["billing_currency"]])
    quarantine = {r["source"]: r for r in ask("quarantine")}
    billed = {c for name in ("lines", "loads", "ledger") for c in bills[name]}
    order = [settings.currency] if converted else sorted({*billed, *tables["parts"]}, key=lambda c: (c != settings.currency, c))
    builds = ask("builds")
    states = {(r["source"], r["billing_currency"]): r for r in ask("states")}
    others = tuple((code, _estimates(rows)) for code, rows in sorted(tables["estimates"].items()) if code not in order)
    outlooks = _outlooks(tell, first, now, covered, forecast) if forecast is not None else {}
    groups, coverage = unallocated_groups(shown, first, settings), dimension_coverage(shown, first, month_after(first, 1))
    figures = ReportFigures(
        period=period,
        now=now,
        people=settings.mail.people,
        site=settings.site.url.rstrip("/") if settings.site else None,
        build_id=builds[0]["build_id"] if builds else None,
        currencies=tuple(
            replace(
                one,
                groups=_groups(groups.get(one.currency, ()), settings),
                coverage=coverage.get(one.currency, ()),
                compared_days=compared,
                forecast=outlooks.get(one.currency),
                reconciliation=_with_states(one.reconciliation, states),
            )
            for one in (
                _currency_figures(
                    c,
                    {name: rows.get(c, []) for name, rows in tables.items()},
                    min(covered.values(), default=None) if converted else covered.get(c),
                    {own: {name: rows.get(own, []) for name, rows in bills.items()} for own in (sorted(billed) if converted else [c])},
                    quarantine,
                    people,
                    settings,
                    (first, compared),
                )
                for c in order
            )
        ),
        budgets=_budgets(ask("budgets"), first, people),
        artifacts=artifact_figures(
            ask, tell("artifact_costs"), billed_rates(reader, settings.currency, min(now, _end(first))), settings.currency, people.path
        ),
        sources=tuple(_source(r, now) for r in ask("sources")),
        estimate_gaps=tuple((r["reason"], int(r["runs"])) for r in ask("estimate_gaps")),
        other_estimates=others,
        estimate_note=_estimate_note(settings, [r for r in guessed if r["billing_currency"] in dict(others)]),
        problem=problem,
    )
    return replace(figures, snapshot=hashlib.sha256(repr(figures).encode()).hexdigest()[:12])


def _outlooks(
    ask: Callable[..., list[Row]], first: date, now: datetime, covered: Mapping[str, datetime], forecast: Forecaster
) -> dict[str, Outlook]:
    """Return the forecast of the ML platform's total, by currency. Empty unless the month has begun and is not completely billed."""
    after = min(covered.values(), default=now).date()
    if not first < after < month_after(first, 1) or now >= _end(first):
        return {}
    found = {}
    for code, rows in _by_currency(ask("days", previous_first=first - HISTORY)).items():
        costs = {
            (r["charge_date"], r["allocated_to"]): r["effective_cost"] or Decimal(0) for r in rows if PART_OF[r["allocated_to"]] in PLATFORM
        }
        if (made := forecast(costs, after)) is not None:
            found[code] = Outlook(made.total, made.low, made.high)
    return found


def _with_states(bills: Iterable[Reconciliation], states: dict[tuple[str, str], Row]) -> tuple[Reconciliation, ...]:
    """Return the bills with their states."""
    found = ((bill, states.get((bill.source, bill.currency))) for bill in bills)
    return tuple(
        bill
        if row is None
        else replace(bill, state=row["state"], ignored_changes=row["ignored_changes"], restated_cost=row["restated_cost"] or Decimal(0))
        for bill, row in found
    )


def _one_currency(reader: Reader, settings: Settings, days: list[Row], guessed: list[Row]) -> tuple[Reader, str | None]:
    """Return a reader whose amounts are in the configured currency, and the problem that prevents the conversion, if any.

    The reader is unchanged if nothing needs conversion, or if a rate is missing. Estimates without a rate stay in their own currency. They
    do not prevent other conversions, because no sum includes estimates.
    """
    foreign, foreign_guesses = (
        {(r["billing_currency"], r["charge_date"]) for r in rows if r["billing_currency"] != settings.currency} for rows in (days, guessed)
    )
    rates = stretches(settings.rates.exchange, settings.currency)
    if missing := missing_rates(rates, settings.currency, foreign):
        return reader, str(missing)
    has_rate = any(missing_rates(rates, settings.currency, [guess]) is None for guess in foreign_guesses)
    return (reader.in_currency(settings.currency, rates) if foreign or has_rate else reader), None


def _estimate_note(settings: Settings, guessed: list[Row]) -> str | None:
    """Describe the estimates that could not be converted to the configured currency, and the missing rate. None if there are none."""
    rates = stretches(settings.rates.exchange, settings.currency)
    missing = describe_missing_rates(rates, settings.currency, ((r["billing_currency"], r["charge_date"]) for r in guessed))
    if missing is None:
        return None
    codes = " and ".join(sorted({r["billing_currency"] for r in guessed}))
    return f"estimates in {codes} are not converted to {settings.currency}: {missing}. Add the rate under rates.exchange. No other figure needs it."


def _end(first: date) -> datetime:
    """Return the first moment after the month."""
    return datetime.combine(month_after(first, 1), time(), timezone.utc)


def _questions(reader: Reader, first: date) -> Callable[..., list[Row]]:
    """Return a function that runs `sql/<name>.sql` with those dates of the month that the query uses."""
    dates: dict[str, date] = {
        "first": first,
        "next": month_after(first, 1),
        "previous_first": month_after(first, -1),
        "year_before": month_after(first, -11),
        "year_first": date(first.year, 1, 1),
    }

    def ask(name: str, **more: date | datetime) -> list[Row]:
        sql = (SQL / f"{name}.sql").read_text(encoding="utf-8")
        wanted = set(re.findall(r"@(\w+)", sql))
        rows: list[Row] = reader.query(sql, {k: v for k, v in {**dates, **more}.items() if k in wanted}).to_pylist()
        return rows

    return ask


def _covered_until(loads: list[Row]) -> dict[str, datetime]:
    """Return the time up to which all current bills of the period are complete, by currency."""
    covered: dict[str, datetime] = {}
    for row in loads:
        if row["state"] == "current" and row["covered_until"] is not None:
            known = covered.get(row["billing_currency"])
            covered[row["billing_currency"]] = row["covered_until"] if known is None else min(known, row["covered_until"])
    return covered


def _by_currency(rows: list[Row]) -> dict[str, list[Row]]:
    grouped: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        grouped[row["billing_currency"]].append(row)
    return dict(grouped)


def _sums(rows: Iterable[Row], key: Callable[[Row], str]) -> dict[str, Decimal]:
    """Return effective cost by key, largest first."""
    grouped: dict[str, list[Decimal | None]] = defaultdict(list)
    for row in rows:
        grouped[key(row)].append(row["effective_cost"])
    return dict(sorted(((k, add(v)) for k, v in grouped.items()), key=lambda item: (-item[1], item[0])))


def _currency_figures(
    currency: str,
    rows: dict[str, list[Row]],
    covered: datetime | None,
    bills: dict[str, dict[str, list[Row]]],
    quarantine: dict[str, Row],
    people: People,
    settings: Settings,
    month: tuple[date, int],
) -> CurrencyFigures:
    """Return the figures in one currency.

    `month`: its first day, and the number of its days that are compared with the previous month.
    """
    first, compared = month
    run_rows = [r for r in rows["parts"] if PART_OF[r["allocated_to"]] == "allocated to runs"]
    days: dict[date, dict[str, list[Decimal]]] = defaultdict(lambda: defaultdict(list))
    for r in rows["days"]:
        days[r["charge_date"]][PART_OF[r["allocated_to"]]].append(r["effective_cost"] or Decimal(0))
    idle, unallocated = (
        _resources([r for r in rows["unallocated"] if r["allocated_to"] == target], rows["idle_days"], people)
        for target in ("idle", "unallocated")
    )
    return CurrencyFigures(
        currency=currency,
        converted_from=tuple(c for c in bills if c != currency),
        covered_until=covered,
        parts={part: total(r for r in rows["parts"] if r["allocated_to"] in targets) for part, targets in PARTS.items()},
        kinds=_sums(run_rows, lambda r: "logged models" if r["allocated_to"] == "logged_model" else r["cost_kind"] or "other"),
        confidence=_sums(run_rows, lambda r: r["confidence"] or "none"),
        provisional_cost=add(r["effective_cost"] for r in rows["parts"] if r["cost_status"] != "final"),
        shared_by=shared_kinds(rows["shared"]),
        days=tuple((d, {p: add(v) for p, v in sorted(parts.items())}) for d, parts in sorted(days.items()) if d >= first),
        previous_days=tuple(
            (d, add(v for part in PLATFORM for v in parts.get(part, []))) for d, parts in sorted(days.items()) if d < first
        ),
        same_days=_first_days(days, first, compared),
        same_days_before=_first_days(days, month_after(first, -1), min(compared, (first - month_after(first, -1)).days)),
        teams=_teams(rows["teams"], rows["team_runs"], people),
        people=tuple((name, r["effective_cost"]) for r in rows["people"] if (name := people.name(r["user_name"])) and r["effective_cost"]),
        runs=tuple(_run(r, people, settings) for r in rows["top_runs"]),
        idle=idle,
        unallocated=unallocated,
        waste=_waste(rows["waste_runs"], idle, people),
        confidence_rows=tuple(
            ConfidenceRow(
                PART_OF[r["allocated_to"]],
                r["match_method"] or "none",
                r["confidence"],
                r["effective_cost"] or Decimal(0),
                int(r["ledger_rows"]),
                int(r["runs"]),
            )
            for r in sorted(
                rows["confidence"],
                key=lambda r: (list(PART_OF).index(r["allocated_to"]), -(r["effective_cost"] or 0), r["match_method"] or ""),
            )
        ),
        estimates=_estimates(rows["estimates"]),
        estimate_errors=tuple(
            EstimateError(r["source"], int(r["pipeline_runs"]), r["estimated_cost"], r["actual_cost"], r["apart_cost"])
            for r in rows["estimate_errors"]
        ),
        reconciliation=tuple(r for own, its in bills.items() for r in _reconciliation(own, its, quarantine)),
        only_this_month=total(r for r in rows["bridge"] if not r["in_period"]),
        only_this_period=total(r for r in rows["bridge"] if not r["in_month"]),
    )


def _first_days(days: Mapping[date, Mapping[str, list[Decimal]]], first: date, count: int) -> dict[str, Decimal]:
    """Return the cost of each part in the first `count` days of a month."""
    until = first + timedelta(days=count)
    return {part: add(cost for d, parts in days.items() if first <= d < until for cost in parts.get(part, ())) for part in PARTS}


def _estimates(rows: list[Row]) -> Estimates:
    machines = [r for r in rows if r["cost_kind"] != "llm"]
    return Estimates(
        add(r["effective_cost"] for r in machines),
        add(r["effective_cost"] for r in rows if r["cost_kind"] == "llm"),
        tuple((r["charge_date"], r["effective_cost"]) for r in machines),
        min((r["estimated_from"] for r in machines), default=None),
        max((r["estimated_to"] for r in machines), default=None),
    )


def _teams(costs: list[Row], runs: list[Row], people: People) -> tuple[Team, ...]:
    def key(r: Row) -> tuple[str, str, str, str]:
        return (r["team"] or "", r["tracking_server"] or "", r["workspace"] or "", r["experiment_id"] or "")

    counts = {key(r): r for r in runs}
    teams: dict[str, list[Experiment]] = defaultdict(list)
    for r in costs:
        n = counts.get(key(r), {})
        teams[r["team"] or ""].append(
            Experiment(
                people.path(r["experiment_name"] or r["experiment_id"] or "(no experiment)"),
                r["tracking_server"] or "",
                r["workspace"] or "",
                r["experiment_id"],
                r["effective_cost"] or Decimal(0),
                r["previous_cost"] or Decimal(0),
                int(n.get("runs") or 0),
                int(n.get("failed_runs") or 0),
                float(n.get("gpu_seconds") or 0),
                n.get("gpu_cost") or Decimal(0),
                label if (label := r["experiment_name"]) and people.path(label) == label else None,
            )
        )
    made = [
        Team(
            name or None,
            add(e.effective_cost for e in members),
            add(e.previous_cost for e in members),
            sum(e.runs for e in members),
            sum(e.failed_runs for e in members),
            sum(e.gpu_seconds for e in members),
            add(e.gpu_cost for e in members),
            tuple(sorted(members, key=lambda e: (-e.effective_cost, e.name, e.tracking_server, e.workspace, e.experiment_id or ""))),
        )
        for name, members in teams.items()
    ]
    return tuple(sorted(made, key=lambda t: (t.name is None, -t.effective_cost, t.name or "")))


def _run(r: Row, people: People, settings: Settings) -> Run:
    return Run(
        r["tracking_server"],
        r["workspace"],
        r["run_id"],
        r["run_name"] or r["run_id"],
        people.path(r["experiment_name"] or r["experiment_id"] or "(no experiment)"),
        r["team"],
        people.name(r["user_name"]),
        r["run_status"],
        r["start_time"],
        total([r]),
        r["unused_cost"] or Decimal(0),
        r["machine_seconds"],
        r["gpu_seconds"],
        CONFIDENCES[int(r["worst"]) - 1] if r["worst"] else None,
        run_url(settings, r["tracking_server"], r["experiment_id"], r["run_id"]),
    )


def run_url(settings: Settings, server: str, experiment_id: str | None, run_id: str) -> str | None:
    """Return the address of the run's page in MLflow, without login. None if the server's address does not open in a browser."""
    base = next((s.ui or s.uri for s in settings.tracking if s.name == server), None)
    if base is None or experiment_id is None or not re.match(r"https?://", base):
        return None
    clean = re.sub(r"^(https?://)[^/@]*@", r"\1", base).rstrip("/")
    return f"{clean}/#/experiments/{quote(experiment_id, safe='')}/runs/{quote(run_id, safe='')}"


def _resources(rows: list[Row], idle_days: list[Row], people: People) -> tuple[Resource, ...]:
    days: dict[str, list[IdleDay]] = defaultdict(list)
    for d in idle_days:
        busy, free = d["used_cost"] or Decimal(0), d["idle_cost"] or Decimal(0)
        if busy >= 0 and free >= 0 and busy + free > 0:
            days[d["resource_id"]].append(IdleDay(d["charge_date"], free, float(busy / (busy + free))))
    return tuple(
        Resource(
            r["resource_id"] or r["service_name"] or "(no resource)",
            r["service_name"] or None,
            r["instance_type"],
            r["effective_cost"],
            r["billed_seconds"],
            r["used_seconds"],
            r["last_run_id"],
            r["last_used_at"],
            people.name(r["suspected_owner"]),
            r["reason"],
            tuple(days.get(r["resource_id"], ())) if r["allocated_to"] == "idle" else (),
            r["has_allocated_cost"],
            r["meter"] or "",
            r["cost_kind"] or "",
        )
        for r in rows
    )


def _waste(rows: list[Row], idle: tuple[Resource, ...], people: People) -> tuple[Waste, ...]:
    kinds: dict[str, list[Row]] = defaultdict(list)
    for r in rows:
        kinds[r["kind"]].append(r)
    made = [
        Waste(
            kind,
            members[0]["total_cost"],
            int(members[0]["total_runs"]),
            tuple(
                (
                    m["run_name"] or m["run_id"],
                    people.path(m["experiment_name"] or m["experiment_id"] or ""),
                    people.name(m["user_name"]),
                    m["wasted_cost"],
                )
                for m in members
            ),
        )
        for kind, members in kinds.items()
    ]
    alone = [r for r in idle if r.last_run_id is None and not r.has_allocated_cost and r.effective_cost > 0]
    if alone:
        items = tuple((r.name, r.instance_type or r.service or "", r.owner, r.effective_cost) for r in alone[:10])
        made.append(Waste("no_run", add(r.effective_cost for r in alone), len(alone), items))
    return tuple(sorted(made, key=lambda w: (-w.effective_cost, w.kind)))


def _reconciliation(currency: str, rows: dict[str, list[Row]], quarantine: dict[str, Row]) -> tuple[Reconciliation, ...]:
    made = []
    for source in sorted({r["source"] for name in ("loads", "lines", "ledger") for r in rows[name]}):
        load, lines, ledger = ([r for r in rows[name] if r["source"] == source] for name in ("loads", "lines", "ledger"))
        newest = load[-1] if load else {}
        bad = quarantine.get(source, {})
        invoices: dict[str, list[Row]] = defaultdict(list)
        for r in ledger:
            invoices[r["invoice_id"] or ""].append(r)
        made.append(
            Reconciliation(
                source,
                currency,
                newest.get("version_number"),
                newest.get("delivered_at"),
                int(newest.get("row_count") or 0),
                int(bad.get("quarantined_rows") or 0),
                bad.get("billed_cost") or Decimal(0),
                newest.get("rounded_cost") or Decimal(0),
                newest.get("covered_until"),
                bool(newest.get("is_invoiced")),
                total(load) if load else None,
                total(lines) if lines else None,
                total(ledger) if ledger else None,
                tuple((i, total(v)) for i, v in sorted(invoices.items())),
                tuple(
                    (
                        int(r["version_number"]),
                        r["effective_cost"] or Decimal(0),
                        r["billed_cost"] or Decimal(0),
                        r["first_date"],
                        r["last_date"],
                    )
                    for r in rows["changes"]
                    if r["source"] == source
                ),
            )
        )
    return tuple(made)


def budget_dates(budget_period: str) -> tuple[date, date]:
    """Return the first day of a budget period, and the day after its last day.

    The period is a day, week, month, quarter or year: 2026-11-24, 2026-W48, 2026-11, 2026-Q4 or 2026.
    """
    if "W" in budget_period:
        year, week = budget_period.split("-W")
        start = date.fromisocalendar(int(year), int(week), 1)
        return start, start + timedelta(days=7)
    if "Q" in budget_period:
        year, quarter = budget_period.split("-Q")
        start = date(int(year), int(quarter) * 3 - 2, 1)
        return start, month_after(start, 3)
    numbers = [int(n) for n in budget_period.split("-")]
    if len(numbers) == 3:
        return date(*numbers), date(*numbers) + timedelta(days=1)
    if len(numbers) == 2:
        start = date(numbers[0], numbers[1], 1)
        return start, month_after(start, 1)
    return date(numbers[0], 1, 1), date(numbers[0] + 1, 1, 1)


def _groups(groups: Iterable[Group], settings: Settings) -> tuple[Group, ...]:
    """Return the groups that may be shown. Unless people are shown, values of tags are removed, because any tag can name a person.

    Groups that then have the same words and suggestion are merged.
    """
    if settings.mail.people == "show":
        return tuple(groups)
    shown: dict[tuple[str, ...], Group] = {}
    for group in (_without_tags(group, settings) for group in groups):
        key = group.words, group.kind, group.advice, str(group.is_accelerated)
        same = shown.get(key)
        shown[key] = group if same is None else _together(same, group)
    return tuple(sorted(shown.values(), key=lambda g: (not g.is_accelerated, -g.effective_cost, g.words)))


def _together(one: Group, other: Group) -> Group:
    cost, outside = add([one.effective_cost, other.effective_cost]), add([one.outside_cost, other.outside_cost])
    return replace(one, effective_cost=cost, outside_cost=outside)


def _without_tags(group: Group, settings: Settings) -> Group:
    tags = [key for key in group.selector if key.startswith("tag.")]
    if not tags:
        return group
    selector = {**group.selector, **dict.fromkeys(tags, "…")}
    is_usual = group.advice == remedy(group.kind, group.selector, settings)  # other advice does not repeat the selector
    return replace(
        group,
        words=f"machines with the tag {', '.join(key.removeprefix('tag.') for key in tags)}",
        selector=selector,
        advice=remedy(group.kind, selector, settings) if is_usual else group.advice,
    )


def _budgets(rows: list[Row], first: date, people: People) -> tuple[BudgetFigures, ...]:
    """Return the budgets with a period that overlaps the month, each in its newest such period.

    Budgets that were not judged come first. The others follow by the spent share of their amount, highest first.
    """
    newest: dict[str, BudgetFigures] = {}
    for r in rows:
        start, end = budget_dates(r["budget_period"])
        if start >= month_after(first, 1) or end <= first:
            continue
        newest[r["budget"]] = BudgetFigures(
            people.path(r["title"] or r["budget"]), r["budget_period"], r["amount"], r["spent"], r["currency"], r["measure"], r["threshold_reached"],
            r["covered_until"], people.name(r["owner"]), r["mailed_threshold"], r["mailed_at"],
            r["forecast"], r["forecast_low"], r["forecast_high"], r["exceeded_on"],
            r["budget"] if people.path(r["budget"]) == r["budget"] else None,
        )  # fmt: skip
    return tuple(sorted(newest.values(), key=lambda b: (b.spent is not None, -b.spent / b.amount if b.spent else Decimal(0), b.name)))


def _source(r: Row, now: datetime) -> SourceFigures:
    def span(seconds: float | None) -> timedelta | None:
        return None if seconds is None else timedelta(seconds=seconds)

    covered = r["covered_until"]
    return SourceFigures(
        r["source"], r["kind"], r["state"], covered, None if covered is None else now - covered, span(r["usual_lag_seconds"]),
        span(r["late_after_seconds"]), r["row_count"], r["last_error"], r["last_good_at"],
    )  # fmt: skip
