"""The alert step sends one alert per threshold, loses nothing at a crash, and puts many budgets into one mail."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import date, datetime, timedelta
from decimal import Decimal
from email import message_from_bytes, policy
from email.message import EmailMessage
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from runspend.actions import alert
from runspend.actions.alert import operators
from runspend.actions.alert.message import Mail
from runspend.actions.alert.outbox import set_outcome
from runspend.actions.alert.overview import QuietRequest, list_budgets, say_quiet
from runspend.actions.alert.selector_sql import sql
from runspend.actions.alert.smtp import FileBackend, SendResult
from runspend.actions.report.plan import plan_report
from runspend.schema.tables import TABLES
from runspend.warehouse.parquet.warehouse import ParquetWarehouse
from runspend.warehouse.records import Records
from tests.actions.alert.alert_world import (
    NOW,
    UTC,
    Killed,
    budget,
    cost,
    count_down,
    in_memory,
    run,
    source,
    text_of,
    warehouse,
)
from tests.memory_records import MemoryRecords
from tests.settings_builder import make_settings
from tests.sql_lint import lint

OVER = [cost("2026-11-05", "1000"), cost("2026-11-17", "3100.125"), cost("2026-11-22", "912.255")]


def mails(home: Path) -> dict[str, EmailMessage]:
    found = {}
    for path in sorted((home / "mail").glob("*.eml")):
        message = message_from_bytes(path.read_bytes(), policy=policy.default)
        assert isinstance(message, EmailMessage)
        found[path.name.removesuffix(".eml")] = message
    return found


def subjects(home: Path) -> list[str]:
    return [m["Subject"] for m in mails(home).values()]


def step(home: Path, records: Any, given: Any, now: datetime = NOW, **tables: Any) -> alert.AlertResult:
    return alert.run(partial(nullcontext, in_memory(**{"sources": [source()], **tables})), given, records, now)


@pytest.mark.parametrize(
    ("thresholds", "spend", "named"),
    [
        ({"actual": ["80%", "100%"], "forecast": []}, OVER, "100%"),
        ({"actual": ["9%", "80%", "100 USD"], "forecast": []}, OVER, "80%"),
        ({"actual": ["4900 USD", "80%", "90.5%"], "forecast": []}, OVER, "4900 USD"),
        (
            {"actual": ["10%"], "forecast": ["80%", "100%"]},
            [cost(f"2026-{m}-{d:02}", "165") for m in (10, 11) for d in range(1, 32 if m == 10 else 23)],
            "forecast 80%",
        ),
        (
            {"actual": ["10%", "80%", "90%"], "forecast": ["120%"]},
            [cost(f"2026-{m}-{d:02}", "230") for m in (10, 11) for d in range(1, 23)],
            "90%",
        ),
    ],
)
def test_the_report_names_the_threshold_in_the_subject_of_a_mail(
    tmp_path: Path, thresholds: dict[str, list[str]], spend: list[dict[str, Any]], named: str
) -> None:
    """All thresholds reached in one pipeline run are in one mail. The report, its CSV and the list of budgets name the same threshold."""
    records, given = MemoryRecords(), make_settings(tmp_path, budget(**thresholds))
    result = step(tmp_path, records, given, cost_daily=spend)
    assert result.alerts.num_rows > 1 and len(subjects(tmp_path)) == 1
    tables = {"alerts": result.alerts.to_pylist(), "budget_status": result.budget_status.to_pylist()}
    (row,) = plan_report(in_memory(**tables), "2026-11", settings=given, now=NOW).budgets
    assert row.mailed_threshold == named
    (listed,) = list_budgets(in_memory(**tables), given, records, NOW)
    assert listed["last_mail"].removeprefix("actual ").startswith(named)


@pytest.mark.parametrize(
    ("now", "covered", "partly_billed"),
    [
        (NOW, datetime(2026, 11, 23, tzinfo=UTC), []),
        (NOW, datetime(2026, 11, 22, 23, tzinfo=UTC), [cost("2026-11-22", "912.255")]),
        (NOW, datetime(2026, 11, 22, 23, tzinfo=UTC), [cost("2026-11-22", "12"), cost("2026-11-23", "911.5")]),
        (
            datetime(2026, 11, 30, 20, tzinfo=UTC),
            datetime(2026, 11, 30, 18, tzinfo=UTC),
            [cost("2026-11-30", "912.255")],
        ),  # the last day of the period
    ],
)
def test_the_text_and_the_picture_of_a_mail_name_one_sum(
    tmp_path: Path, now: datetime, covered: datetime, partly_billed: list[dict[str, Any]]
) -> None:
    """This also holds if the last days are only partly billed: the text and the picture both count them."""
    days = [cost(f"2026-{month}-{day:02}", "200") for month, until in ((10, 31), (11, 21)) for day in range(1, until + 1)]
    given = make_settings(tmp_path, budget(actual=["80%"], forecast=[]))
    run_tables = {"sources": [source(until=covered)], "cost_daily": [*days, *partly_billed]}
    step(tmp_path, MemoryRecords(), given, now, **run_tables)
    (mail,) = mails(tmp_path).values()
    text = " ".join(text_of(mail).split())
    spent = re.search(r"has spent ([\d,]+)\.(\d\d) of", text)
    assert spent is not None
    whole = f"{round(Decimal(f'{spent[1]}.{spent[2]}'.replace(',', ''))):,}"
    spoken = re.search(r"SPEND TO DATE.*?(?=TOP COSTS)", text)
    assert spoken is not None
    newest, foreseen = re.findall(r"(\d+ \w{3}(?:, forecast \([^)]*\))?) ([\d,]+) \d+%", spoken[0])[-2:]
    assert newest[1] == whole
    assert f"Forecast for 30 November: {foreseen[1]} USD" in text
    assert foreseen[0].startswith("30 Nov, forecast")


def test_an_acknowledged_budget_is_listed_with_the_highest_threshold_passed(tmp_path: Path) -> None:
    records, given = MemoryRecords(), make_settings(tmp_path, budget(actual=["80%", "100%"], forecast=[]))
    say_quiet(in_memory(), given, records, QuietRequest("vision", "acknowledged", None, "ana", None), NOW)
    result = step(tmp_path, records, given, cost_daily=OVER)
    (listed,) = list_budgets(in_memory(budget_status=result.budget_status.to_pylist()), given, records, NOW)
    assert listed["last_mail"] == "actual 100%, 24 Nov (acknowledged, not mailed)"


def test_several_thresholds_at_once_make_one_mail_and_all_are_recorded(tmp_path: Path) -> None:
    """The mail names the highest threshold. The table has a row for each, and the next run sends nothing."""
    records, given = MemoryRecords(), make_settings(tmp_path, budget(actual=["50%", "80%", "100%", "120%"], owner="ana@acme.com"))
    result = step(tmp_path, records, given, cost_daily=OVER)
    assert subjects(tmp_path) == ["[runspend] Budget vision: 100.2% of 5,000 USD spent in November"]
    assert sorted(result.alerts["threshold"].to_pylist()) == ["100%", "50%", "80%"]
    assert set(result.alerts["recipients"].to_pylist()) == {'{"vision-leads@acme.com": "accepted"}'}
    assert len(set(result.alerts["message_id"].to_pylist())) == 1
    message = next(iter(mails(tmp_path).values()))
    assert message["Message-ID"].startswith("<budget.vision.2026-11.actual.100.")
    assert message["Message-ID"].endswith("@acme.com>")
    assert (message["Reply-To"], message["List-Id"], message["X-Runspend-Kind"]) == (
        "ana@acme.com",
        "Runspend budgets <budgets.runspend.acme.com>",
        "budget-actual",
    )
    assert message["Date"] == "Tue, 24 Nov 2026 06:00:00 +0000"
    again = step(tmp_path, records, given, NOW + timedelta(days=1), cost_daily=OVER)
    assert (again.sent, again.errors, len(mails(tmp_path))) == ([], [], 1)
    assert again.alerts.equals(result.alerts)


def test_rows_have_the_declared_schema_and_carry_over_the_month(tmp_path: Path) -> None:
    """budget_status keeps every row of its months: a row for a quarter does not remove October's other budgets."""
    october = {
        "budget": "old",
        "month": date(2026, 10, 1),
        "budget_period": "2026-10",
        "amount": Decimal(1),
        "spent": Decimal(2),
        "currency": "USD",
    }
    given = make_settings(tmp_path, budget(every="quarter"))
    result = step(tmp_path, MemoryRecords(), given, cost_daily=OVER, budget_status=[october])
    assert result.budget_status.schema == TABLES["budget_status"].arrow_schema()
    assert result.alerts.schema == TABLES["alerts"].arrow_schema()
    assert [(r["budget"], r["budget_period"]) for r in result.budget_status.to_pylist()] == [("old", "2026-10"), ("vision", "2026-Q4")]
    assert result.budget_status["threshold_reached"].to_pylist() == [None, "100%"]


