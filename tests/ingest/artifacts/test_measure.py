"""Measure a local folder: whose bytes they are, since when, and what happens when the listing breaks off."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from runspend.config.settings import ArtifactStore
from runspend.core.errors import SourceRefused, SourceUnreachable
from runspend.core.step_result import ReadJob
from runspend.ingest.artifacts import Measurement, measure_store, probe_store
from runspend.schema.tables import ARTIFACT_BYTES
from tests.ingest.artifacts.owners import OWNER_SCHEMA

UTC = timezone.utc
NOW = datetime(2026, 10, 14, 2, tzinfo=UTC)
DAY = timedelta(days=1)
RUN1, RUN2, RUN3 = "a" * 31 + "1", "a" * 31 + "2", "b" * 32
MODEL, TRACE = "m-" + "c" * 32, "tr-" + "d" * 32


def owner(kind: str, owner_id: str, uri: str | None, *, server: str = "prod", experiment: str = "1") -> dict[str, str | None]:
    """Make one row of `owners`."""
    return {
        "owner_kind": kind,
        "owner_id": owner_id,
        "tracking_server": server,
        "workspace": "default",
        "experiment_id": experiment,
        "uri": uri,
    }


def write(path: Path, size: int, *, age_days: int = 10) -> None:
    """Write a file of `size` bytes that was last changed so many days before NOW."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    at = (NOW - age_days * DAY).timestamp()
    os.utime(path, (at, at))


class Store:
    """A folder that is measured repeatedly, and the tables that the warehouse would have of it."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "mlruns"
        self.root.mkdir()
        self.work = folder / "work"
        self.store = ArtifactStore(uri=str(self.root))
        self.owners: list[dict[str, str | None]] = []
        self.months: dict[str, pa.Table] = {}
        self.nights = 0

    def own(self, kind: str, owner_id: str, folder: str, **more: str) -> None:
        self.owners.append(owner(kind, owner_id, f"{self.root}/{folder}", **more))

    def measure(self, now: datetime = NOW) -> Measurement:
        """Measure once, and publish the tables, as a pipeline run does."""
        self.nights += 1
        found = measure_store(
            self.store,
            pa.Table.from_pylist(self.owners, OWNER_SCHEMA),
            ReadJob(now, f"night-{self.nights}", self.work),
            previous=self.months.get,
        )
        self.months |= found.tables
        return found

    def rows(self, month: str = "2026-10") -> list[dict[str, Any]]:
        return list(self.months[month].to_pylist())

    def content(self) -> dict[str, list[dict[str, Any]]]:
        """Return the columns that the content digest covers: all except bookkeeping."""
        return {month: table.select(ARTIFACT_BYTES.content).to_pylist() for month, table in self.months.items()}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two runs, a model and a trace in MLflow's layout, and one file that MLflow does not know."""
    store = Store(tmp_path)
    write(store.root / "1" / RUN1 / "artifacts" / "model" / "weights.bin", 1000, age_days=5)
    write(store.root / "1" / RUN1 / "artifacts" / "log.txt", 10, age_days=7)
    write(store.root / "1" / RUN2 / "artifacts" / "x", 200)
    write(store.root / "1" / "models" / MODEL / "artifacts" / "m.pkl", 30)
    write(store.root / "1" / "traces" / TRACE / "artifacts" / "traces.json", 4)
    write(store.root / "README", 5)
    store.own("run", RUN1, f"1/{RUN1}/artifacts")
    store.own("run", RUN2, f"1/{RUN2}/artifacts")
    store.own("logged_model", MODEL, f"1/models/{MODEL}/artifacts")
    store.own("trace", TRACE, f"1/traces/{TRACE}/artifacts")
    return store


def sizes(rows: list[dict[str, Any]]) -> dict[tuple[str, str], int | None]:
    """Return the bytes of the rows that are still valid, by kind and id."""
    return {(r["owner_kind"], r["owner_id"]): r["bytes"] for r in rows if r["valid_to"] is None}


