"""Shortcuts that change no cost.

Big months are processed in shards of machines, tables without rows are not computed, and charges of a pool's hour are laid end to end.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from runspend.allocation.model_order import ledger_models
from runspend.warehouse.dialect import duckdb_sql, has_no_rows, table_names
from runspend.warehouse.parquet import shards as shards_module
from runspend.warehouse.parquet import step as step_module
from runspend.warehouse.parquet.engine import used
from runspend.warehouse.parquet.made_tables import Made
from runspend.warehouse.parquet.warehouse import ParquetWarehouse
from tests.allocation.chain import (
    DAY,
    World,
    line,
    make_run,
    merge_worlds,
    parameters_of,
    put_world,
    read_world,
    rows_of,
    run_on_duckdb,
    summarize_on_duckdb,
    total,
)
from tests.allocation.test_reference import CASES
from tests.allocation.truth import random_world

MEASURES = ("list_cost", "contracted_cost", "effective_cost", "billed_cost")
TABLES = ("cost_allocations", "charge_lines", "run_costs_daily", "run_costs", "cost_daily", "unallocated_costs")


def sorted_rows(world: World, root: Path) -> dict[str, list[str]]:
    found = run_on_duckdb(world, root) | summarize_on_duckdb(root)
    return {name: sorted(repr(row) for row in found[name].to_pylist()) for name in TABLES}


@pytest.fixture(scope="module")
def worlds() -> World:
    """All cases and two random worlds, merged."""
    cases = {folder.name: read_world(folder) for folder in CASES}
    return merge_worlds(cases | {"random": random_world(5), "machines": random_world(5, runs=30, machines=7, hours=6)})


@pytest.fixture(scope="module")
def whole(worlds: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The tables without shards."""
    return sorted_rows(worlds, tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("rows", [100, 10**6, pytest.param(10, marks=pytest.mark.torture)], ids=["a dozen", "one", "a hundred"])
def test_shards_of_machines_do_not_change_the_rows(
    rows: int, worlds: World, whole: dict[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a dozen shards, one, or none, every table has the same rows."""
    monkeypatch.setattr(shards_module, "ROWS_PER_SHARD", rows)
    monkeypatch.setattr(shards_module, "FEW_ROWS", 0)
    assert all(whole.values())
    assert sorted_rows(worlds, tmp_path) == whole


def test_a_model_that_certainly_has_no_rows_has_none(worlds: World, tmp_path: Path) -> None:
    """Each model runs with each table that it reads emptied, while all others have the rows of every case."""
    warehouse = ParquetWarehouse(tmp_path)
    models = ledger_models(f"{DAY:%Y-%m}")
    parameters, certain = parameters_of(worlds, DAY), 0
    with warehouse.step("inputs", "inputs") as step:
        put_world(step, worlds)
        assert step.publish()
    with warehouse.step("allocate", "build") as step:
        for model in models:
            text = step.read_model(model)
            step.refresh_views(table_names(text))
            for name in sorted(table_names(text)):
                if has_no_rows(text, {name}):
                    step.connection.execute(f"create temp table {name} as from main.{name} limit 0")
                    found = step.connection.execute(f"select count(*) from ({duckdb_sql(text)})", used(text, parameters)).fetchall()
                    step.connection.execute(f"drop table temp.{name}")
                    assert found == [(0,)], (model.name, name)
                    certain += 1
            step.run([model], parameters, keep=[m.target for m in models if m.into is None])
    assert certain > len(models)


SMALL = [folder.name for folder in CASES[::120]]


@pytest.mark.parametrize("case", [None, *SMALL])
def test_tables_without_rows_need_not_be_computed(case: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a small world, or of none, most tables are created without their query. Every table has the same rows and types."""
    world: World = {"billing_lines": [], "billing_loads": [], "runs": [], "run_resources": []}
    if case is not None:
        world = read_world(next(folder for folder in CASES if folder.name == case))
    names = sorted({model.target for model in ledger_models(f"{DAY:%Y-%m}") if model.into is None})
    created: Counter[bool] = Counter()
    make_table = step_module.make_table

    def counted(*arguments: Any, is_empty: bool) -> Made:
        created[is_empty] += 1
        return make_table(*arguments, is_empty=is_empty)

    found = []
    monkeypatch.setattr(step_module, "make_table", counted)
    for is_certain in (lambda sql, empty: False, has_no_rows):
        created.clear()
        monkeypatch.setattr(step_module, "has_no_rows", is_certain)
        tables = run_on_duckdb(world, tmp_path / f"{len(found)}", names=names)
        found.append({name: (rows.schema, sorted(map(repr, rows.to_pylist()))) for name, rows in tables.items()})
    assert created[True] > 30
    assert found[0] == found[1]


def pool_world(seed: int) -> World:
    """Make an hour of a pool with machines in many accounts and invoices, at different prices, some free or credited.

    Its runs ask for all or a part of it.
    """
    draw = random.Random(seed)
    lines: list[dict[str, Any]] = []
    for number in range(draw.randrange(2, 30)):
        account = {"sub_account_id": f"account {draw.randrange(8)}", "invoice_id": draw.choice((None, "inv-1"))}
        cost = draw.choice(
            (
                Decimal(draw.randrange(1, 10**9)).scaleb(-6),
                Decimal(draw.randrange(1, 10**15)).scaleb(-13),
                Decimal("0"),
                Decimal(-draw.randrange(1, 10**6)).scaleb(-6),
            )
        )
        category = "Credit" if cost < 0 else "Usage"
        row = line(number, on=f"m{number}", cost=cost, hours=1, pool_key="gpu", charge_category=category, **account)
        lines.append(row | {"billed_cost": draw.choice((cost, Decimal(0))), "list_cost": cost * 2})
    stated = [
        make_run(
            id=f"run{n:02d}",
            at=f"00:{draw.randrange(0, 50):02d}..{draw.choice(('01:00', '00:55'))}",
            on=[],
            pool_key="gpu",
            num_nodes=draw.choice((1, 1, 3)),
        )
        for n in range(draw.randrange(1, 12))
    ]
    return {"billing_lines": lines, "billing_loads": [], "runs": [run for run, _ in stated], "run_resources": []}


SEEDS = range(12)


@pytest.fixture(scope="module")
def pools() -> dict[str, World]:
    return {f"pool{seed:02d}": pool_world(seed) for seed in SEEDS}


@pytest.fixture(scope="module")
def laid(pools: dict[str, World], tmp_path_factory: pytest.TempPathFactory) -> dict[str, pa.Table]:
    """The ledgers of all pools, from one chain of models."""
    return run_on_duckdb(merge_worlds(pools), tmp_path_factory.mktemp("laid"), names=("pooled_targets", "charge_sums"))


@pytest.mark.parametrize("seed", SEEDS)
def test_charges_laid_end_to_end_give_every_run_its_part(seed: int, pools: dict[str, World], laid: dict[str, pa.Table]) -> None:
    """Every run has the same part of the hour's costs and of its credits.

    The number of rows is at most charges plus runs, not their product.
    """
    name = f"pool{seed:02d}"
    world = pools[name]
    ledger, charges = (rows_of(laid[table], name) for table in ("cost_allocations", "charge_sums"))
    targets = [t for t in laid["pooled_targets"].to_pylist() if f"{name}." in t["target_key"]]
    parts = {
        (t["run_id"] or t["allocated_to"]).removeprefix(f"{name}."): Fraction(t["ratio_to"]) - Fraction(t["ratio_from"]) for t in targets
    }
    assert len(parts) > 1 or len(world["runs"]) == 1
    sign = {c["charge_id"]: (c["effective_cost"] > 0) - (c["effective_cost"] < 0) for c in charges}
    for side in (1, -1):
        whole = sum((Fraction(c["effective_cost"]) for c in charges if sign[c["charge_id"]] == side), Fraction(0))
        got: dict[str, Fraction] = defaultdict(Fraction)
        for row in ledger:
            if sign[row["charge_id"]] == side:
                got[row["run_id"] or row["allocated_to"]] += Fraction(row["effective_cost"])
        for target, part in parts.items():
            assert abs(got[target] - whole * part) <= abs(whole) * Fraction(1, 10**12) + Fraction(len(charges), 10**18), (side, target)
    for measure in MEASURES:
        for charge in charges:
            assert sum(Decimal(r[measure]) for r in ledger if r["charge_id"] == charge["charge_id"]) == charge[measure]
    assert len(ledger) <= len(charges) + 3 * (len(parts) - 1) + sum(1 for c in charges if c["charge_category"] == "Credit")


BESIDE = (
    {"effective_cost": Decimal("-0.125"), "billed_cost": Decimal("-0.125"), "list_cost": Decimal(0)},
    {"effective_cost": Decimal(0), "billed_cost": Decimal(0), "list_cost": Decimal("0.5")},
    {"effective_cost": Decimal("0.75"), "billed_cost": Decimal("0.5"), "list_cost": Decimal(1)},
)


def side_of(row: Mapping[str, Any]) -> int:
    return (row["effective_cost"] > 0) - (row["effective_cost"] < 0)


def known_world(seed: int) -> World:
    """Return the pool's world with some known machines. Runs state them for five minutes of another hour, so this hour of them is free."""
    world = pool_world(seed)
    draw = random.Random(seed)
    known = draw.sample(world["billing_lines"], max(1, len(world["billing_lines"]) * draw.choice((1, 2, 3)) // 3))
    lines = [row | {"invoice_id": f"inv-{n}"} for n, row in enumerate(world["billing_lines"])]  # every machine is a separate charge
    # next to half of the known machines: a discount and a free line that differ in nothing else
    lines += [
        row | {"line_id": f"{row['line_id']}-{n}", **costs} for row in draw.sample(known, len(known) // 2) for n, costs in enumerate(BESIDE)
    ]
    stated = [make_run(id=f"smoke{n}", at="02:00..02:05", on=[row["resource_key"]], pool_key=None) for n, row in enumerate(known)]
    return world | {
        "billing_lines": lines,
        "runs": world["runs"] + [run for run, _ in stated],
        "run_resources": [r for _, resources in stated for r in resources],
    }


@pytest.fixture(scope="module")
def known() -> dict[str, World]:
    return {f"pool{seed:02d}": known_world(seed) for seed in SEEDS}


@pytest.fixture(scope="module")
def laid_known(known: dict[str, World], tmp_path_factory: pytest.TempPathFactory) -> dict[str, pa.Table]:
    return run_on_duckdb(
        merge_worlds(known),
        tmp_path_factory.mktemp("laid_known"),
        names=("pooled_targets", "offered_lines", "offered_windows", "charge_parts"),
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_machines_that_runs_state_come_first(seed: int, known: dict[str, World], laid_known: dict[str, pa.Table]) -> None:
    """Every run has its part of the hour's cost, from known machines first.

    Known machines that no run reaches are idle, and every line sums up.
    """
    name = f"pool{seed:02d}"
    world, ledger = known[name], rows_of(laid_known["cost_allocations"], name)
    lines = world["billing_lines"]
    stated = {r["resource_id"] for r in world["run_resources"]}
    targets = [t for t in laid_known["pooled_targets"].to_pylist() if f"{name}." in t["target_key"]]
    parts = {t["run_id"] and t["run_id"].removeprefix(f"{name}."): Fraction(t["ratio_to"]) - Fraction(t["ratio_from"]) for t in targets}
    for side in (1, -1):
        whole = sum((Fraction(l["effective_cost"]) for l in lines if side_of(l) == side), Fraction(0))
        on_side = [row for row in ledger if side_of(row) == side]
        got: dict[str, Fraction] = defaultdict(Fraction)
        for row in on_side:
            got[row["run_id"]] += Fraction(row["effective_cost"])
        for run, part in parts.items():
            assert abs(got[run] - whole * part) <= abs(whole) * Fraction(1, 10**12) + Fraction(len(lines), 10**18), (side, run)
        for category in ("Usage", "Credit"):
            served = {row["resource_id"] for row in on_side if row["run_id"] and row["charge_category"] == category}
            idle = {row["resource_id"] for row in on_side if row["charge_category"] == category} - served
            assert not (served - stated) or not (idle & stated), "a machine that no run states serves runs while a stated machine is idle"
    for measure in MEASURES:
        for machine in {l["resource_id"] for l in lines}:
            assert total(row[measure] for row in ledger if row["resource_id"] == machine) == total(
                l[measure] for l in lines if l["resource_id"] == machine
            )
    for row in ledger:
        if row["allocated_to"] == "idle":
            assert (row["match_method"], row["pool_key"] is not None) == (
                ("resource_id" if row["resource_id"] in stated else "pool_time"),
                True,
            )


def test_machines_that_no_run_reaches_stay_whole_charges(laid_known: dict[str, pa.Table]) -> None:
    """Each of them is one idle charge with the id of its line."""
    last_blocks = {
        (w["target_key"], w["window_start"], w["window_end"]): w["last_block"] for w in laid_known["offered_windows"].to_pylist()
    }
    offered = [
        (row, last_blocks[row["target_key"], row["window_start"], row["window_end"]]) for row in laid_known["offered_lines"].to_pylist()
    ]
    unreached = {(row["source"], row["line_id"]) for row, last_block in offered if last_block is None or row["block_number"] > last_block}
    assert len(offered) > len(unreached) > len(offered) // 4
    ledger = [row for row in laid_known["cost_allocations"].to_pylist() if (row["source"], row["charge_id"]) in unreached]
    assert [row["allocated_to"] for row in ledger] == ["idle"] * len(unreached)
    assert {row["allocated_ratio"] for row in ledger} == {1.0}
    assert not unreached & {(row["source"], row["line_id"]) for row in laid_known["charge_lines"].to_pylist()}


def test_the_order_of_charges_does_not_matter(pools: dict[str, World], laid: dict[str, pa.Table], tmp_path: Path) -> None:
    """Lines and runs in any order give the same rows."""
    shuffled = {table: random.Random(1).sample(rows, len(rows)) for table, rows in merge_worlds(pools).items()}
    again = run_on_duckdb(shuffled, tmp_path)["cost_allocations"].to_pylist()
    assert sorted(map(repr, again)) == sorted(map(repr, laid["cost_allocations"].to_pylist()))
