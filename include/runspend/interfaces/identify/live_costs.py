"""The cost of runs while they train: about what the machine has cost since they began, by a price list that somebody exported.

Off unless RUNSPEND_PRICES names the list, a file or an address (`runspend export prices`). A thread of the training process writes the
metric `cost_usd_estimated` (or of the list's currency) every few minutes; when the process ends, one line says what its runs have cost.
Standard library only, and MLflow's client, which is there. Nothing that goes wrong here reaches the training job.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runspend.core import machine_tags
from runspend.core.cost_keys import estimate_key
from runspend.interfaces.identify.identity import find_identity

__all__ = ["PRICES", "Price", "find_price", "start"]

PRICES = "RUNSPEND_PRICES"
MINUTES = "RUNSPEND_LIVE_MINUTES"
USUAL_MINUTES = 5.0
LOOK_SECONDS = 5.0  # between two looks at which runs are active
TIMEOUT_SECONDS = 10
MOST_BYTES = 8 << 20
END_SECONDS = 2.0  # how long the end of a process waits for the last value

log = logging.getLogger(__name__)
_meter: _Meter | None = None


@dataclass(frozen=True)
class Price:
    """What an hour of this process's part of the machine costs."""

    hour_cost: float
    currency: str


def start() -> None:
    """Begin to count, once per process, if a price list is named. Never raises."""
    global _meter
    if _meter is not None or not os.environ.get(PRICES, "").strip():
        return
    try:
        _meter = _Meter()
        _meter.begin()
    except Exception as error:  # noqa: BLE001 (a training job runs here)
        log.debug("cannot count what runs cost: %s", error)


def find_price(prices: Any, tags: Mapping[str, str], nodes: int = 1) -> Price | None:
    """Return the price for this machine: of its type, region and purchase option, as far as the list has them; None if it lacks the type.

    A process that sees only some of the machine's GPUs has their share of the price. `nodes`: machines of the job.
    """
    kind = tags.get(machine_tags.TYPE, "").lower()
    rows = [row for row in prices if str(row.get("instance_type", "")).lower() == kind] if kind else []
    for key, value in (
        ("region", tags.get(machine_tags.REGION, "").lower()),
        ("purchase_option", "spot" if tags.get(machine_tags.PURCHASE_OPTION) == "spot" else "on_demand"),
    ):
        rows = [row for row in rows if row.get(key) == value] or rows
    if not rows:
        return None
    row = max(rows, key=lambda row: float(row.get("machine_hours") or 0))
    gpus, seen = float(row.get("gpus") or 0), _number(tags.get(machine_tags.GPU_COUNT))
    share = min(seen / gpus, 1.0) if gpus and seen else 1.0
    return Price(float(row["hour_cost"]) * share * nodes, str(row["currency"]))


