"""A user's own file that has the name of Runspend's note is archived and restored like any other, with any content."""

from __future__ import annotations

from pathlib import Path

import pytest

from runspend.actions.archive.context import Tools
from runspend.actions.archive.items import NOTE_NAME
from runspend.actions.archive.restore import restore
from tests.archive_disk import Disk, fill
from tests.archive_world import PREFIX

OTHERS_NOTE = (
    b"Archived by Runspend.\n\nThe 2 files that were here (7 bytes) were moved by the retention policy 'cold'.\n"
    b"They are, with a manifest of their names and checksums, in\n\n    /archive/runspend-archive/v1/prod/1/run9/abc\n\nTo bring them back:\n\n    runspend archive restore run9\n"
)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(
    "body",
    [b"my thesis", b"", b"Archived by Runspend.\nMine.\n", OTHERS_NOTE, b"x" * 200_000],
    ids=["text", "empty", "begins so", "note of another run", "large"],
)
def test_own_file_of_the_notes_name_comes_back_in_place(tmp_path: Path, body: bytes) -> None:
    """This holds twice in a row. Runspend's note has another name in the meantime, and is removed afterwards."""
    disk = Disk(tmp_path)
    mine = {NOTE_NAME: body, "model/weights": b"w", f"model/{NOTE_NAME}": body}
    fill(disk.run, mine)
    for _ in range(2):
        assert disk.apply() == ["archived"]
        [note] = files(disk.run).items()
        assert note[0] != NOTE_NAME and b"runspend archive restore run1" in note[1]
        result = restore("run1", disk.settings, tools=Tools(workers=2))
        assert files(disk.run) == mine and not result.problems


@pytest.mark.parametrize("wording", [b"They are, with", b"They lie, with"])
def test_archives_whose_note_replaced_a_file_still_come_back(tmp_path: Path, wording: bytes) -> None:
    """In archives of older versions, the note replaced the user's own file, and one of its sentences was different."""
    disk = Disk(tmp_path)
    mine = {NOTE_NAME: b"my thesis", "a": b"a"}
    fill(disk.run, mine)
    assert disk.apply() == ["archived"]
    [(name, note)] = files(disk.run).items()
    (disk.run / name).unlink()
    (disk.run / NOTE_NAME).write_bytes(note.replace(b"They are, with", wording))
    assert NOTE_NAME.encode() not in note and b"They are, with" in note
    result = restore("run1", disk.settings, tools=Tools(workers=2))
    assert files(disk.run) == mine and not result.problems and not result.notes


def test_a_copy_of_a_note_next_to_the_archive_is_not_an_owners_note(tmp_path: Path) -> None:
    """A run may log another run's note as a file. Runspend neither skips nor overwrites it."""
    disk = Disk(tmp_path)
    fill(disk.run, {"a": b"a"})
    assert disk.apply() == ["archived"]
    [(_, note)] = files(disk.run).items()
    other = disk.source / PREFIX.replace("run1", "run2")
    fill(other, {NOTE_NAME: note, "b": b"b"})
    item = disk.item(owner_id="run2", run_id="run2", prefix=PREFIX.replace("run1", "run2"))
    assert disk.apply(item) == ["archived"]
    restore("run2", disk.settings, tools=Tools(workers=2))
    assert files(other) == {NOTE_NAME: note, "b": b"b"}
