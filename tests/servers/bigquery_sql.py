"""Translate one GoogleSQL statement into DuckDB's SQL, with the meaning that BigQuery's documentation gives it.

Part of the tests' BigQuery emulator; its own Python runs this module. The product translates types, literals and functions
(`runspend.warehouse.googlesql`). This module adds what a folder of files does not have: typed parameters, table names with project and
dataset, errors of a division by zero, DDL and DML. Running statements does not belong here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import sqlglot
from sqlglot import exp
from sqlglot.errors import ErrorLevel, SqlglotError

from runspend.core.errors import UsageError
from runspend.warehouse import googlesql
from tests.servers.bigquery_decimals import widen

DML = (exp.Insert, exp.Update, exp.Delete, exp.Merge, exp.TruncateTable)
MUTATIONS = (exp.Update, exp.Delete, exp.Merge, exp.TruncateTable)  # changes that two transactions cannot both make to a table
DDL = (exp.Create, exp.Drop, exp.Alter)

# BigQuery's type of a parameter or a column of DDL -> DuckDB's.
TYPES = {
    "STRING": "VARCHAR",
    "BYTES": "BLOB",
    "INT64": "BIGINT",
    "INTEGER": "BIGINT",
    "FLOAT64": "DOUBLE",
    "FLOAT": "DOUBLE",
    "BOOL": "BOOLEAN",
    "BOOLEAN": "BOOLEAN",
    "DATE": "DATE",
    "TIME": "TIME",
    "DATETIME": "TIMESTAMP",
    "TIMESTAMP": "TIMESTAMPTZ",
    "NUMERIC": "DECIMAL(38, 9)",
    "BIGNUMERIC": "DECIMAL(38, 22)",
    "JSON": "JSON",
}
NUMERIC = re.compile(r"DECIMAL\(38, ?9\)")
# DuckDB's type of a result -> BigQuery's type of the same kind
NARROWED = (
    (re.compile(r"\b(?:U?HUGEINT|U?INTEGER|U?SMALLINT|U?TINYINT|UBIGINT)\b"), "BIGINT"),
    (re.compile(r"\bDECIMAL\((?!38, ?9\))\d+, ?\d+\)"), "DECIMAL(38,22)"),
    (re.compile(r"\bFLOAT\b"), "DOUBLE"),
)


class Refused(Exception):
    """BigQuery refuses the statement: its message and its reason."""

    def __init__(self, message: str, reason: str = "invalidQuery") -> None:
        super().__init__(message)
        self.message, self.reason = message, reason


@dataclass(frozen=True)
class Name:
    """A table by its three names: project, dataset and table."""

    project: str
    dataset: str
    table: str

    @property
    def quoted(self) -> str:
        """Return its name in DuckDB, which has a schema for each dataset."""
        return f'"{self.project}__{self.dataset}"."{self.table}"'

    def __str__(self) -> str:
        return f"{self.project}:{self.dataset}.{self.table}"


@dataclass(frozen=True)
class Place:
    """Where unqualified table names are resolved."""

    project: str
    dataset: str | None = None

    def name_of(self, table: exp.Table) -> Name:
        """Return the three names of a statement's table."""
        if not table.db and self.dataset is None:
            raise Refused(f'Table "{table.name}" must be qualified with a dataset (e.g. dataset.table).', "invalid")
        return Name(table.catalog or self.project, table.db or str(self.dataset), table.name)


def parse(sql: str) -> exp.Expression:
    """Return the tree of one statement. The caller may change it."""
    return read_tree(sql).copy()


@lru_cache(maxsize=512)
def read_tree(sql: str) -> exp.Expression:
    """Return the shared tree of one statement. The caller must not change it."""
    try:
        trees = [tree for tree in sqlglot.parse(sql, read="bigquery") if tree is not None and not isinstance(tree, exp.Semicolon)]
    except SqlglotError as error:
        raise Refused(f"Syntax error: {error}") from error
    if len(trees) != 1:
        raise Refused(f"Syntax error: {len(trees)} statements where one was expected")
    tree = trees[0]
    assert isinstance(tree, exp.Expression)
    return tree


