"""Disks that are full, read-only or forbidden: the message is one sentence, the exit code is 6, and operators get a mail that needs no disk.

Figures stay intact, and the next run completes. The disks are real: a tmpfs of a few megabytes, mounted for the test.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import smtplib
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest

from runspend.core.errors import SourceRefused, SqlRefused
from runspend.core.machine_faults import has_no_room_to_spill, machine_failed
from runspend.ingest.tracking.database import copy_sqlite
from runspend.warehouse.parquet.reader import _temporary_files_bounded
from tests.command import run_here
from tests.faults.damaged_world import NOW, copy_of, digests
from tests.servers.smtp import Server, smtp_server
from tests.settings_builder import smtp_mail
from tests.tiny_world import tiny_night, write_bill


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small separate file system."""
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "runspend-test", str(place)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"cannot test full disks: mounting a tmpfs is refused here ({done.stderr.strip()})")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def leave(disk: Path, left: int) -> None:
    """Fill the disk except for this many bytes."""
    filler = disk / "filler"
    with filler.open("ab", buffering=0) as file:
        while (room := shutil.disk_usage(disk).free - left) > 0:
            if file.write(b"x" * min(room, 1 << 20)) < min(room, 1 << 20):
                break


@pytest.fixture
def server() -> Iterator[Server]:
    with smtp_server() as server:
        yield server