class _Meter:
    """Counts the time of the runs of this process. A run pays while no run nested in it is active; runs of several threads share."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="runspend-live-costs", daemon=True)
        self._price: Price | None = None
        self._seconds: dict[str, float] = {}  # run -> its share of the time
        self._written: dict[str, tuple[float, int]] = {}  # run -> the seconds of its last value, and the value's step
        self._typical: Mapping[str, Any] | None = None  # what runs like the only one cost
        self._looked_at = time.monotonic()

    def begin(self) -> None:
        self._thread.start()
        atexit.register(self._end)  # is called before MLflow ends the active runs: its own was registered earlier

    def _run(self) -> None:
        try:
            listed = self._read_list()
            tags = {found.key: found.value for found in find_identity(TIMEOUT_SECONDS)}
            self._price = find_price(listed.get("prices", ()), tags, _nodes())
            if self._price is None:
                log.info("%s has no price for %s: its runs show no cost", PRICES, tags.get(machine_tags.TYPE) or "this machine")
                return
            self._count(listed.get("experiments", ()))
        except Exception as error:  # noqa: BLE001 (a training job runs here)
            log.debug("cannot count what runs cost: %s", error)

    def _read_list(self) -> dict[str, Any]:
        for wait in (60.0, 300.0, 0.0):
            try:
                return _read_list(os.environ[PRICES].strip())
            except Exception as error:
                log.debug("cannot read the prices: %s", error)
                if self._stopped.wait(wait) or not wait:
                    raise
        raise AssertionError

    def _count(self, experiments: Any) -> None:
        pause = 60 * (_number(os.environ.get(MINUTES)) or USUAL_MINUTES)
        due = time.monotonic() + min(pause, 60.0)  # the first value soon
        while not self._stopped.wait(min(LOOK_SECONDS, pause / 3)):
            self._look(experiments)
            if time.monotonic() >= due:
                self._write(self._seconds)
                due = time.monotonic() + pause
        self._look(experiments)
        self._write(self._seconds)

    def _look(self, experiments: Any) -> None:
        """Add the time since the last look to the innermost active runs, and write runs that ended."""
        now = time.monotonic()
        passed, self._looked_at = now - self._looked_at, now
        stacks = _stacks()
        innermost = {stack[-1].info.run_id: stack[-1] for stack in stacks}
        for run_id, run in innermost.items():
            if not self._seconds:
                self._typical = self._find_typical(experiments, run.info.experiment_id)
            self._seconds[run_id] = self._seconds.get(run_id, 0.0) + passed / len(innermost)
        active = {run.info.run_id for stack in stacks for run in stack}
        self._write([run_id for run_id in self._seconds if run_id not in active])

    def _find_typical(self, experiments: Any, experiment_id: str) -> Mapping[str, Any] | None:
        from mlflow import MlflowClient

        try:
            name = MlflowClient().get_experiment(experiment_id).name
            currency = self._price.currency if self._price else ""
            return next((row for row in experiments if (row["experiment"], row["currency"]) == (name, currency)), None)
        except Exception as error:  # noqa: BLE001 (it is only an addition to a sentence)
            log.debug("cannot find what runs like this one cost: %s", error)
            return None

    def _write(self, runs: Iterable[str]) -> None:
        from mlflow import MlflowClient

        price = self._price
        if price is None:
            return
        for run_id in list(runs):
            before, step = self._written.get(run_id, (-1.0, -1))
            if (seconds := self._seconds[run_id]) == before:
                continue
            try:
                MlflowClient().log_metric(run_id, estimate_key(price.currency), round(seconds / 3600 * price.hour_cost, 4), step=step + 1)
            except Exception as error:  # noqa: BLE001 (the next value may get through)
                log.debug("cannot write what run %s costs: %s", run_id, error)
            self._written[run_id] = seconds, step + 1

    def _end(self) -> None:
        if os.getpid() != self._pid:
            return
        self._stopped.set()
        self._thread.join(END_SECONDS)
        try:
            if line := self._say():
                print(line, file=sys.stderr, flush=True)  # noqa: T201 (people look at the end of a training's output)
        except Exception as error:  # noqa: BLE001 (the process ends)
            log.debug("cannot say what runs have cost: %s", error)

    def _say(self) -> str:
        price, seconds = self._price, list(self._seconds.values())
        if price is None or not seconds:
            return ""
        cost = sum(seconds) / 3600 * price.hour_cost
        whose = "this run has" if len(seconds) == 1 else f"these {len(seconds):,} runs have"
        text = f"Runspend: {whose} cost about {cost:,.2f} {price.currency}, {price.hour_cost:,.2f} an hour"
        if self._typical is not None and len(seconds) == 1:
            text += f"; runs like it cost {self._typical['low']} to {self._typical['high']}"
        return text


def _read_list(place: str) -> dict[str, Any]:
    if place.startswith(("http://", "https://")):
        import urllib.request  # takes time to import, and only the thread does

        with urllib.request.urlopen(place, timeout=TIMEOUT_SECONDS) as answer:
            text = answer.read(MOST_BYTES)
    else:
        with Path(place).open("rb") as file:
            text = file.read(MOST_BYTES)
    found: dict[str, Any] = json.loads(text)
    return found


def _stacks() -> list[list[Any]]:
    """Return the active runs of each thread, outermost first. MLflow keeps them for its own end of a process."""
    fluent = sys.modules.get("mlflow.tracking.fluent")
    stacks: dict[int, list[Any]] = fluent._active_run_stack.get_all_thread_values() if fluent is not None else {}
    return [list(stack) for stack in stacks.values() if stack]


def _nodes() -> int:
    """Return how many machines the job has, as launchers say it (torchrun, SLURM)."""
    world, local = _number(os.environ.get("WORLD_SIZE")), _number(os.environ.get("LOCAL_WORLD_SIZE"))
    if world and local:
        return max(1, round(world / local))
    return max(1, round(_number(os.environ.get("SLURM_JOB_NUM_NODES")) or 1))


def _number(text: str | None) -> float:
    try:
        return max(float(text or 0), 0.0)
    except ValueError:
        return 0.0


def _forget_after_fork() -> None:
    global _meter
    _meter = None


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_forget_after_fork)
