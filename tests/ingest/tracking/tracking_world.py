"""A small MLflow database that is made without MLflow: the tables that Runspend reads, at a known revision.

Databases that MLflow made are in `mlflow_servers.py`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from runspend.config.settings import DimensionSettings, TrackingServer
from runspend.ingest.tracking import Extract
from runspend.ingest.tracking.revisions import REVISIONS
from tests.extracts import extract_server

NOW = datetime(2026, 11, 25, 6, tzinfo=timezone.utc)
HOUR = 3_600_000

SCHEMA = """
create table alembic_version (version_num varchar(32) not null primary key);
create table experiments (experiment_id integer primary key, name varchar(256), workspace varchar(63) default 'default', artifact_location varchar(256),
  lifecycle_stage varchar(32) default 'active', creation_time bigint, last_update_time bigint);
create table experiment_tags (key varchar(250), value text, experiment_id integer, primary key (key, experiment_id));
create table runs (run_uuid varchar(32) primary key, name varchar(250), user_id varchar(256), status varchar(20), start_time bigint, end_time bigint,
  lifecycle_stage varchar(20) default 'active', artifact_uri varchar(200), experiment_id integer);
create table tags (key varchar(250), value varchar(8000), run_uuid varchar(32), primary key (key, run_uuid));
create table params (key varchar(250), value varchar(8000), run_uuid varchar(32), primary key (key, run_uuid));
create table latest_metrics (key varchar(250), value float, timestamp bigint, run_uuid varchar(32), step bigint default 0, primary key (key, run_uuid));
create table metrics (key varchar(250), value float, timestamp bigint, run_uuid varchar(32), step bigint default 0, is_nan boolean default false);
create index index_metrics_run_uuid_key_step on metrics (run_uuid, key, step);
create table logged_models (model_id varchar(36) primary key, experiment_id integer, artifact_location varchar(1000), lifecycle_stage varchar(32));
create table trace_info (request_id varchar(50) primary key, experiment_id integer, timestamp_ms bigint, input_tokens bigint, output_tokens bigint, total_cost float);
create table trace_request_metadata (key varchar(250), value varchar(8000), request_id varchar(50), primary key (request_id, key));
create table spans (trace_id varchar(50), span_id varchar(50), parent_span_id varchar(50), model_name varchar(500), model_provider varchar(500), total_cost float, primary key (trace_id, span_id));
create table trace_tags (key varchar(250), value varchar(8000), request_id varchar(50), primary key (request_id, key));
"""


def at(text: str) -> int:
    """Return the epoch milliseconds of a UTC time."""
    return int(datetime.fromisoformat(text).replace(tzinfo=timezone.utc).timestamp() * 1000)


class World:
    """The database file, and extracts that read it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "mlflow.db"
        self.folder = folder
        self.nights = 0
        with self.open() as db:
            db.executescript(SCHEMA)
            db.execute("insert into alembic_version values (?)", (REVISIONS[-1],))
        self.add_experiment(1, "vision")

    def open(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path)

    def do(self, sql: str, *values: Any) -> None:
        with self.open() as db:
            db.execute(sql, values)
        db.close()

    def add_experiment(self, number: int, name: str, **tags: str) -> None:
        self.do("insert into experiments (experiment_id, name) values (?, ?)", number, name)
        for key, value in tags.items():
            self.do("insert into experiment_tags values (?, ?, ?)", key, value, number)

    def add_run(
        self,
        run_id: str,
        start: int | None = at("2026-11-02"),
        end: int | None = at("2026-11-02T01:00"),
        *,
        tags: Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
        experiment: int = 1,
    ) -> None:
        with self.open() as db:
            status = "RUNNING" if end is None else "FINISHED"
            db.execute(
                "insert into runs (run_uuid, name, user_id, status, start_time, end_time, artifact_uri, experiment_id) values (?, ?, '', ?, ?, ?, ?, ?)",
                (run_id, f"name of {run_id}", status, start, end, f"s3://bucket/1/{run_id}/artifacts", experiment),
            )
            db.executemany("insert into tags values (?, ?, ?)", [(k, v, run_id) for k, v in (tags or {}).items()])
            db.executemany("insert into params values (?, ?, ?)", [(k, v, run_id) for k, v in (params or {}).items()])
        db.close()

    def remove_run(self, run_id: str) -> None:
        for table in ("tags", "params", "latest_metrics", "runs"):
            self.do(f"delete from {table} where run_uuid = ?", run_id)

    def night(
        self,
        before: Night | None = None,
        *,
        now: datetime = NOW,
        dims: DimensionSettings | None = None,
        load_id: str = "load",
        server: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Night:
        """Run one extract on top of the tables of the one before."""
        self.nights += 1
        workdir = self.folder / f"night-{self.nights}"
        workdir.mkdir()
        settings = TrackingServer.model_validate({"name": "prod", "uri": f"sqlite:///{self.path}", **(server or {})})
        kept = before.tables if before else {}
        extract = extract_server(
            settings,
            dims or DimensionSettings(),
            now=now,
            previous=lambda table, period: kept.get((table, period)),
            known_months=sorted(period for table, period in kept if table == "runs"),
            workdir=workdir,
            load_id=load_id,
            **options,
        )
        return Night(extract, {**kept, **{unit: pq.read_table(path) for unit, path in extract.tables.items()}})


class Night:
    """The result of an extract, and the tables that the warehouse would have after it."""

    def __init__(self, extract: Extract, tables: dict[tuple[str, str], pa.Table]) -> None:
        self.extract = extract
        self.tables = tables

    def rows(self, table: str, period: str = "2026-11") -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.tables[(table, period)].to_pylist()
        return found

    def run(self, run_id: str, period: str = "2026-11") -> dict[str, Any]:
        [row] = [r for r in self.rows("runs", period) if r["run_id"] == run_id]
        return row


WorldMaker = Callable[[], World]
