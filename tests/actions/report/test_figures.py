"""The figures of a month's report equal the tables exactly."""

from __future__ import annotations

import json
from datetime import date, datetime, timedelta, timezone
from decimal import Context, Decimal
from pathlib import Path
from typing import Any

import pytest

from runspend.actions.report import plan_report, write_report
from runspend.actions.report.figures import MEASURES, ReportFigures, Resource
from runspend.actions.report.plan import SQL, budget_dates, run_url
from runspend.actions.report.render import render_page
from runspend.actions.report.terminal_summary import PipelineRun, render_summary, summary_lines
from runspend.config.settings import Settings
from runspend.schema.tables import TABLES
from runspend.warehouse.factory import open_warehouse
from tests.actions.report.report_world import COVERED, NOVEMBER, NOW, TableReader, costs, month_world
from tests.sql_lint import lint

SETTINGS = Settings.model_validate({"tracking": [{"name": "prod", "uri": "https://me:secret@mlflow.example.com/"}]})
EXACT = Context(prec=76)


def plan(world: dict[str, list[dict[str, Any]]], settings: Settings = SETTINGS, period: str = "2026-11") -> ReportFigures:
    """Return the figures of a world."""
    return plan_report(TableReader(world), period, settings=settings, now=NOW)


def empty_world() -> dict[str, list[dict[str, Any]]]:
    """Return every table without rows."""
    return {name: [] for name in TABLES}


def exact(values: Any) -> Decimal:
    """Return an exact sum."""
    total = Decimal(0)
    for value in values:
        total = EXACT.add(total, value)
    return total


def test_parts_add_up_to_the_tables_to_the_last_decimal() -> None:
    """The bill equals the platform plus the rest, and the rows of the month, in all four measures."""
    world = month_world()
    (page,) = plan(world).currencies
    november = [r for r in world["cost_daily"] if r["charge_date"] >= NOVEMBER]
    for measure in MEASURES:
        assert page.bill[measure] == exact(r[measure] for r in november)
        assert EXACT.add(page.platform[measure], page.parts["out of scope"][measure]) == page.bill[measure]
    assert page.parts["idle"].effective_cost == exact(r["effective_cost"] for r in november if r["allocated_to"] == "idle")
    assert exact(t.effective_cost for t in page.teams) == page.parts["allocated to runs"].effective_cost
    assert exact(page.kinds.values()) == page.parts["allocated to runs"].effective_cost == exact(page.confidence.values())
    assert exact(v for _, parts in page.days for v in parts.values()) == page.bill.effective_cost
    assert page.run_count == len({r["run_id"] for r in world["run_costs_daily"] if r["charge_date"] >= NOVEMBER})


def test_sums_keep_digits_beyond_28() -> None:
    """Seven-digit totals with 22 decimals are added exactly."""
    world = empty_world()
    for amount in ("9999999.9999999999999999999999", "0.0000000000000000000001", "1234567.0000000000000000000001"):
        world["cost_daily"].append(
            {
                "billing_period": NOVEMBER,
                "charge_date": NOVEMBER,
                "allocated_to": "shared" if amount[0] == "9" else "idle",
                "billing_currency": "USD",
                **costs(amount),
            }
        )
    (page,) = plan(world).currencies
    assert page.bill.effective_cost == Decimal("11234567.0000000000000000000001")


def test_the_same_tables_give_the_same_figures() -> None:
    """Planning twice gives equal figures and one snapshot. A change in the last decimal gives another snapshot."""
    world = month_world()
    first, second = plan(world), plan(world)
    assert first == second
    assert first.snapshot == second.snapshot
    row = world["cost_daily"][-1]
    row["effective_cost"] = EXACT.add(row["effective_cost"], Decimal("1e-22"))
    assert plan(world).snapshot != first.snapshot


