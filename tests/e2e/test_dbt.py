"""The example project of deploy/dbt: `dbt build` runs over the published demo, its tests find wrong money, and its models equal the ledger."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest
import yaml

from runspend.actions.export.dbt_sources import dbt_sources
from runspend.actions.publish.content import BUILDS
from runspend.schema.published import PUBLISHED_TABLES
from tests.command import run_here
from tests.e2e.conftest import NOW

ROOT = Path(__file__).resolve().parents[2]
PROJECT = ROOT / "deploy" / "dbt"
PYTHON = Path(sys.prefix) / "dbt" / "bin" / "python"
QUIET = {"DO_NOT_TRACK": "1", "DBT_SEND_ANONYMOUS_USAGE_STATS": "false"}
SINGULAR = {"daily_costs_equal_the_ledger", "team_costs_equal_the_ledger", "experiment_costs_equal_the_ledger"}


def dbt(folder: Path, costs: Path, *runs: list[str]) -> list[tuple[bool, dict[str, list[str]]]]:
    """Run dbt in a copy of the project. For each run, return whether it succeeded, and its nodes by status."""
    done = subprocess.run(
        [PYTHON, Path(__file__).with_name("dbt_project.py")], cwd=folder, env={**os.environ, **QUIET, "RUNSPEND_COSTS": str(costs)},
        input="".join(f"{json.dumps([*run, '--profiles-dir', '.'])}\n" for run in runs), capture_output=True, text=True, check=False, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


def asked(file: Path, sql: str) -> list[tuple[Any, ...]]:
    with closing(duckdb.connect(file, read_only=True)) as connection:
        return connection.execute(sql).fetchall()


def test_sources_are_what_the_command_writes(tmp_path: Path) -> None:
    written = (PROJECT / "models" / "runspend_sources.yml").read_text(encoding="utf-8")
    assert written == dbt_sources(), "run: runspend export dbt --out deploy/dbt/models/runspend_sources.yml"
    for _ in range(2):
        run_here("export", "dbt", "--out", f"{tmp_path}/sources.yml")
    (tmp_path / "mine.yml").write_text("version: 2\n")
    assert "is not a file that `runspend export dbt` wrote" in run_here("export", "dbt", "--out", f"{tmp_path}/mine.yml", code=2).stderr
    assert (tmp_path / "sources.yml").read_text(encoding="utf-8") == written == run_here("export", "dbt").stdout
    (source,) = yaml.safe_load(written)["sources"]
    tables = {table["name"]: table for table in source["tables"]}
    assert list(tables) == [table.name for table in (*PUBLISHED_TABLES, BUILDS)]
    for table in (*PUBLISHED_TABLES, BUILDS):
        described = [(c["name"], c["data_type"], c["description"]) for c in tables[table.name]["columns"]]
        assert described == [(c.name, c.type, c.meaning) for c in table.columns]


def test_the_project_builds_and_has_the_ledgers_sums(made_night: Path, tmp_path: Path) -> None:
    """All tests pass. Then the smallest possible change of one ledger row makes the tests of sums fail."""
    if not PYTHON.exists():
        pytest.skip("dbt is not installed: `make test` puts it into .venv/dbt")
    config, costs, changed = tmp_path / "runspend.yaml", tmp_path / "costs.duckdb", tmp_path / "changed.duckdb"
    publish = "publish: [{name: laptop, kind: duckdb, file: costs.duckdb}]"
    shutil.copytree(made_night.parent / "warehouse", tmp_path / "warehouse")
    config.write_text(f"home: .\n{publish}\nmail: {{backend: file, operators: [ops@example.com]}}\n")
    run_here("publish", "--config", str(config), *NOW)
    folder = shutil.copytree(PROJECT, tmp_path / "project", ignore=shutil.ignore_patterns("target", "logs", "*.duckdb"))

    (is_built, found), (_, fresh) = dbt(folder, costs, ["build"], ["source", "freshness"])
    assert is_built and found.keys() == {"success", "pass"} and set(found["success"]) == {"team_costs_monthly", "experiment_unit_costs"}
    assert SINGULAR | {f"{name}_key_is_unique" for name in ("runs", "run_costs", "cost_allocations")} <= set(found["pass"])
    assert len(found["pass"]) > 60
    assert [*fresh] in (
        ["pass"],
        ["warn"],
        ["error"],
    )  # depends on the current date, and the demo's months are over; a query that fails is a "runtime error"

    ledger = "select sum(effective_cost) from cost_allocations where allocated_to"
    for model, part in (("team_costs_monthly", "<> 'out_of_scope'"), ("experiment_unit_costs", "= 'run'")):
        ((total,),) = asked(folder / "models.duckdb", f"select sum(effective_cost) from {model}")
        assert [(total,)] == asked(costs, f"{ledger} {part}") and total > 1000
    (found_units,) = asked(folder / "models.duckdb", "select sum(run_count), sum(gpu_hours) from experiment_unit_costs")
    (units,) = asked(costs, "select count(*), sum(gpu_seconds) / 3600 from run_costs where billing_currency <> ''")
    assert found_units == pytest.approx(units)

    shutil.copy(costs, changed)
    with closing(duckdb.connect(changed)) as connection:
        row = "(select min(rowid) from cost_allocations where allocated_to = 'run')"
        connection.execute(f"update cost_allocations set effective_cost = effective_cost + {Decimal('1e-22'):f} where rowid = {row}")
    ((is_built, found),) = dbt(folder, changed, ["test", "--select", "test_type:singular"])
    assert not is_built and set(found["fail"]) == SINGULAR
