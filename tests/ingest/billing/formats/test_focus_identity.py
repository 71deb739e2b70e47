"""Values that join a bill line to runs, found when a bill is loaded: jobs, attached machines, groups, buckets, pools, dimensions."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import duckdb
import pytest

from runspend.config.settings import DimensionSettings, KeySettings, Pool
from runspend.core.resource_keys import ATTACHED_TAG_KEYS, GROUP_TAG_KEYS, JOB_TAG_KEYS, job_key_sql, resource_key_sql
from tests.focus_files import nights, only, row, write_csv

ACCOUNT = {"SubAccountId": "111122223333"}
NODE = "i-0abcdef0123456789"
WORKSPACE = "/subscriptions/s/resourceGroups/ml/providers/Microsoft.MachineLearningServices/workspaces/W1"


def loaded_lines(tmp_path: Path, rows: list[dict[str, str]], **rules: Any) -> list[dict[str, Any]]:
    """Load a bill, and return its lines in the order of its rows. Their costs tell them apart."""
    priced = [{**line, "BilledCost": f"{n + 1}.00"} for n, line in enumerate(rows)]
    header = sorted({name for line in priced for name in line})
    write_csv(tmp_path / "oct.csv", priced, header=header)
    bill = nights(tmp_path, tmp_path / "oct.csv")
    bill.load(**rules)
    return sorted(bill.lines(), key=lambda line: line["billed_cost"])


def tags(**held: str) -> str:
    return json.dumps({key.replace("__", ":"): value for key, value in held.items()})


def run_form(sql: str, stated: str) -> str | None:
    """Return the key of an id that a run states, by the same SQL."""
    [(found,)] = duckdb.execute(f"select {sql} from (select ? as stated)", [stated]).fetchall()
    return None if found is None else str(found)


@pytest.mark.parametrize(
    ("on_the_bill", "on_the_run"),
    [
        (f"arn:aws:ec2:us-east-1:111122223333:instance/{NODE}", NODE),
        (NODE.upper().replace("I-", "i-"), NODE),
        (NODE, f"aws:///us-east-1a/{NODE}"),
        ("arn:aws:ec2:us-east-1:111122223333:volume/vol-0abc123456789def0", "vol-0abc123456789def0"),
        (
            "//compute.googleapis.com/projects/p/zones/us-central1-a/instances/4567890123456789012",
            "projects/p/zones/us-central1-a/instances/4567890123456789012",
        ),
        ("arn:aws:eks:us-east-1:1:pod/ml/train/a/uid-1", "arn:aws:eks:us-east-1:1:pod/ml/train/a"),
        ("k8s:///train/a", "train/a"),
        ("projects/p/zones/us-central1-a/instances/trainer-7", "https://www.googleapis.com/compute/v1/projects/p/zones/us-central1-a/instances/trainer-7"),
        ("//compute.googleapis.com/projects/p/zones/us-central1-a/instances/trainer-7", "gce://p/us-central1-a/trainer-7"),
        (
            "/subscriptions/AB-1/resourceGroups/ML/providers/Microsoft.Compute/virtualMachines/Trainer",
            "/subscriptions/ab-1/resourcegroups/ml/providers/microsoft.compute/virtualmachines/trainer",
        ),
        ("/subscriptions/ab-1/virtualmachines/t", "azure:///subscriptions/ab-1/virtualMachines/T"),
        ("arn:aws:sagemaker:us-east-1:111122223333:training-job/mytraining", "arn:aws:sagemaker:us-east-1:111122223333:training-job/MyTraining"),
        ("1009-152321-abcd", " 1009-152321-abcd "),
    ],
)  # fmt: skip
def test_a_machine_is_the_same_in_every_form_the_clouds_have(tmp_path: Path, on_the_bill: str, on_the_run: str) -> None:
    [line] = loaded_lines(tmp_path, [row(ResourceId=on_the_bill)])
    assert line["resource_key"] == run_form(resource_key_sql("stated"), on_the_run)


def test_an_instance_without_a_place_has_the_place_of_its_line(tmp_path: Path) -> None:
    """Names are unique per project and zone, and numbers belong to one instance. A disk names its machine in the same way."""
    google = {"ServiceName": "Compute Engine", "ResourceId": "trainer-7"}
    rows = [
        row(**google, SubAccountId="p", AvailabilityZone="us-central1-a", RegionId="us-central1"),
        row(**google, SubAccountId="q", RegionId="us-central1"),
        row(**google, SubAccountId="q"),
        row(**google),
        row(ServiceName="Compute Engine", SubAccountId="p", ResourceId="4567890123456789012"),
        row(ServiceName="Compute", SubAccountId="p", ResourceId="trainer-7"),
        row(
            ServiceName="Compute Engine",
            SubAccountId="p",
            AvailabilityZone="us-central1-a",
            ResourceId="disk-1",
            Tags=tags(instance_id="trainer-7"),
        ),
    ]
    found = loaded_lines(tmp_path, rows)
    assert [line["resource_key"] for line in found] == [
        "projects/p/zones/us-central1-a/instances/trainer-7", "projects/q/regions/us-central1/instances/trainer-7", "projects/q/zones/-/instances/trainer-7",
        "trainer-7", "4567890123456789012", "trainer-7", "projects/p/zones/us-central1-a/instances/disk-1",
    ]  # fmt: skip
    assert found[-1]["attached_to"] == found[0]["resource_key"]


def test_other_clouds_ids_keep_their_case(tmp_path: Path) -> None:
    upper, lower = loaded_lines(tmp_path, [row(ResourceId="Node-A"), row(ResourceId="node-a")])
    assert (upper["resource_key"], lower["resource_key"]) == ("Node-A", "node-a")


@pytest.mark.parametrize(
    ("line", "on_the_run"),
    [
        ({"ResourceId": "arn:aws:sagemaker:us-east-1:1:training-job/tune-bert-07"}, "arn:aws:sagemaker:us-east-1:1:training-job/Tune-BERT-07"),
        ({"ResourceId": "arn:aws:sagemaker:us-east-1:1:processing-job/Prepare"}, "arn:aws:sagemaker:us-east-1:1:processing-job/prepare"),
        ({"ResourceId": "arn:aws:batch:us-east-1:1:job/0c8e7b1a-11aa"}, "arn:aws:batch:us-east-1:1:job/0C8E7B1A-11aa"),
        ({"ResourceId": "projects/p/locations/us-central1/customJobs/77"}, "//aiplatform.googleapis.com/projects/p/locations/us-central1/customJobs/77"),
        ({"ResourceId": f"{WORKSPACE}/jobs/Mango"}, f"{WORKSPACE}/runs/mango"),
        ({"ResourceId": WORKSPACE, "Tags": '{"azureml.job_id":"mango"}'}, f"{WORKSPACE}/jobs/mango"),
        ({"Tags": '{"slurm_job_id":"4711","cluster":"Hydra"}'}, "hydra/4711"),
        ({"Tags": '{"slurm_job_id":"4711","slurm_cluster_name":"hydra","cluster":"eks-1"}'}, "Hydra/4711"),
        ({"Tags": '{"JobRunId":"815","cluster":"hydra"}'}, "815"),
        ({"Tags": '{"JobRunId":"815"}'}, "815"),
        ({"Tags": '{"user_runspend_job_id":"X-1"}'}, "x-1"),
        ({"Tags": '{"resourceTags/aws:batch:job-id":"b-2"}'}, "b-2"),
        ({"Tags": '{"slurm_job_id":"4711","JobRunId":""}'}, "4711"),
        ({"Tags": '{"sagemaker:training-job-arn":"arn:aws:sagemaker:us-east-1:1:training-job/T-1"}'}, "arn:aws:sagemaker:us-east-1:1:training-job/t-1"),
    ],
)  # fmt: skip
def test_a_job_is_named_by_the_resource_or_by_a_tag(tmp_path: Path, line: dict[str, str], on_the_run: str) -> None:
    [found] = loaded_lines(tmp_path, [row(**line)])
    assert found["job_key"] == run_form(job_key_sql("stated"), on_the_run)


def test_a_resource_that_is_a_job_comes_before_its_tags(tmp_path: Path) -> None:
    rows = [row(ResourceId="arn:aws:sagemaker:us-east-1:1:training-job/a", Tags='{"JobRunId":"b"}'), row(Tags='{"JobRunId":"b"}'), row()]
    assert [line["job_key"] for line in loaded_lines(tmp_path, rows)] == ["arn:aws:sagemaker:us-east-1:1:training-job/a", "b", None]


def test_a_disk_names_the_machine_it_is_attached_to_and_a_machine_not_itself(tmp_path: Path) -> None:
    own = tags(instance_id=NODE)
    arn = f"arn:aws:ec2:us-east-1:111122223333:instance/{NODE}"
    rows = [
        row(ResourceId="vol-0abc123456789def0", Tags=own),
        row(ResourceId=arn, Tags=own),
        row(ResourceId="eni-1", Tags=tags(InstanceId=arn)),
        row(ResourceId="", Tags=own),
        row(ResourceId="vol-2"),
    ]
    assert [line["attached_to"] for line in loaded_lines(tmp_path, rows)] == [NODE, None, NODE, NODE, None]


def test_groups_are_listed_closest_first_with_the_account(tmp_path: Path) -> None:
    held = {"eks__cluster-name": "ml", "eks__nodegroup-name": "gpu", "job_run_id": "815", "team": "vision"}
    first, second, none = loaded_lines(
        tmp_path, [row(**ACCOUNT, Tags=tags(**held)), row(BillingAccountId="payer", Tags=tags(ClusterId="c|1")), row()]
    )
    assert first["group_keys"] == [
        "111122223333|job_run_id|815",
        "111122223333@ml|eks:nodegroup-name|gpu",
        "111122223333|eks:cluster-name|ml",
    ]
    assert second["group_keys"] == ["payer|ClusterId|c|1"]
    assert none["group_keys"] == []


def test_one_key_in_two_forms_is_one_group(tmp_path: Path) -> None:
    rows = [
        row(**ACCOUNT, Tags=tags(**{form: "c1"}))
        for form in ("cluster_id", "user_cluster_id", "user:cluster_id", "resourceTags/user:cluster_id")
    ]
    assert {tuple(line["group_keys"]) for line in loaded_lines(tmp_path, rows)} == {("111122223333|cluster_id|c1",)}


@pytest.mark.parametrize(
    ("line", "key", "kind"),
    [
        ({"ResourceId": "arn:aws:s3:::ml-artifacts", "x_UsageType": "USE1-TimedStorage-ByteHrs"}, "ml-artifacts", "STANDARD"),
        ({"ResourceId": "ml-artifacts", "ServiceName": "Amazon Simple Storage Service", "x_UsageType": "TimedStorage-SIA-ByteHrs"}, "ml-artifacts", "STANDARD_IA"),
        ({"ResourceId": "ml-artifacts", "ServiceName": "Amazon S3", "SkuPriceDetails": '{"StorageClass":"Glacier Instant Retrieval"}'}, "ml-artifacts", "GLACIER_IR"),
        ({"ResourceId": "b3b", "ServiceName": "Amazon S3", "SkuMeter": "TimedStorage-GDA-ByteHrs"}, "b3b", "DEEP_ARCHIVE"),
        ({"ResourceId": "b3b", "ServiceName": "Amazon S3", "x_UsageType": "TimedStorage-GlacierByteHrs"}, "b3b", "GLACIER"),
        ({"ResourceId": "b3b", "ServiceName": "Amazon S3", "x_UsageType": "TimedStorage-INT-FA-ByteHrs"}, "b3b", "INTELLIGENT_TIERING"),
        ({"ResourceId": "b3b", "ServiceName": "Amazon S3", "x_UsageType": "Requests-Tier1"}, "b3b", None),
        ({"ResourceId": "//storage.googleapis.com/projects/_/buckets/ml-g", "SkuMeter": "Nearline Storage US Multi-region"}, "ml-g", "NEARLINE"),
        ({"ResourceId": "gs://ml-g", "ServiceName": "Cloud Storage"}, "ml-g", None),
        (
            {"ResourceId": "/subscriptions/s/resourceGroups/r/providers/Microsoft.Storage/storageAccounts/MLStore", "SkuMeter": "Hot LRS Data Stored"},
            "mlstore", "HOT",
        ),
        ({"ResourceId": "vol-0abc123456789def0", "ServiceName": "Amazon Elastic Block Store", "SkuMeter": "Standard"}, None, None),
        ({"ResourceId": NODE, "ServiceName": "Amazon Elastic Compute Cloud", "SkuMeter": "Standard"}, None, None),
    ],
)  # fmt: skip
def test_storage_lines_name_their_bucket_and_class(tmp_path: Path, line: dict[str, str], key: str | None, kind: str | None) -> None:
    [found] = loaded_lines(tmp_path, [row(**line)])
    assert (found["storage_key"], found["storage_class"]) == (key, kind)


def pool(name: str, lines: dict[str, Any], **other: Any) -> Pool:
    return Pool(name=name, runs={"tracking": "prod"}, lines=lines, **other)


def test_the_first_pool_that_names_a_line_has_it(tmp_path: Path) -> None:
    rows = [row(ResourceId="gpu-1"), row(ResourceId="gpu-2", ServiceName="Other"), row(ResourceId="web-1")]
    pools = [pool("gpu", {"resource": "gpu-*", "service": "Compute"}), pool("rest", {"resource": ["gpu-*", "tpu-*"]})]
    assert [line["pool_key"] for line in loaded_lines(tmp_path, rows, pools=pools)] == ["gpu", "rest", None]


def test_a_selector_names_a_resource_by_any_of_its_names(tmp_path: Path) -> None:
    """A pattern matches the id on the bill, the whole name, or the last part of the name, which includes a pod's namespace."""
    instance, pod = "//compute.googleapis.com/projects/p/zones/z/instances/gpu-7", "arn:aws:eks:us-east-1:1:pod/ml/train/gpu-a/uid"
    for pattern, expected in (("gpu-*", [1, 1]), ("projects/p/*", [1, 0]), ("train/*", [0, 1]), ("//compute*", [1, 0]), ("7", [0, 0])):
        found = loaded_lines(
            tmp_path / pattern.strip("/*"), [row(ResourceId=instance), row(ResourceId=pod)], pools=[pool("gpu", {"resource": pattern})]
        )
        assert [int(line["pool_key"] is not None) for line in found] == expected, pattern