def test_currencies_are_never_added() -> None:
    """Each currency has its own figures, and the configured one is first."""
    world = month_world("USD")
    for name, rows in month_world("EUR").items():
        if name in ("cost_daily", "billing_lines", "billing_loads", "cost_allocations", "unallocated_costs", "run_costs_daily"):
            world[name] += rows
    dollars, euros = plan(world).currencies
    assert (dollars.currency, euros.currency) == ("USD", "EUR")
    assert dollars.bill == euros.bill == plan(month_world()).currencies[0].bill
    assert [c.currency for c in plan(world, SETTINGS.model_copy(update={"currency": "EUR"})).currencies] == ["EUR", "USD"]


def test_last_month_is_compared_up_to_the_same_day() -> None:
    """A bill that ends at noon on 2 November is compared with 1 and 2 October, not with all of October."""
    world = empty_world()
    row = {
        "billing_currency": "USD",
        "allocated_to": "run",
        "team": "vision",
        "experiment_id": "1",
        "tracking_server": "prod",
        "workspace": "default",
    }
    for when, amount in (
        (date(2026, 10, 1), "1"),
        (date(2026, 10, 2), "2"),
        (date(2026, 10, 3), "4"),
        (date(2026, 11, 1), "16"),
        (date(2026, 11, 2), "32"),
    ):
        world["cost_daily"].append({**row, "billing_period": when.replace(day=1), "charge_date": when, **costs(amount)})
    load = {"source": "aws", "version": "v", "version_number": 1, "billing_currency": "USD", "state": "current", **costs("48")}
    world["billing_loads"].append({**load, "billing_period": NOVEMBER, "covered_until": datetime(2026, 11, 2, 12, tzinfo=timezone.utc)})
    (team,) = plan(world).currencies[0].teams
    assert (team.effective_cost, team.previous_cost) == (48, 3)


def test_charges_of_another_billing_period_are_bridged() -> None:
    """A late charge for November on December's bill counts in the month, but not in the period. The report shows both sums."""
    world = empty_world()
    row = {"billing_currency": "USD", "allocated_to": "shared"}
    for period, when, amount in (
        (NOVEMBER, NOVEMBER, "100"),
        (date(2026, 12, 1), date(2026, 11, 30), "7"),
        (NOVEMBER, date(2026, 10, 31), "3"),
    ):
        world["cost_daily"].append({**row, "billing_period": period, "charge_date": when, **costs(amount)})
    (page,) = plan(world).currencies
    assert page.bill.effective_cost == 107
    assert (page.only_this_month.effective_cost, page.only_this_period.effective_cost) == (7, 3)


def test_reconciliation_is_equal_only_to_the_last_decimal_of_all_four() -> None:
    """A ledger that is 1e-22 off in one measure is not equal."""
    world = month_world()
    assert plan(world).currencies[0].reconciliation[0].is_equal
    for measure in MEASURES:
        row = world["cost_allocations"][-1]
        kept = row[measure]
        row[measure] = EXACT.add(kept, Decimal("1e-22"))
        assert not plan(world).currencies[0].reconciliation[0].is_equal
        row[measure] = kept
    world["billing_loads"] = []
    assert not plan(world).currencies[0].reconciliation[0].is_equal


def test_waste_names_failed_and_repeated_runs() -> None:
    """Of three equal finished runs, two are repetitions, but not a run of another commit. A killed run is waste."""
    world = empty_world()
    for i, (status, params, commit, amount) in enumerate(
        (
            ("FINISHED", "p", "c", "1"),
            ("FINISHED", "p", "c", "2"),
            ("FINISHED", "p", "c", "4"),
            ("FINISHED", "p", "d", "8"),
            ("KILLED", "p", "c", "16"),
            ("FINISHED", None, "c", "32"),
            ("FINISHED", None, "c", "64"),
        )
    ):
        run = {"tracking_server": "prod", "workspace": "default", "run_id": f"r{i}"}
        world["runs"].append(
            {
                **run,
                "run_status": status,
                "params_digest": params,
                "git_commit": commit,
                "experiment_id": "1",
                "start_time": NOW + timedelta(hours=i),
                "run_name": f"run {i}",
            }
        )
        world["run_costs_daily"].append(
            {**run, "charge_date": NOVEMBER, "billing_period": NOVEMBER, "billing_currency": "USD", **costs(amount)}
        )
    world["cost_daily"].append(
        {"billing_period": NOVEMBER, "charge_date": NOVEMBER, "allocated_to": "run", "billing_currency": "USD", **costs("127")}
    )
    waste = {w.kind: w for w in plan(world).currencies[0].waste}
    assert {k: (w.effective_cost, w.count) for k, w in waste.items()} == {"failed": (16, 1), "repeated": (6, 2)}
    assert [i[0] for i in waste["repeated"].items] == ["run 2", "run 1"]


