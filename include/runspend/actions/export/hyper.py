"""Write the published tables and views as a Tableau extract: a .hyper file, or a .twbx file with the extract and a workbook.

The extract has the same content as `publish` (`actions/publish/content.py`). Hyper reads the Parquet files itself. The file gets its name
only if each of its tables has the same number of rows and the same exact cost sums as those files. `tableau_files.py` makes data sources and
the workbook.

Source: Tableau "Hyper API": "SQL reference" (external, NUMERIC), "Process settings" (default_database_version).
"""

from __future__ import annotations

import errno
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from runspend.actions.export import tableau_files
from runspend.actions.publish.content import BUILDS, WHOLE, Content, Part, builds_rows
from runspend.core.amounts import EXACT
from runspend.core.crash_points import crash_point
from runspend.core.errors import CheckFailed, MissingExtra, RunspendError, UsageError
from runspend.core.machine_faults import machine_failed
from runspend.core.own_files import fsync_path, keep_mode, need_folder, open_lock, try_lock, write_whole
from runspend.schema.published import PUBLISHED_TABLES
from runspend.schema.tables import COSTS, Table

TYPES = {
    "STRING": "text",
    "INT64": "bigint",
    "FLOAT64": "double precision",
    "BOOL": "bool",
    "DATE": "date",
    "TIMESTAMP": "timestamp",  # in UTC, because Tableau shows times without conversion
    "BIGNUMERIC": "numeric(38, 22)",
    "ARRAY<STRING>": "text",  # the values, separated by ", "
}
# Version 3 is the first file format with numbers of more than 18 digits. Tableau 2022.4 and later can read it.
PARAMETERS = {"default_database_version": "3", "log_config": "", "memory_limit": "2g"}
INSIDE = "Data/runspend/runspend.hyper"  # the path of the extract in a .twbx file
CANNOT_GROW = "growing the database file failed"
COST_NAMES = tuple(c.name for c in COSTS)


@dataclass
class Extract:
    """The result of an export. `rows`: the number of rows by table, empty if the file already had this build.

    `written` and `kept`: the data sources and workbooks next to the extract that were written, and those that were kept.
    """

    path: Path
    build_id: str
    rows: dict[str, int] = field(default_factory=dict)
    written: list[Path] = field(default_factory=list)
    kept: list[Path] = field(default_factory=list)


def export_hyper(content: Content, target: Path, now: datetime, progress: Callable[[str], None] = lambda _: None) -> Extract:
    """Write a .hyper file with data sources and a workbook next to it, or a .twbx file. If it fails, the file is unchanged.

    A data source or workbook that was changed in Tableau is kept. Raises UsageError if the file cannot be replaced, CheckFailed if the
    extract differs from the published tables, and RunspendError for an error of Hyper.
    """
    if target.suffix not in (".hyper", ".twbx"):
        raise UsageError(f"cannot export to {target}: the name must end in .hyper or .twbx. Nothing was written.")
    need_folder(target)
    try:
        import tableauhyperapi as api
    except ImportError as error:
        raise MissingExtra("tableauhyperapi", "tableau") from error
    scratch = target.with_name(f".{target.name}.exporting")
    try:
        with _locked(target), api.HyperProcess(api.Telemetry.DO_NOT_SEND_USAGE_DATA_TO_TABLEAU, parameters=PARAMETERS) as process:
            export = _Export(api, process, content, now, progress)
            extract = export.twbx(target, scratch) if target.suffix == ".twbx" else export.hyper(target, scratch)
    except api.HyperException as error:
        raise _as_ours(error, target, content.folder if target.suffix == ".twbx" else target.parent) from error
    finally:
        scratch.unlink(missing_ok=True)
    if target.suffix == ".hyper":
        _write_files_beside(extract)
    return extract


def _as_ours(error: Any, target: Path, folder: Path) -> RunspendError:
    """Return Runspend's error for an error of Hyper. Hyper reports a full disk only in its message."""
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), f"{folder}") if CANNOT_GROW in error.main_message else error
    return machine_failed(full, f"export to {target}") or RunspendError(
        f"cannot export to {target}: {error.main_message}. The file is unchanged."
    )


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    """Lock the file for one process at a time. Raises UsageError if another process writes it."""
    with open_lock(target.with_name(f".{target.name}.lock")) as lock:
        if not try_lock(lock.fileno()):
            raise UsageError(f"cannot export to {target}: another process writes it now. Run again later.")
        yield


