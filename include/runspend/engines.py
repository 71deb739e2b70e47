"""DuckDB engines that are lent, and kept for whoever asks next: opening one takes as long as ten questions about little data.

Put here how engines are kept. What an engine is set to and what it always holds is said by whoever makes it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import duckdb

__all__ = ["lent"]

_idle: dict[str, list[duckdb.DuckDBPyConnection]] = {}


@contextmanager
def lent(kind: str, make: Callable[[], duckdb.DuckDBPyConnection], spill: Path, *, memory: str) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection to an engine in memory that nobody else uses: what `make` opens, or one of its kind that was given back.

    It may take `memory` ("2GB") and spills into the folder `spill`. Tables, views and types of the schema main are dropped when it is
    given back; what is temporary, set or registered by its connections goes with them. An engine that spilled, was locked, or whose user failed, is closed.
    """
    waiting = _idle.setdefault(kind, [])
    engine = waiting.pop() if waiting else make()
    try:
        engine.execute(f"set memory_limit = '{memory}'")
        engine.execute("set temp_directory = $spill", {"spill": str(spill)})
        with engine.cursor() as connection:
            yield connection
        if spill.exists() or engine.execute("select current_setting('lock_configuration')").fetchall()[0][0]:
            engine.close()  # it cannot be set otherwise any more
            return
        _clear(engine)
    except BaseException:
        engine.close()
        raise
    waiting.append(engine)


def _clear(engine: duckdb.DuckDBPyConnection) -> None:
    """Drop what the schema main holds, but for macros."""
    found = engine.execute(
        "select 'view', view_name from duckdb_views() where schema_name = 'main' and not internal "
        "union all select 'table', table_name from duckdb_tables() where schema_name = 'main' and not internal "
        "union all select 'type', type_name from duckdb_types() where schema_name = 'main' and not internal and database_name <> 'system'"
    ).fetchall()
    for kind, name in sorted(found):  # tables before the types of their columns
        quoted = name.replace('"', '""')
        engine.execute(f'drop {kind} main."{quoted}"')


def _close_idle() -> None:
    for engines in _idle.values():
        while engines:
            engines.pop().close()


os.register_at_fork(before=_close_idle)  # an engine's threads do not live on in a child, which could not even close it
