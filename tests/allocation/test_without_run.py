"""Cost without a run: the kinds of each cloud's services, accelerators first, and advice that can be pasted."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from runspend.actions.report.labels import suggestion
from runspend.allocation import scope_proposal, without_run
from runspend.config.settings import Settings
from runspend.core.service_kinds import is_accelerator, kind_of
from runspend.interfaces.preview import read_outlook, render_outlook
from runspend.warehouse.factory import open_warehouse
from tests.actions.alert.alert_world import warehouse
from tests.allocation.test_advice import charge, line
from tests.settings_builder import make_settings

FIRST = date(2026, 11, 1)
EC2 = "Amazon Elastic Compute Cloud"


@pytest.fixture
def given(tmp_path: Path) -> Settings:
    """Settings with one tracking server."""
    return make_settings(tmp_path, tracking=[{"name": "prod", "uri": "http://m"}], warehouse={"uri": str(tmp_path / "w")})


def outside(number: int, cost: str, **more: Any) -> dict[str, Any]:
    """Make a line that the default scope leaves out, as the bill has it. The ledger has only the sum of its day."""
    return line(number) | {
        "service_name": EC2, "sub_account_id": "ml", "service_category": "Compute", "charge_category": "Usage", "billing_currency": "USD", "effective_cost": Decimal(cost), "charge_date": FIRST,
    } | more  # fmt: skip


def summed(number: int, cost: str, **more: Any) -> dict[str, Any]:
    """Make the ledger's sum of lines out of scope."""
    return (
        charge(
            number,
            cost,
            "out_of_scope",
            charge_id=f"2026-11-01|sum-{number}",
            service_name=EC2,
            sub_account_id="ml",
            reason="default_scope",
        )
        | more
    )


def sums_of(*lines: dict[str, Any]) -> list[dict[str, Any]]:
    """Make the sums that the ledger has of these lines out of scope."""
    return [
        summed(100 + n, str(each["effective_cost"]), **{c: each[c] for c in ("service_name", "sub_account_id", "charge_date") if c in each})
        for n, each in enumerate(lines)
    ]


def groups_of(tmp_path: Path, given: Settings, **tables: Any) -> tuple[without_run.Group, ...]:
    with warehouse(tmp_path / "w", **tables) as reader:
        return without_run.unallocated_groups(reader, FIRST, given).get("USD", ())


