"""Which archives there are, found in the archive stores themselves: home, the run and the tracking server may all be gone.

Folders are walked level by level, so that a store of a million copies is not listed to find one run.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace

from runspend.actions.archive.book import as_folder
from runspend.actions.archive.expire import TOMBSTONE
from runspend.actions.archive.items import ARCHIVE_FOLDER
from runspend.actions.archive.manifest import Manifest, read_manifest
from runspend.actions.archive.move import GENERATIONS, manifest_name
from runspend.artifacts.objects import ObjectStore
from runspend.errors import SourceRefused

__all__ = ["Found", "find_archives", "load_manifest", "tombstone_of"]


@dataclass(frozen=True)
class Found:
    """One archive's folder, and what its path says; `owner` is a run or what else was archived."""

    store: ObjectStore
    server: str
    experiment: str
    owner: str
    archive_id: str

    @property
    def folder(self) -> str:
        """Below the root of its store."""
        return "/".join([ARCHIVE_FOLDER, self.server, self.experiment, self.owner, self.archive_id])

    @property
    def where(self) -> str:
        """For people."""
        return f"{self.store.uri.rstrip('/')}/{self.folder}"


def find_archives(store: ObjectStore, owner: str | None = None) -> Iterator[Found]:
    """Every archive of a store, or those of one run, logged model or folder."""
    for server in store.folders(ARCHIVE_FOLDER):
        for experiment in store.folders(f"{ARCHIVE_FOLDER}/{server}"):
            above = f"{ARCHIVE_FOLDER}/{server}/{experiment}"
            owners = store.folders(above) if owner is None else [as_folder(owner)]
            for name in owners:
                for archive_id in store.folders(f"{above}/{name}"):
                    yield Found(store, server, experiment, name, archive_id)


def load_manifest(found: Found) -> Manifest | None:
    """The newest manifest of an archive, believed only if it is at home in its folder; None while there is none.

    Raises SourceRefused, also for a damaged newest one: an older one may lack what was copied later.
    """
    manifest = None
    for generation in range(1, GENERATIONS):
        name = manifest_name(generation)
        held = found.store.head(f"{found.folder}/{name}")
        if held is None:
            break
        manifest, read = held, f"{found.where}/{name}"
    if manifest is None:
        return None
    told = read_manifest(found.store.read(manifest), read)
    home = (as_folder(told.item.tracking_server), as_folder(told.item.experiment_id or "none"), as_folder(told.item.run_id or told.item.owner_id), told.archive_id)
    if home != (found.server, found.experiment, found.owner, found.archive_id):
        raise SourceRefused(found.where, f"cannot believe the manifest {read}: it is of another archive ({'/'.join(home)}). Nothing was restored or changed.")
    return replace(told, written_at=manifest.modified.isoformat())


def tombstone_of(found: Found) -> str | None:
    """That an archive was deleted, in words; None when it was not."""
    held = found.store.head(f"{found.folder}/{TOMBSTONE}")
    if held is None:
        return None
    try:
        told = json.loads(b"".join(found.store.read(held)))
        return f"the retention policy {told['policy']!r} deleted its {int(told['objects']):,} objects on {str(told['at'])[:10]!s}"
    except (ValueError, KeyError, TypeError):
        return "it was deleted; its tombstone cannot be read"
