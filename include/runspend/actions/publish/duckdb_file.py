"""Publish to a DuckDB file: write a new file next to it, and rename the new file when it is complete.

People who have the old file open continue to read it until they open the file again. If a publish is killed, the next one overwrites its
incomplete file. A file that Runspend did not write is never replaced.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from runspend.actions.publish.content import BUILDS, WHOLE, Content, Found, Part, Published, builds_rows
from runspend.config.publish import DuckDBTarget
from runspend.core.crash_points import crash_point
from runspend.core.ctrl_c import let_ctrl_c_interrupt
from runspend.core.errors import MissingExtra, SourceError, SourceUnreachable
from runspend.core.machine_faults import fault_of
from runspend.core.own_files import fsync_path, keep_mode, open_lock, try_lock
from runspend.core.sql_quoting import sql_name, sql_text
from runspend.schema.public_views import View
from runspend.schema.tables import DUCKDB_TYPES, Table
from runspend.warehouse.dialect import duckdb_sql
from runspend.warehouse.parquet.engine import file_list

MEMORY = "2GB"
CONFIG: dict[str, Any] = {"autoinstall_known_extensions": False, "autoload_known_extensions": False, "memory_limit": MEMORY}
BUILD_THERE = f"""
select build_id::text, epoch_us(published_at) from {BUILDS.name}
where table_name = '{WHOLE}' and build_id is not null and isfinite(published_at)
"""


def publish(target: DuckDBTarget, content: Content, now: datetime) -> Published:
    """Replace the file with the content. Raises SourceError if that fails; the file is then unchanged."""
    try:
        import duckdb
    except ImportError as error:
        raise MissingExtra("duckdb", "pipeline") from error
    file = target.file
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target):
            if _found_in(target).build_id == content.build_id:
                return Published(content.build_id, is_new=False)
            with _scratch(target) as scratch:
                with closing(duckdb.connect(scratch, config=CONFIG)) as connection, let_ctrl_c_interrupt(connection):
                    published = _fill(connection, content, now)
                keep_mode(scratch, file)
                fsync_path(scratch)
                crash_point("publish.duckdb.before_replace")
                os.replace(scratch, file)
            fsync_path(file.parent)
            crash_point("publish.duckdb.after_replace")
            return published
    except (duckdb.Error, OSError) as error:
        why = fault_of(error) or f"{' '.join(str(error).split()).rstrip('.')}."
        raise SourceError(target.name, f"cannot publish to {target.name}: {why} The file {file} is unchanged.") from error


@contextmanager
def _scratch(target: DuckDBTarget) -> Iterator[Path]:
    """Yield the path of the new file. After an error, the incomplete file is removed, so that it does not fill the disk."""
    scratch = target.file.with_name(f".{target.file.name}.publishing")
    leftovers = (scratch, scratch.with_name(f"{scratch.name}.wal"))
    for leftover in leftovers:
        leftover.unlink(missing_ok=True)
    try:
        yield scratch
    except BaseException:
        for leftover in leftovers:
            leftover.unlink(missing_ok=True)
        raise


@contextmanager
def _locked(target: DuckDBTarget) -> Iterator[None]:
    """Lock the file for one publish at a time. Raises SourceUnreachable if another process publishes to it."""
    with open_lock(target.file.with_name(f".{target.file.name}.lock")) as lock:
        if not try_lock(lock.fileno()):
            raise SourceUnreachable(
                target.name, f"cannot publish to {target.name}: another process publishes to {target.file} now. Run again later."
            )
        yield


def probe(target: DuckDBTarget) -> Found:
    """Return the build in the file, and why its folder cannot be written, if so. Changes nothing.

    Raises SourceError if Runspend did not write the file.
    """
    folder = next(parent for parent in target.file.parents if parent.exists())
    problem = None
    if not folder.is_dir():
        problem = f"{folder} is not a folder. Set `file` to another path"
    elif not os.access(folder, os.W_OK | os.X_OK):
        problem = f"the folder {folder} cannot be written. Let this account write it"
    found = _found_in(target)
    return Found(found.build_id, found.published_at, problem)


def _found_in(target: DuckDBTarget) -> Found:
    """Return the build in the file. Raises SourceError if Runspend did not write the file."""
    import duckdb

    if not target.file.exists():
        return Found()
    with (
        suppress(duckdb.Error, OverflowError, ValueError),
        closing(duckdb.connect(target.file, read_only=True, config=CONFIG | {"enable_external_access": False})) as connection,
    ):
        connection.execute("set TimeZone = 'UTC'")
        is_table = "select 1 from duckdb_tables() where schema_name = 'main' and table_name = ?"
        if connection.execute(is_table, [BUILDS.name]).fetchall():  # a view that Runspend did not make could run any SQL
            rows = connection.execute(BUILD_THERE).fetchall()
            return Found(rows[0][0], datetime.fromtimestamp(rows[0][1] / 1e6, timezone.utc)) if rows else Found()
    raise SourceError(
        target.name,
        f"cannot publish to {target.name}: {target.file} is not a file that `runspend publish` wrote, or a program has it open for writing. It was"
        " not changed. Close that program, or set `file` to another path.",
    )


def _fill(connection: Any, content: Content, now: datetime) -> Published:
    import pyarrow as pa

    published, counts = Published(content.build_id), {}
    connection.execute("set TimeZone = 'UTC'")
    views = [table for table in content.tables if isinstance(table, View) and {*table.over} <= {t.name for t in content.tables}]
    for table in (*content.tables, BUILDS):
        if table not in views:
            connection.execute(
                f"create table {table.name} ({', '.join(f'{sql_name(c.name)} {DUCKDB_TYPES[c.type]}' for c in table.columns)})"
            )
    for part in content.parts:
        counts[part.key] = (_count(connection, part) if part.table in views else _insert(connection, part, content)), now
        published.add(part, counts[part.key][0])
    for view in views:
        connection.execute(f"create view {view.name} as {duckdb_sql(view.sql)}")
    builds = pa.Table.from_pylist(builds_rows(content, counts, now), schema=BUILDS.arrow_schema())
    connection.register("builds_to_insert", builds)
    connection.execute(f"insert into {BUILDS.name} select * from builds_to_insert")
    connection.unregister("builds_to_insert")
    for table in (*content.tables, BUILDS):
        _describe(connection, "view" if table in views else "table", table)
    return published


def _insert(connection: Any, part: Part, content: Content) -> int:
    names = ", ".join(sql_name(c.name) for c in part.table.columns)
    with content.files(part) as files:
        ((rows,),) = connection.execute(
            f"insert into {part.table.name} select {names} from read_parquet({file_list(files)}, hive_partitioning = false)"
        ).fetchall()
    crash_point(f"publish.duckdb.{part.table.name}")
    return int(rows)


def _count(connection: Any, part: Part) -> int:
    """Return the number of rows of a view in a month, which is that of its table."""
    (table,) = part.table.over if isinstance(part.table, View) else ()
    ((rows,),) = connection.execute(
        f"select count(*) from {table} where strftime({part.table.period_column}, '%Y-%m') = {sql_text(part.period)}"
    ).fetchall()
    return int(rows)


def _describe(connection: Any, kind: str, table: Table) -> None:
    connection.execute(f"comment on {kind} {table.name} is {sql_text(table.description)}")
    for column in table.columns:
        connection.execute(f"comment on column {table.name}.{sql_name(column.name)} is {sql_text(column.meaning)}")
