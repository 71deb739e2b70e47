"""Once-only records in memory, for tests that need no disk."""

from __future__ import annotations

import copy
from typing import Any

from runspend.warehouse.records import Records


class MemoryRecords(Records):
    """Records in a dict. Before and after each change, a method is called with its name, for kills."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, str], tuple[dict[str, Any], str]] = {}
        self.writes = 0

    def create(self, kind: str, key: str, value: dict[str, Any]) -> bool:
        return (kind, key) not in self.values and self._change("create", kind, key, value)

    def get(self, kind: str, key: str) -> tuple[dict[str, Any], str] | None:
        return copy.deepcopy(self.values.get((kind, key)))

    def replace(self, kind: str, key: str, value: dict[str, Any], token: str) -> bool:
        found = self.values.get((kind, key))
        return found is not None and found[1] == token and self._change("replace", kind, key, value)

    def list(self, kind: str, refused: object = None) -> dict[str, dict[str, Any]]:
        return {key: copy.deepcopy(value) for (found, key), (value, _) in sorted(self.values.items()) if found == kind}

    def before(self, operation: str) -> None:
        """Do nothing. Tests replace it."""

    def after(self, operation: str) -> None:
        """Do nothing. Tests replace it."""

    def _change(self, change: str, kind: str, key: str, value: dict[str, Any]) -> bool:
        self.before(f"{change} {kind}")
        self.writes += 1
        self.values[kind, key] = copy.deepcopy(value), str(self.writes)
        self.after(f"{change} {kind}")
        return True
