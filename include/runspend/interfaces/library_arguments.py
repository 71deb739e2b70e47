"""Convert the arguments of the Python interface into the form that queries need, for a configuration file and for a server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, timedelta

from runspend.actions.costs.runs import day_or_month
from runspend.core.errors import UsageError
from runspend.core.text import clean

Where = Mapping[str, "str | Sequence[str | None] | None"]


def dimensions(by: str | Sequence[str]) -> list[str]:
    """Return the dimensions to group by as a list. `by` is a string with commas, or a sequence. Raises UsageError if it is empty."""
    keys = by.split(",") if isinstance(by, str) else list(by)
    if not keys:
        raise UsageError('cannot group costs: name a dimension, such as by="team".')
    return keys


def check_top(top: int | None) -> None:
    if top is not None and top < 1:
        raise UsageError(f"cannot show {top!r} rows: `top` must be a number from 1.")


def filters(where: Where | None) -> list[str]:
    """Return filters as KEY=VALUE. The value None, which selects costs without a value, becomes KEY=."""
    return [f"{key}={value}" for key, given in (where or {}).items() for value in _values(key, given)]


def explorer_query(
    by: str | Sequence[str], since: date | str | None, until: date | str | None, where: Where | None, more: Mapping[str, str]
) -> list[tuple[str, str]]:
    """Return the query of an address of the cost explorer, as (key, value) pairs.

    `since` and `until` are days or months, inclusive. `more` has the other keys of the address.
    """
    query = [("by", ",".join(dimensions(by))), *more.items()]
    if since is not None:
        query.append(("from", f"{day_or_month(since)[0]}"))
    if until is not None:
        query.append(("to", f"{day_or_month(until)[1] - timedelta(days=1)}"))
    return [*query, *(("where", text) for text in filters(where))]


def _values(key: str, given: str | Sequence[str | None] | None) -> list[str]:
    values = [given] if given is None or isinstance(given, str) else list(given)
    if not values:
        raise UsageError(f"cannot filter by {clean(key)}: its list of values is empty. Give a value, or leave {clean(key)} out.")
    return ["" if value is None else value for value in values]
