"""Other alerts: forecasts, corrections, unusual days, budgets of runs and in experiment tags, and muted budgets."""

from __future__ import annotations

import json
from contextlib import nullcontext
from datetime import date, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from runspend.actions import alert
from runspend.actions.alert.chart import SpendChart
from runspend.actions.alert.digest import write_digests
from runspend.actions.alert.overview import COLUMNS, QuietRequest, list_budgets, say_quiet
from runspend.actions.report.charts import bullet
from runspend.core.errors import UsageError
from runspend.interfaces import nightly_summary as summary
from runspend.interfaces.cli import cli
from runspend.schema.tables import TABLES
from runspend.warehouse.parquet.warehouse import ParquetWarehouse
from runspend.warehouse.records import Records
from tests.actions.alert.alert_world import NOW, UTC, budget, cost, in_memory, run, source, text_of, warehouse
from tests.actions.alert.test_run import OVER, mails, step, subjects
from tests.memory_records import MemoryRecords
from tests.settings_builder import make_settings

KEY = {"tracking_server": "prod", "workspace": "default", "billing_currency": "USD"}


def every_day(amount: str = "100", first: str = "2026-09-01", last: str = "2026-11-22", **names: Any) -> list[dict[str, Any]]:
    """Return the same cost for every day, including both ends."""
    begin, end = date.fromisoformat(first), date.fromisoformat(last)
    return [cost((begin + timedelta(days=n)).isoformat(), amount, **names) for n in range((end - begin).days + 1)]


def run_day(run_id: str, day: str, amount: str, **names: Any) -> dict[str, Any]:
    """Return one row of run_costs_daily."""
    on = date.fromisoformat(day)
    costs = {f"{kind}_cost": Decimal(amount) for kind in ("list", "contracted", "effective", "billed")}
    return (
        KEY
        | {
            "run_id": run_id,
            "charge_date": on,
            "cost_kind": "compute",
            "source": "aws",
            "billing_period": on.replace(day=1),
            "confidence": "exact",
            **costs,
        }
        | names
    )


def estimate(run_id: str, day: str, amount: str) -> dict[str, Any]:
    """Return one row of run_estimates."""
    costs = {f"{kind}_cost": Decimal(amount) for kind in ("list", "contracted", "effective", "billed")}
    return KEY | {
        "run_id": run_id,
        "charge_date": date.fromisoformat(day),
        "cost_kind": "compute",
        "source": "aws",
        "cost_status": "estimated",
        **costs,
    }


def words(text: str) -> str:
    return " ".join(text.split())


def test_a_forecast_is_mailed_once_with_its_day_and_range(tmp_path: Path) -> None:
    """At 100 a day, a budget of 2,800 is exceeded around the 28th. The table and the mail show it, and the next day sends nothing."""
    records, given = MemoryRecords(), make_settings(tmp_path, budget(amount="2800"))
    result = step(tmp_path, records, given, cost_daily=every_day())
    assert subjects(tmp_path) == ["[runspend] Budget vision: 78.5% of 2,800 USD spent in November, forecast 100% around 28 Nov"]
    (message,) = mails(tmp_path).values()
    assert message["X-Runspend-Kind"] == "budget-forecast"
    assert "Forecast for 30 November: 3,000 USD (80% interval: 3,000–3,000). It will probably exceed its budget around 28 Nov." in words(
        text_of(message)
    )
    assert [(r["kind"], r["threshold"], r["forecast"]) for r in result.alerts.to_pylist()] == [("forecast", "100%", Decimal(3000))]
    (row,) = result.budget_status.to_pylist()
    assert (row["forecast"], row["forecast_low"], row["forecast_high"], row["exceeded_on"]) == (3000, 3000, 3000, date(2026, 11, 28))
    assert step(tmp_path, records, given, NOW + timedelta(days=1), cost_daily=every_day()).sent == []


def test_a_past_day_is_not_forecast(tmp_path: Path) -> None:
    """On the 29th, the bill ends on the 22nd. The 28th is in the past, so the budget was probably exceeded then."""
    later = datetime(2026, 11, 29, 6, tzinfo=UTC)
    step(tmp_path, MemoryRecords(), make_settings(tmp_path, budget(amount="2800")), later, cost_daily=every_day())
    assert subjects(tmp_path) == ["[runspend] Budget vision: 78.5% of 2,800 USD spent in November, probably 100% since 28 Nov"]
    (message,) = mails(tmp_path).values()
    assert "Probably exceeded around 28 Nov; billing data is incomplete." in words(text_of(message))


def test_a_bill_that_ended_long_ago_gives_no_forecast(tmp_path: Path) -> None:
    """The old provider cost 1,000 a day until June, and the new one costs 10. The forecast is 300 a month, without a mail."""
    rows = [*every_day("1000", "2026-01-01", "2026-05-31", source="old"), *every_day("10", "2026-06-01")]
    bills = [source(), source("old", datetime(2026, 6, 1, tzinfo=UTC))]
    result = step(tmp_path, MemoryRecords(), make_settings(tmp_path, budget()), cost_daily=rows, sources=bills)
    assert subjects(tmp_path) == []
    assert result.budget_status["forecast"].to_pylist() == [Decimal(300)]


