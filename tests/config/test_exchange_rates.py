"""Rates and prices in the configuration, the period of each rate, and exact conversion. Runspend never adds money without a rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from datetime import date, datetime, timezone
from decimal import ROUND_HALF_UP, Context, Decimal
from pathlib import Path
from typing import Any

import pytest

from runspend.actions import alert as alerts
from runspend.actions.costs.query import Selection, costs
from runspend.actions.report import plan_report, render_summary, summary_lines, write_report
from runspend.actions.report.terminal_summary import PipelineRun
from runspend.config.exchange_rates import FOREVER, Stretch, missing_rates, stretches
from runspend.config.settings import ExchangeRate, RateSettings, Settings
from runspend.core.errors import ConfigError, SourceError
from runspend.warehouse.base import Unit
from runspend.warehouse.parquet.warehouse import ParquetWarehouse
from tests.actions.alert.alert_world import budget, cost, run, warehouse
from tests.memory_records import MemoryRecords
from tests.settings_builder import read_settings

# Rates for a bill in euros: a dollar costs 0.9 euros in October and 0.8 in November.
GOING = {
    "exchange": [
        {"from": "USD", "to": "EUR", "rate": "0.9", "date": "2026-10-01", "inverse": True},
        {"from": "USD", "to": "EUR", "rate": "0.8", "date": "2026-11-01", "inverse": True},
    ]
}
NOW = datetime(2026, 11, 24, 6, tzinfo=timezone.utc)


def written(folder: Path, text: str, csv: str | None = None) -> Settings:
    if csv is not None:
        (folder / "rates.csv").write_text(csv)
    return read_settings(folder, text)


def rate(from_: str, to: str, value: str, day: str, *, inverse: bool = False) -> ExchangeRate:
    return ExchangeRate.model_validate({"from": from_, "to": to, "rate": value, "date": day, "inverse": inverse})


def test_a_list_and_a_file_say_the_same(tmp_path: Path) -> None:
    """Rates keep every digit. A file may have empty lines and omit optional values."""
    listed = written(
        tmp_path,
        "rates:\n  exchange:\n    - {from: EUR, to: USD, rate: 1.09000000000000001, date: 2026-10-01}\n    - {from: GBP, to: USD, rate: 1.3, date: 2026-10-02, inverse: true}\n",
    )
    filed = written(
        tmp_path,
        "rates: {exchange: rates.csv}\n",
        "from,to,rate,date,inverse\nEUR,USD,1.09000000000000001,2026-10-01,\n\nGBP,USD,1.3,2026-10-02,true\n",
    )
    assert listed.rates == filed.rates
    assert listed.rates.exchange[0].rate == Decimal("1.09000000000000001")
    prices = written(
        tmp_path,
        "rates: {prices: rates.csv}\n",
        "instance_type,price,currency,region\np4d.24xlarge,32.77,USD,\ng5.xlarge,1.006,USD,eu-west-1\n",
    ).rates.prices
    assert [(p.instance_type, p.region, p.price) for p in prices] == [
        ("p4d.24xlarge", None, Decimal("32.77")),
        ("g5.xlarge", "eu-west-1", Decimal("1.006")),
    ]


@pytest.mark.parametrize(
    ("text", "csv", "says"),
    [
        ("rates:\n  exchange:\n    - {from: EUR, to: USD, rate: 0, date: 2026-10-01}\n", None, "line 3, rates.exchange[0].rate: it should be greater than 0; found '0'"),
        ("rates:\n  exchange:\n    - {from: EUR, to: USD, rate: 1, date: soon}\n", None, "line 3, rates.exchange[0].date:"),
        ("rates:\n  exchange:\n    - {from: EUR, to: EUR, rate: 1, date: 2026-10-01}\n", None, "`from` and `to` are both EUR"),
        ("rates:\n  exchange:\n    - {from: EUR, to: USD, rate: 1, date: 2026-10-01}\n    - {from: EUR, to: USD, rate: 2, date: 2026-10-01}\n", None, "line 4, rates.exchange[1]: a second rate from EUR to USD of 2026-10-01"),
        ("rates:\n  exchange:\n    - {from: EUR, to: USD, rate: 0.1234567890123456789, date: 2026-10-01}\n", None, "at most 18 digits"),
        ("rates:\n  exchagne: []\n", None, "line 2, rates.exchagne: unknown key. Did you mean `exchange`? Allowed keys are exchange, prices"),
        ("rates:\n  exchange: rates.csv\n", "from,to,rate,date\nEUR,USD,1.1,2026-10-01\nEUR,USD,x,2026-11-01\n", "rates.csv, line 3, rate:"),
        ("rates:\n  exchange: rates.csv\n", "from,to,rate\nEUR,USD,1.1\n", "rates.csv, line 1: column date is missing"),
        ("rates:\n  exchange: rates.csv\n", "from,to,rate,date\nEUR,USD,1.1\n", "rates.csv, line 2: 3 values for 4 columns"),
        ("rates:\n  exchange: nothing.csv\n", None, "nothing.csv: No such file or directory"),
    ],
)  # fmt: skip
def test_mistakes_name_file_line_and_key(tmp_path: Path, text: str, csv: str | None, says: str) -> None:
    """For a CSV file, the error names the line in that file."""
    with pytest.raises(ConfigError) as error:
        written(tmp_path, text, csv)
    assert says in str(error.value)


def test_a_rate_holds_until_the_pair_s_next_one() -> None:
    """A rate holds from its date on. `inverse` also sets the opposite rate, until that pair has a rate of its own."""
    found = stretches(
        [
            rate("USD", "EUR", "0.8", "2026-09-01", inverse=True),
            rate("EUR", "USD", "1.1", "2026-10-01"),
            rate("EUR", "USD", "1.25", "2026-11-01"),
            rate("USD", "GBP", "0.7", "2026-09-01"),
        ],
        "USD",
    )
    assert found == [
        Stretch("EUR", date(2026, 9, 1), date(2026, 10, 1), 5, 4),
        Stretch("EUR", date(2026, 10, 1), date(2026, 11, 1), 11, 10),
        Stretch("EUR", date(2026, 11, 1), FOREVER, 5, 4),
    ]
    assert stretches([], "USD") == []


def test_a_missing_rate_names_pair_date_and_key() -> None:
    """The error names the first day of each currency, the number of other days, and what to write."""
    rates = stretches([rate("EUR", "USD", "1.1", "2026-10-05")], "USD")
    days = [("EUR", date(2026, 10, d)) for d in (3, 4, 5, 6)] + [("USD", date(2026, 10, 1)), ("JPY", date(2026, 10, 9))]
    error = missing_rates(rates, "USD", days)
    assert isinstance(error, SourceError)
    assert error.exit_code == 3
    assert str(error) == (
        "cannot convert to USD: no rate from EUR to USD for 2026-10-03 and 1 other day; no rate from JPY to USD for 2026-10-09. "
        "Write it under rates.exchange: {from: EUR, to: USD, rate: …, date: 2026-10-03}."
    )
    assert missing_rates(rates, "USD", days[2:4]) is None
    assert "or, if your money is EUR, `currency: EUR`" in str(missing_rates([], "USD", days[:1]))


AMOUNTS = ("90", "-90", "0.0000000000000000000001", "-123456.7890123456789012345678", "9999999999999.9999999999999999999999", "0")
FACTORS = ((10, 9), (109, 100), (1, 3), (10**18 - 1, 10**17 + 3))


@pytest.mark.parametrize(("multiplier", "divisor"), FACTORS)
def test_money_is_converted_exactly(multiplier: int, divisor: int, tmp_path: Path) -> None:
    """Converted amounts are exact to 22 decimals and rounded once. Amounts without a rate keep their currency, and other columns do not change."""
    rows = [cost("2026-10-06", a, billing_currency="EUR", experiment_id=str(n)) for n, a in enumerate(AMOUNTS)]
    rows += [cost("2026-10-05", "7", billing_currency="EUR", experiment_id="early"), cost("2026-10-06", "8", experiment_id="dollars")]
    with warehouse(tmp_path, cost_daily=rows) as reader:
        shown = reader.in_currency("USD", [Stretch("EUR", date(2026, 10, 6), FOREVER, multiplier, divisor)])
        found = {r["experiment_id"]: r for r in shown.query("select * from cost_daily").to_pylist()}
        plain = reader.query("select * from cost_daily")
        assert {r["billing_currency"] for r in plain.to_pylist()} == {"EUR", "USD"}
        assert shown.query("select * from cost_daily").schema == plain.schema
    exact = Context(prec=90, rounding=ROUND_HALF_UP)
    for n, amount in enumerate(AMOUNTS):
        wanted = exact.divide(exact.multiply(Decimal(amount), Decimal(multiplier)), Decimal(divisor)).quantize(
            Decimal(1).scaleb(-22), context=exact
        )
        assert (found[str(n)]["billing_currency"], found[str(n)]["effective_cost"], found[str(n)]["list_cost"]) == ("USD", wanted, wanted)
    assert (found["early"]["billing_currency"], found["early"]["effective_cost"]) == ("EUR", 7)
    assert (found["dollars"]["billing_currency"], found["dollars"]["effective_cost"], found["dollars"]["team"]) == ("USD", 8, "vision")


def test_sums_over_days_are_computed_again_from_their_days(tmp_path: Path) -> None:
    """Runspend converts a run's total and a machine's idle cost day by day. A row with a day without a rate stays unconverted."""
    run_key = {"tracking_server": "prod", "workspace": "default", "billing_currency": "EUR"}
    bill_key = {"source": "gcp", "billing_currency": "EUR", "billing_period": date(2026, 10, 1)}
    days = (("a", 10), ("a", 11), ("b", 9), ("b", 10))
    daily = [
        {**run_key, **bill_key, "run_id": r, "charge_date": date(2026, m, 6), "cost_kind": "compute", "effective_cost": Decimal(90)}
        for r, m in days
    ]
    lives = [
        {
            **run_key,
            "run_id": r,
            "start_month": date(2026, 10, 1),
            "effective_cost": Decimal(180),
            "compute_cost": Decimal(180),
            "cost_with_children": Decimal(180),
        }
        for r in ("a", "b")
    ]
    idle = {
        **bill_key,
        "allocated_to": "idle",
        "resource_id": "m1",
        "service_name": "VM",
        "sub_account_id": "x",
        "effective_cost": Decimal(18),
    }
    charges = [
        {**idle, "charge_id": str(d), "target_id": "idle", "charge_date": date(2026, 10, d), "effective_cost": Decimal(9)} for d in (1, 2)
    ]
    with warehouse(tmp_path, run_costs_daily=daily, run_costs=lives, unallocated_costs=[idle], cost_allocations=charges) as reader:
        shown = reader.in_currency("USD", stretches(RateSettings.model_validate(GOING).exchange, "USD"))
        runs = {r["run_id"]: r for r in shown.query("select * from run_costs").to_pylist()}
        assert (runs["a"]["billing_currency"], runs["a"]["effective_cost"], runs["a"]["compute_cost"], runs["a"]["cost_with_children"]) == (
            "USD",
            Decimal("212.5"),
            Decimal("212.5"),
            None,
        )
        assert (runs["b"]["billing_currency"], runs["b"]["effective_cost"]) == ("EUR", 180)
        machine = shown.query("select * from unallocated_costs").to_pylist()[0]
        assert (machine["billing_currency"], machine["effective_cost"]) == ("USD", 20)


def euros(day: str, amount: str, **more: Any) -> dict[str, Any]:
    return cost(day, amount, billing_currency="EUR", source="gcp", **more)


def judge(folder: Path, rates: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], *budgets: Mapping[str, Any]) -> alerts.AlertResult:
    given = Settings.model_validate(
        {"home": folder / "home", "budgets": list(budgets), "rates": rates, "mail": {"operators": ["oncall@acme.com"]}}
    )
    with warehouse(folder / "warehouse", cost_daily=rows, runs=[run("a")]) as reader:
        return alerts.run(lambda: nullcontext(reader), given, MemoryRecords(), NOW)


def test_a_budget_adds_bills_of_several_currencies_by_the_rates_of_their_days(tmp_path: Path) -> None:
    """In October, 100 dollars plus 90 euros at 0.9 are 200 dollars. In November at 0.8, they are 212.50, and the mail shows it."""
    rows = [cost("2026-10-06", "100"), euros("2026-10-06", "90")]
    result = judge(
        tmp_path,
        GOING,
        [*rows, cost("2026-11-06", "100"), euros("2026-11-06", "90")],
        budget(amount="200", every="month"),
        budget("year", amount="9999", every="year"),
    )
    spent = {r["budget"]: (r["spent"], r["currency"]) for r in result.budget_status.to_pylist()}
    assert spent == {"vision": (Decimal("212.5"), "USD"), "year": (Decimal("412.5"), "USD")}
    text = result.deliveries[0].mail.text
    assert "has spent 212.50 of 200.00 USD" in text
    assert "212.50" in text.partition("TOP COSTS")[2]
    assert (result.notes, result.errors) == ([], [])


def test_a_budget_with_a_missing_rate_is_not_judged_and_the_others_are(tmp_path: Path) -> None:
    """The exit code is 3, and the error names the pair and the date. Budgets that need no rate are judged as usual."""
    rates = {"exchange": [{"from": "EUR", "to": "USD", "rate": "1.1", "date": "2026-11-07"}]}
    rows = [cost("2026-11-06", "100", team="nlp"), euros("2026-11-06", "90"), euros("2026-11-08", "10")]
    result = judge(tmp_path, rates, rows, budget(), budget("nlp", **{"for": {"team": "nlp"}, "amount": "9999"}))
    spent = {r["budget"]: r["spent"] for r in result.budget_status.to_pylist()}
    assert spent == {"vision": None, "nlp": 100}
    assert result.notes == [
        "budget vision was not judged for November: no rate from EUR to USD for 2026-11-06: write it under rates.exchange"
    ]
    assert [e.exit_code for e in result.errors] == [3]
    assert "no rate from EUR to USD for 2026-11-06" in str(result.errors[0])


@pytest.fixture
def october(tmp_path: Path) -> ParquetWarehouse:
    """Return a warehouse with 100 dollars and 90 euros from two bills on one day in October, and 90 euros in November."""
    rows = [
        cost("2026-10-06", "100", experiment_name="a"),
        euros("2026-10-06", "90", experiment_name="b"),
        euros("2026-11-06", "90", experiment_name="b"),
    ]
    loads = [
        {"source": source, "billing_period": date(2026, m, 1), "version": "v", "version_number": 1, "state": "current", "billing_currency": code, "covered_until": datetime(2026, m, 7, tzinfo=timezone.utc),
         **{f"{k}_cost": Decimal(c) for k in ("list", "contracted", "effective", "billed")}}
        for source, m, code, c in (("aws", 10, "USD", 100), ("gcp", 10, "EUR", 90), ("gcp", 11, "EUR", 90))
    ]  # fmt: skip
    with warehouse(tmp_path / "warehouse", cost_daily=rows, billing_loads=loads, runs=[run("a")]):
        pass
    return ParquetWarehouse(tmp_path / "warehouse")


def settings_at(warehouse: ParquetWarehouse, rates: Mapping[str, Any], **more: Any) -> Settings:
    return Settings.model_validate({"home": warehouse.root.parent, "warehouse": {"uri": str(warehouse.root)}, "rates": rates, **more})


SINCE_OCTOBER = Selection(since=date(2026, 10, 1))


def test_costs_are_in_the_configured_currency(october: ParquetWarehouse) -> None:
    """Costs are 200 dollars in October and 112.50 in November, or 270 euros in total. Runspend also shows each currency separately if asked."""
    given = settings_at(october, GOING)
    rows = costs(given, ["period"], SINCE_OCTOBER, top=9, measure="effective").to_pylist()
    assert [(f"{r['billing_period']:%m}", r["billing_currency"], r["effective_cost"]) for r in rows] == [
        ("10", "USD", 200),
        ("11", "USD", Decimal("112.5")),
    ]
    in_euros = settings_at(october, {"exchange": [{"from": "USD", "to": "EUR", "rate": "0.9", "date": "2026-10-01"}]}, currency="EUR")
    assert sum(r["effective_cost"] for r in costs(in_euros, ["source"], SINCE_OCTOBER, top=9, measure="effective").to_pylist()) == 270
    alone = costs(given, ["period"], SINCE_OCTOBER, top=9, measure="effective", is_exchanged=False).to_pylist()
    assert sorted((r["billing_currency"], r["effective_cost"]) for r in alone) == [("EUR", 90), ("EUR", 90), ("USD", 100)]


def test_costs_without_a_rate_are_refused(october: ParquetWarehouse) -> None:
    """Runspend refuses to show a total that would omit some cost."""
    with pytest.raises(
        SourceError, match=r"no rate from EUR to USD for 2026-10-06 and 1 other day.*rates\.exchange.*--each-currency"
    ) as error:
        costs(settings_at(october, {}), ["period"], SINCE_OCTOBER, top=9, measure="effective")
    assert error.value.exit_code == 3


def test_the_report_and_the_summary_are_in_one_currency(october: ParquetWarehouse, tmp_path: Path) -> None:
    """The page has one section for all currencies. Bills reconcile in their own currency, and the summary shows 200 dollars."""
    with october.reader() as reader:
        figures = plan_report(reader, "2026-10", settings=settings_at(october, GOING), now=NOW)
    assert [(c.currency, c.bill.effective_cost, c.converted_from) for c in figures.currencies] == [("USD", 200, ("EUR",))]
    assert [(r.source, r.currency, r.export.effective_cost) for r in figures.currencies[0].reconciliation] == [
        ("gcp", "EUR", 90),
        ("aws", "USD", 100),
    ]
    assert figures.problem is None
    page = write_report(figures, tmp_path / "reports").read_text()
    assert "Charges in EUR are converted to USD at the rate" in page
    assert ">gcp, EUR " in (tmp_path / "reports" / "2026-10-audit.html").read_text()
    assert "2026-10.USD.bill=200" in summary_lines([figures], PipelineRun(NOW, 1))
    assert "OCTOBER 2026 · effective cost · USD (EUR converted)" in render_summary([figures], PipelineRun(NOW, 1))


def test_a_report_without_a_rate_keeps_the_currencies_apart_and_says_why(october: ParquetWarehouse, tmp_path: Path) -> None:
    """Runspend adds no currencies together, and the page states the reason."""
    with october.reader() as reader:
        figures = plan_report(reader, "2026-10", settings=settings_at(october, {}), now=NOW)
    assert [(c.currency, c.bill.effective_cost) for c in figures.currencies] == [("USD", 100), ("EUR", 90)]
    assert figures.problem is not None
    assert "no rate from EUR to USD for 2026-10-06" in figures.problem
    assert "no rate from EUR to USD for 2026-10-06" in write_report(figures, tmp_path / "reports").read_text()


def test_one_currency_needs_no_rates(tmp_path: Path) -> None:
    """If all cost is in `currency`, Runspend converts nothing, even if there are rates."""
    with warehouse(tmp_path / "warehouse", cost_daily=[cost("2026-10-06", "100")]) as reader:
        asked: list[str] = []
        reader.in_currency = lambda *_: asked.append("converted")  # type: ignore[method-assign]  # to see that it is not called
        figures = plan_report(reader, "2026-10", settings=Settings.model_validate({"rates": GOING}), now=NOW)
    assert figures.currencies[0].bill.effective_cost == 100
    assert asked == []
    assert Unit("cost_daily", "2026-10", "test") in ParquetWarehouse(tmp_path / "warehouse").states()
