"""Every tag key that Runspend looks for, default or configured, in every spelling that a bill may give it by its cloud's documentation."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from runspend.config.settings import DimensionSettings, KeySettings, Pool
from runspend.core.resource_keys import ATTACHED_TAG_KEYS, GROUP_TAG_KEYS, JOB_TAG_KEYS, RUN_TAG_KEYS, aws_column_name
from tests import azure_files, gcp_files
from tests.cur_files import line, write_cur
from tests.focus_files import nights, row, write_csv

# Athena's spellings of keys, typed by hand from AWS's rules and not computed.
SPELLED = {
    "aws:autoscaling:groupName": "aws_autoscaling_group_name",
    "aws:ecs:clusterName": "aws_ecs_cluster_name",
    "aws:ec2spot:fleet-request-id": "aws_ec2spot_fleet_request_id",
    "CostCenter": "cost_center",
    "JobRunId": "job_run_id",
    "DatabricksInstancePoolId": "databricks_instance_pool_id",
    "mlflow.runId": "mlflow_run_id",
    "eks:nodegroup-name": "eks_nodegroup_name",
    "TeamID": "team_i_d",
    "__odd  Key--": "odd_key",
}


def test_a_key_as_a_column_name_follows_the_rules_of_aws() -> None:
    """Capitals become an underscore and a small letter. Other signs become underscores, without two in a row or one at either end."""
    assert {key: aws_column_name(key) for key in SPELLED} == SPELLED


def in_cur_2(key: str) -> str:
    column = aws_column_name(key)
    return column if key.startswith("aws:") else f"user_{column}"


def in_columns_of_athena(key: str) -> str:
    return f"resource_tags_{in_cur_2(key)}"


def in_the_legacy_report(key: str) -> str:
    return f"resourceTags/{key}" if key.startswith("aws:") else f"resourceTags/user:{key}"


def in_the_column_of_all_tags(key: str) -> str:
    return f"resourceTags/{key}"


def cur_lines(tmp_path: Path, spell: Callable[[str], str], keys: Sequence[str], **rules: Any) -> list[dict[str, Any]]:
    """Load one line per key, each with only that tag and its own account. Return the lines in the order of the keys."""
    rows = [
        line(line_item_usage_account_id=f"{n:012d}", line_item_resource_id=f"vol-{n:017x}", resource_tags=json.dumps({spell(key): f"v{n}"}))
        for n, key in enumerate(keys)
    ]
    bill = nights(tmp_path, write_cur(tmp_path / "cur.csv", rows))
    bill.load(**rules)
    return sorted(bill.lines(), key=lambda found: str(found["sub_account_id"]))


@pytest.mark.parametrize("spell", [in_cur_2, in_columns_of_athena, in_the_legacy_report, in_the_column_of_all_tags])
def test_every_key_is_found_in_every_spelling_of_aws(tmp_path: Path, spell: Callable[[str], str]) -> None:
    """Sources are AWS's pages "Resource tags columns", "Tags column" and "Running Amazon Athena queries"."""
    keys = [*RUN_TAG_KEYS[:4], *JOB_TAG_KEYS, *ATTACHED_TAG_KEYS, *GROUP_TAG_KEYS, "CostCenter"]
    dimensions = DimensionSettings(cost_center=["line.tag.CostCenter"])
    for n, (key, found) in enumerate(zip(keys, cur_lines(tmp_path, spell, keys, dimensions=dimensions), strict=True)):
        value = f"v{n}"
        if key in RUN_TAG_KEYS:
            assert found["run_tag"] == value, key
        if key in JOB_TAG_KEYS:
            assert found["job_key"] == value, key
        if key in ATTACHED_TAG_KEYS:
            assert found["attached_to"] == value, key
        if key in (*JOB_TAG_KEYS, *GROUP_TAG_KEYS):
            assert [text.rpartition("|")[2] for text in found["group_keys"]] == [value], key
        if key == "CostCenter":
            assert found["line_cost_center"] == value


def test_a_pool_names_tags_as_users_set_them(tmp_path: Path) -> None:
    """`tag.NodeGroup` in a selector means the same tag as in `keys`."""
    pool = Pool(name="gpu", runs={"tracking": "prod"}, lines={"tag.NodeGroup": "v*"})
    assert [found["pool_key"] for found in cur_lines(tmp_path, in_cur_2, ["NodeGroup", "Node"], pools=[pool])] == ["gpu", None]


