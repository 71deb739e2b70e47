"""The lock of a warehouse: publishers get their turn, a wait says who it waits for, and it ends."""

from __future__ import annotations

import fcntl
import logging
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

import pytest

from runspend.actions.alert import outbox
from runspend.config.settings import Settings
from runspend.core import lock_holders
from runspend.core.errors import RecordRefused, RunspendError
from runspend.pipeline import source_status as sources
from runspend.warehouse.parquet.locks import Locks, open_lock
from runspend.warehouse.parquet.snapshots import Hold
from runspend.warehouse.parquet.warehouse import ParquetWarehouse, open_folder


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with its locks."""
    home = tmp_path / "warehouse" / "_runspend"
    home.mkdir(parents=True)
    Locks(home).make()
    return home


def holder(home: Path, kind: str, seconds: float) -> subprocess.Popen[str]:
    """Another process that has the lock by the time this returns."""
    code = (
        "import sys, time, pathlib\nfrom runspend.warehouse.parquet.locks import Locks\n"
        f"with Locks(pathlib.Path(sys.argv[1])).{kind}():\n    print('held', flush=True)\n    time.sleep({seconds})\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(home)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_many_read_and_one_publishes(home: Path) -> None:
    """Several readers share the lock; a publisher holds it alone."""
    with Locks(home).shared(), Locks(home).shared(), pytest.raises(RunspendError, match="cannot publish"), Locks(home).exclusive(wait=0.1):
        pass
    with Locks(home).exclusive(), pytest.raises(RunspendError, match="cannot read"), Locks(home).shared(wait=0.1):
        pass
    with Locks(home).at_once() as is_ours, Locks(home).at_once() as is_ours_again:
        assert (is_ours, is_ours_again) == (True, False)


def test_a_publisher_that_waits_is_next(home: Path) -> None:
    """Eight readers that overlap without a gap hold a publisher up for one turn each at most."""
    is_over = threading.Event()

    def read() -> None:
        while not is_over.is_set():
            with Locks(home).shared():
                time.sleep(0.1)

    readers = [threading.Thread(target=read) for _ in range(8)]
    for number, reader in enumerate(readers):
        reader.start()
        time.sleep(0.1 / len(readers) * (number > 0))
    waits = []
    for _ in range(10):
        started = time.monotonic()
        with Locks(home).exclusive():
            waits.append(time.monotonic() - started)
        time.sleep(0.05)
    is_over.set()
    for reader in readers:
        reader.join()
    assert max(waits) < 1.5, waits


@pytest.mark.parametrize(("kind", "wanted"), [("exclusive", "shared"), ("exclusive", "exclusive"), ("shared", "exclusive")])
def test_a_wait_says_who_holds_the_lock_and_ends(
    home: Path, kind: str, wanted: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The holder is logged once after a while, with host, pid, command and time. Past the deadline it is in the error. Afterwards the lock is free."""
    monkeypatch.setattr(lock_holders, "PATIENCE", 0.2)
    process = holder(home, kind, 60)
    try:
        with caplog.at_level(logging.WARNING), pytest.raises(RunspendError) as error, getattr(Locks(home), wanted)(wait=0.6):
            pass
    finally:
        process.kill()
        process.communicate()
    message = [record.getMessage() for record in caplog.records]
    assert len(message) == 1
    for text in (message[0], str(error.value)):
        assert f"pid {process.pid}" in text and os.uname().nodename in text and " UTC" in text and "since" in text
    assert "waited 0.6 s" in str(error.value) and "Nothing was changed." in str(error.value)
    with Locks(home).exclusive(wait=5):
        pass


def test_a_note_of_a_killed_process_names_no_holder(home: Path) -> None:
    """The note stays in the file; who is named is who holds the lock now."""
    process = holder(home, "exclusive", 60)
    process.kill()
    process.communicate()
    assert f'"pid": {process.pid}' in (home / "lock").read_text()
    with Locks(home).shared():
        assert f"pid {os.getpid()}" in lock_holders.holders(Locks(home).file) and str(process.pid) not in lock_holders.holders(
            Locks(home).file
        )


