"""Carry the earlier rows of an artifact store forward to the month of the pipeline run.

A figure is valid until the next measurement, even if that is in a later month. The new measurement itself does not belong here.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from runspend.schema.rows import midnight, month_after
from runspend.schema.tables import ARTIFACT_BYTES

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

_MONTHS_BACK = 24  # rows that are older than this are not carried forward


def roll_forward(con: duckdb.DuckDBPyConnection, now: datetime, previous: Callable[[str], pa.Table | None]) -> dict[str, pa.Table] | None:
    """Fill the table `prior` with the rows that the month has before this measurement.

    Returns the rows of the earlier months whose open rows had to be closed at the end of their month. Returns None if the store was
    already measured at a time later than `now`.
    """
    month = now.astimezone(timezone.utc).date().replace(day=1)
    if previous(f"{month_after(month, 1):%Y-%m}") is not None:
        return None
    back, found = 0, previous(f"{month:%Y-%m}")
    while found is None and back < _MONTHS_BACK:
        back += 1
        found = previous(f"{month_after(month, -back):%Y-%m}")
    schema = ARTIFACT_BYTES.arrow_schema()
    _replace_prior(con, schema.empty_table() if found is None else found.select(schema.names).cast(schema))
    tables = {}
    if found is not None:
        for start in (month_after(month, -n) for n in range(back, 0, -1)):
            end = midnight(month_after(start, 1))
            closed = select_bytes(
                con,
                f"select * replace (coalesce(valid_to, $end) as valid_to) from prior order by {', '.join(ARTIFACT_BYTES.sort)}",
                {"end": end},
            )
            carried = select_bytes(
                con,
                "select * replace ($month as month, $start as valid_from) from prior where valid_to is null",
                {"month": end.date(), "start": end},
            )
            if carried.num_rows:
                tables[f"{start:%Y-%m}"] = closed
            _replace_prior(con, carried)
    newer = con.execute("select count(*) from prior where valid_from > $1 or valid_to > $1", [now]).fetchone()
    return None if newer and newer[0] else tables


def _replace_prior(con: duckdb.DuckDBPyConnection, rows: pa.Table) -> None:
    con.register("prior_rows", rows)
    con.execute("create or replace temp table prior as from prior_rows")
    con.unregister("prior_rows")


def select_bytes(con: duckdb.DuckDBPyConnection, sql: str, parameters: dict[str, Any]) -> pa.Table:
    """Return the result of a query with the column types of `artifact_bytes`."""
    rows: Any = con.sql(sql, params=parameters).to_arrow_table()
    return rows.cast(ARTIFACT_BYTES.arrow_schema())
