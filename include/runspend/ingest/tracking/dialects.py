"""The SQL in which SQLite, PostgreSQL and MySQL differ: one `Dialect` for each, the only place where a query depends on the engine.

`database.py` and `links_database.py` fill these queries and read their rows. MariaDB counts as MySQL: all its queries are understood by
MySQL 8.0 and by MariaDB 10.5, so they use nothing that only one of them has (LATERAL, VALUES ROW, an ordered JSON_ARRAYAGG).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from runspend.core.cost_keys import FIRST_STEP, STEPS_END
from runspend.core.sql_quoting import sql_text

__all__ = ["MYSQL", "POSTGRES", "SQLITE", "Dialect", "dialect_of", "is_database_uri", "literal"]


@dataclass(frozen=True)
class Dialect:
    """One engine's queries, and the words that are inserted into the shared queries."""

    name: str
    text: str  # type names in casts
    real: str
    integer: str
    exact: str  # a column that is compared byte for byte: MySQL's own comparison ignores case, accents and trailing spaces
    day: str  # the day of epoch milliseconds
    listed: Callable[[Sequence[tuple[str, ...]]], str]  # rows of literals as a table with the columns column1, column2, …
    from_run: str  # whether a point of metric m is the run's own
    experiments: str
    points: str
    times: str
    aliases: str
    token_usage: str  # the tokens of span s, as JSON

    def among(self, column: str, keys: Sequence[str]) -> str:
        """Return whether a column is one of the keys, exactly."""
        return f"{self.exact.format(column)} in ({', '.join(map(literal, keys))})"


def literal(text: str) -> str:
    """Return text as a SQL literal. A literal cannot hold a NUL, and neither can a key in a database that stores C strings."""
    return sql_text(text.replace("\0", ""))


# Leaves out costs that Runspend wrote (core/cost_keys.py): they do not show that a run is alive.
SQLITE_FROM_RUN = (
    f"(m.step < {FIRST_STEP} or m.step >= {STEPS_END}"
    " or (m.key not glob 'cost_[a-z][a-z][a-z]' and m.key not glob 'cost_[a-z][a-z][a-z]_estimated'))"
)
POSTGRES_FROM_RUN = f"(step < {FIRST_STEP} or step >= {STEPS_END} or key !~ '^cost_[a-z]{{3}}(_estimated)?$')"

SQLITE_RUNS = """
select cast(r.run_uuid as text), coalesce(cast(r.experiment_id as text), ''), coalesce(cast(r.name as text), ''),
       coalesce(cast(r.user_id as text), ''), coalesce(cast(r.status as text), ''), coalesce(cast(r.lifecycle_stage as text), ''),
       coalesce(cast(r.artifact_uri as text), ''),
       {tags},
       {params},
       coalesce((select group_concat(p.key || '{between}' || p.value, '{after}') from params p where p.run_uuid = r.run_uuid), ''),
       {use_keys},
       case when coalesce(r.end_time, 0) = 0 or r.end_time - r.start_time > {long_ms} then coalesce((
         select group_concat(k.key || '{between}' || k.step, '{after}') from (
           select min(cast(m.key as text)) as key, cast(m.step as integer) as step from latest_metrics m
           where m.run_uuid = r.run_uuid and m.step > 0 and {is_from_run} group by m.step order by m.step desc limit {step_keys}) k), '') else '' end,
       coalesce(cast(r.start_time as integer), 0), coalesce(cast(r.end_time as integer), 0),
       case when coalesce(r.end_time, 0) = 0 or r.end_time > {believed_ms} then coalesce((
         select max(cast(m.timestamp as integer)) from latest_metrics m where m.run_uuid = r.run_uuid and m.timestamp <= {believed_ms} and {is_from_run}), 0) else 0 end
from runs r
"""
# Use the index on the run: with the keys in the condition, SQLite would use the primary key, one search per key (`+` prevents that).
SQLITE_MAP = """(select json_group_object(cast(t.key as text), cast(t.value as text)) from {table} t
        where t.run_uuid = r.run_uuid and t.value is not null {among})"""
