"""From raw rows to the tables `runs`, `run_resources`, `experiments` and `artifact_owners`, by DuckDB, one Parquet file a unit.

Put here what a run's row means and how a month is put together from what MLflow has and what it had; the rules
themselves are in the `.sql` files next door. How rows are fetched belongs to `database.py` and `api.py`.
"""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runspend.config import DimensionSettings, TrackingServer
from runspend.errors import ConfigError, MissingExtra, SourceRefused
from runspend.identifiers import resource_key_sql
from runspend.tables import TABLES, Table
from runspend.tracking import raw

if TYPE_CHECKING:
    import pyarrow as pa

RESOURCE_KEYS = (
    "runspend.resources",
    "runspend.resource_ids",
    "runspend.instance_id",
    "instance_id",
    "resource_id",
    "cloud.instance_id",
    "mlflow.databricks.cluster.id",
)
JOB_KEYS = ("runspend.job_id", "sagemaker.training_job_name", "mlflow.databricks.jobRunID")
REQUEST_KEYS = (
    "instance_type",
    "num_workers",
    "num_nodes",
    "gpu_type",
    "gpu_count",
    "gpu_memory",
    "gpu_memory_gb",
    "cpu_request",
    "cpu_limit",
    "cpu_cores",
    "memory_request",
    "memory_limit",
    "max_retries",
    "timeout_seconds",
    "early_stopping_rounds",
)
STATED_KEYS = RESOURCE_KEYS + JOB_KEYS + REQUEST_KEYS
MLFLOW_KEYS = ("mlflow.user", "mlflow.runName", "mlflow.parentRunId", "mlflow.source.name", "mlflow.source.git.commit")

# A month that lost fewer runs than this at once is believed.
MIN_VANISHED = 10
MEMORY_LIMIT = "1GB"
ROW_GROUP = 122_880
DUCKDB_TYPES = {
    "STRING": "varchar",
    "INT64": "bigint",
    "FLOAT64": "double",
    "DATE": "date",
    "TIMESTAMP": "timestamptz",
    "ARRAY<STRING>": "varchar[]",
}
DIMENSIONS = ("team", "project", "cost_center", "owner")


