"""The ZIP for Superset has the published names and no password. A real Superset imports it, and its charts have the ledger's figures (`make torture`)."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zipfile
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import yaml

from runspend.actions.export.superset_files import CHARTS, superset_files, superset_zip
from runspend.schema.public_views import COSTS_FOR_DASHBOARDS
from runspend.schema.tables import RUN_COSTS
from tests import access_world
from tests.command import run_here
from tests.ingest.tracking.mlflow_servers import postgres as postgres

PYTHON = Path(sys.prefix) / "superset" / "bin" / "python"
URI = "postgresql://reader:canary@db:5432/costs?sslmode=require&password=canary"
SHOWN = "postgresql+psycopg2://reader:XXXXXXXXXX@db:5432/costs?sslmode=require"


def test_the_zip_has_our_names_and_no_password() -> None:
    files = {name: yaml.safe_load(text) for name, text in superset_files(URI, "money").items()}
    assert files["databases/Runspend.yaml"]["sqlalchemy_uri"] == SHOWN
    assert "canary" not in "".join(superset_files(URI, "money").values())
    for table in (COSTS_FOR_DASHBOARDS, RUN_COSTS):
        dataset = files[f"datasets/Runspend/{table.name}.yaml"]
        assert dataset["schema"] == "money" and [c["column_name"] for c in dataset["columns"]] == [c.name for c in table.columns]
        assert [c["description"] for c in dataset["columns"]] == [c.meaning for c in table.columns]
    datasets = {files[name]["uuid"]: files[name] for name in files if name.startswith("datasets/")}
    charts = [files[name] for name in files if name.startswith("charts/")]
    for chart in charts:
        dataset = datasets[chart["dataset_uuid"]]
        (query,) = json.loads(chart["query_context"])["queries"]
        assert set(query["metrics"]) <= {m["metric_name"] for m in dataset["metrics"]}
        used = {c if isinstance(c, str) else c["sqlExpression"] for c in query["columns"]} | {f["col"] for f in query["filters"]}
        assert used <= {c["column_name"] for c in dataset["columns"]}
    placed = [
        e["meta"]["uuid"] for e in files["dashboards/Runspend.yaml"]["position"].values() if isinstance(e, dict) and e["type"] == "CHART"
    ]
    assert placed == [chart["uuid"] for chart in charts] and len(placed) == len(CHARTS)
    assert superset_zip(URI, "money") == superset_zip(URI, "money")


def test_the_command_takes_the_target_of_publish(tmp_path: Path) -> None:
    config = tmp_path / "runspend.yaml"
    config.write_text(f"home: home\npublish: [{{name: db, kind: postgres, uri: '{URI}', schema: money}}]\n")
    out = tmp_path / "runspend.zip"
    printed = run_here("export", "superset", "--config", f"{config}", "--out", f"{out}").stdout
    assert "database postgresql+psycopg2://superset:XXXXXXXXXX@db:5432/costs" in printed and "reader" not in printed
    assert out.read_bytes() == superset_zip(URI.replace("reader", "superset"), "money")
    run_here("export", "superset", "--config", f"{config}", "--uri", "postgresql://me@other/costs", "--out", f"{out}")
    with zipfile.ZipFile(io.BytesIO(out.read_bytes())) as archive:
        assert b"postgresql+psycopg2://me@other/costs" in archive.read("runspend/databases/Runspend.yaml")
    (tmp_path / "mine.zip").write_bytes(b"mine")
    kept = run_here("export", "superset", "--config", f"{config}", "--out", f"{tmp_path}/mine.zip", code=2).stderr
    assert "is not a file that `runspend export superset` wrote" in kept and (tmp_path / "mine.zip").read_bytes() == b"mine"
    refused = run_here("export", "superset", "--config", f"{config}", "--out", f"{tmp_path}/none/runspend.zip", code=2).stderr
    assert f"there is no folder {tmp_path}/none. Make it first." in refused and not (tmp_path / "none").exists()
    config.write_text("home: home\n")
    assert "no target of `publish` with `kind: postgres`" in run_here("export", "superset", "--config", f"{config}", code=2).stderr


def by_group(rows: list[dict[str, Any]], groups: tuple[str, ...], metric: str) -> dict[tuple[str, ...], float]:
    """Return cost by group. Superset gives dates in milliseconds."""
    return {tuple(_text(row[name]) for name in groups): float(row[metric]) for row in rows}


def _text(value: Any) -> str:
    return f"{datetime.fromtimestamp(value / 1000, timezone.utc):%Y-%m-%d}" if isinstance(value, (int, float)) else f"{value}"


@pytest.mark.torture
def test_a_real_superset_shows_the_ledgers_figures(tmp_path: Path, postgres: str) -> None:
    if not PYTHON.exists():
        pytest.skip("Superset is not installed: run `make torture`")
    access_world.make_two_teams(tmp_path / "home")
    config = tmp_path / "runspend.yaml"
    config.write_text(
        f"home: home\npublish: [{{name: db, kind: postgres, uri: '{postgres}'}}]\nmail: {{backend: file, operators: [ops@example.com]}}\n"
    )
    run_here("publish", "--config", f"{config}", "--now", "2026-10-04T06:00")
    (tmp_path / "runspend.zip").write_bytes(superset_zip(postgres, "runspend"))
    (tmp_path / "superset").mkdir()
    done = subprocess.run(
        [PYTHON, Path(__file__).with_name("superset_server.py"), tmp_path / "superset", tmp_path / "runspend.zip", "postgres"],
        cwd=tmp_path, env={**os.environ}, capture_output=True, text=True, check=False, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout)
    assert (found["title"], found["page"]) == ("Runspend", 200) and found["charts"].keys() == {chart.label for chart in CHARTS}
    assert set(found["datasets"]) == {"costs_for_dashboards", "run_costs"} and "effective_cost" in found["datasets"]["run_costs"]
    with psycopg2.connect(postgres) as connection, connection.cursor() as cursor:
        for chart in CHARTS:
            groups = (*([chart.day] if chart.day else []), *chart.groups)
            where = " and ".join(f"{column} {'=' if operator == '==' else '<>'} '{value}'" for column, operator, value in chart.filters)
            names = ", ".join(f"{name}::text" for name in groups)
            kept = f" where {where}" if where else ""
            cursor.execute(f"select {names}, sum(effective_cost) from runspend.{chart.table.name}{kept} group by {names}")
            ledger = {row[:-1]: float(row[-1]) for row in cursor.fetchall()}
            rows = by_group(found["charts"][chart.label], groups, chart.metrics[0])
            assert rows == pytest.approx(ledger, abs=1e-9) and ledger, chart.label
        inside = by_group(found["charts"]["Cost by team and day"], ("charge_date", "billing_currency", "team"), "effective_cost")
        cursor.execute("select sum(effective_cost) from runspend.cost_allocations where allocated_to <> 'out_of_scope'")
        assert sum(inside.values()) == pytest.approx(float(cursor.fetchall()[0][0]), abs=1e-9)
