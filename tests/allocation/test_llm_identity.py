"""Calls of language models by IAM principal: random worlds against a brute force, tokens, and a ledger that sums to the bill."""

from __future__ import annotations

import datetime as dt
import random
from collections import defaultdict
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pytest

from runspend.core.resource_keys import principal_key, principal_key_sql
from runspend.ingest.billing.staging import open_engine
from tests.allocation.chain import World, line, make_run, merge_worlds, rows_of, run_on_duckdb
from tests.allocation.pooled_chain import trace

HOUR = dt.timedelta(hours=1)
LLM = {"on": None, "service_category": "AI and Machine Learning", "service_subcategory": "Generative AI"}
Parts = dict[tuple[str, str], Fraction]


def empty() -> World:
    return {
        name: []
        for name in (
            "billing_lines",
            "runs",
            "run_resources",
            "artifact_bytes",
            "artifact_owners",
            "experiments",
            "trace_costs",
            "period_states",
        )
    }


def random_world(seed: int) -> World:
    """Make two accounts with roles and users of the same names, sessions, hours and days.

    Runs state one principal each, and some have tokens.
    """
    draw, world = random.Random(seed), empty()
    roles = [f"aws:{account}:role/{name}" for account in (1, 2) for name in ("trainer", "eval")]
    keys = [*roles, *(f"{role}/{session}" for role in roles for session in ("eve", "bob")), "aws:1:user/trainer"]
    for number in range(30):
        start = draw.randrange(40)
        at = f"{start}:00..{start + 1}:00" if draw.random() < 0.7 else ("00:00..24:00" if draw.random() < 0.5 else "24:00..48:00")
        world["billing_lines"].append(
            line(
                number,
                at=at,
                cost=str(draw.randrange(-50, 1000)) + ".123456789",
                principal_key=draw.choice(keys),
                line_team=draw.choice((None, "nlp")),
                **LLM,
            )
        )
    for number in range(14):
        start = draw.randrange(0, 46 * 60)
        end = min(48 * 60, start + draw.randrange(1, 600))
        run, _ = make_run(id=f"r{number}", at=f"00:{start}..00:{end}", on=[], principal_key=draw.choice(keys))
        world["runs"].append(run)
        for day in (1, 2):
            if draw.random() < 0.75:
                world["trace_costs"].append(trace(run=run["run_id"], cost=str(draw.randrange(1, 500)) + ".5", day=day))
    return world


def role_of(key: str) -> str:
    return "/".join(key.split("/")[:2])


