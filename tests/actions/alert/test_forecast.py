"""The forecast: weekdays, holidays, the bill's delay, estimates, its interval, and when there is none. `make bench` measures its quality."""

from __future__ import annotations

import math
import random
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from runspend.actions.alert import forecast
from runspend.actions.alert.forecast import Forecast, Seen, forecast_total
from runspend.actions.alert.holidays import a_year_later, find_holidays
from runspend.actions.alert.judge import Series, judge_budget
from runspend.actions.alert.levels import LEAST_DAYS, ExpectedDays, History, find_step, look_ahead
from runspend.actions.alert.periods import current_period
from runspend.core.amounts import round_money
from tests.settings_builder import make_budget

NOVEMBER = (date(2026, 11, 1), date(2026, 12, 1))
COVERED = date(2026, 11, 16)  # a Monday; 15 days are left


def office(first: date, days: int, weekday: str = "100", weekend: str = "20") -> dict[date, Decimal]:
    """Return a series without random variation."""
    return {(day := first + timedelta(days=n)): Decimal(weekend if day.weekday() > 4 else weekday) for n in range(days)}


def spent_before(days: dict[date, Decimal], covered: date = COVERED) -> Decimal:
    return sum((cost for day, cost in days.items() if NOVEMBER[0] <= day < covered), Decimal(0))


def make(days: dict[date, Decimal], seen: dict[date, Seen] | None = None, share: float = 1.0, covered: date = COVERED) -> Forecast:
    found = forecast_total(
        {d: c for d, c in days.items() if d < covered}, covered, NOVEMBER, spent_before(days, covered), seen or {}, share
    )
    assert found is not None
    return found


def test_weekdays_are_known() -> None:
    """November has 21 weekdays and 9 weekend days. For a series that repeats every week, the total is correct within one percent."""
    days = office(date(2026, 8, 1), 150)
    found = make(days)
    truth = sum(days[date(2026, 11, n)] for n in range(1, 31))
    assert abs(found.total - truth) / truth < Decimal("0.01")  # the forecast of a weekday includes a little of all days
    assert found.low <= found.total <= found.high
    assert (found.high - found.low) / truth < Decimal("0.03")


def test_the_day_on_which_a_level_is_reached() -> None:
    """It is the first day that ends at or above the level. Above the total, there is none."""
    found = make(office(date(2026, 8, 1), 150))
    assert [day for day, _ in found.path] == [COVERED + timedelta(days=n) for n in range(15)]
    assert found.path[-1][1] == found.total
    day, cost = found.path[7]
    assert found.exceeded_on(cost) == day
    assert found.exceeded_on(cost + Decimal("0.01")) == day + timedelta(days=1)
    assert found.exceeded_on(found.total + 1) is None


def test_last_years_holidays_are_expected_again() -> None:
    """If days off are rare, a week off at the end of last November is expected again this year. Days off of this year do not lower the forecast."""
    first = COVERED - timedelta(days=400)
    days = office(first, 400)
    off = [date(2025, 11, n) for n in range(24, 29)]
    with_holidays = days | dict.fromkeys(off, Decimal(2))
    assert set(find_holidays([float(with_holidays[first + timedelta(days=n)]) for n in range(400)], first)) == set(off)
    plain, aware = make(days).total, make(with_holidays).total
    assert Decimal(350) < plain - aware < Decimal(450)  # 24 to 28 November 2026 are four weekdays and a Saturday
    rests = {day: cost if day.toordinal() % 3 else Decimal(1) for day, cost in with_holidays.items()}
    assert find_holidays([float(rests[first + timedelta(days=n)]) for n in range(400)], first) == {}


@pytest.mark.parametrize(
    ("seen", "share", "first_day"),
    [
        (Seen(), 1.0, 100.0),  # without any facts, the model decides
        (Seen(billed=30.0), 1.0, 100.0),  # a part is billed, and the rest will follow
        (Seen(billed=130.0), 1.0, 130.0),  # never less than the known spend
        (Seen(estimated=40.0, over=1.0), 1.0, 40.0),  # a quiet day, completely estimated
        (Seen(estimated=300.0, over=1.0), 1.0, 300.0),  # an expensive day, completely estimated
        (Seen(billed=10.0, estimated=30.0, over=1.0), 1.0, 40.0),
        (Seen(estimated=40.0, over=0.5), 1.0, 90.0),  # half of the day is still to come
        (Seen(estimated=40.0, over=1.0), 0.6, 80.0),  # estimates do not include cost without a run
        (Seen(estimated=500.0, over=1.0), 0.6, 540.0),
    ],
)
def test_a_day_without_a_bill_is_forecast_from_estimates(seen: Seen, share: float, first_day: float) -> None:
    """Estimates replace the cost of runs in past hours. The model forecasts everything else."""
    flat = {date(2026, 9, 1) + timedelta(days=n): Decimal(100) for n in range(76)}
    found = make(flat, {COVERED: seen}, share)
    assert float(found.path[0][1] - spent_before(flat)) == pytest.approx(first_day, abs=0.02)


