"""Bedrock calls from CUR 2.0 with IAM principals: runs that state theirs, a principal whose team is in a file, and an unknown one."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import pytest

from tests.cur_files import line, month
from tests.e2e.conftest import Runspend
from tests.focus_files import write_csv
from tests.mlflow_store import make_schema
from tests.servers.mlflow_client import mlflow_client

BEGIN = 1793872800000  # 5 November 2026, 10:00, the hour of the bill lines
ROLE = "arn:aws:sts::000000000042:assumed-role/Trainer/{}"
RUNS = {
    "by role": ("arn:aws:iam::000000000042:role/ml/Trainer", 0, 60),
    "half the time": ("arn:aws:iam::000000000042:role/ml/Trainer", 0, 30),
    "by session": (ROLE.format("eve"), 10, 20),
    "another account": ("arn:aws:iam::000000000043:role/Trainer", 0, 60),
}
CALLS = [
    ("9.00", ROLE.format("i-0abc")),
    ("5.00", ROLE.format("eve")),
    ("7.00", "arn:aws:iam::000000000042:user/ann"),
    ("3.00", "arn:aws:iam::000000000042:user/who"),
    ("2.00", ""),
]


@pytest.fixture
def company(tmp_path: Path) -> Path:
    with mlflow_client(f"sqlite:///{make_schema(tmp_path / 'mlflow.db')}") as client:
        experiment = client.create_experiment("agents", artifact_location=(tmp_path / "artifacts").as_uri())
        for name, (principal, start, end) in RUNS.items():
            run = client.create_run(
                experiment, start_time=BEGIN + start * 60_000, tags={"mlflow.user": name, "runspend.iam_principal": principal}
            )
            client.set_terminated(run.info.run_id, end_time=BEGIN + end * 60_000)
    bedrock = {
        "line_item_product_code": "AmazonBedrock",
        "line_item_usage_type": "USE1-Claude-input-tokens",
        "line_item_resource_id": "",
        "product_instance_type": "",
        "pricing_unit": "1K tokens",
    }
    rows = [line(cost=cost, line_item_iam_principal=who, **month("2026-11"), **bedrock) for cost, who in CALLS]
    rows.append(line(cost="100.00", line_item_iam_principal="", **month("2026-11")))
    write_csv(tmp_path / "bill" / "cur.csv", rows)
    (tmp_path / "teams.csv").write_text(
        "principal,team\narn:aws:iam::000000000042:user/Ann,support\narn:aws:iam::000000000042:role/Trainer,vision\n"
    )
    settings = {
        "home": "home", "mail": {"backend": "none"}, "tracking": [{"name": "lab", "uri": f"sqlite:///{tmp_path}/mlflow.db"}],
        "billing": [{"name": "aws", "format": "aws-cur", "uri": "bill"}], "dimensions": {"team": ["run.tag.team", {"principal": "teams.csv"}]},
    }  # fmt: skip
    (tmp_path / "runspend.yaml").write_text(json.dumps(settings))
    return tmp_path


def test_callers_of_a_model_get_its_cost(company: Path, runspend: Runspend) -> None:
    """The tables have rows for runs, a team for a caller without runs, and unallocated cost. Their sum is the bill. No run has traces."""
    for step in ("extract", "load", "allocate"):
        runspend(step, "--now", "2026-11-06T02:00", cwd=company)
    asked = "select user_name, a.allocated_to, match_method, a.confidence, sum(a.effective_cost) as cost from cost_allocations a left join runs r using (tracking_server, workspace, run_id) group by all order by 1 nulls last, 2, 3"
    rows = json.loads(runspend("sql", asked, "--json", cwd=company).stdout)
    assert [
        (r["user_name"], r["allocated_to"], r["match_method"], r["confidence"], Decimal(str(r["cost"])))
        for r in rows
        if r["allocated_to"] != "out_of_scope"
    ] == [
        ("by role", "run", "llm_identity", "medium", Decimal(6)),
        ("by session", "run", "llm_identity", "exact", Decimal(5)),
        ("half the time", "run", "llm_identity", "medium", Decimal(3)),
        (None, "unallocated", "llm_identity", None, Decimal(7)),
        (None, "unallocated", "none", None, Decimal(5)),
    ]
    teams = json.loads(
        runspend(
            "sql",
            "select team, sum(effective_cost) as cost from cost_daily where cost_kind = 'llm' group by team order by team",
            "--json",
            cwd=company,
        ).stdout
    )
    assert {r["team"]: Decimal(str(r["cost"])) for r in teams} == {"support": Decimal(7), "vision": Decimal(14), None: Decimal(5)}
    unmet = json.loads(runspend("sql", "select claim, reason from unmet_claims", "--json", cwd=company).stdout)
    assert unmet == [{"claim": "aws:000000000043:role/trainer", "reason": "no_such_machine"}]
    lines = json.loads(
        runspend(
            "sql", "select iam_principal, principal_key from billing_lines where iam_principal like '%eve'", "--json", cwd=company
        ).stdout
    )
    assert lines == [{"iam_principal": ROLE.format("eve"), "principal_key": "aws:000000000042:role/trainer/eve"}]
    [run] = json.loads(runspend("sql", "select run_id from runs where user_name = 'by role'", "--json", cwd=company).stdout)
    assert "LLM CALLER" in runspend("explain", run["run_id"], cwd=company).stdout
    assert "LLM usage by caller" in runspend("doctor", "--now", "2026-11-06T02:00", cwd=company).stdout
