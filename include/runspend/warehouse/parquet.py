"""The warehouse in a folder: one Parquet file per table, month and writer, read by DuckDB.

    <root>/<table>/period=YYYY-MM/<writer>.parquet              public tables
    <root>/_internal/<table>/period=YYYY-MM/<writer>.parquet    the others
    <root>/_runspend/                                           journal, lock, staging, state of every unit, schema version

Nothing but finished files lies under a table's folder. How SQL is run belongs in `engine.py`, how several files change at
once in `journal.py`.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from runspend.errors import CheckFailed, ConfigError, RunspendError, UsageError
from runspend.tables import SCHEMA_VERSION, TABLES, Table
from runspend.warehouse import Model, Unit, UnitState
from runspend.warehouse.buckets import run_in_buckets
from runspend.warehouse.dialect import duckdb_sql, table_names
from runspend.warehouse.engine import (
    Content,
    connect,
    copy_parquet,
    create_view,
    declared,
    drop_relation,
    fetch,
    file_list,
    measure_rows,
    narrow,
    quote,
    restrict,
    stream,
    used,
)
from runspend.warehouse.exchange import DATED, SUMMED, exchange
from runspend.warehouse.journal import Folder, Stage, crash_point, fsync_file, fsync_folder, read_json, write_json
from runspend.warehouse.splice import splice

if TYPE_CHECKING:
    import duckdb

    from runspend.rates import Stretch

__all__ = ["MEMORY", "ExchangedReader", "ParquetReader", "ParquetStep", "ParquetWarehouse", "Place", "Staged", "add_columns", "as_own_file", "checked_unit", "conform", "difference", "rename_rows", "sha256_of", "state_of", "with_columns"]

PACKAGE = Path(__file__).parent.parent
MEMORY = "2600MB"
ROW_GROUP = 122_880


@dataclass(frozen=True)
class Staged:
    """A unit's new file (until the step is published: its parts, one after the other) and what is known of it."""

    parts: tuple[Path, ...]
    content: Content
    record: dict[str, Any]

    @property
    def file(self) -> Path:
        """The one file it is by the time it is published."""
        [file] = self.parts
        return file


class Place(Protocol):
    """Where a step finds the published files and leaves its own: this folder, or the bucket of `objects.py`."""

    models: Path
    checks: Path

    def pin(self, folder: Path) -> tuple[dict[Unit, Path], dict[str, list[str]]]:
        """The published files as they are now, under names in `folder` that stay, and the columns they have."""
        ...

    def replace(self, staged: Mapping[Unit, Staged], dropped: set[Unit], inputs: Mapping[Unit, str | None], *, stage: Path, build_id: str) -> bool:
        """Make a step's units visible, all at once; False, and nothing changed, if an input's digest is not what it was."""
        ...