def test_a_new_month_is_forecast_even_if_the_bill_still_ends_in_the_old_one() -> None:
    """On 2 December the bill still ends in November. The forecast for December is made anyway, for the days of December only."""
    days = office(date(2026, 8, 1), 121)  # to 29 November
    december = (date(2026, 12, 1), date(2027, 1, 1))
    found = forecast_total(days, date(2026, 11, 30), december, Decimal(0), {})
    assert found is not None
    assert [found.path[0][0], found.path[-1][0]] == [date(2026, 12, 1), date(2026, 12, 31)]
    assert abs(found.total - (23 * 100 + 8 * 20)) < 40


def test_there_is_no_forecast_without_history_or_days_left() -> None:
    """A forecast needs at least two weeks of history. A completely billed period needs no forecast."""
    for length, is_there in ((LEAST_DAYS - 1, False), (LEAST_DAYS, True)):
        days = office(COVERED - timedelta(days=length), length)
        assert (forecast_total(days, COVERED, NOVEMBER, spent_before(days), {}) is not None) is is_there
    assert forecast_total(office(date(2026, 8, 1), 150), date(2026, 12, 1), NOVEMBER, Decimal(9), {}) is None
    assert forecast_total({}, COVERED, NOVEMBER, Decimal(0), {}) is None


def about_100(days: int, covered: date = COVERED, fee_day: int = 0, fee: float = 0) -> dict[date, Decimal]:
    """About 100 a day, and a fee on one day of each month."""
    draw, first = random.Random(1), covered - timedelta(days=days)
    dates = [first + timedelta(days=n) for n in range(days)]
    return {day: Decimal(f"{draw.uniform(80, 120) + (fee if day.day == fee_day else 0):.2f}") for day in dates}


@pytest.mark.parametrize("cost", [-10_000, -1_000, 10_000])
@pytest.mark.parametrize("ago", [1, 3, 8, 20, 60])
def test_a_credit_or_a_fee_of_once_is_not_expected_again(cost: int, ago: int) -> None:
    """The day itself counts, and the forecast for later days uses the usual cost."""
    days = about_100(150)
    days[COVERED - timedelta(days=ago)] = Decimal(cost)
    found = make(days)
    assert abs(found.total - spent_before(days) - 1500) < 75
    assert found.high - found.low < 400


def test_two_expensive_days_in_a_row_may_be_a_new_level() -> None:
    """What the newest days cost counts at once."""
    days = about_100(400)
    days |= {COVERED - timedelta(days=n): Decimal(1000) for n in (1, 2)}
    assert make(days).total > spent_before(days) + 15 * 115


@pytest.mark.parametrize(("covered", "fee_day", "fees"), [
    ("2026-11-16", 1, 0), ("2026-11-30", 1, 0), ("2026-12-01", 1, 1), ("2026-12-02", 1, 0), ("2026-11-30", 30, 1),
])  # fmt: skip
@pytest.mark.parametrize("fee", [-2000, 5000])
def test_a_fee_of_every_month_is_expected_on_its_day(covered: str, fee_day: int, fees: int, fee: int) -> None:
    """Once, where its day is still to come, and not a little on every day."""
    on = date.fromisoformat(covered)
    period = current_period("month", on)
    days = about_100(100, on, fee_day, fee)
    found = forecast_total(days, on, (period.start, period.end), Decimal(0), {})
    assert found is not None
    left = (period.end - on).days
    assert abs(float(found.total) - left * 100 - fees * fee) < 6 * left + 10
    assert found.high - found.low < 20 * left + 20


def test_the_forecast_expects_quarterly_and_last_day_fees_but_no_ended_fees() -> None:
    """A yearly budget expects two more quarterly fees and six more fees on the last day of a month. It expects no fee that did not come when it was due."""
    on, first = date(2026, 6, 10), date(2026, 6, 10) - timedelta(days=400)
    year = (date(2026, 1, 1), date(2027, 1, 1))
    plain = forecast_total(about_100(400, on), on, year, Decimal(0), {})
    assert plain is not None
    quarters = [date(2025, 7, 1), date(2025, 10, 1), date(2026, 1, 1), date(2026, 4, 1)]
    ends = [day for n in range(400) if (day := first + timedelta(days=n)) + timedelta(days=1) == (day + timedelta(days=1)).replace(day=1)]
    for fees, more in ((quarters, 2), (ends, 7), (quarters[:-1], 0), (ends[:-1], 0)):
        days = about_100(400, on)
        for day in fees:
            days[day] += 5000
        found = forecast_total(days, on, year, Decimal(0), {})
        assert found is not None
        assert abs(found.total - plain.total - 5000 * more) < 100, (fees, more)


