"""Ctrl-C during a query of the command line.

Python handles a signal in its main thread, and that thread often waits for a thread of DuckDB until the query has ended. So another
thread sees Ctrl-C at once and interrupts the query. What DuckDB computes in one piece, such as one long list, ends first.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import duckdb


FIRST = 0.02  # seconds after Ctrl-C in which the main thread may notice it by itself
AGAIN = 0.2  # seconds until a query is interrupted again: DuckDB ignores an interrupt that comes just before a query begins
_in_use: list[duckdb.DuckDBPyConnection] = []  # connections with which the main thread works
_in_use_when_noticed: list[duckdb.DuckDBPyConnection] = []
_times_noticed = 0  # how often the main thread has noticed Ctrl-C, in all watches
_times_before = 0  # the value of `_times_noticed` when the current watch began, or when the last one ended


@contextmanager
def let_ctrl_c_interrupt(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Let Ctrl-C interrupt this connection's queries inside the `with` block, in the main thread. Each cursor is its own connection.

    The query raises KeyboardInterrupt, or an error that `raise_ctrl_c` replaces.
    """
    if not _is_main_thread():
        yield
        return
    _in_use.append(connection)
    try:
        yield
    finally:
        _in_use.remove(connection)


@contextmanager
def raise_ctrl_c() -> Iterator[None]:
    """Raise KeyboardInterrupt instead of an error that Ctrl-C caused.

    DuckDB raises an error of its own after an interrupt, and also if it called Python when KeyboardInterrupt was raised there.
    """
    try:
        yield
    except Exception as error:
        is_interrupted = isinstance(error, RuntimeError) and str(error) == "Query interrupted"
        if is_interrupted or (_times_noticed > _times_before and _is_main_thread()):
            raise KeyboardInterrupt from error
        raise


@contextmanager
def watch_for_ctrl_c() -> Iterator[None]:
    """Let Ctrl-C stop the main thread's queries inside the `with` block. A command uses this once, in its main thread.

    In other threads, and in a process that ignores Ctrl-C or handles it in its own way, only `raise_ctrl_c` applies.
    """
    if not _is_main_thread() or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        with raise_ctrl_c():
            yield
        return
    global _times_before
    _times_before = _times_noticed
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    threading.Thread(target=_interrupt_at_ctrl_c, args=(reader,), name="runspend-ctrl-c", daemon=True).start()
    former = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGINT, _note_and_raise)
    try:
        with raise_ctrl_c():
            yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _times_before = _times_noticed
        signal.set_wakeup_fd(former)
        os.close(writer)  # ends the thread


def _note_and_raise(number: int, frame: Any) -> None:
    global _times_noticed
    _in_use_when_noticed[:] = _in_use
    _times_noticed += 1
    signal.default_int_handler(number, frame)


def _interrupt_at_ctrl_c(reader: int) -> None:
    """Interrupt queries at each Ctrl-C that comes through the pipe. A Ctrl-C is ignored while an earlier one is being handled."""
    times_noticed = _times_before
    while signals := os.read(reader, 1000):
        if signal.SIGINT in signals:
            time.sleep(FIRST)
            while struck := _to_interrupt(times_noticed):
                for connection in struck:
                    _interrupt(connection)
                time.sleep(AGAIN)
        times_noticed = _times_noticed
        _empty(reader)
    os.close(reader)


def _to_interrupt(times_noticed: int) -> list[duckdb.DuckDBPyConnection]:
    """Return the connections whose queries the newest Ctrl-C must interrupt. `times_noticed`: the count before this Ctrl-C.

    The main thread may notice Ctrl-C in Python code that DuckDB calls during a query. The query then continues, and is interrupted.
    Connections that the main thread takes later are for cleaning up, and are not interrupted.
    """
    if signal.getsignal(signal.SIGINT) is not _note_and_raise:  # a server handles Ctrl-C now
        return []
    return (
        list(_in_use) if _times_noticed == times_noticed else [connection for connection in _in_use_when_noticed if connection in _in_use]
    )


def _interrupt(connection: duckdb.DuckDBPyConnection) -> None:
    import duckdb

    with suppress(duckdb.ConnectionException):  # closed meanwhile
        connection.interrupt()


def _empty(reader: int) -> None:
    """Read what is in the pipe, without waiting for more."""
    os.set_blocking(reader, False)
    with suppress(BlockingIOError):
        os.read(reader, 1000)
    os.set_blocking(reader, True)


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _leave_it_to_the_parent() -> None:
    """Stop watching in a forked child, whose signals must not interrupt the parent's queries."""
    if signal.getsignal(signal.SIGINT) is _note_and_raise:
        signal.set_wakeup_fd(-1)


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_leave_it_to_the_parent)