def test_a_resource_that_runs_paid_for_is_not_listed_as_one_without_runs() -> None:
    """Disks follow their machine, and pool machines follow their pool, so neither has a last run. Resources that only `sharing` gave to runs are listed."""
    world = empty_world()
    world["cost_daily"].append(
        {"billing_period": NOVEMBER, "charge_date": NOVEMBER, "allocated_to": "run", "billing_currency": "USD", **costs("1")}
    )

    def charge(target: str, method: str, **named: str) -> None:
        number = len(world["cost_allocations"])
        world["cost_allocations"].append(
            {
                "source": "aws", "billing_period": NOVEMBER, "charge_id": f"line{number}", "target_id": target, "charge_date": NOVEMBER, "allocated_to": target,
                "match_method": method, "billing_currency": "USD", **named, **costs("3"),
            }
        )  # fmt: skip

    idle = {"source": "aws", "billing_period": NOVEMBER, "allocated_to": "idle", "sub_account_id": "", "billing_currency": "USD"}
    for name, service, used_by in (
        *((f"vol-{n}", "EBS", "attached") for n in range(39)),
        ("i-pooled", "EC2", "pool_time"), ("i-unused", "EC2", None), ("vol-unused", "EBS", None), ("", "SageMaker", "instance_type_time"), ("", "Batch", None), ("i-shared", "EC2", "sharing"),
    ):  # fmt: skip
        world["unallocated_costs"].append({**idle, "resource_id": name, "service_name": service, **costs("2")})
        if used_by:
            charge("run", used_by, service_name=service, **({"resource_id": name} if name else {}))
    world["unallocated_costs"].append({**idle, "resource_id": "gpu-pool", "service_name": "EC2", **costs("2")})
    charge("run", "pool_time", pool_key="gpu-pool", service_name="EC2")
    (waste,) = plan(world).currencies[0].waste
    assert (waste.kind, waste.count, waste.effective_cost) == ("no_run", 4, 8)
    assert sorted(item[0] for item in waste.items) == ["Batch", "i-shared", "i-unused", "vol-unused"]


@pytest.mark.parametrize("mode", ["pseudonym", "hide"])
def test_people_are_not_named_unless_shown(mode: str) -> None:
    """With `people: pseudonym` or `hide`, no figure contains a person's name. Pseudonyms are the same throughout a report."""
    names = {p: f"{p}.surname@example.com" for p in ("ana", "ben", "cleo", "dan", "eva")}
    world = month_world(names=names | {"demand": "/Users/dan.surname@example.com/demand"})
    shown = plan(world)
    hidden = plan(world, Settings.model_validate({"mail": {"people": mode}}))
    assert "surname" in repr(shown)
    assert "surname" not in repr(hidden)
    page = hidden.currencies[0]
    if mode == "pseudonym":
        assert sorted(name for name, _ in page.people) == [f"person {i}" for i in range(1, 6)]
        cost = dict(page.people)
        by_run: dict[str | None, Decimal] = {}
        for run in page.runs:
            by_run[run.person] = EXACT.add(by_run.get(run.person, Decimal(0)), run.costs.effective_cost)
        assert by_run == cost
    else:
        assert page.people == ()
        assert {r.person for r in page.runs} == {None}


