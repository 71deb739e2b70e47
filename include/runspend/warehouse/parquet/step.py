"""A step over Parquet files: stage rows, run models and checks, and publish all new units together.

`warehouse.py` and `bucket.py` know where the files are and make them visible. `engine.py` runs DuckDB.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from itertools import count, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from runspend.core.errors import CheckFailed, RunspendError
from runspend.core.own_files import fsync_path
from runspend.core.sql_quoting import sql_name
from runspend.schema.tables import TABLES
from runspend.warehouse.base import Model, Unit, UnitState
from runspend.warehouse.dialect import duckdb_sql, has_no_rows, table_names
from runspend.warehouse.parquet.base import FileWarehouse, Pinned, StagedFiles
from runspend.warehouse.parquet.concat import splice
from runspend.warehouse.parquet.engine import (
    ROW_GROUP,
    Content,
    copy_parquet,
    create_view,
    declared,
    empty_engine,
    file_list,
    measure_rows,
    used,
)
from runspend.warehouse.parquet.files import as_own_file, conform, difference, rename_rows
from runspend.warehouse.parquet.journal import Stage
from runspend.warehouse.parquet.made_tables import Made, make_table
from runspend.warehouse.parquet.shards import Kept, have_few_rows, run_in_shards
from runspend.warehouse.parquet.units import checked_unit, state_of
from runspend.warehouse.sql_files import read_every_sql

if TYPE_CHECKING:
    import duckdb


@contextmanager
def begin(warehouse: FileWarehouse, stage: Stage, build_id: str) -> Iterator[ParquetStep]:
    """Yield a step with a borrowed DuckDB engine. The engine is returned at the end."""
    with empty_engine(stage.path / "spill") as connection:
        step = ParquetStep(warehouse, stage, build_id, connection)
        try:
            yield step
        finally:
            step.close()


class ParquetStep:
    """Replaces several units together. Readers see no change before `publish`."""

    def __init__(self, warehouse: FileWarehouse, stage: Stage, build_id: str, connection: duckdb.DuckDBPyConnection) -> None:
        self.build_id = build_id
        self.connection = connection
        self._warehouse = warehouse
        self.stage = stage.path
        self._staged: dict[Unit, StagedFiles] = {}
        self._dropped: set[Unit] = set()
        self._fresh: set[str] = set()  # tables whose view shows the current staged rows
        self._done = False
        self._file_numbers = count()  # `next` gives each number once, in every thread
        self._without_files: set[str] = set()  # tables whose view has no file
        self._made: dict[str, Made] = {}  # tables and views of models without `into`, in the schema main
        self.kept: dict[str, Kept] = {}  # those whose rows are in files, one file per range of a column
        self._joiner = ThreadPoolExecutor(1)
        self._joined: dict[tuple[Path, ...], Future[Path]] = {}

    def put(self, table: str, period: str, writer: str, rows: Path | pa.Table, *, extra: Mapping[str, Any] | None = None) -> UnitState:
        """Stage rows that no model makes. `rows` is an Arrow table, or a Parquet file with the columns of `schema/tables.py`.

        A file is moved, not copied.
        """
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
        """Stage the rows of a published unit under another writer, and rename values in some columns.

        `names`: {column: (old value, new value)}. An old value that ends in "/" is a prefix.
        """
        table, target = TABLES[unit.table], checked_unit(unit.table, unit.period, writer)
        file = self._new_file(target)
        self._published.guard([unit])
        source = self._published.files[unit]
        if self._published.columns[unit.table] != [c.name for c in table.columns]:
            source = as_own_file(source, self.stage, table, self._published.columns[unit.table])
        rename_rows(self.connection, table, source, names, file)
        if target != unit:
            self.drop(*unit)
        return self._accept(target, [file], measure_rows(self.connection, table, file, unit.period), extra)

    def run(self, models: Sequence[Model], parameters: Mapping[str, Any], *, keep: Collection[str] = ()) -> None:
        """Run `allocation/models/*.sql` in order over published and staged rows.

        The rows of a model without `into` are dropped once no later model of this call reads them. Tables in `keep` are not dropped.
        """
        for model in models:
            if model.into is None and model.target in TABLES:
                raise ValueError(f"cannot run model {model.name} without `into`: {model.target} is the name of a table.")
        place, read_from = 0, self._read_from(models)
        for column, group in groupby(models, key=lambda model: model.shard_by):
            together = list(group)
            if column is not None and not have_few_rows(self, together, parameters):
                place += len(together)
                run_in_shards(self, together, column, parameters, self._columns_read(models[place:], read_from[place], keep))
                self._drop_all_but(read_from[place] | set(keep))
                self._join_whole(models[place:])
                continue
            for model in together:
                place += 1
                self.run_one(model, parameters)
                self._drop_all_but(read_from[place] | set(keep))
                self._join_whole(models[place:])

    def _read_from(self, models: Sequence[Model]) -> list[set[str]]:
        """Return, for each position in the list, the tables that the models from there on read but do not make themselves."""
        found: list[set[str]] = [set()]
        for model in reversed(models):
            made = {model.target} if model.into is None else set()
            found.append((found[-1] - made) | table_names(self.read_model(model)))
        return found[::-1]

    def _columns_read(self, models: Sequence[Model], tables: Collection[str], keep: Collection[str]) -> dict[str, set[str] | None]:
        """Return, for each table, all words in the models that read it. The columns that they need are among these words.

        None means that they may need all columns, because a model selects `*` or the table is in `keep`.
        """
        found: dict[str, set[str] | None] = {name: set() for name in tables} | dict.fromkeys(keep)
        for model in models:
            text = self.read_model(model)
            has_star = re.search(r"(\bselect\s+|\.)\*", text, re.IGNORECASE) is not None
            words = {model.shard_by or "", *re.findall(r"\w+", text)}
            for name in table_names(text) & found.keys():
                known = found[name]
                found[name] = None if has_star or known is None else known | words
        return found

    def _join_whole(self, later: Sequence[Model]) -> None:
        """Start to join the parts of each unit that no model in `later` adds rows to.

        A thread joins them while the models run, because joining is limited by the disk.
        """
        growing = {model.into and _unit_of(model) for model in later}
        for unit, staged in self._staged.items():
            if len(staged.parts) > 1 and unit not in growing and staged.parts not in self._joined:
                self._joined[staged.parts] = self._joiner.submit(_join, staged.parts, self._new_file(unit))

    def _drop_all_but(self, read: Collection[str]) -> None:
        for name in self._made.keys() - read:
            self.drop_made(name)

    def check(self, names: Sequence[str], parameters: Mapping[str, Any]) -> None:
        """Run `allocation/checks/*.sql` over the rows as they would be after publishing. Raises CheckFailed with up to 20 failing rows."""
        for name in names:
            text = self._checks[name]
            self.refresh_views(table_names(text))
            result = self.connection.execute(f"select * from ({duckdb_sql(text)}) limit 20", used(text, parameters))
            names = [column[0] for column in result.description or ()]
            rows = [dict(zip(names, row, strict=True)) for row in result.fetchall()]
            if rows:
                period = parameters.get("period")
                raise CheckFailed(name, rows, period=None if period is None else str(period)[:7])

    def state(self, unit: Unit) -> UnitState:
        """Return the state of a unit that this step has staged."""
        if unit not in self._staged:
            raise ValueError(f"cannot return the state of {unit}: the step has not staged it.")
        return state_of(self._staged[unit].record)

    def publish(self, inputs: Mapping[Unit, str | None] | None = None) -> bool:
        """Make all staged units visible at once.

        `inputs`: the digest that each unit had when the step read it. If one has changed, the step is superseded: nothing is changed, and
        the result is False.
        """
        if self._done:
            raise RunspendError("cannot publish a step twice: begin another step.")
        self._done = True
        self._join_whole(())
        for unit, staged in self._staged.items():
            if len(staged.parts) > 1:
                self._staged[unit] = replace(staged, parts=(self._joined[staged.parts].result(),))
        return self._warehouse.replace(self._staged, self._dropped, inputs or {}, stage=self.stage, build_id=self.build_id)

    def close(self) -> None:
        """Wait for the joins that have begun, and cancel the others."""
        self._joiner.shutdown(cancel_futures=True)

    # Used by `shards.py`.

    def drop_made(self, name: str) -> None:
        """Drop the table or view of a model without `into`, if it exists."""
        self.kept.pop(name, None)
        if made := self._made.pop(name, None):
            self.connection.execute(f"drop {made.kind} main.{sql_name(name)}")

    def show_made(self, name: str, sql: str, kept: Kept) -> None:
        """Make the rows of a query readable under the name of a model without `into`. They replace earlier rows with that name."""
        self.drop_made(name)
        self.connection.execute(f"create view main.{sql_name(name)} as {sql}")
        self._made[name] = Made("view")
        self.kept[name] = kept

    def part_file(self, name: str) -> Path:
        """Return a new path for a model's rows of one shard. Each call returns another path; safe to call from several threads."""
        return self.stage / f"{next(self._file_numbers)}-{name}.part"

    def read_model(self, model: Model) -> str:
        """Return the model's GoogleSQL."""
        return self._models[model.name]

    def run_one(self, model: Model, parameters: Mapping[str, Any]) -> None:
        """Run a model over all rows at once."""
        text = self.read_model(model)
        read = table_names(text)
        self.refresh_views(read)
        given = used(text, parameters)
        empty = self._without_files.union(name for name, made in self._made.items() if made.is_empty)
        is_empty = has_no_rows(text, empty)
        if model.into is None:
            self.drop_made(model.target)
            inputs = {name: self._made[name] for name in sorted(read & self._made.keys())}
            self._made[model.target] = make_table(self.connection, model.target, text, given, inputs, is_empty=is_empty)
        elif not (is_empty and model.fills and _unit_of(model) in self._staged):
            target = self._new_file(_unit_of(model))
            self.copy_sorted(self.connection, model, duckdb_sql(text), given, target)
            self.accept_parts(model, [target])

    def copy_sorted(
        self, connection: duckdb.DuckDBPyConnection, model: Model, sql: str, parameters: Mapping[str, Any], target: Path
    ) -> None:
        """Write the rows of a model that fills a table, with the column types and the sort order of that table."""
        import duckdb

        table = TABLES[_unit_of(model).table]
        exact = declared(connection, table, sql, parameters, self.build_id, model.name)
        try:
            copy_parquet(connection, table, exact, parameters, target)
        except duckdb.ConversionException as error:
            what = str(error).partition("\n")[0]
            raise RunspendError(
                f"cannot fill {table.name} from model {model.name}: {what}. A word must be one that tables.py lists for its column. Nothing was changed."
            ) from error

    def accept_parts(self, model: Model, parts: Sequence[Path]) -> None:
        """Stage a model's rows. If the model has `fills`, they are added to the rows that another model staged for the same unit."""
        unit = _unit_of(model)
        contents = [measure_rows(self.connection, TABLES[unit.table], part, unit.period) for part in parts]
        if model.fills is not None and unit in self._staged:
            parts = [*self._staged[unit].parts, *parts]
            contents.append(self._staged[unit].content)
        self._accept(unit, parts, sum(contents[1:], contents[0]), {})

    def rows_source(self, name: str, parameters: Mapping[str, Any]) -> str:
        """Return SQL for the rows of a table that a model is likely to read: the units of the parameter `period`.

        Returns the whole table if it has no unit of that period.
        """
        period = str(parameters.get("period"))[:7]
        visible = {unit: parts for unit, parts in self._visible().items() if unit.table == name and unit.period == period}
        self._published.guard(visible.keys() - self._staged.keys())
        files = [f for parts in visible.values() for f in parts]
        return f"read_parquet({file_list(files)}, hive_partitioning = false)" if files else f"main.{sql_name(name)}"

    def refresh_views(self, names: Collection[str]) -> None:
        """Update the views of these tables to show published rows, with staged units in place of published ones. Ignores other names."""
        for name in sorted((TABLES.keys() & names) - self._fresh):
            table = TABLES[name]
            files = {unit: parts for unit, parts in self._visible().items() if unit.table == name}
            is_new = files.keys() <= self._staged.keys()
            self._published.guard(files.keys() - self._staged.keys())
            create_view(
                self.connection,
                table,
                [f for parts in files.values() for f in parts],
                [c.name for c in table.columns] if is_new else self._published.columns[name],
            )
            self._fresh.add(name)
            (self._without_files.discard if files else self._without_files.add)(name)

    def _visible(self) -> dict[Unit, tuple[Path, ...]]:
        """Return the files of all units as they would be after publishing."""
        kept = {unit: (file,) for unit, file in self._published.files.items() if unit not in self._dropped}
        return kept | {unit: staged.parts for unit, staged in self._staged.items()}

    @cached_property
    def _models(self) -> dict[str, str]:
        return read_every_sql(self._warehouse.models)

    @cached_property
    def _checks(self) -> dict[str, str]:
        return read_every_sql(self._warehouse.checks)

    @cached_property
    def _published(self) -> Pinned:
        """The currently published files, pinned in the step's folder. The step reads one build even if other processes publish."""
        return self._warehouse.pin(self.stage / "pinned")

    def _new_file(self, unit: Unit) -> Path:
        return self.stage / f"{next(self._file_numbers)}-{unit.table}-{unit.period}-{unit.writer}.parquet"

    def _accept(self, unit: Unit, parts: Sequence[Path], content: Content, extra: Mapping[str, Any]) -> UnitState:
        record = {"digest": content.digest, "rows": content.rows, "build_id": self.build_id, "extra": dict(extra)}
        self._staged[unit] = StagedFiles(tuple(parts), content, record)
        self._dropped.discard(unit)
        self._fresh.discard(unit.table)
        return state_of(record)


def _join(parts: Sequence[Path], file: Path) -> Path:
    splice(parts, file)
    fsync_path(file)
    return file


def _unit_of(model: Model) -> Unit:
    assert model.into is not None
    return checked_unit(model.target, *model.into)
