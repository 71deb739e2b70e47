"""Runs out of MLflow's SQLite store into Parquet, beside MLflow's own client on the same store.

Goal on two quiet cores: 50,000 runs a second, each with 20 params, 5 tags and 5 metrics.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.benchmarks.measured import load_average, run_python, run_runspend, scaled

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]

RUNS, SAMPLE = 200_000, 5_000

# MLflow makes its own schema; the rows are then written by SQL, as its client would have left them.
STORE = """
import sys
from mlflow import MlflowClient
client = MlflowClient(tracking_uri=sys.argv[1], registry_uri=sys.argv[1])
for number in range(20):
    client.create_experiment(f"experiment-{number}", artifact_location=f"s3://ml/{number}", tags={"team": f"team-{number % 7}"})
"""
ROWS = """
create temp table n as with recursive c(i) as (select 0 union all select i + 1 from c where i + 1 < {runs})
  select i, printf('%08x%08x%08x%08x', (i * 2654435761) % 4294967296, (i * 40503 + 7) % 4294967296, i, (i * 97) % 65521) as id,
    1759276800000 + (i * 7919) % 2678400 * 1000 as start from c;
insert into runs (run_uuid, name, source_type, source_name, entry_point_name, user_id, status, start_time, end_time, source_version, lifecycle_stage, artifact_uri, experiment_id)
  select id, 'run-' || i, 'UNKNOWN', '', '', 'someone', 'FINISHED', start, start + 3600000, '', 'active', 's3://ml/' || (i % 20) || '/' || id || '/artifacts', 1 + i % 20 from n;
insert into tags (key, value, run_uuid) select column1, column2 || (i % 50), id from n, (values
  ('mlflow.user', 'user-'), ('mlflow.source.name', 'train_'), ('mlflow.runName', 'run-'), ('team', 'team-'), ('runspend.instance_id', 'i-0a1b2c3d4e5f6')) ;
insert into params (key, value, run_uuid) select 'param_' || k, 'value-' || ((i * k) % 1000), id
  from n, (with recursive p(k) as (select 1 union all select k + 1 from p where k < 20) select k from p);
insert into metrics (key, value, timestamp, run_uuid, step, is_nan) select 'metric_' || k, (i * k % 1000) / 1000.0, start + 3000000, id, 0, 0
  from n, (with recursive p(k) as (select 1 union all select k + 1 from p where k < 5) select k from p);
insert into latest_metrics (key, value, timestamp, step, is_nan, run_uuid) select key, value, timestamp, step, is_nan, run_uuid from metrics;
drop table n;
"""
CLIENT = """
import sys, time
from mlflow import MlflowClient
client = MlflowClient(tracking_uri=sys.argv[1], registry_uri=sys.argv[1])
ids = [e.experiment_id for e in client.search_experiments()]
start, read, token = time.monotonic(), 0, None
while read < int(sys.argv[2]):
    page = client.search_runs(ids, max_results=1000, page_token=token)
    read, token = read + len(page), page.token
    if not token: break
print(read, time.monotonic() - start)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    shutil.rmtree(tmp_path)


def test_extract_reads_sqlite_fast_enough(folder: Path) -> None:
    """All runs by the product, a sample by `search_runs` on the same store (the client in the same process as the store: no server)."""
    runs = scaled(RUNS)
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    run_python(folder, STORE, uri)
    with sqlite3.connect(folder / "mlflow.db") as database:
        database.executescript(ROWS.format(runs=runs))
    database.close()
    (folder / "runspend.yaml").write_text(f"home: home\nwarehouse: {{uri: warehouse}}\ntracking: [{{name: lab, uri: '{uri}'}}]\n")

    took = run_runspend(folder, "extract", "--now", "2026-11-04T06:00")
    files = list((folder / "warehouse/runs").glob("*/lab.parquet"))
    found = [row for file in files for row in pq.read_table(file, columns=["run_id", "team", "resource_ids"]).to_pylist()]
    assert len({row["run_id"] for row in found}) == len(found) == runs
    assert all(row["resource_ids"] for row in found)

    read, seconds = (float(text) for text in run_python(folder, CLIENT, uri, str(min(SAMPLE, runs))).printed.split()[-2:])
    print(f"\n  {runs:,} runs extracted: {runs / took.wall:,.0f} runs/s ({took}) [{load_average()}]; goal 50,000/s")
    print(f"  MLflow's search_runs, {read:,.0f} runs of the same store: {read / seconds:,.0f} runs/s")
