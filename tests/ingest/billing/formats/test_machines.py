"""Machines that you own, as a bill: hours that sum to the month, purchases that are paid off, machines that come and go."""

from __future__ import annotations

import json
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from runspend.config.settings import BillSource, load_settings, show_settings
from runspend.core.errors import ConfigError, SourceRefused
from runspend.ingest.billing import probe_source
from runspend.ingest.billing.formats import machines as made
from tests.focus_files import Nights, only

BOX = {
    "resource_id": "gpubox", "gpus": 4, "from": "2026-01-01", "purchase": {"amount": 28800, "months": 36},
    "per_month": 210, "power": {"per_kwh": 0.31, "watts": 650},
}  # fmt: skip
NEW_BOX = {**BOX, "from": "2026-11-01"}  # billed in two months
AUTUMN_BOX = {**BOX, "from": "2026-09-01"}  # billed in four months
DECEMBER = datetime(2026, 12, 2, 7, 30, tzinfo=timezone.utc)


def bill(*machines: dict[str, Any]) -> BillSource:
    return BillSource.model_validate({"name": "gpubox", "format": "machines", "currency": "EUR", "machines": list(machines)})


def loaded(tmp_path: Path, *machines: dict[str, Any], now: datetime = DECEMBER) -> Nights:
    nights = Nights(tmp_path / "work", bill(*machines))
    nights.load(now=now)
    return nights


@pytest.fixture(scope="module")
def year_of_box(tmp_path_factory: pytest.TempPathFactory) -> Nights:
    """The start page's box, loaded on 2 December. Read-only."""
    return loaded(tmp_path_factory.mktemp("box"), BOX)


def month_of(nights: Nights, period: str, resource: str = "gpubox") -> list[dict[str, Any]]:
    return [line for line in nights.lines(period) if line["resource_id"] == resource]


def test_the_box_of_the_start_page_costs_its_month_exactly(year_of_box: Nights) -> None:
    """28,800 over 36 months, 210 for the rack, and 0.65 kW at 0.31 for 720 hours. Each hour is right to ten digits."""
    november = year_of_box.lines("2026-11")
    assert (len(november), year_of_box.total("2026-11")) == (720, Decimal("1155.08"))
    assert {round(line["effective_cost"], 4) for line in november} == {Decimal("1.6043")}
    hour = Decimal("1155.08") / 720
    assert all(abs(line["billed_cost"] - hour) < Decimal("1e-9") for line in november)
    assert all(line["billed_cost"] == line["effective_cost"] == line["list_cost"] == line["contracted_cost"] for line in november)


@pytest.mark.parametrize(("period", "hours"), [("2026-02", 672), ("2026-03", 744), ("2026-04", 720)])
def test_a_month_has_its_rent_for_any_number_of_hours(year_of_box: Nights, period: str, hours: int) -> None:
    """800 / 744 is not a finite decimal, but the 744 shares sum to 800."""
    assert len(year_of_box.lines(period)) == hours
    assert year_of_box.total(period) == 800 + 210 + Decimal("0.65") * Decimal("0.31") * hours


def test_a_line_has_its_hour_machine_and_account(tmp_path: Path) -> None:
    """A line has its hour, the machine and its hardware, and the billed account. The month is final at once."""
    box = {
        **BOX,
        "cpus": 64,
        "memory_gb": 251.5,
        "instance_type": "tower",
        "region": "lab",
        "account": "physics",
        "tags": {"team": "vision"},
    }
    nights = loaded(tmp_path, box)
    line = min(nights.lines("2026-11"), key=lambda line: line["charge_period_start"])
    assert line["charge_period_start"] == datetime(2026, 11, 1, tzinfo=timezone.utc)
    assert line["charge_period_end"] == datetime(2026, 11, 1, 1, tzinfo=timezone.utc)
    assert (line["machine_gpus"], line["machine_cpus"], line["machine_memory_gb"], line["instance_type"]) == (4, 64, 251.5, "tower")
    assert (line["billing_currency"], line["billing_account_id"], line["sub_account_id"], line["region_id"]) == (
        "EUR",
        "gpubox",
        "physics",
        "lab",
    )
    assert (line["charge_category"], line["service_category"], line["resource_key"]) == ("Usage", "Compute", "gpubox")
    assert (line["billed_nanoseconds"], json.loads(line["tags"])) == (3_600_000_000_000, {"team": "vision"})
    [book] = nights.rows("billing_loads", "2026-11")
    assert book["is_invoiced"] is True
    assert book["covered_until"] == datetime(2026, 12, 1, tzinfo=timezone.utc)


