"""What a team sees of every table: its own rows unchanged, and rows of others as sums without names."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from runspend.config.access import Viewer
from runspend.config.exchange_rates import Stretch
from runspend.config.settings import Settings
from runspend.core.amounts import add
from runspend.core.errors import RunspendError, SqlRefused
from runspend.schema.public_views import COSTS_FOR_DASHBOARDS, VIEWS
from runspend.schema.tables import COST_ALLOCATIONS, COST_DAILY, TABLES, UNALLOCATED_COSTS
from runspend.warehouse.base import Reader, Unit, Warehouse
from runspend.warehouse.currency_views import money
from runspend.warehouse.dialect import duckdb_sql
from runspend.warehouse.factory import open_published, open_warehouse
from runspend.warehouse.parquet.warehouse import ParquetWarehouse
from runspend.warehouse.team_views import NO_TEAM, OTHER_TEAMS, RULES, Restriction, restricted_sql
from tests import access_world as w
from tests.allocation.chain import World, arrow, line, make_run, run_on_duckdb, summarize_on_duckdb

VISION = Viewer(("vision-devs",), ("vision",))


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return w.make_two_teams(tmp_path_factory.mktemp("teams"))


@pytest.fixture(scope="module")
def vision(settings: Settings) -> Settings:
    return settings.seen_by(VISION)


def rows(reader: Reader, sql: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = reader.query(sql).to_pylist()
    return found


@pytest.mark.parametrize("name", TABLES)
def test_every_column_of_every_table_has_a_decision(name: str) -> None:
    """A new table or column fails here until someone decides what a team sees of it."""
    rule = RULES[name]
    decided = (*rule.shown.split(), *rule.masked, *rule.hidden.split())
    assert sorted(decided) == sorted(column.name for column in TABLES[name].columns)
    for others in RULES[name].others:
        assert {*others.keys, *others.fixed, *others.added.split()} <= set(decided)


def test_there_is_no_rule_for_a_table_that_is_gone() -> None:
    assert RULES.keys() == TABLES.keys()


@pytest.mark.parametrize("name", [*(name for name in TABLES if name not in w.OF_NOBODY), *VIEWS])
def test_no_name_of_another_team_is_in_a_table(name: str, settings: Settings, vision: Settings) -> None:
    """Each has a row of the other team, marked in every text; neither a page's reader nor a statement shows a mark."""
    with open_published(settings).reader() as whole:
        assert w.DECOY in str(rows(whole, f"select * from {name}"))
    with open_published(vision).reader() as reader:
        seen = rows(reader, f"select * from {name}")
    assert w.DECOY not in str(seen)
    assert w.DECOY not in str(open_published(vision).answer(f"select * from {name}").to_pylist())


def test_a_view_shows_only_visible_rows_of_its_tables(vision: Settings) -> None:
    """With a statement too; an exchanged reader shows exchanged money."""
    sql = "select team, sum(effective_cost) as cost, sum(effective_cost_rounded) as rounded from costs_for_dashboards group by team order by team"
    with open_published(vision).reader() as reader:
        found = rows(reader, sql)
        doubled = rows(reader.in_currency("EUR", [Stretch("USD", dt.date(2026, 1, 1), dt.date(9999, 12, 31), 2, 1)]), sql)
    assert open_published(vision).answer(sql).to_pylist() == found
    assert {"vision", OTHER_TEAMS, "(shared)"} <= {r["team"] for r in found}
    assert [(r["team"], r["cost"]) for r in doubled] == [(r["team"], 2 * r["cost"]) for r in found]
    assert all(abs(r["rounded"] - float(r["cost"])) < 0.05 for r in (*found, *doubled))


