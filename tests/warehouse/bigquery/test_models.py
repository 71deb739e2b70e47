"""Every model and check gives the same rows on the BigQuery emulator as on DuckDB, with its own SQL and one job each.

The emulator uses an older DuckDB. So these tests show that jobs, parameters, types and tables work for the whole chain of models. The
reference implementation decides which rows are right (`tests/allocation/test_reference.py`).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from google.cloud import bigquery

from runspend.allocation import model_order
from runspend.allocation.estimates import CHECKS as ESTIMATE_CHECKS
from runspend.allocation.estimates import estimate_models, estimate_parameters
from runspend.config.settings import Settings
from runspend.schema.tables import TABLES
from runspend.warehouse.base import Model
from runspend.warehouse.bigquery.tables import schema_of, type_of
from runspend.warehouse.content_digest import sums_sql
from runspend.warehouse.dialect import duckdb_sql, parameter_names
from runspend.warehouse.sql_files import read_sql
from tests.allocation.chain import (
    DAY,
    FILLED,
    PACKAGE,
    SETTINGS,
    arrow,
    input_tables,
    merge_worlds,
    moment,
    parameters_of,
    parameters_of_month,
    read_settings,
    read_world,
    run_on_duckdb,
    summarize_on_duckdb,
)
from tests.allocation.test_estimates import estimate, hours, world_of
from tests.allocation.test_reference import CASES, SHARED, assert_equal, everything
from tests.allocation.truth import random_world
from tests.servers.bigquery import PROJECT
from tests.warehouse.bigquery.emulated import Dataset, dataset, scalar

__all__ = ["dataset"]


class Chain:
    """Run models and checks, one job each, in one dataset, with inputs loaded as Parquet."""

    def __init__(self, dataset: Dataset, inputs: Mapping[str, pa.Table], parameters: Mapping[str, Any]) -> None:
        self.dataset, self.parameters = dataset, parameters
        for name, rows in inputs.items():
            dataset.load(name, rows, schema=schema_of(TABLES[name])).result()

    def ask(self, before: str, folder: str, name: str) -> Any:
        """Run the SQL of a file, unchanged, as a job."""
        text = read_sql(PACKAGE / folder, name)
        given = {word: self.parameters[word] for word in parameter_names(text)}
        return self.dataset.run(before + text, *(parameter_of(word, value) for word, value in given.items()))

    def run(self, models: Sequence[Model]) -> None:
        """Run all in order. A model that fills a table must have exactly its columns and types."""
        for model in models:
            made = model.target if model.into is None else f"part_of_{model.target}"
            self.ask(f"create or replace table `{made}` as\n", "models", model.name)
            if model.into is not None:
                table = TABLES[model.target]
                columns = [c.name for c in table.columns if c.name not in FILLED]
                found = {f.name: type_of(f) for f in self.dataset.client.get_table(f"{self.dataset.name}.{made}").schema}
                assert found == {c.name: c.type for c in table.columns if c.name in columns}, model.name
                if model.fills is None:
                    self.dataset.client.delete_table(f"{self.dataset.name}.{table.name}", not_found_ok=True)
                    self.dataset.client.create_table(bigquery.Table(f"{PROJECT}.{self.dataset.name}.{table.name}", schema=schema_of(table)))
                self.dataset.run(f"insert into {table.name} ({', '.join(columns)}) select {', '.join(columns)} from {made}")

    def tables(self, models: Sequence[Model]) -> dict[str, pa.Table]:
        """Return the tables that the models made."""
        names = {model.target for model in models}
        return {
            name: self.dataset.client.list_rows(f"{self.dataset.name}.{name}").to_arrow(create_bqstorage_client=False) for name in names
        }


def stored(rows: pa.Table) -> pa.Table:
    """Return rows as a table of BigQuery stores them, with empty lists instead of null lists."""
    for index, field in enumerate(rows.schema):
        if pa.types.is_list(field.type):
            rows = rows.set_column(index, field.name, pa.array([value or [] for value in rows.column(index).to_pylist()], field.type))
    return rows


def compare(models: Sequence[Model], ours: Mapping[str, pa.Table], theirs: Mapping[str, pa.Table]) -> None:
    """Check that both made the same rows, also in temporary tables."""
    assert_equal(models, {name: stored(rows) for name, rows in ours.items()}, theirs)


def parameter_of(name: str, value: Any) -> Any:
    kinds = {bool: "BOOL", int: "INT64", float: "FLOAT64", Decimal: "BIGNUMERIC", dt.datetime: "TIMESTAMP", dt.date: "DATE", str: "STRING"}
    return scalar(name, kinds[type(value)], value)


def compare_chain(dataset: Dataset, world: Any, root: Path, settings: Settings) -> set[str]:
    """Run October's ledger and then `run_costs` on DuckDB and on the emulator. Return the models that gave rows."""
    ledger, summary = model_order.ledger_models("2026-10"), model_order.run_costs_models("2026-10")
    chain = Chain(dataset, input_tables(world), parameters_of(world, DAY, settings))
    chain.run(ledger)
    ours = run_on_duckdb(world, root, settings=settings, names=sorted({m.target for m in ledger if m.into is None}))
    theirs = chain.tables(ledger)
    compare(ledger, ours, theirs)
    made = {name for name, rows in theirs.items() if rows.num_rows}

    chain.parameters = parameters_of_month(DAY, settings)
    chain.run(summary)
    ours = summarize_on_duckdb(root, settings=settings, names=sorted({m.target for m in summary if m.into is None}))
    theirs = chain.tables(summary)
    compare(summary, ours, theirs)
    for name in (*model_order.LEDGER_CHECKS, *model_order.RUN_CHECKS):
        assert chain.ask("", "checks", name) == [], name
    return made | {name for name, rows in theirs.items() if rows.num_rows}


