"""Builds the result of a period: a new version, the version in place, or a refusal.

Belongs here: the tables that are returned for publishing. `versions.py` decides whether a version may replace the one in place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runspend.core.errors import SourceRefused, bill_named
from runspend.ingest.billing import billing_lines as lines
from runspend.ingest.billing import versions
from runspend.ingest.billing.delivered_files import ArrivedFile
from runspend.ingest.billing.load_context import LoadContext, refused
from runspend.ingest.billing.staging import SecondConnection, Staged
from runspend.ingest.billing.totals import (
    DaySums,
    FedPeriod,
    Totals,
    choose,
    read_bill_digest,
    read_charge_range,
    read_day_sums,
    read_fed_periods,
    read_quarantine,
    read_totals,
)
from runspend.ingest.billing.versions import FedFile, VersionFacts, plain
from runspend.schema.rows import first_day
from runspend.schema.tables import BILLING_LINES, BILLING_QUARANTINE

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass
class PeriodLoad:
    """The result for one billing period. `tables` replace the period's rows in these tables; other tables keep their rows.

    In the state `unchanged`, `tables` may contain only `billing_loads`, for example if a copy of a file appeared. An `error` leads to exit
    code 3 in any state. In the state `loaded`, it means that an even newer version was refused, or that no row of this one can be read.
    """

    period: str
    state: str  # loaded, unchanged or refused
    tables: dict[str, Path | pa.Table] = field(default_factory=dict)
    error: SourceRefused | None = None
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass
class Load:
    """The result for one bill. `error` is a refusal that does not belong to a period.

    `covered_until` is the latest end of the bill's Usage lines, after its tables are published.
    """

    source: str
    periods: list[PeriodLoad]
    error: SourceRefused | None = None
    covered_until: datetime | None = None
    extra: dict[str, Any] = field(default_factory=dict)


def build_period(
    context: LoadContext,
    staged: Staged,
    period: str,
    files: Sequence[ArrivedFile],
    chosen: Sequence[int],
    delivered_at: datetime,
    feeding: Sequence[int] | None = None,
    fed_periods: Sequence[FedPeriod] | None = None,
) -> PeriodLoad:
    """Check the new version of a period, and write its tables. The lines of a version that is refused or already in place are not written.

    `chosen`: indexes of the files whose rows count. `feeding`: indexes of all files with rows of the period; None means `chosen`.
    """
    history = context.history(period)
    fed_periods = read_fed_periods(staged) if fed_periods is None else fed_periods
    facts = context.version_facts(period, (f.digest for f in files if f.index in chosen), delivered_at)
    version = facts.version
    fed = fed_by(files, fed_periods, feeding or chosen, period, chosen)
    if version == context.standing(period):
        return leave_unchanged(context, period, fed)
    totals = read_totals(staged, period, chosen)
    quarantine = read_quarantine(staged, period, chosen)
    shown = sorted({f.staged.focus_version for f in files if f.staged and f.index in chosen})
    facts = replace(facts, files=fed, totals=totals, quarantined=len(quarantine), focus_version=", ".join(shown))
    why = versions.refusal(context.source, history, delivered_at, totals, context.accept)
    if _would_empty(history, totals, quarantine) and f"{context.source.name}:{period}" not in context.accept:
        why = why_unreadable(quarantine)
    if why:
        return record_refusal(context, period, facts, why)
    context.progress(f"{context.source.name}: writing {period}, {sum(t.row_count for t in totals):,} rows")
    path = context.workdir / f"billing_lines-{period}.parquet"
    with staged.second_connection() as rows, ThreadPoolExecutor(1) as executor:  # one of two cores is idle while lines are written
        telling = executor.submit(_tell_of_rows, rows, period, chosen) if not staged.is_mapped else None
        lines.write_lines(staged, context.source.name, period, chosen, context.load_id, path, is_scoped=context.rules.is_scoped)
        day_sums, day_facts = telling.result() if telling is not None else _tell_of_rows(rows, period, chosen)
    is_again = version == history.version  # the rows of this version were damaged; it is already recorded
    number = history.current[0]["version_number"] if is_again else history.next_number
    changes = versions.add_changes(
        context.source.name,
        period,
        context.previous("bill_changes", period),
        day_sums,
        version,
        number,
        context.load_id,
    )
    names = {f.index: f.name for f in files}
    tables: dict[str, Path | pa.Table] = {
        "billing_lines": path,
        "billing_quarantine": _quarantine_table(context, period, quarantine, names),
        "billing_loads": versions.loads_table(history.rows if is_again else versions.add_version(history, facts, None)),
        "bill_changes": versions.changes_table(changes),
    }
    extra = {
        "version": version,
        "version_number": number,
        "rows": sum(t.row_count for t in totals),
        "quarantined": len(quarantine),
        "without_effective_cost": sum(t.null_effective_count for t in totals),
        "duplicates": [name for f in files if f.index in chosen for name in f.copies],
        "dropped_columns": sorted({c for f in files if f.staged and f.index in chosen for c in f.staged.dropped_columns}),
        "unreadable": _summed(f.staged.unreadable for f in files if f.staged and f.index in chosen),
        "skip_reasons": _summed(f.staged.skip_reasons for f in files if f.staged and f.index in chosen),
        **day_facts,
    }
    error = None if extra["rows"] else unreadable(context, period, quarantine)
    return PeriodLoad(period, "loaded", tables, error, extra)


def _would_empty(history: versions.LoadHistory, totals: Sequence[Totals], quarantine: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether all rows of a version are quarantined although the version in place has lines."""
    return bool(quarantine) and not any(t.row_count for t in totals) and any(row["row_count"] for row in history.current)