def test_a_budget_no_longer_configured_leaves_the_running_period(tmp_path: Path) -> None:
    """Its last result is no longer shown as current. The months in which it was judged keep their rows."""
    gone = {"budget": "gone", "month": date(2026, 11, 1), "budget_period": "2026-11", "spent": Decimal(2)}
    result = step(tmp_path, MemoryRecords(), make_settings(tmp_path, budget()), cost_daily=OVER, budget_status=[gone])
    assert result.budget_status["budget"].to_pylist() == ["vision"]


def test_restated_down_and_up_again_fires_once_and_is_corrected_once(tmp_path: Path) -> None:
    """One mail reports that the corrected bill is below the threshold. Reaching the threshold again in the same period sends no mail."""
    records, given = MemoryRecords(), make_settings(tmp_path, budget(actual=["100%"]))
    for night, amount in enumerate(["4999.9999", "5000", "100", "5001", "99"]):
        step(tmp_path, records, given, NOW + timedelta(days=night), cost_daily=[cost("2026-11-05", amount)])
    assert subjects(tmp_path) == [
        "[runspend] Budget vision: 100.0% of 5,000 USD spent in November",
        "[runspend] Budget vision: correction, 2.0% of 5,000 USD spent in November",
    ]


def test_an_edited_budget_is_judged_again(tmp_path: Path) -> None:
    """Another amount makes another version, but another recipient does not."""
    records = MemoryRecords()
    step(tmp_path, records, make_settings(tmp_path, budget()), cost_daily=OVER)
    step(tmp_path, records, make_settings(tmp_path, budget(notify=["new@acme.com"])), cost_daily=OVER)
    assert len(mails(tmp_path)) == 1
    step(tmp_path, records, make_settings(tmp_path, budget(amount="5001")), cost_daily=OVER)
    assert len(mails(tmp_path)) == 2