SQLITE_USE_KEYS = """coalesce((select group_concat(cast(m.key as text) || char(30) || cast(m.step as integer), char(31)) from latest_metrics m
                 where m.run_uuid = r.run_uuid and ({kinds})), '')"""

POSTGRES_RUNS = """
with chosen as materialized (select r.* from runs r {where}),
tag_maps as ({tags}),
param_maps as ({params}),
param_lists as (
  select run_uuid, string_agg(key || chr(30) || value, chr(31)) as param_list from params
  where value is not null {only_chosen} group by run_uuid
),
signs as (
  select run_uuid, max(timestamp)::bigint as last_ms from latest_metrics
  where run_uuid in (select run_uuid from chosen where coalesce(end_time, 0) = 0 or end_time > {believed_ms}) and timestamp <= {believed_ms} and {is_from_run} group by run_uuid
),
last_steps as (
  select run_uuid, min(key collate "C") as key, step, row_number() over (partition by run_uuid order by step desc) as place from latest_metrics
  where run_uuid in (select run_uuid from chosen where coalesce(end_time, 0) = 0 or end_time - start_time > {long_ms}) and step > 0 and {is_from_run}
  group by run_uuid, step
),
step_keys as (
  select run_uuid, string_agg(key || chr(30) || step, chr(31)) as step_keys from last_steps where place <= {step_keys} group by run_uuid
),
use_keys as (
  select run_uuid, string_agg(key || chr(30) || step, chr(31)) as use_keys from latest_metrics
  where ({kinds}) {only_chosen} group by run_uuid
)
select r.run_uuid::text, coalesce(r.experiment_id::text, ''), coalesce(r.name::text, ''), coalesce(r.user_id::text, ''),
       coalesce(r.status::text, ''), coalesce(r.lifecycle_stage::text, ''), coalesce(r.artifact_uri::text, ''),
       coalesce(t.document, '{{}}'), coalesce(p.document, '{{}}'), coalesce(l.param_list, ''), coalesce(u.use_keys, ''), coalesce(k.step_keys, ''),
       coalesce(r.start_time, 0)::bigint, coalesce(r.end_time, 0)::bigint, coalesce(s.last_ms, 0)::bigint
from chosen r
left join tag_maps t on t.run_uuid = r.run_uuid
left join param_maps p on p.run_uuid = r.run_uuid
left join param_lists l on l.run_uuid = r.run_uuid
left join signs s on s.run_uuid = r.run_uuid
left join step_keys k on k.run_uuid = r.run_uuid
left join use_keys u on u.run_uuid = r.run_uuid
"""
POSTGRES_MAP = """select run_uuid, json_object_agg(key, value)::text as document from {table}
  where value is not null {among} {only_chosen} group by run_uuid"""

SQLITE_EXPERIMENTS = """
select {workspace}, cast(e.experiment_id as text), coalesce(cast(e.name as text), ''), coalesce(cast(e.lifecycle_stage as text), ''),
       coalesce(cast(e.artifact_location as text), ''),
       (select json_group_object(cast(t.key as text), cast(t.value as text)) from experiment_tags t
        where t.experiment_id = e.experiment_id and t.value is not null),
       coalesce(cast(e.creation_time as integer), 0), coalesce(cast(e.last_update_time as integer), 0)
from experiments e
"""

POSTGRES_EXPERIMENTS = """
select {workspace}, e.experiment_id::text, coalesce(e.name::text, ''), coalesce(e.lifecycle_stage::text, ''), coalesce(e.artifact_location::text, ''),
       coalesce((select json_object_agg(t.key, t.value)::text from experiment_tags t
                 where t.experiment_id = e.experiment_id and t.value is not null), '{{}}'),
       coalesce(e.creation_time, 0)::bigint, coalesce(e.last_update_time, 0)::bigint
from experiments e
"""