def test_estimates_of_days_not_billed_raise_a_forecast(tmp_path: Path) -> None:
    """Three runs cost 400 on the 23rd, which no bill covers yet. The forecast includes this cost, the spend does not, and the mail says so."""
    rows, runs = every_day(), [run("a", start_time=datetime(2026, 11, 22, 22, tzinfo=UTC))]
    result = step(
        tmp_path,
        MemoryRecords(),
        make_settings(tmp_path, budget(amount="3200")),
        cost_daily=rows,
        runs=runs,
        run_estimates=[estimate("a", "2026-11-23", "400")],
    )
    (row,) = result.budget_status.to_pylist()
    assert (row["spent"], row["estimated"], row["judged_on"]) == (Decimal(2200), Decimal(400), "bill")
    assert row["forecast"] == Decimal(3300)
    assert subjects(tmp_path) == ["[runspend] Budget vision: 68.7% of 3,200 USD spent in November, forecast 100% around 29 Nov"]
    assert "Not included: about 400.00 USD estimated for later hours" in words(text_of(next(iter(mails(tmp_path).values()))))


def test_a_budget_judged_on_estimates_says_so(tmp_path: Path) -> None:
    """The spend includes the estimates, and the mail states their amount. If the bill turns out lower, Runspend sends a correction."""
    records, given = (
        MemoryRecords(),
        make_settings(tmp_path, budget(amount="2500", forecast=[], actual=["100%"], judged_on="bill_and_estimates")),
    )
    rows, runs = every_day(), [run("a")]
    result = step(tmp_path, records, given, cost_daily=rows, runs=runs, run_estimates=[estimate("a", "2026-11-23", "400")])
    assert result.budget_status["spent"].to_pylist() == [Decimal(2600)]
    text = words(text_of(next(iter(mails(tmp_path).values()))))
    assert "vision has spent 2,600.00 of 2,500.00 USD" in text
    assert "This includes 400.00 USD of estimates for hours that are not billed yet." in text
    assert "Included: 400.00 USD of estimates" in text and "estimated for later hours" not in text
    step(tmp_path, records, given, NOW + timedelta(days=1), cost_daily=[*rows, cost("2026-11-23", "90")], runs=runs)
    assert "[runspend] Budget vision: correction, 91.6% of 2,500 USD spent in November" in subjects(tmp_path)


@pytest.mark.parametrize(("rate_from", "spent"), [("2026-11-01", 2600), ("2026-11-24", 2200)])
def test_estimates_in_another_currency_count_where_there_is_a_rate(tmp_path: Path, rate_from: str, spent: int) -> None:
    """This also holds if the whole bill is in the budget's currency. An estimate without a rate is ignored, and the budget is still judged."""
    rate = {"from": "EUR", "to": "USD", "rate": "1.25", "date": rate_from}
    given = make_settings(
        tmp_path, budget(amount="2500", forecast=[], actual=["100%"], judged_on="bill_and_estimates"), rates={"exchange": [rate]}
    )
    tables = {
        "cost_daily": every_day(),
        "runs": [run("a")],
        "run_estimates": [{**estimate("a", "2026-11-23", "320"), "billing_currency": "EUR"}],
    }
    with warehouse(tmp_path / "tables", sources=[source()], **tables) as reader:
        result = alert.run(partial(nullcontext, reader), given, MemoryRecords(), NOW)
    assert (result.budget_status["spent"].to_pylist(), result.notes, result.errors) == ([spent], [], [])


def test_estimates_are_not_listed_as_cost_of_others(tmp_path: Path) -> None:
    """The estimate is 400. The two experiments without a row of their own cost exactly what the bill states."""
    given = make_settings(tmp_path, budget(amount="2500", forecast=[], actual=["100%"], judged_on="bill_and_estimates"))
    rows = [cost("2026-11-20", f"30{n}", experiment_id=f"{n}", experiment_name=f"sweep {n}") for n in range(7)]
    step(tmp_path, MemoryRecords(), given, cost_daily=rows, runs=[run("a")], run_estimates=[estimate("a", "2026-11-23", "400")])
    text = words(text_of(next(iter(mails(tmp_path).values()))))
    assert "vision has spent 2,521.00 of 2,500.00 USD" in text and "2 others 24% 601.00 0.00" in text