def overlap(run: dict[str, Any], start: dt.datetime, end: dt.datetime) -> Fraction:
    return Fraction(max(dt.timedelta(), min(run["end_time"], end) - max(run["start_time"], start)) // dt.timedelta(microseconds=1))


def true_parts(world: World) -> Parts:
    """Return the part of each (line, run or rest).

    The closest principal among overlapping runs gets the line, by token rate if one has tokens.
    """
    parts: Parts = {}
    for bill_line in world["billing_lines"]:
        if bill_line["effective_cost"] < 0:
            continue  # a negative line without a resource is a fee
        key, start, end = bill_line["principal_key"], bill_line["charge_period_start"], bill_line["charge_period_end"]
        there = [r for r in world["runs"] if overlap(r, start, end) and role_of(r["principal_key"]) == role_of(key)]
        equal = [r for r in there if r["principal_key"] == key]
        claiming = equal or [r for r in there if r["principal_key"] == role_of(key) or key == role_of(key)]
        days = [
            start.date() + dt.timedelta(n)
            for n in range((end - dt.timedelta(microseconds=1)).date().toordinal() - start.date().toordinal() + 1)
        ]
        tokens = {
            r["run_id"]: sum(
                Fraction(t["list_cost"]) for t in world["trace_costs"] if t["run_id"] == r["run_id"] and t["charge_date"] in days
            )
            for r in claiming
        }
        first, after = (
            dt.datetime.combine(days[0], dt.time(), dt.timezone.utc),
            dt.datetime.combine(days[-1] + dt.timedelta(1), dt.time(), dt.timezone.utc),
        )
        weights = {
            r["run_id"]: (
                tokens[r["run_id"]] * overlap(r, start, end) / overlap(r, first, after) if any(tokens.values()) else overlap(r, start, end)
            )
            for r in claiming
            if tokens[r["run_id"]] or not any(tokens.values())
        }
        for run_id, weight in weights.items():
            parts[bill_line["line_id"], run_id] = weight / sum(weights.values())
        if not claiming and bill_line["line_team"]:
            parts[bill_line["line_id"], "rest"] = Fraction(1)
    return parts


SEEDS = range(40)


@pytest.fixture(scope="module")
def ledgers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    worlds = {f"w{seed}": random_world(seed) for seed in SEEDS}
    return run_on_duckdb(merge_worlds(worlds), tmp_path_factory.mktemp("ledger"))


@pytest.mark.parametrize("seed", SEEDS)
def test_callers_against_brute_force(seed: int, ledgers: dict[str, Any]) -> None:
    """Every run has its true part of every line, and the parts sum to the bill."""
    world, name = random_world(seed), f"w{seed}"
    rows = rows_of(ledgers["cost_allocations"], name)
    assert sum((r["effective_cost"] for r in rows), Decimal(0)) == sum(
        (line["effective_cost"] for line in world["billing_lines"]), Decimal(0)
    )
    got: dict[str, Fraction] = defaultdict(Fraction)
    truth: dict[str, Fraction] = defaultdict(Fraction)
    for row in rows:
        if row["match_method"] == "llm_identity":
            got[row["run_id"] or "rest"] += Fraction(row["effective_cost"])
            by_reason = {None: "exact", "silent_caller": "high", "untraced_caller": "medium"}
            assert row["confidence"] == (by_reason[row["reason"]] if row["run_id"] else None)
    cost = {line["line_id"]: Fraction(line["effective_cost"]) for line in world["billing_lines"]}
    for (line_id, target), part in true_parts(world).items():
        truth[target] += part * cost[line_id]
    assert truth and got.keys() == truth.keys()
    assert {
        target: (float(got[target]), float(truth[target])) for target in truth if abs(got[target] - truth[target]) > truth[target] / 10**9
    } == {}
    # a run has the lines of its caller, and never a line of another account
    assert all(
        row["pool_key"].startswith(role_of(run["principal_key"]))
        for row in rows
        if row["match_method"] == "llm_identity"
        for run in world["runs"]
        if run["run_id"] == row["run_id"]
    )


STATING = ("", "024", "012345")  # the teams whose runs state their principal
PRICES = ("0.4", "1", "1.5")  # the cost by traces as a multiple of the bill


@pytest.fixture(scope="module")
def costs_of_teams(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Decimal], dict[str, Decimal]]:
    """Each run's cost in the ledger, and its true cost. Each situation has its own two days, because traces have a day but no hour."""
    world, truth = empty(), {}
    for pair, (stating, price) in enumerate(product(STATING, PRICES)):
        draw = random.Random(7)
        for number in range(6):
            team, name, start = number % 3, f"{stating}-{price}-r{number}", 20 + number
            cost = truth[name] = Decimal(draw.randrange(100, 900))
            key = f"aws:{team}:role/team"
            at = [f"{48 * pair + hour}:00" for hour in range(start, start + 9)]
            run, _ = make_run(id=name, at=f"{at[0]}..{at[-1]}", on=[], principal_key=key if str(team) in stating else None)
            world["runs"].append(run)
            for first, after in pairwise(at):
                world["billing_lines"].append(
                    line(
                        len(world["billing_lines"]),
                        at=f"{first}..{after}",
                        cost=cost / 8,
                        principal_key=key,
                        service_name="Amazon Bedrock",
                        **LLM,
                    )
                )
            for day, hours in ((1, max(0, 24 - start)), (2, 8 - max(0, 24 - start))):
                world["trace_costs"].append(trace(run=name, cost=cost / 8 * hours * Decimal(price), day=2 * pair + day, provider="bedrock"))
        world["trace_costs"].append(trace(run=f"{stating}-{price}-r0", cost="5000", day=2 * pair + 1, provider="openai", model="gpt-4o"))
    got: dict[str, Decimal] = defaultdict(Decimal)
    for row in run_on_duckdb(world, tmp_path_factory.mktemp("teams"))["cost_allocations"].to_pylist():
        got[row["run_id"]] += row["effective_cost"]
    assert got.keys() == truth.keys()
    return got, truth


