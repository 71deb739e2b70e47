"""Which transaction may change which table: BigQuery's rule, coarser than DuckDB's.

Part of the emulator of the tests, run by its own Python.

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
    """Who changes which table. Within a transaction, the second to update, delete, merge or truncate fails; outside, it waits.

    A transaction fails too on a table that was changed after it began: it does not see what it would overwrite.
    """

    def __init__(self) -> None:
        self._free = threading.Condition()
        self._holders: dict[Name, object] = {}
        self._changed_at: dict[Name, int] = {}
        self._moment = 0

    @contextmanager
    def begin(self) -> Iterator[int]:
        """The moment a transaction begins; nothing is committed while its snapshot is taken."""
        with self._free:
            yield self._moment

    def claim(self, table: Name, holder: object, began: int) -> None:
        """For a transaction: now, or never."""
        with self._free:
            if self._holders.setdefault(table, holder) is not holder or self._changed_at.get(table, 0) > began:
                raise aborted(table)

    def wait(self, table: Name, holder: object) -> None:
        """For a statement by itself: wait until no other job changes the table."""
        with self._free:
            self._free.wait_for(lambda: table not in self._holders)
            self._holders[table] = holder

    @contextmanager
    def commit(self, holder: object) -> Iterator[None]:
        """The commit happens inside; it is seen by all that begin afterwards."""
        with self._free:
            yield
            self._moment += 1
            self._changed_at |= {table: self._moment for table, by in self._holders.items() if by is holder}

    def release(self, holder: object) -> None:
        """Whatever was committed or not, others may change the tables now."""
        with self._free:
            self._holders = {table: by for table, by in self._holders.items() if by is not holder}
            self._free.notify_all()


CHANGES = Changes()


def aborted(table: object) -> InvalidQueryError:
    """What BigQuery says to the transaction that loses."""
    return InvalidQueryError(
        f"Transaction is aborted due to concurrent update against table {table}. Transaction ID: {uuid.uuid4()}", location="query"
    )
