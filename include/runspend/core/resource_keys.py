"""The form in which bills and runs are compared: SQL expressions and key lists that the loader and the extractor share.

Both sides use the same text, so they cannot drift apart. Both run in DuckDB before a row is published. The models decide which bill
lines and runs match.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from runspend.core.sql_quoting import sql_text

# Ids that AWS makes globally unique: an ARN that ends in one has no more information than the id.
_SHORT_AWS_ID = "^[a-z]{1,8}-[0-9a-f]{8,17}$"
_JOB_KINDS = (
    "(?:training|processing|transform|hyper-parameter-tuning|automl|labeling|compilation|edge-packaging)-job|inference-recommendations-job"
)
_AWS_JOB = f"(?i)^arn:aws[^:]*:(?:sagemaker:[^:]*:[^:]*:(?:{_JOB_KINDS})|batch:[^:]*:[^:]*:job)/[^/]+$"
_VERTEX_JOB = "(?i)^(?://aiplatform[.]googleapis[.]com/)?(projects/[^/]+/locations/[^/]+/(?:customJobs|trainingPipelines|pipelineJobs|batchPredictionJobs)/[^/]+)$"
_AZURE_JOB = "(?i)^/?((?:.*/)?providers/microsoft[.]machinelearningservices/workspaces/[^/]+)/(?:jobs|runs)/([^/]+)$"
# A session of a role, which has no path; or a role or user behind any path.
_PRINCIPAL = "^arn:(aws[a-z-]*):(?:iam|sts)::([0-9]{12}):(?:assumed-role/([^/]+)(/[^/]+)|(role|user|federated-user)/(?:[^/]+/)*([^/]+))$"
_ROOT = "^arn:(aws[a-z-]*):iam::([0-9]{12}):root$"
_POD = "^(arn:aws[^:]*:eks:[^:]*:[^:]*:pod/|k8s://)([^/]*/[^/]+/[^/]+)"
_INSTANCE_NAME = (
    "^(?:gce://([^/]+)/([^/]+)/([^/]+)"
    "|(?://compute[.]googleapis[.]com/|https://(?:www|compute)[.]googleapis[.]com/compute/[^/]+/)?projects/([^/]+)/zones/([^/]+)/instances/([^/]+))$"
)


def resource_key_sql(column: str) -> str:
    """Return DuckDB SQL for the comparable form of a resource id: the fullest name that it states, in one spelling.

    Azure ids become lower case, since exports do not keep their case. So do SageMaker ARNs: jobs keep the case people wrote, bills
    do not. The ARN of an EC2 resource becomes its short id, which AWS makes unique. A Compute Engine instance becomes
    projects/P/zones/Z/instances/N. Provider ids of Kubernetes nodes become the cloud's own names. A pod keeps its cluster:
    arn:…:pod/CLUSTER/NAMESPACE/NAME or k8s://CLUSTER/NAMESPACE/NAME. Everything else stays unchanged, except for surrounding blanks.
    Empty text becomes null. `allocation/models/2_jobs/matched_names.sql` matches names where one side states less.

    Sources: AWS "Resource ARNs", Google "Full resource names", Azure "Cost details fields", Kubernetes "Node.spec.providerID", AWS
    "Understanding split cost allocation data".
    """
    text = f"trim({column})"
    instance = f"regexp_extract({text}, '{_INSTANCE_NAME}', ['p', 'z', 'n', 'project', 'zone', 'name'])"
    return (
        "case "
        f"when lower({text}) like '/subscriptions/%' then lower({text}) "
        f"when lower({text}) like 'subscriptions/%/%' then '/' || lower({text}) "
        f"when lower({text}) like 'azure:///subscriptions/%' then lower(substr({text}, 9)) "
        f"when regexp_matches({text}, '^[iI]-[0-9a-fA-F]{{8,17}}$') then lower({text}) "
        f"when {text} like 'arn:aws%:ec2:%' and regexp_matches(regexp_extract({text}, '[^/]+$'), '{_SHORT_AWS_ID}') then regexp_extract({text}, '[^/]+$') "
        f"when {text} like 'arn:aws%:instance/%' then regexp_replace({text}, '^arn:aws[^:]*:ec2:[^:]*:[^:]*:instance/', '') "
        f"when {text} like 'aws:///%' then regexp_extract({text}, '[^/]+$') "
        f"when lower({text}) like 'arn:aws%:sagemaker:%' then lower({text}) "
        f"when regexp_matches({text}, '{_POD}') then regexp_replace(regexp_extract({text}, '{_POD}'), '^k8s:///', '') "
        f"when regexp_matches({text}, '{_INSTANCE_NAME}') then 'projects/' || {instance}.p || {instance}.project || '/zones/' "
        f"|| {instance}.z || {instance}.zone || '/instances/' || {instance}.n || {instance}.name "
        f"else nullif({text}, '') end"
    )


def instance_name_sql() -> str:
    """Return DuckDB SQL that completes a Compute Engine instance's `name` to the form of `resource_key_sql`; other names stay.

    Names are unique per project and zone, which the bill line states. A part that the line does not state becomes `-`, as in
    Google's paths. An instance's number is unique everywhere. A project's number in a path becomes the id that the line states,
    which is the one that runs know.
    """
    place = "coalesce('/zones/' || availability_zone, '/regions/' || nullif(lower(region_id), 'global'), '/zones/-')"
    return (
        f"case when sub_account_id is not null and regexp_matches(name, '^[a-z](?:[-a-z0-9]{{0,61}}[a-z0-9])?$') "
        f"then 'projects/' || sub_account_id || {place} || '/instances/' || name "
        f"when regexp_matches(sub_account_id, '[^0-9]') and regexp_matches(name, '^projects/[0-9]+/zones/') "
        f"then 'projects/' || sub_account_id || regexp_replace(name, '^projects/[0-9]+', '') else name end"
    )


def scale_set_machine_sql(details: str) -> str:
    """Return DuckDB SQL for the path of a machine, SET/virtualmachines/NUMBER, if `resource_key` is an Azure scale set and the JSON
    `details` name one of its machines; other keys stay.

    The metadata service and Kubernetes use this path. Details call the machine SET_NUMBER, in `VMName` (FOCUS puts x_ before such keys).
    Sources: Azure "Cost details fields" (AdditionalInfo), "Understand names and instance IDs for Azure VM scale set VMs".
    """
    machine = f"lower(coalesce({details} ->> '$.VMName', {details} ->> '$.x_VMName'))"
    prefix = "regexp_extract(resource_key, '/virtualmachinescalesets/([^/]+)$', 1) || '_'"
    number = f"substr({machine}, length({prefix}) + 1)"
    return (
        f"case when regexp_matches(resource_key, '/virtualmachinescalesets/[^/]+$') and starts_with({machine}, {prefix}) "
        f"and regexp_matches({number}, '^[0-9]+$') then resource_key || '/virtualmachines/' || {number} else resource_key end"
    )


def job_key_sql(column: str) -> str:
    """Return DuckDB SQL for the comparable form of a job that a run or a tag states: its ARN or path, as far as stated, in lower case."""
    return f"coalesce({resource_job_sql(column)}, nullif(lower(trim({column})), ''))"


def resource_job_sql(column: str) -> str:
    """Return DuckDB SQL for the job that a resource id names, in the form of `job_key_sql`; null for a resource that is not a job."""
    text = f"trim({column})"
    return (
        f"lower(case when regexp_matches({text}, '{_AWS_JOB}') then {text} "
        f"when regexp_matches({text}, '{_VERTEX_JOB}') then regexp_extract({text}, '{_VERTEX_JOB}', 1) "
        f"when regexp_matches({text}, '{_AZURE_JOB}') then '/' || regexp_replace({text}, '{_AZURE_JOB}', '\\1/jobs/\\2') end)"
    )


def cluster_job_sql(job: str, cluster: str) -> str:
    """Return DuckDB SQL for a numbered job as cluster/number: SLURM numbers the jobs of a cluster, Databricks the job runs of a workspace.

    Without a cluster, or without a number, the job stays as it is.
    """
    return f"case when regexp_matches({job}, '^[0-9]+([_+][0-9]+)?$') then coalesce(lower(nullif(trim({cluster}), '')) || '/', '') || {job} else {job} end"


def workspace_job_sql(job: str, workspace: str) -> str:
    """Return DuckDB SQL that puts the workspace's path before the name of an Azure ML job; a job with a path stays as it is."""
    return f"case when {workspace} is not null and not contains({job}, '/') then lower({workspace}) || '/jobs/' || {job} else {job} end"


