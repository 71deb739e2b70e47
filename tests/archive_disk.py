"""A small world of the archive on a disk: a store with one run in it, an archive, and a home, all folders."""

from __future__ import annotations

import os
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from runspend.actions.archive.context import Tools
from runspend.actions.archive.items import ARCHIVE_FOLDER, NOTE_NAME, Item
from runspend.actions.archive.run import StoreTotals, apply
from runspend.config.settings import ArtifactStore
from runspend.storage.factory import open_objects
from runspend.storage.objects import ObjectStore
from runspend.warehouse.records import Records
from tests.archive_world import PREFIX, SOURCE, MemoryStore, make_item
from tests.settings_builder import make_archive_settings

OLD = datetime(2025, 1, 1, tzinfo=timezone.utc).timestamp()


class Disk:
    """A store with one run in it, an archive, and a home, all on disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.source, self.archive, self.home = folder / "source", folder / "archive", folder / "home"
        for path in (self.source, self.archive, self.home):
            path.mkdir(parents=True)
        self.run = self.source / PREFIX
        self.bucket = MemoryStore(SOURCE)
        source, archive = {"uri": str(self.source), "delete_credentials": "local"}, {"uri": str(self.archive)}
        self.settings = make_archive_settings(self.home, source, archive)

    def item(self, **changes: Any) -> Item:
        return make_item(store=str(self.source), artifact_uri=str(self.run), **changes)

    def apply(self, *items: Item, is_old: bool = False) -> list[str]:
        """Run the archive once. Files that are not old enough are first made older."""
        for path in [] if is_old else [self.source, *self.source.rglob("*")]:
            os.utime(path, (OLD, OLD))
        now = datetime.now(timezone.utc)
        results = apply(
            items or [self.item()],
            self.settings,
            Records(self.home),
            now=now,
            protects=lambda item: None,
            known=lambda uri: StoreTotals(10**6, 10**9),
            tools=Tools(workers=2),
        )
        return [result.state for result in results]

    def open(self, store: ArtifactStore, purpose: Any) -> ObjectStore:
        """Open a store as usual, but return `bucket` for the place that planted manifests name."""
        return self.bucket if store.uri == SOURCE else open_objects(store, purpose)

    @property
    def archived(self) -> Path:
        """Return the only archived folder."""
        [found] = (self.archive / ARCHIVE_FOLDER / "prod" / "1" / "run1").iterdir()
        return found


def fill(folder: Path, tree: dict[str, bytes]) -> None:
    """Create files, and folders for names that end in "/"."""
    for name, body in tree.items():
        path = folder / name
        if name.endswith("/"):
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(body)


def tree_of(folder: Path) -> dict[str, bytes | None]:
    """Return every file with its bytes and every folder, without following links or including notes."""
    found: dict[str, bytes | None] = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if name != NOTE_NAME:
            found[name] = (
                b"<link>"
                if path.is_symlink()
                else None
                if path.is_dir()
                else b"<device>"
                if not path.is_file()
                else b"<sparse>"
                if path.stat().st_size > 1 << 30
                else path.read_bytes()
            )
    return found