def test_every_kind_of_owner_gets_its_bytes(store: Store) -> None:
    """Runs, models, traces and other files have rows with the columns of the table."""
    found = store.measure()
    assert (found.objects, found.bytes, found.is_complete, found.error, found.warnings) == (6, 1249, True, None, [])
    assert found.tables["2026-10"].schema.equals(ARTIFACT_BYTES.arrow_schema())
    assert sizes(store.rows()) == {
        ("run", RUN1): 1010,
        ("run", RUN2): 200,
        ("logged_model", MODEL): 30,
        ("trace", TRACE): 4,
        ("other", ""): 5,
    }
    run = next(r for r in store.rows() if r["owner_id"] == RUN1)
    assert run == {
        "month": date(2026, 10, 1),
        "store": str(store.root),
        "owner_kind": "run",
        "owner_id": RUN1,
        "tracking_server": "prod",
        "workspace": "default",
        "experiment_id": "1",
        "prefix": f"1/{RUN1}/artifacts",
        "storage_class": "LOCAL",
        "valid_from": NOW,
        "valid_to": None,
        "objects": 2,
        "bytes": 1010,
        "oldest_at": NOW - 7 * DAY,
        "newest_at": NOW - 5 * DAY,
        "noncurrent_objects": 0,
        "noncurrent_bytes": 0,
        "duplicate_bytes": None,  # a folder has no checksums
        "unowned_since": None,
        "confirmed_at": None,
        "is_complete": True,
        "load_id": "night-1",
    }


def test_unclaimed_objects_are_orphaned_in_mlflow_folders_and_other_elsewhere(store: Store) -> None:
    """An orphan names its experiment. Metadata of a file store and foreign folders are `other`, by their top folder."""
    old_trace = "e" * 32
    for path in (
        f"7/{RUN3}/artifacts/a/b",
        f"7/models/m-{RUN3}/artifacts/x",
        f"7/traces/{old_trace}/artifacts/t",
        f"team/exp/{RUN3}/artifacts/x",
    ):
        write(store.root / path, 1)
    for path in (f"7/{RUN3}/meta.yaml", "datasets/imagenet/x/y", "7/models/readme", f"7/{RUN3[:30]}/artifacts/x"):
        write(store.root / path, 100)
    store.measure()
    got = {
        (r["owner_kind"], r["owner_id"]): (r["bytes"], r["experiment_id"], r["prefix"])
        for r in store.rows()
        if r["owner_kind"] in ("orphan", "other")
    }
    assert got == {
        ("orphan", f"7/{RUN3}/artifacts"): (1, "7", f"7/{RUN3}/artifacts"),
        ("orphan", f"7/models/m-{RUN3}/artifacts"): (1, "7", f"7/models/m-{RUN3}/artifacts"),
        ("orphan", f"7/traces/{old_trace}/artifacts"): (1, "7", f"7/traces/{old_trace}/artifacts"),
        ("orphan", f"team/exp/{RUN3}/artifacts"): (1, None, f"team/exp/{RUN3}/artifacts"),
        ("other", "7"): (300, None, "7"),
        ("other", "datasets"): (100, None, "datasets"),
        ("other", ""): (5, None, ""),
    }


def test_a_name_that_begins_like_another_is_another(tmp_path: Path) -> None:
    """run1 is not run10 (mlflow#24821), with and without a slash at the end of the URI."""
    store = Store(tmp_path)
    for name, size in (("run1", 1), ("run10", 20), ("run", 300), ("run1.bak", 4000)):
        write(store.root / name / "f", size)
    store.own("run", "one", "run1")
    store.own("run", "ten", "run10/")
    store.measure()
    assert sizes(store.rows()) == {("run", "one"): 1, ("run", "ten"): 20, ("other", "run"): 300, ("other", "run1.bak"): 4000}


def test_the_longest_prefix_wins(tmp_path: Path) -> None:
    """A model inside a run's folder has its own bytes. A folder there that only looks like MLflow's layout belongs to the run."""
    store = Store(tmp_path)
    write(store.root / "r" / "a", 1)
    write(store.root / "r" / "model" / "deep" / "b", 20)
    write(store.root / "r" / "copy" / RUN3 / "artifacts" / "c", 300)
    store.own("run", "r", "r")
    store.own("logged_model", "m", "r/model")
    store.measure()
    assert sizes(store.rows()) == {("run", "r"): 301, ("logged_model", "m"): 20}


