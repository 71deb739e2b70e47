"""Refuse what BigQuery refuses before it runs a statement: values of a wrong type, and queries that read more bytes than may be billed.

Part of the tests' BigQuery emulator; its own Python runs this module.

Sources: Google Cloud "Conversion rules" (coercion), "Data type sizes", "Estimate and control costs" (at least 10 MB per table).
"""

from __future__ import annotations

from typing import Any

from bqemulator.domain.errors import DomainError
from bqemulator.storage import type_map
from sqlglot import exp

from tests.servers import bigquery_catalog as catalog
from tests.servers.bigquery_sql import Name, Place, Refused, duckdb_text, narrow_type, parse, quote

# The types to which BigQuery converts a value without a cast.
COERCED = {"INT64": {"NUMERIC", "BIGNUMERIC", "FLOAT64"}, "NUMERIC": {"BIGNUMERIC", "FLOAT64"}, "BIGNUMERIC": {"FLOAT64"}}
# Literals and parameters can also become these types.
WRITTEN = {"STRING": {"DATE", "DATETIME", "TIME", "TIMESTAMP"}, "FLOAT64": {"NUMERIC", "BIGNUMERIC"}}
SIZES = {
    "INT64": "8",
    "FLOAT64": "8",
    "BOOL": "1",
    "DATE": "8",
    "DATETIME": "8",
    "TIME": "8",
    "TIMESTAMP": "8",
    "NUMERIC": "16",
    "BIGNUMERIC": "32",
}
MEGABYTE = 1 << 20
LEAST = 10  # minimum megabytes billed for each table


class TooManyBytes(DomainError):
    """A query reads more than maximum_bytes_billed."""

    http_status = 500
    bq_reason = "bytesBilledLimitExceeded"


def check_insert(session: Any, tree: exp.Insert, name: Name) -> None:
    """Refuse an inserted value of another type than its column's. `tree` has DuckDB's names of tables."""
    columns = {column.lower(): (column, type_) for column, type_, _ in catalog.columns_of(session.ctx, name)}
    stated = (
        [part.name for part in tree.this.expressions] if isinstance(tree.this, exp.Schema) else [column for column, _ in columns.values()]
    )
    if unknown := [column for column in stated if column.lower() not in columns]:
        raise Refused(f"Column {unknown[0]} is not present in table {name}")
    source = tree.expression
    if isinstance(source, exp.Values):
        rows = [row.expressions if isinstance(row, exp.Tuple) else [row] for row in source.expressions]
        given = [[(value, type_of(session, value)) for value in row] for row in rows]
    else:
        select = source.find(exp.Select)
        written = list(select.expressions) if isinstance(source, exp.Select) and select is not None and not select.is_star else []
        types = [narrow_type(type_) for _, type_ in session.describe_any(duckdb_text(source))]
        given = [[(written[n] if n < len(written) else None, type_) for n, type_ in enumerate(types)]]
    for row in given:
        if len(row) != len(stated):
            raise Refused(f"Inserted row has wrong column count; Has {len(row)}, expected {len(stated)}")
        for number, (column, (value, found)) in enumerate(zip(stated, row, strict=True), 1):
            wanted, kind = google_type(columns[column.lower()][1]), google_type(found)
            if not _fits(value, kind, wanted):
                which = "Value" if isinstance(source, exp.Values) else f"Query column {number}"
                raise Refused(f"{which} has type {kind} which cannot be inserted into column {column}, which has type {wanted}")


def type_of(session: Any, value: exp.Expression) -> str:
    """Return the type of an expression that names no column."""
    return narrow_type(session.describe_any(f"select {duckdb_text(value)} as v")[0][1])


def google_type(duckdb_type: str) -> str:
    """Return GoogleSQL's name for a type of DuckDB."""
    return str(type_map.duckdb_to_bq(narrow_type(duckdb_type)))


