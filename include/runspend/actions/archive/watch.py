"""What protects one item while it is acted on: asked right before each change, and anew as soon as the last answer is a few seconds old.

What is asked, and of whom, does not belong here.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable

__all__ = ["ANSWER_SECONDS", "Watch", "is_unanswered"]

# How long after a question was put a change may still be made on its answer. What runs use a model may be as much older as
# TRUSTED_SECONDS of tracking/live_uses.py says: five seconds in all. A question per object would be a hundred of them for each deleted.
ANSWER_SECONDS = 3.0
TRIES = 2  # the first question of a night reads what later ones remember

# How a reason begins that protects because nobody could be asked.
_UNANSWERED = re.compile(r"whether (?:MLflow still needs it|anything protects it) cannot be told\b")


def is_unanswered(reason: str | None) -> bool:
    """Whether something is protected only because MLflow, or whoever else is asked, gave no answer."""
    return reason is not None and _UNANSWERED.match(reason) is not None


class Watch:
    """The answer for one item. What protects it once does so until the item is taken up again. May be asked by several threads."""

    def __init__(self, ask: Callable[[], str | None]) -> None:
        self.found: str | None = None  # what protects it, as far as it was asked
        self._ask = ask
        self._lock = threading.Lock()
        self._asked_at = float("-inf")

    def reason(self) -> str | None:
        """What protects the item now, in words, or None: then the question was put less than ANSWER_SECONDS ago."""
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
        return f"whether anything protects it cannot be told in time: the answer took {took:.1f} seconds, and none older than {ANSWER_SECONDS:g} is acted on"