# One index search per step: the grid drives the join, independent of the planner's statistics.
SQLITE_POINTS = """
with wanted (run_uuid, key, last_step, stride) as {listed},
grid (run_uuid, key, step, last_step, stride) as (
  select run_uuid, key, 0, last_step, stride from wanted
  union all
  select run_uuid, key, step + stride, last_step, stride from grid where step + stride <= last_step
)
select cast(g.run_uuid as text), cast(g.key as text), {logged_ms} cast(m.value as real)
from grid g cross join metrics m indexed by index_metrics_run_uuid_key_step on m.run_uuid = g.run_uuid and m.key = g.key and m.step = g.step
where m.is_nan = 0 and m.value between {least} and {most}
"""
POSTGRES_POINTS = """
select w.run_uuid, w.key, {logged_ms} m.value::float8
from {listed} w (run_uuid, key, last_step, stride)
cross join lateral generate_series(0, w.last_step, w.stride) g (step)
cross join lateral (
  select value, timestamp from metrics m
  where m.run_uuid = w.run_uuid and m.key = w.key and m.step = g.step and not m.is_nan and m.value between {least} and {most} offset 0
) m
"""

# From one logged step to the first one of the next stride, with one index search each. A step may have been logged twice, before and
# after a run was stopped.
SQLITE_TIMES = """
with recursive walk (run_uuid, key, step, first_step, last_step, stride) as (
  select w.column1, w.column2, (
    select min(m.step) from metrics m indexed by index_metrics_run_uuid_key_step where m.run_uuid = w.column1 and m.key = w.column2 and m.step >= w.column3
  ), w.column3, w.column4, w.column5
  from {listed} w
  union all
  select w.run_uuid, w.key, (
    select min(m.step) from metrics m indexed by index_metrics_run_uuid_key_step
    where m.run_uuid = w.run_uuid and m.key = w.key and m.step >= w.first_step + ((w.step - w.first_step) / w.stride + 1) * w.stride
  ), w.first_step, w.last_step, w.stride
  from walk w
  where w.step <= w.last_step
)
select cast(w.run_uuid as text), cast(w.key as text), cast(w.step as integer), cast(min(m.timestamp) as integer), cast(max(m.timestamp) as integer)
from walk w cross join metrics m indexed by index_metrics_run_uuid_key_step on m.run_uuid = w.run_uuid and m.key = w.key and m.step = w.step
where w.step <= w.last_step
group by w.run_uuid, w.key, w.step
"""
POSTGRES_TIMES = """
with recursive walk (run_uuid, key, step, first_step, last_step, stride) as (
  select w.run_uuid, w.key, n.step, w.first_step, w.last_step, w.stride
  from {listed} w (run_uuid, key, first_step, last_step, stride)
  cross join lateral (
    select m.step from metrics m where m.run_uuid = w.run_uuid and m.key = w.key and m.step >= w.first_step order by m.step limit 1
  ) n
  union all
  select w.run_uuid, w.key, n.step, w.first_step, w.last_step, w.stride
  from walk w
  cross join lateral (
    select m.step from metrics m
    where m.run_uuid = w.run_uuid and m.key = w.key and m.step >= w.first_step + ((w.step - w.first_step) / w.stride + 1) * w.stride
    order by m.step limit 1
  ) n
  where w.step <= w.last_step
)
select w.run_uuid, w.key, w.step::bigint, t.first_ms, t.last_ms
from walk w
cross join lateral (
  select min(timestamp)::bigint as first_ms, max(timestamp)::bigint as last_ms from metrics m
  where m.run_uuid = w.run_uuid and m.key = w.key and m.step = w.step offset 0
) t
where w.step <= w.last_step
"""

SQLITE_ALIASES = """(select json_group_array(alias) from (select cast(a.alias as text) as alias from registered_model_aliases a
        where a.name = v.name {same_workspace_a} and a.version = v.version order by cast(a.alias as blob)))"""
