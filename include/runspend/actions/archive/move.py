"""The action `archive`: copy the objects of an item to the archive, then delete the originals.

The steps are: copy, read the copies back, write the manifest, check protection again, delete conditionally, confirm each
delete, record it, leave a note. No object is deleted before every object of its item was read back from the archive with
the sha256 of its source. The manifest is read back before the first delete as well. Every step checks the current state
before it acts, so a move can be killed and resumed at any point. Other modules decide which items to move, and whether
they may be moved.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from itertools import product
from threading import Lock

from runspend.actions.archive.archive_records import Archive
from runspend.actions.archive.context import NOTE_BEGINS, Held, Result, Work, digest_of, held, is_note, parts_of, prove_conditions
from runspend.actions.archive.items import NOTE_NAME, note_name
from runspend.actions.archive.manifest import Entry, folders_above, planned_entry, read_manifest, write_manifest
from runspend.core.crash_points import crash_point
from runspend.core.errors import NotDone, OutcomeUnknown, SourceRefused
from runspend.storage.objects import StoredObject

COPIES = 3  # attempts to write bytes that read back differently, each under its own name
GENERATIONS = 1_000  # an archive has fewer manifests than this: each later copy of changed objects adds one
NAMES = 8  # attempts to delete a file while its other names (hard links) are deleted at the same time


def move(work: Work, archive: Archive) -> Result:
    """Move an item as far as is possible now, and return the outcome.

    Raises SourceError if a store does not answer. Raises LeaseLost if another archiver has taken over.
    """
    return _Move(work, archive).run()


def manifest_name(generation: int) -> str:
    """Return the name of an archive's manifest: manifest.jsonl, manifest-2.jsonl, … The one with the highest number counts."""
    return "manifest.jsonl" if generation == 1 else f"manifest-{generation}.jsonl"


