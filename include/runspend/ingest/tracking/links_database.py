"""Read what keeps artifacts in place from MLflow's database.

Put here the queries. `links.py` decides what the rows mean. `metrics` is searched only by run, key and step, `latest_metrics` by its key.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from runspend.config.settings import TrackingServer
from runspend.core.errors import SourceUnreachable
from runspend.ingest.tracking import raw, revisions
from runspend.ingest.tracking.client import Client
from runspend.ingest.tracking.registry import read_versions

if TYPE_CHECKING:
    import pyarrow as pa

# Like the client's list: without deleted versions and prompts, which MLflow marks by a tag of a version.
VERSIONS = """
select {workspace}, cast(v.name as {text}), coalesce(cast(v.run_id as {text}), ''), coalesce(cast(v.source as {text}), ''),
       {storage},
       coalesce(cast(v.current_stage as {text}), 'None'), {aliases}, coalesce(cast(v.status as {text}), ''),
       cast(v.version as bigint), cast(coalesce(v.creation_time, 0) as bigint)
from model_versions v
where coalesce(v.current_stage, 'None') <> 'Deleted_Internal'
  and not exists (
    select 1 from model_version_tags t where t.name = v.name {same_workspace_t} and t.key = 'mlflow.prompt.is_prompt' and lower(t.value) = 'true'
  )
"""
# The location of a copy of another version, whose model may be called m-fraud; models:/m-0123… is a logged model.
STORAGE = (
    "case when v.source like 'models:/%' and (v.source not like 'models:/m-%' or v.source like 'models:/%/%' or v.source like '%@%')"
    " then coalesce(cast(v.storage_location as {text}), '') else '' end"
)
SQLITE_ALIASES = """(select json_group_array(alias) from (select cast(a.alias as text) as alias from registered_model_aliases a
        where a.name = v.name {same_workspace_a} and a.version = v.version order by cast(a.alias as blob)))"""
POSTGRES_ALIASES = """coalesce((select json_agg(a.alias::text order by a.alias::text collate "C")::text from registered_model_aliases a
        where a.name = v.name {same_workspace_a} and a.version = v.version), '[]')"""

USES = """
select cast(source_id as {text}), cast(destination_id as {text}), case when source_type = 'RUN_INPUT' then 'input' else 'output' end,
       {step}
from inputs where (source_type = 'RUN_INPUT' and destination_type = 'MODEL_INPUT') or (source_type = 'RUN_OUTPUT' and destination_type = 'MODEL_OUTPUT')
"""
SOURCES = """
select cast(source_run_id as {text}), cast(model_id as {text}), 'source', cast(-1 as bigint) from logged_models
where source_run_id <> '' and lifecycle_stage = 'active'
"""
LAST = """
select cast(run_uuid as {text}), cast('' as {text}), cast(key as {text}), cast(step as bigint), cast(timestamp as bigint), cast(value as {real})
from latest_metrics where key in ({keys}) and not ({is_nan})
"""
MODEL_POINTS = """
select cast(p.run_id as {text}), cast(p.model_id as {text}), cast(p.metric_name as {text}), cast(p.metric_step as bigint), cast(p.metric_timestamp_ms as bigint),
       cast(p.metric_value as {real})
