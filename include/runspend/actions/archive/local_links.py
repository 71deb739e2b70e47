"""Folders of local stores that are reached by another path: through a symbolic link, or a mount of the same disk elsewhere.

A run whose artifact folder is a link to another run's, or goes through one, has its files there: they are as much its own. Put here what the
disk itself says, compared by the identity of folders (device and inode) and not by their spelling; what URIs say is in `shared_folders.py` and
`plan.sql`. A store that cannot be looked at says nothing here: what cannot be listed is not archived either.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote

from runspend.config.settings import Settings
from runspend.core.errors import SourceRefused
from runspend.storage.uris import parse_root

__all__ = ["LocalLinks", "find_local_links"]

MOST_TOLD = 3  # paths that lead to one folder: its own, which does not count, and two others at least
Identity = tuple[int, int]


class Lead(NamedTuple):
    """A path that leads somewhere else than it says."""

    path: str
    label: str  # what a person is told
    owner_id: str | None = None  # of a run, model or trace whose path it is


class LocalLinks:
    """What leads into which folder of local stores. `tops`: the folder of each store, by its URI, links resolved."""

    def __init__(self, tops: Mapping[str, str], leads: Iterable[Lead]) -> None:
        self._tops = tops
        self._at: dict[Identity, list[Lead]] = {}  # the folder or file it leads to
        self._below: dict[Identity, list[Lead]] = {}  # a folder around that
        self._memory: dict[str, list[Identity]] = {}
        for lead in leads:
            for place, identity in enumerate(self._chain(os.path.realpath(lead.path))):
                found = (self._below if place else self._at).setdefault(identity, [])
                if len(found) < MOST_TOLD:
                    found.append(lead)

    def reasons(self, row: Mapping[str, Any]) -> list[str]:
        """Why the folder of a row of the plan must stay, each once: a path that is not its own leads to it, into it, or to a folder around it."""
        top = self._tops.get(row["store"])
        if top is None or not (self._at or self._below):
            return []
        own = (row["owner_id"], row["run_id"])
        chain = self._chain(os.path.realpath(os.path.join(top, row["prefix"])))
        found = [f"{lead.label} leads to {'a folder around ' if place else ''}it" for place, identity in enumerate(chain) for lead in self._at.get(identity, ()) if lead.owner_id not in own]
        found += [f"{lead.label} leads into it" for lead in (self._below.get(chain[0], ()) if chain else ()) if lead.owner_id not in own]
        return list(dict.fromkeys(found))[:MOST_TOLD]

    def _chain(self, path: str) -> list[Identity]:
        """The identities of a folder and of all folders around it; empty where there is none, as behind a link that leads nowhere."""
        if path not in self._memory:
            try:
                found = os.stat(path)
            except OSError:
                self._memory[path] = []
            else:
                above = os.path.dirname(path)
                self._memory[path] = [(found.st_dev, found.st_ino), *(self._chain(above) if above != path else [])]
        return self._memory[path]


def find_local_links(settings: Settings, owners: Iterable[Mapping[str, Any]]) -> LocalLinks:
    """Look through the local stores for symbolic links, and at the paths of owners (`label`, `owner_id`, `uri`, `tracking_server`) that are not plainly in them."""
    tops, spelled = dict[str, str](), dict[str, str]()
    for store in settings.stores:
        try:
            root = parse_root(store)
        except SourceRefused:
            continue
        if root.scheme == "file" and os.path.isdir(f"/{root.folder}"):
            tops[store.uri] = spelled[f"/{root.folder}"] = os.path.realpath(f"/{root.folder}")
    behind = {server.name: server.artifacts for server in settings.tracking}
    leads = [Lead(path, f"the symbolic link {path}") for top in set(tops.values()) for path in _links_below(top)]
    leads += _owners_elsewhere(owners, behind, spelled) if tops else []
    return LocalLinks(tops, leads)


def _links_below(top: str) -> Iterator[str]:
    """Every symbolic link below a folder. None is followed; a folder that cannot be read has none that could be known of."""
    below = [top]
    while below:
        try:
            with os.scandir(below.pop()) as entries:
                for entry in entries:
                    if entry.is_symlink():
                        yield entry.path
                    elif entry.is_dir(follow_symlinks=False):
                        below.append(entry.path)
        except OSError:
            continue


def _owners_elsewhere(owners: Iterable[Mapping[str, Any]], behind: Mapping[str, str | None], tops: Mapping[str, str]) -> Iterator[Lead]:
    """Owners whose path is not its own real path below a store, however the store is reached: they are compared by what the path leads to."""
    real = dict[str, str]()  # folder -> itself with its links resolved; most owners lie in few folders
    for owner in owners:
        path = _local_path(str(owner["uri"]), behind.get(owner["tracking_server"]))
        if path is None:
            continue
        inside = next((f"{top}{path[len(spelled) :]}" for spelled, top in tops.items() if path.startswith(f"{spelled}/")), None)
        above = os.path.dirname(inside or path)
        if above not in real:
            real[above] = os.path.realpath(above)
        if inside is None or ".." in path.split("/") or real[above] != above or os.path.islink(inside):
            yield Lead(path, f"the path of {owner['label']}, {path},", owner["owner_id"])


def _local_path(uri: str, behind: str | None) -> str | None:
    """The path of a local artifact URI without a slash at its end; None for every other."""
    if uri.startswith("mlflow-artifacts:") and behind:
        uri = f"{behind.rstrip('/')}/{uri.removeprefix('mlflow-artifacts:').lstrip('/')}"
    path = unquote(uri.removeprefix("file://").removeprefix("file:")) if uri.startswith("file:") else uri
    if not path.startswith("/") or "\0" in path:
        return None
    return path if ".." in path.split("/") else os.path.normpath(path)  # what `..` means behind a link, the disk says
