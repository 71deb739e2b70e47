"""Collect the tags of this process: its machine, job, GPUs and limits.

The services are asked once per process, and again only if they were slow. By default, a caller waits at most WAIT_SECONDS.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from threading import Event, Thread

from runspend.interfaces.identify.environment import Found, find_host, find_job, find_ray, managed_platform
from runspend.interfaces.identify.hardware import Gpu, ask_driver, find_gpus, find_limits
from runspend.interfaces.identify.metadata_services import SECONDS, SERVICES, possible_services, why_not_asked

SWITCH = "RUNSPEND_IDENTIFY"
WAIT_SECONDS = 0.15  # for the cloud and the driver. Both take a few milliseconds; on a laptop, nothing answers
ATTEMPTS = 3  # how often a slow service is asked

log = logging.getLogger(__name__)


def is_off() -> bool:
    """Return whether the environment variable RUNSPEND_IDENTIFY turns identification off."""
    return os.environ.get(SWITCH, "").strip().lower() in ("0", "off", "false", "no")


def find_identity(wait_seconds: float = WAIT_SECONDS) -> list[Found]:
    """Return the tags of this process, each once. Names as on the bill come first, and win if two sources give the same tag.

    Facts that arrive too late are in the result of a later call. Never raises. Takes no lock, because it may be called in a signal
    handler, and a process may fork at any time.
    """
    question = _Question.current
    if question is None or (question.is_unanswered and question.attempt < ATTEMPTS):
        question = _Question.current = _Question(question.attempt + 1 if question else 1)
    until = time.monotonic() + (wait_seconds if question.attempt == 1 and not question.has_waited else 0)
    question.has_waited = True
    question.gpus_known.wait(max(0.0, until - time.monotonic()))
    question.services_answered.wait(max(0.0, until - time.monotonic()))
    found: dict[str, Found] = {}
    for finder in (
        find_ray,
        find_job,
        lambda: _find_machine(question),
        lambda: find_gpus(question.gpus) if question.gpus_known.is_set() else (),
        find_limits,
    ):
        try:
            for one in finder():
                found.setdefault(one.key, one)
        except Exception as error:  # noqa: BLE001 (a training job runs here: no error may reach it)
            log.debug("cannot identify this process: %s", error)
    return list(found.values())


def is_complete() -> bool:
    """Return whether all services and the driver have answered, or will not be asked again."""
    question = _Question.current
    if question is None or not (question.services_answered.is_set() and question.gpus_known.is_set()):
        return False
    return not question.is_unanswered or question.attempt >= ATTEMPTS


def find_complete_identity(seconds: float, pause: Callable[[float], object] = time.sleep) -> list[Found]:
    """Return the tags after all services and the driver have answered, or will not be asked again.

    These are the tags that a later run of this process gets. Waits at most `seconds`, and stops early if `pause` returns a true value.
    """
    until = time.monotonic() + seconds
    find_identity(0)
    while not is_complete() and time.monotonic() < until and not pause(0.05):
        find_identity(0)
    return find_identity(0)


def say_of_services() -> dict[str, str]:
    """Return the state of each metadata service by its name: how it answered, or why it was not asked."""
    question = _Question.current
    answers = {} if question is None else question.answers
    return {name: answers.get(name) or why_not_asked(name) for name in SERVICES}


def _find_machine(question: _Question) -> list[Found]:
    if managed_platform() is not None:  # the platform bills the job, so only its account and region count
        return [one for one in question.answer if one.key.endswith((".account", ".region"))]
    is_known = question.services_answered.is_set() and (not question.is_unanswered or question.attempt >= ATTEMPTS)
    if is_known and not question.answer and not os.environ.get("DB_CLUSTER_ID"):
        return list(find_host())
    return question.answer


class _Question:
    """One question to all metadata services that may answer here, and to the GPU driver. Each is asked in its own thread.

    `answer` has the tags from the service that knows this machine. `is_unanswered` is True if no service knows it, and at least one did
    not answer in time.
    """

    current: _Question | None = None

    def __init__(self, attempt: int) -> None:
        self.attempt = attempt
        self.answer: list[Found] = []
        self.gpus: list[Gpu] | None = None
        self.is_unanswered = False
        self.has_waited = False
        self.services_answered, self.gpus_known = Event(), Event()
        self._left = possible_services()
        self.answers = dict.fromkeys(self._left, f"asked, no answer yet (time {attempt} of {ATTEMPTS})")
        if not self._left:
            self.services_answered.set()
        try:
            for name, service in list(self._left.items()):
                Thread(target=self._ask, args=(name, service), name=f"runspend-identify-{name}", daemon=True).start()
            Thread(target=self._ask_driver, name="runspend-identify-gpus", daemon=True).start()
        except RuntimeError as error:  # the process cannot start more threads: the machine stays unknown
            log.debug("cannot ask which machine this is: %s", error)

    def _ask(self, name: str, service: Callable[[], list[Found]]) -> None:
        answer: list[Found] = []
        try:
            answer = service()
            answers = "answered" if answer else "answered, but the bill does not have what it describes"
        except TimeoutError:
            self.is_unanswered = not self.answer
            answers = f"no answer within {SECONDS:g} s (asked {self.attempt} times)"
        except ConnectionError as error:
            answers = f"refused the connection: {error}"
        except Exception as error:  # noqa: BLE001 (another server may answer at this address)
            answers = f"gave an answer that differs from its documentation: {error}"
        self.answers[name] = answers
        if not answer:
            log.debug("the metadata service of %s: %s", name, answers)
        if answer:
            self.answer, self.is_unanswered = answer, False
        self._left.pop(name, None)
        if answer or not self._left:
            self.services_answered.set()

    def _ask_driver(self) -> None:
        try:
            self.gpus = ask_driver()
        except Exception as error:  # noqa: BLE001 (a driver that differs from its documentation)
            log.debug("no answer from the driver: %s", error)
        self.gpus_known.set()


def _ask_again_after_fork() -> None:
    """Discard an open question in a forked child, because the threads that ask do not exist there."""
    if _Question.current is not None and not (_Question.current.services_answered.is_set() and _Question.current.gpus_known.is_set()):
        _Question.current = None


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_ask_again_after_fork)
