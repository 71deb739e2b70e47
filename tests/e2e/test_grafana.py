"""The dashboards of deploy/grafana over the demo. Each panel's query, as Grafana sends it, equals the ledger on a real PostgreSQL.

The database and its logins are those of docker-compose.yaml. The same queries for BigQuery give the same rows on Google's reference
implementation. Grafana itself does not run.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import date, datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import psycopg2
import psycopg2.extras
import pyarrow as pa
import pytest

from runspend.actions.publish import open_content
from runspend.actions.publish import postgres as postgres_target
from runspend.config.publish import PostgresTarget
from runspend.config.settings import load_settings
from runspend.schema.published import PUBLISHED_TABLES
from runspend.warehouse.factory import open_warehouse
from tests.allocation.chain import query_reference
from tests.grafana_variables import replace_macros, replace_variables
from tests.ingest.tracking.mlflow_servers import postgres as postgres
from tests.reference import GoogleSQL

ROOT = Path(__file__).resolve().parents[2]
GRAFANA = ROOT / "deploy" / "grafana"
NOW = datetime(2026, 11, 24, 6, tzinfo=timezone.utc)
PASSWORDS = {"runspend": "it's secret", "grafana": "read"}
SITE = "https://costs.example.com"
Rows = list[dict[str, Any]]


def load(path: Path) -> Any:
    """Load a program of deploy/ as a module."""
    spec = importlib.util.spec_from_file_location(f"deploy_{path.stem}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look up the module there
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True)
class Scene:
    """The choices at the top of the dashboards."""

    first: datetime
    last: datetime
    teams: tuple[str, ...] = ()  # empty means All
    measure: str = "effective_cost"
    dimension: str = "team"

    @property
    def chosen(self) -> dict[str, str | list[str]]:
        """Return the values of the variables as Grafana keeps them."""
        found: dict[str, str | list[str]] = {"currency": "USD", "measure": self.measure, "dimension": self.dimension, "schema": "runspend"}
        return found | ({"team": [*self.teams]} if self.teams else {})

    def fill(self, sql: str) -> str:
        """Fill a query of `LEDGER`."""
        teams = f"team in ({', '.join(repr(team) for team in self.teams)})" if self.teams else "true"
        days = f"charge_date between '{self.first:%Y-%m-%d}' and '{self.last:%Y-%m-%d}'"
        months = f"billing_period between '{self.first:%Y-%m}-01' and '{self.last:%Y-%m-%d}'"
        run = "tracking_server || '/' || workspace || '/' || run_id"
        return sql.format(m=self.measure, teams=teams, days=days, months=months, first=f"'{self.first:%Y-%m-%d}'", last=f"'{self.last:%Y-%m-%d}'",
                          of_runs=f"{days} and {run} in (select {run} from run_costs where {teams})")  # fmt: skip


UTC = timezone.utc
WHOLE = Scene(datetime(2026, 10, 1, tzinfo=UTC), datetime(2026, 11, 30, 23, 59, 59, 999000, tzinfo=UTC))  # the whole demo
SOME = Scene(
    datetime(2026, 11, 5, 13, 30, tzinfo=UTC), datetime(2026, 11, 12, 9, 15, tzinfo=UTC), ("vision", "nlp"), "list_cost", "user_name"
)

DAILY = "select sum({m}) from cost_daily where {days} and {teams}"
LEDGER = "select sum({m}) from cost_allocations where allocated_to = 'run' and {of_runs}"
IDLE = "select sum({m}) from cost_daily where {days} and allocated_to = 'idle'"
FAILED = """
select coalesce(sum(d.{m}), 0) from (select * from run_costs_daily where {days}) d
join run_costs r using (tracking_server, workspace, run_id, billing_currency) where run_status in ('FAILED', 'KILLED')
"""
BUDGETS = "from (select * from budget_status where month <= {last} qualify row_number() over (partition by budget order by month desc, budget_period desc) = 1)"
# Dashboard and section: the summed column, and the warehouse's value. For a ratio, the numerator is compared.
EXPECTED: dict[str, tuple[str, str]] = {
    "overview/total": ("cost", DAILY),
    "overview/change": ("cost", DAILY),
    "overview/parts": ("cost", DAILY),
    "overview/days": ("cost", DAILY),
    "overview/teams": ("cost", DAILY),
    "overview/services": ("cost", DAILY),
    "overview/kinds": ("cost", DAILY),
    "overview/bills": ("billed_cost", "select sum(billed_cost) from cost_allocations where {months}"),
    "teams/days": ("cost", DAILY),
    "teams/totals": ("cost", DAILY),
    "teams/experiments": ("cost", DAILY + " and allocated_to = 'run'"),
    "teams/users": ("cost", DAILY + " and allocated_to = 'run'"),
    "teams/experiment_days": (
        "cost",
        "select sum(cost) from (select sum({m}) as cost from cost_daily where {days} and {teams} and allocated_to = 'run' group by"
        " experiment_name order by 1 desc limit 10)",
    ),
    "teams/untagged": (
        "cost",
        "select coalesce(sum(case when team is null then {m} end), 0) from cost_daily where {days} and allocated_to in ('run', 'logged_model')",
    ),
    "runs/total": ("cost", LEDGER),
    "runs/runs": (
        "runs",
        "select count(distinct (tracking_server, workspace, run_id)) from cost_allocations where allocated_to = 'run' and {of_runs}",
    ),
    "runs/failed": ("cost", FAILED + " and {teams}"),
    "runs/gpu_hours": ("gpu_hours", "select sum(gpu_seconds) / 3600 from run_costs_daily where {of_runs}"),
    "runs/gpu_hour_cost": (
        "cost_per_gpu_hour",
        "select sum({m}) / (sum(gpu_seconds) / 3600) from run_costs_daily where {of_runs} and gpu_seconds > 0 and cost_kind = 'compute'",
    ),
    "runs/days": ("cost", LEDGER),
    "runs/statuses": ("cost", LEDGER),
    "runs/most_expensive": (
        "cost",
        "select sum(cost) from (select sum({m}) as cost from run_costs_daily where {of_runs} group by tracking_server, workspace, run_id"
        " order by 1 desc limit 200)",
    ),
    "budgets/count": ("budgets", "select count(*) " + BUDGETS),
    "budgets/exceeded": ("budgets", "select count(*) " + BUDGETS + " where spent > amount"),
    "budgets/at_risk": ("budgets", "select count(*) " + BUDGETS + " where spent <= amount and forecast > amount"),
    "budgets/used": ("used", "select sum(spent::double / amount::double) " + BUDGETS),
    "budgets/amounts": ("spent", "select sum(spent) " + BUDGETS),
    "budgets/budgets": ("forecast", "select sum(forecast) " + BUDGETS),
    "budgets/alerts": ("spent", "select sum(spent) from alerts where decided_at between {first} and {last}::date + 1"),
    "idle/idle": ("cost", IDLE),
    "idle/idle_share": (
        "share",
        "select sum(case when allocated_to = 'idle' then {m}::double end) / sum({m}::double) from cost_daily where {days} and allocated_to in ('idle', 'run')",
    ),
    "idle/failed": ("cost", FAILED),
    "idle/unused": ("cost", "select coalesce(sum(unused_cost), 0) from cost_allocations where {days} and allocated_to = 'run'"),
    "idle/overhead": ("cost", "select coalesce(sum(overhead_cost), 0) from cost_allocations where {days} and allocated_to = 'run'"),
    "idle/orphaned": ("cost", "select coalesce(sum({m}), 0) from cost_daily where {days} and allocated_to = 'orphan'"),
    "idle/days": ("cost", IDLE),
    "idle/failed_days": ("cost", FAILED),
    "idle/machines": ("cost", "select sum({m}) from cost_allocations where {months} and allocated_to = 'idle'"),
    "idle/unallocated": ("cost", "select sum({m}) from cost_allocations where {months} and allocated_to = 'unallocated'"),
    "idle/failed_experiments": ("cost", FAILED),
    "freshness/newest_day": ("newest_day", "select max(charge_date) from cost_daily where charge_category = 'Usage'"),
    "freshness/bill_lag": ("hours", "select sum(epoch(current_timestamp - covered_until)) / 3600 from sources where kind = 'bill'"),
    "freshness/published": ("published_at", "select timestamptz '2026-11-24 06:00:00+00'"),
    "freshness/build": ("build_id", "select '{{build}}'"),
    "freshness/sources": ("row_count", "select sum(row_count) from sources"),
    "freshness/confidence": ("cost", "select sum({m}) from cost_daily where {days} and allocated_to = 'run'"),
    "freshness/statuses": ("cost", "select sum({m}) from cost_daily where {days}"),
    "freshness/coverage": (
        "with_run",
        "select sum(case when allocated_to = 'run' then {m}::double end) / sum({m}::double) from cost_daily where {days}"
        " and allocated_to not in ('shared', 'out_of_scope')",
    ),
    "freshness/agreement": ("run_costs", "select sum(effective_cost) from cost_allocations where allocated_to = 'run'"),
    "freshness/tables": ("row_count", "select {{rows}}"),
}


def panels(dialect: str) -> dict[str, tuple[Any, dict[str, Any], dict[str, Any]]]:
    """Return each panel of the committed dashboards: its JSON, and its dashboard's variables."""
    generator = load(GRAFANA / "generate.py")
    found = {}
    for board in generator.BOARDS:
        made = json.loads((GRAFANA / "dashboards" / dialect / f"{board.name}.json").read_text(encoding="utf-8"))
        variables = {variable["name"]: variable for variable in made["templating"]["list"]}
        for panel, shown in zip(board.panels, made["panels"], strict=True):
            found[f"{board.name}/{panel.section}"] = (board, shown, variables)
    return found