class Rows:
    """The set work of one extract, in a DuckDB of its own that spills to `workdir`."""

    def __init__(
        self, server: TrackingServer, dims: DimensionSettings, selector_keys: Collection[str], *, now: datetime, workdir: Path, load_id: str
    ) -> None:
        try:
            import duckdb
        except ImportError as error:
            raise MissingExtra("duckdb", "pipeline") from error
        self._server = server
        self._now = now
        self._workdir = workdir
        self._names = {"server": server.name, "load_id": load_id}
        self._con = duckdb.connect(
            config={"memory_limit": MEMORY_LIMIT, "temp_directory": str(workdir / "spill"), "preserve_insertion_order": False}
        )
        self._con.execute("set TimeZone = 'UTC'")
        self._con.execute(_sql("macros.sql"))
        self._set_variables(dims, selector_keys)
        self._create("fresh_experiments", TABLES["experiments"], "dimension_values varchar[]")
        self._create(
            "fresh_runs",
            TABLES["runs"],
            "resource_kind varchar",
            "resource_text varchar",
            "has_bad_resources boolean",
            "has_bad_time boolean",
        )
        self._create("fresh_resources", TABLES["run_resources"], "has_bad_time boolean")

    def close(self) -> None:
        self._con.close()

    def _create(self, name: str, table: Table, *more: str) -> None:
        columns = [f"{c.name} {DUCKDB_TYPES[c.type]}" for c in table.columns]
        self._con.execute(f"create table {name} ({', '.join([*columns, *more])})")

    def _set_variables(self, dims: DimensionSettings, selector_keys: Collection[str]) -> None:
        places = _Places(dims)
        copied_tags = _sorted({*_listed(self._server.copy_.tags), *STATED_KEYS, *places.tags, *_of(selector_keys, "tag.")})
        copied_params = _sorted({*_listed(self._server.copy_.params), *STATED_KEYS, *places.params, *_of(selector_keys, "param.")})
        copied_experiment_tags = _sorted(
            {*_listed(self._server.copy_.tags), *places.experiment_tags, *_of(selector_keys, "experiment_tag.")}
        )
        tag_keys = _sorted({*MLFLOW_KEYS, *copied_tags})
        self._set("tag_keys", tag_keys)
        self._set("tag_paths", [_pointer(k) for k in tag_keys])
        self._set("param_keys", copied_params)
        self._set("param_paths", [_pointer(k) for k in copied_params])
        self._set("experiment_tag_paths", [_pointer(k) for k in places.experiment_tags])
        self._set("copied_tags", copied_tags)
        self._set("copied_tag_places", [tag_keys.index(k) + 1 for k in copied_tags], "bigint[]")
        self._set("copied_experiment_tags", copied_experiment_tags)
        self._set("copied_experiment_tag_paths", [_pointer(k) for k in copied_experiment_tags])
        self._set("copies_all_tags", self._server.copy_.tags == "all", "boolean")
        self._set("copies_all_params", self._server.copy_.params == "all", "boolean")
        self._set("only_listed_workspaces", isinstance(self._server.workspaces, list), "boolean")
        self._set("not_a_person", list(dims.not_a_person))
        self._set("places", places.names)
        expressions = [
            *(f"said(t[{tag_keys.index(k) + 1}])" for k in places.tags),
            *(f"said(p[{copied_params.index(k) + 1}])" for k in places.params),
            *(f"said(dimension_values[{i + 1}])" for i in range(len(places.experiment_tags))),
            *(f"said(mapped_values[{i + 1}])" for i in range(len(places.files))),
            "user_name",
        ]
        self._dimension_sql: dict[str, str] = {}
        for dimension, wanted in places.of_dimension.items():
            values = ", ".join(["null::varchar", *(expressions[i] for i in wanted)])
            froms = " ".join(f"when {expressions[i]} is not null then getvariable('places')[{i + 1}]" for i in wanted)
            self._dimension_sql |= {
                dimension: f"coalesce({values})",
                f"{dimension}_from": f"case {froms} end" if froms else "null::varchar",
            }
        self._con.register("user_values", places.user_values())

    def _set(self, name: str, value: Any, type_: str = "varchar[]") -> None:
        self._con.execute(f"set variable {name} = cast($value as {type_})", {"value": value})

    def load_experiments(self, experiments: pa.Table) -> int:
        self._con.register("raw_experiments", experiments)
        self._con.execute(_sql("experiments.sql"), self._names)
        self._con.unregister("raw_experiments")
        return len(experiments)

    def load_runs(self, batches: Iterator[pa.RecordBatch]) -> None:
        """All batches, or none: what they raise is raised here as it was."""
        import pyarrow as pa

        self._con.execute("delete from fresh_runs")
        self._con.execute("delete from fresh_resources")
        guarded = _Guarded(batches)
        self._con.register("raw_runs", pa.RecordBatchReader.from_batches(raw.raw_schema(raw.RUN_TEXT, raw.RUN_TIMES), guarded))
        try:
            self._con.execute(_sql("runs.sql", **self._dimension_sql), self._names)
        except Exception:
            if guarded.error is not None:
                raise guarded.error from None
            raise
        finally:
            self._con.unregister("raw_runs")
        self._con.execute(_sql("run_resources.sql", resource_key=resource_key_sql("resource_id")))

    def warnings(self) -> list[str]:
        """One sentence for each kind of statement that could not be used."""
        bad_lists, bad_times = self._one("select count(*) filter (has_bad_resources), count(*) filter (has_bad_time) from fresh_runs")
        (bad_stated,) = self._one("select count(*) filter (has_bad_time) from fresh_resources")
        found = [
            (bad_lists, "runs state runspend.resources or runspend.resource_ids that are no JSON list; they were ignored"),
            (bad_times, "runs have a start or end that is no time; it counts as not stated"),
            (bad_stated, "machines are stated with a `from` or `to` that is no time; the run's own counts"),
        ]
        return [f"{self._server.name}: {count} {what}." for count, what in found if count]

    def months(self) -> list[str]:
        return [m for (m,) in self._con.execute("select distinct strftime(start_month, '%Y-%m') from fresh_runs order by 1").fetchall()]

    def count_runs(self) -> int:
        (count,) = self._one("select count(*) from fresh_runs")
        return int(count)

    def write_experiments(self) -> Path:
        table = TABLES["experiments"]
        return self._write(table, "all", f"select {_columns(table)} from fresh_experiments order by experiment_id, workspace", {})

    def write_owners(self, owners: pa.Table) -> Path:
        """`artifact_owners` of the experiments that were read."""
        table = TABLES["artifact_owners"]
        self._con.register("raw_owners", owners)
        select = (
            "select $server as tracking_server, e.workspace, o.owner_kind, o.owner_id, nullif(o.experiment_id, '') as experiment_id, o.uri, $load_id as load_id"
            " from raw_owners o join fresh_experiments e on e.experiment_id = o.experiment_id"
        )
        path = self._write(table, "all", f"select {_columns(table)} from ({select}) order by owner_kind, owner_id, workspace", self._names)
        self._con.unregister("raw_owners")
        return path

    def write_month(
        self, month: str, previous_runs: pa.Table | None, previous_resources: pa.Table | None, *, accept: bool
    ) -> tuple[dict[str, Path], dict[str, Any]]:
        """The files of `runs` and `run_resources`, and what the unit should remember. Refused if too many runs vanished."""
        parameters = {"month": date(int(month[:4]), int(month[5:7]), 1)}
        self._register("previous_runs", TABLES["runs"], previous_runs)
        self._register("previous_resources", TABLES["run_resources"], previous_resources)
        if not accept:
            self._check_vanished(month, parameters)
        runs, resources = TABLES["runs"], TABLES["run_resources"]
        there = [c.name for c in runs.columns if c.name not in ("resource_ids", "purged_at")]
        select = _sql(
            "month.sql",
            columns=_columns(runs),
            columns_there=", ".join(f"r.{c}" for c in there)
            + ", coalesce(m.resource_ids, []) as resource_ids, null::timestamptz as purged_at",
            columns_gone=", ".join(f"r.{c}" for c in there) + ", r.resource_ids, coalesce(r.purged_at, $now::timestamptz) as purged_at",
        )
        files = {"runs": self._write(runs, month, select, {**parameters, "now": self._now})}
        files["run_resources"] = self._write(
            resources,
            month,
            f"select {_columns(resources)} from (select {_columns(resources)} from fresh_resources where start_month = $month union all"
            f" select {_columns(resources)} from previous_resources r where not exists (select 1 from fresh_runs n"
            " where n.start_month = $month and n.workspace = r.workspace and n.run_id = r.run_id))"
            " order by resource_key, run_id, workspace, resource_id, used_ordinal",
            parameters,
        )
        return files, self._extra(files["runs"])

    def _register(self, name: str, table: Table, rows: pa.Table | None) -> None:
        """The warehouse's rows with today's columns: a file of an older version may lack some."""
        import pyarrow as pa

        schema = table.arrow_schema()
        if rows is None:
            rows = schema.empty_table()
        columns = [rows[f.name].cast(f.type) if f.name in rows.column_names else pa.nulls(rows.num_rows, f.type) for f in schema]
        self._con.register(name, pa.table(columns, schema=schema))

    def _check_vanished(self, month: str, parameters: dict[str, Any]) -> None:
        known, vanished = self._one(
            "select count(*), count(*) filter (not exists (select 1 from fresh_runs n where n.start_month = $month and n.workspace = r.workspace and n.run_id = r.run_id))"
            " from previous_runs r where purged_at is null",
            parameters,
        )
        if vanished >= MIN_VANISHED and vanished > self._server.max_vanish * known:
            raise SourceRefused(
                self._server.name,
                f"cannot take the runs of {self._server.name} that started in {month}: {vanished} of {known} vanished at once, more than max_vanish"
                f" ({self._server.max_vanish:.0%}). The month keeps its rows. Check the permissions and workspaces of the credentials; if the runs were deleted on"
                f" purpose, raise max_vanish for one night.",
                period=month,
            )

    def _extra(self, path: Path) -> dict[str, Any]:
        """What allocation needs to know without reading: from when to when the runs of this month may have used machines."""
        first, last, is_open, count = self._one(
            "select min(start_time), max(coalesce(end_time, last_sign_at, start_time + interval 31 days)), coalesce(bool_or(end_time is null and purged_at is null), false),"
            " count(*) filter (purged_at is null) from read_parquet($path)",
            {"path": str(path)},
        )
        return {"first_start": _iso(first), "last_end": _iso(last), "has_open_runs": is_open, "runs": count}

    def _write(self, table: Table, period: str, select: str, parameters: dict[str, Any]) -> Path:
        """By pyarrow: DuckDB marks columns that happen to hold no null as required, and the files of one table must agree."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        target = self._workdir / f"{table.name}-{period}.parquet"
        unfinished = target.with_suffix(".unfinished")
        schema = table.arrow_schema()
        with pq.ParquetWriter(unfinished, schema, compression="zstd") as writer:
            for batch in self._con.sql(select, params=parameters).to_arrow_reader(ROW_GROUP):
                writer.write_table(pa.Table.from_batches([batch]).cast(schema), row_group_size=ROW_GROUP)
        unfinished.replace(target)
        return target

    def _one(self, sql: str, parameters: dict[str, Any] | None = None) -> tuple[Any, ...]:
        [row] = self._con.execute(sql, parameters or {}).fetchall()  # an aggregate without groups always has one row
        return tuple(row)


class _Places:
    """Where dimensions may come from, each place once: run tags, run params, experiment tags, files by user, the user."""

    def __init__(self, dims: DimensionSettings) -> None:
        sources = {d: [s for s in getattr(dims, d) if not (isinstance(s, str) and s.startswith("line."))] for d in DIMENSIONS}
        texts = [s for d in DIMENSIONS for s in sources[d] if isinstance(s, str)]
        self.tags = _sorted(_of(texts, "run.tag."))
        self.params = _sorted(_of(texts, "run.param."))
        self.experiment_tags = _sorted(_of(texts, "experiment.tag."))
        self.files = _sorted({s["user"] for d in DIMENSIONS for s in sources[d] if isinstance(s, dict)})
        self.names = [
            *(f"run.tag.{k}" for k in self.tags),
            *(f"run.param.{k}" for k in self.params),
            *(f"experiment.tag.{k}" for k in self.experiment_tags),
            *(f"user:{Path(f).name}" for f in self.files),
            "run.user",
        ]
        keys = [
            *(f"run.tag.{k}" for k in self.tags),
            *(f"run.param.{k}" for k in self.params),
            *(f"experiment.tag.{k}" for k in self.experiment_tags),
            *(f"file {f}" for f in self.files),
            "run.user",
        ]
        self.of_dimension: dict[str, list[int]] = {}
        for dimension, wanted in sources.items():
            named = [s if isinstance(s, str) else f"file {s['user']}" for s in wanted]
            self.of_dimension[dimension] = [keys.index(name) for name in named]

    def user_values(self) -> pa.Table:
        """One row per user of any file: the value in each file."""
        import pyarrow as pa

        maps = [_read_users(Path(f)) for f in self.files]
        people = sorted({person for values in maps for person in values})
        rows = [[values.get(person) for values in maps] for person in people]
        return pa.table({"person": pa.array(people, pa.string()), "mapped_values": pa.array(rows, pa.list_(pa.string()))})


def _read_users(path: Path) -> dict[str, str]:
    """A CSV file with a header: the user in the first column, the value in the second. The first line of a user counts."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [line for line in csv.reader(file) if line]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"cannot read {path} of `dimensions`: {error}. Give a CSV file with the columns user and value.") from error
    if not lines or any(len(line) < 2 for line in lines):
        raise ConfigError(f"cannot use {path} of `dimensions`: it needs a header and two columns, user and value.")
    values: dict[str, str] = {}
    for line in lines[1:]:
        values.setdefault(line[0].strip(), line[1].strip())
    return values


