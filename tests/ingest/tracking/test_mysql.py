"""MLflow on a real MariaDB: its database gives the same rows as its API, and Runspend only reads it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from runspend.config.settings import TrackingServer
from runspend.core.errors import ConfigError, SourceUnreachable
from runspend.ingest.tracking import probe_server
from runspend.ingest.tracking.connections import Mysql, mysql_options
from runspend.ingest.tracking.database import DatabaseReader
from runspend.ingest.tracking.in_use.database import DatabaseUses
from runspend.ingest.tracking.raw import Keys, StepRange
from runspend.ingest.tracking.revisions import REVISIONS
from runspend.ingest.tracking.settings import MeasuredMachines
from runspend.ingest.tracking.token_prices import price_source
from tests.ingest.tracking.mlflow_servers import Served, at, mlflow_server, write_world
from tests.ingest.tracking.test_extract import extract
from tests.ingest.tracking.test_links import WANTED, write_registry
from tests.servers.mariadb import PASSWORD, mariadb_server
from tests.servers.mlflow_process import log_unpriced_traces

SILENT = {"progress": lambda text: None}


def run_sql(database: str, *statements: str) -> list[tuple[Any, ...]]:
    """Run statements as MLflow would. Return the rows of the last one."""
    import pymysql

    options = mysql_options(database)
    with pymysql.connect(**options, autocommit=True) as connection, connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
        return list(cursor.fetchall())


@pytest.fixture(scope="module")
def mariadb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """MLflow on MariaDB, with the schema of MLflow's own migrations and all data that the other databases are tested with."""
    with mariadb_server() as server:
        import pymysql

        with pymysql.connect(**mysql_options(server) | {"database": None}) as connection, connection.cursor() as cursor:
            cursor.execute("create database mlflow")
        database = f"{server}mlflow"
        with mlflow_server(tmp_path_factory.mktemp("mlflow-mariadb"), database.replace("mysql://", "mysql+pymysql://")) as uri:
            ids = write_world(uri) | {f"registry {name}": found for name, found in write_registry(uri).items()}
            write_lookalikes(uri, ids)
            log_unpriced_traces(uri, "0", ids["parent"], at("2026-11-11"))
            yield Served(uri, database, ids)