from logged_model_metrics p join logged_models m on m.model_id = p.model_id
where p.metric_name in ({keys}) and m.lifecycle_stage = 'active' and p.metric_value is not null and p.metric_value = p.metric_value
"""


class Snapshot(Protocol):
    """One open snapshot of MLflow's database."""

    is_sqlite: bool
    revision: str
    only_workspaces: list[str] | None

    def batches(self, sql: str, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a query, with valid UTF-8."""
        ...

    def read_points(
        self, wanted: Sequence[raw.UseKey], schema: pa.Schema, *, logged_ms: str, least: float = 0, most: float
    ) -> Iterator[pa.RecordBatch]:
        """Yield points of metrics between `least` and `most`, each by an index search."""
        ...


class DatabaseLinks:
    """See `raw.LinkReader`."""

    asks_each_run = False

    def __init__(self, snapshot: Snapshot, server: TrackingServer) -> None:
        self._snapshot = snapshot
        self._server = server

    def _fill(self, sql: str, **parts: str) -> str:
        is_sqlite = self._snapshot.is_sqlite
        return sql.format(text="text", real="real" if is_sqlite else "float8", **parts)

    def _since(self, revision: str) -> bool:
        return revisions.is_at_least(self._snapshot.revision, revision)

    def read_versions(self) -> pa.Table:
        if self._server.registry is not None:
            return read_versions(Client(self._server), [None])
        import pyarrow as pa
        import pyarrow.compute as pc

        both = {f"same_workspace_{x}": f"and {x}.workspace = v.workspace" if self._since(revisions.WORKSPACES_SINCE) else "" for x in "ta"}
        aliases = (
            (SQLITE_ALIASES if self._snapshot.is_sqlite else POSTGRES_ALIASES).format(**both)
            if self._since(revisions.ALIASES_SINCE)
            else "'[]'"
        )
        sql = self._fill(
            VERSIONS,
            workspace="cast(v.workspace as text)" if self._since(revisions.WORKSPACES_SINCE) else "'default'",
            storage=STORAGE.format(text="text") if self._since(revisions.STORAGE_SINCE) else "''",
            aliases=aliases,
            same_workspace_t=both["same_workspace_t"],
        )
        table = raw.to_table(self._snapshot.batches(sql, raw.version_schema()), raw.version_schema())
        if self._snapshot.only_workspaces is not None:
            table = table.filter(pc.is_in(table["workspace"], value_set=pa.array(self._snapshot.only_workspaces, pa.string())))
        return table

    def read_uses(self, run_ids: Sequence[str]) -> pa.Table:
        schema = raw.link_schema()
        if not self._since(revisions.LOGGED_MODELS_SINCE):
            return schema.empty_table()
        step = (
            "case when source_type = 'RUN_INPUT' then cast(-1 as bigint) else cast(step as bigint) end"
            if self._since(revisions.STEPS_SINCE)
            else "cast(-1 as bigint)"
        )
        batches = [*self._snapshot.batches(self._fill(USES, step=step), schema), *self._snapshot.batches(self._fill(SOURCES), schema)]
        return raw.to_table(batches, schema)

    def read_last(self, metrics: Sequence[str]) -> pa.Table:
        sql = self._fill(LAST, keys=_listed(metrics), is_nan="is_nan = 1" if self._snapshot.is_sqlite else "is_nan")
        return raw.to_table(self._snapshot.batches(sql, raw.point_schema()), raw.point_schema())

    def read_points(self, wanted: Sequence[raw.UseKey]) -> pa.Table:
        import pyarrow as pa

        if wanted and not self._since(revisions.METRIC_INDEX_SINCE):
            raise SourceUnreachable(
                self._server.name,
                f"cannot read the metrics of {self._server.name} that policies keep the best by: a database older than revision {revisions.METRIC_INDEX_SINCE} has no"
                " index for them. Run `mlflow db upgrade`, or set `via: api`.",
            )
        step = "cast(g.step as bigint), cast(m.timestamp as bigint),"
        found = pa.schema([f for f in raw.point_schema() if f.name != "model_id"])
        # MLflow stores an infinity as the largest float.
        points = raw.to_table(
            self._snapshot.read_points(wanted, found, logged_ms=step, least=-sys.float_info.max, most=sys.float_info.max), found
        )
        return points.add_column(1, "model_id", pa.array([""] * points.num_rows, pa.string()))

    def read_model_points(self, metrics: Sequence[str]) -> pa.Table:
        schema = raw.point_schema()
        if not self._since(revisions.LOGGED_MODELS_SINCE):
            return schema.empty_table()
        return raw.to_table(self._snapshot.batches(self._fill(MODEL_POINTS, keys=_listed(metrics)), schema), schema)


def _listed(keys: Sequence[str]) -> str:
    """Return keys as SQL literals. A literal cannot hold a NUL, and neither can a key in a database that stores C strings."""
    return ", ".join("'" + key.replace("\0", "").replace("'", "''") + "'" for key in keys)