# (kind, service, meter, resource, the ledger's cost kind for the FOCUS category), with names as bills and FOCUS exports spell them
SERVICES = [
    ("machine", EC2, "USE1-BoxUsage:m5.large", ":instance/", "compute"),
    ("disk", EC2, "EBS:VolumeUsage.gp3", ":volume/", "storage"),
    ("disk", "AmazonEC2", "USE1-EBS:SnapshotUsage", ":snapshot/", "storage"),
    ("disk", EC2, "", "", "storage"),
    ("disk", EC2, "DataTransfer-Out-Bytes", ":instance/", "network"),
    ("disk", EC2, "ElasticIP:IdleAddress", "elastic-ip", "compute"),
    ("platform", EC2, "EU-NatGateway-Hours", "natgateway", "network"),
    ("platform", "Amazon Virtual Private Cloud", "PublicIPv4:InUseAddress", "", "network"),
    ("platform", "Amazon Elastic Kubernetes Service", "AmazonEKS-Hours:perCluster", ":cluster/", "compute"),
    ("platform", "Amazon Elastic Container Service for Kubernetes", "", "", "other"),
    ("machine", "Amazon Elastic Kubernetes Service", "Fargate-vCPU-Hours:perCPU", ":pod/", "compute"),
    ("machine", "AmazonEKS", "USE1-Fargate-vCPU-Hours:perCPU", "", "compute"),
    ("platform", "Amazon Relational Database Service", "InstanceUsage:db.r5.large", "", "other"),
    ("platform", "AmazonRDS", "RDS:GP3-Storage", "", "other"),
    ("platform", "Elastic Load Balancing", "LoadBalancerUsage", "loadbalancer", "network"),
    ("platform", "Amazon EC2 Container Registry (ECR)", "TimedStorage-ByteHrs", "", "storage"),
    ("platform", "AmazonCloudWatch", "CW:Requests", "", "other"),
    ("store", "Amazon Simple Storage Service", "TimedStorage-ByteHrs", "", "storage"),
    ("store", "AmazonS3", "Requests-Tier1", "", "storage"),
    ("model", "Amazon Bedrock", "USE1-Claude-input-tokens", "", "compute"),
    ("model", "Vertex AI", "Gemini 2.5 Pro Text Input", "", "compute"),
    ("job", "Amazon SageMaker", "USE1-Train:ml.g5.xlarge", "-job/", "compute"),
    ("endpoint", "Amazon SageMaker", "USE1-Host:ml.g5.xlarge", ":endpoint/", "compute"),
    ("endpoint", "Vertex AI", "Online prediction", "/endpoints/", "compute"),
    ("endpoint", "Vertex AI", "Vertex AI: Online/Batch Prediction NVIDIA L4 running in Americas", "", "compute"),
    ("endpoint", "Amazon SageMaker", "USE1-Host:ml.g5.xlarge", "", "compute"),
    ("model", "Vertex AI", "Gemini 2.5 Pro Text Input - Predictions", "", "compute"),
    ("job", "Vertex AI", "Vertex AI: Training/Pipelines on A2 Instance Core running in Americas", "", "compute"),
    ("machine", "Amazon SageMaker", "USE1-Notebk:ml.t3.medium", ":notebook-instance/", "compute"),
    ("machine", "Virtual Machines", "D4s v5", "/virtualmachines/", "compute"),
    ("machine", "Virtual Machine Scale Sets", "NC6s v3", "virtualmachinescalesets", "compute"),
    ("disk", "Virtual Machines", "", "/disks/", "compute"),
    ("disk", "Storage", "P10 LRS Disk", "/disks/", "storage"),
    ("disk", "Storage", "P10 Disks", "", "storage"),
    ("store", "Storage", "Hot LRS Data Stored", "storageaccounts", "storage"),
    ("store", "Storage Accounts", "", "storageaccounts", "storage"),
    ("platform", "Azure Kubernetes Service", "Standard Uptime SLA", "/managedclusters/", "compute"),
    ("platform", "SQL Database", "S0 DTUs", "", "other"),
    ("platform", "Azure DB for MySQL", "", "", "other"),
    ("platform", "Load Balancer", "Included LB Rules", "loadbalancer", "network"),
    ("platform", "Container Registry", "Premium Registry Unit", "", "other"),
    ("platform", "Bandwidth", "Data Transfer Out", "", "network"),
    ("platform", "Log Analytics", "Data Ingestion", "", "other"),
    ("job", "Azure Machine Learning", "NC6s v3", "", "compute"),
    ("model", "Azure OpenAI", "gpt-4o Inp Tokens", "", "llm"),
    ("model", "Cognitive Services", "", "", "llm"),
    ("machine", "Compute Engine", "N2 Instance Core running in EMEA", "/instances/", "compute"),
    ("disk", "Compute Engine", "Balanced PD Capacity", "/disks/", "compute"),
    ("disk", "Compute Engine", "Storage PD Snapshot", "", "storage"),
    ("store", "Cloud Storage", "Standard Storage US", "", "storage"),
    ("platform", "Cloud SQL", "Cloud SQL for PostgreSQL: vCPU", "", "other"),
    ("platform", "Kubernetes Engine", "Regional Kubernetes Clusters", "", "compute"),
    ("platform", "Kubernetes Engine", "Regional Kubernetes Clusters", "/clusters/", "compute"),
    ("machine", "Kubernetes Engine", "Autopilot Pod mCPU Requests (europe-west4)", "/clusters/", "compute"),
    ("platform", "Artifact Registry", "Storage", "", "storage"),
    ("platform", "Compute Engine", "Networking Cloud NAT Gateway Uptime: nat gateway", "", "network"),
    ("platform", "Cloud Logging", "Log Volume", "", "other"),
    ("job", "Vertex AI", "Custom Training on A2", "", "compute"),
    ("machine", "COMPUTE", "", "", "compute"),
    ("disk", "BLOCK_STORAGE", "", "", "storage"),
    ("machine", "AWS Lambda", "Lambda-GB-Second", "", "compute"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "service", "meter", "resource", "cost_kind"), SERVICES, ids=[f"{s} {m}" for _, s, m, _, _ in SERVICES])
def test_each_line_has_its_kind_of_service(kind: str, service: str, meter: str, resource: str, cost_kind: str) -> None:
    """The kind follows from the service, the meter and the type of the resource."""
    assert kind_of(service, meter, resource, cost_kind, is_machine=False) == kind


