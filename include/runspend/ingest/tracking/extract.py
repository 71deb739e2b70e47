"""Run one extract of a tracking server: choose the reader and the months, refuse implausible changes, and write the files.

Belongs here: the order of the steps, and when an extract is refused. `database.py` and `api.py` fetch rows. `rows.py` defines what they
mean.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runspend.config.settings import TrackingServer
from runspend.core.errors import SourceError, SourceRefused
from runspend.core.step_result import ReadJob
from runspend.ingest.tracking import database, raw
from runspend.ingest.tracking.links import LinkFiles, Links
from runspend.ingest.tracking.rows import REPLAYED, Rows
from runspend.ingest.tracking.settings import RowSettings

if TYPE_CHECKING:
    import pyarrow as pa

Previous = Callable[[str, str], "pa.Table | None"]


@dataclass(frozen=True)
class Extract:
    """The result for one server: a Parquet file for each unit (table and period), and the refused months with their reasons."""

    tables: dict[tuple[str, str], Path]
    covered_until: datetime
    run_count: int
    experiment_count: int
    extras: dict[tuple[str, str], dict[str, Any]]
    refused: list[SourceRefused] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class PublishedRuns:
    """The contents of the warehouse for one server before an extract. `rows(table, "2026-10")` returns the rows of one unit, or None.

    If all runs of a month are gone from MLflow, the month is still written. A month whose rows were written with other settings is read
    again.
    """

    rows: Previous
    months: Sequence[str] = ()  # months of `runs`
    trace_months: Sequence[str] = ()  # months of `trace_costs`
    settings_of: Mapping[str, str | None] = field(default_factory=dict)  # month -> `extras["settings"]`
    billed_months: Callable[[], Collection[str]] = (
        tuple  # months that new bills cover; called only for a server that is read through its API
    )


def extract_server(
    server: TrackingServer,
    settings: RowSettings,
    published: PublishedRuns,
    job: ReadJob,
    *,
    months: Sequence[str] | None = None,
    accept: Collection[str] = (),
) -> Extract:
    """Read a server into Parquet files under the work folder.

    `months` restricts the start months to read. If it is None, a database is read completely, and through the API the months that
    `choose_months` returns are read. `accept` names months, or "experiments", that may have lost rows without a refusal.

    From `settings`: `selector_keys` ("tag.K", "param.K", "experiment_tag.K") are copied in addition to the allow-list, because pools,
    budgets and policies select by them. The power metrics of `measured` machines are read too. The facts that protect artifacts are read
    if `links` requests them. Raises SourceError if the server cannot be read or shows fewer experiments than before.
    """
    now, workdir, load_id, progress = job.now, job.workdir, job.load_id, job.progress
    previous, settings_of, links = published.rows, published.settings_of, settings.links
    with ThreadPoolExecutor(1) as beside:  # DuckDB starts in another thread while a SQLite file is copied
        making = beside.submit(Rows, server, settings, now=now, workdir=workdir, load_id=load_id)
        try:
            with open_reader(server, workdir, progress) as reader:
                rows = making.result()
                experiments = rows.load_experiments(reader.read_experiments())
                if "experiments" not in accept:
                    _check_experiments(server, experiments, previous("experiments", "all"))
                outdated = [month for month, written in settings_of.items() if written != rows.settings_digest]
                chosen = _months_to_read(reader, months, published.months, lambda: {*published.billed_months(), *outdated}, previous, now)
                progress(f"{server.name}: {experiments} experiments; reading runs")
                _load_runs(reader, rows, chosen, previous, [m for m in outdated if settings_of[m] is not None])
                trace_months = _trace_months_to_read(reader, months, published.trace_months, outdated, now)
                rows.load_traces(*reader.read_traces(trace_months))
                raw_owners = reader.read_owners()
                owners = rows.write_owners(raw_owners)
                to_write = sorted({*rows.months(), *published.months} if chosen is None else set(chosen))
                linked = (
                    Links(rows, server, links, load_id).read(reader.links, raw_owners, to_write, previous, outdated)
                    if links.kinds
                    else LinkFiles()
                )
                warnings = [*reader.warnings, *rows.warnings()]
                warnings += [
                    f"{server.name}: {kind} is unknown, so artifacts it may protect stay: {why}" for kind, why in linked.unknown.items()
                ]
                if reader.repaired:
                    warnings.append(f"{server.name}: {reader.repaired} values are not UTF-8; invalid characters became U+FFFD.")
            tables = {("experiments", "all"): rows.write_experiments(), ("artifact_owners", "all"): owners}
            tables |= {("trace_costs", m): rows.write_trace_month(m, previous("trace_costs", m)) for m in trace_months}
            written, extras, refused = _write_months(rows, to_write, previous, accept, settings_of)
            progress(f"{server.name}: {rows.count_runs()} runs of {len(to_write)} months")
            believed = {unit: path for unit, path in linked.tables.items() if unit[1] == "all" or ("runs", unit[1]) in written}
            if linked.unknown:  # so that these runs are requested again
                extras = {unit: extra if extra["settings"] == REPLAYED else extra | {"settings": None} for unit, extra in extras.items()}
            return Extract(tables | written | believed, now, rows.count_runs(), experiments, extras, refused, warnings)
        finally:
            if making.exception() is None:
                making.result().close()


def _write_months(
    rows: Rows, months: Sequence[str], previous: Previous, accept: Collection[str], settings_of: Mapping[str, str | None]
) -> tuple[dict[tuple[str, str], Path], dict[tuple[str, str], dict[str, Any]], list[SourceRefused]]:
    """Return the files of each month, the facts that each month's unit should store, and the refusals."""
    tables: dict[tuple[str, str], Path] = {}
    extras: dict[tuple[str, str], dict[str, Any]] = {}
    refused: list[SourceRefused] = []
    for month in months:
        try:
            before = (previous(table, month) for table in ("runs", "run_resources", "machine_power"))
            files, extra = rows.write_month(month, *before, accept=month in accept, written=settings_of.get(month))
        except SourceRefused as error:
            refused.append(error)
            continue
        tables.update({(table, month): path for table, path in files.items()})
        extras[("runs", month)] = extra
    return tables, extras, refused