def test_a_correction_names_the_bill_and_the_days_that_were_restated(tmp_path: Path) -> None:
    """The mail names only days in versions that were loaded after the first alert."""
    records, given = MemoryRecords(), make_settings(tmp_path, budget(forecast=[], actual=["100%"]))
    step(tmp_path, records, given, cost_daily=OVER)
    period = {"source": "aws", "billing_period": date(2026, 11, 1), "billing_currency": "USD"}
    loads = [
        period | {"version": v, "version_number": n, "loaded_at": NOW + timedelta(hours=h), "state": "current"}
        for v, n, h in (("v1", 1, -9), ("v2", 2, 20))
    ]
    change = period | {"service_name": "", "sub_account_id": ""}
    changes = [
        change | {"version": v, "version_number": n, "charge_date": date(2026, 11, d), "effective_cost": Decimal(c)}
        for v, n, d, c in (("v1", 1, 2, "-5"), ("v2", 2, 5, "-100"), ("v2", 2, 17, "-41.127"), ("v2", 2, 23, "-9"))
    ]
    restated = [cost("2026-11-05", "900"), cost("2026-11-17", "3058.998"), OVER[2]]
    step(tmp_path, records, given, NOW + timedelta(days=1), cost_daily=restated, billing_loads=loads, bill_changes=changes)
    correction = next(m for name, m in mails(tmp_path).items() if ".correction." in name)
    assert correction["Subject"] == "[runspend] Budget vision: correction, 97.4% of 5,000 USD spent in November"
    assert correction["To"] == "vision-leads@acme.com"
    text = words(text_of(correction))
    assert "An earlier alert reported that it had reached 100% of budget" in text and "sends no second alert" in text
    assert "Since then, aws restated 5–17 Nov." in text
    assert len({m["References"] for m in mails(tmp_path).values()}) == 1, "one conversation"


def test_an_anomalous_day_is_mailed_with_the_runs_that_caused_it(tmp_path: Path) -> None:
    """The day costs five times the usual, so one mail reports it. Days before the budget existed give no mail."""
    records, given = MemoryRecords(), make_settings(tmp_path, budget(amount="8000"))
    quiet = every_day(last="2026-11-20")
    days = [run_day("a", "2026-11-24", "390"), run_day("b", "2026-11-24", "12.5"), run_day("a", "2026-11-22", "7")]
    runs = [run("a", run_name="sweep-7", instance_type="p4d.24xlarge", user_name="ben"), run("b", run_name="small")]
    tables = {"cost_daily": [*quiet, cost("2026-11-21", "700"), cost("2026-11-24", "512.5")], "runs": runs, "run_costs_daily": days}
    step(tmp_path, records, given, **tables)
    assert subjects(tmp_path) == [], "the 21st was before the budget was watched"
    for later in (1, 2, 3):
        step(
            tmp_path,
            records,
            given,
            NOW + timedelta(days=later),
            **{
                **tables,
                "cost_daily": [*quiet, cost("2026-11-24", "512.5")],
                "sources": [source(until=datetime(2026, 11, 25, tzinfo=UTC))],
            },
        )
    assert subjects(tmp_path) == ["[runspend] Budget vision: unusual spend of 512.50 USD on 24 Nov"]
    (message,) = mails(tmp_path).values()
    text = words(text_of(message))
    for found in (
        "A typical day costs 100.00. This is 412% more",
        "TOP RUNS, Tuesday 24 November",
        "sweep-7",
        "1 x p4d.24xlarge",
        "390.00",
        "small",
    ):
        assert found in text, (found, text)
    assert message["X-Runspend-Kind"] == "budget-anomaly"


def test_a_bill_that_comes_once_a_month_holds_back_no_anomaly(tmp_path: Path) -> None:
    """The bill ends three weeks before the other bill. So a day may have cost more than is known, but not less."""
    records, given, bills = (
        MemoryRecords(),
        make_settings(tmp_path, budget(amount="8000")),
        [source(until=NOW), source("saas", datetime(2026, 11, 1, tzinfo=UTC))],
    )
    step(tmp_path, records, given, NOW - timedelta(days=2), cost_daily=every_day(last="2026-11-21"), sources=bills)
    step(tmp_path, records, given, cost_daily=[*every_day(last="2026-11-22"), cost("2026-11-23", "900")], sources=bills)
    assert subjects(tmp_path) == ["[runspend] Budget vision: unusual spend of 900.00 USD on 23 Nov"]


def test_each_threshold_mails_its_own_recipients(tmp_path: Path) -> None:
    """Recipients at 100% get only mails about 100%. Recipients of `all` get both mails."""
    notify = {"all": ["team@acme.com"], "100%": ["boss@acme.com"]}
    records, given = MemoryRecords(), make_settings(tmp_path, budget(notify=notify, forecast=[]))
    step(tmp_path, records, given, cost_daily=OVER[:2])
    assert [m["To"] for m in mails(tmp_path).values()] == ["team@acme.com"]
    step(tmp_path, records, given, NOW + timedelta(days=1), cost_daily=OVER)
    assert sorted(m["To"] for m in mails(tmp_path).values()) == ["team@acme.com", "team@acme.com, boss@acme.com"]


