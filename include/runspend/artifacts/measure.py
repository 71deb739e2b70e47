"""One store, one listing, the month's rows of `artifact_bytes`.

The listing is streamed into a Parquet file of folder totals; who owns what, and what changed since the last measurement,
is SQL. How a store is listed belongs in `local.py` and `s3.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import date, datetime, timezone
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runspend.artifacts.listing import FolderTotals, Listing
from runspend.artifacts.local import list_folder
from runspend.artifacts.roots import Root, folder_within, is_ambiguous, parse_root, store_slug
from runspend.artifacts.s3 import list_bucket
from runspend.errors import MissingExtra, SourceError, SourceRefused
from runspend.tables import ARTIFACT_BYTES

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from runspend.config import ArtifactStore

Progress = Callable[[str], None]
_SQL = Path(__file__).parent
_BATCH = 50_000
_MONTHS_BACK = 24  # how far a store that was not measured for a while is carried forward
_OWNER_COLUMNS = ("owner_kind", "owner_id", "tracking_server", "workspace", "experiment_id")


@dataclass(frozen=True)
class Measurement:
    """What a store holds. `tables` is empty when nothing is to be published; a failed listing leaves good rows as they were."""

    tables: dict[str, pa.Table] = field(default_factory=dict)  # "YYYY-MM" -> rows of artifact_bytes
    objects: int | None = None  # None when the listing did not finish
    bytes: int | None = None  # None when unknown
    requests: int = 0
    is_complete: bool = False
    error: SourceError | None = None
    warnings: list[str] = field(default_factory=list)


def measure_store(
    store: ArtifactStore,
    owners: pa.Table,
    *,
    now: datetime,
    previous: Callable[[str], pa.Table | None],
    workdir: Path,
    load_id: str,
    progress: Progress = lambda _: None,
) -> Measurement:
    """List a store once and say whose its bytes are, as the month of `now` sees it and the months that still had open rows.

    owners: owner_kind, owner_id, tracking_server, workspace, experiment_id, uri, with `mlflow-artifacts:` already resolved.
    previous(period): the store's rows of that month, or None. A store that cannot be read is in `error`; it does not raise.
    """
    if store.measure == "none":
        return Measurement(warnings=[f"{store.uri} is not measured: measure is none."])
    try:
        root = parse_root(store)
    except SourceRefused as error:
        return Measurement(error=error)
    workdir.mkdir(parents=True, exist_ok=True)
    folders = workdir / f"{store_slug(store.uri)}.folders.parquet"
    listing, failure = Listing(), None
    try:
        _write_folders(_list(store, root, listing), folders, listing, store.uri, progress)
    except SourceError as error:
        failure = error
    warnings = _describe_links(store, listing.links)
    if store.inventory:
        warnings.append(f"inventory of {store.uri} is not read by this version: the store was listed.")
    with closing(_engine(workdir)) as con:
        warnings += _load_owners(con, owners, root)
        con.read_parquet(str(folders)).create_view("folders")
        try:
            tables = _roll_forward(con, now, previous)
            if tables is None:
                warnings.append(f"{store.uri} was measured after {now:%Y-%m-%d %H:%M} already: the newer figures stay.")
            else:
                failure = failure or _refuse_empty(con, store, root, listing)
                tables[f"{now:%Y-%m}"] = _rows(con, store, now, load_id, is_complete=failure is None)
        finally:
            folders.unlink(missing_ok=True)
    is_complete = failure is None
    return Measurement(
        tables=tables or {},
        objects=listing.objects if is_complete else None,
        bytes=listing.bytes if is_complete else None,
        requests=listing.requests,
        is_complete=is_complete,
        error=failure,
        warnings=warnings,
    )


def probe_store(store: ArtifactStore) -> str:
    """One look at the store, for `doctor`: what kind it is and whether anything is in it. Raises SourceError."""
    root, listing = parse_root(store), Listing()
    if root.scheme == "s3":
        found = next(list_bucket(store, root, listing, page_size=1), None)
        return f"bucket {root.bucket} answers" + ("" if found else ", nothing in it")
    found = next(list_folder(store.uri, root, listing), None)
    return f"folder /{root.folder} can be read" + ("" if found else ", no files in it")


def _list(store: ArtifactStore, root: Root, listing: Listing) -> Iterator[FolderTotals]:
    return list_bucket(store, root, listing) if root.scheme == "s3" else list_folder(store.uri, root, listing)


def _write_folders(found: Iterator[FolderTotals], path: Path, listing: Listing, uri: str, progress: Progress) -> None:
    """Stream a listing into a Parquet file. After an error the file is readable, holds less, and is not to be used."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingExtra("pyarrow", "pipeline") from error
    schema = pa.schema(
        [("folder", pa.string()), ("storage_class", pa.string())]
        + [(name, pa.int64()) for name in ("objects", "bytes", "oldest", "newest")]
    )
    with pq.ParquetWriter(path, schema) as writer:
        while batch := list(islice(_counted(found, listing), _BATCH)):
            columns = zip(*batch, strict=True)
            writer.write_batch(pa.record_batch([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema=schema))
            progress(f"{uri}: {listing.objects:,} objects listed")


def _counted(found: Iterator[FolderTotals], listing: Listing) -> Iterator[FolderTotals]:
    for totals in found:
        listing.count(totals)
        yield totals


def _describe_links(store: ArtifactStore, links: list[str]) -> list[str]:
    if not links:
        return []
    shown = ", ".join(sorted(links)[:5]) + (f" and {len(links) - 5} more" if len(links) > 5 else "")
    return [f"symbolic links leave {store.uri} and were not followed: {shown}."]


def _engine(workdir: Path) -> duckdb.DuckDBPyConnection:
    try:
        import duckdb
    except ImportError as error:
        raise MissingExtra("duckdb", "pipeline") from error
    con = duckdb.connect()
    con.execute("set TimeZone = 'UTC'")
    con.execute("set temp_directory = ?", [str(workdir / "spill")])
    return con


def _load_owners(con: duckdb.DuckDBPyConnection, owners: pa.Table, root: Root) -> list[str]:
    """The owners whose URI lies in this store, with their folder in it, as table `owners`."""
    import pyarrow as pa

    uris = owners.column("uri").to_pylist()
    folders = [folder_within(uri, root) for uri in uris]
    warnings = []
    odd = [uri for uri, folder in zip(uris, folders, strict=True) if folder is None and uri and is_ambiguous(uri, root.scheme)]
    if odd:
        warnings.append(f"{len(odd)} artifact URIs can be read in two ways and own nothing, e.g. {odd[0]!r}.")
    if claims := folders.count(""):
        warnings.append(f"{claims} owners claim the whole store and own nothing: an owner needs a folder of its own.")
    table = owners.select(_OWNER_COLUMNS).append_column("prefix", pa.array([f or None for f in folders], pa.string()))
    con.register("all_owners", table)
    con.execute("create temp table owners as select * from all_owners where prefix is not null and owner_id is not null")
    con.unregister("all_owners")
    return warnings


def _roll_forward(con: duckdb.DuckDBPyConnection, now: datetime, previous: Callable[[str], pa.Table | None]) -> dict[str, pa.Table] | None:
    """Fill table `prior` with the month's rows before this measurement; the earlier months it had to close come back.

    None when the store was measured later than `now` already.
    """
    month = now.astimezone(timezone.utc).date().replace(day=1)
    if previous(f"{_shift(month, 1):%Y-%m}") is not None:
        return None
    back, found = 0, previous(f"{month:%Y-%m}")
    while found is None and back < _MONTHS_BACK:
        back += 1
        found = previous(f"{_shift(month, -back):%Y-%m}")
    schema = ARTIFACT_BYTES.arrow_schema()
    _replace_prior(con, schema.empty_table() if found is None else found.select(schema.names).cast(schema))
    tables = {}
    if found is not None:
        for start in (_shift(month, -n) for n in range(back, 0, -1)):
            end = _instant(_shift(start, 1))
            closed = _select(
                con,
                f"select * replace (coalesce(valid_to, $end) as valid_to) from prior order by {', '.join(ARTIFACT_BYTES.sort)}",
                {"end": end},
            )
            carried = _select(
                con,
                "select * replace ($month as month, $start as valid_from) from prior where valid_to is null",
                {"month": end.date(), "start": end},
            )
            if carried.num_rows:
                tables[f"{start:%Y-%m}"] = closed
            _replace_prior(con, carried)
    newer = con.execute("select count(*) from prior where valid_from > $1 or valid_to > $1", [now]).fetchone()
    return None if newer and newer[0] else tables


def _replace_prior(con: duckdb.DuckDBPyConnection, rows: pa.Table) -> None:
    con.register("prior_rows", rows)
    con.execute("create or replace temp table prior as from prior_rows")
    con.unregister("prior_rows")


def _refuse_empty(con: duckdb.DuckDBPyConnection, store: ArtifactStore, root: Root, listing: Listing) -> SourceRefused | None:
    """An empty local folder where there were files is a volume that is not mounted until somebody says otherwise."""
    if root.scheme != "file" or listing.objects:
        return None
    had = con.execute("select sum(objects) from prior where valid_to is null").fetchone()
    if not had or not had[0]:
        return None
    return SourceRefused(
        store.uri,
        f"cannot believe that /{root.folder} is empty: it held {had[0]:,} files. "
        "Mount the volume; if it really is empty, put any file in it. Figures stay as they were.",
    )


def _rows(con: duckdb.DuckDBPyConnection, store: ArtifactStore, now: datetime, load_id: str, *, is_complete: bool) -> pa.Table:
    """The month's rows, from tables `folders`, `owners` and `prior`."""
    if is_complete:
        con.execute((_SQL / "ownership.sql").read_text())
    else:
        con.execute((_SQL / "unknown.sql").read_text(), {"now": now})
    parameters: dict[str, Any] = {
        "now": now,
        "month": now.astimezone(timezone.utc).date().replace(day=1),
        "store": store.uri,
        "load_id": load_id,
        "is_complete": is_complete,
    }
    return _select(con, (_SQL / "intervals.sql").read_text(), parameters)


def _select(con: duckdb.DuckDBPyConnection, sql: str, parameters: dict[str, Any]) -> pa.Table:
    """Rows in the columns of `artifact_bytes`."""
    rows: Any = con.sql(sql, params=parameters).to_arrow_table()
    return rows.cast(ARTIFACT_BYTES.arrow_schema())


def _shift(month: date, months: int) -> date:
    years, index = divmod(month.month - 1 + months, 12)
    return date(month.year + years, index + 1, 1)


def _instant(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=timezone.utc)
