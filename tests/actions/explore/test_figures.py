"""The explorer shows what `runspend costs` prints: every group, part and course, exactly."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from runspend.actions.costs.query import newest_day
from runspend.actions.explore import View, figures_as_csv, figures_as_json, read_figures
from runspend.actions.explore.figures import Figures
from runspend.actions.explore.page import Page
from runspend.config.settings import load_settings
from runspend.core.amounts import add
from runspend.core.errors import UsageError
from runspend.warehouse.factory import open_warehouse
from runspend.warehouse.team_views import OTHER_TEAMS
from tests.actions.explain import explain_world as w
from tests.command import run_here

Asked = Callable[..., Figures]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A warehouse with three days of October: 8 teamless machines and a team of one run."""
    folder = tmp_path_factory.mktemp("explore")
    w.make_explained(folder / "warehouse")
    (folder / "runspend.yaml").write_text("home: .\n", encoding="utf-8")
    return folder / "runspend.yaml"


@contextmanager
def explore(config: Path) -> Iterator[Asked]:
    """Lend a function that returns the figures of an address. All its answers are from one reader."""
    settings = load_settings(config)
    with open_warehouse(settings).reader() as reader:
        newest = newest_day(reader)
        assert newest is not None
        yield cache(lambda *query: read_figures(reader, settings, View.of(query, newest), newest))


@pytest.fixture(scope="module")
def figures(config: Path) -> Iterator[Asked]:
    """The figures of the addresses of this warehouse."""
    with explore(config) as asked:
        yield asked


def costs(config: Path, *words: str) -> list[dict[str, Any]]:
    """Return what the command prints."""
    found: list[dict[str, Any]] = json.loads(run_here("costs", *words, "--top", "1000", "--format", "json", "--config", str(config)).stdout)
    return found


@pytest.mark.parametrize(
    "by", ["team", "experiment,user", "service", "service,region", "allocated_to", "kind,team", "account", "confidence"]
)
@pytest.mark.parametrize("measure", ["effective", "list"])
def test_groups_are_those_of_the_command_line(figures: Asked, config: Path, by: str, measure: str) -> None:
    found = figures(("by", by), ("measure", measure), ("from", "2026-10-01"))
    names = by.split(",")
    mine = {}
    for group in (*found.groups, *found.without_run):
        values = dict(zip(names, group.values, strict=True))
        mine[json.dumps(values | {"part": group.part or "run"})] = group.amount.cost
        assert add(group.course) == group.amount.cost  # each step is counted once
    theirs: dict[str, Decimal] = {}
    columns = {
        "experiment": "experiment_name",
        "user": "user_name",
        "service": "service_name",
        "region": "region_id",
        "kind": "cost_kind",
        "account": "sub_account_id",
    }
    of_runs = {"team", "experiment", "user"} & set(names)
    for row in costs(
        config, "--by", f"{by}{'' if 'allocated_to' in names else ',allocated_to'}", "--measure", measure, "--since", "2026-10-01"
    ):
        if row["allocated_to"] == "out_of_scope":
            continue
        part = row["allocated_to"] if of_runs else "run"
        values = {name: None if name in of_runs and part != "run" else row[columns.get(name, name)] for name in names}
        key = json.dumps(values | {"part": part})
        theirs[key] = theirs.get(key, Decimal(0)) + Decimal(row[f"{measure}_cost"])
    assert mine == theirs
    assert found.rest_count == 0
    assert found.rest.cost == 0
    assert found.total.cost == sum(theirs.values())


@pytest.mark.parametrize(
    "by", ["experiment,user", "service,team", "kind", "account,region", "team", "run", "machine,run", "instance_type,team", "model"]
)
@pytest.mark.parametrize("query", [(), (("kind", "compute"),)])
def test_the_page_behind_a_row_has_its_sum(figures: Asked, by: str, query: tuple[tuple[str, str], ...]) -> None:
    """Each row links to exactly its own cost. This includes rows without a value and rows without a run."""
    found = figures(("by", by), ("from", "2026-10-01"), *query)
    page = Page(found, ())
    for group in (*found.groups, *found.without_run):
        behind = figures(*parse_qsl(page.into(group)[1:], keep_blank_values=True))
        assert behind.total.cost == group.amount.cost, (group.values, group.part, page.into(group))


