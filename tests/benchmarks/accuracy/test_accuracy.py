"""Measure how accurate the costs are, in large worlds whose truth is known, and write docs/accuracy.md.

`make test` runs the same worlds at a small size. The goals:

* The ledger equals the bill exactly.
* The error is at most 1e-6 if runs state ids, and at most 5% if only types and times are known.
* No false match has a confidence above `medium`.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.benchmarks.accuracy.bucket import open_bucket
from tests.benchmarks.accuracy.files import make_schema
from tests.benchmarks.accuracy.judge import Judgement, play
from tests.benchmarks.accuracy.report import write_report
from tests.benchmarks.accuracy.worlds import LARGE, WORLDS, Size, make_world
from tests.benchmarks.measured import run_runspend, scaled
from tests.servers.s3 import S3Server

pytestmark = [pytest.mark.bench, pytest.mark.timeout(7200)]

SEED = 20261125
PAGE = Path(__file__).resolve().parents[3] / "docs" / "accuracy.md"


def run_night(folder: Path, now: str) -> None:
    run_runspend(folder, "nightly", "--now", now)


def test_accuracy_of_every_world(tmp_path: Path, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every world meets its goals. Each has its own home, and each night is a process, as users start it."""
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    schema = make_schema(tmp_path / "schema.db")
    size = Size(scaled(LARGE.machines), LARGE.days)
    judgements: list[Judgement] = []
    for maker in [maker for makers in WORLDS.values() for maker in makers]:
        bucket = f"bench-{maker.__name__}".replace("_", "-")
        put = open_bucket(s3_server, bucket) if maker.__name__ == "artifacts" else None
        judgements.append(
            play(
                make_world(maker, size, SEED),
                tmp_path / maker.__name__,
                schema,
                run_night,
                bucket=bucket,
                endpoint=s3_server.endpoint,
                put=put,
            )
        )
        world, whole = judgements[-1].world, judgements[-1].whole
        print(
            f"\n  {world.name}: {len(world.runs):,} runs x {len(world.lines):,} lines: error {float(whole.relative_error):.2g}, {whole.false_matches:,} false matches {' · '.join(judgements[-1].faults)}",
            end="",
        )
    page = write_report(judgements, seed=SEED, size=size)
    print(f"\n\n{page}")
    if os.environ.get("BENCH_SCALE", "1") == "1":
        PAGE.write_text(page, encoding="utf-8")
    assert {j.world.name: j.faults for j in judgements if j.faults} == {}
