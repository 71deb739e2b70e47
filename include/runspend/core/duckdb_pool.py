"""DuckDB engines that are lent, and kept for whoever asks next: opening one takes 15 ms, most questions about little data 2 to 7.

Put here how engines are kept. What an engine is set to and what it always holds is said by whoever makes it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import duckdb

__all__ = ["lent", "limit_threads"]

KEPT = 2  # of a kind: a step reads while it writes; each has threads of its own
_idle: dict[str, list[duckdb.DuckDBPyConnection]] = {}
_limits = threading.local()  # of threads that an engine may have which is lent to this thread


def limit_threads(count: int) -> None:
    """Engines lent to this thread of the program have so many threads of their own from here on, not one for each processor."""
    _limits.threads = count


@contextmanager
def _few_threads(engine: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """The engine with as many threads as this thread of the program may use."""
    limit: int | None = getattr(_limits, "threads", None)
    if limit is None:
        yield
        return
    usual = engine.execute("select current_setting('threads')").fetchall()[0][0]
    engine.execute(f"set threads = {limit}")
    yield
    engine.execute(f"set threads = {usual}")


@contextmanager
def lent(kind: str, make: Callable[[], duckdb.DuckDBPyConnection], spill: Path, *, memory: str) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection to an engine in memory that nobody else uses: what `make` opens, or one of its kind that was given back.

    It may take `memory` ("2GB") and spills into the folder `spill`. Tables, views and types of the schema main are dropped when it is
    given back; what is temporary, set or registered by its connections goes with them. An engine that spilled, was locked, or whose user failed, is closed.
    """
    waiting = _idle.setdefault(kind, [])
    try:
        engine = waiting.pop()
    except IndexError:  # none, or another thread has it
        engine = make()
    try:
        engine.execute(f"set memory_limit = '{memory}'")
        engine.execute("set temp_directory = $spill", {"spill": str(spill)})
        with _few_threads(engine), engine.cursor() as connection:
            yield connection
        if spill.exists() or engine.execute("select current_setting('lock_configuration')").fetchall()[0][0]:
            engine.close()  # it cannot be set otherwise any more
            return
        _clear(engine)
        engine.execute(f"set memory_limit = '{memory}'")  # which gives what it has no use for back to the system
    except BaseException:
        engine.close()
        raise
    if len(waiting) < KEPT:
        waiting.append(engine)
    else:
        engine.close()


def _clear(engine: duckdb.DuckDBPyConnection) -> None:
    """Drop what the schema main holds, but for macros."""
    own = "schema_name = 'main' and database_name = current_database() and not internal"
    found = engine.execute(
        f"select 'view', view_name from duckdb_views() where {own} union all select 'table', table_name from duckdb_tables() where {own} "
        f"union all select 'type', type_name from duckdb_types() where {own}"
    ).fetchall()
    for kind, name in sorted(found):  # tables before the types of their columns
        quoted = name.replace('"', '""')
        engine.execute(f'drop {kind} main."{quoted}"')


def _close_idle() -> None:
    for waiting in list(_idle.values()):
        for engine in waiting:
            engine.close()
        waiting.clear()


os.register_at_fork(before=_close_idle)  # an engine's threads do not live on in a child, which could not even close it