class ParquetWarehouse:
    """Tables in a folder. Opening it finishes any publish that was killed."""

    def __init__(self, root: Path, *, models: Path = PACKAGE / "models", checks: Path = PACKAGE / "checks") -> None:
        self.root = root.absolute()
        self.models = models
        self.checks = checks
        self.folder = Folder(self.root)
        self.folder.recover()
        self.columns()  # refuses a warehouse newer than the code

    def states(self, *tables: str) -> dict[Unit, UnitState]:
        """Published units of these tables (all tables when none is named)."""
        with self.folder.shared():
            return {unit: state_of(record) for unit, record in self.records(*tables).items()}

    def read(self, unit: Unit) -> pa.Table | None:
        """The rows of one published unit, in today's columns; None when there is none."""
        with self.folder.shared():
            if not self.state_path(unit).exists():
                return None
            with pq.ParquetFile(self.path(unit)) as file:
                return with_columns(file.read(), TABLES[unit.table])

    def fetch(self, unit: Unit, folder: Path) -> Path | None:
        """The rows of one published unit as a Parquet file in `folder`, the caller's to keep, in today's columns; None when there is none."""
        with self.folder.shared():
            if not self.state_path(unit).exists():
                return None
            return as_own_file(self.path(unit), folder, TABLES[unit.table], self.columns()[unit.table])

    @contextmanager
    def reader(self) -> Iterator[ParquetReader]:
        """One consistent view: no publish is seen half done. Publishing waits until it is closed."""
        with self.folder.shared(), tempfile.TemporaryDirectory(prefix="runspend-") as scratch:
            reader = ParquetReader({unit: self.path(unit) for unit in self.records()}, self.columns(), Path(scratch))
            try:
                yield reader
            finally:
                reader.close()

    @contextmanager
    def step(self, name: str, build_id: str) -> Iterator[ParquetStep]:
        """Begin replacing units. Leaving without `publish` throws the staged rows away."""
        with self.folder.stage(name) as stage:
            step = ParquetStep(self, stage, build_id)
            try:
                yield step
            finally:
                step.close()

    def verify(self) -> list[Unit]:
        """Units whose file is not, byte for byte, the one that was published. Reads every file."""
        with self.folder.shared():
            return [unit for unit, record in self.records().items() if not self._is_whole(unit, record)]

    def path(self, unit: Unit) -> Path:
        """The unit's file."""
        place = self.root if TABLES[unit.table].is_public else self.root / "_internal"
        return place / unit.table / f"period={unit.period}" / f"{unit.writer}.parquet"

    def state_path(self, unit: Unit) -> Path:
        """What is known of the unit, beside its file and moved with it."""
        return self.folder.home / "units" / unit.table / unit.period / f"{unit.writer}.json"

    def records(self, *tables: str) -> dict[Unit, dict[str, Any]]:
        """The state file of every published unit. The caller holds a lock."""
        found: dict[Unit, dict[str, Any]] = {}
        for table in tables or TABLES:
            for path in sorted((self.folder.home / "units" / table).glob("*/*.json")):
                found[Unit(table, path.parent.name, path.stem)] = read_json(path)
        return found

    def columns(self) -> dict[str, list[str]]:
        """Columns that the published files of every table have."""
        schema = read_json(self.folder.home / "schema.json")
        if schema is None:
            return {t.name: [c.name for c in t.columns] for t in TABLES.values()}
        if schema["version"] > SCHEMA_VERSION:
            raise ConfigError(
                f"cannot use warehouse {self.root}: it has schema version {schema['version']}, this runspend knows {SCHEMA_VERSION}. "
                "Install the newer runspend. Nothing was changed."
            )
        return {table: schema["tables"].get(table, []) for table in TABLES}

    def upgrade(self, stage: Path) -> None:
        """Give files of an older version the columns they lack. The caller holds the exclusive lock."""
        target = self.folder.home / "schema.json"
        schema = read_json(target)
        if schema is not None and schema["version"] == SCHEMA_VERSION:
            return
        have = self.columns()
        moves = []
        for number, (unit, record) in enumerate(self.records().items()):
            table = TABLES[unit.table]
            if have[unit.table] == [c.name for c in table.columns]:
                continue
            file = stage / f"upgrade-{number}.parquet"
            add_columns(self.path(unit), file, table)
            moves += [(file, self.path(unit)), (_write_state(file, unit, record), self.state_path(unit))]
        note = stage / "schema.json"
        write_json(note, {"version": SCHEMA_VERSION, "tables": {t.name: [c.name for c in t.columns] for t in TABLES.values()}})
        self.folder.commit([*moves, (note, target)], [], {"upgrade": SCHEMA_VERSION})

    def pin(self, folder: Path) -> tuple[dict[Unit, Path], dict[str, list[str]]]:
        """The published files as they are now, under names in `folder` that stay, and the columns they have."""
        pinned: dict[Unit, Path] = {}
        with self.folder.shared():
            columns = self.columns()
            for unit in self.records():
                pin = folder / unit.table / f"{unit.period}+{unit.writer}.parquet"
                pin.parent.mkdir(parents=True, exist_ok=True)
                pinned[unit] = _pin(self.path(unit), pin)
        return pinned, columns

    def replace(self, staged: Mapping[Unit, Staged], dropped: set[Unit], inputs: Mapping[Unit, str | None], *, stage: Path, build_id: str) -> bool:
        """Make a step's units visible, all at once; False, and nothing changed, if an input's digest is not what it was."""
        moves: list[tuple[Path, Path]] = []
        for unit, one in staged.items():
            fsync_file(one.file)
            state = _write_state(one.file, unit, one.record)
            moves += [(one.file, self.path(unit)), (state, self.state_path(unit))]
        fsync_folder(stage)
        crash_point("publish.staged")
        with self.folder.exclusive():
            published = self.records(*{unit.table for unit in inputs}) if inputs else {}
            for unit, digest in inputs.items():
                now = published.get(unit)
                if (None if now is None else now["digest"]) != digest:
                    return False
            self.upgrade(stage)
            removals = [p for unit in sorted(dropped) for p in (self.path(unit), self.state_path(unit))]
            if moves or removals:
                self.folder.commit(moves, removals, {"build_id": build_id})
        return True

    def _is_whole(self, unit: Unit, record: Mapping[str, Any]) -> bool:
        path = self.path(unit)
        return path.exists() and path.stat().st_size == record["bytes"] and sha256_of(path) == record["sha256"]


