"""Removes the rows of sources that are no longer configured."""

from __future__ import annotations

from datetime import datetime

from runspend.allocation.model_order import LEDGER_SUMS
from runspend.config.settings import Settings
from runspend.core.errors import ConfigError
from runspend.core.step_result import Outcome
from runspend.schema.rows import make_load_id
from runspend.warehouse.factory import open_warehouse


def forget(settings: Settings, name: str, *, now: datetime) -> Outcome:
    """Drop all units of a server, bill or artifact store that is no longer configured, and the cost tables of months without any bill.

    If `name` is still configured or has no rows, raises ConfigError and changes nothing.
    """
    from runspend.ingest.artifacts import store_slug

    outcome = Outcome("sources forget")
    warehouse = open_warehouse(settings)
    configured = {s.name for s in settings.tracking} | {s.name for s in settings.billing} | {store_slug(s.uri) for s in settings.stores}
    writer = store_slug(name) if "/" in name else name
    if writer in configured:
        raise ConfigError(f"cannot forget {name!r}: it is still configured. Remove it from runspend.yaml first. Nothing was changed.")
    states = warehouse.states()
    dropped = [u for u in states if u.writer == writer and u.table != "builds"]
    if not dropped:
        raise ConfigError(
            f"cannot forget {name!r}: the warehouse has no rows of that name. Check the name with `runspend status --json`. Nothing was changed."
        )
    fed = {u.period for u in states if u.table == "billing_lines" and u not in dropped}
    dropped += [u for u in states if u.table in ("cost_allocations", *LEDGER_SUMS, "period_states") and u.period not in fed]
    dropped += [u for u in states if u.table == "builds" and u.writer == "allocate" and u.period not in fed]
    with warehouse.step("forget", make_load_id(name, now)) as step:
        for unit in dropped:
            step.drop(*unit)
        step.publish({unit: states[unit].digest for unit in dropped})
    outcome.changed += [" ".join(unit) for unit in dropped]
    return outcome
