"""Read the facts that protect artifacts from MLflow's database.

Belongs here: the queries. `links.py` defines what the rows mean. The table `metrics` is searched only by run, key and step, and
`latest_metrics` only by key.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from runspend.config.settings import TrackingServer
from runspend.core.errors import SourceUnreachable
from runspend.ingest.tracking import raw, revisions
from runspend.ingest.tracking.client import Client
from runspend.ingest.tracking.dialects import MYSQL, POSTGRES, Dialect, literal
from runspend.ingest.tracking.registry import read_versions

if TYPE_CHECKING:
    import pyarrow as pa

# The same versions that MLflow's client lists: without deleted versions, and without prompts, which MLflow marks with a tag of the version.
VERSIONS = """
select {workspace}, cast(v.name as {text}), coalesce(cast(v.run_id as {text}), ''), coalesce(cast(v.source as {text}), ''),
       {storage},
       coalesce(cast(v.current_stage as {text}), 'None'), {aliases}, coalesce(cast(v.status as {text}), ''),
       cast(v.version as {integer}), cast(coalesce(v.creation_time, 0) as {integer})
from model_versions v
where coalesce(v.current_stage, 'None') <> 'Deleted_Internal'
  and not exists (
    select 1 from model_version_tags t where t.name = v.name {same_workspace_t} and {t_key} = 'mlflow.prompt.is_prompt' and lower(t.value) = 'true'
  )
"""
# The storage location of a version that is a copy of another version. Its source is models:/NAME/VERSION, and NAME may begin with "m-".
# The source models:/m-0123… is a logged model, not a copy.
STORAGE = (
    "case when v.source like 'models:/%' and (v.source not like 'models:/m-%' or v.source like 'models:/%/%' or v.source like '%@%')"
    " then coalesce(cast(v.storage_location as {text}), '') else '' end"
)

USES = """
select cast(source_id as {text}), cast(destination_id as {text}), case when source_type = 'RUN_INPUT' then 'input' else 'output' end,
       {step}
from inputs where (source_type = 'RUN_INPUT' and destination_type = 'MODEL_INPUT') or (source_type = 'RUN_OUTPUT' and destination_type = 'MODEL_OUTPUT')
"""
SOURCES = """
select cast(source_run_id as {text}), cast(model_id as {text}), 'source', -1 from logged_models
where source_run_id <> '' and lifecycle_stage = 'active'
"""
LAST = """
select cast(m.run_uuid as {text}), '', cast(m.key as {text}), cast(m.step as {integer}), cast(m.timestamp as {integer}), cast(m.value as {real})
from latest_metrics m where m.key in ({keys}) {exactly} and not ({is_nan})
"""
MODEL_POINTS = """
select cast(p.run_id as {text}), cast(p.model_id as {text}), cast(p.metric_name as {text}), cast(p.metric_step as {integer}), cast(p.metric_timestamp_ms as {integer}),
       cast(p.metric_value as {real})
from logged_model_metrics p join logged_models m on m.model_id = p.model_id
where p.metric_name in ({keys}) {exactly} and m.lifecycle_stage = 'active' and p.metric_value is not null and p.metric_value = p.metric_value
"""


class Snapshot(Protocol):
    """One open snapshot of MLflow's database."""

    dialect: Dialect
    revision: str
    only_workspaces: list[str] | None

    def fill(self, sql: str, **parts: str) -> str:
        """Return a query that all engines share, with the SQL types and operators of this engine."""
        ...

    def batches(self, sql: str, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a query as batches with valid UTF-8."""
        ...

    def read_points(
        self, wanted: Sequence[raw.UseKey], schema: pa.Schema, *, logged_ms: str, least: float = 0, most: float
    ) -> Iterator[pa.RecordBatch]:
        """Yield points of metrics whose values are between `least` and `most`, each found by an index search."""
        ...


class DatabaseLinks:
    """See `raw.LinkReader`."""

    asks_each_run = False

    def __init__(self, snapshot: Snapshot, server: TrackingServer) -> None:
        self._snapshot = snapshot
        self._server = server

    def _since(self, revision: str) -> bool:
        return revisions.is_at_least(self._snapshot.revision, revision)

    def read_versions(self) -> pa.Table:
        if self._server.registry is not None:
            return read_versions(Client(self._server), [None])
        import pyarrow as pa
        import pyarrow.compute as pc

        both = {f"same_workspace_{x}": f"and {x}.workspace = v.workspace" if self._since(revisions.WORKSPACES_SINCE) else "" for x in "ta"}
        aliases = self._snapshot.dialect.aliases.format(**both) if self._since(revisions.ALIASES_SINCE) else "'[]'"
        sql = self._snapshot.fill(
            VERSIONS,
            workspace=self._snapshot.fill("cast(v.workspace as {text})") if self._since(revisions.WORKSPACES_SINCE) else "'default'",
            storage=self._snapshot.fill(STORAGE) if self._since(revisions.STORAGE_SINCE) else "''",
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
            self._snapshot.fill("case when source_type = 'RUN_INPUT' then -1 else cast(step as {integer}) end")
            if self._since(revisions.STEPS_SINCE)
            else "-1"
        )
        batches = [
            *self._snapshot.batches(self._snapshot.fill(USES, step=step), schema),
            *self._snapshot.batches(self._snapshot.fill(SOURCES), schema),
        ]
        return raw.to_table(batches, schema)

    def read_last(self, metrics: Sequence[str]) -> pa.Table:
        is_nan = "m.is_nan" if self._snapshot.dialect is POSTGRES else "m.is_nan = 1"
        sql = self._snapshot.fill(LAST, is_nan=is_nan, **self._among("m.key", metrics))
        return raw.to_table(self._snapshot.batches(sql, raw.point_schema()), raw.point_schema())

    def read_points(self, wanted: Sequence[raw.UseKey]) -> pa.Table:
        import pyarrow as pa

        if wanted and not self._since(revisions.METRIC_INDEX_SINCE):
            raise SourceUnreachable(
                self._server.name,
                f"cannot read the metrics of {self._server.name} that policies compare runs by: a database older than revision {revisions.METRIC_INDEX_SINCE} has no"
                " index for them. Run `mlflow db upgrade`, or set `via: api`.",
            )
        step = self._snapshot.fill("cast(g.step as {integer}), cast(m.timestamp as {integer}),")
        found = pa.schema([f for f in raw.point_schema() if f.name != "model_id"])
        # MLflow stores infinity as the largest float.
        points = raw.to_table(
            self._snapshot.read_points(wanted, found, logged_ms=step, least=-sys.float_info.max, most=sys.float_info.max), found
        )
        return points.add_column(1, "model_id", pa.array([""] * points.num_rows, pa.string()))

    def read_model_points(self, metrics: Sequence[str]) -> pa.Table:
        schema = raw.point_schema()
        if not self._since(revisions.LOGGED_MODELS_SINCE):
            return schema.empty_table()
        return raw.to_table(
            self._snapshot.batches(self._snapshot.fill(MODEL_POINTS, **self._among("p.metric_name", metrics)), schema), schema
        )

    def _among(self, column: str, keys: Sequence[str]) -> dict[str, str]:
        """Return the keys as SQL literals, which lets the database use its index on the key.

        MySQL ignores case in this comparison, so for MySQL a second condition for exact equality is returned.
        """
        words = self._snapshot.dialect
        return {"keys": ", ".join(map(literal, keys)), "exactly": f"and {words.among(column, keys)}" if words is MYSQL and keys else ""}