def bind(tree: exp.Expression, parameters: Sequence[Mapping[str, Any]], variables: Mapping[str, exp.Expression]) -> exp.Expression:
    """Replace each `@name`, each `?` and each variable of the script by a literal of its type. Changes the tree in place."""
    named = {str(p["name"]).lower(): p for p in parameters if p.get("name")}
    unnamed = iter([p for p in parameters if not p.get("name")])

    def replace(node: exp.Expression) -> exp.Expression:
        if isinstance(node, exp.Parameter) and isinstance(node.this, exp.Parameter):
            found = variables.get(f"@@{node.this.name.lower()}")
            if found is None:
                raise Refused(f"Unrecognized system variable: @@{node.this.name}")
            return found.copy()
        if isinstance(node, exp.Parameter):
            given = named.get(node.name.lower())
            if given is None:
                raise Refused(f"Query parameter '{node.name}' not found")
            return typed_literal(given["parameterType"], given.get("parameterValue") or {})
        if isinstance(node, exp.Placeholder) and not node.this:
            given = next(unnamed, None)
            if given is None:
                raise Refused("Query parameter number exceeds the number of given parameters")
            return typed_literal(given["parameterType"], given.get("parameterValue") or {})
        if isinstance(node, exp.Column) and not node.table and node.name.lower() in variables:
            return variables[node.name.lower()].copy()
        return node

    return tree.transform(replace, copy=False)


def typed_literal(kind: Mapping[str, Any], given: Mapping[str, Any]) -> exp.Expression:
    """Return a parameter as a literal. The client sends it as {"type": "INT64"}, {"value": "5"}."""
    value = _untyped_literal(kind, given)
    return value if isinstance(value, exp.Anonymous) else exp.cast(value, exp.DataType.build(duckdb_type(kind), dialect="duckdb"))


def duckdb_type(kind: Mapping[str, Any]) -> str:
    """Return DuckDB's type for a parameter."""
    name = str(kind.get("type", "STRING")).upper()
    if name == "ARRAY":
        return f"{duckdb_type(kind['arrayType'])}[]"
    if name == "STRUCT":
        return "STRUCT(" + ", ".join(f"{quote(f['name'])} {duckdb_type(f['type'])}" for f in kind["structTypes"]) + ")"
    if name not in TYPES:
        raise Refused(f"Invalid type of a query parameter: {name}", "invalid")
    return TYPES[name]


def _untyped_literal(kind: Mapping[str, Any], given: Mapping[str, Any]) -> exp.Expression:
    name = str(kind.get("type", "STRING")).upper()
    if name == "ARRAY":
        return exp.Array(expressions=[typed_literal(kind["arrayType"], item) for item in given.get("arrayValues") or []])
    if name == "STRUCT":
        values = given.get("structValues") or {}
        fields = [(f["name"], typed_literal(f["type"], values.get(f["name"]) or {})) for f in kind["structTypes"]]
        return exp.Struct(expressions=[exp.PropertyEQ(this=exp.to_identifier(key, quoted=True), expression=value) for key, value in fields])
    raw = given.get("value")
    if raw is not None and name == "BYTES":
        return exp.Anonymous(this="from_base64", expressions=[exp.Literal.string(raw)])
    return exp.Null() if raw is None else exp.Literal.string(str(raw).lower() if isinstance(raw, bool) else str(raw))


def prepare(tree: exp.Expression, place: Place) -> exp.Expression:
    """Give literals, divisions and dates BigQuery's meaning, and tables their names in DuckDB. Changes the tree in place."""
    widen(tree)
    tree = tree.transform(_literal, copy=False)
    _raise_on_zero(tree)
    _keep_types(tree)
    _name_results(tree)
    _qualify(tree, frozenset(), place)
    return tree


def duckdb_text(tree: exp.Expression, *, copy: bool = True) -> str:
    """Return DuckDB's SQL for a tree. SQL that sqlglot cannot translate is an error. With `copy=False`, the tree cannot be used again."""
    try:
        tree = tree.copy() if copy else tree
        googlesql.rewrite_for_duckdb(tree)
        return str(tree.sql(dialect="duckdb", unsupported_level=ErrorLevel.RAISE, comments=False, copy=False))
    except SqlglotError as error:
        raise Refused(f"The emulator cannot run this: {error}", "notImplemented") from error


def narrow_type(duckdb_type: str) -> str:
    """Return BigQuery's type for a type of DuckDB: HUGEINT is INT64, DECIMAL(38, 9) is NUMERIC, and any other decimal is BIGNUMERIC."""
    for pattern, name in NARROWED:
        duckdb_type = pattern.sub(name, duckdb_type)
    return duckdb_type


def quote(name: str) -> str:
    """Quote an identifier."""
    return '"' + name.replace('"', '""') + '"'


def _literal(node: exp.Expression) -> exp.Expression:
    """Translate a literal.

    `bignumeric '0.01'` is a decimal of its own digits, so that its product with an INT64 fits. `numeric` stays NUMERIC. 0.5 is a FLOAT64.
    """
    if isinstance(node, exp.Cast) and not node.to.expressions and node.to.this == exp.DType.BIGDECIMAL:
        try:
            return googlesql._type_literal(node)
        except UsageError as error:
            raise Refused(f"Invalid BIGNUMERIC literal: {error}") from error
    if isinstance(node, exp.Literal) and not node.is_string and "." in node.this and "e" not in node.this.lower():
        return exp.Literal.number(f"{node.this}e0")
    return node


