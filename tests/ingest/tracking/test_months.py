"""Months as units: which rows stay when MLflow no longer has the runs, which changes are refused, and which months are read."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from runspend.core.errors import ConfigError, SourceRefused, SourceUnreachable
from runspend.ingest.tracking import choose_months, database, probe_server
from runspend.ingest.tracking.database import postgres_uri
from runspend.ingest.tracking.revisions import REVISIONS
from tests.ingest.tracking.tracking_world import NOW, World, at


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_repeated_extract_gives_the_same_bytes(world: World) -> None:
    for i in range(50):
        world.add_run(f"{i:032x}", tags={"instance_id": f"i-{i % 3}"})
    first = world.night()
    again = world.night(first)
    assert first.extract.tables.keys() == again.extract.tables.keys()
    for unit, path in first.extract.tables.items():
        assert path.read_bytes() == again.extract.tables[unit].read_bytes()


def test_a_deleted_run_keeps_its_row_and_the_first_time_it_was_missing(world: World) -> None:
    world.add_run("kept")
    world.add_run("gone", tags={"runspend.resource_ids": "i-1,i-2"})
    first = world.night()
    world.remove_run("gone")
    second = world.night(first, now=NOW + timedelta(days=1))
    third = world.night(second, now=NOW + timedelta(days=2))
    assert third.run("gone") == {**first.run("gone"), "purged_at": NOW + timedelta(days=1)}
    assert third.run("kept")["purged_at"] is None
    assert third.rows("run_resources") == first.rows("run_resources")
    assert third.extract.extras[("runs", "2026-11")]["runs"] == 1

    world.add_run("gone", tags={"runspend.resource_ids": "i-1"})
    back = world.night(third, now=NOW + timedelta(days=3))
    assert back.run("gone")["purged_at"] is None
    assert [r["resource_id"] for r in back.rows("run_resources")] == ["i-1"]


def test_a_month_without_any_run_left_keeps_its_rows_as_purged(world: World) -> None:
    world.add_run("last", at("2026-09-01"))
    first = world.night()
    world.remove_run("last")
    second = world.night(first)
    assert second.run("last", "2026-09")["purged_at"] == NOW
    assert second.extract.run_count == 0


@pytest.mark.parametrize(
    ("had", "lost", "is_refused"), [(100, 21, True), (100, 20, False), (40, 9, False), (40, 10, True), (9, 9, False), (10, 10, True)]
)
def test_many_runs_that_vanish_at_once_are_not_believed(world: World, had: int, lost: int, is_refused: bool) -> None:
    for i in range(had):
        world.add_run(f"run {i:03}")
    world.add_run("october", at("2026-10-01"))
    first = world.night()
    for i in range(lost):
        world.remove_run(f"run {i:03}")
    second = world.night(first)
    assert [(e.source, e.period) for e in second.extract.refused] == ([("prod", "2026-11")] if is_refused else [])
    assert (("runs", "2026-11") in second.extract.tables) is not is_refused
    assert (("run_resources", "2026-11") in second.extract.tables) is not is_refused
    assert ("runs", "2026-10") in second.extract.tables
    if is_refused:
        assert f"{lost} of {had} vanished at once, more than max_vanish (20%). The month keeps its rows." in str(second.extract.refused[0])
        assert sum(r["purged_at"] == NOW for r in world.night(second, accept=["2026-11"]).rows("runs")) == lost


def test_runs_purged_before_do_not_count_as_vanishing_again(world: World) -> None:
    for i in range(30):
        world.add_run(f"run {i:02}")
    first = world.night()
    for i in range(12):
        world.remove_run(f"run {i:02}")
    second = world.night(first, accept=["2026-11"])
    assert world.night(second).extract.refused == []


def test_fewer_experiments_than_before_refuse_the_server(world: World) -> None:
    world.add_experiment(2, "nlp")
    world.add_run("r")
    first = world.night()
    world.do("delete from experiments where experiment_id = 2")
    with pytest.raises(SourceRefused, match=r"it shows 1 experiments and had 2\. All its rows stay\."):
        world.night(first)
    assert world.night(first, accept=["experiments"]).extract.experiment_count == 1


def test_a_file_of_an_older_version_gains_the_new_columns(world: World) -> None:
    world.add_run("gone")
    first = world.night()
    first.tables[("runs", "2026-11")] = first.tables[("runs", "2026-11")].drop_columns(["early_stopping_rounds", "purged_at"])
    world.remove_run("gone")
    assert world.night(first).run("gone")["purged_at"] == NOW


def test_only_the_months_asked_for_are_read(world: World) -> None:
    world.add_run("october", at("2026-10-31T23:59:59"))
    world.add_run("november", at("2026-11-01"))
    night = world.night(months=["2026-10"])
    assert sorted(p for t, p in night.extract.tables if t == "runs") == ["2026-10"]
    assert night.extract.run_count == 1


@pytest.mark.parametrize("versions", [["ffff"], [REVISIONS[0]], [REVISIONS[-1], "ffff"], []])
def test_an_unknown_schema_is_refused_before_a_row_is_read(world: World, versions: list[str]) -> None:
    world.do("delete from alembic_version")
    for version in versions:
        world.do("insert into alembic_version values (?)", version)
    for table in ("runs", "experiments"):
        world.do(f"drop table {table}")  # reading a row would raise another error
    with pytest.raises(SourceRefused) as refused:
        world.night()
    assert all(v in str(refused.value) for v in versions)
    assert f"Runspend knows 97727af70f4d (MLflow 2.0) to {REVISIONS[-1]}" in str(refused.value)
    assert list(world.folder.glob("night-1/*")) == []


def test_a_file_that_is_not_an_mlflow_database_is_refused(world: World) -> None:
    world.do("drop table alembic_version")
    with pytest.raises(SourceRefused, match="it is not MLflow's"):
        world.night()


def test_a_missing_database_is_unreachable_and_is_not_created(tmp_path: Path) -> None:
    world = World(tmp_path)
    with pytest.raises(SourceUnreachable, match="does not exist"):
        world.night(server={"uri": f"sqlite:///{tmp_path / 'nowhere.db'}"})
    assert not (tmp_path / "nowhere.db").exists()


def test_a_file_that_is_not_a_database_is_unreachable(tmp_path: Path) -> None:
    world = World(tmp_path)
    (tmp_path / "text.db").write_text("not a database, but long enough to look at" * 100)
    with pytest.raises(SourceUnreachable, match="cannot copy the database of prod"):
        world.night(server={"uri": f"sqlite:///{tmp_path / 'text.db'}"})


def test_other_databases_are_refused_with_the_way_out(world: World) -> None:
    with pytest.raises(ConfigError, match=r"mssql\+pyodbc databases are not supported.*`via: api`"):
        world.night(server={"uri": "http://mlflow:5000", "database": "mssql+pyodbc://u:canary@h/d"})


def test_the_copy_is_removed_and_the_original_untouched(world: World) -> None:
    world.add_run("r")
    before = world.path.read_bytes()
    night = world.night()
    assert world.path.read_bytes() == before
    assert {p.suffix for p in night.extract.tables[("runs", "2026-11")].parent.iterdir()} == {".parquet"}


def test_rows_in_the_write_ahead_log_are_read(world: World) -> None:
    with world.open() as db:
        db.execute("pragma journal_mode = wal")
    world.add_run("in the file")
    kept = world.open()  # while a client is connected, SQLite does not move the log into the file
    kept.execute(
        "insert into runs (run_uuid, status, start_time, experiment_id) values ('in the log', 'RUNNING', ?, 1)", (at("2026-11-02"),)
    )
    kept.commit()
    assert b"in the log" not in world.path.read_bytes()
    assert {r["run_id"] for r in world.night().rows("runs")} == {"in the file", "in the log"}
    kept.close()


def test_a_copy_from_a_slow_disk_looks_for_a_writer_often(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """20 MB/s are enough. No piece takes a second, so Runspend notices a waiting writer in time."""
    world.add_run("r")
    reader, now, left, longest = world.open(), 0.0, 2**28, 0.0

    def copy_slowly(original: int, copy: int, most: int, *places: int) -> int:
        nonlocal now, left, longest
        size = min(most, left)
        now, left, longest = now + size / 20e6, left - size, max(longest, size / 20e6)
        return size

    reader.isolation_level = None
    monkeypatch.setattr(database.os, "copy_file_range", copy_slowly)
    monkeypatch.setattr(database.os, "pread", lambda *_: b"")
    monkeypatch.setattr(database.time, "monotonic", lambda: now)
    assert database._copy_locked(reader, world.path, tmp_path / "copy.db")
    assert left == 0 and 0 < longest < database.LOCK_SECONDS
    monkeypatch.undo()
    reader.close()


def test_a_copy_in_one_go_gives_way_to_a_writer_that_waits(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world.add_run("r")
    reader, writer, target = world.open(), world.open(), tmp_path / "copy.db"
    reader.isolation_level = None
    assert database._copy_locked(reader, world.path, target)
    assert target.read_bytes() == world.path.read_bytes()
    writer.execute("update runs set name = 'not committed'")
    assert database._copy_locked(reader, world.path, target)  # a short wait does not disturb a writer
    monkeypatch.setattr(database, "LOCK_SECONDS", -1.0)
    assert not database._copy_locked(reader, world.path, target)
    assert world.night().run("r")["run_name"] == "name of r"
    writer.commit()  # the reader has released its lock
    assert world.night().run("r")["run_name"] == "not committed"
    reader.close()
    writer.close()


def test_metrics_are_never_read(world: World) -> None:
    world.add_run("r", end=None)
    world.do("drop table metrics")
    assert world.night().extract.run_count == 1


def test_a_probe_lists_what_the_server_has(world: World, tmp_path: Path) -> None:
    from runspend.config.settings import TrackingServer

    world.add_run("r")
    found = probe_server(TrackingServer(name="prod", uri=f"sqlite:///{world.path}"), tmp_path)
    assert found | {"warnings": []} == {
        "version": f"revision {REVISIONS[-1]}",
        "experiments": 1,
        "runs": 1,
        "database_ok": True,
        "revision": REVISIONS[-1],
        "warnings": [],
        "error": None,
    }
    gone = probe_server(TrackingServer(name="prod", uri=f"sqlite:///{tmp_path / 'no.db'}"), tmp_path)
    assert gone["database_ok"] is False
    assert "does not exist" in gone["error"]


def test_through_the_api_every_month_is_read_once_in_seven_days() -> None:
    known = [f"{year}-{month:02}" for year in (2023, 2024, 2025, 2026) for month in range(1, 13)][:46]
    nights = [choose_months(known, known, now=NOW - timedelta(days=i)) for i in range(7)]
    assert all({"2026-10"} <= set(n) for n in nights)
    assert sorted({m for n in nights for m in n}) == known
    others = [m for n in nights for m in n if m != "2026-10"]
    assert len(others) == len(set(others)) == 45


def test_through_the_api_months_that_may_have_changed_are_read_every_day() -> None:
    known = ["2024-01", "2024-02", "2024-03", "2024-04", "2026-10", "2026-11"]
    for i in range(7):
        chosen = choose_months(
            [*known, "2020-05"], known, now=NOW - timedelta(days=i), open_months=["2024-01"], billed_months=["2024-03", "2025-01"]
        )
        assert {"2020-05", "2024-01", "2024-03", "2026-10", "2026-11"} <= set(chosen)
        assert "2025-01" not in chosen


def test_the_previous_month_of_january_is_december() -> None:
    assert choose_months(["2025-12", "2026-01"], ["2025-12", "2026-01"], now=NOW.replace(year=2026, month=1, day=31)) == [
        "2025-12",
        "2026-01",
    ]


@pytest.mark.parametrize(
    "uri",
    [
        "postgresql://u:p%40ss@h:5432/db",
        "postgres://u@h/db?sslmode=require",
        "postgresql+psycopg2://u@/db?host=/var/run/pg&options=-c%20search_path%3Dml",
    ],
)
def test_postgres_is_opened_read_only_in_one_snapshot(uri: str) -> None:
    opened = postgres_uri(uri)
    assert opened.startswith("postgresql://u")
    assert "default_transaction_read_only%3Don" in opened
    assert "default_transaction_isolation%3Drepeatable%5C%20read" in opened
    assert "statement_timeout%3D600000" in opened
    assert ("sslmode=require" in opened) == ("sslmode" in uri)
    assert ("search_path%3Dml" in opened) == ("search_path" in uri)
    assert "+" not in opened