@pytest.mark.parametrize(
    ("gpus", "instance_type", "meter", "is_one"),
    [
        (8, "p4d.24xlarge", None, True), (None, "trn1.32xlarge", None, True), (0, "inf2.xlarge", None, True), (None, "trn2u.48xlarge", None, True), (None, "ml.g6e.2xlarge", None, True),
        (None, "ml.p5.48xlarge", None, True), (None, "Standard_NC24ads_A100_v4", None, True), (None, "Standard_ND96asr_v4", None, True), (None, "a2-highgpu-1g", None, True), (None, "ct5lp-hightpu-4t", None, True),
        (None, "VM.GPU.A10.1", None, True), (None, None, "Nvidia Tesla T4 GPU running in EMEA", True), (None, None, "TpuV4 Pod", True), (None, None, "Cloud TPU v5e", True), (2, None, None, True),
        (None, "m5.large", None, False), (0, "g1-small", None, False), (None, "gp3.large", None, False), (None, "Standard_D4s_v5", None, False), (None, None, "output GPUless", False),
        (None, "n2-standard-8", None, False), (None, "r5.xlarge", "EBS", False), (None, None, None, False), (None, "c7gn.large", None, False),
    ],
)  # fmt: skip
def test_accelerators_are_known_by_gpus_type_or_meter(gpus: int | None, instance_type: str | None, meter: str | None, is_one: bool) -> None:
    """Accelerators of new families are recognized too."""
    assert is_accelerator(gpus, instance_type, meter) is is_one


def test_accelerators_come_first_in_every_scope(tmp_path: Path, given: Settings) -> None:
    """The GPU machine has no tag, so the default scope leaves it out. Web servers that cost ten times as much come after it."""
    lines = [
        outside(1, "500", instance_type="p4d.24xlarge", machine_gpus=8),
        outside(2, "5000", instance_type="m5.large", sub_account_id="web"),
        outside(3, "40", instance_type="trn1.2xlarge", machine_gpus=0),
        line(4),
    ]
    allocations = [summed(1, "540"), summed(2, "5000", sub_account_id="web"), charge(4, "900", "unallocated", reason="no_run")]
    found = groups_of(tmp_path, given, cost_allocations=allocations, billing_lines=lines)
    assert [(g.words, g.effective_cost, g.outside_cost, g.is_accelerated) for g in found] == [
        (f"accelerators of {EC2} in account ml (p4d.24xlarge, trn1.2xlarge)", Decimal(540), Decimal(540), True),
        (f"{EC2} in account web", Decimal(5000), Decimal(5000), False),
        ("Amazon EC2 in account 1111", Decimal(900), Decimal(0), False),
    ]
    assert suggestion(found[0], Decimal(900)) == f"tag {found[0].words}: explains 540.00, out of scope now"
    assert "`runspend suggest`" in found[0].advice
    pool = yaml.safe_load(found[0].advice.partition("uses them: ")[2])
    assert pool["lines"]["instance_type"] == ["p4d.24xlarge", "trn1.2xlarge"]  # disks and gateways have the same service
    assert Settings.model_validate({"home": tmp_path, "pools": [pool]}).pools[0].lines["instance_type"] == pool["lines"]["instance_type"]


def test_a_tag_of_accelerators_names_only_them_and_their_account(tmp_path: Path, given: Settings) -> None:
    """The ML account and the web servers' account both have the tag env=prod and GPUs."""
    tags = '{"env": "prod"}'
    lines = [
        outside(1, "500", instance_type="p4d.24xlarge", machine_gpus=8, tags=tags),
        outside(2, "900", instance_type="g5.xlarge", machine_gpus=1, tags=tags, sub_account_id="web"),
        outside(3, "40", instance_type="m5.large", tags=tags, sub_account_id="web"),
    ]
    found = groups_of(tmp_path, given, cost_allocations=[summed(1, "500"), summed(2, "940", sub_account_id="web")], billing_lines=lines)
    assert [(g.words, g.effective_cost) for g in found] == [
        ("env=prod in account web (g5.xlarge)", Decimal(900)),
        ("env=prod in account ml (p4d.24xlarge)", Decimal(500)),
        ("env=prod in account web", Decimal(40)),
    ]
    assert found[0].selector == {"tag.env": "prod", "account": "web", "instance_type": ["g5.xlarge"]}
    pools = [yaml.safe_load(g.advice.partition("uses them: ")[2]) for g in found[:2]]
    taken = Settings.model_validate({"home": tmp_path, "pools": pools}).pools
    assert [pool.name for pool in taken] == ["prod-web", "prod-ml"]


def test_lines_that_the_ledger_allocated_are_not_out_of_scope(tmp_path: Path, given: Settings) -> None:
    """This holds for lines with their own charge, lines that were priced together, fees, and lines that a scope includes or excludes."""
    lines = [
        outside(1, "1"), outside(2, "2"), outside(3, "4", charge_category="Tax"), outside(4, "8", commitment_discount_status="Unused"),
        outside(5, "16", service_name="AWS Support (Business)"), outside(6, "32", scope="exclude"), outside(7, "64", scope="include"), outside(8, "128"),
        outside(10, "-150", charge_category="Credit"), outside(11, "-3", billed_cost=Decimal(-3)), outside(12, "-1", charge_category="Credit", resource_key="i-1"),
    ]  # fmt: skip
    found = groups_of(
        tmp_path,
        given,
        cost_allocations=[*sums_of(*lines), charge(1, "1"), charge(9, "2", charge_id="pooled"), charge(7, "64", "idle")],
        charge_lines=[{"source": "aws", "billing_period": FIRST, "line_id": "c2", "charge_id": "pooled"}],
        billing_lines=lines,
    )
    assert [g.effective_cost for g in found] == [Decimal(127)]  # a machine's credit counts


