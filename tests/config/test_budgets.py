"""What `budgets` of runspend.yaml accepts and refuses: dimensions, thresholds and their recipients, anomalies, tags."""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from runspend.config.settings import Budget, load_settings
from runspend.core.errors import ConfigError
from runspend.pipeline.source_status import selector_keys
from tests.settings_builder import read_settings


def budget(**more: Any) -> Budget:
    return Budget.model_validate({"name": "a", "amount": "1000", "notify": ["all@acme.com"], **more})


@pytest.mark.parametrize(
    ("notify", "place"),
    [
        ("[bad]", "notify[0]"),
        ("{80%: [bad], all: [a@x.io]}", "notify.80%[0]"),
        ("{all: bad}", "notify.all"),
        ("[[x]]", "notify[0]"),
        ("[]", "notify"),
        ("5", "notify"),
    ],
)
def test_a_mistake_in_notify_is_reported_once_and_at_its_place(tmp_path: Path, notify: str, place: str) -> None:
    """The error for a list with a bad address does not ask for a map, nor does a map's error ask for a list."""
    path = tmp_path / "runspend.yaml"
    path.write_text(f"budgets:\n  - {{name: a, amount: 9, notify: {notify}}}\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_settings(path)
    message = str(caught.value)
    assert message.startswith(f"cannot read {path}, line 2, budgets[0].{place}: ")
    assert ("a map" in message) is (notify == "5")
    assert "dictionary" not in message


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("{name: a, amount: 9, notify: []}", "notify"),
        ("{name: a, amount: 9, notify: {}}", "it has no recipient"),
        ("{name: a, amount: 9, notify: {100%: []}}", "notify"),
        ("{name: a, amount: 9, notify: {all: [not-an-address]}}", "a mail address is needed"),
        (
            "{name: a, amount: 9, notify: {50%: [x@y.z], all: [x@y.z]}}",
            "recipients for 50%, which is not a threshold of this budget. Thresholds are 80%, 100%",
        ),
        ("{name: a, amount: 9, notify: {80%: [x@y.z]}}", "has no recipient for 100%"),
        ("{name: a, amount: 9, notify: {eighty: [x@y.z]}}", "a threshold above zero is needed"),
        ("{name: a, amount: 9, actual: [], forecast: [], notify: [x@y.z]}", "so the budget could never alert"),
        (
            "{name: a, amount: 9, for: {teem: x}, notify: [x@y.z]}",
            "unknown selector key 'teem'; allowed keys are tracking, .*provider, source, model, tag.KEY",
        ),
        ("{name: a, amount: 9, for: {team: []}, notify: [x@y.z]}", "none of them empty"),
        ("{name: a, amount: 9, for: {}, notify: [x@y.z]}", "at least one key"),
        (
            "{name: a, amount: 9, for: {provider: AWS, model: bert}, notify: [x@y.z]}",
            "has both `provider`, which bill lines have, and `model`",
        ),
        ("{name: a, amount: 9, every: fortnight, notify: [x@y.z]}", "every"),
        ("{name: a, amount: 9, judged_on: guesses, notify: [x@y.z]}", "judged_on"),
        ("{name: a, amount: 9, anomalies: {percent: 0.5}, notify: [x@y.z]}", "percent"),
        ("{name: a, amount: 9, anomalies: {money: 5 EUR}, notify: [x@y.z]}", "threshold 5 EUR is not in `currency`, USD"),
        ("{name: a, amount: 9, notify: [x@y.z]}\n  - {name: A, amount: 8, notify: [x@y.z]}", "the name 'A' is already taken by budgets"),
        ("{from: experiment_tags, notify: [owner]}\n  - {from: experiment_tags, notify: [x@y.z]}", "read twice, first by budgets"),
        ("{from: experiment_tags, notify: []}", "notify"),
        ("{name: a, amount: 9, notify: [ana@acme..com]}", "a mail address is needed"),  # no mail server could ever be asked
        ("{name: a, amount: 9, notify: ['Smith, Ana <ana@acme.com>']}", "a mail address is needed"),
        ("{name: a, amount: 9, notify: [ä@acme.com]}", "a mail address is needed"),
        ("{name: a, amount: 1e30, notify: [x@y.z]}", "an amount below 1,000,000,000,000,000 with"),
        ("{name: a, amount: 0.00000000000000000000001, notify: [x@y.z]}", "at most 22 decimals"),
        ("{name: a, amount: 9, actual: [٨٠%], notify: [x@y.z]}", "a threshold above zero is needed"),
        ("{name: a, amount: 9, for: {'param.a\"b': x}, notify: [x@y.z]}", "has no JSON path"),
        ("{name: a, amount: 9, for: {'tag.a\\b': x}, notify: [x@y.z]}", "has no JSON path"),
    ],
)
def test_a_wrong_budget_is_refused_when_the_file_is_read(tmp_path: Path, written: str, message: str) -> None:
    """The message names the line, the key and what to write."""
    with pytest.raises(ConfigError, match=r"line \d") as refused:
        read_settings(tmp_path, f"budgets:\n  - {written}\n")

    assert re.search(message, str(refused.value)), str(refused.value)


