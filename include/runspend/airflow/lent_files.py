"""Creates files in memory for a task and its child processes. They are on no disk, and disappear when the task ends."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from logging import getLogger

RENEW_SECONDS = 60.0
log = getLogger(__name__)
_renewed: dict[int, Callable[[], str]] = {}


def lend(name: str, text: str) -> str:
    """Return the path of a new file in memory with this text."""
    return f"/proc/{os.getpid()}/fd/{_descriptor(name, text)}"


def lend_renewed(name: str, read: Callable[[], str]) -> str:
    """Return the path of a file in memory whose text a thread renews every minute, for tokens that expire while a task runs.

    `read` returns the new text and must not raise. A reader of the file never sees a part of the old and a part of the new text.
    """
    descriptor = _descriptor(name, read())
    if not _renewed:
        threading.Thread(target=_renew, name="runspend-tokens", daemon=True).start()
    _renewed[descriptor] = read
    return f"/proc/{os.getpid()}/fd/{descriptor}"


def _descriptor(name: str, text: str) -> int:
    descriptor = os.memfd_create(name)
    with open(descriptor, "w", encoding="utf-8", closefd=False) as lent:
        lent.write(text)
    return descriptor


def _renew() -> None:
    while True:
        threading.Event().wait(RENEW_SECONDS)
        for descriptor, read in list(_renewed.items()):
            fresh = _descriptor("renewed", read())
            os.dup2(fresh, descriptor)  # atomic: a reader gets either the old file or the new one
            os.close(fresh)
