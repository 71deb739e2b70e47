"""Turn raw rows into the tables `runs`, `run_resources`, `machine_power`, `experiments`, `artifact_owners` and `trace_costs`, with DuckDB.

Each unit (one table and one period) becomes one Parquet file. Belongs here: what a run's row means, and how one month combines the
runs that MLflow has now with runs read earlier. The rules are in the `.sql` files of this folder. `database.py` and `api.py` fetch the rows.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runspend.config.settings import TrackingServer
from runspend.core import machine_tags
from runspend.core.cost_keys import COST_TAGS, NOTE, RECORD
from runspend.core.duckdb_pool import borrow_connection
from runspend.core.errors import MissingExtra, SourceRefused
from runspend.core.resource_keys import JOB_PLACE_KEYS, principal_key_sql, resource_key_sql
from runspend.core.secret_shapes import macros_sql
from runspend.core.sql_quoting import sql_text
from runspend.ingest.tracking import raw, token_prices
from runspend.ingest.tracking.dimension_sources import (
    DimensionSources,
    PoolColumns,
    copied_sql,
    digest_settings,
    job_columns,
    keys_of,
    resolve_keys,
    sort_keys,
)
from runspend.ingest.tracking.requested_places import PLACE_KEYS, place_columns
from runspend.ingest.tracking.settings import MeasuredMachines, RowSettings
from runspend.schema.rows import first_day
from runspend.schema.tables import DUCKDB_TYPES, TABLES, Table

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

RESOURCE_KEYS = (
    "runspend.resources",
    "runspend.resource_ids",
    "runspend.instance_id",
    "instance_id",
    "resource_id",
    "cloud.instance_id",
    "mlflow.databricks.cluster.id",
    "mlflow.databricks.notebookID",
    machine_tags.ID,
)
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
    machine_tags.TYPE,
    machine_tags.GPU_COUNT,
    machine_tags.GPU_TYPE,
    machine_tags.CORES,
    machine_tags.MEMORY,
)
PRINCIPAL_KEYS = ("runspend.iam_principal", "iam_principal")
STATED_KEYS = RESOURCE_KEYS + REQUEST_KEYS + PLACE_KEYS + PRINCIPAL_KEYS
MLFLOW_KEYS = ("mlflow.user", "mlflow.runName", "mlflow.parentRunId", "mlflow.source.name", "mlflow.source.git.commit")

# The clock of a client may be ahead by this much. A run's end or a metric's time beyond it counts as being in the future and is rejected.
BELIEVED_AHEAD_MS = 3_600_000
# A run whose end was rejected counts as alive for this long after its last sign of activity, like a run without an end.
ALIVE_HOURS = 6

# Stored instead of a month's settings digest if a rejected end is no longer in the future by the real clock. This happens when the
# pipeline ran as of an earlier day but read today's MLflow. The next pipeline run reads the month again and accepts such ends.
REPLAYED = "as of an earlier day"

# Losing fewer runs of a month than this at once is always accepted.
MIN_VANISHED = 10
MEMORY_LIMIT = "1GB"
MODELS_NAMED = 5  # maximum number of models that a warning names
ROW_GROUP = 122_880


class Rows:
    """Load the raw rows of one extract into a DuckDB database and write the tables from it.

    The database belongs to this extract and spills to `workdir`. `wanted` lists the tags and params whose values the rows need.
    Call `expect` before `load_runs`, with those wanted keys that at least one run on the server has. Keys that no run has then cost nothing.
    """

    def __init__(self, server: TrackingServer, settings: RowSettings, *, now: datetime, workdir: Path, load_id: str) -> None:
        self._server = server
        self._now = now
        self._workdir = workdir
        self._names = {"server": server.name, "load_id": load_id}
        self._believed_ms = int(now.timestamp() * 1000) + BELIEVED_AHEAD_MS
        self._places = DimensionSources(settings)
        self._pools = PoolColumns(settings.pools, self._places, server.name)
        self._job_keys = settings.job_keys
        self.reads_power = bool(settings.measured.resource_ids)
        self.settings_digest = digest_settings(server, settings, self._places, place_columns(PLACE_KEYS, ()).values())
        stated = {*STATED_KEYS, *settings.job_keys, *JOB_PLACE_KEYS}
        self._copied_tags = {*_listed(server.copy_.tags), *stated, *self._places.tags, *keys_of(settings.selector_keys, "tag.")}
        params = {*_listed(server.copy_.params), *stated, *self._places.params, *keys_of(settings.selector_keys, "param.")}
        links = settings.links
        self.wanted = raw.Keys(
            sort_keys({*MLFLOW_KEYS, *self._copied_tags}),
            sort_keys(params),
            metrics=links.metrics if {"model_uses", "run_metrics"} & {*links.kinds} else None,
        )
        self._parts: dict[str, str] = {}
        self._keys: tuple[Sequence[str], Sequence[str]] = (), ()
        self._unknown_models: list[tuple[str, int]] = []
        if server.token_prices is not None:
            token_prices.load_prices()
        self._lent = ExitStack()
        self._con = self._lent.enter_context(borrow_connection("runs", _make_engine, workdir / "spill", memory=MEMORY_LIMIT))
        self._set_variables(settings)
        self._create("fresh_experiments", TABLES["experiments"], "dimension_values varchar[]")
        self._create(
            "fresh_runs",
            TABLES["runs"],
            "resource_kind varchar",
            "resource_text varchar",
            "has_bad_resources boolean",
            "has_bad_time boolean",
            "use_keys varchar",
            "step_keys varchar",
        )
        self._create("fresh_resources", TABLES["run_resources"], "has_bad_time boolean", "is_single boolean")
        self._create("fresh_trace_costs", TABLES["trace_costs"])
        self._con.execute("create table fresh_use (run_id varchar, mean_use_percent double)")
        self._con.execute(_sql("gap_tables.sql"))
        if self.reads_power:
            self._create_power(settings.measured)

    @property
    def connection(self) -> duckdb.DuckDBPyConnection:
        """The connection to the loaded runs and experiments, in the tables `fresh_runs` and `fresh_experiments`."""
        return self._con

    def close(self) -> None:
        """Return the engine to the pool. If an exception is being handled, close the engine instead."""
        self._lent.__exit__(*sys.exc_info())

    def _create(self, name: str, table: Table, *more: str) -> None:
        columns = [f"{c.name} {DUCKDB_TYPES[c.type]}" for c in table.columns]
        self._con.execute(f"create table {name} ({', '.join([*columns, *more])})")

    def _create_power(self, measured: MeasuredMachines) -> None:
        """Create the tables for measured power.

        `fresh_power` holds the rows read in this pipeline run. `known_power` holds rows of earlier pipeline runs that are still valid.
        """
        self._create("fresh_power", TABLES["machine_power"])
        self._create("known_power", TABLES["machine_power"])
        self._con.execute(_sql("power_tables.sql"))
        of_pool = [(pool, machine) for pool, machines in measured.of_pool for machine in machines]
        key = resource_key_sql("machine")
        for table, rows in (("measured_machines", [(machine,) for machine in measured.resource_ids]), ("pool_machines", of_pool)):
            if rows:
                self._con.executemany(f"insert into {table} values ({', '.join('?' * len(rows[0]))})", rows)
            self._con.execute(f"alter table {table} add column resource_key varchar; update {table} set resource_key = {key}")

    def _set_variables(self, settings: RowSettings) -> None:
        copied = sort_keys(
            {*_listed(self._server.copy_.tags), *self._places.experiment_tags, *keys_of(settings.selector_keys, "experiment_tag.")}
        )
        self._set("experiment_tag_paths", [_pointer(k) for k in self._places.experiment_tags])
        self._set("copied_experiment_tags", copied)
        self._set("copied_experiment_tag_paths", [_pointer(k) for k in copied])
        self._set("only_listed_workspaces", isinstance(self._server.workspaces, list), "boolean")
        self._set("not_a_person", list(settings.dimensions.not_a_person))
        self._set("places", self._places.names)
        self._con.execute(
            "create table user_lines (number integer, file integer, person varchar, value varchar, valid_from timestamptz, valid_to timestamptz)"
        )
        lines = [(i, line.file, line.person, line.value, line.valid_from, line.valid_to) for i, line in enumerate(self._places.user_lines)]
        if lines:
            self._con.executemany("insert into user_lines values (?, ?, ?, ?, ?, ?)", lines)

    def expect(self, keys: raw.Keys) -> raw.Keys:
        """Prepare the SQL for the tags and params that at least one run has, and return the keys to read.

        The returned `tags` (or `params`) are None if the server's `copy` setting copies all of them.
        """
        tags, params = list(keys.tags or ()), list(keys.params or ())
        self._keys = tags, params
        self._set("tag_paths", [_pointer(k) for k in tags])
        self._set("param_paths", [_pointer(k) for k in params])
        self._set("tag_labels", [json.dumps(k, ensure_ascii=False) + ":" for k in tags])
        self._set("param_labels", [json.dumps(k, ensure_ascii=False) + ":" for k in params])
        every_tag, every_param = self._server.copy_.tags == "all", self._server.copy_.params == "all"
        self._parts = {
            **self._places.dimension_columns(tags, params),
            **self._pools.columns(tags, params),
            **job_columns(self._job_keys, tags, params),
            "principal_key": principal_key_sql("stated_principal"),
            # Remove the cost tags only if one of them may be copied, because searching for them takes time.
            "tags_of_people": "without_costs(tags)" if every_tag or {*COST_TAGS, RECORD, NOTE} & set(tags) else "tags",
            **place_columns(tags, params),
            "copied_tags": _every_pair("tags")
            if every_tag
            else copied_sql("t", "tag_labels", [i for i, k in enumerate(tags) if k in self._copied_tags]),
            "copied_params": _every_pair("params") if every_param else copied_sql("p", "param_labels", range(len(params))),
        }
        self._set("pool_texts", self._pools.texts)
        read = raw.Keys(None if every_tag else tags, None if every_param else params, self.reads_power, keys.metrics, self._believed_ms)
        return replace(read, has_further_machines=keys.has_further_machines)

    def _set(self, name: str, value: Any, type_: str = "varchar[]") -> None:
        self._con.execute(f"set variable {name} = cast($value as {type_})", {"value": value})

    def load_experiments(self, experiments: pa.Table) -> int:
        self._con.register("raw_experiments", experiments)
        listed = (
            "copied(getvariable('copied_experiment_tags'), json_extract_string(clean_tags, getvariable('copied_experiment_tag_paths')))"
        )
        copied = "all_but_secrets(tags)" if self._server.copy_.tags == "all" else listed
        self._con.execute(_sql("experiments.sql", copied_tags=copied), self._names)
        self._con.unregister("raw_experiments")
        return len(experiments)

    def load_runs(self, batches: Iterator[pa.RecordBatch]) -> None:
        """Load all batches, or none if one fails. Exceptions of the reader are raised unchanged."""
        self._con.execute(
            "delete from fresh_use; delete from fresh_gaps; delete from fresh_times; delete from fresh_runs; delete from fresh_resources"
        )
        # A stream has no row count, so DuckDB's default plan would first hash the whole stream, and then do the work on one core.
        self._con.execute("set disabled_optimizers = 'join_order,build_side_probe_side'")
        try:
            with self._streamed("raw_runs", raw.run_schema(), batches):
                times = {"believed_ms": self._believed_ms, "alive_ms": ALIVE_HOURS * 3_600_000}
                self._con.execute(resolve_keys(_sql("runs.sql", **self._parts), *self._keys), {**self._names, **times})
        finally:
            self._con.execute("reset disabled_optimizers")
        self._con.execute(_sql("run_resources.sql", resource_key=resource_key_sql("resource_id")))

    def know_metrics(self, previous: Callable[[str], pa.Table | None], unread: Collection[str]) -> None:
        """Reuse mean utilization and gaps that an earlier pipeline run found, for runs whose end has not changed since.

        `unread`: months whose gaps are searched again.
        """
        months = self._con.execute(
            "select distinct strftime(start_month, '%Y-%m') from fresh_runs where use_keys <> '' or step_keys <> ''"
        ).fetchall()
        for (month,) in months:
            self._register("previous_runs", TABLES["runs"], previous(month))
            self._con.execute(_sql("known_use.sql"), {"month": first_day(month)})
            if month not in unread:
                self._con.execute(_sql("known_gaps.sql"), {"month": first_day(month)})

    def use_wanted(self) -> list[raw.UseKey]:
        """Return the utilization metrics to average: those of the run's GPUs, or those of its CPUs if it has no GPU metrics.

        The metrics of an ended run are read only once, because they no longer change.
        """
        found = self._con.execute(_sql("use_keys.sql"), {"points": raw.USE_POINTS}).fetchall()
        return [raw.UseKey(*row) for row in found]

    def load_use(self, batches: Iterator[pa.RecordBatch]) -> None:
        import pyarrow as pa

        self._con.register("raw_use", pa.Table.from_batches(batches, schema=raw.use_schema()))
        self._con.execute(_sql("mean_use.sql"))
        self._con.unregister("raw_use")

    def gaps_wanted(self) -> list[raw.StepRange]:
        """Return one metric for each long run: the one with the highest last step.

        The times at which it was logged show whether the run was stopped and resumed.
        """
        found = self._con.execute(_sql("gap_metrics.sql"), {"looks": raw.STEP_LOOKS}).fetchall()
        return [raw.StepRange(*row) for row in found]

    def gaps_doubted(self) -> list[raw.StepRange]:
        """Return more metrics to read for runs whose first metric has a long silence.

        These are the skipped steps around the silence, and the run's other metrics. They show whether the run was active in that time.
        """
        found = self._con.execute(_sql("gap_signs.sql"), {"looks": raw.STEP_LOOKS, "long_ms": raw.LONG_MS}).fetchall()
        return [raw.StepRange(*row) for row in found]

    def load_times(self, batches: Iterator[pa.RecordBatch], *, is_first_look: bool) -> None:
        """Load all batches, or none if one fails. Exceptions of the reader are raised unchanged."""
        with self._streamed("raw_times", raw.time_schema(), batches):
            self._con.execute(_sql("gap_times.sql"), {"is_first_look": is_first_look})

    def find_gaps(self) -> None:
        """Find the gaps of each run in the loaded times, then delete the times."""
        self._con.execute(_sql("gaps.sql"), {"long_ms": raw.LONG_MS})
        self._con.execute("delete from fresh_times")

    def power_wanted(self, previous: Callable[[str], pa.Table | None]) -> list[raw.UseKey]:
        """Return the power metrics to read for runs on machines with measured power.

        Metrics that an earlier pipeline run read at the same steps are left out.
        """
        if not self.reads_power:
            return []
        for table in ("power_wanted", "known_power", "fresh_power"):
            self._con.execute(f"delete from {table}")
        limits = {"per_hour": raw.POWER_POINTS_PER_HOUR, "points": raw.POWER_POINTS}
        self._con.execute(_sql("power_wanted.sql", node_key=resource_key_sql("p.node")), limits)
        for (month,) in self._con.execute("select distinct strftime(start_month, '%Y-%m') from power_wanted").fetchall():
            self._register("previous_power", TABLES["machine_power"], previous(month))
            self._con.execute(_sql("power_known.sql"), {"month": first_day(month)})
        found = self._con.execute(
            "select run_id, metric, last_step, step_stride from power_wanted anti join known_power using (run_id, metric) order by run_id, metric"
        ).fetchall()
        return [raw.UseKey(*row) for row in found]

    def load_power(self, batches: Iterator[pa.RecordBatch]) -> None:
        """Load all batches, or none if one fails. Exceptions of the reader are raised unchanged."""
        with self._streamed("raw_power", raw.power_schema(), batches):
            self._con.execute(_sql("power.sql"), self._names)

    @contextmanager
    def _streamed(self, name: str, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> Iterator[None]:
        """Register the batches in DuckDB as a table that can be read once.

        Exceptions of the batches are raised unchanged. DuckDB itself would pass on only their text.
        """
        import pyarrow as pa

        guarded = _Guarded(batches)
        self._con.register(name, pa.RecordBatchReader.from_batches(schema, guarded))
        try:
            yield
        except Exception:
            if guarded.error is not None:
                raise guarded.error from None
            raise
        finally:
            self._con.unregister(name)

    def load_traces(self, traces: pa.Table, spans: pa.Table) -> None:
        self._con.execute("delete from fresh_trace_costs")
        if not traces.num_rows:
            return
        self._con.register("raw_traces", traces)
        self._con.register("raw_spans", spans)
        self._con.execute(_sql("known_traces.sql"))
        self._con.execute(_sql("traces.sql"), self._names)
        if self._server.token_prices is not None:
            self._price_tokens()
        for name in ("raw_traces", "raw_spans"):
            self._con.unregister(name)

    def _price_tokens(self) -> None:
        """Add the list price of calls without a cost. Remember the models without a list price for a warning."""
        self._con.execute(_sql("token_prices.sql"))
        calls = self._con.execute("select distinct model, provider, day, usage from unpriced_calls order by all").fetchall()
        self._con.register("call_prices", token_prices.price_calls(token_prices.Call(*call) for call in calls))
        self._con.execute(_sql("token_costs.sql"), self._names | {"price_source": token_prices.price_source()})
        self._unknown_models = self._con.execute(
            "select redacted(c.model), count(*) from unpriced_calls c join call_prices p using (model, provider, day, usage) where p.cost is null"
            " group by all order by 2 desc, 1"
        ).fetchall()
        self._con.unregister("call_prices")

    def write_trace_month(self, month: str, previous: pa.Table | None) -> Path:
        """Write one month of `trace_costs`: the costs of the traces in MLflow, and of traces that MLflow no longer has."""
        table = TABLES["trace_costs"]
        self._register("previous_trace_costs", table, previous)
        return self.write(
            table,
            month,
            _sql("trace_month.sql", columns=_columns(table)),
            {"month": first_day(month), "is_priced": self._server.token_prices is not None},
        )

    def warnings(self) -> list[str]:
        """Return one sentence for each kind of stated value that could not be used."""
        bad_lists, bad_times = self._one("select count(*) filter (has_bad_resources), count(*) filter (has_bad_time) from fresh_runs")
        (bad_stated,) = self._one("select count(*) filter (has_bad_time) from fresh_resources")
        found = [
            (bad_lists, "runs state runspend.resources or runspend.resource_ids that are not a JSON list; they were ignored"),
            (bad_times, "runs have a start or end that is not a time; it was ignored"),
            (bad_stated, "machines are stated with a `from` or `to` that is not a time; the run's start or end was used"),
        ]
        sentences = [f"{self._server.name}: {count} {what}." for count, what in found if count]
        if self._unknown_models:
            named = ", ".join(f"{model} ({count})" for model, count in self._unknown_models[:MODELS_NAMED])
            more = len(self._unknown_models) - MODELS_NAMED
            calls = sum(count for _, count in self._unknown_models)
            sentences.append(
                f"{self._server.name}: {calls} calls have tokens and no cost, and {token_prices.price_source()} has no price for their models: "
                f"{named}{f' and {more} more' if more > 0 else ''}. Their cost is unknown."
            )
        return sentences

    def months(self) -> list[str]:
        return [m for (m,) in self._con.execute("select distinct strftime(start_month, '%Y-%m') from fresh_runs order by 1").fetchall()]

    def count_runs(self) -> int:
        (count,) = self._one("select count(*) from fresh_runs")
        return int(count)

    def write_experiments(self) -> Path:
        table = TABLES["experiments"]
        return self.write(table, "all", f"select {_columns(table)} from fresh_experiments order by experiment_id, workspace", {})

    def write_owners(self, owners: pa.Table) -> Path:
        """Write `artifact_owners` for the loaded experiments."""
        table = TABLES["artifact_owners"]
        self._con.register("raw_owners", owners)
        select = (
            "select $server as tracking_server, e.workspace, o.owner_kind, o.owner_id, nullif(o.experiment_id, '') as experiment_id, redacted_place(o.uri) as uri, $load_id as load_id"
            " from raw_owners o join fresh_experiments e on e.experiment_id = o.experiment_id"
        )
        path = self.write(table, "all", f"select {_columns(table)} from ({select}) order by owner_kind, owner_id, workspace", self._names)
        self._con.unregister("raw_owners")
        return path

    def write_month(
        self,
        month: str,
        previous_runs: pa.Table | None,
        previous_resources: pa.Table | None,
        previous_power: pa.Table | None,
        *,
        accept: bool,
        written: str | None = None,
    ) -> tuple[dict[str, Path], dict[str, Any]]:
        """Write one month of `runs`, `run_resources` and, if power is read, `machine_power`.

        Returns the file of each table, and the facts that the unit of `runs` should store. `written` is the settings digest that the unit
        stores now. Raises SourceRefused if more runs than `max_vanish` allows are gone from MLflow, unless `accept` is set.
        """
        parameters = {"month": first_day(month)}
        self._register("previous_runs", TABLES["runs"], previous_runs)
        self._register("previous_resources", TABLES["run_resources"], previous_resources)
        if not accept:
            self._check_vanished(month, parameters)
        runs, resources = TABLES["runs"], TABLES["run_resources"]
        joined = ("end_time", "future_end_time", "gaps", "gap_seconds", "resource_ids", "mean_use_percent", "purged_at")
        there = [c.name for c in runs.columns if c.name not in joined]
        # An earlier version of Runspend may have stored text that looks like a secret in rows whose runs are gone from MLflow.
        # Planning the replacement takes 50 ms, so it is done only if there are such rows.
        keeps_runs, keeps_resources = (self._keeps(name, parameters) for name in ("previous_runs", "previous_resources"))
        select = _sql(
            "month.sql",
            columns=_columns(runs),
            columns_there=", ".join(f"r.{c}" for c in there)
            + ", coalesce(k.end_time, r.end_time) as end_time, coalesce(k.future_end_time, r.future_end_time) as future_end_time"
            + ", coalesce(g.gaps, []) as gaps, g.gap_seconds"
            + ", case when r.resource_kind = 'one' then [r.resource_text] else coalesce(m.resource_ids, []) end as resource_ids, u.mean_use_percent, null::timestamptz as purged_at",
            clean=_clean(runs, there) if keeps_runs else "null as clean",
            columns_gone=(_cleaned(runs, there) if keeps_runs else _plain(there))
            + ", r.end_time, r.future_end_time, coalesce(r.gaps, []) as gaps, r.gap_seconds"
            + f", {'list_transform(r.resource_ids, lambda id: redacted(id))' if keeps_runs else 'r.resource_ids'} as resource_ids"
            + ", r.mean_use_percent, coalesce(r.purged_at, $now::timestamptz) as purged_at",
        )
        of_runs = self.write(runs, month, select, {**parameters, "now": self._now, "keeps_ends": written != REPLAYED})
        names = [c.name for c in resources.columns]
        of_resources = self.write(
            resources,
            month,
            f"select {_columns(resources)} from (select {_columns(resources)} from fresh_resources where start_month = $month union all"
            f" select {_cleaned(resources, names) if keeps_resources else _plain(names)}"
            f" from (select *, {_clean(resources, names) if keeps_resources else 'null as clean'} from previous_resources p where {_GONE}) r)"
            " order by resource_key, run_id, workspace, resource_id, used_ordinal",
            parameters,
        )
        files = {"runs": of_runs, "run_resources": of_resources}
        if self.reads_power:
            self._register("previous_power", TABLES["machine_power"], previous_power)
            select = _sql("power_month.sql", columns=_columns(TABLES["machine_power"]))
            files["machine_power"] = self.write(TABLES["machine_power"], month, select, parameters)
        return files, self._extra(files["runs"])

    def _register(self, name: str, table: Table, rows: pa.Table | None) -> None:
        """Register the warehouse's rows in DuckDB with the current columns. Columns that a file of an older version lacks are null."""
        import pyarrow as pa

        schema = table.arrow_schema()
        if rows is None:
            rows = schema.empty_table()
        columns = [rows[f.name].cast(f.type) if f.name in rows.column_names else pa.nulls(rows.num_rows, f.type) for f in schema]
        self._con.register(name, pa.table(columns, schema=schema))

    def _keeps(self, previous: str, parameters: dict[str, Any]) -> bool:
        """Return whether the table `previous` has rows whose runs MLflow no longer has."""
        return bool(self._one(f"select exists (select 1 from {previous} p where {_GONE})", parameters)[0])

    def _check_vanished(self, month: str, parameters: dict[str, Any]) -> None:
        known, vanished = self._one(
            f"select count(*), count(*) filter ({_GONE}) from previous_runs p where purged_at is null",
            parameters,
        )
        if vanished >= MIN_VANISHED and vanished > self._server.max_vanish * known:
            raise SourceRefused(
                self._server.name,
                f"cannot take the runs of {self._server.name} that started in {month}: {vanished} of {known} vanished at once, more than max_vanish"
                f" ({self._server.max_vanish:.0%}). The month keeps its rows. Check the permissions and workspaces of the credentials. If the runs were deleted on"
                f" purpose, raise max_vanish for one pipeline run.",
                period=month,
            )

    def _extra(self, path: Path) -> dict[str, Any]:
        """Return the facts about a month's file that other steps need without reading its rows.

        They include the first and the last time at which the month's runs may have used machines.
        """
        first, last, is_open, count, is_replayed = self._one(
            "select min(start_time), max(coalesce(end_time, last_sign_at, start_time + interval 31 days)), coalesce(bool_or(end_time is null and purged_at is null), false),"
            " count(*) filter (purged_at is null), coalesce(bool_or(epoch_ms(future_end_time) <= $clock_ms), false) from read_parquet($path)",
            {"path": str(path), "clock_ms": int(time.time() * 1000) + BELIEVED_AHEAD_MS},
        )
        settings = REPLAYED if is_replayed else self.settings_digest
        return {"first_start": _iso(first), "last_end": _iso(last), "has_open_runs": is_open, "runs": count, "settings": settings}

    def write(self, table: Table, period: str, select: str, parameters: dict[str, Any]) -> Path:
        """Write the result of a query to a Parquet file and return its path. The query must return the table's columns, types and order."""
        target = self._workdir / f"{table.name}-{period}.parquet"
        unfinished = target.with_suffix(".unfinished")
        # All files of one table must have the same schema. By default, DuckDB marks a column as required if it can prove that the column
        # contains no null.
        self._con.execute("set disabled_optimizers = 'statistics_propagation'")
        try:
            self._con.execute(
                f"copy ({select}) to {sql_text(unfinished)} (format parquet, compression zstd, compression_level 1, row_group_size {ROW_GROUP})",
                parameters,
            )
        finally:
            self._con.execute("reset disabled_optimizers")
        unfinished.replace(target)
        return target

    def _one(self, sql: str, parameters: dict[str, Any] | None = None) -> tuple[Any, ...]:
        [row] = self._con.execute(sql, parameters or {}).fetchall()  # an aggregate without groups always has one row
        return tuple(row)