def test_only_hours_that_are_over_are_billed(tmp_path: Path, year_of_box: Nights) -> None:
    """At 07:30 on the second day of a month, 31 of its hours are over. The total is their part of the month."""
    december = year_of_box.lines("2026-12")
    assert max(line["charge_period_end"] for line in december) == datetime(2026, 12, 2, 7, tzinfo=timezone.utc)
    assert len(december) == 31
    whole = 800 + 210 + Decimal("0.65") * Decimal("0.31") * 744
    assert abs(year_of_box.total("2026-12") - whole * 31 / 744) < Decimal("1e-9")
    assert loaded(tmp_path / "new-year", NEW_BOX, now=datetime(2027, 1, 1, 0, 59, tzinfo=timezone.utc)).lines("2027-01") == []


def test_a_purchase_is_paid_off_to_the_last_digit(tmp_path: Path) -> None:
    """1,000 over 7 months from 31 January: months have 28 to 31 days, and no share is a finite decimal. The sum is 1,000."""
    box = {"resource_id": "gpubox", "from": "2026-01-31", "purchase": {"amount": 1000, "months": 7}}
    nights = loaded(tmp_path, box)
    periods = [f"2026-{month:02d}" for month in range(1, 13)]
    assert sum(nights.total(period) for period in periods) == 1000
    paid = [line for period in periods for line in nights.lines(period) if line["billed_cost"]]
    assert min(line["charge_period_start"] for line in paid) == datetime(2026, 1, 31, tzinfo=timezone.utc)
    assert max(line["charge_period_end"] for line in paid) == datetime(2026, 8, 31, tzinfo=timezone.utc)
    assert len(nights.lines("2026-11")) == 720, "the machine still runs and costs nothing"
    first = [line for line in paid if line["charge_period_start"] < datetime(2026, 2, 28, tzinfo=timezone.utc)]
    assert abs(sum(line["billed_cost"] for line in first) - Decimal(1000) / 7) < Decimal("1e-9")


def test_a_purchase_may_begin_before_the_machines_first_day(tmp_path: Path) -> None:
    """It was bought in January 2025 for two years. The cost before its first day here is not billed, and the rest is spread as before."""
    box = {"resource_id": "gpubox", "from": "2026-11-01", "purchase": {"amount": 2400, "months": 24, "from": "2025-01-01"}}
    nights = loaded(tmp_path, box, now=datetime(2027, 2, 10, tzinfo=timezone.utc))
    assert [nights.total(period) for period in ("2026-11", "2026-12", "2027-01")] == [100, 100, 0]
    assert ("billing_lines", "2026-10") not in nights.store


def test_machines_come_and_go_and_change_their_price(tmp_path: Path) -> None:
    """From the 16th the rack costs more, by a second entry of the same machine. Another machine leaves on the 10th, its last day."""
    nights = loaded(
        tmp_path,
        {"resource_id": "gpubox", "from": "2026-11-01", "to": "2026-11-15", "per_month": 210},
        {"resource_id": "gpubox", "from": "2026-11-16", "per_month": 240},
        {"resource_id": "old", "from": "2026-11-03", "to": "2026-11-10", "per_hour": "0.125"},
    )
    assert sum(line["billed_cost"] for line in month_of(nights, "2026-11")) == 105 + 120
    old = month_of(nights, "2026-11", "old")
    assert (len(old), sum(line["billed_cost"] for line in old)) == (8 * 24, Decimal("24"))
    assert max(line["charge_period_end"] for line in old) == datetime(2026, 11, 11, tzinfo=timezone.utc)
    assert {line["resource_id"] for line in nights.lines("2026-12")} == {"gpubox"}