def _raise_on_zero(tree: exp.Expression) -> None:
    for node in reversed(list(tree.find_all(exp.Div, exp.IntDiv, exp.Mod))):
        divisor = node.expression.unnest()
        if isinstance(divisor, exp.Literal) and float(divisor.this):
            continue
        error = exp.Anonymous(this="error", expressions=[exp.Literal.string("division by zero")])
        is_zero = exp.EQ(this=exp.paren(node.expression.copy(), copy=False), expression=exp.Literal.number(0))
        hole = _take_out(node)
        hole.replace(exp.paren(exp.Case(ifs=[exp.If(this=is_zero, true=error)], default=node), copy=False))


TEXT_OF = "bigquery_text"  # a macro that removes trailing zeros of decimals


DATES = (exp.DateTrunc, exp.DateAdd, exp.DateSub)  # a TIMESTAMP without a time zone in DuckDB
TIMES = (exp.UnixToTime, exp.StrToTime)  # the same


def _take_out(node: exp.Expression) -> exp.Expression:
    """Replace a node by a placeholder until another node takes its place. Copying nested nodes again and again would take most of the time."""
    hole = exp.Null()
    node.replace(hole)
    return hole


def _keep_types(tree: exp.Expression) -> None:
    for node in reversed(list(tree.find_all(*DATES, *TIMES))):
        kind = exp.DType.DATE if isinstance(node, DATES) else exp.DType.TIMESTAMPTZ
        if not (isinstance(node.parent, exp.Cast) and node.parent.to.this == kind):
            _take_out(node).replace(exp.cast(node, kind, copy=False))
    for node in reversed(list(tree.find_all(exp.Cast))):
        if (
            node.to.this in (exp.DType.TEXT, exp.DType.VARCHAR)
            and not isinstance(node.this, (exp.Literal, exp.Null))
            and type(node) is exp.Cast
        ):
            node.replace(exp.Anonymous(this=TEXT_OF, expressions=[node.this]))


def _name_results(tree: exp.Expression) -> None:
    """Name unnamed results f0_, f1_ and so on."""
    if not isinstance(tree, exp.Query) or not isinstance(select := tree.find(exp.Select), exp.Select):
        return
    unnamed = [e for e in select.expressions if not e.alias_or_name and not e.is_star]
    for number, node in enumerate(unnamed):
        node.replace(exp.alias_(node.copy(), f"f{number}_"))


def _qualify(node: exp.Expression, hidden: frozenset[str], place: Place) -> None:
    """Give tables their names in DuckDB.

    The name of a WITH hides the table of that name in everything after it, and inside it only if it is recursive.
    """
    ctes = node.args.get("with_")
    if ctes is not None:
        if ctes.recursive:
            hidden |= {cte.alias.lower() for cte in ctes.expressions}
        for cte in ctes.expressions:
            _qualify(cte.this, hidden, place)
            hidden |= {cte.alias.lower()}
    for child in list(node.iter_expressions()):
        if child is ctes:
            continue
        if isinstance(child, exp.Table) and isinstance(child.this, exp.Identifier) and (child.db or child.name.lower() not in hidden):
            name = place.name_of(child)
            child.set("this", exp.to_identifier(name.table, quoted=True))
            child.set("db", exp.to_identifier(f"{name.project}__{name.dataset}", quoted=True))
            child.set("catalog", None)
        _qualify(child, hidden, place)


def target_of(tree: exp.Expression, place: Place) -> Name:
    """Return the table that a DML or DDL statement changes."""
    table = tree.this
    while isinstance(table, exp.Schema):
        table = table.this
    if isinstance(tree, exp.TruncateTable):
        table = tree.expressions[0]
    if not isinstance(table, exp.Table):
        raise Refused(f"The emulator cannot tell the table of {tree.key.upper()}", "notImplemented")
    return place.name_of(table)


def set_options(properties: exp.Expression | None) -> dict[str, Any]:
    """Read `options(description = '…', labels = [('a', 'b')])` of DDL."""
    found: dict[str, Any] = {}
    for node in properties.find_all(exp.Property) if properties is not None else ():
        if type(node) is exp.Property:
            found[node.name.lower()] = _plain(node.args["value"])
    return found


def _plain(node: exp.Expression) -> Any:
    if isinstance(node, (exp.Array, exp.Tuple)):
        return [_plain(part) for part in node.expressions]
    return node.this if isinstance(node, exp.Literal) else node.sql(dialect="bigquery")