def test_a_budget_has_defaults_for_what_it_leaves_out() -> None:
    """By default, a budget alerts at 80% and 100% of spend, at 100% of the forecast, and on unusual days. It uses only billed cost."""
    made = budget()
    assert (made.actual, made.forecast, made.every, made.judged_on) == (["80%", "100%"], ["100%"], "month", "bill")
    assert made.anomalies is not None
    assert (made.anomalies.ratio, made.anomalies.money) == (Decimal(1), "5%")


@pytest.mark.parametrize(("written", "is_on"), [("on", True), ("off", False), ("true", True), ("false", False), ("{percent: 50%}", True)])
def test_anomalies_can_be_switched_off(tmp_path: Path, written: str, is_on: bool) -> None:
    """Both spellings of YAML are accepted: on and off, true and false."""
    (made,) = read_settings(tmp_path, f"budgets: [{{name: a, amount: 9, anomalies: {written}, notify: [x@y.z]}}]\n").budgets
    assert (made.anomalies is not None) is is_on


@pytest.mark.parametrize(
    ("notify", "levels", "mailed"),
    [
        (["a@x.io", "owner"], [800], ["a@x.io", "own@x.io"]),
        ({"all": ["a@x.io"], "100%": ["boss@x.io"]}, [800], ["a@x.io"]),
        ({"all": ["a@x.io"], "100%": ["boss@x.io"]}, [800, 1000], ["a@x.io", "boss@x.io"]),
        ({"80%": ["a@x.io"], "100%": ["boss@x.io", "a@x.io"]}, [1000], ["boss@x.io", "a@x.io"]),
        ({"800 USD": ["a@x.io"], "100%": ["boss@x.io"]}, [800], ["a@x.io"]),  # 80% of this budget, written as an amount
        ({"80%": ["a@x.io"], "100%": ["boss@x.io"]}, [], ["a@x.io", "boss@x.io"]),  # an anomaly has no threshold
        ({"all": ["a@x.io"], "100%": ["boss@x.io"]}, [], ["a@x.io"]),
    ],
)
def test_each_threshold_has_its_recipients(notify: Any, levels: list[int], mailed: list[str]) -> None:
    """Recipients of `all` get every mail, other recipients only the mails of their thresholds. Each address gets a mail once."""
    assert budget(notify=notify, owner="own@x.io").recipients([Decimal(level) for level in levels]) == mailed


def test_keys_that_only_runs_have_are_copied_out_of_mlflow(tmp_path: Path) -> None:
    """Runspend copies the keys that budgets use even if `copy` does not name them. Budgets in experiment tags use two experiment tags."""
    text = "budgets:\n  - {name: a, amount: 9, for: {tag.queue: gpu, model: bert}, notify: [x@y.z]}\n  - {from: experiment_tags, notify: [owner]}\n"
    keys = {"tag.queue", "tag.model", "param.model", "experiment_tag.runspend.budget", "experiment_tag.owner"}
    assert selector_keys(read_settings(tmp_path, text)) == keys