def test_intervals_of_the_first_weeks_are_wide_enough() -> None:
    """With two weeks of history or more, the interval contains the total as often as stated. The forecast is never at either end of its interval."""
    draw, held, count = random.Random(3), 0, 0
    for length in range(LEAST_DAYS, LEAST_DAYS + 6):
        for _ in range(60):
            first = COVERED - timedelta(days=length)
            days = {first + timedelta(days=n): Decimal(f"{100 * draw.lognormvariate(0, 0.3):.2f}") for n in range(length + 15)}
            found, true = make(days), sum(cost for day, cost in days.items() if day >= NOVEMBER[0])
            held, count = held + (found.low <= true <= found.high), count + 1
            assert found.low < found.high
            if length < LEAST_DAYS + 5:
                assert found.low < found.total < found.high
    assert held / count > 0.8


@hypothesis_settings(max_examples=60, deadline=None)
@given(st.lists(st.decimals(-50, 5000, places=2, allow_nan=False), min_size=14, max_size=90), st.integers(1, 29), st.integers(0, 2**32))
def test_any_history_gives_ordered_rounded_figures(costs: list[Decimal], day: int, seed: int) -> None:
    """Low, total and high are in order, with two decimals, and not below the known spend. The same input gives the same forecast."""
    covered = date(2026, 11, 1) + timedelta(days=day)
    days = {covered - timedelta(days=n + 1): cost for n, cost in enumerate(costs)}
    draw = random.Random(seed)
    seen = {covered: Seen(draw.uniform(0, 50), draw.uniform(0, 50), draw.random())}
    spent = spent_before(days, covered)
    found = forecast_total(days, covered, NOVEMBER, spent, seen)
    if found is None:
        return
    assert found.low <= found.total <= found.high
    assert all(round(cost, 2) == cost and math.isfinite(cost) for cost in (found.low, found.total, found.high, found.likely))
    if min(costs) >= 0:
        assert found.low >= round_money(spent + Decimal(seen[covered].billed + seen[covered].estimated))
    assert found == forecast_total(dict(reversed(days.items())), covered, NOVEMBER, spent, seen)


def test_the_interval_begins_at_the_rounded_spend() -> None:
    """The spend of 1,455.2953 is shown as 1,455.30, so the lower bound is not 1,455.29."""
    days = {COVERED - timedelta(days=n): Decimal({3: "1455.2953", 80: "1"}.get(n, "0")) for n in range(1, 90)}
    assert make(days).low == Decimal("1455.30")


def test_the_forecast_follows_scale_and_shift_of_a_series() -> None:
    """Ten times the cost gives ten times the forecast. A series moved by seven days gives a forecast moved by seven days."""
    draw = random.Random(7)
    values = [draw.uniform(10, 100) for _ in range(90)]
    plain = look_ahead(values, date(2026, 8, 1), 20, 20)
    tenfold, later = look_ahead([10 * v for v in values], date(2026, 8, 1), 20, 20), look_ahead(values, date(2026, 8, 8), 20, 20)
    assert tenfold.days == pytest.approx([10 * v for v in plain.days]) and tenfold.errors == pytest.approx(plain.errors)
    assert later == plain


def noisy(level: float, days: int, draw: random.Random) -> list[float]:
    return [level * draw.uniform(0.5, 1.5) for _ in range(days)]


def test_a_history_begins_at_an_evident_step() -> None:
    """After nine quiet days, the cost is eleven times as high. The days before the step do not lower the forecast. Chance, one expensive day and a fade are not a step."""
    draw = random.Random(3)
    values = noisy(20, 9, draw) + noisy(220, 43, draw)
    assert 9 <= find_step(values) <= 12  # the rank test may find the step one low day late
    found = look_ahead(values, COVERED - timedelta(days=52), 15, 15)
    assert min(found.errors) < 0 < max(found.errors), "the replays agree with the level there is"
    assert 0.85 < sum(found.days) / (15 * 220) < 1.15
    assert find_step(noisy(100, 200, draw)) == 0
    assert find_step([*noisy(100, 60, draw), 5000.0, *noisy(100, 60, draw)]) == 0
    assert find_step([0.0] * 30) == 0
    assert find_step(noisy(20, 60, draw) + noisy(100, 60, draw) + noisy(30, 60, draw)) in range(120, 124)
    assert find_step(noisy(20, 60, draw) + noisy(100, 13, draw)) == 0, "two weeks are needed after it"