def test_rows_of_the_team_are_as_they_are(settings: Settings, vision: Settings) -> None:
    """Every table of the models has rows of vision, equal to those in the warehouse but for what names others."""
    with open_published(settings).reader() as whole, open_published(vision).reader() as reader:
        for name, own in (
            ("run_costs", "team = 'vision'"),
            ("run_costs_daily", f"run_id in ('{w.MINE}', '{w.BESIDE}')"),
            ("run_resources", f"run_id in ('{w.MINE}', '{w.BESIDE}')"),
            ("runs", f"run_id in ('{w.MINE}', '{w.BESIDE}')"),
            ("cost_daily", "team = 'vision' and experiment_id = '1'"),
            ("cost_allocations", f"run_id in ('{w.MINE}', '{w.BESIDE}')"),
        ):
            hidden = ["cost_with_children", "line_team", "line_owner"]
            columns = ", ".join(c.name for c in TABLES[name].columns if c.name not in hidden)
            sql = f"select {columns} from {name} where {own} order by {', '.join(TABLES[name].sort)}"
            found = rows(reader, sql)
            assert found and found == rows(whole, sql), name


@pytest.mark.parametrize("table", [COST_DAILY, COST_ALLOCATIONS, UNALLOCATED_COSTS, COSTS_FOR_DASHBOARDS], ids=lambda table: table.name)
def test_money_adds_up_to_the_whole_bill(table: Any, settings: Settings, vision: Settings) -> None:
    """By day, target and currency, to the last digit of every measure."""
    key = "billing_period" if table is UNALLOCATED_COSTS else "charge_date"
    sums = ", ".join(f"sum({c}) as {c}" for c in money(table))
    sql = f"select {key}, allocated_to, billing_currency, {sums} from {table.name} group by 1, 2, 3 order by 1, 2, 3"
    with open_published(settings).reader() as whole, open_published(vision).reader() as reader:
        assert rows(reader, sql) == rows(whole, sql)


def test_cost_of_others_is_one_sum_for_each_day_kind_and_target(vision: Settings, settings: Settings) -> None:
    with open_published(vision).reader() as reader, open_published(settings).reader() as whole:
        others = rows(reader, f"select * from cost_daily where team = '{OTHER_TEAMS}' and not is_spread")
        theirs = rows(whole, f"select effective_cost from cost_daily where team = '{w.OTHER}'")
    keys = [(r["charge_date"], r["cost_kind"], r["allocated_to"], r["cost_status"]) for r in others]
    assert len(keys) == len(set(keys)) and len(others) < len(theirs)
    assert add(r["effective_cost"] for r in others) == add(r["effective_cost"] for r in theirs)
    assert {r["service_name"] for r in others} == {r["user_name"] or OTHER_TEAMS for r in others} == {OTHER_TEAMS}


def test_cost_of_nobody_has_no_team(vision: Settings) -> None:
    with open_published(vision).reader() as reader:
        (tax,) = rows(reader, "select team, service_name, effective_cost from cost_daily where allocated_to = 'shared'")
    assert (tax["team"], tax["service_name"]) == (None, NO_TEAM)


def test_idle_time_has_a_machine_only_where_the_team_used_it(vision: Settings) -> None:
    with open_published(vision).reader() as reader:
        found = rows(
            reader,
            "select resource_id, last_run_id, suspected_owner from unallocated_costs where allocated_to = 'idle' order by resource_id",
        )
        machines = rows(reader, "select distinct resource_id from cost_allocations where allocated_to = 'idle' order by resource_id")
    assert [r["resource_id"] for r in found] == ["", "m1", "m7"]
    assert {r["resource_id"] for r in machines} == {None, "m1", "m7"}
    assert {r["last_run_id"] for r in found} == {None, w.MINE, w.BESIDE}


def test_others_on_the_teams_machine_are_one_share(vision: Settings, settings: Settings) -> None:
    """What the machine's hour costs is known, and how much of it others got, but not who."""
    sql = "select target_id, effective_cost from cost_allocations where charge_id = 'line-1' order by target_id"
    with open_published(vision).reader() as reader, open_published(settings).reader() as whole:
        seen, all_of_it = rows(reader, sql), rows(whole, sql)
    assert [r["target_id"] for r in seen] == [OTHER_TEAMS, f"prod/default/{w.MINE}"]
    assert sorted(r["effective_cost"] for r in seen) == sorted(r["effective_cost"] for r in all_of_it)