def test_the_part_of_a_disk_that_no_run_has_is_out_of_scope(tmp_path: Path, given: Settings) -> None:
    """Runs of a type have a part of the disks of its machines. The rest is out of the default scope, with its own cost."""
    charges = [
        charge(1, "0.40", "run", charge_id="disks", target_id="prod/default/A", service_name="Amazon EBS", match_method="attached"),
        charge(
            2,
            "7.60",
            "out_of_scope",
            charge_id="disks",
            service_name="Amazon EBS",
            match_method="attached",
            reason="default_scope",
            cost_kind="storage",
        ),
    ]
    lines = [outside(n, "4.00", service_name="Amazon EBS", service_category="Storage", attached_to=f"m{n}") for n in (1, 2)]
    [group] = groups_of(
        tmp_path,
        given,
        cost_allocations=charges,
        charge_lines=[{"source": "aws", "billing_period": FIRST, "charge_id": "disks", "line_id": one["line_id"]} for one in lines],
        billing_lines=lines,
    )
    assert (group.effective_cost, group.outside_cost) == (Decimal("7.60"), Decimal("7.60"))


def test_excluded_accelerators_are_named(tmp_path: Path, given: Settings) -> None:
    """Runspend respects the scope: it names them, but neither proposes them nor counts them in the platform's shares."""
    excluded = outside(1, "700", scope="exclude", charge_description="accelerators: p5.48xlarge", service_category=None)
    with warehouse(
        tmp_path / "w", cost_allocations=[*sums_of(excluded), charge(2, "10", "unallocated")], billing_lines=[excluded, line(2)]
    ) as reader:
        first, _ = without_run.unallocated_groups(reader, FIRST, given)["USD"]
        proposed = scope_proposal.scope_proposal(reader, FIRST)
    assert (first.words, first.kind, first.inside_cost) == (f"excluded accelerators of {EC2} in account ml", "excluded", Decimal(0))
    assert suggestion(first, Decimal(10)) == f"check excluded accelerators of {EC2} in account ml: explains 700.00, out of scope now"
    assert all(entry.accelerated_cost == 0 for entry in proposed.entries)


def test_each_kind_of_service_has_its_own_advice(tmp_path: Path, given: Settings) -> None:
    """Pools that can be pasted are valid configuration, and name no machine next to the service."""
    lines = [
        outside(
            1, "90", sku_meter="EU-NatGateway-Hours", resource_id="arn:aws:ec2:eu-west-1:1:natgateway/nat-1", service_category="Networking"
        ),
        outside(2, "80", service_name="Amazon Relational Database Service", service_category="Databases", instance_type="db.r5.large"),
        outside(3, "70", service_name="Amazon Elastic Kubernetes Service", resource_id="arn:aws:eks:eu-west-1:1:cluster/ml"),
        outside(4, "60", sku_meter="EBS:VolumeUsage.gp3", service_category="Storage"),
        outside(5, "50", service_name="Amazon Simple Storage Service", service_category="Storage"),
        outside(6, "40", service_name="Amazon Bedrock", service_category="AI and Machine Learning"),
        outside(7, "30", service_name="Amazon SageMaker", service_category="AI and Machine Learning"),
        outside(
            9,
            "25",
            service_name="Amazon SageMaker",
            service_category="AI and Machine Learning",
            resource_id="arn:aws:sagemaker:eu-west-1:1:endpoint/chat",
            instance_type="ml.g5.xlarge",
        ),
        outside(8, "20", sku_meter="EU-BoxUsage:m5.large", instance_type="m5.large"),
    ]
    found = groups_of(tmp_path, given, cost_allocations=sums_of(*lines), billing_lines=lines)
    serving, *found = found  # the endpoint has GPUs, so it comes first
    assert (serving.kind, serving.words) == ("endpoint", "endpoints of Amazon SageMaker in account ml")
    assert serving.advice.endswith('`shared.lines`: {service: "Amazon SageMaker", account: "ml", resource: "*:endpoint/*"}')
    assert [(g.kind, g.words) for g in found] == [
        ("platform", f"NAT gateways of {EC2} in account ml"),
        ("platform", "Amazon Relational Database Service in account ml"),
        ("platform", "clusters of Amazon Elastic Kubernetes Service in account ml"),
        ("disk", f"disks, snapshots and traffic of {EC2} in account ml"),
        ("store", "Amazon Simple Storage Service in account ml"),
        ("model", "Amazon Bedrock in account ml"),
        ("job", "Amazon SageMaker in account ml"),
        ("other", f"{EC2} in account ml"),
    ]
    assert "{name:" not in found[-1].advice  # it would be a pool of all runs on machines without any relation to them
    assert found[-1].advice.endswith("Otherwise, leave them: they are out of scope")
    shared = [
        Settings.model_validate(
            {"home": tmp_path, "shared": {"lines": [yaml.safe_load(g.advice.partition("`shared.lines`: ")[2])]}}
        ).shared.lines[0]
        for g in found[:3]
    ]
    assert shared[0] == {"service": [EC2], "account": ["ml"], "resource": ["*natgateway*"]}
    assert shared[1] == {"service": ["Amazon Relational Database Service"], "account": ["ml"]}
    assert shared[2]["resource"] == ["*:cluster/*"]
    words = ("attached_to", "`stores`", "runspend.iam_principal", "job_id", "add a pool")
    assert [word in g.advice for word, g in zip(words, found[3:], strict=True)] == [True] * 5