def test_only_the_budgets_period_counts(tmp_path: Path) -> None:
    """In the first hours of a month, last month's cost sends no alert (E8)."""
    first_hour = datetime(2026, 12, 1, 0, 0, tzinfo=UTC)
    result = step(tmp_path, MemoryRecords(), make_settings(tmp_path, budget()), first_hour, cost_daily=OVER)
    assert (mails(tmp_path), result.budget_status["spent"].to_pylist()) == ({}, [Decimal(0)])


def test_a_crossing_in_the_last_hours_of_a_month_is_not_lost_to_a_late_bill(tmp_path: Path) -> None:
    """The bill of 30 November arrives on 2 December. One mail about the November budget is still sent, as November's."""
    records, given = MemoryRecords(), make_settings(tmp_path, budget(actual=["100%"]))
    step(tmp_path, records, given, cost_daily=OVER[:2])
    late = [*OVER[:2], cost("2026-11-30", "2000")]
    for day in (2, 3):
        result = step(tmp_path, records, given, datetime(2026, 12, day, 6, tzinfo=UTC), cost_daily=late)
    assert subjects(tmp_path) == ["[runspend] Budget vision: 122.0% of 5,000 USD spent in November"]
    assert [r["budget_period"] for r in result.budget_status.to_pylist()] == ["2026-11", "2026-12"]


