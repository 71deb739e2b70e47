"""Folders of local stores that can be reached by another path: through a symbolic link, or a second mount of the same disk.

The artifact folder of a run may be a link to another run's folder, or be reached through such a link. Then the files belong to both runs.
This module compares the folders on the disk, by their identity (device and inode) and not by their names. `shared_folders.py` and
`plan.sql` compare URIs. A store that cannot be read adds no links here: without a listing, nothing of it is archived either.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote

from runspend.config.settings import Settings
from runspend.core.errors import SourceRefused
from runspend.storage.uris import parse_root

MOST_TOLD = 3  # paths kept per folder; one of them may be its owner's own path, which does not protect
Identity = tuple[int, int]


class Lead(NamedTuple):
    """A path that may lead into a folder of a local store: a symbolic link, or the path of an owner."""

    path: str
    label: str  # shown to people
    owner_id: str | None = None  # id of the run, model or trace with this path; None for a symbolic link


class LocalLinks:
    """Paths that lead into folders of local stores. `tops` has the folder of each store by its URI, with links resolved."""

    def __init__(self, tops: Mapping[str, str], leads: Iterable[Lead]) -> None:
        self._tops = tops
        self._at: dict[Identity, list[Lead]] = {}  # by the folder or file that a path leads to
        self._below: dict[Identity, list[Lead]] = {}  # by each folder above it
        self._memory: dict[str, list[Identity]] = {}
        for lead in leads:
            for place, identity in enumerate(self._chain(os.path.realpath(lead.path))):
                found = (self._below if place else self._at).setdefault(identity, [])
                if len(found) < MOST_TOLD:
                    found.append(lead)

    def reasons(self, row: Mapping[str, Any]) -> list[str]:
        """Return why the folder of a plan row must stay in its place, each reason once.

        Each reason names another path that leads to the folder, into it, or to a folder around it.
        """
        top = self._tops.get(row["store"])
        if top is None or not (self._at or self._below):
            return []
        own = (row["owner_id"], row["run_id"])
        chain = self._chain(os.path.realpath(os.path.join(top, row["prefix"])))
        found = [
            f"{lead.label} leads to {'a folder around ' if place else ''}it"
            for place, identity in enumerate(chain)
            for lead in self._at.get(identity, ())
            if lead.owner_id not in own
        ]
        found += [f"{lead.label} leads into it" for lead in (self._below.get(chain[0], ()) if chain else ()) if lead.owner_id not in own]
        return list(dict.fromkeys(found))[:MOST_TOLD]

    def _chain(self, path: str) -> list[Identity]:
        """Return the identities of a folder and of all folders above it. Empty if it does not exist, such as the target of a broken link."""
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
    """Return the symbolic links in the local stores, and the owners whose paths are not simply below one of the stores.

    Each of `owners` has `label`, `owner_id`, `uri` and `tracking_server`.
    """
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
    """Yield every symbolic link below a folder, without following any. Folders that cannot be read are skipped."""
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
    """Yield the owners whose path is not simply a path below a store: it is outside all stores, has `..`, or leads through a link.

    A link in the path of the store itself does not count.
    """
    real = dict[str, str]()  # folder -> its path with links resolved; many owners share a folder, so resolve it once
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
    """Return the path of a local artifact URI, without a trailing slash. Return None for any other URI."""
    if uri.startswith("mlflow-artifacts:") and behind:
        uri = f"{behind.rstrip('/')}/{uri.removeprefix('mlflow-artifacts:').lstrip('/')}"
    path = unquote(uri.removeprefix("file://").removeprefix("file:")) if uri.startswith("file:") else uri
    if not path.startswith("/") or "\0" in path:
        return None
    return path if ".." in path.split("/") else os.path.normpath(path)  # behind a link, only the disk can resolve `..`
