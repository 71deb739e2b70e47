"""Mark archives as restored to their place: with a small object next to the manifest, and in the record under home.

If a returned folder is archived again, the newer archive holds everything in it that was still wanted, so a restore leaves the older one
out. Archives that were never restored are not left out: users cannot have removed objects from a folder that did not contain them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime

from runspend.actions.archive.archive_records import ArchiveRecords
from runspend.actions.archive.context import OpenStore, find_store
from runspend.actions.archive.find import Found
from runspend.actions.archive.items import RETURNED_NAME
from runspend.actions.archive.lease import FencedObjects
from runspend.actions.archive.manifest import Manifest
from runspend.actions.archive.notices import withdraw_notice
from runspend.config.settings import Settings
from runspend.core.errors import SourceError
from runspend.warehouse.records import Records

Loaded = tuple[Found, Manifest]


def leave_out_older(loaded: Sequence[Loaded]) -> tuple[list[Loaded], list[Loaded]]:
    """Return the archives that make up the folders as last archived, and those that newer ones replace. Reads the archive stores."""
    kept, older = list[Loaded](), list[Loaded]()
    for found, manifest in loaded:
        came_back_at = _returned_at(found)
        newer = max((datetime.fromisoformat(other.written_at) for _, other in loaded if _covers(other, manifest)), default=None)
        # An archive that was unfinished when it was restored may have continued since: then its manifest is newer than its restore.
        is_old = came_back_at is not None and newer is not None and datetime.fromisoformat(manifest.written_at) <= came_back_at < newer
        (older if is_old else kept).append((found, manifest))
    return kept, older


def note_returned(
    loaded: Sequence[Loaded], settings: Settings, records: Records, open_store: OpenStore, check: Callable[[], None], now: datetime
) -> list[str]:
    """Mark archives as fully returned. Returns one sentence for each mark that failed. `check` is called before every change."""
    archive_records, notes = ArchiveRecords(records, check), list[str]()
    for found, manifest in loaded:
        key, text = f"{found.folder}/{RETURNED_NAME}", json.dumps({"store": manifest.item.store, "prefix": manifest.item.prefix}).encode()
        try:
            writer = FencedObjects(open_store(find_store(settings, found.store.uri), "archive"), check)
            there = found.store.head(key)
            if there is None:
                writer.write(key, [text], size=len(text))
            elif there.modified < datetime.fromisoformat(manifest.written_at):  # more was archived since, and was restored again
                writer.renew(there)
        except SourceError as error:
            notes.append(
                f"cannot record the restore in {found.where}, so a later restore would also bring back files that are removed and archived again: {error}"
            )
        archive = archive_records.find(found.archive_id)
        if archive is not None:
            archive_records.save(replace(archive, restored_at=now.isoformat()))
            withdraw_notice(records, archive.item.key, now)
    return notes


def _covers(other: Manifest, manifest: Manifest) -> bool:
    """Whether an archive is of the same folder, or of a folder around it."""
    return other.item.store == manifest.item.store and f"{manifest.item.prefix}/".startswith(f"{other.item.prefix}/")


def _returned_at(found: Found) -> datetime | None:
    """Return when it was restored, by the archive store's clock, as for the times of manifests."""
    marker = found.store.head(f"{found.folder}/{RETURNED_NAME}")
    return None if marker is None else marker.modified