def test_a_folder_two_servers_claim_counts_once(store: Store) -> None:
    """Two configured servers read one MLflow database. The bytes belong to the server whose name sorts first."""
    store.own("run", RUN1, f"1/{RUN1}/artifacts", server="copy")
    found = store.measure()
    assert found.bytes == sum(r["bytes"] for r in store.rows()) == 1249
    assert [r["tracking_server"] for r in store.rows() if r["owner_id"] == RUN1] == ["copy"]


def test_experiments_in_the_file_stores_trash_keep_their_owners(store: Store) -> None:
    """`mlflow experiments delete` on a file store moves the folder and leaves the URIs as they were."""
    (store.root / ".trash").mkdir()
    shutil.move(store.root / "1", store.root / ".trash" / "1")
    store.measure()
    assert sizes(store.rows())["run", RUN1] == 1010


def test_no_run_owns_the_whole_store_and_odd_uris_own_nothing(store: Store) -> None:
    """URIs with dots, and URIs of the root itself, are reported. Other owners keep their bytes."""
    store.own("run", "root", "")
    store.own("run", "dots", f"1/../1/{RUN1}")
    store.owners.append(owner("run", "elsewhere", "s3://other/1"))
    store.owners.append(owner("run", "nowhere", None))
    found = store.measure()
    assert sizes(store.rows())["run", RUN1] == 1010
    assert not {"root", "dots", "elsewhere", "nowhere"} & {r["owner_id"] for r in store.rows()}
    assert found.warnings == [
        f"1 artifact URIs are ambiguous and own nothing, e.g. '{store.root}/1/../1/{RUN1}'.",
        "1 owners have the root of the store as their folder, so they own no bytes. Give each owner a separate folder.",
    ]


def test_links_are_never_followed_and_reported_when_they_leave(store: Store, tmp_path: Path) -> None:
    """Links lead to a folder outside, a file outside, a circle, a sibling, or nowhere. No bytes behind them count."""
    write(tmp_path / "secret" / "big", 10_000)
    base = store.root / "1" / RUN1 / "artifacts"
    (base / "out").symlink_to(tmp_path / "secret")
    (base / "file").symlink_to(tmp_path / "secret" / "big")
    (base / "circle").symlink_to(base)
    (base / "sibling").symlink_to(store.root / "1" / RUN2)
    (base / "nowhere").symlink_to("/nonexistent/x")
    found = store.measure()
    assert (found.objects, found.bytes) == (6, 1249)
    assert found.warnings == [
        f"symbolic links leave {store.root} and were not followed: "
        f"1/{RUN1}/artifacts/file, 1/{RUN1}/artifacts/nowhere, 1/{RUN1}/artifacts/out."
    ]


def test_odd_names_come_through(store: Store) -> None:
    """Names contain blanks, #, %41, emoji, quotes, newlines, and bytes that are not text."""
    for name in ("a b", "a#b", "%41", "😀", "o'br\"ien", "new\nline", "back\\slash", "u\u0308", "\u00fc"):
        write(store.root / "1" / RUN2 / "artifacts" / name / name, 7)
        write(store.root / name / "x", 1)
    folder = os.fsencode(store.root) + b"/\xff\xfe"
    os.mkdir(folder)
    Path(os.fsdecode(folder + b"/\xfd")).write_bytes(b"12")
    store.measure()
    got = sizes(store.rows())
    assert got["run", RUN2] == 200 + 9 * 7
    assert {i for k, i in got if k == "other"} == {
        "",
        "a b",
        "a#b",
        "%41",
        "😀",
        "o'br\"ien",
        "new\nline",
        "back\\slash",
        "u\u0308",
        "\u00fc",
        "\\xff\\xfe",
    }


def test_an_unchanged_store_keeps_its_rows(store: Store) -> None:
    """The store is measured again at the same time and a day later. Rows differ only in their bookkeeping."""
    store.measure()
    first = store.content()
    store.measure()
    assert store.content() == first
    store.measure(NOW + DAY)
    assert store.content() == first


def test_a_change_closes_one_row_and_opens_another(store: Store) -> None:
    """Only rows of the owner whose figures changed are affected. The closed row has the end of the old figures."""
    store.measure()
    write(store.root / "1" / RUN1 / "artifacts" / "more", 90, age_days=0)
    store.measure(NOW + DAY)
    assert [(r["valid_from"], r["valid_to"], r["objects"], r["bytes"], r["newest_at"]) for r in store.rows() if r["owner_id"] == RUN1] == [
        (NOW, NOW + DAY, 2, 1010, NOW - 5 * DAY),
        (NOW + DAY, None, 3, 1100, NOW),
    ]
    assert [(r["valid_from"], r["valid_to"]) for r in store.rows() if r["owner_id"] == RUN2] == [(NOW, None)]


