"""The state of budgets: periods, thresholds, versions, other currencies, estimates. Alerts are in test_decisions.py."""

from __future__ import annotations

from datetime import date, datetime, timedelta, timezone
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runspend.actions.alert.decisions import alert_id
from runspend.actions.alert.judge import Series, Status, budget_version, judge_budget, series_version, threshold_of
from runspend.actions.alert.periods import BudgetPeriod, current_period, periods_to_judge, same_days_before
from runspend.config.settings import Budget
from tests.settings_builder import make_budget

NOVEMBER = current_period("month", date(2026, 11, 24))


def judge(given: Budget, currency: str, period: BudgetPeriod, spend: dict[tuple[date, str], Decimal], **estimated: Decimal) -> Status:
    """Return a status from billed cost, and from estimates by day of November ("d24")."""
    of_days = {(date(2026, 11, int(day[1:])), currency): cost for day, cost in estimated.items()}
    return judge_budget(given, currency, period, Series(billed=spend, estimated=of_days))


@pytest.mark.parametrize(
    ("every", "day", "name", "start", "end"),
    [
        ("day", "2026-02-28", "2026-02-28", "2026-02-28", "2026-03-01"),
        ("week", "2027-01-03", "2026-W53", "2026-12-28", "2027-01-04"),
        ("week", "2026-11-23", "2026-W48", "2026-11-23", "2026-11-30"),
        ("month", "2026-12-31", "2026-12", "2026-12-01", "2027-01-01"),
        ("quarter", "2026-11-24", "2026-Q4", "2026-10-01", "2027-01-01"),
        ("quarter", "2026-03-31", "2026-Q1", "2026-01-01", "2026-04-01"),
        ("year", "2028-02-29", "2028", "2028-01-01", "2029-01-01"),
    ],
)
def test_a_day_is_in_the_period_that_people_call_by_its_name(every: str, day: str, name: str, start: str, end: str) -> None:
    """The period's name is the one that people use for that day."""
    period = current_period(every, date.fromisoformat(day))  # type: ignore[arg-type]  # the five literals
    assert (period.name, period.start.isoformat(), period.end.isoformat()) == (name, start, end)


@pytest.mark.parametrize(
    ("every", "day", "until", "before"),
    [
        ("month", "2026-11-24", "2026-11-23", ("2026-10-01", "2026-10-23")),
        ("month", "2026-03-31", "2026-04-01", ("2026-02-01", "2026-03-01")),
        ("month", "2026-03-30", "2026-03-31", ("2026-02-01", "2026-03-01")),
        ("quarter", "2026-11-24", "2026-11-23", ("2026-07-01", "2026-08-23")),
        ("year", "2026-11-24", "2026-11-23", ("2025-01-01", "2025-11-23")),
        ("week", "2026-11-24", "2026-11-25", ("2026-11-16", "2026-11-18")),
        ("day", "2026-11-24", "2026-11-25", ("2026-11-23", "2026-11-24")),
    ],
)
def test_costs_are_compared_with_the_same_days_of_the_period_before(every: str, day: str, until: str, before: tuple[str, str]) -> None:
    """The previous period counts as many days as have passed in this period, but never more days than it had."""
    period = current_period(every, date.fromisoformat(day))  # type: ignore[arg-type]  # the five literals
    assert tuple(d.isoformat() for d in same_days_before(period, date.fromisoformat(until))) == before