def principal_key_sql(column: str) -> str:
    """Return DuckDB SQL for the comparable form of an IAM principal.

    The form is aws:ACCOUNT:role/NAME, with /SESSION after it where one is stated, or aws:ACCOUNT:user/NAME. A role has one name in
    its account regardless of its path, and an ARN of its sessions has no path. Names of roles and users are unique without their
    case; names of sessions are not. Anything other than an ARN of a principal with its account becomes null. Source: AWS "IAM
    identifiers".
    """
    text = f"trim({column})"
    found = f"regexp_extract({text}, '{_PRINCIPAL}', ['partition', 'account', 'role', 'session', 'kind', 'name'])"
    return (
        f"case when regexp_matches({text}, '{_PRINCIPAL}') then {found}.partition || ':' || {found}.account || ':' "
        f"|| case when {found}.role <> '' then 'role/' || lower({found}.role) || {found}.session else {found}.kind || '/' || lower({found}.name) end "
        f"when regexp_matches({text}, '{_ROOT}') then regexp_replace({text}, '{_ROOT}', '\\1:\\2:root') end"
    )


def principal_key(text: str) -> str | None:
    """Return what `principal_key_sql` computes, for one text."""
    if root := re.match(_ROOT, text.strip()):
        return f"{root[1]}:{root[2]}:root"
    if not (found := re.match(_PRINCIPAL, text.strip())):
        return None
    partition, account, role, session, kind, name = found.groups(default="")
    return f"{partition}:{account}:" + (f"role/{role.lower()}{session}" if role else f"{kind}/{name.lower()}")


