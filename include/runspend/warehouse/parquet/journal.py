"""A folder in which a publish replaces several files at once, by means of one lock, one journal and staging folders.

Readers see either all old files or all new files, never a mix. A step first stages finished files. It then writes the moves to the
journal, which is the commit point. Then it makes the moves and deletes the journal. If a publish is killed, the next process finishes its
moves and removes its staging folder. This module does not know what the files contain.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
import stat
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from runspend.core.crash_points import crash_point
from runspend.core.errors import RecordRefused, RunspendError
from runspend.core.own_files import Inside, fsync_path, own_folder, read_json, refused, write_whole
from runspend.warehouse.parquet.locks import Locks, SharedLock, open_lock
from runspend.warehouse.parquet.units import is_staged_name

__all__ = ["Folder", "Stage", "read_json", "write_json"]
LOCK_NAME = "owner.lock"  # the lock file in a staging folder
REFUSED_JOURNAL = "Find out who can write there. Then move the journal out of the folder and run the pipeline, which rebuilds tables that the publish may not have finished."


def write_json(path: Path, value: object) -> None:
    """Write a JSON file, completely or not at all."""
    write_whole(path, json.dumps(value, ensure_ascii=False, sort_keys=True).encode("utf-8"), is_alone=True)


class Stage:
    """A folder for the unfinished files of one step. While its lock is held, the owner is alive."""

    def __init__(self, path: Path) -> None:
        self.path = path
        own_folder(path.parent)
        path.mkdir()
        self._lock = open_lock(path / LOCK_NAME, create=True)
        fcntl.flock(self._lock, fcntl.LOCK_EX)  # cannot block: the lock is new, and the caller's shared lock keeps out a sweep

    def close(self, *, keep: bool) -> None:
        """Release the lock and remove the folder. With `keep`, the folder stays, because a journal still needs its files.

        The lock file is removed after all other files. Until then no sweep removes the folder, so no other lock is needed. A sweep that
        runs after the lock file is removed only removes the empty folder.
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
    """Remove a file, a link, or a folder with its content."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _remove_folder(path: Path) -> None:
    """Remove an empty folder. If a sweep has just created its own lock file in it, leave the folder to that sweep."""
    try:
        path.rmdir()
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise


def no_target(_: str) -> bool:
    """Refuse every target. Used for folders that have no journal."""
    return False


_holding = threading.local()  # the shared locks that each thread holds, by folder


class Folder:
    """The lock, the journal and the staging folders of a warehouse folder, all under `<root>/_runspend/`.

    `is_target`: whether a journal may move a file to this name below the root. `is_removable`: whether it may remove a file of this name.
    Anyone who can write to the folder may have forged the journal. So a journal with any other move or removal is refused as a whole.
    """

    def __init__(
        self, root: Path, *, is_target: Callable[[str], bool] = no_target, is_removable: Callable[[str], bool] = no_target
    ) -> None:
        self.root = root
        self._is_target, self._is_removable = is_target, is_removable
        self.home = root / "_runspend"
        self._journal = self.home / "journal.json"
        self.locks = Locks(self.home)
        self._stages = self.home / "stage"

    def hold(self) -> SharedLock | None:
        """Return the shared lock, taken when no publish is half done. Finishes a publish that was killed.

        If this thread already holds the shared lock, that lock is returned. A second one could block behind a waiting publisher.

        Returns None if nothing was ever published, because then no lock is needed.
        """
        for lock in self._held():
            if lock.is_held:
                return lock
        while os.path.lexists(self.locks.file):  # `lexists`, so that a broken link is refused and does not count as a missing lock
            lock = self.locks.shared()
            if not os.path.lexists(self._journal):
                return lock
            lock.release()
            if not os.access(self.home, os.W_OK):
                raise RunspendError(
                    f"cannot read {self.root}: a publish was killed half way. Run any runspend command as a user who may write there."
                )
            self.recover()
        return None

    @contextmanager
    def keeping(self, lock: SharedLock | None) -> Iterator[None]:
        """Register the lock for this thread, and release it at the end. Does nothing if the thread already registered it."""
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
        """Hold the shared lock. Meanwhile nothing is published, and no publish is half done.

        Publishers wait for this lock. So hold it only to open files, and read them after releasing it.
        """
        with self.keeping(self.hold()):
            yield

    def _held(self) -> list[SharedLock]:
        """Return the shared locks of this folder that this thread holds, even if it took them through another Folder object."""
        if not hasattr(_holding, "locks"):
            _holding.locks = {}
        held: dict[Path, list[SharedLock]] = _holding.locks
        return held.setdefault(self.home, [])

    def is_reading(self) -> bool:
        """Whether this thread holds the shared lock."""
        return any(lock.is_held for lock in self._held())

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the exclusive lock. Meanwhile no other process opens files or publishes. A killed publish is finished first."""
        if self.is_reading():
            raise RunspendError(
                "cannot publish: this thread still holds a reader of the same warehouse. Close the reader first. Nothing was changed."
            )
        self.home.mkdir(parents=True, exist_ok=True)
        self.locks.make()
        with self.locks.exclusive():
            self._finish_journal()
            yield

    def recover(self) -> None:
        """Finish a publish that was killed, and remove the staging folders of dead processes."""
        if self.home.is_symlink():
            raise refused(
                self.home,
                "it is a link, and Runspend moves and removes files in it",
                do="Make it a folder, or set warehouse.uri to the place that it leads to.",
            )
        if not os.access(self.home, os.W_OK):  # the folder does not exist yet, or this user may only read it
            return
        if os.path.lexists(self._journal):
            with self.exclusive():
                self._sweep()
            return
        if not os.path.lexists(self.locks.file) or not self._has_abandoned_stage():
            return
        with self.locks.at_once() as is_ours:  # if there are readers or a publisher, the next call sweeps
            if is_ours:
                self._finish_journal()
                self._sweep()

    @contextmanager
    def stage(self, name: str) -> Iterator[Stage]:
        """Yield a staging folder that other processes do not touch while this process lives."""
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
            raise ValueError(f"cannot name a step {name!r}: use letters, digits, dots and dashes.")
        self.home.mkdir(parents=True, exist_ok=True)
        self.locks.make()
        with self.shared():  # a sweep holds the exclusive lock, so it cannot see the new folder before that folder is locked
            stage = Stage(self._stages / f"{name}-{os.getpid()}-{uuid.uuid4().hex[:8]}")
        try:
            yield stage
        finally:
            keep = True  # also if reading the journal fails
            try:
                keep = self._journal_names(stage)
            finally:
                stage.close(keep=keep)

    def commit(self, moves: Sequence[tuple[Path, Path]], removals: Sequence[Path], note: dict[str, Any]) -> None:
        """Make all moves and removals, or none of them. The caller holds the exclusive lock and has fsynced every source file."""
        relative = [[str(source.relative_to(self.root)), str(target.relative_to(self.root))] for source, target in moves]
        journal = {**note, "moves": relative, "removals": [str(p.relative_to(self.root)) for p in removals]}
        self._check(journal)  # before the commit, because a folder may have been replaced by a link
        crash_point("publish.before_journal")
        write_json(self._journal, journal)
        crash_point("publish.after_journal")
        self._finish_journal()

    def _finish_journal(self) -> None:
        """Check all moves and removals of the journal, then make them. Raises RecordRefused, and changes nothing, if one is refused."""
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
            inside.settle(folder)  # the removal of a unit may have left the folder empty
        self._journal.unlink()
        fsync_path(self.home)
        crash_point("publish.after_journal_dropped")

    def _check(self, journal: Any) -> None:
        """Check that every move is from the stage to an allowed name, and that every removal is of an allowed name.

        Raises RecordRefused if one is not, and PermissionError if this user may not change one of the folders.
        """
        if not isinstance(journal, dict) or not {"moves", "removals"} <= journal.keys() <= {"moves", "removals", "build_id", "upgrade"}:
            raise self._refused("it is not a list of moves and removals")
        moves, removals = journal["moves"], journal["removals"]
        if not isinstance(moves, list) or not all(
            isinstance(move, list) and len(move) == 2 and all(isinstance(name, str) for name in move) for move in moves
        ):
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
            # Both calls are always made, so that a link is refused in either place.
            is_there, is_moved = inside.is_file(source), inside.is_file(target)
            if not is_there and not is_moved:
                raise self._refused(f"it moves {source!r}, which is neither there nor moved already")
            folders |= {_folder_of(source), _folder_of(target)} if is_there else set()
        folders |= {_folder_of(name) for name in removals if inside.is_file(name)}
        # This account may lack access to folders of another account. If it made only half of the moves, all readers would be blocked.
        for folder in sorted(folders):
            inside.check_may_change(folder)

    def _refused(self, why: str) -> RecordRefused:
        return refused(self._journal, why, do=REFUSED_JOURNAL)

    def _journal_names(self, stage: Stage) -> bool:
        """Whether a journal still needs files of this staging folder. True if the journal cannot be read."""
        prefix = str(stage.path.relative_to(self.root)) + "/"
        try:
            journal = read_json(self._journal)
            if journal is None:
                return False
            self._check(journal)
        except RecordRefused:
            return True
        return any(source.startswith(prefix) for source, _ in journal["moves"])

    def _has_abandoned_stage(self) -> bool:
        """Whether any staging folder looks abandoned. A sweep blocks readers, so it only runs if this is True. The sweep checks again."""
        for path in self._stages.iterdir() if self._stages.exists() else ():
            try:
                descriptor = open_lock(path / LOCK_NAME)
            except RunspendError:  # not made by a step, or owned by another account, which sweeps its own folders
                continue
            except OSError:  # has no lock file yet; the sweep decides
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
        """Remove staging folders whose owner is gone. The caller holds the exclusive lock, and there is no journal.

        Removes only what a step can have made: real folders with their own lock file. Everything else stays.
        """
        try:
            stages = os.open(self._stages, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.ENOTDIR):
                raise
            raise refused(
                self._stages, "it is a link, and Runspend removes folders in it", do="Remove the link, then run the command again."
            ) from error
        try:
            for name in os.listdir(stages):
                # The owner may be removing the folder now. Or it belongs to another account, which sweeps it.
                with suppress(FileNotFoundError, PermissionError):
                    if stat.S_ISDIR(os.stat(name, dir_fd=stages, follow_symlinks=False).st_mode):
                        _sweep_one(name, stages)
        finally:
            os.close(stages)


def _folder_of(name: str) -> str:
    return name.rpartition("/")[0]


def _sweep_one(name: str, stages: int) -> None:
    """Remove one staging folder, unless its owner is alive or its lock is not a file."""
    try:
        descriptor = os.open(
            f"{name}/{LOCK_NAME}", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o660, dir_fd=stages
        )
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.ENOTDIR):
            return
        raise
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:  # its owner is alive
        return
    else:
        shutil.rmtree(name, dir_fd=stages)  # does not follow links, neither `name` itself nor any below it
    finally:
        os.close(descriptor)
