"""Multiply and divide BIGNUMERIC values that need more than DuckDB's 38 digits.

Part of the tests' BigQuery emulator; its own Python runs this module. If casts and literals show that a statement multiplies, divides or
takes a remainder of two BIGNUMERIC values, one call of Python's decimals computes the whole expression exactly. Its operands are strings.
DuckDB computes everything else.
"""

from __future__ import annotations

import decimal
from collections.abc import Callable
from functools import cache
from typing import Any

from sqlglot import exp

FUNCTION = "bigquery_exact"
EXACT = decimal.Context(prec=160)
ARITHMETIC = (exp.Mul, exp.Add, exp.Sub, exp.IntDiv, exp.Mod, exp.Neg, exp.Paren, exp.Abs, exp.Sign)
DIGITS = 16  # digits of a literal that DuckDB can multiply with a BIGNUMERIC


def widen(tree: exp.Expression) -> None:
    """Replace arithmetic that DuckDB cannot compute."""
    for node in [
        n for n in tree.walk() if _is_arithmetic(n) and not _is_arithmetic(n.parent) and any(_is_wide(part) for part in _parts(n))
    ]:
        leaves: list[exp.Expression] = []
        formula = _formula(node, leaves)
        texts = exp.Array(expressions=[exp.cast(leaf, exp.DType.VARCHAR) for leaf in leaves])
        call = exp.Anonymous(this=FUNCTION, expressions=[exp.Literal.string(formula), texts])
        node.replace(exp.cast(call, exp.DataType.build("DECIMAL(38, 22)", dialect="duckdb")))


def _is_exact(node: exp.Expression | None) -> bool:
    return isinstance(node, exp.Cast) and node.to.this == exp.DType.BIGDECIMAL and not node.to.expressions


def _is_arithmetic(node: exp.Expression | None) -> bool:
    return isinstance(node, ARITHMETIC) or _is_exact(node)


def _parts(node: exp.Expression) -> list[exp.Expression]:
    """Return the node and its operands, down to the first ones that are not arithmetic."""
    below = [part for child in node.iter_expressions() if _is_arithmetic(child) for part in _parts(child)]
    return [node, *below]


def _is_wide(node: exp.Expression) -> bool:
    if not isinstance(node, (exp.Mul, exp.IntDiv, exp.Mod)):
        return False
    sides = [[part for part in _parts(side) if _is_exact(part)] if _is_arithmetic(side) else [] for side in (node.this, node.expression)]
    long = any(isinstance(part.this, exp.Literal) and len(part.this.this.split(".")[0]) > DIGITS for side in sides for part in side)
    return all(sides) or long or (any(sides) and not isinstance(node, exp.Mul))


def _formula(node: exp.Expression, leaves: list[exp.Expression]) -> str:
    signs = {exp.Mul: "*", exp.Add: "+", exp.Sub: "-"}
    if type(node) in signs:
        return f"({_formula(node.this, leaves)} {signs[type(node)]} {_formula(node.expression, leaves)})"
    if isinstance(node, (exp.IntDiv, exp.Mod)):
        return f"{'div' if isinstance(node, exp.IntDiv) else 'mod'}({_formula(node.this, leaves)}, {_formula(node.expression, leaves)})"
    if isinstance(node, (exp.Neg, exp.Abs, exp.Sign)):
        return f"{type(node).__name__.lower()}({_formula(node.this, leaves)})"
    if isinstance(node, exp.Paren) or _is_exact(node):
        return _formula(node.this, leaves)
    leaves.append(node.copy())
    return f"v[{len(leaves) - 1}]"


def compute(formula: str, values: list[str | None]) -> str | None:
    """Return the value of a formula, or null if an operand is null."""
    if None in values:
        return None
    with decimal.localcontext(EXACT):
        return f"{_compiled(formula)([decimal.Decimal(value) for value in values]):f}"


@cache
def _compiled(formula: str) -> Callable[[list[decimal.Decimal]], decimal.Decimal]:
    names: dict[str, Any] = {
        "div": lambda a, b: a // b,
        "mod": lambda a, b: a % b,
        "abs": abs,
        "neg": lambda a: -a,
        "sign": lambda a: decimal.Decimal((a > 0) - (a < 0)),
    }
    made: Callable[[list[decimal.Decimal]], decimal.Decimal] = eval(
        f"lambda v: {formula}", names
    )  # the formula contains only these names and numbers of operands
    return made
