"""Watch what protects one item while Runspend acts on it.

The watch is asked before each change. It asks its source again if the last answer is a few seconds old. What that source asks, and
where, does not belong here.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable

# How long an answer may be used for changes, counted from the question. The list of runs that use a model may be older by
# TRUSTED_SECONDS (ingest/tracking/in_use/model_uses.py), so it is at most five seconds old. One question per object would cost a
# hundred requests for each delete.
ANSWER_SECONDS = 3.0
TRIES = 2  # the first question may be slow, because it reads data that later questions reuse

# The beginning of a reason that protects an item because there was no answer.
_UNANSWERED = re.compile(r"whether (?:MLflow still needs it|anything protects it) is unknown\b")


def is_unanswered(reason: str | None) -> bool:
    """Whether an item is protected only because MLflow or another source did not answer."""
    return reason is not None and _UNANSWERED.match(reason) is not None


class ProtectionWatch:
    """The protection of one item. Once a protection is found, the watch keeps it and does not ask again. Thread-safe."""

    def __init__(self, ask: Callable[[], str | None]) -> None:
        self.found: str | None = None  # what protects it, as far as is known
        self._ask = ask
        self._lock = threading.Lock()
        self._asked_at = float("-inf")

    def reason(self) -> str | None:
        """Return what protects the item now, in words, or None. The answer is at most ANSWER_SECONDS old."""
        with self._lock:
            if self.found is None and time.monotonic() - self._asked_at >= ANSWER_SECONDS:
                self.found = self._look()
            return self.found

    def _look(self) -> str | None:
        for _ in range(TRIES):
            asked_at = time.monotonic()
            reason = self._ask()
            took = time.monotonic() - asked_at
            if reason is not None or took < ANSWER_SECONDS:
                self._asked_at = asked_at
                return reason
        return f"whether anything protects it is unknown: the answer took {took:.1f} seconds, and Runspend acts only on answers that are at most {ANSWER_SECONDS:g} seconds old"
