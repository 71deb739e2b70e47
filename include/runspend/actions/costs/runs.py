"""Read the table `run_costs` for programs: the total cost of each run, ordered by the run's start.

Sums over several runs do not belong here.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from runspend.actions.explain.figures import RunKey
from runspend.core.errors import UsageError
from runspend.core.text import quoted_value
from runspend.warehouse.base import Reader

if TYPE_CHECKING:
    import pyarrow as pa


ORDER = "start_time, tracking_server, workspace, run_id, billing_currency"


@dataclass(frozen=True)
class ChosenRuns:
    """The rows to read: runs by the day of their start, or one run.

    `since` is the first day of the start, and `until` is the day after the last. `limit` is the maximum number of rows, after `offset`
    rows were skipped.
    """

    since: date | None = None
    until: date | None = None
    run: RunKey | None = None
    limit: int | None = None
    offset: int = 0

    @classmethod
    def of(cls, since: date | str | None, until: date | str | None, *, limit: int | None = None, offset: int = 0) -> ChosenRuns:
        """Return the rows for `since` and `until`, each a day or a month, both inclusive.

        Raises UsageError for other text, and if `until` is before `since`.
        """
        first = None if since is None else day_or_month(since)[0]
        after = None if until is None else day_or_month(until)[1]
        if first is not None and after is not None and after <= first:
            raise UsageError(f"cannot show runs: until ({until}) is before since ({since}).")
        return cls(first, after, limit=limit, offset=offset)


def read_run_costs(reader: Reader, chosen: ChosenRuns) -> pa.Table:
    """Return rows of `run_costs`, ordered by start, key and currency. A run that is billed in several currencies has a row for each."""
    parameters: dict[str, Any] = {}
    conditions = ["true"]
    if chosen.run is not None:
        parameters |= {"server": chosen.run.tracking_server, "workspace": chosen.run.workspace, "run_id": chosen.run.run_id}
        conditions.append("tracking_server = @server and workspace = @workspace and run_id = @run_id")
    if chosen.since is not None:
        parameters["since"] = chosen.since
        conditions.append("start_time >= timestamp(@since)")
    if chosen.until is not None:
        parameters["until"] = chosen.until
        conditions.append("start_time < timestamp(@until)")
    page = "" if chosen.limit is None else f" limit {chosen.limit:d} offset {chosen.offset:d}"
    return reader.query(f"select * from run_costs where {' and '.join(conditions)} order by {ORDER}{page}", parameters)


def newest_build(reader: Reader) -> datetime | None:
    """Return when the cost tables were last built, or None if never. If two calls return the same time, the tables are the same."""
    built: datetime | None = reader.query("select max(built_at) as built_at from builds")["built_at"][0].as_py()
    return built


def billing_period(given: str | None) -> str | None:
    """Return `given` unchanged if it is a billing period (YYYY-MM) or None. Raises UsageError for other text."""
    try:
        if given is None or (len(f"{given}") == len("2026-11") and day_or_month(given)):
            return given
    except UsageError:
        pass
    raise UsageError(f"cannot use {quoted_value(f'{given}')} as a billing period: write YYYY-MM.")


def day_or_month(given: date | str) -> tuple[date, date]:
    """Return the first day of a day or month, and the day after its last day. Raises UsageError for other text."""
    if isinstance(given, datetime):
        given = (given.astimezone(timezone.utc) if given.tzinfo else given).date()
    if isinstance(given, date):
        return given, given + timedelta(days=1)
    try:
        if len(given) == len("2026-11"):
            first = date.fromisoformat(f"{given}-01")
            return first, (first + timedelta(days=31)).replace(day=1)
        day = date.fromisoformat(given)
        return day, day + timedelta(days=1)
    except (ValueError, OverflowError):
        raise UsageError(f"cannot use {quoted_value(given)} as a day or month: write YYYY-MM-DD or YYYY-MM.") from None
