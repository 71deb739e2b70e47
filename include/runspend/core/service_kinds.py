"""The kind of a bill line without a run, from its cloud's names: machine, disk, bucket, shared service, job, or calls of a model.

The names are from the providers' bills and from FOCUS exports: AWS, Azure, Google Cloud, Databricks. `allocation/without_run`
says what to do about each kind.
"""

from __future__ import annotations

import re

# Accelerators by instance type where no list has their GPUs: families of AWS; sizes of Azure, Google Cloud and Oracle.
ACCELERATED_TYPES = re.compile(
    r"(?i)(?:ml\.)?(?:p[2-9]\w*|g[3-9]\w*|gr\d\w*|trn\d\w*|inf\d\w*|dl[12]\w*|vt1)(?:-\w+)?\.\S+"
    r"|standard_n[cdgv]\w*|(?:a2|a3|a4x?|g2|g4)-\S+|ct\d\w*-\S+|(?:vm|bm)\.gpu\S*"
)
# On Google Cloud a GPU has its own line next to its machine's.
ACCELERATED_METERS = re.compile(r"(?i)\b(?:gpus?|tpus?|tpu[-_ ]?v\d\w*|trainium\d?|inferentia\d?|nvidia)\b")

# The part of a resource's name that shows its type, in any cloud. SQL reads it too, so it has only plain alternatives.
RESOURCE_TYPES = (
    r"natgateways?|loadbalancers?|/disks/|:volume/|/snapshots/|:snapshot/|/managedclusters/|:cluster/|:pod/|:instance/|/instances/|/virtualmachines/|virtualmachinescalesets|"
    r"elastic-ip|publicipaddresses|storageaccounts|/clusters/|:endpoint/|/endpoints/|:notebook-instance/|-job/|/jobs/"
)

# Pods that are billed without their machine, by the meter. GKE Autopilot's lines name the cluster, and no pod. SQL reads both too.
AUTOPILOT_METERS = r"autopilot.*\bpod\b"
CLUSTER_FEES = "kubernetes clusters"  # in the meters of GKE's control planes, in lower case
POD_METERS = rf"\bfargate|{AUTOPILOT_METERS}"
# Services whose lines on Google's bill name no resource, and the meters of their training jobs.
UNNAMED_SERVICES = r"vertex ai|ai platform"
TRAINING_METERS = r"\btraining\b.*\b(?:instance|gpu|tpu)\b"
TRAINING_PATTERNS = ("*training*instance*", "*training*gpu*", "*training*tpu*")  # the same, as a selector's `meter` takes it

# Services that run managed jobs, whose runs can state the job. SQL reads it too.
JOB_SERVICES = r"sagemaker|machine learning|vertex ai|ai platform|\bbatch\b|^jobs$"

# Machines that serve models, by the name of the resource and by the meter: Google's bill does not name its endpoints. SQL reads both too.
ENDPOINT_RESOURCES = r":endpoint/|/endpoints/"
ENDPOINT_METERS = r"(?:^|-)(?:host|asyncinf):|\bonline(?:/batch)? prediction\b"
ENDPOINT_PATTERNS = ("*host:*", "*asyncinf:*", "*online prediction*", "*online/batch prediction*")

# Calls of language models, by the name of the service or product, and by the meter or its description. The loader reads these with RE2.
# Bedrock bills models of other vendors as products: "Claude Sonnet 4 (Amazon Bedrock Edition)". Google bills Claude as a service of its own.
MODEL_SERVICES = r"(?i)bedrock|openai|anthropic|foundry models|generative language|^gemini api$|^claude (?:[0-9]|opus|sonnet|haiku|instant)"
# These services bill models and other things. The meter tells which.
SERVICES_WITH_MODELS = r"(?i)vertex ai|machine learning|cognitive services|azure ai|foundry"
MODEL_METERS = r"(?i)openai|gemini|claude|llama|mistral|deepseek|\bgpt\b|\btokens?\b|\bembeddings?\b"
# In any service, such as AWS Marketplace without the product's name.
CALL_METERS = r"(?i)(?:input|output)[ _-]?tokens?(?:\b|count)"
# Training, machines that serve models, and machines of agents never count as calls.
NO_MODEL_CALLS = r"(?i)training|\btrng\b|tuning|customi[sz]ation|agentcore|\binstance (?:core|ram)\b|\b[gt]pu\b"

