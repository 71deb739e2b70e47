"""Collect the figures of the summary that `nightly` prints at its end, from the outcome and the tables.

The report package puts them into words.
"""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from runspend.actions.explore.home import forecast_month
from runspend.actions.report import PipelineRun, plan_report, render_summary, summary_lines
from runspend.allocation.claimed_hours import claimed_hours
from runspend.allocation.diagnostics import unmet_claims
from runspend.config.budgets import percent_used
from runspend.config.settings import Settings, find_settings
from runspend.core.amounts import add, money, rough_money, size
from runspend.core.step_result import Outcome
from runspend.schema.rows import first_day
from runspend.warehouse.base import Reader
from runspend.warehouse.factory import open_warehouse

COUNTED = {"bill": "charges", "splits": "weights", "store": "objects", "tracking": "runs"}
NEWEST_WITH_COST = "select max(billing_period) as newest from cost_daily where effective_cost <> 0"
TYPES_SHOWN = 3  # instance types that are shown for a billing period
MARKS = {"ok": "✓", "late": "⚠", "refused": "✗", "unreachable": "✗"}


def summarize_pipeline_run(settings: Settings, outcome: Outcome, *, now: datetime, seconds: float, is_watched: bool) -> str:
    """Return the summary as one screen for a person. Without `is_watched`, return the same facts as `key=value` lines."""
    warehouse = open_warehouse(settings)
    with warehouse.reader() as reader:
        periods = sorted({u.period for u in warehouse.states("cost_daily")}, reverse=True)
        newest = reader.query(NEWEST_WITH_COST).to_pylist()[0]["newest"]
        shown = [period for period in periods if newest is None or first_day(period) <= newest][:2]
        figures = [
            outcome.reported.get(period) or plan_report(reader, period, settings=settings, now=now, forecast=forecast_month)
            for period in shown
        ]
        pipeline_run = PipelineRun(
            now=now,
            seconds=seconds,
            rebuilt=_built(outcome.changed),
            unchanged=_built(outcome.unchanged),
            claims=_claims(reader, periods[:2]),
            claimed_hours=_claimed_hours(reader, periods[:2]),
            budgets=_budgets(reader),
            archive=_archive(reader),
            annotated=_annotated(settings, outcome),
            published=_published(settings, outcome),
            sources=_sources(reader, settings, outcome.problems),
            empty=tuple(period for period in sorted(periods) if period > shown[0]),
            report=_shown(settings.home / "reports" / f"{shown[0]}.html") if shown else None,
            next_commands=next_commands(settings),
            exit_code=outcome.exit_code,
            problems=tuple(outcome.problems),
            notes=tuple(outcome.notes),
        )
    if is_watched:
        return render_summary(figures, pipeline_run, tty=True)
    return "".join(f"{line}\n" for line in summary_lines(figures, pipeline_run))


def next_commands(settings: Settings) -> tuple[str, ...]:
    """Return two commands to run next. They can be pasted into a shell."""
    here = settings.path is not None and find_settings() == settings.path
    option = "" if here or settings.path is None else f" --config {shlex.quote(str(_shown(settings.path)))}"
    command = _command()
    return f"{command} costs --by experiment{option}", f"{command} sql --tables{option}"


def _command() -> str:
    """Return the command with which this program was started, quoted for a shell."""
    if shutil.which("runspend"):
        return "runspend"
    program = Path(sys.argv[0]).absolute()
    if program.name == "__main__.py":  # python -m
        return f"{shlex.quote(sys.executable)} -m runspend.interfaces.cli"
    return shlex.quote(str(_shown(program)))


def _built(labels: list[str]) -> tuple[str, ...]:
    return tuple(sorted(label.removeprefix("allocate ") for label in labels if label.startswith("allocate ")))


def _annotated(settings: Settings, outcome: Outcome) -> tuple[str, ...]:
    """Return one line per MLflow server: what was written to it, or that no cost changed."""
    servers = [server.name for server in settings.tracking if server.annotate is not None]
    written = [
        f"{name}: wrote {label.removeprefix(f'{name}: ')}"
        for name in servers
        for label in outcome.changed
        if label.startswith(f"{name}: costs of ")
    ]
    return (*written, *(f"{name}: no cost changed" for name in servers if f"{name}: costs in MLflow" in outcome.unchanged))


def _published(settings: Settings, outcome: Outcome) -> tuple[tuple[str, str], ...]:
    """Return one line per target of `publish`: its build, or that it was not published. The reason is among the problems."""
    done = [label.removeprefix("publish ") for label in outcome.changed if label.startswith("publish ")]
    done += [f"{label.removeprefix('publish ')}, unchanged" for label in outcome.unchanged if label.startswith("publish ")]
    missing = [t.name for t in settings.publish if not any(label.startswith(f"{t.name}: ") for label in done)]
    return (*(("✓", label) for label in done), *(("⚠", f"{name}: not published") for name in missing))


def _claims(reader: Reader, periods: list[str]) -> tuple[tuple[str, str], ...]:
    """Describe runs that state a machine but got no machine cost. Runs whose hours are only not billed yet are left out."""
    return tuple(
        ("⚠", f"{period}: {claims.words}")
        for period in periods
        for claims in unmet_claims(reader, first_day(period))
        if claims.reason != "not_billed_yet"
    )


