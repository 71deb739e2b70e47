"""DuckDB engines that are lent and reused: opening one takes 15 ms, most queries on little data take 2 to 7 ms.

This module keeps engines. Each caller defines the settings of its engines and what they always contain.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from runspend.core.ctrl_c import let_ctrl_c_interrupt, raise_ctrl_c
from runspend.core.sql_quoting import sql_name

if TYPE_CHECKING:
    import duckdb


KEPT = 2  # engines kept of each kind: a step reads while it writes; each engine has its own threads
_idle: dict[str, list[duckdb.DuckDBPyConnection]] = {}
_limits = threading.local()  # the number of threads and the memory of an engine that is lent to this thread


def limit_threads(count: int) -> None:
    """From now on, give each engine lent to this thread of the program `count` threads, instead of one per processor."""
    _limits.threads = count


def limit_engine(threads: int, memory: str) -> None:
    """Give engines lent to this thread this number of threads, and `memory` ("1GB") instead of the values that callers request."""
    _limits.threads, _limits.memory = threads, memory


@contextmanager
def _few_threads(engine: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Lend the engine with as many threads as this thread of the program may use."""
    limit: int | None = getattr(_limits, "threads", None)
    if limit is None:
        yield
        return
    usual = engine.execute("select current_setting('threads')").fetchall()[0][0]
    engine.execute(f"set threads = {limit}")
    yield
    if not _is_locked(engine):  # a locked engine is closed, not lent again
        engine.execute(f"set threads = {usual}")


def _is_locked(engine: duckdb.DuckDBPyConnection) -> bool:
    """Whether the engine's settings can no longer be changed."""
    return bool(engine.execute("select current_setting('lock_configuration')").fetchall()[0][0])


@contextmanager
def borrow_connection(
    kind: str, make: Callable[[], duckdb.DuckDBPyConnection], spill: Path, *, memory: str
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Lend a connection to an in-memory engine that no other caller uses: a kept one of this kind, or a new one opened by `make`.

    The engine may use `memory` ("2GB") and spills into the folder `spill`. When the engine is given back, tables, views and types
    of the schema main are dropped. Temporary objects, settings and registered tables end with its connections. An engine that
    spilled, was locked, or whose user failed is closed.
    """
    memory = getattr(_limits, "memory", memory)
    engine = _take(kind, make)
    try:
        engine.execute(f"set memory_limit = '{memory}'")
        engine.execute("set temp_directory = $spill", {"spill": str(spill)})
        with raise_ctrl_c(), _few_threads(engine), engine.cursor() as connection, let_ctrl_c_interrupt(connection):
            yield connection
        if spill.exists() or _is_locked(engine):
            engine.close()  # a locked engine can no longer be reset
            return
        _clear(engine)
        engine.execute(f"set memory_limit = '{memory}'")  # also returns the unused memory of all engines to the system
    except BaseException:
        engine.close()
        raise
    _keep(kind, engine)


@contextmanager
def borrow_parser(make: Callable[[], duckdb.DuckDBPyConnection]) -> Iterator[duckdb.DuckDBPyConnection]:
    """Lend a connection to an engine that only parses statements: a kept one, or a new one opened by `make`.

    Its memory limit never changes: that would return the unused memory of all engines to the system. A step parses its statements
    while it runs, and an allocation of a million bill lines would take a tenth longer.
    """
    engine = _take("parser", make)
    try:
        with raise_ctrl_c(), engine.cursor() as connection, let_ctrl_c_interrupt(connection):
            yield connection
    except BaseException:
        engine.close()
        raise
    _keep("parser", engine)


def _take(kind: str, make: Callable[[], duckdb.DuckDBPyConnection]) -> duckdb.DuckDBPyConnection:
    try:
        return _idle.setdefault(kind, []).pop()
    except IndexError:  # no engine is kept, or another thread has taken it
        return make()


def _keep(kind: str, engine: duckdb.DuckDBPyConnection) -> None:
    waiting = _idle.setdefault(kind, [])
    if len(waiting) < KEPT:
        waiting.append(engine)
    else:
        engine.close()


def _clear(engine: duckdb.DuckDBPyConnection) -> None:
    """Drop the content of the schema main, except macros."""
    own = "schema_name = 'main' and database_name = current_database() and not internal"
    found = engine.execute(
        f"select 'view', view_name from duckdb_views() where {own} union all select 'table', table_name from duckdb_tables() where {own} "
        f"union all select 'type', type_name from duckdb_types() where {own}"
    ).fetchall()
    for kind, name in sorted(found):  # tables before the types of their columns
        engine.execute(f"drop {kind} main.{sql_name(name)}")


def _close_idle() -> None:
    for waiting in list(_idle.values()):
        for engine in waiting:
            engine.close()
        waiting.clear()


os.register_at_fork(before=_close_idle)  # an engine's threads do not survive in a child, which could not even close the engine