def open_reader(server: TrackingServer, workdir: Path, progress: Callable[[str], None]) -> raw.TrackingReader:
    """Return a reader of the database if one is configured or the URI is a database, otherwise a reader of the API."""
    uri = database.database_uri(server)
    if uri is not None:
        return database.DatabaseReader(server, uri, workdir, progress)
    from runspend.ingest.tracking import api

    return api.ApiReader(server, progress)


def probe_server(server: TrackingServer, workdir: Path) -> dict[str, Any]:
    """Return the facts that `doctor` shows: version, experiments, runs, and whether the database can be read.

    If the server cannot be read, `error` contains the reason.
    """
    found: dict[str, Any] = {
        "version": None,
        "experiments": None,
        "runs": None,
        "database_ok": None,
        "revision": None,
        "warnings": [],
        "error": None,
    }
    is_database = database.database_uri(server) is not None
    try:
        with open_reader(server, workdir, lambda text: None) as reader:
            found |= {"version": reader.version, "experiments": reader.read_experiments().num_rows, "runs": reader.count_runs()}
            found |= {
                "database_ok": True if is_database else None,
                "revision": getattr(reader, "revision", None),
                "warnings": reader.warnings,
            }
    except SourceError as error:
        found |= {"error": str(error), "database_ok": False if is_database else None}
    return found