@pytest.mark.parametrize(
    "note",
    [
        "",
        "{",
        "[]",
        '{"host": 1}',
        '{"host": "a", "pid": "x", "command": "", "since": ""}',
        "\0" * 9000,
        "[" * 4096,
        '{"host": "a", "pid": 1e999, "command": "", "since": ""}',
    ],
)
def test_an_unreadable_note_is_not_an_error(home: Path, note: str) -> None:
    """If the text in the lock file is unreadable, the holder is found in another way."""
    with Locks(home).shared():
        (home / "lock").write_text(note)
        assert f"pid {os.getpid()}" in lock_holders.holders(Locks(home).file)


def test_a_note_moves_no_cursor_and_holds_no_arguments(home: Path) -> None:
    """What others wrote is shown without control characters; what we write has the verb of the command alone."""
    (home / "lock").write_text('{"host": "a\\u001b[2Jb", "pid": 7, "command": "x\\ny", "since": "now"}')
    assert lock_holders.holders(Locks(home).file) == "held by pid 7 on a?[2Jb (`x?y`) since now"
    code = (
        "import sys, pathlib\nfrom runspend.warehouse.parquet.locks import Locks\n"
        "sys.argv = ['/usr/bin/runspend', 'sql', 'select secret']\n"
        f"with Locks(pathlib.Path({str(home)!r})).exclusive():\n    print(pathlib.Path({str(home / 'lock')!r}).read_text())\n"
    )
    message = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert '"command": "runspend sql"' in message and "secret" not in message


def test_others_cannot_open_the_lock(home: Path) -> None:
    """Mode 0660 minus the umask, also of a lock that an older version made; a link is not followed."""
    for name in ("lock", "turn"):
        assert (home / name).stat().st_mode & 0o117 == 0
    (home / "lock").chmod(0o644)
    with Locks(home).shared():
        assert (home / "lock").stat().st_mode & 0o777 == 0o640
    decoy = home / "decoy"
    decoy.write_text("as it was")
    (home / "link").symlink_to(decoy)
    with pytest.raises(RecordRefused, match="link"):
        open_lock(home / "link", create=True)
    assert decoy.read_text() == "as it was"


def test_a_wait_that_was_given_up_leaves_no_lock(home: Path) -> None:
    """A process that gave up waiting blocks no other: it has neither the lock nor the turnstile."""
    process = holder(home, "shared", 60)
    with pytest.raises(RunspendError), Locks(home).exclusive(wait=0.1):
        pass
    with Locks(home).shared(wait=0.1):
        pass
    process.kill()
    process.communicate()