@pytest.mark.parametrize("by", ["run", "machine", "instance_type", "model", "run,kind", "machine,service", "instance_type,experiment"])
def test_single_charges_add_up_to_the_daily_costs(figures: Asked, by: str) -> None:
    """Runs, machines and instance types split the same sum into the same parts and days. A charge that is spread over days stays whole."""
    days = (("from", "2026-10-01"), ("to", "2026-10-02"))
    whole, split = figures(("by", "allocated_to"), *days), figures(("by", by), *days)
    assert split.parts == whole.parts
    assert add(g.amount.cost for g in (*split.groups, *split.without_run)) == whole.total.cost > 0
    for step in range(len(split.steps)):
        assert add(g.course[step] for g in (*split.groups, *split.without_run)) == add(g.course[step] for g in whole.groups)


def test_a_run_has_the_cost_of_its_charges_and_a_machine_that_of_its_bill(figures: Asked) -> None:
    runs = figures(("by", "run"), ("from", "2026-10-01"))
    costs_of_runs = {run.run_id: run.cost for run in runs.runs}
    assert {g.values[0]: g.amount.cost for g in runs.groups} == costs_of_runs
    assert all(g.runs == 1 for g in runs.groups)
    page = Page(runs, ())
    assert (page.name("run", w.BIG), page.whole("run", w.BIG), page.name("run", "nobody-knows")) == ("vit-l16-224", w.BIG, "nobody-k")
    machines = {g.values[0]: g.amount.cost for g in figures(("by", "machine"), ("from", "2026-10-01")).groups}
    assert machines["m1"] == 6 * Decimal("24.576")  # without the machine's disk
    [typed] = figures(("by", "machine"), ("from", "2026-10-01"), ("instance_type", "p4d.24xlarge")).groups
    assert (typed.values, typed.amount.cost) == (("m1",), machines["m1"])
    assert figures(("by", "team"), ("machine", "m1"), ("from", "2026-10-01")).total.cost == machines["m1"]


@pytest.mark.parametrize("by", ["team", "experiment,user", "team,service", "run", "instance_type,team"])
def test_spreading_moves_every_digit_and_no_more(figures: Asked, by: str) -> None:
    days = (("from", "2026-10-01"), ("every", "day"))
    apart, spread = figures(("by", by), *days), figures(("by", by), ("spread", "1"), *days)
    assert spread.total == apart.total
    assert spread.parts == apart.parts
    everything = (*spread.groups, *spread.without_run)
    assert add(g.amount.cost for g in everything) == apart.total.cost
    own = {g.values: g for g in apart.groups}
    assert any(g.spread > 0 for g in spread.groups)
    for group in spread.groups:
        assert group.amount.cost == own[group.values].amount.cost + group.spread
        assert add(group.course) == group.amount.cost
        assert group.counts == own[group.values].counts
    names = by.split(",")
    bill = [n for n, name in enumerate(names) if name in ("service", "instance_type")]
    taken = {tuple(g.values[n] for n in bill) for g in apart.groups if g.amount.cost > 0}
    left = {(g.part, g.values) for g in spread.without_run}
    assert left == {
        (g.part, g.values)
        for g in apart.without_run
        if g.part not in ("idle", "shared", "unallocated") or tuple(g.values[n] for n in bill) not in taken
    }
    for number in range(len(spread.steps)):
        assert add(g.course[number] for g in everything) == add(g.course[number] for g in (*apart.groups, *apart.without_run))


def test_cost_without_a_run_has_a_row_for_each_team_that_the_bill_names(tmp_path: Path) -> None:
    """Each row links to its own cost. Spreading neither moves this cost nor adds to it."""
    w.make_explained(tmp_path / "warehouse", w.called_by(901, "rag", "7.00"), w.called_by(902, "vision", "3.00"))
    config = tmp_path / "runspend.yaml"
    config.write_text("home: .\n", encoding="utf-8")
    with explore(config) as figures:
        query = (("by", "team"), ("from", "2026-10-01"))
        found, spread = figures(*query), figures(*query, ("spread", "1"))
        named = {("rag", "unallocated"): Decimal(7), ("vision", "unallocated"): Decimal(3)}
        for each in (found, spread):
            assert {(g.values[0], g.part): g.amount.cost for g in each.without_run if g.values[0]} == named
            assert add(g.amount.cost for g in (*each.groups, *each.without_run)) == found.total.cost
        page = Page(found, ())
        for group in found.without_run:
            behind = figures(*parse_qsl(page.into(group)[1:], keep_blank_values=True))
            assert behind.total.cost == group.amount.cost
        shown = [row for row in csv.DictReader(io.StringIO(figures_as_csv(found))) if row["team"] == "rag"]
        assert [(row["part"], row["cost"]) for row in shown] == [("unallocated", "7")]
        by_experiment = figures(("by", "experiment"), ("from", "2026-10-01"))
        assert {g.values for g in by_experiment.without_run} == {(None,)}