def choose_months(
    found: Collection[str], known: Collection[str], *, now: datetime, open_months: Collection[str] = (), billed_months: Collection[str] = ()
) -> list[str]:
    """Return the start months to read through the API, which cannot report which months have changed.

    These are the current and the previous month, months never read before, months in which a run has no end yet, and the months in
    `billed_months`. One seventh of the other months is added each day, so that every month is read at least once in seven days.
    """
    current = now.astimezone(timezone.utc)
    last = current.replace(year=current.year - (current.month == 1), month=(current.month - 2) % 12 + 1, day=1)
    everything = {*found, *known}
    always = {current.strftime("%Y-%m"), last.strftime("%Y-%m"), *(set(found) - set(known)), *open_months, *billed_months} & everything
    day = current.date().toordinal()
    turn = {m for m in everything if (int(m[:4]) * 12 + int(m[5:7]) + day) % 7 == 0}
    return sorted(always | turn)


def _months_to_read(
    reader: raw.TrackingReader,
    months: Sequence[str] | None,
    known: Sequence[str],
    billed: Callable[[], Collection[str]],
    previous: Previous,
    now: datetime,
) -> list[str] | None:
    if months is not None:
        return sorted(set(months))
    if isinstance(reader, database.DatabaseReader):
        return None
    found = reader.list_months()
    open_months = [m for m in known if _has_open_runs(previous("runs", m))]
    return choose_months(found, known, now=now, open_months=open_months, billed_months=billed())


def _trace_months_to_read(
    reader: raw.TrackingReader, months: Sequence[str] | None, known: Sequence[str], outdated: Collection[str], now: datetime
) -> list[str]:
    """Return the months of traces to read, chosen like the months of runs.

    A known month that has no traces in MLflow now is included, because its traces may have been deleted.
    """
    found = [m for m in reader.list_trace_months() if m != raw.NO_START]
    if months is not None:
        return sorted(set(months) & {*found, *known})
    if isinstance(reader, database.DatabaseReader):
        return sorted({*found, *known})
    return choose_months(found, known, now=now, billed_months=outdated)


def _has_open_runs(runs: pa.Table | None) -> bool:
    if runs is None or not runs.num_rows:
        return False
    import pyarrow.compute as pc

    return bool(pc.any(pc.and_(pc.is_null(runs["end_time"]), pc.is_null(runs["purged_at"]))).as_py())


def _load_runs(reader: raw.TrackingReader, rows: Rows, months: list[str] | None, previous: Previous, unread: Collection[str]) -> None:
    """Load the runs with their metrics. If the database ends the snapshot, start again, with at most RETRIES attempts in total.

    `unread`: months whose rows were written by another version or with other settings.
    """
    for attempt in range(1, database.RETRIES + 1):
        try:
            keys = rows.expect(reader.narrow_keys(rows.wanted))
            rows.load_runs(reader.read_runs(months, keys))
            rows.know_metrics(lambda month: previous("runs", month), unread)
            rows.load_use(reader.read_use(rows.use_wanted()))
            _look_for_gaps(reader, rows)
            if wanted := rows.power_wanted(lambda month: previous("machine_power", month)):
                rows.load_power(reader.read_power(wanted))
            return
        except database.SnapshotLost:
            if attempt == database.RETRIES:
                raise


def _look_for_gaps(reader: raw.TrackingReader, rows: Rows) -> None:
    """Find the gaps in long runs that were stopped and resumed.

    One metric of each run is read first. If it has a long silence, more metrics of that run are read.
    """
    wanted = rows.gaps_wanted()
    for start in range(0, len(wanted), raw.STEP_RUNS):
        rows.load_times(reader.read_times(wanted[start : start + raw.STEP_RUNS]), is_first_look=True)
        if doubted := rows.gaps_doubted():
            rows.load_times(reader.read_times(doubted), is_first_look=False)
        rows.find_gaps()


def _check_experiments(server: TrackingServer, count: int, previous: pa.Table | None) -> None:
    before = previous.num_rows if previous is not None else 0
    if count < before:
        raise SourceRefused(
            server.name,
            f"cannot take the runs of {server.name}: it shows {count} experiments and had {before}. All its rows stay. Check the permissions and workspaces of the"
            " credentials: MLflow does not report an error for experiments that they may not see.",
        )