class _Answers:
    """SQL over what one connection shows."""

    _connection: duckdb.DuckDBPyConnection

    def _show(self, names: Collection[str]) -> None:
        """See to it that these tables can be read; other names are passed over."""
        raise NotImplementedError

    def query(self, sql: str, parameters: Mapping[str, Any] | None = None, *, native: bool = False) -> pa.Table:
        """Rows of one GoogleSQL statement (`native`: DuckDB's own dialect). Money is decimal128(38, 22)."""
        import duckdb

        given = parameters or {}
        try:
            self._show(TABLES.keys() if native else table_names(sql))
            if native:
                statements = self._connection.extract_statements(sql)
                if len(statements) != 1 or statements[0].type not in (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN):
                    raise UsageError("cannot run the SQL: the warehouse is read-only here. Write exactly one SELECT.")
                return fetch(self._connection, sql, dict(given))
            return narrow(fetch(self._connection, duckdb_sql(sql), used(sql, given)))
        except duckdb.Error as error:
            raise UsageError(f"cannot run the SQL: {error}. `runspend sql --tables` lists tables and columns.") from error

    def batches(self, sql: str, parameters: Mapping[str, Any] | None = None, *, rows: int) -> Iterator[pa.RecordBatch]:
        """The same rows as `query`, about `rows` at a time; what the engine has to keep of them it spills to disk."""
        import duckdb

        try:
            self._show(table_names(sql))
            yield from stream(self._connection, duckdb_sql(sql), used(sql, parameters or {}), rows)
        except duckdb.Error as error:
            raise UsageError(f"cannot run the SQL: {error}. `runspend sql --tables` lists tables and columns.") from error


class ParquetReader(_Answers):
    """Read-only SQL over the published tables of one build."""

    def __init__(self, units: Mapping[Unit, Path], columns: Mapping[str, list[str]], scratch: Path) -> None:
        self._hidden: dict[str, list[Path]] = {name: [] for name in TABLES}  # tables nobody asked for yet, and their files
        for unit, path in units.items():
            self._hidden[unit.table].append(path)
        self._columns = columns
        self._connection = connect(scratch, memory=MEMORY)
        self._second = self._connection.cursor()  # for `in_currency`; its settings cannot be made later
        self._second.execute("set TimeZone = 'UTC'")
        restrict(self._connection, units.values())

    def in_currency(self, currency: str, rates: Sequence[Stretch]) -> ExchangedReader:
        """The same view with the cost tables' money in one currency, by charge date, exact to 22 decimals; what has no rate stays in its own.

        One at a time: asked again, an earlier one answers as the new one does.
        """
        self._show((*DATED, *SUMMED))
        exchange(self._second, currency, rates)
        return ExchangedReader(self, self._second)

    def tables(self) -> list[str]:
        """Tables that can be asked, public ones first."""
        return sorted(TABLES, key=lambda name: (not TABLES[name].is_public, name))

    def _show(self, names: Collection[str]) -> None:
        for name in sorted(self._hidden.keys() & names):
            create_view(self._connection, TABLES[name], self._hidden.pop(name), self._columns[name])

    def close(self) -> None:
        """Let go of the engine."""
        self._second.close()
        self._connection.close()