@pytest.mark.parametrize("mode", ["pseudonym", "hide"])
@pytest.mark.parametrize("gpus", [0, 8])
def test_groups_of_cost_without_a_run_have_no_values_of_tags_where_people_are_hidden(tmp_path: Path, mode: str, gpus: int) -> None:
    """A tag may name anyone. Pages, files and the summary show only its key and the advice, and no cost is lost."""
    world = month_world()
    lost = [
        row["charge_id"] for row in world["cost_allocations"] if row["allocated_to"] == "unallocated" and row["charge_date"] >= NOVEMBER
    ]
    tags = {
        line: {"ClusterName" if n % 3 == 0 else "owner": f"{'ana' if n % 2 else 'ben'}.surname@example.com"} for n, line in enumerate(lost)
    }
    for row in world["billing_lines"]:
        if row["line_id"] in tags:
            ((key, value),) = tags[row["line_id"]].items()
            row |= {"tags": json.dumps({key: value}), "instance_type": "p4d.24xlarge" if gpus else "m5.large", "machine_gpus": float(gpus)}
            row |= {"group_keys": [f"1111|{key}|{value}"] if key == "ClusterName" else []}
    shown, hidden = (plan(world, Settings.model_validate({"mail": {"people": people}})) for people in ("show", mode))
    assert len([group for group in shown.currencies[0].groups if "surname" in group.words + group.advice]) == 4
    groups = hidden.currencies[0].groups
    assert {"machines with the tag owner", "machines with the tag ClusterName"} <= {group.words for group in groups}
    assert len({(group.words, group.advice) for group in groups}) == len(groups)
    assert exact(g.effective_cost for g in groups) == exact(g.effective_cost for g in shown.currencies[0].groups) > 0
    assert exact(g.inside_cost for g in groups) == exact(g.inside_cost for g in shown.currencies[0].groups)
    write_report(hidden, tmp_path)
    written = [path.read_text(encoding="utf-8") for path in tmp_path.iterdir()]
    pipeline_run = PipelineRun(NOW, 1)
    for text in (repr(groups), render_summary([hidden], pipeline_run), *summary_lines([hidden], pipeline_run), *written):
        assert "surname" not in text


def test_links_lead_to_mlflow_without_its_password() -> None:
    """Only addresses that a browser can open become links."""
    assert run_url(SETTINGS, "prod", "12", "3f1c") == "https://mlflow.example.com/#/experiments/12/runs/3f1c"
    assert run_url(SETTINGS, "gone", "12", "3f1c") is None
    for uri in ("sqlite:///mlflow.db", "databricks", "javascript:alert(1)"):
        assert run_url(Settings.model_validate({"tracking": [{"name": "prod", "uri": uri}]}), "prod", "12", "3f1c") is None


def test_budgets_of_other_periods_stay_out() -> None:
    """A quarter that includes the month is shown, but an old week is not. Only the newest period of each budget is shown."""
    world = empty_world()
    for name, period, month in (
        ("q", "2026-Q4", date(2026, 10, 1)),
        ("w", "2026-W40", date(2026, 9, 1)),
        ("d", "2026-11-23", NOVEMBER),
        ("d", "2026-11-24", NOVEMBER),
        ("y", "2026", date(2026, 1, 1)),
        ("m", "2026-10", date(2026, 10, 1)),
    ):
        world["budget_status"].append(
            {
                "budget": name,
                "budget_period": period,
                "month": month,
                "amount": Decimal(10),
                "spent": Decimal(1),
                "currency": "USD",
                "measure": "effective_cost",
            }
        )
    assert [(b.name, b.budget_period) for b in plan(world).budgets] == [("d", "2026-11-24"), ("q", "2026-Q4"), ("y", "2026")]
    assert budget_dates("2026-W53") == (date(2026, 12, 28), date(2027, 1, 4))


