"""A warehouse that shows only the rows that some teams may see. It only runs queries and refuses all other operations.

`team_views.py` decides which rows are visible.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from runspend.core.errors import RunspendError, WarehouseDamaged
from runspend.warehouse.base import Reader, Step, Unit, UnitState, Warehouse
from runspend.warehouse.team_views import Restriction

if TYPE_CHECKING:
    import pyarrow as pa


class TeamWarehouse:
    """The readers and answers of a warehouse, restricted to the rows that some teams may see."""

    def __init__(self, whole: Warehouse, seen: Restriction) -> None:
        self._restricted = whole.restricted(seen)

    @contextmanager
    def reader(self) -> Iterator[Reader]:
        """Open a reader of one build that shows only the visible rows."""
        with _without_names(), self._restricted.reader() as reader:
            yield reader

    def answer(self, sql: str, *, native: bool = False, timeout: float | None = None, at_most: int | None = None) -> pa.Table:
        """Return the rows of one user-written statement. Raises RunspendError if `native` is set."""
        if native:
            raise _refusal()
        with _without_names():
            return self._restricted.answer(sql, timeout=timeout, at_most=at_most)

    def restricted(self, seen: Restriction) -> Warehouse:
        """Refuse, because the warehouse is already restricted."""
        raise _refusal()

    def states(self, *tables: str) -> dict[Unit, UnitState]:
        """Refuse, because the names of units contain the bills and tracking servers of all teams."""
        raise _refusal()

    def read(self, unit: Unit) -> pa.Table | None:
        """Refuse."""
        raise _refusal()

    def fetch(self, unit: Unit, folder: Path) -> Path | None:
        """Refuse."""
        raise _refusal()

    def step(self, name: str, build_id: str) -> AbstractContextManager[Step]:
        """Refuse."""
        raise _refusal()

    def find_damage(
        self, units: Collection[Unit] | None = None, *, since: float | None = None, progress: Callable[[str], None] = lambda _: None
    ) -> dict[Unit, str]:
        """Refuse."""
        raise _refusal()

    def without(self, units: set[Unit]) -> Warehouse:
        """Refuse."""
        raise _refusal()


@contextmanager
def _without_names() -> Iterator[None]:
    """Replace WarehouseDamaged by RunspendError, which is only logged and not shown.

    The damaged units are named after the bills and tracking servers of all teams.
    """
    try:
        yield
    except WarehouseDamaged as error:
        raise RunspendError(str(error)) from error


def _refusal() -> RunspendError:
    return RunspendError("cannot use the warehouse directly: this viewer may see the rows of some teams only. Query it with a reader.")
