"""Publishes to a schema of PostgreSQL, in one transaction: readers see all of the old rows, or all of the new ones.

Rows of months that changed are deleted and copied in by COPY, as CSV that Arrow writes: Arrow's own driver for PostgreSQL takes longer
(docs/benchmarks.md). Tables stay the same ones, so grants on them and views of other people over them stay too. If the process is killed,
the server rolls back: nothing is left behind. A table that Runspend did not make is never changed.

Source: PostgreSQL "Transaction Isolation", "COPY", "Routine Vacuuming" (deleted rows are removed by autovacuum).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from runspend.actions.publish.content import BUILDS, WHOLE, Content, Found, Part, Published, builds_rows, description, months
from runspend.config.publish import PostgresTarget
from runspend.core.crash_points import crash_point
from runspend.core.errors import MissingExtra, SourceError, SourceUnreachable
from runspend.core.text import clean
from runspend.schema.published import PUBLISHED_TABLES
from runspend.schema.tables import Table

__all__ = ["probe", "publish"]

TYPES = {
    "STRING": "text",
    "INT64": "bigint",
    "FLOAT64": "double precision",
    "BOOL": "boolean",
    "DATE": "date",
    "TIMESTAMP": "timestamp with time zone",
    "BIGNUMERIC": "numeric(38,22)",
    "ARRAY<STRING>": "text[]",
}
OURS = "Written by runspend publish."  # ends the comment of every table of ours
SAFE = {"connect_timeout": "10", "application_name": "runspend publish"}
LOCK = "select pg_advisory_xact_lock(hashtextextended({text}, 0))"
FOUND = """
select c.relname, c.relkind, coalesce(obj_description(c.oid), ''), a.attname, format_type(a.atttypid, a.atttypmod), coalesce(col_description(c.oid, a.attnum), ''),
  pg_get_userbyid(c.relowner), c.relowner = r.oid or not r.rolsuper and pg_has_role(c.relowner, 'usage')
from pg_class c
join pg_roles r on r.rolname = current_user
left join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
where c.relnamespace = (select oid from pg_namespace where nspname = {schema}) and c.relname in ({names})
"""
# A schema and its tables: may this login create tables there, does it own those that it made, and may it create the schema?
RIGHTS = """
select
  has_database_privilege(current_database(), 'create'),
  (select has_schema_privilege(oid, 'create') from pg_namespace where nspname = {schema}),
  (
    select string_agg(relname, ', ' order by relname) from pg_class
    where relnamespace = (select oid from pg_namespace where nspname = {schema}) and relname in ({names}) and not pg_has_role(relowner, 'usage')
  ),
  (select true from pg_class where relnamespace = (select oid from pg_namespace where nspname = {schema}) and relname = {builds}),
  current_user