def _fits(value: exp.Expression | None, kind: str, wanted: str) -> bool:
    plain = value.unalias() if value is not None else None
    if kind == wanted or wanted in COERCED.get(kind, ()) or isinstance(plain, exp.Null):
        return True
    is_written = isinstance(plain, exp.Literal) or (isinstance(plain, exp.Cast) and isinstance(plain.this, (exp.Literal, exp.Null)))
    return is_written and wanted in WRITTEN.get(kind, ())


def check_bytes(session: Any, tree: exp.Expression, limit: int | None) -> int:
    """Return how many bytes a statement reads: all rows of the columns it names, in each table. Refuse more than `limit`."""
    read = [_bytes_of(session.ctx, name, columns) for name, columns in _columns_read(session, tree, session.place).items()]
    billed = sum(max(-(-size // MEGABYTE), LEAST) for size in read) * MEGABYTE
    if limit is not None and billed > limit:
        raise TooManyBytes(f"Query exceeded limit for bytes billed: {limit}. {billed} or higher required.")
    return sum(read)


CONDITIONS = (exp.Where, exp.Join, exp.Group, exp.Having, exp.Qualify, exp.Order)


def _columns_read(session: Any, tree: exp.Expression, place: Place, asked: set[str] | None = None) -> dict[Name, set[str] | None]:
    """Return the tables that a statement reads, also through views, and the names of the columns in it. None means all columns.

    `asked` is the set of columns that the outer statement reads from a view.
    """
    columns = list(tree.find_all(exp.Column))
    named = {c.name.lower() for c in columns if asked is None or c.name.lower() in asked or c.find_ancestor(*CONDITIONS)}
    everything = any(star.find_ancestor(exp.Count) is None for star in tree.find_all(exp.Star))
    target = tree.this if isinstance(tree, (exp.Create, exp.Insert)) else None
    hidden = {cte.alias.lower() for cte in tree.find_all(exp.CTE)}
    found: dict[Name, set[str] | None] = {}
    for table in tree.find_all(exp.Table):
        if (
            (target is not None and table in (target, target.this))
            or not isinstance(table.this, exp.Identifier)
            or (not table.db and table.name.lower() in hidden)
        ):
            continue
        name = place.name_of(table)
        meta = session.ctx.catalog.get_table(name.project, name.dataset, name.table)
        if meta is not None and meta.view_query:
            found |= _columns_read(session, parse(meta.view_query), catalog.VIEW_PLACES[name], None if everything else named)
        elif meta is not None:
            found[name] = None if everything else named
    return found


MEASURED: dict[Name, tuple[Any, dict[str, int]]] = {}  # the table's state, and the bytes of the columns measured in that state


def _bytes_of(ctx: Any, name: Name, named: set[str] | None) -> int:
    meta = ctx.catalog.get_table(name.project, name.dataset, name.table)
    since = meta.last_modified_time, meta.num_rows
    known = dict(MEASURED[name][1]) if MEASURED.get(name, (None,))[0] == since else {}
    columns = {field.name.lower() for field in meta.schema_.fields}
    asked = columns if named is None else columns & named
    if asked - known.keys():
        missing = [(column, type_) for column, type_, _ in catalog.columns_of(ctx, name) if column.lower() in asked - known.keys()]
        sums = ", ".join(f"coalesce(sum(case when {quote(c)} is not null then {_size(quote(c), type_)} end), 0)" for c, type_ in missing)
        found = ctx.engine.execute(f"select {sums} from {name.quoted}").fetchone()
        known |= {column.lower(): int(size) for (column, _), size in zip(missing, found, strict=True)}
        MEASURED[name] = since, known
    return sum(known[column] for column in asked)


def _size(column: str, type_: str) -> str:
    if type_.endswith("[]"):
        return f"list_sum(list_transform({column}, x -> 2 + strlen(x::varchar)))"
    return SIZES.get(google_type(type_), "") or f"2 + strlen({column}::varchar)"
