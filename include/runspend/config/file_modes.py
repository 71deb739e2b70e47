"""Who may read what Runspend writes on this machine: its own account, and the group that `files` names. Never more than the umask allows.

A command and a task of Airflow set the umask of their process once, and everything made there follows: tables, records, reports, mails,
exports, drafts, whatever a library writes. A group is handed down by folders (setgid), so only the topmost ones are given to it here.
What is there already is left as it is; `doctor` says what is wider. Where a folder does not hand the group down, its files would be
readable by whatever group the account has: they stay private, and `doctor` says what to do.
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

__all__ = ["is_wider", "not_handed_down", "own_roots", "use_file_modes", "widening", "wider_than"]

SHARED = {"read": 0o027, "write": 0o007}  # what a group may not
MOST_LOOKED_AT = 100_000  # files that `doctor` looks at

log = logging.getLogger(__name__)


def use_file_modes(settings: Settings) -> None:
    """From here on what this process makes is for its account, and for the group that the settings name. Raises ConfigError for one that it cannot give files to."""
    umask = private_umask()
    if settings.files.group is None:
        return
    group, umask = _group_id(settings.files.group), umask | SHARED[settings.files.access]
    os.umask(umask)
    for root in own_roots(settings):
        if not root.exists():
            root.mkdir(parents=True)
        elif any(root.iterdir()):
            continue  # somebody's choice, or made before there was a group
        _hand_down(root, group, settings.files.group, umask)
    if lacking := not_handed_down(settings):
        private_umask()
        log.warning("cannot use files.group yet: %s does not hand it down to what is made in it, so new files stay private. Run: %s", lacking[0], widening(lacking[0], settings))


def not_handed_down(settings: Settings) -> list[Path]:
    """The folders of Runspend's own in which new files would belong to another group than the settings name, or that others can enter."""
    if settings.files.group is None:
        return []
    group = _group_id(settings.files.group)
    return [root for root in own_roots(settings) if root.exists() and not _hands_down(root.stat(), group)]


def _hands_down(found: os.stat_result, group: int) -> bool:
    is_handed = found.st_gid == group and (bool(found.st_mode & stat.S_ISGID) or os.getegid() == group)
    return is_handed and not found.st_mode & stat.S_IRWXO  # below it there may be folders of another group: nobody else may come there



def own_roots(settings: Settings) -> list[Path]:
    """The folders of all files that Runspend keeps: home, and the warehouse if it is another folder on this machine."""
    uri = settings.warehouse.uri.removeprefix("file://")
    return [settings.home] if "://" in uri or Path(uri).is_relative_to(settings.home) else [settings.home, Path(uri)]


def _hand_down(folder: Path, group: int, name: str, umask: int) -> None:
    """Give a new folder to a group, and what will be made in it as well."""
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
        raise ConfigError(f"cannot use files.group {name!r}: this machine has no group of that name. Run: groupadd {name}, or correct the key. Nothing was changed.") from error


# --- what was made before ------------------------------------------------------------------------------------------------


def is_wider(mode: int, settings: Settings) -> bool:
    """Whether a file or folder of that mode lets in more than the settings say. Of a link it is what it leads to that counts."""
    if stat.S_ISLNK(mode):
        return False
    return bool(stat.S_IMODE(mode) & (PRIVATE if settings.files.group is None else SHARED[settings.files.access]))


def wider_than(root: Path, settings: Settings) -> tuple[int, Path | None]:
    """How many files and folders below a folder, itself included, are open to more people than the settings say, and the first of them.

    A folder that is closed to others is not entered: they cannot reach its files.
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
    except OSError:  # gone meanwhile, as files of a running pipeline may be, or not ours to look at
        return False


def widening(root: Path, settings: Settings) -> str:
    """The command that makes everything in a folder as narrow as new files are."""
    if settings.files.group is None:
        return f"chmod -R go-rwx {root}"
    rights = "rX" if settings.files.access == "read" else "rwX"
    return f"chgrp -R {settings.files.group} {root} && chmod -R g=,g+{rights},o-rwx {root} && find {root} -type d -exec chmod g+s {{}} +"
