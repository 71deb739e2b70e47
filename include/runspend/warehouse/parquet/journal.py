"""A folder whose files change several at once: one lock, one journal, staging folders that die with their owner.

Every file is old or new, never torn: a step stages finished files, writes down the moves (the commit point), makes them, and
drops the note. Whoever comes next finishes the moves of a publish that was killed. What the files hold does not belong here.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
import signal
import stat
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from runspend.core.errors import RecordRefused, RunspendError
from runspend.core.own_files import Inside, own_folder, read_json, refused, write_whole
from runspend.warehouse.parquet.locks import Locks, SharedLock, open_lock
from runspend.warehouse.parquet.units import is_staged_name

__all__ = ["Folder", "Stage", "crash_point", "fsync_file", "fsync_folder", "read_json", "write_json"]
LOCK_NAME = "owner.lock"  # of a staging folder
REFUSED_JOURNAL = (
    "Find out who can write there, then move the journal out of the folder and run the pipeline: it builds again what a publish may have left undone."
)


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
    write_whole(path, json.dumps(value, ensure_ascii=False, sort_keys=True).encode("utf-8"), is_alone=True)


class Stage:
    """A folder of one step's unfinished files. Its lock tells others that the owner lives."""

    def __init__(self, path: Path) -> None:
        self.path = path
        own_folder(path.parent)
        path.mkdir()
        self._lock = open_lock(path / LOCK_NAME, create=True)
        fcntl.flock(self._lock, fcntl.LOCK_EX)  # nobody else can have it: a sweep is kept out until this returns

    def close(self, *, keep: bool) -> None:
        """Release the folder; `keep` leaves it to whoever finishes the journal that names its files.

        The lock goes last: until then nobody sweeps the folder, so no other lock has to be waited for. A sweep that comes between
        the lock's end and the folder's removes what is left, which is the empty folder.
        """
        try:
            if not keep:
                for path in self.path.iterdir():
                    if path.name != LOCK_NAME:
                        _remove(path)
                (self.path / LOCK_NAME).unlink(missing_ok=True)
                with suppress(FileNotFoundError):
                    _remove_folder(self.path)
        finally:
            os.close(self._lock)


