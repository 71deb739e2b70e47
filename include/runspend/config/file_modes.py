"""Sets the permissions of files that Runspend writes on this machine: for its own account and the group in `files`, limited by the umask.

Each command and each Airflow task sets the umask of its process once. It applies to all files, including files that libraries write.
Folders hand the group down to new files (setgid), so this module assigns the group only to the topmost folders.

Existing files keep their permissions. `doctor` reports files with wider permissions. If a folder does not hand the group down, new
files would be readable by the account's own group. They stay private instead, and `doctor` shows how to fix it.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from runspend.config.settings import Settings
from runspend.core.errors import ConfigError
from runspend.core.own_files import PRIVATE, private_umask

SHARED = {"read": 0o027, "write": 0o007}  # umask: the permissions that the group and other users do not get
MOST_LOOKED_AT = 100_000  # `doctor` stops after this many files

log = logging.getLogger(__name__)


def use_file_modes(settings: Settings) -> None:
    """Set the umask so that only this account and the group of the settings can access new files of this process.

    Raises ConfigError if the group cannot be used.
    """
    umask = private_umask()
    if settings.files.group is None:
        return
    group, umask = _group_id(settings.files.group), umask | SHARED[settings.files.access]
    os.umask(umask)
    for root in own_roots(settings):
        if not root.exists():
            root.mkdir(parents=True)
        elif any(root.iterdir()):
            continue  # not a new folder: its group was set by a user, or it is older than the setting
        _hand_down(root, group, settings.files.group, umask)
    if lacking := not_handed_down(settings):
        private_umask()
        log.warning(
            "cannot use files.group yet: new files in %s do not inherit the group, so they stay private. Run: %s",
            lacking[0],
            widening(lacking[0], settings),
        )


def not_handed_down(settings: Settings) -> list[Path]:
    """Return the folders in which new files would not get the configured group, or that other users can enter."""
    if settings.files.group is None:
        return []
    group = _group_id(settings.files.group)
    return [root for root in own_roots(settings) if root.exists() and not _hands_down(root.stat(), group)]


def _hands_down(found: os.stat_result, group: int) -> bool:
    is_handed = found.st_gid == group and (bool(found.st_mode & stat.S_ISGID) or os.getegid() == group)
    return is_handed and not found.st_mode & stat.S_IRWXO  # it may contain folders of a different group, so others must not enter


def own_roots(settings: Settings) -> list[Path]:
    """Return the topmost folders of Runspend's files: `home`, and the warehouse if it is a folder outside `home` on this machine."""
    uri = settings.warehouse.uri.removeprefix("file://")
    return [settings.home] if "://" in uri or Path(uri).is_relative_to(settings.home) else [settings.home, Path(uri)]


def _hand_down(folder: Path, group: int, name: str, umask: int) -> None:
    """Assign a new folder to a group, so that files created in it inherit the group. Raises ConfigError if that is not permitted."""
    if os.geteuid() not in (0, folder.stat().st_uid):
        return
    try:
        os.chown(folder, -1, group)
        folder.chmod(0o777 & ~umask | stat.S_ISGID)
    except PermissionError as error:
        raise ConfigError(
            f"cannot use files.group {name!r}: this account is not in that group, so it cannot give {folder} to it. "
            f"Run: usermod -aG {name} ACCOUNT, or name another group. Nothing else was changed."
        ) from error


def _group_id(name: str) -> int:
    if name.isdigit():
        return int(name)
    try:
        import grp

        return grp.getgrnam(name).gr_gid
    except (ImportError, KeyError) as error:
        raise ConfigError(
            f"cannot use files.group {name!r}: this machine has no group of that name. Run: groupadd {name}, or correct the key. Nothing was changed."
        ) from error


# --- existing files ------------------------------------------------------------------------------------------------------


def is_wider(mode: int, settings: Settings) -> bool:
    """Return whether a file or folder with that mode is open to more users than the settings allow. False for symbolic links."""
    if stat.S_ISLNK(mode):
        return False
    return bool(stat.S_IMODE(mode) & (PRIVATE if settings.files.group is None else SHARED[settings.files.access]))


def wider_than(root: Path, settings: Settings) -> tuple[int, Path | None]:
    """Return the number of files and folders in `root`, including `root`, that are open to more users than allowed, and the first of them.

    A folder without wider permissions is not searched, because other users cannot reach its files. The count stops after MOST_LOOKED_AT.
    """
    count, first = 0, None
    for looked, path in enumerate(_walk(root, settings)):
        count, first = count + 1, first or path
        if looked >= MOST_LOOKED_AT:
            break
    return count, first


def _walk(root: Path, settings: Settings) -> Iterator[Path]:
    if not root.exists() or not is_wider(root.stat().st_mode, settings):
        return
    yield root
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if _is_wider_there(Path(folder, name), settings)]
        yield from (Path(folder, name) for name in folders)
        yield from (path for name in files if _is_wider_there(path := Path(folder, name), settings))


def _is_wider_there(path: Path, settings: Settings) -> bool:
    try:
        return is_wider(path.lstat().st_mode, settings)
    except OSError:  # a running pipeline deleted it meanwhile, or this user cannot read it
        return False


def widening(root: Path, settings: Settings) -> str:
    """Return the shell command that gives all files in a folder the permissions of new files."""
    if settings.files.group is None:
        return f"chmod -R go-rwx {root}"
    rights = "rX" if settings.files.access == "read" else "rwX"
    return f"chgrp -R {settings.files.group} {root} && chmod -R g=,g+{rights},o-rwx {root} && find {root} -type d -exec chmod g+s {{}} +"
