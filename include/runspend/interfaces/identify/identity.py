"""What is known of this process's machine and job. Asked once per process; the network never delays a caller by more than WAIT_SECONDS."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from threading import Event, Lock, Thread

from runspend.core import machine_tags
from runspend.interfaces.identify.environment import Found, find_host, find_job, managed_platform
from runspend.interfaces.identify.hardware import find_gpus, find_limits
from runspend.interfaces.identify.metadata_services import possible_services

__all__ = ["SWITCH", "WAIT_SECONDS", "find_identity", "is_off"]

SWITCH = "RUNSPEND_IDENTIFY"
WAIT_SECONDS = 0.15  # for the cloud's answer: it takes a few milliseconds, and on a laptop nobody answers

log = logging.getLogger(__name__)


def is_off() -> bool:
    """Whether the environment variable RUNSPEND_IDENTIFY turns identification off."""
    return os.environ.get(SWITCH, "").strip().lower() in ("0", "off", "false", "no")


def find_identity(wait_seconds: float = WAIT_SECONDS) -> list[Found]:
    """Return the tags of this process, each once: first what is nearest to the bill.

    What the cloud's metadata service has not answered in time is in the result of a later call. Never raises.
    """
    found: dict[str, Found] = {}
    for finder in (find_job, lambda: _find_machine(wait_seconds), find_gpus, find_limits):
        try:
            for one in finder():
                found.setdefault(one.key, one)
        except Exception as error:  # noqa: BLE001 (a training job runs here: nothing that goes wrong may reach it)
            log.debug("cannot identify this process: %s", error)
    return list(found.values())


def _find_machine(wait_seconds: float) -> list[Found]:
    answers = _ask_services(wait_seconds)
    platform = managed_platform()
    if platform is not None:  # the platform bills the job; where it ran is still known
        return [one for one in answers or [] if one.key in (machine_tags.ACCOUNT, machine_tags.REGION)]
    if answers is not None and not answers and not os.environ.get("DB_CLUSTER_ID"):
        return list(find_host())
    return answers or []


class _Asked:
    """The answers of the metadata services, for as long as the process lives."""

    lock = Lock()
    done: Event | None = None
    has_waited = False
    answers: list[Found] = []  # noqa: RUF012 (one per process on purpose)


def _ask_services(wait_seconds: float) -> list[Found] | None:
    """Return the answers; an empty list if no service is here, None while it is not known yet."""
    with _Asked.lock:
        if _Asked.done is None:
            _Asked.done = Event()
            services = possible_services()
            if services:
                Thread(target=_ask_all, args=(services, _Asked.done), name="runspend-identify", daemon=True).start()
            else:
                _Asked.done.set()
        done, waits = _Asked.done, not _Asked.has_waited
        _Asked.has_waited = True
    if waits:
        done.wait(wait_seconds)
    return _Asked.answers if done.is_set() else None


def _ask_all(services: dict[str, Callable[[], list[Found]]], done: Event) -> None:
    """Ask all at once; all are at the same address, and only one of them is this machine's."""
    threads = []
    answers: dict[str, list[Found]] = {}

    def ask(name: str, service: Callable[[], list[Found]]) -> None:
        try:
            answers[name] = service()
        except Exception as error:  # noqa: BLE001 (whatever a stranger on this address answers)
            log.debug("no answer from the metadata service of %s: %s", name, error)

    for name, service in services.items():
        threads.append(Thread(target=ask, args=(name, service), name=f"runspend-identify-{name}", daemon=True))
        threads[-1].start()
    until = time.monotonic() + 5  # each gives up earlier by itself
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    for name in ("ecs", *services):  # the task comes before the machine that it runs on
        if answers.get(name):
            _Asked.answers = answers[name]
            break
    done.set()
