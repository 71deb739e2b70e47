"""The first day of a company with managed training jobs, and with support and taxes without an account.

The tests check what `try` reports and what the user can paste.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from runspend.config.settings import load_settings
from runspend.warehouse.factory import open_warehouse
from tests.command import run_here
from tests.mixed_world import ML, NOW, WEB, MixedWorld, Shape, make_mixed_world, write_mixed_world

OCTOBER = date(2026, 10, 1)
# Bill lines without an account, with their amount and service. Web machines also have the last line's service.
FEES = (("Fee", "310.00", "AWSSupportBusiness"), ("Tax", "88.00", "AmazonRegistrar"), ("Credit", "-40.00", "AmazonEC2"))


@dataclass(frozen=True)
class Day:
    """The JSON that a trial printed, and its folder."""

    folder: Path
    printed: dict[str, Any]

    @property
    def config(self) -> Path:
        """The file that the trial left."""
        return self.folder / "runspend.yaml"


def untidy_world() -> MixedWorld:
    """Return the simple company, with SageMaker jobs as rented machines and fees on its payer account."""
    world = make_mixed_world(Shape(seed=3))
    rented = [m.resource_id for m in world.machines if m.group != "box"]
    jobs = {machine: f"arn:aws:sagemaker:us-east-1:{ML}:training-job/train-{number}" for number, machine in enumerate(rented)}
    for each in world.lines:
        if job := jobs.get(each["line_item_resource_id"]):
            name = f"ml.{each['product_instance_type']}"
            each |= {
                "line_item_resource_id": job, "line_item_product_code": "AmazonSageMaker", "product_servicecode": "AmazonSageMaker",
                "product_instance_type": name, "line_item_usage_type": f"USE1-Train:{name}", "resource_tags": "{}",
            }  # fmt: skip
    (tax,) = (each for each in world.lines if each["line_item_line_item_type"] == "Tax")
    for kind, cost, code in FEES:
        world.lines.append(
            tax
            | {
                "line_item_usage_account_id": "", "line_item_line_item_type": kind, "line_item_usage_type": kind, "line_item_unblended_cost": cost,
                "line_item_product_code": code, "product_servicecode": code,
            }
        )  # fmt: skip
    return world


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Day:
    """Run one trial on it."""
    folder = tmp_path_factory.mktemp("first-day")
    tracking, bill = write_mixed_world(folder / "company", untidy_world())
    trial = folder / "trial"
    done = run_here("try", "--tracking", tracking, "--bill", str(bill), "--folder", str(trial), "--now", NOW, "--json", cwd=folder)
    return Day(trial, json.loads(done.stdout))


def doctor(config: Path) -> list[tuple[str, str]]:
    """Return doctor's forecast for a file: names and strings."""
    done = run_here("doctor", "--config", str(config), "--now", NOW, "--json", code=None)
    return [(each["name"], each["text"]) for each in json.loads(done.stdout) if each["section"] == "outlook"]


def fees(config: Path) -> dict[tuple[str, str], Decimal]:
    """Return (allocated_to, service) -> cost for the fees without an account."""
    with open_warehouse(load_settings(config)).reader() as reader:
        rows = reader.query(
            "select allocated_to, service_name, sum(effective_cost) as cost from cost_allocations"
            " where billing_period = @first and sub_account_id is null group by allocated_to, service_name",
            {"first": OCTOBER},
        ).to_pylist()
    return {(row["allocated_to"], row["service_name"]): row["cost"] for row in rows}


def with_scope(day: Day, folder: Path, scope: str) -> Path:
    """Return the trial's file with a scope, in its own folder, with its costs allocated."""
    shutil.copytree(day.folder, folder)
    config = folder / "runspend.yaml"
    config.write_text(config.read_text() + "\n" + scope)
    for step in ("load", "allocate"):
        run_here(step, "--config", str(config), "--now", NOW)
    return config


def test_the_json_has_both_shares_and_the_pools(day: Day) -> None:
    """It also has the costs behind the shares, which equal the ledger's."""
    trial = day.printed["trial"]
    assert (trial["config"], trial["billing_period"], trial["no_pools_because"]) == (str(day.config), "2026-10", None)
    (result,) = trial["results"]
    with open_warehouse(load_settings(day.config)).reader() as reader:
        sums = reader.query(
            "select allocated_to, sum(effective_cost) as cost from cost_allocations where billing_period = @first group by allocated_to",
            {"first": OCTOBER},
        ).to_pylist()
    cost = {row["allocated_to"]: row["cost"] for row in sums}
    platform = sum(cost.values()) - cost["out_of_scope"]
    assert {key: Decimal(result[key]) for key in ("allocated_cost_with_pools", "idle_cost_with_pools", "platform_cost", "bill_cost")} == {
        "allocated_cost_with_pools": cost["run"], "idle_cost_with_pools": cost["idle"], "platform_cost": platform, "bill_cost": sum(cost.values()),
    }  # fmt: skip
    assert (result["currency"], result["allocated_share_today"]) == ("USD", 0)
    assert result["allocated_share_with_pools"] == pytest.approx(float(cost["run"] / platform), abs=1e-6)
    pools = yaml.safe_load(day.config.read_text())["pools"]
    assert [pool["name"] for pool in pools] == [pool["name"] for pool in trial["pools"]]


def test_a_pool_of_jobs_and_the_advice_about_jobs_agree(day: Day, tmp_path: Path) -> None:
    """A pool works now, and a stated job is exact. The comment says so, and so does the advice while the file has no pool."""
    assert {pool["name"]: pool["has_jobs"] for pool in day.printed["trial"]["pools"]} == {"p3.8xlarge": False, "ml.c5.9xlarge": True}
    text = day.config.read_text()
    above = text[: text.index('- name: "ml.c5.9xlarge"')].splitlines()
    assert "runs that state their job match it exactly" in above[-2]
    without = tmp_path / "runspend.yaml"
    without.write_text(text[: text.index("pools:")])
    (advice,) = (each for _, each in doctor(without) if "`TRAINING_JOB_ARN`" in each)
    assert advice.endswith("The match is then exact. Until then, `runspend suggest` can propose pools")
    assert not any("runspend suggest" in each for _, each in doctor(day.config))


def test_the_proposed_scope_loses_no_fee_without_a_word(day: Day, tmp_path: Path) -> None:
    """The scope to paste keeps support and taxes. A comment names the credit, and how to keep it."""
    outlook = [text for name, text in doctor(day.config) if name == "paste"]
    config = with_scope(day, tmp_path / "pasted", "\n".join(outlook) + "\n")
    assert fees(config) == {
        ("shared", "AWSSupportBusiness"): Decimal(310),
        ("shared", "AmazonRegistrar"): Decimal(88),
        ("out_of_scope", "Amazon Elastic Compute Cloud"): Decimal(-40),
    }
    (left,) = (text for text in outlook if "not in these entries" in text)
    assert left.endswith(": credits \N{MINUS SIGN}40.00 USD.")
    kept = with_scope(day, tmp_path / "excluded", json.dumps({"scope": {"exclude": [{"account": WEB}]}})[1:-1] + "\n")
    assert {place for place, _ in fees(kept)} == {"shared"}