@pytest.mark.parametrize(
    ("selector", "spent"),
    [
        ({"model": "bert*"}, "60"),
        ({"tag.queue": "gpu"}, "60"),
        ({"param.size": ["s", "m"]}, "40"),
        ({"experiment_tag.area": "nlp"}, "100"),
        ({"tag.queue": "gpu", "user": "ben"}, None),
        ({"model": "*", "cost_kind": "compute", "source": "aws", "team": "vision", "tracking": "prod"}, "100"),
    ],
)  # fmt: skip
def test_budgets_by_keys_that_only_runs_have(tmp_path: Path, selector: dict[str, Any], spent: str | None) -> None:
    """These are tags, params and the model. The budget counts only runs' cost, in every figure of the mail."""
    runs = [run("a", tags='{"model": "bert-large", "queue": "gpu"}'), run("b", params='{"model": "vit", "size": "s"}'), run("c")]
    days = [run_day("a", "2026-11-05", "60"), run_day("b", "2026-11-06", "40"), run_day("a", "2026-10-05", "1000")]
    experiments = [{"tracking_server": "prod", "workspace": "default", "experiment_id": "12", "tags": '{"area": "nlp"}'}]
    entry = budget(amount="40", **{"for": selector})
    result = step(
        tmp_path, MemoryRecords(), make_settings(tmp_path, entry), runs=runs, run_costs_daily=days, experiments=experiments, cost_daily=OVER
    )
    assert result.budget_status["spent"].to_pylist() == [Decimal(spent or 0)]
    assert len(mails(tmp_path)) == (spent is not None)
    for message in mails(tmp_path).values():
        assert f"resnet-sweep (ana) 100% {Decimal(spent or 0):.2f}" in words(text_of(message))


# --- budgets in experiment tags --------------------------------------------------------------------------------------------


def tagged(tag: str | None, number: str = "12", owner: str | None = "ana@acme.com", name: str = "resnet-sweep") -> dict[str, Any]:
    """Return one experiment with these tags."""
    tags = {k: v for k, v in (("runspend.budget", tag), ("owner", owner)) if v is not None}
    return {
        "tracking_server": "prod", "workspace": "default", "experiment_id": number, "experiment_name": name, "lifecycle_stage": "active", "tags": json.dumps(tags),
    }  # fmt: skip


TAGS = {"from": "experiment_tags", "notify": ["owner"]}


@pytest.mark.parametrize("tag", ["500 USD / month", " 500 USD/month ", "500.00 USD / month"])
def test_a_tag_makes_a_budget_of_its_experiment(tmp_path: Path, tag: str) -> None:
    """The budget covers only that experiment, has its name, and mails its owner."""
    rows = [cost("2026-11-05", "600"), cost("2026-11-06", "9000", experiment_id="13")]
    result = step(tmp_path, MemoryRecords(), make_settings(tmp_path, TAGS), cost_daily=rows, experiments=[tagged(tag)])
    assert subjects(tmp_path) == ["[runspend] Budget experiment resnet-sweep: 120.0% of 500 USD spent in November"]
    (message,) = mails(tmp_path).values()
    assert (message["To"], result.budget_status["spent"].to_pylist()) == ("ana@acme.com", [Decimal(600)])


@pytest.mark.parametrize(
    ("tag", "why"),
    [
        ("0 USD / month", "the amount is zero"), ("500 EUR / month", "budgets must be in USD"), ("5,000 USD / month", "it is not an amount"), ("-5 USD / month", "it is not an amount"),
        ("500", "it is not an amount"), ("all", "it is not an amount"), ("", "it is not an amount"), ("1e9 USD / month", "it is not an amount"), ("NaN USD / month", "it is not an amount"),
        ("500 USD / fortnight", "it is not an amount"), ("٥٠٠ USD / month", "it is not an amount"), ("500 USD / month; rm -rf /", "it is not an amount"), ("9" * 13 + " USD / month", "it is not an amount"),
        ("500 USD / month\r\nBcc: evil@x.com", "it is not an amount"), ("<script>alert(1)</script>", "it is not an amount"), ("'; drop table runs; --", "it is not an amount"),
        ("{{ 7*7 }} USD / month", "it is not an amount"), ("9" * 5000, "it is not an amount"), ("500 USD / month\u202e", "it is not an amount"),
    ],
)  # fmt: skip
def test_hostile_tags_are_refused_in_words(tmp_path: Path, tag: str, why: str) -> None:
    """There is no budget and no mail, not even to operators. One harmless line names the tag's problem and a correct value."""
    result = step(
        tmp_path, MemoryRecords(), make_settings(tmp_path, TAGS), cost_daily=[cost("2026-11-05", "1e7")], experiments=[tagged(tag)]
    )
    (note,) = result.notes
    assert note.startswith(f"experiment 12 of prod: its tag runspend.budget is not used: {why}") and note.endswith(
        'write "500 USD / month"'
    )
    assert note.isprintable() and len(note) < 250
    assert (subjects(tmp_path), result.budget_status.num_rows, result.errors) == ([], 0, [])