@pytest.mark.parametrize("stating", STATING)
@pytest.mark.parametrize("price", PRICES)
def test_a_run_that_states_its_principal_moves_no_other_run(
    stating: str, price: str, costs_of_teams: tuple[dict[str, Decimal], dict[str, Decimal]]
) -> None:
    """Three teams of two runs each have a role, and traces cost a constant multiple of the bill. Each run has its true cost."""
    got, truth = ({run: round(costs[run], 9) for run in costs if run.startswith(f"{stating}-{price}-")} for costs in costs_of_teams)
    assert len(truth) == 6
    assert got == truth


def test_the_caller_of_a_line_comes_before_tokens(tmp_path: Path) -> None:
    """A line whose caller a run states goes to that run, even if another run's traces cost tokens on that day. Other lines go by tokens."""
    world = empty()
    world["billing_lines"] = [
        line(1, cost="8", principal_key="aws:1:user/ann", **LLM),
        line(2, cost="6", principal_key="aws:1:user/bob", **LLM),
        line(3, cost="4", **LLM),
    ]
    world["runs"] = [
        make_run(id="A", at="00:00..01:00", on=[], principal_key="aws:1:user/ann")[0],
        make_run(id="B", at="00:00..01:00", on=[])[0],
    ]
    world["trace_costs"] = [trace(run="B", cost="1")]
    rows = run_on_duckdb(world, tmp_path)["cost_allocations"].to_pylist()
    assert sorted((r["run_id"], r["match_method"], r["effective_cost"]) for r in rows) == [
        ("A", "llm_identity", Decimal(8)),
        ("B", "llm_cost", Decimal(10)),
    ]


# A states its principal, and B does not. Values: bill lines (cost, whether the principal called, currency), token costs, expected costs.
PAID_TOKENS = {
    "A has paid for its tokens": (
        [("10", True, "USD"), ("10", False, "USD")],
        {"A": "10", "B": "10"},
        {("A", "llm_identity"): "10", ("B", "llm_cost"): "10"},
    ),
    "A has also called other models": (
        [("10", True, "USD"), ("30", False, "USD")],
        {"A": "20", "B": "20"},
        {("A", "llm_identity"): "10", ("A", "llm_cost"): "10", ("B", "llm_cost"): "20"},
    ),
    "currencies cannot be compared, so A has paid for all tokens of the day": (
        [("10", True, "EUR"), ("8", False, "USD")],
        {"A": "40", "B": "10"},
        {("A", "llm_identity"): "10", ("B", "llm_cost"): "8"},
    ),
}


def test_tokens_that_a_run_paid_by_its_principal_do_not_weigh_again(tmp_path: Path) -> None:
    """Each situation has its own day, because traces have a day but no hour."""
    world, expected = empty(), {}
    for number, (lines, tokens, costs) in enumerate(PAID_TOKENS.values()):
        at = f"{24 * number}:00..{24 * number + 24}:00"
        for cost, is_called, currency in lines:
            key = f"aws:{number}:role/trainer" if is_called else None
            world["billing_lines"].append(
                line(len(world["billing_lines"]), at=at, cost=cost, principal_key=key, billing_currency=currency, **LLM)
            )
        for name in "AB":
            stated = f"aws:{number}:role/trainer" if name == "A" else None
            world["runs"].append(make_run(id=f"{name}{number}", at=at, on=[], principal_key=stated)[0])
        world["trace_costs"] += [trace(run=f"{name}{number}", cost=cost, day=number + 1) for name, cost in tokens.items()]
        expected |= {(f"{run}{number}", rule): Decimal(cost) for (run, rule), cost in costs.items()}
    got: dict[tuple[Any, ...], Decimal] = defaultdict(Decimal)
    for row in run_on_duckdb(world, tmp_path)["cost_allocations"].to_pylist():
        got[row["run_id"], row["match_method"]] += row["effective_cost"]
    assert {key: round(cost, 9) for key, cost in got.items()} == expected