def test_the_kernel_knows_the_holder(home: Path) -> None:
    """A lock that was taken without us is named too."""
    with (home / "lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        assert lock_holders.holders(Locks(home).file).startswith(f"held by pid {os.getpid()} (`")


STOPPED = (
    "import fcntl, sys, time\nfile = open(sys.argv[1], 'r+')\nfcntl.flock(file, fcntl.LOCK_EX)\nprint('held', flush=True)\ntime.sleep(60)\n"
)


@contextmanager
def held(file: Path) -> Iterator[int]:
    """A lock file that another process holds, without a note; its pid."""
    process = subprocess.Popen([sys.executable, "-c", STOPPED, str(file)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process.pid
    finally:
        process.kill()
        process.communicate()


def test_a_wait_at_the_turnstile_names_who_is_in_it(home: Path) -> None:
    """Readers and invisible processes are not named as holders."""
    with held(home / "turn") as pid, pytest.raises(RunspendError) as error, Locks(home).exclusive(wait=0.2):
        pass
    message = str(error.value)
    assert f"the lock {home / 'turn'}, held by pid {pid}" in message and "lock, is not held by a process on this machine" in message
    with Locks(home).shared(), held(home / "turn") as pid, pytest.raises(RunspendError) as error, Locks(home).exclusive(wait=0.2):
        pass
    message = str(error.value)
    assert f"{home / 'turn'}, held by pid {pid}" in message
    assert message.index(f"pid {pid}") < message.index(f"pid {os.getpid()}")


def test_a_process_on_another_file_system_is_not_blamed(home: Path) -> None:
    """An inode number is there on each file system: the device counts too."""
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == home.stat().st_dev:
        pytest.skip("there is no second file system here")
    with tempfile.TemporaryDirectory(dir=other) as folder, held(_made(Path(folder) / "a")):
        name = lock_holders._kernel_name(Path(folder) / "a")
        assert name in Path("/proc/locks").read_text()
        assert name.split(":")[:2] != lock_holders._kernel_name(home / "lock").split(":")[:2]
        assert lock_holders._flock_pids(home / "lock") == []


def _made(file: Path) -> Path:
    file.touch()
    return file


def test_a_holder_is_named_with_the_time_it_started(home: Path) -> None:
    """The start of the process, not the time at which its folder in /proc was looked at first."""
    began = time.time()
    with held(home / "lock"):
        time.sleep(2.5)
        message = lock_holders.holders(Locks(home).file)
    expected = (
        datetime.strptime(re.findall(r"running since ([0-9: -]+) UTC", message)[0], "%Y-%m-%d %H:%M:%S")
        .replace(tzinfo=timezone.utc)
        .timestamp()
    )
    assert began - 2 <= expected <= began + 2


@pytest.mark.parametrize("name", ["lock", "turn"])
@pytest.mark.parametrize("kind", ["link", "dangling", "folder", "pipe"])
def test_a_file_that_is_not_a_lock_is_refused_in_a_sentence(home: Path, name: str, kind: str, tmp_path: Path) -> None:
    """Runspend does not read without a lock, does not wait, and does not create a lock elsewhere."""
    (home / name).unlink()
    decoy = tmp_path / "decoy"
    if kind == "folder":
        (home / name).mkdir()
    elif kind == "pipe":
        os.mkfifo(home / name)
    else:
        (home / name).symlink_to(decoy)
        if kind == "link":
            decoy.write_text("as it was")
    for act in (lambda: ParquetWarehouse(home.parent).states(), lambda: Locks(home).make(), lambda: Locks(home).exclusive().__enter__()):
        with pytest.raises(RecordRefused, match=name):
            act()
    assert decoy.exists() is (kind == "link")
    assert kind != "link" or decoy.read_text() == "as it was"


def test_other_waits_end_and_name_the_holder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The locks of the work folder and of the outbox count here."""
    monkeypatch.setattr(sources, "GATE_WAIT", 0.2)
    monkeypatch.setattr(outbox, "OUTBOX_WAIT", 0.2)
    settings = Settings.model_validate({"home": tmp_path})
    for name, act in (
        ("work", lambda: sources.work_folder(settings).__enter__()),
        ("mail", lambda: outbox._one_at_a_time(tmp_path).__enter__()),
    ):
        (tmp_path / name).mkdir()
        with held(_made(tmp_path / name / ".lock")) as pid, pytest.raises(RunspendError, match=f"waited 0.2 s .*held by pid {pid}"):
            act()
        act()


def test_a_reader_that_is_done_waits_for_no_publisher(home: Path) -> None:
    """Its staging folder goes away without the warehouse's lock."""
    folder = open_folder(home.parent)
    with folder.stage("read") as stage:
        (stage.path / "below").mkdir()
        (stage.path / "below" / "file").write_text("x")
        lock = Locks(home).exclusive()
        lock.__enter__()
        started = time.monotonic()
    assert time.monotonic() - started < 60
    assert list((home / "stage").iterdir()) == []
    lock.__exit__(None, None, None)


def test_a_staging_folder_of_another_account_does_not_stop_publishers(home: Path) -> None:
    """Who may not enter it does not sweep it, and works on."""
    private = home / "stage" / "read-1-abcdef01"
    private.mkdir(parents=True)
    (private / "owner.lock").touch()
    code = f"from runspend.warehouse.parquet.warehouse import ParquetWarehouse\nfrom pathlib import Path\nParquetWarehouse(Path({str(home.parent)!r})).states()\nprint('read')"
    private.chmod(0)
    command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    private.chmod(0o700)
    if "setpriv" in done.stderr:
        pytest.skip(f"cannot test permissions: {done.stderr.strip()}")
    assert done.stdout == "read\n", done.stderr
    assert private.exists()


def test_a_reader_within_another_does_not_end_its_lock(home: Path) -> None:
    """Its time is up; the outer one still reads without a publisher."""
    folder = open_folder(home.parent)
    with folder.shared():
        Hold(folder)._end()
        with pytest.raises(RunspendError, match="cannot publish"), Locks(home).exclusive(wait=0.1):
            pass
    own = Hold(folder)
    own._end()
    with pytest.raises(RunspendError, match="cannot continue reading"):
        own.check()
    with Locks(home).exclusive(wait=5):
        pass