def test_a_new_price_from_a_day_on_leaves_earlier_months(tmp_path: Path) -> None:
    """The second entry repeats the purchase with its first day. November has both prices, and October gets no new version."""
    nights = loaded(tmp_path, AUTUMN_BOX)
    first, second = (
        {**AUTUMN_BOX, "to": "2026-11-15"},
        {**AUTUMN_BOX, "from": "2026-11-16", "per_month": 270, "purchase": {"amount": 28800, "months": 36, "from": "2026-09-01"}},
    )
    states = {period.period: period.state for period in nights.load(now=DECEMBER, source=bill(first, second)).periods}
    assert states == {"2026-09": "unchanged", "2026-10": "unchanged", "2026-11": "loaded", "2026-12": "loaded"}
    assert nights.total("2026-11") == 800 + 105 + 135 + Decimal("145.08")


def test_the_same_months_are_the_same_bytes(tmp_path: Path) -> None:
    """A week later, only the open month has a new version. Loading again at the same time makes none."""
    nights = loaded(tmp_path, AUTUMN_BOX)
    later = DECEMBER + timedelta(days=7)
    states = {period.period: period.state for period in nights.load(now=later).periods}
    assert states == {"2026-09": "unchanged", "2026-10": "unchanged", "2026-11": "unchanged", "2026-12": "loaded"}
    assert {period.state for period in nights.load(now=later).periods} == {"unchanged"}
    assert len(nights.lines("2026-12")) == 31 + 7 * 24


def test_a_new_price_restates_the_months_and_a_large_fall_must_be_accepted(tmp_path: Path) -> None:
    """Corrected power gives every month a new version with its difference.

    Removing a machine from the file is refused until you accept it.
    """
    second = {**NEW_BOX, "resource_id": "second", "purchase": {"amount": 72000, "months": 36}}
    nights = loaded(tmp_path, NEW_BOX, second)
    before = nights.total("2026-11")
    dearer = bill({**NEW_BOX, "per_month": 220}, second)
    assert only(nights.load(now=DECEMBER, source=dearer), "2026-11").state == "loaded"
    assert nights.total("2026-11") == before + 10
    assert sum(row["billed_cost"] for row in nights.rows("bill_changes", "2026-11") if row["version_number"] == 2) == 10
    refused = only(nights.load(now=DECEMBER, source=bill({**NEW_BOX, "per_month": 220})), "2026-11")
    assert refused.state == "refused" and "fell from 3520.16 to 1165.08 EUR" in str(refused.error)
    accepted = nights.load(now=DECEMBER, source=bill({**NEW_BOX, "per_month": 220}), accept=["gpubox:2026-11"])
    assert only(accepted, "2026-11").state == "loaded" and nights.total("2026-11") == Decimal("1165.08")


def test_a_bill_without_a_finished_hour_is_refused(tmp_path: Path) -> None:
    """Before the first hour is over, there is nothing to bill."""
    with pytest.raises(SourceRefused, match=r"none of its machines has run for an hour yet; the first begins on 2027-01-01"):
        loaded(tmp_path, {**BOX, "from": "2027-01-01"})


def test_far_dates_do_no_harm(tmp_path: Path) -> None:
    """A machine may stay forever, and a purchase may begin after its last day."""
    box = {
        "resource_id": "gpubox",
        "from": "2026-11-01",
        "to": "9999-12-31",
        "per_month": 1,
        "purchase": {"amount": 1, "months": 600, "from": "9998-01-31"},
    }
    assert loaded(tmp_path, box).total("2026-11") == 1


# --- measured watts ----------------------------------------------------------------------------------------------------

MEASURED = {**NEW_BOX, "power": {"per_kwh": 0.31, "watts": "measured", "idle_watts": 87.5}}
NOVEMBER = datetime(2026, 11, 1, tzinfo=timezone.utc)


