"""Publish to a schema of PostgreSQL in one transaction: readers see either all old rows or all new rows.

The rows of changed months are deleted and copied again with COPY, as CSV that Arrow writes. Arrow's own driver for PostgreSQL is slower
(docs/benchmarks.md). Tables are never recreated, so grants on them and other people's views over them are kept. If the process is killed,
the server rolls back, and nothing is left behind. A table that Runspend did not make is never changed.

In PostgreSQL, cost_daily has rounded costs in four additional columns, and costs_for_dashboards is a view over it. So each row is copied
only once. Readers of the view need no rights on cost_daily. Earlier versions made a table costs_for_dashboards. It stays a table if objects
of others depend on it.

Source: PostgreSQL "Transaction Isolation", "COPY", "Rules and Privileges", "Routine Vacuuming" (deleted rows are removed by autovacuum).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from runspend.actions.publish.content import BUILDS, WHOLE, Content, Found, Part, Published, builds_rows, months
from runspend.actions.publish.postgres.csv_rows import ByteStream, write_csv
from runspend.config.publish import PostgresTarget
from runspend.core.ahead import Ahead
from runspend.core.crash_points import crash_point
from runspend.core.errors import MissingExtra, RunspendError, SourceError, SourceUnreachable
from runspend.core.machine_faults import fault_of
from runspend.core.sql_quoting import sql_name, sql_text
from runspend.core.text import clean
from runspend.schema.public_views import COST_DAILY_AT_POSTGRES, COSTS_FOR_DASHBOARDS, ROUNDED
from runspend.schema.published import PUBLISHED_TABLES
from runspend.schema.tables import COST_DAILY, Table
from runspend.warehouse.dialect import postgres_sql

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
OURS = "Written by runspend publish."  # the end of the comment on every table that Runspend made
READ_FAILED = "error in .read() call"  # psycopg2's message if read() raises any error during COPY
SAFE = {"connect_timeout": "10", "application_name": "runspend publish"}
LOCK = "select pg_advisory_xact_lock(hashtextextended({text}, 0))"
# The rows of runspend_builds that Runspend can have written. A part with any other row counts as missing, and is copied again.
WELL_FORMED = (
    "table_name is not null and period ~ '^([1-9][0-9]{3}-(0[1-9]|1[0-2])|all)$' and build_id is not null and row_count between 0 and 1e15"
    " and published_at between '1970-01-01' and '9999-01-01'"
)
ALL = (*PUBLISHED_TABLES, BUILDS)
ROWS_AT_ONCE = 65_536
BYTES_AT_ONCE = 2**20


def publish(target: PostgresTarget, content: Content, now: datetime) -> Published:
    """Update the schema to the content. Raises SourceError if that fails; the transaction is then rolled back."""
    try:
        with _connected(target, "publish to") as connection:
            published = _Schema(connection, target).fill(content, now)
            crash_point("publish.postgres.before_commit")
            _commit(connection, target)
            crash_point("publish.postgres.after_commit")
            return published
    except RunspendError:
        raise
    except Exception as error:  # for example, no disk space is left to compute rounded costs
        if (fault := fault_of(error)) is None:
            raise
        raise SourceError(target.name, f"cannot publish to {target.name}: {fault} {_kept(target)}") from error


def probe(target: PostgresTarget) -> Found:
    """Return the build in the schema, and why `publish` may not write there, if so. Changes nothing.

    Raises SourceError if the schema cannot be read.
    """
    with _connected(target, "use") as connection:
        return _Schema(connection, target).look()


@contextmanager
def _connected(target: PostgresTarget, verb: str) -> Iterator[Any]:
    """Open a transaction, and raise errors of the server as SourceError. `verb`: the action in their message, such as "publish to"."""
    try:
        import psycopg2
    except ImportError as error:
        raise MissingExtra("psycopg2-binary", "pipeline") from error
    try:
        with closing(psycopg2.connect(_uri(target.uri.get_secret_value()))) as connection:
            connection.set_client_encoding("UTF8")
            # Use only PostgreSQL's own operators and functions. Names of types must not be quoted, because they are compared with TYPES.
            with connection.cursor() as cursor:
                cursor.execute("set local search_path = pg_catalog; set local quote_all_identifiers = off")
            yield connection
    except psycopg2.Error as error:
        raise _in_words(target, error, verb) from error


def _commit(connection: Any, target: PostgresTarget) -> None:
    """Commit the transaction. Raises SourceUnreachable if the connection is lost meanwhile: only the server then knows the outcome."""
    import psycopg2

    try:
        connection.commit()
    except psycopg2.Error as error:
        if (error.pgcode or "")[:2] not in ("", "08", "57"):
            raise
        raise SourceUnreachable(
            target.name,
            f"cannot tell whether the publish to {target.name} succeeded: {_reason(error)}. The schema {target.schema_name} has all of the new rows, or"
            " what it had before. The next publish brings it up to date.",
        ) from error


def _in_words(target: PostgresTarget, error: Any, verb: str) -> SourceError:
    state, why = error.pgcode or "", _reason(error)
    if state == "2BP01":  # dependent objects prevent the change; the detail names them
        why += " (" + (error.diag.message_detail or "").replace("\n", "; ") + ")"
    # 08: connection lost; 53: no resources; 57P: the server stops; 40: the transaction lost a race
    kind = SourceUnreachable if state[:2] in ("", "08", "53", "57", "40") else SourceError
    return kind(target.name, f"cannot {verb} {target.name}: {why}. {_kept(target)}")


def _query(name: str, **parts: str) -> str:
    """Return the query on PostgreSQL's catalog in `<name>.sql` of this folder. `parts`: SQL for its placeholders."""
    return Path(__file__).with_name(f"{name}.sql").read_text(encoding="utf-8").format(**parts)


