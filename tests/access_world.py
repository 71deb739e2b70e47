"""A warehouse of two teams: `vision`, whose members read it, and another team, whose names all contain the mark DECOY.

Both teams have a run on the machine m1 and in the experiment exp. In every table, the other team has a row whose strings all contain the
mark.
"""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

from runspend.config.settings import Settings, load_settings
from runspend.schema.tables import TABLES, Column, Table
from runspend.warehouse.parquet.warehouse import ParquetWarehouse
from tests.allocation.chain import World, arrow, line, make_run, run_on_duckdb, summarize_on_duckdb
from tests.kept import copy_made_once

NOW = dt.datetime(2026, 10, 4, 6, tzinfo=dt.timezone.utc)
DECOY = "dec0de"
OTHER = f"{DECOY}-team"
MINE, THEIRS = "0a11e000000000000000000000000001", f"{DECOY}00000000000000000000000001"
BESIDE = "0a11e000000000000000000000000002"  # a run of vision, on a machine that the bill assigns to the other team
BY_TYPE = "0a11e000000000000000000000000003"  # a run of vision, on an unknown machine of its instance type
# Strings that code compares with. Their values are keywords, not names.
WORDS = {
    "billing_currency": "USD",
    "currency": "USD",
    "kind": "bill",
    "owner_kind": "run",
    "state": "ok",
    "lifecycle_stage": "active",
    "run_status": "FINISHED",
}
# Rows that everyone may see. They belong to no team, or describe only the configuration or the pipeline.
OF_NOBODY = ("price_list", "builds")


def two_teams() -> World:
    """Return the rows of the bill and of MLflow for both teams."""
    names = {
        "experiment_id": f"{DECOY}-9",
        "experiment_name": f"{DECOY}-secret",
        "user_name": f"{DECOY}-ann",
        "owner": f"{DECOY}-boss",
        "project": f"{DECOY}-project",
    }
    stated = [
        make_run(id=MINE, run_name="vit", at="00:00..04:00", on=["m1"], team="vision", team_from="run.tag.team", user_name="ben", gpu_count=4.0, job_id="j"),
        make_run(id=BESIDE, run_name="vit-eval", at="06:00..07:00", on=["m7"], team="vision", team_from="run.tag.team", user_name="ben"),
        make_run(id=BY_TYPE, run_name="vit-typed", at="00:00..02:00", on=[], team="vision", team_from="run.tag.team", instance_type="g5", num_nodes=1),
        make_run(id=THEIRS, run_name=f"{DECOY}-shares", at="01:00..03:00", on=["m1"], team=OTHER, team_from="run.tag.team", user_name=f"{DECOY}-ann", gpu_count=4.0),
        make_run(id=f"{DECOY}02", run_name=f"{DECOY}-alone", at="00:00..04:00", on=[f"{DECOY}-m2"], team=OTHER, team_from="run.tag.team", **names),
        make_run(id=f"{DECOY}03", run_name=f"{DECOY}-child", at="00:00..01:00", on=[f"{DECOY}-m2"], parent=MINE, team=OTHER, team_from="run.tag.team", **names),
    ]  # fmt: skip
    hours = [f"{hour:02d}:00..{hour + 1:02d}:00" for hour in range(8)]
    secret = {
        "service_name": f"{DECOY}-service",
        "sub_account_id": f"{DECOY}-account",
        "region_id": f"{DECOY}-region",
        "service_provider_name": f"{DECOY}-cloud",
    }
    tags = json.dumps({"owner": f"{DECOY}-ann"})
    lines = [line(h, on="m1", at=hours[h], cost="10.00", hours=1, machine_gpus=8, tags=tags, instance_type="p4d") for h in range(6)]
    lines += [line(10 + h, on=f"{DECOY}-m2", at=hours[h], cost="3.33", hours=1, instance_type=f"{DECOY}-type", line_team=OTHER, tags=tags, **secret) for h in range(6)]  # fmt: skip
    lines += [line(20 + h, on="m7", at=hours[h], cost="1.11", hours=1, line_team=OTHER, tags=tags) for h in range(8)]
    lines += [
        line(40 + n, on=machine, at="00:00..04:00", cost="5.00", hours=4, instance_type="g5")
        for n, machine in enumerate(("m8", f"{DECOY}-m9"))
    ]
    # The other team's machines share the name of vision's machine: one at another site, one in another account of the same bill.
    lines += [
        line(n, on="m1", at=f"{n - 40}:00..{n - 39}:00", cost="70.00", hours=1, instance_type=f"{DECOY}-type", **{**secret, **more})
        for n, more in ((50, {"source": f"{DECOY}-site"}), (51, {}))
    ]
    lines += [line(30, on=None, charge_category="Tax", cost="1.10", service_name="Tax")]
    return {
        "billing_lines": lines,
        "billing_loads": [],
        "runs": [run for run, _ in stated],
        "run_resources": [row for _, rows in stated for row in rows],
        "experiments": [
            {"tracking_server": "prod", "workspace": "default", "experiment_id": key, "experiment_name": name, "lifecycle_stage": "active", "tags": tag_budget, "load_id": "x"}
            for key, name in (("1", "exp"), (f"{DECOY}-9", f"{DECOY}-secret"))
        ],
    }  # fmt: skip