def _remove(path: Path) -> None:
    """A file, a link, or a folder with all that is in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _remove_folder(path: Path) -> None:
    """An empty folder. One in which a sweep has just made a lock of its own is left to that sweep."""
    try:
        path.rmdir()
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise


def no_target(_: str) -> bool:
    """A folder in which nothing is ever published by a journal."""
    return False


_holding = threading.local()  # shared locks of each thread, by folder


class Folder:
    """The bookkeeping of a warehouse folder, all of it under `<root>/_runspend/`.

    `is_target`: whether a journal may move a file to a name below the root, and `is_removable`, whether it may remove one. Whoever can
    write to the folder could have written the journal: what is not a move from the stage to such a name is refused, and nothing is done.
    """

    def __init__(self, root: Path, *, is_target: Callable[[str], bool] = no_target, is_removable: Callable[[str], bool] = no_target) -> None:
        self.root = root
        self._is_target, self._is_removable = is_target, is_removable
        self.home = root / "_runspend"
        self._journal = self.home / "journal.json"
        self.locks = Locks(self.home)
        self._stages = self.home / "stage"

    def hold(self) -> SharedLock | None:
        """The shared lock, at a moment when no publish is half done: this thread's, if it has one, for a waiting publisher keeps a second one from it.

        None where nothing was ever published: there is nothing to be kept from.
        """
        for lock in self._held():
            if lock.is_held:
                return lock
        while os.path.lexists(self.locks.file):  # a link that leads nowhere is refused, not taken for a folder without a lock
            lock = self.locks.shared()
            if not os.path.lexists(self._journal):
                return lock
            lock.release()
            if not os.access(self.home, os.W_OK):
                raise RunspendError(f"cannot read {self.root}: a publish was killed half way. Run any runspend command as somebody who may write there.")
            self.recover()
        return None

    @contextmanager
    def keeping(self, lock: SharedLock | None) -> Iterator[None]:
        """Hold that lock until then."""
        mine = self._held()
        if lock is None or lock in mine:
            yield
            return
        mine.append(lock)
        try:
            yield
        finally:
            mine.remove(lock)
            lock.release()

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Nobody publishes meanwhile, and no publish is half done. Publishers wait for whoever holds it: open files under it, read them after it."""
        with self.keeping(self.hold()):
            yield

    def _held(self) -> list[SharedLock]:
        """Locks of this folder that this thread has, whichever object it took them through."""
        if not hasattr(_holding, "locks"):
            _holding.locks = {}
        held: dict[Path, list[SharedLock]] = _holding.locks
        return held.setdefault(self.home, [])

    def is_reading(self) -> bool:
        """Whether this thread has the shared lock already."""
        return any(lock.is_held for lock in self._held())

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Nobody reads or publishes meanwhile. A killed publish is finished first."""
        if self.is_reading():
            raise RunspendError("cannot publish: this thread still holds a reader of the same warehouse. Close the reader first. Nothing was changed.")
        self.home.mkdir(parents=True, exist_ok=True)
        self.locks.make()
        with self.locks.exclusive():
            self._finish_journal()
            yield

    def recover(self) -> None:
        """Finish a publish that was killed and sweep the staging folders of dead processes."""
        if self.home.is_symlink():
            raise refused(self.home, "it is a link, and Runspend moves and removes files in it", do="Make it a folder, or set warehouse.uri to the place that it leads to.")
        if not os.access(self.home, os.W_OK):  # nothing there yet, or somebody who may only read
            return
        if os.path.lexists(self._journal):
            with self.exclusive():
                self._sweep()
            return
        if not os.path.lexists(self.locks.file) or not self._is_anybody_dead():
            return
        with self.locks.at_once() as is_ours:  # else somebody reads or publishes: the next one sweeps
            if is_ours:
                self._finish_journal()
                self._sweep()

    @contextmanager
    def stage(self, name: str) -> Iterator[Stage]:
        """A staging folder that others leave alone while this process lives."""
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
            raise ValueError(f"cannot name a step {name!r}: use letters, digits, dots and dashes.")
        self.home.mkdir(parents=True, exist_ok=True)
        self.locks.make()
        with self.shared():  # a sweep holds the exclusive lock: it cannot see the folder before it is locked
            stage = Stage(self._stages / f"{name}-{os.getpid()}-{uuid.uuid4().hex[:8]}")
        try:
            yield stage
        finally:
            keep = True  # also where the journal cannot be read
            try:
                keep = self._journal_names(stage)
            finally:
                stage.close(keep=keep)

    def commit(self, moves: Sequence[tuple[Path, Path]], removals: Sequence[Path], note: dict[str, Any]) -> None:
        """Make all moves and removals, or none. The caller holds the exclusive lock; every source is fsynced."""
        relative = [[str(source.relative_to(self.root)), str(target.relative_to(self.root))] for source, target in moves]
        journal = {**note, "moves": relative, "removals": [str(p.relative_to(self.root)) for p in removals]}
        self._check(journal)  # a folder that somebody replaced by a link is found before anything is promised
        crash_point("publish.before_journal")
        write_json(self._journal, journal)
        crash_point("publish.after_journal")
        self._finish_journal()

    def _finish_journal(self) -> None:
        """Make the moves of a journal, all of which are checked before the first. Raises RecordRefused, and nothing is done."""
        journal = read_json(self._journal)
        if journal is None:
            return
        self._check(journal)
        inside, folders = Inside(self.root), set[str]()
        for number, (source, target) in enumerate(journal["moves"]):
            inside.move(source, target)
            folders.add(_folder_of(target))
            if number == 0:
                crash_point("publish.after_first_move")
        for target in journal["removals"]:
            inside.remove(target)
            folders.add(_folder_of(target))
        crash_point("publish.after_moves")
        for folder in sorted(folders):
            inside.settle(folder)  # a dropped unit may leave it empty
        self._journal.unlink()
        fsync_folder(self.home)
        crash_point("publish.after_journal_dropped")

    def _check(self, journal: Any) -> None:
        """Raise RecordRefused unless every move is from the stage to a unit's name, and every removal of one; PermissionError where this user may not make one."""
        if not isinstance(journal, dict) or not {"moves", "removals"} <= journal.keys() <= {"moves", "removals", "build_id", "upgrade"}:
            raise self._refused("it is not a list of moves and removals")
        moves, removals = journal["moves"], journal["removals"]
        if not isinstance(moves, list) or not all(isinstance(move, list) and len(move) == 2 and all(isinstance(name, str) for name in move) for move in moves):
            raise self._refused("its moves are not pairs of names")
        if not isinstance(removals, list) or not all(isinstance(name, str) for name in removals):
            raise self._refused("its removals are not names")
        sources, changed = [source for source, _ in moves], [*(target for _, target in moves), *removals]
        for name in (name for name in sources if not is_staged_name(name)):
            raise self._refused(f"it moves {name!r}, which is not a file of a step")
        for name in [*(t for _, t in moves if not self._is_target(t)), *(n for n in removals if not self._is_removable(n))]:
            raise self._refused(f"it changes {name!r}, which is not the name of a unit")
        if len({*sources}) < len(sources) or len({*changed}) < len(changed):
            raise self._refused("it names a file twice")
        inside, folders = Inside(self.root), set[str]()
        for source, target in moves:
            is_there, is_moved = inside.is_file(source), inside.is_file(target)  # both are looked at: a link is refused in either place
            if not is_there and not is_moved:
                raise self._refused(f"it moves {source!r}, which is neither there nor moved already")
            folders |= {_folder_of(source), _folder_of(target)} if is_there else set()
        folders |= {_folder_of(name) for name in removals if inside.is_file(name)}
        for folder in sorted(folders):  # what another account made may be closed to this one: half of the moves would keep everybody out
            inside.check_may_change(folder)

    def _refused(self, why: str) -> RecordRefused:
        return refused(self._journal, why, do=REFUSED_JOURNAL)

    def _journal_names(self, stage: Stage) -> bool:
        """Whether a journal still needs files of the stage: of one that cannot be understood, it may."""
        prefix = str(stage.path.relative_to(self.root)) + "/"
        try:
            journal = read_json(self._journal)
            if journal is None:
                return False
            self._check(journal)
        except RecordRefused:
            return True
        return any(source.startswith(prefix) for source, _ in journal["moves"])

    def _is_anybody_dead(self) -> bool:
        """Whether a staging folder looks as if its owner were gone: a sweep, which keeps readers out, looks again."""
        for path in self._stages.iterdir() if self._stages.exists() else ():
            try:
                descriptor = open_lock(path / LOCK_NAME)
            except RunspendError:  # nothing that a step made, or of another account, which sweeps its own
                continue
            except OSError:  # not locked yet: the sweep decides
                return True
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            else:
                return True
            finally:
                os.close(descriptor)
        return False

    def _sweep(self) -> None:
        """Remove staging folders whose owner is gone. The caller holds the exclusive lock, and no journal is left.

        What is not a folder of its own with a lock of its own is nothing that a step made, and stays.
        """
        try:
            stages = os.open(self._stages, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.ENOTDIR):
                raise
            raise refused(self._stages, "it is a link, and Runspend removes folders in it", do="Remove the link, then run the command again.") from error
        try:
            for name in os.listdir(stages):
                with suppress(FileNotFoundError, PermissionError):  # its owner removes it this moment; or it is another account's, and waits for that
                    if stat.S_ISDIR(os.stat(name, dir_fd=stages, follow_symlinks=False).st_mode):
                        _sweep_one(name, stages)
        finally:
            os.close(stages)


def _folder_of(name: str) -> str:
    return name.rpartition("/")[0]


def _sweep_one(name: str, stages: int) -> None:
    """Remove one staging folder, unless its owner lives or its lock is not a file."""
    try:
        descriptor = os.open(f"{name}/{LOCK_NAME}", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o660, dir_fd=stages)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.ENOTDIR):
            return
        raise
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:  # its owner lives
        return
    else:
        shutil.rmtree(name, dir_fd=stages)  # which follows no link, at the top or below
    finally:
        os.close(descriptor)
