"""Doctor's report about runs that do not name a machine, in a company where only some teams identify their runs."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from runspend.config.settings import Settings
from runspend.interfaces.doctor import check_identified
from runspend.interfaces.identified_runs import read_groups, say_who_is_identified
from runspend.warehouse.parquet.warehouse import ParquetWarehouse
from runspend.warehouse.sql_files import read_sql
from tests.allocation.chain import arrow, make_run
from tests.sql_lint import lint

NOW = dt.datetime(2026, 10, 20, tzinfo=dt.timezone.utc)


def runs_of(person: str, experiment: str, *, named: int, silent: int, first_day: int = 2, hours: int = 2) -> list[dict[str, Any]]:
    """Return one person's runs on successive days. The first ones name no machine, and the later ones do."""
    runs = []
    for number in range(silent + named):
        day = first_day + number
        at = f"2026-10-{day:02d}T08:00:00..2026-10-{day:02d}T{8 + hours:02d}:00:00"
        run, _ = make_run(id=f"{person}-{experiment}-{number}", at=at, on=["m1"] if number >= silent else [], user_name=person)
        runs.append(run | {"experiment_name": experiment})
    return runs


@pytest.fixture
def warehouse(tmp_path: Path) -> ParquetWarehouse:
    child, _ = make_run(id="child", at="2026-10-09T08:00:00..2026-10-09T10:00:00", on=[], parent="ann-vision-2", user_name="ann")
    old, _ = make_run(id="old", at="2026-09-01T08:00:00..2026-09-01T10:00:00", on=[], user_name="zed")
    rows = [
        *runs_of("ann", "vision", named=3, silent=2),
        child | {"experiment_name": "vision"},
        *runs_of("bob", "speech", named=0, silent=4, hours=8),
        *runs_of("cy", "text", named=2, silent=0),
    ]
    costs = [
        {
            "tracking_server": "prod",
            "workspace": "default",
            "run_id": "ann-vision-0",
            "start_month": dt.date(2026, 10, 1),
            "billing_currency": "USD",
        }
        | {"effective_cost": Decimal("12.5")},
        {
            "tracking_server": "prod",
            "workspace": "default",
            "run_id": "ann-vision-4",
            "start_month": dt.date(2026, 10, 1),
            "billing_currency": "USD",
        }
        | {"effective_cost": Decimal(1000)},
        {
            "tracking_server": "prod",
            "workspace": "default",
            "run_id": "ann-vision-1",
            "start_month": dt.date(2026, 10, 1),
            "billing_currency": "",
        }
        | {"effective_cost": Decimal(0)},
    ]
    found = ParquetWarehouse(tmp_path / "warehouse")
    with found.step("test", "test") as step:
        step.put("runs", "2026-10", "prod", arrow("runs", rows))
        step.put("runs", "2026-09", "prod", arrow("runs", [old]))
        step.put("run_costs", "2026-10", "all", arrow("run_costs", costs))
        assert step.publish()
    return found


def test_the_largest_cost_comes_first_then_the_most_hours(warehouse: ParquetWarehouse) -> None:
    with warehouse.reader() as reader:
        lines = list(say_who_is_identified(read_groups(reader, NOW)))
    assert lines == [
        "6 of 12 runs of the last 30 days name their machine or job (50%)",
        "vision of ann: 4 of 6, since 4 Oct 2026; the others took 4.0 h and cost 12.50 USD",
        "speech of bob: 0 of 4; the others took 32.0 h",
        "If no run of a group is identified, run `pip install runspend` where the group trains (docs/identify.md)",
        "If only some runs are identified, the others ran elsewhere, were made by MlflowClient.create_run, or were resumed: "
        "call runspend.identify(run_id) for them (docs/identify.md)",
    ]


def cost_of(run_id: str, cost: int, currency: str = "USD", server: str = "prod") -> dict[str, Any]:
    key = {"tracking_server": server, "workspace": "default", "run_id": run_id, "start_month": dt.date(2026, 10, 1)}
    return key | {"billing_currency": currency, "effective_cost": Decimal(cost)}