def test_a_bill_without_callers_is_split_by_tokens(tmp_path: Path) -> None:
    """Runs state a principal, but the line goes by tokens, and the claim is counted as unmet."""
    world = empty()
    world["billing_lines"] = [line(1, cost="8", **LLM), line(2, on="m1", hours=1)]
    world["runs"] = [make_run(id="A", at="00:00..01:00", on=[], principal_key="aws:1:user/ann")[0]]
    world["trace_costs"] = [trace(run="A", cost="1")]
    found = run_on_duckdb(world, tmp_path)
    assert {(r["run_id"], r["match_method"]) for r in found["cost_allocations"].to_pylist()} == {("A", "llm_cost"), (None, "none")}
    assert [(r["run_id"], r["match_method"], r["claim"], r["reason"]) for r in found["unmet_claims"].to_pylist()] == [
        ("A", "llm_identity", "aws:1:user/ann", "no_such_machine")
    ]


def test_claims_of_callers_are_counted_next_to_those_of_machines(tmp_path: Path) -> None:
    """A run that has its machine but not its caller counts for the caller.

    A run that has neither counts for the machine. A parent whose child has it does not count.
    """
    world = empty()
    world["billing_lines"] = [line(1, cost="8", principal_key="aws:1:user/ann", **LLM), line(2, on="m1", hours=1)]
    said = [
        {"id": "machine-only", "on": ["m1"], "principal_key": "aws:1:user/nobody"},
        {"id": "neither", "on": ["m9"], "principal_key": "aws:1:user/nobody"},
        {"id": "caller-only", "on": ["m9"], "principal_key": "aws:1:user/ann"},
        {"id": "parent", "on": [], "principal_key": "aws:1:user/ann"},
        {"id": "child", "on": [], "parent": "parent"},
    ]
    for row in said:
        run, resources = make_run(at="00:00..01:00", **row)
        world["runs"].append(run)
        world["run_resources"] += resources
    found = {r["run_id"]: r["match_method"] for r in run_on_duckdb(world, tmp_path)["unmet_claims"].to_pylist()}
    assert found == {"machine-only": "llm_identity", "neither": "resource_id", "caller-only": "resource_id"}


PRINCIPALS = {
    "arn:aws:iam::111122223333:user/alice": "aws:111122223333:user/alice",
    "arn:aws:iam::111122223333:user/dept/Alice": "aws:111122223333:user/alice",
    "arn:aws:iam::111122223333:role/MyRole": "aws:111122223333:role/myrole",
    " arn:aws:iam::111122223333:role/service-role/ml/MyRole ": "aws:111122223333:role/myrole",
    "arn:aws:sts::111122223333:assumed-role/MyRole/ann@acme.org": "aws:111122223333:role/myrole/ann@acme.org",
    "arn:aws:sts::111122223333:assumed-role/MyRole/Ann": "aws:111122223333:role/myrole/Ann",
    "arn:aws-us-gov:sts::111122223333:assumed-role/R/i-0abc": "aws-us-gov:111122223333:role/r/i-0abc",
    "arn:aws:sts::111122223333:federated-user/Bob": "aws:111122223333:federated-user/bob",
    "arn:aws:iam::111122223333:root": "aws:111122223333:root",
    "arn:aws:sts::111122223333:assumed-role/MyRole": None,
    "arn:aws:iam::1111:role/MyRole": None,
    "arn:aws:iam:::role/MyRole": None,
    "arn:aws:ec2:eu-west-1:111122223333:instance/i-1": None,
    "MyRole": None,
    "": None,
    "arn:aws:iam::111122223333:role/": None,
    "arn:aws:iam::111122223333:role/a\nb": "aws:111122223333:role/a\nb",
}


def test_principals_have_one_form_in_files_and_tables(tmp_path: Path) -> None:
    """Python reads files that users write, and SQL reads bills and runs. Both give the same form."""
    with open_engine(tmp_path, None) as con:
        con.execute("create table said (text varchar)")
        con.executemany("insert into said values (?)", [[text] for text in PRINCIPALS])
        found = dict(con.sql(f"select text, {principal_key_sql('text')} from said").fetchall())
    assert found == PRINCIPALS
    assert {text: principal_key(text) for text in PRINCIPALS} == PRINCIPALS