@pytest.mark.parametrize(
    "owner", ["evil@elsewhere.com", "ana", None, "ana@acme.com\r\nBcc: evil@x.com", "ana@acme.com, evil@x.com", "<script>@acme.com"]
)
def test_a_tag_cannot_send_mail_to_anywhere(tmp_path: Path, owner: str | None) -> None:
    """An owner outside the domains in runspend.yaml gets no mail. Runspend records the alert, and a note reports it."""
    experiments, rows = [tagged("500 USD / month", owner=owner)], [cost("2026-11-05", "600")]
    result = step(tmp_path, MemoryRecords(), make_settings(tmp_path, TAGS), cost_daily=rows, experiments=experiments)
    assert mails(tmp_path) == {}
    assert "no alerts for its budget" in result.notes[0] and "acme.com" in result.notes[0] and result.notes[0].isprintable()
    assert set(result.alerts["recipients"].to_pylist()) == {"{}"}


def test_a_tag_cannot_keep_other_budgets_from_being_judged(tmp_path: Path) -> None:
    """Runspend refuses only the tag whose amount does not fit the entry's thresholds, and explains why."""
    rules = {**TAGS, "actual": ["500 USD", "100%"]}
    rows = [cost("2026-11-05", "950", experiment_id="13"), *OVER]
    experiments = [tagged("500 USD / month"), tagged("900 USD / month", number="13", name="other")]
    result = step(
        tmp_path, MemoryRecords(), make_settings(tmp_path, budget(notify=["b@acme.com"]), rules), cost_daily=rows, experiments=experiments
    )
    (note,) = result.notes
    assert (
        note.startswith("experiment 12 of prod: its tag runspend.budget is not used: with 500 USD / month")
        and "same threshold twice" in note
    )
    assert sorted(m["To"] for m in mails(tmp_path).values()) == ["ana@acme.com", "b@acme.com"]


def test_a_tag_cannot_pose_as_another_budget(tmp_path: Path) -> None:
    """An experiment with the name of a budget in the file makes a separate budget. A hostile name has no effect on mail headers."""
    hostile = "vision\r\nBcc: evil@x.com <script>"
    rows = [cost("2026-11-05", "600", experiment_name=hostile)]
    given = make_settings(tmp_path, budget(amount="9000"), TAGS)
    result = step(tmp_path, MemoryRecords(), given, cost_daily=rows, experiments=[tagged("500 USD / month", name=hostile)])
    names = {r["budget"] for r in result.budget_status.to_pylist()}
    assert len(names) == 2 and "vision" in names
    (message,) = mails(tmp_path).values()
    assert message["Bcc"] is None and message["To"] == "ana@acme.com"


def test_without_the_entry_tags_do_nothing(tmp_path: Path) -> None:
    """A deleted experiment has no budget either."""
    gone = tagged("500 USD / month") | {"lifecycle_stage": "deleted"}
    for n, (entries, experiment) in enumerate(((), tagged("500 USD / month")) if n == 0 else ((TAGS,), gone) for n in range(2)):
        result = step(
            tmp_path / str(n), MemoryRecords(), make_settings(tmp_path / str(n), *entries), cost_daily=OVER, experiments=[experiment]
        )
        assert (result.notes, result.budget_status.num_rows) == ([], 0)


# --- acknowledged, snoozed, and the first pipeline run ---------------------------------------------------------------------


def quiet(home: Path, records: Any, given: Any, kind: Any, until: date | None = None, name: str = "vision", now: datetime = NOW) -> None:
    say_quiet(in_memory(sources=[source()]), given, records, QuietRequest(name, kind, until, "ana", "planned"), now)


def test_an_acknowledged_budget_is_recorded_and_not_mailed(tmp_path: Path) -> None:
    """An acknowledged threshold is not mailed again after the acknowledgement expires. A higher threshold is."""
    records, given = MemoryRecords(), make_settings(tmp_path, budget(forecast=[], actual=["80%", "100%"]))
    quiet(tmp_path, records, given, "acknowledged", date(2026, 11, 26))
    result = step(tmp_path, records, given, cost_daily=OVER[:2])
    assert (mails(tmp_path), result.alerts["message_id"].to_pylist()) == ({}, [None])
    assert json.loads(result.alerts["recipients"].to_pylist()[0]) == {"vision-leads@acme.com": "skipped"}
    assert result.budget_status["muted"].to_pylist() == ["acknowledged by ana until 2026-11-26: planned"]
    step(tmp_path, records, given, datetime(2026, 11, 26, tzinfo=UTC), cost_daily=OVER[:2])
    assert mails(tmp_path) == {}
    step(tmp_path, records, given, datetime(2026, 11, 27, tzinfo=UTC), cost_daily=OVER)
    assert subjects(tmp_path) == ["[runspend] Budget vision: 100.2% of 5,000 USD spent in November"]


def test_a_budget_that_is_still_exceeded_is_mailed_when_its_snooze_ends(tmp_path: Path) -> None:
    """When a snooze ends, a budget that is still exceeded is mailed, and one that is not is not. `wake` ends the snooze early."""
    records, given = MemoryRecords(), make_settings(tmp_path, budget(forecast=[], actual=["80%", "100%"]))
    quiet(tmp_path, records, given, "snoozed", date(2026, 11, 28))
    assert step(tmp_path, records, given, cost_daily=OVER).alerts.num_rows == 0
    quiet(tmp_path, records, given, "awake")
    step(tmp_path, records, given, NOW + timedelta(hours=6), cost_daily=OVER[:2])
    assert subjects(tmp_path) == ["[runspend] Budget vision: 82.0% of 5,000 USD spent in November"]


