"""The warehouse in a folder: one Parquet file per table, month and writer, read by DuckDB.

    <root>/<table>/period=YYYY-MM/<writer>.parquet              public tables
    <root>/_internal/<table>/period=YYYY-MM/<writer>.parquet    internal tables
    <root>/_runspend/                                           journal, lock, staging, state of every unit, schema version

The folder of a table contains only finished files. `reader.py` reads them, `step.py` replaces units, and `journal.py` changes several
files at once. Opening a warehouse and listing its units needs no engine, so this module does not import one at the top.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runspend.core.crash_points import crash_point
from runspend.core.errors import ConfigError, WarehouseDamaged
from runspend.core.own_files import fsync_path
from runspend.schema.former_names import FORMER, published_columns
from runspend.schema.tables import SCHEMA_VERSION, TABLES
from runspend.warehouse.base import ALLOCATION, Unit, UnitState
from runspend.warehouse.parquet.base import Pinned, StagedFiles
from runspend.warehouse.parquet.journal import Folder, write_json
from runspend.warehouse.parquet.pins import link
from runspend.warehouse.parquet.queried_files import QueriedFiles
from runspend.warehouse.parquet.snapshots import Moment, moment_of
from runspend.warehouse.parquet.units import SCHEMA_NAME, file_name, is_unit_name, state_name, state_of, unit_of_file, unit_of_text
from runspend.warehouse.parquet.verification import (
    BEHIND,
    INDEX,
    Guard,
    VerificationNotes,
    as_published,
    judge,
    lost,
    read_schema,
    read_state,
    seal,
    sha256_of,
    signature_of,
    why_damaged,
)

if TYPE_CHECKING:
    import duckdb

    from runspend.warehouse.parquet.reader import ParquetReader


def open_folder(root: Path) -> Folder:
    """Return the bookkeeping of a warehouse folder. Its journal may change only files of units and `schema.json`."""
    return Folder(root, is_target=lambda name: name == SCHEMA_NAME or is_unit_name(name), is_removable=is_unit_name)


class ParquetWarehouse(QueriedFiles):
    """Tables in a folder. Opening the warehouse finishes any publish that was killed."""

    def __init__(self, root: Path, *, models: Path = ALLOCATION / "models", checks: Path = ALLOCATION / "checks") -> None:
        self.root = root.absolute()
        super().__init__(open_folder(self.root), models, checks)
        self.verified = VerificationNotes(self.folder.home)
        self.columns()  # raises ConfigError if a newer version of Runspend wrote the warehouse

    def states(self, *tables: str) -> dict[Unit, UnitState]:
        """Return the published units of these tables, or of all tables if none is named. Inside a reader, return the units that it sees."""
        if (seen := self._seen()) is not None:
            return {unit: state_of(record) for unit, record in seen.records.items() if not tables or unit.table in tables}
        with self.folder.shared():
            return {unit: state_of(record) for unit, record in self.records(*tables).items()}

    @contextmanager
    def _one(self, unit: Unit) -> Iterator[tuple[Path, list[str]] | None]:
        if (seen := self._seen()) is not None:
            yield self._checked(seen, unit)
            return
        with tempfile.TemporaryDirectory(prefix="runspend-") as scratch, moment_of(self, Path(scratch), unit) as moment:
            yield self._checked(moment, unit)

    def _checked(self, moment: Moment, unit: Unit) -> tuple[Path, list[str]] | None:
        if unit not in moment.files:
            return None
        self._guard(moment)([unit])
        return moment.files[unit], moment.columns[unit.table]

    def _seen(self) -> Moment | None:
        """Return the pinned state of the reader that this thread has open, or None if it has none open."""
        seen: Moment | None = getattr(self._reading, "moment", None)
        return seen

    @contextmanager
    def _reader(self, engine: Callable[[Path], AbstractContextManager[duckdb.DuckDBPyConnection]]) -> Iterator[ParquetReader]:
        from runspend.warehouse.parquet.reader import ParquetReader

        with (
            tempfile.TemporaryDirectory(prefix="runspend-") as scratch,
            moment_of(self, Path(scratch)) as moment,
            engine(Path(scratch) / "spill") as connection,
            closing(
                ParquetReader(moment.files, moment.columns, connection, self._guard(moment), hold=moment.hold, seen=self._seen_by)
            ) as reader,
        ):
            outer = self._seen()
            self._reading.moment = moment
            try:
                yield reader
            finally:
                self._reading.moment = outer

    def find_damage(
        self, units: Collection[Unit] | None = None, *, since: float | None = None, progress: Callable[[str], None] = lambda _: None
    ) -> dict[Unit, str]:
        """Return the damaged units among `units` (None: all), each with the reason. Records the result for readers.

        Hashes every file that was not hashed at `since` or later (Unix seconds; None: every file).
        """
        began = time.time()
        since = began if since is None else since
        with self.folder.shared():
            files = {unit: (self.path(unit), record) for unit, record in self.records().items() if units is None or unit in units}
            known = self.verified.read()
        whole, suspects = judge(files, known, since, progress)  # without the lock, so publishers do not wait
        with self.folder.shared():  # check again: a unit that another process replaced meanwhile is not damaged
            now = self.records(*{unit.table for unit in suspects}) if suspects else {}
            again = {unit: (self.path(unit), now[unit]) for unit in suspects if unit in now}
            more, damaged = judge(again, known, since)
        self.verified.note(whole | more, damaged, hashed_at=began)
        if units is None and (why := self.verified.units()[1]) is not None:
            damaged[INDEX] = why
        return damaged

    def path(self, unit: Unit) -> Path:
        """Return the path of the unit's file."""
        return self.root / file_name(unit)

    def state_path(self, unit: Unit) -> Path:
        """Return the path of the unit's state file, which is moved together with the unit's file."""
        return self.root / state_name(unit)

    def records(self, *tables: str) -> dict[Unit, dict[str, Any]]:
        """Return the state of every published unit. The caller holds a lock.

        If a state file is damaged or missing, the result has a placeholder for it (see `verification.lost`).
        """
        return {unit: record for unit, record in self._all_records(*tables).items() if unit not in self._left_out}

    def _all_records(self, *tables: str) -> dict[Unit, dict[str, Any]]:
        found: dict[Unit, dict[str, Any]] = {}
        for table in tables or TABLES:
            for path in sorted((self.folder.home / "units" / table).glob("*/*.json")):
                unit = unit_of_text(f"{table}/{path.parent.name}/{path.stem}", path)
                if (record := read_state(path, unit)) is not None:
                    found[unit] = record
        return found | self._without_state(found, tables or TABLES.keys())

    def _without_state(self, found: Collection[Unit], tables: Collection[str]) -> dict[Unit, dict[str, Any]]:
        """Return placeholders for units whose state file is missing.

        The index lists all units. If it is missing or damaged too, the names of the Parquet files do.
        """
        if (missing := self.verified.missing(found, tables)) is not None:
            return missing
        names = (
            path.relative_to(self.root).as_posix()
            for table in tables
            for path in (self.root / file_name(Unit(table, "*", "*"))).parent.parent.glob("period=*/*.parquet")
        )
        units = {unit_of_file(name) for name in names if is_unit_name(name)}
        return {unit: lost("its state file is gone") for unit in sorted(units - set(found))}

    def record(self, unit: Unit) -> dict[str, Any] | None:
        """Return the state of one unit as `records` does, or None if the unit does not exist. The caller holds a lock."""
        if unit in self._left_out:
            return None
        return read_state(self.state_path(unit), unit) or self._without_state((), (unit.table,)).get(unit)

    def _guard(self, moment: Moment) -> Guard:
        return Guard({unit: (file, moment.records[unit]) for unit, file in moment.files.items()}, self.verified.read())

    def columns(self) -> dict[str, list[str]]:
        """Return the columns of the published files of every table. Columns with former values are marked (see `schema/former_names.py`).

        Raises WarehouseDamaged if `schema.json` is damaged, and ConfigError if a newer version of Runspend wrote it.
        """
        schema, why = read_schema(self.root / SCHEMA_NAME)
        if why is not None:
            raise WarehouseDamaged({SCHEMA_NAME: why})
        if schema is None:
            return {t.name: [c.name for c in t.columns] for t in TABLES.values()}
        if schema["version"] > SCHEMA_VERSION:
            raise ConfigError(
                f"cannot use warehouse {self.root}: it has schema version {schema['version']}, this runspend knows {SCHEMA_VERSION}. "
                "Install the newer runspend. Nothing was changed."
            )
        return published_columns(schema["version"], {table: schema["tables"].get(table, []) for table in TABLES})

    def upgrade(self, stage: Path) -> None:
        """Rewrite files of an older version with the current columns and values. The caller holds the exclusive lock.

        A damaged file is skipped, so that it does not block publishing. It stays unreadable until it is replaced, or until someone
        restores it and `widen_restored` upgrades it.
        """
        target = self.root / SCHEMA_NAME
        schema, why = read_schema(target)
        if why is None and schema is not None and schema["version"] == SCHEMA_VERSION:
            return
        have, known = self.columns(), self.verified.read()
        moves = []
        for number, (unit, record) in enumerate(self._all_records().items()):
            if have[unit.table] == [c.name for c in TABLES[unit.table].columns]:
                continue
            file = stage / f"upgrade-{number}.parquet"
            if why_damaged(unit, self.path(unit), record, known, since=None) is None:
                moves += self._widened(unit, record, file)
            elif "why" not in record:  # a record with "why" is a placeholder for a lost state, so there is nothing to write
                write_json(file.with_suffix(".json"), seal({BEHIND: [name.removeprefix(FORMER) for name in have[unit.table]], **record}))
                moves += [(file.with_suffix(".json"), self.state_path(unit))]
        note = stage / "schema.json"
        write_json(note, seal({"version": SCHEMA_VERSION, "tables": {t.name: [c.name for c in t.columns] for t in TABLES.values()}}))
        self.folder.commit([*moves, (note, target)], [], {"upgrade": SCHEMA_VERSION})

    def widen_restored(self) -> None:
        """Upgrade files that were damaged during the upgrade and are intact again. Takes the exclusive lock."""
        with self.folder.stage("restored") as stage, self.folder.exclusive():
            moves, known = [], self.verified.read()
            for number, (unit, record) in enumerate(self._all_records().items()):
                if BEHIND in record and why_damaged(unit, self.path(unit), as_published(record), known, since=None) is None:
                    moves += self._widened(unit, record, stage.path / f"upgrade-{number}.parquet")
            self.folder.commit(moves, [], {"upgrade": SCHEMA_VERSION})

    def _widened(self, unit: Unit, record: Mapping[str, Any], file: Path) -> list[tuple[Path, Path]]:
        """Write a unit's rows to `file` with the current columns and values. Return the moves that publish it."""
        from runspend.warehouse.parquet.files import add_columns

        add_columns(self.path(unit), file, TABLES[unit.table])
        return [(file, self.path(unit)), (_write_state(file, unit, as_published(record)), self.state_path(unit))]

    def pin(self, folder: Path) -> Pinned:
        """Return the currently published files under names in `folder` that later publishes do not change."""
        pinned: dict[Unit, Path] = {}
        with self.folder.shared():
            columns, records, known = self.columns(), self.records(), self.verified.read()
            for unit in records:
                pin = folder / unit.table / f"{unit.period}+{unit.writer}.parquet"
                pin.parent.mkdir(parents=True, exist_ok=True)
                pinned[unit] = link(self.path(unit), pin)
        return Pinned(pinned, columns, Guard({unit: (pinned[unit], record) for unit, record in records.items()}, known))

    def replace(
        self, staged: Mapping[Unit, StagedFiles], dropped: set[Unit], inputs: Mapping[Unit, str | None], *, stage: Path, build_id: str
    ) -> bool:
        """Make all units of a step visible at once. Returns False, and changes nothing, if the digest of an input has changed."""
        moves: list[tuple[Path, Path]] = []
        for unit, one in staged.items():
            fsync_path(one.file)
            state = _write_state(one.file, unit, one.record)
            moves += [(one.file, self.path(unit)), (state, self.state_path(unit))]
        fsync_path(stage)
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
                with self.verified.indexing(self._all_records, staged, dropped):
                    self.folder.commit(moves, removals, {"build_id": build_id})
                self._note_published(staged, dropped)
                self._left_out -= staged.keys() | dropped
        return True

    def _note_published(self, staged: Mapping[Unit, StagedFiles], dropped: set[Unit]) -> None:
        records = {unit: record for unit in staged if (record := read_state(self.state_path(unit), unit)) is not None}
        self.verified.note({unit: (signature_of(self.path(unit)), record["sha256"]) for unit, record in records.items()}, {}, dropped)


def _write_state(file: Path, unit: Unit, record: Mapping[str, Any]) -> Path:
    path = file.with_suffix(".json")
    write_json(path, seal({**record, "unit": list(unit), "bytes": file.stat().st_size, "sha256": sha256_of(file)}))
    return path