def storage_key_sql(column: str, service: str) -> str:
    """Return DuckDB SQL for the bucket or storage account that a resource id names. A bare name counts only on lines of an object store.

    Bucket names are lower case everywhere. Disks are not buckets: they are attached to a machine. Sources: AWS "Amazon S3
    resources", Google "Cloud Storage resource names", Azure "Storage account resource ids".
    """
    text = f"trim({column})"
    patterns = (
        "^arn:aws[^:]*:s3:::([^/]+)",
        "^arn:aws[^:]*:s3express:[^:]*:[^:]*:bucket/([^/]+)",
        "^(?:s3|s3a|gs)://([^/]+)",
        "^//storage[.]googleapis[.]com/(?:projects/[^/]+/buckets/)?([^/]+)",
        "^projects/[^/]+/buckets/([^/]+)",
        "(?i)/providers/microsoft[.]storage/storageaccounts/([^/]+)",
        "^(?:abfss?|wasbs?)://[^@/]+@([^./]+)",
    )
    found = ", ".join(f"nullif(regexp_extract({text}, '{pattern}', 1), '')" for pattern in patterns)
    bare = (
        f"case when regexp_matches({service}, '(?i)(simple storage|\\bS3\\b|cloud storage|blob|data lake|storage accounts?|object storage)') "
        f"and regexp_matches({text}, '^[A-Za-z0-9][A-Za-z0-9._-]{{2,}}$') then {text} end"
    )
    return f"lower(coalesce({found}, {bare}))"


# A bill's name of a storage class -> its spelling in object listings and in artifact_bytes. The first match counts.
STORAGE_CLASSES = (
    ("(?i)(GDA|deep[ _-]?archive)", "DEEP_ARCHIVE"),
    ("(?i)(-GIR-|glacier[ _-]?(ir|instant)|archive instant)", "GLACIER_IR"),
    ("(?i)(-INT-|intelligent)", "INTELLIGENT_TIERING"),
    ("(?i)(-ZIA-|one ?zone[ _-]*(-[ _]*)?(ia|infrequent))", "ONEZONE_IA"),
    ("(?i)(-XZ-|express)", "EXPRESS_ONEZONE"),
    ("(?i)(-SIA-|standard[ _-]?ia|infrequent)", "STANDARD_IA"),
    ("(?i)(-RRS-|reduced[ _-]?redundancy|non-critical)", "REDUCED_REDUNDANCY"),
    ("(?i)glacier", "GLACIER"),
    ("(?i)nearline", "NEARLINE"),
    ("(?i)coldline", "COLDLINE"),
    ("(?i)\\bhot\\b", "HOT"),
    ("(?i)\\bcool\\b", "COOL"),
    ("(?i)\\bcold\\b", "COLD"),
    ("(?i)\\barchive\\b", "ARCHIVE"),
    ("(?i)(TimedStorage-ByteHrs|\\bstandard\\b|general purpose)", "STANDARD"),
)


