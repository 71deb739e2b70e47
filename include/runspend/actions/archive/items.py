"""An item: one folder of one store on which a policy acts. The actions, and whether they are allowed, do not belong here."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Literal

from runspend.storage.objects import ARCHIVE_TOP

Action = Literal["tier", "archive", "delete", "prune"]
OwnerKind = Literal["run", "logged_model", "checkpoint", "trace", "orphan", "experiment"]

# Below the root of an archive store. Everything in it belongs to the archive, so it is not counted as orphaned artifacts.
ARCHIVE_FOLDER = f"{ARCHIVE_TOP}/v1"
# Written to an item's folder once its artifacts are archived. MLflow's page shows its text.
NOTE_NAME = "archived-by-runspend.txt"
# Written next to the manifest of an archive once all of it was restored to its original place.
RETURNED_NAME = "returned.json"


def note_name(archive_id: str, *, is_taken: bool) -> str:
    """Return the name of an archive's note. If `is_taken`, it has the archive's id.

    `is_taken` means that a user's file with the usual name was archived. That name must stay free for a restore of the file.
    """
    return NOTE_NAME.replace(".txt", f"-{archive_id}.txt") if is_taken else NOTE_NAME


@dataclass(frozen=True)
class Item:
    """A policy's action on one folder. `objects` and `bytes` are those of the last inventory, or None if unknown."""

    policy: str
    policy_digest: str  # of the announced policy; if the policy changes, its items must be announced again
    action: Action
    to: str | None  # tier: the storage class; archive: URI of the archive store, None for `archive.to` of the settings
    tracking_server: str
    workspace: str
    owner_kind: OwnerKind
    owner_id: str  # for orphaned artifacts, their folder
    experiment_id: str | None
    run_id: str | None
    artifact_uri: str | None
    store: str  # `uri` of a configured store; for `delete`, the archive store
    prefix: str  # the folder below the store's root, without slashes at either end; for `delete`, the archive's own folder
    storage_class: str | None
    objects: int | None
    bytes: int | None

    @property
    def key(self) -> str:
        """A digest of the policy, the folder and the action: 40 hexadecimal digits. It does not depend on the folder's content."""
        identity = json.dumps([self.policy, self.store, self.prefix, self.action])
        return hashlib.sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()[:40]

    @property
    def name(self) -> str:
        """The name for people, such as "run 3f1c9a7b"."""
        return f"{self.owner_kind.replace('_', ' ')} {self.owner_id}"
