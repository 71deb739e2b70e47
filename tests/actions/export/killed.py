"""Exports in child processes that are killed at crash points, and shows after each what a reader of the file sees.

python -m tests.actions.export.killed HOME FILE '["export.hyper.cost_daily", "", "double", …]'

A step is the crash point of an export, an empty string for a whole export, or a change of the warehouse. It prints one JSON line per step:
whether the export was killed, and the build and sum in the file, if there is one. All modules are imported only once.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import duckdb  # noqa: F401 (once, before the children)
import sqlglot  # noqa: F401
import tableauhyperapi  # noqa: F401

import runspend.warehouse.parquet.step  # noqa: F401
from runspend.actions.export.hyper import export_hyper
from runspend.actions.publish import open_content
from runspend.warehouse.factory import open_warehouse
from tests.access_world import NOW
from tests.actions.export.extracts import asked
from tests.actions.publish.seen import double_cost_daily


def export(home: Path, file: Path) -> None:
    with open_content(open_warehouse(f"{home}/warehouse")) as content:
        export_hyper(content, file, NOW)


def see(file: Path) -> None:
    """Print the build and the sum, as strings."""
    questions = "select build_id from runspend_builds where table_name = 'all'", "select cast(sum(effective_cost) as text) from cost_daily"
    seen = [rows[0][0] for rows in asked(file, *questions)] if file.exists() else []
    print(json.dumps(seen), flush=True)


def in_child(work: Callable[[], None]) -> int:
    """Run it in a child process. Return the signal that ended it, or 0 if it succeeded."""
    child = os.fork()
    if not child:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def main(home: Path, file: Path, steps: list[str]) -> None:
    for step in steps:
        os.environ["RUNSPEND_CRASH_AT"] = step
        ended = in_child(lambda: double_cost_daily(home) if step == "double" else export(home, file))  # noqa: B023
        assert ended == (signal.SIGKILL if "." in step else 0)
        in_child(lambda: see(file))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]))