def storage_class_sql(column: str) -> str:
    """Return DuckDB SQL for the storage class that a string of the bill (usage type, meter, class) names; null when it names none."""
    cases = " ".join(f"when regexp_matches({column}, '{pattern}') then '{name}'" for pattern, name in STORAGE_CLASSES)
    return f"case {cases} end"


def pool_key_sql(name: str, equal: Sequence[tuple[str, str]]) -> str:
    """Return DuckDB SQL for a pool's key, `gpu` or `gpu|team=vision`; null unless every `equal` dimension (name, SQL of its value) has a
    value.

    Runs and bill lines use the same text, so their keys are equal when their values are.
    """
    parts = [sql_text(name), *(f"'|{dimension}=' || nullif(trim({value}), '')" for dimension, value in equal)]
    return " || ".join(parts)


@lru_cache(maxsize=1000)
def tag_forms(key: str) -> tuple[str, ...]:
    """Return a tag key and the spellings that exports give it, closest first. Spellings that differ only in case are not listed.

    AWS puts user_, user: or resourceTags/ before users' keys, and spells keys as column names (see `aws_column_name`). Azure does
    not allow <>%&\\?/. Google puts k8s-label/ before the labels of pods. Sources: AWS "Resource tags columns", "Tags column",
    "Running Amazon Athena queries" (column names); Azure "Use tags to organize your Azure resources" (limitations); Google "View
    cluster costs breakdown".
    """
    plain, column = re.sub(r"[^A-Za-z0-9_]", "_", key), aws_column_name(key)
    if key.startswith("aws:"):
        aws = (f"resourceTags/{key}", plain, f"resource_tags_{plain}", column, f"resource_tags_{column}", f"resource_tags_{plain.lower()}")
        return tuple(dict.fromkeys((key, *aws)))
    own = dict.fromkeys((f"user_{plain}", f"user_{plain.lower()}", f"user_{column}"))
    prefixed = (f"user_{key}", f"user:{key}", f"resourceTags/user:{key}", f"resourceTags/{key}", f"k8s-label/{key}")
    azure = re.sub(r"[<>%&\\?/]", "_", key)
    return tuple(dict.fromkeys((key, *prefixed, *own, *(f"resource_tags_{form}" for form in own), azure)))


@lru_cache(maxsize=1000)
def label_forms(key: str) -> tuple[str, ...]:
    """Return the spellings of a tag key as a label on Google's bills, closest first. Labels contain only small letters, digits, _ and -.

    Sources: Google "Labels overview"; Databricks "Monitor usage using tags" (on Google Cloud).
    """
    google = [re.sub(r"[^a-z0-9_-]", sign, key.lower()) for sign in "_-"]
    spelled = dict.fromkeys((*google, aws_column_name(key)))
    return (*spelled, *(f"k8s-label/{form}" for form in spelled))


def aws_column_name(key: str) -> str:
    """Spell a tag key as CUR 2.0 and Athena's columns do: `CostCenter` becomes cost_center, `aws:ecs:clusterName` becomes
    aws_ecs_cluster_name.

    Every capital letter becomes an underscore and the small letter. Other characters become underscores, repeated underscores become
    one, and those at the ends are removed. Source: AWS "Running Amazon Athena queries" (column names).
    """
    return re.sub(r"[^a-z0-9]+", "_", re.sub(r"([A-Z])", r"_\1", key).lower()).strip("_")