def _make_engine() -> duckdb.DuckDBPyConnection:
    try:
        import duckdb
    except ImportError as error:
        raise MissingExtra("duckdb", "pipeline") from error
    engine = duckdb.connect(config={"preserve_insertion_order": False})
    engine.execute("set global TimeZone = 'UTC'")
    engine.execute(macros_sql())
    engine.execute(_sql("macros.sql"))
    return engine


class _Guarded:
    """An iterator that keeps its exception. Arrow's C interface passes on only the text of an exception."""

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


def _pointer(key: str) -> str:
    """Return a key as a JSON pointer (RFC 6901), the only one of DuckDB's path syntaxes that can name every key."""
    return "/" + key.replace("~", "~0").replace("/", "~1")


def _columns(table: Table) -> str:
    return ", ".join(c.name for c in table.columns)


# Columns whose values cannot contain a secret, so they are not searched for one.
_OWN_TEXTS = ("tracking_server", "workspace", "run_id", "experiment_id", "load_id", "params_digest")
_GONE = "not exists (select 1 from fresh_runs n where n.start_month = $month and n.workspace = p.workspace and n.run_id = p.run_id)"
_CLEANERS = {"tags": "redacted_document", "params": "redacted_document", "artifact_uri": "redacted_place"}


def _plain_texts(table: Table, names: Sequence[str]) -> list[str]:
    return [c.name for c in table.columns if c.type == "STRING" and c.name in names and c.name not in (*_OWN_TEXTS, *_CLEANERS)]