def test_keys_on_azure_are_found_in_any_case(tmp_path: Path) -> None:
    """Names of tags are not case-sensitive, and cost reports keep the case that a user typed.

    Source: "Use tags to organize your Azure resources".
    """
    tagged = [
        '"MLflow_Run_ID": "r1"',
        '"mlflow_run_id": "r2"',
        '"AzureML.Job_Id": "J"',
        '"AKS-managed-PoolName": "p"',
        '"karpenter.sh_nodepool": "k"',
        '"Team": "vision"',
    ]
    rows = [azure_files.cost(f"{n + 1}.00", Tags=text) for n, text in enumerate(tagged)]
    bill = nights(tmp_path, write_azure(tmp_path, rows))
    bill.load(dimensions=DimensionSettings(team=["line.tag.team"]))
    found = sorted(bill.lines(), key=lambda each: each["billed_cost"])
    assert [each["run_tag"] for each in found] == ["r1", "r2", None, None, None, None]
    assert found[2]["job_key"] == "j"
    assert [[key.partition("|")[2] for key in each["group_keys"]] for each in found[3:5]] == [
        ["aks-managed-poolName|p"],
        ["karpenter.sh/nodepool|k"],
    ]
    assert found[5]["line_team"] == "vision"


def write_azure(tmp_path: Path, rows: Sequence[dict[str, str]]) -> Path:
    path = tmp_path / "azure.csv"
    path.write_text(azure_files.text(rows))
    return path


def test_keys_on_google_are_found_in_lower_case_and_as_labels_of_pods(tmp_path: Path) -> None:
    """Sources: "Labels overview" (keys), "View cluster costs breakdown" (k8s-label/); Databricks "Monitor usage using tags" (clusterid)."""
    tagged = [
        ("mlflow-runid", "r1"),
        ("k8s-label/mlflow_run_id", "r2"),
        ("clusterid", "0923-164208-c1"),
        ("jobrunid", "J"),
        ("cost-center", "7"),
        ("k8s-label/team", "vision"),
    ]
    rows = [
        gcp_files.gcp(f"{n + 1}.00", labels=[{"key": key, "value": value}], resource={"name": f"disk-{n}", "global_name": None})
        for n, (key, value) in enumerate(tagged)
    ]
    bill = nights(tmp_path, gcp_files.write_jsonl(tmp_path / "gcp.jsonl", rows))
    bill.load(dimensions=DimensionSettings(team=["line.tag.team"], cost_center=["line.tag.Cost.Center"]))
    found = sorted(bill.lines(), key=lambda each: each["billed_cost"])
    assert [each["run_tag"] for each in found] == ["r1", "r2", None, None, None, None]
    assert (found[2]["attached_to"], found[3]["job_key"], found[4]["line_cost_center"], found[5]["line_team"]) == (
        "0923-164208-c1",
        "j",
        "7",
        "vision",
    )


def test_a_key_that_is_on_the_bill_is_not_another_spelling(tmp_path: Path) -> None:
    """Outside Azure, `Team` and `team` are two tags if the bill has both.

    A key that the bill has in two spellings gives one group, by the closest.
    """
    rows = [
        row(f"{n + 1}.00", Tags=json.dumps(tagged))
        for n, tagged in enumerate(({"Team": "a"}, {"team": "b"}, {"cluster_id": "c"}, {"ClusterId": "c"}))
    ]
    write_csv(tmp_path / "oct.csv", rows)
    bill = nights(tmp_path, tmp_path / "oct.csv")
    bill.load(
        dimensions=DimensionSettings(team=["line.tag.Team"], owner=["line.tag.team"]), keys=KeySettings(groups=["ClusterId", "cluster_id"])
    )
    found = sorted(bill.lines(), key=lambda each: each["billed_cost"])
    assert [(each["line_team"], each["line_owner"]) for each in found[:2]] == [("a", None), (None, "b")]
    assert [[key.partition("|")[2] for key in each["group_keys"]] for each in found[2:]] == [["cluster_id|c"], ["ClusterId|c"]]