def test_the_models_of_the_ledger_give_the_rows_duckdb_gives(dataset: Dataset, tmp_path: Path) -> None:
    made = compare_chain(dataset, everything(), tmp_path, read_settings(SHARED))
    assert {m.target for m in (*model_order.ledger_models("2026-10"), *model_order.run_costs_models("2026-10"))} - made == set()


@pytest.mark.torture
def test_the_models_give_the_same_rows_in_every_situation(dataset: Dataset, tmp_path: Path) -> None:
    """One build contains all case folders and a random situation."""
    worlds = {f"{f.parent.name}.{f.name}": read_world(f) for f in CASES} | {"random": random_world(1, runs=10, machines=2, hours=4)}
    compare_chain(dataset, merge_worlds(worlds), tmp_path, SETTINGS)


def test_the_models_of_the_estimates_give_the_rows_duckdb_gives(dataset: Dataset, tmp_path: Path) -> None:
    lines = [
        *hours(0, 3, cost="24.576"),
        *hours(0, 2, cost="1.1", on="m2", sub_account_id="late"),
        *hours(0, 1, cost="7", on="m3", instance_type="small", source="gcp"),
    ]
    runs = [
        {"id": "A", "at": "00:00..05:10"},
        {"id": "B", "at": "02:30..04:00"},
        {"id": "C", "at": "01:00", "on": ["m2"], "last_sign": "04:30"},
        {"id": "D", "at": "01:00", "on": ["m3"]},
    ]
    world = world_of(lines, runs)
    models, parameters = estimate_models(), estimate_parameters(moment("06:00"))
    ours = estimate(world, tmp_path, "06:00", names=sorted({m.target for m in models if m.into is None}))
    chain = Chain(dataset, {name: arrow(name, rows) for name, rows in world.items()}, parameters)
    chain.run(models)
    theirs = chain.tables(models)
    compare(models, ours, theirs)
    assert theirs["run_estimates"].num_rows
    for name in ESTIMATE_CHECKS:
        assert chain.ask("", "checks", name) == [], name


def test_the_digest_of_rows_is_the_same(dataset: Dataset) -> None:
    """The digest is the same for every type of column, and for nulls."""
    rows = input_tables(everything())
    for name in ("runs", "billing_lines", "artifact_bytes"):
        dataset.load(name, rows[name], schema=schema_of(TABLES[name])).result()
        [[count, *pieces]] = dataset.run(sums_sql(TABLES[name], name))
        connection = duckdb.connect()
        connection.execute("set TimeZone = 'UTC'")
        connection.register(name, stored(rows[name]))
        assert connection.execute(duckdb_sql(sums_sql(TABLES[name], name))).fetchall() == [(count, *pieces)], name
