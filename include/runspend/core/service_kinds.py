"""What a bill line without a run is, from what its cloud calls it: a machine, a disk, a bucket, a shared service, a job, calls of a model.

The names are those of the providers' own bills and of FOCUS exports: AWS, Azure, Google Cloud, Databricks. What to do about each kind is in `allocation/without_run.py`.
"""

from __future__ import annotations

import re

# Accelerators by instance type, where no list knows the GPUs: families of AWS, sizes of Azure, Google Cloud and Oracle.
ACCELERATED_TYPES = re.compile(
    r"(?i)(?:ml\.)?(?:p[2-9]\w*|g[3-9]\w*|gr\d\w*|trn\d\w*|inf\d\w*|dl[12]\w*|vt1)(?:-\w+)?\.\S+"
    r"|standard_n[cdgv]\w*|(?:a2|a3|a4x?|g2|g4)-\S+|ct\d\w*-\S+|(?:vm|bm)\.gpu\S*"
)
# On Google Cloud a GPU has a line of its own beside its machine's.
ACCELERATED_METERS = re.compile(r"(?i)\b(?:gpus?|tpus?|tpu[-_ ]?v\d\w*|trainium\d?|inferentia\d?|nvidia)\b")

# What of a resource's name tells its type, in any cloud; read by SQL as well, so plain alternatives only.
RESOURCE_TYPES = (
    r"natgateways?|loadbalancers?|/disks/|:volume/|/snapshots/|:snapshot/|/managedclusters/|:cluster/|:pod/|:instance/|/instances/|/virtualmachines/|virtualmachinescalesets|"
    r"elastic-ip|publicipaddresses|storageaccounts|:endpoint/|/endpoints/|:notebook-instance/|-job/|/jobs/"
)

# (kind, service, meter, resource type): the first whose texts all are part of the line's own. None: anything.
RULES: tuple[tuple[str, str | None, str | None, str | None], ...] = (
    ("model", r"bedrock|openai|anthropic|cognitive services|generative ai|foundry|model_serving|gemini", None, None),
    ("model", r"vertex ai|machine learning|foundry", r"gemini|claude|llama|mistral|\btokens?\b", None),
    ("machine", None, None, r":pod/|:notebook-instance/"),
    ("endpoint", r"sagemaker|machine learning|vertex ai|ai platform", None, r":endpoint/|/endpoints/"),
    ("job", r"sagemaker|machine learning|vertex ai|ai platform|\bbatch\b|^jobs$|databricks", None, None),
    ("platform", None, None, r"natgateway|loadbalancer"),
    ("platform", None, r"natgateway|nat gateway|loadbalancer|load balanc|\blcu\b", None),
    ("disk", r"ec2|elastic compute|compute engine|virtual machine|^storage$|block_storage|block storage", r"ebs:|snapshot|managed disk|\bdisks?\b|\bpd\b|\blrs disk|volumeusage", None),
    ("disk", None, None, r"/disks/|:volume/|/snapshots/|:snapshot/|elastic-ip|publicipaddresses"),
    ("disk", r"block_storage|block storage", None, None),
    ("disk", r"ec2|elastic compute|compute engine", r"elasticip|external ip|publicipv4", None),
    ("store", r"\bs3\b|amazons3|simple storage|cloud storage|storage accounts?|^storage$|blob|data lake|object.storage|glacier", None, None),
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
# What resources of a type are called, and the pattern of `resource` that names them.
RESOURCE_WORDS = {
    "natgateway": ("NAT gateways", "*natgateway*"),
    "loadbalancer": ("load balancers", "*loadbalancer*"),
    ":cluster/": ("clusters", "*:cluster/*"),
    ":endpoint/": ("endpoints", "*:endpoint/*"),
    "/endpoints/": ("endpoints", "*/endpoints/*"),
    "/managedclusters/": ("clusters", "*/managedClusters/*"),
}
# Services whose machines have the same service name as other things of theirs: a selector must name more than the service.
WITH_MACHINES = re.compile(r"ec2|elastic compute|compute engine|virtual machine|^compute$|kubernetes|\beks\b|amazoneks|container service")


def is_accelerator(gpus: int | None, instance_type: str | None, meter: str | None) -> bool:
    """Whether a line is of a machine with GPUs, TPUs or chips like them, or of such a chip alone."""
    return bool(gpus or (instance_type and ACCELERATED_TYPES.fullmatch(instance_type)) or (meter and ACCELERATED_METERS.search(meter)))


def kind_of(service: str, meter: str, resource_type: str, cost_kind: str, *, is_machine: bool) -> str:
    """machine, disk, store, platform, endpoint, job or model. `is_machine`: the line states an instance type or GPUs."""
    texts = (service.lower(), meter.lower(), resource_type.lower())
    for kind, *patterns in RULES:
        if all(pattern is None or re.search(pattern, text) for pattern, text in zip(patterns, texts, strict=True)):
            # a machine may be billed under a platform's name, such as a node of a cluster; the type of a database is none
            return "machine" if is_machine and kind == "platform" and WITH_MACHINES.search(texts[0]) else kind
    if cost_kind == "llm":
        return "model"
    if is_machine or cost_kind == "compute":
        return "machine"
    if WITH_MACHINES.search(texts[0]):
        return "disk"  # traffic, addresses, volumes: they belong to machines
    return "store" if cost_kind == "storage" else "platform"


def resource_words(resource_type: str) -> tuple[str, str] | None:
    """ ("NAT gateways", "*natgateway*"), for resources that have such a pattern."""
    return next((words for text, words in RESOURCE_WORDS.items() if text in resource_type.lower()), None)
