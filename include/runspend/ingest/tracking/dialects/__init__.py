"""The SQL in which SQLite, PostgreSQL and MySQL differ: one `Dialect` for each, the only place where a query depends on the engine.

`database.py` and `links_database.py` fill these queries and read their rows. Whole queries are in the .sql files of this folder, one for each
engine and purpose; `str.format` fills them, so a brace is written twice. MariaDB counts as MySQL: all its queries are understood by
MySQL 8.0 and by MariaDB 10.5, so they use nothing that only one of them has (LATERAL, VALUES ROW, an ordered JSON_ARRAYAGG).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

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
    aliases: str
    token_usage: str  # the tokens of span s, as JSON

    def sql(self, purpose: str) -> str:
        """Return the query for runs, experiments, points or times."""
        return Path(__file__).with_name(f"{self.name}_{purpose}.sql").read_text(encoding="utf-8")

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

# Use the index on the run: with the keys in the condition, SQLite would use the primary key, one search per key (`+` prevents that).
SQLITE_MAP = """(select json_group_object(cast(t.key as text), cast(t.value as text)) from {table} t
        where t.run_uuid = r.run_uuid and t.value is not null {among})"""
SQLITE_USE_KEYS = """coalesce((select group_concat(cast(m.key as text) || char(30) || cast(m.step as integer), char(31)) from latest_metrics m
                 where m.run_uuid = r.run_uuid and ({kinds})), '')"""

POSTGRES_MAP = """select run_uuid, json_object_agg(key, value)::text as document from {table}
  where value is not null {among} {only_chosen} group by run_uuid"""

SQLITE_ALIASES = """(select json_group_array(alias) from (select cast(a.alias as text) as alias from registered_model_aliases a
        where a.name = v.name {same_workspace_a} and a.version = v.version order by cast(a.alias as blob)))"""
POSTGRES_ALIASES = """coalesce((select json_agg(a.alias::text order by a.alias::text collate "C")::text from registered_model_aliases a
        where a.name = v.name {same_workspace_a} and a.version = v.version), '[]')"""

# No LATERAL and no outer column in a derived table: MariaDB has neither. The data of every run are read by their own subquery, through the
# index on the run. So rows are sent as they are found, and the server keeps no table of them.
MYSQL_FROM_RUN = (
    f"(m.step < {FIRST_STEP} or m.step >= {STEPS_END} or m.key not regexp '(?-i)^cost_[a-z]{{3}}(_estimated)?\\z')"  # (?-i): case counts
)
MYSQL_MAP = """coalesce((select json_objectagg(t.key, t.value) from {table} t where t.run_uuid = r.run_uuid and t.value is not null {among}), '{{}}')"""
MYSQL_ALIASES = """coalesce((select concat('[', group_concat(json_quote(a.alias) order by cast(a.alias as binary) separator ','), ']')
        from registered_model_aliases a where a.name = v.name {same_workspace_a} and a.version = v.version), '[]')"""


def _values(rows: Sequence[tuple[str, ...]]) -> str:
    listed = ", ".join(f"({', '.join(row)})" for row in rows)
    return f"(values {listed})"


def _selects(rows: Sequence[tuple[str, ...]]) -> str:
    named = tuple(f"{value} as column{n}" for n, value in enumerate(rows[0], 1))
    return "(" + " union all ".join("select " + ", ".join(row) for row in (named, *rows[1:])) + ")"


SQLITE = Dialect(
    "sqlite", "text", "real", "integer", "{}", "({} / 86400000)", _values, SQLITE_FROM_RUN, SQLITE_ALIASES,
    "json_extract(s.content, '$.attributes.\"mlflow.chat.tokenUsage\"')",
)  # fmt: skip
POSTGRES = Dialect(
    "postgresql", "text", "float8", "bigint", "{}", "({} / 86400000)", _values, POSTGRES_FROM_RUN, POSTGRES_ALIASES,
    "cast(s.content as json) -> 'attributes' ->> 'mlflow.chat.tokenUsage'",
)  # fmt: skip
MYSQL = Dialect(
    "mysql", "char", "double", "signed", "cast({} as binary)", "({} div 86400000)", _selects, MYSQL_FROM_RUN, MYSQL_ALIASES,
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
