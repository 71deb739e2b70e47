"""Translate GoogleSQL to DuckDB's SQL, so that the same SQL files run on both engines. tests/sql_lint.py finds SQL that cannot be translated.

Money keeps all its digits: BIGNUMERIC becomes DECIMAL(38, 22), and NUMERIC becomes DECIMAL(38, 9). A `bignumeric '…'` literal becomes a
decimal with only as many digits as it has, so that the product of an INT64 and the literal fits into 38 digits.

This module does not run SQL and does not know what the tables mean.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from decimal import Decimal, InvalidOperation
from functools import cached_property, lru_cache

from sqlglot import exp
from sqlglot.dialects.bigquery import BigQuery
from sqlglot.errors import ErrorLevel, SqlglotError, UnsupportedError
from sqlglot.tokens import Token, TokenType

from runspend.core.errors import SqlRefused
from runspend.warehouse.emptiness import Rule, emptiness
from runspend.warehouse.engine_messages import in_one_line

logging.getLogger("sqlglot").setLevel(logging.ERROR)  # hides warnings about unreadable statements; Runspend raises errors for them

_BIGQUERY = BigQuery()
_OPENING = {TokenType.L_PAREN, TokenType.L_BRACKET, TokenType.L_BRACE}
_CLOSING = {TokenType.R_PAREN, TokenType.R_BRACKET, TokenType.R_BRACE}
_TYPE_NAMES = BigQuery.Parser.TYPE_TOKENS
_DEEPEST, _DEEPEST_OF_TYPES = 100, 12  # maximum levels of nesting; such a statement is parsed in 0.3 s

# DuckDB's types of the same names would lose digits of money.
_TYPES = {exp.DType.BIGDECIMAL: "DECIMAL(38, 22)", exp.DType.DECIMAL: "DECIMAL(38, 9)"}


def rewrite_for_duckdb(tree: exp.Expression) -> None:
    """Change a syntax tree in place, so that sqlglot generates the SQL that DuckDB needs.

    The tree is changed because the generator cannot be: classes of sqlglot's compiled build cannot be subclassed.
    """
    for node in reversed(
        list(tree.find_all(exp.DataType, exp.CountIf, exp.Concat, exp.IntDiv, exp.TimestampDiff, exp.TimestampTrunc, exp.Date))
    ):  # inner nodes first
        if isinstance(node, exp.DataType):
            if node.this in _TYPES and not node.expressions:
                wide = exp.DataType.build(_TYPES[node.this], dialect="duckdb")
                node.set("expressions", wide.expressions)
                node.set("this", wide.this)
            elif node.this in _TYPES and any(part.name.isdigit() and int(part.name) > 38 for part in node.expressions):
                raise UnsupportedError(f"{node.sql(dialect='bigquery')} has more digits than DuckDB's 38")
        elif isinstance(node, exp.CountIf):
            node.replace(_count_cases(node))
        elif isinstance(node, exp.Concat):
            _concat_at_once(node)
        elif isinstance(node, exp.IntDiv):
            # sqlglot omits the parentheses: div(a + 1, 2) would become a + 1 // 2, and b * div(a, 2) would become b * a // 2.
            whole = exp.IntDiv(this=_whole(node.this), expression=_whole(node.expression))
            node.replace(exp.paren(whole, copy=False))
        elif isinstance(node, exp.TimestampTrunc):
            # On a timestamp with time zone, DuckDB's date_trunc uses a calendar, which is slow. time_bucket does not.
            if node.text("unit").upper() == "HOUR" and not node.args.get("zone"):
                node.replace(
                    exp.func("TIME_BUCKET", exp.Interval(this=exp.Literal.number(1), unit=exp.var("HOUR")), node.this, dialect="duckdb")
                )
        elif isinstance(node, exp.Date):
            # A cast of a timestamp with time zone to a date uses a calendar too. The type of a column is not known here, so only results of
            # timestamp_sub are rewritten.
            if isinstance(node.this, exp.TimestampSub) and not node.args.get("zone"):
                without_zone = exp.func("MAKE_TIMESTAMP", exp.UnixMicros(this=node.this), dialect="duckdb")
                node.replace(exp.cast(without_zone, "date"))
        elif node.text("unit").upper() == "MICROSECOND":
            # On timestamps with time zone, DuckDB's date_diff uses a calendar, which is fifty times slower than a subtraction.
            since = exp.Sub(this=exp.UnixMicros(this=node.this), expression=exp.UnixMicros(this=node.expression))
            node.replace(exp.paren(since, copy=False))


def _whole(node: exp.Expression) -> exp.Expression:
    return exp.paren(node, copy=False) if isinstance(node, (exp.Binary, exp.Unary, exp.Case)) and not isinstance(node, exp.Paren) else node


def _count_cases(node: exp.CountIf) -> exp.Count:
    """Return count(case when … end) for countif(…). DuckDB's count_if has 128 bits, and is null if no row counts."""
    distinct = isinstance(node.this, exp.Distinct)
    condition = node.this.expressions[0] if distinct else node.this
    case = exp.Case().when(condition, condition if distinct else exp.Literal.number(1))
    return exp.Count(this=exp.Distinct(expressions=[case]) if distinct else case)


