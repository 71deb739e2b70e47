"""Which version of a budget is judged: edits, bills restated long afterwards, and money that only seems to have disappeared."""

from __future__ import annotations

from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given as given_any
from hypothesis import strategies as st

from runspend.actions.alert.periods import EVERY, current_period, period_named
from runspend.actions.alert.versions import CORRECTED
from tests.actions.alert.alert_world import NOW, budget, cost, source
from tests.actions.alert.test_kinds import every_day
from tests.actions.alert.test_run import OVER, step, subjects
from tests.memory_records import MemoryRecords
from tests.settings_builder import make_settings

CORRECTION = "[runspend] Budget vision: correction, 97.4% of 5,000 USD spent in November"
RESTATED = [cost("2026-11-05", "900"), cost("2026-11-17", "3058.998"), OVER[2]]


def at(day: str) -> datetime:
    return datetime.fromisoformat(f"{day}T06:00+00:00")


def night(
    home: Path, records: MemoryRecords, given: Any, day: str, rows: list[dict[str, Any]], status: list[dict[str, Any]] | None = None
) -> list[dict[str, Any]]:
    """Run the pipeline once with all bills that exist, and return its rows of budget_status."""
    now = at(day)
    return step(
        home, records, given, now, cost_daily=rows, sources=[source(until=now)], budget_status=status or []
    ).budget_status.to_pylist()


@given_any(st.dates(date(2020, 1, 1), date(2035, 12, 31)), st.sampled_from(EVERY))
def test_a_period_is_found_by_its_name(day: date, every: Any) -> None:
    """This holds for every spelling of the name in a record."""
    assert period_named(current_period(every, day).name) == current_period(every, day)


@pytest.mark.parametrize("day", ["2026-12-20", "2027-03-10", "2027-12-30"])
def test_a_restatement_long_after_the_period_is_corrected_once(tmp_path: Path, day: str) -> None:
    """Sent alerts stay under observation. The table has the new figure, and no other decision is made about a period that is over."""
    records, given = MemoryRecords(), make_settings(tmp_path, budget(forecast=[], actual=["100%"]))
    status = night(tmp_path, records, given, "2026-11-24", OVER)
    status = night(tmp_path, records, given, "2026-12-01", OVER, status)
    quiet = night(tmp_path, records, given, day, OVER, status)
    assert len(subjects(tmp_path)) == 1
    assert all(row["budget_period"] != "2026-11" for row in quiet), "an unchanged row is not written again"
    for _ in range(2):
        after = night(tmp_path, records, given, day, RESTATED, status)
        assert [r["spent"] for r in after if r["budget_period"] == "2026-11"] == [Decimal("4871.253")]
        assert sorted(subjects(tmp_path)) == ["[runspend] Budget vision: 100.2% of 5,000 USD spent in November", CORRECTION]


def test_a_period_that_is_over_is_closed_for_everything_else(tmp_path: Path) -> None:
    """A bill restated in March passes a threshold that November had not reached. No mail follows."""
    records, given = MemoryRecords(), make_settings(tmp_path, budget(forecast=[], actual=["100%", "150%"]))
    night(tmp_path, records, given, "2026-11-24", OVER)
    night(tmp_path, records, given, "2027-03-10", [*OVER, cost("2026-11-18", "5000")])
    assert len(subjects(tmp_path)) == 1


def test_corrections_end_and_lost_bills_correct_nothing(tmp_path: Path) -> None:
    """No correction is mailed after more than a year, or if the cost tables were rebuilt from bills that begin later."""
    records, given = MemoryRecords(), make_settings(tmp_path, budget(forecast=[], actual=["100%"]))
    night(tmp_path, records, given, "2026-11-24", OVER)
    night(tmp_path, records, given, "2027-03-10", [cost("2027-01-02", "3")])
    night(tmp_path, records, given, "2027-03-11", [])
    night(tmp_path, records, given, (date(2026, 12, 1) + CORRECTED).isoformat(), RESTATED)
    assert len(subjects(tmp_path)) == 1