def write_lookalikes(uri: str, ids: dict[str, str]) -> None:
    """Write keys that MariaDB's collation takes for the keys that count. They differ in case, accents or trailing spaces."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param, RunTag

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_run(ids["parent"]).info.experiment_id
    run_id = client.create_run(experiment, start_time=at("2026-11-10"), run_name="lookalike").info.run_id
    client.log_batch(
        run_id,
        metrics=[
            Metric("LOSS", 0.5, at("2026-11-10", "13:00"), 3),
            Metric("System/gpu_0_Utilization_Percentage", 50.0, at("2026-11-10", "13:00"), 1),
        ],
        tags=[RunTag("Instance_ID", "i-0wrong"), RunTag("téam", "wrong"), RunTag("odd", 'odd "value" \\ \' \x01')],
        params=[Param("GPU_count", "7"), Param("instance_type ", "wrong")],
    )
    client.log_batch(run_id, metrics=[Metric("COST_USD", 1.0, at("2026-11-10", "15:00"), 1_000_000_001)])
    client.set_terminated(run_id, end_time=at("2026-11-10", "23:00"))
    ids["lookalike"] = run_id


def test_api_and_database_give_equal_tables(mariadb: Served, tmp_path: Path) -> None:
    copy = {"tags": "all", "params": "all"}
    options = {"measured": MeasuredMachines(("gpubox",)), "links": WANTED}
    through_api, by_api = extract(mariadb.settings("api", copy=copy, token_prices="genai-prices"), tmp_path / "api", **options)
    from_database, by_database = extract(
        mariadb.settings("database", copy=copy, token_prices="genai-prices"), tmp_path / "database", **options
    )
    assert by_api.keys() == by_database.keys()
    for unit in by_api:
        found = [
            row for row in by_database[unit].to_pylist() if row.get("owner_id") != mariadb.run_ids["registry gone"]
        ]  # only the databases show it
        assert by_api[unit].to_pylist() == found, unit
    filled = {table for (table, _), rows in by_api.items() if rows.num_rows}
    assert {r["price_source"] for r in by_api["trace_costs", "2026-11"].to_pylist()} == {"mlflow", price_source()}
    assert filled >= {"runs", "machine_power", "trace_costs", "artifact_owners", "model_versions", "model_uses", "run_metrics"}
    assert through_api.extras == from_database.extras
    assert through_api.warnings == from_database.warnings
    assert (through_api.run_count, through_api.experiment_count) == (from_database.run_count, from_database.experiment_count)


def test_keys_that_only_look_alike_are_different(mariadb: Served, tmp_path: Path) -> None:
    _, tables = extract(mariadb.settings("database", copy={"tags": "all", "params": "all"}), tmp_path / "out", links=WANTED)
    [run] = [r for r in tables["runs", "2026-11"].to_pylist() if r["run_id"] == mariadb.run_ids["lookalike"]]
    assert (run["resource_ids"], run["gpu_count"], run["instance_type"], run["mean_use_percent"]) == ([], None, None, None)
    assert json.loads(run["tags"])["odd"] == 'odd "value" \\ \' \x01'
    assert not [r for r in tables["run_metrics", "2026-11"].to_pylist() if r["run_id"] == run["run_id"]]


def test_a_probe_and_the_check_before_deletion_read_it_too(mariadb: Served, tmp_path: Path) -> None:
    found = probe_server(mariadb.settings("database"), tmp_path)
    assert (found["database_ok"], found["revision"], found["error"]) == (True, REVISIONS[-1], None)
    ids = {name.removeprefix("registry "): value for name, value in mariadb.run_ids.items() if name.startswith("registry ")}
    uses = DatabaseUses("prod", mariadb.database, ids["judge"])
    assert uses.users_of([*(f"m-{n:032x}" for n in range(600)), ids["net"], "it's", "back\\slash"]) == {ids["judge"]}
    assert uses.made_by([ids["short"], ids["long"]]) == {ids["net"], ids["gone"], ids["checkpoint"]}
    with pytest.raises(SourceUnreachable, match="Unknown database") as failed:
        DatabaseUses("prod", mariadb.database.replace("/mlflow", "/none"), None).users_of([ids["net"]])
    assert PASSWORD not in str(failed.value)


def test_it_cannot_be_written_and_is_one_snapshot(mariadb: Served, tmp_path: Path) -> None:
    with DatabaseReader(mariadb.settings("database"), mariadb.database, tmp_path, **SILENT) as reader:
        before = reader.count_runs()
        run_sql(
            mariadb.database, "insert into runs (run_uuid, status, lifecycle_stage, experiment_id) values ('later', 'RUNNING', 'active', 1)"
        )
        try:
            assert reader.count_runs() == before
            for write in ("delete from tags", "drop table tags"):
                with pytest.raises(SourceUnreachable, match="READ ONLY transaction"):
                    reader._scalars(write)
            assert reader.count_runs() == before + 1  # the error ended the first snapshot
        finally:
            run_sql(mariadb.database, "delete from runs where run_uuid = 'later'")


def test_metrics_are_looked_up_and_never_scanned(mariadb: Served, tmp_path: Path) -> None:
    wanted = [StepRange(mariadb.run_ids["resumed"], "loss", 0, 8_950, 50)]
    with DatabaseReader(mariadb.settings("database"), mariadb.database, tmp_path, **SILENT) as reader:
        connection = reader._opened()
        explained = [
            list(batch.to_pylist())
            for batch in connection.read(
                "explain " + reader.dialect.sql("times").format(listed=reader.dialect.listed([("'r'", "'k'", "0", "10", "1")]))
            )
        ]
        metrics = [row for rows in explained for row in rows if row["table"] == "m"]
        assert [row["key"] for row in metrics] == ["index_metrics_run_uuid_key_step"] * 3
        assert all(row["type"] in ("ref", "range") for row in metrics)
        assert sum(batch.num_rows for batch in reader.read_times(wanted)) == 180


def test_rows_are_sent_as_they_are_read(mariadb: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each batch is yielded as soon as it is read, and the rest of an unfinished result is never fetched."""
    monkeypatch.setattr("runspend.ingest.tracking.connections.BATCH_ROWS", 3)
    with DatabaseReader(mariadb.settings("database"), mariadb.database, tmp_path, **SILENT) as reader:
        batches = reader.read_runs(None, Keys(None, None))
        assert next(batches).num_rows == 3
        batches.close()
        assert reader.count_runs() > 3
        endless = reader._opened().read(
            "with recursive n as (select 1 as x union all select x + 1 from n where x < 900000) select repeat('x', 1000) from n"
        )
        next(endless)
        endless.close()
        assert reader.count_runs() > 3


