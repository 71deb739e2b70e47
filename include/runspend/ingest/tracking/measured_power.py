"""Find the machines whose power is measured, and the pools whose runs use them, in `billing[].machines` and `pools`.

`rows.py` reads the measurements that runs logged. `ingest/billing/` uses them for bills.
"""

from __future__ import annotations

from runspend.config.settings import BillSource, Machine, Pool, Settings
from runspend.core.selectors import matches
from runspend.ingest.tracking.settings import MeasuredMachines


def find_measured(settings: Settings) -> MeasuredMachines:
    """Return the machines whose power is measured, and for each pool with such a machine all machines that its runs may use."""
    measured = {machine.resource_id for bill in settings.billing for machine in bill.machines if machine.is_measured}
    if not measured:
        return MeasuredMachines()
    of_pool = []
    for pool in settings.pools:
        machines = {machine.resource_id for bill in settings.billing for machine in bill.machines if _has(pool, bill, machine)}
        if machines & measured:
            of_pool.append((pool.name, tuple(sorted(machines))))
    return MeasuredMachines(tuple(sorted(measured)), tuple(of_pool))


def _has(pool: Pool, bill: BillSource, machine: Machine) -> bool:
    """Return whether a pool's `lines` select the charges of a machine.

    False for a pool that names neither resources nor sources, because it may also select charges of other bills.
    """
    if not {"resource", "source"} & pool.lines.keys():
        return False
    held: dict[str, list[str | None]] = {
        "source": [bill.name],
        "resource": [machine.resource_id],
        "account": [bill.name, machine.account],
        "region": [machine.region],
        "instance_type": [machine.instance_type and machine.instance_type.lower()],
        "service": ["Own machines"],
        "category": ["Usage"],
    }
    for key, patterns in pool.lines.items():
        values = held[key] if key in held else [machine.tags.get(key.partition(".")[2])]
        if not any(matches(pattern.lower() if key == "instance_type" else pattern, value) for pattern in patterns for value in values):
            return False
    return True
