"""List a local folder and all folders below it with `os.scandir`.

Symbolic links are never followed, and those that leave the root are reported. pyarrow is as fast, but follows links to files outside the
root.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from runspend.core.errors import SourceUnreachable
from runspend.storage.listing import FolderTotals, Listing, Page
from runspend.storage.uris import Root

STORAGE_CLASS = "LOCAL"


def list_folder(source: str, root: Root, listing: Listing) -> Iterator[Page]:
    """Yield one page for each folder that has files.

    Raises SourceUnreachable if any folder cannot be read, because a partial sum would be wrong.
    """
    top = os.path.realpath(f"/{root.folder}")
    if not os.path.isdir(top):
        raise SourceUnreachable(source, f"cannot list {top}: there is no such folder. Mount it, or correct `stores` in runspend.yaml.")
    below = [""]
    while below:
        folder = below.pop()
        try:
            totals = _list_one(top, folder, below, listing)
        except FileNotFoundError:
            if not os.path.isdir(top):
                raise SourceUnreachable(
                    source, f"cannot list {top}: it disappeared during the listing. Mount it and measure again."
                ) from None
            continue  # the folder was deleted during the listing, so it has no files
        except OSError as error:
            raise SourceUnreachable(
                source,
                f"cannot list {os.path.join(top, folder)}: {error.strerror}. Let the user that runs runspend read it. "
                "Figures stay as they were.",
            ) from error
        if totals:
            yield Page([totals])


def _list_one(top: str, folder: str, below: list[str], listing: Listing) -> FolderTotals | None:
    """Return the totals of the files directly in `folder`, or None if there are none. Add its subfolders to `below`."""
    objects, size, is_sized, times = 0, 0, True, []
    with os.scandir(os.path.join(top, folder)) as entries:
        for entry in entries:
            path = f"{folder}/{entry.name}" if folder else entry.name
            if entry.is_symlink():
                if _leaves(top, entry.path):
                    listing.links.append(_as_text(path))
            elif entry.is_dir(follow_symlinks=False):
                below.append(path)
            else:
                try:
                    found = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue  # deleted during the listing
                except PermissionError:  # the folder's names can be read, but not the sizes of its files
                    objects, is_sized = objects + 1, False
                    continue
                if stat.S_ISREG(found.st_mode):
                    objects, size = objects + 1, size + found.st_size
                    times.append(found.st_mtime_ns)
    listing.requests += 1
    if not objects:
        return None
    oldest, newest = (min(times) // 1000, max(times) // 1000) if times else (None, None)
    return FolderTotals(_as_text(folder), STORAGE_CLASS, objects, size if is_sized else None, oldest, newest)


def _leaves(top: str, link: str) -> bool:
    target = os.path.realpath(link)
    return target != top and not target.startswith(top.rstrip("/") + "/")


def _as_text(name: str) -> str:
    """Return a file name as valid UTF-8 text for the tables. Bytes that are not UTF-8 are written as escapes."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return os.fsencode(name).decode("utf-8", "backslashreplace")
    return name
