"""An item: one folder of one store that a policy acts on. Actions, and whether they are allowed, do not belong here."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Literal

from runspend.storage.objects import ARCHIVE_TOP

Action = Literal["tier", "archive", "delete", "prune"]
OwnerKind = Literal["run", "logged_model", "checkpoint", "trace", "orphan", "experiment"]

# Below the root of an archive store. Everything in it belongs to the archive: it has no owner and is not an orphan.
ARCHIVE_FOLDER = f"{ARCHIVE_TOP}/v1"
# Left in an item's folder once its artifacts are archived; MLflow's page shows its text.
NOTE_NAME = "archived-by-runspend.txt"
# Next to the manifest of an archive once all of it was restored to its place.
RETURNED_NAME = "returned.json"


def note_name(archive_id: str, *, is_taken: bool) -> str:
    """Return the name of an archive's note.

    If a user's file with the usual name was archived, the note gets another name, so that the file's name stays free.
    """
    return NOTE_NAME.replace(".txt", f"-{archive_id}.txt") if is_taken else NOTE_NAME


@dataclass(frozen=True)
class Item:
    """A policy's action on one folder. `objects` and `bytes` come from the last inventory, None when unknown."""

    policy: str
    policy_digest: str  # of the announced policy: a changed policy must announce again
    action: Action
    to: str | None  # tier: the storage class; archive: URI of the archive store, None for `archive.to` of the settings
    tracking_server: str
    workspace: str
    owner_kind: OwnerKind
    owner_id: str  # an orphan's is its folder
    experiment_id: str | None
    run_id: str | None
    artifact_uri: str | None
    store: str  # `uri` of a store of the allow-list; of a `delete`, the archive store
    prefix: str  # the folder below the store's root, no slash at either end; of a `delete`, the archive's own folder
    storage_class: str | None
    objects: int | None
    bytes: int | None

    @property
    def key(self) -> str:
        """The same value for the same policy, place and action, even if the content changes: 40 hexadecimal digits."""
        identity = json.dumps([self.policy, self.store, self.prefix, self.action])
        return hashlib.sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()[:40]

    @property
    def name(self) -> str:
        """The name shown to people: run 3f1c9a7b."""
        return f"{self.owner_kind.replace('_', ' ')} {self.owner_id}"
