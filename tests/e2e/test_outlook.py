"""`runspend doctor` and `runspend try` predict the results: before any pipeline run, after one, and with other settings."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from runspend import pipeline
from runspend.config.settings import load_settings
from runspend.interfaces.cli import cli
from tests.kept_world import KeptWorld
from tests.tiny_world import MACHINE, NOW

AT = f"{NOW:%Y-%m-%dT%H:%M}"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, store: Path) -> KeptWorld:
    """A tiny world before and after its first pipeline run: 24 hours of a machine, of which runs used 4."""
    world = KeptWorld(tmp_path_factory.mktemp("world"), store)
    world.keep("new")
    pipeline.nightly(load_settings(world.config), now=NOW)
    world.keep("first")
    return world


@pytest.fixture
def config(world: KeptWorld) -> Path:
    """The configuration before the first pipeline run."""
    return world.put_back("new")


@pytest.fixture
def after(world: KeptWorld) -> Path:
    """The configuration after the first pipeline run."""
    return world.put_back("first")


def say(*arguments: str) -> str:
    """Return what the command prints."""
    done = CliRunner().invoke(cli, [*arguments, "--now", AT], catch_exceptions=False)
    assert done.exit_code in (0, 3), done.output
    return done.output


def rule_line(screen: str, words: str) -> str:
    """Return the line of one rule."""
    (line,) = [line for line in screen.splitlines() if line.strip().startswith(words)]
    return re.sub(r" +", " ", line.strip())


def test_before_the_first_pipeline_run_a_trial_keeps_nothing(config: Path, world: KeptWorld) -> None:
    """The trial predicts the results of the first pipeline run."""
    before = sorted(p for p in config.parent.rglob("*"))
    screen = say("doctor", "--config", str(config))
    assert "(trial run, nothing was kept; artifact stores were not listed)" in screen
    assert rule_line(screen, "by machine") == "by machine 100.0% 960.00 USD, high confidence, including 800.00 idle"
    assert sorted(p for p in config.parent.rglob("*")) == before
    config = world.put_back("first")
    after = say("doctor", "--config", str(config))
    assert "(from the tables of the last pipeline run)" in after
    shares = [[line for line in text.splitlines() if "%" in line] for text in (after, screen)]
    assert shares[0].pop(0).split() == "identified ok 2 of 2 runs of the last 30 days name their machine or job (100%)".split()
    assert shares[0] == shares[1]


def test_other_settings_start_another_trial(after: Path) -> None:
    """Results of earlier settings are not shown for a configuration whose scope excludes the machine."""
    settings: dict[str, Any] = json.loads(after.read_text())
    after.write_text(json.dumps({**settings, "scope": {"exclude": [{"resource": MACHINE}]}}))
    screen = say("doctor", "--config", str(after))
    assert "(trial run, nothing was kept" in screen
    assert "960.00 USD out of scope" in rule_line(screen, "plus")
    after.write_text(json.dumps({**settings, "mail": {"backend": "none"}}))
    assert "(from the tables of the last pipeline run)" in say("doctor", "--config", str(after))


def test_quick_omits_the_outlook(config: Path) -> None:
    """Doctor then checks only the configuration and the sources."""
    assert "preview of" not in say("doctor", "--config", str(config), "--quick")


def test_a_bill_that_cannot_be_read_is_the_answer(config: Path) -> None:
    """Runspend predicts nothing for a bill that cannot be split. Without a bill, it tries nothing."""
    part = config.parent / "bills" / "bill" / "part.csv"
    part.write_text("nonsense\n1\n")
    screen = say("doctor", "--config", str(config))
    assert "FAIL  cannot load part.csv of the bill" in screen and "preview of" not in screen
    part.unlink()
    assert "preview of" not in say("doctor", "--config", str(config))


def test_a_trial_shows_the_rules_as_doctor_does(config: Path, tmp_path: Path) -> None:
    """The trial prints a line per rule, as doctor does, and no scope to paste with an empty list of accounts."""
    bill = str(config.parent / "bills" / "bill")
    screen = say("try", "--tracking", f"sqlite:///{config.parent / 'mlflow.db'}", "--bill", bill, "--folder", str(tmp_path / "trial"))
    assert rule_line(screen, "by machine").startswith("by machine 100.0% 960.00 USD")
    assert '    - {source: "bill", account: []}' not in screen


def test_the_json_has_the_outlook_and_a_pool_without_runs(config: Path) -> None:
    """The JSON has one list of findings, with a section for the outlook. The note appears before the first pipeline run and in it."""
    pool = {"name": "pasted", "runs": {"experiment": "EXPERIMENT"}, "lines": {"resource": MACHINE}}
    config.write_text(json.dumps({**json.loads(config.read_text()), "pools": [pool]}))
    words = 'no run matches its `runs`, {experiment: ["EXPERIMENT"]}. Time of its machines that no run claims stays idle.'
    found = json.loads(say("doctor", "--config", str(config), "--json"))
    assert {f["section"] for f in found} >= {"config", "mlflow", "bill", "outlook"}
    assert [f["text"].strip().split(",")[0] for f in found if f["name"] == "by machine"] == ["100.0%  960.00 USD"]
    assert [f["level"] for f in found if words in f["text"]] == ["WARN"]
    assert f"note=pool pasted: {words}" in say("nightly", "--config", str(config))


def test_costs_by_team_say_how_many_runs_have_one(after: Path) -> None:
    """The line below the table states the share of allocated cost."""
    screen = say("costs", "--by", "team", "--config", str(after))
    assert screen.splitlines()[-1] == "100.0% of allocated cost has a team (run.tag.team 100.0%)"
    assert "team: " not in say("costs", "--by", "experiment", "--config", str(after))


def test_a_month_after_the_newest_bill_is_reported(after: Path) -> None:
    """`--since` is not silently ignored, neither by a pipeline run nor by a query."""
    done = CliRunner().invoke(cli, ["nightly", "--since", "2027-01", "--config", str(after), "--now", AT])
    assert done.exit_code == 2
    assert "cannot build since 2027-01: no bill is loaded for that month or a later one. The newest is 2026-11." in done.output
    assert CliRunner().invoke(cli, ["nightly", "--since", "2026-11", "--config", str(after), "--now", AT]).exit_code == 0
    assert "No charges match. The newest charge is from 2026-11-02." in say("costs", "--since", "2027-01", "--config", str(after))