POSTGRES_ALIASES = """coalesce((select json_agg(a.alias::text order by a.alias::text collate "C")::text from registered_model_aliases a
        where a.name = v.name {same_workspace_a} and a.version = v.version), '[]')"""

# No LATERAL and no outer column in a derived table: MariaDB has neither. The data of every run are read by their own subquery, through the
# index on the run. So rows are sent as they are found, and the server keeps no table of them.
MYSQL_FROM_RUN = (
    f"(m.step < {FIRST_STEP} or m.step >= {STEPS_END} or m.key not regexp '(?-i)^cost_[a-z]{{3}}(_estimated)?\\z')"  # (?-i): case counts
)
MYSQL_RUNS = """
with last_steps as (
  select m.run_uuid, convert(min(cast(m.key as binary)) using utf8mb4) as metric, m.step,
         row_number() over (partition by m.run_uuid order by m.step desc) as place
  from runs r join latest_metrics m on m.run_uuid = r.run_uuid
  where (coalesce(r.end_time, 0) = 0 or r.end_time - r.start_time > {long_ms}) and m.step > 0 and {is_from_run} {within}
  group by m.run_uuid, m.step
),
step_keys as (
  select run_uuid, group_concat(concat(metric, '{between}', step) separator '{after}') as step_keys from last_steps
  where place <= {step_keys} group by run_uuid
)
select r.run_uuid, coalesce(cast(r.experiment_id as char), ''), coalesce(r.name, ''), coalesce(r.user_id, ''), coalesce(r.status, ''),
       coalesce(r.lifecycle_stage, ''), coalesce(r.artifact_uri, ''),
       {tags},
       {params},
       coalesce((select group_concat(concat(p.key, '{between}', p.value) separator '{after}') from params p where p.run_uuid = r.run_uuid), ''),
       coalesce((select group_concat(concat(m.key, '{between}', m.step) separator '{after}') from latest_metrics m
                 where m.run_uuid = r.run_uuid and ({kinds})), ''),
       coalesce(k.step_keys, ''), coalesce(r.start_time, 0), coalesce(r.end_time, 0),
       case when coalesce(r.end_time, 0) = 0 or r.end_time > {believed_ms} then coalesce((
         select max(m.timestamp) from latest_metrics m where m.run_uuid = r.run_uuid and m.timestamp <= {believed_ms} and {is_from_run}), 0) else 0 end
from runs r left join step_keys k on k.run_uuid = r.run_uuid
where true {within}
"""
MYSQL_MAP = """coalesce((select json_objectagg(t.key, t.value) from {table} t where t.run_uuid = r.run_uuid and t.value is not null {among}), '{{}}')"""

MYSQL_EXPERIMENTS = """
select {workspace}, cast(e.experiment_id as char), coalesce(e.name, ''), coalesce(e.lifecycle_stage, ''), coalesce(e.artifact_location, ''),
       coalesce((select json_objectagg(t.key, t.value) from experiment_tags t where t.experiment_id = e.experiment_id and t.value is not null), '{{}}'),
       coalesce(e.creation_time, 0), coalesce(e.last_update_time, 0)
from experiments e
"""