def test_a_share_of_an_instance_type_names_no_machine(vision: Settings) -> None:
    """The charge is made of the hours of all machines of the type, not only its own."""
    with open_published(vision).reader() as reader:
        (share,) = rows(reader, f"select charge_id, resource_id, match_method from cost_allocations where run_id = '{w.BY_TYPE}'")
        lines = rows(reader, "select line_id from charge_lines")
        assert share["match_method"] == "instance_type_time" and len(lines) == 2
        assert rows(reader, "select resource_id from billing_lines where instance_type = 'g5'") == []


def test_a_tag_of_the_bill_gives_cost_and_no_names(vision: Settings) -> None:
    """The bill's tag says vision, the run is another team's: vision has the cost, without a name."""
    with open_published(vision).reader() as reader:
        found = rows(
            reader,
            f"select experiment_name, user_name, owner, effective_cost from cost_daily where team = 'vision' and experiment_name = '{OTHER_TEAMS}'",
        )
    assert [{key: f"{value}" for key, value in row.items()} for row in found] == [
        {"experiment_name": OTHER_TEAMS, "user_name": OTHER_TEAMS, "owner": OTHER_TEAMS, "effective_cost": "7.7700000000000000000000"}
    ]


def test_an_experiment_of_two_teams_shows_its_name_and_not_its_tags(vision: Settings) -> None:
    with open_published(vision).reader() as reader:
        assert rows(reader, "select experiment_name, tags from experiments") == [{"experiment_name": "exp", "tags": None}]


def test_several_teams_see_the_rows_of_each(settings: Settings) -> None:
    both = settings.seen_by(Viewer(("a", "b"), ("vision", w.OTHER)))
    with open_published(both).reader() as reader:
        seen = {r["run_id"] for r in rows(reader, "select run_id from run_costs")}
    assert {w.MINE, w.BESIDE, w.THEIRS} < seen


@pytest.mark.parametrize("team", ["nobody", "' or true or '", "\\", "{runs}", "vision' --", "🚀"])
def test_a_team_without_rows_sees_sums_only(team: str, settings: Settings) -> None:
    """This holds for every name: a name is never SQL."""
    viewer = settings.seen_by(Viewer(("x",), (team,)))
    with open_published(viewer).reader() as reader, open_published(settings).reader() as whole:
        assert rows(reader, "select run_id from runs") == []
        sql = "select sum(effective_cost) as cost from cost_daily"
        assert rows(reader, sql) == rows(whole, sql)
        assert {r["team"] for r in rows(reader, "select team from cost_daily")} == {OTHER_TEAMS, None}


@pytest.mark.parametrize(
    "sql",
    [
        'select * from "every row of runs"',
        "select * from `every row of runs`",
        "select * from `set own_runs`",
        "select * from main.`every row of runs`",
        "select * from read_parquet('**/*.parquet')",
        "select * from glob('**')",
    ],
)
def test_no_statement_reaches_the_tables_behind_the_views(sql: str, vision: Settings) -> None:
    with pytest.raises(SqlRefused):
        open_published(vision).answer(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "select table_name from information_schema.tables",
        "select view_name, sql from duckdb_views()",
        "select table_name, sql, estimated_size from duckdb_tables()",
        "select stats(run_name) from runs",
        "select stats(team) from cost_daily",
        "select cast(run_name as int64) from runs",
        "select run_name from runs where cast(concat(user_name, run_name) as float64) > 0",
        "select min(team), max(team), min(user_name), max(experiment_name) from cost_daily",
        "select error(max(team)) from cost_daily",
        "select * from nothing",
    ],
)
def test_no_statement_learns_a_name_from_the_engine(sql: str, vision: Settings) -> None:
    """Neither from its catalog, its statistics, nor an error about a value: the engine has only what is seen."""
    try:
        found = str(open_published(vision).answer(sql, timeout=60).to_pylist())
    except RunspendError as error:
        found = str(error)
    assert w.DECOY not in found and "read_parquet" not in found