def test_equal_dimensions_are_part_of_the_key_and_a_missing_one_leaves_no_pool(tmp_path: Path) -> None:
    dimensions = DimensionSettings(team=["run.tag.team", "line.tag.squad", "line.tag.team"], cost_center=["line.tag.cc"])
    pools = [pool("gpu", {"tag.kind": "gpu"}, equal=["team", "cost_center"]), pool("rest", {"service": "*"})]
    held: list[dict[str, str]] = [
        {"kind": "gpu", "team": "nlp", "squad": "vision", "cc": "7"},
        {"kind": "gpu", "team": "nlp", "cc": "7"},
        {"kind": "gpu", "team": "nlp"},
        {"team": "nlp"},
    ]
    lines = loaded_lines(tmp_path, [row(Tags=json.dumps(t)) for t in held], pools=pools, dimensions=dimensions)
    assert [line["pool_key"] for line in lines] == ["gpu|team=vision|cost_center=7", "gpu|team=nlp|cost_center=7", None, "rest"]
    assert [line["line_team"] for line in lines] == ["vision", "nlp", "nlp", "nlp"]
    assert [line["line_cost_center"] for line in lines] == ["7", "7", None, None]
    assert {line["line_project"] for line in lines} == {None}


def test_keys_of_the_configuration_replace_the_default_ones(tmp_path: Path) -> None:
    rows = [row(Tags=tags(our_run="r1", our_job="J", node_of=NODE, rack="7", ClusterId="c", JobRunId="8"), **ACCOUNT)]
    keys = KeySettings(run_id=["our_run"], job=["our_job"], attached_to=["node_of"], groups=["rack"])
    [line] = loaded_lines(tmp_path, rows, keys=keys)
    assert (line["run_tag"], line["job_key"], line["attached_to"]) == ("r1", "j", NODE)
    assert line["group_keys"] == ["111122223333|our_job|J", "111122223333|rack|7"]