def test_an_alert_of_an_older_version_is_corrected_too(tmp_path: Path) -> None:
    """The amount was edited in between. The correction names the old amount, 5,000."""
    records = MemoryRecords()
    before, after = (make_settings(tmp_path, budget(amount=amount, forecast=[], actual=["100%"])) for amount in ("5000", "9000"))
    night(tmp_path, records, before, "2026-11-24", OVER)
    night(tmp_path, records, after, "2026-11-25", OVER)
    for day in ("2026-11-26", "2026-11-27"):
        (row,) = night(tmp_path, records, after, day, RESTATED)
        assert (row["amount"], row["spent"]) == (Decimal(9000), Decimal("4871.253"))
    assert subjects(tmp_path).count(CORRECTION) == 1 and len(subjects(tmp_path)) == 2


def test_an_alert_of_an_edit_is_corrected_after_the_edit_was_reverted(tmp_path: Path) -> None:
    """The amount is 9,000, then 5,000 for a day, then 9,000 again."""
    records = MemoryRecords()
    for day, amount in (("2026-11-24", "9000"), ("2026-11-25", "5000"), ("2026-11-26", "9000")):
        night(tmp_path, records, make_settings(tmp_path, budget(amount=amount, forecast=[], actual=["100%"])), day, OVER)
    assert len(subjects(tmp_path)) == 1
    for day in ("2026-11-27", "2026-11-28"):
        night(tmp_path, records, make_settings(tmp_path, budget(amount="9000", forecast=[], actual=["100%"])), day, RESTATED)
    assert subjects(tmp_path).count(CORRECTION) == 1 and len(subjects(tmp_path)) == 2


def test_a_past_month_is_judged_by_the_budget_that_was_valid_at_its_end(tmp_path: Path) -> None:
    """There are two edits in December, and November's last bill arrives after both."""
    records = MemoryRecords()
    for day, amount in (("2026-11-24", "5000"), ("2026-12-01", "9000"), ("2026-12-02", "9500")):
        night(tmp_path, records, make_settings(tmp_path, budget(amount=amount, forecast=[], actual=["100%"])), day, OVER[:2])
    assert subjects(tmp_path) == []
    night(tmp_path, records, make_settings(tmp_path, budget(amount="9500", forecast=[], actual=["100%"])), "2026-12-03", OVER)
    assert subjects(tmp_path) == ["[runspend] Budget vision: 100.2% of 5,000 USD spent in November"]


def test_alerts_go_on_after_the_currency_was_edited(tmp_path: Path) -> None:
    """The earlier version has a threshold in the earlier currency. Nothing can be judged by it."""
    records = MemoryRecords()
    before = make_settings(tmp_path, budget(forecast=[], actual=["4000 EUR"]), currency="EUR")
    night(tmp_path, records, before, "2026-11-24", [])
    after = make_settings(tmp_path, budget(forecast=[], actual=["5000 USD"]))
    for day in ("2026-11-25", "2026-11-26"):
        night(tmp_path, records, after, day, OVER)
    assert subjects(tmp_path) == ["[runspend] Budget vision: 100.2% of 5,000 USD spent in November"]


def test_an_edit_does_not_send_another_first_summary(tmp_path: Path) -> None:
    """All amounts are edited. Each budget is judged again with normal mails, not with the summary of a new installation."""
    records = MemoryRecords()
    for day, factor in (("2026-11-24", 1), ("2026-11-25", 2)):
        entries = [budget(name, str(100 * factor + n), forecast=[], actual=["100%"]) for n, name in enumerate(("a", "b", "c"))]
        night(tmp_path, records, make_settings(tmp_path, *entries), day, OVER)
    mailed = subjects(tmp_path)
    assert sum("budgets monitored" in subject for subject in mailed) == 1
    assert sum("spent in" in subject for subject in mailed) == 3