def test_spread_cost_does_not_depend_on_the_steps_of_the_chart(figures: Asked) -> None:
    one, *others = (
        {g.values: (g.amount, g.spread) for g in figures(("by", "team"), ("from", "2026-10-01"), ("spread", "1"), ("every", step)).groups}
        for step in ("day", "week", "month")
    )
    assert any(spread % Decimal("1e-12") for _, spread in one.values())  # with digits that a step might round away
    assert others == [one, one]


def test_spread_is_by_cost_and_the_same_for_any_number_of_rows(figures: Asked) -> None:
    query = (("by", "run"), ("from", "2026-10-01"), ("spread", "1"))
    whole, first = figures(*query), figures(*query, ("top", "2"))
    assert first.groups == whole.groups[:2]
    assert first.rest.cost == add(g.amount.cost for g in whole.groups[2:])
    ratios = {round(g.spread / (g.amount.cost - g.spread), 12) for g in whole.groups if g.amount.cost > g.spread}
    assert len(ratios) == 1
    assert whole.without_run == ()
    page = Page(whole, ())
    assert page.command() is None
    for group in whole.groups:  # a row's own cost includes no spread cost
        behind = figures(*parse_qsl(page.into(group)[1:], keep_blank_values=True))
        assert behind.total.cost == group.amount.cost - group.spread


def test_cost_per_gpu_hour_counts_charges_with_gpu_time(figures: Asked, config: Path) -> None:
    groups = {g.values[0]: g for g in figures(("by", "team"), ("from", "2026-10-01")).groups}
    with open_warehouse(load_settings(config)).reader() as reader:
        sql = "select sum(d.gpu_seconds) as seconds, sum(d.effective_cost) as cost from run_costs_daily d join run_costs r on r.run_id = d.run_id where r.team = 'vision' and d.gpu_seconds > 0"
        [row] = reader.query(sql).to_pylist()
    vision = groups["vision"].counts
    assert vision is not None and vision.gpu_hours is not None
    assert vision.gpu_hours * 3600 == pytest.approx(row["seconds"])
    assert vision.gpu_cost == row["cost"]
    assert float(vision.gpu_hour_cost or 0) == pytest.approx(float(row["cost"]) / row["seconds"] * 3600, abs=1e-6)
    assert all(g.counts is None for g in figures(("by", "service"), ("from", "2026-10-01")).groups)


def test_groups_beyond_the_first_are_summed_and_parts_are_never_among_them(figures: Asked) -> None:
    for by in ("experiment,user", "service,team", "account"):
        whole, first = figures(("by", by)), figures(("by", by), ("top", "1"))
        assert first.groups == whole.groups[:1]
        assert first.without_run == whole.without_run
        assert first.rest_count == len(whole.groups) - 1
        assert first.rest.cost == add(g.amount.cost for g in whole.groups[1:])
        assert first.total.cost == whole.total.cost


def test_runs_add_up_to_their_part(figures: Asked) -> None:
    found = figures(("by", "team"))
    assert found.run_count == len(found.runs)  # few enough to list each one
    assert add(run.cost for run in found.runs) == found.parts["run"].cost


def test_filters_select_and_parts_stay_visible(figures: Asked, config: Path) -> None:
    vision = figures(("team", "vision"), ("by", "experiment"))
    rows = costs(config, "--by", "allocated_to", "--where", "team=vision", "--since", "2026-10-01")
    assert {part: amount.cost for part, amount in vision.parts.items()} == {
        row["allocated_to"]: Decimal(row["effective_cost"]) for row in rows
    }
    assert [run.run_id for run in vision.runs] == [w.BIG]
    assert (vision.run_count, vision.failed_count) == (1, 0)
    by_service = figures(("service", "Amazon Elastic Compute Cloud"), ("by", "team"))
    assert by_service.run_count is None  # the cost of a run has no service
    assert not by_service.runs