def drawn(hours: dict[int, tuple[int, int]]) -> dict[str, dict[datetime, tuple[int, int]]]:
    """Return measured hours of November: the mean milliwatts, and for how many milliseconds."""
    return {"gpubox": {NOVEMBER + timedelta(hours=n): measured for n, measured in hours.items()}}


def power_of(hours: dict[int, tuple[int, int]], month_hours: int = 720) -> Fraction:
    """Return the cost of a month's power, hour by hour, without rounding."""
    energy = Fraction(0)  # watt-hours
    for hour in range(month_hours):
        milliwatts, milliseconds = hours.get(hour, (0, 0))
        measured = Fraction(milliseconds, 3_600_000)
        energy += Fraction(milliwatts, 1000) * measured + Fraction("87.5") * (1 - measured)
    return energy * Fraction("0.31") / 1000


def test_measured_watts_count_for_the_measured_time(tmp_path: Path) -> None:
    """Two hours are measured in full, one for a third, and one for a millisecond.

    The month is exact to ten digits, and each line states what was measured.
    """
    hours = {5: (1_287_123, 3_600_000), 6: (1_300_001, 3_600_000), 7: (999_999, 1_200_000), 719: (7, 1)}
    nights = Nights(tmp_path / "work", bill(MEASURED))
    nights.load(now=DECEMBER, drawn=drawn(hours))
    lines = sorted(nights.lines("2026-11"), key=lambda line: line["charge_period_start"])
    exact = 1010 + power_of(hours)
    assert len(lines) == 720
    assert nights.total("2026-11") == Decimal(int(exact * 10**10)) / 10**10 == Decimal("1030.3720499957")
    hourly = [Fraction(1010, 720) + power_of({0: hours[n]} if n in hours else {}, 1) for n in (4, 5, 6, 7, 719)]
    for n, cost in zip((4, 5, 6, 7, 719), hourly, strict=True):
        assert abs(Fraction(lines[n]["billed_cost"]) - cost) < Fraction(3, 10**10), n
    details = [json.loads(lines[n]["sku_price_details"]) for n in (4, 5, 7, 719)]
    assert details == [
        {"GpuCount": 4, "x_IdleWatts": 87.5, "x_IdleSeconds": 3600.0},
        {"GpuCount": 4, "x_MeasuredWatts": 1287.123, "x_MeasuredSeconds": 3600.0},
        {"GpuCount": 4, "x_MeasuredWatts": 999.999, "x_MeasuredSeconds": 1200.0, "x_IdleWatts": 87.5, "x_IdleSeconds": 2400.0},
        {"GpuCount": 4, "x_MeasuredWatts": 0.007, "x_MeasuredSeconds": 0.001, "x_IdleWatts": 87.5, "x_IdleSeconds": 3599.999},
    ]
    assert {line["machine_gpus"] for line in lines} == {4}


def test_a_month_measured_at_650_watts_costs_the_same_as_on_the_start_page(tmp_path: Path) -> None:
    """At 650 watts the month costs 1,155.08, measured or configured."""
    nights = Nights(tmp_path / "work", bill(MEASURED))
    nights.load(now=DECEMBER, drawn=drawn(dict.fromkeys(range(720), (650_000, 3_600_000))))
    assert nights.total("2026-11") == Decimal("1155.08")


def test_without_measurements_every_hour_has_the_idle_watts(tmp_path: Path) -> None:
    """Before any run measured the power, the machine draws 87.5 W for 720 hours."""
    nights = loaded(tmp_path, MEASURED)
    assert nights.total("2026-11") == 1010 + Decimal("0.0875") * Decimal("0.31") * 720
    other = Nights(tmp_path / "other", bill(MEASURED))
    other.load(now=DECEMBER, drawn={"another box": drawn({5: (1_000_000, 3_600_000)})["gpubox"]})
    assert other.lines("2026-11") == nights.lines("2026-11")


