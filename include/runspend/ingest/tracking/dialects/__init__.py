"""The SQL that differs between SQLite, PostgreSQL and MySQL, with one `Dialect` for each engine.

`database.py` and `links_database.py` fill in these queries and read their rows. The .sql files of this folder contain whole queries, one
file for each engine and purpose. `str.format` fills them in, so a literal brace is written twice. MariaDB uses the MySQL dialect. Its
queries run on MySQL 8.0 and on MariaDB 10.5, so they avoid features that only one of them has (LATERAL, VALUES ROW, an ordered
JSON_ARRAYAGG).
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
    """The queries of one engine, and the SQL fragments that are inserted into the queries that all engines share."""

    name: str
    text: str  # type names in casts
    real: str
    integer: str
    exact: str  # compares a column byte for byte; MySQL's own comparison ignores case, accents and trailing spaces
    day: str  # converts epoch milliseconds to a day number
    listed: Callable[[Sequence[tuple[str, ...]]], str]  # returns rows of literals as a table with the columns column1, column2, …
    from_run: str  # true if the run itself logged a point of metric m, false for a cost that Runspend wrote
    aliases: str
    token_usage: str  # the token usage of span s as JSON

    def sql(self, purpose: str) -> str:
        """Return the query for a purpose: "runs", "experiments", "points" or "times"."""
        return Path(__file__).with_name(f"{self.name}_{purpose}.sql").read_text(encoding="utf-8")

    def among(self, column: str, keys: Sequence[str]) -> str:
        """Return SQL that is true if a column equals one of the keys byte for byte."""
        return f"{self.exact.format(column)} in ({', '.join(map(literal, keys))})"


def literal(text: str) -> str:
    """Return text as a SQL literal, without NUL characters. A literal cannot contain NUL, and neither can a key in these databases."""
    return sql_text(text.replace("\0", ""))


# These conditions exclude cost metrics that Runspend wrote (core/cost_keys.py), because they do not show that a run is alive.
SQLITE_FROM_RUN = (
    f"(m.step < {FIRST_STEP} or m.step >= {STEPS_END}"
    " or (m.key not glob 'cost_[a-z][a-z][a-z]' and m.key not glob 'cost_[a-z][a-z][a-z]_estimated'))"
)
POSTGRES_FROM_RUN = f"(step < {FIRST_STEP} or step >= {STEPS_END} or key !~ '^cost_[a-z]{{3}}(_estimated)?$')"

# SQLite must use the index on the run. With a plain condition on the keys, it would use the primary key, with one search per key.
# `+t.key` in that condition prevents this.
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

# MariaDB supports neither LATERAL nor outer columns in a derived table. So subqueries read the data of each run through the index on the
# run. The server then sends each row when it is found and does not build a temporary table.
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


# The dialect of each URI scheme, without the name of a driver.
ENGINES = {"sqlite": SQLITE, "postgresql": POSTGRES, "postgres": POSTGRES, "mysql": MYSQL, "mariadb": MYSQL}


def is_database_uri(uri: str) -> bool:
    """Return whether `uri` names a database that Runspend can read. Its scheme may include a driver, for example mysql+pymysql."""
    return _scheme(uri) in ENGINES


def dialect_of(uri: str) -> Dialect:
    """Return the dialect of a database URI."""
    return ENGINES[_scheme(uri)]


def _scheme(uri: str) -> str:
    return uri.split(":", 1)[0].split("+", 1)[0]