def _concat_at_once(node: exp.Concat) -> None:
    """Replace a concatenation of columns by one call of DuckDB's concat.

    sqlglot would generate a chain of ||, which copies the text once per piece. DuckDB's concat skips nulls. But in GoogleSQL, one null
    piece makes the whole text null, so a CASE checks the pieces first.
    """
    pieces = {piece.sql(): piece.copy() for expression in node.expressions for piece in _nullable_pieces(expression)}
    if len(node.expressions) <= 2 or not all(isinstance(piece, exp.Column) for piece in pieces.values()):
        return  # the CASE would repeat each piece, and computing a longer expression twice could double its cost
    is_null = [exp.Is(this=piece, expression=exp.Null()) for piece in pieces.values()]
    whole = exp.Concat(expressions=node.expressions, safe=True, coalesce=True)
    node.replace(exp.Case().when(exp.or_(*is_null), exp.Null()).else_(whole) if is_null else whole)


def _nullable_pieces(node: exp.Expr) -> list[exp.Expr]:
    """Return the parts of an expression that make it null if one of them is null. An empty list: it is never null."""
    if isinstance(node, exp.Literal):
        return []
    if isinstance(node, exp.Coalesce) and any(not _nullable_pieces(value) for value in (node.this, *node.expressions)):
        return []
    if isinstance(node, exp.Case) and not any(map(_nullable_pieces, _results(node))):
        return []
    if isinstance(node, (exp.Concat, exp.Replace, exp.Cast, exp.UnixMicros)) and not isinstance(node, exp.TryCast):
        return [piece for child in node.iter_expressions() if not isinstance(child, exp.DataType) for piece in _nullable_pieces(child)]
    return [node]


def _results(case: exp.Case) -> list[exp.Expr]:
    """Return the expressions for all possible results of a CASE."""
    return [*(branch.args["true"] for branch in case.args["ifs"]), case.args.get("default") or exp.Null()]


class Statement:
    """Facts about a GoogleSQL statement, which is parsed once: tables, names, parameters and its text for DuckDB."""

    def __init__(self, sql: str) -> None:
        self._sql = sql
        self._trees = [tree := _read(sql)]
        nodes = list(tree.find_all(exp.CTE, exp.Table, exp.Parameter))
        own = {node.alias_or_name for node in nodes if isinstance(node, exp.CTE)}
        found = [node for node in nodes if isinstance(node, exp.Table) and node.name]
        self.tables = frozenset({t.name for t in found if not t.db} - own)
        self.names = frozenset(t.name for t in found)
        self.parameters = frozenset(node.name for node in nodes if isinstance(node, exp.Parameter))

    @cached_property
    def has_no_rows(self) -> Rule:
        """A function of the names of empty tables. It returns whether the query certainly has no rows."""
        tree = self._take_tree()
        rule = emptiness(tree)
        self._trees.append(tree)
        return rule

    def _take_tree(self) -> exp.Expression:
        try:
            return self._trees.pop()
        except IndexError:  # another thread has taken the tree
            return _read(self._sql)

    @cached_property
    def duckdb(self) -> str:
        """The SQL that DuckDB runs for a query. Raises SqlRefused if sqlglot cannot translate a part of it.

        Generating the SQL changes the tree, so the tree is not used again. Copying it first would take half as long as parsing.
        """
        tree = self._take_tree()
        if not isinstance(tree, exp.Query):
            raise SqlRefused(f"cannot run {tree.key.upper()}: the warehouse is read-only here. Write a SELECT.")
        try:
            for cast in tree.find_all(exp.Cast):
                _type_literal(cast)
            rewrite_for_duckdb(tree)
            return str(tree.sql(dialect="duckdb", unsupported_level=ErrorLevel.RAISE, comments=False, copy=False))
        except RecursionError as error:
            raise SqlRefused("cannot run the SQL: it is nested too deeply to check. Write it in simpler steps.") from error
        except SqlglotError as error:
            raise SqlRefused(f"cannot run the SQL on DuckDB: {in_one_line(error)}. Write it another way, or pass --native.") from error

    @property
    def postgres(self) -> str:
        """The SQL that PostgreSQL runs for one of Runspend's own queries. Raises UnsupportedError if sqlglot cannot translate a part of it."""
        return str(_read(self._sql).sql(dialect="postgres", unsupported_level=ErrorLevel.RAISE, comments=False))