def test_a_changed_configuration_normalizes_the_bill_again_and_an_unchanged_one_does_not(tmp_path: Path) -> None:
    write_csv(tmp_path / "oct.csv", [row(Tags=tags(team="nlp", rack="7"))])
    bill = nights(tmp_path, tmp_path / "oct.csv")
    changes: list[dict[str, Any]] = [
        {"pools": [pool("gpu", {"service": "Compute"})]},
        {"pools": [pool("gpu", {"service": "Compute"}, equal=["team"])]},
        {"dimensions": DimensionSettings(team=["line.tag.team"])},
        {"keys": KeySettings(groups=["rack"])},
        {},
    ]
    for rules in changes:
        assert only(bill.load(**rules)).state == "loaded", rules
        assert only(bill.load(**rules)).state == "unchanged", rules
    assert only(bill.load(dimensions=DimensionSettings(team=["run.tag.squad", "experiment.tag.team"]))).state == "unchanged", (
        "lines have no such values"
    )


def test_keys_that_differ_in_case_or_signs_only_are_reported_and_read_as_themselves(tmp_path: Path) -> None:
    """`Team` and `team` are two keys. Forms of one configured key count as one on purpose."""
    held = [{"Team": "a"}, {"team": "b"}, {"cost-center": "1", "cost_center": "2"}, {"mlflow_run_id": "r", "user_mlflow_run_id": "r"}]
    write_csv(tmp_path / "oct.csv", [row(Tags=json.dumps(t)) for t in held])
    bill = nights(tmp_path, tmp_path / "oct.csv")
    load = bill.load(dimensions=DimensionSettings(team=["line.tag.team"]))
    assert load.extra["warnings"]["colliding_tag_keys"] == ["Team and team", "cost-center and cost_center"]
    assert sorted(str(line["line_team"]) for line in bill.lines()) == ["None", "None", "None", "b"]


def test_the_page_names_the_default_keys() -> None:
    """docs/identify.md lists exactly the keys that Runspend looks for on bills, in their order."""
    page = (Path(__file__).resolve().parents[4] / "docs" / "identify.md").read_text(encoding="utf-8")
    for name, keys in (("job", JOB_TAG_KEYS), ("attached_to", ATTACHED_TAG_KEYS), ("groups", GROUP_TAG_KEYS)):
        [listed] = re.findall(rf"^\| `keys\.{name}` \| (.*) \|$", page, re.M)
        assert tuple(re.findall(r"`([^`]+)`", listed)) == keys
