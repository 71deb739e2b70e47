"""The lock of a warehouse: publishers get their turn, a wait says who it waits for, and it ends."""

from __future__ import annotations

import fcntl
import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from runspend.errors import RunspendError
from runspend.warehouse import locks
from runspend.warehouse.locks import Locks, open_lock


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
        "import sys, time, pathlib\nfrom runspend.warehouse.locks import Locks\n"
        f"with Locks(pathlib.Path(sys.argv[1])).{kind}():\n    print('held', flush=True)\n    time.sleep({seconds})\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(home)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_many_read_and_one_publishes(home: Path) -> None:
    """Readers share; a publisher is alone."""
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
    """After a while it is said once, with host, pid, command and time; past the deadline it is the error. Afterwards the lock can be had."""
    monkeypatch.setattr(locks, "PATIENCE", 0.2)
    process = holder(home, kind, 60)
    try:
        with caplog.at_level(logging.WARNING), pytest.raises(RunspendError) as error, getattr(Locks(home), wanted)(wait=0.6):
            pass
    finally:
        process.kill()
        process.communicate()
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1
    for text in (said[0], str(error.value)):
        assert f"pid {process.pid}" in text and os.uname().nodename in text and " UTC" in text and "since" in text
    assert "waited 0.6 s" in str(error.value) and "Nothing was changed." in str(error.value)
    with Locks(home).exclusive(wait=5):
        pass


def test_a_note_of_somebody_who_was_killed_blames_nobody(home: Path) -> None:
    """The note stays in the file; who is named is who holds the lock now."""
    process = holder(home, "exclusive", 60)
    process.kill()
    process.communicate()
    assert f'"pid": {process.pid}' in (home / "lock").read_text()
    with Locks(home).shared():
        assert f"pid {os.getpid()}" in Locks(home).holders() and str(process.pid) not in Locks(home).holders()


@pytest.mark.parametrize("note", ["", "{", "[]", '{"host": 1}', '{"host": "a", "pid": "x", "command": "", "since": ""}', "\0" * 9000, "[" * 4096, '{"host": "a", "pid": 1e999, "command": "", "since": ""}'])
def test_a_note_that_says_nothing_is_no_error(home: Path, note: str) -> None:
    """Whatever stands in the lock file, the holder is found in another way."""
    with Locks(home).shared():
        (home / "lock").write_text(note)
        assert f"pid {os.getpid()}" in Locks(home).holders()


def test_a_note_moves_no_cursor_and_holds_no_arguments(home: Path) -> None:
    """What others wrote is shown without control characters; what we write has the verb of the command alone."""
    (home / "lock").write_text('{"host": "a\\u001b[2Jb", "pid": 7, "command": "x\\ny", "since": "now"}')
    assert Locks(home).holders() == "held by pid 7 on a?[2Jb (`x?y`) since now"
    code = (
        "import sys, pathlib\nfrom runspend.warehouse.locks import Locks\n"
        "sys.argv = ['/usr/bin/runspend', 'sql', 'select secret']\n"
        f"with Locks(pathlib.Path({str(home)!r})).exclusive():\n    print(pathlib.Path({str(home / 'lock')!r}).read_text())\n"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert '"command": "runspend sql"' in said and "secret" not in said


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
    with pytest.raises(OSError, match="symbolic"):
        open_lock(home / "link", create=True)
    assert decoy.read_text() == "as it was"


def test_a_wait_that_was_given_up_leaves_no_lock(home: Path) -> None:
    """Somebody who no longer waits keeps nobody else out: neither the lock nor the turnstile is theirs."""
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
        assert Locks(home).holders().startswith(f"held by pid {os.getpid()} (`")