def test_endpoints_that_the_bill_does_not_name_are_not_advised_as_jobs(tmp_path: Path, given: Settings) -> None:
    """Google's bill shows only by the SKU that a line is for predictions. A selector by meter leaves out training jobs."""
    vertex = {"service_name": "Vertex AI", "service_category": "AI and Machine Learning"}
    lines = [
        outside(1, "80", sku_meter="Vertex AI: Online/Batch Prediction NVIDIA L4 running in Americas", **vertex),
        outside(2, "70", sku_meter="Vertex AI: Training/Pipelines on A2 Instance Core running in Americas", **vertex),
    ]
    found = groups_of(tmp_path, given, cost_allocations=sums_of(*lines), billing_lines=lines)
    assert [(g.action, g.effective_cost) for g in found] == [
        ("share endpoints of Vertex AI in account ml", Decimal(80)),
        ("name jobs of Vertex AI in account ml", Decimal(70)),
    ]
    assert found[0].advice.startswith("they serve models and have no runs: leave them unallocated, or declare them as shared")
    [pasted] = Settings.model_validate(
        {"tracking": [], "shared": {"lines": [yaml.safe_load(found[0].advice.partition("`shared.lines`: ")[2])]}}
    ).shared.lines
    assert pasted["meter"][-1] == "*online/batch prediction*"


def test_advice_about_jobs_and_pods_that_the_bill_does_not_name_is_to_label_them(tmp_path: Path, given: Settings) -> None:
    """A run that states its job or machine would match nothing. Jobs that the bill names, by a resource or a tag, need no label."""
    vertex = {"service_name": "Vertex AI", "sku_meter": "Vertex AI: Training/Pipelines on A2 Instance Core"}
    sagemaker = {"service_name": "Amazon SageMaker", "sku_meter": "USE1-Train:ml.m5.xlarge"}
    gke = {"service_name": "Kubernetes Engine", "resource_id": "//container.googleapis.com/projects/p/locations/l/clusters/c"}
    lines = [
        outside(1, "90", **vertex),
        outside(2, "80", **vertex, sub_account_id="labeled", job_key="mine"),
        outside(3, "70", **sagemaker),
        outside(4, "60", **sagemaker, sub_account_id="named", resource_id="arn:aws:sagemaker:us-east-1:1:training-job/t"),
        outside(5, "50", **gke, sku_meter="Autopilot NVIDIA L4 Pod GPU Requests (us-central1)"),
        outside(6, "40", **gke, sub_account_id="cpus", sku_meter="Autopilot Pod mCPU Requests (us-central1)"),
    ]
    found = groups_of(tmp_path, given, cost_allocations=sums_of(*lines), billing_lines=lines)
    begins = {
        90: "the bill does not name these jobs. Label each job `runspend_job_id`, and make its runs state the same value as `runspend.job_id`",
        80: "make its runs state their job: ",
        70: "the bill does not name these jobs. Include resource IDs in its export",
        60: "make its runs state their job: ",
        50: "the bill names the cluster, but not its pods. Turn on GKE cost allocation, read the detailed usage export, and label each pod",
        40: "if runs use these pods: the bill names the cluster, but not its pods. Turn on GKE cost allocation",
    }  # fmt: skip
    advice = {int(g.effective_cost): g.advice for g in found}
    assert {cost: text[: len(begins[cost])] for cost, text in advice.items()} == begins
    pool = yaml.safe_load(advice[50].partition("uses them: ")[2])
    assert Settings.model_validate({"home": tmp_path, "pools": [pool]}).pools


