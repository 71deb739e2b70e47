"""The bill as it was known on an earlier day, for `runspend costs --as-of DATE`.

The table `bill_changes` has the changes that each version of a bill made, by charge date, service and account. Lines of earlier versions
are not kept, so the costs of an earlier day cannot be split by run. `query.py` has the current costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from runspend.actions.costs.query import Selection
from runspend.core.errors import CheckFailed, UsageError
from runspend.warehouse.base import Reader
from runspend.warehouse.sql_files import read_sql

if TYPE_CHECKING:
    import pyarrow as pa

# Dimension of earlier bill versions -> its column in bill_changes.
KEYS = {"source": "source", "period": "billing_period", "service": "service_name", "account": "sub_account_id", "day": "charge_date"}
DEFAULT_KEYS = ("source", "period", "service", "account")
VERSIONS = read_sql(Path(__file__).parent, "versions_as_of")
DIFFERENCES = read_sql(Path(__file__).parent, "differences_as_of").replace("{versions}", VERSIONS)


def bill_as_of(reader: Reader, until: datetime, by: Sequence[str], chosen: Selection, *, top: int, measure: str) -> pa.Table:
    """Return the costs of the bill versions that were loaded before `until`, highest first.

    A row has the dimensions in `by`, `billing_currency` and the cost of `measure`. `top` is the maximum number of rows.

    Raises UsageError for a dimension that earlier versions do not have, or if no bill was loaded before `until`. Raises CheckFailed if
    the changes do not add up to the totals that were recorded when each version was loaded.
    """
    columns = [_column(key.strip()) for key in by]
    for key in chosen.where:
        _column(key)
    _refuse_before_the_first(reader, until)
    differing = reader.query(DIFFERENCES, {"loaded_until": until}).to_pylist()
    if differing:
        raise CheckFailed("bill_changes add up to billing_loads", differing)
    names = ", ".join(columns)
    condition, parameters = chosen.condition(KEYS)
    where = f"where {condition}" if condition else ""
    return reader.query(
        f"with {VERSIONS} select {names}, billing_currency, sum(c.{measure}_cost) as {measure}_cost from changes c {where}"
        f" group by {names}, billing_currency having sum(c.{measure}_cost) != 0 order by {measure}_cost desc, {names} limit {int(top)}",
        {**parameters, "loaded_until": until},
    )


def _column(key: str) -> str:
    if key not in KEYS:
        raise UsageError(
            f"cannot show the bill of an earlier day by {key!r}: for earlier versions, only totals by {', '.join(KEYS)} are kept. "
            "Use these dimensions, or leave --as-of out."
        )
    return KEYS[key]


def _refuse_before_the_first(reader: Reader, until: datetime) -> None:
    first: datetime | None = reader.query("select min(loaded_at) as first from billing_loads where state in ('current', 'replaced')")[
        "first"
    ][0].as_py()
    if first is None or first >= until:
        when = "no bill has been loaded yet" if first is None else f"the first bill was loaded on {first:%Y-%m-%d %H:%M} UTC"
        raise UsageError(f"cannot show the bill of that day: {when}. Give a later --as-of.")