class ExchangedReader(_Answers):
    """What a reader shows, with the cost tables' money in one currency."""

    def __init__(self, reader: ParquetReader, connection: duckdb.DuckDBPyConnection) -> None:
        self._reader = reader
        self._connection = connection

    def in_currency(self, currency: str, rates: Sequence[Stretch]) -> ExchangedReader:
        """In another one."""
        return self._reader.in_currency(currency, rates)

    def _show(self, names: Collection[str]) -> None:
        self._reader._show(names)


class ParquetStep:
    """Units being replaced together. Nothing is visible to anybody until `publish`."""

    def __init__(self, warehouse: Place, stage: Stage, build_id: str) -> None:
        self.build_id = build_id
        self._warehouse = warehouse
        self.stage = stage.path
        self._staged: dict[Unit, Staged] = {}
        self._dropped: set[Unit] = set()
        self._fresh: set[str] = set()  # tables whose view shows what is staged by now
        self._done = False
        self._files = 0
        self._joiner = ThreadPoolExecutor(1)
        self._joined: dict[tuple[Path, ...], Future[Path]] = {}
        self.connection = connect(stage.path / "spill", memory=MEMORY)

    def put(self, table: str, period: str, writer: str, rows: Path | pa.Table, *, extra: Mapping[str, Any] | None = None) -> UnitState:
        """Stage rows from outside: a Parquet file with the columns of `tables.py` (it is moved), or an Arrow table."""
        unit = checked_unit(table, period, writer)
        target = self._new_file(unit)
        if isinstance(rows, Path):
            found, wanted = pq.read_schema(rows), TABLES[table].arrow_schema()
            if [(f.name, f.type) for f in found] != [(f.name, f.type) for f in wanted]:
                raise RunspendError(f"cannot put {rows} into {table}: {difference(found, wanted)}. Nothing was changed.")
            content = measure_rows(self.connection, TABLES[table], rows, period)
            shutil.move(rows, target)
        else:
            pq.write_table(conform(rows, TABLES[table], self.build_id), target, compression="zstd", row_group_size=ROW_GROUP)
            content = measure_rows(self.connection, TABLES[table], target, period)
        return self._accept(unit, [target], content, extra or {})

    def drop(self, table: str, period: str, writer: str) -> None:
        """Stage the removal of a unit."""
        unit = checked_unit(table, period, writer)
        self._staged.pop(unit, None)
        self._dropped.add(unit)
        self._fresh.discard(table)

    def rename(self, unit: Unit, writer: str, names: Mapping[str, tuple[str, str]], *, extra: Mapping[str, Any]) -> UnitState:
        """Stage a published unit as another writer's, with other names in some columns: {column: (old, new)}; an old that ends in / is a beginning."""
        table, target = TABLES[unit.table], checked_unit(unit.table, unit.period, writer)
        file = self._new_file(target)
        source = self._published[0][unit]
        if self._published[1][unit.table] != [c.name for c in table.columns]:
            source = as_own_file(source, self.stage, table, self._published[1][unit.table])
        rename_rows(self.connection, table, source, names, file)
        if target != unit:
            self.drop(*unit)
        return self._accept(target, [file], measure_rows(self.connection, table, file, unit.period), extra)

    def run(self, models: Sequence[Model], parameters: Mapping[str, Any], *, keep: Collection[str] = ()) -> None:
        """Run `models/*.sql` in order over published and staged rows.

        Rows of a model without `into` live until no later model of this call reads them; those named in `keep` to the end.
        """
        for model in models:
            if model.into is None and model.target in TABLES:
                raise ValueError(f"cannot run model {model.name} without `into`: {model.target} is the name of a table.")
        place = 0
        for column, group in groupby(models, key=lambda model: model.bucket_by):
            together = list(group)
            if column is not None:
                place += len(together)
                run_in_buckets(self, together, column, parameters, later=self._read_by(models[place:]) | set(keep))
                self._drop_all_but(self._read_by(models[place:]) | set(keep))
                self._join_whole(models[place:])
                continue
            for model in together:
                place += 1
                self.run_one(model, parameters)
                self._drop_all_but(self._read_by(models[place:]) | set(keep))
                self._join_whole(models[place:])

    def _read_by(self, models: Sequence[Model]) -> set[str]:
        """Tables these models read as they find them, not as one of them makes them."""
        read: set[str] = set()
        made: set[str] = set()
        for model in models:
            read |= table_names(self.read_model(model)) - made
            made |= {model.target} if model.into is None else set()
        return read

    def _join_whole(self, later: Sequence[Model]) -> None:
        """Join the parts of units that none of these models adds to, beside whatever is computed meanwhile: it is the disk that takes the time."""
        growing = {model.into and _unit_of(model) for model in later}
        for unit, staged in self._staged.items():
            if len(staged.parts) > 1 and unit not in growing and staged.parts not in self._joined:
                self._joined[staged.parts] = self._joiner.submit(_join, staged.parts, self._new_file(unit))

    def _drop_all_but(self, read: Collection[str]) -> None:
        found = self.connection.execute("select table_name from duckdb_tables() where schema_name = 'main'").fetchall()
        for (name,) in found:
            if name not in read:
                self.connection.execute(f"drop table main.{quote(name)}")

    def check(self, names: Sequence[str], parameters: Mapping[str, Any]) -> None:
        """Run `checks/*.sql` over what would be published; raises CheckFailed with the failing rows."""
        for name in names:
            text = (self._warehouse.checks / f"{name}.sql").read_text(encoding="utf-8")
            self.refresh_views(table_names(text))
            result = self.connection.execute(f"select * from ({duckdb_sql(text)}) limit 20", used(text, parameters))
            names = [column[0] for column in result.description or ()]
            rows = [dict(zip(names, row, strict=True)) for row in result.fetchall()]
            if rows:
                period = parameters.get("period")
                raise CheckFailed(name, rows, period=None if period is None else str(period)[:7])

    def state(self, unit: Unit) -> UnitState:
        """What is known of a unit staged so far."""
        if unit not in self._staged:
            raise ValueError(f"cannot tell the state of {unit}: the step has not staged it.")
        return state_of(self._staged[unit].record)

    def publish(self, inputs: Mapping[Unit, str | None] | None = None) -> bool:
        """Make all staged units visible at once. False ("superseded", nothing changed) if an input's digest is not what it was."""
        if self._done:
            raise RunspendError("cannot publish a step twice: begin another step.")
        self._done = True
        self._join_whole(())
        for unit, staged in self._staged.items():
            if len(staged.parts) > 1:
                self._staged[unit] = replace(staged, parts=(self._joined[staged.parts].result(),))
        return self._warehouse.replace(self._staged, self._dropped, inputs or {}, stage=self.stage, build_id=self.build_id)

    def close(self) -> None:
        """Let go of the engine."""
        self._joiner.shutdown(cancel_futures=True)
        self.connection.close()

    # What `buckets.py` uses.

    def part_file(self, name: str) -> Path:
        """Where to put one bucket's rows of a model: no two answers are the same."""
        self._files += 1
        return self.stage / f"{self._files}-{name}.part"

    def read_model(self, model: Model) -> str:
        """The model's GoogleSQL."""
        return (self._warehouse.models / f"{model.name}.sql").read_text(encoding="utf-8")

    def run_one(self, model: Model, parameters: Mapping[str, Any]) -> None:
        """Run a model over everything at once."""
        text = self.read_model(model)
        self.refresh_views(table_names(text))
        sql, given = duckdb_sql(text), used(text, parameters)
        if model.into is None:
            drop_relation(self.connection, model.target)
            self.connection.execute(f"create table main.{quote(model.target)} as {sql}", given)
            return
        target = self._new_file(_unit_of(model))
        self.copy_sorted(model, sql, given, target)
        self.accept_parts(model, [target])

    def copy_sorted(self, model: Model, sql: str, parameters: Mapping[str, Any], target: Path) -> None:
        """Write the rows of a model that fills a table, in the table's types and order."""
        import duckdb

        table = TABLES[_unit_of(model).table]
        exact = declared(self.connection, table, sql, parameters, self.build_id, model.name)
        try:
            copy_parquet(self.connection, table, exact, parameters, target, row_group=ROW_GROUP)
        except duckdb.ConversionException as error:
            what = str(error).partition("\n")[0]
            raise RunspendError(f"cannot fill {table.name} from model {model.name}: {what}. A word must be one that tables.py lists for its column. Nothing was changed.") from error

    def accept_parts(self, model: Model, parts: Sequence[Path]) -> None:
        """Stage what a model wrote, after what another model put into the same unit if it says so."""
        unit = _unit_of(model)
        contents = [measure_rows(self.connection, TABLES[unit.table], part, unit.period) for part in parts]
        if model.fills is not None and unit in self._staged:
            parts = [*self._staged[unit].parts, *parts]
            contents.append(self._staged[unit].content)
        self._accept(unit, parts, sum(contents[1:], contents[0]), {})

    def rows_source(self, name: str, parameters: Mapping[str, Any]) -> str:
        """Where to count the rows a model is likely to read of a table: its units of the parameter `period`, if there are any."""
        period = str(parameters.get("period"))[:7]
        files = [f for unit, parts in self._visible().items() if unit.table == name and unit.period == period for f in parts]
        return f"read_parquet({file_list(files)}, hive_partitioning = false)" if files else f"main.{quote(name)}"

    def refresh_views(self, names: Collection[str]) -> None:
        """Show what is published of these tables, with what is staged in its place; other names are passed over."""
        for name in sorted((TABLES.keys() & names) - self._fresh):
            table = TABLES[name]
            files = {unit: parts for unit, parts in self._visible().items() if unit.table == name}
            is_new = files.keys() <= self._staged.keys()
            create_view(self.connection, table, [f for parts in files.values() for f in parts], [c.name for c in table.columns] if is_new else self._published[1][name])
            self._fresh.add(name)

    def _visible(self) -> dict[Unit, tuple[Path, ...]]:
        """The files of the units as they would be after publishing."""
        kept = {unit: (file,) for unit, file in self._published[0].items() if unit not in self._dropped}
        return kept | {unit: staged.parts for unit, staged in self._staged.items()}

    @cached_property
    def _published(self) -> tuple[dict[Unit, Path], dict[str, list[str]]]:
        """The published files as they are now, under names of the step's own: whatever others publish, the step reads one build."""
        return self._warehouse.pin(self.stage / "pinned")

    def _new_file(self, unit: Unit) -> Path:
        self._files += 1
        return self.stage / f"{self._files}-{unit.table}-{unit.period}-{unit.writer}.parquet"

    def _accept(self, unit: Unit, parts: Sequence[Path], content: Content, extra: Mapping[str, Any]) -> UnitState:
        record = {"digest": content.digest, "rows": content.rows, "build_id": self.build_id, "extra": dict(extra)}
        self._staged[unit] = Staged(tuple(parts), content, record)
        self._dropped.discard(unit)
        self._fresh.discard(unit.table)
        return state_of(record)


