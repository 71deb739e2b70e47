"""The raw rows that both readers of MLflow return as Arrow tables, with MLflow's own values.

Belongs here: the schemas of raw rows and the repair of their text. `database.py` and `api.py` read the rows. `runs.sql` and the other SQL
files define what they mean. Empty text and 0 mean "not stated", because neither MLflow's API nor SQLite's driver reliably
distinguishes them from null.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import pyarrow as pa

# `tags` and `params` are JSON objects with at least the requested keys.
# `param_list` has all params in any order. Each is written as its key, the character 30 and its value; the character 31 separates them.
# `use_keys` has the same form: the run's utilization metrics (and its power metrics, if requested), each with its last step.
# `step_keys` has the same form too. It shows whether a run was stopped and resumed, if the run has no end or is longer than `LONG_MS`:
# at most `STEP_KEYS` of its metrics, each with another last step, the highest first.
RUN_TEXT = (
    "run_id", "experiment_id", "run_name", "user_id", "status", "lifecycle_stage", "artifact_uri", "tags", "params", "param_list", "use_keys", "step_keys",
)  # fmt: skip
RUN_TIMES = ("start_ms", "end_ms", "last_metric_ms")
EXPERIMENT_TEXT = ("workspace", "experiment_id", "experiment_name", "lifecycle_stage", "artifact_location", "tags")
EXPERIMENT_TIMES = ("creation_ms", "last_update_ms")
OWNER_TEXT = ("owner_kind", "owner_id", "experiment_id", "uri")

# Traces for which MLflow computed a cost, and their spans. On a server with `token_prices`, traces with tokens are read too.
# All spans of these traces are needed, because the cost of a parent span may include that of a span below it.
TRACE_TEXT = ("trace_id", "experiment_id", "source_run", "trace_user", "mlflow_user")
TRACE_FIGURES = ("start_ms", "input_tokens", "output_tokens", "total_cost")
# `usage` is mlflow.chat.tokenUsage as JSON; it is empty unless the server has `token_prices`. A missing cost is -1.
SPAN_TEXT = ("trace_id", "span_id", "parent_id", "model", "provider", "usage")

# Facts that protect artifacts. `aliases` is a JSON list. `storage` is the location of a version that was registered from another version.
VERSION_TEXT = ("workspace", "model_name", "run_id", "source", "storage", "stage", "aliases", "status")
VERSION_FIGURES = ("version", "creation_ms")
USE_TEXT = ("run_id", "model_id", "direction")

BETWEEN, AFTER = "\x1e", "\x1f"
USE_KEY, POWER_KEY = "utilization_percentage", "power_usage_watts"
USE_POINTS = 250  # read per metric and run, evenly spread over its steps: enough for a mean, few enough to look up each one
POWER_POINTS_PER_HOUR = 60  # read per metric and hour of a run; MLflow logs one every ten seconds
POWER_POINTS = 50_000  # at most, per metric and run: about a month of points
LONG_MS = 6 * 3_600_000  # a shorter run has no gaps, and a shorter silence is not a gap
STEP_KEYS = 10
STEP_RUNS = 2_000  # runs whose gaps are searched at a time
STEP_LOOKS = 1_000  # steps read per metric and run, evenly spread
LARGEST_WATTS = 100_000  # a higher power of one GPU is not a valid measurement

# The month under which runs without a valid start time are stored.
NO_START = "1970-01"
LAST_MS = 253_402_300_800_000  # the year 10000


@dataclass(frozen=True)
class Keys:
    """What to read of each run. `tags` and `params` list the keys to return; None means all.

    `power`: whether `use_keys` includes power metrics. `metrics`: the metrics whose newest values will be requested later, or None if
    no facts about models and metrics will be. `believed_ms`: the latest run end or metric time that is accepted, in epoch milliseconds.
    `has_further_machines`: whether to return the tags under `machine_tags.FURTHER` too.
    """

    tags: Sequence[str] | None
    params: Sequence[str] | None
    power: bool = False
    metrics: Sequence[str] | None = None
    believed_ms: int = 253_402_300_800_000
    has_further_machines: bool = False

    def by_table(self) -> tuple[tuple[str, Sequence[str] | None], ...]:
        return ("tags", self.tags), ("params", self.params)


@dataclass(frozen=True)
class UseKey:
    """The points to read of one metric of one run: those at every `stride`-th step from 0 to `last_step`."""

    run_id: str
    key: str
    last_step: int
    stride: int

    @property
    def points(self) -> int:
        """Number of points to read."""
        return self.last_step // self.stride + 1


@dataclass(frozen=True)
class StepRange:
    """The steps of one metric of one run whose times are read.

    The range from `first_step` to `last_step` is split into intervals of `stride` steps. The first logged step of each interval is read.
    """

    run_id: str
    key: str
    first_step: int
    last_step: int
    stride: int

    @property
    def points(self) -> int:
        """Maximum number of steps to read."""
        return (self.last_step - self.first_step) // self.stride + 1


class LinkReader(Protocol):
    """Read the facts that protect artifacts from one open tracking server. Its runs and owners must be read first."""

    @property
    def asks_each_run(self) -> bool:
        """Whether reading the models that a run used costs one request per run."""

    def read_versions(self) -> pa.Table:
        """Return every registered version that is not deleted. Prompts, which MLflow stores in the same table, are left out."""

    def read_uses(self, run_ids: Sequence[str]) -> pa.Table:
        """Return the models that runs made or used.

        If `asks_each_run` is true, the used models are read only for the runs in `run_ids`.
        """

    def read_last(self, metrics: Sequence[str]) -> pa.Table:
        """Return the newest value of each of these metrics in each run."""

    def read_points(self, wanted: Sequence[UseKey]) -> pa.Table:
        """Return the values of metrics of runs at the chosen steps."""

    def read_model_points(self, metrics: Sequence[str]) -> pa.Table:
        """Return the values of these metrics that runs logged for logged models."""


class TrackingReader(Protocol):
    """One open tracking server. All calls of one reader see the same state of the server if it can guarantee that."""

    version: str
    warnings: list[str]
    repaired: int  # number of values that were not valid UTF-8

    @property
    def links(self) -> LinkReader: ...

    def __enter__(self) -> TrackingReader: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...

    def read_experiments(self) -> pa.Table: ...

    def list_months(self) -> list[str]: ...

    def count_runs(self) -> int: ...

    def narrow_keys(self, wanted: Keys) -> Keys: ...

    def read_runs(self, months: Sequence[str] | None, keys: Keys) -> Iterator[pa.RecordBatch]: ...

    def read_use(self, wanted: Sequence[UseKey]) -> Iterator[pa.RecordBatch]: ...

    def read_power(self, wanted: Sequence[UseKey]) -> Iterator[pa.RecordBatch]: ...

    def read_times(self, wanted: Sequence[StepRange]) -> Iterator[pa.RecordBatch]: ...

    def read_owners(self) -> pa.Table: ...

    def list_trace_months(self) -> list[str]: ...

    def read_traces(self, months: Sequence[str]) -> tuple[pa.Table, pa.Table]: ...


def raw_schema(text: Sequence[str], times: Sequence[str] = ()) -> pa.Schema:
    """Return a schema with the given text columns, followed by the given columns of 64-bit integers."""
    import pyarrow as pa

    return pa.schema([(name, pa.string()) for name in text] + [(name, pa.int64()) for name in times])


def rows_to_batch(rows: Iterable[tuple[Any, ...]], schema: pa.Schema) -> pa.RecordBatch:
    """Return rows as one batch. The values of each row must be in the order of the schema's columns."""
    import pyarrow as pa

    columns = list(zip(*rows, strict=True)) or [()] * len(schema)
    return pa.RecordBatch.from_arrays([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema=schema)


def rows_to_table(rows: Iterable[tuple[Any, ...]], schema: pa.Schema) -> pa.Table:
    """Return rows as a table. The values of each row must be in the order of the schema's columns."""
    import pyarrow as pa

    return pa.Table.from_batches([rows_to_batch(rows, schema)])


def run_schema() -> pa.Schema:
    return raw_schema(RUN_TEXT, RUN_TIMES)


def use_kinds(keys: Keys) -> tuple[str, ...]:
    """Return the name endings of the system metrics that belong in `use_keys`."""
    return (USE_KEY, POWER_KEY) if keys.power else (USE_KEY,)


def use_schema() -> pa.Schema:
    import pyarrow as pa

    return pa.schema([("run_id", pa.string()), ("key", pa.string()), ("value", pa.float64())])


def power_schema() -> pa.Schema:
    """Return the schema of power points: the watts in `value`, and their time in epoch milliseconds in `logged_ms`."""
    import pyarrow as pa

    return pa.schema([("run_id", pa.string()), ("key", pa.string()), ("logged_ms", pa.int64()), ("value", pa.float64())])


def time_schema() -> pa.Schema:
    """Return the schema of step times: when a metric was first and last logged at a step, in epoch milliseconds."""
    import pyarrow as pa

    figures = [(name, pa.int64()) for name in ("step", "first_ms", "last_ms")]
    return pa.schema([("run_id", pa.string()), ("key", pa.string()), *figures])


def version_schema() -> pa.Schema:
    return raw_schema(VERSION_TEXT, VERSION_FIGURES)


def link_schema() -> pa.Schema:
    """Return the schema of model uses: run, model, direction, and the step at which the model was logged (-1 if there is none)."""
    return raw_schema(USE_TEXT, ("step",))


def point_schema() -> pa.Schema:
    """Return the schema of metric values. `model_id` is empty unless a value was logged for a model. `logged_ms` is epoch milliseconds."""
    import pyarrow as pa

    figures = [("step", pa.int64()), ("logged_ms", pa.int64()), ("value", pa.float64())]
    return pa.schema([(name, pa.string()) for name in ("run_id", "model_id", "metric")] + figures)


def trace_schema() -> pa.Schema:
    import pyarrow as pa

    kinds = (pa.int64(), pa.int64(), pa.int64(), pa.float64())
    return pa.schema([(name, pa.string()) for name in TRACE_TEXT] + list(zip(TRACE_FIGURES, kinds, strict=True)))


def span_schema() -> pa.Schema:
    import pyarrow as pa

    return pa.schema([(name, pa.string()) for name in SPAN_TEXT] + [("cost", pa.float64())])


def to_batch(columns: Sequence[Any], schema: pa.Schema) -> tuple[pa.RecordBatch, int]:
    """Return the columns as one batch of `schema` with valid UTF-8, and the number of repaired values."""
    import pyarrow as pa

    arrays: list[pa.Array] = []
    repaired = 0
    for column, field in zip(columns, schema, strict=True):
        if field.type != pa.string():
            arrays.append(column.cast(field.type))
            continue
        text = column if column.type == pa.string() else column.cast(pa.string())
        try:
            text.validate(full=True)
        except pa.ArrowInvalid:
            text, changed = repair_text(text)
            repaired += changed if field.name != "param_list" else 0  # its text is not stored, and `params` counts the same values
        arrays.append(text)
    return pa.RecordBatch.from_arrays(arrays, schema=schema), repaired


def repair_text(text: pa.Array) -> tuple[pa.Array, int]:
    """Replace bytes that are not valid UTF-8 by U+FFFD. Return the repaired text and the number of changed values.

    Such bytes come from a lone surrogate or a cut character. The rest of a value stays unchanged.
    """
    import pyarrow as pa

    values: list[str | None] = []
    changed = 0
    for value in text.view(pa.binary()).to_pylist():
        if value is None:
            values.append(None)
            continue
        try:
            values.append(value.decode())
        except UnicodeDecodeError:
            values.append(value.decode(errors="replace"))
            changed += 1
    return pa.array(values, pa.string()), changed


def month_bounds(month: str) -> tuple[int, int]:
    """Return the first epoch millisecond of a month ("2026-10"), and that of the next month."""
    first = datetime(int(month[:4]), int(month[5:7]), 1, tzinfo=timezone.utc)
    after = first.replace(year=first.year + first.month // 12, month=first.month % 12 + 1) if month != "9999-12" else None
    return int(first.timestamp()) * 1000, int(after.timestamp()) * 1000 if after else LAST_MS


def month_of(start_ms: int | None) -> str:
    """Return the start month of a run as text ("2026-10"), by the same rule as `runs.start_month`; NO_START for an invalid time."""
    if not start_ms or not 0 < start_ms < LAST_MS:
        return NO_START
    return datetime.fromtimestamp(start_ms / 1000, timezone.utc).strftime("%Y-%m")


def to_table(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> pa.Table:
    import pyarrow as pa

    return pa.Table.from_batches(batches, schema=schema)