MYSQL_POINTS = """
with recursive wanted as (
  select column1 as run_uuid, column2 as metric, cast(column3 as signed) as last_step, cast(column4 as signed) as stride from {listed} w
),
grid as (
  select run_uuid, metric, cast(0 as signed) as step, last_step, stride from wanted
  union all
  select run_uuid, metric, step + stride, last_step, stride from grid where step + stride <= last_step
)
select g.run_uuid, g.metric, {logged_ms} m.value
from grid g straight_join metrics m force index (index_metrics_run_uuid_key_step)
  on m.run_uuid = g.run_uuid and m.key = g.metric and m.step = g.step
where cast(m.key as binary) = cast(g.metric as binary) and m.is_nan = 0 and m.value between {least} and {most}
"""
MYSQL_TIMES = """
with recursive wanted as (
  select column1 as run_uuid, column2 as metric, cast(column3 as signed) as first_step, cast(column4 as signed) as last_step,
         cast(column5 as signed) as stride
  from {listed} w
),
walk as (
  select w.run_uuid, w.metric, (
    select min(m.step) from metrics m force index (index_metrics_run_uuid_key_step)
    where m.run_uuid = w.run_uuid and m.key = w.metric and m.step >= w.first_step
  ) as step, w.first_step, w.last_step, w.stride
  from wanted w
  union all
  select w.run_uuid, w.metric, (
    select min(m.step) from metrics m force index (index_metrics_run_uuid_key_step)
    where m.run_uuid = w.run_uuid and m.key = w.metric and m.step >= w.first_step + ((w.step - w.first_step) div w.stride + 1) * w.stride
  ), w.first_step, w.last_step, w.stride
  from walk w
  where w.step <= w.last_step
)
select w.run_uuid, w.metric, w.step, min(m.timestamp), max(m.timestamp)
from walk w straight_join metrics m force index (index_metrics_run_uuid_key_step)
  on m.run_uuid = w.run_uuid and m.key = w.metric and m.step = w.step
where w.step <= w.last_step
group by w.run_uuid, w.metric, w.step
"""
MYSQL_ALIASES = """coalesce((select concat('[', group_concat(json_quote(a.alias) order by cast(a.alias as binary) separator ','), ']')
        from registered_model_aliases a where a.name = v.name {same_workspace_a} and a.version = v.version), '[]')"""


def _values(rows: Sequence[tuple[str, ...]]) -> str:
    listed = ", ".join(f"({', '.join(row)})" for row in rows)
    return f"(values {listed})"


def _selects(rows: Sequence[tuple[str, ...]]) -> str:
    named = tuple(f"{value} as column{n}" for n, value in enumerate(rows[0], 1))
    return "(" + " union all ".join("select " + ", ".join(row) for row in (named, *rows[1:])) + ")"


SQLITE = Dialect(
    "sqlite", "text", "real", "integer", "{}", "({} / 86400000)", _values, SQLITE_FROM_RUN, SQLITE_EXPERIMENTS, SQLITE_POINTS, SQLITE_TIMES, SQLITE_ALIASES,
    "json_extract(s.content, '$.attributes.\"mlflow.chat.tokenUsage\"')",
)  # fmt: skip
POSTGRES = Dialect(
    "postgresql", "text", "float8", "bigint", "{}", "({} / 86400000)", _values, POSTGRES_FROM_RUN, POSTGRES_EXPERIMENTS, POSTGRES_POINTS, POSTGRES_TIMES, POSTGRES_ALIASES,
    "cast(s.content as json) -> 'attributes' ->> 'mlflow.chat.tokenUsage'",
)  # fmt: skip
MYSQL = Dialect(
    "mysql", "char", "double", "signed", "cast({} as binary)", "({} div 86400000)", _selects, MYSQL_FROM_RUN, MYSQL_EXPERIMENTS, MYSQL_POINTS, MYSQL_TIMES, MYSQL_ALIASES,
    "json_unquote(json_extract(s.content, '$.attributes.\"mlflow.chat.tokenUsage\"'))",
)  # fmt: skip


# A scheme without its driver -> its engine.
ENGINES = {"sqlite": SQLITE, "postgresql": POSTGRES, "postgres": POSTGRES, "mysql": MYSQL, "mariadb": MYSQL}


def is_database_uri(uri: str) -> bool:
    """Whether `uri` names a database that can be read, with or without a driver in its scheme."""
    return _scheme(uri) in ENGINES


def dialect_of(uri: str) -> Dialect:
    """Return the dialect of a database URI."""
    return ENGINES[_scheme(uri)]


def _scheme(uri: str) -> str:
    return uri.split(":", 1)[0].split("+", 1)[0]
