"""Write the report's tables as CSV files: exact numbers, the snapshot in every row, and no cell that a spreadsheet would execute.

The files are UTF-8 with commas, CRLF and quotes where needed (RFC 4180). `plan.py` computes the content of the tables.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import NamedTuple

from runspend.actions.report.figures import MEASURES, Costs, CurrencyFigures, ReportFigures, Resource
from runspend.core.amounts import iso_utc, plain
from runspend.core.spreadsheet_text import guard_text

Cell = str | int | float | Decimal | date | None
Sheet = tuple[tuple[str, ...], list[Sequence[Cell]]]
PEOPLE = ("owner", "person")  # columns that `people: hide` leaves out


def write_sheet(header: Sequence[str], rows: Sequence[Sequence[Cell]], snapshot: str) -> bytes:
    """Return the content of one CSV file. Numbers are exact, times are ISO 8601 in UTC. Text that looks like a formula gets an apostrophe."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow([*header, "snapshot"])
    for row in rows:
        writer.writerow([*(_cell(v) for _, v in zip(header, row, strict=True)), snapshot])
    return out.getvalue().encode("utf-8")


def _cell(value: Cell) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return guard_text(value.replace("\0", ""))
    if isinstance(value, Decimal):
        return plain(value)
    if isinstance(value, datetime):
        return iso_utc(value)
    return value.isoformat() if isinstance(value, date) else repr(value)


def report_sheets(figures: ReportFigures) -> Iterator[tuple[str, Sheet]]:
    """Yield (name, (header, rows)) for every CSV file of the report. Empty files are included, so that they replace old ones."""
    hidden = PEOPLE if figures.people == "hide" else ()
    for name, header, rows in SHEETS:
        shown: list[Sequence[Cell]] = [
            [value for column, value in zip(header, row, strict=True) if column not in hidden] for row in rows(figures)
        ]
        yield name, (tuple(column for column in header if column not in hidden), shown)


def _four(costs: Costs | None) -> list[Cell]:
    return [None if costs is None else costs[m] for m in MEASURES]


def _hours(seconds: float | None) -> float | None:
    return None if seconds is None else seconds / 3600


class _Sheet(NamedTuple):
    """One CSV file of the report: its columns, including those that name people, and its rows."""

    name: str
    header: tuple[str, ...]
    rows: Callable[[ReportFigures], Iterable[Sequence[Cell]]]


def _by_currency(name: str, header: tuple[str, ...], rows: Callable[[CurrencyFigures], Iterable[Sequence[Cell]]]) -> _Sheet:
    """Return a sheet with the rows of each currency, and the currency as its first column."""
    return _Sheet(name, ("currency", *header), lambda figures: ([c.currency, *row] for c in figures.currencies for row in rows(c)))


def _resources(name: str, of: Callable[[CurrencyFigures], Sequence[Resource]]) -> _Sheet:
    return _by_currency(
        name,
        ("resource", "service", "instance_type", "effective_cost", "billed_hours", "used_hours", "last_run_id", "last_used_at", "owner", "reason"),
        lambda c: (
            (r.name, r.service, r.instance_type, r.effective_cost, _hours(r.billed_seconds), _hours(r.used_seconds), r.last_run_id, r.last_used_at,
             r.owner, r.reason)
            for r in of(c)
        ),
    )  # fmt: skip


