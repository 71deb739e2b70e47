"""Ctrl-C during a query in the main thread, with real signals to this process."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pytest

from runspend.core.ctrl_c import let_ctrl_c_interrupt, raise_ctrl_c, watch_for_ctrl_c
from runspend.warehouse.parquet.warehouse import ParquetWarehouse

ENDLESS = "select sum(hash(n)::double) from range(1000000000000) as t(n)"  # one thread of DuckDB does all the work


@pytest.fixture(autouse=True)
def heeded() -> Iterator[None]:
    """Handle SIGINT, because a shell that starts pytest in the background ignores it."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)


@contextmanager
def pressed(after: float) -> Iterator[None]:
    """Send Ctrl-C after this many seconds."""
    timer = threading.Timer(after, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    yield
    timer.join()


@pytest.mark.parametrize("attempt", range(4))
def test_it_interrupts_a_query_whichever_thread_does_the_work(attempt: int) -> None:
    began = time.monotonic()
    with (
        duckdb.connect() as connection,
        pressed(0.5),
        pytest.raises(KeyboardInterrupt),
        watch_for_ctrl_c(),
        let_ctrl_c_interrupt(connection),
    ):
        connection.execute(ENDLESS)
    assert time.monotonic() - began < 60


@pytest.mark.parametrize("attempt", range(4))
def test_it_interrupts_a_reader_that_exchanges_money(attempt: int, tmp_path: Path) -> None:
    """Such a reader uses its own cursor."""
    many = "unnest(generate_array(1, 100000))"
    endless = f"select sum(mod(a + b + c, 7)) as s from {many} as a cross join {many} as b cross join {many} as c"
    began = time.monotonic()
    with ParquetWarehouse(tmp_path).reader() as reader:
        exchanged = reader.in_currency("EUR", [])
        with pressed(0.5), pytest.raises(KeyboardInterrupt), watch_for_ctrl_c():
            exchanged.query(endless)
    assert time.monotonic() - began < 60


def test_an_error_after_it_is_ctrl_c() -> None:
    """If DuckDB calls Python at that moment, it turns KeyboardInterrupt into an error of its own."""
    with watch_for_ctrl_c():
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt), raise_ctrl_c():
            raise duckdb.InvalidInputException("KeyboardInterrupt")


def test_an_error_without_it_stays() -> None:
    with pytest.raises(ValueError, match="of its own"), watch_for_ctrl_c(), raise_ctrl_c():
        raise ValueError("of its own")


def test_once_it_was_handled_errors_are_errors_again() -> None:
    with pytest.raises(KeyboardInterrupt), watch_for_ctrl_c():
        signal.raise_signal(signal.SIGINT)
    with pytest.raises(ValueError, match="of its own"), raise_ctrl_c():
        raise ValueError("of its own")


def test_pressed_twice_it_spares_the_queries_that_clean_up() -> None:
    with duckdb.connect() as first, duckdb.connect() as second, watch_for_ctrl_c():
        with pressed(0.5), pytest.raises(KeyboardInterrupt), raise_ctrl_c(), let_ctrl_c_interrupt(first):
            first.execute(ENDLESS)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        with let_ctrl_c_interrupt(second):
            until = time.monotonic() + 1
            while time.monotonic() < until:
                second.execute("select sum(hash(n)::double) from range(10000000) as t(n)")


def test_elsewhere_nothing_changes() -> None:
    """Nothing changes in other threads, or if the process ignores Ctrl-C or handles it itself."""
    found = []

    def watch() -> None:
        with watch_for_ctrl_c(), duckdb.connect() as connection, let_ctrl_c_interrupt(connection):
            found.append((connection.execute("select 1").fetchall(), signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=watch)
    thread.start()
    thread.join()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    watch()
    assert found == [([(1,)], signal.default_int_handler), ([(1,)], signal.SIG_IGN)]


def test_afterwards_all_is_as_before() -> None:
    wait_for_watchers()
    descriptors = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with watch_for_ctrl_c():
            pass
    wait_for_watchers()
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def wait_for_watchers() -> None:
    """Wait until their threads have ended."""
    until = time.monotonic() + 60
    while any(thread.name == "runspend-ctrl-c" for thread in threading.enumerate()):
        assert time.monotonic() < until
        time.sleep(0.01)