def test_late_measurements_restate_their_month_and_no_other(tmp_path: Path) -> None:
    """Measurements of November make a version of November only. Without new ones the bytes are the same, also in a later load."""
    nights = loaded(tmp_path, {**MEASURED, "from": "2026-10-01"})
    hours = {5: (1_287_123, 3_600_000)}
    states = {period.period: period.state for period in nights.load(now=DECEMBER, drawn=drawn(hours)).periods}
    assert states == {"2026-10": "unchanged", "2026-11": "loaded", "2026-12": "unchanged"}
    [difference] = [row["billed_cost"] for row in nights.rows("bill_changes", "2026-11") if row["version_number"] == 2]
    assert difference == Decimal("0.3718831300")  # 1.287123 kW minus 0.0875 kW, at 0.31, cut after ten digits
    later = {period.period: period.state for period in nights.load(now=DECEMBER + timedelta(hours=3), drawn=drawn(hours)).periods}
    assert later == {"2026-10": "unchanged", "2026-11": "unchanged", "2026-12": "loaded"}


def test_only_the_hours_of_the_entry_are_measured(tmp_path: Path) -> None:
    """A second entry measures the machine from the 16th on. Earlier hours have the configured watts of the first entry."""
    nights = Nights(
        tmp_path / "work",
        bill(
            {"resource_id": "gpubox", "from": "2026-11-01", "to": "2026-11-15", "power": {"per_kwh": 0.5, "watts": 1000}},
            {"resource_id": "gpubox", "from": "2026-11-16", "power": {"per_kwh": 0.5, "watts": "measured", "idle_watts": 100}},
        ),
    )
    nights.load(now=DECEMBER, drawn=drawn({0: (2_000_000, 3_600_000), 360: (2_000_000, 3_600_000)}))
    assert nights.total("2026-11") == 360 * Decimal("0.5") + 1 + 359 * Decimal("0.05")


def test_a_probe_reads_the_bill_without_loading_it(tmp_path: Path) -> None:
    """The figures are those that `runspend doctor` shows."""
    seen = probe_source(bill({**BOX, "from": "2026-01-01", "to": "2026-02-28"}))
    assert (seen["format"], seen["periods"], seen["rows"], seen["quarantined"]) == ("machines", ["2026-01", "2026-02"], 744 + 672, 0)
    assert seen["billed"] == {"EUR": Decimal("2305.324")}  # 2 x 1010, and 0.2015 an hour for 1416 hours


def test_a_purchase_is_spread_over_calendar_months() -> None:
    """The n-th month ends n calendar months after the first day, or on the last day of a shorter month."""
    machine = bill({"resource_id": "a", "from": "2027-10-31", "purchase": {"amount": 3, "months": 5}}).machines[0]
    start, end = datetime(2028, 2, 1, tzinfo=timezone.utc), datetime(2028, 3, 1, tzinfo=timezone.utc)
    assert [(rent.start.date(), rent.end.date(), rent.units) for rent in made.rents(machine, start, end)] == [
        (date(2028, 1, 31), date(2028, 2, 29), 6_000_000_000),
        (date(2028, 2, 29), date(2028, 3, 31), 6_000_000_000),
    ]


# --- what the file may contain -----------------------------------------------------------------------------------------


def refused(tmp_path: Path, machines: str, more: str = "") -> str:
    path = tmp_path / "runspend.yaml"
    path.write_text(f"billing:\n  - name: box\n    format: machines\n{more}    machines:\n{machines}", encoding="utf-8")
    with pytest.raises(ConfigError) as raised:
        load_settings(path, {})
    return str(raised.value)


