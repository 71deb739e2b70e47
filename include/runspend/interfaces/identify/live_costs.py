"""Show the approximate cost of runs while they train: the cost of their machine since they started, from an exported price list.

This is off unless RUNSPEND_PRICES is the path or address of the list, which `runspend export prices` writes. One thread of the training
process checks which runs are active. Another thread reads the list and writes the metric `cost_usd_estimated` every few minutes. The
name of the metric has the currency of the list. When the process ends, it prints one line with the cost of its runs.

Needs only the standard library and MLflow's client, which the process already has. Failures here never reach the training job.
"""

from __future__ import annotations

import atexit
import json
import logging
import math
import os
import re
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runspend.core import machine_tags
from runspend.core.cost_keys import FIRST_STEP, estimate_key
from runspend.core.price_rows import choose_price, number
from runspend.interfaces.identify.environment import PRICES
from runspend.interfaces.identify.identity import find_complete_identity

MINUTES = "RUNSPEND_LIVE_MINUTES"
USUAL_MINUTES, LEAST_MINUTES, MOST_MINUTES = 5.0, 0.01, 1440.0
LOOK_SECONDS = 5.0  # seconds between two checks of which runs are active
TIMEOUT_SECONDS = 10
MOST_BYTES = 8 << 20
END_SECONDS = 2.0  # how long a process waits at its end until the last values are written

log = logging.getLogger(__name__)
_meters: dict[int, _Meter] = {}  # by process id: one for each process, even after a fork


@dataclass(frozen=True)
class Price:
    """The hourly cost of the part of the machine that this process uses."""

    hour_cost: float
    currency: str


def start() -> None:
    """Start counting, once per process. Never raises. Takes no lock, because a process may fork at any time."""
    pid = os.getpid()
    if pid in _meters:
        return
    try:
        meter = _Meter()
        if _meters.setdefault(pid, meter) is meter:  # False if another thread was faster
            meter.begin()
    except Exception as error:  # noqa: BLE001 (a training job runs here)
        log.debug("cannot count what runs cost: %s", error)


def find_price(prices: Any, tags: Mapping[str, str], nodes: int = 1) -> Price | None:
    """Return the price for the type, region and purchase option of this machine. None if the list does not have it.

    Without a region, the price of the region with the most hours is used. Unless its tags state spot, the machine counts as on demand. If the
    process sees only some of the machine's GPUs, its price is their share of the machine's price. `nodes` is the number of machines of
    the job. Raises an error if the list or the price cannot be used.
    """
    row = choose_price(
        prices, tags.get(machine_tags.TYPE, ""), tags.get(machine_tags.REGION, ""), tags.get(machine_tags.PURCHASE_OPTION, "")
    )
    if row is None:
        return None
    gpus, seen = number(row.get("gpus")), number(tags.get(machine_tags.GPU_COUNT))
    share = min(seen / gpus, 1.0) if gpus and seen else 1.0
    hour_cost, currency = float(row["hour_cost"]), str(row["currency"])
    if not (0 < hour_cost < math.inf and re.fullmatch("[A-Za-z]{3}", currency)):
        raise ValueError(f"an hour cannot cost {hour_cost} {currency}")
    return Price(hour_cost * share * nodes, currency)


