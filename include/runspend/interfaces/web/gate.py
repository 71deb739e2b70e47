"""Limits how many pages query the warehouse at once. Others wait for a moment, then are asked to try again.

The pages run in a server with other work (Airflow's API). So queries run in separate threads, never in those of the server, and
their engines share a bounded number of threads. The content of a page does not belong here.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from typing import TypeVar

from fastapi import HTTPException

from runspend.core.duckdb_pool import limit_threads

__all__ = ["AT_ONCE", "GATE", "Gate"]

AT_ONCE = 2  # pages that query the warehouse at once, in this process
WAIT = 3.0  # seconds that others wait for their turn
LONGEST = 60.0  # seconds after which a page is given up; it keeps its slot until its query ends
LOOK_AGAIN = 0.05
RETRY_AFTER = "5"

Answer = TypeVar("Answer")


class Gate:
    """Limits how many pieces of work run at once."""

    def __init__(self, at_once: int = AT_ONCE, wait: float = WAIT, longest: float = LONGEST) -> None:
        self._at_once, self._wait, self._longest = at_once, wait, longest
        self._inside = 0
        self._guard = threading.Lock()

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        """Return the thread pool, made on first use: a server may fork before that."""
        each = max(1, len(os.sched_getaffinity(0)) // (2 * self._at_once))  # half of the processors, shared out
        return ThreadPoolExecutor(self._at_once, thread_name_prefix="runspend-page", initializer=limit_threads, initargs=(each,))

    async def run(self, work: Callable[[], Answer]) -> Answer:
        """Run `work` in a thread of the gate and return its answer. HTTPException 503 if no thread was free, or no answer came, in time."""
        ends = time.monotonic() + self._wait
        while not self._enter():
            if time.monotonic() > ends:
                raise HTTPException(503, "the server is busy with other pages. Try again in a few seconds.", {"Retry-After": RETRY_AFTER})
            await asyncio.sleep(LOOK_AGAIN)
        try:
            running = self._pool.submit(work)
        except BaseException:
            self._leave()
            raise
        running.add_done_callback(self._leave)  # not when the browser goes away: the work goes on
        try:
            return await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(running)), self._longest)
        except asyncio.TimeoutError as error:
            raise HTTPException(
                503,
                f"this page took longer than {self._longest:g} s. Use the command line instead: runspend explain",
                {"Retry-After": "60"},
            ) from error

    def _enter(self) -> bool:
        with self._guard:
            if self._inside >= self._at_once:
                return False
            self._inside += 1
            return True

    def _leave(self, _: Future[Answer] | None = None) -> None:
        with self._guard:
            self._inside -= 1


GATE = Gate()  # one for the process, shared by all its applications