@pytest.fixture
def config(tmp_path: Path, disk: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A world with its home on the small disk, after one pipeline run. The next run gets a bill with other content."""
    path = copy_of(tiny_night() / "world", tmp_path / "world")
    shutil.move(path.parent / "home", disk)
    settings = json.loads(path.read_text())
    settings["home"], settings["warehouse"] = str(disk / "home"), {"uri": str(disk / "home" / "warehouse")}
    settings["mail"] = smtp_mail(server.port, operators=["operators@example.com"])
    path.write_text(json.dumps(settings))
    monkeypatch.chdir(tmp_path)
    write_bill(tmp_path / "world" / "bills" / "bill" / "part.csv", 4000)
    return path


def warehouse_of(config: Path) -> Path:
    return Path(json.loads(config.read_text())["warehouse"]["uri"])


def assert_one_sentence(done: subprocess.CompletedProcess[str], *words: str) -> None:
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in done.stderr
    assert "bug" not in done.stderr
    assert any(word in line for word in words), line
    assert "Published tables stay" in line


@pytest.mark.parametrize("left", [0, pytest.param(200_000, marks=pytest.mark.torture)])
def test_a_full_disk_is_a_sentence_a_mail_and_nothing_lost(config: Path, disk: Path, server: Server, left: int) -> None:
    fill_and_recover(config, disk, server, left)


@pytest.mark.torture
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "left", [4096 * n for n in (1, 2, 4, 8, 12, 16, 24, 32, 64, 96, 128, 160, 192, 224, 256, 320, 384, 448, 512, 640, 768, 896, 1024)]
)
def test_a_disk_that_is_full_at_any_point_is_a_sentence_a_mail_and_nothing_lost(
    config: Path, disk: Path, server: Server, left: int
) -> None:
    fill_and_recover(config, disk, server, left)


def fill_and_recover(config: Path, disk: Path, server: Server, left: int) -> None:
    before = digests(warehouse_of(config))
    leave(disk, left)
    done = run_here("nightly", "--config", str(config), "--now", NOW, code=None)
    if done.returncode == 0:
        return  # all of it fit on the disk
    assert done.returncode == 6, done.stderr
    assert_one_sentence(done, "the disk is full")
    about = [accepted.message for accepted in server.accepted if "MACHINE FAILED" in accepted.message["Subject"]]
    assert len(about) == 1
    assert "the disk is full" in about[0].get_body(("plain",)).get_content().replace("\n", " ")
    (disk / "filler").unlink()
    after = digests(warehouse_of(config))
    assert before.keys() <= after.keys()
    run_here("verify", "--full", "--config", str(config))
    assert run_here("nightly", "--config", str(config), "--now", NOW, code=None).returncode in (0, 5)
    run_here("verify", "--full", "--config", str(config))
    again = digests(warehouse_of(config))
    run_here("nightly", "--config", str(config), "--now", NOW)
    assert digests(warehouse_of(config)) == again


def test_a_copy_of_a_database_that_finds_no_room_is_not_the_servers_fault(tmp_path: Path, disk: Path) -> None:
    """A full disk while copying MLflow's database is reported as Runspend's disk, not as an unreachable server."""
    store = tiny_night() / "store"
    [database] = store.rglob("*.db")
    leave(disk, 16_384)
    with pytest.raises((OSError, sqlite3.Error)) as caught:
        copy_sqlite("lab", database, disk / "copy.db", print)
    failed = machine_failed(caught.value)
    assert failed is not None
    assert "the disk is full" in str(failed)
    assert not (disk / "copy.db").exists()


def test_a_read_only_disk_is_a_sentence_and_a_mail_and_can_still_be_read(config: Path, disk: Path, server: Server) -> None:
    before = digests(warehouse_of(config))
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    done = run_here("nightly", "--config", str(config), "--now", NOW, code=6)
    assert_one_sentence(done, "read-only")
    [accepted] = server.accepted
    text = accepted.message.get_body(("plain",)).get_content()
    assert "may get this mail again" in text.replace("\n", " ")
    for step in ("extract", "load", "measure", "allocate", "report", "alert"):
        assert_one_sentence(run_here(step, "--config", str(config), "--now", NOW, code=6), "read-only")
    assert "vit" in run_here("costs", "--config", str(config)).stdout
    run_here("verify", "--full", "--config", str(config))
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    assert digests(warehouse_of(config)) == before
    assert run_here("nightly", "--config", str(config), "--now", NOW, code=None).returncode in (0, 5)


def test_without_a_mail_server_the_sentence_must_do(config: Path, disk: Path, server: Server) -> None:
    """Mails written as files would need the full disk."""
    settings = json.loads(config.read_text())
    settings["mail"] = {"backend": "file", "operators": ["operators@example.com"]}
    config.write_text(json.dumps(settings))
    leave(disk, 0)
    assert_one_sentence(run_here("nightly", "--config", str(config), "--now", NOW, code=6), "the disk is full")
    assert server.accepted == []


def test_a_home_that_may_not_be_written_is_a_sentence(config: Path, disk: Path) -> None:
    """Root obeys permissions too, once it has lost the capability to override them."""
    for path in (disk / "home").rglob("*"):
        if path.is_dir():
            path.chmod(0o555)
    command = [
        "setpriv",
        "--bounding-set=-dac_override",
        sys.executable,
        "-m",
        "runspend.interfaces.cli",
        "load",
        "--config",
        str(config),
        "--now",
        NOW,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    if "setpriv" in done.stderr:
        pytest.skip(f"cannot test permissions: {done.stderr.strip()}")
    assert done.returncode == 6, done.stderr
    assert_one_sentence(done, "permission denied")


def test_engines_say_the_same_of_a_full_disk(disk: Path) -> None:
    """DuckDB that spills, Arrow, SQLite and plain files, each on a disk that is really full, give the same message."""
    sqlite = sqlite3.connect(disk / "a.db")
    sqlite.execute("create table t (x blob)")
    leave(disk, 2 << 20)
    big = pa.table({"x": pa.array(range(2_000_000), pa.int64())})

    def spill() -> None:
        with duckdb.connect(config={"memory_limit": "60MB", "threads": 1, "temp_directory": str(disk / "spill")}) as engine:
            engine.execute("select count(*) from (select distinct md5(range::varchar) as a from range(6_000_000)) x").fetchall()

    def copy() -> None:
        with duckdb.connect() as engine:
            engine.execute(f"copy (select md5(range::varchar) as a from range(1_000_000)) to '{disk / 'copy.parquet'}' (format parquet)")

    def insert() -> None:
        with sqlite:
            sqlite.execute("insert into t values (zeroblob(9000000))")

    cases: dict[str, Callable[[], object]] = {
        "spill": spill, "copy": copy, "insert": insert, "arrow": lambda: pq.write_table(big, disk / "arrow.parquet", compression="none"),
        "plain": lambda: (disk / "plain").write_bytes(b"x" * (9 << 20)),
    }  # fmt: skip
    for name, write in cases.items():
        with pytest.raises(Exception) as raised:
            write()
        failed = machine_failed(raised.value)
        assert has_no_room_to_spill(raised.value) is (name == "spill")
        assert failed is not None and "the disk is full" in str(failed), f"{name}: {raised.value!r}"
        for leftover in (disk / "copy.parquet", disk / "arrow.parquet", disk / "plain"):
            leftover.unlink(missing_ok=True)
    sqlite.close()
    with (
        pytest.raises(SqlRefused, match="Ask for less"),
        _temporary_files_bounded(),
    ):  # a user's query is too large, but the machine is well
        spill()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM])
def test_each_errno_is_a_sentence_with_its_place_and_what_to_do(number: int) -> None:
    try:
        try:
            raise OSError(number, os.strerror(number), "/var/lib/runspend/x")
        except OSError as error:
            raise RuntimeError("a library's own words") from error
    except RuntimeError as error:
        failed = machine_failed(error, "finish load")
    assert failed is not None
    assert failed.exit_code == 6
    assert str(failed).startswith("cannot finish load: ")
    assert "(/var/lib/runspend/x)" in str(failed)
    assert "run it again" in str(failed)


OTHERS = [
    OSError(errno.ENOENT, "No such file"), ValueError("No space left on device"), KeyError("x"), SourceRefused("aws", "Permission denied"), ConnectionRefusedError(111, "no"),
    smtplib.SMTPDataError(552, b"disk quota exceeded"), sqlite3.OperationalError("no such column: disk I/O error"),
]  # fmt: skip


@pytest.mark.parametrize("error", OTHERS, ids=repr)
def test_other_errors_are_not_the_machines(error: Exception) -> None:
    assert machine_failed(error) is None


STATEMENTS = (
    "select cast('disk quota exceeded' as int)", "select error('x: no space left on device')", "select error('max_temp_directory_size')", "select \"permission denied\"",
    "select * from read_parquet('/nowhere/x: no space left on device/a.parquet')", "select cast(': Input/output error' as date)",
)  # fmt: skip


@pytest.mark.parametrize("statement", STATEMENTS)
def test_words_of_a_statement_are_not_the_machines(statement: str) -> None:
    """The same holds for words of a cell or a file name that an engine quotes."""
    with pytest.raises(duckdb.Error) as raised:
        duckdb.sql(statement).fetchall()
    assert machine_failed(raised.value) is None


@pytest.mark.parametrize("text", ["x,disk quota exceeded", "1,: no space left on device", "[errno 28],Input/output error"])
def test_words_of_a_file_are_not_the_machines(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b\n" + text + "\n")
    with pytest.raises(pa.ArrowInvalid) as raised:
        csv.read_csv(tmp_path / "a.csv", convert_options=csv.ConvertOptions(column_types={"b": pa.int64()}))
    assert machine_failed(raised.value) is None


def test_a_bug_while_an_error_of_the_machine_is_handled_is_a_bug() -> None:
    """It has a traceback and exit code 1. A file that cannot be removed after another could not be written is the machine's."""

    def fail(second: Exception) -> None:
        try:
            raise OSError(errno.ENOSPC, "full", "/x")
        except OSError:
            raise second  # noqa: B904 (that it is not named as the cause is what is tried)

    for second, is_the_machines in ((KeyError("x"), False), (OSError(errno.ENOENT, "gone"), True), (SourceRefused("aws", "no"), False)):
        with pytest.raises(type(second)) as raised:
            fail(second)
        assert (machine_failed(raised.value) is not None) is is_the_machines
