"""With Runspend in a training image, every run names its machine without a line of code, and the machine's bill finds all of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path

from tests.e2e.conftest import Runspend
from tests.focus_files import row, write_csv
from tests.mlflow_store import make_schema
from tests.servers.metadata_services import EC2_DOCUMENT, serve_metadata

# By default, a run waits 0.15 s for identification, which is too short on a busy machine. Later tags reach only later runs of the process.
PATIENT = """
from runspend.interfaces.identify import identity
identity.find_identity.__defaults__ = (60,)
"""
PROJECT = Path(__file__).with_name("training_project.py")
INSTANCE = f"arn:aws:ec2:us-east-1:{EC2_DOCUMENT['accountId']}:instance/{EC2_DOCUMENT['instanceId']}"
HOURS, PRICE = 4, Decimal("1.212")


def month_of(hour: datetime) -> tuple[datetime, datetime]:
    """Return the first hour of its month and of the next month."""
    month = hour.replace(day=1, hour=0)
    return month, (month + timedelta(days=32)).replace(day=1)


def begin_of_hours(now: datetime) -> datetime:
    """Return the start of billed hours around now, all in one month. A machine without a run in a month is not known in that month."""
    month, following = month_of(now)
    return min(max(now - timedelta(hours=HOURS // 2), month), following - timedelta(hours=HOURS))


def bill_of(start: datetime) -> list[dict[str, str]]:
    """Return the machine's hours, and those of a machine of the same type that no run used."""
    rows = []
    for hour in (start + timedelta(hours=number) for number in range(HOURS)):
        month, following = month_of(hour)
        times = {
            "BillingPeriodStart": f"{month:%Y-%m-%dT%H:%M:%SZ}",
            "BillingPeriodEnd": f"{following:%Y-%m-%dT%H:%M:%SZ}",
            "ChargePeriodStart": f"{hour:%Y-%m-%dT%H:%M:%SZ}",
            "ChargePeriodEnd": f"{hour + timedelta(hours=1):%Y-%m-%dT%H:%M:%SZ}",
        }
        rows += [row(str(PRICE), ResourceId=machine, **times) for machine in (INSTANCE, INSTANCE.replace("i-0", "i-9"))]
    return rows


def test_every_run_of_a_project_pays_for_its_machine(tmp_path: Path, runspend: Runspend) -> None:
    store = f"sqlite:///{make_schema(tmp_path / 'mlflow.db')}"
    with serve_metadata() as (address, _):
        (tmp_path / "patient").mkdir()
        (tmp_path / "patient" / "sitecustomize.py").write_text(PATIENT, encoding="utf-8")
        own = {
            "PYTHONPATH": str(tmp_path / "patient"),
            "RUNSPEND_IDENTIFY": "on",
            "AWS_EC2_METADATA_DISABLED": "false",
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": f"http://{address}",
        }
        subprocess.run([sys.executable, str(PROJECT), store], env={**os.environ, **own}, cwd=tmp_path, check=True, timeout=300)
    began = begin_of_hours(datetime.now(timezone.utc).replace(minute=0, second=0, microsecond=0))
    write_csv(tmp_path / "bill" / "bill.csv", bill_of(began))
    (tmp_path / "runspend.yaml").write_text(
        "tracking: [{name: prod, uri: 'sqlite:///mlflow.db'}]\nbilling: [{name: bill, uri: bill, format: focus}]\nmail: {backend: none}\n",
        encoding="utf-8",
    )
    runspend("nightly", "--now", f"{began + timedelta(hours=HOURS + 1):%Y-%m-%dT%H:%M}", cwd=tmp_path)

    def ask(sql: str) -> list[dict[str, str]]:
        found: list[dict[str, str]] = json.loads(runspend("sql", "--json", sql, cwd=tmp_path).stdout, parse_float=str)
        return found

    runs = ask(
        "select run_id, run_name, resource_ids, instance_type, purchase_option, sub_account_id, region_id, parent_run_id is not null as is_nested from runs"
    )
    assert len(runs) == 1 + 3 + 1 + 4 + 1  # a search and its candidates, a sweep and its trials, and the resumed run
    assert [r["run_name"] for r in runs if json.dumps(r["resource_ids"]) != json.dumps([INSTANCE])] == []
    assert {(r["instance_type"], r["purchase_option"], r["sub_account_id"], r["region_id"]) for r in runs} == {
        ("g5.2xlarge", "spot", "123456789012", "us-east-1")
    }
    costs = ask("select resource_id, allocated_to, confidence, sum(effective_cost) as cost from cost_allocations group by 1, 2, 3")
    of_machine = [r for r in costs if r["resource_id"] == INSTANCE]
    assert sum(Decimal(r["cost"]) for r in of_machine) == HOURS * PRICE
    assert {(r["allocated_to"], r["confidence"]) for r in of_machine} == {("run", "high"), ("idle", "high")}
    # A search and a sweep do not pay while their trials run.
    trials = {r["run_id"] for r in runs if r["is_nested"] or r["run_name"] == "stopped"}
    paid = {r["run_id"] for r in ask("select run_id from cost_allocations where allocated_to = 'run' and match_method = 'resource_id'")}
    assert trials <= paid
    assert "run" not in {r["allocated_to"] for r in costs if r["resource_id"] != INSTANCE}