def _reason(error: Any) -> str:
    why = re.sub(r"\s+", " ", error.diag.message_primary or str(error)).strip().rstrip(".")
    return "the connection was lost" if why == "invalid socket" else why


def _kept(target: PostgresTarget) -> str:
    return f"The schema {target.schema_name} is unchanged."


def _uri(uri: str) -> str:
    """Return the address for libpq: without the driver name of SQLAlchemy, and with a timeout for connecting."""
    parts = urlsplit(uri)
    query = {**SAFE, **dict(parse_qsl(parts.query, keep_blank_values=True))}
    return urlunsplit(("postgresql", parts.netloc, parts.path, urlencode(query, quote_via=quote), ""))


_Build = tuple[str, int, datetime]  # a build's id, its number of rows, and when it was published


class _FoundColumn(NamedTuple):
    """A row of `columns.sql`: a column, and the table or view that has it."""

    table: str
    kind: str  # r: a table; v: a view
    comment: str
    column: str
    type: str
    meaning: str
    owner: str
    is_own: bool
    options: str | None


class _Schema:
    """A schema in an open transaction."""

    def __init__(self, connection: Any, target: PostgresTarget) -> None:
        self._connection = connection
        self._target = target
        self._schema = target.schema_name
        self._found: dict[str, list[_FoundColumn]] = {}  # the columns of each existing table or view
        self._made: set[str] = set()  # tables that this transaction creates
        self._altered: set[str] = set()  # tables whose columns this transaction changes
        self._grants: list[str] | None = None  # on the dropped view, or on the table in its place; None if nothing was dropped
        self._options = ""  # of the existing view, such as security_invoker=true

    def fill(self, content: Content, now: datetime) -> Published:
        """Update tables and rows to the content. Does not commit."""
        self._open(content)
        published = Published(content.build_id)
        wants_view = COSTS_FOR_DASHBOARDS in content.tables and not self._stays_table(published)
        stored = [
            COST_DAILY_AT_POSTGRES if table is COST_DAILY else table
            for table in content.tables
            if not (wants_view and table is COSTS_FOR_DASHBOARDS)
        ]
        is_schema_current = self._make_tables((*stored, BUILDS)) and self._is_view_current(wants_view)
        there = {} if BUILDS.name in self._made else self._builds()
        whole = there.get((WHOLE, WHOLE))
        if whole is not None and whole[0] == content.build_id and is_schema_current:
            published.is_new = False
            return published
        stored_as = {
            part: part.rounded if part.table is COST_DAILY or (wants_view and part.table is COSTS_FOR_DASHBOARDS) else part
            for part in content.parts
        }
        rows = self._replace_stale(content, stored_as, there)
        counts: dict[tuple[str, str], tuple[int, datetime]] = {}
        for part, kept in stored_as.items():
            if kept.key in rows:
                counts[part.key] = rows[kept.key], now
                published.add(part, rows[kept.key])
            else:
                counts[part.key] = there[part.key][1:]
        for name, period in there.keys() - {part.key for part in content.parts} - {(WHOLE, WHOLE)}:
            self._remove_period(name, period)
        self._index()
        self._run(f"delete from {self._name(BUILDS)}")
        self._copy(BUILDS, iter([_arrow(builds_rows(content, counts, now))]))
        for table in stored:
            if any(table.name == name for name, _ in rows):
                self._run(f"analyze {self._name(table)}")
        self._make_view(wants_view)
        return published

    def _open(self, content: Content) -> None:
        """Lock the schema, create it if it is missing, and read its tables.

        Raises SourceError if this login may not replace one of its tables.
        """
        self._run(LOCK.format(text=sql_text(f"runspend publish {self._schema}")))
        if not self._ask(f"select 1 from pg_namespace where nspname = {sql_text(self._schema)}"):
            self._run(f"create schema {sql_name(self._schema)}")
        self._find()
        for table in (*content.tables, BUILDS):
            self._refuse_foreign(table)

    def _replace_stale(
        self, content: Content, stored_as: Mapping[Part, Part], there: Mapping[tuple[str, str], _Build]
    ) -> dict[tuple[str, str], int]:
        """Replace the rows of all parts that have another build in the schema. Return the number of rows by part."""
        for table in PUBLISHED_TABLES:  # without recorded builds, its rows may be of months that no longer exist
            if self._is_ours(table) and not any(table.name == name for name, _ in there):
                self._delete(table, None)
        stale = {
            kept.key: kept
            for part, kept in stored_as.items()
            if kept.table.name in self._made | self._altered or part.key not in there or there[part.key][0] != part.build_id
        }
        # cost_daily is copied last, because its rounded costs are computed while other parts are copied.
        order = sorted(stale.values(), key=lambda kept: kept.table is COST_DAILY_AT_POSTGRES)
        rows = {}
        for number, kept in enumerate(order):
            content.compute_ahead(order[number:])
            rows[kept.key] = self._replace(kept, content)
        return rows

    def _stays_table(self, published: Published) -> bool:
        """Return whether costs_for_dashboards is a table of an earlier version that must stay a table. `published` then gets a note."""
        view = COSTS_FOR_DASHBOARDS
        if not self._is_ours(view) or not self._ask(_query("depended_on", table=sql_text(self._name(view))))[0][0]:
            return False
        published.notes.append(
            "costs_for_dashboards is still a table, so its rows are stored twice: a view, policy, trigger or index depends on it."
            " Drop that object; the next publish then creates the view"
        )
        return True

    def look(self) -> Found:
        """Return the build in the schema, and the right that this login lacks, if any."""
        schema, names = sql_text(self._schema), ", ".join(sql_text(table.name) for table in ALL)
        ((may_create, may_add, foreign, has_builds, login),) = self._ask(
            _query("rights", schema=schema, names=names, builds=sql_text(BUILDS.name))
        )
        problem = None
        if may_add is None and not may_create:
            problem = f"{login} may not create the schema {self._schema}. Let an administrator run: create schema {sql_name(self._schema)} authorization {sql_name(login)}"
        elif may_add is False:
            problem = f"{login} may not create tables in the schema {self._schema}. Let its owner run: grant create on schema {sql_name(self._schema)} to {sql_name(login)}"
        elif foreign:
            problem = f"{login} does not own {foreign} in the schema {self._schema}. Publish with the login that owns them, or set another `schema`"
        whole = self._builds().get((WHOLE, WHOLE)) if has_builds and not problem else None
        return Found(whole[0], whole[2], problem) if whole else Found(problem=problem)

    def _find(self) -> None:
        """Record the existing tables and views with their columns."""
        names = ", ".join(sql_text(table.name) for table in ALL)
        for row in self._ask(_query("columns", schema=sql_text(self._schema), names=names)):
            column = _FoundColumn(*row)
            self._found.setdefault(column.table, []).append(column)
        if self._is_ours(COSTS_FOR_DASHBOARDS, "v"):
            self._options = self._found[COSTS_FOR_DASHBOARDS.name][0].options or ""

    def _make_tables(self, tables: Sequence[Table]) -> bool:
        """Create missing tables and columns, drop former columns, and write comments. Returns whether no table or column had to change."""
        is_same = True
        for table in tables:
            rows = self._found.get(table.name)
            if rows is None:
                self._run(f"create table {self._name(table)} ({', '.join(f'{sql_name(c.name)} {TYPES[c.type]}' for c in table.columns)})")
                self._made.add(table.name)
            else:
                is_same &= self._change_columns(table, {row.column: row.type for row in rows})
            self._describe("table", table, f"{table.description} {OURS}")
        return is_same and not self._made

    def _is_ours(self, table: Table, kind: str = "r") -> bool:
        """Return whether the schema has this table (or view, `kind` "v"), made by Runspend, and this login may replace it."""
        return any(row.kind == kind and row.comment.endswith(OURS) and row.is_own for row in self._found.get(table.name, [])[:1])

    def _refuse_foreign(self, table: Table) -> None:
        """Raise SourceError if Runspend did not make the table or view, or if another login owns it."""
        kinds = "rv" if table is COSTS_FOR_DASHBOARDS else "r"
        for found in self._found.get(table.name, [])[:1]:
            if found.kind not in kinds or not found.comment.endswith(OURS):
                raise SourceError(
                    self._target.name,
                    f"cannot publish to {self._target.name}: the schema {self._schema} has a {table.name} that `runspend publish` did not make."
                    " Nothing was changed. Set `schema` to one that only Runspend writes.",
                )
            if not found.is_own:  # its triggers and defaults would run with the rights of this login
                raise SourceError(
                    self._target.name,
                    f"cannot publish to {self._target.name}: the table {table.name} in the schema {self._schema} belongs to {clean(found.owner)}, not to"
                    " this login. Nothing was changed. Publish with the login that owns it, or set another `schema`.",
                )

    def _change_columns(self, table: Table, types: Mapping[str, str]) -> bool:
        """Give the table the columns of this version. Returns whether nothing had to change.

        If columns change, all rows are deleted, and copied again later.
        """
        wanted = {c.name: TYPES[c.type] for c in table.columns}
        dropped = [name for name, type_ in types.items() if wanted.get(name) != type_]
        added = [name for name, type_ in wanted.items() if types.get(name) != type_]
        changes = [f"drop column {sql_name(name)}" for name in dropped] + [f"add column {sql_name(name)} {wanted[name]}" for name in added]
        if changes:
            self._altered.add(table.name)
            is_view = self._is_ours(COSTS_FOR_DASHBOARDS, "v")
            if table is COST_DAILY_AT_POSTGRES and (is_view or self._is_ours(COSTS_FOR_DASHBOARDS)):
                # Lock costs_for_dashboards before cost_daily, as readers do. The reverse order could deadlock.
                self._run(f"lock table {self._name(COSTS_FOR_DASHBOARDS)} in access exclusive mode")
                if dropped and is_view:
                    self._drop_view()
            self._delete(table, None)  # the dropped column may be the one by which months are deleted
            self._run(f"alter table {self._name(table)} {', '.join(changes)}")
        return not changes

    def _describe(self, kind: str, table: Table, text: str) -> None:
        rows = self._found.get(table.name, [])
        described = {row.column: row.meaning for row in rows}
        if not rows or rows[0].comment != text:
            self._run(f"comment on {kind} {self._name(table)} is {sql_text(text)}")
        for column in table.columns:
            if described.get(column.name) != column.meaning:
                self._run(f"comment on column {self._name(table)}.{sql_name(column.name)} is {sql_text(column.meaning)}")

    def _is_view_current(self, is_wanted: bool) -> bool:
        """Return whether costs_for_dashboards is already as `_make_view` would make it."""
        view = COSTS_FOR_DASHBOARDS
        if self._grants is not None:  # it was dropped
            return False
        if not self._is_ours(view, "v"):
            return not is_wanted
        return self._found[view.name][0].comment == self._view(is_wanted)[1]

    def _view(self, is_wanted: bool) -> tuple[list[str], str]:
        """Return the columns and the comment of the view.

        Columns keep their present order, so that PostgreSQL can replace the view without dropping it.
        """
        wanted = {c.name: TYPES[c.type] for c in COSTS_FOR_DASHBOARDS.columns}
        there = {row.column: row.type for row in self._found.get(COSTS_FOR_DASHBOARDS.name, []) if row.kind == "v"}
        if any(wanted.get(name) != type_ for name, type_ in there.items()):
            there = {}
        names = [*there, *(name for name in wanted if name not in there)]
        version = hashlib.sha256(repr((self._view_sql(is_wanted), names)).encode()).hexdigest()[:8]
        return names, f"{COSTS_FOR_DASHBOARDS.description} View {version}. {OURS}"

    def _view_sql(self, is_wanted: bool) -> str:
        """Return the query of the view. If it is not wanted, the query reads no table and returns no rows.

        In that case, nothing keeps the columns of cost_daily up to date.
        """
        view = COSTS_FOR_DASHBOARDS
        if not is_wanted:
            return f"select {', '.join(f'cast(null as {TYPES[c.type]}) as {sql_name(c.name)}' for c in view.columns)} where false"
        # A CTE would prevent PostgreSQL from optimizing over the table: queries took a third longer.
        before, found, after = postgres_sql(view.labels_sql).partition(f"FROM {ROUNDED})")
        if not found:
            raise ValueError(f"cannot write the query of {view.name} for PostgreSQL: it does not read {ROUNDED}.")
        return f"{before}FROM {self._name(COST_DAILY)}){after}"

    def _make_view(self, is_wanted: bool) -> None:
        """Make costs_for_dashboards a view over cost_daily, with its former options and the former read rights of others.

        If `is_wanted` is false, the view has no rows. This runs last, because readers wait from here until the commit.
        """
        view = COSTS_FOR_DASHBOARDS
        if self._is_view_current(is_wanted):
            return
        names, comment = self._view(is_wanted)
        rows = self._found.get(view.name, [])
        if rows and (rows[0].kind == "r" or names[: len(rows)] != [row.column for row in rows]):
            self._drop_view()
        # Without its option security_invoker, readers of the view would get the rights of its owner.
        options = f" with ({self._options})" if self._options else ""
        self._run(
            f"create or replace view {self._name(view)}{options}"
            f" as select {', '.join(map(sql_name, names))} from ({self._view_sql(is_wanted)}) as v"
        )
        self._describe("view", view, comment)
        for (owner,) in self._ask(_query("owner", table=sql_text(self._name(COST_DAILY)))):
            self._run(f"alter view {self._name(view)} owner to {owner}")
        if self._grants is not None:
            # Default privileges may grant the new view to roles that could not read the old one.
            for (grantee,) in self._ask(_query("grantees", table=sql_text(self._name(view)))):
                self._run(f"revoke all on {self._name(view)} from {grantee}")
            for grant in self._grants:
                self._run(grant)

    def _drop_view(self) -> None:
        """Drop costs_for_dashboards and record its read rights, so that `_make_view` can grant them again.

        PostgreSQL refuses to drop it if objects of others depend on it.
        """
        kind = self._found.pop(COSTS_FOR_DASHBOARDS.name)[0].kind
        self._run(f"lock table {self._name(COSTS_FOR_DASHBOARDS)} in access exclusive mode")
        name, columns = self._name(COSTS_FOR_DASHBOARDS), ", ".join(sql_text(c.name) for c in COSTS_FOR_DASHBOARDS.columns)
        self._grants = [grant for (grant,) in self._ask(_query("grants", table=sql_text(name), columns=columns))]
        self._run(f"drop {'table' if kind == 'r' else 'view'} {name}")

    def _builds(self) -> dict[tuple[str, str], _Build]:
        rows = self._ask(f"select table_name, period, build_id, row_count, published_at from {self._name(BUILDS)} where {WELL_FORMED}")
        return {(table, period): (build_id, count, at) for table, period, build_id, count, at in rows}

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
        """Delete the rows of a month that the warehouse no longer has, or of a table that the target no longer selects."""
        for table in PUBLISHED_TABLES:
            if table.name == name and (period == WHOLE) == (table.period_column is None) and self._is_ours(table):
                self._delete(table, months(Part(table, period, "", ())))

    def _delete(self, table: Table, span: tuple[str, str] | None) -> None:
        where = f" where {table.period_column} >= date '{span[0]}' and {table.period_column} < date '{span[1]}'" if span is not None else ""
        self._run(f"delete from {self._name(table)}{where}")

    def _index(self) -> None:
        """Index the DATE columns of new tables. Call it after their rows are copied."""
        for table in PUBLISHED_TABLES:
            if table.name in self._made:
                for column in (c for c in table.columns if c.type == "DATE"):
                    self._run(f"create index on {self._name(table)} ({sql_name(column.name)})")

    def _copy(self, table: Table, batches: Iterator[Any]) -> None:
        """Copy rows in by COPY, batch by batch."""
        import pyarrow as pa

        schema = table.arrow_schema()
        tables = (pa.Table.from_batches([given]).select(schema.names).cast(schema) for given in batches)
        with closing(Ahead(piece for rows in tables for piece in write_csv(rows))) as pieces, self._connection.cursor() as cursor:
            stream = ByteStream(pieces)
            try:
                cursor.copy_expert(
                    f"copy {self._name(table)} ({', '.join(map(sql_name, schema.names))}) from stdin (format csv)", stream, BYTES_AT_ONCE
                )
            except Exception as error:
                if stream.error is not None:  # such as Ctrl-C or a full disk; psycopg2 only reports that reading failed
                    raise stream.error from None
                if READ_FAILED in str(error):  # Ctrl-C or a timeout interrupted read() before it could record the error
                    raise KeyboardInterrupt from error
                raise

    def _name(self, table: Table) -> str:
        return f"{sql_name(self._schema)}.{sql_name(table.name)}"

    def _run(self, sql: str) -> None:
        self._ask(sql)

    def _ask(self, sql: str) -> Sequence[tuple[Any, ...]]:
        with self._connection.cursor() as cursor:
            cursor.execute(sql)
            found: Sequence[tuple[Any, ...]] = cursor.fetchall() if cursor.description else ()
            return found


def _arrow(rows: Sequence[Mapping[str, Any]]) -> Any:
    import pyarrow as pa

    (batch,) = pa.Table.from_pylist(list(rows), schema=BUILDS.arrow_schema()).to_batches()
    return batch