def test_an_acknowledged_alert_is_not_corrected(tmp_path: Path) -> None:
    """An acknowledged alert was not mailed, so no correction is mailed."""
    records, given = MemoryRecords(), make_settings(tmp_path, budget(forecast=[], actual=["80%", "100%"]))
    quiet(tmp_path, records, given, "acknowledged", date(2026, 11, 26))
    step(tmp_path, records, given, cost_daily=OVER)
    result = step(tmp_path, records, given, datetime(2026, 11, 27, tzinfo=UTC), cost_daily=OVER[:1])
    assert (mails(tmp_path), result.alerts["kind"].to_pylist()) == ({}, ["actual", "actual"])


def test_a_snooze_that_outlasts_a_periods_judgement_loses_nothing(tmp_path: Path) -> None:
    """A late bill exceeds November's budget during a snooze from December to January. The mail follows in January, although November's fifteen days are over."""
    records, given = MemoryRecords(), make_settings(tmp_path, budget(forecast=[], actual=["100%"]))
    result = step(tmp_path, records, given, cost_daily=OVER[:2])
    december = datetime(2026, 12, 5, 6, tzinfo=UTC)
    quiet(tmp_path, records, given, "snoozed", now=december)
    late, bill = [*OVER[:2], cost("2026-11-30", "2000")], [source(until=datetime(2026, 12, 4, tzinfo=UTC))]
    for now in (december, datetime(2026, 12, 20, 6, tzinfo=UTC), datetime(2027, 1, 1, 6, tzinfo=UTC), datetime(2027, 1, 2, 6, tzinfo=UTC)):
        assert mails(tmp_path) == {} or now.day == 2
        result = step(tmp_path, records, given, now, cost_daily=late, sources=bill, budget_status=result.budget_status.to_pylist())
    assert subjects(tmp_path) == ["[runspend] Budget vision: 122.0% of 5,000 USD spent in November"]


def test_the_last_decision_about_a_budget_counts(tmp_path: Path) -> None:
    """This also holds for two requests at the same moment. Unknown budgets and past days are refused with a message."""
    records, given = MemoryRecords(), make_settings(tmp_path, budget())
    quiet(tmp_path, records, given, "snoozed", date(2026, 11, 28))
    quiet(tmp_path, records, given, "acknowledged")
    result = step(tmp_path, records, given, cost_daily=OVER)
    assert result.budget_status["muted"].to_pylist() == ["acknowledged by ana until 2026-12-01: planned"]
    with pytest.raises(UsageError, match=r"cannot change budget 'nlp': it does not exist. Budgets are vision\."):
        quiet(tmp_path, records, given, "snoozed", name="nlp")
    with pytest.raises(UsageError, match=r"cannot mute until 2026-11-24"):
        quiet(tmp_path, records, given, "snoozed", date(2026, 11, 24))


def test_the_first_pipeline_run_sends_one_summary(tmp_path: Path) -> None:
    """Recipients of several alerts get one summary, and a recipient of one alert gets that alert. Later runs and new budgets alert as usual."""
    records = MemoryRecords()
    entries = [budget(), budget("half", "9000"), budget("fine", "999999"), budget("own", "100", notify=["solo@acme.com"])]
    entries[1]["actual"], entries[1]["forecast"] = ["50%"], []
    step(tmp_path, records, make_settings(tmp_path, *entries), cost_daily=OVER)
    by_recipient = {m["To"]: m for m in mails(tmp_path).values()}
    assert len(mails(tmp_path)) == 2
    summary = by_recipient["vision-leads@acme.com"]
    assert summary["Subject"] == "[runspend] 3 budgets monitored: 1 exceeded, 1 above a threshold"
    text = words(text_of(summary))
    assert "vision 2026-11 5,012.38 5,000 USD 100.2%" in text and "half 2026-11 5,012.38 9,000 USD 55.6%" in text
    assert "1 other is below all thresholds" in text
    assert by_recipient["solo@acme.com"]["Subject"].startswith("[runspend] Budget own: ")
    assert step(tmp_path, records, make_settings(tmp_path, *entries), NOW + timedelta(days=1), cost_daily=OVER).sent == []
    more = [*entries, budget("later", "50"), budget("much", "60")]
    assert len(step(tmp_path, records, make_settings(tmp_path, *more), NOW + timedelta(days=2), cost_daily=OVER).sent) == 2


def test_a_step_before_the_first_bill_does_not_count_as_the_first_run(tmp_path: Path) -> None:
    """The alert step may run before any bill is read. The first summary follows in the pipeline run after that."""
    records, given = MemoryRecords(), make_settings(tmp_path, budget(forecast=[]), budget("half", "9000", actual=["50%"], forecast=[]))
    assert step(tmp_path, records, given, NOW - timedelta(hours=6), sources=[]).sent == []
    step(tmp_path, records, given, cost_daily=OVER)
    assert [m["Subject"] for m in mails(tmp_path).values()] == ["[runspend] 2 budgets monitored: 1 exceeded, 1 above a threshold"]