def test_artifacts_are_those_of_the_months_end() -> None:
    """Bytes deleted before the end of the month do not count. Unknown bytes are unknown, not 0."""
    world = empty_world()
    row = {
        "month": NOVEMBER,
        "store": "s3://b",
        "owner_kind": "run",
        "tracking_server": "prod",
        "workspace": "default",
        "experiment_id": "1",
        "storage_class": "STANDARD",
    }
    world["artifact_bytes"] = [
        {**row, "owner_id": "a", "bytes": 100, "objects": 1, "valid_to": COVERED},
        {**row, "owner_id": "a", "bytes": 40, "objects": 1},
        {**row, "owner_id": "b", "experiment_id": "2", "bytes": None},
        {**row, "owner_id": "x", "owner_kind": "orphan", "bytes": 7},
        {**row, "owner_id": "y", "owner_kind": "other", "bytes": 9},
    ]
    held = {h.kind + h.name: h for h in plan(world).artifacts.held}
    assert held["experiment1"].bytes == 40
    assert held["experiment2"].bytes is None
    assert held["experiment2"].is_partly_unknown
    assert (plan(world).artifacts.bytes, plan(world).artifacts.orphaned_bytes) == (47, 7)


def test_an_empty_warehouse_has_an_empty_report() -> None:
    """Without rows, there is no currency and no error."""
    assert plan(empty_world()).currencies == ()


@pytest.mark.parametrize("file", sorted(SQL.glob("*.sql")), ids=lambda f: f.stem)
def test_questions_are_plain_googlesql(file: Path) -> None:
    """They contain nothing that the two engines read differently."""
    assert lint(file.read_text(encoding="utf-8")) == []


def test_the_parquet_warehouse_gives_the_same_figures(tmp_path: Path) -> None:
    """Figures read through the real warehouse equal those read from the rows."""
    import pyarrow as pa

    world = month_world()
    warehouse = open_warehouse(str(tmp_path))
    with warehouse.step("test", "b" * 64) as step:
        for name, rows in world.items():
            table = TABLES[name]
            months = {r[table.period_column] for r in rows} if table.period_column else {None}
            for month in months:
                kept = [{c: r.get(c) for c in table.arrow_schema().names} for r in rows if month is None or r[table.period_column] == month]
                step.put(name, "all" if month is None else f"{month:%Y-%m}", "aws", pa.Table.from_pylist(kept, schema=table.arrow_schema()))
        assert step.publish()
    with warehouse.reader() as reader:
        figures = plan_report(reader, "2026-11", settings=SETTINGS, now=NOW)
    assert figures.currencies == plan(world).currencies
    assert figures.artifacts == plan(world).artifacts


@pytest.mark.parametrize(
    ("name", "service", "instance_type", "reason", "words"),
    [
        ("i-1", "Amazon EC2", "p4d.24xlarge", "no_run", "runspend.resources"),
        ("i-1", "Amazon EC2", "p4d.24xlarge", "unknown_run", "fix its tag"),
        ("fn-1", "Azure Functions compute", None, "not_timed", "`shared.lines`"),
        ("fleet", "Amazon EC2", "m5.large", "not_timed", "no times by which to split them"),
        ("acme-ml-artifacts", "Amazon Simple Storage Service", None, "not_timed", "`stores`"),
        ("arn:aws:sagemaker:eu-west-1:1:endpoint/chat", "Amazon SageMaker", "ml.g5.xlarge", "no_run", "serves models"),
        ("arn:aws:sagemaker:eu-west-1:1:training-job/t-1", "Amazon SageMaker", "ml.g5.xlarge", "no_run", "state their job"),
        ("", "Amazon Bedrock", None, "not_timed", "identify its callers"),
        ("vol-1", "Amazon EC2", None, "no_run", "attach it"),
        ("arn:aws:eks:eu-west-1:1:cluster/ml", "Amazon Elastic Kubernetes Service", None, "no_run", "`shared.lines`"),
    ],
)
def test_what_to_do_about_a_resource_depends_on_its_kind(
    name: str, service: str, instance_type: str | None, reason: str, words: str
) -> None:
    """A bucket needs no tag of a run, and calls of a model need no machine."""
    cost = Resource(name, service, instance_type, Decimal(1), None, None, None, None, None, reason)
    assert words in cost.remedy


