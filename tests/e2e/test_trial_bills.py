"""`runspend try` on bills that are hardly or not at all readable, and on a bill whose newest month is empty."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.command import run_here, run_process
from tests.focus_files import month, row, write_csv

NOW = ("--now", "2026-12-04T06:00")
UNREADABLE = "none of its 2 rows can be read: BillingCurrency is 'MC', which is not an ISO 4217 code"


@pytest.fixture
def given(store: Path, tmp_path: Path) -> tuple[str, ...]:
    """Return the options of a trial except its bill."""
    return ("--tracking", f"sqlite:///{store / 'mlflow.db'}", "--folder", str(tmp_path / "trial"), *NOW)


def test_a_bill_without_a_readable_row_fails_in_every_command(tmp_path: Path, given: tuple[str, ...]) -> None:
    bad = row(BillingCurrency="MC")
    bill = write_csv(tmp_path / "bill.csv", [bad, {**bad, "ResourceId": "i-2"}])
    tried = run_here("try", *given, "--bill", str(bill), code=3)
    assert tried.stdout.count(UNREADABLE) == 1 and "source=bill 0 charges: refused\n" in tried.stdout
    assert "no pools proposed: no row of the bill can be read (see billing_quarantine)." in tried.stdout
    config = ("--config", str(tmp_path / "trial" / "runspend.yaml"))
    for command in ("load", "nightly"):
        done = run_here(command, *config, *NOW, code=3)
        assert (done.stdout + done.stderr).count(UNREADABLE) == 1
    assert f"FAIL  {UNREADABLE}" in run_here("doctor", *config, *NOW, code=3).stdout
    shown = run_here("sql", "select count(*) as n from billing_quarantine", "--json", *config)
    assert json.loads(shown.stdout) == [{"n": 2}]


def test_the_json_has_the_newest_month_with_cost_and_a_note_on_unreadable_rows(tmp_path: Path, given: tuple[str, ...]) -> None:
    """The trial reads the bill twice. The second read changes nothing, and the note is about the first."""
    bill = write_csv(tmp_path / "bill.csv", [row("5.00"), row(BillingCurrency="MC", ResourceId="i-2"), row("0", **month("2026-11"))])
    answer = json.loads(run_here("try", *given, "--bill", str(bill), "--json").stdout)
    assert answer["notes"] == ["bill 2026-10: 1 unreadable row is excluded from totals: see billing_quarantine"]
    assert (answer["trial"]["billing_period"], answer["trial"]["results"][0]["bill_cost"]) == ("2026-10", "5")


def test_a_refused_bill_is_explained_once(tmp_path: Path, given: tuple[str, ...]) -> None:
    """The trial runs in its own process, so that Python's own log messages count too."""
    bill = tmp_path / "bill.csv"
    bill.write_text("a,b\n1,2\n")
    tried = run_process("try", *given, "--bill", str(bill), "--quiet", code=3)
    assert (tried.stdout + tried.stderr).count("its header does not match any known format") == 1
    assert "cannot load bill.csv of the bill: " in tried.stdout
    assert "no preview (no bill could be allocated)" in tried.stdout


def test_the_newest_month_with_cost_is_previewed(tmp_path: Path, given: tuple[str, ...]) -> None:
    """The trial names a newer month without cost, but does not show its report or use it as its month."""
    bill = write_csv(tmp_path / "bill.csv", [row("5.00"), row("0", **month("2026-11"))])
    tried = run_here("try", *given, "--bill", str(bill)).stdout
    assert "preview of October 2026 with this configuration" in tried
    assert "November 2026: on the bill, without cost" in tried
    assert "5.0000 USD" in tried
    assert "without_cost=2026-11\n" in tried and "/reports/2026-10.html\n" in tried
    config = tmp_path / "trial" / "runspend.yaml"
    other = tmp_path / "other.yaml"
    other.write_text(config.read_text().replace("home: .", f"home: {tmp_path / 'other'}"))
    assert "preview of October 2026" in run_here("doctor", "--config", str(other), *NOW).stdout  # before its first pipeline run