def test_an_edit_at_the_months_beginning_leaves_the_old_month_its_rules(tmp_path: Path) -> None:
    """The amount is raised on 1 December, before November's end is billed. November's mail uses the old amount, once, and goes to the new recipients."""
    records = MemoryRecords()
    step(tmp_path, records, make_settings(tmp_path, budget(actual=["100%"])), cost_daily=OVER[:2])
    given = make_settings(tmp_path, budget(amount="9000", actual=["80%", "100%"], notify=["new@acme.com"]))
    late = [*OVER[:2], cost("2026-11-30", "2000"), cost("2026-12-01", "10")]
    for day in (1, 2, 3):
        result = step(tmp_path, records, given, datetime(2026, 12, day, 6, tzinfo=UTC), cost_daily=late if day > 1 else OVER[:2])
    (message,) = mails(tmp_path).values()
    assert (message["To"], message["Subject"]) == ("new@acme.com", "[runspend] Budget vision: 122.0% of 5,000 USD spent in November")
    assert {(r["budget_period"], r["amount"]) for r in result.budget_status.to_pylist()} == {
        ("2026-11", Decimal(5000)),
        ("2026-12", Decimal(9000)),
    }


def test_a_bill_that_comes_after_the_fifteen_days_is_still_judged(tmp_path: Path) -> None:
    """November's last days are billed on 20 December, all at once. The pipeline run that sees them is the first that can judge them."""
    records, given = MemoryRecords(), make_settings(tmp_path, budget(actual=["100%"]))
    late = [*OVER[:2], cost("2026-11-30", "2000")]
    status = list[dict[str, Any]]()
    for day, rows, covered in (
        ("2026-11-24", OVER[:2], "2026-11-22"),
        ("2026-12-18", OVER[:2], "2026-11-28"),
        ("2026-12-20", late, "2026-12-19"),
        ("2026-12-21", late, "2026-12-20"),
    ):
        now, until = (datetime.fromisoformat(f"{one}T00:00+00:00") for one in (day, covered))
        status = step(
            tmp_path, records, given, now, cost_daily=rows, sources=[source(until=until)], budget_status=status
        ).budget_status.to_pylist()
    assert subjects(tmp_path) == ["[runspend] Budget vision: 122.0% of 5,000 USD spent in November"]


@pytest.mark.parametrize(
    ("selector", "spent"),
    [
        (None, "115"), ({"team": "vision"}, "100"), ({"team": "vis*"}, "100"), ({"team": ["nlp", "vision"]}, "107"), ({"team": "vision", "user": "b?n"}, "40"),
        ({"experiment": "resnet*"}, "60"), ({"provider": "AWS"}, "115"), ({"source": "gcp"}, "0"), ({"cost_kind": "storage"}, "40"), ({"tracking": "prod"}, "107"),
        ({"owner": "*"}, "60"), ({"project": "p.1"}, "7"), ({"cost_center": "4?"}, "60"), ({"team": "*"}, "107"), ({"experiment": "it's %_'; drop"}, "40"),
    ],
)  # fmt: skip
def test_a_budget_sums_what_its_selector_names(tmp_path: Path, selector: dict[str, Any] | None, spent: str) -> None:
    """A budget sums the cost that its selector matches. Without a selector, it sums all cost of the ML platform."""
    rows = [
        cost("2026-11-05", "60", owner="ana", cost_center="42"),
        cost("2026-11-06", "40", user_name="ben", cost_kind="storage", experiment_name="it's %_'; drop"),
        cost("2026-11-06", "7", team="nlp", project="p.1", experiment_name="px1"),
        cost(
            "2026-11-06",
            "8",
            team=None,
            allocated_to="idle",
            experiment_id=None,
            experiment_name=None,
            tracking_server=None,
            user_name=None,
        ),
        cost("2026-11-06", "9000", team=None, allocated_to="out_of_scope", experiment_name=None, tracking_server=None),
    ]
    entry = budget(amount="9999")
    entry.pop("for")
    if selector is not None:
        entry["for"] = selector
    result = step(tmp_path, MemoryRecords(), make_settings(tmp_path, entry), cost_daily=rows)
    assert result.budget_status["spent"].to_pylist() == [Decimal(spent)]