def unreadable(context: LoadContext, period: str, quarantine: Sequence[Mapping[str, Any]]) -> SourceRefused | None:
    """Return the error of a version whose rows cannot be read, with their most frequent reason. None if no row is quarantined."""
    if not quarantine:
        return None
    why = f"cannot load {period} of {bill_named(context.source.name)}: {why_unreadable(quarantine)}. See billing_quarantine."
    return SourceRefused(context.source.name, why, period=period)


def why_unreadable(quarantine: Sequence[Mapping[str, Any]]) -> str:
    """Return the most frequent reason why these rows cannot be read, and advice on what to check."""
    [(reason, _)] = Counter(row["reason"] for row in quarantine).most_common(1)
    rows = "its only row cannot" if len(quarantine) == 1 else f"none of its {len(quarantine):,} rows can"
    return f"{rows} be read: {reason}. Check the columns of the export, and billing[].format"


def _tell_of_rows(rows: SecondConnection, period: str, chosen: Sequence[int]) -> tuple[DaySums, dict[str, Any]]:
    """Return the sums per day, from which `bill_changes` is computed, and facts about the version's lines for the report."""
    choose(rows, period, chosen)
    return read_day_sums(rows), {**read_charge_range(rows), "bill_digest": read_bill_digest(rows)}


