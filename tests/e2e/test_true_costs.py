"""Small clusters with known true costs. After a pipeline run, every run has its true cost, and the sum is the bill.

`make bench ARGS="-k accuracy"` runs the same worlds at full size. tests/benchmarks/accuracy creates and judges them.
"""

from __future__ import annotations

import datetime as dt
import shutil
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from functools import cache
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from runspend.allocation.claimed_hours import ClaimedHours, claimed_hours
from runspend.config.settings import load_settings
from runspend.pipeline import allocate, extract, load, measure
from runspend.warehouse.factory import open_warehouse
from tests.benchmarks.accuracy import worlds
from tests.benchmarks.accuracy.bucket import open_bucket
from tests.benchmarks.accuracy.cluster import moment
from tests.benchmarks.accuracy.files import make_schema
from tests.benchmarks.accuracy.judge import Judgement, judge, play
from tests.benchmarks.accuracy.worlds import SMALL, WORLDS, Maker, artifacts, make_world, together
from tests.servers.s3 import S3Server

SEED = 7
# Even a small pipeline run takes two seconds, so worlds whose runs state what they used share one cluster.
IDENTIFIED = (
    worlds.reused_names,
    worlds.one_run_a_machine,
    worlds.parallel_runs,
    worlds.sweeps,
    worlds.multi_node,
    worlds.shared_gpus,
    worlds.gpu_slices,
    worlds.shared_cores,
    worlds.daily_bills,
    worlds.zombies,
    worlds.attached,
    worlds.same_names,
    worlds.rented,
    worlds.jobs,
)
TOGETHER = together("identified", *IDENTIFIED)
CASES = [
    *((rule, TOGETHER) for rule, makers in WORLDS.items() if not set(makers).isdisjoint(IDENTIFIED)),
    *((rule, maker) for rule, makers in WORLDS.items() for maker in makers if maker not in (*IDENTIFIED, artifacts)),
]


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty store as MLflow creates it."""
    return make_schema(tmp_path_factory.mktemp("schema") / "mlflow.db")


def run_night(folder: Path, now: str) -> None:
    """Run the pipeline up to the ledger in this process. A problem fails the test."""
    settings = load_settings(folder / "runspend.yaml")
    for verb in (extract, measure, load, allocate):
        outcome = verb(settings, now=dt.datetime.fromisoformat(now).replace(tzinfo=dt.timezone.utc))
        assert outcome.exit_code == 0, outcome.errors


def judged(maker: Maker, folder: Path, schema: Path, **more: object) -> Judgement:
    return play(make_world(maker, SMALL, SEED), folder, schema, run_night, **more)


@pytest.fixture(scope="module")
def played(schema: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Maker], tuple[Path, Judgement]]:
    """Return a world's folder and its judgement. Each world runs once, for the first test that needs it. Read-only."""

    @cache
    def play_once(maker: Maker) -> tuple[Path, Judgement]:
        folder = tmp_path_factory.mktemp("world")
        return folder, judged(maker, folder, schema)

    return play_once


@pytest.mark.parametrize(("rule", "maker"), CASES, ids=lambda each: getattr(each, "__name__", each))
def test_costs_are_true(rule: str, maker: Maker, played: Callable[[Maker], tuple[Path, Judgement]]) -> None:
    """Sums are exact, the error is within the world's bar, no false match is above `medium`, and the intended rule allocates the charges."""
    _, judgement = played(maker)
    # Without these names, pytest would print the whole judgement.
    faults, settled, world = judgement.faults, judgement.rules[rule].to_runs, judgement.world
    assert faults == []
    assert settled > 0
    if maker is TOGETHER:
        bar, is_identified = world.bar, world.is_identified
        assert bar == worlds.WITH_IDS and is_identified  # no world has loosened the bar for all


def test_cost_that_the_data_cannot_attribute_is_reported(played: Callable[[Maker], tuple[Path, Judgement]]) -> None:
    """If runs do not state their purchase option, doctor shows how far prices differ. If runs claim too much of a shared type, it shows how much."""
    unstated, _ = played(worlds.spot_mix_unstated)
    claims = [hours.words for hours in _claimed(unstated)]
    assert len(claims) == 1
    assert "an hour costs 9.0" in claims[0] and " to 22.6" in claims[0] and "runs do not state which" in claims[0]
    shared, judgement = played(worlds.shared_type)
    world = judgement.world
    asked = sum((run.end or 0) - run.start for run in world.runs if run.params["instance_type"] == worlds.G5.name)
    billed = sum(machine.uptime(world.begin, world.end) for machine in world.machines if machine.kind is worlds.G5)
    [ours] = [hours for hours in _claimed(shared) if hours.pool_key == worlds.G5.name]
    assert (ours.claimed_seconds, ours.billed_seconds) == (pytest.approx(asked / 1000, rel=1e-6), billed / 1000)
    keys = {hours.pool_key for hours in _claimed(shared) if hours.claimed_seconds}
    assert keys == {
        worlds.G5.name,
        f"{worlds.P4D.name}|account {worlds.ACCOUNT}",
    }  # an account that runs state excludes machines of other accounts