def test_pods_have_the_accelerators_of_their_machine(tmp_path: Path, given: Settings) -> None:
    """The bill splits machines among pods. The GPUs come first, and the advice is to state the pod, not the machine."""
    node = {"node_key": "i-1", "node_instance_type": "p4d.24xlarge", "node_gpus": 8}
    lines = [
        outside(1, "300", **node, allocated_resource_id="pod-a"), outside(2, "200", **node, allocated_resource_id="pod-b"),
        outside(3, "5000", sub_account_id="web", node_key="i-2", node_instance_type="m5.large"), line(4) | node,
    ]  # fmt: skip
    allocations = [summed(1, "500"), summed(2, "5000", sub_account_id="web"), charge(4, "90", "unallocated", reason="no_run")]
    with warehouse(tmp_path / "w", cost_allocations=allocations, billing_lines=lines) as reader:
        found = without_run.unallocated_groups(reader, FIRST, given)["USD"]
        proposed = scope_proposal.scope_proposal(reader, FIRST)
    assert [(g.words, g.effective_cost, g.is_accelerated) for g in found] == [
        (f"accelerators of {EC2} in account ml (p4d.24xlarge)", Decimal(500), True),
        ("accelerators of Amazon EC2 in account 1111 (p4d.24xlarge)", Decimal(90), True),
        (f"{EC2} in account web", Decimal(5000), False),
    ]
    assert found[0].advice.startswith(
        "make its runs state their pod (docs/identify.md#kubernetes), or let `runspend suggest` propose pools"
    )
    assert found[2].advice.startswith("if runs use these machines, make the runs state their pod, or add a pool")
    assert [entry.accelerated_cost for entry in proposed.entries if entry.selector["account"] == "ml"] == [Decimal(500)]


def test_disks_that_name_their_machine_need_no_tag(tmp_path: Path, given: Settings) -> None:
    disk = {"sku_meter": "EBS:VolumeUsage.gp3", "service_category": "Storage"}
    lines = [outside(1, "60", **disk), outside(2, "50", **disk, attached_to="i-1")]
    found = groups_of(tmp_path, given, cost_allocations=sums_of(*lines), billing_lines=lines)
    assert [(g.action, g.effective_cost) for g in found] == [
        (f"attach disks, snapshots and traffic of {EC2} in account ml", Decimal(60)),
        (f"check disks and addresses attached to machines of {EC2} in account ml", Decimal(50)),
    ]
    assert ["tag each with its machine" in g.advice for g in found] == [True, False]
    assert found[1].advice.startswith("each already names its machine. Its cost follows the machine's cost")


def test_a_group_of_only_discounts_needs_no_pool(tmp_path: Path, given: Settings) -> None:
    """The discount lines of a machine may lack the tag that the machine's own lines have."""
    lines = [
        outside(1, "90", sku_meter="EU-BoxUsage:p4d.24xlarge", instance_type="p4d.24xlarge", tags='{"team": "vision"}'),
        outside(2, "-8", sku_meter="EU-BoxUsage:p4d.24xlarge", instance_type="p4d.24xlarge"),
    ]
    found = groups_of(tmp_path, given, cost_allocations=sums_of(*lines), billing_lines=lines)
    assert [(g.kind, g.effective_cost) for g in found] == [("accelerator", 90), ("credit", -8)]
    assert found[1].action == f"leave credits of {EC2} in account ml"
    assert "pool" not in found[1].advice


def test_control_planes_are_shared_in_every_cloud(tmp_path: Path, given: Settings) -> None:
    """The selector names the resource if the bill has one, else the service and account, unless these have machines too."""
    lines = [
        outside(1, "50", service_name="Kubernetes Engine", resource_id="//container.googleapis.com/projects/p/locations/l/clusters/ml"),
        outside(2, "40", service_name="Amazon Elastic Kubernetes Service", sku_meter="USE1-AmazonEKS-Hours:perCluster"),
        outside(3, "30", service_name="Azure Kubernetes Service", sku_meter="Standard Uptime SLA"),
        outside(4, "20", service_name="AmazonEKS", sku_meter="USE1-AmazonEKS-Hours:perCluster"),
        outside(5, "10", service_name="AmazonEKS", sku_meter="USE1-Fargate-vCPU-Hours:perCPU"),
    ]
    found = groups_of(tmp_path, given, cost_allocations=sums_of(*lines), billing_lines=lines)
    assert [(g.kind, g.words, g.selector) for g in found[:3]] == [
        (
            "platform",
            "clusters of Kubernetes Engine in account ml",
            {"service": "Kubernetes Engine", "account": "ml", "resource": "*/clusters/*"},
        ),
        (
            "platform",
            "Amazon Elastic Kubernetes Service in account ml",
            {"service": "Amazon Elastic Kubernetes Service", "account": "ml"},
        ),
        ("platform", "Azure Kubernetes Service in account ml", {"service": "Azure Kubernetes Service", "account": "ml"}),
    ]
    assert all("`shared.lines`" in g.advice for g in found[:3])
    assert [g.kind for g in found[3:]] == ["disk", "other"]


