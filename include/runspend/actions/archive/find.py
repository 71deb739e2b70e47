"""Find archives in the archive stores. This needs only the stores: home, the run and the tracking server may no longer exist.

It walks the folders level by level, so that a search for one run does not list a store of a million copies.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

from runspend.actions.archive.archive_records import as_folder
from runspend.actions.archive.delete import TOMBSTONE
from runspend.actions.archive.items import ARCHIVE_FOLDER
from runspend.actions.archive.manifest import Manifest, read_manifest
from runspend.actions.archive.move import GENERATIONS, manifest_name
from runspend.config.settings import ArtifactStore, Settings
from runspend.core.errors import SourceRefused, UsageError
from runspend.core.outside_json import parse_json
from runspend.storage.objects import ObjectStore
from runspend.storage.uris import parse_root

SHORTEST_ID = 6  # characters of the shortest id prefix
WITH_THEIR_RUN = ("m-", "tr-")  # id prefixes of models and traces: their archives are in the folder of their run


@dataclass(frozen=True)
class Found:
    """The folder of one archive, by the parts of its path. `owner` is the folder name of a run or of another owner."""

    store: ObjectStore
    server: str
    experiment: str
    owner: str
    archive_id: str

    @property
    def folder(self) -> str:
        """The path of the folder below the root of its store."""
        return "/".join([ARCHIVE_FOLDER, self.server, self.experiment, self.owner, self.archive_id])

    @property
    def where(self) -> str:
        """The full location of the folder, for people."""
        return f"{self.store.uri.rstrip('/')}/{self.folder}"


def find_archives(store: ObjectStore, owner: str | None = None) -> Iterator[Found]:
    """Yield every archive of a store. With `owner`, yield only those of one run, logged model or folder."""
    for server in store.folders(ARCHIVE_FOLDER):
        for experiment in store.folders(f"{ARCHIVE_FOLDER}/{server}"):
            above = f"{ARCHIVE_FOLDER}/{server}/{experiment}"
            owners = store.folders(above) if owner is None else [as_folder(owner)]
            for name in owners:
                for archive_id in store.folders(f"{above}/{name}"):
                    yield Found(store, server, experiment, name, archive_id)


def find_owner(store: ObjectStore, owner: str) -> Iterator[Found]:
    """Yield the archives of an owner. `owner` is its id, a unique prefix of its id, or the id of a model or trace of a run.

    Raises UsageError if several owners have this prefix.
    """
    found = list(find_archives(store, owner))
    if not found and len(owner) >= SHORTEST_ID:
        every = list(find_archives(store))
        found = [archive for archive in every if archive.owner.startswith(owner)]
        if len({archive.owner for archive in found}) > 1:
            raise UsageError(
                f"cannot choose the archives: {owner} may be {', '.join(sorted({archive.owner for archive in found}))}. Give one full id. Nothing was restored."
            )
        if not found and owner.startswith(WITH_THEIR_RUN):
            found = [archive for archive in every if (manifest := load_manifest(archive)) is not None and manifest.item.owner_id == owner]
    yield from found


def readable_stores(settings: Settings) -> list[ArtifactStore]:
    """Return the configured stores that may contain archives. A store of an unsupported kind is skipped, so the others can be read."""
    found = []
    for store in settings.stores:
        with suppress(SourceRefused):
            parse_root(store)
            found.append(store)
    return found


def load_manifest(found: Found) -> Manifest | None:
    """Return the newest manifest of an archive, or None if there is none yet.

    Raises SourceRefused if that manifest is damaged, or belongs to another folder. An older one is not used instead, because it may
    lack objects that were copied later.
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
    content = read_manifest(found.store.read(manifest), read)
    home = (
        as_folder(content.item.tracking_server),
        as_folder(content.item.experiment_id or "none"),
        as_folder(content.item.run_id or content.item.owner_id),
        content.archive_id,
    )
    if home != (found.server, found.experiment, found.owner, found.archive_id):
        raise SourceRefused(
            found.where,
            f"cannot trust the manifest {read}: it belongs to another archive ({'/'.join(home)}). Nothing was restored or changed.",
        )
    return replace(content, written_at=manifest.modified.isoformat())


def tombstone_of(found: Found) -> str | None:
    """Return a text that states when an archive was deleted, and by which policy. Return None if it has no tombstone."""
    held = found.store.head(f"{found.folder}/{TOMBSTONE}")
    if held is None:
        return None
    try:
        tombstone = parse_json(b"".join(found.store.read(held)))
        return f"the retention policy {tombstone['policy']!r} deleted its {int(tombstone['objects']):,} objects on {str(tombstone['at'])[:10]!s}"
    except (ValueError, KeyError, TypeError):
        return "it was deleted; its tombstone cannot be read"


def lacks_copies(found: Found, manifest: Manifest) -> bool:
    """Whether a copy that the manifest names is missing. This lists the copies."""
    held = {stored.key[len(found.folder) + 1 :] for stored in found.store.list(f"{found.folder}/data")}
    return any(entry.data not in held for entry in manifest.entries)
