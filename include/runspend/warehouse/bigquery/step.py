"""A step in BigQuery: stage rows, run models and checks, and publish all new units in one transaction.

    put      a load job uploads a local Parquet file into a staging table and counts its rows
    run      models make tables in the step's own dataset; its views show every table as it would be after publishing
    check    checks read the same views
    publish  one script increases the head's number, deletes and inserts the units of each table, records their state and commits

If the step is killed before the commit, nothing is changed. If the reply to the commit is lost, the job is found by its id. `tables.py`
defines the tables.
"""

from __future__ import annotations

import re
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from runspend.core.crash_points import crash_point
from runspend.core.errors import CheckFailed, RunspendError
from runspend.schema.tables import TABLES
from runspend.warehouse.base import Model, Unit, UnitState
from runspend.warehouse.bigquery.jobs import Jobs, Statement
from runspend.warehouse.bigquery.loads import stage_file
from runspend.warehouse.bigquery.publish import swap
from runspend.warehouse.bigquery.published import Head, fetch_rows, read_head
from runspend.warehouse.bigquery.tables import DAY_MS, Places, column_names, empty_table, make_dataset, quoted, sweep_steps, type_of
from runspend.warehouse.bigquery.units import StagedTable, columns_of, digest_identifies_rows, is_left, renamed, rows_of
from runspend.warehouse.content_digest import PIECES, PREFIX, Sums, sums_sql
from runspend.warehouse.dialect import table_names
from runspend.warehouse.parquet.engine import FILLED, empty_engine, measure_rows, month_of, used
from runspend.warehouse.parquet.files import conform, difference, rename_rows
from runspend.warehouse.parquet.units import checked_unit
from runspend.warehouse.sql_files import read_every_sql

SHOWN = 20  # maximum number of rows in the error of a failed check


@dataclass(frozen=True)
class StagedUnit:
    """A unit's new rows and their state. `sums` is None for rows from `put`, because their digest was computed locally."""

    parts: tuple[StagedTable, ...]
    state: UnitState
    sums: Sums | None = None