def test_each_budget_is_judged_by_its_own_measure(tmp_path: Path) -> None:
    """Each budget uses the measure in its own configuration."""
    rows = [
        cost(
            "2026-11-05",
            "0",
            list_cost=Decimal(1),
            contracted_cost=Decimal(2),
            effective_cost=Decimal(3),
            billed_cost=Decimal("4.0000000000000000000001"),
        )
    ]
    names = ["list_cost", "contracted_cost", "effective_cost", "billed_cost"]
    result = step(tmp_path, MemoryRecords(), make_settings(tmp_path, *[budget(n, "9999", measure=n) for n in names]), cost_daily=rows)
    spent = {r["budget"]: r["spent"] for r in result.budget_status.to_pylist()}
    assert spent == {"list_cost": 1, "contracted_cost": 2, "effective_cost": 3, "billed_cost": Decimal("4.0000000000000000000001")}


def test_another_currency_is_reported_to_operators_not_added(tmp_path: Path) -> None:
    """There is no result, but a line in the summary, and one mail to operators per pipeline run."""
    records, given = MemoryRecords(), make_settings(tmp_path, budget())
    rows = [*OVER, cost("2026-11-06", "1", billing_currency="EUR")]
    for _ in range(2):
        result = step(tmp_path, records, given, cost_daily=rows)
    assert result.notes == [
        "budget vision was not judged for November: no rate from EUR to USD for 2026-11-06: write it under rates.exchange"
    ]
    assert subjects(tmp_path) == [
        "[runspend] NOT JUDGED: budget vision in November: no rate from EUR to USD for 2026-11-06: write it under rates.exchange"
    ]
    assert result.alerts.num_rows == 0


def test_budgets_of_runs_are_not_judged_before_any_server_was_read(tmp_path: Path) -> None:
    """A cost of zero would be wrong. Budgets on bills are judged, and so are all budgets once one server was read."""
    given = make_settings(tmp_path, budget(), budget("everything", **{"for": {"source": "aws"}}))
    down = {"source": "prod", "kind": "tracking", "state": "unreachable", "last_good_at": None}
    read = {"source": "lab", "kind": "tracking", "state": "ok", "last_good_at": NOW}
    for servers, unjudged in (([down], ["vision"]), ([down, read], [])):
        result = step(tmp_path, MemoryRecords(), given, cost_daily=OVER, sources=[source(), *servers])
        assert [row["budget"] for row in result.budget_status.to_pylist() if row["spent"] is None] == unjudged
        assert len(result.notes) == len(unjudged)
        assert all(
            n == "budget vision was not judged for November: prod was never read, so the cost of runs is not known" for n in result.notes
        )


def test_a_month_without_a_rate_is_reported_by_each_run_until_it_has_one(tmp_path: Path) -> None:
    """The month is reported by name, even if it ended long ago and later months were judged. Once it has a rate, it is judged once."""
    records, status = MemoryRecords(), list[dict[str, Any]]()
    rows = [*OVER, cost("2026-11-06", "1000", billing_currency="EUR"), cost("2026-12-02", "10"), cost("2027-01-02", "10")]

    def night(day: str, rate_from: str) -> alert.AlertResult:
        now, rate = datetime.fromisoformat(f"{day}T06:00+00:00"), {"from": "EUR", "to": "USD", "rate": "1.2", "date": rate_from}
        given = make_settings(tmp_path, budget(actual=["100%"], forecast=[]), rates={"exchange": [rate]})
        with warehouse(tmp_path / day, cost_daily=rows, sources=[source(until=now)], budget_status=status) as reader:
            result = alert.run(partial(nullcontext, reader), given, records, now)
        months = set(result.budget_status["month"].to_pylist())
        status[:] = [*(r for r in status if r["month"] not in months), *result.budget_status.to_pylist()]
        return result

    why = "budget vision was not judged for November: no rate from EUR to USD for 2026-11-06: write it under rates.exchange"
    days = ("2026-11-24", "2026-12-10", "2026-12-20", "2027-01-20", "2027-03-20")
    for day in days:
        result = night(day, "2026-11-07")
        assert (result.notes, [e.exit_code for e in result.errors]) == ([why], [3])
    assert subjects(tmp_path) == [f"[runspend] NOT JUDGED: {why.replace(' was not judged for ', ' in ')}"] * len(days)
    for day in ("2027-03-21", "2027-03-22"):
        result = night(day, "2026-11-01")
        assert (result.notes, result.errors) == ([], [])
    assert [s for s in subjects(tmp_path) if "NOT JUDGED" not in s] == ["[runspend] Budget vision: 124.2% of 5,000 USD spent in November"]
    assert set(result.budget_status["budget_period"].to_pylist()) == {"2027-03"}