def test_the_earlier_period_is_compared_day_by_day(figures: Asked, config: Path) -> None:
    days = {
        row["charge_date"]: Decimal(row["effective_cost"])
        for row in costs(config, "--by", "day", "--since", "2026-10-01", "--where", "allocated_to=run")
    }
    first, second = sorted(days)[:2]
    found = figures(("from", second), ("to", second), ("allocated_to", "run"))
    assert found.total.cost == days[second]
    assert found.total.previous == days[first]
    assert found.previous_course == (days[first],)
    alone = figures(("from", second), ("to", second), ("allocated_to", "run"), ("compare", "none"))
    assert alone.total == replace(found.total, previous=Decimal(0))


@pytest.mark.parametrize("every", ["day", "week", "month"])
def test_steps_hold_every_day_once(figures: Asked, every: str) -> None:
    found = figures(("every", every), ("from", "2026-09-29"), ("to", "2026-11-02"))
    assert add(cost for group in (*found.groups, *found.without_run) for cost in group.course) == found.total.cost
    if every == "week":
        assert all(step.weekday() == 0 for step in found.steps)
    if every == "month":
        assert found.steps == (date(2026, 9, 1), date(2026, 10, 1), date(2026, 11, 1))


@pytest.fixture(scope="module")
def mixed(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the same charges in dollars and in euros, with one euro at two dollars."""
    folder = tmp_path_factory.mktemp("mixed")
    shutil.copytree(config.parent / "warehouse", folder / "warehouse")
    (folder / "runspend.yaml").write_text(
        json.dumps(
            {"home": ".", "currency": "USD", "rates": {"exchange": [{"from": "EUR", "to": "USD", "rate": "2", "date": "2026-10-02"}]}}
        ),
        encoding="utf-8",
    )
    warehouse = open_warehouse(load_settings(folder / "runspend.yaml"))
    with warehouse.step("test", "test") as step:
        for table in ("cost_daily", "run_costs_daily", "run_costs"):
            rows = pq.read_table(folder / "warehouse" / table / "period=2026-10" / "all.parquet", partitioning=None)
            euros = rows.set_column(rows.schema.get_field_index("billing_currency"), "billing_currency", pa.array(["EUR"] * len(rows)))
            step.put(table, "2026-10", "all", pa.concat_tables([rows, euros]))
        assert step.publish()
    return folder / "runspend.yaml"


def test_costs_in_two_currencies_are_counted_once_each(figures: Asked, mixed: Path) -> None:
    days = (("from", "2026-10-02"), ("compare", "none"))
    with explore(mixed) as figures_of_mixed:
        both, euros = figures_of_mixed(*days), figures_of_mixed(*days, ("currency", "EUR"))
    alone = figures(*days)
    assert both.currency == "USD"
    assert both.total.cost == 3 * alone.total.cost
    assert {run.run_id: run.cost for run in both.runs} == {run.run_id: 3 * run.cost for run in alone.runs}
    assert both.run_count == alone.run_count
    assert [(g.runs, g.amount.cost) for g in both.groups] == [(g.runs, 3 * g.amount.cost) for g in alone.groups]
    assert (euros.currency, euros.total.cost, euros.run_count) == ("EUR", alone.total.cost, alone.run_count)


def test_a_day_without_a_rate_is_an_error_that_says_what_to_do(mixed: Path) -> None:
    with explore(mixed) as figures, pytest.raises(UsageError, match=r"currency=USD"):
        figures(("from", "2026-10-01"))


def test_a_team_may_be_called_other_teams(figures: Asked, config: Path, tmp_path: Path) -> None:
    """A user who sees all teams has a row and a link for it, as for any other team."""
    shutil.copytree(config.parent / "warehouse", tmp_path / "warehouse")
    (tmp_path / "runspend.yaml").write_text("home: .\n", encoding="utf-8")
    with open_warehouse(load_settings(tmp_path / "runspend.yaml")).step("test", "test") as step:
        for table in ("cost_daily", "run_costs"):
            rows = pq.read_table(tmp_path / "warehouse" / table / "period=2026-10" / "all.parquet", partitioning=None)
            named = pc.if_else(pc.is_valid(rows["team"]), OTHER_TEAMS, rows["team"])
            step.put(table, "2026-10", "all", rows.set_column(rows.schema.get_field_index("team"), "team", named))
        assert step.publish()
    query = (("by", "team"), ("from", "2026-10-01"))
    with explore(tmp_path / "runspend.yaml") as figures_of_others:
        before, after = (next(g for g in of(*query).groups if g.values[0]) for of in (figures, figures_of_others))
    assert after == replace(before, values=(OTHER_TEAMS,)) and not after.is_others and after.runs


def test_names_of_dots_have_no_page_of_their_own(figures: Asked) -> None:
    """A browser would open another address for `experiment/.`."""
    found = figures(("by", "experiment"), ("from", "2026-10-01"))
    page = Page(found, ())
    assert [page.own_page("experiment", name, found.groups[0]) for name in (".", "..", "a.b")] == ["", "", "experiment/a.b"]


def test_groups_are_sorted_as_asked(figures: Asked) -> None:
    for order, key in (("-cost", lambda g: -g.amount.cost), ("cost", lambda g: g.amount.cost), ("-change", lambda g: -g.amount.change)):
        groups = figures(("by", "experiment,user"), ("sort", order), ("from", "2026-10-02")).groups
        assert [key(g) for g in groups] == sorted(key(g) for g in groups)
    names = [g.values[0] or "" for g in figures(("by", "user"), ("sort", "name")).groups]
    assert names == sorted(names) != []
    backwards = [g.values[0] or "" for g in figures(("by", "user"), ("sort", "-name")).groups]
    assert backwards == sorted(names, reverse=True)


def test_json_and_csv_have_the_same_exact_values(figures: Asked) -> None:
    found = figures(("by", "team,experiment"), ("top", "1"))
    data = json.loads(figures_as_json(found))
    rows = list(csv.DictReader(io.StringIO(figures_as_csv(found))))
    others = [row for row in rows if not row["part"]]
    assert [(row["cost"], row["previous_cost"], row["part"]) for row in data["rows"]] == [
        (row["cost"], row["previous_cost"], row["part"])
        for row in rows
        if row["part"]  # `team` splits the bill's parts
    ]
    assert data["other_rows"]["rows"] == found.rest_count
    assert sum(Decimal(row["cost"]) for row in rows) == Decimal(data["total"]["cost"]) == found.total.cost
    assert bool(others) == bool(found.rest_count)


@pytest.mark.parametrize("by", ["team", "service", "allocated_to", "confidence", "account", "user,kind", "experiment"])
def test_the_largest_changes_lead_to_themselves(figures: Asked, by: str) -> None:
    """Each change equals the one on the linked page, compared with the day before. The first row there in the same direction is its driver."""
    found = figures(("by", by), ("from", "2026-10-02"), ("to", "2026-10-02"))
    page = Page(found, ())
    assert found.changes
    sizes = [abs(one.change) for one in found.changes]
    assert sizes == sorted(sizes, reverse=True)
    if by == "allocated_to":
        assert {one.value: one.change for one in found.changes} == {
            part: amount.change for part, amount in found.parts.items() if amount.change and part != "out_of_scope"
        }
    for one in found.changes:
        behind = figures(*parse_qsl(page.into_change(one).removeprefix("?"), keep_blank_values=True))
        assert behind.total.change == one.change
        if one.driver is not None:
            changes = {group.values[0]: group.amount.change for group in (*behind.groups, *behind.without_run)}
            best = max(changes.values()) if one.change > 0 else min(changes.values())
            assert changes[one.driver] == one.driver_change == best
    assert figures(("by", by), ("compare", "none")).changes == ()


def test_a_killed_run_is_a_failed_one(figures: Asked) -> None:
    found = figures(("by", "status"), ("from", "2026-10-01"))
    killed = next(group for group in found.groups if group.values == ("KILLED",))
    assert (killed.runs, killed.failed_runs, found.failed_count) == (1, 1, 1)
    failed = figures(("by", "run"), ("from", "2026-10-01"), ("status", "FAILED"), ("status", "KILLED"))
    assert [group.values for group in failed.groups] == [(w.STOPPED,)] and failed.total.cost == killed.amount.cost > 0