# (kind, service, meter, resource type): the first entry whose strings all occur in the line counts. None matches anything.
RULES: tuple[tuple[str, str | None, str | None, str | None], ...] = (
    ("model", r"bedrock|openai|anthropic|cognitive services|generative ai|foundry|model_serving|gemini", None, None),
    ("model", r"vertex ai|machine learning|foundry", r"gemini|claude|llama|mistral|\btokens?\b", None),
    ("machine", None, None, r":pod/|:notebook-instance/"),
    ("machine", r"kubernetes|\beks\b|amazoneks", POD_METERS, None),
    ("endpoint", r"sagemaker|machine learning|vertex ai|ai platform", None, ENDPOINT_RESOURCES),
    ("endpoint", r"sagemaker|vertex ai|ai platform", ENDPOINT_METERS, None),
    ("job", rf"{JOB_SERVICES}|databricks", None, None),
    ("platform", None, None, r"natgateway|loadbalancer"),
    ("platform", None, r"natgateway|nat gateway|loadbalancer|load balanc|\blcu\b", None),
    (
        "disk",
        r"ec2|elastic compute|compute engine|virtual machine|^storage$|block_storage|block storage",
        r"ebs:|snapshot|managed disk|\bdisks?\b|\bpd\b|\blrs disk|volumeusage",
        None,
    ),
    ("disk", None, None, r"/disks/|:volume/|/snapshots/|:snapshot/|elastic-ip|publicipaddresses"),
    ("disk", r"block_storage|block storage", None, None),
    ("disk", r"ec2|elastic compute|compute engine", r"elasticip|external ip|publicipv4", None),
    (
        "store",
        r"\bs3\b|amazons3|simple storage|cloud storage|storage accounts?|^storage$|blob|data lake|object.storage|glacier",
        None,
        None,
    ),
    ("platform", None, None, r"/managedclusters/|:cluster/"),
    (
        "platform",
        r"kubernetes|\beks\b|amazoneks|relational database|\brds\b|amazonrds|\bsql\b|sql database|postgre|mysql|mariadb|cosmos|dynamodb|memorystore|redis|elasticache|spanner|bigtable|"
        r"firestore|load balanc|\bnat\b|registry|\becr\b|amazonecr|virtual private cloud|amazonvpc|\bvpc\b|virtual network|\bnetwork|bandwidth|data transfer|route 53|\bdns\b|cloudwatch|"
        r"log analytics|azure monitor|stackdriver|cloud logging|cloud monitoring|key management|key vault|secret|cloudtrail|file system|filestore|\bfsx\b|files\b|queue|pub/sub|eventbridge",
        None,
        None,
    ),
)
# The name of resources of a type, and the pattern of `resource` that matches them.
RESOURCE_WORDS = {
    "natgateway": ("NAT gateways", "*natgateway*"),
    "loadbalancer": ("load balancers", "*loadbalancer*"),
    ":cluster/": ("clusters", "*:cluster/*"),
    "/clusters/": ("clusters", "*/clusters/*"),
    ":endpoint/": ("endpoints", "*:endpoint/*"),
    "/endpoints/": ("endpoints", "*/endpoints/*"),
    "/managedclusters/": ("clusters", "*/managedClusters/*"),
}
# Services that bill machines and other resources under one service name: a selector must name more than the service.
WITH_MACHINES = re.compile(r"ec2|elastic compute|compute engine|virtual machine|^compute$|kubernetes|\beks\b|amazoneks|container service")
# Those of them that bill control planes. Most bill the machines of a cluster under another service.
CONTROL_PLANES = re.compile(r"kubernetes|\beks\b|amazoneks")


def is_accelerator(gpus: int | None, instance_type: str | None, meter: str | None) -> bool:
    """Whether a line is for a machine with GPUs, TPUs or similar chips, or for such a chip alone."""
    return bool(gpus or (instance_type and ACCELERATED_TYPES.fullmatch(instance_type)) or (meter and ACCELERATED_METERS.search(meter)))


def kind_of(service: str, meter: str, resource_type: str, cost_kind: str, *, is_machine: bool) -> str:
    """Return machine, disk, store, platform, endpoint, job or model. `is_machine`: the line states an instance type or GPUs."""
    texts = (service.lower(), meter.lower(), resource_type.lower())
    for kind, *patterns in RULES:
        if all(pattern is None or re.search(pattern, text) for pattern, text in zip(patterns, texts, strict=True)):
            # a machine may be billed under a platform's name, such as a node of a cluster; the type of a database is not a machine
            return "machine" if is_machine and kind == "platform" and WITH_MACHINES.search(texts[0]) else kind
    if cost_kind == "llm":
        return "model"
    if is_machine or cost_kind == "compute":
        return "machine"
    if WITH_MACHINES.search(texts[0]):
        return "disk"  # traffic, addresses and volumes belong to machines
    return "store" if cost_kind == "storage" else "platform"


def needs_resource(kind: str, service: str) -> bool:
    """Whether a selector for lines of this kind must name resources too, because their service also bills machines."""
    return kind == "endpoint" or (kind == "platform" and WITH_MACHINES.search(service.lower()) is not None)


def advised_kind(kind: str, service: str, resource_type: str, *, has_machines: bool = False) -> str:
    """Return the kind whose advice fits: "disk" if no selector can leave out the service's machines, "unnamed endpoint" if only a meter
    can.

    `has_machines`: whether the account has machines without a run that are billed under that service.
    """
    if not needs_resource(kind, service) or resource_words(resource_type) is not None:
        return kind
    if kind == "endpoint":
        return "unnamed endpoint"
    return kind if CONTROL_PLANES.search(service.lower()) and not has_machines else "disk"


def resource_words(resource_type: str) -> tuple[str, str] | None:
    """Return a noun and a pattern, such as ("NAT gateways", "*natgateway*"), for resources that have one."""
    return next((words for text, words in RESOURCE_WORDS.items() if text in resource_type.lower()), None)