def test_the_mail_has_active_runs_cost_drivers_and_confidence(tmp_path: Path) -> None:
    """The figures equal the tables and come in the order people need. Runs of another team, ended runs and silent runs are not active."""
    start = datetime(2026, 11, 22, 20, tzinfo=UTC)
    on = {"run_status": "RUNNING", "end_time": None, "start_time": start}
    runs = [
        run("a", run_name="vit-l16-384", last_sign_at=NOW - timedelta(hours=1), instance_type="p4d.24xlarge", num_nodes=2, **on),
        run("b", run_name="new-one", **{**on, "start_time": NOW - timedelta(minutes=10)}),
        run("c", run_name="silent", **on),
        run("d", run_name="others", team="nlp", last_sign_at=NOW, **on),
        run("e", run_status="FAILED"),
        run("f", run_name="gone", last_sign_at=NOW, purged_at=NOW, **on),
    ]
    rows = [
        cost("2026-11-05", "4000", confidence="exact"),
        cost("2026-11-20", "1000", experiment_id="13", experiment_name="vit-pretrain", user_name="ben", confidence="medium"),
        cost("2026-10-03", "640.2"),
        cost("2026-10-24", "77"),
        cost("2026-11-22", "900", team=None, allocated_to="idle", experiment_id=None, experiment_name=None, confidence=None),
    ]
    key = {"tracking_server": "prod", "workspace": "default", "billing_currency": "USD"}
    daily = [
        key
        | {
            "run_id": "e",
            "charge_date": date(2026, 11, 20),
            "cost_kind": "compute",
            "source": "aws",
            "billing_period": date(2026, 11, 1),
            "effective_cost": Decimal(50),
        }
    ]
    whole = [key | {"run_id": "a", "start_month": date(2026, 11, 1), "effective_cost": Decimal("73.74")}]
    step(
        tmp_path,
        MemoryRecords(),
        make_settings(tmp_path, budget(runbook="https://wiki.acme.com/x")),
        cost_daily=rows,
        runs=runs,
        run_costs_daily=daily,
        run_costs=whole,
    )
    text = text_of(next(iter(mails(tmp_path).values())))
    for found in (
        "vit-l16-384  ana  2 x p4d.24xlarge  22 Nov 20:00     24.58", "total 24.58 per hour, 589 USD per day", "new-one", "1 active run has no price yet",
        "resnet-sweep (ana)  80%  4,000.00            640.20", "vit-pretrain (ben)  20%  1,000.00              0.00", "failed or killed runs: 50.00 (1%)",
        "complete to 22 Nov 23:00 UTC, 31 h behind (typically 24", "900.00 USD idle cost outside", "80% exact, 20% medium", "https://wiki.acme.com/x",
    ):  # fmt: skip
        assert found in " ".join(text.split()) or found in text, (found, text)
    assert not any(name in text for name in ("silent", "others  ", "gone"))
    order = [text.index(title) for title in ("has spent", "ACTIVE RUNS", "TOP COSTS", "CONFIDENCE", "NEXT STEPS", "Sent once")]
    assert order == sorted(order)
    assert max(len(line) for line in text.splitlines()) <= 72


@pytest.mark.parametrize(("people", "shown"), [("show", "(ana)"), ("pseudonym", "(person-"), ("hide", "")])
def test_people_are_named_as_configured(tmp_path: Path, people: str, shown: str) -> None:
    """`mail.people` decides whether a mail names who ran what."""
    step(tmp_path, MemoryRecords(), make_settings(tmp_path, budget(), mail={"people": people}), cost_daily=OVER)
    text = text_of(next(iter(mails(tmp_path).values())))
    assert shown in text
    assert ("ana" in text) == (people == "show")