SHEETS = (
    _Sheet(
        "parts", ("currency", "part", *MEASURES),
        lambda figures: (
            *((c.currency, part, *_four(costs)) for c in figures.currencies for part, costs in c.parts.items()),
            *((c.currency, "ML platform", *_four(c.platform)) for c in figures.currencies),
            *((c.currency, "bill", *_four(c.bill)) for c in figures.currencies),
        ),
    ),
    _by_currency(
        "days", ("charge_date", "part", "effective_cost"),
        lambda c: ((d, part, cost) for d, parts in c.days for part, cost in parts.items()),
    ),
    _Sheet(
        "estimates", ("currency", "charge_date", "estimated_effective_cost"),
        lambda figures: (
            (code, d, cost)
            for code, made in (*((c.currency, c.estimates) for c in figures.currencies), *figures.other_estimates)
            for d, cost in made.days
        ),
    ),
    _by_currency(
        "estimate-errors", ("source", "pipeline_runs", "estimated_cost", "actual_cost", "absolute_difference"),
        lambda c: ((e.source, e.pipeline_runs, e.estimated_cost, e.actual_cost, e.apart_cost) for e in c.estimate_errors),
    ),
    _Sheet(
        "budgets",
        ("budget", "budget_period", "currency", "measure", "spent", "amount", "threshold_reached", "forecast", "forecast_low", "forecast_high",
         "exceeded_on", "covered_until", "mailed_threshold", "mailed_at", "owner"),
        lambda figures: (
            (b.name, b.budget_period, b.currency, b.measure, b.spent, b.amount, b.threshold_reached, b.forecast, b.forecast_low, b.forecast_high,
             b.exceeded_on, b.covered_until, b.mailed_threshold, b.mailed_at, b.owner)
            for b in figures.budgets
        ),
    ),
    _by_currency(
        "experiments",
        ("team", "tracking_server", "workspace", "experiment_id", "experiment",
         "effective_cost", "previous_effective_cost", "runs", "failed_runs", "gpu_hours", "gpu_cost"),
        lambda c: (
            (t.name, e.tracking_server, e.workspace, e.experiment_id, e.name,
             e.effective_cost, e.previous_cost, e.runs, e.failed_runs, e.gpu_seconds / 3600, e.gpu_cost)
            for t in c.teams
            for e in t.experiments
        ),
    ),
    _by_currency(
        "runs",
        ("tracking_server", "workspace", "run_id", "run_name", "experiment", "team", "person", "run_status", "start_time",
         "machine_hours", "gpu_hours", *MEASURES, "unused_cost", "confidence"),
        lambda c: (
            (r.tracking_server, r.workspace, r.run_id, r.name, r.experiment, r.team, r.person, r.status, r.start_time,
             _hours(r.machine_seconds), _hours(r.gpu_seconds), *_four(r.costs), r.unused_cost, r.confidence)
            for r in c.runs
        ),
    ),
    _by_currency(
        "groups", ("group", "effective_cost", "out_of_scope_cost", "suggestion"),
        lambda c: ((g.words, g.effective_cost, g.outside_cost, g.advice) for g in c.groups),
    ),
    _resources("idle", lambda c: c.idle),
    _resources("unallocated", lambda c: c.unallocated),
    _by_currency(
        "idle-days", ("resource", "charge_date", "utilization", "idle_cost"),
        lambda c: ((r.name, d.day, d.used_share, d.idle_cost) for r in c.idle for d in r.idle_days),
    ),
    _by_currency(
        "waste", ("kind", "name", "experiment_or_type", "person", "effective_cost"),
        lambda c: ((w.kind, *item) for w in c.waste for item in w.items),
    ),
    _Sheet(
        "artifacts", ("kind", "name", "bytes", "objects", "oldest_at", "newest_at", "is_partly_unknown"),
        lambda figures: (
            (h.kind, h.name, h.bytes, h.objects, h.oldest_at, h.newest_at, str(h.is_partly_unknown).lower()) for h in figures.artifacts.held
        ),
    ),
    _Sheet(
        "stores",
        ("store", "storage_class", "objects", "bytes", "noncurrent_bytes", "duplicate_bytes", "orphaned_bytes", "unconfirmed_bytes",
         "oldest_at", "newest_at", "currency", "month_cost", "noncurrent_month_cost", "duplicate_month_cost", "orphaned_month_cost"),
        lambda figures: (
            (s.store, s.storage_class, s.objects, s.bytes, s.noncurrent_bytes, s.duplicate_bytes, s.orphaned_bytes, s.unconfirmed_bytes,
             s.oldest_at, s.newest_at, figures.artifacts.currency if s.rate else None,
             s.month_cost(None if s.bytes is None else s.bytes + (s.noncurrent_bytes or 0)), s.month_cost(s.noncurrent_bytes),
             s.month_cost(s.duplicate_bytes), s.month_cost(s.orphaned_bytes))
            for s in figures.artifacts.stores
        ),
    ),
    _by_currency(
        "confidence", ("part", "match_method", "confidence", "effective_cost", "rows", "runs"),
        lambda c: ((s.part, s.match_method, s.confidence, s.effective_cost, s.ledger_rows, s.runs) for s in c.confidence_rows),
    ),
    _Sheet(
        "reconciliation", ("currency", "source", "what", "invoice_id", *MEASURES, "equal"),
        lambda figures: (
            (r.currency, r.source, what, invoice, *_four(costs), "yes" if r.is_equal else "NO")
            for c in figures.currencies
            for r in c.reconciliation
            for what, invoice, costs in (
                ("delivered bill", None, r.export),
                ("loaded charges", None, r.lines),
                ("ledger", None, r.ledger),
                *(("ledger by invoice", invoice or None, costs) for invoice, costs in r.invoices),
            )
        ),
    ),
    _Sheet(
        "sources", ("source", "kind", "state", "covered_until", "row_count", "last_error", "last_good_at"),
        lambda figures: ((s.name, s.kind, s.state, s.covered_until, s.row_count, s.last_error, s.last_good_at) for s in figures.sources),
    ),
)  # fmt: skip
