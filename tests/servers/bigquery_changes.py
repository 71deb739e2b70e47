"""Decide which transaction may change which table. BigQuery's rule is coarser than DuckDB's.

Part of the tests' BigQuery emulator; its own Python runs this module.

Source: Google Cloud "Multi-statement transactions" ("Transaction concurrency"), "Troubleshoot queries".
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from bqemulator.domain.errors import InvalidQueryError

from tests.servers.bigquery_sql import Name


class Changes:
    """Record which job changes which table.

    If two jobs update, delete, merge or truncate the same table, the second one waits; in a transaction, it fails. A transaction also
    fails if the table changed after the transaction began, because it would overwrite rows that it does not see.
    """

    def __init__(self) -> None:
        self._free = threading.Condition()
        self._holders: dict[Name, object] = {}
        self._changed_at: dict[Name, int] = {}
        self._moment = 0

    @contextmanager
    def begin(self) -> Iterator[int]:
        """Return the moment at which a transaction begins. No job commits while the transaction takes its snapshot."""
        with self._free:
            yield self._moment

    def claim(self, table: Name, holder: object, began: int) -> None:
        """Reserve a table for a transaction, or raise an error at once."""
        with self._free:
            if self._holders.setdefault(table, holder) is not holder or self._changed_at.get(table, 0) > began:
                raise aborted(table)

    def wait(self, table: Name, holder: object) -> None:
        """Reserve a table for a single statement, after all other jobs have finished changing it."""
        with self._free:
            self._free.wait_for(lambda: table not in self._holders)
            self._holders[table] = holder

    @contextmanager
    def commit(self, holder: object) -> Iterator[None]:
        """Mark a commit: the caller commits inside, and all transactions that begin later see it."""
        with self._free:
            yield
            self._moment += 1
            self._changed_at |= {table: self._moment for table, by in self._holders.items() if by is holder}

    def release(self, holder: object) -> None:
        """Let others change this holder's tables again, after a commit or a rollback."""
        with self._free:
            self._holders = {table: by for table, by in self._holders.items() if by is not holder}
            self._free.notify_all()


CHANGES = Changes()


def aborted(table: object) -> InvalidQueryError:
    """Return BigQuery's error for the transaction that loses."""
    return InvalidQueryError(
        f"Transaction is aborted due to concurrent update against table {table}. Transaction ID: {uuid.uuid4()}", location="query"
    )
