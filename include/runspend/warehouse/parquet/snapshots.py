"""Keep the files of one build of a folder available while a reader reads them, even if others publish.

`pins.py` keeps single files. `reader.py` queries them.
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
from runspend.warehouse.base import Unit
from runspend.warehouse.parquet.journal import Folder
from runspend.warehouse.parquet.pins import pin_by_descriptor, pin_by_link, room_for_descriptors

HOLD = 120.0  # maximum seconds that a reader blocks publishers if it can keep the files only by holding the lock

log = logging.getLogger(__name__)


class Published(Protocol):
    """The parts of a warehouse that this module uses. They are read while the warehouse's lock is held."""

    folder: Folder

    def path(self, unit: Unit) -> Path:
        """Return the path of the unit's file."""
        ...

    def records(self, *tables: str) -> dict[Unit, dict[str, Any]]:
        """Return the record of every published unit."""
        ...

    def record(self, unit: Unit) -> dict[str, Any] | None:
        """Return the record of one unit, or None if the unit does not exist."""
        ...

    def columns(self) -> dict[str, list[str]]:
        """Return the columns of the published files of every table."""
        ...


@dataclass(frozen=True)
class Moment:
    """One build: the records of its units, paths of their files, and the columns of those files.

    Later publishes do not change the content at these paths.
    """

    records: Mapping[Unit, Mapping[str, Any]]
    files: Mapping[Unit, Path]
    columns: Mapping[str, list[str]]
    hold: Hold | None = None


@contextmanager
def moment_of(warehouse: Published, scratch: Path, only: Unit | None = None) -> Iterator[Moment]:
    """Yield the currently published units, or only the unit `only`.

    The lock is held only while files are opened, not while they are read. So readers do not block publishers. `scratch` is an empty
    folder of the caller, in which this function creates names of files.
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
    """Keep more files available than `pin_by_descriptor` keeps open by default.

    Tries three ways in turn: hard links to the files, then all descriptors that this process has left, then holding the lock.
    """
    with suppress(OSError):  # if this user may only read or the disk is full, continue with the next way, which writes nothing there
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
    """Holds the shared lock for at most HOLD seconds, for files that cannot be kept available in another way."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._is_ours = not folder.is_reading()  # if False, the lock belongs to an outer reader of this thread, which releases it
        self._lock = folder.hold()
        self._timer = threading.Timer(HOLD, self._end)
        self._timer.daemon = True
        self.interrupt: Callable[[], None] | None = None  # stops the running query when time is up

    @contextmanager
    def kept(self) -> Iterator[Hold]:
        """Hold the lock until the context ends, or for HOLD seconds. Publishers wait meanwhile."""
        self._timer.start()
        log.warning(
            "publishers wait for this reader, %g s at most: it cannot open all files of %s at once, and cannot create hard links to them.",
            HOLD,
            self._folder.root,
        )
        try:
            with self._folder.keeping(self._lock):
                yield self
        finally:
            self._timer.cancel()

    def check(self) -> None:
        """Raise RunspendError if the lock was released because HOLD seconds have passed."""
        if self._lock is not None and not self._lock.is_held:
            raise RunspendError(
                f"cannot continue reading {self._folder.root}: publishers waited {HOLD:g} s for it. Ask for less, or raise the limit of open files (ulimit -n)."
            )

    def _end(self) -> None:
        if not self._is_ours:
            return
        if self._lock is not None:
            self._lock.release()
        if self.interrupt is not None:
            self.interrupt()