def test_rows_of_a_deleted_folder_end(store: Store) -> None:
    """The row is closed, and nothing follows it."""
    store.measure()
    shutil.rmtree(store.root / "1" / RUN2)
    store.measure(NOW + DAY)
    assert [(r["valid_to"], r["bytes"]) for r in store.rows() if r["owner_id"] == RUN2] == [(NOW + DAY, 200)]


def test_a_change_measured_twice_at_one_time_is_one_change(store: Store) -> None:
    """Rows from the same `now` are replaced. If the change is undone, the rows that it closed are open again."""
    store.measure()
    before = store.content()
    write(store.root / "1" / RUN2 / "artifacts" / "y", 1)
    store.measure(NOW + DAY)
    once = store.content()
    store.measure(NOW + DAY)
    assert store.content() == once != before
    os.unlink(store.root / "1" / RUN2 / "artifacts" / "y")
    store.measure(NOW + DAY)
    assert store.content() == before


def test_an_orphan_that_finds_its_owner_changes_hands(store: Store) -> None:
    """The tracking server was added later than the store. From then on, the bytes belong to the run."""
    run = store.owners.pop(0)
    store.measure()
    assert sizes(store.rows())["orphan", f"1/{RUN1}/artifacts"] == 1010
    store.owners.append(run)
    store.measure(NOW + DAY)
    assert sizes(store.rows())["run", RUN1] == 1010
    assert [r["valid_to"] for r in store.rows() if r["owner_kind"] == "orphan"] == [NOW + DAY]


def test_a_new_month_begins_with_the_objects_at_the_end_of_the_last(store: Store) -> None:
    """Rows are clipped to their month. Until the next measurement, the last figures are valid."""
    store.measure()
    write(store.root / "1" / RUN1 / "artifacts" / "more", 90)
    november, later = datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 11, 3, 2, tzinfo=UTC)
    found = store.measure(later)
    assert set(found.tables) == {"2026-10", "2026-11"}
    assert {(r["valid_from"], r["valid_to"]) for r in store.rows("2026-10")} == {(NOW, november)}
    assert [(r["month"], r["valid_from"], r["valid_to"], r["bytes"]) for r in store.rows("2026-11") if r["owner_id"] == RUN1] == [
        (date(2026, 11, 1), november, later, 1010),
        (date(2026, 11, 1), later, None, 1100),
    ]
    assert [(r["valid_from"], r["valid_to"]) for r in store.rows("2026-11") if r["owner_id"] == RUN2] == [(november, None)]
    once = store.content()
    assert set(store.measure(later).tables) == {"2026-11"}
    assert store.content() == once


def test_months_without_a_measurement_are_filled_from_the_last_one(store: Store) -> None:
    """The store is measured in October and then in January. One row covers each whole month between them."""
    store.measure()
    store.measure(datetime(2027, 1, 2, tzinfo=UTC))
    assert sorted(store.months) == ["2026-10", "2026-11", "2026-12", "2027-01"]
    assert {(r["valid_from"], r["valid_to"]) for r in store.rows("2026-12")} == {
        (datetime(2026, 12, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC))
    }
    assert sum(r["bytes"] for r in store.rows("2026-12")) == 1249


def test_a_measurement_at_the_first_instant_of_a_month_leaves_no_empty_stretch(store: Store) -> None:
    """`now` is the start of the month, so a row carried over from the month before would have no duration."""
    store.measure()
    write(store.root / "1" / RUN1 / "artifacts" / "more", 90)
    november = datetime(2026, 11, 1, tzinfo=UTC)
    for _ in range(2):
        store.measure(november)
        assert {(r["valid_from"], r["valid_to"]) for r in store.rows("2026-11")} == {(november, None)}
        assert sizes(store.rows("2026-11"))["run", RUN1] == 1100