def _claimed(folder: Path) -> tuple[ClaimedHours, ...]:
    with open_warehouse(load_settings(folder / "runspend.yaml")).reader() as reader:
        return claimed_hours(reader, dt.date(2026, 10, 1))


def test_storage_costs_are_true(tmp_path: Path, schema: Path, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bucket on a real S3 server is measured in three pipeline runs."""
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    judgement = judged(
        artifacts, tmp_path / "world", schema, bucket="true-costs", endpoint=s3_server.endpoint, put=open_bucket(s3_server, "true-costs")
    )
    faults, settled = judgement.faults, judgement.rules["artifact_bytes"].to_runs
    assert faults == []
    assert settled > 0


def test_declared_platform_services_are_shared_and_can_be_spread(tmp_path: Path, played: Callable[[Maker], tuple[Path, Judgement]]) -> None:
    """Each of their lines is shared with the reason `platform`.

    After spreading it over runs, no shared cost is left and the sum is still the bill.
    """
    folder, judgement = played(worlds.platform_lines)
    faults, world = judgement.faults, make_world(worlds.platform_lines, SMALL, SEED)
    assert faults == []
    own = {line.row["ChargeDescription"] for line in world.lines if "mlflow_run_id" in line.row["Tags"]}
    declared = ("RDS", "Kubernetes", "Balancing", "Registry")
    lines = [
        line
        for line in world.lines
        if line.row["SubAccountId"] == worlds.ACCOUNT
        and (any(word in line.row["ServiceName"] for word in declared) or "natgateway" in line.row.get("ResourceId", ""))
    ]
    cost = sum((Decimal(line.row["EffectiveCost"]) for line in lines if line.row["ChargeDescription"] not in own), Decimal(0))

    def ledger(folder: Path) -> list[dict[str, object]]:
        return [
            row for file in (folder / "home" / "warehouse").glob("cost_allocations/*/*.parquet") for row in pq.read_table(file).to_pylist()
        ]

    kept = ledger(folder)
    assert sum((row["effective_cost"] for row in kept if row["reason"] == "platform"), Decimal(0)) == cost > 0
    assert {row["allocated_to"] for row in kept if row["reason"] == "platform"} == {"shared"}

    copy = shutil.copytree(folder, tmp_path / "copy")
    with (copy / "runspend.yaml").open("a") as file:
        file.write("sharing: {shared: proportional}\n")
    assert allocate(load_settings(copy / "runspend.yaml"), now=moment(world.now())).exit_code == 0
    spread = ledger(copy)
    assert sum((row["effective_cost"] for row in spread), Decimal(0)) == sum((row["effective_cost"] for row in kept), Decimal(0))
    assert sum((row["effective_cost"] for row in spread if row["allocated_to"] == "shared"), Decimal(0)) == 0
    assert any(row["match_method"] == "sharing" and row["allocated_to"] == "run" for row in spread)


def test_the_judge_sees_what_is_wrong(played: Callable[[Maker], tuple[Path, Judgement]]) -> None:
    """The same pipeline run fails against another truth: with swapped shares of neighboring lines, and with a lost line."""
    folder, right = played(TOGETHER)
    world = replace(right.world, lines=[replace(line) for line in right.world.lines])
    others = {name: float(rule.relative_error) for name, rule in right.others.items()}
    assert right.faults == [] and others["OptScale"] > 0.5  # each of k simultaneous runs is charged the whole cost
    timed = [line for line in world.lines if len(line.shares) > 1]
    for line, other in zip(timed[::2], timed[1::2], strict=False):
        line.shares, other.shares = other.shares, line.shares
    world.lines.append(world.lines[0])
    wrong = judge(world, folder / "home" / "warehouse")
    assert any("the ledger" in fault for fault in wrong.faults) and any("error" in fault for fault in wrong.faults)
    assert any("had no part" in fault for fault in wrong.faults)
