"""The ledger of random worlds against a brute force in fractions: each run's part of each line, and the sum."""

from __future__ import annotations

from collections import defaultdict
from fractions import Fraction

import pyarrow as pa
import pytest

from tests.allocation.chain import merge_worlds, rows_of, run_on_duckdb, total
from tests.allocation.truth import random_world, true_costs

SEEDS = range(24)


@pytest.fixture(scope="module")
def ledgers(tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    """The ledgers of all worlds. Each world has its own bill, server and machines."""
    return run_on_duckdb(merge_worlds({f"world-{seed}": random_world(seed) for seed in SEEDS}), tmp_path_factory.mktemp("worlds"))[
        "cost_allocations"
    ]


@pytest.mark.parametrize("seed", SEEDS)
def test_every_share_is_true(seed: int, ledgers: pa.Table) -> None:
    """Each target has its true part of each line, to 1e-9 of the line, and no other target has any. The four sums are exactly the bill."""
    world = random_world(seed)
    ledger = rows_of(ledgers, f"world-{seed}")
    for measure in ("list_cost", "contracted_cost", "effective_cost", "billed_cost"):
        assert total(row[measure] for row in ledger) == total(l[measure] for l in world["billing_lines"]), measure

    got: dict[tuple[str, str], Fraction] = defaultdict(Fraction)
    for row in ledger:
        got[row["charge_id"], row["run_id"] or row["allocated_to"]] += Fraction(row["effective_cost"])
    lines = {l["line_id"]: abs(Fraction(l["effective_cost"])) for l in world["billing_lines"]}
    truth = true_costs(world)
    outside = {key: cost for key, cost in truth.items() if key[1] == "out_of_scope"}
    assert sum(v for k, v in got.items() if k[1] == "out_of_scope") == sum(outside.values())
    for key in (got.keys() | truth.keys()) - outside.keys():
        if key[1] == "out_of_scope":
            continue
        assert abs(got[key] - truth.get(key, Fraction(0))) <= lines[key[0]] * Fraction(1, 10**9) + Fraction(2, 10**18), key