def test_a_control_plane_is_shared_without_the_pods_of_its_cluster(tmp_path: Path, given: Settings) -> None:
    """Google's bill has GKE Autopilot's pods under the name of their cluster. Only the meter tells them from its fee."""
    cluster = {"service_name": "Kubernetes Engine", "resource_id": "//container.googleapis.com/projects/p/locations/l/clusters/ml"}
    lines = [
        outside(1, "50", sku_meter="Autopilot Kubernetes Clusters", **cluster),
        outside(2, "40", sku_meter="Autopilot Pod mCPU Requests (us-central1)", **cluster),
    ]
    found = groups_of(tmp_path, given, cost_allocations=sums_of(*lines), billing_lines=lines)
    selector = {"service": "Kubernetes Engine", "account": "ml", "resource": "*/clusters/*", "meter": "*kubernetes clusters*"}
    assert [g.selector for g in found if g.kind == "platform"] == [selector]
    assert [g.effective_cost for g in found if g.kind == "platform"] == [50]


def test_advice_names_the_callers_that_the_bill_names(tmp_path: Path, given: Settings) -> None:
    """Sessions of one role count together. Where users are hidden, callers are hidden too."""
    callers = {
        1: ("60", "arn:aws:sts::1111:assumed-role/RagService/a"),
        2: ("40", "arn:aws:sts::1111:assumed-role/RagService/b"),
        3: ("30", "arn:aws:iam::1111:user/ml/lena"),
        4: ("20", "arn:aws:iam::1111:role/ml/Eval"),
        5: ("10", "arn:aws:iam::1111:root"),
        6: ("5", None),
    }
    tables = {
        "cost_allocations": [
            charge(n, cost, "unallocated", service_name="Amazon Bedrock", cost_kind="llm") for n, (cost, _) in callers.items()
        ],
        "billing_lines": [line(n, iam_principal=arn) for n, (_, arn) in callers.items()],
    }
    (group,) = groups_of(tmp_path, given, **tables)
    assert group.effective_cost == 165
    assert group.advice.startswith("the bill names role RagService 100.00, user lena 30.00, role Eval 20.00, 1 more. ")
    assert "runspend.iam_principal" in group.advice and "{principal: FILE.csv}" in group.advice
    hidden = given.model_copy(update={"mail": given.mail.model_copy(update={"people": "hide"})})
    with open_warehouse(given).reader() as reader:
        ((group,),) = without_run.unallocated_groups(reader, FIRST, hidden).values()
    assert group.advice.startswith("the bill names 4 callers. ")


def test_labels_that_a_cloud_gives_all_machines_form_no_group(tmp_path: Path, given: Settings) -> None:
    """Google gives all machines system labels. Machines with eight cores in two projects are not related."""
    tags = '{"goog:compute.googleapis.com/cores": "8", "goog:compute.googleapis.com/machine_spec": "e2-standard-8"}'
    lines = [
        outside(n, "10", service_name="Compute Engine", sub_account_id=f"project-{n}", instance_type="e2-standard-8", tags=tags)
        for n in range(1, 3)
    ]
    sums = [summed(100 + n, "10", service_name="Compute Engine", sub_account_id=f"project-{n}") for n in range(1, 3)]
    found = groups_of(tmp_path, given, cost_allocations=sums, billing_lines=lines)
    assert [g.words for g in found] == ["Compute Engine in account project-1", "Compute Engine in account project-2"]


def test_a_node_group_keeps_its_disks_and_no_other_service(tmp_path: Path, given: Settings) -> None:
    """Disks of its machines are in the group, but a bucket with the same tag is not."""
    group = ("ml|eks:nodegroup-name|gpu",)
    lines = [
        outside(1, "10", instance_type="g5.xlarge", machine_gpus=1, group_keys=list(group)),
        outside(2, "5", sku_meter="EBS:VolumeUsage", service_category="Storage", group_keys=list(group)),
        outside(3, "3", service_name="Amazon Simple Storage Service", service_category="Storage", group_keys=list(group)),
    ]
    found = groups_of(tmp_path, given, cost_allocations=sums_of(*lines), billing_lines=lines)
    assert [(g.words, g.effective_cost) for g in found] == [
        ("node group gpu", Decimal(15)),
        ("Amazon Simple Storage Service in account ml", Decimal(3)),
    ]


