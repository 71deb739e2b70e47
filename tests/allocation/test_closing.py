"""When bills become final and months are closed, as a function of facts and `now`."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

from runspend.allocation.closing import Bill, judge_bills

UTC = timezone.utc
END = datetime(2026, 12, 1, tzinfo=UTC)
LOADED = END + timedelta(days=2)
AWS = Bill("aws", "d1", LOADED, is_invoiced=False, is_doubted=False, seen_until=datetime(2028, 1, 1, tzinfo=UTC))


def judge(now: datetime, *bills: Bill, before: list[dict[str, Any]] | None = None) -> list[dict[str, Any]]:
    """Judge the month 2026-11 at `now`."""
    return judge_bills(bills, {row["source"]: row for row in before or ()}, "2026-11", now)


def states(rows: list[dict[str, Any]]) -> dict[str, str]:
    """Return {source: state}."""
    return {row["source"]: row["state"] for row in rows}


def test_a_bill_is_final_ten_days_after_its_last_change_and_fifteen_after_the_month() -> None:
    """The later of the two counts, to the hour. `final_since` is the time of the rule, not of the pipeline run that noticed it."""
    assert states(judge(END + timedelta(days=14, hours=23), AWS)) == {"aws": "open"}
    assert judge(END + timedelta(days=20), AWS)[0]["final_since"] == END + timedelta(days=15)
    late = replace(AWS, loaded_at=END + timedelta(days=9))
    assert states(judge(END + timedelta(days=18, hours=23), late)) == {"aws": "open"}
    assert judge(END + timedelta(days=19), late)[0]["final_since"] == END + timedelta(days=19)


def test_rows_loaded_again_in_other_files_have_not_changed() -> None:
    """The days count from the first load of these rows. Changed rows start them again."""
    before = judge(LOADED, AWS)
    again = replace(AWS, loaded_at=LOADED + timedelta(days=12))
    now = LOADED + timedelta(days=13)
    assert states(judge(now, again, before=before)) == {"aws": "final"}
    assert states(judge(now, replace(again, bill_digest="d2"), before=before)) == {"aws": "open"}


def test_a_final_bill_that_changes_is_open_again_unless_it_is_invoiced() -> None:
    """A bill that the provider calls final stays final, because the provider says so of the changed rows too."""
    now = END + timedelta(days=30)
    changed = replace(AWS, bill_digest="d2", loaded_at=now)
    assert states(judge(now, changed, before=judge(now, AWS))) == {"aws": "open"}
    invoiced = judge(now, replace(AWS, is_invoiced=True))
    assert invoiced[0]["final_since"] == LOADED
    assert judge(now, replace(changed, is_invoiced=True), before=invoiced)[0]["final_since"] == LOADED


def test_the_bills_of_a_month_close_together_and_permanently() -> None:
    """They close sixty days after the last became final. A restated bill stays closed, and a bill that joins later is judged alone."""
    gcp = replace(AWS, source="gcp", loaded_at=END + timedelta(days=30))
    final = judge(END + timedelta(days=40), AWS, gcp)
    assert states(final) == {"aws": "final", "gcp": "final"}
    assert states(judge(END + timedelta(days=99), AWS, gcp, before=final)) == {"aws": "final", "gcp": "final"}
    now = END + timedelta(days=100)
    closed = judge(now, AWS, gcp, before=final)
    assert {row["closed_since"] for row in closed} == {now}
    restated = replace(AWS, bill_digest="d2", loaded_at=now)
    assert states(judge(now, restated, gcp, replace(AWS, source="new", loaded_at=now), before=closed)) == {
        "aws": "closed",
        "gcp": "closed",
        "new": "open",
    }


def test_a_month_without_a_bill_has_no_state() -> None:
    """Runs may begin in months without a loaded bill."""
    assert judge(END) == []


def test_a_doubted_or_unreachable_bill_does_not_become_final() -> None:
    """A newer version was refused, or the source has not answered since. A bill that was final before stays final."""
    now = END + timedelta(days=30)
    assert states(judge(now, replace(AWS, is_doubted=True))) == {"aws": "open"}
    assert states(judge(now, replace(AWS, seen_until=END + timedelta(days=14)))) == {"aws": "open"}
    assert states(judge(now, replace(AWS, is_doubted=True), before=judge(now, AWS))) == {"aws": "final"}