@given(st.dates(date(2020, 1, 1), date(2035, 12, 31)), st.sampled_from(["day", "week", "month", "quarter", "year"]))
def test_periods_tile_time(day: date, every: str) -> None:
    """A period holds its day, ends where the next begins, and contains its first and last day."""
    period = current_period(every, day)  # type: ignore[arg-type]  # the five literals
    assert period.start <= day < period.end
    assert current_period(every, period.start) == period == current_period(every, period.end - timedelta(days=1))  # type: ignore[arg-type]  # as above
    assert current_period(every, period.end).start == period.end  # type: ignore[arg-type]  # as above


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("every", "now", "first_judged", "covered", "names"),
    [
        ("month", "2026-12-01T00:00", "2026-11-10T00:00", "2026-11-29", ["2026-11", "2026-12"]),
        ("month", "2026-12-15T23:00", "2026-11-10T00:00", "2026-12-14", ["2026-11", "2026-12"]),
        ("month", "2026-12-16T00:00", "2026-11-10T00:00", "2026-12-14", ["2026-12"]),
        ("month", "2026-12-20T00:00", "2026-11-10T00:00", "2026-11-30", ["2026-11", "2026-12"]),  # the bill has not arrived yet
        ("month", "2026-12-20T00:00", "2026-11-10T00:00", "2026-12-01", ["2026-12"]),
        ("month", "2027-02-02T00:00", "2026-11-10T00:00", "2026-11-20", ["2026-12", "2027-01", "2027-02"]),  # too late for November
        ("month", "2026-12-02T06:00", "2026-12-01T00:00", None, ["2026-12"]),
        ("day", "2026-11-03T06:00", "2026-11-02T12:00", None, ["2026-11-02", "2026-11-03"]),
        ("week", "2026-11-24T06:00", "2026-01-01T00:00", None, ["2026-W46", "2026-W47", "2026-W48"]),
    ],
)
def test_a_period_that_ended_is_judged_while_its_bill_may_change(
    every: str, now: str, first_judged: str, covered: str | None, names: list[str]
) -> None:
    """A budget is judged for fifteen days or until the bill arrives, but only if it was judged while the period ran.

    So a new installation sends no alert about last month.
    """
    open_day = None if covered is None else date.fromisoformat(covered)
    found = periods_to_judge(every, at(now), at(first_judged), open_day)  # type: ignore[arg-type]  # the five literals
    assert [p.name for p in found] == names


@pytest.mark.parametrize(("every", "hours"), [("day", 6), ("week", 24), ("month", 24), ("quarter", 24), ("year", 24)])
def test_the_first_hours_of_a_period_are_quiet(every: str, hours: int) -> None:
    """Runspend waits for a quarter of a day, or for a day in longer periods."""
    period = current_period(every, date(2026, 11, 24))  # type: ignore[arg-type]  # the five literals
    assert period.quiet_until == at(f"{period.start}T00:00") + timedelta(hours=hours)


@pytest.mark.parametrize(
    ("text", "level", "shown"),
    [
        ("80%", "800", "80%"),
        ("99.50%", "995", "99.5%"),
        ("500 USD", "500", "500 USD"),
        ("500", "500", "500 USD"),
        ("0.1%", "1", "0.1%"),
    ],
)
def test_a_threshold_may_be_spelled_in_several_ways(text: str, level: str, shown: str) -> None:
    """All spellings of a threshold give the same threshold."""
    threshold = threshold_of(text, Decimal(1000), "USD")
    assert (threshold.level, threshold.text) == (Decimal(level), shown)


def test_threshold_is_crossed_at_equality_in_exact_decimals() -> None:
    """0.7 + 0.1 reaches 0.8, unlike in floats. One unit less in the 22nd decimal does not."""
    spend = {(date(2026, 11, 1), "USD"): Decimal("0.7"), (date(2026, 11, 2), "USD"): Decimal("0.1")}
    status = judge(make_budget("1", actual=["80%"]), "USD", NOVEMBER, spend)
    assert [c.on for c in status.crossed] == [date(2026, 11, 2)]
    below = spend | {(date(2026, 11, 3), "USD"): Decimal("-1E-22")}
    assert judge(make_budget("1", actual=["80%"]), "USD", NOVEMBER, below).crossed == ()


def test_percent_is_cut_not_rounded() -> None:
    """A budget below its amount never shows as 100.0%."""
    status = judge(make_budget("1000"), "USD", NOVEMBER, {(date(2026, 11, 1), "USD"): Decimal("999.99")})
    assert status.percent == Decimal("99.9")
    assert not status.is_over


def test_money_of_another_currency_is_never_added() -> None:
    """Without a rate there is no result, and a message reports it. Another currency whose daily sums are zero has no effect."""
    spend = {(date(2026, 11, 1), "USD"): Decimal(5000), (date(2026, 11, 1), "EUR"): Decimal(1)}
    status = judge(make_budget(), "USD", NOVEMBER, spend)
    assert (status.spent, status.crossed, status.not_judged) == (
        None,
        (),
        "no rate from EUR to USD for 2026-11-01: write it under rates.exchange",
    )
    assert judge(make_budget(), "USD", NOVEMBER, spend | {(date(2026, 11, 1), "EUR"): Decimal(0)}).is_over