def _summed(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    """Return the sum of the counts of several files, by key."""
    return dict(sum((Counter(each) for each in counts), Counter()))


def fed_by(
    files: Sequence[ArrivedFile], fed_periods: Sequence[FedPeriod], feeding: Sequence[int], period: str, chosen: Sequence[int] | None = None
) -> list[FedFile]:
    """Return the version's files as `billing_loads.files` lists them, including copies and older files."""
    listed = []
    for file in files:
        if file.index not in feeding:
            continue
        rows = sum(p.rows + p.quarantined for p in fed_periods if p.file_index == file.index and p.period == period)
        state = "read" if chosen is None or file.index in chosen else "older"
        listed += _fed_file(file, rows, state)
    return listed


def _fed_file(file: ArrivedFile, rows: int, state: str) -> list[FedFile]:
    """Return a file and its copies as `billing_loads.files` lists them. A file with a stamp is listed with its format and label."""
    listed = []
    for name, its_state in ((file.name, state), *((name, "duplicate") for name in file.copies)):
        stamp = file.stamps.get(name)
        read_as = (file.format, file.label) if stamp else (None, None)
        listed.append(FedFile(name, file.verified.bytes, file.verified.sha256, rows, its_state, stamp, *read_as))
    return listed


def fed_again(context: LoadContext, period: str, files: Sequence[ArrivedFile]) -> list[FedFile]:
    """Return the file list of the version in place, with current names. Files may have been renamed or copied since the last load."""
    by_digest = {f.verified.sha256: f for f in files}
    listed = []
    for fed in context.history(period).files:
        file = by_digest.get(fed.sha256)
        if fed.state != "duplicate" and file:
            listed += _fed_file(file, fed.rows, fed.state)
    return listed


def leave_unchanged(context: LoadContext, period: str, fed: Sequence[FedFile]) -> PeriodLoad:
    """Keep the version in place. Its list of files is rewritten if copies appeared or disappeared, or if stamps changed."""
    history = context.history(period)
    tables: dict[str, Path | pa.Table] = {}
    before = {(f.name, f.state) for f in history.files}
    duplicates = [f.name for f in fed if f.state == "duplicate"]
    is_restamped = any(f.stamp for f in fed) and {(f.name, f.stamp) for f in fed} != {(f.name, f.stamp) for f in history.files}
    if is_restamped or {name for name, state in before if state == "duplicate"} != set(duplicates):
        rows_of = {f.sha256: f.rows for f in history.files}
        files = versions.files_json([replace(f, rows=rows_of.get(f.sha256, f.rows)) for f in fed])
        tables["billing_loads"] = versions.loads_table(
            [{**row, "files": files} if row["state"] == "current" else row for row in history.rows]
        )
    error = None
    if history.current and not any(row["row_count"] for row in history.current):
        quarantined = context.previous("billing_quarantine", period)
        error = unreadable(context, period, [] if quarantined is None else quarantined.to_pylist())
    return PeriodLoad(period, "unchanged", tables, error, {"version": history.version, "duplicates": duplicates})


def record_refusal(context: LoadContext, period: str, facts: VersionFacts, why: str) -> PeriodLoad:
    """Return the result of a refused version. Its refusal is recorded once in `billing_loads`; the lines of the period do not change."""
    history = context.history(period)
    error = refused(context, why, period)
    tables: dict[str, Path | pa.Table] = {}
    if not versions.is_recorded(history, facts.version, why) and facts.version != history.version:
        tables["billing_loads"] = versions.loads_table(versions.add_version(history, facts, why))
    return PeriodLoad(period, "refused", tables, error, {"version": facts.version})


def refuse_period(
    context: LoadContext, period: str, why: str, parts: Iterable[str] = (), delivered_at: datetime | None = None
) -> PeriodLoad:
    """Return the result of a version that is refused before its rows are known. `parts` identify the delivered files."""
    return record_refusal(context, period, context.version_facts(period, [*parts, why], delivered_at), why)


def missing_periods(context: LoadContext, seen: Collection[str]) -> list[PeriodLoad]:
    """Return the results of periods that had files before and have none now. Their lines stay until an operator accepts the loss."""
    outcomes = []
    for period, history in sorted(context.histories.items()):
        if period in seen or not history.current:
            continue
        key = f"{context.source.name}:{period}"
        if not any(row["row_count"] or row["billed_cost"] for row in history.current):
            outcomes.append(PeriodLoad(period, "unchanged", {}, None, {"version": history.version}))
            continue
        totals = " + ".join(f"{plain(r['billed_cost'])} {r['billing_currency']}" for r in history.current)
        facts = context.version_facts(period, [])
        if key not in context.accept:
            why = f"{period} had rows before ({totals}) and has no source now. If that is right, run: runspend load --accept {key}"
            outcomes.append(record_refusal(context, period, facts, why))
            continue
        changes = versions.add_changes(
            context.source.name, period, context.previous("bill_changes", period), {}, facts.version, history.next_number, context.load_id
        )
        tables: dict[str, Path | pa.Table] = {
            "billing_lines": BILLING_LINES.arrow_schema().empty_table(),
            "billing_quarantine": BILLING_QUARANTINE.arrow_schema().empty_table(),
            "billing_loads": versions.loads_table(versions.add_version(history, facts, None)),
            "bill_changes": versions.changes_table(changes),
        }
        outcomes.append(PeriodLoad(period, "loaded", tables, None, {"version": facts.version, "rows": 0}))
    return outcomes


def find_covered_until(context: LoadContext, outcomes: Sequence[PeriodLoad]) -> datetime | None:
    """Return the latest end of Usage lines in all versions that will be in place after publishing. None if there is none."""
    tables = ((outcome.period, outcome.tables.get("billing_loads")) for outcome in outcomes)
    made = {period: table.to_pylist() for period, table in tables if table is not None and not isinstance(table, Path)}
    rows = [row for period, history in context.histories.items() for row in made.get(period, history.rows)]
    return max((row["covered_until"] for row in rows if row["state"] == "current" and row["covered_until"]), default=None)


def _quarantine_table(context: LoadContext, period: str, rows: Sequence[dict[str, Any]], names: dict[int, str]) -> pa.Table:
    import pyarrow as pa

    first = first_day(period)
    full = [
        {**{k: v for k, v in row.items() if k != "file_index"}, "source": context.source.name, "billing_period": first,
         "file_name": names[row["file_index"]], "load_id": context.load_id}
        for row in rows
    ]  # fmt: skip
    return pa.Table.from_pylist(full, schema=BILLING_QUARANTINE.arrow_schema())
