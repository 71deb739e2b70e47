"""Every model and every check gives the same rows on DuckDB, as the product runs them, and on Google's reference implementation.

Rows are compared as multisets, to the last decimal, of temporary tables too; each engine works on its own earlier results.
What the rows should be is said by the cases and by `truth.py`.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from runspend import ladder
from runspend.config import Settings
from runspend.warehouse import Model
from tests.models.chain import (
    DAY,
    FILLED,
    PACKAGE,
    SETTINGS,
    World,
    input_tables,
    merge_worlds,
    parameters_of,
    parameters_of_month,
    query_reference,
    read_settings,
    read_world,
    run_on_duckdb,
    run_on_reference,
    summarize_on_duckdb,
)
from tests.models.truth import random_world
from tests.reference import GoogleSQL, exact_value

FOLDERS = sorted(p.parent for p in Path(__file__).parent.glob("*/*/expect.yaml"))
CASES = [folder for folder in FOLDERS if not (folder / "settings.yaml").exists()]
# A query takes the reference implementation a third of a second before it sees a row: cases stand side by side in a few worlds.
GROUPS = 4


@pytest.fixture(scope="module")
def reference() -> GoogleSQL:
    return GoogleSQL()


def multiset(table: pa.Table, columns: Sequence[str]) -> Counter[tuple[Any, ...]]:
    """The rows, however they are ordered and however a decimal's zeros are written."""
    return Counter(tuple(exact_value(row[column]) for column in columns) for row in table.to_pylist())


def assert_equal(models: Sequence[Model], ours: Mapping[str, pa.Table], theirs: Mapping[str, pa.Table]) -> None:
    """Both engines filled every table of the models with the same columns and rows."""
    for name in dict.fromkeys(model.target for model in models):
        columns = [c for c in ours[name].column_names if c not in FILLED]
        assert sorted(columns) == sorted(c for c in theirs[name].column_names if c not in FILLED), name
        mine, other = multiset(ours[name], columns), multiset(theirs[name], columns)
        assert (mine - other, other - mine) == (Counter(), Counter()), (name, columns)


def compare(reference: GoogleSQL, world: World, root: Path, period: dt.date = DAY, settings: Settings = SETTINGS) -> None:
    """The ledger of a period, then `run_costs` of the month, on both engines; no check finds anything on the reference either."""
    models = ladder.ledger_models(f"{period:%Y-%m}")
    ours = run_on_duckdb(world, root, period, settings=settings, names=sorted({m.target for m in models if m.into is None}))
    theirs = run_on_reference(reference, models, input_tables(world), parameters_of(world, period, settings))
    assert_equal(models, ours, theirs)
    assert theirs["cost_allocations"].num_rows

    summary = ladder.run_costs_models(f"{period:%Y-%m}")
    ours = summarize_on_duckdb(world, root, period, settings=settings, names=sorted({m.target for m in summary if m.into is None}))
    theirs = run_on_reference(reference, summary, theirs, parameters_of_month(world, period, settings))
    assert_equal(summary, ours, theirs)

    for name in (*ladder.LEDGER_CHECKS, *ladder.RUN_CHECKS):
        sql = (PACKAGE / "checks" / f"{name}.sql").read_text(encoding="utf-8")
        assert query_reference(reference, sql, theirs, {"period": period}).rows == [], name


@pytest.mark.parametrize("group", range(GROUPS))
def test_every_case(reference: GoogleSQL, group: int, tmp_path: Path) -> None:
    """The situations of all case folders."""
    folders = CASES[group::GROUPS]
    assert folders
    compare(reference, merge_worlds({f"{f.parent.name}.{f.name}": read_world(f) for f in folders}), tmp_path)


@pytest.mark.parametrize("folder", [f for f in FOLDERS if f not in CASES], ids=lambda f: f.name)
def test_every_setting(reference: GoogleSQL, folder: Path, tmp_path: Path) -> None:
    """The situations that need something in `runspend.yaml`."""
    compare(reference, read_world(folder), tmp_path, settings=read_settings(folder))


def test_a_period_that_begins_with_runs_of_the_month_before(reference: GoogleSQL, tmp_path: Path) -> None:
    """November of the case that crosses the month's end: runs and machines reach in from outside the period."""
    world = read_world(Path(__file__).parent / "cost_allocations" / "over_the_months_end_october")
    compare(reference, world, tmp_path, dt.date(2026, 11, 1))


def test_names_a_tag_gives_a_job(reference: GoogleSQL, tmp_path: Path) -> None:
    """By itself: in a world of several, jobs have longer names than the tag says."""
    compare(reference, read_world(Path(__file__).parent / "cost_allocations" / "runs_of_a_jobs_tasks_share_the_job"), tmp_path)


@pytest.mark.parametrize("seeds", [range(3), range(3, 6)], ids=str)
def test_random_worlds(reference: GoogleSQL, seeds: range, tmp_path: Path) -> None:
    """Situations nobody thought of."""
    compare(reference, merge_worlds({f"world-{seed}": random_world(seed, runs=10, machines=2, hours=4) for seed in seeds}), tmp_path)


def test_a_machine_shared_by_many(reference: GoogleSQL, tmp_path: Path) -> None:
    """Sums of a dozen unequal shares: the order in which an engine adds them does not show."""
    compare(reference, random_world(17, runs=30, machines=6, hours=3), tmp_path)
