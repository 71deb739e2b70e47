"""What both ways of reading MLflow hand over: runs, experiments and owners as Arrow, as MLflow has them.

Put here the shape of raw rows and the repair of their text. What they mean is decided in `runs.sql` and its neighbors;
how they are read belongs to `database.py` and `api.py`. Empty text and 0 stand for "not stated", since neither MLflow's
API nor SQLite's driver can be trusted to tell them from null.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import pyarrow as pa

# `tags` and `params` are JSON objects of at least the keys asked for, `param_list` all params: elements KEY US-ASCII-30 VALUE, in any
# order, joined by US-ASCII-31. `use_keys` has the same form: the utilization metrics of the run (and those of power, where they are asked
# for), each with the last step it was logged at. `step_keys`, again in that form, are what shows whether a run that lasted longer than
# `LONG_MS`, or has no end, was stopped in between: at most `STEP_KEYS` of its metrics, no two with the same last step, greatest first.
RUN_TEXT = (
    "run_id", "experiment_id", "run_name", "user_id", "status", "lifecycle_stage", "artifact_uri", "tags", "params", "param_list", "use_keys", "step_keys",
)  # fmt: skip
RUN_TIMES = ("start_ms", "end_ms", "last_metric_ms")
EXPERIMENT_TEXT = ("workspace", "experiment_id", "experiment_name", "lifecycle_stage", "artifact_location", "tags")
EXPERIMENT_TIMES = ("creation_ms", "last_update_ms")
OWNER_TEXT = ("owner_kind", "owner_id", "experiment_id", "uri")

# Traces that carry a token cost, and every span of them: what a span costs may stand in its parent's cost too.
TRACE_TEXT = ("trace_id", "experiment_id", "source_run", "trace_user", "mlflow_user")
TRACE_FIGURES = ("start_ms", "input_tokens", "output_tokens", "total_cost")
SPAN_TEXT = ("trace_id", "span_id", "parent_id", "model")

# What keeps artifacts where they are. `aliases` is a JSON list; `storage` is where a version registered from another version lies.
VERSION_TEXT = ("workspace", "model_name", "run_id", "source", "storage", "stage", "aliases", "status")
VERSION_FIGURES = ("version", "creation_ms")
USE_TEXT = ("run_id", "model_id", "direction")

BETWEEN, AFTER = "\x1e", "\x1f"
USE_KEY, POWER_KEY = "utilization_percentage", "power_usage_watts"
USE_POINTS = 250  # of one metric of one run, evenly spread over its steps: enough for a mean, few enough to look each up
POWER_POINTS_PER_HOUR = 60  # of a run; MLflow logs one in ten seconds
POWER_POINTS = 50_000  # of one metric of one run: a month of them
LONG_MS = 6 * 3_600_000  # a shorter run has no gap, and no shorter silence is one
STEP_KEYS = 10
STEP_RUNS = 2_000  # whose times are kept at a time
STEP_LOOKS = 1_000  # of one metric of one run, evenly spread over its steps
LARGEST_WATTS = 100_000  # of one GPU: more is no measurement

# Runs without a start, or with one no calendar has, are kept under this month.
NO_START = "1970-01"
LAST_MS = 253_402_300_800_000  # the year 10000


@dataclass(frozen=True)
class Keys:
    """The tags and params of runs to hand over; None is all of them. `power`: whether metrics of power stand in `use_keys`. `metrics`: those
    whose newest values will be asked for; None where nothing will be asked of models. `believed_ms`: the latest end or metric time that is believed."""

    tags: Sequence[str] | None
    params: Sequence[str] | None
    power: bool = False
    metrics: Sequence[str] | None = None
    believed_ms: int = 253_402_300_800_000

    def by_table(self) -> tuple[tuple[str, Sequence[str] | None], ...]:
        return ("tags", self.tags), ("params", self.params)


@dataclass(frozen=True)
class UseKey:
    """One metric of one run to be averaged, from its points at every `stride`-th step up to the last."""

    run_id: str
    key: str
    last_step: int
    stride: int

    @property
    def points(self) -> int:
        """How many points are looked for."""
        return self.last_step // self.stride + 1


@dataclass(frozen=True)
class StepRange:
    """Steps of one metric of one run whose times are looked at: of every `stride` steps from `first_step` to `last_step` the first that was logged."""

    run_id: str
    key: str
    first_step: int
    last_step: int
    stride: int

    @property
    def points(self) -> int:
        """At most so many steps are looked at."""
        return (self.last_step - self.first_step) // self.stride + 1


class LinkReader(Protocol):
    """What keeps artifacts where they are, of one open tracking server. Asked for after its runs and owners."""

    @property
    def asks_each_run(self) -> bool:
        """Whether the inputs of a run cost a request."""

    def read_versions(self) -> pa.Table:
        """Every registered version that is not deleted; prompts, which MLflow keeps beside them, are none."""

    def read_uses(self, run_ids: Sequence[str]) -> pa.Table:
        """Models that runs made and used; inputs of these runs only, where each has to be asked."""

    def read_last(self, metrics: Sequence[str]) -> pa.Table:
        """The newest value of each of the metrics of each run."""

    def read_points(self, wanted: Sequence[UseKey]) -> pa.Table:
        """Values of runs' metrics at the chosen steps."""

    def read_model_points(self, metrics: Sequence[str]) -> pa.Table:
        """Values that runs logged for logged models."""


