"""Write a listing to Parquet files, so that an interrupted listing can continue where it stopped.

Each file contains whole pages. After each file, `state.json` is replaced; it contains the number of valid files and where to continue. If
the process is killed at any time, the next try uses the files that the state counts, and requests only the rest. A listing without a
position to continue from starts over: a local folder (listing a million files takes seconds), or an inventory. The modules that list a
store decide what is listed.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runspend.core.errors import MissingExtra, RecordRefused, SourceError
from runspend.core.own_files import fsync_path, open_lock, own_folder, read_json, try_lock, write_whole
from runspend.storage.listing import FolderTotals, Listing, Page

if TYPE_CHECKING:
    import pyarrow as pa

# An interrupted listing that began longer ago than this starts over. Listing a large bucket takes hours anyway, so pages of this age are
# still accepted.
RESUME_WITHIN = timedelta(hours=12)
_PART_ROWS = 50_000
_OWN = re.compile(r"[0-9]{6}\.parquet|state\.json(\.new|\.tmp)?", re.ASCII)
_MOST_PARTS = 1_000_000
_COUNTS = ("objects", "bytes", "oldest", "newest", "noncurrent_objects", "noncurrent_bytes")


class Staging:
    """The files of one listing in a folder.

    `after` is the position from which the listing continues. `resumed` is the number of objects that an interrupted try already listed.
    """

    def __init__(self, folder: Path, listing: Listing, *, what: dict[str, Any], now: datetime) -> None:
        self.folder, self._listing = folder, listing
        self._what, self._began = what, now
        self.after: dict[str, str] | None = None
        self.parts = self.resumed = 0
        self._take_up(now)

    @property
    def files(self) -> list[str]:
        """Return the paths of the valid files."""
        return [str(self._part(n)) for n in range(self.parts)]

    def fill(self, pages: Iterator[Page], tell: Callable[[Listing], None]) -> None:
        """Write the pages while they arrive, and call `tell` after each file.

        If a page fails, the earlier pages are written first, provided that the listing can continue after them.
        """
        rows: list[FolderTotals] = []
        try:
            for page in pages:
                rows += page.rows
                self.after = page.after
                for totals in page.rows:
                    self._listing.count(totals)
                if len(rows) >= _PART_ROWS:
                    self.write(rows)
                    rows = []
                    tell(self._listing)
        except SourceError:
            if rows and self.after:
                self.write(rows)
            raise
        if rows or not self.parts:
            self.write(rows)
        tell(self._listing)

    def write(self, rows: list[FolderTotals]) -> None:
        """Write one more file, then the state that counts it."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = folder_schema()
        columns = zip(*rows, strict=True) if rows else ((),) * len(schema)
        batch = pa.record_batch([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema=schema)
        with pq.ParquetWriter(self._part(self.parts), schema) as writer:
            writer.write_batch(batch)
        self.parts += 1
        if self.after:
            self._save()

    def keeps(self) -> bool:
        """Return whether a later try can continue from here."""
        return self.after is not None and self.parts > 0

    def clear(self) -> None:
        """Delete the files of this listing. Files with other names than Runspend's own stay."""
        for path in self.folder.iterdir():
            if _OWN.fullmatch(path.name):
                path.unlink()

    def _part(self, number: int) -> Path:
        return self.folder / f"{number:06d}.parquet"

    def _save(self) -> None:
        """Replace the state. The newest file is flushed to disk first, so that the state never counts a missing file after a power cut."""
        fsync_path(self._part(self.parts - 1))
        state = {
            **self._what,
            "began_at": self._began.isoformat(),
            "parts": self.parts,
            "after": self.after,
            "objects": self._listing.objects,
            "bytes": self._listing.bytes,
        }
        write_whole(self.folder / "state.json", json.dumps(state).encode(), is_alone=True)

    def _take_up(self, now: datetime) -> None:
        """Continue with the files in the folder if they belong to the same store and are recent enough. Otherwise start over."""
        state = self._read_state()
        if not (
            state
            and all(self._part(n).exists() for n in range(state["parts"]))
            and all(state.get(key) == value for key, value in self._what.items())
            and timedelta() <= now - datetime.fromisoformat(state["began_at"]) <= RESUME_WITHIN
        ):
            self.clear()
            return
        self.after, self.parts, self._began = state["after"], state["parts"], datetime.fromisoformat(state["began_at"])
        self._listing.objects, self._listing.bytes = state["objects"], state["bytes"]
        self.resumed = self._listing.objects

    def _read_state(self) -> dict[str, Any]:
        """Return the state that `_save` wrote, or an empty one if it is missing or invalid. The listing then starts over."""
        try:
            state = read_json(self.folder / "state.json", most_bytes=1 << 20) or {}
            counts = [state["parts"], state["objects"], *([state["bytes"]] if state["bytes"] is not None else [])]
            is_ours = all(type(count) is int and count >= 0 for count in counts) and state["parts"] <= _MOST_PARTS
            is_ours &= isinstance(state["after"], dict) and all(isinstance(text, str) for text in state["after"].values())
            is_ours &= datetime.fromisoformat(state["began_at"]).tzinfo is not None
        except (RecordRefused, LookupError, TypeError, ValueError):
            return {}
        return state if is_ours else {}


@contextmanager
def locked(folder: Path | None, otherwise: Path) -> Iterator[Path]:
    """Lock `folder` and yield it.

    If `folder` is None, or another process has locked it, yield the folder `otherwise`, and delete that folder afterward.
    """
    if folder is not None:
        own_folder(folder)
        with open_lock(folder / ".lock") as lock:
            if try_lock(lock.fileno()):  # if another process has the lock, each process makes its own listing
                yield folder
                return
    otherwise.mkdir(parents=True, exist_ok=True)
    try:
        yield otherwise
    finally:
        shutil.rmtree(otherwise)


def folder_schema() -> pa.Schema:
    """Return the Arrow schema of `FolderTotals`."""
    try:
        import pyarrow as pa
    except ImportError as error:
        raise MissingExtra("pyarrow", "pipeline") from error
    counts = [(name, pa.int64()) for name in _COUNTS]
    return pa.schema([("folder", pa.string()), ("storage_class", pa.string()), *counts, ("checksum", pa.string())])
