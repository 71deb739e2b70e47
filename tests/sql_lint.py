"""Reject SQL that behaves differently on DuckDB than in GoogleSQL, or that BigQuery refuses although other engines accept it.

Models, checks and every query in Python must pass. Tests compare the engines with Google's reference implementation; this module
reports known problems at once. `warehouse/googlesql.py` translates GoogleSQL to DuckDB's SQL.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import sqlglot
from sqlglot import exp

from runspend.core.errors import UsageError
from runspend.warehouse.dialect import duckdb_sql
from runspend.warehouse.googlesql import DECIMALS, is_decimal_literal, parse

__all__ = ["RESERVED", "lint"]

_FLOATS = (exp.DType.DOUBLE, exp.DType.FLOAT)
_TIMES = (exp.DType.TIMESTAMP, exp.DType.TIMESTAMPTZ, exp.DType.DATETIME)
# From GoogleSQL's docs, "Lexical structure and syntax"; the last one is DuckDB's.
RESERVED = {
    **dict.fromkeys(
        """all and any array as asc assert_rows_modified at between by case cast collate contains create cross cube current default define desc
        distinct else end enum escape except exclude exists extract false fetch following for from full group grouping groups hash having if ignore
        in inner intersect interval into is join lateral left like limit lookup merge natural new no not null nulls of on or order outer over
        partition preceding proto qualify range recursive respect right rollup rows select set some struct tablesample then to treat true unbounded
        union unnest using when where window with within""".split(),
        "reserved in GoogleSQL",
    ),
    "overlaps": "reserved in DuckDB",
}


def lint(sql: str) -> list[str]:
    """Return why a string would give different rows on the two engines, or be refused by one. Empty if it may be used."""
    tree = parse(sql)
    found = [
        *_name_faults(sql),
        *(reason for node in tree.walk() for reason in (*_faults(node), *_shape_faults(node))),
        *_output_faults(tree),
    ]
    try:
        duckdb_sql(sql)
    except UsageError as error:
        found.append(str(error))
    return list(dict.fromkeys(found))


# Functions that DuckDB lacks or answers differently; each was compared with Google's reference implementation.
_FORBIDDEN_NAMES = {
    "format": "format() returns the format string on DuckDB: use concat, or format outside SQL",
    "json_query": "json_query gives 'null' for a JSON null on DuckDB: use json_value",
    "json_query_array": "json_query_array differs between the engines: settle lists when they are loaded",
    "json_extract": "json_extract differs between the engines: use json_value",
    "to_json": "to_json prints other text on DuckDB: build JSON outside SQL",
    "to_json_string": "to_json_string prints other text on DuckDB: build JSON outside SQL",
    "parse_json": "parse_json keeps quotes on DuckDB: use json_value on text",
    "upper": "upper('ß') differs between the engines: use lower",
    "farm_fingerprint": "DuckDB has no farm_fingerprint",
    "json_keys": "DuckDB has no json_keys",
    "safe_add": "DuckDB has no safe_add",
    "safe_subtract": "DuckDB has no safe_subtract",
    "safe_multiply": "DuckDB has no safe_multiply",
    "safe_negate": "DuckDB has no safe_negate",
    "parse_numeric": "DuckDB has no parse_numeric",
    "parse_bignumeric": "DuckDB has no parse_bignumeric",
    "range_bucket": "DuckDB has no range_bucket",
    "ieee_divide": "DuckDB has no ieee_divide",
    "normalize": "DuckDB has no normalize",
    "normalize_and_casefold": "DuckDB has no normalize_and_casefold",
    "instr": "instr with a place to begin at is not DuckDB's: use strpos",
    "byte_length": "byte_length of a literal fails on DuckDB: use length",
    "soundex": "DuckDB has no soundex",
    "max_by": "the reference implementation has no max_by: use array_agg or qualify",
    "min_by": "the reference implementation has no min_by: use array_agg or qualify",
    "contains_substr": "the reference implementation has no contains_substr: use strpos",
    "approx_count_distinct": "approximate functions differ between the engines: use count(distinct …)",
    "approx_quantiles": "approximate functions differ between the engines",
    "rand": "rand() gives other rows every time",
    "generate_uuid": "generate_uuid() gives other rows every time: ids are hashes of content",
    "current_timestamp": "the clock is never read in a model: pass @now",
    "current_date": "the clock is never read in a model: pass @now",
    "current_datetime": "the clock is never read in a model: pass @now",
    "session_user": "session_user does not belong in a model",
    "md5": "bytes print differently on the engines: hash outside SQL",
    "sha256": "bytes print differently on the engines: hash outside SQL",
    "sha512": "bytes print differently on the engines: hash outside SQL",
}


def _faults(node: exp.Expr) -> Iterator[str]:
    if isinstance(node, (exp.TimestampDiff, exp.DatetimeDiff)) and node.text("unit").upper() != "MICROSECOND":
        yield f"timestamp_diff(…, {node.text('unit').lower() or '?'}) counts boundaries on DuckDB: use microsecond, then div"
    if isinstance(node, exp.Unnest) and node.args.get("offset"):
        yield "unnest … with offset starts at 1 on DuckDB: put a rank into the structs"
    if isinstance(node, exp.Extract):
        unit = str(node.this).lower()
        if unit not in ("year", "month", "day", "quarter"):
            yield f"extract({unit} …) differs between the engines: use date_diff or timestamp_trunc"
    if isinstance(node, (exp.Like, exp.ILike)) and any("\\" in text.this for text in node.find_all(exp.Literal) if text.is_string):
        yield "like with a backslash has no escape on DuckDB: use starts_with or regexp_contains"
    if isinstance(node, exp.Cast):
        yield from _cast_faults(node)
    if isinstance(node, (exp.Div, exp.IntDiv)) and (_is_decimal(node.this) or _is_decimal(node.expression)):
        yield "division with a decimal gives a float on DuckDB: divide float64 or int64, then make money by integers"
    if isinstance(node, exp.Avg) and _is_decimal(node.this):
        yield "avg of a decimal gives a float on DuckDB: divide outside SQL"
    if isinstance(node, exp.Mul) and _is_wide_decimal(node.this) and _is_wide_decimal(node.expression):
        yield "bignumeric x bignumeric overflows on DuckDB: use the recipe of integers and one small literal"
    if isinstance(node, exp.Filter):
        yield "aggregate filter (where …) is not GoogleSQL: use countif or sum(if(…))"
    if isinstance(node, (exp.EQ, exp.NEQ)) and isinstance(node.expression, exp.Null):
        yield "= null is never true: use is null"
    if isinstance(node, exp.Identifier) and not node.args.get("quoted") and (name := node.name.lower()) in RESERVED:
        yield f"{name} is {RESERVED[name]}: choose another name"
    if isinstance(node, exp.Table) and node.db:
        yield f"table {node.sql(dialect='bigquery')} is qualified: models use bare table names"
    if isinstance(node, exp.JSONExtractScalar):
        yield from _json_path_faults(node)
    if isinstance(node, exp.AtTimeZone) or node.args.get("zone") is not None or _is_zoned_text(node):
        yield "a time zone other than UTC: DuckDB resolves the repeated hour at the end of summer time differently: keep all times in UTC"


def _shape_faults(node: exp.Expr) -> Iterator[str]:
    """Yield constructs that BigQuery does not run, or does not run as intended."""
    if (
        isinstance(node, exp.Join)
        and node.side
        and not isinstance(node.this, exp.Unnest)
        and not node.args.get("using")
        and not _has_equality(node)
    ):
        yield f"{node.side.lower()} join without an equality of columns of both sides: BigQuery refuses it: join on a key, or cross join one aggregated row"
    if isinstance(node, exp.Select):
        yield from _name_clashes(node)
    if (
        isinstance(node, (exp.Exists, exp.In, exp.Subquery))
        and not isinstance(node.parent, (exp.From, exp.Join))
        and (outer := _outer_columns(node))
    ):
        yield f"a subquery reads {outer[0]} of the query around it: BigQuery refuses those it cannot turn into a join: write the join"


def _name_clashes(select: exp.Select) -> Iterator[str]:
    """Yield names that are both a column and a result: the engines choose differently."""
    sums = {p.alias.lower() for p in select.selects if isinstance(p, exp.Alias) and p.find(exp.AggFunc) is not None}
    for clause in ("having", "qualify", "order"):
        inner = select.args.get(clause)
        columns = (c for a in inner.find_all(exp.AggFunc) for c in a.find_all(exp.Column)) if inner is not None else ()
        for name in {c.name.lower() for c in columns if not c.table} & sums:
            yield f"{clause} {'by ' if clause == 'order' else ''}aggregates {name}, which is the name of a sum here: GoogleSQL sums the sum and refuses: qualify the column"
    changed = {
        p.alias.lower()
        for p in select.selects
        if isinstance(p, exp.Alias) and not isinstance(p.this, exp.Column) and p.alias.lower() in _columns(p.this)
    }
    group = select.args.get("group")
    for name in changed & {
        c.name.lower() for c in (group.expressions if group is not None else ()) if isinstance(c, exp.Column) and not c.table
    }:
        yield f"group by {name}, a column and a result: GoogleSQL groups by the result, DuckDB by the column: repeat the expression or qualify the column"


def _columns(node: exp.Expr) -> set[str]:
    return {c.name.lower() for c in node.find_all(exp.Column)}


def _has_equality(join: exp.Join) -> bool:
    """Whether one of the and-ed conditions is an equality between the joined table and an earlier table."""
    on, joined = join.args.get("on"), join.this.alias_or_name
    for condition in on.flatten() if isinstance(on, exp.And) else [on]:
        sides = (
            [{c.table for c in side.find_all(exp.Column)} for side in (condition.this, condition.expression)]
            if isinstance(condition, exp.EQ)
            else []
        )
        if sides and all(sides) and (joined in sides[0]) != (joined in sides[1]):
            return True
    return False


def _outer_columns(subquery: exp.Expr) -> list[str]:
    """Return columns of tables outside the subquery. Only a subquery over the elements of an array may have them."""
    select = (
        subquery.find(exp.Select)
        if isinstance(subquery, exp.Exists) or subquery.args.get("query") or isinstance(subquery.this, exp.Query)
        else None
    )
    if select is None or select.find(exp.Table) is None:
        return []
    inside = {source.alias_or_name for source in select.find_all(exp.Table, exp.Subquery, exp.Unnest, exp.CTE)}
    return [c.sql(dialect="bigquery") for c in select.find_all(exp.Column) if c.table and c.table not in inside]


def _output_faults(tree: exp.Expr) -> Iterator[str]:
    """Yield results with another type on DuckDB.

    Inside a query the type is not visible. If it matters, tests on the reference implementation find it.
    """
    selects = [tree] if isinstance(tree, exp.Select) else [s for s in tree.find_all(exp.Select) if isinstance(s.parent, exp.SetOperation)]
    for projection in (p.unalias() for select in selects for p in select.selects):
        if isinstance(projection, (exp.DateTrunc, exp.DateAdd, exp.DateSub)):
            yield f"{projection.key.replace('date', 'date_')} as a result is a time on DuckDB: cast it as date"
        if isinstance(projection, (exp.UnixToTime, exp.StrToTime, exp.ParseTime)):
            yield "a time made of a number or text has no zone on DuckDB: cast it as timestamp"


def _is_zoned_text(node: exp.Expr) -> bool:
    """Whether it is a literal like `timestamp '2026-10-25 02:30:00 Europe/Berlin'`."""
    return (
        isinstance(node, exp.Cast)
        and node.to.this in _TIMES
        and isinstance(node.this, exp.Literal)
        and bool(re.search(r"[A-Za-z]+/[A-Za-z_]+$", node.this.this))
    )


def _cast_faults(node: exp.Cast) -> Iterator[str]:
    if node.to.expressions and node.to.this not in (exp.DType.ARRAY, exp.DType.STRUCT):
        yield f"cast to {node.to.sql(dialect='bigquery').lower()} has type parameters, which BigQuery refuses: leave them out"
    if node.to.this in DECIMALS and not is_decimal_literal(node) and _is_float(node.this):
        yield "a float becomes money by a cast, with other digits on each engine: go through integers"
    if node.to.this in DECIMALS and isinstance(node.this, exp.Literal) and not node.this.is_string and "." in node.this.this:
        yield "a float literal becomes money by a cast: write bignumeric '…'"
    if node.to.this in (exp.DType.TEXT, exp.DType.VARCHAR) and isinstance(node.parent, exp.Cast) and node.parent.to.this in _FLOATS:
        return  # cast(cast(cost as string) as float64): the one exact way from decimal to float
    if node.to.this in (exp.DType.TEXT, exp.DType.VARCHAR) and (_is_decimal(node.this) or _is_float(node.this)):
        yield "a decimal or float becomes text by a cast, with other digits on each engine: format outside SQL"


def _json_path_faults(node: exp.JSONExtractScalar) -> Iterator[str]:
    path = node.expression
    if any(isinstance(part, exp.Column) for part in path.walk()):
        yield "a JSON path from a column fails on both engines: settle key aliases when the data is loaded"


def _name_faults(sql: str) -> Iterator[str]:
    """Yield forbidden functions and paths as written, because the tree does not keep all of them."""
    tokens = [token.text.lower() for token in sqlglot.tokenize(sql, read="bigquery")]
    if any(re.match(r"\$.*\[['\"]", token) for token in tokens):
        yield "a JSON path with $['…'] is not GoogleSQL: write $.\"…\""
    for before, name, after in zip(["", *tokens], tokens, [*tokens[1:], ""], strict=False):
        if after == "(" and before != ".":
            if name in _FORBIDDEN_NAMES:
                yield _FORBIDDEN_NAMES[name]
            elif name.startswith("lax_"):
                yield f"DuckDB has no {name}"
        elif name == "net" and after == ".":
            yield "DuckDB has no net.* functions"
        elif name in ("current_timestamp", "current_date", "current_datetime"):  # callable without parentheses
            yield _FORBIDDEN_NAMES[name]


def _is_decimal(node: exp.Expr | None) -> bool:
    """Whether the syntax alone shows a decimal: a cast, a literal, or a column named like money."""
    node = node.unnest() if node is not None else None
    if isinstance(node, exp.Cast):
        return node.to.this in DECIMALS
    if isinstance(node, exp.Column):
        return str(node.name).lower().endswith("_cost")
    if isinstance(node, (exp.Sum, exp.Min, exp.Max, exp.Abs, exp.Neg, exp.Coalesce, exp.Round)):
        return _is_decimal(node.this)
    if isinstance(node, (exp.Add, exp.Sub, exp.Mul)):
        return _is_decimal(node.this) or _is_decimal(node.expression)
    return False


def _is_wide_decimal(node: exp.Expr | None) -> bool:
    node = node.unnest() if node is not None else None
    return _is_decimal(node) and node is not None and not is_decimal_literal(node)


def _is_float(node: exp.Expr | None) -> bool:
    node = node.unnest() if node is not None else None
    if isinstance(node, exp.Cast):
        return node.to.this in _FLOATS
    if isinstance(node, exp.Literal):
        return not node.is_string and ("." in node.this or "e" in node.this.lower())
    if isinstance(node, exp.Column):
        return str(node.name).lower().endswith("_float")
    if isinstance(node, (exp.Div, exp.SafeDivide)):
        return True
    if isinstance(node, (exp.Add, exp.Sub, exp.Mul)):
        return _is_float(node.this) or _is_float(node.expression)
    return False
