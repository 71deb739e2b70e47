"""For tests: the items that the archive may act on now.

These items are still planned and announced, their grace period has ended, and no one has objected.
"""

from __future__ import annotations

from datetime import datetime

from runspend.actions.archive.items import Item
from runspend.actions.archive.plan import item_of
from runspend.actions.archive.states import current_plan
from runspend.config.settings import Settings
from runspend.warehouse.base import Reader
from runspend.warehouse.records import Records


def due_items(reader: Reader, records: Records, settings: Settings, now: datetime) -> list[Item]:
    """Return the due items of a new plan, ordered by policy, store and folder."""
    plan = current_plan(reader, records, settings, now)
    return [item_of(row) for row in plan.to_pylist() if row["state"] == "due"]
