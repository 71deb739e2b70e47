"""OpenLineage datasets: every step names what it reads and writes, with the names that other tools use and without secrets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runspend import pipeline
from runspend.airflow.lineage import TABLES_OF, Dataset, dataset_at, lineage_of
from runspend.config.settings import load_settings

SETTINGS = """
home: home
warehouse: {uri: "s3://tables/prod"}
tracking:
  - {name: lab, uri: "https://user:canary@mlflow.example:5000"}
  - {name: box, uri: "postgresql://ro:canary@db:5432/mlflow", annotate: false}
billing:
  - {name: aws, uri: "s3://bills/cur/"}
  - {name: gcp, format: gcp, uri: "bigquery://acme/exports/table"}
  - {name: azure, uri: "abfss://exports@acme.dfs.core.windows.net/daily", credentials: "sv=1&sig=canary"}
publish:
  - {name: bi, kind: postgres, uri: "postgresql://rs:canary@db/dwh", schema: costs}
  - {name: file, kind: duckdb, file: costs.duckdb}
  - {name: lake, kind: iceberg, catalog: {type: rest, uri: "https://user:canary@catalog.example"}}
"""


@pytest.fixture
def settings(tmp_path: Path) -> Any:
    (tmp_path / "runspend.yaml").write_text(SETTINGS, encoding="utf-8")
    return load_settings(tmp_path / "runspend.yaml")


@pytest.mark.parametrize(
    ("address", "namespace", "name"),
    [
        ("s3://bucket/a/b/", "s3://bucket", "a/b"),
        ("s3://bucket", "s3://bucket", "/"),
        ("gs://bucket/a", "gs://bucket", "a"),
        ("bigquery://p/d/t", "bigquery", "p.d.t"),
        ("abfss://c@acme.dfs.core.windows.net/x?sig=secret", "abfss://c@acme.dfs.core.windows.net", "x"),
        ("postgresql+psycopg2://u:p@h:5433/db", "postgres://h:5433", "db"),
        ("postgresql://u:p@h/db", "postgres://h:5432", "db"),
        ("mysql://u:p@h/db", "mysql://h:3306", "db"),
        ("sqlite:////data/mlflow.db", "file", "/data/mlflow.db"),
        ("/data/bills", "file", "/data/bills"),
        ("https://u:p@host:5000", "https://host:5000", "/"),
    ],
)
def test_names_are_those_of_openlineage(address: str, namespace: str, name: str) -> None:
    assert dataset_at(address) == Dataset(namespace, name)


def test_every_step_of_a_dag_has_its_datasets(settings: Any) -> None:
    for step in TABLES_OF:
        assert hasattr(pipeline, step)
        found = lineage_of(settings, step, None)
        assert found is not None and (found.inputs or found.outputs)
        assert "canary" not in repr([(dataset.namespace, dataset.name) for dataset in (*found.inputs, *found.outputs)])


def test_only_the_sources_of_a_task_are_its_inputs(settings: Any) -> None:
    found = lineage_of(settings, "load", ["aws"])
    assert found is not None and [(d.namespace, d.name) for d in found.inputs] == [("s3://bills", "cur")]
    assert ("s3://tables", "prod/billing_lines") in [(d.namespace, d.name) for d in found.outputs]
    server = lineage_of(settings, "extract", ["lab"])
    assert server is not None and [(d.namespace, d.name) for d in server.inputs] == [("https://mlflow.example:5000", "mlflow")]


def test_tables_have_columns_and_targets_their_tables(settings: Any) -> None:
    found = lineage_of(settings, "publish")
    assert found is not None
    names = {(dataset.namespace, dataset.name) for dataset in found.outputs}
    assert {
        ("postgres://db:5432", f"dwh.costs.{name}") for name in ("cost_daily", "costs_for_dashboards", "budget_status", "runspend_builds")
    } < names
    assert {("postgres://db:5432", "dwh.costs.cost_daily"), ("https://catalog.example", "runspend.cost_daily")} < names
    assert [name for namespace, name in names if namespace == "file"] == [str(settings.path.parent / "costs.duckdb")]
    facets = found.facets()
    (table,) = [dataset for dataset in facets.inputs if dataset.name == "prod/cost_daily"]
    assert {"team", "effective_cost"} < {column.name for column in table.facets["schema"].fields}