def test_the_commands_in_a_mail_work(tmp_path: Path) -> None:
    """This holds on 2 December for a mail about November. Its `ack` command is accepted, and applies to the current month."""
    records, given, now = (
        MemoryRecords(),
        make_settings(tmp_path, budget(forecast=[], actual=["100%"])),
        datetime(2026, 12, 2, 6, tzinfo=NOW.tzinfo),
    )
    step(tmp_path, records, given, NOW, cost_daily=OVER[:2], sources=[source(until=NOW)])
    step(tmp_path, records, given, now, cost_daily=OVER, sources=[source(until=now)])
    (message,) = mails(tmp_path).values()
    assert "runspend budgets ack vision --until 2027-01-01" in words(text_of(message)) and "November" in message["Subject"]
    quiet(tmp_path, records, given, "acknowledged", date(2027, 1, 1), now=now)


def test_an_expensive_day_among_days_without_cost_has_no_percentage(tmp_path: Path) -> None:
    """There are twelve trainings in four weeks, and a much larger one. A usual day costs nothing, so there is no percentage of it."""
    days = [row for row in every_day(last="2026-11-24") if row["charge_date"].day % 5 in (0, 1)]
    given, records = make_settings(tmp_path, budget(amount="8000", forecast=[])), MemoryRecords()
    step(tmp_path, records, given, NOW, cost_daily=days)
    result = step(
        tmp_path,
        records,
        given,
        NOW + timedelta(days=2),
        cost_daily=[*days, cost("2026-11-25", "900")],
        sources=[source(until=NOW + timedelta(days=2))],
    )
    assert result.alerts["threshold"].to_pylist() == ["above usual"]
    assert "A typical day costs 0.00. This is more than on any day of the four weeks before." in words(
        text_of(next(iter(mails(tmp_path).values())))
    )


def test_a_bill_that_reaches_into_the_future_is_covered_until_now(tmp_path: Path) -> None:
    """Its lines cover whole months. Runspend still makes a forecast and mails an expensive day."""
    days = [*every_day(last="2026-11-22"), cost("2026-11-23", "900")]
    until = datetime(2026, 12, 1, tzinfo=NOW.tzinfo)
    result = step(
        tmp_path, MemoryRecords(), make_settings(tmp_path, budget(amount="90000")), cost_daily=days, sources=[source(until=until)]
    )
    (row,) = result.budget_status.to_pylist()
    assert (row["covered_until"], row["forecast"] is None) == (NOW, False)
    step(
        tmp_path,
        records := MemoryRecords(),
        given := make_settings(tmp_path, budget(amount="8000")),
        NOW - timedelta(days=1),
        cost_daily=days[:-1],
    )
    step(tmp_path, records, given, cost_daily=days, sources=[source(until=until)])
    assert subjects(tmp_path) == ["[runspend] Budget vision: unusual spend of 900.00 USD on 23 Nov"]


# --- runspend budgets ------------------------------------------------------------------------------------------------------


def test_the_list_has_the_state_of_every_budget(tmp_path: Path) -> None:
    """The list starts with the budget that is nearest to its amount. A budget that was never judged shows that."""
    records = MemoryRecords()
    entries = [budget(amount="2800"), budget("small", "100"), budget("calm", "99999")]
    result = step(tmp_path, records, make_settings(tmp_path, *entries), cost_daily=every_day())
    given = make_settings(tmp_path, *entries, budget("new", "5", owner="ana@acme.com"))
    quiet(tmp_path, records, given, "snoozed", name="calm")
    reader = in_memory(budget_status=result.budget_status.to_pylist(), sources=[source()])
    rows = list_budgets(reader, given, records, NOW)
    assert all(tuple(row) == COLUMNS for row in rows)
    assert [(r["budget"], r["state"], r["next_threshold"]) for r in rows] == [
        ("new", "not judged", None), ("small", "exceeded", None), ("vision", "forecast to exceed", "80%"), ("calm", "ok", "80%"),
    ]  # fmt: skip
    assert [r["last_mail"] for r in rows] == [None, "actual 100%, 24 Nov", "forecast 100%, 24 Nov", None]
    assert (rows[0]["reason"], rows[3]["muted"]) == ("no alert step since it was added", "snoozed by ana until 2026-12-01: planned")


def test_the_list_does_not_mix_an_edit_with_figures_of_before(tmp_path: Path) -> None:
    """After a change of team or amount, the list does not show results of the old version."""
    records = MemoryRecords()
    result = step(tmp_path, records, make_settings(tmp_path, budget(amount="2800")), cost_daily=every_day())
    edits = (
        (budget(amount="9000"), "not judged"),
        (budget(amount="2800", **{"for": {"team": "nlp"}}), "not judged"),
        (budget(amount="2800", owner="b@acme.com"), "forecast to exceed"),
    )
    for edited, state in edits:
        reader = in_memory(budget_status=result.budget_status.to_pylist(), sources=[source()])
        (row,) = list_budgets(reader, make_settings(tmp_path, edited), records, NOW)
        assert (row["state"], row["spent"] is None) == (state, state == "not judged")
        assert row["reason"] == ("no alert step since the budget was changed" if state == "not judged" else None)


