"""Mark archives as restored to their original place, with a small object next to the manifest and in the record under home.

If a restored folder is archived again, the newer archive has everything that its users had kept. So a later restore leaves the older
archive out. An archive that was never restored is not left out: its objects were not in the folder, so users cannot have deleted them.
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
    """Return the archives to restore, and those to leave out because a newer archive replaces them. This reads the archive stores."""
    kept, older = list[Loaded](), list[Loaded]()
    for found, manifest in loaded:
        came_back_at = _returned_at(found)
        newer = max((datetime.fromisoformat(other.written_at) for _, other in loaded if _covers(other, manifest)), default=None)
        # An archive may have been restored before it was complete, and continued afterwards. Then its manifest is newer than the restore,
        # and the archive is not left out.
        is_old = came_back_at is not None and newer is not None and datetime.fromisoformat(manifest.written_at) <= came_back_at < newer
        (older if is_old else kept).append((found, manifest))
    return kept, older


def note_returned(
    loaded: Sequence[Loaded], settings: Settings, records: Records, open_store: OpenStore, check: Callable[[], None], now: datetime
) -> list[str]:
    """Mark archives as completely restored, and withdraw the notices of their items.

    Returns one sentence for each mark that failed. `check` is called before every change.
    """
    archive_records, notes = ArchiveRecords(records, check), list[str]()
    for found, manifest in loaded:
        key, text = f"{found.folder}/{RETURNED_NAME}", json.dumps({"store": manifest.item.store, "prefix": manifest.item.prefix}).encode()
        try:
            writer = FencedObjects(open_store(find_store(settings, found.store.uri), "archive"), check)
            there = found.store.head(key)
            if there is None:
                writer.write(key, [text], size=len(text))
            elif there.modified < datetime.fromisoformat(
                manifest.written_at
            ):  # more was archived after the last restore: update the time of the mark
                writer.renew(there)
        except SourceError as error:
            notes.append(
                f"cannot record the restore in {found.where}: {error}. If the folder is archived again, a later restore also brings back files that were deleted in between"
            )
        archive = archive_records.find(found.archive_id)
        if archive is not None:
            archive_records.save(replace(archive, restored_at=now.isoformat()))
            withdraw_notice(records, archive.item.key, now)
    return notes


def _covers(other: Manifest, manifest: Manifest) -> bool:
    """Whether the archive `other` has the same folder as `manifest`, or a folder around it."""
    return other.item.store == manifest.item.store and f"{manifest.item.prefix}/".startswith(f"{other.item.prefix}/")


def _returned_at(found: Found) -> datetime | None:
    """Return when an archive was restored, or None. The time is by the archive store's clock, like the times of manifests."""
    marker = found.store.head(f"{found.folder}/{RETURNED_NAME}")
    return None if marker is None else marker.modified