def test_the_scope_to_paste_always_has_the_accelerators(tmp_path: Path) -> None:
    """One account has nothing in scope, and another is mostly other cost."""
    rows = [
        charge(1, "95", match_method="run_tag"),
        summed(2, "50"),
        charge(3, "10", sub_account_id="web", service_name="Amazon SageMaker"),
        summed(4, "900", sub_account_id="web"),
        summed(5, "77", sub_account_id="shop", service_name="Amazon RDS"),
    ]
    lines = [
        line(1),
        outside(2, "50", instance_type="p4d.24xlarge", machine_gpus=8),
        outside(4, "100", sub_account_id="web", sku_meter="Nvidia L4 GPU"),
        outside(44, "800", sub_account_id="web", instance_type="m5.large"),
        outside(5, "77", sub_account_id="shop", service_name="Amazon RDS"),
    ]
    with warehouse(tmp_path / "w", cost_allocations=rows, billing_lines=lines) as reader:
        found = scope_proposal.scope_proposal(reader, FIRST)
    assert [(entry.selector, entry.inside_cost, entry.accelerated_cost) for entry in found.entries] == [
        ({"source": "aws", "account": ["1111"]}, Decimal(95), Decimal(0)),
        ({"source": "aws", "account": "web", "service": ["Amazon SageMaker", EC2]}, Decimal(10), Decimal(100)),
        ({"source": "aws", "account": "ml", "service": [EC2], "instance_type": ["p4d.24xlarge"]}, Decimal(0), Decimal(50)),
    ]


def test_the_scope_to_paste_leaves_out_machines_beside_accelerators(tmp_path: Path) -> None:
    """The entry includes only the account's accelerators.

    Its web servers stay out of scope, and the entry comes after those with cost in scope.
    """
    rows = [charge(1, "95", match_method="run_tag"), summed(2, "450", sub_account_id="web")]
    lines = [
        line(1),
        outside(2, "30", sub_account_id="web", instance_type="g5.xlarge", machine_gpus=1),
        outside(3, "20", sub_account_id="web", instance_type="g4dn.xlarge", machine_gpus=1),
        outside(4, "400", sub_account_id="web", instance_type="m5.large"),
    ]
    with warehouse(tmp_path / "w", cost_allocations=rows, billing_lines=lines) as reader:
        proposal = scope_proposal.scope_proposal(reader, FIRST)
    _, last = proposal.entries
    assert proposal.machines_cost == 0
    assert last.selector == {"source": "aws", "account": "web", "service": [EC2], "instance_type": ["g4dn.xlarge", "g5.xlarge"]}
    assert (last.inside_cost, last.outside_cost, last.accelerated_cost) == (Decimal(0), Decimal(50), Decimal(50))
    assert Settings.model_validate({"home": tmp_path, "scope": {"include": [yaml.safe_load(last.yaml)]}}).scope is not None


@pytest.mark.parametrize("machine", [{"instance_type": "c6i.large"}, {"sku_meter": "Autopilot Pod mCPU Requests (us-central1)"}])
def test_no_scope_is_proposed_while_machines_of_the_account_have_no_known_runs(
    tmp_path: Path, given: Settings, machine: dict[str, str]
) -> None:
    """Only the account's bucket is in scope. A scope of buckets would exclude machines, also those whose runs are found later."""
    stored = charge(1, "40", match_method="artifact_bytes", service_name="S3", sub_account_id="ml")
    lines = [
        line(1, service_name="S3", sub_account_id="ml"),
        outside(2, "350", sub_account_id="ml", **machine),
        outside(3, "900", sub_account_id="web", instance_type="m5.large"),
    ]
    rows = [stored, summed(2, "350", sub_account_id="ml"), summed(3, "900", sub_account_id="web")]
    with warehouse(tmp_path / "w", cost_allocations=rows, billing_lines=lines) as reader:
        assert scope_proposal.scope_proposal(reader, FIRST).machines_cost == 350
    screen = render_outlook(read_outlook(open_warehouse(given), given, "tried now"))
    assert "Do not define one yet: it would leave out machines in the platform's accounts that cost 350.00 and have no known runs" in screen
    assert "\nscope:\n" not in screen


def test_the_screen_names_both_figures(tmp_path: Path, given: Settings) -> None:
    """The unallocated share does not include cost out of scope. The scope to paste states the cost of accelerators."""
    lines = [outside(1, "500", instance_type="p4d.24xlarge", machine_gpus=8), line(2)]
    with warehouse(tmp_path / "w", cost_allocations=[summed(1, "500"), charge(2, "100", "unallocated")], billing_lines=lines):
        pass
    screen = render_outlook(read_outlook(open_warehouse(given), given, "tried now"))
    assert "unallocated" in screen and "100.0%  100.00 USD, 100.0% Amazon EC2 in account 1111" in screen
    assert f"suggestions          tag accelerators of {EC2} in account ml (p4d.24xlarge): explains 500.00, out of scope now" in screen
    assert "# 0.00 in scope now, 500.00 not in scope, including accelerators 500.00" in screen