def test_an_older_pipeline_run_never_undoes_a_newer_one(store: Store) -> None:
    """If `now` is a day or a month before the newest measurement, nothing is published, and a warning says so."""
    store.measure()
    write(store.root / "1" / RUN1 / "artifacts" / "more", 90)
    store.measure(NOW + DAY)
    found = store.measure(NOW)
    assert found.tables == {}
    assert found.warnings == [f"skipped {store.root}: it has a measurement newer than 2026-10-14 02:00. The newer figures stay."]
    store.measure(datetime(2026, 11, 3, tzinfo=UTC))
    assert store.measure(NOW + 2 * DAY).tables == {}


def break_off(monkeypatch: pytest.MonkeyPatch, at: int, error: OSError) -> None:
    """Make the `at`-th folder of the listing fail."""
    real: Callable[..., Any] = os.scandir
    calls = iter(range(1, 1_000_000))

    def scandir(path: Any) -> Any:
        if next(calls) == at:
            raise error
        return real(path)

    monkeypatch.setattr("runspend.storage.local.os.scandir", scandir)


@pytest.mark.parametrize("at", [1, 4, 9])
def test_a_listing_that_breaks_off_leaves_unknown_unknown(store: Store, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Nothing was known before, so every owner has a row without figures, never 0."""
    break_off(monkeypatch, at, PermissionError(13, "Permission denied"))
    found = store.measure()
    assert (found.objects, found.bytes, found.is_complete) == (None, None, False)
    assert isinstance(found.error, SourceUnreachable)
    assert "Permission denied" in str(found.error)
    assert {(r["owner_kind"], r["bytes"], r["objects"], r["is_complete"], r["storage_class"]) for r in store.rows()} == {
        (kind, None, None, False, "UNKNOWN") for kind in ("run", "logged_model", "trace")
    }
    assert {r["owner_id"] for r in store.rows()} == {RUN1, RUN2, MODEL, TRACE}


def test_a_listing_that_breaks_off_keeps_good_figures(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Known owners keep their rows, and new owners are unknown. The next good listing settles both."""
    store.measure()
    good = store.rows()
    write(store.root / "1" / RUN3 / "artifacts" / "x", 50)
    write(store.root / "1" / RUN1 / "artifacts" / "more", 90)
    store.own("run", RUN3, f"1/{RUN3}/artifacts")
    with monkeypatch.context() as broken:
        break_off(broken, 3, OSError(5, "Input/output error"))
        assert not store.measure(NOW + DAY).is_complete
        assert [r for r in store.rows() if r["owner_id"] != RUN3] == good
        unknown = store.content()
    for again in (NOW + DAY, NOW + 2 * DAY):
        with monkeypatch.context() as broken:
            break_off(broken, 6, OSError(5, "Input/output error"))
            assert not store.measure(again).is_complete
        assert store.content() == unknown
    store.measure(NOW + 3 * DAY)
    assert [(r["valid_from"], r["valid_to"], r["bytes"]) for r in store.rows() if r["owner_id"] == RUN3] == [
        (NOW + 3 * DAY, None, 50),
        (NOW + DAY, NOW + 3 * DAY, None),
    ]
    assert sizes(store.rows())["run", RUN1] == 1100


def test_a_good_listing_repairs_a_broken_one_of_the_same_time(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listing of the same `now` succeeds, and no unknown bytes remain. When it breaks off again, the good figures stay."""
    with monkeypatch.context() as broken:
        break_off(broken, 2, OSError(5, "Input/output error"))
        store.measure()
    store.measure()
    good = store.content()
    assert all(r["is_complete"] for r in store.rows())
    break_off(monkeypatch, 2, OSError(5, "Input/output error"))
    store.measure()
    assert store.content() == good


def test_a_new_month_that_begins_broken_carries_the_old_figures(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last good figures stay valid after the end of the month."""
    store.measure()
    break_off(monkeypatch, 2, OSError(5, "Input/output error"))
    store.measure(datetime(2026, 11, 2, tzinfo=UTC))
    assert {(r["valid_from"], r["valid_to"], r["is_complete"]) for r in store.rows("2026-11")} == {
        (datetime(2026, 11, 1, tzinfo=UTC), None, True)
    }
    assert sum(r["bytes"] for r in store.rows("2026-11")) == 1249


def test_an_unreadable_size_makes_only_its_owner_unknown(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder may be listed but not entered, so names have no sizes. Objects are counted, and bytes are unknown."""

    class Entry:
        def __init__(self, entry: os.DirEntry[str]) -> None:
            self.entry, self.name, self.path = entry, entry.name, entry.path
            self.is_symlink, self.is_dir = entry.is_symlink, entry.is_dir

        def stat(self, *, follow_symlinks: bool) -> os.stat_result:
            if self.name == "log.txt":
                raise PermissionError(13, "Permission denied")
            return self.entry.stat(follow_symlinks=follow_symlinks)

    class Entries:
        def __init__(self, path: str) -> None:
            self.found = real(path)

        def __enter__(self) -> Any:
            return (Entry(e) for e in self.found)

        def __exit__(self, *_: object) -> None:
            self.found.close()

    real = os.scandir
    monkeypatch.setattr("runspend.storage.local.os.scandir", Entries)
    found = store.measure()
    assert (found.objects, found.bytes, found.is_complete) == (6, None, True)
    assert sizes(store.rows()) == {
        ("run", RUN1): None,
        ("run", RUN2): 200,
        ("logged_model", MODEL): 30,
        ("trace", TRACE): 4,
        ("other", ""): 5,
    }
    assert next(r["objects"] for r in store.rows() if r["owner_id"] == RUN1) == 2


def test_a_folder_that_is_gone_or_suddenly_empty_is_not_believed(store: Store) -> None:
    """Runspend does not take an unmounted volume for deleted files."""
    store.measure()
    good = store.content()
    shutil.rmtree(store.root)
    gone = store.measure(NOW + DAY)
    assert isinstance(gone.error, SourceUnreachable)
    assert str(gone.error).startswith(f"cannot list {store.root}: there is no such folder.")
    store.root.mkdir()
    empty = store.measure(NOW + 2 * DAY)
    assert isinstance(empty.error, SourceRefused)
    assert "it had 6 files" in str(empty.error)
    assert store.content() == good


def test_an_empty_store_is_complete_and_empty(tmp_path: Path) -> None:
    """The folder is new."""
    store = Store(tmp_path)
    found = store.measure()
    assert (found.objects, found.bytes, found.is_complete, store.rows()) == (0, 0, True, [])


def test_stores_that_are_not_listed_are_not_touched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`measure: none` and unsupported schemes cause no connection and no rows, and Runspend says why."""
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("connected"))
    owners = pa.Table.from_pylist([owner("run", RUN1, "gs://b/1")], OWNER_SCHEMA)

    def measure(store: ArtifactStore) -> Measurement:
        return measure_store(store, owners, ReadJob(NOW, "x", tmp_path), previous=lambda _: None)

    silent = measure(ArtifactStore(uri="s3://b", measure="none"))
    assert (silent.tables, silent.error, silent.warnings) == ({}, None, ["s3://b is not measured: measure is none."])
    other = measure(ArtifactStore(uri="hdfs://b"))
    assert (other.tables, other.is_complete, type(other.error)) == ({}, False, SourceRefused)


def test_hostile_owners_cause_no_connection(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs claim hostile artifact URIs. Runspend contacts no server, and the store's own bytes are unchanged."""
    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, lambda *_: pytest.fail("connected"))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("resolved a name"))
    for number, uri in enumerate(
        ("http://169.254.169.254/", "ftp://10.0.0.5/x", "hdfs://nn/x", "s3://elsewhere/x", "file://10.0.0.5/x", "file:///etc")
    ):
        store.owners.append(owner("run", f"hostile-{number}", uri))
    assert store.measure().bytes == 1249


def test_the_probe_reports_its_findings(store: Store, tmp_path: Path) -> None:
    """`doctor` shows one line, or raises the error that a measurement would report."""
    assert probe_store(store.store) == f"folder {store.root} can be read"
    (tmp_path / "empty").mkdir()
    assert probe_store(ArtifactStore(uri=str(tmp_path / "empty"))) == f"folder {tmp_path / 'empty'} can be read and is empty"
    with pytest.raises(SourceUnreachable):
        probe_store(ArtifactStore(uri=str(tmp_path / "missing")))


def test_nothing_is_left_in_the_work_folder(store: Store) -> None:
    """The temporary file of the listing is deleted when the rows are made."""
    store.measure()
    assert [p for p in store.work.rglob("*") if p.is_file()] == []
