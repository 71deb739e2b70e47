"""Write the report's tables as CSV files: exact numbers, the snapshot in every row, and no cell that a spreadsheet would execute.

UTF-8, comma, CRLF, quoted where needed (RFC 4180). `plan.py` decides the content of the tables.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from datetime import date, datetime
from decimal import Decimal

from runspend.actions.report.figures import MEASURES, Costs, ReportFigures
from runspend.core.amounts import iso_utc, plain
from runspend.core.spreadsheet_text import guard_text

Cell = str | int | float | Decimal | date | None
Sheet = tuple[tuple[str, ...], list[Sequence[Cell]]]
PEOPLE = ("owner", "person")  # columns that `people: hide` leaves out


def write_sheet(header: Sequence[str], rows: Sequence[Sequence[Cell]], snapshot: str) -> bytes:
    """Return one CSV. Numbers stay numbers, text is guarded, times are ISO 8601 in UTC."""
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


def _four(costs: Costs | None) -> list[Cell]:
    return [None if costs is None else costs[m] for m in MEASURES]


def report_sheets(figures: ReportFigures) -> Iterator[tuple[str, Sheet]]:
    """Yield (name, (header, rows)) of every CSV of the report. Empty ones are included, so that no old file remains."""
    for name, header, rows in _sheets(figures):
        hidden = {i for i, column in enumerate(header) if column in PEOPLE and figures.people == "hide"}
        shown: list[Sequence[Cell]] = [[value for i, value in enumerate(row) if i not in hidden] for row in rows]
        yield name, (tuple(column for i, column in enumerate(header) if i not in hidden), shown)


def _sheets(figures: ReportFigures) -> Iterator[tuple[str, tuple[str, ...], list[Sequence[Cell]]]]:
    """Yield (name, header, rows) of every CSV, with people."""
    pages = figures.currencies
    yield (
        "parts",
        ("currency", "part", *MEASURES),
        [
            *([c.currency, part, *_four(costs)] for c in pages for part, costs in c.parts.items()),
            *([c.currency, "ML platform", *_four(c.platform)] for c in pages),
            *([c.currency, "bill", *_four(c.bill)] for c in pages),
        ],
    )
    yield (
        "days",
        ("currency", "charge_date", "part", "effective_cost"),
        [[c.currency, d, part, cost] for c in pages for d, parts in c.days for part, cost in parts.items()],
    )
    yield (
        "estimates",
        ("currency", "charge_date", "estimated_effective_cost"),
        [
            [code, d, cost]
            for code, made in (*((c.currency, c.estimates) for c in pages), *figures.other_estimates)
            for d, cost in made.days
        ],
    )
    yield (
        "estimate-errors",
        ("currency", "source", "pipeline_runs", "estimated_cost", "actual_cost", "absolute_difference"),
        [[c.currency, e.source, e.pipeline_runs, e.estimated_cost, e.actual_cost, e.apart_cost] for c in pages for e in c.estimate_errors],
    )
    yield (
        "budgets",
        ("budget", "budget_period", "currency", "measure", "spent", "amount", "threshold_reached", "forecast", "forecast_low", "forecast_high",
         "exceeded_on", "covered_until", "mailed_threshold", "mailed_at", "owner"),
        [
            [b.name, b.budget_period, b.currency, b.measure, b.spent, b.amount, b.threshold_reached, b.forecast, b.forecast_low, b.forecast_high,
             b.exceeded_on, b.covered_until, b.mailed_threshold, b.mailed_at, b.owner]
            for b in figures.budgets
        ],
    )  # fmt: skip
    yield (
        "experiments",
        ("currency", "team", "tracking_server", "workspace", "experiment_id", "experiment",
         "effective_cost", "previous_effective_cost", "runs", "failed_runs", "gpu_hours", "gpu_cost"),
        [
            [c.currency, t.name, e.tracking_server, e.workspace, e.experiment_id, e.name,
             e.effective_cost, e.previous_cost, e.runs, e.failed_runs, e.gpu_seconds / 3600, e.gpu_cost]
            for c in pages
            for t in c.teams
            for e in t.experiments
        ],
    )  # fmt: skip
    yield (
        "runs",
        ("currency", "tracking_server", "workspace", "run_id", "run_name", "experiment", "team", "person", "run_status", "start_time",
         "machine_hours", "gpu_hours", *MEASURES, "unused_cost", "confidence"),
        [
            [c.currency, r.tracking_server, r.workspace, r.run_id, r.name, r.experiment, r.team, r.person, r.status, r.start_time,
             _hours(r.machine_seconds), _hours(r.gpu_seconds), *_four(r.costs), r.unused_cost, r.confidence]
            for c in pages
            for r in c.runs
        ],
    )  # fmt: skip
    yield (
        "groups",
        ("currency", "group", "effective_cost", "out_of_scope_cost", "suggestion"),
        [[c.currency, g.words, g.effective_cost, g.outside_cost, g.advice] for c in pages for g in c.groups],
    )
    for name in ("idle", "unallocated"):
        yield (
            name,
            ("currency", "resource", "service", "instance_type", "effective_cost", "billed_hours", "used_hours", "last_run_id",
             "last_used_at", "owner", "reason"),
            [
                [c.currency, r.name, r.service, r.instance_type, r.effective_cost, _hours(r.billed_seconds), _hours(r.used_seconds), r.last_run_id,
                 r.last_used_at, r.owner, r.reason]
                for c in pages
                for r in (c.idle if name == "idle" else c.unallocated)
            ],
        )  # fmt: skip
    yield (
        "idle-days",
        ("currency", "resource", "charge_date", "utilization", "idle_cost"),
        [[c.currency, r.name, d.day, d.used_share, d.idle_cost] for c in pages for r in c.idle for d in r.idle_days],
    )
    yield (
        "waste",
        ("currency", "kind", "name", "experiment_or_type", "person", "effective_cost"),
        [[c.currency, w.kind, *item] for c in pages for w in c.waste for item in w.items],
    )
    yield (
        "artifacts",
        ("kind", "name", "bytes", "objects", "oldest_at", "newest_at", "is_partly_unknown"),
        [[h.kind, h.name, h.bytes, h.objects, h.oldest_at, h.newest_at, str(h.is_partly_unknown).lower()] for h in figures.artifacts.held],
    )
    yield (
        "stores",
        ("store", "storage_class", "objects", "bytes", "noncurrent_bytes", "duplicate_bytes", "orphaned_bytes", "unconfirmed_bytes",
         "oldest_at", "newest_at", "currency", "month_cost", "noncurrent_month_cost", "duplicate_month_cost", "orphaned_month_cost"),
        [
            [s.store, s.storage_class, s.objects, s.bytes, s.noncurrent_bytes, s.duplicate_bytes, s.orphaned_bytes, s.unconfirmed_bytes,
             s.oldest_at, s.newest_at, figures.artifacts.currency if s.rate else None,
             s.month_cost(None if s.bytes is None else s.bytes + (s.noncurrent_bytes or 0)), s.month_cost(s.noncurrent_bytes),
             s.month_cost(s.duplicate_bytes), s.month_cost(s.orphaned_bytes)]
            for s in figures.artifacts.stores
        ],
    )  # fmt: skip
    yield (
        "confidence",
        ("currency", "part", "match_method", "confidence", "effective_cost", "rows", "runs"),
        [
            [c.currency, s.part, s.match_method, s.confidence, s.effective_cost, s.ledger_rows, s.runs]
            for c in pages
            for s in c.confidence_rows
        ],
    )
    yield (
        "reconciliation",
        ("currency", "source", "what", "invoice_id", *MEASURES, "equal"),
        [
            [r.currency, r.source, what, invoice, *_four(costs), "yes" if r.is_equal else "NO"]
            for c in pages
            for r in c.reconciliation
            for what, invoice, costs in (
                ("delivered bill", None, r.export),
                ("loaded charges", None, r.lines),
                ("ledger", None, r.ledger),
                *(("ledger by invoice", invoice or None, costs) for invoice, costs in r.invoices),
            )
        ],
    )
    yield (
        "sources",
        ("source", "kind", "state", "covered_until", "row_count", "last_error", "last_good_at"),
        [[s.name, s.kind, s.state, s.covered_until, s.row_count, s.last_error, s.last_good_at] for s in figures.sources],
    )


def _hours(seconds: float | None) -> float | None:
    return None if seconds is None else seconds / 3600