"""
# Rows of builds as Runspend writes them. A part with another one counts as missing, and is copied again.
WELL_FORMED = (
    "table_name is not null and period ~ '^([1-9][0-9]{3}-(0[1-9]|1[0-2])|all)$' and build_id is not null and row_count between 0 and 1e15"
    " and published_at between '1970-01-01' and '9999-01-01'"
)
ROWS_AT_ONCE = 65_536
BYTES_AT_ONCE = 2**20


def publish(target: PostgresTarget, content: Content, now: datetime) -> Published:
    """Make the schema hold the content. Raises SourceError; the schema then has what it had."""
    with _connected(target, "publish to") as connection:
        published = _Schema(connection, target).fill(content, now)
        crash_point("publish.postgres.before_commit")
        connection.commit()
        crash_point("publish.postgres.after_commit")
        return published


def probe(target: PostgresTarget) -> Found:
    """Return what the schema has, and whether `publish` may write there. Changes nothing. Raises SourceError if it cannot be reached."""
    with _connected(target, "use") as connection:
        return _Schema(connection, target).look()


@contextmanager
def _connected(target: PostgresTarget, verb: str) -> Iterator[Any]:
    """Open a transaction, and raise errors of the server as SourceError. `verb`: what cannot be done then, "publish to"."""
    try:
        import psycopg2
    except ImportError as error:
        raise MissingExtra("psycopg2-binary", "pipeline") from error
    try:
        with closing(psycopg2.connect(_uri(target.uri.get_secret_value()))) as connection:
            connection.set_client_encoding("UTF8")
            with connection.cursor() as cursor:  # else operators and functions of others, for more exact types, would be called
                cursor.execute("set local search_path = pg_catalog")
            yield connection
    except psycopg2.Error as error:
        raise _in_words(target, error, verb) from error


def _in_words(target: PostgresTarget, error: Any, verb: str) -> SourceError:
    state = error.pgcode or ""
    why = re.sub(r"\s+", " ", error.diag.message_primary or str(error)).strip().rstrip(".")
    # 08: connection lost; 53: no resources; 57P: the server stops; 40: the transaction lost a race
    kind = SourceUnreachable if state[:2] in ("", "08", "53", "57", "40") else SourceError
    return kind(target.name, f"cannot {verb} {target.name}: {why}. The schema {target.schema_name} has what it had before.")


def _uri(uri: str) -> str:
    """Return the address for libpq: without a driver of SQLAlchemy, and with a limit for the time to connect."""
    parts = urlsplit(uri)
    query = {**SAFE, **dict(parse_qsl(parts.query, keep_blank_values=True))}
    return urlunsplit(("postgresql", parts.netloc, parts.path, urlencode(query, quote_via=quote), ""))


class _Schema:
    """A schema in an open transaction."""

    def __init__(self, connection: Any, target: PostgresTarget) -> None:
        self._connection = connection
        self._target = target
        self._schema = target.schema_name
        self._made: set[str] = set()  # tables that this transaction creates

    def fill(self, content: Content, now: datetime) -> Published:
        """Bring tables and rows up to date. Does not commit."""
        self._run(LOCK.format(text=_literal(f"runspend publish {self._schema}")))
        if not self._ask(f"select 1 from pg_namespace where nspname = {_literal(self._schema)}"):
            self._run(f"create schema {_quote(self._schema)}")
        is_same_shape = self._make_tables((*content.tables, BUILDS))
        there = {} if BUILDS.name in self._made else self._builds()
        published = Published(content.build_id)
        whole = there.get((WHOLE, WHOLE))
        if whole is not None and whole[0] == content.build_id and is_same_shape:
            published.is_new = False
            return published
        counts: dict[tuple[str, str], tuple[int, datetime]] = {}
        changed = [p for p in content.parts if p.table.name in self._made or p.key not in there or there[p.key][0] != p.build_id]
        content.compute_ahead(changed)
        for part in content.parts:
            if part not in changed:
                counts[part.key] = there[part.key][1], there[part.key][2]
                continue
            rows = self._replace(part, content)
            counts[part.key] = rows, now
            published.add(part, rows)
        for name, period in there.keys() - {part.key for part in content.parts} - {(WHOLE, WHOLE)}:
            self._remove_period(name, period)
        self._index()
        self._run(f"delete from {self._name(BUILDS)}")
        self._copy(BUILDS, iter([_arrow(builds_rows(content, counts, now))]))
        for table in content.tables:
            if table.name in published.rows:
                self._run(f"analyze {self._name(table)}")
        return published

    def look(self) -> Found:
        """Return the build that is there, and the right that this login lacks."""
        schema, names = _literal(self._schema), ", ".join(_literal(table.name) for table in (*PUBLISHED_TABLES, BUILDS))
        ((may_create, may_add, foreign, has_builds, login),) = self._ask(
            RIGHTS.format(schema=schema, names=names, builds=_literal(BUILDS.name))
        )
        problem = None
        if may_add is None and not may_create:
            problem = f"{login} may not create the schema {self._schema}. Let an administrator run: create schema {_quote(self._schema)} authorization {_quote(login)}"
        elif may_add is False:
            problem = f"{login} may not create tables in the schema {self._schema}. Let its owner run: grant create on schema {_quote(self._schema)} to {_quote(login)}"
        elif foreign:
            problem = f"{login} does not own {foreign} in the schema {self._schema}. Publish with the login that owns them, or set another `schema`"
        whole = self._builds().get((WHOLE, WHOLE)) if has_builds and not problem else None
        return Found(whole[0], whole[2], problem) if whole else Found(problem=problem)

    def _make_tables(self, tables: Sequence[Table]) -> bool:
        """Create missing tables and columns, drop former columns, and describe all. Returns whether all tables had these columns."""
        names = ", ".join(_literal(table.name) for table in tables)
        found: dict[str, list[tuple[Any, ...]]] = {}
        for row in self._ask(FOUND.format(schema=_literal(self._schema), names=names)):
            found.setdefault(row[0], []).append(row)
        is_same = True
        for table in tables:
            rows = found.get(table.name)
            if rows is None:
                self._run(f"create table {self._name(table)} ({', '.join(f'{_quote(c.name)} {TYPES[c.type]}' for c in table.columns)})")
                self._made.add(table.name)
                described: dict[str, str] = {}
                comment = ""
            else:
                comment, described = rows[0][2], {row[3]: row[5] for row in rows}
                if rows[0][1] != "r" or not comment.endswith(OURS):
                    raise SourceError(
                        self._target.name,
                        f"cannot publish to {self._target.name}: the schema {self._schema} has a {table.name} that `runspend publish` did not make."
                        " Nothing was changed. Set `schema` to one that only Runspend writes.",
                    )
                if not rows[0][7]:  # its triggers and defaults would run with the rights of this login
                    raise SourceError(
                        self._target.name,
                        f"cannot publish to {self._target.name}: the table {table.name} in the schema {self._schema} belongs to {clean(rows[0][6])}, not to"
                        " this login. Nothing was changed. Publish with the login that owns it, or set another `schema`.",
                    )
                is_same &= self._change_columns(table, {row[3]: row[4] for row in rows})
            self._describe(table, comment, described)
        return is_same and not self._made

    def _change_columns(self, table: Table, types: Mapping[str, str]) -> bool:
        """Make the columns those of this version; rows are copied again then, because build ids depend on the columns."""
        wanted = {c.name: TYPES[c.type] for c in table.columns}
        dropped = [name for name, type_ in types.items() if wanted.get(name) != type_]
        added = [name for name, type_ in wanted.items() if types.get(name) != type_]
        changes = [f"drop column {_quote(name)}" for name in dropped] + [f"add column {_quote(name)} {wanted[name]}" for name in added]
        if changes:
            self._run(f"alter table {self._name(table)} {', '.join(changes)}")
        return not changes

    def _describe(self, table: Table, comment: str, described: Mapping[str, str]) -> None:
        text = f"{description(table)} {OURS}"
        if comment != text:
            self._run(f"comment on table {self._name(table)} is {_literal(text)}")
        for column in table.columns:
            if described.get(column.name) != column.meaning:
                self._run(f"comment on column {self._name(table)}.{_quote(column.name)} is {_literal(column.meaning)}")

    def _builds(self) -> dict[tuple[str, str], tuple[str, int, datetime]]:
        rows = self._ask(f"select table_name, period, build_id, row_count, published_at from {self._name(BUILDS)} where {WELL_FORMED}")
        return {(row[0], row[1]): (row[2], row[3], row[4]) for row in rows}

    def _replace(self, part: Part, content: Content) -> int:
        import pyarrow.parquet as pq

        if part.table.name not in self._made:
            self._delete(part.table, months(part))
        with content.files(part) as files:
            rows = 0
            for file in files:
                with pq.ParquetFile(file) as read:
                    rows += read.metadata.num_rows
                    self._copy(part.table, read.iter_batches(ROWS_AT_ONCE))
        crash_point(f"publish.postgres.{part.table.name}")
        return rows

    def _remove_period(self, name: str, period: str) -> None:
        """Delete the rows of a month that the warehouse no longer has, or of a table that the target no longer names."""
        for table in PUBLISHED_TABLES:
            if table.name == name and (period == WHOLE) == (table.period_column is None):
                self._delete(table, months(Part(table, period, "", ())))

    def _delete(self, table: Table, span: tuple[str, str] | None) -> None:
        where = f" where {table.period_column} >= date '{span[0]}' and {table.period_column} < date '{span[1]}'" if span is not None else ""
        self._run(f"delete from {self._name(table)}{where}")

    def _index(self) -> None:
        """Index the DATE columns of new tables, once their rows are there."""
        for table in PUBLISHED_TABLES:
            if table.name in self._made:
                for column in (c for c in table.columns if c.type == "DATE"):
                    self._run(f"create index on {self._name(table)} ({_quote(column.name)})")

    def _copy(self, table: Table, batches: Iterator[Any]) -> None:
        """Copy rows in by COPY, batch by batch."""
        import pyarrow as pa

        schema = table.arrow_schema()
        stream = _Stream(_csv(pa.Table.from_batches([given]).select(schema.names).cast(schema)) for given in batches)
        with self._connection.cursor() as cursor:
            cursor.copy_expert(
                f"copy {self._name(table)} ({', '.join(map(_quote, schema.names))}) from stdin (format csv)", stream, BYTES_AT_ONCE
            )

    def _name(self, table: Table) -> str:
        return f"{_quote(self._schema)}.{_quote(table.name)}"

    def _run(self, sql: str) -> None:
        self._ask(sql)

    def _ask(self, sql: str) -> Sequence[tuple[Any, ...]]:
        with self._connection.cursor() as cursor:
            cursor.execute(sql)
            found: Sequence[tuple[Any, ...]] = cursor.fetchall() if cursor.description else ()
            return found


class _Stream:
    """Pieces of bytes as the file that COPY reads."""

    def __init__(self, pieces: Iterator[memoryview]) -> None:
        self._pieces = pieces
        self._left = memoryview(b"")

    def read(self, size: int) -> bytes:
        while not self._left:
            piece = next(self._pieces, None)
            if piece is None:
                return b""
            self._left = piece
        given, self._left = self._left[:size], self._left[size:]
        return bytes(given)


def _csv(rows: Any) -> memoryview:
    """Return rows as PostgreSQL reads CSV: a null is nothing, an empty text is `""`, a list is an array's literal."""
    import pyarrow as pa
    import pyarrow.csv

    for index, field in enumerate(rows.schema):
        if pa.types.is_list(field.type):
            rows = rows.set_column(index, field.name, _array_literals(rows.column(index).combine_chunks()))
    target = pa.BufferOutputStream()
    pyarrow.csv.write_csv(_without_nul(rows), target, pyarrow.csv.WriteOptions(include_header=False, batch_size=ROWS_AT_ONCE))
    return memoryview(target.getvalue())