def _join(parts: Sequence[Path], file: Path) -> Path:
    splice(parts, file)
    fsync_file(file)
    return file


def _pin(path: Path, pin: Path) -> Path:
    """A second name for a file, which stays when the first is replaced. Without hard links the digests compared at publish must do."""
    try:
        os.link(path, pin)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.EXDEV):
            return path
        raise
    return pin


def rename_rows(connection: duckdb.DuckDBPyConnection, table: Table, source: Path, names: Mapping[str, tuple[str, str]], target: Path) -> Path:
    """Write a file with other names in some columns: {column: (old, new)}; an old that ends in / is a beginning."""
    parameters = {f"{side}_{name}": value for name, values in names.items() for side, value in zip(("old", "new"), values, strict=True)}
    sql = ", ".join(_renamed(c.name, names[c.name][0]) if c.name in names else quote(c.name) for c in table.columns)
    rows = f"select {sql} from read_parquet({file_list([source])}, hive_partitioning = false)"
    copy_parquet(connection, table, rows, parameters, target, row_group=ROW_GROUP)
    return target


def _renamed(column: str, old: str) -> str:
    """SQL for a column in which $old_column becomes $new_column."""
    name = quote(column)
    if old.endswith("/"):
        return f"case when starts_with({name}, $old_{column}) then $new_{column} || substr({name}, length($old_{column}) + 1) else {name} end as {name}"
    return f"case when {name} = $old_{column} then $new_{column} else {name} end as {name}"


