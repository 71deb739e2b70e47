"""Write the access log of pages in a separate thread. A disk that hangs delays one page for a moment, and never stops the server.

The content of a line belongs in `config/access_log.py`.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property

WAIT = 1.0  # seconds that a page waits for its line
MOST = 10_000  # lines that may wait for the disk

log = logging.getLogger(__name__)


class PageLog:
    """Writes lines one after another."""

    def __init__(self, wait: float = WAIT, most: int = MOST) -> None:
        self._wait, self._most = wait, most
        self._waiting = 0
        self._lock = threading.Lock()

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        """Return the thread pool, made on first use because a server may fork before that."""
        return ThreadPoolExecutor(1, thread_name_prefix="runspend-access-log")

    async def note(self, write: Callable[[], None]) -> None:
        """Call `write` in the thread of the log. Returns when the line is written, or at the latest after `wait` seconds.

        If other lines already wait, returns at once. A delayed line is written when the disk answers again. If too many lines wait, new
        ones are dropped.
        """
        with self._lock:
            if self._waiting >= self._most:
                log.error("cannot write the access log: %d lines wait for its disk. This page is not logged.", self._waiting)
                return
            is_first = self._waiting == 0
            self._waiting += 1
        try:
            running = self._pool.submit(write)
        except BaseException:
            self._done(None)
            raise
        running.add_done_callback(self._done)
        if not is_first:
            return  # other lines already wait: a disk that hangs must not delay more pages
        try:
            await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(running)), self._wait)
        except asyncio.TimeoutError:
            log.warning("the access log was not written for %g s: its disk does not answer. Pages are still shown.", self._wait)

    def _done(self, _: object) -> None:
        with self._lock:
            self._waiting -= 1


PAGE_LOG = PageLog()
