"""One dialect, two engines: GoogleSQL files become DuckDB's SQL here, and what cannot is refused by `lint`.

Money keeps its digits: BIGNUMERIC is DECIMAL(38, 22), NUMERIC is DECIMAL(38, 9), and a `bignumeric '…'` literal is a
decimal of its own digits, so that int64 x literal fits. Running SQL and the meaning of tables do not belong here.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import ClassVar

import sqlglot
from sqlglot import exp
from sqlglot.dialects.duckdb import DuckDB
from sqlglot.errors import ErrorLevel, SqlglotError
from sqlglot.generators.duckdb import DuckDBGenerator

from runspend.errors import UsageError

__all__ = ["duckdb_sql", "lint", "parameter_names", "parse", "table_names"]


class _Generator(DuckDBGenerator):  # type: ignore[misc]  # sqlglot's metaclass hides the type
    """sqlglot's generator, put right where DuckDB would answer otherwise."""

    # Its own types lose digits of money: (38, 5) and (18, 3).
    TYPE_PARAM_SETTINGS: ClassVar = {
        **DuckDBGenerator.TYPE_PARAM_SETTINGS,
        exp.DType.BIGDECIMAL: ((38, 22), (38, 38)),
        exp.DType.DECIMAL: ((38, 9), (38, 38)),
    }
    TRANSFORMS: ClassVar = {
        **DuckDBGenerator.TRANSFORMS,
        # DuckDB's count_if is null where no row counts, and 128 bits wide.
        exp.CountIf: lambda self, node: self.sql(_count_cases(node)),
        # sqlglot forgets the parentheses: div(a + 1, 2) would be a + 1 // 2, and b * div(a, 2) be b * a // 2.
        exp.IntDiv: lambda self, node: f"({_whole(self, node.this)} // {_whole(self, node.expression)})",
        # Its date_diff of times with a zone asks a calendar: fifty times slower than a subtraction.
        exp.TimestampDiff: lambda self, node: self.sql(_microseconds(node)) if _is_microseconds(node) else DuckDBGenerator.TRANSFORMS[type(node)](self, node),
    }


def _whole(generator: _Generator, node: exp.Expression) -> str:
    return f"({generator.sql(node)})" if isinstance(node, (exp.Binary, exp.Unary, exp.Case)) else str(generator.sql(node))


def _is_microseconds(node: exp.TimestampDiff) -> bool:
    return bool(node.text("unit").upper() == "MICROSECOND")


def _microseconds(node: exp.TimestampDiff) -> exp.Paren:
    return exp.paren(exp.Sub(this=exp.func("epoch_us", node.this), expression=exp.func("epoch_us", node.expression)))


def _count_cases(node: exp.CountIf) -> exp.Count:
    distinct = isinstance(node.this, exp.Distinct)
    condition = node.this.expressions[0] if distinct else node.this
    case = exp.Case().when(condition, condition if distinct else exp.Literal.number(1))
    return exp.Count(this=exp.Distinct(expressions=[case]) if distinct else case)


class _Engine(DuckDB):  # type: ignore[misc]  # sqlglot's metaclass hides the type
    Generator = _Generator


def parse(sql: str) -> exp.Expression:
    """The syntax tree of one GoogleSQL statement."""
    try:
        statements = [s for s in sqlglot.parse(sql, read="bigquery") if s is not None and not isinstance(s, exp.Semicolon)]
    except SqlglotError as error:
        raise UsageError(f"cannot read the SQL: {error}. Write one GoogleSQL SELECT, or pass --native.") from error
    if len(statements) != 1:
        raise UsageError(f"cannot run the SQL: it holds {len(statements)} statements. Write exactly one SELECT.")
    statement = statements[0]
    if not isinstance(statement, exp.Expression):
        raise UsageError(f"cannot run the SQL: {statement!r} is not a statement. Write exactly one SELECT.")
    return statement


@lru_cache(maxsize=256)
def duckdb_sql(sql: str) -> str:
    """What DuckDB runs for a GoogleSQL query. Anything sqlglot says it cannot carry over is an error, not a warning."""
    tree = parse(sql)
    if not isinstance(tree, exp.Query):
        raise UsageError(f"cannot run {tree.key.upper()}: the warehouse is read-only here. Write a SELECT.")
    try:
        return str(tree.transform(_type_literal).sql(dialect=_Engine, unsupported_level=ErrorLevel.RAISE, comments=False))
    except SqlglotError as error:
        raise UsageError(f"cannot run the SQL on DuckDB: {error}. Write it another way, or pass --native.") from error


@lru_cache(maxsize=256)
def table_names(sql: str) -> frozenset[str]:
    """Bare names of the tables a query reads; its own CTEs are left out."""
    tree = parse(sql)
    own = {cte.alias_or_name for cte in tree.find_all(exp.CTE)}
    return frozenset({t.name for t in tree.find_all(exp.Table) if t.name and not t.db} - own)


