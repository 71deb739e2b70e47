"""The file that a trial leaves contains no secret, and its figures are those of the tables."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from runspend.allocation.diagnostics import RuleCost
from runspend.config.settings import load_settings, trial_settings
from runspend.core.errors import UsageError
from runspend.interfaces import trial
from runspend.interfaces.preview import Money


@pytest.mark.parametrize("uri", ["http://ana:s3cr3t@mlflow:5000", "postgresql://ana:s3cr3t@db/mlflow"])
def test_no_password_is_copied_into_the_file(tmp_path: Path, uri: str) -> None:
    """The file names the variable that MLflow's own client reads, and loads with it."""
    (tmp_path / "bill.csv").write_text("")
    folder = tmp_path / "trial"
    folder.mkdir()
    made = trial._write(folder, trial_settings(uri, str(tmp_path / "bill.csv"), folder), "EUR", {trial.TRACKING_VARIABLE: uri})
    text = (folder / trial.FILE).read_text()
    assert "s3cr3t" not in text and "uri: ${MLFLOW_TRACKING_URI}" in text
    assert (made.tracking[0].uri, made.currency, made.home) == (uri, "EUR", folder)


def test_paths_are_those_of_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths are relative to the current directory, not to the file. YAML and environment characters in a name have no effect."""
    monkeypatch.chdir(tmp_path)
    bill = tmp_path / "a: b #${X} 'c'.csv"
    bill.write_text("")
    folder = tmp_path / "trial"
    folder.mkdir()
    trial._write(folder, trial_settings("./mlruns", bill.name, folder), "USD", {})
    settings = load_settings(folder / trial.FILE, {})
    assert settings.billing[0].uri == str(bill)
    assert settings.tracking[0].uri == str(tmp_path / "mlruns")


def test_a_folder_of_someone_else_is_not_emptied(tmp_path: Path) -> None:
    """A link and a trial with a changed file are not emptied either. An unchanged trial is."""
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "thesis.tex").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "theirs")
    for name in ("theirs", "link"):
        with pytest.raises(UsageError, match="Nothing was changed"):
            trial._empty(tmp_path / name)
    (tmp_path / "bill.csv").write_text("")
    folder = tmp_path / "trial"
    trial._empty(folder)
    trial._write(folder, trial_settings("./mlruns", str(tmp_path / "bill.csv"), folder), "USD", {})
    trial._empty(folder)
    assert [p.name for p in folder.iterdir()] == [trial.MARKER]
    trial._write(folder, trial_settings("./mlruns", str(tmp_path / "bill.csv"), folder), "USD", {})
    trial.mark(folder)
    (folder / trial.FILE).write_text("home: .  # mine\n")
    with pytest.raises(UsageError, match="was changed since the trial"):
        trial._empty(folder)
    assert (folder / trial.FILE).read_text() == "home: .  # mine\n"


def money_of(*rule_costs: tuple[str, str, str]) -> Money:
    """Return costs by rule. Each has its words, its cost, and its idle part."""
    return Money("USD", tuple(RuleCost(words, None, Decimal(cost), Decimal(idle)) for words, cost, idle in rule_costs), (), ())


def test_each_share_is_of_its_own_platform_cost() -> None:
    """Pools bring more cost into scope, so a share can fall. Runspend does not print that as a rise. Idle cost is not allocated to runs."""
    before = money_of(("by machine", "100", "20"), ("unallocated", "50", "0"), ("out of scope", "850", "0"))
    after = money_of(
        ("by machine", "100", "20"),
        ("by pool gpu", "600", "260"),
        ("unallocated", "50", "0"),
        ("shared", "150", "0"),
        ("out of scope", "100", "0"),
    )
    result = trial._result(after, before)
    first, second = result.lines(1)
    assert first == ("allocated to runs: 53.3% today, 46.7% with the proposed pool (medium confidence); it brings 750.00 USD into scope")
    assert second.strip() == (
        "420.00 of the ML platform's 900.00 USD is allocated to runs (today 80.00 of 150.00), and 280.00 is idle cost of their machines. "
        "Runs get 42.0% of the whole bill of 1,000.00"
    )
    record = result.as_record()
    assert (record["allocated_share_today"], record["allocated_share_with_pools"]) == (0.533333, 0.466667)
    assert [record[key] for key in ("allocated_cost_with_pools", "platform_cost_today", "platform_cost", "bill_cost")] == [
        "420",
        "150",
        "900",
        "1000",
    ]


def test_a_platform_that_does_not_grow_is_not_mentioned_twice() -> None:
    before = money_of(("unallocated", "100", "0"), ("out of scope", "900", "0"))
    after = money_of(("by pool gpu", "75", "5"), ("unallocated", "25", "0"), ("out of scope", "900", "0"))
    first, second = trial._result(after, before).lines(2)
    assert first == "allocated to runs: 0.0% today, 70.0% with the 2 proposed pools (medium confidence)"
    assert second.startswith("  70.00 of the ML platform's 100.00 USD is allocated to runs, and 5.00 is idle")


def test_nothing_in_scope_has_no_share_today() -> None:
    after = money_of(("by pool gpu", "75", "5"), ("out of scope", "25", "0"))
    result = trial._result(after, money_of(("out of scope", "100", "0")))
    assert result.lines(2)[0] == (
        "allocated to runs: nothing in scope today, 93.3% with the 2 proposed pools (medium confidence); they bring 75.00 USD into scope"
    )
    assert result.as_record()["allocated_share_today"] is None


def test_a_bill_without_cost_of_the_platform_has_no_shares() -> None:
    outside = Money("USD", (RuleCost("out of scope", None, Decimal(7), Decimal(0)),), (), ())
    result = trial._result(outside, None)
    assert result.lines(1) == [] and result.as_record()["allocated_share_today"] is None