class Database:
    """The database `costs` of docker-compose.yaml after a pipeline run."""

    def __init__(self, server: str, home: Path) -> None:
        self._server = server
        self.prepare()
        uri = psycopg2.extensions.make_dsn(server, dbname="costs", user="runspend", password=PASSWORDS["runspend"])
        self.target = PostgresTarget(name="grafana", kind="postgres", uri=as_uri(uri))  # type: ignore[arg-type]
        settings = load_settings(home)
        chosen = load_settings(
            ROOT / "deploy" / "config" / "runspend.yaml", {"MLFLOW_READER_URI": "postgresql://r@h/m", "COSTS_DB_URI": "postgresql://r@h/c"}
        )
        with open_content(open_warehouse(settings), SITE) as content:
            self.published = postgres_target.publish(self.target, content.of(chosen.publish[0].tables), NOW)

    def prepare(self) -> None:
        """Do what `init` does whenever the stack starts."""
        load(ROOT / "deploy" / "init.py").make_costs_database(self._server, PASSWORDS)

    def ask(self, sql: str, login: str = "grafana") -> Rows:
        """Return the rows of a query with the login of Grafana's data source."""
        opened = psycopg2.connect(self._server, dbname="costs", user=login, password=PASSWORDS[login])
        with closing(opened), opened.cursor(cursor_factory=psycopg2.extras.RealDictCursor) as cursor:
            cursor.execute(sql)
            return [dict(row) for row in cursor.fetchall()]