@lru_cache(maxsize=256)
def parameter_names(sql: str) -> frozenset[str]:
    """Names of the `@parameters` a query uses."""
    return frozenset(p.name for p in parse(sql).find_all(exp.Parameter))


def _type_literal(node: exp.Expression) -> exp.Expression:
    """`bignumeric '0.000000000000000001'` as DECIMAL(18, 18): with (38, 22) its product would need 44 decimals."""
    if _is_decimal_literal(node):
        assert isinstance(node, exp.Cast)
        try:
            _, digits, exponent = Decimal(node.this.this).as_tuple()
        except InvalidOperation as error:
            raise UsageError(f"cannot read the literal {node.this.this!r}: it is not a decimal number.") from error
        assert isinstance(exponent, int)
        scale = max(-exponent, 0)
        precision = max(len(digits) + max(exponent, 0), scale, 1)
        node.set("to", exp.DataType.build(f"DECIMAL({precision}, {scale})", dialect="duckdb"))
    return node


_DECIMALS = (exp.DType.BIGDECIMAL, exp.DType.DECIMAL)
_FLOATS = (exp.DType.DOUBLE, exp.DType.FLOAT)


def _is_decimal_literal(node: exp.Expr) -> bool:
    return (
        isinstance(node, exp.Cast)
        and isinstance(node.this, exp.Literal)
        and node.this.is_string
        and node.to.this in _DECIMALS
        and not node.to.expressions
    )


def lint(sql: str) -> list[str]:
    """Why a model or check would not give the same rows on both engines. Empty when it may be used."""
    tree = parse(sql)
    found = [*_name_faults(sql), *(reason for node in tree.walk() for reason in _faults(node))]
    try:
        duckdb_sql(sql)
    except UsageError as error:
        found.append(str(error))
    return list(dict.fromkeys(found))


# Functions DuckDB lacks or answers differently; each was tried against Google's reference implementation.
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
_RESERVED = {"at": "reserved in GoogleSQL", "overlaps": "reserved in DuckDB"}


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
    if isinstance(node, exp.Column) and node.name.lower() in _RESERVED and not node.this.args.get("quoted"):
        yield f"{node.name} is {_RESERVED[node.name.lower()]}: choose another name"
    if isinstance(node, exp.Alias) and node.alias.lower() in _RESERVED:
        yield f"{node.alias} is {_RESERVED[node.alias.lower()]}: choose another name"
    if isinstance(node, exp.Table) and node.db:
        yield f"table {node.sql(dialect='bigquery')} is qualified: models use bare table names"
    if isinstance(node, exp.JSONExtractScalar):
        yield from _json_path_faults(node)


def _cast_faults(node: exp.Cast) -> Iterator[str]:
    if node.to.expressions and node.to.this not in (exp.DType.ARRAY, exp.DType.STRUCT):
        yield f"cast to {node.to.sql(dialect='bigquery').lower()} has type parameters, which BigQuery refuses: leave them out"
    if node.to.this in _DECIMALS and not _is_decimal_literal(node) and _is_float(node.this):
        yield "a float becomes money by a cast, with other digits on each engine: go through integers"
    if node.to.this in _DECIMALS and isinstance(node.this, exp.Literal) and not node.this.is_string and "." in node.this.this:
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
    """Functions by the name they were written with: in the tree some have lost it."""
    tokens = [token.text.lower() for token in sqlglot.tokenize(sql, read="bigquery")]
    for before, name, after in zip(["", *tokens], tokens, [*tokens[1:], ""], strict=False):
        if after == "(" and before != ".":
            if name in _FORBIDDEN_NAMES:
                yield _FORBIDDEN_NAMES[name]
            elif name.startswith("lax_"):
                yield f"DuckDB has no {name}"
        elif name == "net" and after == ".":
            yield "DuckDB has no net.* functions"
        elif name in ("current_timestamp", "current_date", "current_datetime"):  # may be called without parentheses
            yield _FORBIDDEN_NAMES[name]


def _is_decimal(node: exp.Expr | None) -> bool:
    """Whether the syntax alone says decimal: a cast, a literal, or a column named like money."""
    node = node.unnest() if node is not None else None
    if isinstance(node, exp.Cast):
        return node.to.this in _DECIMALS
    if isinstance(node, exp.Column):
        return str(node.name).lower().endswith("_cost")
    if isinstance(node, (exp.Sum, exp.Min, exp.Max, exp.Abs, exp.Neg, exp.Coalesce, exp.Round)):
        return _is_decimal(node.this)
    if isinstance(node, (exp.Add, exp.Sub, exp.Mul)):
        return _is_decimal(node.this) or _is_decimal(node.expression)
    return False


def _is_wide_decimal(node: exp.Expr | None) -> bool:
    node = node.unnest() if node is not None else None
    return _is_decimal(node) and node is not None and not _is_decimal_literal(node)


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
