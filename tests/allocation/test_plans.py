"""DuckDB's plan for joining bill lines to their targets. A wrong estimate once ran a month with a million runs out of memory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import duckdb
import pytest

from runspend.config.settings import load_settings
from runspend.pipeline import allocate
from runspend.warehouse.base import Model
from runspend.warehouse.parquet.step import ParquetStep
from tests.benchmarks.ledger_world import NOW, make_ledger_world

Plan = dict[str, Any]


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """The plan that prices the machines' lines, for a month with some ten thousand lines."""
    settings = load_settings(make_ledger_world(tmp_path_factory.mktemp("plans"), runs=8_000, lines=56_000))
    plans: list[Plan] = []

    def explain(
        step: ParquetStep, connection: duckdb.DuckDBPyConnection, model: Model, sql: str, parameters: Mapping[str, Any], target: Path
    ) -> None:
        if model.name == "cost_allocations" and model.shard_by == "resource_key":
            found = connection.execute(f"explain (format json) {sql}", parameters).fetchall()
            plans.extend(json.loads(found[0][1]))
        real(step, connection, model, sql, parameters, target)

    real = ParquetStep.copy_sorted
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ParquetStep, "copy_sorted", explain)
        outcome = allocate(settings, now=NOW)
    assert outcome.exit_code == 0
    whole, *_ = plans  # another one would price what all rules leave
    return whole


def nodes(plan: Plan) -> Iterator[Plan]:
    """Return the plan's nodes, from the top."""
    yield plan
    for child in plan["children"]:
        yield from nodes(child)


def tables(plan: Plan) -> set[str]:
    """Return the tables that a part of the plan reads."""
    return {node["extra_info"]["Table"].rpartition(".")[2] for node in nodes(plan) if "Table" in node["extra_info"]}


def test_lines_look_up_their_targets_and_not_the_other_way_round(plan: Plan) -> None:
    """The lines stream past a table of the targets, which needs far less memory."""
    joins = [node for node in nodes(plan) if node["name"].endswith("JOIN") and {"ledger_lines", "slot_targets"} <= tables(node)]
    lookup = joins[-1]  # the innermost join
    probed, built = lookup["children"]
    assert tables(probed) == {"ledger_lines"}
    assert tables(built) == {"slot_targets"}


def test_no_join_keeps_the_lines_in_a_table(plan: Plan) -> None:
    """A left join with swapped sides is a RIGHT join.

    It keeps every line of the shard, with all columns, until the last one has matched.
    """
    kinds = {node["extra_info"]["Join Type"] for node in nodes(plan) if node["name"].endswith("JOIN")}
    assert kinds == {"LEFT"}