def test_the_version_changes_only_with_settings_that_decide() -> None:
    """Owner, notify, runbook and spelling do not change the version. Amount, currency, selector, period, measure and thresholds do."""
    plain = make_budget("1000", **{"for": {"team": ["b", "a"]}})
    same = [
        make_budget("1000.00", **{"for": {"team": ["a", "b"]}}),
        make_budget("1000", owner="x@acme.com", notify=["b@acme.com"], runbook="https://x", **{"for": {"team": ["b", "a"]}}),
        make_budget("1000", actual=["100 %", "80.0%"], **{"for": {"team": ["b", "a"]}}),
    ]
    other = [
        make_budget("1001", **{"for": {"team": ["b", "a"]}}),
        make_budget("1000", **{"for": {"team": ["a"]}}),
        make_budget("1000", every="week", **{"for": {"team": ["b", "a"]}}),
        make_budget("1000", measure="billed_cost", **{"for": {"team": ["b", "a"]}}),
        make_budget("1000", actual=["80%"], **{"for": {"team": ["b", "a"]}}),
    ]
    version = budget_version(plain, "USD")
    assert {budget_version(b, "USD") for b in same} == {version}
    others = [budget_version(b, "USD") for b in other] + [budget_version(plain, "EUR")]
    assert len({version, *others}) == 1 + len(others)


def test_alert_ids_fit_a_message_id_and_differ() -> None:
    """Names with dots that a Message-ID cannot contain still get different ids."""
    ids = set()
    for name in ("a.b", "a..b", "a.b.", "a-b", "a-b-"):
        status = judge(make_budget("1", name=name), "USD", NOVEMBER, {})
        ids.add(alert_id(status, "actual", status.thresholds[0]))
    assert len(ids) == 5
    assert all(part and part.isascii() for found in ids for part in found.split("."))


def test_estimates_count_only_where_the_budget_says_so() -> None:
    """By default, estimates are shown next to the spend. A budget judged on both has another version, and states the estimated part."""
    spend = {(date(2026, 11, 1), "USD"): Decimal(950)}
    plain, both = make_budget("1000"), make_budget("1000", judged_on="bill_and_estimates")
    status = judge(plain, "USD", NOVEMBER, spend, d24=Decimal(60))
    assert (status.spent, status.estimated, status.is_over) == (Decimal(950), Decimal(60), False)
    status = judge(both, "USD", NOVEMBER, spend, d24=Decimal(60))
    assert (status.spent, status.estimated, [c.on.day for c in status.crossed]) == (Decimal(1010), Decimal(60), [1, 24])
    assert budget_version(plain, "USD") != budget_version(both, "USD")


def test_the_day_the_amount_is_exceeded_is_known_for_any_thresholds() -> None:
    """This also holds if no threshold is 100%."""
    spend = {(date(2026, 11, day), "USD"): Decimal(400) for day in (3, 8, 20)}
    assert judge(make_budget("1000", actual=["50%"]), "USD", NOVEMBER, spend).exceeded_on() == date(2026, 11, 20)
    assert judge(make_budget("1300", actual=["50%"]), "USD", NOVEMBER, spend).exceeded_on() is None


def test_a_series_depends_on_the_selected_money_not_on_the_amount() -> None:
    """An edit of an amount or a threshold repeats no anomaly. An edit of the selector or the measure does."""
    plain = make_budget("1000", **{"for": {"team": ["a", "b"]}})
    same = [make_budget("2", actual=["3%"], every="day", **{"for": {"team": ["b", "a"]}})]
    other = [make_budget("1000", **{"for": {"team": "a"}}), make_budget("1000", measure="list_cost", **{"for": {"team": ["a", "b"]}})]
    version = series_version(plain, "USD")
    assert {series_version(b, "USD") for b in same} == {version}
    assert len({version, *(series_version(b, "USD") for b in other), series_version(plain, "EUR")}) == 4


amounts = st.decimals(min_value=-400, max_value=700, places=2, allow_nan=False)


@given(st.dictionaries(st.integers(1, 30), amounts, min_size=1, max_size=10), st.randoms())
def test_decision_does_not_depend_on_the_order_of_rows(days: dict[int, Decimal], random: object) -> None:
    """Rows in another order give the same status."""
    rows = [((date(2026, 11, day), "USD"), cost) for day, cost in days.items()]
    shuffled = list(rows)
    random.shuffle(shuffled)  # type: ignore[attr-defined]  # hypothesis' Random
    one, two = (judge(make_budget(), "USD", NOVEMBER, dict(r)) for r in (rows, shuffled))
    assert one == two
