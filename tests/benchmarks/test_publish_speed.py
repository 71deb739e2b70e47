"""`publish` of a big month's daily tables to PostgreSQL: 1 million runs x 10 million lines.

Goal on two quiet cores: 60 s for cost_daily, run_costs_daily and costs_for_dashboards. The server runs on the same cores.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import duckdb
import psycopg2
import pytest

from tests.benchmarks.ledger_world import MONTH, NOW, make_ledger_world
from tests.benchmarks.measured import load_average, run_runspend, scaled
from tests.ingest.tracking.mlflow_servers import postgres as postgres

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]

RUNS, LINES = 1_000_000, 10_000_000
TABLES = ("cost_daily", "run_costs_daily", "costs_for_dashboards")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, postgres: str) -> Iterator[Path]:
    """The month, allocated, with a target for its daily tables."""
    folder = tmp_path_factory.mktemp("publish") / "world"
    make_ledger_world(folder, runs=scaled(RUNS), lines=scaled(LINES))
    run_runspend(folder, "allocate", "--now", f"{NOW:%Y-%m-%dT%H:%M}")
    target = f'{{name: grafana, kind: postgres, uri: "{postgres}", tables: [{", ".join(TABLES)}]}}'
    with (folder / "runspend.yaml").open("a", encoding="utf-8") as config:
        config.write(f"publish: [{target}]\n")
    yield folder
    shutil.rmtree(folder)  # gigabytes


def test_the_daily_tables_are_published(folder: Path, postgres: str) -> None:
    """The first time, again without a change, and again after each month's rows were deleted there. Sums are the ledger's."""
    first = run_runspend(folder, "publish")
    with closing(psycopg2.connect(postgres)) as connection, connection, connection.cursor() as cursor:
        rows = {}
        for name in TABLES:
            cursor.execute(f"select count(*), sum(effective_cost) from runspend.{name}")
            count, total = cursor.fetchone() or (0, None)
            source = "cost_daily" if name == "costs_for_dashboards" else name
            ledger = duckdb.execute(
                f"select count(*), sum(effective_cost) from '{folder}/warehouse/{source}/period={MONTH}/all.parquet'"
            ).fetchall()[0]
            assert (count, total) == ledger
            rows[name] = count
        cursor.execute("update runspend.runspend_builds set build_id = 'other'")  # as if each month had changed
    shown = ", ".join(f"{name} {count:,}" for name, count in rows.items())
    print(f"\n  {scaled(RUNS):,} runs x {scaled(LINES):,} lines: {shown} [{load_average()}]")
    print(f"  published first: {first}; goal 60 s")
    print(f"  every month replaced: {run_runspend(folder, 'publish')}")
    print(f"  nothing changed: {run_runspend(folder, 'publish')}")