def as_uri(dsn: str) -> str:
    """Return a libpq connection string as an address."""
    from urllib.parse import quote, urlencode

    parts = psycopg2.extensions.parse_dsn(dsn)
    query = urlencode({key: value for key, value in parts.items() if key in ("host", "port")}, quote_via=quote)
    return f"postgresql://{parts['user']}:{quote(parts['password'])}@/{parts['dbname']}?{query}"


@pytest.fixture(scope="module")
def database(made_night: Path, postgres: str) -> Database:
    return Database(postgres, made_night)


@pytest.fixture(scope="module")
def warehouse(made_night: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """Return the tables of the warehouse, read from its files."""
    with closing(open_files(made_night.parent)) as connection:
        yield connection


def open_files(home: Path) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    connection.execute("set TimeZone = 'UTC'")
    for table in PUBLISHED_TABLES:
        found = [folder for folder in (home / "warehouse" / table.name, home / "warehouse" / "_internal" / table.name) if folder.is_dir()]
        if found:
            connection.execute(f"create view {table.name} as from read_parquet('{found[0]}/**/*.parquet', hive_partitioning = false)")
    return connection


def answer(database: Database, panel: tuple[Any, Any, Any], scene: Scene) -> Rows:
    """Return the rows that Grafana gets for a panel."""
    _, shown, variables = panel
    sql = replace_variables(shown["targets"][0]["rawSql"], variables, scene.chosen, scene.first, scene.last)
    return database.ask(replace_macros(sql, scene.first, scene.last))


def added_up(rows: Rows, column: str) -> Any:
    values = [row[column] for row in rows if row[column] is not None]
    return values[0] if len(values) == 1 else sum(values)


def expected(warehouse: duckdb.DuckDBPyConnection, database: Database, name: str, scene: Scene) -> tuple[str, Any]:
    column, sql = EXPECTED[name]
    filled = (
        scene.fill(sql).format(build=database.published.build_id, rows=sum(database.published.rows.values()))
        if "{{" in sql
        else scene.fill(sql)
    )
    (row,) = warehouse.sql(filled).fetchall()
    return column, row[0]


def is_equal(name: str, ours: Any, theirs: Any) -> bool:
    """Return whether money, counts, dates and strings are equal. Hours and ratios are floats, and the time advances between two queries."""
    if isinstance(theirs, float) or isinstance(ours, float):
        return float(ours) == pytest.approx(float(theirs), rel=1e-3 if name == "freshness/bill_lag" else 1e-9)
    return bool((ours or 0) == (theirs or 0)) if isinstance(theirs, Decimal | None) else bool(ours == theirs)


POSTGRES = panels("postgres")


def test_each_panel_has_a_ledger_query() -> None:
    assert POSTGRES.keys() == EXPECTED.keys() == panels("bigquery").keys()


@pytest.mark.parametrize("scene", [WHOLE, SOME], ids=["the whole demo", "two teams"])
def test_each_panel_equals_the_ledger(database: Database, warehouse: duckdb.DuckDBPyConnection, scene: Scene) -> None:
    """This holds to the last decimal, with All and with some teams. If the range begins or ends within a day, it covers the whole day."""
    wrong = []
    for name, panel in POSTGRES.items():
        column, theirs = expected(warehouse, database, name, scene)
        rows = answer(database, panel, scene)
        ours = added_up(rows, column) if rows else None
        if not is_equal(name, ours, theirs) and not (not rows and not theirs):
            wrong.append(f"{name}: {ours}, not {theirs}")
    assert wrong == []


def test_the_variables_offer_existing_values(database: Database) -> None:
    """The variables find the schema and the site's address. Teams, experiments, budgets and currencies are those of the ledger."""
    offered: dict[str, set[Any]] = {}
    for _, _, variables in POSTGRES.values():
        for name, variable in variables.items():
            if variable["type"] == "query" and name not in offered:
                sql = replace_variables(variable["query"], variables, WHOLE.chosen, WHOLE.first, WHOLE.last)
                offered[name] = {value for row in database.ask(replace_macros(sql, WHOLE.first, WHOLE.last)) for value in row.values()}
    assert offered["schema"] == {"runspend"} and offered["site"] == {SITE} and offered["currency"] == {"USD"}
    assert {"vision", "nlp", "(idle)", "(shared)"} <= offered["team"] and "vit-pretrain" in offered["experiment"]
    assert offered["budget"] == {"forecasting", "ml-platform", "nlp", "recsys", "vision"}


def test_the_login_of_grafana_can_only_read(database: Database) -> None:
    """It reads published tables, including those created after `init`. Even if it turns off its read-only mode, it cannot write."""
    database.prepare()  # once more, as whenever the stack starts
    assert database.ask("select count(*) as found from runspend.costs_for_dashboards")[0]["found"] > 0
    for sql in ("delete from runspend.runspend_builds", "create table runspend.mine ()", "create table public.mine ()"):
        with pytest.raises(psycopg2.Error, match=r"read-only|permission denied"):
            database.ask(sql)
        with pytest.raises(psycopg2.Error, match=r"permission denied"):
            database.ask(f"set transaction read write; {sql}")


def test_bigquery_gives_the_same_rows(database: Database, made_night: Path) -> None:
    """Google's reference implementation gives the same rows for the same choices. Tables that only one warehouse has are left out."""
    reference, tables = GoogleSQL(), bigquery_tables(made_night)
    for name, (_, shown, variables) in panels("bigquery").items():
        (target,) = shown["targets"]
        chosen = {**SOME.chosen, "dataset": "my-project.runspend", "site": ""}
        sql = bare(replace_variables(target["rawSql"], variables, chosen, SOME.first, SOME.last))
        theirs = query_reference(reference, sql, tables, {}).to_pylist()
        if "builds" not in sql:
            ours = answer(database, POSTGRES[name], SOME)
            assert [plain(row) for row in theirs] == [plain(row) for row in ours], name
        else:
            assert theirs, name


def bigquery_tables(config: Path) -> dict[str, pa.Table]:
    """Return all tables that the dashboards read in BigQuery."""
    with open_warehouse(load_settings(config)).reader() as reader:
        names = [*(table.name for table in PUBLISHED_TABLES if table.name not in ("cost_allocations", "runs", "cost_daily")), "builds"]
        return {name: reader.query(f"select * from {name}") for name in names}


def bare(sql: str) -> str:
    """Return the query with table names without a dataset."""
    return re.sub(r"`my-project\.runspend(?:_internal)?\.(\w+)`", r"\1", sql)


def plain(row: dict[str, Any]) -> list[Any]:
    """Return a row in a form that both engines share: ratios and hours have few digits, and a day of a series is a time."""
    return [_plain(name, value) for name, value in row.items()]


def _plain(name: str, value: Any) -> Any:
    if name in ("hours", "hours_behind"):
        return value is not None
    if name in ("change", "used", "share", "with_run", "with_team", "unallocated", "utilization") or isinstance(value, float):
        return None if value is None else f"{float(value):.9g}"
    if isinstance(value, Decimal):
        return value.normalize()
    if isinstance(value, datetime):
        return value.astimezone(UTC)
    return datetime(value.year, value.month, value.day, tzinfo=UTC) if isinstance(value, date) and name == "time" else value


PAGE = ROOT / "docs" / "grafana.md"


def test_the_page_states_these_sums(database: Database, warehouse: duckdb.DuckDBPyConnection) -> None:
    """The table of docs/grafana.md covers the whole demo. If it differs, this test prints the new one."""
    rows = ["| dashboard | panel | sum of its query | ledger | |", "|---|---|---|---|---|"]
    for name, (board, shown, _) in POSTGRES.items():
        if name in ("freshness/bill_lag", "freshness/build"):  # these depend on the time, and on paths of this test run
            continue
        column, theirs = expected(warehouse, database, name, WHOLE)
        ours = added_up(answer(database, POSTGRES[name], WHOLE), column)
        same = "equal" if is_equal(name, ours, theirs) else "DIFFERENT"
        rows.append(
            f"| {board.title} | {shown['title'].replace(' ($currency)', '').replace('$dimension', 'team')} | {shown_as(ours)} | {shown_as(theirs)} | {same} |"
        )
    table = "\n".join(rows)
    assert table in PAGE.read_text(encoding="utf-8"), f"docs/grafana.md needs this table:\n{table}"


def shown_as(value: Any) -> str:
    """Return a figure as people read it, with cents for money."""
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M}"
    if isinstance(value, Decimal | float):
        return f"{value:,.2f}" if abs(value) >= 1 or not value else f"{value:.4f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def test_the_database_can_be_filled_with_the_demo(database: Database, made_night: Path, tmp_path: Path) -> None:
    """deploy/grafana/fill_with_demo.sh runs with a `docker` that runs the container's commands on this machine."""
    docker = tmp_path / "docker"
    docker.write_text('#!/bin/sh\n[ "$1 $2 $3 $4" = "compose exec -T scheduler" ] || exit 9\nshift 4\nexec "$@"\n')
    docker.chmod(0o755)
    done = subprocess.run(
        [str(GRAFANA / "fill_with_demo.sh"), str(made_night.parent)],
        env={**os.environ, "PATH": f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}", "COSTS_DB_URI": database.target.uri.get_secret_value()},
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "changed  publish grafana: build " in done.stdout
    found = database.ask("select sum(effective_cost) as cost from runspend.costs_for_dashboards")
    assert found == database.ask("select sum(effective_cost) as cost from runspend.cost_daily")
