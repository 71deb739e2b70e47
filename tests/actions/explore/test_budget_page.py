"""A budget's page shows what a mail about it would state now, with the same figures, and links to its costs."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest

from runspend.actions.alert.judge import Series, judge_budget
from runspend.actions.alert.periods import period_named
from runspend.actions.alert.render import Facts
from runspend.actions.explore import budget_as_page, read_budget
from runspend.actions.explore.budget_page import BudgetState
from runspend.config.settings import load_settings
from runspend.core.amounts import add
from runspend.core.errors import UsageError
from runspend.warehouse.factory import open_warehouse
from runspend.warehouse.parquet.warehouse import ParquetWarehouse
from runspend.warehouse.records import Records
from tests.actions.explain import explain_world as w
from tests.command import run_here

NOW = datetime(2026, 10, 4, 6, tzinfo=timezone.utc)
BUDGETS = """home: .
budgets:
  - {name: vision, amount: 100000, every: month, for: {team: vision}, notify: [a@example.com]}
  - {name: globs, amount: 100000, every: week, for: {experiment: "v*"}, notify: [a@example.com]}
  - {name: bens, amount: 100000, every: month, for: {user: ben}, notify: [a@example.com]}
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A warehouse with three days of October, and three budgets."""
    folder = tmp_path_factory.mktemp("budgets")
    w.make_explained(folder / "warehouse")
    (folder / "runspend.yaml").write_text(BUDGETS, encoding="utf-8")
    return folder / "runspend.yaml"


def state_of(config: Path, name: str, *, period: str | None = None, hidden: tuple[str, ...] = ()) -> BudgetState | None:
    settings = load_settings(config)
    with open_warehouse(settings).reader() as reader:
        return read_budget(reader, settings, Records(settings.home), name, NOW, period=period, hidden=hidden)


def test_the_pages_spend_equals_the_command_lines(config: Path) -> None:
    state = state_of(config, "vision")
    assert state is not None and state.status.spent is not None
    where = ("--where", "team=vision", "--since", "2026-10", "--by", "team", "--format", "json")
    [row] = json.loads(run_here("costs", *where, "--config", str(config)).stdout)
    assert state.status.spent == Decimal(row["effective_cost"]) > 0
    page = budget_as_page(state, up="../")
    assert f"{state.status.spent:,.2f}" in page
    assert page.count("<script") == 1
    assert 'href="../explore?from=2026-10-01&amp;to=2026-10-31&amp;by=experiment&amp;team=vision"' in page
    assert "runspend budgets ack vision" in page


def test_the_chart_sums_days_up_to_the_forecast_and_draws_the_budget(config: Path) -> None:
    """Of sixty days at 10 each, eleven are in October. So 110 is spent, 310 is forecast, and the budget's line is at 200."""
    budget = load_settings(config).budgets[0].model_copy(update={"amount": Decimal(200)})
    days = {(date(2026, 10, 11) - timedelta(days=n), "USD"): Decimal(10) for n in range(60)}
    status = judge_budget(budget, "USD", period_named("2026-10"), Series(billed=days), date(2026, 10, 12), NOW.replace(day=12))
    page = budget_as_page(BudgetState(status, "vision", "said", None, (), ()), up="")
    titles = re.findall(r"<title>(\d+ Oct (?:spent|forecast) [^<]*)</title>", page)
    assert {"1 Oct spent 10.00", "11 Oct spent 110.00", "12 Oct forecast 120.00", "31 Oct forecast 310.00"} <= set(titles)
    assert "12 Oct spent" not in page and "11 Oct forecast" not in page
    assert "The dotted line is the budget" in page and page.count('class="before"') == 2


def test_an_earlier_period_is_judged_by_todays_tables(config: Path) -> None:
    state = state_of(config, "globs", period="2026-W39")
    assert state is not None and state.status.spent == 0 and state.row is None
    now = state_of(config, "globs")
    assert now is not None and now.row is not None and now.status.period.name == "2026-W40"
    assert "explore?" not in budget_as_page(now, up="").partition("<main>")[2]  # the explorer does not support patterns


@pytest.mark.parametrize("period", ["", "x", "2026-10-01", "2026-13", "2026-W60", "9999999999", "2026-W39 ", "٢٠٢٦", "2026-W", "W"])
def test_another_text_as_a_period_is_refused_with_an_example(config: Path, period: str) -> None:
    with pytest.raises(UsageError, match=r"must be a week, such as 2026-W40"):
        state_of(config, "globs", period=period)


def test_the_command_lists_the_same_money(config: Path) -> None:
    state = state_of(config, "vision")
    assert state is not None
    [command] = [value for block in state.blocks if isinstance(block, Facts) for name, value in block.facts if name == "See the costs"]
    assert command == "runspend costs --by experiment --since 2026-10-01 --until 2026-10-31 --where team=vision"
    rows = json.loads(run_here(*shlex.split(command)[1:], "--format", "json", "--config", str(config)).stdout)
    assert add(Decimal(row["effective_cost"]) for row in rows) == state.status.spent


def test_a_tag_budgets_title_and_its_experiments_hide_their_person(config: Path, tmp_path: Path) -> None:
    """Databricks puts a user's address into the name of an experiment, and so into its budget's title and its top costs."""
    shutil.copytree(config.parent, tmp_path / "copy")
    copy = tmp_path / "copy" / "runspend.yaml"
    person = "/Workspace/Users/zoe@acme.example/vit"
    budgets = f"budgets: [{{name: hers, amount: 10, every: month, owner: zoe@acme.example, for: {{experiment: {person}}}, notify: [a@example.com]}}]\n"
    copy.write_text(f"home: .\nmail: {{people: hide}}\n{budgets}", encoding="utf-8")
    warehouse = ParquetWarehouse(tmp_path / "copy" / "warehouse")
    with warehouse.step("rename", "test") as step:
        for unit in warehouse.states("cost_daily"):
            rows = warehouse.read(unit)
            assert rows is not None
            names = [person if name else None for name in rows["experiment_name"].to_pylist()]
            at = rows.column_names.index("experiment_name")
            step.put(*unit, rows.set_column(at, rows.schema.field(at), pa.array(names, rows.schema.field(at).type)))
        assert step.publish()
    state = state_of(copy, "hers", hidden=("owner", "user"))
    assert state is not None and state.status.spent
    page = budget_as_page(state, up="")
    assert "zoe" not in page and "/Workspace/Users/…/vit" in page
    shown = state_of(copy, "hers")
    assert shown is not None and "explore?" in budget_as_page(shown, up="").partition("<main>")[2]


def test_people_are_left_out_where_they_are_hidden(config: Path) -> None:
    assert (shown := state_of(config, "bens")) is not None and "user=ben" in budget_as_page(shown, up="")
    hidden = state_of(config, "bens", hidden=("owner", "user"))
    assert hidden is not None and "user=ben" not in budget_as_page(hidden, up="")
    assert state_of(config, "nothing") is None
