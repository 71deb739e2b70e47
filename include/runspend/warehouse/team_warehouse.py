"""The warehouse as some teams see it: for questions only. Everything else that a warehouse can do is refused.

The visible part of each table is in `team_views.py`.
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
    """The readers and answers of a warehouse, restricted to what teams see."""

    def __init__(self, whole: Warehouse, seen: Restriction) -> None:
        self._restricted = whole.restricted(seen)

    @contextmanager
    def reader(self) -> Iterator[Reader]:
        """Open one consistent view."""
        with _without_names(), self._restricted.reader() as reader:
            yield reader

    def answer(self, sql: str, *, native: bool = False, timeout: float | None = None, at_most: int | None = None) -> pa.Table:
        """Return the rows of one user-written statement. Raises RunspendError for the engine's own dialect."""
        if native:
            raise _refusal()
        with _without_names():
            return self._restricted.answer(sql, timeout=timeout, at_most=at_most)

    def restricted(self, seen: Restriction) -> Warehouse:
        """Refuse: the visible part was decided before."""
        raise _refusal()

    def states(self, *tables: str) -> dict[Unit, UnitState]:
        """Refuse: units are named after sources of all teams."""
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
    """Raise damage as an error that is only logged: its units are named after bills and servers of all teams."""
    try:
        yield
    except WarehouseDamaged as error:
        raise RunspendError(str(error)) from error


def _refusal() -> RunspendError:
    return RunspendError("cannot use the warehouse: its reader sees the rows of some teams only. Ask with a reader.")
