"""Write a world as its user would have it: an MLflow store (SQLite, MLflow's own schema), FOCUS bills as CSV, and a runspend.yaml.

Plain SQL inserts the rows that MLflow's client would have written. That takes seconds for a hundred thousand runs.
"""

from __future__ import annotations

import csv
import shutil
import sqlite3
from collections.abc import Iterable
from pathlib import Path

from tests.benchmarks.accuracy.cluster import COLUMNS, Line, Run
from tests.benchmarks.accuracy.worlds import World
from tests.mlflow_store import make_schema as make_schema


def write_store(schema: Path, path: Path, world: World, artifact_root: str) -> None:
    """Write all runs of the world with their tags and params, and one metric each that shows when the run was last active."""
    shutil.copyfile(schema, path)
    experiments = {name: number for number, name in enumerate(sorted({run.experiment for run in world.runs}), 1)}
    with sqlite3.connect(path) as db:
        db.executemany(
            "insert into experiments (experiment_id, name, artifact_location, lifecycle_stage, creation_time, last_update_time, workspace) values (?, ?, ?, 'active', 0, 0, 'default')",
            [(number, name, f"{artifact_root}/{number}") for name, number in experiments.items()],
        )
        db.executemany(
            "insert into experiment_tags (key, value, experiment_id) values (?, ?, ?)",
            [(k, v, experiments[name]) for name, tags in world.experiment_tags.items() for k, v in tags.items()],
        )
        db.executemany(
            "insert into runs (run_uuid, name, source_type, source_name, entry_point_name, user_id, status, start_time, end_time, source_version, lifecycle_stage, artifact_uri, experiment_id)"
            " values (?, ?, 'UNKNOWN', '', '', 'someone', ?, ?, ?, '', 'active', ?, ?)",
            [
                (
                    run.run_id,
                    f"run-{n}",
                    "RUNNING" if run.end is None else "FINISHED",
                    run.start,
                    run.end,
                    f"{artifact_root}/{experiments[run.experiment]}/{run.run_id}/artifacts",
                    experiments[run.experiment],
                )
                for n, run in enumerate(world.runs)
            ],
        )
        db.executemany(
            "insert into tags (key, value, run_uuid) values (?, ?, ?)",
            [(k, v, run.run_id) for run in world.runs for k, v in run.tags.items()],
        )
        db.executemany(
            "insert into params (key, value, run_uuid) values (?, ?, ?)",
            [(k, v, run.run_id) for run in world.runs for k, v in run.params.items()],
        )
        db.executemany(
            "insert into latest_metrics (key, value, timestamp, step, is_nan, run_uuid) values ('loss', 0.5, ?, 0, 0, ?)",
            [(heard, run.run_id) for run in world.runs if (heard := _last_heard(run)) is not None],
        )
    db.close()


def _last_heard(run: Run) -> int | None:
    return run.end if run.last_metric is None else run.last_metric


# The columns that a version of FOCUS does not have, and its other names for columns.
LACKS = {"1.0": {"InvoiceId", "ServiceSubcategory", "SkuMeter", "SkuPriceDetails"}, "1.2": set(), "1.3": set()}
CALLS = {"1.0": {}, "1.2": {}, "1.3": {"ProviderName": "ServiceProviderName", "PublisherName": "HostProviderName"}}


def write_bill(folder: Path, lines: Iterable[Line], bucket: str, version: str) -> None:
    """Write one CSV per billing period. It replaces the earlier delivery of that period."""
    columns = [c for c in COLUMNS if c not in LACKS[version]]
    folder.mkdir(exist_ok=True)
    by_period: dict[str, list[dict[str, str]]] = {}
    for line in lines:
        by_period.setdefault(line.row["BillingPeriodStart"][:7], []).append(
            line.row | {"ResourceId": line.row.get("ResourceId", "").replace("{bucket}", bucket)}
        )
    for period, rows in by_period.items():
        with (folder / f"focus-{period}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow([CALLS[version].get(c, c) for c in columns])
            csv.DictWriter(file, columns, restval="", extrasaction="ignore").writerows(rows)


def write_settings(folder: Path, more: str) -> Path:
    """Write the shortest runspend.yaml that reads the store and the bills, followed by the world's own settings."""
    path = folder / "runspend.yaml"
    path.write_text(
        f"home: home\nmail: {{backend: none}}\ntracking:\n  - {{name: lab, uri: 'sqlite:///{folder}/mlflow.db'}}\nbilling:\n  - {{name: bill, format: focus, uri: bills}}\n{more}",
        encoding="utf-8",
    )
    return path
