"""Which alerts are sent, each only once.

The rules are tested in a table, and by a state machine against a brute-force oracle. Its runs restate, edit, snooze and wait.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction

from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from runspend.actions.alert.anomalies import Anomaly
from runspend.actions.alert.decisions import Decision, alert_id, decide
from runspend.actions.alert.judge import Crossing, Series, Status, judge_budget, threshold_of
from runspend.actions.alert.periods import BudgetPeriod, current_period, periods_to_judge
from runspend.config.settings import Budget
from tests.settings_builder import make_budget

NOVEMBER = current_period("month", date(2026, 11, 24))
NOW = datetime(2026, 11, 24, 6, tzinfo=timezone.utc)


def status_of(given: Budget, days: dict[date, Decimal], period: BudgetPeriod = NOVEMBER, foreseen: tuple[str, ...] = ()) -> Status:
    """Return a status for these days. Its forecast reaches the thresholds in `foreseen` that the cost does not."""
    status = judge_budget(given, "USD", period, Series({(day, "USD"): cost for day, cost in days.items()}))
    coming = [threshold_of(t, given.amount, "USD") for t in foreseen]
    assert status.spent is not None
    return replace(status, foreseen=tuple(Crossing(t, period.end - timedelta(days=1)) for t in coming if t.level > status.spent))


def on(day: int, cost: str) -> dict[date, Decimal]:
    return {date(2026, 11, day): Decimal(cost)}


def tell(alerted: dict[str, date | None], decisions: list[Decision]) -> list[tuple[str, str]]:
    """Record decisions as the step does. Return the alerts as (kind, threshold)."""
    found = []
    for decision in decisions:
        for item in decision.items:
            alerted[item.alert_id] = None if decision.anomaly else decision.status.through
            found.append((item.kind, item.crossing.threshold.text))
    return found


def test_crossings_and_forecast_of_one_pipeline_run_are_one_mail() -> None:
    """If the cost is below the amount, the mail names the forecast. Otherwise it names the reached threshold."""
    status = status_of(make_budget(), on(5, "820"), foreseen=("100%",))
    (decision,) = decide([status], {}, NOW)
    assert ([i.kind for i in decision.items], decision.kind, decision.lead.crossing.threshold.text) == (
        ["actual", "forecast"],
        "forecast",
        "100%",
    )
    status = status_of(make_budget(actual=["80%", "100%"], forecast=["150%"]), on(5, "1020"), foreseen=("150%",))
    (decision,) = decide([status], {}, NOW)
    assert (decision.kind, decision.lead.crossing.threshold.text) == ("actual", "100%")


def test_a_restatement_that_undoes_a_crossing_is_corrected_once() -> None:
    """The first fall is corrected. Rising and falling again sends no mail, not even about the threshold."""
    alerted: dict[str, date | None] = {}
    nights = [
        tell(alerted, decide([status_of(make_budget(actual=["100%"]), on(5, cost))], alerted, NOW))
        for cost in ("1000", "999.99", "1001", "998", "1500")
    ]
    assert nights == [[("actual", "100%")], [("correction", "100%")], [], [], []]


def test_a_later_credit_is_not_a_correction() -> None:
    """The alert was true when it was sent. Only days that it was based on can correct it."""
    alerted: dict[str, date | None] = {}
    given = make_budget(actual=["100%"])
    tell(alerted, decide([status_of(given, on(5, "1000"))], alerted, NOW))
    assert decide([status_of(given, on(5, "1000") | on(9, "-200"))], alerted, NOW) == []
    assert tell(alerted, decide([status_of(given, on(5, "900") | on(9, "-200"))], alerted, NOW)) == [("correction", "100%")]


def test_a_crossing_restated_to_a_later_day_is_not_corrected() -> None:
    """The budget is still exceeded because of other days, so there is nothing to correct."""
    alerted: dict[str, date | None] = {}
    given = make_budget(actual=["100%"])
    tell(alerted, decide([status_of(given, on(5, "1000"))], alerted, NOW))
    assert decide([status_of(given, on(5, "900") | on(9, "200"))], alerted, NOW) == []


def test_a_reached_threshold_is_not_forecast_afterwards() -> None:
    """After a correction, no mail forecasts the same threshold again."""
    alerted: dict[str, date | None] = {}
    tell(alerted, decide([status_of(make_budget(), on(5, "1000"))], alerted, NOW))
    found = tell(alerted, decide([status_of(make_budget(), on(5, "990"), foreseen=("100%",))], alerted, NOW))
    assert found == [("correction", "100%")]


def test_corrections_of_several_thresholds_are_one_mail() -> None:
    """The correction names the highest threshold."""
    alerted: dict[str, date | None] = {}
    tell(alerted, decide([status_of(make_budget(), on(5, "1000"))], alerted, NOW))
    (decision,) = decide([status_of(make_budget(), on(5, "100"))], alerted, NOW)
    assert (decision.kind, [i.crossing.threshold.text for i in decision.items], decision.lead.crossing.threshold.text) == (
        "correction",
        ["80%", "100%"],
        "100%",
    )


def test_the_first_hours_and_a_snooze_only_postpone_alerts() -> None:
    """Alerts that still apply are mailed afterwards."""
    status = status_of(make_budget(), on(1, "1000"))
    first_hours = datetime(2026, 11, 1, 23, 59, tzinfo=timezone.utc)
    assert decide([status], {}, first_hours) == []
    assert decide([status], {}, NOW, ["vision"]) == []
    assert len(decide([status], {}, first_hours + timedelta(minutes=1))) == 1


def test_an_anomaly_is_reported_once_per_day_and_series() -> None:
    """Edits of the budget's amount or thresholds do not repeat it. A snooze delays it."""
    alerted: dict[str, date | None] = {}
    day = Anomaly(date(2026, 11, 22), Decimal(500), Decimal(100))
    status = replace(status_of(make_budget(), {}), anomalies=(day,))
    assert decide([status], alerted, NOW, ["vision"]) == []
    assert tell(alerted, decide([status], alerted, NOW)) == [("anomaly", "400% above usual")]
    edited = replace(status_of(make_budget("77", actual=["3%"]), {}), anomalies=(day,))
    assert decide([edited], alerted, NOW) == []