def test_a_percentage_reads_the_same_in_every_mail_and_list(tmp_path: Path) -> None:
    """Percentages are cut, never rounded up to a threshold that was not reached. This holds on the screen, in lists, on pages and in mails.

    The screen shows each budget once, in its current period.
    """
    records = MemoryRecords()
    entries = [budget(every="quarter", actual=["99%", "100%"], forecast=[]), budget("daily", "9000", every="day")]
    rows = [cost("2026-10-05", "1000"), cost("2026-11-22", "3998.996")]
    given = make_settings(tmp_path, *entries)
    status = step(tmp_path, records, given, NOW - timedelta(days=1), cost_daily=rows).budget_status.to_pylist()
    status = step(tmp_path, records, given, cost_daily=rows, budget_status=status).budget_status.to_pylist()
    reader = in_memory(budget_status=status, sources=[source()])
    listed = {r["budget"]: r["percent"] for r in list_budgets(reader, given, records, NOW)}
    screen = summary._budgets(reader)
    assert listed["vision"] == Decimal("99.9")
    assert [line.split()[0] for _, line in screen] == ["vision", "daily"] and " 99.9%" in screen[0][1] and screen[0][0] == "▲"
    assert "99.9% of the budget" in str(bullet(Decimal("4998.996"), Decimal(5000)))
    picture = SpendChart(date(2026, 11, 1), date(2026, 12, 1), (Decimal(0), Decimal("4998.996")), Decimal(5000), "USD")
    assert picture.rows()[-1][-1] == "99%"
    alerts = [{**value, "title": "experiment resnet"} for value in records.list("alerts").values()]
    (mail, _), = write_digests(given, "a@x.io", alerts, NOW, None)  # fmt: skip
    assert (
        "99.9%" in mail.text
        and "experiment resnet 2026-Q4" in mail.text
        and any("99.9% of 5,000 USD spent" in subject for subject in subjects(tmp_path))
    )


def test_a_budget_is_listed_acknowledged_snoozed_and_woken_by_commands(tmp_path: Path) -> None:
    """The list shows the acknowledgment, as text and as JSON. Nothing is sent."""
    config = tmp_path / "runspend.yaml"
    config.write_text("home: .\nbudgets:\n  - {name: vision, for: {team: vision}, amount: 5000, notify: [a@acme.com]}\n", encoding="utf-8")
    house = ParquetWarehouse(tmp_path / "warehouse")
    with house.step("test", "b1") as made:
        made.put("sources", "all", "aws", TABLES["sources"].arrow_schema().empty_table())
        made.publish()

    def ask(*arguments: str) -> str:
        found = CliRunner().invoke(
            cli, ["budgets", *arguments, "--config", str(config), "--quiet", "--now", "2026-11-24T06:00"], catch_exceptions=False
        )
        assert found.exit_code == 0, found.output
        return found.output

    assert "vision  not judged: no alert step since it was added  2026-11" in ask()
    assert ask("ack", "vision", "--by", "ana", "--note", "sweep") == "vision: acknowledged by ana until 2026-12-01: sweep\n"
    assert json.loads(ask("list", "--json"))[0]["muted"] == "acknowledged by ana until 2026-12-01: sweep"
    assert "snoozed by ana until 2026-11-30" in ask("snooze", "vision", "--until", "2026-11-30", "--by", "ana")
    assert ask("wake", "vision", "--by", "ben") == "vision: alerts are on again (by ben)\n"
    assert json.loads(ask("--json"))[0]["muted"] is None
    assert len(Records(tmp_path).list("quiet")) == 3
    assert mails(tmp_path) == {}


def test_an_alert_killed_in_the_first_pipeline_run_is_still_a_summary(tmp_path: Path) -> None:
    """After a kill at any write, each recipient gets one mail with everything in it."""

    class Killed(BaseException):
        pass

    entries = [budget(), budget("half", "9000", actual=["50%"], forecast=[])]
    reader = in_memory(cost_daily=OVER, sources=[source()])
    for moment in range(24):
        home, records, left = tmp_path / str(moment), MemoryRecords(), [moment]
        given = make_settings(home, *entries)

        def tick(operation: str, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise Killed

        records.before = records.after = tick  # type: ignore[method-assign]  # the seam this class is for
        try:
            alert.run(partial(nullcontext, reader), given, records, NOW)
        except Killed:
            records.before = records.after = lambda operation: None  # type: ignore[method-assign]  # as above
            alert.run(partial(nullcontext, reader), given, records, NOW)
        assert subjects(home) == ["[runspend] 2 budgets monitored: 1 exceeded, 1 above a threshold"], moment