def _claimed_hours(reader: Reader, periods: list[str]) -> tuple[tuple[str, str], ...]:
    """Describe instance types for which the split among runs is a rough guess, those with the most hours first.

    Runs claim nearly all or nearly none of their hours, or do not state which of several prices applies.
    """
    found = [(period, [hours for hours in claimed_hours(reader, first_day(period)) if hours.is_notable]) for period in periods]
    return tuple(("⚠", f"{period}: {hours.words}") for period, notable in found for hours in notable[:TYPES_SHOWN])


def _budgets(reader: Reader) -> tuple[tuple[str, str], ...]:
    rows = reader.query(
        "select budget, budget_period, amount, spent, currency, threshold_reached, forecast, exceeded_on, not_judged, muted from ("
        "select *, row_number() over (partition by budget order by month desc, budget_period desc) as place"
        " from budget_status where judged_at = (select max(judged_at) from budget_status))"
        " where place = 1 order by spent / amount desc, budget"
    ).to_pylist()
    return tuple(_budget(row) for row in rows)


def _budget(row: dict[str, Any]) -> tuple[str, str]:
    spent, amount, reached, forecast = row["spent"], row["amount"], row["threshold_reached"], row["forecast"]
    if spent is None or amount is None:
        return "⚠", f"{row['budget']} {row['budget_period']}: not judged: {row['not_judged']}"
    will_pass = row["exceeded_on"] if spent < amount else None
    mark = "✗" if spent >= amount else "▲" if reached or will_pass else "✓"
    notes = [f"{reached} reached"] if reached else []
    if forecast is not None and (reached or will_pass):
        notes.append(f"forecast {rough_money(forecast)}" + (f", exceeded around {will_pass.day} {will_pass:%b}" if will_pass else ""))
    notes += [row["muted"]] if row["muted"] else []
    return mark, f"{row['budget']:<14} {money(spent):>12} of {money(amount):>9} {row['currency']} {percent_used(spent, amount):>6,}%" + (
        f"   {' · '.join(notes)}" if notes else ""
    )


def _archive(reader: Reader) -> tuple[tuple[str, str], ...]:
    """Return one line per retention policy: folders by state, their bytes and savings, and the first due date."""
    rows = reader.query(
        "select policy, action, state, count(*) as folders, sum(bytes) as bytes, sum(monthly_saving) as saving, min(currency) as currency, min(earliest_at) as earliest_at"
        " from archive_plan where month = (select max(month) from archive_plan) group by policy, action, state order by policy, state"
    ).to_pylist()
    return tuple(
        _policy(policy, [row for row in rows if row["policy"] == policy]) for policy in dict.fromkeys(row["policy"] for row in rows)
    )


def _policy(policy: str, rows: list[dict[str, Any]]) -> tuple[str, str]:
    moving = [row for row in rows if row["state"] in ("planned", "announced", "due")]
    states = ", ".join(f"{row['folders']:,} {row['state']}" for row in rows)
    text = f"{policy} ({rows[0]['action']})  {states}"
    if moving:
        text += f" · {size(sum(row['bytes'] or 0 for row in moving))}"
    saving = [row["saving"] for row in moving if row["saving"] is not None]
    if saving:
        text += f" · saves {money(add(saving))} {moving[0]['currency']} per month"
    dates = [row["earliest_at"] for row in moving if row["earliest_at"] is not None]
    if dates:
        text += f" · from {min(dates):%d %b %Y}"
    is_due = any(row["state"] == "due" for row in rows)
    return "▲" if is_due else "⚠" if any(row["state"] == "partial" for row in rows) else "✓", text


def _sources(reader: Reader, settings: Settings, problems: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Describe each source. Errors that are among `problems` are not repeated."""
    rows = reader.query("select source, kind, state, covered_until, row_count, last_error from sources order by kind, source").to_pylist()
    configured = {s.name for s in settings.tracking} | {s.name for s in settings.billing} | {s.uri for s in settings.stores}
    shown = []
    for row in rows:
        name = str(_shown(Path(row["source"]))) if row["kind"] == "store" and "://" not in row["source"] else row["source"]
        text = f"{name} {row['row_count'] or 0:,} {COUNTED[row['kind']]}"
        if row["state"] != "ok":
            covered = f"complete to {row['covered_until']:%d %b %H:%M} UTC" if row["covered_until"] else "never read successfully"
            text += f": {row['state']}" if row["last_error"] in problems else f": {row['state']}, {row['last_error'] or covered}"
        if row["source"] not in configured:
            text += f": no longer configured. Its rows count until you run: runspend sources forget {row['source']}"
        shown.append((MARKS[row["state"]] if row["source"] in configured else "⚠", text))
    return tuple(shown)


def _shown(path: Path) -> Path:
    """Return the path relative to the working folder if it is inside that folder, otherwise unchanged."""
    try:
        here = Path.cwd()
    except FileNotFoundError:  # the working folder no longer exists
        return path
    return path.relative_to(here) if path.is_relative_to(here) else path
