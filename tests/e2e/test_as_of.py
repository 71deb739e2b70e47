"""`runspend costs --as-of` shows the bill as it was known on an earlier day, with restated, corrected and late months."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path

import pytest
from click.testing import CliRunner

from runspend.actions.costs.as_of import bill_as_of
from runspend.actions.costs.query import Selection
from runspend.config.settings import Settings
from runspend.core.errors import CheckFailed, UsageError
from runspend.interfaces.cli import cli
from runspend.pipeline import load
from runspend.warehouse.base import Unit
from runspend.warehouse.factory import open_warehouse
from tests.focus_files import month, row, write_csv

UTC = timezone.utc
DAYS = [datetime(2026, 11, day, 6, tzinfo=UTC) for day in (20, 21, 22, 23)]


class World:
    """One bill in one folder, which tests load on chosen days."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "runspend.yaml"
        self.bills = folder / "bills"
        self.bills.mkdir()
        self.path.write_text(
            json.dumps(
                {
                    "home": "home",
                    "warehouse": {"uri": "home/warehouse"},
                    "billing": [{"name": "aws", "uri": "bills", "late_after": "1000d"}],
                }
            )
        )
        self.settings = Settings.model_validate(json.loads(self.path.read_text()), context={"base": str(folder)})

    def deliver(self, name: str, rows: Sequence[Mapping[str, str]], now: datetime, *, at: datetime | None = None, code: int = 0) -> None:
        """Write a file and load the bill."""
        write_csv(self.bills / name, rows, at=at or now)
        self.load(now, code=code)

    def load(self, now: datetime, *, code: int = 0) -> None:
        """Load the bill once."""
        outcome = load(self.settings, now=now)
        assert outcome.exit_code == code, outcome.problems

    def costs(self, *arguments: str) -> dict[tuple[str, ...], Decimal]:
        """Return the command's answer: keys -> money."""
        done = CliRunner().invoke(cli, ["costs", "--config", str(self.path), "--json", *arguments], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return {tuple(str(v) for v in list(r.values())[:-2]): Decimal(list(r.values())[-1]) for r in json.loads(done.output)}

    def totals(self) -> dict[str, Decimal]:
        """Return the billed cost by billing period of the current lines."""
        with open_warehouse(self.settings).reader() as reader:
            rows = reader.query("select billing_period, sum(billed_cost) as cost from billing_lines group by billing_period").to_pylist()
        return {f"{r['billing_period']:%Y-%m}": r["cost"] for r in rows}


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A bill without a file."""
    return World(tmp_path)


NOVEMBER = month("2026-11")


def test_an_open_month_that_is_delivered_again_counts_once(world: World) -> None:
    """The bill is 15.00 on the 20th and 12.50 from the 21st on, even if the older delivery is loaded again."""
    first = [row("10.00", **NOVEMBER, ResourceId="a"), row("5.00", **NOVEMBER, ResourceId="b")]
    second = [row("10.00", **NOVEMBER, ResourceId="a2"), row("2.50", **NOVEMBER, ResourceId="b2")]
    world.deliver("nov.csv", first, DAYS[0])
    world.deliver("nov.csv", second, DAYS[1])
    assert world.totals() == {"2026-11": Decimal("12.50")}
    world.deliver("nov.csv", first, DAYS[2], at=DAYS[0], code=3)
    assert world.totals() == {"2026-11": Decimal("12.50")}
    by_period = ("--by", "period", "--measure", "billed")
    assert world.costs("--as-of", "2026-11-20", *by_period) == {("2026-11-01",): Decimal(15)}
    for day in ("2026-11-21", "2026-11-22", "2027-01-01"):
        assert world.costs("--as-of", day, *by_period) == {("2026-11-01",): Decimal("12.50")}
    assert world.costs("--as-of", "2026-11-21T05:59", *by_period) == {("2026-11-01",): Decimal(15)}
    assert world.costs("--as-of", "2026-11-21T06:00", *by_period) == {("2026-11-01",): Decimal("12.50")}


def test_a_closed_month_is_corrected_in_a_later_one(world: World) -> None:
    """June's corrections of May do not change May's invoice, and sum to zero by charge month. By resource, they move money."""
    may = {**month("2025-05"), "ChargePeriodStart": "2025-05-01T00:00:00Z", "ChargePeriodEnd": "2025-05-01T01:00:00Z"}
    june = {
        **may,
        **{k: v for k, v in month("2025-06").items() if k.startswith("Billing")},
        "ChargeClass": "Correction",
        "InvoiceId": "inv-6",
    }
    world.deliver("may.csv", [row("1500", **may, ResourceId="R-111", ChargeClass="", InvoiceId="inv-5")], DAYS[0])
    world.deliver(
        "june.csv",
        [row(cost, **june, ResourceId=resource) for cost, resource in (("-1500", "R-111"), ("1200", "R-111"), ("300", "R-222"))],
        DAYS[1],
    )
    assert world.totals() == {"2025-05": Decimal(1500), "2025-06": Decimal(0)}
    for day in ("2026-11-20", "2026-11-21"):
        assert world.costs("--as-of", day, "--by", "period") == {("2025-05-01",): Decimal(1500)}
        assert world.costs("--as-of", day, "--by", "day") == {("2025-05-01",): Decimal(1500)}
    with open_warehouse(world.settings).reader() as reader:
        rows = reader.query("select resource_id, sum(billed_cost) as cost from billing_lines group by resource_id").to_pylist()
    assert {r["resource_id"]: r["cost"] for r in rows} == {"R-111": Decimal(1200), "R-222": Decimal(300)}


def test_charge_month_and_billing_month_may_differ(world: World, samples: Path) -> None:
    """The whole public sample is delivered, then October alone. September keeps its sum to the last digit, on every day."""
    shutil.copy(samples / "focus_1_0" / "focus_sample.csv", world.bills / "all.csv")
    world.load(DAYS[0])
    september = Decimal("20.28022672899")
    by_period = ("--by", "period", "--measure", "billed")
    assert world.totals() == {"2024-09": september, "2024-10": Decimal("0.24")}
    assert world.costs("--as-of", "2026-11-20", *by_period) == {("2024-09-01",): september, ("2024-10-01",): Decimal("0.24")}
    by_day = world.costs("--as-of", "2026-11-20", "--by", "day", "--measure", "billed", "--top", "1000")
    assert sum(v for (day,), v in by_day.items() if day.startswith("2024-09")) == Decimal("20.52022672899")
    with (world.bills / "all.csv").open(encoding="utf-8-sig") as file:
        october = [r for r in csv.DictReader(file) if r["BillingPeriodStart"].startswith("2024-10")]
    world.deliver("all.csv", october, DAYS[1], code=3)  # no file has September now, so Runspend keeps it, with a warning
    assert world.totals() == {"2024-09": september, "2024-10": Decimal("0.24")}
    assert world.costs("--as-of", "2026-11-21", *by_period) == {("2024-09-01",): september, ("2024-10-01",): Decimal("0.24")}


def test_a_version_that_comes_back_does_not_rewrite_history(world: World) -> None:
    """The versions are A, B and A again. Each day answers with the version of that day."""
    a, b = [row("15.00", **NOVEMBER)], [row("12.50", **NOVEMBER)]
    for day, rows in zip(DAYS, (a, b, a, b), strict=True):
        world.deliver("nov.csv", rows, day)
    found = [world.costs("--as-of", f"{day:%Y-%m-%d}", "--by", "source") for day in DAYS]
    assert found == [{("aws",): Decimal(cost)} for cost in ("15", "12.5", "15", "12.5")]


def test_the_grain_is_source_period_service_and_account(world: World) -> None:
    """The answer has every combination that changed, in the requested measure. Keys of runs and days before the first load are refused."""
    rows = [row("3.00", **NOVEMBER, SubAccountId="ml"), row("1.00", **NOVEMBER, SubAccountId="web", ServiceName="Storage")]
    world.deliver("nov.csv", rows, DAYS[0])
    world.deliver("nov.csv", rows[:1], DAYS[1])
    world.deliver("nov.csv", [{**rows[0], "ListCost": "4.00"}], DAYS[2])
    assert world.costs("--as-of", "2026-11-20") == {
        ("aws", "2026-11-01", "Compute", "ml"): Decimal(3),
        ("aws", "2026-11-01", "Storage", "web"): Decimal(1),
    }
    assert world.costs("--as-of", "2026-11-21") == {("aws", "2026-11-01", "Compute", "ml"): Decimal(3)}
    assert world.costs("--as-of", "2026-11-22", "--measure", "list", "--by", "account") == {("ml",): Decimal(4)}
    with open_warehouse(world.settings).reader() as reader:
        with pytest.raises(
            UsageError, match="by 'team': for earlier versions, only totals by source, period, service, account, day are kept"
        ):
            bill_as_of(reader, DAYS[3], ["team"], Selection(), top=20, measure="billed")
        with pytest.raises(UsageError, match="the first bill was loaded on 2026-11-20 06:00 UTC"):
            bill_as_of(reader, DAYS[0], ["source"], Selection(), top=20, measure="billed")


def test_changes_that_do_not_add_up_give_no_answer(world: World) -> None:
    """Each load records its totals. If a row of bill_changes is lost, the answer is an error, not a smaller bill."""
    world.deliver("nov.csv", [row("3.00", **NOVEMBER), row("1.00", **NOVEMBER, ServiceName="Storage")], DAYS[0])
    warehouse = open_warehouse(world.settings)
    unit = Unit("bill_changes", "2026-11", "aws")
    rows = warehouse.read(unit)
    assert rows is not None
    with warehouse.step("lose", "lose") as step:
        step.put(*unit, rows.slice(0, 1))
        step.publish()
    with warehouse.reader() as reader, pytest.raises(CheckFailed, match="bill_changes add up to billing_loads"):
        bill_as_of(reader, DAYS[0] + timedelta(days=1), ["source"], Selection(), top=20, measure="billed")
