"""Kill a command again and again at random moments, finish it, and compare what the warehouse then holds.

    python -m tests.faults.torture --kills 100 --state HOME --warehouse HOME/warehouse -- runspend nightly --config runspend.yaml

The command first runs once unharmed, from the folder `--state` as it is now: its content digests are what every killed and
repeated run must come to. Before each kill the folder is put back. While the command runs, a reader of ours looks on: the
tables that one build publishes together must always be of one build. Exit code 1 and a list when anything differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq

from runspend.schema.tables import TABLES
from runspend.warehouse.base import Unit
from runspend.warehouse.parquet.warehouse import ParquetWarehouse

# Tables that one build publishes together, with the month that they share.
TOGETHER = ("cost_allocations", "run_costs_daily", "cost_daily", "unallocated_costs")


@dataclass
class Report:
    """The result. `faults` is empty if every guarantee held."""

    kills: int = 0
    finished: int = 0  # runs that ended before their kill
    reads: int = 0
    faults: list[str] = field(default_factory=list)


def torture(
    command: Sequence[str],
    *,
    state: Path,
    warehouse: Path,
    kills: int,
    seed: int,
    watch: bool = True,
    repeat: Callable[[], object] | None = None,
) -> Report:
    """Kill `command` `kills` times, each time from the folder's present state. `repeat` is the command after a kill, if it differs."""
    report = Report()
    moments = random.Random(seed)
    kept = state.with_name(state.name + ".before-torture")
    if kept.exists():
        raise SystemExit(f"cannot begin: {kept} is left from an earlier torture. Move it back to {state} or remove it.")
    shutil.copytree(state, kept, symlinks=True)
    try:
        began = time.monotonic()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        lasts = time.monotonic() - began
        wanted = digests(warehouse)
        for number in range(kills):
            shutil.rmtree(state)
            shutil.copytree(kept, state, symlinks=True)
            label = f"kill {number}"
            _kill_once(command, moments.uniform(0, lasts), warehouse, report, watch=watch, label=label)
            report.faults += [f"{label}: {fault}" for fault in torn_files(warehouse)]
            if repeat is None:
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            else:
                repeat()
            found = digests(warehouse)
            for unit in sorted(found.keys() | wanted.keys()):
                if found.get(unit) != wanted.get(unit):
                    report.faults.append(f"{label}: {'/'.join(unit)} is {found.get(unit)}, unharmed it was {wanted.get(unit)}")
            report.faults += [f"{label}: {'/'.join(unit)} is damaged" for unit in ParquetWarehouse(warehouse).find_damage()]
            stages = list((warehouse / "_runspend" / "stage").glob("*"))
            if stages:
                report.faults.append(f"{label}: staging folders are left: {stages}")
    finally:
        shutil.rmtree(kept)
    return report


def digests(warehouse: Path) -> dict[Unit, str]:
    """Return the content digest of every published unit."""
    return {unit: state.digest for unit, state in ParquetWarehouse(warehouse).states().items()}


def torn_files(warehouse: Path) -> list[str]:
    """Return files in table folders that other readers could not read, and files that do not belong there."""
    faults = []
    for name, table in TABLES.items():
        folder = warehouse / name if table.is_public else warehouse / "_internal" / name
        for path in (p for p in folder.rglob("*") if p.is_file()):
            if path.suffix != ".parquet":
                faults.append(f"{path} lies among the files of {name}")
                continue
            try:
                pq.ParquetFile(path).read()
            except (OSError, ValueError) as error:
                faults.append(f"{path} cannot be read: {error}")
    return faults


def mixed_builds(warehouse: Path) -> list[str]:
    """Return the months whose tables come from more than one build for a reader of Runspend."""
    queries = (f"select '{name}' as name, billing_period, build_id from {name} group by billing_period, build_id" for name in TOGETHER)
    with ParquetWarehouse(warehouse).reader() as reader:
        seen = reader.query(" union all ".join(queries)).to_pylist()
    builds: dict[object, set[str]] = {}
    for row in seen:
        builds.setdefault(row["billing_period"], set()).add(row["build_id"])
    return [f"{period} shows builds {sorted(ids)}" for period, ids in builds.items() if len(ids) > 1]


def _kill_once(command: Sequence[str], after: float, warehouse: Path, report: Report, *, watch: bool, label: str) -> None:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + after
    while (left := deadline - time.monotonic()) > 0 and process.poll() is None:
        if watch and warehouse.exists():
            report.faults += [f"{label}: {fault}" for fault in mixed_builds(warehouse)]
            report.reads += 1
        time.sleep(min(0.05, max(left, 0)))
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)  # the command and the processes it starts have their own group
        report.kills += 1
    else:
        report.finished += 1
    process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--state", type=Path, required=True, help="folder put back before each kill")
    parser.add_argument("--warehouse", type=Path, required=True, help="the warehouse the command writes")
    parser.add_argument("command", nargs="+", help="after --")
    given = parser.parse_args()
    report = torture(given.command, state=given.state, warehouse=given.warehouse, kills=given.kills, seed=given.seed)
    print(json.dumps({"kills": report.kills, "finished": report.finished, "reads": report.reads, "faults": len(report.faults)}))
    for fault in report.faults:
        print(fault)
    return 1 if report.faults else 0


if __name__ == "__main__":
    sys.exit(main())