def test_the_engines_own_dialect_is_refused(vision: Settings) -> None:
    with pytest.raises(RunspendError, match="some teams only"):
        open_published(vision).answer("select 1", native=True)
    with open_published(vision).reader() as reader, pytest.raises(RunspendError, match="some teams only"):
        reader.query("select 1", native=True)


FORBIDDEN: Mapping[str, Callable[[Warehouse], object]] = {
    "states": lambda warehouse: warehouse.states(),
    "read": lambda warehouse: warehouse.read(Unit("runs", "2026-10", "all")),
    "fetch": lambda warehouse: warehouse.fetch(Unit("runs", "2026-10", "all"), Path()),
    "step": lambda warehouse: warehouse.step("x", "x"),
    "find_damage": lambda warehouse: warehouse.find_damage(),
    "without": lambda warehouse: warehouse.without(set()),
    "restricted": lambda warehouse: warehouse.restricted(Restriction((w.OTHER,))),
}


@pytest.mark.parametrize("name", FORBIDDEN)
def test_a_team_has_the_warehouse_for_questions_only(name: str, vision: Settings) -> None:
    """By any way to open it. Units, files and steps are of all teams."""
    for warehouse in (open_published(vision), open_warehouse(vision)):
        with pytest.raises(RunspendError, match="some teams only"):
            FORBIDDEN[name](warehouse)


@pytest.mark.parametrize("name", TABLES)
def test_the_query_of_a_table_has_its_columns_in_order(name: str) -> None:
    names: Mapping[str, str] = {table: f"`{table}`" for table in TABLES}
    text = restricted_sql(TABLES[name], names, Restriction(("a", "it's"), (("b", "0123abcd"),)))
    assert "{" not in text and duckdb_sql(text)


def small_world(folder: Path, world: World, *, teams_from: list[str] | None = None) -> Settings:
    """October and November of a world, and the settings of someone of vision."""
    settings = Settings.model_validate(
        {"home": str(folder), "warehouse": {"uri": str(folder / "warehouse")}, "access": {"groups": {"vision-devs": ["vision"]}}}
        | ({} if teams_from is None else {"dimensions": {"team": teams_from}})
    )
    for period in (dt.date(2026, 10, 1), dt.date(2026, 11, 1)):
        run_on_duckdb(world, folder / "warehouse", period=period, check=False, settings=settings)
    summarize_on_duckdb(folder / "warehouse", settings=settings)
    return settings.seen_by(VISION)


def experiments(*names: str) -> list[dict[str, Any]]:
    """Experiments with ids from 1."""
    known = {"tracking_server": "prod", "workspace": "default", "lifecycle_stage": "active", "load_id": "x"}
    return [{**known, "experiment_id": f"{n}", "experiment_name": name} for n, name in enumerate(names, 1)]


def test_a_sum_with_nested_runs_has_no_cost_of_others(tmp_path: Path) -> None:
    """Also where the nested run of the other team is in an experiment of its own: the difference would be its cost."""
    stated = [
        make_run(id=w.MINE, run_name="parent", at="00:00..04:00", on=["m1"], team="vision"),
        make_run(id=w.THEIRS, run_name="child", at="00:00..02:00", on=["m2"], parent=w.MINE, team=w.OTHER, experiment_id="2", experiment_name="theirs"),
    ]  # fmt: skip
    lines = [line(hour, on="m1", at=f"{hour:02d}:00..{hour + 1:02d}:00", cost="10", hours=1) for hour in range(4)]
    lines += [line(10 + hour, on="m2", at=f"{hour:02d}:00..{hour + 1:02d}:00", cost="33.33", hours=1) for hour in range(2)]
    world = {
        "billing_lines": lines,
        "billing_loads": [],
        "runs": [run for run, _ in stated],
        "run_resources": [row for _, resources in stated for row in resources],
        "experiments": experiments("exp", "theirs"),
    }
    vision = small_world(tmp_path, world)
    with open_published(vision).reader() as reader:
        assert rows(reader, "select run_id, effective_cost, cost_with_children from run_costs") == [
            {"run_id": w.MINE, "effective_cost": Decimal(40), "cost_with_children": None}
        ]