@pytest.mark.parametrize(
    ("machine", "says"),
    [
        ("{resource_id: a, from: 2026-01-01, per_mont: 3}", "line 5, billing[0].machines[0].per_mont: unknown key. Did you mean `per_month`?"),
        ("{resource_id: a, from: 2026-01-01, power: {per_kwh: 1, watt: 3}}", "power.watt: unknown key. Did you mean `watts`?"),
        ("{resource_id: a, from: 2026-01-01}", "the machine has no cost. Write at least one of `purchase`, `per_month`, `per_hour` and `power`"),
        ("{resource_id: a, per_month: 3}", "machines[0].from: this key is missing"),
        ("{resource_id: a, from: 2026-02-01, to: 2026-01-31, per_month: 3}", "`to` is 2026-01-31, before `from`, 2026-02-01"),
        ("{resource_id: a, from: 1999-12-31, per_month: 3}", "`from` is before the year 2000"),
        ("{resource_id: a, from: 2026-01-01, per_month: -3}", "machines[0].per_month: it should be greater than 0"),
        ("{resource_id: a, from: 2026-01-01, purchase: {amount: 3, months: 0}}", "purchase.months: it should be greater than or equal to 1"),
        ("{resource_id: a, from: 2026-01-01, power: {per_kwh: 1, watts: measured}}", "machines[0].power: `watts: measured` needs `idle_watts`, the power while no run measures it"),
        ("{resource_id: a, from: 2026-01-01, power: {per_kwh: 1, watts: 650, idle_watts: 90}}", "`idle_watts` belongs to `watts: measured`. A number in `watts` is the constant power"),
        ("{resource_id: a, from: 2026-01-01, power: {per_kwh: 1, watts: measured, idle_watts: 0}}", "power.idle_watts: it should be greater than 0"),
        ("{resource_id: a, from: 2026-01-01, power: {per_kwh: 1, watts: mesured}}", "power.watts: it should be a valid decimal; found 'mesured', or allowed values are 'measured'"),
        (
            "{resource_id: a, from: 2026-01-01, to: 2026-07-01, per_month: 3}\n      - {resource_id: a, from: 2026-07-01, per_month: 4}",
            "`machines[1]` and `machines[0]` are both a on 2026-07-01, so that day would be charged twice",
        ),
    ],
)  # fmt: skip
def test_mistakes_are_reported_where_they_are(tmp_path: Path, machine: str, says: str) -> None:
    """The error has the line, the key and the allowed values."""
    assert says in refused(tmp_path, f"      - {machine}\n")


def test_machines_have_no_address(tmp_path: Path) -> None:
    """Runspend would not read a folder next to the list."""
    assert "`format: machines` reads no files. Leave `uri` out" in refused(
        tmp_path, "      - {resource_id: a, from: 2026-01-01, per_month: 3}\n", "    uri: bills\n"
    )


def test_amounts_are_shown_as_people_write_them(tmp_path: Path) -> None:
    """`runspend config` prints a configuration with the same meaning: 28800 does not become 2.88E+4."""
    path = tmp_path / "runspend.yaml"
    path.write_text(json.dumps({"billing": [{"name": "box", "format": "machines", "machines": [BOX]}]}), encoding="utf-8")
    settings = load_settings(path, {})
    shown = show_settings(settings)
    assert 'amount: "28800"' in shown and 'watts: "650"' in shown and 'from: "2026-01-01"' in shown
    path.write_text(shown, encoding="utf-8")
    assert load_settings(path, {}).model_dump() == settings.model_dump()


def test_a_bill_has_the_currency_of_the_file_unless_it_states_its_own(tmp_path: Path) -> None:
    """The `currency` of a bill wins. A value that is not in the file is shown as a default."""
    path = tmp_path / "runspend.yaml"
    machine = "machines: [{resource_id: a, from: 2026-01-01, per_month: 3}]"
    path.write_text(
        f"currency: EUR\nbilling:\n  - {{name: box, format: machines, {machine}}}\n  - {{name: other, format: machines, currency: CHF, {machine}}}\n"
    )
    assert [source.currency for source in load_settings(path, {}).billing] == ["EUR", "CHF"]
    with pytest.raises(ConfigError, match="it has no currency"):
        made.open_place(BillSource.model_validate({"name": "box", "format": "machines", "machines": [BOX]}), tmp_path, DECEMBER)
