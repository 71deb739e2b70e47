"""Limit how many pages query the warehouse at once. Others wait in order of arrival, and equal pages are built only once.

The pages may run in a server that has other work, such as Airflow's API. So queries run in their own threads, never in those of the
server, and their engines share a limited number of threads. The content of pages belongs in other modules.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from typing import Any, TypeVar

from fastapi import HTTPException

from runspend.core.duckdb_pool import limit_threads
from runspend.interfaces.web.access import CALLER

AT_ONCE = 2  # pages that query the warehouse at once, in this process
WAIT = 30.0  # seconds that other pages wait for their turn
MOST_WAITING = 200  # pages that may wait; further ones are refused at once
LONGEST = 60.0  # seconds after which a page fails; it uses its slot until its query ends
LOOK_AGAIN = 0.05  # seconds between two checks for a free slot
RETRY_AFTER = "5"  # seconds

Answer = TypeVar("Answer")


class Gate:
    """Limits how many pieces of work run at once."""

    def __init__(
        self, at_once: int = AT_ONCE, wait: float = WAIT, longest: float = LONGEST, command: str = "runspend costs, runspend explain"
    ) -> None:
        self._at_once, self._wait, self._longest, self._command = at_once, wait, longest, command
        self._inside = 0
        self._waiting: deque[object] = deque()  # one ticket for each waiting page, in order of arrival
        self._running: dict[Hashable, Future[Any]] = {}
        self._guard = threading.RLock()  # work may end before its callback is added

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        """Return the thread pool, made on first use because a server may fork before that."""
        each = max(1, len(os.sched_getaffinity(0)) // (2 * self._at_once))  # all pages together use half of the processors
        return ThreadPoolExecutor(self._at_once, thread_name_prefix="runspend-page", initializer=limit_threads, initargs=(each,))

    async def run(self, work: Callable[[], Answer], *, key: Hashable = None) -> Answer:
        """Run `work` in a thread of the gate and return its answer.

        Requests with the same `key` from callers with the same name and groups are equal. A request that arrives while an equal one runs
        gets the same answer. Without a key, no requests are equal.

        Raises HTTPException 503 if no thread was free in time, or if the answer took too long.
        """
        running = await self._start(work, None if key is None else (CALLER.get(), key))
        try:
            return await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(running)), self._longest)
        except asyncio.TimeoutError as error:
            raise HTTPException(
                503,
                f"this page took longer than {self._longest:g} s. Choose fewer days, or use the command line: {self._command}",
                {"Retry-After": "60"},
            ) from error

    async def _start(self, work: Callable[[], Answer], key: Hashable) -> Future[Answer]:
        """Wait for a free slot and start `work`, or return equal work that is already running.

        Raises HTTPException 503 if no slot was free in time.
        """
        ends, ticket = time.monotonic() + self._wait, object()
        if len(self._waiting) >= MOST_WAITING:
            raise _busy()
        self._waiting.append(ticket)
        try:
            while True:
                with self._guard:
                    if key is not None and key in self._running:
                        return self._running[key]
                    if self._inside < self._at_once and self._waiting[0] is ticket:
                        return self._submit(work, key)
                if time.monotonic() > ends:
                    raise _busy()
                await asyncio.sleep(LOOK_AGAIN)
        finally:
            self._waiting.remove(ticket)

    def _submit(self, work: Callable[[], Answer], key: Hashable) -> Future[Answer]:
        """Start `work`. The caller must have locked `_guard`."""
        running = self._pool.submit(contextvars.copy_context().run, work)  # with a copy of the context, which has the user
        self._inside += 1
        if key is not None:
            self._running[key] = running

        def leave(_: Future[Answer]) -> None:  # called when the work ends, which continues after the browser disconnects
            with self._guard:
                self._inside -= 1
                if key is not None:
                    self._running.pop(key, None)

        running.add_done_callback(leave)
        return running


def _busy() -> HTTPException:
    return HTTPException(503, "the server is busy with other pages. Try again in a few seconds.", {"Retry-After": RETRY_AFTER})


GATE = Gate()  # one per process, shared by all applications in it
