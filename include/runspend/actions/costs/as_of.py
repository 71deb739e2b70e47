"""The bill as it was known on an earlier day: `runspend costs --as-of DATE`, from the changes of each version.

Earlier versions keep only the totals per charge date, service and account, not the lines. So this module cannot tell which runs used
the money. Current costs belong in `query.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from runspend.actions.costs.query import Selection
from runspend.core.errors import CheckFailed, UsageError
from runspend.warehouse.base import Reader

if TYPE_CHECKING:
    import pyarrow as pa

# Dimensions of earlier versions, and their columns of bill_changes.
KEYS = {"source": "source", "period": "billing_period", "service": "service_name", "account": "sub_account_id", "day": "charge_date"}
DEFAULT_KEYS = ("source", "period", "service", "account")

VERSIONS = """
versions as (
  select source, billing_period, version_number
  from billing_loads
  where state in ('current', 'replaced') and loaded_at < @loaded_until
  group by source, billing_period, version_number
),
changes as (
  select
    c.source, c.billing_period, c.charge_date, c.service_name, c.sub_account_id, c.billing_currency,
    c.list_cost, c.contracted_cost, c.effective_cost, c.billed_cost
  from bill_changes c
  join versions v on v.source = c.source and v.billing_period = c.billing_period and v.version_number = c.version_number
)
"""

# Rows: bills whose changes up to the day do not add up to the totals of the version of that day.
DIFFERENCES = f"""
with {VERSIONS},
newest as (
  select source, billing_period, max(version_number) as version_number from versions group by source, billing_period
),
both_sides as (
  select source, billing_period, billing_currency, list_cost, contracted_cost, effective_cost, billed_cost from changes
  union all
  select l.source, l.billing_period, l.billing_currency, -l.list_cost, -l.contracted_cost, -l.effective_cost, -l.billed_cost
  from billing_loads l
  join newest n on n.source = l.source and n.billing_period = l.billing_period and n.version_number = l.version_number
  where l.state in ('current', 'replaced')
)
select
  source, billing_period, billing_currency, sum(b.list_cost) as list_cost, sum(b.contracted_cost) as contracted_cost,
  sum(b.effective_cost) as effective_cost, sum(b.billed_cost) as billed_cost
from both_sides b
group by source, billing_period, billing_currency
having sum(b.list_cost) != 0 or sum(b.contracted_cost) != 0 or sum(b.effective_cost) != 0 or sum(b.billed_cost) != 0
"""


def bill_as_of(reader: Reader, until: datetime, by: Sequence[str], chosen: Selection, *, top: int, measure: str) -> pa.Table:
    """Return the bill by the versions loaded before `until`, largest first: the keys, `billing_currency` and one cost.

    Raises UsageError for a key that earlier versions do not have, or if nothing had been loaded. Raises CheckFailed if the
    changes do not add up to the totals noted when each version was loaded.
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