class _Move:
    """The move of one item from its store to the archive."""

    def __init__(self, work: Work, archive: Archive) -> None:
        assert archive.to is not None
        self.work, self.archive, self.item, self.archive_records = work, archive, archive.item, work.archive_records
        self.source, self.target = work.open(archive.item.store, "archive"), work.open(archive.to, "archive")
        self.watch = work.watch(self.item)
        self.turns: dict[str, Lock] = {}
        self.read_back: dict[str, tuple[str, str]] = {}  # sha256 -> name and etag of a copy that this run read back
        self.copies: dict[str, tuple[int, str]] = {}  # key below the archive's folder -> size and etag, right before the deletes

    def run(self) -> Result:
        for chunk in range(self.archive.chunks):
            self.work.each(self.archive, chunk, self._copy, lambda entry: entry.state == "planned", "copied")
        crash_point("archive.copied")
        entries = list(self.archive_records.every_entry(self.archive))
        if young := next((e for e in entries if e.state == "planned" and e.changes and self._is_young(e.modified)), None):
            return self._wait("protected", f"{young.key!r} was written {young.modified[:16]}, after it was planned")
        if restless := self._restless(entries):
            return restless
        if waiting := [e for e in entries if e.state == "planned"]:
            return self._wait(
                "partial",
                f"{len(waiting)} of {len(entries)} objects are not in the archive, so nothing more was deleted. {waiting[0].reason or ''}",
            )
        if all(e.state == "gone" for e in entries):
            return Result(
                self.archive_records.end(
                    replace(self.archive, objects=0, bytes=0), "partial", self.work.now, "everything was gone before it was copied"
                ),
                "nothing",
            )
        self._put_manifest(entries)
        crash_point("archive.manifest_put")
        protection = self.watch.reason() or self._written_since(entries)
        if protection is not None:
            return self._wait("protected", self._half_gone(protection))
        try:
            self.deleter = self.work.open(self.item.store, "delete")
        except NotDone as error:
            return self._wait("copied", str(error))
        return self._delete()

    def _restless(self, entries: list[Entry]) -> Result | None:
        """End the item as partial if an object changed again and again. That object stays in its place."""
        odd = next((entry for entry in entries if entry.state == "changed"), None)
        if odd is None:
            return None
        reason = f"{odd.key!r} keeps changing; nothing more was deleted"
        return Result(self.archive_records.end(self.archive, "partial", self.work.now, reason), "partial", reason)

    # --- copy -----------------------------------------------------------------------------------------------------------

    def _copy(self, entry: Entry) -> Entry:
        """Copy one object, read the copy back, and return the new entry.

        If the object changed since it was planned, it is planned again with its new state, and copied if that state is old enough.
        """
        obj = entry.at(self.item.prefix)
        if self._is_young(entry.modified):
            return entry  # it was written after it was planned: the item waits until the object is old enough
        try:
            metadata = self._metadata(obj)
            with held(self.source.read(obj), self.work.scratch) as found:
                if found.size != entry.size:
                    raise SourceRefused(
                        self.source.uri,
                        f"cannot copy {obj.key!r}: {found.size} bytes arrived instead of {entry.size}. It stays where it is.",
                    )
                # A byte may flip in transfer, and a single read does not show that. So read twice, unless the etag is an md5 that matches.
                if found.md5 != entry.etag.strip('"') and digest_of(self.source.read(obj)) != found.sha256:
                    raise SourceRefused(self.source.uri, f"cannot copy {obj.key!r}: two reads gave different bytes. It stays where it is.")
                with self.turns.setdefault(found.sha256, Lock()):  # equal files share one copy: the first thread writes it
                    return self._place(replace(entry, metadata=metadata), found)
        except NotDone:
            there = self.source.head(obj.key)
            if there is None:
                return replace(entry, state="gone", reason="it was gone before it was copied")
            if there.etag == entry.etag:
                raise
            again = entry.seen_as(planned_entry(entry.key, there))
            return self._copy(again) if again.state == "planned" and not self._is_young(again.modified) else again

    def _metadata(self, obj: StoredObject) -> dict[str, str]:
        """Return the object's metadata. Raises NotDone if the object has changed since it was listed."""
        found = self.source.head(obj.key)
        if found is None or found.etag != obj.etag:
            raise NotDone(self.source.uri, f"cannot copy {obj.key!r}: it has changed since it was listed. It stays where it is.")
        return dict(found.metadata)

    def _place(self, entry: Entry, held: Held) -> Entry:
        """Store the bytes in the archive under their sha256, read the copy back, and return the entry as copied.

        Raises SourceRefused if COPIES attempts all read back differently.
        """
        for number in range(COPIES):
            data = f"data/{held.sha256}-{number}" if number else f"data/{held.sha256}"
            key = f"{self.archive.folder}/{data}"
            found = self.target.head(key)
            if found is None:
                crash_point("archive.before_copy")
                found = self._write(key, held, self.work.settings.archive.storage_class)
                crash_point("archive.after_copy")
            if self.read_back.get(held.sha256) == (data, found.etag) or (
                found.size == held.size and digest_of(self.target.read(found)) == held.sha256
            ):
                crash_point("archive.after_read_back")
                self.read_back[held.sha256] = data, found.etag
                return replace(entry, state="copied", sha256=held.sha256, data=data, copy_etag=found.etag, reason=None)
        raise SourceRefused(
            self.target.uri,
            f"cannot archive {entry.key!r}: {COPIES} copies in {self.target.uri} differ from what was written. The original stays.",
        )

    def _write(self, key: str, held: Held, storage_class: str | None = None) -> StoredObject:
        try:
            return self.target.write(key, parts_of(held), size=held.size, storage_class=storage_class)
        except (NotDone, OutcomeUnknown):
            found = self.target.head(key)  # another process may have written it, or this one without an answer; `_place` reads it back
            if found is None:
                raise
            return found

    # --- manifest -------------------------------------------------------------------------------------------------------

    def _put_manifest(self, entries: list[Entry]) -> None:
        """Write the manifest of all copied objects, then read it back and parse it. If the same manifest exists already, it is reused.

        Raises SourceRefused if COPIES manifests read back differently, or if the archive has too many manifests.
        """
        kept = [entry for entry in entries if entry.data is not None]
        archive = self.archive
        lines = write_manifest(archive.archive_id, self.item, archive.planned_at, kept, len(kept), sum(e.size for e in kept))
        where, odd = f"cannot archive {self.item.name} in {self.target.uri}", 0
        with held(lines, self.work.scratch) as written:
            for generation in range(1, GENERATIONS):
                key = f"{archive.folder}/{manifest_name(generation)}"
                older = self.target.head(key)
                found = older or self._write(key, written)
                if found.size == written.size and digest_of(self.target.read(found)) == written.sha256:
                    read_manifest(self.target.read(found), key)
                    return
                odd += older is None
                if odd == COPIES:
                    raise SourceRefused(
                        self.target.uri,
                        f"{where}: its manifest was written {COPIES} times, and each time other bytes were read back. Nothing more was deleted.",
                    )
        raise SourceRefused(
            self.target.uri,
            f"{where}: its folder keeps changing, and it has {GENERATIONS - 1} manifests already, the most that are allowed. Exclude it from retention: runspend archive keep {self.item.run_id or self.item.owner_id}. Nothing more was deleted.",
        )

    # --- delete ---------------------------------------------------------------------------------------------------------

    def _delete(self) -> Result:
        self._list_copies()
        if not self.archive.is_cut:
            self.archive = self.archive_records.save(replace(self.archive, is_cut=True))
        if self.watch.reason() is None:
            self._prove_conditions()
        # Delete folders last: some stores report success for a folder that is not empty, but do not delete it.
        for is_folder, chunk in product((False, True), range(self.archive.chunks)):
            self.work.each(
                self.archive,
                chunk,
                self._remove,
                lambda entry: entry.state == "copied" and entry.is_folder is is_folder,  # noqa: B023 (called at once)
                "removed",
            )
            if self.watch.found is not None:
                return self._wait("protected", self._half_gone(self.watch.found))
        crash_point("archive.deleted")
        entries = list(self.archive_records.every_entry(self.archive))
        left = [entry for entry in entries if not entry.is_settled]
        if left:
            return self._wait(
                "partial", f"{len(left)} of {self.archive.objects} objects are still in their original place. {left[0].reason or ''}"
            )
        if restless := self._restless(entries):
            return restless
        self.source.prune(self.item.prefix)
        self._leave_note()
        crash_point("archive.note_left")
        return Result(self.archive_records.end(self.archive, "archived", self.work.now), "archived")

    def _prove_conditions(self) -> None:
        """Check that the store honors the condition of a delete. Raises SourceRefused if it does not.

        The check uses an object whose copy is in the archive. A test file is not needed, so an interruption cannot leave one behind.
        """
        for entry in self.archive_records.every_entry(self.archive):
            if entry.state == "copied" and not entry.is_folder and self.copies.get(entry.data or "") == (entry.size, entry.copy_etag):
                found = self.source.head(entry.at(self.item.prefix).key)
                if found is not None and found.etag == entry.etag:
                    prove_conditions(found, self.source, self.deleter)
                    return

    def _list_copies(self) -> None:
        folder = self.archive.folder
        self.copies = {found.key[len(folder) + 1 :]: (found.size, found.etag) for found in self.target.list(f"{folder}/data")}

    def _remove(self, entry: Entry) -> Entry:
        """Delete an object if its copy is still the one that was read back, and check that the object is gone. Return the new entry."""
        if self.copies.get(entry.data or "") != (entry.size, entry.copy_etag):
            return replace(entry, state="planned", reason="its copy in the archive is not the one that was read back")
        obj = entry.at(self.item.prefix)
        unknown: str | None = None
        if self.watch.reason() is not None:
            return entry  # `_delete` reports the protection once for the whole item
        crash_point("archive.before_delete")
        try:
            obj = self._delete_object(entry)
        except OutcomeUnknown as error:
            unknown = str(error)
        except NotDone as error:
            found = self.source.head(obj.key)
            if found is not None and found.etag != entry.etag:
                return replace(entry.seen_as(planned_entry(entry.key, found)), reason="it was written again after it was copied")
            return replace(entry, reason=str(error))
        crash_point("archive.after_delete")
        found = self.source.head(obj.key)
        if found is None or (unknown is None and found.etag != obj.etag):  # never delete a new object under the same name
            crash_point("archive.after_confirm")
            return replace(entry, state="deleted", reason=None)
        if found.etag != entry.etag:
            return replace(entry.seen_as(planned_entry(entry.key, found)), reason="it was written again after it was copied")
        return replace(entry, reason=unknown or f"{obj.key!r} still exists, although it was reported as deleted")

    def _delete_object(self, entry: Entry) -> StoredObject:
        """Delete an object if its state is unchanged, and return that state.

        The names of one file (hard links) share its state: deleting one name changes the etag of the others. If only the etag has
        changed, the file is read once more, and deleted if its bytes are those that were copied.

        Raises NotDone if the object has changed, OutcomeUnknown if the store did not answer.
        """
        obj = entry.at(self.item.prefix)
        try:
            self.deleter.delete(obj)
            return obj
        except NotDone:
            with self.turns.setdefault(entry.sha256 or "", Lock()):
                for _ in range(NAMES):
                    found = self.source.head(obj.key)
                    if found is None or found.etag == obj.etag or (found.size, found.modified) != (obj.size, obj.modified):
                        break
                    with suppress(NotDone):  # another name of the file was deleted meanwhile: look again
                        if digest_of(self.source.read(found)) != entry.sha256 or self.watch.reason() is not None:
                            break
                        self.deleter.delete(found)
                        return found
            raise

    def _leave_note(self) -> None:
        """Write a note into the item's folder, where MLflow's page shows it. It states where the artifacts were moved.

        It replaces an older note of Runspend.
        """
        is_taken = any(entry.key == NOTE_NAME and entry.data is not None for entry in self.archive_records.every_entry(self.archive))
        name = note_name(self.archive.archive_id, is_taken=is_taken)
        key = f"{self.item.prefix}/{name}"
        text = NOTE_BEGINS + "".join(self._note()).encode()
        found = self.source.head(key)
        if found is not None and b"".join(self.source.read(found)) != text and is_note(name, self.source, found, self.item):
            self.deleter.delete(found)
            found = None
        if found is None:
            self.source.write(key, [text], size=len(text))

    def _note(self) -> Iterator[str]:
        moved = [entry for entry in self.archive_records.every_entry(self.archive) if entry.state == "deleted"]
        yield f"\nThe {len(moved):,} files that were here ({sum(e.size for e in moved):,} bytes) were moved by the retention policy {self.item.policy!r}.\n"
        yield f"They are, with a manifest of their names and checksums, in\n\n    {(self.archive.to or '').rstrip('/')}/{self.archive.folder}\n\n"
        yield f"To bring them back:\n\n    runspend archive restore {self.item.run_id or self.item.owner_id}\n"

    def _half_gone(self, protection: str) -> str:
        """Return the reason that protects the item. If deletions have begun, add how many objects are only in the archive.

        The reason applies to those objects as well, so the text has the command that restores them.
        """
        if not self.archive.is_cut:
            return protection
        there = {found.key for found in self.source.list(self.item.prefix)}
        gone = sum(
            entry.data is not None and entry.at(self.item.prefix).key not in there
            for entry in self.archive_records.every_entry(self.archive)
        )
        owner = self.item.run_id or self.item.owner_id
        return (
            f"{protection}. {gone:,} of its {self.archive.objects:,} objects are only in the archive. To restore them: runspend archive restore {owner}"
            if gone
            else protection
        )

    # --- interruptions --------------------------------------------------------------------------------------------------

    def _wait(self, state: str, reason: str) -> Result:
        return self.work.wait(self.archive, state, reason.strip())

    def _written_since(self, entries: list[Entry]) -> str | None:
        """Return a sentence on an object that is new or changed since the listing and younger than the margin; None without one.

        Such an object shows that the folder is in use.
        """
        known, emptied = {entry.key: entry.etag for entry in entries}, folders_above(entry.key for entry in entries)
        for found in self.source.list(self.item.prefix):
            name = found.key[len(self.item.prefix) + 1 :]
            if (
                known.get(name) != found.etag
                and name not in emptied
                and found.modified > self.work.cutoff
                and not is_note(name, self.source, found, self.item)
            ):
                return f"{name!r} was written {found.modified:%Y-%m-%d %H:%M}, after it was planned"
        return None

    def _is_young(self, modified: str) -> bool:
        return datetime.fromisoformat(modified) > self.work.cutoff