tag_budget = json.dumps({"runspend.budget": "500 USD / month", "owner": f"{DECOY}-boss@example.com"})


def decoy(table: Table, **known: Any) -> dict[str, Any]:
    """Return a row of the other team, with the mark in every string."""
    return {c.name: known.get(c.name, _value(c)) for c in table.columns}


def _value(column: Column) -> Any:
    if column.type == "STRING":
        if column.words:
            return column.words[0]
        return WORDS.get(column.name, f'{{"{DECOY}": "{DECOY}"}}' if "JSON" in column.meaning else f"{DECOY}-{column.name}")
    return {
        "DATE": dt.date(2026, 10, 1),
        "TIMESTAMP": dt.datetime(2026, 10, 1, 3, tzinfo=dt.timezone.utc),
        "BIGNUMERIC": Decimal("7.77"),
        "INT64": 7,
        "FLOAT64": 7.0,
        "BOOL": False,
        "ARRAY<STRING>": [f"{DECOY}-{column.name}"],
    }[column.type]


def make_two_teams(home: Path) -> Settings:
    """Write the warehouse, the reports and the configuration to `home`."""
    copy_made_once("two-teams", _make, home)
    return load_settings(home / "runspend.yaml")


def _make(home: Path) -> None:
    world = two_teams()
    run_on_duckdb(world, home / "warehouse", check=False)
    summarize_on_duckdb(home / "warehouse")
    with ParquetWarehouse(home / "warehouse").step("decoys", "decoys") as step:
        for table in TABLES.values():
            rows = [decoy(table)]
            if table.name == "unallocated_costs":
                rows = [decoy(table, allocated_to="idle")]
            if table.name == "sources":
                rows += [decoy(table, kind=kind, source=f"{DECOY}-{kind}") for kind in ("tracking", "store")]
                rows += [decoy(table, source="aws", last_error=f"cannot open /{DECOY}")]
            if table.name == "cost_allocations":
                rows += [
                    decoy(table, allocated_to=part, run_id=None, target_id=part, charge_id=f"{DECOY}-{part}")
                    for part in ("idle", "logged_model")
                ]
            if table.name == "cost_daily":
                rows += [decoy(table, allocated_to="idle", experiment_id=None, experiment_name=None, user_name=None)]
                line_of_vision = dict.fromkeys(
                    (
                        "source",
                        "service_name",
                        "service_provider_name",
                        "billing_account_id",
                        "sub_account_id",
                        "region_id",
                        "charge_category",
                    ),
                    "EC2",
                )
                rows += [
                    decoy(table, team="vision", build_id="build", **line_of_vision)
                ]  # a tag in the bill gives vision the cost of a run of the other team
            if table.name in ("budget_status", "alerts"):
                rows += [decoy(table, budget=name) for name in (f"{DECOY}-of-team", f"{DECOY}-of-all")]
            step.put(table.name, "2026-10" if table.period_column else "all", "decoys", arrow(table.name, rows))
        assert step.publish()
    (home / "reports").mkdir()
    for name in ("2026-10.html", "index.html", "2026-10-runs.csv"):
        (home / "reports" / name).write_text(f"<p>{DECOY}</p>", encoding="utf-8")
    to = ["ops@example.com"]
    (home / "runspend.yaml").write_text(
        json.dumps(
            {
                "home": ".",
                "tracking": [{"name": "prod", "uri": "https://mlflow.example.com"}],
                "billing": [{"name": "aws", "uri": "bills"}, {"name": f"{DECOY}-bill", "uri": f"{DECOY}-bills"}],
                "stores": [{"uri": f"{DECOY}-store"}],
                "pools": [{"name": f"{DECOY}-pool", "lines": {"service": "none"}, "runs": {"experiment": "none"}}],
                "budgets": [
                    {"name": "vision", "for": {"team": "vision"}, "amount": 100, "notify": to},
                    {"name": f"{DECOY}-of-team", "for": {"team": OTHER}, "amount": 777, "notify": [f"{DECOY}@example.com"]},
                    {"name": f"{DECOY}-of-all", "for": {"team": "*"}, "amount": 777, "notify": to},
                    {"from": "experiment_tags", "notify": to},
                ],
                "mail": {"backend": "file"},
                "access": {
                    "groups": {"vision-devs": ["vision"], "équipe": ["vision"], "finance": "all"},
                    "header": "X-Groups",
                    "user_header": "X-User",
                },
            }
        ),
        encoding="utf-8",
    )
