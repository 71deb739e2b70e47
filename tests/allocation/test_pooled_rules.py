"""Pools, instance types, stored bytes and tokens: worked cases, a brute force in fractions, both engines, and any order of rows."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.allocation.chain import World
from tests.allocation.pooled_chain import (
    MODELS,
    PARAMETERS,
    RULES,
    exact,
    line_parts,
    lines_of,
    read_case,
    run_pools,
    run_pools_on_reference,
    target_name,
    targets_by_line,
    targets_of,
)
from tests.allocation.pooled_truth import merge_pool_worlds, random_bytes, random_pools, rented_in, true_bytes, true_parts
from tests.reference import GoogleSQL, exact_value

CASES = sorted((Path(__file__).parent / "pooled").glob("*.yaml"))


def multiset(table: pa.Table) -> Counter[tuple[Any, ...]]:
    names = sorted(table.column_names)
    return Counter(tuple(exact_value(row[name]) for name in names) for row in table.to_pylist())


def assert_targets_cover(found: Mapping[str, pa.Table]) -> None:
    """The targets of a key and window must cover 0 to 1 without gaps or overlaps. Lines must go only to existing targets."""
    for method, prefix in RULES:
        windows: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
        for row in targets_of(found, prefix):
            windows[row["target_key"], row["window_start"], row["window_end"]].append(row)
        for rows in windows.values():
            rows.sort(key=lambda row: row["ratio_from"])
            assert rows[0]["ratio_from"] == 0
            assert [row["ratio_from"] for row in rows[1:]] == [row["ratio_to"] for row in rows[:-1]]
            assert [row["is_last"] for row in rows] == [False] * (len(rows) - 1) + [True]
            assert rows[-1]["ratio_to"] == 1
            order = [
                (row["allocated_to"] != "run", row["tracking_server"] or "", row["workspace"] or "", row["run_id"] or "")
                for row in rows
                if row["owner_id"] is None
            ]
            assert order == sorted(order)
            names = [(row["allocated_to"], row["tracking_server"], row["run_id"], row["owner_id"]) for row in rows]
            assert len(set(names)) == len(names)
        lines = lines_of(found, method, prefix)
        assert {(l["target_key"], l["window_start"], l["window_end"]) for l in lines} <= windows.keys()
        assert len({(l["source"], l["line_id"]) for l in lines}) == len(lines)


Parts = dict[tuple[str, str], Fraction]  # (line, target) -> part


@dataclass(frozen=True)
class SideBySide:
    """Several worlds that are computed together. Each has its own bill, server, pools, types and buckets."""

    world: World
    found: Mapping[str, pa.Table]

    def targets(self, name: str) -> dict[str, list[dict[str, Any]]]:
        """Return the targets of each line of one world."""
        return {
            line.removeprefix(f"{name}."): rows
            for line, rows in targets_by_line(self.world, self.found).items()
            if line.startswith(f"{name}.")
        }

    def parts(self) -> dict[str, Parts]:
        """Return the parts of each world."""
        parts: dict[str, Parts] = defaultdict(dict)
        for (line, target), part in line_parts(self.world, self.found).items():
            name, _, line_id = line.partition(".")
            parts[name][line_id, target] = part
        return parts


def worked_through(worlds: Mapping[str, World]) -> SideBySide:
    world = merge_pool_worlds(worlds)
    found = run_pools(world, PARAMETERS | rented_in(worlds))
    assert_targets_cover(found)
    return SideBySide(world, found)


@pytest.fixture(scope="module")
def cases() -> SideBySide:
    return worked_through({path.stem: read_case(path)[0] for path in CASES})


@pytest.mark.parametrize("path", CASES, ids=lambda p: p.stem)
def test_case_gives_each_target_the_expected_cost(path: Path, cases: SideBySide) -> None:
    """Each target has the stated cost and the stated values, and all targets are stated."""
    world, expected = read_case(path)
    by_line = cases.targets(path.stem)
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    costs: dict[str, Fraction] = defaultdict(Fraction)
    for line in world["lines"]:
        for row in by_line.get(line["line_id"]) or [{"run_id": "left", "part": Fraction(1)}]:
            rows[target_name(row)].append(row)
            costs[target_name(row)] += row["part"] * Fraction(line["effective_cost"])
    assert sorted(costs) == sorted(row["target"] for row in expected)
    size = sum(abs(Fraction(line["effective_cost"])) for line in world["lines"])
    for said in expected:
        target, cost = said.pop("target"), exact(said.pop("cost"))
        assert abs(costs[target] - cost) <= abs(cost) / 10**9 + size / 10**15, (target, float(costs[target]), float(cost))
        for column, value in said.items():
            assert {row[column] for row in rows[target]} == {value}, (target, column)


POOLS, BYTES = range(40), range(10)


@pytest.fixture(scope="module")
def pool_parts() -> dict[str, Parts]:
    return worked_through({f"world{seed}": random_pools(seed) for seed in POOLS}).parts()


@pytest.fixture(scope="module")
def byte_parts() -> dict[str, Parts]:
    return worked_through({f"world{seed}": random_bytes(seed) for seed in BYTES}).parts()


@pytest.mark.parametrize("seed", POOLS)
def test_time_against_brute_force(seed: int, pool_parts: dict[str, Parts]) -> None:
    """In a random world of pools and types, the parts of every line equal those that slices in fractions give."""
    got, truth = pool_parts[f"world{seed}"], true_parts(random_pools(seed))
    assert truth
    assert {
        key for key in got.keys() ^ truth.keys() if abs(got.get(key, Fraction(0)) - truth.get(key, Fraction(0))) > Fraction(1, 10**8)
    } == set()
    wrong = {
        key: (float(got[key]), float(truth[key])) for key in got.keys() & truth.keys() if abs(got[key] - truth[key]) > Fraction(1, 10**8)
    }
    assert wrong == {}


@pytest.mark.parametrize("seed", BYTES)
def test_bytes_against_brute_force(seed: int, byte_parts: dict[str, Parts]) -> None:
    """In a random world of stored bytes, every owner's part is its bytes x time divided by those of all owners."""
    got, truth = byte_parts[f"world{seed}"], true_bytes(random_bytes(seed))
    assert got.keys() == truth.keys()
    wrong = {key: (float(got[key]), float(truth[key])) for key in truth if abs(got[key] - truth[key]) > Fraction(1, 10**12)}
    assert wrong == {}


