"""Reading MLflow's API and reading its database give the same rows, on SQLite and PostgreSQL."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from runspend.config.settings import DimensionSettings, Pool, TrackingServer
from runspend.core.errors import SourceRefused, SourceUnreachable
from runspend.ingest.tracking import Extract, probe_server
from runspend.ingest.tracking.database import DatabaseReader, postgres_uri
from runspend.ingest.tracking.raw import Keys
from runspend.ingest.tracking.revisions import OLDEST_SUPPORTED, REVISIONS
from runspend.ingest.tracking.settings import MeasuredMachines
from tests.extracts import extract_server
from tests.ingest.tracking.mlflow_servers import NOW, Served, mlflow_server

SILENT = {"progress": lambda text: None}


def extract(server: TrackingServer, workdir: Path, **options: Any) -> tuple[Extract, dict[tuple[str, str], pa.Table]]:
    workdir.mkdir(parents=True)
    given = {"now": NOW, "previous": lambda table, period: None, "load_id": "load"} | options
    result = extract_server(server, DimensionSettings(), workdir=workdir, **given)
    return result, {unit: pq.read_table(path) for unit, path in result.tables.items()}


@pytest.fixture(scope="module", params=["mlflow_on_sqlite", "mlflow_on_postgres"])
def mlflow(request: pytest.FixtureRequest) -> Served:
    found: Served = request.getfixturevalue(request.param)
    return found


@pytest.fixture(scope="module")
def from_database(mlflow: Served, tmp_path_factory: pytest.TempPathFactory) -> tuple[Extract, dict[tuple[str, str], pa.Table]]:
    """The tables that Runspend reads from a server's database."""
    return extract(mlflow.settings("database"), tmp_path_factory.mktemp("database") / "out")


@pytest.mark.parametrize("copy", [pytest.param({}, marks=pytest.mark.torture), {"tags": "all", "params": "all"}])
def test_api_and_database_give_equal_tables(mlflow: Served, tmp_path: Path, copy: dict[str, str]) -> None:
    pools = [
        Pool.model_validate({"name": "prod", "runs": {"tag.stage": "pr*", "tracking": "prod"}, "lines": {"resource": "x"}}),
        Pool.model_validate({"name": "vision", "runs": {"experiment": "vision/*"}, "lines": {"resource": "x"}, "equal": ["team"]}),
    ]
    through_api, by_api = extract(mlflow.settings("api", copy=copy, token_prices="genai-prices"), tmp_path / "api", pools=pools)
    from_database, by_database = extract(
        mlflow.settings("database", copy=copy, token_prices="genai-prices"), tmp_path / "database", pools=pools
    )
    assert by_api.keys() == by_database.keys()
    for unit in by_api:
        assert by_api[unit].to_pylist() == by_database[unit].to_pylist(), unit
        assert by_api[unit].equals(by_database[unit])
    assert sorted(period for table, period in by_api if table == "trace_costs") == ["2026-10", "2026-11"]
    by_name = {r["run_name"]: r for r in by_api[("runs", "2026-11")].to_pylist()}
    assert by_name["identified"]["resource_ids"] == ["vm-1", "vm-2"]
    assert (by_name["measured"]["pool_key"], by_name["child 0"]["pool_key"]) == ("prod", "vision|team=perception")
    assert through_api.extras == from_database.extras
    assert through_api.warnings == from_database.warnings
    assert [w for w in from_database.warnings if "no price for their models: of no known price (1)" in w]
    assert (
        (through_api.run_count, through_api.experiment_count)
        == (from_database.run_count, from_database.experiment_count)
        == (mlflow.run_count, 4)
    )