def test_an_edit_loses_no_expensive_day(tmp_path: Path) -> None:
    """The day was billed two days later, and the amount was edited in between. The budget existed before, so the alert is sent."""
    records, rows = MemoryRecords(), [*every_day(last="2026-11-23"), cost("2026-11-24", "900")]
    night(tmp_path, records, make_settings(tmp_path, budget(amount="8000")), "2026-11-24", rows[:-1])
    night(tmp_path, records, make_settings(tmp_path, budget(amount="9000")), "2026-11-26", rows[:-1])
    assert subjects(tmp_path) == []
    night(tmp_path, records, make_settings(tmp_path, budget(amount="9000")), "2026-11-27", rows)
    assert subjects(tmp_path) == ["[runspend] Budget vision: unusual spend of 900.00 USD on 24 Nov"]
    night(tmp_path, records, make_settings(tmp_path, budget(amount="9500")), "2026-11-28", rows)
    assert len(subjects(tmp_path)) == 1


@pytest.mark.parametrize("then", ["9500", "5000"])
def test_an_edit_that_was_taken_back_judges_no_month_that_ended_without_it(tmp_path: Path, then: str) -> None:
    """The amount is 9,000, by mistake 5,000 for a day, and 9,000 again until the month's end.

    November stayed within 9,000, despite edits in December.
    """
    records = MemoryRecords()
    for day, amount in (("2026-11-23", "9000"), ("2026-11-24", "5000"), ("2026-11-25", "9000"), ("2026-11-30", "9000")):
        night(tmp_path, records, make_settings(tmp_path, budget(amount=amount, forecast=[], actual=["100%"])), day, OVER[:2])
    for day in ("2026-12-02", "2026-12-03"):
        night(tmp_path, records, make_settings(tmp_path, budget(amount=then, forecast=[], actual=["100%"])), day, OVER)
    assert subjects(tmp_path) == []
    night(
        tmp_path,
        records,
        make_settings(tmp_path, budget(amount=then, forecast=[], actual=["100%"])),
        "2026-12-04",
        [*OVER, cost("2026-12-03", "9500")],
    )
    assert len(subjects(tmp_path)) == 1


def test_weeks_that_ended_while_nothing_ran_are_judged_when_it_runs_again(tmp_path: Path) -> None:
    """After a month without pipeline runs, each week that exceeded its budget gets one mail. Weeks before the setup get none."""
    records, given = (
        MemoryRecords(),
        make_settings(tmp_path, budget(every="week", amount="500", forecast=[], actual=["100%"], anomalies=False)),
    )
    rows = [cost(f"2026-{day}", "600") for day in ("09-24", "10-02", "10-07", "10-15", "10-27")]
    status = night(tmp_path, records, given, "2026-09-30", rows[:1])
    assert subjects(tmp_path) == []
    for _ in range(2):
        status = night(tmp_path, records, given, "2026-11-03", rows, status)
        assert sorted(subjects(tmp_path)) == [
            f"[runspend] Budget vision: 120.0% of 500 USD spent in week {n} of 2026" for n in (40, 41, 42, 44)
        ]


def test_rows_missing_after_a_lost_warehouse_correct_no_alert(tmp_path: Path) -> None:
    """The warehouse was lost and is rebuilt: empty, with one of two bills, with bills that begin later, and with all bills, restated."""
    records, given = MemoryRecords(), make_settings(tmp_path, budget(every="quarter", forecast=[], actual=["100%"], anomalies=False))
    rows = [cost("2026-10-01", "10"), *OVER[:2], cost("2026-11-22", "912.255", source="gcp")]
    now = at("2026-11-25")
    both = [source(), source("gcp")]
    step(tmp_path, records, given, NOW, cost_daily=rows, sources=both)
    assert len(subjects(tmp_path)) == 1
    for known, bills in (([], []), (rows[:3], both[:1]), (rows[2:], both), (rows[:1], both[1:])):
        step(tmp_path, records, given, now, cost_daily=known, sources=bills)
        assert len(subjects(tmp_path)) == 1, (known, bills)
    step(tmp_path, records, given, now, cost_daily=rows[:3], sources=both)
    assert len(subjects(tmp_path)) == 2 and "[runspend] Budget vision: correction, 82.2% of 5,000 USD spent in Q4 2026" in subjects(
        tmp_path
    )