def test_order_of_rows_does_not_matter() -> None:
    """The worlds in another order give the same rows, to the last bit."""
    worlds = {f"pools{seed}": random_pools(seed) for seed in range(3)} | {f"bytes{seed}": random_bytes(seed) for seed in range(3)}
    world, parameters = merge_pool_worlds(worlds), PARAMETERS | rented_in(worlds)
    draw = random.Random(1)
    other = {name: draw.sample(rows, len(rows)) for name, rows in world.items()}
    assert other != world
    ours, theirs = run_pools(world, parameters), run_pools(other, parameters)
    for name in MODELS:
        assert multiset(ours[name]) == multiset(theirs[name]), name


def test_both_engines_give_the_same_rows(reference: GoogleSQL) -> None:
    """All cases and some random worlds in one build give equal rows of every model."""
    worlds = {path.stem: read_case(path)[0] for path in CASES} | {
        f"world-{seed}": (random_pools if seed % 2 else random_bytes)(seed) for seed in range(100, 106)
    }
    world, parameters = merge_pool_worlds(worlds), PARAMETERS | rented_in(worlds)
    ours, theirs = run_pools(world, parameters), run_pools_on_reference(reference, world, parameters)
    for name in MODELS:
        mine, other = multiset(ours[name]), multiset(theirs[name])
        assert (mine - other, other - mine) == (Counter(), Counter()), name
        assert mine or name == "run_gaps", name  # cases of the whole ledger have runs with gaps


def test_lines_and_owners_do_not_multiply() -> None:
    """With a month of hourly storage lines and many owners, there is one set of targets per bucket and class, and each line occurs once."""
    world = random_bytes(7, owners=300, lines=744)
    found = run_pools(world)
    assert found["storage_lines"].num_rows <= len(world["lines"])
    keys = set(found["storage_targets"].column("target_key").to_pylist())
    assert found["storage_targets"].num_rows <= len(keys) * 302
