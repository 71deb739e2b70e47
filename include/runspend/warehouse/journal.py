"""A folder whose files change several at once: one lock, one journal, staging folders that die with their owner.

Every file is old or new, never torn: a step stages finished files, writes down the moves (the commit point), makes them, and
drops the note. Whoever comes next finishes the moves of a publish that was killed. What the files hold does not belong here.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runspend.errors import RunspendError

__all__ = ["Folder", "Stage", "crash_point", "fsync_file", "fsync_folder", "read_json", "write_json"]


def crash_point(name: str) -> None:
    """Where the tests kill the process, by name; nothing in production."""
    if os.environ.get("RUNSPEND_CRASH_AT") == name:
        os.kill(os.getpid(), signal.SIGKILL)


def fsync_file(path: Path) -> None:
    """Make a finished file survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


fsync_folder = fsync_file  # a folder is synced the same way: its names, not its files


def write_json(path: Path, value: object) -> None:
    """A whole JSON file or none."""
    scratch = path.with_name(path.name + ".tmp")
    with scratch.open("w", encoding="utf-8") as file:
        json.dump(value, file, ensure_ascii=False, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    os.replace(scratch, path)
    fsync_folder(path.parent)


def read_json(path: Path) -> Any:
    """The value of a JSON file, None when there is no such file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise RunspendError(f"cannot read {path}: {error}. The file is damaged; restore it from a copy.") from error


class Stage:
    """A folder of one step's unfinished files. Its lock tells others that the owner lives."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True)
        self._lock = os.open(path / "owner.lock", os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def close(self, *, keep: bool) -> None:
        """Release the folder; `keep` leaves it to whoever finishes the journal that names its files."""
        try:
            if not keep:
                shutil.rmtree(self.path)
        finally:
            os.close(self._lock)


class Folder:
    """The bookkeeping of a warehouse folder, all of it under `<root>/_runspend/`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.home = root / "_runspend"
        self._journal = self.home / "journal.json"
        self._lock = self.home / "lock"
        self._stages = self.home / "stage"
        self._reading = threading.local()

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Nobody publishes meanwhile, and no publish is half done. Many may hold it."""
        if not self._lock.exists():  # nothing was ever published: nothing to be kept from
            yield
            return
        while True:
            descriptor = os.open(self._lock, os.O_RDONLY)
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            if not self._journal.exists():
                break
            os.close(descriptor)
            if not os.access(self.home, os.W_OK):
                raise RunspendError(f"cannot read {self.root}: a publish was killed half way. Run any runspend command as somebody who may write there.")
            self.recover()
        self._reading.depth = getattr(self._reading, "depth", 0) + 1
        try:
            yield
        finally:
            self._reading.depth -= 1
            os.close(descriptor)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Nobody reads or publishes meanwhile. A killed publish is finished first."""
        if getattr(self._reading, "depth", 0):
            raise RunspendError("cannot publish: this thread still holds a reader of the same warehouse. Close the reader first.")
        self.home.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            self._finish_journal()
            yield
        finally:
            os.close(descriptor)

    def recover(self) -> None:
        """Finish a publish that was killed and sweep the staging folders of dead processes."""
        if not os.access(self.home, os.W_OK):  # nothing there yet, or somebody who may only read
            return
        if self._journal.exists():
            with self.exclusive():
                self._sweep()
            return
        if not self._lock.exists():
            return
        descriptor = os.open(self._lock, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # somebody reads or publishes: the next one sweeps
            return
        else:
            self._finish_journal()
            self._sweep()
        finally:
            os.close(descriptor)

    @contextmanager
    def stage(self, name: str) -> Iterator[Stage]:
        """A staging folder that others leave alone while this process lives."""
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
            raise ValueError(f"cannot name a step {name!r}: use letters, digits, dots and dashes.")
        self.home.mkdir(parents=True, exist_ok=True)
        self._lock.touch(exist_ok=True)
        with self.shared():  # a sweep holds the exclusive lock: it cannot see the folder before it is locked
            stage = Stage(self._stages / f"{name}-{os.getpid()}-{uuid.uuid4().hex[:8]}")
        try:
            yield stage
        finally:
            with self._unswept():
                stage.close(keep=self._journal_names(stage))

    @contextmanager
    def _unswept(self) -> Iterator[None]:
        """Nobody sweeps meanwhile: a folder that is going away has no lock any more that would say whose it is."""
        descriptor = os.open(self._lock, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            yield
        finally:
            os.close(descriptor)

    def commit(self, moves: Sequence[tuple[Path, Path]], removals: Sequence[Path], note: dict[str, Any]) -> None:
        """Make all moves and removals, or none. The caller holds the exclusive lock; every source is fsynced."""
        folders = {target.parent for _, target in moves}
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        relative = [[str(source.relative_to(self.root)), str(target.relative_to(self.root))] for source, target in moves]
        journal = {**note, "moves": relative, "removals": [str(p.relative_to(self.root)) for p in removals]}
        crash_point("publish.before_journal")
        write_json(self._journal, journal)
        crash_point("publish.after_journal")
        self._finish_journal()

    def _finish_journal(self) -> None:
        journal = read_json(self._journal)
        if journal is None:
            return
        folders: set[Path] = set()
        for number, (source, target) in enumerate(journal["moves"]):
            path = self.root / target
            path.parent.mkdir(parents=True, exist_ok=True)
            if (self.root / source).exists():  # else it was moved before the kill
                os.replace(self.root / source, path)
            folders.add(path.parent)
            if number == 0:
                crash_point("publish.after_first_move")
        for target in journal["removals"]:
            (self.root / target).unlink(missing_ok=True)
            folders.add((self.root / target).parent)
        crash_point("publish.after_moves")
        for folder in sorted(folders):
            while not folder.exists() or not any(folder.iterdir()):  # what a dropped unit leaves behind
                if folder.exists():
                    folder.rmdir()
                folder = folder.parent
            fsync_folder(folder)
        self._journal.unlink()
        fsync_folder(self.home)
        crash_point("publish.after_journal_dropped")

    def _journal_names(self, stage: Stage) -> bool:
        if not self._journal.exists():
            return False
        prefix = str(stage.path.relative_to(self.root)) + "/"
        journal = read_json(self._journal)
        return journal is not None and any(source.startswith(prefix) for source, _ in journal["moves"])

    def _sweep(self) -> None:
        """Remove staging folders whose owner is gone. The caller holds the exclusive lock, and no journal is left."""
        if not self._stages.exists():
            return
        for path in self._stages.iterdir():
            lock = path / "owner.lock"
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:  # its owner lives
                continue
            else:
                shutil.rmtree(path)
            finally:
                os.close(descriptor)
