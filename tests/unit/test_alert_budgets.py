"""Which budgets crossed which thresholds: the rule table, and a brute-force oracle over histories that are restated."""

from __future__ import annotations

from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from runspend.actions.alert.budgets import (
    alert_id,
    budget_version,
    current_period,
    decide,
    judge_budget,
    parse_threshold,
    periods_to_judge,
    same_days_before,
)
from runspend.config import Budget
from runspend.errors import ConfigError

NOVEMBER = current_period("month", date(2026, 11, 24))


def budget(amount: str = "1000", **more: object) -> Budget:
    return Budget.model_validate({"name": "vision", "amount": amount, "notify": ["a@acme.com"], **more})


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
def test_period_of_a_day(every: str, day: str, name: str, start: str, end: str) -> None:
    """A day lies in exactly the period people call by that name."""
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
def test_same_days_of_the_period_before(every: str, day: str, until: str, before: tuple[str, str]) -> None:
    """The comparison covers as many days of the period before as have passed of this one, never more than it had."""
    period = current_period(every, date.fromisoformat(day))  # type: ignore[arg-type]  # the five literals
    assert tuple(d.isoformat() for d in same_days_before(period, date.fromisoformat(until))) == before


@given(st.dates(date(2020, 1, 1), date(2035, 12, 31)), st.sampled_from(["day", "week", "month", "quarter", "year"]))
def test_periods_tile_time(day: date, every: str) -> None:
    """A period holds its day, ends where the next begins, and its first and last day lie in it."""
    period = current_period(every, day)  # type: ignore[arg-type]  # the five literals
    assert period.start <= day < period.end
    assert current_period(every, period.start) == period == current_period(every, period.end - timedelta(days=1))  # type: ignore[arg-type]  # as above
    assert current_period(every, period.end).start == period.end  # type: ignore[arg-type]  # as above


def test_a_period_that_just_ended_is_judged_while_its_bill_is_late() -> None:
    """Three days long, and only if the budget was judged while the period ran: a new installation says nothing of last month."""
    at = lambda text: datetime.fromisoformat(text).replace(tzinfo=timezone.utc)  # noqa: E731  # one expression
    names = lambda now, first: [p.name for p in periods_to_judge("month", at(now), at(first))]  # noqa: E731  # one expression
    assert names("2026-12-01T00:00", "2026-11-10T00:00") == ["2026-11", "2026-12"]
    assert names("2026-12-03T23:00", "2026-11-10T00:00") == ["2026-11", "2026-12"]
    assert names("2026-12-04T00:00", "2026-11-10T00:00") == ["2026-12"]
    assert names("2026-12-02T06:00", "2026-12-01T00:00") == ["2026-12"]
    days = [p.name for p in periods_to_judge("day", at("2026-11-24T06:00"), at("2026-01-01T00:00"))]
    assert days == ["2026-11-21", "2026-11-22", "2026-11-23", "2026-11-24"]


@pytest.mark.parametrize(
    ("text", "level", "shown"),
    [
        ("80%", "800", "80 %"),
        ("80 %", "800", "80 %"),
        ("99.50%", "995", "99.5 %"),
        ("500 USD", "500", "500 USD"),
        ("500", "500", "500 USD"),
        ("0.1%", "1", "0.1 %"),
    ],
)
def test_threshold_spellings(text: str, level: str, shown: str) -> None:
    """One threshold, however it is spelled."""
    threshold = parse_threshold(text, Decimal(1000), "USD")
    assert (threshold.level, threshold.text) == (Decimal(level), shown)


@pytest.mark.parametrize("text", ["", "0%", "0 USD", "-5%", "eighty", "80 % of it", "500 EUR", "١٠%", "1e3", "%", "NaN%", "all"])
def test_threshold_refused(text: str) -> None:
    """Nothing empty, zero, negative or in another currency is taken for a threshold."""
    with pytest.raises(ConfigError, match="cannot use threshold"):
        parse_threshold(text, Decimal(1000), "USD")


def test_threshold_is_crossed_at_equality_in_exact_decimals() -> None:
    """0.7 + 0.1 reaches 0.8 (in floats it does not); one unit of the 22nd decimal below does not."""
    spend = {(date(2026, 11, 1), "USD"): Decimal("0.7"), (date(2026, 11, 2), "USD"): Decimal("0.1")}
    status = judge_budget(budget("1", actual=["80%"]), "USD", NOVEMBER, spend)
    assert [c.on for c in status.crossed] == [date(2026, 11, 2)]
    below = spend | {(date(2026, 11, 3), "USD"): Decimal("-1E-22")}
    assert judge_budget(budget("1", actual=["80%"]), "USD", NOVEMBER, below).crossed == ()


def test_percent_is_cut_not_rounded() -> None:
    """A budget below its amount never reads as 100.0 %."""
    status = judge_budget(budget("1000"), "USD", NOVEMBER, {(date(2026, 11, 1), "USD"): Decimal("999.99")})
    assert status.percent == Decimal("99.9")
    assert not status.is_over