class Nights(RuleBasedStateMachine):
    """One and a half months of pipeline runs.

    The oracle keeps lists and adds fractions. It does not use ids, versions or statuses.
    """

    @initialize(
        texts=st.lists(st.sampled_from(["10%", "50%", "80%", "99.99%", "100%", "120%", "500 USD", "800 USD"]), min_size=1, max_size=4,
                       unique_by=lambda t: threshold_of(t, Decimal(1000), "USD").level),
        coming=st.lists(st.sampled_from(["80%", "100%", "150%"]), max_size=2, unique=True),
    )  # fmt: skip
    def start(self, texts: list[str], coming: list[str]) -> None:
        self.texts, self.coming = texts, coming
        self.now = datetime(2026, 11, 2, 6, tzinfo=timezone.utc)
        self.first_judged = self.now
        self.days: dict[date, Decimal] = {}
        self.edits = 0
        self.is_snoozed = False
        self.alerted: dict[str, date | None] = {}
        self.ids: list[str] = []
        self.expected: dict[tuple[object, ...], date | None] = {}

    @rule(day=st.integers(0, 44), cost=st.decimals(-400, 900, places=2, allow_nan=False))
    def spend(self, day: int, cost: Decimal) -> None:
        """Bill a day, or bill it again with another cost."""
        self.days[date(2026, 11, 1) + timedelta(days=day)] = cost

    @rule()
    @precondition(lambda self: self.days)
    def restate(self) -> None:
        """Restate all days at half their cost."""
        self.days = {day: cost / 2 for day, cost in self.days.items()}

    @rule()
    def edit(self) -> None:
        """Edit the budget as little as possible to get a new version."""
        self.edits += 1
        self.first_judged = self.now

    @rule()
    def snooze_or_wake(self) -> None:
        self.is_snoozed = not self.is_snoozed

    @rule(hours=st.integers(1, 80), foreseen=st.booleans())
    def night(self, hours: int, foreseen: bool) -> None:
        """Run the step. Its decisions must equal the oracle's."""
        self.now += timedelta(hours=hours)
        given = make_budget(str(1000 + self.edits), actual=self.texts, forecast=self.coming)
        periods = periods_to_judge("month", self.now, self.first_judged)
        statuses = [status_of(given, self.days, p, tuple(self.coming) if foreseen and self.now.date() < p.end else ()) for p in periods]
        decisions = decide(statuses, self.alerted, self.now, ["vision"] if self.is_snoozed else [])
        got = set()
        for decision in decisions:
            assert decision.lead in decision.items
            self.ids += [item.alert_id for item in decision.items]
            got |= {(decision.status.period.name, item.kind, item.crossing.threshold.level) for item in decision.items}
        tell(self.alerted, decisions)
        assert got == self.oracle([(p.name, p.start, p.end) for p in periods], given, foreseen)

    def oracle(self, periods: list[tuple[str, date, date]], given: Budget, foreseen: bool) -> set[tuple[str, str, Decimal]]:
        new: set[tuple[str, str, Decimal]] = set()
        if self.is_snoozed:
            return new
        for name, start, end in periods:
            if (self.now - datetime(start.year, start.month, start.day, tzinfo=timezone.utc)) < timedelta(hours=24):
                continue
            mine = {day: Fraction(cost) for day, cost in self.days.items() if start <= day < end}
            total = sum(mine.values(), Fraction(0))
            last = max((day for day, cost in mine.items() if cost), default=start - timedelta(days=1))
            before = dict(self.expected)
            for text in self.texts:
                level = self.level(text, given)
                key = (self.edits, name, text)
                through = before.get(("actual", *key))
                if total >= level and ("actual", *key) not in before:
                    new.add((name, "actual", threshold_of(text, given.amount, "USD").level))
                    self.expected[("actual", *key)] = last
                undone = through is not None and total < level and sum((c for d, c in mine.items() if d <= through), Fraction(0)) < level
                if undone and ("correction", *key) not in before:
                    new.add((name, "correction", threshold_of(text, given.amount, "USD").level))
                    self.expected[("correction", *key)] = None
            known = {self.level(t, given) for t in self.texts if ("actual", self.edits, name, t) in before}
            for text in self.coming if foreseen and self.now.date() < end else ():
                key = ("forecast", self.edits, name, text)
                level = self.level(text, given)
                if total < level and level not in known and key not in before:
                    new.add((name, "forecast", threshold_of(text, given.amount, "USD").level))
                    self.expected[key] = None
        return new

    def level(self, text: str, given: Budget) -> Fraction:
        number = Fraction(text.removesuffix("%").removesuffix(" USD"))
        return Fraction(given.amount) * number / 100 if text.endswith("%") else number

    @invariant()
    def nothing_is_decided_twice(self) -> None:
        ids = getattr(self, "ids", [])
        assert len(ids) == len(set(ids))
        assert set(ids) == set(getattr(self, "alerted", {}))


Nights.TestCase.settings = hypothesis_settings(max_examples=120, stateful_step_count=30, deadline=None)
TestNights = Nights.TestCase


def test_ids_differ_by_kind() -> None:
    """A forecast, a crossing and a correction of one threshold are three records."""
    status = status_of(make_budget(), on(5, "1000"))
    assert len({alert_id(status, kind, status.thresholds[0]) for kind in ("actual", "forecast", "correction")}) == 3