def say(folder: Path, runs: list[dict[str, Any]], costs: list[dict[str, Any]]) -> list[str]:
    found = ParquetWarehouse(folder / "warehouse")
    with found.step("test", "test") as step:
        for server in {run["tracking_server"] for run in runs}:
            step.put("runs", "2026-10", server, arrow("runs", [run for run in runs if run["tracking_server"] == server]))
        step.put("run_costs", "2026-10", "all", arrow("run_costs", costs))
        assert step.publish()
    with found.reader() as reader:
        return list(say_who_is_identified(read_groups(reader, NOW)))


def test_each_currency_has_its_own_amount_and_order(tmp_path: Path) -> None:
    """5,000 JPY are not more than 300 EUR, so the largest cost of each currency comes first."""
    names = [("ann", {"EUR": 300, "USD": 7}), ("bob", {"JPY": 5_000}), ("cy", {"JPY": 4_000}), ("dan", {"EUR": 200})]
    runs = [run for hours, (name, _) in enumerate(names, 1) for run in runs_of(name, "vit", named=0, silent=1, hours=hours)]
    costs = [cost_of(f"{name}-vit-0", cost, currency) for name, amounts in names for currency, cost in amounts.items()]
    assert [line.partition("; ")[::2] for line in say(tmp_path, runs, costs)[1:-1]] == [
        ("vit of bob: 0 of 1", "the others took 2.0 h and cost 5,000.00 JPY"),
        ("vit of ann: 0 of 1", "the others took 1.0 h and cost 300.00 EUR and 7.00 USD"),
        ("vit of dan: 0 of 1", "the others took 4.0 h and cost 200.00 EUR"),
        ("vit of cy: 0 of 1", "the others took 3.0 h and cost 4,000.00 JPY"),
    ]


def test_experiments_of_two_servers_stay_separate(tmp_path: Path) -> None:
    runs = [run | {"tracking_server": server} for server in ("dev", "prod") for run in runs_of("ann", "vit", named=0, silent=1)]
    assert say(tmp_path, runs, [cost_of("ann-vit-0", 5)])[1:-1] == [
        "vit of ann on prod/default: 0 of 1; the others took 2.0 h and cost 5.00 USD",
        "vit of ann on dev/default: 0 of 1; the others took 2.0 h",
    ]


def test_a_run_has_the_machines_of_its_nearest_ancestor_that_names_some(tmp_path: Path) -> None:
    runs = runs_of("ann", "vit", named=1, silent=1)
    for name, parent in (
        ("child", "ann-vit-1"),
        ("grandchild", "child"),
        ("great-grandchild", "grandchild"),
        ("ring", "ring"),
        ("other", "ann-vit-0"),
    ):
        run, _ = make_run(id=name, at="2026-10-09T08:00:00..2026-10-09T10:00:00", on=[], parent=parent, user_name="ann")
        runs.append(run | {"experiment_name": "vit"})
    assert say(tmp_path, runs, [cost_of("great-grandchild", 100)])[1:-1] == ["vit of ann: 4 of 7, since 3 Oct 2026; the others took 6.0 h"]


def test_a_partly_identified_group_is_not_advised_to_install_the_plug_in(tmp_path: Path) -> None:
    lines = say(tmp_path, runs_of("ann", "vit", named=12, silent=1), [])
    assert "pip install" not in lines[-1] and "call runspend.identify(run_id) for them" in lines[-1]


def test_the_doctor_says_nothing_before_the_first_extraction_and_all_after(tmp_path: Path, warehouse: ParquetWarehouse) -> None:
    assert list(check_identified(Settings.model_validate({"home": tmp_path / "elsewhere"}), NOW)) == []
    [finding] = check_identified(Settings.model_validate({"home": tmp_path, "warehouse": {"uri": str(tmp_path / "warehouse")}}), NOW)
    assert (finding.section, finding.name, finding.level) == ("mlflow", "identified", "ok")
    assert finding.text.startswith("6 of 12 runs")


def test_both_engines_read_its_query() -> None:
    import runspend.interfaces

    assert lint(read_sql(Path(str(runspend.interfaces.__file__)).parent, "identified_runs")) == []