def _check_nesting(tokens: Iterable[Token]) -> None:
    """Raise SqlRefused for a statement that sqlglot could parse for hours. Its parser cannot be interrupted.

    sqlglot parses the brackets after the name of a type twice. So each further nested `struct(` doubles the time, which is 2.8 s for 18
    levels. The time for nested subqueries grows with the third power of their number, and is 3.5 s for 200 levels.
    """
    opened: list[bool] = []  # whether each open bracket follows the name of a type
    of_types, before = 0, None
    for token in tokens:
        if token.token_type in _OPENING:
            opened.append(before in _TYPE_NAMES or (before is TokenType.VAR and token.token_type is TokenType.L_BRACKET))
            of_types += opened[-1]
            if len(opened) > _DEEPEST or of_types > _DEEPEST_OF_TYPES:
                raise SqlRefused("cannot read the SQL: it is nested too deeply to check. Write it in simpler steps.")
        elif token.token_type in _CLOSING and opened:
            of_types -= opened.pop()
        before = token.token_type


def _read(sql: str) -> exp.Expression:
    try:
        tokens = _BIGQUERY.tokenize(sql)
        _check_nesting(tokens)
        statements = [s for s in _BIGQUERY.parser().parse(tokens, sql) if s is not None and not isinstance(s, exp.Semicolon)]
    except SqlglotError as error:
        raise SqlRefused(f"cannot read the SQL: {in_one_line(error)}. Write one GoogleSQL SELECT, or pass --native.") from error
    except RecursionError as error:
        raise SqlRefused("cannot read the SQL: it is nested too deeply to check. Write it in simpler steps.") from error
    if len(statements) != 1:
        raise SqlRefused(f"cannot run the SQL: it contains {len(statements)} statements. Write exactly one SELECT.")
    statement = statements[0]
    if not isinstance(statement, exp.Expression):
        raise SqlRefused(f"cannot run the SQL: {statement!r} is not a statement. Write exactly one SELECT.")
    return statement


@lru_cache(maxsize=256)
def parse(sql: str) -> exp.Expression:
    """Return the syntax tree of one GoogleSQL statement. All callers share the tree, so change only a copy of it."""
    return _read(sql)


def qualified(sql: str, prefix: str) -> str:
    """Return the text of a query with `prefix` before each table name that has no schema. BigQuery needs this in views.

    The rest of the text is unchanged.
    """
    tree = parse(sql)
    own = {cte.alias_or_name for cte in tree.find_all(exp.CTE)}
    places = {t.this.meta["start"]: t.this.meta["end"] + 1 for t in tree.find_all(exp.Table) if t.name and not t.db and t.name not in own}
    for start, end in sorted(places.items(), reverse=True):
        sql = f"{sql[:start]}`{prefix}.{sql[start:end].strip('`')}`{sql[end:]}"
    return sql


def _type_literal(node: exp.Expr) -> exp.Expr:
    """Change the type of a literal to a decimal with only as many digits as it has. Raises SqlRefused if it is not a decimal number.

    For example, `bignumeric '0.000000000000000001'` is cast to DECIMAL(18, 18). As DECIMAL(38, 22), its product with money would need 44 decimals.
    """
    if is_decimal_literal(node) and not node.this.this.strip(" +-").lower().startswith(
        ("nan", "snan", "inf")
    ):  # Python accepts them as numbers; DuckDB refuses them
        assert isinstance(node, exp.Cast)
        try:
            _, digits, exponent = Decimal(node.this.this).as_tuple()
        except InvalidOperation as error:
            raise SqlRefused(f"cannot read the literal {node.this.this!r}: it is not a decimal number.") from error
        assert isinstance(exponent, int)
        scale = max(-exponent, 0)
        precision = max(len(digits) + max(exponent, 0), scale, 1)
        node.set("to", exp.DataType.build(f"DECIMAL({precision}, {scale})", dialect="duckdb"))
    return node


DECIMALS = (exp.DType.BIGDECIMAL, exp.DType.DECIMAL)


def is_decimal_literal(node: exp.Expr) -> bool:
    """Whether the node is a literal of the form `bignumeric '…'` or `numeric '…'`."""
    return (
        isinstance(node, exp.Cast)
        and isinstance(node.this, exp.Literal)
        and node.this.is_string
        and node.to.this in DECIMALS
        and not node.to.expressions
    )
