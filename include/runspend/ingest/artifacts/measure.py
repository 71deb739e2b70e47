"""Turn one listing of one artifact store into the month's rows of `artifact_bytes` and `dangling_owners`.

The listing is streamed into Parquet files of folder totals (`staging.py`). SQL then finds the owners of the bytes, and the changes since
the last measurement. Code that lists one kind of store does not belong here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runspend.core.ctrl_c import let_ctrl_c_interrupt
from runspend.core.errors import MissingExtra, SourceError, SourceRefused
from runspend.core.step_result import Progress, ReadJob
from runspend.ingest.artifacts.blobs import list_blobs
from runspend.ingest.artifacts.carry_forward import roll_forward, select_bytes
from runspend.ingest.artifacts.s3_inventory import describe_inventory, stage_inventory
from runspend.ingest.artifacts.staging import RESUME_WITHIN, Staging, locked
from runspend.ingest.artifacts.summary import describe_found
from runspend.schema.tables import DANGLING_OWNERS
from runspend.storage.listing import Listing, Page
from runspend.storage.local import list_folder
from runspend.storage.s3 import list_bucket
from runspend.storage.uris import Root, folder_within, is_ambiguous, parse_root, store_slug

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from runspend.config.settings import ArtifactStore

_SQL = Path(__file__).parent
_PAGE = 1000  # objects per request; S3 and Google return no more
_OWNER_COLUMNS = ("owner_kind", "owner_id", "tracking_server", "workspace", "experiment_id", "is_purged")


@dataclass(frozen=True)
class Measurement:
    """The result of measuring one store. `tables` is empty if there is nothing to publish.

    If the listing failed, `tables` keeps the earlier rows unchanged, and adds rows without figures for owners that had none.
    """

    tables: dict[str, pa.Table] = field(default_factory=dict)  # "YYYY-MM" -> rows of artifact_bytes
    dangling: pa.Table | None = None  # rows of dangling_owners; None if the earlier rows stay
    objects: int | None = None  # None if the listing did not finish
    bytes: int | None = None  # None if unknown
    requests: int = 0
    as_of: datetime | None = None  # the time that the listing describes; an inventory file is older than the pipeline run
    is_complete: bool = False
    found: str | None = None  # one sentence about the result, if the listing finished
    error: SourceError | None = None
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Readings:
    """How current the owners are.

    `read_at` is the oldest of the servers' last reads, or None if a server was never read. `servers` is the number of tracking servers.
    """

    read_at: datetime | None = None
    servers: int = 0


def measure_store(
    store: ArtifactStore,
    owners: pa.Table,
    job: ReadJob,
    *,
    previous: Callable[[str], pa.Table | None],
    known_dangling: pa.Table | None = None,
    readings: Readings = Readings(),
    kept: Path | None = None,
) -> Measurement:
    """List a store once, find the owners of its bytes, and return the rows of the month of `job.now`.

    If the last measurement was in an earlier month, the rows of the months since then are returned too.

    `owners` has the columns owner_kind, owner_id, tracking_server, workspace, experiment_id, is_purged and uri. URIs that begin with
    `mlflow-artifacts:` must already be resolved. `previous(period)` returns the store's rows of that month, or None. `known_dangling` are
    the store's rows of `dangling_owners`. `kept` is a folder that keeps an interrupted listing for the next try. If the store cannot be
    read, `error` of the result is set, and nothing is raised.
    """
    if store.measure == "none":
        return Measurement(warnings=[f"{store.uri} is not measured: measure is none."])
    try:
        root = parse_root(store)
    except SourceRefused as error:
        return Measurement(error=error)
    now, workdir = job.now, job.workdir
    workdir.mkdir(parents=True, exist_ok=True)
    listing = Listing()
    is_resumable = kept is not None and root.scheme != "file" and store.inventory is None
    with locked(kept / f"listing-{store_slug(store.uri)}" if kept and is_resumable else None, workdir / "listing") as folder:
        staging = Staging(folder, listing, what={"uri": store.uri, "endpoint": store.endpoint, "inventory": store.inventory}, now=now)
        as_of, failure = _stage(store, root, staging, listing, workdir, now, job.progress)
        warnings = _describe_links(store, listing.links) + (listing.notes if failure is None else [])
        if staging.resumed and failure is None:
            warnings.append(f"{store.uri}: {staging.resumed:,} objects were listed by an interrupted try; the rest was listed now.")
        if failure is not None and staging.keeps():
            warnings.append(
                f"{store.uri}: the next try within {RESUME_WITHIN.seconds // 3600} h continues after {listing.objects:,} objects."
            )
        with closing(_engine(workdir)) as con, let_ctrl_c_interrupt(con):
            warnings += _load_owners(con, owners, root)
            if staging.files:
                con.read_parquet(staging.files).create_view("folders")
            tables = roll_forward(con, now, previous)
            dangling = None
            if tables is None:
                warnings.append(f"skipped {store.uri}: it has a measurement newer than {now:%Y-%m-%d %H:%M}. The newer figures stay.")
            else:
                failure = failure or _refuse_empty(con, store, root, listing)
                measurement = _Measurement(store, now, job.load_id, readings, failure is None, known_dangling)
                tables[f"{now:%Y-%m}"] = _rows(con, measurement)
                dangling = _dangling(con, measurement) if failure is None else None
        if failure is None or not staging.keeps():
            staging.clear()
    is_complete = failure is None
    return Measurement(
        tables=tables or {},
        dangling=dangling,
        objects=listing.objects if is_complete else None,
        bytes=listing.bytes if is_complete else None,
        requests=listing.requests,
        as_of=as_of,
        is_complete=is_complete,
        found=describe_found(store.uri, tables[f"{now:%Y-%m}"], dangling) if tables and is_complete else None,
        error=failure,
        warnings=warnings,
    )


@dataclass(frozen=True)
class _Measurement:
    """The values that the SQL files of one measurement need."""

    store: ArtifactStore
    now: datetime
    load_id: str
    readings: Readings
    is_complete: bool
    known_dangling: pa.Table | None


def probe_store(store: ArtifactStore, now: datetime | None = None) -> str:
    """Read one page of the store and return a phrase for `doctor`: its kind, and whether it is empty. Raises SourceError if it fails."""
    root, listing = parse_root(store), Listing()
    if store.inventory:
        return describe_inventory(store, root, now or datetime.now(timezone.utc))
    page = next(_list(store, root, listing, None, 1), None)
    is_empty = page is None or not page.rows
    if root.scheme == "file":
        return f"folder /{root.folder} can be read" + (" and is empty" if is_empty else "")
    what = "container" if root.scheme == "azure" else "bucket"
    versions = "; it keeps versions, so no policy can `tier` in it" if listing.keeps_versions else ""
    return f"{what} {root.bucket} answers" + (" and is empty" if is_empty else "") + versions


def _stage(
    store: ArtifactStore, root: Root, staging: Staging, listing: Listing, workdir: Path, now: datetime, progress: Progress
) -> tuple[datetime, SourceError | None]:
    """Write the listing, or the inventory that replaces it, to the staging files.

    Returns the time that the listing describes, and the error if it failed.
    """
    try:
        if store.inventory:
            return stage_inventory(store, root, staging, listing, workdir, now=now, progress=progress), None
        staging.fill(
            _list(store, root, listing, staging.after, _PAGE), lambda seen: progress(f"{store.uri}: {seen.objects:,} objects listed")
        )
    except SourceError as error:
        return now, error
    return now, None


def _list(store: ArtifactStore, root: Root, listing: Listing, after: dict[str, str] | None, page_size: int) -> Iterator[Page]:
    if root.scheme == "file":
        return list_folder(store.uri, root, listing)
    lister = list_bucket if root.scheme == "s3" else list_blobs
    return lister(store, root, listing, after, page_size=page_size)


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
    """Create the table `owners`: the owners whose URI is in this store, with their folder as `prefix`. Return warnings."""
    import pyarrow as pa

    uris = owners.column("uri").to_pylist()
    folders = [folder_within(uri, root) for uri in uris]
    warnings = []
    odd = [uri for uri, folder in zip(uris, folders, strict=True) if folder is None and uri and is_ambiguous(uri, root.scheme)]
    if odd:
        warnings.append(f"{len(odd)} artifact URIs are ambiguous and own nothing, e.g. {odd[0]!r}.")
    if claims := folders.count(""):
        warnings.append(
            f"{claims} owners have the root of the store as their folder, so they own no bytes. Give each owner a separate folder."
        )
    table = owners.select(_OWNER_COLUMNS).append_column("prefix", pa.array([f or None for f in folders], pa.string()))
    con.register("all_owners", table)
    con.execute("create temp table owners as select * from all_owners where prefix is not null and owner_id is not null")
    con.unregister("all_owners")
    return warnings


def _refuse_empty(con: duckdb.DuckDBPyConnection, store: ArtifactStore, root: Root, listing: Listing) -> SourceRefused | None:
    """Return an error for a local folder that is empty but had files before, otherwise None.

    The volume may not be mounted. A user confirms that the folder is really empty by putting any file in it.
    """
    if root.scheme != "file" or listing.objects:
        return None
    had = con.execute("select sum(objects) from prior where valid_to is null").fetchone()
    if not had or not had[0]:
        return None
    return SourceRefused(
        store.uri,
        f"cannot trust that /{root.folder} is empty: it had {had[0]:,} files. "
        "Mount the volume; if it really is empty, put any file in it. Figures stay as they were.",
    )


def _rows(con: duckdb.DuckDBPyConnection, measurement: _Measurement) -> pa.Table:
    """Return the month's rows, computed from the tables `folders`, `owners` and `prior`."""
    if measurement.is_complete:
        con.execute((_SQL / "ownership.sql").read_text())
    else:
        con.execute((_SQL / "unknown.sql").read_text(), {"now": measurement.now})
    parameters: dict[str, Any] = {
        "now": measurement.now,
        "month": measurement.now.astimezone(timezone.utc).date().replace(day=1),
        "store": measurement.store.uri,
        "load_id": measurement.load_id,
        "is_complete": measurement.is_complete,
        "read_at": measurement.readings.read_at,
        "servers": measurement.readings.servers,
    }
    return select_bytes(con, (_SQL / "intervals.sql").read_text(), parameters)


def _dangling(con: duckdb.DuckDBPyConnection, measurement: _Measurement) -> pa.Table:
    """Return the rows of `dangling_owners`. The table `ancestors` of the same listing must exist."""
    schema = DANGLING_OWNERS.arrow_schema()
    con.register(
        "known",
        schema.empty_table() if measurement.known_dangling is None else measurement.known_dangling.select(schema.names).cast(schema),
    )
    parameters: dict[str, Any] = {
        "now": measurement.now,
        "store": measurement.store.uri,
        "load_id": measurement.load_id,
        "is_inventory": measurement.store.inventory is not None,
    }
    rows: Any = con.sql((_SQL / "dangling.sql").read_text(), params=parameters).to_arrow_table()
    con.unregister("known")
    return rows.cast(schema)