def _clean(table: Table, names: Sequence[str]) -> str:
    """Return SQL for `clean`, a list of all strings with secrets replaced. `_cleaned` reads the single strings from it.

    With one expression for all strings, DuckDB plans the replacement once. Planning 30 separate expressions took a second.
    """
    return f"list_transform([{', '.join(_plain_texts(table, names))}], lambda text: redacted(text)) as clean"


def _cleaned(table: Table, names: Sequence[str]) -> str:
    """Return SQL for these columns of `r`. In every text, parts that look like a secret are replaced."""
    cleaned = {name: f"r.clean[{at}]" for at, name in enumerate(_plain_texts(table, names), start=1)}
    cleaned |= {name: f"{cleaner}(r.{name})" for name, cleaner in _CLEANERS.items() if name in names}
    return ", ".join(f"{cleaned.get(name, f'r.{name}')} as {name}" for name in names)


def _plain(names: Sequence[str]) -> str:
    """Return SQL for these columns of `r`, unchanged."""
    return ", ".join(f"r.{name}" for name in names)


def _every_pair(document: str) -> str:
    """Return SQL for all pairs of a run's tags or params, except those that look like a secret."""
    return f"case when is_suspected then all_but_secrets(stated_{document}) else all_but_secret_keys({document}) end"


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None


@cache
def _text(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def _sql(name: str, **parts: str) -> str:
    """Return the text of a SQL file with its {parts} replaced. A part must never contain text from MLflow or a user."""
    text = _text(name)
    for part, sql in parts.items():
        text = text.replace("{" + part + "}", sql)
    return text
