"""All tables of the warehouse: their grain, columns, types, units and meaning. The public tables are the contract with analysts.

`docs/tables.md` and the descriptions in BigQuery are generated from this module. A test fails if the page differs. Define a table here before
any code fills it.

Types are those of GoogleSQL. Money and quantities are BIGNUMERIC, which is `decimal128(38, 22)` in Parquet, because real bills have up to
22 decimals. All times are UTC. A column marked `bookkeeping` contains the time or the build of a row. It is not part of the content
digest, so repeating a pipeline run gives the same digests.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

# Increase this number whenever a column, table or value is added or renamed. The next pipeline run then rewrites the files. Former names
# are in former_names.py.
SCHEMA_VERSION = 5


DUCKDB_TYPES = {
    "STRING": "VARCHAR",
    "INT64": "BIGINT",
    "FLOAT64": "DOUBLE",
    "BOOL": "BOOLEAN",
    "DATE": "DATE",
    "TIMESTAMP": "TIMESTAMP WITH TIME ZONE",
    "BIGNUMERIC": "DECIMAL(38, 22)",
    "ARRAY<STRING>": "VARCHAR[]",
}


@dataclass(frozen=True)
class Column:
    """One column of a table."""

    name: str
    type: str  # in GoogleSQL
    meaning: str  # one sentence or a few
    is_key: bool = False
    bookkeeping: bool = False  # not part of the content digest
    words: tuple[str, ...] = ()  # all possible values, if models set the string


@dataclass(frozen=True)
class Table:
    """One table of the warehouse."""

    name: str
    grain: str  # what one row is
    meaning: str
    columns: tuple[Column, ...]
    is_public: bool = False
    period_column: str | None = "billing_period"  # the DATE whose month is the unit's period; None: the period is "all"
    sort: tuple[str, ...] = ()
    # Columns that determine all other columns. If there are any, the content digest contains only these.
    digest_columns: tuple[str, ...] = ()
    writer: str = "the bill's source"

    @property
    def key(self) -> tuple[str, ...]:
        """The columns that are never null, and whose combination is unique."""
        return tuple(c.name for c in self.columns if c.is_key)

    @property
    def content(self) -> tuple[str, ...]:
        """The columns that the content digest contains."""
        return self.digest_columns or tuple(c.name for c in self.columns if not c.bookkeeping)

    @property
    def description(self) -> str:
        """The meaning of the table and of one row."""
        return f"{self.meaning} One row: {self.grain.removeprefix('one row ')}."

    def arrow_schema(self) -> pa.Schema:
        """Return the Parquet schema. The columns are nullable and in the order of `columns`."""
        import pyarrow as pa

        types = {
            "STRING": pa.string(),
            "INT64": pa.int64(),
            "FLOAT64": pa.float64(),
            "BOOL": pa.bool_(),
            "DATE": pa.date32(),
            "TIMESTAMP": pa.timestamp("us", tz="UTC"),
            "BIGNUMERIC": pa.decimal128(38, 22),
            "ARRAY<STRING>": pa.list_(pa.string()),
        }
        return pa.schema([pa.field(c.name, types[c.type]) for c in self.columns])


def _key(name: str, type_: str, meaning: str, words: tuple[str, ...] = ()) -> Column:
    return Column(name, type_, meaning, is_key=True, words=words)


def _own(name: str, type_: str, meaning: str) -> Column:
    return Column(name, type_, meaning, bookkeeping=True)


RUN_KEY = (
    _key("tracking_server", "STRING", "Name of the tracking server in runspend.yaml."),
    _key("workspace", "STRING", "MLflow workspace; 'default' where the server has none."),
    _key("run_id", "STRING", "MLflow run id (32 hexadecimal characters)."),
)
RUN_REFERENCE = tuple(Column(c.name, c.type, c.meaning) for c in RUN_KEY)
COSTS = (
    Column(
        "list_cost", "BIGNUMERIC", "FOCUS ListCost: public price x quantity, in billing_currency. Null on the bill counts as 0 in sums."
    ),
    Column("contracted_cost", "BIGNUMERIC", "FOCUS ContractedCost: negotiated price x quantity, in billing_currency."),
    Column(
        "effective_cost", "BIGNUMERIC", "FOCUS EffectiveCost: the amortized cost, in billing_currency. It is the default figure everywhere."
    ),
    Column("billed_cost", "BIGNUMERIC", "FOCUS BilledCost: what the invoice charges, in billing_currency."),
)
DIMENSIONS = (
    Column("team", "STRING", "Team, from the first source in `dimensions.team` that has a value."),
    Column("project", "STRING", "Project, from the first source in `dimensions.project` that has a value."),
    Column("cost_center", "STRING", "Cost center, from the first source in `dimensions.cost_center` that has a value."),
    Column("owner", "STRING", "Owner, from the first source in `dimensions.owner` that has a value."),
)
BUILD_ID = _own("build_id", "STRING", "The build that wrote the row; the same in all tables that one build published together.")
LOAD_ID = _own("load_id", "STRING", "The load, extract or measurement that wrote the row.")
BILLING_PERIOD = _key("billing_period", "DATE", "First day of the month of FOCUS BillingPeriodStart (UTC).")
CURRENCY = Column("billing_currency", "STRING", "ISO 4217 code of the bill; costs are never added across currencies.")

LINE_DIMENSIONS = (
    Column(
        "line_team",
        "STRING",
        "Team from the bill: the value of the first tag in `dimensions.team` that the line has; null without such a tag.",
    ),
    Column("line_project", "STRING", "Project from the bill."),
    Column("line_cost_center", "STRING", "Cost center from the bill."),
    Column("line_owner", "STRING", "Owner from the bill."),
)
DIMENSION_NAMES = tuple(column.name for column in DIMENSIONS)
POOL_KEY = Column("pool_key", "STRING", "The pool that set the price of the charge; null if the rule does not use a pool.")
OVERHEAD = Column(
    "overhead_cost",
    "BIGNUMERIC",
    "Part of effective_cost for the time of a job outside its runs (start-up, gaps, shut-down), if the job matches exactly.",
)

COST_KINDS = ("compute", "storage", "network", "llm", "other")
ALLOCATED_TO = ("run", "logged_model", "orphan", "idle", "shared", "unallocated", "out_of_scope")
MATCH_METHODS = (
    "run_tag",
    "job_id",
    "resource_id",
    "attached",
    "artifact_bytes",
    "llm_identity",
    "llm_cost",
    "pool_time",
    "instance_type_time",
    "sharing",
    "none",
)
CONFIDENCES = ("exact", "high", "medium", "low")
COST_STATUSES = ("provisional", "final", "none")
REASONS = (
    "unknown_run", "no_run", "not_timed", "fee", "platform", "default_scope", "explicit_scope", "no_source_run", "not_mlflow", "not_measured", "trace", "incomplete_inventory",
    "silent_caller", "untraced_caller", "other_time", "other_account", "other_region", "ambiguous_name", "proportional", "even",
)  # fmt: skip
UNMET_REASONS = ("no_such_machine", "not_billed_yet", "out_of_scope", "over_claimed", "split_into_pods", "declared_shared")
WEIGHT_KINDS = ("gpu", "cpu", "memory", "use", "equal", "estimated_list_cost", "bytes", "list_cost")
PURCHASE_OPTIONS = ("spot", "on_demand")
RUN_END_RULES = ("stated", "alive", "started", "last_sign", "silent", "future", "resumed")

RUNS = Table(
    "runs",
    "one row per run of every tracking server, including deleted and purged runs",
    "MLflow's runs with MLflow's own column names, plus their dimensions and the machines that they state.",
    (
        *RUN_KEY,
        _key("start_month", "DATE", "First day of the month in which the run started (UTC); 1970-01-01 for a run without a start."),
        Column("run_name", "STRING", "MLflow run name."),
        Column("experiment_id", "STRING", "MLflow experiment id."),
        Column("experiment_name", "STRING", "MLflow experiment name."),
        Column("user_name", "STRING", "mlflow.user; null if it is in dimensions.not_a_person."),
        Column("run_status", "STRING", "RUNNING, SCHEDULED, FINISHED, FAILED or KILLED."),
        Column("lifecycle_stage", "STRING", "active or deleted."),
        Column("start_time", "TIMESTAMP", "Start of the run."),
        Column("end_time", "TIMESTAMP", "End of the run; null while it runs, or when MLflow has no end. See future_end_time."),
        Column(
            "future_end_time",
            "TIMESTAMP",
            "The end that MLflow states, if it is more than an hour after the time of the read; null otherwise. If this is set, end_time is 6 hours after the newest metric or, without metrics, 6 hours after the start.",
        ),
        Column(
            "last_sign_at",
            "TIMESTAMP",
            "Time of the newest metric of a run without an end; null for runs that have ended and for runs without metrics.",
        ),
        Column("artifact_uri", "STRING", "Folder of the run's artifacts."),
        Column("parent_run_id", "STRING", "mlflow.parentRunId."),
        Column("source_name", "STRING", "mlflow.source.name."),
        Column("git_commit", "STRING", "mlflow.source.git.commit."),
        *DIMENSIONS,
        Column("team_from", "STRING", "Source of team, e.g. experiment.tag.team."),
        Column("project_from", "STRING", "Source of project."),
        Column("cost_center_from", "STRING", "Source of cost_center."),
        Column("owner_from", "STRING", "Source of owner."),
        Column("resource_ids", "ARRAY<STRING>", "Machines that the run states, as written there, sorted; empty if it states none."),
        Column("instance_type", "STRING", "Requested instance type."),
        Column("num_nodes", "INT64", "Requested number of machines."),
        Column(
            "sub_account_id",
            "STRING",
            "Account, subscription or project that the run states for its machines, in lower case; null when not stated.",
        ),
        Column("region_id", "STRING", "Region that the run states, otherwise the region of its zone, in lower case."),
        Column("availability_zone", "STRING", "Zone that the run states, in lower case."),
        Column(
            "purchase_option",
            "STRING",
            "Stated purchase option of the run's machines: spot or on_demand; null when not stated.",
            words=PURCHASE_OPTIONS,
        ),
        Column("gpu_type", "STRING", "Requested GPU type."),
        Column(
            "gpu_count",
            "FLOAT64",
            "Requested GPUs per machine; 0 if the run states that it needs none. Null when not stated, or not a valid number.",
        ),
        Column("gpu_memory_gb", "FLOAT64", "Requested GPU memory, GiB."),
        Column("cpu_request", "FLOAT64", "Requested CPU cores."),
        Column("memory_request_gb", "FLOAT64", "Requested memory, GiB."),
        Column("max_retries", "INT64", "Stated retries."),
        Column("timeout_seconds", "FLOAT64", "Stated timeout, seconds."),
        Column("early_stopping_rounds", "INT64", "Stated early stopping rounds."),
        Column(
            "mean_use_percent",
            "FLOAT64",
            "Mean GPU utilization in MLflow's system metrics of the run, otherwise mean CPU utilization, percent; null when not logged.",
        ),
        Column(
            "gaps",
            "ARRAY<STRING>",
            "Periods without any logged value, in which the run counts as stopped and has no cost. Each is FROM/TO in UTC (ISO 8601); empty if there are none.",
        ),
        Column(
            "gap_seconds",
            "FLOAT64",
            "Total length of the gaps, seconds; 0 if there are none. Null if gaps were not examined, because the run lasted less than 6 hours or logged too few steps.",
        ),
        Column("job_id", "STRING", "Job that the run states (SageMaker, Databricks job run, SLURM, Batch, ...), as written there."),
        Column("job_key", "STRING", "The job, normalized for comparison with bills: the most complete name that the run states."),
        Column("iam_principal", "STRING", "IAM role or user with which the run calls language models, as written there."),
        Column(
            "principal_key",
            "STRING",
            "The principal, normalized for comparison with bills: aws:ACCOUNT:role/NAME[/SESSION] or aws:ACCOUNT:user/NAME.",
        ),
        Column(
            "pool_key",
            "STRING",
            "First pool whose `runs` selector matches the run, with the run's values of the pool's `equal` dimensions; null if there is none.",
        ),
        Column("params_digest", "STRING", "Hash of all params. Runs with equal hashes are repeats."),
        Column("tags", "STRING", "JSON object of the tags that `copy` allows."),
        Column("params", "STRING", "JSON object of the params that `copy` allows."),
        Column("purged_at", "TIMESTAMP", "First read after which MLflow no longer had the run; null while it has it."),
        LOAD_ID,
    ),
    is_public=True,
    period_column="start_month",
    sort=("run_id",),
    writer="the tracking server",
)

RUN_RESOURCES = Table(
    "run_resources",
    "one row per run and machine that it states",
    "The machines in `runs.resource_ids`, with the time on each machine if the run states it.",
    (
        *RUN_KEY,
        _key("start_month", "DATE", "First day of the month in which the run started (UTC)."),
        _key("resource_id", "STRING", "Machine, as the run states it."),
        Column("resource_key", "STRING", "The machine, normalized for comparison with bills: the most complete name that the run states."),
        _key("used_ordinal", "INT64", "0, 1, … for a machine that the run states several times."),
        Column("used_from", "TIMESTAMP", "Stated start on this machine; null means the start of the run."),
        Column("used_to", "TIMESTAMP", "Stated end on this machine; null means the end of the run."),
        LOAD_ID,
    ),
    period_column="start_month",
    sort=("resource_key", "run_id"),
    writer="the tracking server",
)

EXPERIMENTS = Table(
    "experiments",
    "one row per experiment of every tracking server",
    "MLflow's experiments, including deleted ones.",
    (
        RUN_KEY[0],
        RUN_KEY[1],
        _key("experiment_id", "STRING", "MLflow experiment id."),
        Column("experiment_name", "STRING", "MLflow experiment name."),
        Column("lifecycle_stage", "STRING", "active or deleted."),
        Column("artifact_location", "STRING", "Folder of the experiment's artifacts."),
        Column("creation_time", "TIMESTAMP", "Creation of the experiment."),
        Column("last_update_time", "TIMESTAMP", "Last change of the experiment."),
        Column("tags", "STRING", "JSON object of the experiment tags that `copy` allows."),
        LOAD_ID,
    ),
    period_column=None,
    sort=("experiment_id",),
    writer="the tracking server",
)

MACHINE_POWER = Table(
    "machine_power",
    "one row per run, power metric and hour, for machines that are billed by measured power",
    "The power of a GPU during a run on its machine, from MLflow's system metrics. Overlapping runs on a machine measure the same GPUs.",
    (
        *RUN_KEY,
        _key("start_month", "DATE", "First day of the month in which the run started (UTC)."),
        _key("metric", "STRING", "MLflow's key, e.g. system/gpu_0_power_usage_watts."),
        _key("hour_start", "TIMESTAMP", "Start of the hour."),
        Column("resource_id", "STRING", "The machine, as listed in `machines` of its bill."),
        Column("gpu", "INT64", "Number of the GPU on the machine."),
        Column(
            "measured_from",
            "TIMESTAMP",
            "Start of the first measurement in the hour. A measurement covers the time since the previous one, but at most ten minutes.",
        ),
        Column("measured_to", "TIMESTAMP", "End of the last measurement in the hour."),
        Column("measured_milliseconds", "INT64", "Time that the measurements of the hour cover, milliseconds."),
        Column(
            "energy_microjoules",
            "INT64",
            "Sum of milliwatts x milliseconds over the measurements of the hour. Divide by measured_milliseconds for the mean power in milliwatts.",
        ),
        Column("last_step", "INT64", "MLflow step of the metric's last measurement when it was read."),
        Column("step_stride", "INT64", "Distance between two MLflow steps that Runspend read."),
        LOAD_ID,
    ),
    period_column="start_month",
    sort=("resource_id", "hour_start", "run_id", "metric"),
    writer="the tracking server",
)

ARTIFACT_OWNERS = Table(
    "artifact_owners",
    "one row per logged model and trace that has its own artifacts",
    "Owners of folders in the artifact stores, other than runs (whose folders are in runs.artifact_uri).",
    (
        RUN_KEY[0],
        RUN_KEY[1],
        _key("owner_kind", "STRING", "logged_model or trace."),
        _key("owner_id", "STRING", "Id of the logged model or trace."),
        Column("experiment_id", "STRING", "MLflow experiment id."),
        Column("uri", "STRING", "Folder of its artifacts."),
        LOAD_ID,
    ),
    period_column=None,
    sort=("owner_kind", "owner_id"),
    writer="the tracking server",
)

MODEL_VERSIONS = Table(
    "model_versions",
    "one row per registered model version",
    "Model versions in MLflow's model registry, with the stages and aliases that show that a version is in use. Filled only if there are `retention` policies.",
    (
        RUN_KEY[0],
        RUN_KEY[1],
        _key("model_name", "STRING", "Registered model."),
        _key("model_version", "INT64", "Version of the registered model."),
        Column("run_id", "STRING", "Run from which the version was registered; null when MLflow does not know it."),
        Column("model_id", "STRING", "Logged model from which the version was registered; null without one."),
        Column("source_uri", "STRING", "Folder of the version's files; for a version of a logged model, the folder of that model."),
        Column("stage", "STRING", "None, Staging, Production or Archived."),
        Column("aliases", "STRING", "JSON list of the version's aliases, sorted."),
        Column("version_status", "STRING", "READY, PENDING_REGISTRATION or FAILED_REGISTRATION."),
        Column("creation_time", "TIMESTAMP", "Registration of the version."),
        LOAD_ID,
    ),
    period_column=None,
    sort=("model_name", "model_version"),
    writer="the tracking server",
)

MODEL_USES = Table(
    "model_uses",
    "one row per run, logged model and direction",
    "Runs that made or used logged models. Filled only if there are `retention` policies.",
    (
        *RUN_KEY,
        _key("start_month", "DATE", "First day of the month in which the run started (UTC)."),
        _key("model_id", "STRING", "MLflow logged model id."),
        _key("direction", "STRING", "input (the run used the model), output (it logged it) or source (MLflow's source run of the model)."),
        Column("step", "INT64", "Step at which the model was logged; null for input and source."),
        LOAD_ID,
    ),
    period_column="start_month",
    sort=("run_id", "model_id", "direction"),
    writer="the tracking server",
)

RUN_METRICS = Table(
    "run_metrics",
    "one row per run, logged model, metric and step, for metrics of `keep` policies and of `sweeps`",
    "Values of the metrics named in `retention[].keep.by` and `sweeps`. For `keep.by`: all values of logged models, the last value of each run, and all values of a run if it has at most 1,000 steps. For `sweeps`: the last value of each run.",
    (
        *RUN_KEY,
        _key("start_month", "DATE", "First day of the month in which the run started (UTC)."),
        _key("model_id", "STRING", "Logged model for which the value was logged; empty for the run itself."),
        _key("metric", "STRING", "MLflow's key of the metric."),
        _key("step", "INT64", "Step at which the value was logged."),
        Column("value", "FLOAT64", "The last value that was logged at the step. Values that are not numbers are not stored."),
        Column("is_last", "BOOL", "Whether it is the run's newest value of the metric."),
        LOAD_ID,
    ),
    period_column="start_month",
    sort=("run_id", "model_id", "metric", "step"),
    writer="the tracking server",
)

TRACKING_READS = Table(
    "tracking_reads",
    "one row per workspace and kind of protection",
    "Whether the last extract could read the facts that protect artifacts. If the state is not ok or the row is missing, the facts are unknown, and the artifacts are protected.",
    (
        RUN_KEY[0],
        RUN_KEY[1],
        _key("kind", "STRING", "model_versions, model_uses or run_metrics."),
        Column("state", "STRING", "ok or unknown."),
        Column("reason", "STRING", "Why it is unknown; null when ok."),
        LOAD_ID,
    ),
    period_column=None,
    sort=("workspace", "kind"),
    writer="the tracking server",
)

ARTIFACT_BYTES = Table(
    "artifact_bytes",
    "one row per owner, storage class and interval within the month",
    "Content of the artifact stores, by owner.",
    (
        _key("month", "DATE", "First day of the row's month."),
        _key("store", "STRING", "Root URI of the store in runspend.yaml."),
        _key(
            "owner_kind",
            "STRING",
            "run, logged_model, trace, orphan (MLflow's layout, no owner known: see confirmed_at) or other (not MLflow's).",
        ),
        _key("owner_id", "STRING", "Id of the run, logged model or trace; the prefix for orphan and other."),
        Column("tracking_server", "STRING", "Server of the owner; null for orphan and other."),
        Column("workspace", "STRING", "Workspace of the owner."),
        Column("experiment_id", "STRING", "Experiment of the owner, or the experiment that the prefix names."),
        Column("prefix", "STRING", "Folder under the store's root that contains the bytes."),
        _key("storage_class", "STRING", "Storage class as the store names it; LOCAL for folders, UNKNOWN where the listing has none."),
        _key("valid_from", "TIMESTAMP", "Start of the time for which these figures hold."),
        Column("valid_to", "TIMESTAMP", "End of the time for which these figures hold; null while they are current."),
        Column("objects", "INT64", "Number of objects; null when the listing did not finish."),
        Column("bytes", "INT64", "Bytes; null, and never 0, when unknown."),
        Column("oldest_at", "TIMESTAMP", "Oldest modification time among the objects."),
        Column("newest_at", "TIMESTAMP", "Newest modification time among the objects."),
        Column(
            "noncurrent_objects", "INT64", "Number of noncurrent versions, not included in objects; null if the store does not report them."
        ),
        Column(
            "noncurrent_bytes",
            "INT64",
            "Bytes of noncurrent versions, which are billed but not included in bytes; null if the store does not report them.",
        ),
        Column(
            "duplicate_bytes",
            "INT64",
            "Part of bytes in duplicate objects. Of objects with equal checksum and size, all except the oldest are duplicates. Null if the store has no checksums, as in folders.",
        ),
        Column("unowned_since", "TIMESTAMP", "For an orphan, the time of the first measurement that found no owner; null for all others."),
        Column(
            "confirmed_at",
            "TIMESTAMP",
            "For an orphan, the time when a second read of all tracking servers, at least a day after the first, found no owner either. Without tracking servers, it is set after 30 days. Null while the bytes may still have an owner.",
        ),
        Column("is_complete", "BOOL", "Whether the listing of the folder finished."),
        LOAD_ID,
    ),
    period_column="month",
    sort=("owner_kind", "owner_id", "storage_class", "valid_from"),
    writer="the store",
)

DANGLING_OWNERS = Table(
    "dangling_owners",
    "one row per owner with an empty folder",
    "Runs, logged models and traces whose bytes are gone, and logged models that never had bytes. A run that never had artifacts is not in this table, because a run needs none.",
    (
        _key("store", "STRING", "Root URI of the store in runspend.yaml."),
        _key("owner_kind", "STRING", "run, logged_model or trace."),
        _key("owner_id", "STRING", "Id of the run, logged model or trace."),
        _key("tracking_server", "STRING", "Server of the owner."),
        _key("workspace", "STRING", "Workspace of the owner."),
        Column("experiment_id", "STRING", "Experiment of the owner."),
        Column("prefix", "STRING", "Folder under the store's root that should contain the bytes."),
        Column("gone_since", "TIMESTAMP", "First measurement that found the folder empty."),
        Column("had_objects", "INT64", "Number of objects that the folder had before; null if none were ever found."),
        Column("had_bytes", "INT64", "Bytes that the folder had before; null when unknown."),
        LOAD_ID,
    ),
    period_column=None,
    sort=("owner_kind", "owner_id"),
    writer="the store",
)

ARTIFACT_STORES = Table(
    "artifact_stores",
    "one row per store and storage class in it",
    "Current content of the artifact stores and its monthly cost, at the rate that the bill charges for the bucket or the storage class.",
    (
        _key("store", "STRING", "Root URI of the store in runspend.yaml."),
        _key("storage_class", "STRING", "Storage class, as in artifact_bytes."),
        Column("objects", "INT64", "Number of objects; null when unknown."),
        Column("bytes", "INT64", "Bytes; null when unknown."),
        Column("noncurrent_bytes", "INT64", "Bytes of noncurrent versions, not included in bytes; null if the store does not report them."),
        Column("duplicate_bytes", "INT64", "Part of bytes in duplicate objects; null if the store has no checksums."),
        Column("orphaned_bytes", "INT64", "Part of bytes for which two reads of the tracking servers found no owner."),
        Column("unconfirmed_bytes", "INT64", "Part of bytes for which only one read of the tracking servers found no owner so far."),
        Column("oldest_at", "TIMESTAMP", "Oldest modification time among the objects."),
        Column("newest_at", "TIMESTAMP", "Newest modification time among the objects."),
        Column(
            "billing_currency",
            "STRING",
            "ISO 4217 code of the costs; null if no bill has a rate, as for folders and for stores that are only a part of a bucket.",
        ),
        Column("month_cost", "BIGNUMERIC", "Monthly cost of bytes and noncurrent_bytes, in billing_currency."),
        Column("noncurrent_month_cost", "BIGNUMERIC", "Part of month_cost for noncurrent_bytes."),
        Column("duplicate_month_cost", "BIGNUMERIC", "Part of month_cost for duplicate_bytes."),
        Column("orphaned_month_cost", "BIGNUMERIC", "Part of month_cost for orphaned_bytes."),
    ),
    period_column=None,
    sort=("store", "storage_class"),
    writer="all",
)

TRACE_COSTS = Table(
    "trace_costs",
    "one row per day, experiment, run, user and model of the traces that have a token cost",
    "LLM cost of traces at list price, as computed by MLflow (mlflow.llm.cost). For tokens without such a cost, the price list in price_source is used.",
    (
        _key("month", "DATE", "First day of the month of charge_date."),
        RUN_KEY[0],
        RUN_KEY[1],
        _key("charge_date", "DATE", "UTC date of the trace's start."),
        _key("experiment_id", "STRING", "MLflow experiment id."),
        _key("run_id", "STRING", "mlflow.sourceRun; empty when the trace has none."),
        _key("user_name", "STRING", "mlflow.trace.user, otherwise mlflow.user; empty when neither is known."),
        _key("model", "STRING", "mlflow.llm.model; empty when MLflow does not know it."),
        _key(
            "price_source",
            "STRING",
            "Source of the prices: mlflow, or the price list of token_prices with its version. With a price list, list_cost is an estimate.",
        ),
        _key(
            "provider",
            "STRING",
            "Provider of the model: mlflow.llm.provider, or the provider's name in the price list; empty when MLflow does not know it.",
        ),
        Column("traces", "INT64", "Number of traces with a cost."),
        Column("input_tokens", "INT64", "Input tokens; null when not logged."),
        Column("output_tokens", "INT64", "Output tokens; null when not logged."),
        Column("list_cost", "BIGNUMERIC", "Cost at list price, in currency."),
        Column("currency", "STRING", "ISO 4217 code; MLflow computes in USD."),
        LOAD_ID,
    ),
    period_column="month",
    sort=("charge_date", "experiment_id", "run_id"),
    writer="the tracking server",
)

FOCUS_COLUMNS = (
    Column("availability_zone", "STRING", "FOCUS AvailabilityZone."),
    Column("billed_cost", "BIGNUMERIC", "FOCUS BilledCost."),
    Column("billing_account_id", "STRING", "FOCUS BillingAccountId."),
    Column("billing_account_name", "STRING", "FOCUS BillingAccountName."),
    Column("billing_account_type", "STRING", "FOCUS BillingAccountType."),
    Column("billing_currency", "STRING", "FOCUS BillingCurrency."),
    Column("billing_period_end", "TIMESTAMP", "FOCUS BillingPeriodEnd, exclusive."),
    Column("billing_period_start", "TIMESTAMP", "FOCUS BillingPeriodStart, inclusive."),
    Column("capacity_reservation_id", "STRING", "FOCUS CapacityReservationId."),
    Column("capacity_reservation_status", "STRING", "FOCUS CapacityReservationStatus."),
    Column("charge_category", "STRING", "FOCUS ChargeCategory: Usage, Purchase, Tax, Credit, Adjustment."),
    Column("charge_class", "STRING", "FOCUS ChargeClass: null or Correction."),
    Column("charge_description", "STRING", "FOCUS ChargeDescription."),
    Column("charge_frequency", "STRING", "FOCUS ChargeFrequency."),
    Column("charge_period_end", "TIMESTAMP", "FOCUS ChargePeriodEnd, exclusive."),
    Column("charge_period_start", "TIMESTAMP", "FOCUS ChargePeriodStart, inclusive."),
    Column("commitment_discount_category", "STRING", "FOCUS CommitmentDiscountCategory."),
    Column("commitment_discount_id", "STRING", "FOCUS CommitmentDiscountId."),
    Column("commitment_discount_name", "STRING", "FOCUS CommitmentDiscountName."),
    Column("commitment_discount_quantity", "BIGNUMERIC", "FOCUS CommitmentDiscountQuantity."),
    Column("commitment_discount_status", "STRING", "FOCUS CommitmentDiscountStatus: Used or Unused."),
    Column("commitment_discount_type", "STRING", "FOCUS CommitmentDiscountType."),
    Column("commitment_discount_unit", "STRING", "FOCUS CommitmentDiscountUnit."),
    Column("consumed_quantity", "BIGNUMERIC", "FOCUS ConsumedQuantity."),
    Column("consumed_unit", "STRING", "FOCUS ConsumedUnit."),
    Column("contracted_cost", "BIGNUMERIC", "FOCUS ContractedCost."),
    Column("contracted_unit_price", "BIGNUMERIC", "FOCUS ContractedUnitPrice."),
    Column("effective_cost", "BIGNUMERIC", "FOCUS EffectiveCost."),
    Column("host_provider_name", "STRING", "FOCUS HostProviderName (1.3+); ProviderName of older files where the publisher differs."),
    Column("invoice_detail_id", "STRING", "FOCUS InvoiceDetailId (1.4)."),
    Column("invoice_id", "STRING", "FOCUS InvoiceId; null until invoiced."),
    Column("invoice_issuer_name", "STRING", "FOCUS InvoiceIssuerName."),
    Column("list_cost", "BIGNUMERIC", "FOCUS ListCost."),
    Column("list_unit_price", "BIGNUMERIC", "FOCUS ListUnitPrice."),
    Column("pricing_category", "STRING", "FOCUS PricingCategory."),
    Column("pricing_currency", "STRING", "FOCUS PricingCurrency."),
    Column("pricing_currency_contracted_unit_price", "BIGNUMERIC", "FOCUS PricingCurrencyContractedUnitPrice."),
    Column("pricing_currency_effective_cost", "BIGNUMERIC", "FOCUS PricingCurrencyEffectiveCost."),
    Column("pricing_currency_list_unit_price", "BIGNUMERIC", "FOCUS PricingCurrencyListUnitPrice."),
    Column("pricing_quantity", "BIGNUMERIC", "FOCUS PricingQuantity."),
    Column("pricing_unit", "STRING", "FOCUS PricingUnit."),
    Column("region_id", "STRING", "FOCUS RegionId."),
    Column("region_name", "STRING", "FOCUS RegionName."),
    Column("resource_id", "STRING", "FOCUS ResourceId."),
    Column("resource_name", "STRING", "FOCUS ResourceName."),
    Column("resource_type", "STRING", "FOCUS ResourceType."),
    Column("service_category", "STRING", "FOCUS ServiceCategory."),
    Column("service_name", "STRING", "FOCUS ServiceName."),
    Column("service_provider_name", "STRING", "FOCUS ServiceProviderName (1.3+); from ProviderName and PublisherName of older files."),
    Column("service_subcategory", "STRING", "FOCUS ServiceSubcategory."),
    Column("sku_id", "STRING", "FOCUS SkuId."),
    Column("sku_meter", "STRING", "FOCUS SkuMeter."),
    Column("sku_price_details", "STRING", "FOCUS SkuPriceDetails (JSON object)."),
    Column("sku_price_id", "STRING", "FOCUS SkuPriceId."),
    Column("sub_account_id", "STRING", "FOCUS SubAccountId."),
    Column("sub_account_name", "STRING", "FOCUS SubAccountName."),
    Column("sub_account_type", "STRING", "FOCUS SubAccountType."),
    Column("tags", "STRING", "FOCUS Tags (JSON object of text values, or null)."),
    Column("allocated_method_id", "STRING", "FOCUS AllocatedMethodId (1.3)."),
    Column("allocated_method_details", "STRING", "FOCUS AllocatedMethodDetails (1.3, JSON)."),
    Column("allocated_resource_id", "STRING", "FOCUS AllocatedResourceId (1.3)."),
    Column("allocated_resource_name", "STRING", "FOCUS AllocatedResourceName (1.3)."),
    Column("allocated_tags", "STRING", "FOCUS AllocatedTags (1.3, JSON)."),
    Column("contract_applied", "STRING", "FOCUS ContractApplied (1.3, JSON)."),
    Column("commitment_program_eligibility_details", "STRING", "FOCUS CommitmentProgramEligibilityDetails (1.4, JSON)."),
)

BILLING_LINES = Table(
    "billing_lines",
    "one row per line of the newest valid version of each bill; lines outside an explicit scope are summed per day, account, service and category",
    "The bills, in FOCUS columns, exactly as delivered, plus columns computed when they were loaded.",
    (
        _key("source", "STRING", "Name of the bill in runspend.yaml."),
        BILLING_PERIOD,
        _key("line_id", "STRING", "Hash of the delivered row and of its ordinal among identical rows."),
        *FOCUS_COLUMNS,
        Column("charge_date", "DATE", "UTC date of charge_period_start."),
        Column(
            "resource_key",
            "STRING",
            "resource_id, normalized for comparison with runs: the most complete name that the line states; null without a resource.",
        ),
        Column("run_tag", "STRING", "Run id in a tag of the line (`docs/identify.md` lists the tag keys); null if there is none."),
        Column("instance_type", "STRING", "Instance type, from SkuPriceDetails or the provider's own column."),
        Column("machine_gpus", "INT64", "GPUs of the machine, if the line or the instance type shows it."),
        Column("machine_cpus", "INT64", "vCPUs of the machine, if the line or the instance type shows it."),
        Column("machine_memory_gb", "FLOAT64", "Memory of the machine in GiB, if the line or the instance type shows it."),
        Column(
            "billed_nanoseconds",
            "INT64",
            "ConsumedQuantity in nanoseconds if ConsumedUnit is a time; otherwise null. Negative for a reversal.",
        ),
        Column(
            "node_key",
            "STRING",
            "The machine (as resource_key), if the line is only the part of a machine that a pod or task used, or that was unused; null otherwise.",
        ),
        Column("node_instance_type", "STRING", "Instance type of the machine in node_key. The line is only a part of such a machine."),
        Column("node_gpus", "INT64", "GPUs of the machine in node_key. The line does not have all of them."),
        Column(
            "job_key",
            "STRING",
            "Job that the resource or a tag of the line names, normalized for comparison with runs: the most complete name that the line states.",
        ),
        Column(
            "attached_to",
            "STRING",
            "Machine (as resource_key) to which the line's resource is attached, for example a disk or an address; null if there is none.",
        ),
        Column(
            "group_keys",
            "ARRAY<STRING>",
            "Groups that the line shares with machines: job, node group and cluster, the closest first. Each is account|tag key|value; a node group is account@CLUSTER|tag key|value if the line names the cluster. Empty if there are none.",
        ),
        Column(
            "storage_key",
            "STRING",
            "Bucket or storage account of a storage line, normalized for comparison with artifact stores.",
        ),
        Column(
            "storage_class",
            "STRING",
            "Storage class of a storage line, in the spelling of artifact_bytes; null if the line does not state it.",
        ),
        Column(
            "pool_key",
            "STRING",
            "First pool whose `lines` selector matches the line, with the line's values of the pool's `equal` dimensions; null if there is none.",
        ),
        Column(
            "iam_principal",
            "STRING",
            "IAM role or user that called a language model, from CUR 2.0's line_item_iam_principal; null on bills that do not state it.",
        ),
        Column(
            "principal_key",
            "STRING",
            "The principal, normalized for comparison with runs: aws:ACCOUNT:role/NAME[/SESSION] or aws:ACCOUNT:user/NAME.",
        ),
        *LINE_DIMENSIONS,
        Column(
            "scope",
            "STRING",
            "include or exclude if an explicit `scope` decides; shared if `shared` declares the line as shared cost of the platform; null otherwise, and then the default scope decides when the ledger is built.",
        ),
        LOAD_ID,
    ),
    sort=("resource_key", "charge_period_start", "line_id"),
    digest_columns=(
        "source",
        "line_id",
        "billing_period",
        "resource_key",
        "run_tag",
        "instance_type",
        "machine_gpus",
        "machine_cpus",
        "machine_memory_gb",
        "billed_nanoseconds",
        "node_key",
        "node_instance_type",
        "node_gpus",
        "job_key",
        "attached_to",
        "group_keys",
        "storage_key",
        "storage_class",
        "pool_key",
        "iam_principal",
        "principal_key",
        "line_team",
        "line_project",
        "line_cost_center",
        "line_owner",
        "scope",
    ),
)

BILLING_QUARANTINE = Table(
    "billing_quarantine",
    "one row per delivered row that could not be read",
    "Rows with an unreadable period, currency or BilledCost. The complete rows are stored and counted, but no sum of costs includes them.",
    (
        _key("source", "STRING", "Name of the bill in runspend.yaml."),
        BILLING_PERIOD,
        _key("line_id", "STRING", "Hash of the delivered row and of its ordinal among identical rows."),
        Column("file_name", "STRING", "File of the row, relative to the source's uri."),
        Column("row_number", "INT64", "Row number in the file; the first data row is 1."),
        Column("reason", "STRING", "The column that cannot be read, its value, and the allowed values."),
        Column("billed_cost", "BIGNUMERIC", "BilledCost, if it could be read."),
        Column("raw", "STRING", "JSON object of the row as delivered."),
        LOAD_ID,
    ),
    sort=("line_id",),
)

BILLING_LOADS = Table(
    "billing_loads",
    "one row per source, billing period, version and currency",
    "Every version of every bill, with its files, rows and totals, and the reason if it was refused.",
    (
        _key("source", "STRING", "Name of the bill in runspend.yaml."),
        BILLING_PERIOD,
        _key("version", "STRING", "Digest of the version's files."),
        _key("billing_currency", "STRING", "ISO 4217 code; empty for a version without rows."),
        _key("version_number", "INT64", "1, 2, … in the order the versions were loaded."),
        Column("state", "STRING", "current, replaced or refused."),
        Column("reason", "STRING", "Why the version was refused; null otherwise."),
        Column("delivered_at", "TIMESTAMP", "When the provider wrote the version: the time of the manifest, otherwise of the newest file."),
        Column(
            "files",
            "STRING",
            "JSON list of {name, bytes, sha256, rows, state}. The state is read, duplicate, or older if a newer file replaced it. Files from stores with checksums also have stamp, format and label, so that unchanged files are not fetched again.",
        ),
        Column("row_count", "INT64", "Number of loaded rows."),
        Column("quarantined_count", "INT64", "Number of quarantined rows."),
        *COSTS,
        Column("null_list_count", "INT64", "Number of rows whose ListCost is null."),
        Column("null_contracted_count", "INT64", "Number of rows whose ContractedCost is null."),
        Column("null_effective_count", "INT64", "Number of rows whose EffectiveCost is null."),
        Column("rounded_cost", "BIGNUMERIC", "Sum of the amounts by which billed costs with more than 22 decimals were rounded."),
        Column("focus_version", "STRING", "FOCUS version, according to the header."),
        Column(
            "covered_until",
            "TIMESTAMP",
            "The later of two times: the latest charge_period_end of Usage lines shorter than a day, and the latest charge_period_start of Usage lines of a day. "
            "Without shorter lines: the latest charge_period_end of lines of a day. Without those too: the latest charge_period_end of all lines.",
        ),
        Column("is_invoiced", "BOOL", "Whether every line has an InvoiceId. The provider then considers the period final."),
        _own("loaded_at", "TIMESTAMP", "When the version was loaded."),
        LOAD_ID,
    ),
    sort=("version_number", "billing_currency"),
)

BILL_CHANGES = Table(
    "bill_changes",
    "one row per version, charge date, service, account and currency whose cost changed",
    "The changes of cost by each new version of a bill.",
    (
        _key("source", "STRING", "Name of the bill in runspend.yaml."),
        BILLING_PERIOD,
        _key("version", "STRING", "The version that changed the cost."),
        _key("version_number", "INT64", "Number of that version."),
        _key("charge_date", "DATE", "UTC date of the charge's start."),
        _key("service_name", "STRING", "FOCUS ServiceName; empty when null."),
        _key("sub_account_id", "STRING", "FOCUS SubAccountId; empty when null."),
        _key("billing_currency", "STRING", "ISO 4217 code."),
        *(Column(c.name, c.type, "New minus old: " + c.meaning) for c in COSTS),
        LOAD_ID,
    ),
    sort=("version_number", "charge_date", "service_name", "sub_account_id", "billing_currency"),
)

PERIOD_STATES = Table(
    "period_states",
    "one row per source and billing period",
    "Whether each bill of a month is open, final or closed, and which changes a closed month ignores. See `docs/operations.md`.",
    (
        _key("source", "STRING", "Name of the bill in runspend.yaml."),
        BILLING_PERIOD,
        Column("state", "STRING", "open, final or closed."),
        Column("bill_digest", "STRING", "Digest of the delivered rows of the bill. It does not depend on how they are divided into files."),
        Column("is_invoiced", "BOOL", "Whether every line has an InvoiceId."),
        Column(
            "ignored_changes",
            "STRING",
            "Changes since the month was closed, in words. Its cost tables do not include them. Null if nothing changed.",
        ),
        _own("unchanged_since", "TIMESTAMP", "When the current rows were first loaded."),
        _own("final_since", "TIMESTAMP", "When the bill became final; null while it is open."),
        _own("closed_since", "TIMESTAMP", "When the month was closed; null until then."),
        BUILD_ID,
    ),
    sort=("source",),
    writer="all",
)

COST_ALLOCATIONS = Table(
    "cost_allocations",
    "one row per charge and target",
    "The ledger, with the targets of each charge of the bill. Its sums equal the bill exactly, per source, period, currency and measure.",
    (
        _key("source", "STRING", "Name of the bill in runspend.yaml."),
        BILLING_PERIOD,
        _key(
            "charge_id",
            "STRING",
            "The bill line (billing_lines.line_id). If the row covers several lines, a longer id: they were priced together (see charge_lines), or summed because they are out of scope.",
        ),
        _key(
            "target_id",
            "STRING",
            "For a run, server/workspace/run_id. For a logged model, server/workspace/owner_id. Otherwise the value of allocated_to.",
        ),
        Column("charge_date", "DATE", "UTC date of the charge's start."),
        Column("charge_period_start", "TIMESTAMP", "FOCUS ChargePeriodStart."),
        Column("charge_period_end", "TIMESTAMP", "FOCUS ChargePeriodEnd."),
        Column("service_provider_name", "STRING", "FOCUS ServiceProviderName."),
        Column("billing_account_id", "STRING", "FOCUS BillingAccountId."),
        Column("sub_account_id", "STRING", "FOCUS SubAccountId."),
        Column("region_id", "STRING", "FOCUS RegionId."),
        Column("service_name", "STRING", "FOCUS ServiceName."),
        Column("charge_category", "STRING", "FOCUS ChargeCategory."),
        Column("resource_id", "STRING", "FOCUS ResourceId."),
        Column("invoice_id", "STRING", "FOCUS InvoiceId."),
        Column("cost_kind", "STRING", "Kind of cost: compute, storage, network, llm or other.", words=COST_KINDS),
        Column("allocated_to", "STRING", "run, logged_model, orphan, idle, shared, unallocated or out_of_scope.", words=ALLOCATED_TO),
        *RUN_REFERENCE,
        Column("owner_id", "STRING", "Id of the logged model if allocated_to is logged_model; null otherwise."),
        Column("allocated_ratio", "FLOAT64", "Share of the charge, for display. Never compute a cost from it."),
        *COSTS,
        CURRENCY,
        Column(
            "unused_cost",
            "BIGNUMERIC",
            "Part of effective_cost for units (such as GPUs) that the run did not request, on a machine rented for it.",
        ),
        OVERHEAD,
        Column(
            "match_method",
            "STRING",
            "Rule that allocated the charge: run_tag, job_id, resource_id, attached, artifact_bytes, llm_identity, llm_cost, pool_time or instance_type_time; sharing for cost that `sharing` distributed; none if no rule applied.",
            words=MATCH_METHODS,
        ),
        Column("confidence", "STRING", "exact, high, medium or low; null when no rule applied.", words=CONFIDENCES),
        POOL_KEY,
        Column(
            "reason",
            "STRING",
            "Why the charge has this target. Without a run: unknown_run, no_run, not_timed, fee, platform (declared by `shared`), default_scope, explicit_scope. "
            "Traces: no_source_run (the trace has no run). Storage: not_mlflow, not_measured (bytes outside the artifact stores, or in a storage class without measured bytes), trace, incomplete_inventory. "
            "Callers of language models: silent_caller (another run of the same principal has no traces that day, and counts as a run without calls), "
            "untraced_caller (a run of the principal never has traces, or none of its runs has traces that day). "
            "A tag that names a run: other_time (the run was not active then), other_account or other_region (the machines of the run are in another one). "
            "ambiguous_name: several machines or jobs may have the stated name. Otherwise the policy of `sharing`: proportional or even.",
            words=REASONS,
        ),
        Column(
            "weight_kind",
            "STRING",
            "How the charge was split: by gpu, cpu, memory, use (measured) or equal for runs that shared a machine; bytes for storage; list_cost for traces, or estimated_list_cost if a price list priced some of them.",
            words=WEIGHT_KINDS,
        ),
        Column(
            "run_end_rule",
            "STRING",
            "How the end of the run was found: stated; alive (it has a recent metric); started (no metric, but a recent start); last_sign (its last metric); silent (no metric and no recent start); future (the stated end was in the future); resumed (it had gaps, which are not charged).",
            words=RUN_END_RULES,
        ),
        Column(
            "is_scaled",
            "BOOL",
            "Whether shares were scaled down because runs claimed more time than was billed, or requested more units than the machine has.",
        ),
        Column("cost_status", "STRING", "provisional or final.", words=COST_STATUSES),
        *LINE_DIMENSIONS,
        BUILD_ID,
    ),
    is_public=True,
    sort=("charge_date", "target_id"),
    writer="all",
)

CHARGE_LINES = Table(
    "charge_lines",
    "one row per bill line of a charge that combines several lines",
    "The lines, or parts of lines, in each charge of a pool rule. A charge_id that is not in this table is itself a line_id.",
    (
        _key("source", "STRING", "Name of the bill in runspend.yaml."),
        BILLING_PERIOD,
        _key("line_id", "STRING", "The bill line (billing_lines.line_id)."),
        Column("charge_id", "STRING", "The charge in cost_allocations."),
        Column(
            "line_from",
            "FLOAT64",
            "Where the charge's part of the line begins, from 0 to 1. The part before it went to runs that state the machine, in charges with the line's own id. 0 means that the charge contains the whole line.",
        ),
        BUILD_ID,
    ),
    sort=("charge_id", "line_id"),
    writer="all",
)

RUN_BILL_DIMENSIONS = Table(
    "run_bill_dimensions",
    "one row per run and billing period with lines that have a tag in `dimensions`",
    "Dimensions of runs from tags in the bill: those of the most expensive lines that match the run exactly or by machine.",
    (
        *RUN_KEY,
        BILLING_PERIOD,
        *LINE_DIMENSIONS,
        BUILD_ID,
    ),
    sort=("run_id",),
    writer="all",
)

RUN_COSTS_DAILY = Table(
    "run_costs_daily",
    "one row per run, charge date, cost kind, source and billing period",
    "The cost of each run per day.",
    (
        *RUN_KEY,
        _key("charge_date", "DATE", "UTC date of the charge's start."),
        _key("cost_kind", "STRING", "Kind of cost: compute, storage, network, llm or other.", words=COST_KINDS),
        _key("source", "STRING", "Name of the bill in runspend.yaml."),
        BILLING_PERIOD,
        _key("billing_currency", "STRING", "ISO 4217 code of the bill."),
        *COSTS,
        Column("unused_cost", "BIGNUMERIC", "Part of effective_cost for units that the run did not request, on machines rented for it."),
        OVERHEAD,
        Column(
            "machine_seconds",
            "FLOAT64",
            "The run's share of the time of its machines, seconds. The shares of all runs on a machine add up to its time.",
        ),
        Column("gpu_seconds", "FLOAT64", "machine_seconds x the machine's GPUs, where known."),
        Column("confidence", "STRING", "Lowest confidence among the charges in the row.", words=CONFIDENCES),
        Column("cost_status", "STRING", "provisional if any charge in the row is provisional, otherwise final.", words=COST_STATUSES),
        BUILD_ID,
    ),
    is_public=True,
    sort=("run_id", "charge_date", "cost_kind", "source"),
    writer="all",
)

PRICE_LIST = Table(
    "price_list",
    "one row per price of `rates.prices`",
    "Configured prices of machine-hours, used if no bill has a price.",
    (
        _key("instance_type", "STRING", "Instance type."),
        _key("region_id", "STRING", "Region; empty for all regions."),
        _key("pricing_category", "STRING", "FOCUS PricingCategory; empty for all categories."),
        _key("billing_currency", "STRING", "ISO 4217 code of the price."),
        Column("hour_price", "BIGNUMERIC", "Price of an hour."),
    ),
    period_column=None,
    sort=("instance_type", "region_id"),
    writer="all",
)

RUN_ESTIMATES = Table(
    "run_estimates",
    "one row per run, machine and hour that no bill covers yet (token costs: per run, user, model and day; time without a figure: per run and day)",
    "Probable cost of runs for hours that are not billed yet. No other cost table includes these figures. A row disappears when the bill for its hour arrives.",
    (
        *RUN_KEY,
        _key("charge_date", "DATE", "UTC date of estimated_from."),
        _key("cost_kind", "STRING", "compute, or llm for token costs that MLflow computed."),
        _key(
            "source",
            "STRING",
            "Bill that will probably contain the hour; rates if no bill shows the machine or its type; mlflow for token costs.",
        ),
        BILLING_PERIOD,
        _key("billing_currency", "STRING", "ISO 4217 code; empty for a row without a figure."),
        *COSTS,
        Column("unused_cost", "BIGNUMERIC", "Always null, because units that a run did not request are not estimated."),
        Column("overhead_cost", "BIGNUMERIC", "Always null, because time outside runs is not estimated."),
        Column("machine_seconds", "FLOAT64", "The run's share of the time of its machines, seconds."),
        Column("gpu_seconds", "FLOAT64", "machine_seconds x the machine's GPUs, where known."),
        Column(
            "confidence",
            "STRING",
            "Confidence that the rule would have with a bill: high by machine, medium by token cost, low by instance type; null without a figure.",
        ),
        Column("cost_status", "STRING", "estimated."),
        _key("resource_key", "STRING", "The machine, normalized for comparison with bills; empty if the run states none."),
        _key("estimated_from", "TIMESTAMP", "Start of the estimated time."),
        Column("estimated_to", "TIMESTAMP", "End of the estimated time: the end of the hour, or the time of the pipeline run (`now`)."),
        Column("sub_account_id", "STRING", "Account whose bill last showed the machine; null if none did."),
        Column("instance_type", "STRING", "Instance type, from the bill, otherwise as requested by the run."),
        Column("region_id", "STRING", "Region, from the bill."),
        Column("resource_id", "STRING", "The machine as written in the bill, otherwise as the run states it."),
        Column(
            "price_from", "STRING", "bill (median of the last 30 billed days), rates (the price list) or mlflow; null without a figure."
        ),
        Column("reason", "STRING", "Why there is no figure: no_machine, no_instance_type or no_price; null if there is one."),
        _key("experiment_id", "STRING", "MLflow experiment id; empty when not known."),
        _key("user_name", "STRING", "mlflow.user; for token costs, the trace's user; empty when not known."),
        _key("model", "STRING", "Model of a token cost; empty elsewhere."),
        BUILD_ID,
    ),
    period_column=None,
    sort=("run_id", "estimated_from", "resource_key"),
    writer="all",
)

ESTIMATE_ERRORS = Table(
    "estimate_errors",
    "one row per bill, charge date, currency and pipeline run that found a bill for estimated hours",
    "Errors of past estimates: the estimated cost compared with the billed cost of the same runs and hours.",
    (
        _key("source", "STRING", "Name of the bill in runspend.yaml."),
        _key("charge_date", "DATE", "UTC date of the hours."),
        _key("billing_currency", "STRING", "ISO 4217 code."),
        _key("judged_at", "TIMESTAMP", "Time of the pipeline run (`now`) that found the bill for these hours."),
        _key("estimated_from", "TIMESTAMP", "Start of the first of the hours."),
        Column("estimated_to", "TIMESTAMP", "End of the last of the hours."),
        Column("runs", "INT64", "Number of runs with an estimate in these hours."),
        Column("estimated_cost", "BIGNUMERIC", "Effective cost according to the last estimate."),
        Column("actual_cost", "BIGNUMERIC", "Effective cost as billed and allocated to the same runs for the same hours."),
        Column("difference_cost", "BIGNUMERIC", "estimated_cost minus actual_cost."),
        BUILD_ID,
    ),
    period_column=None,
    sort=("charge_date", "source"),
    writer="all",
)

RUN_COSTS = Table(
    "run_costs",
    "one row per run over its whole life (one per currency if its bills have several currencies)",
    "Total cost of a run, and the names by which people group runs.",
    (
        *RUN_KEY,
        _key("start_month", "DATE", "First day of the month in which the run started (UTC)."),
        _key("billing_currency", "STRING", "ISO 4217 code; empty for a run without a charge on any bill."),
        Column("run_name", "STRING", "MLflow run name."),
        Column("experiment_id", "STRING", "MLflow experiment id."),
        Column("experiment_name", "STRING", "MLflow experiment name."),
        Column("user_name", "STRING", "mlflow.user."),
        Column("run_status", "STRING", "RUNNING, SCHEDULED, FINISHED, FAILED or KILLED."),
        Column("start_time", "TIMESTAMP", "Start of the run."),
        Column("end_time", "TIMESTAMP", "End of the run; null while it runs, or when MLflow has no end."),
        Column("parent_run_id", "STRING", "mlflow.parentRunId."),
        *DIMENSIONS,
        *(
            Column(f"{d.name}_from", "STRING", f"Source of {d.name}, e.g. experiment.tag.{d.name} or line.tag.{d.name}.")
            for d in DIMENSIONS
        ),
        *COSTS,
        *(Column(f"{kind}_cost", "BIGNUMERIC", f"effective_cost of kind {kind}.") for kind in COST_KINDS),
        Column("unused_cost", "BIGNUMERIC", "Part of effective_cost for units that the run did not request, on machines rented for it."),
        OVERHEAD,
        Column("cost_with_children", "BIGNUMERIC", "effective_cost of the run and of all its descendants."),
        Column("machine_seconds", "FLOAT64", "The run's share of the time of its machines, seconds."),
        Column("gpu_seconds", "FLOAT64", "machine_seconds x the machines' GPUs, where known."),
        Column("first_charge_date", "DATE", "First day with a charge."),
        Column("last_charge_date", "DATE", "Last day with a charge."),
        Column("confidence", "STRING", "Lowest confidence among the charges; null for a run without a charge.", words=CONFIDENCES),
        Column(
            "cost_status",
            "STRING",
            "provisional if any charge is provisional, otherwise final; none for a run without a charge.",
            words=COST_STATUSES,
        ),
        BUILD_ID,
    ),
    is_public=True,
    period_column="start_month",
    sort=("run_id", "billing_currency"),
    writer="all",
)

COST_DAILY = Table(
    "cost_daily",
    "one row per charge date and combination of the columns before the costs",
    "The complete bill per day, for dashboards. A charge longer than a day is spread evenly over its days.",
    (
        _key("source", "STRING", "Name of the bill in runspend.yaml."),
        BILLING_PERIOD,
        Column("charge_date", "DATE", "UTC date of the charge, or of one of its days."),
        Column("service_provider_name", "STRING", "FOCUS ServiceProviderName."),
        Column("billing_account_id", "STRING", "FOCUS BillingAccountId."),
        Column("sub_account_id", "STRING", "FOCUS SubAccountId."),
        Column("region_id", "STRING", "FOCUS RegionId."),
        Column("service_name", "STRING", "FOCUS ServiceName."),
        Column("charge_category", "STRING", "FOCUS ChargeCategory."),
        Column("cost_kind", "STRING", "Kind of cost: compute, storage, network, llm or other.", words=COST_KINDS),
        Column("allocated_to", "STRING", "run, logged_model, orphan, idle, shared, unallocated or out_of_scope.", words=ALLOCATED_TO),
        Column("tracking_server", "STRING", "Name of the tracking server; null unless allocated to a run."),
        Column("workspace", "STRING", "MLflow workspace."),
        Column("experiment_id", "STRING", "MLflow experiment id."),
        Column("experiment_name", "STRING", "MLflow experiment name."),
        *DIMENSIONS,
        Column("user_name", "STRING", "mlflow.user."),
        Column("confidence", "STRING", "exact, high, medium or low; null when no rule applied.", words=CONFIDENCES),
        Column("cost_status", "STRING", "provisional or final.", words=COST_STATUSES),
        CURRENCY,
        Column("is_spread", "BOOL", "Whether the charges in the row are longer than a day and were spread over their days."),
        *COSTS,
        BUILD_ID,
    ),
    is_public=True,
    sort=("charge_date", "source", "service_name", "allocated_to", "experiment_id"),
    writer="all",
)

UNALLOCATED_COSTS = Table(
    "unallocated_costs",
    "one row per resource, target and currency of a billing period",
    "Idle and unallocated cost by resource; reports list the largest first.",
    (
        _key("source", "STRING", "Name of the bill in runspend.yaml."),
        BILLING_PERIOD,
        _key("allocated_to", "STRING", "idle or unallocated.", words=ALLOCATED_TO),
        _key("resource_id", "STRING", "FOCUS ResourceId; empty if the lines have none."),
        _key("service_name", "STRING", "FOCUS ServiceName; empty when null."),
        _key("sub_account_id", "STRING", "FOCUS SubAccountId; empty when null."),
        _key("billing_currency", "STRING", "ISO 4217 code."),
        Column("instance_type", "STRING", "Instance type, if a line has one."),
        Column("region_id", "STRING", "FOCUS RegionId."),
        *COSTS,
        Column("billed_seconds", "FLOAT64", "Billed machine time of the resource in the period, seconds; null if no line states a time."),
        Column(
            "used_seconds",
            "FLOAT64",
            "Part of billed_seconds that runs used, seconds. For runs that state only a pool or an instance type, the part that was allocated to them.",
        ),
        Column("last_run_id", "STRING", "The last run on the resource in the period."),
        Column("last_used_at", "TIMESTAMP", "End of that run."),
        Column("suspected_owner", "STRING", "Owner of that run, otherwise its user."),
        Column("reason", "STRING", "Why the cost has no run.", words=REASONS),
        BUILD_ID,
    ),
    sort=("allocated_to", "resource_id", "service_name"),
    writer="all",
)

UNMET_CLAIMS = Table(
    "unmet_claims",
    "one row per run of a billing period that states where it ran, but got no cost from there",
    "Runs that state a job, a machine, a pool, an instance type or an IAM principal, for which no rule found a charge.",
    (
        *RUN_KEY,
        BILLING_PERIOD,
        Column(
            "match_method",
            "STRING",
            "The strongest rule that could have matched the run: job_id, resource_id, pool_time or instance_type_time; otherwise llm_identity.",
            words=MATCH_METHODS,
        ),
        Column("claim", "STRING", "What the run states: its job, its first machine, its pool, its instance type, or its IAM principal."),
        Column(
            "reason",
            "STRING",
            "no_such_machine: no bill of the period has the machine at the time of the run; not_billed_yet: the run started after the last billed hour; "
            "out_of_scope: `scope` excludes the machine or its account; over_claimed: all hours of the machine, job, pool or type went to other runs; "
            "split_into_pods: the bill splits the cost of the machine into its pods or tasks; "
            "declared_shared: `shared` declares all matching lines as shared cost of the platform.",
            words=UNMET_REASONS,
        ),
        Column(
            "claimed_seconds",
            "FLOAT64",
            "Machine time that the run claims in the month, seconds: its own time, times the number of nodes that it states.",
        ),
        BUILD_ID,
    ),
    sort=("match_method", "claim", "run_id"),
    writer="all",
)

INSTANCE_TYPE_HOURS = Table(
    "instance_type_hours",
    "one row per billing period and pool that runs request by instance type",
    "Machine time of an instance type for runs that state only the type. The data do not show which machine a run used. "
    "So shares are guesses if other users also use these hours, and runs claim nearly all or nearly none of them.",
    (
        BILLING_PERIOD,
        _key(
            "pool_key",
            "STRING",
            "The instance type, plus account, region, zone and purchase option if runs also state these. There is one row for each value on the bill.",
        ),
        Column("instance_type", "STRING", "Instance type, in lower case."),
        Column("billed_seconds", "FLOAT64", "Billed machine time that no stronger rule allocated to a run, seconds."),
        Column(
            "claimed_seconds",
            "FLOAT64",
            "Machine time that runs claim, seconds: their own time, times the number of nodes, or times the requested part of a machine.",
        ),
        Column(
            "open_seconds",
            "FLOAT64",
            "Part of claimed_seconds of runs that may belong to several rows. It is divided among these rows by their billed time.",
        ),
        Column(
            "allocated_seconds",
            "FLOAT64",
            "Machine time that was allocated to runs, seconds. Less than claimed_seconds if runs claim more than was billed.",
        ),
        Column("claimed_ratio", "FLOAT64", "claimed_seconds / billed_seconds. Above 1, runs claim more than was billed."),
        Column(
            "lowest_hour_cost",
            "FLOAT64",
            "Lowest mean effective cost of a machine-hour among the accounts, regions and pricing categories of the row; null if bills have several currencies.",
        ),
        Column("highest_hour_cost", "FLOAT64", "Highest mean effective cost of a machine-hour, in the same way."),
        Column("billing_currency", "STRING", "Currency of the two costs."),
        BUILD_ID,
    ),
    sort=("instance_type", "pool_key"),
    writer="all",
)

BUDGET_STATUS = Table(
    "budget_status",
    "one row per budget and budget period",
    "The budgets in their current period, and their spend at the last alert step.",
    (
        _key("budget", "STRING", "Name of the budget."),
        _key("month", "DATE", "First day of the month in which the budget's period starts."),
        _key("budget_period", "STRING", "The period: 2026-11-24, 2026-W48, 2026-11, 2026-Q4 or 2026."),
        Column("budget_version", "STRING", "Hash of the budget's settings (amount, selector, period, thresholds, measure)."),
        Column("title", "STRING", "The name in mails: that of the budget, or of the experiment whose tag sets the budget."),
        Column("amount", "BIGNUMERIC", "Amount of the budget, in currency."),
        Column(
            "spent",
            "BIGNUMERIC",
            "Spent so far, in currency; null if not judged. Includes estimates only if judged_on is bill_and_estimates.",
        ),
        Column(
            "estimated", "BIGNUMERIC", "Probable cost of the budget's runs for hours of the period that no bill covers yet, in currency."
        ),
        Column("judged_on", "STRING", "bill, or bill_and_estimates."),
        Column(
            "forecast",
            "BIGNUMERIC",
            "Forecast for the whole period, in currency, to two decimals; null if the period is over or the history is too short.",
        ),
        Column("forecast_low", "BIGNUMERIC", "Lower end of the 80% interval of the period's cost."),
        Column("forecast_high", "BIGNUMERIC", "Upper end of that interval."),
        Column(
            "exceeded_on",
            "DATE",
            "Day on which the budget was exceeded, otherwise the day on which it will be according to the forecast; null without either.",
        ),
        Column("currency", "STRING", "ISO 4217 code."),
        Column("measure", "STRING", "Which of the four costs the budget measures."),
        Column("threshold_reached", "STRING", "Highest threshold reached, e.g. 80%; null when none."),
        Column("next_threshold", "STRING", "Lowest threshold not reached yet; null when none."),
        Column("not_judged", "STRING", "Why the budget is not judged; null if it is judged."),
        Column("covered_until", "TIMESTAMP", "Time up to which the bills behind the spend are complete."),
        Column("owner", "STRING", "Owner of the budget."),
        Column("muted", "STRING", "Whether it is acknowledged or snoozed, by whom and until when; null if neither."),
        _own("judged_at", "TIMESTAMP", "When the budget was judged."),
    ),
    period_column="month",
    sort=("budget",),
    writer="all",
)

ALERTS = Table(
    "alerts",
    "one row per budget version, threshold, kind and period of an alert, or per series and anomalous day",
    "All budget alerts that were ever decided. Rebuilt from the write-once records in the home folder.",
    (
        _key("alert_id", "STRING", "Key of the record: budget, version, kind, threshold and period."),
        _key("month", "DATE", "First day of the month in which the budget's period starts."),
        Column("budget", "STRING", "Name of the budget."),
        Column("budget_version", "STRING", "Version of the budget that was judged."),
        Column("kind", "STRING", "actual, forecast, correction or anomaly."),
        Column("threshold", "STRING", "The threshold, e.g. 80% or 500 USD; for an anomaly, how far above the usual cost the day was."),
        Column("budget_period", "STRING", "The period that was judged; for an anomaly, the day."),
        Column("spent", "BIGNUMERIC", "Spend at the time of the decision, in currency; for an anomaly, the spend of that day."),
        Column("amount", "BIGNUMERIC", "Amount of the budget, in currency."),
        Column("forecast", "BIGNUMERIC", "Forecast for the whole period at that time, in currency; null without a forecast."),
        Column("currency", "STRING", "ISO 4217 code."),
        Column("message_id", "STRING", "Message-ID of the mail; null if the budget was acknowledged, so that no mail was written."),
        Column("recipients", "STRING", "JSON object: address -> accepted, refused, waiting, or skipped if mail is off."),
        Column("decided_at", "TIMESTAMP", "Time of the pipeline run (`now`) that decided the alert."),
    ),
    period_column="month",
    sort=("alert_id",),
    writer="all",
)

ARCHIVE_PLAN = Table(
    "archive_plan",
    "one row per policy and folder that it selects",
    "Folders that retention policies select, with the reason or what protects them, the savings and costs, and the state.",
    (
        _key("month", "DATE", "First day of the month of the plan."),
        _key("policy", "STRING", "Name of the policy."),
        _key("store", "STRING", "Root URI of the store in runspend.yaml; for a delete, the archive store."),
        _key("prefix", "STRING", "Folder under the store's root that the policy would act on as a whole."),
        Column("item_key", "STRING", "Identifies the policy, the folder and the action. It does not depend on the content of the folder."),
        Column("policy_digest", "STRING", "Digest of the policy's decisions. If it changes, owners need a new notice."),
        Column("action", "STRING", "tier, archive, delete (of an archive) or prune (of a run or experiment in MLflow)."),
        Column("target", "STRING", "For a tier, the storage class; for an archive, the archive store; null for delete."),
        Column("owner_kind", "STRING", "run, logged_model, trace, orphan or, for a prune, experiment."),
        Column("owner_id", "STRING", "Id of the run, logged model, trace or experiment; the folder of an orphan."),
        *RUN_REFERENCE,
        Column("run_name", "STRING", "MLflow run name; for a model, the name of the run that made it."),
        Column("experiment_id", "STRING", "MLflow experiment id."),
        Column("experiment_name", "STRING", "MLflow experiment name."),
        Column("artifact_uri", "STRING", "Folder of a run's artifacts, as MLflow states it."),
        Column("owner", "STRING", "Recipient of notices: the owner dimension, otherwise the user."),
        Column("team", "STRING", "Team of the run."),
        Column("state", "STRING", "protected, kept (a person objected), planned, announced, due, archived, tiered, deleted or partial."),
        Column("reason", "STRING", "Why the policy selects the folder, or everything that protects it."),
        Column("storage_class", "STRING", "Storage class of the bytes; null when they have several."),
        Column("objects", "INT64", "Number of objects that would move; null when unknown."),
        Column("bytes", "INT64", "Bytes that would move; null when unknown."),
        Column("unused_days", "INT64", "Days since the last sign of use."),
        Column("monthly_saving", "BIGNUMERIC", "Money that the move would save per month, in currency; null if no rate is known."),
        Column(
            "action_cost",
            "BIGNUMERIC",
            "Highest cost of the move itself, in currency: requests, retrieval and the early deletion fee; null if no price is known.",
        ),
        Column("payback_months", "FLOAT64", "Months until the saving has paid for the move, for display; null if it never does."),
        Column("rates_from", "STRING", "Source of the rates of monthly_saving: bill, list (prices), or both."),
        Column("currency", "STRING", "ISO 4217 code of monthly_saving and action_cost."),
        Column(
            "announced_at", "TIMESTAMP", "When a mail server accepted the notice to its owner; null before. The grace period begins here."
        ),
        Column("earliest_at", "TIMESTAMP", "Earliest time of the move: after the notice and the grace period."),
        _own("planned_at", "TIMESTAMP", "When the plan was made."),
    ),
    period_column="month",
    sort=("policy", "store", "prefix"),
    writer="all",
)

ARCHIVES = Table(
    "archives",
    "one row per action on a folder",
    "Actions of the archive and the location of each copy. Rebuilt from the records in the home folder.",
    (
        _key("month", "DATE", "First day of the month in which the action started."),
        _key("archive_id", "STRING", "Id of the archive; the last part of its folder."),
        Column("policy", "STRING", "Name of the policy."),
        Column("action", "STRING", "tier, archive or delete (of an archive)."),
        Column("state", "STRING", "open, archived, tiered, partial, or deleted (including archives that a later delete removed)."),
        Column("store", "STRING", "Root URI of the original store; for a delete, the archive store."),
        Column("prefix", "STRING", "Folder under that root."),
        Column("target", "STRING", "For an archive, the root URI of the artifact store with the copies; null for tier and delete."),
        Column("folder", "STRING", "For an archive, the folder of the copies and manifest.jsonl below that root."),
        Column("owner_kind", "STRING", "run, logged_model, trace or orphan."),
        Column("owner_id", "STRING", "Id of the run, logged model or trace; the folder of an orphan."),
        *RUN_REFERENCE,
        Column("experiment_id", "STRING", "MLflow experiment id."),
        Column("objects", "INT64", "Number of objects."),
        Column("bytes", "INT64", "Bytes of the objects in their original location. Equal objects are all counted."),
        Column("reason", "STRING", "Why the action is unfinished or incomplete; null otherwise."),
        Column("begun_at", "TIMESTAMP", "Start of the action."),
        Column("ended_at", "TIMESTAMP", "End of the action; null while it is unfinished."),
    ),
    period_column="month",
    sort=("archive_id",),
    writer="all",
)

ARCHIVE_OBJECTS = Table(
    "archive_objects",
    "one row per object in a folder of an action",
    "Progress of each object of an archive, and the checksum of its copy. Rebuilt from the records in the home folder.",
    (
        _key("month", "DATE", "First day of the month in which the action started."),
        _key("archive_id", "STRING", "Id of the archive, as in archives."),
        _key("key", "STRING", "Name below the folder of the action. The name of an empty folder ends in a slash."),
        Column(
            "state",
            "STRING",
            "planned, copied (read back from the archive), deleted, tiered, gone (before it was copied) or changed (rewritten on every try).",
        ),
        Column("bytes", "INT64", "Size in bytes."),
        Column("sha256", "STRING", "SHA-256 of the bytes that were read, and then read back from the archive; null until then."),
        Column("data", "STRING", "For an archive, the location of the copy below the folder of the archive. Equal files share one copy."),
        Column("etag", "STRING", "ETag of this state of the object in the store."),
        Column("version", "STRING", "Version of the object, if the store keeps versions."),
        Column("storage_class", "STRING", "Storage class when it was planned."),
        Column("modified_at", "TIMESTAMP", "When the object was written to its original location."),
        Column("reason", "STRING", "Why the object stays in this state; null otherwise."),
    ),
    period_column="month",
    sort=("archive_id", "key"),
    writer="all",
)

SOURCES = Table(
    "sources",
    "one row per tracking server, bill and store",
    "Freshness of every source of the pipeline.",
    (
        _key("source", "STRING", "Name in runspend.yaml; the root URI for stores."),
        _key("kind", "STRING", "tracking, bill, store or splits (a source that splits lines of bills)."),
        Column("state", "STRING", "ok, late, refused or unreachable."),
        Column("covered_until", "TIMESTAMP", "Time up to which the data of the source are complete."),
        Column(
            "usual_lag_seconds",
            "FLOAT64",
            "Median time between covered_until and the read, over the last successful pipeline runs, seconds.",
        ),
        Column("late_after_seconds", "FLOAT64", "Age at which the data of the source count as late, seconds."),
        Column("row_count", "INT64", "Number of rows at the last successful read."),
        Column("experiment_count", "INT64", "Number of experiments of a tracking server at the last successful read."),
        Column("last_error", "STRING", "Error of the last read; null if it was successful."),
        _own("last_good_at", "TIMESTAMP", "Time of the last successful read."),
        _own("last_tried_at", "TIMESTAMP", "Time of the last read, successful or not."),
    ),
    is_public=True,
    period_column=None,
    sort=("source",),
    writer="the source",
)

BUILDS = Table(
    "builds",
    "one row per step and period",
    "The inputs from which the tables of a period were built. A period is built again only if the digest of an input has changed.",
    (
        _key("step", "STRING", "allocate (bill periods), summarize (start months) or estimate (the month of the pipeline run)."),
        _key("month", "DATE", "First day of the period."),
        Column("build_id", "STRING", "Hash of the inputs."),
        Column("inputs", "STRING", "JSON object: input -> digest."),
        Column("outputs", "STRING", "JSON object: table -> content digest."),
        _own("now", "TIMESTAMP", "Time of the pipeline run (`now`)."),
        _own("built_at", "TIMESTAMP", "When the tables were published."),
    ),
    period_column="month",
    sort=("step",),
    writer="the step",
)

TABLES: dict[str, Table] = {
    t.name: t
    for t in (
        COST_DAILY, RUN_COSTS, RUN_COSTS_DAILY, RUNS, COST_ALLOCATIONS, SOURCES,
        BILLING_LINES, BILLING_QUARANTINE, BILLING_LOADS, BILL_CHANGES, PERIOD_STATES, BUILDS, EXPERIMENTS, RUN_RESOURCES, MACHINE_POWER, ARTIFACT_OWNERS, MODEL_VERSIONS, MODEL_USES, RUN_METRICS, TRACKING_READS, ARTIFACT_BYTES, DANGLING_OWNERS, ARTIFACT_STORES,
        TRACE_COSTS, CHARGE_LINES, RUN_BILL_DIMENSIONS, UNALLOCATED_COSTS, UNMET_CLAIMS, INSTANCE_TYPE_HOURS, PRICE_LIST, RUN_ESTIMATES, ESTIMATE_ERRORS, BUDGET_STATUS, ALERTS, ARCHIVE_PLAN, ARCHIVES, ARCHIVE_OBJECTS,
    )
}  # fmt: skip


def public_tables() -> Iterator[Table]:
    """Yield the public tables, which are the contract with analysts. All other tables are internal."""
    return (t for t in TABLES.values() if t.is_public)