def test_money_of_another_currency_is_never_added() -> None:
    """No rate: no verdict, in words; another currency that comes to nothing on every day is no obstacle."""
    spend = {(date(2026, 11, 1), "USD"): Decimal(5000), (date(2026, 11, 1), "EUR"): Decimal(1)}
    status = judge_budget(budget(), "USD", NOVEMBER, spend)
    assert (status.spent, status.crossed, status.not_judged) == (None, (), "no rate from EUR to USD for 2026-11-01: write it under rates.exchange")
    assert judge_budget(budget(), "USD", NOVEMBER, spend | {(date(2026, 11, 1), "EUR"): Decimal(0)}).is_over


def test_version_is_of_what_the_budget_decides_by() -> None:
    """Owner, notify, runbook and spelling make no new version; amount, currency, selector, period, measure and thresholds do."""
    plain = budget("1000", **{"for": {"team": ["b", "a"]}})
    same = [
        budget("1000.00", **{"for": {"team": ["a", "b"]}}),
        budget("1000", owner="x@acme.com", notify=["b@acme.com"], runbook="https://x", **{"for": {"team": ["b", "a"]}}),
        budget("1000", actual=["100 %", "80.0%"], **{"for": {"team": ["b", "a"]}}),
    ]
    other = [
        budget("1001", **{"for": {"team": ["b", "a"]}}),
        budget("1000", **{"for": {"team": ["a"]}}),
        budget("1000", every="week", **{"for": {"team": ["b", "a"]}}),
        budget("1000", measure="billed_cost", **{"for": {"team": ["b", "a"]}}),
        budget("1000", actual=["80%"], **{"for": {"team": ["b", "a"]}}),
    ]
    version = budget_version(plain, "USD")
    assert {budget_version(b, "USD") for b in same} == {version}
    others = [budget_version(b, "USD") for b in other] + [budget_version(plain, "EUR")]
    assert len({version, *others}) == 1 + len(others)


def test_alert_ids_fit_a_message_id_and_differ() -> None:
    """Names with dots where a Message-ID may not have them still give ids of their own."""
    ids = set()
    for name in ("a.b", "a..b", "a.b.", "a-b", "a-b-"):
        status = judge_budget(Budget.model_validate({"name": name, "amount": "1", "notify": ["a@acme.com"]}), "USD", NOVEMBER, {})
        ids.add(alert_id(status, status.thresholds[0]))
    assert len(ids) == 5
    assert all(part and part.isascii() for found in ids for part in found.split("."))


amounts = st.decimals(min_value=-400, max_value=700, places=2, allow_nan=False)
histories = st.lists(st.dictionaries(st.integers(1, 30), amounts, max_size=8), min_size=1, max_size=7)
threshold_sets = st.lists(
    st.sampled_from(["10%", "50%", "80%", "99.99%", "100%", "120%", "500 USD", "800 USD"]),
    min_size=1,
    max_size=5,
    unique_by=lambda t: parse_threshold(t, Decimal(1000), "USD").level,
)


@hypothesis_settings(max_examples=400, deadline=None)
@given(histories, threshold_sets, st.integers(0, 6))
def test_decisions_match_a_brute_force_oracle(nights: list[dict[int, Decimal]], thresholds: list[str], edited_at: int) -> None:
    """Over nights that restate the spend at will, and one edit of the budget: each threshold is decided once per version, the
    first night its level is reached, never before, never again, never withdrawn; one mail a night names the highest new one."""
    decided: set[str] = set()
    expected: set[tuple[int, str]] = set()
    for night, days in enumerate(nights):
        version = int(night >= edited_at)
        current = budget("1000" if version == 0 else "1000.01", actual=thresholds)
        spend = {(date(2026, 11, day), "USD"): cost for day, cost in days.items()}
        status = judge_budget(current, "USD", NOVEMBER, spend)
        decisions = decide([status], decided)
        total = sum((Fraction(cost) for cost in days.values()), Fraction(0))
        new = set()
        for text in thresholds:
            amount = Fraction(current.amount)
            level = amount * Fraction(text.removesuffix("%")) / 100 if text.endswith("%") else Fraction(text.removesuffix(" USD"))
            if total >= level and (version, text) not in expected:
                new.add((version, text))
        assert len(decisions) == (1 if new else 0)
        if decisions:
            got = {c.threshold.text.replace(" %", "%") for c in decisions[0].crossings}
            assert got == {text for _, text in new}
            assert decisions[0].highest.threshold.level == max(c.threshold.level for c in decisions[0].crossings)
            decided |= {decisions[0].alert_id(c.threshold) for c in decisions[0].crossings}
        expected |= new
        assert len(decided) == len(expected)


@given(st.dictionaries(st.integers(1, 30), amounts, min_size=1, max_size=10), st.randoms())
def test_decision_does_not_depend_on_the_order_of_rows(days: dict[int, Decimal], random: object) -> None:
    """The same spend in another order is the same status."""
    rows = [((date(2026, 11, day), "USD"), cost) for day, cost in days.items()]
    shuffled = list(rows)
    random.shuffle(shuffled)  # type: ignore[attr-defined]  # hypothesis' Random
    one, two = (judge_budget(budget(), "USD", NOVEMBER, dict(r)) for r in (rows, shuffled))
    assert one == two