def test_a_tag_of_the_bill_gives_no_owner_project_or_cost_center_of_others(tmp_path: Path) -> None:
    """Of a run of the other team whose machine was vision's in October and theirs in November, in an experiment that both have."""
    names = {"owner": f"{w.DECOY}-boss", "project": f"{w.DECOY}-project", "cost_center": f"{w.DECOY}-cc", "user_name": f"{w.DECOY}-ann"}
    stated = [
        make_run(id=w.MINE, run_name="vit", at="00:00..04:00", on=["m1"], team="vision", owner="ben", project="vit"),
        make_run(id=w.THEIRS, run_name="theirs", at="2026-10-31T20:00..2026-11-01T09:00", on=["m4", "m6"], team=w.OTHER, **names),
    ]
    lines = [line(hour, on="m1", at=f"{hour:02d}:00..{hour + 1:02d}:00", cost="10", hours=1) for hour in range(4)]
    lines += [
        line(10 + h, on="m4", at=f"2026-10-31T{h}:00..2026-10-31T{h + 1}:00", cost="2", hours=1, line_team="vision") for h in (20, 21, 22)
    ]
    lines += [line(20 + h, on="m6", at=f"2026-11-01T{h:02d}:00..2026-11-01T{h + 1:02d}:00", cost="7", hours=1, line_team=w.OTHER, period="2026-11") for h in range(9)]  # fmt: skip
    world = {
        "billing_lines": lines,
        "billing_loads": [],
        "runs": [run for run, _ in stated],
        "run_resources": [row for _, resources in stated for row in resources],
        "experiments": experiments("exp"),
    }
    vision = small_world(tmp_path, world, teams_from=["line.tag.team", "run.tag.team"])
    with open_published(vision).reader() as reader:
        seen = rows(
            reader,
            "select owner, project, sum(effective_cost) as cost from cost_daily where team = 'vision' group by owner, project order by cost",
        )
        assert seen == [
            {"owner": OTHER_TEAMS, "project": OTHER_TEAMS, "cost": Decimal(6)},
            {"owner": "ben", "project": "vit", "cost": Decimal(40)},
        ]
        assert not any(w.DECOY in str(rows(reader, f"select * from {name}")) for name in ("cost_daily", "cost_allocations", "run_costs"))


def test_a_budget_judged_by_other_rules_is_hidden(tmp_path: Path) -> None:
    """When it was the budget of the whole platform, its sums had the costs of others."""
    for name in ("budget_status", "alerts"):
        table = TABLES[name]
        with ParquetWarehouse(tmp_path / "warehouse").step(name, name) as step:
            judged = [w.decoy(table, budget="vision", budget_version=version) for version in ("0123abcd", "89abcdef")]
            step.put(name, "2026-10" if table.period_column else "all", "judged", arrow(name, judged))
            assert step.publish()
    settings = Settings.model_validate({"home": str(tmp_path), "warehouse": {"uri": str(tmp_path / "warehouse")}})
    seen = settings.seen_by(Viewer(("vision-devs",), ("vision",), (("vision", "89abcdef"), ("other", "0123abcd"))))
    with open_published(seen).reader() as reader:
        for name in ("budget_status", "alerts"):
            assert [row["budget_version"] for row in rows(reader, f"select budget_version from {name}")] == ["89abcdef"]
