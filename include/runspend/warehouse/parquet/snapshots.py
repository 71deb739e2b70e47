"""What a folder of Parquet files had published at one moment, and its files, kept for as long as somebody reads them.

How files are kept belongs in `pins.py`, what is asked of them in `reader.py`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from runspend.core.errors import RunspendError
from runspend.warehouse import Unit
from runspend.warehouse.parquet.journal import Folder
from runspend.warehouse.parquet.pins import pin_by_descriptor, pin_by_link, room_for_descriptors

__all__ = ["Hold", "Moment", "moment_of"]

HOLD = 120.0  # seconds for which a reader keeps publishers waiting that has no way to keep files without the lock

log = logging.getLogger(__name__)


class Published(Protocol):
    """What is asked of a warehouse under its lock."""

    folder: Folder

    def path(self, unit: Unit) -> Path:
        """The unit's file."""
        ...

    def records(self, *tables: str) -> dict[Unit, dict[str, Any]]:
        """What is known of every published unit."""
        ...

    def record(self, unit: Unit) -> dict[str, Any] | None:
        """What is known of one unit."""
        ...

    def columns(self) -> dict[str, list[str]]:
        """Columns of the published files of every table."""
        ...


@dataclass(frozen=True)
class Moment:
    """One build: what is known of its units, names of their files that stay, and the columns they have."""

    records: Mapping[Unit, Mapping[str, Any]]
    files: Mapping[Unit, Path]
    columns: Mapping[str, list[str]]
    hold: Hold | None = None


@contextmanager
def moment_of(warehouse: Published, scratch: Path, only: Unit | None = None) -> Iterator[Moment]:
    """What is published now, or what is now of one unit. The lock is held while files are opened, not while they are read: no publish waits for whoever reads.

    `scratch` is a folder of the caller's alone, for names of files.
    """
    pinned = scratch / "pinned"
    pinned.mkdir()
    with ExitStack() as stack:
        with warehouse.folder.shared():
            moment = _read(warehouse, only=only)
            kept = pin_by_descriptor(moment.files, pinned, stack)
        if kept is None:
            moment, kept = _keep_many(warehouse, pinned, stack, only)
        yield moment if kept is None else Moment(moment.records, kept, moment.columns)


def _read(warehouse: Published, hold: Hold | None = None, only: Unit | None = None) -> Moment:
    records = warehouse.records() if only is None else {only: record} if (record := warehouse.record(only)) is not None else {}
    return Moment(records, {unit: warehouse.path(unit) for unit in records}, warehouse.columns(), hold)


def _keep_many(warehouse: Published, scratch: Path, stack: ExitStack, only: Unit | None) -> tuple[Moment, dict[Unit, Path] | None]:
    """More files than one may have open: second names, else all descriptors there are, else the lock, for a while."""
    with suppress(OSError):  # somebody who may only read, or a disk that is full: the next way needs no room
        stage = stack.enter_context(warehouse.folder.stage("read"))
        with warehouse.folder.shared():
            moment = _read(warehouse, only=only)
            if (kept := pin_by_link(moment.files, stage.path)) is not None:
                return moment, kept
    with warehouse.folder.shared():
        moment = _read(warehouse, only=only)
        if (kept := pin_by_descriptor(moment.files, scratch, stack, few=room_for_descriptors())) is not None:
            return moment, kept
    hold = stack.enter_context(Hold(warehouse.folder).kept())
    return _read(warehouse, hold, only), None


class Hold:
    """The shared lock for HOLD seconds at most, where files cannot be kept in another way."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._is_ours = not folder.is_reading()  # else the lock of an outer reader of this thread, who ends it
        self._lock = folder.hold()
        self._timer = threading.Timer(HOLD, self._end)
        self._timer.daemon = True
        self.interrupt: Callable[[], None] | None = None  # stops what is being read when time is up

    @contextmanager
    def kept(self) -> Iterator[Hold]:
        """Publishers wait until then, or until time is up."""
        self._timer.start()
        log.warning("publishers wait for this reader, %g s at most: %s allows neither so many open files nor second names of files.", HOLD, self._folder.root)
        try:
            with self._folder.keeping(self._lock):
                yield self
        finally:
            self._timer.cancel()

    def check(self) -> None:
        """RunspendError when time is up."""
        if self._lock is not None and not self._lock.is_held:
            raise RunspendError(f"cannot go on reading {self._folder.root}: publishers waited {HOLD:g} s for it. Ask for less, or raise the limit of open files (ulimit -n).")

    def _end(self) -> None:
        if not self._is_ours:
            return
        if self._lock is not None:
            self._lock.release()
        if self.interrupt is not None:
            self.interrupt()
