"""Which items may be acted on now: planned by the tables as they are, announced, their grace period over, and nobody objected."""

from __future__ import annotations

from datetime import datetime

from runspend.actions.archive.items import Item
from runspend.actions.archive.plan import item_of
from runspend.actions.archive.states import current_plan
from runspend.config.settings import Settings
from runspend.warehouse import Reader
from runspend.warehouse.records import Records

__all__ = ["due_items"]


def due_items(reader: Reader, records: Records, settings: Settings, now: datetime) -> list[Item]:
    """The items of the plan, made anew, that are due; in the order of policy, store and folder."""
    plan = current_plan(reader, records, settings, now)
    return [item_of(row) for row in plan.to_pylist() if row["state"] == "due"]
