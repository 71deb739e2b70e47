"""The known facts about this process's machine and job. Asked once per process; no caller waits longer than WAIT_SECONDS."""

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
WAIT_SECONDS = 0.15  # for the cloud and the driver: both take a few milliseconds, and on a laptop nothing answers
ATTEMPTS = 3  # a service that is only slow is asked again

log = logging.getLogger(__name__)


def is_off() -> bool:
    """Whether the environment variable RUNSPEND_IDENTIFY turns identification off."""
    return os.environ.get(SWITCH, "").strip().lower() in ("0", "off", "false", "no")


def find_identity(wait_seconds: float = WAIT_SECONDS) -> list[Found]:
    """Return the tags of this process, each once; names as on the bill come first.

    Facts that arrive too late are in the result of a later call. Never raises, and takes no lock: it may be called in a signal
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
        except Exception as error:  # noqa: BLE001 (a training job runs here: nothing that goes wrong may reach it)
            log.debug("cannot identify this process: %s", error)
    return list(found.values())


def is_complete() -> bool:
    """Return whether all services and the driver have answered, or will not be asked again."""
    question = _Question.current
    if question is None or not (question.services_answered.is_set() and question.gpus_known.is_set()):
        return False
    return not question.is_unanswered or question.attempt >= ATTEMPTS


def find_complete_identity(seconds: float, pause: Callable[[float], object] = time.sleep) -> list[Found]:
    """Return the tags once everything that was asked has answered or will not be asked again: the tags of a later run of this process.

    Waits at most this many seconds, and ends early if `pause` returns something true.
    """
    until = time.monotonic() + seconds
    find_identity(0)
    while not is_complete() and time.monotonic() < until and not pause(0.05):
        find_identity(0)
    return find_identity(0)


def say_of_services() -> dict[str, str]:
    """Return what each metadata service did, by name, as of the last question to it."""
    question = _Question.current
    answers = {} if question is None else question.answers
    return {name: answers.get(name) or why_not_asked(name) for name in SERVICES}


def _find_machine(question: _Question) -> list[Found]:
    if managed_platform() is not None:  # the platform bills the job; where it ran is still known
        return [one for one in question.answer if one.key.endswith((".account", ".region"))]
    is_known = question.services_answered.is_set() and (not question.is_unanswered or question.attempt >= ATTEMPTS)
    if is_known and not question.answer and not os.environ.get("DB_CLUSTER_ID"):
        return list(find_host())
    return question.answer


class _Question:
    """One question to all services that may be here, and to the driver of GPUs.

    `answer`: of the first service that knows this machine. `is_unanswered`: no service knows it, and at least one did not answer in time.
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
        except RuntimeError as error:  # the process may start no more threads: the machine stays unknown
            log.debug("cannot ask which machine this is: %s", error)

    def _ask(self, name: str, service: Callable[[], list[Found]]) -> None:
        answer: list[Found] = []
        try:
            answer = service()
            answers = "answered" if answer else "answered, but the bill does not name the machine below"
        except TimeoutError:
            self.is_unanswered = not self.answer
            answers = f"no answer within {SECONDS:g} s (asked {self.attempt} times)"
        except ConnectionError as error:
            answers = f"refused the connection: {error}"
        except Exception as error:  # noqa: BLE001 (whatever a stranger on this address answers)
            answers = f"no answer as documented: {error}"
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
    """The threads that ask do not exist in the child."""
    if _Question.current is not None and not (_Question.current.services_answered.is_set() and _Question.current.gpus_known.is_set()):
        _Question.current = None


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_ask_again_after_fork)
