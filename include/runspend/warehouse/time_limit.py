"""Limit the time of a query by interrupting it from another thread. Works with every engine."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from runspend.core.errors import SqlRefused

AGAIN = 0.2  # seconds between interrupts; they are repeated because an engine ignores an interrupt between two statements


@contextmanager
def time_limit(interrupt: Callable[[], None], seconds: float | None) -> Iterator[None]:
    """Interrupt the query in the context after this many seconds (None: never).

    Raises SqlRefused if the context raises any error after that time.
    """
    if seconds is None:
        yield
        return
    is_done, is_over = threading.Event(), threading.Event()

    def watch() -> None:
        if not is_done.wait(seconds):
            is_over.set()
            while not is_done.is_set():
                interrupt()
                is_done.wait(AGAIN)

    watcher = threading.Thread(target=watch, name="runspend-time-limit", daemon=True)
    watcher.start()
    try:
        yield
    except Exception as error:
        if is_over.is_set():
            raise SqlRefused(
                f"cannot answer: it took longer than {seconds:g} s and was stopped. Nothing was changed. Query less, or raise the time limit."
            ) from error
        raise
    finally:
        is_done.set()
        watcher.join()