def test_a_statement_that_takes_too_long_is_cut_off(mariadb: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runspend.ingest.tracking.database.STATEMENT_TIMEOUT_MS", 300)
    with (
        DatabaseReader(mariadb.settings("database"), mariadb.database, tmp_path, **SILENT) as reader,
        pytest.raises(SourceUnreachable, match="max_statement_time exceeded"),
    ):
        reader._scalars("select count(*) from information_schema.columns a, information_schema.columns b, information_schema.columns c")


def test_a_table_that_is_altered_meanwhile_is_read_again_from_the_start(
    mariadb: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = DatabaseReader.read_use, []

    def alter(self: DatabaseReader, wanted: Any) -> Iterator[pa.RecordBatch]:
        calls.append(wanted)
        if len(calls) == 1:
            run_sql(mariadb.database, "alter table scorers comment = 'altered', algorithm = copy")
            self._scalars("select count(*) from scorers")
        return real(self, wanted)

    _, expected = extract(mariadb.settings("database"), tmp_path / "calm")
    monkeypatch.setattr(DatabaseReader, "read_use", alter)
    _, found = extract(mariadb.settings("database"), tmp_path / "stormy")
    assert found == expected
    assert len(calls) == 2


def test_tags_that_the_server_cuts_are_an_error(mariadb: Served) -> None:
    """If an aggregate exceeds max_allowed_packet, the server returns null or a part of it, with an invisible warning."""
    import pymysql

    connection = Mysql(mysql_options(mariadb.database), 60_000)
    try:
        with connection._connection.cursor() as cursor:
            cursor.execute("set session group_concat_max_len = 1024")
        with pytest.raises(pymysql.DataError, match="max_allowed_packet; raise it"):
            list(connection.read("select group_concat(p.value) from params p"))
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("mysql://u:p%40ss@h:3307/db", {"host": "h", "port": 3307, "user": "u", "password": "p@ss", "database": "db"}),
        ("mysql+pymysql://u@h/db?charset=utf8mb4&ssl_ca=/ca.pem&ssl_verify_identity=true", {"port": 3306, "ssl_ca": "/ca.pem", "ssl_verify_identity": True}),
        ("mariadb://u@/db?unix_socket=/run/mysqld/mysqld.sock&connect_timeout=3", {"host": "localhost", "unix_socket": "/run/mysqld/mysqld.sock", "connect_timeout": 3}),
    ],
)  # fmt: skip
def test_uris_are_those_of_sqlalchemy(uri: str, expected: dict[str, Any]) -> None:
    assert expected.items() <= mysql_options(uri).items()


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("local_infile=1", r"`local_infile` in its URI is unknown\. Allowed parameters are connect_timeout, .*unix_socket"),
        ("ssl_verify_cert=maybe", "`ssl_verify_cert` in its URI is 'maybe', which is not true or false"),
    ],
)
def test_an_unsupported_parameter_of_the_uri_is_refused(tmp_path: Path, query: str, message: str) -> None:
    server = TrackingServer.model_validate({"name": "prod", "uri": "http://mlflow", "database": f"mysql://u:canary@h/db?{query}"})
    with pytest.raises(ConfigError, match=f"cannot read the database of prod: {message}") as refused:
        probe_server(server, tmp_path)
    assert "canary" not in str(refused.value)


def test_a_wrong_password_or_host_is_unreachable_and_not_shown(mariadb: Served, tmp_path: Path) -> None:
    for database in ("mysql://u:canary%40pw@127.0.0.1:1/mlflow", mariadb.database.replace("root:", "root:canary%40pw")):
        server = TrackingServer.model_validate({"name": "prod", "uri": "http://mlflow", "database": database})
        reader = DatabaseReader(server, database, tmp_path, **SILENT)
        with pytest.raises(SourceUnreachable, match="cannot open the database of prod") as failed:
            reader.__enter__()
        assert "canary" not in str(failed.value)