# Tags or params of runs that state a job; the first that is set counts. People also copy environment variables under their own names.
RUN_JOB_KEYS = (
    "runspend.job_id", "sagemaker.training_job_arn", "sagemaker.training_job_name", "mlflow.databricks.jobRunID", "slurm_job_id", "SLURM_JOB_ID", "aws_batch_job_id", "AWS_BATCH_JOB_ID",
    "TRAINING_JOB_ARN", "TRAINING_JOB_NAME", "CLOUD_ML_JOB_ID", "AZUREML_RUN_ID",
)  # fmt: skip

# SLURM numbers the jobs of each cluster from 1. Numbers of Databricks job runs and names of Azure ML jobs are unique per workspace
# (Databricks, "Jobs system table reference"). These keys state the cluster or workspace.
SLURM_JOB_KEYS = ("slurm_job_id", "SLURM_JOB_ID", "slurm-job-id")
SLURM_CLUSTER_KEYS = ("slurm_cluster_name", "SLURM_CLUSTER_NAME")
AZURE_JOB_KEYS = ("AZUREML_RUN_ID", "azureml.job_id")
AZURE_WORKSPACE_KEYS = ("AZUREML_ARM_SUBSCRIPTION", "AZUREML_ARM_RESOURCEGROUP", "AZUREML_ARM_WORKSPACE_NAME")
DATABRICKS_JOB_KEYS = ("mlflow.databricks.jobRunID", "usage_metadata.job_run_id")
DATABRICKS_WORKSPACE_KEYS = ("mlflow.databricks.workspaceID",)
JOB_PLACE_KEYS = (*SLURM_CLUSTER_KEYS, *AZURE_WORKSPACE_KEYS, *DATABRICKS_WORKSPACE_KEYS)

# Tag keys of bills, in the forms the clouds turn them into. The first that is set counts. `keys` in runspend.yaml replaces a list.
RUN_TAG_KEYS = (
    "mlflow_run_id",
    "mlflow.run_id",
    "mlflow-run-id",
    "mlflow.runId",
    "user_mlflow_run_id",
    "user:mlflow_run_id",
    "resourceTags/user:mlflow_run_id",
)
JOB_TAG_KEYS = (
    "runspend.job_id", "JobRunId", "job_run_id", "usage_metadata.job_run_id", "databricks_job_run_id", "aws:batch:job-id", "sagemaker:training-job-arn",
    "slurm_job_id", "slurm-job-id", "azureml.job_id",
)  # fmt: skip
# Databricks tags the virtual machines of a cluster with ClusterId (lower case on Google): runs name the cluster, never its machines.
ATTACHED_TAG_KEYS = (
    "runspend.attached_to", "attached_to", "instance_id", "InstanceId", "instance-id", "aws:ec2:instance-id", "ClusterId", "clusterid",
)  # fmt: skip
# Two clusters of an account may have node groups with the same name, so a group belongs to the cluster next to it.
NODE_GROUP_TAG_KEYS = (
    "eks:nodegroup-name",
    "alpha.eksctl.io/nodegroup-name",
    "karpenter.sh/nodepool",
    "goog-k8s-node-pool-name",
    "aks-managed-poolName",
)
CLUSTER_TAG_KEYS = (
    "aws:eks:cluster-name",
    "eks:cluster-name",
    "alpha.eksctl.io/cluster-name",
    "goog-k8s-cluster-name",
    "aks-managed-cluster-name",
)
GROUP_TAG_KEYS = (
    "eks:nodegroup-name", "alpha.eksctl.io/nodegroup-name", "karpenter.sh/nodepool", "goog-k8s-node-pool-name", "aks-managed-poolName", "aws:autoscaling:groupName",
    "aws:ec2:fleet-id", "aws:ec2spot:fleet-request-id", "DatabricksInstancePoolId",
    "ClusterId", "cluster_id", "clusterid", "usage_metadata.cluster_id", "aws:elasticmapreduce:job-flow-id", "parallelcluster:cluster-name", "goog-dataproc-cluster-uuid",
    "goog-dataproc-cluster-name", "ray-cluster-name", "aws:eks:cluster-name", "eks:cluster-name", "alpha.eksctl.io/cluster-name", "goog-k8s-cluster-name",
    "aks-managed-cluster-name", "aws:ecs:clusterName",
)  # fmt: skip