def test_killed_at_any_write_the_next_run_makes_up_for_it(tmp_path: Path) -> None:
    """The process is killed before or after each record. In the end there is one decision per threshold, one mail, and the same Message-ID."""
    reference = MemoryRecords()
    given = make_settings(tmp_path / "ref", budget(), budget("small", "100"))
    want = step(tmp_path, reference, given, cost_daily=OVER)
    moments = 2 * reference.writes
    assert moments > 12
    reader = in_memory(cost_daily=OVER, sources=[source()])
    for moment in range(moments):
        home = tmp_path / f"home{moment}"
        records = MemoryRecords()
        records.before = records.after = partial(count_down, [moment])  # type: ignore[method-assign]  # the seam this class is for
        given = make_settings(home, budget(), budget("small", "100"))
        with pytest.raises(Killed):
            alert.run(partial(nullcontext, reader), given, records, NOW)
        records.before = records.after = lambda operation: None  # type: ignore[method-assign]  # as above
        result = alert.run(partial(nullcontext, reader), given, records, NOW)
        before = records.writes
        assert alert.run(partial(nullcontext, reader), given, records, NOW).sent == []
        assert records.writes == before
        assert result.alerts.equals(want.alerts)
        assert set(mails(home)) == set(mails(tmp_path / "ref"))
        assert {m.as_bytes() for m in mails(home).values()} == {m.as_bytes() for m in mails(tmp_path / "ref").values()}


def test_two_hundred_budgets_make_one_mail_that_lists_them_all(tmp_path: Path) -> None:
    """Each recipient gets one mail with all budgets, once (E6)."""
    records = MemoryRecords()
    given = make_settings(
        tmp_path, *[budget(f"b{n:03d}", str(100 + n), actual=["100%"]) for n in range(200)], budget("one", "1", notify=["solo@acme.com"])
    )
    result = step(tmp_path, records, given, cost_daily=OVER)
    found = mails(tmp_path)
    assert len(found) == 2
    digest = next(m for m in found.values() if m["To"] == "vision-leads@acme.com")
    assert digest["Subject"] == "[runspend] 200 budgets over a threshold: 200 exceeded"
    text = text_of(digest)
    assert all(f"b{n:03d} " in text for n in range(200))
    assert result.alerts.num_rows == 202
    assert {state for row in result.alerts["recipients"].to_pylist() for state in json.loads(row).values()} == {"accepted"}
    assert step(tmp_path, records, given, cost_daily=OVER).sent == []
    assert len(mails(tmp_path)) == 2


def test_without_a_mail_backend_nothing_is_sent_now_or_later(tmp_path: Path) -> None:
    """If mail is switched on later, earlier decisions are not sent."""
    records = MemoryRecords()
    result = step(tmp_path, records, make_settings(tmp_path, budget(), mail={"backend": "none"}), cost_daily=OVER)
    assert (result.sent, result.errors) == ([], [])
    assert set(result.alerts["recipients"].to_pylist()) == {'{"vision-leads@acme.com": "skipped"}'}
    step(tmp_path, records, make_settings(tmp_path, budget()), cost_daily=OVER)
    assert mails(tmp_path) == {}


def test_owner_among_recipients_is_the_budgets_owner(tmp_path: Path) -> None:
    """`notify: [owner]` sends to the owner. A budget without an owner has no recipient, but its alert is recorded."""
    given = make_settings(tmp_path, budget(notify=["owner"], owner="ana@acme.com"), budget("orphan", notify=["owner"]))
    result = step(tmp_path, MemoryRecords(), given, cost_daily=OVER)
    assert [m["To"] for m in mails(tmp_path).values()] == ["ana@acme.com"]
    assert result.alerts.num_rows == 4


def test_operators_are_mailed_once_per_cause_and_day(tmp_path: Path) -> None:
    """Another cause or another day gives another mail. No warehouse is needed."""
    records, given = Records(tmp_path), make_settings(tmp_path)

    def mailed(kind: operators.NoticeKind, key: str, now: datetime) -> list[Any]:
        return operators.notify(given, records, kind, key, now, "aws 2026-11 v24: part 3 of 5 missing. v23 stays in place.")

    assert len(mailed("REFUSED", "aws 2026-11", NOW)) == 1
    assert mailed("REFUSED", "aws 2026-11", NOW + timedelta(hours=5)) == []
    assert len(mailed("REFUSED", "aws 2026-10", NOW)) == 1
    assert len(mailed("CHECK FAILED", "aws 2026-11", NOW)) == 1
    assert len(mailed("REFUSED", "aws 2026-11", NOW + timedelta(days=1))) == 1
    assert len(mails(tmp_path)) == 4
    message = mails(tmp_path)[next(name for name in mails(tmp_path) if name.startswith("operators.REFUSED"))]
    assert message["Subject"] == "[runspend] REFUSED: aws 2026-11 v24: part 3 of 5 missing"
    assert (message["To"], message["X-Runspend-Kind"]) == ("oncall@acme.com", "refused")
    assert all(title in text_of(message) for title in ("IMPACT", "NEXT STEPS", "tries again"))


