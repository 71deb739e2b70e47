"""Records are made once and changed only by a process that saw their last state, even if many try at the same time."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path

import pytest

from runspend.core.errors import RecordRefused, RunspendError
from runspend.warehouse import records as records_module
from runspend.warehouse.records import Records

RACE = """
import sys
from pathlib import Path
from runspend.warehouse.records import Records
records = Records(Path(sys.argv[1]))
made = sum(records.create("alerts", f"budget {n}", {"by": sys.argv[2]}) for n in range(100))
added = 0
while added < 40:
    value, token = records.get("counts", "all")
    added += records.replace("counts", "all", {"n": value["n"] + 1}, token)
print(made)
"""


def test_a_record_is_made_once(tmp_path: Path) -> None:
    """The second create changes nothing and says so."""
    records = Records(tmp_path)
    assert records.create("things", "ml/2026-10/80 %", {"spent": "1.50"})
    assert not records.create("things", "ml/2026-10/80 %", {"spent": "9"})
    found = records.get("things", "ml/2026-10/80 %")
    assert found is not None
    assert found[0] == {"spent": "1.50"}
    assert records.get("things", "other") is None


def test_replace_needs_the_last_state(tmp_path: Path) -> None:
    """A token is good for one change, also when the value comes back to what it was."""
    records = Records(tmp_path)
    records.create("mails", "a", {"state": "waiting"})
    first = records.get("mails", "a")
    assert first is not None
    assert records.replace("mails", "a", {"state": "sent"}, first[1])
    second = records.get("mails", "a")
    assert second is not None
    assert records.replace("mails", "a", {"state": "waiting"}, second[1])
    assert not records.replace("mails", "a", {"state": "lost"}, first[1])
    assert not records.replace("mails", "missing", {}, first[1])
    assert records.list("mails") == {"a": {"state": "waiting"}}


def test_a_list_is_ordered_by_key_for_any_key(tmp_path: Path) -> None:
    """Keys that look alike as file names stay apart; any Unicode comes back."""
    records = Records(tmp_path)
    keys = ["a/b", "a b", "a-b", "Zoë", "../x", "", "x" * 500, "日本"]
    for key in keys:
        assert records.create("things", key, {"key": key})
    assert records.list("things") == {key: {"key": key} for key in sorted(keys)}
    assert records.list("nothing") == {}
    assert all(tmp_path / "records" / "things" == path.parent for path in tmp_path.rglob("*.json"))


def test_a_damaged_record_is_an_error(tmp_path: Path) -> None:
    """A record that cannot be read is never taken for one that is not there."""
    records = Records(tmp_path)
    records.create("alerts", "a", {})
    (path,) = (tmp_path / "records" / "alerts").glob("*.json")
    path.write_text('{"key"')
    with pytest.raises(RunspendError, match="damaged"):
        records.get("alerts", "a")
    with pytest.raises(RunspendError, match="damaged"):
        records.list("alerts")
    assert not records.create("alerts", "a", {"new": 1})


def test_a_kind_is_a_word(tmp_path: Path) -> None:
    """A kind names a folder, so it cannot lead out of the home."""
    with pytest.raises(ValueError, match="lower-case word"):
        Records(tmp_path).create("../x", "a", {})


def test_processes_at_once_create_each_record_once_and_lose_no_change(tmp_path: Path) -> None:
    """Three processes make each record once in all, and no change is lost."""
    records = Records(tmp_path)
    records.create("counts", "all", {"n": 0})
    processes = [subprocess.Popen([sys.executable, "-c", RACE, str(tmp_path), str(n)], stdout=subprocess.PIPE, text=True) for n in range(3)]
    made = [int(process.communicate()[0]) for process in processes]
    assert sum(made) == 100
    counted = records.get("counts", "all")
    assert counted is not None
    assert counted[0] == {"n": 120}


def test_a_lock_that_someone_keeps_ends_the_wait_with_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any process that may read a lock may hold it. No step waits for it without end."""
    monkeypatch.setattr(records_module, "LOCK_WAIT", 0.1)
    records = Records(tmp_path)
    records.create("counts", "all", {"n": 1})
    records.replace("counts", "all", {"n": 2}, records.get("counts", "all")[1])  # type: ignore[index]
    found = records.get("counts", "all")
    assert found is not None
    with (tmp_path / "records" / "counts" / "lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RunspendError, match=r"waited 0\.1 s for its lock"):
            records.replace("counts", "all", {"n": 3}, found[1])
    assert records.replace("counts", "all", {"n": 3}, found[1])


@pytest.mark.parametrize("place", ["records", "records/things"])
def test_a_file_in_place_of_the_folder_is_refused_by_name(tmp_path: Path, place: str) -> None:
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_text("x")
    with pytest.raises(RecordRefused, match="it is not a folder, or a part of its path is not a folder"):
        Records(tmp_path).create("things", "all", {})


FULL = """
import resource, sys
from pathlib import Path
from runspend.core.own_files import write_whole
from runspend.warehouse.records import Records

records = Records(Path(sys.argv[1]))
records.create("mails", "small", {"text": "a"})
token = records.get("mails", "small")[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))  # no file may grow larger, as on a disk without room for it
for attempt in (
    lambda: records.create("mails", "large", {"text": "b" * 10_000}),
    lambda: records.replace("mails", "small", {"text": "b" * 10_000}, token),
    lambda: write_whole(Path(sys.argv[1]) / "records" / "mails" / "whole", b"b" * 10_000),
    lambda: write_whole(Path(sys.argv[1]) / "records" / "mails" / "alone", b"b" * 10_000, is_alone=True),
):
    try:
        attempt()
    except OSError:
        continue
    sys.exit("it was written")
"""


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    """No room for a record: an error, the old record as it was, and no half file that fills the disk further with each try."""
    result = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    assert Records(tmp_path).list("mails") == {"small": {"text": "a"}}
    left = {path.name for path in (tmp_path / "records" / "mails").iterdir()} - {"lock", Records(tmp_path).where("mails", "small").name}
    assert left == set()