def _unit_of(model: Model) -> Unit:
    assert model.into is not None
    return checked_unit(model.target, *model.into)


def checked_unit(table: str, period: str, writer: str) -> Unit:
    """The unit of that name; ValueError where it would lie somewhere odd."""
    if table not in TABLES:
        raise ValueError(f"cannot write table {table!r}: tables.py does not know it.")
    dated = TABLES[table].period_column is not None
    if not re.fullmatch(r"\d{4}-(0[1-9]|1[0-2])" if dated else "all", period):
        raise ValueError(f"cannot write {table} for period {period!r}: it takes {'YYYY-MM' if dated else 'all'}.")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", writer):
        raise ValueError(f"cannot write {table} as {writer!r}: a writer starts with a letter or digit; the rest may have ._- too.")
    return Unit(table, period, writer)


def state_of(record: Mapping[str, Any]) -> UnitState:
    """What others are told of a unit."""
    return UnitState(record["digest"], record["rows"], record["build_id"], record["extra"])


def _write_state(file: Path, unit: Unit, record: Mapping[str, Any]) -> Path:
    path = file.with_suffix(".json")
    write_json(path, {**record, "unit": list(unit), "bytes": file.stat().st_size, "sha256": sha256_of(file)})
    return path


def sha256_of(path: Path) -> str:
    """Of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def difference(found: pa.Schema, wanted: pa.Schema) -> str:
    """In what a file's columns are not the table's, in words."""
    lacking = [f.name for f in wanted if f.name not in found.names]
    extra = [f.name for f in found if f.name not in wanted.names]
    if lacking or extra:
        return f"it lacks columns {lacking} and has columns {extra} too much"
    if found.names != wanted.names:
        return "its columns are in another order than in tables.py"
    return "; ".join(f"{a.name} is {a.type} and must be {b.type}" for a, b in zip(found, wanted, strict=True) if not a.equals(b))


def conform(rows: pa.Table, table: Table, build_id: str) -> pa.Table:
    """The rows in the table's columns, types and order."""
    schema = table.arrow_schema()
    for name in ("build_id", "load_id"):
        if name in schema.names and name not in rows.column_names:
            rows = rows.append_column(name, pa.array([build_id] * rows.num_rows, pa.string()))
    if sorted(rows.column_names) != sorted(schema.names):
        raise RunspendError(f"cannot put rows into {table.name}: {difference(rows.schema, schema)}. Nothing was changed.")
    try:
        exact = rows.select(schema.names).cast(schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise RunspendError(f"cannot put rows into {table.name}: {error}. Nothing was changed.") from error
    return exact.sort_by([(name, "ascending") for name in table.sort]) if table.sort else exact


def add_columns(source: Path, target: Path, table: Table) -> None:
    """The same file with the columns of today's schema, null where it had none."""
    schema = table.arrow_schema()
    with pq.ParquetFile(source) as old, pq.ParquetWriter(target, schema, compression="zstd") as new:
        for batch in old.iter_batches():
            new.write_table(with_columns(pa.Table.from_batches([batch]), table), row_group_size=ROW_GROUP)
    fsync_file(target)


def as_own_file(file: Path, folder: Path, table: Table, present: Sequence[str]) -> Path:
    """A published file under a name of the caller's, with the columns of today's schema."""
    own = folder / f"{uuid.uuid4().hex}.parquet"
    if list(present) == [c.name for c in table.columns]:
        shutil.copyfile(file, own)
    else:
        add_columns(file, own, table)
    return own


def with_columns(rows: pa.Table, table: Table) -> pa.Table:
    """The rows in today's columns, null where the file had none."""
    schema = table.arrow_schema()
    columns = [rows.column(f.name) if f.name in rows.column_names else pa.nulls(rows.num_rows, f.type) for f in schema]
    return pa.table(columns, names=schema.names).cast(schema)