def _array_literals(lists: Any) -> Any:
    """Return lists of texts as `{"a","b"}`. Source: PostgreSQL "Arrays", Array Input and Output Syntax."""
    import pyarrow as pa
    import pyarrow.compute as pc

    texts = pc.replace_substring(pc.replace_substring(lists.flatten(), "\\", "\\\\"), '"', '\\"')
    quoted = pc.fill_null(pc.binary_join_element_wise('"', texts, '"', ""), "NULL")
    lengths = pc.fill_null(pc.list_value_length(lists), 0)
    offsets = pa.concat_arrays([pa.array([0], pa.int64()), pc.cumulative_sum(lengths.cast(pa.int64()))]).cast(pa.int32())
    joined = pc.binary_join_element_wise("{", pc.binary_join(pa.ListArray.from_arrays(offsets, quoted), ","), "}", "")
    return pc.if_else(lists.is_valid(), joined, None)


def _without_nul(rows: Any) -> Any:
    """Return the rows without NUL characters, which PostgreSQL's texts cannot have and names in MLflow can."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for index, field in enumerate(rows.schema):
        if pa.types.is_string(field.type) and pc.any(pc.match_substring(rows.column(index), "\0")).as_py():
            rows = rows.set_column(index, field, pc.replace_substring(rows.column(index), "\0", ""))
    return rows


def _arrow(rows: Sequence[Mapping[str, Any]]) -> Any:
    import pyarrow as pa

    (batch,) = pa.Table.from_pylist(list(rows), schema=BUILDS.arrow_schema()).to_batches()
    return batch


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
