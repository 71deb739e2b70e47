"""Decide whether a query certainly has no rows, from its text and from the names of empty tables. This is faster than planning the query.

For any part of a query that is not listed here, the answer is no.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from sqlglot import exp

Rule = Callable[[Collection[str]], bool]  # takes the names of empty tables, returns whether a query certainly has no rows
# Parts of a SELECT that do not add rows to the rows of its FROM and joins.
_KNOWN_PARTS = frozenset((
    "with_", "expressions", "distinct", "from_", "joins", "where", "group", "having", "qualify", "windows", "order", "limit", "offset",
))  # fmt: skip


def emptiness(query: exp.Expr) -> Rule:
    """Return the function that decides whether this query certainly has no rows."""
    return _of_query(query, {})


def _of_query(query: exp.Expr, known: Mapping[str, Rule]) -> Rule:
    if ctes := query.args.get("with_"):
        for cte in ctes.expressions:
            known = {**known, cte.alias.lower(): _unknown if ctes.args.get("recursive") else _of_query(cte.this, known)}
    if isinstance(query, exp.Union):
        left, right = _of_query(query.left, known), _of_query(query.right, known)
        return lambda empty: left(empty) and right(empty)
    if isinstance(query, exp.Subquery):
        return _of_source(query, known)
    if isinstance(query, exp.Select) and query.args.get("from_") and _has_only_rows_of_its_source(query):
        return _of_joined(query.args["from_"].this, query.args.get("joins") or (), known)
    return _unknown


def _has_only_rows_of_its_source(select: exp.Select) -> bool:
    """Whether the SELECT has no rows if its FROM and joins have none.

    An aggregate without GROUP BY returns one row even for no input, and grouping sets may do so too. An unknown function may be an aggregate.
    """
    if _parts(select) - _KNOWN_PARTS:
        return False
    if group := select.args.get("group"):
        return _parts(group) == {"expressions"} and not group.find(exp.Tuple, exp.Rollup, exp.Cube, exp.GroupingSets)
    own = (found for found in select.find_all(exp.AggFunc, exp.Anonymous) if found.find_ancestor(exp.Select) is select)
    return all(isinstance(found.parent, exp.Window) and found.arg_key == "this" for found in own)


def _of_joined(source: exp.Expr, joins: Sequence[exp.Expr], known: Mapping[str, Rule]) -> Rule:
    rule = _of_source(source, known)
    for join in joins:
        rule = _of_join(rule, _of_source(join.this, known), join)
    return rule


def _of_join(left: Rule, right: Rule, join: exp.Expr) -> Rule:
    match join.method, join.side, join.kind:
        case "", "", "" | "INNER" | "CROSS":
            return lambda empty: left(empty) or right(empty)
        case "", "LEFT", "" | "OUTER":
            return left
        case "", "RIGHT", "" | "OUTER":
            return right
        case "", "FULL", "" | "OUTER":
            return lambda empty: left(empty) and right(empty)
    return _unknown


def _of_source(source: exp.Expr, known: Mapping[str, Rule]) -> Rule:
    """Return the rule of a table or of a query in parentheses."""
    name = source.name
    if isinstance(source, exp.Subquery) and _parts(source) <= {"this", "alias"}:
        return _of_query(source.this, known)
    if isinstance(source, exp.Table) and _parts(source) <= {"this", "alias"} and isinstance(source.this, exp.Identifier):
        return known.get(name.lower()) or (lambda empty: name in empty)
    return _unknown


def _unknown(empty: Collection[str]) -> bool:
    return False


def _parts(node: exp.Expr) -> set[str]:
    return {name for name, part in node.args.items() if part}
