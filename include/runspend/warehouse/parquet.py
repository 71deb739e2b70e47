"""The warehouse in a folder: one Parquet file per table, month and writer, read by DuckDB.

    <root>/<table>/period=YYYY-MM/<writer>.parquet              public tables
    <root>/_internal/<table>/period=YYYY-MM/<writer>.parquet    the others
    <root>/_runspend/                                           journal, lock, staging, state of every unit, schema version

Nothing but finished files lies under a table's folder. Reading belongs in `reader.py`, replacing in `step.py`, how several
files change at once in `journal.py`. To open a warehouse and see what it has takes no engine: none is imported here at first.
"""

from __future__ import annotations

import hashlib
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from runspend.errors import ConfigError
from runspend.tables import SCHEMA_VERSION, TABLES
from runspend.warehouse import Unit, UnitState
from runspend.warehouse.journal import Folder, crash_point, fsync_file, fsync_folder, read_json, write_json
from runspend.warehouse.moments import Moment, moment_of
from runspend.warehouse.pins import link
from runspend.warehouse.units import SCHEMA_NAME, check_schema, check_state, checked_unit, file_name, is_unit_name, state_name, unit_of_text

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from runspend.warehouse.engine import Content
    from runspend.warehouse.reader import ParquetReader
    from runspend.warehouse.step import ParquetStep

__all__ = ["PACKAGE", "ParquetWarehouse", "Place", "Staged", "checked_unit", "sha256_of", "state_of"]

PACKAGE = Path(__file__).parent.parent


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
        self.folder = Folder(self.root, is_target=lambda name: name == SCHEMA_NAME or is_unit_name(name), is_removable=is_unit_name)
        self.folder.recover()
        self._reading = threading.local()
        self.columns()  # refuses a warehouse newer than the code

    def states(self, *tables: str) -> dict[Unit, UnitState]:
        """Published units of these tables (all tables when none is named); inside a reader those it sees."""
        if (seen := self._seen()) is not None:
            return {unit: state_of(record) for unit, record in seen.records.items() if not tables or unit.table in tables}
        with self.folder.shared():
            return {unit: state_of(record) for unit, record in self.records(*tables).items()}

    def read(self, unit: Unit) -> pa.Table | None:
        """The rows of one published unit, in today's columns; None when there is none."""
        with self._one(unit) as found:
            if found is None:
                return None
            import pyarrow.parquet as pq

            from runspend.warehouse.files import with_columns

            with pq.ParquetFile(found[0]) as file:
                return with_columns(file.read(), TABLES[unit.table])

    def fetch(self, unit: Unit, folder: Path) -> Path | None:
        """The rows of one published unit as a Parquet file in `folder`, the caller's to keep, in today's columns; None when there is none."""
        with self._one(unit) as found:
            if found is None:
                return None
            from runspend.warehouse.files import as_own_file

            file, columns = found
            return as_own_file(file, folder, TABLES[unit.table], columns)

    @contextmanager
    def _one(self, unit: Unit) -> Iterator[tuple[Path, list[str]] | None]:
        """A name for the file of one unit, and its columns: as an open reader of this thread sees it, else as it is now."""
        if (seen := self._seen()) is not None:
            yield (seen.files[unit], seen.columns[unit.table]) if unit in seen.files else None
            return
        with tempfile.TemporaryDirectory(prefix="runspend-") as scratch, moment_of(self, Path(scratch), unit) as moment:
            yield (moment.files[unit], moment.columns[unit.table]) if unit in moment.files else None

    def _seen(self) -> Moment | None:
        """What the reader that is open in this thread sees."""
        seen: Moment | None = getattr(self._reading, "moment", None)
        return seen

    @contextmanager
    def reader(self) -> Iterator[ParquetReader]:
        """One consistent view: no publish is seen half done. No publish waits for it."""
        from runspend.warehouse.engine import empty_engine

        with self._reader(empty_engine) as reader:
            yield reader

    @contextmanager
    def _reader(self, engine: Callable[[Path], AbstractContextManager[duckdb.DuckDBPyConnection]]) -> Iterator[ParquetReader]:
        from runspend.warehouse.reader import ParquetReader

        with (
            tempfile.TemporaryDirectory(prefix="runspend-") as scratch,
            moment_of(self, Path(scratch)) as moment,
            engine(Path(scratch) / "spill") as connection,
            closing(ParquetReader(moment.files, moment.columns, connection, hold=moment.hold)) as reader,
        ):
            outer = self._seen()
            self._reading.moment = moment
            try:
                yield reader
            finally:
                self._reading.moment = outer

    def answer(self, sql: str, *, native: bool = False, timeout: float | None = None) -> pa.Table:
        """Rows of one statement that people wrote: it reads the published tables and nothing else, for `timeout` seconds at most."""
        from runspend.warehouse.engine import guarded_engine

        with self._reader(guarded_engine) as reader:
            return reader.answer(sql, native=native, timeout=timeout)

    @contextmanager
    def step(self, name: str, build_id: str) -> Iterator[ParquetStep]:
        """Begin replacing units. Leaving without `publish` throws the staged rows away."""
        from runspend.warehouse.step import begin

        with self.folder.stage(name) as stage, begin(self, stage, build_id) as step:
            yield step

    def verify(self) -> list[Unit]:
        """Units whose file is not, byte for byte, the one that was published. Reads every file."""
        with self.folder.shared():
            return [unit for unit, record in self.records().items() if not self._is_whole(unit, record)]

    def path(self, unit: Unit) -> Path:
        """The unit's file."""
        return self.root / file_name(unit)

    def state_path(self, unit: Unit) -> Path:
        """What is known of the unit, beside its file and moved with it."""
        return self.root / state_name(unit)

    def records(self, *tables: str) -> dict[Unit, dict[str, Any]]:
        """The state file of every published unit. The caller holds a lock."""
        found: dict[Unit, dict[str, Any]] = {}
        for table in tables or TABLES:
            for path in sorted((self.folder.home / "units" / table).glob("*/*.json")):
                unit = unit_of_text(f"{table}/{path.parent.name}/{path.stem}", path)
                found[unit] = check_state(read_json(path), path, unit)
        return found

    def columns(self) -> dict[str, list[str]]:
        """Columns that the published files of every table have."""
        schema = self._schema()
        if schema is None:
            return {t.name: [c.name for c in t.columns] for t in TABLES.values()}
        if schema["version"] > SCHEMA_VERSION:
            raise ConfigError(
                f"cannot use warehouse {self.root}: it has schema version {schema['version']}, this runspend knows {SCHEMA_VERSION}. "
                "Install the newer runspend. Nothing was changed."
            )
        return {table: schema["tables"].get(table, []) for table in TABLES}

    def _schema(self) -> dict[str, Any] | None:
        path = self.root / SCHEMA_NAME
        value = read_json(path)
        return None if value is None else check_schema(value, path)

    def upgrade(self, stage: Path) -> None:
        """Give files of an older version the columns they lack. The caller holds the exclusive lock."""
        target = self.root / SCHEMA_NAME
        schema = self._schema()
        if schema is not None and schema["version"] == SCHEMA_VERSION:
            return
        from runspend.warehouse.files import add_columns

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
                pinned[unit] = link(self.path(unit), pin)
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