def test_two_runs_with_the_real_records(tmp_path: Path) -> None:
    """The records on disk behave like the records in memory."""
    given = make_settings(tmp_path, budget())
    first = step(tmp_path, Records(tmp_path), given, cost_daily=OVER)
    assert len(first.sent) == 1
    again = step(tmp_path, Records(tmp_path), given, cost_daily=OVER)
    assert (again.sent, again.alerts.equals(first.alerts)) == ([], True)


def test_sql_is_plain_googlesql() -> None:
    """Every query passes the lint of the models."""
    from importlib.resources import files

    for path in files("runspend.actions.alert").iterdir():
        if path.name.endswith(".sql"):
            text = sql(path.name.removesuffix(".sql"))
            if path.name == "joined_runs.sql":  # a fragment that other queries put after their columns
                text = f"select c.run_id {text}"
            for name, stands_for in (
                ("budgets", "sum(effective_cost) as b0"),
                ("costs", "cost_daily"),
                ("measure", "effective_cost"),
                ("selector", "regexp_contains(team, @p0)"),
            ):
                text = text.replace(f"{{{name}}}", stands_for)
            assert lint(text) == [], path.name


def test_empty_configuration_judges_nothing(tmp_path: Path) -> None:
    """Without budgets there are two empty tables, no mail and no error."""
    result = step(tmp_path, MemoryRecords(), make_settings(tmp_path))
    assert (result.budget_status.num_rows, result.alerts.num_rows, result.errors) == (0, 0, [])
    assert isinstance(result.alerts, pa.Table)


def test_the_warehouse_is_released_before_mail_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sending mail may take minutes, and other steps can publish in the meantime."""
    with warehouse(tmp_path / "w", cost_daily=OVER, sources=[source()]):
        pass
    house, deliver = ParquetWarehouse(tmp_path / "w"), FileBackend.deliver

    def publish_meanwhile(backend: FileBackend, mail: Mail, recipients: Sequence[str]) -> dict[str, SendResult]:
        with house.step("other", "other") as other:
            other.drop("cost_daily", "2026-11", "test")
            assert other.publish()
        return deliver(backend, mail, recipients)

    monkeypatch.setattr(FileBackend, "deliver", publish_meanwhile)
    assert len(alert.run(house.reader, make_settings(tmp_path, budget()), MemoryRecords(), NOW).sent) == 1
    assert house.states("cost_daily") == {}


def test_a_thousand_refusals_are_one_mail_to_operators(tmp_path: Path) -> None:
    """If a thousand recipients are refused, as hostile tags can cause, operators get one mail. Five refusals are reported one by one."""
    records, given = MemoryRecords(), make_settings(tmp_path)
    for count in (1000, 5):
        for number in range(count):
            mail = Mail(
                f"<budget.{count}.{number}@acme.com>",
                "budget-actual",
                "r@acme.com",
                (f"n{number}@acme.com",),
                f"subject {number}",
                "",
                "",
                "",
                "",
            )
            set_outcome(records, mail, f"n{number}@acme.com", SendResult("refused", "550 5.1.1 no such user"), NOW, "smtp")
        for _ in range(2):
            operators.tell_refused(given, records, NOW)
        mailed = subjects(tmp_path)
        assert sum(s.startswith("[runspend] REFUSED: 1000 mails not delivered") for s in mailed) == 1
        assert len(mailed) == (1 if count == 1000 else 6)
    text = " ".join(text_of(next(m for m in mails(tmp_path).values() if "1000" in m["Subject"])).split())
    assert "was refused: 550 5.1.1 no such user; Runspend does not send it again" in text and "and 950 more" in text