class _Meter:
    """Counts the time of the runs of this process.

    Time counts for the innermost active run of a thread, not for the runs around it. Active runs of several threads share the time.
    """

    def __init__(self) -> None:
        minutes = number(os.environ.get(MINUTES)) or USUAL_MINUTES
        self._pause = 60 * min(max(minutes, LEAST_MINUTES), MOST_MINUTES)
        self._stopped, self._due = threading.Event(), threading.Event()
        self._looker = threading.Thread(target=self._look_on, name="runspend-live-looks", daemon=True)
        self._writer = threading.Thread(target=self._write_on, name="runspend-live-writes", daemon=True)
        self._price: Price | None = None
        self._typical: Mapping[str, Any] | None = None  # the usual cost of similar runs, if this process has only one run
        self._seconds: dict[str, float] = {}  # run -> its share of the time
        self._experiments: dict[str, str] = {}  # run -> experiment id
        self._to_write: set[str] = set()
        self._written: dict[str, tuple[float, float, int]] = {}  # run -> seconds, cost before this process and step of its last value
        self._looked_at = time.monotonic()
        self._has_ended = False

    def begin(self) -> None:
        self._looker.start()
        self._writer.start()
        atexit.register(self._end)  # called before MLflow ends the active runs, because MLflow registered earlier
        if (multiprocessing := sys.modules.get("multiprocessing.util")) is not None:  # forked workers of multiprocessing do not run atexit
            multiprocessing.Finalize(None, self._end, exitpriority=10)

    def _look_on(self) -> None:
        """Check which runs are active until the process ends. This thread never waits for the network, so it misses no time."""
        due = time.monotonic() + min(self._pause, 60.0)  # write the first value soon
        is_last = False
        while not is_last:
            is_last = self._stopped.wait(min(LOOK_SECONDS, self._pause / 3))
            try:
                ended = self._look()
            except Exception as error:  # noqa: BLE001 (a training job runs here)
                log.debug("cannot find out which runs are active: %s", error)
                return
            if is_last or time.monotonic() >= due:
                self._to_write |= set(self._seconds)
                due = time.monotonic() + self._pause
            self._to_write |= ended
            if self._to_write:
                self._due.set()

    def _look(self) -> set[str]:
        """Add the time since the last check to the innermost active runs. Return the ended runs whose last value is not written yet."""
        now = time.monotonic()
        passed, self._looked_at = now - self._looked_at, now
        stacks = _stacks()
        innermost = {stack[-1].info.run_id: stack[-1] for stack in stacks}
        for run_id, run in innermost.items():
            share = passed / len(innermost)
            if run_id not in self._seconds:  # it started or was resumed since the last check
                self._experiments[run_id] = run.info.experiment_id
                share = min(share, max(time.time() - (run.info.start_time or 0) / 1000, 0.0))
            self._seconds[run_id] = self._seconds.get(run_id, 0.0) + share
        active = {run.info.run_id for stack in stacks for run in stack}
        return {run_id for run_id in self._experiments.keys() - active if self._is_new(run_id)}

    def _is_new(self, run_id: str) -> bool:
        return run_id not in self._written or self._written[run_id][0] != self._seconds[run_id]

    def _write_on(self) -> None:
        try:
            listed = self._read_list()
            self._price = find_price(listed.get("prices", ()), self._wait_for_identity(), _nodes())
            if self._price is None:
                log.info("%s has no price for this machine: its runs show no cost", PRICES)
                return
            while not self._stopped.is_set() or self._to_write:
                self._due.wait()
                self._due.clear()
                self._write(listed.get("experiments", ()))
        except Exception as error:  # noqa: BLE001 (a training job runs here)
            log.debug("cannot show what runs cost: %s", error)

    def _read_list(self) -> dict[str, Any]:
        for wait in (60.0, 300.0, 0.0):
            try:
                return _read_list(os.environ[PRICES].strip())
            except Exception as error:
                log.debug("cannot read the prices: %s", error)
                if self._stopped.wait(wait) or not wait:
                    raise
        raise AssertionError

    def _wait_for_identity(self) -> dict[str, str]:
        """Return the tags of this process after all services have answered, or after TIMEOUT_SECONDS."""
        return {one.key: one.value for one in find_complete_identity(TIMEOUT_SECONDS, self._stopped.wait)}

    def _write(self, experiments: Any) -> None:
        price = self._price
        while price is not None and self._to_write:
            run_id = self._to_write.pop()
            if not self._is_new(run_id):
                continue
            try:
                self._write_run(run_id, price)
                if self._typical is None and len(self._seconds) == 1:
                    self._typical = _find_typical(experiments, self._experiments[run_id], price.currency)
            except Exception as error:  # noqa: BLE001 (writing the next value may succeed)
                log.debug("cannot write what run %s costs: %s", run_id, error)

    def _write_run(self, run_id: str, price: Price) -> None:
        from mlflow import MlflowClient

        client, key, seconds = MlflowClient(), estimate_key(price.currency), self._seconds[run_id]
        if run_id in self._written:
            _, before, step = self._written[run_id]
        else:  # if the run was resumed, an earlier process may have written values
            last = [m for m in client.get_run(run_id).data._metric_objs if m.key == key and m.step >= FIRST_STEP]
            before, step = (float(last[0].value), int(last[0].step)) if last else (0.0, FIRST_STEP - 1)
        client.log_metric(run_id, key, round(before + seconds / 3600 * price.hour_cost, 4), step=step + 1)
        self._written[run_id] = seconds, before, step + 1

    def _end(self) -> None:
        if _meters.get(os.getpid()) is not self or self._has_ended:
            return  # in a forked child, or a second call
        self._has_ended = True
        until = time.monotonic() + END_SECONDS
        self._stopped.set()
        self._looker.join(END_SECONDS)
        self._due.set()
        self._writer.join(max(until - time.monotonic(), 0.0))
        try:
            if line := self._say():
                print(line, file=sys.stderr, flush=True)  # noqa: T201 (people read the end of a training's output)
        except Exception as error:  # noqa: BLE001 (the process ends)
            log.debug("cannot print what runs have cost: %s", error)

    def _say(self) -> str:
        price, seconds = self._price, dict(self._seconds)
        if price is None or not seconds:
            return ""
        cost = sum(seconds.values()) / 3600 * price.hour_cost + sum(before for _, before, _ in self._written.values())
        whose = "this run has" if len(seconds) == 1 else f"these {len(seconds):,} runs have"
        text = f"Runspend: {whose} cost about {cost:,.2f} {price.currency}, {price.hour_cost:,.2f} an hour"
        if self._typical is not None and len(seconds) == 1:
            text += f"; similar runs cost {self._typical['low']} to {self._typical['high']}"
        return text