def test_power_is_the_same_both_ways(mlflow: Served, tmp_path: Path) -> None:
    """Two GPUs are measured for an hour that touches two hours of the clock.

    A measurement counts for the time before it. Runspend reads every second one, as the API returns them.
    """
    measured = MeasuredMachines(("gpubox",))
    _, by_api = extract(mlflow.settings("api"), tmp_path / "api", measured=measured)
    _, by_database = extract(mlflow.settings("database"), tmp_path / "database", measured=measured)
    assert by_api == by_database
    found = {(r["gpu"], r["hour_start"].hour): r for r in by_database["machine_power", "2026-11"].to_pylist()}
    stride = 119 // 60 + 1
    for gpu in (0, 1):
        points = {i // 2 + 1: i for i in range(gpu, 120, 2) if i % stride == 0}  # minute -> watts
        minutes = [next((points[m] for m in range(minute + 1, minute + 11) if m in points), None) for minute in range(60)]
        for hour, part in ((12, minutes[:30]), (13, minutes[30:])):
            held = [watts for watts in part if watts is not None]
            row = found.pop((gpu, hour), None)
            assert ((row or {}).get("measured_milliseconds", 0), (row or {}).get("energy_microjoules", 0)) == (
                len(held) * 60_000,
                sum(held) * 1000 * 60_000,
            )
    assert found == {}


def test_every_kind_of_run_is_there(mlflow: Served, from_database: tuple[Extract, dict[tuple[str, str], pa.Table]]) -> None:
    result, tables = from_database
    runs = {r["run_id"]: r for (table, _), rows in tables.items() if table == "runs" for r in rows.to_pylist()}
    by_name = {name: runs[run_id] for name, run_id in mlflow.run_ids.items() if run_id in runs}
    assert sorted(p for t, p in tables if t == "runs") == ["1970-01", "2026-09", "2026-10", "2026-11", "2106-02"]
    assert by_name["child 1"]["parent_run_id"] == mlflow.run_ids["parent"]
    assert by_name["deleted"]["lifecycle_stage"] == "deleted"
    assert [by_name[n]["run_status"] for n in ("failed", "killed", "running", "parent")] == ["FAILED", "KILLED", "RUNNING", "FINISHED"]
    assert by_name["running"]["last_sign_at"] == datetime(2026, 11, 24, 17, 45, tzinfo=timezone.utc)
    assert by_name["silent"]["last_sign_at"] is None
    assert by_name["resumed"]["gaps"] == [
        "2026-11-12T01:59:00.000Z/2026-11-12T14:00:00.000Z",
        "2026-11-12T14:00:00.000Z/2026-11-13T02:00:00.000Z",
    ]
    assert by_name["resumed"]["gap_seconds"] == (24 * 60 + 1) * 60
    assert [by_name["ends in the future"][c] for c in ("end_time", "future_end_time")] == [
        datetime(2026, 11, 14, 21, tzinfo=timezone.utc), datetime(2099, 1, 1, 12, tzinfo=timezone.utc),
    ]  # fmt: skip
    assert by_name["silent"]["user_name"] is None
    assert by_name["retired"]["team"] == "legacy"
    assert (by_name["parent"]["team"], by_name["child 0"]["team"]) == ("research", "perception")
    assert by_name["many nodes"]["resource_ids"] == ["arn:aws:ec2:us-east-1:111122223333:instance/i-0d1", "i-0d2"]
    assert by_name["long"]["project"] == "x" * 7_999
    assert by_name["日本語 🚀"]["owner"] == "日本語 🚀"
    everything = json.dumps([rows.to_pylist() for rows in tables.values()], default=str)
    assert "canary" not in everything
    assert "hunter2" not in everything
    measured = by_name["measured"]
    assert (measured["job_id"], measured["job_key"], measured["mean_use_percent"]) == ("4711", "4711", 1.25)
    assert by_name["measured by cpu"]["mean_use_percent"] == 4.0
    assert by_name["parent"]["mean_use_percent"] is None
    owners = {(o["owner_kind"], o["owner_id"]) for o in tables[("artifact_owners", "all")].to_pylist()}
    assert owners == {
        ("logged_model", mlflow.run_ids["model"]),
        ("trace", mlflow.run_ids["trace"]),
        *(("trace", i) for i in mlflow.run_ids["traces"].split()),
    }
    assert len(result.warnings) == 2


def test_traces_are_added_up_by_day_run_user_and_model(
    mlflow: Served, from_database: tuple[Extract, dict[tuple[str, str], pa.Table]]
) -> None:
    _, tables = from_database
    parent = mlflow.run_ids["parent"]
    found = [
        (
            str(r["charge_date"]),
            r["run_id"],
            r["user_name"],
            r["model"],
            r["traces"],
            r["input_tokens"],
            r["output_tokens"],
            str(r["list_cost"].normalize()),
        )
        for period in ("2026-10", "2026-11")
        for r in tables[("trace_costs", period)].to_pylist()
    ]
    assert found == [
        ("2026-10-01", "", "", "", 1, 3, 4, "3"),
        ("2026-11-01", parent, "grace 日本", "gpt-4o", 1, 100, 20, "0.00125"),
        ("2026-11-02", "", "", "", 1, None, None, "0.5"),
        ("2026-11-02", "", "ada", "gpt-4o", 1, None, None, "1E-7"),
        ("2026-11-02", "", "ada", "opus", 1, 11, 11, "0.7"),
        ("2026-11-02", parent, "grace 日本", "gpt-4o", 1, 101, 22, "0.3"),
    ]


def test_probe_agrees_both_ways(mlflow: Served, tmp_path: Path) -> None:
    by_api, by_database = probe_server(mlflow.settings("api"), tmp_path), probe_server(mlflow.settings("database"), tmp_path)
    assert (by_api["runs"], by_api["experiments"]) == (by_database["runs"], by_database["experiments"]) == (mlflow.run_count, 4)
    assert by_database["database_ok"] is True
    assert by_database["revision"] == REVISIONS[-1]
    assert by_api["version"].startswith("3.")
    assert by_api["error"] is by_database["error"] is None


def test_postgres_cannot_be_written_and_is_one_snapshot(mlflow_on_postgres: Served, tmp_path: Path) -> None:
    import adbc_driver_postgresql.dbapi as postgres

    with DatabaseReader(mlflow_on_postgres.settings("database"), mlflow_on_postgres.database, tmp_path, **SILENT) as reader:
        before = reader.count_runs()
        with postgres.connect(mlflow_on_postgres.database) as writer, writer.cursor() as cursor:
            cursor.execute("insert into runs (run_uuid, status, lifecycle_stage, experiment_id) values ('later', 'RUNNING', 'active', 1)")
            writer.commit()
            try:
                assert reader.count_runs() == before
                with pytest.raises(SourceUnreachable, match="read-only transaction"):
                    reader._scalars("insert into runs (run_uuid) values ('x') returning run_uuid")
                assert reader.count_runs() == before + 1  # the error ended the first snapshot
            finally:
                cursor.execute("delete from runs where run_uuid = 'later'")
                writer.commit()


def test_metrics_of_postgres_are_looked_up_and_never_scanned(mlflow_on_postgres: Served, tmp_path: Path) -> None:
    import adbc_driver_postgresql.dbapi as postgres
    import psycopg2

    def scans() -> list[Any]:
        with postgres.connect(mlflow_on_postgres.database) as watcher, watcher.cursor() as cursor:
            cursor.execute("select coalesce(seq_scan, 0), coalesce(idx_tup_fetch, 0) from pg_stat_user_tables where relname = 'metrics'")
            return list(cursor.fetchall())

    # As autovacuum does. Without statistics on a few hundred rows, PostgreSQL uses any index of the run.
    with psycopg2.connect(mlflow_on_postgres.database) as counting, counting.cursor() as cursor:
        cursor.execute("analyze metrics")
    counting.close()
    [(scanned, fetched)] = scans()
    extract(mlflow_on_postgres.settings("database"), tmp_path / "out")
    fetched_after = fetched
    while fetched_after == fetched:  # a session's counts become visible together, some time after it ended
        time.sleep(0.1)
        [(scanned_after, fetched_after)] = scans()
    assert scanned_after == scanned
    # The stopped run adds the first and last time of each of its 180 steps, the times around its gap, and its other metric.
    assert fetched_after - fetched <= 3 + 9 + 2 * 180 + 30


def test_a_statement_that_takes_too_long_is_cut_off_without_the_password(
    mlflow_on_postgres: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runspend.ingest.tracking.database.STATEMENT_TIMEOUT_MS", 500)
    with (
        DatabaseReader(mlflow_on_postgres.settings("database"), mlflow_on_postgres.database, tmp_path, **SILENT) as reader,
        pytest.raises(SourceUnreachable, match="statement timeout"),
    ):
        reader._scalars("select cast(pg_sleep(5) as text)")


def test_a_lost_snapshot_is_read_again_from_the_start(mlflow_on_postgres: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from runspend.ingest.tracking.database import SnapshotLost

    real, calls = DatabaseReader.read_runs, []

    def lose_twice(self: DatabaseReader, months: Any, keys: Keys) -> Iterator[pa.RecordBatch]:
        calls.append(months)
        yield from real(self, months, keys)
        if len(calls) < 3:
            raise SnapshotLost("prod", "canceling statement due to conflict with recovery")

    _, expected = extract(mlflow_on_postgres.settings("database"), tmp_path / "calm")
    monkeypatch.setattr(DatabaseReader, "read_runs", lose_twice)
    _, found = extract(mlflow_on_postgres.settings("database"), tmp_path / "stormy")
    assert found == expected
    assert len(calls) == 3


def test_a_wrong_password_or_host_is_unreachable_and_not_shown(tmp_path: Path) -> None:
    server = TrackingServer.model_validate(
        {"name": "prod", "uri": "http://mlflow", "database": "postgresql://u:canary%40pw@127.0.0.1:1/mlflow"}
    )
    with pytest.raises(SourceUnreachable) as failed:
        extract(server, tmp_path / "out")
    assert "canary" not in str(failed.value)
    assert "canary" in postgres_uri("postgresql://u:canary%40pw@127.0.0.1:1/mlflow")


def test_sqlite_keeps_serving_while_it_is_read(mlflow_on_sqlite: Served, tmp_path: Path) -> None:
    """A reader that holds a snapshot would lock out MLflow's writers, so Runspend reads a copy."""
    path = mlflow_on_sqlite.database.removeprefix("sqlite:///")
    with DatabaseReader(mlflow_on_sqlite.settings("database"), mlflow_on_sqlite.database, tmp_path, **SILENT) as reader:
        batches = reader.read_runs(None, Keys((), ()))
        next(batches)
        writer = sqlite3.connect(path, timeout=0)
        writer.execute("update experiments set last_update_time = last_update_time where experiment_id = 0")
        writer.commit()
        writer.close()
        with pytest.raises(SourceUnreachable, match=r"readonly|read-only|query_only"):
            reader._scalars("insert into runs (run_uuid) values ('x') returning run_uuid")
    assert list(tmp_path.iterdir()) == []


READ = (OLDEST_SUPPORTED, "867495a8f9d4", "400f98739977", "1b5f0d9ad7c1", REVISIONS[-1])


@pytest.fixture(scope="module")
def databases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Empty SQLite databases of MLflow at several revisions of its schema, each upgraded from the one before. Tests copy them."""
    import sqlalchemy
    from alembic import command
    from mlflow.store.db.utils import _get_alembic_config
    from mlflow.store.tracking.dbmodels.initial_models import Base

    folder = tmp_path_factory.mktemp("revisions")
    path, made = folder / "mlflow.db", {}
    engine = sqlalchemy.create_engine(f"sqlite:///{path}")
    Base.metadata.create_all(engine)
    engine.dispose()
    for revision in sorted(READ, key=REVISIONS.index):
        command.upgrade(_get_alembic_config(f"sqlite:///{path}"), revision)
        made[revision] = Path(shutil.copy(path, folder / f"{revision}.db"))
    return made


def test_the_known_revisions_are_those_of_the_installed_mlflow() -> None:
    from alembic.script import ScriptDirectory
    from mlflow.store.db.utils import _get_alembic_config

    chain = [s.revision for s in ScriptDirectory.from_config(_get_alembic_config("sqlite://")).walk_revisions()]
    assert tuple(reversed(chain)) == REVISIONS[: len(chain)]


@pytest.mark.parametrize("revision", READ)
def test_every_schema_of_the_range_can_be_read(databases: dict[str, Path], tmp_path: Path, revision: str) -> None:
    path = Path(shutil.copy(databases[revision], tmp_path))
    db = sqlite3.connect(path)
    db.execute("insert into experiments (experiment_id, name, lifecycle_stage) values (7, 'old', 'active')")
    db.execute(
        "insert into runs (run_uuid, name, status, start_time, lifecycle_stage, experiment_id) values ('r', 'n', 'RUNNING', 1793880000000, 'active', 7)"
    )
    db.execute("insert into tags (key, value, run_uuid) values ('team', 'vision', 'r')")
    db.commit()
    db.close()
    _, tables = extract(TrackingServer(name="prod", uri=f"sqlite:///{path}"), tmp_path / "out")
    [run] = tables[("runs", "2026-11")].to_pylist()
    assert (run["workspace"], run["experiment_name"], run["team"]) == ("default", "old", "vision")


def test_workspaces_are_read_both_ways(tmp_path: Path) -> None:
    from mlflow import MlflowClient
    from mlflow.entities import Workspace
    from mlflow.store.workspace.rest_store import RestWorkspaceStore
    from mlflow.utils.rest_utils import MlflowHostCreds
    from mlflow.utils.workspace_context import ServerWorkspaceContext

    database = f"sqlite:///{tmp_path / 'mlflow.db'}"
    with mlflow_server(tmp_path, database, "--enable-workspaces") as uri:
        RestWorkspaceStore(lambda: MlflowHostCreds(uri)).create_workspace(Workspace(name="speech"))
        client = MlflowClient(tracking_uri=uri)
        for workspace in ("default", "speech"):
            with ServerWorkspaceContext(workspace):
                client.create_run(client.create_experiment("same name"), start_time=1793880000000)
        server = Served(uri, database, {})
        _, by_api = extract(server.settings("api", workspaces="all"), tmp_path / "api")
        _, by_database = extract(server.settings("database"), tmp_path / "database")
        assert by_api == by_database
        assert sorted(r["workspace"] for r in by_api[("runs", "2026-11")].to_pylist()) == ["default", "speech"]
        some, tables = extract(server.settings("api"), tmp_path / "default")
        assert [r["workspace"] for r in tables[("runs", "2026-11")].to_pylist()] == ["default"]
        assert some.warnings == ["prod: only workspace default was read; the server has speech too. Set `workspaces: all`."]
        assert (
            extract(server.settings("api", workspaces=["speech"]), tmp_path / "s1")[1]
            == extract(server.settings("database", workspaces=["speech"]), tmp_path / "s2")[1]
        )
        with pytest.raises(SourceRefused, match="cannot read the workspaces nowhere of prod"):
            extract(server.settings("api", workspaces=["nowhere"]), tmp_path / "none")


KILLED = """
    import sys
    from pathlib import Path
    from tests.ingest.tracking.test_extract import NOW, DimensionSettings, TrackingServer, extract_server
    print("ready", flush=True)
    extract_server(TrackingServer(name="prod", uri=sys.argv[1]), DimensionSettings(), now=NOW, previous=lambda t, p: None, workdir=Path(sys.argv[2]), load_id="load",
                   progress=lambda text: print(text, flush=True))
"""


@pytest.fixture(scope="module")
def many(databases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[tuple[str, str], pa.Table]]:
    """A database with 20,000 runs, and the tables of an uninterrupted extract."""
    folder = tmp_path_factory.mktemp("many")
    path = Path(shutil.copy(databases[REVISIONS[-1]], folder / "mlflow.db"))
    db = sqlite3.connect(path)
    db.execute("insert into experiments (experiment_id, name, workspace, lifecycle_stage) values (1, 'e', 'default', 'active')")
    rows = [(f"{i:032x}", "n", "FINISHED", 1793880000000 + i * 60_000, 1793880000000 + i * 60_000, "active", 1) for i in range(20_000)]
    db.executemany(
        "insert into runs (run_uuid, name, status, start_time, end_time, lifecycle_stage, experiment_id) values (?, ?, ?, ?, ?, ?, ?)", rows
    )
    db.commit()
    db.close()
    return path, extract(TrackingServer(name="prod", uri=f"sqlite:///{path}"), folder / "calm")[1]


@pytest.mark.parametrize(
    "delay", [pytest.param(delay, marks=[] if delay in (0.02, 0.2) else pytest.mark.torture) for delay in (0.0, 0.02, 0.05, 0.1, 0.2, 0.4)]
)
def test_a_killed_extract_leaves_whole_files_only_and_an_untouched_database(
    many: tuple[Path, dict[tuple[str, str], pa.Table]], tmp_path: Path, delay: float
) -> None:
    path, expected = many
    before = path.read_bytes()
    server = TrackingServer(name="prod", uri=f"sqlite:///{path}")
    killed = tmp_path / "killed"
    killed.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])}
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(KILLED), server.uri, str(killed)], stdout=subprocess.PIPE, env=environment, cwd=tmp_path
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
    for file in killed.glob("*.parquet"):
        pq.read_table(file)
    assert path.read_bytes() == before
    _, tables = extract(server, tmp_path / "again")
    assert tables == expected