class Reader(Protocol):
    """One open tracking server. Every call of one reader sees the same rows where the server can promise that."""

    version: str
    warnings: list[str]
    repaired: int  # values that were no UTF-8

    @property
    def links(self) -> LinkReader: ...

    def __enter__(self) -> Reader: ...

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
    """Text columns, then epoch milliseconds."""
    import pyarrow as pa

    return pa.schema([(name, pa.string()) for name in text] + [(name, pa.int64()) for name in times])


def run_schema() -> pa.Schema:
    return raw_schema(RUN_TEXT, RUN_TIMES)


def use_kinds(keys: Keys) -> tuple[str, ...]:
    """How the system metrics of `use_keys` end."""
    return (USE_KEY, POWER_KEY) if keys.power else (USE_KEY,)


def use_schema() -> pa.Schema:
    import pyarrow as pa

    return pa.schema([("run_id", pa.string()), ("key", pa.string()), ("value", pa.float64())])


def power_schema() -> pa.Schema:
    """Watts and when they were logged, in epoch milliseconds."""
    import pyarrow as pa

    return pa.schema([("run_id", pa.string()), ("key", pa.string()), ("logged_ms", pa.int64()), ("value", pa.float64())])


def time_schema() -> pa.Schema:
    """When a metric was first and last logged at a step, in epoch milliseconds."""
    import pyarrow as pa

    figures = [(name, pa.int64()) for name in ("step", "first_ms", "last_ms")]
    return pa.schema([("run_id", pa.string()), ("key", pa.string()), *figures])


def version_schema() -> pa.Schema:
    return raw_schema(VERSION_TEXT, VERSION_FIGURES)


def link_schema() -> pa.Schema:
    """Run, model, direction; the step a model was logged at, -1 for none."""
    return raw_schema(USE_TEXT, ("step",))


def point_schema() -> pa.Schema:
    """A value of a metric of a run, or of a model it was logged for; logged_ms in epoch milliseconds."""
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
    """Columns as one batch of `schema` that is valid UTF-8 throughout, and how many values had to be repaired."""
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
            repaired += changed if field.name != "param_list" else 0  # what is wrong in it is not kept, or stands in `params` too
        arrays.append(text)
    return pa.RecordBatch.from_arrays(arrays, schema=schema), repaired


def repair_text(text: pa.Array) -> tuple[pa.Array, int]:
    """Bytes that are no UTF-8 (a lone surrogate, a cut character) become U+FFFD; the rest of the value stays."""
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
    """First and one-past-last epoch millisecond of a month."""
    first = datetime(int(month[:4]), int(month[5:7]), 1, tzinfo=timezone.utc)
    after = first.replace(year=first.year + first.month // 12, month=first.month % 12 + 1) if month != "9999-12" else None
    return int(first.timestamp()) * 1000, int(after.timestamp()) * 1000 if after else LAST_MS


def month_of(start_ms: int | None) -> str:
    """The start month of a run, by the rule of `runs.start_month`."""
    if not start_ms or not 0 < start_ms < LAST_MS:
        return NO_START
    return datetime.fromtimestamp(start_ms / 1000, timezone.utc).strftime("%Y-%m")


def to_table(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> pa.Table:
    import pyarrow as pa

    return pa.Table.from_batches(batches, schema=schema)