def _find_typical(experiments: Any, experiment_id: str, currency: str) -> Mapping[str, Any] | None:
    """Return the usual cost of runs of this experiment. None if the price list does not have exactly one such row.

    Two servers may have an experiment with this name and id, and this process cannot know which of them it uses.
    """
    from mlflow import MlflowClient

    wanted = (MlflowClient().get_experiment(experiment_id).name, experiment_id, currency)
    found = [row for row in experiments if (row["experiment"], row["experiment_id"], row["currency"]) == wanted]
    return found[0] if len(found) == 1 else None


def _read_list(place: str) -> dict[str, Any]:
    if place.startswith(("http://", "https://")):
        import urllib.request  # slow to import, so only this thread does it

        with urllib.request.urlopen(place, timeout=TIMEOUT_SECONDS) as answer:
            text = answer.read(MOST_BYTES)
    else:
        with Path(place).open("rb") as file:
            text = file.read(MOST_BYTES)
    found: dict[str, Any] = json.loads(text)
    return found


def _stacks() -> list[list[Any]]:
    """Return the active runs of each living thread, outermost first.

    MLflow keeps this list to end the runs when the process ends. After a fork, or if a thread ended with an open run, the list also has
    runs of threads that no longer exist. They are left out.
    """
    fluent = sys.modules.get("mlflow.tracking.fluent")
    stacks: dict[int, list[Any]] = fluent._active_run_stack.get_all_thread_values() if fluent is not None else {}
    alive = {thread.ident for thread in threading.enumerate()}
    return [list(stack) for ident, stack in stacks.items() if stack and ident in alive]


def _nodes() -> int:
    """Return the number of machines of the job, from the variables that launchers (torchrun, Slurm) set. Default: 1."""
    world, local = number(os.environ.get("WORLD_SIZE")), number(os.environ.get("LOCAL_WORLD_SIZE"))
    if world and local:
        return max(1, round(world / local))
    return max(1, round(number(os.environ.get("SLURM_JOB_NUM_NODES")) or 1))