class BigQueryStep:
    """Replaces several units together. Readers see no change before `publish`."""

    def __init__(self, jobs: Jobs, places: Places, name: str, build_id: str, *, folder: Path, models: Path, checks: Path) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or not re.fullmatch(r"[A-Za-z0-9_.:-]+", build_id):
            raise ValueError(
                f"cannot begin step {name!r} with build {build_id!r}: use letters, digits, dots and dashes."
            )  # both appear in ids and views
        self.build_id = build_id
        self._jobs = jobs
        self._places = places
        self._models, self._checks = read_every_sql(models), read_every_sql(checks)
        self._name = name
        self._before = self._head()  # the head that the step's views show
        self._staged: dict[Unit, StagedUnit] = {}
        self._kept: dict[Unit, tuple[UnitState, Path]] = {}  # rows that are already published; loaded only if that changes meanwhile
        self._dropped: set[Unit] = set()
        self._fresh: set[str] = set()  # tables whose view in the step's dataset shows the current staged rows
        self._dataset: str | None = None
        self._parts = 0
        self._is_stale = False
        self._done = False
        self._folder = folder

    def put(self, table: str, period: str, writer: str, rows: Path | pa.Table, *, extra: Mapping[str, Any] | None = None) -> UnitState:
        """Stage rows that no model makes. `rows` is an Arrow table, or a Parquet file with the columns of `schema/tables.py`.

        A file is moved, not copied. If the same rows are already published and only the load id differs, they are not loaded again.
        """
        unit = checked_unit(table, period, writer)
        if isinstance(rows, Path):
            found, wanted = pq.read_schema(rows), TABLES[table].arrow_schema()
            if [(f.name, f.type) for f in found] != [(f.name, f.type) for f in wanted]:
                raise RunspendError(f"cannot put {rows} into {table}: {difference(found, wanted)}. Nothing was changed.")
            file = rows
        else:
            file = self._folder / f"{uuid.uuid4().hex}.parquet"
            pq.write_table(conform(rows, TABLES[table], self.build_id), file, compression="zstd")
        with empty_engine(self._folder / "spill") as connection:
            content = measure_rows(connection, TABLES[table], file, period)
        state = UnitState(content.digest, content.rows, self.build_id, dict(extra or {}))
        own = self._folder / f"{uuid.uuid4().hex}.parquet"
        shutil.move(file, own)
        before = self._before.units.get(unit)
        if before is not None and digest_identifies_rows(TABLES[table]) and replace(before, build_id=self.build_id) == state:
            self._staged.pop(unit, None)
            self._dropped.discard(unit)
            self._fresh.discard(table)
            self._kept[unit] = (before, own)
            return before
        return self._accept_file(unit, own, state)

    def drop(self, table: str, period: str, writer: str) -> None:
        """Stage the removal of a unit."""
        unit = checked_unit(table, period, writer)
        self._staged.pop(unit, None)
        self._kept.pop(unit, None)
        self._dropped.add(unit)
        self._fresh.discard(table)

    def rename(self, unit: Unit, writer: str, names: Mapping[str, tuple[str, str]], *, extra: Mapping[str, Any]) -> UnitState:
        """Stage the rows of a published unit under another writer, and rename values in some columns.

        `names`: {column: (old value, new value)}. An old value that ends in "/" is a prefix.
        """
        table, target = TABLES[unit.table], checked_unit(unit.table, unit.period, writer)
        if not self._before.units[unit].digest.startswith(PREFIX):
            return self._rename_here(unit, target, names, extra)
        where, given = rows_of(unit)
        columns = []
        for column in (c.name for c in table.columns):
            if column in names:
                given[f"old_{column}"], given[f"new_{column}"] = names[column]
            columns.append(renamed(column, names[column][0]) if column in names else column)
        part = self._make_part(f"select {', '.join(columns)} from {quoted(self._places.table(table))} where {where}", given, unit.table)
        if target != unit:
            self.drop(*unit)
        return self._accept_part(target, part, None, extra)

    def _rename_here(self, unit: Unit, target: Unit, names: Mapping[str, tuple[str, str]], extra: Mapping[str, Any]) -> UnitState:
        """Rename values in rows from `put` on this machine. Their digest is computed locally, so that the next load finds the same digest."""
        if unit not in self._head().units:
            raise RunspendError(
                f"cannot rename {' '.join(unit)}: it no longer exists. Nothing was changed. Run the command again while the pipeline does not run."
            )
        file = fetch_rows(self._jobs, self._places, unit, self._folder)
        with empty_engine(self._folder / "spill") as connection:
            renamed_file = rename_rows(connection, TABLES[unit.table], file, names, self._folder / f"{uuid.uuid4().hex}.parquet")
        if target != unit:
            self.drop(*unit)
        return self.put(*target, renamed_file, extra=extra)

    def run(self, models: Sequence[Model], parameters: Mapping[str, Any]) -> None:
        """Run `allocation/models/*.sql` in order over published and staged rows.

        Each model runs over all rows at once. Shards are only for engines with little memory.
        """
        for model in models:
            if model.into is None and model.target in TABLES:
                raise ValueError(f"cannot run model {model.name} without `into`: {model.target} is the name of a table.")
            text = self._read(self._models[model.name])
            given = used(text, parameters)
            if model.into is None:
                self._create(f"{self._scratch()}.{model.target}", text, given)
                continue
            unit = checked_unit(model.target, *model.into)
            part = self._make_part(text, given, unit.table, model.name)
            before = self._staged.get(unit) if model.fills is not None else None
            self._accept_part(unit, part, before, {})

    def cost_of(self, models: Sequence[Model], parameters: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
        """Yield each model's name and the bytes that it would read from the published tables. Uses dry runs, which cost nothing.

        Tables of earlier models are created without rows.
        """
        for model in models:
            text = self._read(self._models[model.name])
            _, size, schema = self._jobs.bytes_of(Statement(text, used(text, parameters)), dataset=self._scratch())
            yield model.name, size
            if model.into is None:
                made = f"{self._scratch()}.{model.target}"
                with self._jobs.translate_errors():
                    self._jobs.client.delete_table(made, not_found_ok=True)
                    self._jobs.client.create_table(empty_table(made, schema))

    def check(self, names: Sequence[str], parameters: Mapping[str, Any]) -> None:
        """Run `allocation/checks/*.sql` over the rows as they would be after publishing. Raises CheckFailed with up to 20 failing rows."""
        for name in names:
            text = self._read(self._checks[name])
            rows = self._jobs.ask(Statement(text, used(text, parameters)), dataset=self._scratch(), labels=self._labels(), at_most=SHOWN)
            if not rows.num_rows:
                continue
            if self._head().units != self._before.units:
                # Another process published meanwhile, so the views may have mixed two builds. `publish` then refuses this step.
                self._is_stale = True
                return
            period = parameters.get("period")
            raise CheckFailed(name, rows.to_pylist(), period=None if period is None else str(period)[:7])

    def state(self, unit: Unit) -> UnitState:
        """Return the state of a unit that this step has staged."""
        if unit in self._kept:
            return self._kept[unit][0]
        if unit not in self._staged:
            raise ValueError(f"cannot return the state of {unit}: the step has not staged it.")
        return self._staged[unit].state

    def publish(self, inputs: Mapping[Unit, str | None] | None = None) -> bool:
        """Make all staged units visible at once.

        `inputs`: the digest that each unit had when the step read it. If one has changed, the step is superseded: nothing is changed, and
        the result is False.
        """
        if self._done:
            raise RunspendError("cannot publish a step twice: begin another step.")
        self._done = True
        if self._is_stale:
            return False
        crash_point("publish.staged")
        asked = dict(inputs or {})
        while True:
            self._load_what_moved(asked)
            staged = {unit: (one.parts, one.state) for unit, one in self._staged.items()}
            kept = {unit: state.digest for unit, (state, _) in self._kept.items()}
            if swap(self._jobs, self._places, self.build_id, staged, self._dropped, kept | asked, self._labels()):
                return True
            units = self._head().units
            if any((units[unit].digest if unit in units else None) != digest for unit, digest in asked.items()):
                return False

    def close(self) -> None:
        """Delete the step's own dataset."""
        if self._dataset is not None:
            with self._jobs.translate_errors():
                self._jobs.client.delete_dataset(self._dataset, delete_contents=True, not_found_ok=True)

    def _head(self) -> Head:
        """Return the current state of all published units."""
        return read_head(self._jobs, self._places)

    def _read(self, text: str) -> str:
        """Return the SQL after creating the views of the tables that it reads."""
        self._show(table_names(text))
        return text

    def _load_what_moved(self, asked: Mapping[Unit, str | None]) -> None:
        """Load rows that were already published when `put` was called but no longer are.

        Skips the units in `asked`: if one of them has changed, the step is superseded.
        """
        units = self._head().units if self._kept else {}
        for unit, (state, file) in list(self._kept.items()):
            if unit not in asked and (unit not in units or units[unit].digest != state.digest):
                self._accept_file(unit, file, replace(state, build_id=self.build_id))

    def _accept_file(self, unit: Unit, file: Path, state: UnitState) -> UnitState:
        staged = stage_file(self._jobs, self._places, self._name, unit, file, state.rows, self._labels(unit.period))
        file.unlink()
        return self._accept(unit, StagedUnit((StagedTable(staged, tuple(c.name for c in TABLES[unit.table].columns)),), state))

    def _scratch(self) -> str:
        """Return the step's own dataset. The first call creates it."""
        if self._dataset is None:
            sweep_steps(self._jobs, self._places, datetime.now(timezone.utc) - timedelta(days=1))
            name = self._places.step(uuid.uuid4().hex[:16])
            make_dataset(self._jobs, name, DAY_MS, step=self._name)
            self._dataset = name
        return self._dataset

    def _show(self, names: Iterable[str]) -> None:
        """Create views of these tables that show the rows as they would be after publishing."""
        for name in sorted(set(names) & TABLES.keys() - self._fresh):
            table = TABLES[name]
            replaced = sorted(unit for unit in {*self._staged, *self._dropped} if unit.table == name)  # by month
            standing = {unit for unit in self._before.units if unit.table == name}
            kept = (
                " and ".join(
                    is_left(table, period, set(units), standing) for period, units in groupby(replaced, key=lambda unit: unit.period)
                )
                or "true"
            )
            shown = [f"select {column_names(table)} from {quoted(self._places.table(table))} where {kept}"]
            shown += [
                columns_of(table, part, self.build_id) for unit in replaced if unit in self._staged for part in self._staged[unit].parts
            ]
            sql = f"create or replace view {quoted(f'{self._scratch()}.{name}')} as {' union all '.join(shown)}"
            self._jobs.run(Statement(sql), dataset=self._scratch(), labels=self._labels())
            self._fresh.add(name)

    def _create(self, name: str, text: str, parameters: Mapping[str, Any]) -> None:
        self._jobs.run(
            Statement(f"create or replace table {quoted(name)} as\n{text}", parameters),
            dataset=self._scratch(),
            labels=self._labels(parameters.get("period")),
        )

    def _make_part(self, text: str, parameters: Mapping[str, Any], table: str, model: str | None = None) -> StagedTable:
        """Write the rows of a query to a new table in the step's dataset.

        Raises RunspendError if the query does not have the columns of `table`, or has floats where that table has money.
        """
        self._parts += 1
        name = f"{self._scratch()}.part_{self._parts}_{table}"
        self._create(name, text, parameters)
        with self._jobs.translate_errors():
            types = {field.name: type_of(field) for field in self._jobs.client.get_table(name).schema}
        wanted = {c.name for c in TABLES[table].columns}
        missing, extra = sorted(wanted - types.keys() - set(FILLED)), sorted(types.keys() - wanted)
        if missing or extra:
            raise RunspendError(
                f"cannot fill {table} from model {model or table}: it lacks {missing or 'nothing'} and has {extra or 'nothing'} in addition."
            )
        floats = [c.name for c in TABLES[table].columns if c.type == "BIGNUMERIC" and types.get(c.name) == "FLOAT64"]
        if floats:
            raise RunspendError(
                f"cannot fill {table} from model {model or table}: {floats} are floats, and Runspend does not cast floats to money."
            )
        return StagedTable(name, tuple(types))

    def _accept_part(self, unit: Unit, part: StagedTable, before: StagedUnit | None, extra: Mapping[str, Any]) -> UnitState:
        """Measure the rows in `part` and stage them. `before`: the rows of another model for the same unit, which are kept."""
        table = TABLES[unit.table]
        sums = Sums(0, (0,) * len(PIECES)) if before is None or before.sums is None else before.sums
        rows = f"({columns_of(table, part, self.build_id)})"
        if table.period_column is not None:
            self._refuse_strays(unit, rows)
        [found] = self._jobs.ask(Statement(sums_sql(table, rows)), dataset=self._scratch(), labels=self._labels(unit.period)).to_pylist()
        sums += Sums(found["row_count"], tuple(found[f"piece_{n}"] or 0 for n in PIECES))
        state = UnitState(sums.digest, sums.rows, self.build_id, dict(extra))
        return self._accept(unit, StagedUnit((*(before.parts if before is not None else ()), part), state, sums))

    def _refuse_strays(self, unit: Unit, rows: str) -> None:
        """Raise RunspendError if a row is of another month, because the next replacement of the unit would lose it."""
        column = TABLES[unit.table].period_column
        first, after = month_of(unit.period)
        sql = f"select count(*) as row_count, countif({column} is null or {column} < @first or {column} >= @after) as strays from {rows}"
        [found] = self._jobs.ask(
            Statement(sql, {"first": first, "after": after}), dataset=self._scratch(), labels=self._labels(unit.period)
        ).to_pylist()
        if found["strays"]:
            raise RunspendError(
                f"cannot put {found['strays']} of {found['row_count']} rows into {unit.table} of {unit.period}: their {column} is in another month. Nothing was changed."
            )

    def _accept(self, unit: Unit, staged: StagedUnit) -> UnitState:
        self._staged[unit] = staged
        self._kept.pop(unit, None)
        self._dropped.discard(unit)
        self._fresh.discard(unit.table)
        return staged.state

    def _labels(self, period: object = None) -> dict[str, str]:
        return {"step": self._name, **({} if period is None else {"period": str(period)[:7]})}
