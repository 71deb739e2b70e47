"""Only Databricks, as in docs/start-databricks.md: MLflow's own tags, exports of the system tables, and the bill of the machines.

The data are a job of two tasks on a cluster (4.00 for DBUs, 6.00 for machines), and a serverless notebook.
"""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

from tests.databricks_files import list_price, task_run, usage, write
from tests.e2e.conftest import Runspend
from tests.focus_files import row, write_csv
from tests.mlflow_store import make_schema
from tests.servers.mlflow_client import mlflow_client

CLUSTER = "1009-152321-abcd"
BEGIN = 1791626400000  # 2026-10-10T10:00:00Z
RUNS = [  # name, start and end in minutes, and the tags that MLflow writes on Databricks
    ("task-a", 0, 30, {"jobRunID": "901", "jobID": "7", "cluster.id": CLUSTER}),
    ("task-b", 30, 60, {"jobRunID": "902", "jobID": "7", "cluster.id": CLUSTER}),
    ("notebook", 120, 180, {"notebookID": "555"}),
]


def test_a_pipeline_run_loads_databricks_exports_and_the_machines_bill(tmp_path: Path, runspend: Runspend) -> None:
    """Each task gets half of the hour from both bills, and the notebook gets its own line. No cost is left over."""
    with mlflow_client(f"sqlite:///{make_schema(tmp_path / 'mlflow.db')}") as client:
        experiment = client.create_experiment("vit", artifact_location=(tmp_path / "artifacts").as_uri())
        for name, start, end, stated in RUNS:
            tags = {"team": "genai", **{f"mlflow.databricks.{key}": value for key, value in stated.items()}}
            run = client.create_run(experiment, start_time=BEGIN + start * 60_000, tags=tags, run_name=name)
            client.set_terminated(run.info.run_id, end_time=BEGIN + end * 60_000)
    job = {"cluster_id": CLUSTER, "job_id": "7", "job_run_id": "815"}
    serverless = usage("2", "2026-10-10T12:00:00Z", metadata={"notebook_id": "555"}, billing_origin_product="INTERACTIVE")
    write(tmp_path / "bill" / "usage.parquet", [usage("8", metadata=job), serverless])
    write(tmp_path / "bill" / "list_prices.csv", [list_price("0.50")])
    write(tmp_path / "bill" / "tasks.jsonl", [*task_run("901", "815"), *task_run("902", "815")])
    hour = {"ChargePeriodStart": "2026-10-10T10:00:00Z", "ChargePeriodEnd": "2026-10-10T11:00:00Z"}
    write_csv(
        tmp_path / "machines" / "oct.csv", [row("6.00", ResourceId="i-0aaaaaaaaaaaaaaaa", Tags=json.dumps({"ClusterId": CLUSTER}), **hour)]
    )
    (tmp_path / "runspend.yaml").write_text(
        'home: home\ntracking: [{name: eu, uri: "sqlite:///mlflow.db"}]\nbilling:\n'
        "  - {name: dbu, format: databricks, uri: bill, late_after: 36500d}\n  - {name: aws, format: focus, uri: machines, late_after: 36500d}\n"
    )
    printed = runspend("nightly", cwd=tmp_path).stdout
    assert {"2026-10.USD.bill=11", "2026-10.USD.allocated_to_runs=11", "2026-10.USD.equals_loaded_bill=true"} <= set(printed.splitlines())
    query = "select r.run_name, c.effective_cost, c.confidence from run_costs c join runs r on r.run_id = c.run_id order by 1"
    shown = runspend("sql", query, cwd=tmp_path).stdout
    costs = {words[0]: Decimal(words[1]) for words in (line.split() for line in shown.splitlines()[1:])}
    assert costs == {"notebook": Decimal("1.00"), "task-a": Decimal("5.00"), "task-b": Decimal("5.00")}