def test_pods_that_the_bill_does_not_name_need_a_label() -> None:
    """The bill of GKE Autopilot names the cluster, which no run can state as its machine."""
    cluster = "//container.googleapis.com/projects/p/locations/l/clusters/c"
    pods = Resource(
        cluster, "Kubernetes Engine", None, Decimal(1), *[None] * 5, "no_run", meter="Autopilot Pod mCPU Requests (europe-west4)"
    )
    assert pods.remedy == "label its jobs or pods, and let runs state the label"


def test_a_group_and_its_resource_have_the_same_advice() -> None:
    """The meter decides: tokens on Vertex AI are calls of a model, and training is a job."""
    for meter, action, short, long in (
        (
            "Gemini 2.5 Pro Text Input Tokens",
            "trace calls of Vertex AI",
            "log its calls as traces with token costs",
            "log its calls as traces",
        ),
        (
            "Training N1 standard",
            "name jobs of Vertex AI",
            "label its jobs or pods, and let runs state the label",
            "the bill does not name these jobs. Label each job",
        ),
    ):
        world = empty_world()
        row = {
            "source": "gcp",
            "billing_period": NOVEMBER,
            "service_name": "Vertex AI",
            "billing_currency": "USD",
            "allocated_to": "unallocated",
            "reason": "no_run",
            **costs("168.01"),
        }
        world["cost_allocations"].append(
            {**row, "charge_id": "c1", "charge_date": NOVEMBER, "cost_kind": "compute", "match_method": "none"}
        )
        world["unallocated_costs"].append({**row, "resource_id": "", "sub_account_id": ""})
        world["billing_lines"].append(
            {
                "source": "gcp",
                "billing_period": NOVEMBER,
                "line_id": "c1",
                "sku_meter": meter,
                "service_name": "Vertex AI",
                "billing_currency": "USD",
            }
        )
        world["cost_daily"].append({**{k: row[k] for k in row if k != "reason"}, "charge_date": NOVEMBER, "cost_kind": "compute"})
        (page,) = plan(world).currencies
        ((group,), (resource,)) = page.groups, page.unallocated
        assert (group.action, resource.remedy) == (action, short)
        assert group.advice.startswith(long)


def test_shared_cost_has_its_kinds() -> None:
    """Declared platform services and support are usage on the bill, but have their own names in the report."""
    world = empty_world()
    for number, (cost, category, service, reason) in enumerate(
        (
            ("1300", "Tax", "Amazon EC2", "fee"),
            ("432.13", "Usage", "Amazon RDS", "platform"),
            ("310", "Usage", "Support", "fee"),
            ("9", "Usage", "Amazon EC2", "fee"),
            ("-300", "Credit", "Amazon EC2", "fee"),
            ("-50", "Adjustment", None, "proportional"),
        )
    ):
        row = {"source": "aws", "billing_period": NOVEMBER, "charge_date": NOVEMBER, "service_name": service, "charge_category": category}
        row |= {"allocated_to": "shared", "cost_kind": "other", "billing_currency": "USD", **costs(cost)}
        world["cost_daily"].append(row)
        world["cost_allocations"].append({**row, "charge_id": f"c{number}", "reason": reason, "match_method": "none"})
    figures = plan(world)
    words = "taxes 1,300.00, platform services 432.13, support 310.00, other fees 9.00, distributed by sharing −50.00, credits −300.00"
    assert words in render_summary([figures], PipelineRun(NOW, 1))
    assert f"Shared: {words}." in " ".join(render_page(figures).split())
