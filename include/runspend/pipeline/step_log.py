"""Logs what a step reads, how much, how long it takes, what it skips, and why.

The logger is `runspend.pipeline.step_log`. It logs nothing until a program sets a level: `runspend -v` shows INFO, and an Airflow task
writes INFO to its log.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from runspend.core.step_result import Outcome
from runspend.core.text import counted

log = logging.getLogger(__name__)


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Log the start of some work, and its end with the duration in seconds. If the work raises an error, its class is logged."""
    log.info("%s: started", what)
    start = time.monotonic()
    try:
        yield
    except BaseException as error:
        log.info("%s: ended with %s after %.1f s", what, type(error).__name__, time.monotonic() - start)
        raise
    log.info("%s: done in %.1f s", what, time.monotonic() - start)


def log_outcome(outcome: Outcome) -> None:
    """Log the result of a step: counts of units, then each note and problem."""
    problems = counted(len(outcome.problems), "problem")
    log.info("%s: %d changed, %d unchanged, %s", outcome.step, len(outcome.changed), len(outcome.unchanged), problems)
    for label in outcome.changed:
        log.info("%s: changed %s", outcome.step, label)
    for label in outcome.unchanged:
        log.info("%s: %s is unchanged and was not replaced", outcome.step, label)
    for note in outcome.notes:
        log.info("%s: %s", outcome.step, note)
    for problem in outcome.problems:
        log.warning("%s: %s", outcome.step, problem)