class _Guarded:
    """An iterator that remembers what went wrong in it: Arrow's C interface passes on no exception, only its text."""

    def __init__(self, batches: Iterable[pa.RecordBatch]) -> None:
        self._batches = iter(batches)
        self.error: BaseException | None = None

    def __iter__(self) -> _Guarded:
        return self

    def __next__(self) -> pa.RecordBatch:
        try:
            return next(self._batches)
        except StopIteration:
            raise
        except BaseException as error:
            self.error = error
            raise


def _listed(keys: Sequence[str] | str) -> Sequence[str]:
    return () if isinstance(keys, str) else keys


def _of(names: Iterable[str], prefix: str) -> set[str]:
    return {n[len(prefix) :] for n in names if n.startswith(prefix) and len(n) > len(prefix)}


def _sorted(keys: Iterable[str]) -> list[str]:
    return sorted(set(keys), key=str.encode)


def _pointer(key: str) -> str:
    """A key as JSON pointer (RFC 6901), the one path syntax that can name any key."""
    return "/" + key.replace("~", "~0").replace("/", "~1")


def _columns(table: Table) -> str:
    return ", ".join(c.name for c in table.columns)


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None


def _sql(name: str, **parts: str) -> str:
    """A file of SQL with its {parts} filled in; nothing that comes from MLflow or a user ever is one."""
    text = (Path(__file__).parent / name).read_text(encoding="utf-8")
    for part, sql in parts.items():
        text = text.replace("{" + part + "}", sql)
    return text