def test_the_point_forecast_is_inside_its_own_range() -> None:
    """This holds after a step and during growth."""
    draw = random.Random(5)
    stepped = noisy(20, 9, draw) + noisy(220, 43, draw)
    growing = [value * 1.01**n for n, value in enumerate(noisy(10, 300, draw))]
    for values in (stepped, growing):
        first = COVERED - timedelta(days=len(values))
        found = make({first + timedelta(days=n): Decimal(f"{value:.2f}") for n, value in enumerate(values)})
        assert found.low < found.total < found.high


def test_a_series_of_credits_has_a_range() -> None:
    """Credits are expected to continue and may become larger or smaller, so the interval has a width."""
    draw = random.Random(9)
    days = {COVERED - timedelta(days=n + 1): Decimal(f"{value:.2f}") for n, value in enumerate(noisy(-100, 90, draw))}
    found = make(days)
    assert found.low < found.total < found.high < spent_before(days)
    assert abs(float(found.total - spent_before(days)) / -1500 - 1) < 0.15


def test_costs_and_credits_that_nearly_cancel_out_give_no_extreme_forecast() -> None:
    """Weekdays cost as much as the weekend's credits return. A ratio of such sums could take any value."""
    for credit in range(100, 500):
        days = [COVERED - timedelta(days=28 - n) for n in range(28)]
        values = [-float(credit) if day.weekday() > 4 else 100.0 for day in days]
        values[-1] += 50
        by_method = History(values, days[0], {}).foretell(28, 14)
        assert max(abs(cost) for costs in by_method for cost in costs) < 2 * credit + 200, credit


@pytest.mark.parametrize(("count", "total"), [(60, 1800), (59, 1500)])
def test_a_method_that_many_replays_call_too_low_is_raised(monkeypatch: pytest.MonkeyPatch, count: int, total: int) -> None:
    """Replays are 10 to 30 percent too low, with a median of 20. With enough replays the forecast uses the median, and with few it only widens the interval."""
    errors = sorted(0.1 + 0.2 * n / (count - 1) for n in range(count))
    monkeypatch.setattr(
        forecast, "look_ahead", lambda values, first, ahead, reach: ExpectedDays([100.0] * ahead, errors, 1, 10_000, [0.0] * ahead)
    )
    days = {COVERED - timedelta(days=n + 20): Decimal(100) for n in range(90)}  # all in another month, so nothing is spent in this one
    found = forecast_total(days, COVERED, NOVEMBER, Decimal(0), {})
    assert found is not None
    assert abs(float(found.total) - total) < 15
    assert 1910 < found.high < 1930 and (found.low < found.total if count == 60 else found.low == found.total)


@pytest.mark.parametrize(
    ("day", "later"),
    [
        ("2025-11-27", "2026-11-26"),  # Thanksgiving and the day after
        ("2025-11-28", "2026-11-27"),
        ("2025-04-18", "2026-04-03"),  # Good Friday
        ("2025-04-21", "2026-04-06"),  # Easter Monday
        ("2025-05-29", "2026-05-14"),  # Ascension
        ("2025-05-26", "2026-05-25"),  # Memorial Day, the last Monday
        ("2025-09-01", "2026-09-07"),  # Labor Day
        ("2025-12-25", "2026-12-25"),
        ("2024-02-29", "2025-02-28"),
    ],
)
def test_a_holiday_moves_with_its_calendar(day: str, later: str) -> None:
    """A holiday moves with Easter, with the week of its month, or keeps its date."""
    assert a_year_later(date.fromisoformat(day)) == date.fromisoformat(later)


def test_a_budget_is_forecast_to_be_exceeded_in_two_of_three_outcomes() -> None:
    """The status names the forecast thresholds and the probable day. It does not forecast a threshold that is already reached."""
    draw = random.Random(11)
    days = {(date(2026, 6, 1) + timedelta(days=n), "USD"): Decimal(draw.randrange(60, 140)) for n in range(168)}
    now = datetime(2026, 11, 17, 6, tzinfo=timezone.utc)

    def judged(amount: str):  # type: ignore[no-untyped-def]  # a Status
        made = make_budget(amount, forecast=["100%"])
        return judge_budget(made, "USD", current_period("month", now.date()), Series(days), COVERED, now)

    found = judged("3000").forecast
    assert found is not None and found.low < found.likely < found.high
    assert [c.threshold.text for c in judged(str(found.likely)).foreseen] == ["100%"]
    between = judged(str(found.likely + Decimal("0.01")))
    assert found.likely + Decimal("0.01") < found.total and (between.foreseen, between.exceeded_on()) == ((), None), (
        "the list and the mail say the same"
    )
    (crossing,) = judged("2000").foreseen
    assert crossing.on == found.exceeded_on(Decimal(2000))
    assert judged("1000").foreseen == () and judged("1000").is_over