def _write_files_beside(extract: Extract) -> None:
    """Write the data sources and the workbook, except those that were edited."""
    for name, text in tableau_files.files_beside(extract.path.name).items():
        path = extract.path.with_name(name)
        there = path.read_bytes() if path.exists() else None
        if there is not None and not tableau_files.is_unchanged(there):
            extract.kept.append(path)
        elif there != text:
            write_whole(path, text)
            extract.written.append(path)


@dataclass
class _Export:
    """One export, with a running Hyper process."""

    api: Any
    process: Any
    content: Content
    now: datetime
    progress: Callable[[str], None]

    def hyper(self, target: Path, scratch: Path) -> Extract:
        """Write a .hyper file, unless it already has this build."""
        extract = Extract(target, self.content.build_id)
        if target.exists() and self._build_of(target) == extract.build_id:
            return extract
        extract.rows = self._fill(scratch)
        self._replace(scratch, target)
        return extract

    def twbx(self, target: Path, scratch: Path) -> Extract:
        """Write a .twbx file, unless it already has this build and this workbook."""
        extract = Extract(target, self.content.build_id)
        workbook = tableau_files.workbook(INSIDE)
        if target.exists() and _packaged_build(target) == extract.build_id and _packaged_workbook(target) == workbook:
            return extract
        with tempfile.TemporaryDirectory(dir=self.content.folder) as folder:
            file = Path(folder) / "runspend.hyper"
            extract.rows = self._fill(file)
            with zipfile.ZipFile(scratch, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.comment = f"runspend {extract.build_id}".encode()
                archive.writestr(f"{target.stem}.twb", workbook)
                archive.write(file, INSIDE)
        self._replace(scratch, target)
        return extract

    def _replace(self, scratch: Path, target: Path) -> None:
        keep_mode(scratch, target)
        fsync_path(scratch)
        crash_point("export.hyper.before_replace")
        os.replace(scratch, target)
        fsync_path(target.parent)
        crash_point("export.hyper.after_replace")

    def _build_of(self, target: Path) -> str:
        """Return the build ID of an extract. Raises UsageError if Runspend did not write the file."""
        try:
            with self.api.Connection(self.process.endpoint, target) as connection:
                return str(connection.execute_scalar_query(f"select build_id from {BUILDS.name} where table_name = '{WHOLE}'"))
        except self.api.HyperException as error:
            raise UsageError(
                f"cannot export to {target}: it is not a file that `runspend export hyper` wrote, or a program has it open. It was not changed."
                " Close that program, or choose another name."
            ) from error

    def _fill(self, file: Path) -> dict[str, int]:
        """Write a new extract with all tables. Returns the number of rows by table."""
        file.unlink(missing_ok=True)
        rows: dict[str, int] = {}
        counts = {}
        with self.api.Connection(self.process.endpoint, file, self.api.CreateMode.CREATE) as connection:
            for table in (*PUBLISHED_TABLES, BUILDS):
                columns = ", ".join(f"{self._name(c.name)} {TYPES[c.type]}" for c in table.columns)
                connection.execute_command(f"create table {self._name(table.name)} ({columns})")
                for column in table.columns:
                    name = f"{self._name(table.name)}.{self._name(column.name)}"
                    connection.execute_command(f"comment on column {name} is {self._text(column.meaning)}")
            sums: dict[str, dict[str, dict[str, Decimal]]] = {}
            for part in self.content.parts:
                self.progress(f"export hyper: {part.table.name} {part.period}")
                count = self._insert(connection, part, sums.setdefault(part.table.name, {}))
                counts[part.key] = count, self.now
                rows[part.table.name] = rows.get(part.table.name, 0) + count
                crash_point(f"export.hyper.{part.table.name}")
            builds = self.content.folder / "builds.parquet"
            pq.write_table(pa.Table.from_pylist(builds_rows(self.content, counts, self.now), schema=BUILDS.arrow_schema()), builds)
            self._copy(connection, BUILDS, [builds])
            for table in PUBLISHED_TABLES:
                self._check_sums(connection, table, sums.get(table.name, {}))
        return rows

    def _insert(self, connection: Any, part: Part, sums: dict[str, dict[str, Decimal]]) -> int:
        """Copy the rows of a part, and add the cost sums of its files to `sums`. Returns the number of rows."""
        with self.content.files(part) as found, tempfile.TemporaryDirectory(dir=self.content.folder) as folder:
            files, rows = list(found), 0
            for file in files:
                with pq.ParquetFile(file) as read:
                    rows += read.metadata.num_rows
                    _add_sums(sums, part.table, read)
            arrays = [c.name for c in part.table.columns if c.type == "ARRAY<STRING>"]
            if arrays:
                files = [_with_texts(file, arrays, Path(folder) / f"{number}.parquet") for number, file in enumerate(files)]
            copied = self._copy(connection, part.table, files)
        if copied != rows:
            wrong = [{"table": part.table.name, "exported": copied, "published": rows}]
            raise CheckFailed("hyper_export_equals_published", wrong, period=part.period)
        return rows

    def _copy(self, connection: Any, table: Table, files: list[Path]) -> int:
        if not files:
            return 0
        columns = ", ".join(
            f"{self._name(c.name)} at time zone 'UTC'" if c.type == "TIMESTAMP" else self._name(c.name) for c in table.columns
        )
        listed = ", ".join(self._text(f"{file}") for file in files)
        return int(
            connection.execute_command(
                f"insert into {self._name(table.name)} (select {columns} from external(array[{listed}], format => 'parquet'))"
            )
        )

    def _check_sums(self, connection: Any, table: Table, sums: dict[str, dict[str, Decimal]]) -> None:
        """Raise CheckFailed unless the cost sums of a table equal those of its files to the last decimal."""
        if not sums:
            return
        costs = [name for name in COST_NAMES if any(c.name == name for c in table.columns)]
        selected = ", ".join(f"cast(sum({name}) as text)" for name in costs)
        found = connection.execute_list_query(
            f"select billing_currency, {selected} from {self._name(table.name)} group by billing_currency"
        )
        exported = {row[0]: {name: Decimal(text or 0) for name, text in zip(costs, row[1:], strict=True)} for row in found}
        wrong = [
            {"table": table.name, "currency": currency, "measure": name, "exported": has, "published": wanted}
            for currency, of in sums.items()
            for name, wanted in of.items()
            if (has := exported.get(currency, {}).get(name, Decimal(0))) != wanted
        ]
        if wrong:
            raise CheckFailed("hyper_export_equals_published", wrong, period=WHOLE)

    def _name(self, name: str) -> str:
        return str(self.api.escape_name(name))

    def _text(self, text: str) -> str:
        return str(self.api.escape_string_literal(text))


def _add_sums(sums: dict[str, dict[str, Decimal]], table: Table, read: Any) -> None:
    """Add the exact costs of a Parquet file to `sums`, by currency."""
    costs = [name for name in COST_NAMES if any(c.name == name for c in table.columns)]
    if not costs:
        return
    for batch in read.iter_batches(columns=["billing_currency", *costs]):
        grouped = pa.Table.from_batches([batch]).group_by("billing_currency").aggregate([(name, "sum") for name in costs])
        for row in grouped.to_pylist():
            found = sums.setdefault(row["billing_currency"], dict.fromkeys(costs, Decimal(0)))
            for name in costs:
                found[name] = EXACT.add(found[name], row[f"{name}_sum"] or Decimal(0))


def _with_texts(file: Path, arrays: list[str], target: Path) -> Path:
    """Write a copy of the file with strings in place of arrays, which Hyper does not support. Return the copy."""
    with pq.ParquetFile(file) as read:
        writer = None
        for batch in read.iter_batches():
            rows = pa.Table.from_batches([batch])
            for name in arrays:
                rows = rows.set_column(rows.schema.get_field_index(name), name, pc.binary_join(rows[name], ", "))
            writer = writer or pq.ParquetWriter(target, rows.schema, compression="zstd")
            writer.write_table(rows)
        if writer is None:
            pq.write_table(
                pa.schema([(f.name, pa.string() if f.name in arrays else f.type) for f in read.schema_arrow]).empty_table(), target
            )
        else:
            writer.close()
    return target


def _packaged_build(target: Path) -> str | None:
    """Return the build ID of a packaged workbook. Raises UsageError if Runspend did not write the file, or if Tableau saved it since."""
    try:
        with zipfile.ZipFile(target) as archive:
            build = archive.comment.decode(errors="replace")
    except zipfile.BadZipFile:
        build = ""
    if not build.startswith("runspend "):
        raise UsageError(
            f"cannot export to {target}: it is not a file that `runspend export hyper` wrote, or Tableau saved it since. It was not changed."
            " Choose another name."
        )
    return build.removeprefix("runspend ")


def _packaged_workbook(target: Path) -> bytes:
    with zipfile.ZipFile(target) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith(".twb")))
