"""Publishes in child processes that are killed at crash points, and shows after each what a reader of the target sees.

python -m tests.actions.publish.killed '[{"home": …, "target": {…}, "steps": ["publish.duckdb.cost_daily", "", "double", …]}]'

A step is the crash point of a publish, an empty string for a whole publish, or a change of the warehouse. It prints one JSON list per target
of [whether it was killed, what a reader sees]. All modules are imported only once.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import duckdb  # noqa: F401
import psycopg2
import psycopg2.extras  # noqa: F401
import pyarrow.parquet  # noqa: F401
import pyiceberg.catalog.sql
import pyiceberg.io.pyarrow  # noqa: F401
import sqlglot  # noqa: F401
from pydantic import TypeAdapter

import runspend.warehouse.parquet.reader
import runspend.warehouse.parquet.step  # noqa: F401
from runspend.actions.publish import duckdb_file, iceberg, open_content, postgres  # noqa: F401
from runspend.config.publish import DuckDBTarget, IcebergTarget, PostgresTarget, PublishTarget
from runspend.pipeline.publish import _publish_to
from runspend.warehouse.factory import open_warehouse
from tests.actions.publish.seen import double_cost_daily, see

NOW = datetime(2026, 10, 4, 6, tzinfo=timezone.utc)


def publish(home: str, target: PostgresTarget | DuckDBTarget | IcebergTarget) -> None:
    with open_content(open_warehouse(f"{home}/warehouse")) as content:
        _publish_to(target, content, NOW)


def in_child(work: Callable[[], Any]) -> tuple[int, Any]:
    """Run it in a child process. Return the signal that ended it, and its result."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        code = 1
        try:
            os.write(writing, json.dumps(work()).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        text = answer.read()
    _, status = os.waitpid(child, 0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else -os.WEXITSTATUS(status), json.loads(text) if text else None


def after(home: str, target: PostgresTarget | DuckDBTarget | IcebergTarget, step: str) -> list[Any]:
    """Do one step. Return whether it was killed, and what a reader sees then."""
    if step == "double":
        ended, _ = in_child(lambda: double_cost_daily(Path(home)))
    else:
        os.environ["RUNSPEND_CRASH_AT"] = step
        ended, _ = in_child(lambda: publish(home, target))
        os.environ["RUNSPEND_CRASH_AT"] = ""
    assert ended in (0, -signal.SIGKILL, signal.SIGKILL), f"{step} of {target.name} failed"
    return [ended == signal.SIGKILL, in_child(lambda: see(target))[1]]


def main(given: list[dict[str, Any]]) -> None:
    for one in given:
        target = TypeAdapter(PublishTarget).validate_python(one["target"])
        print(json.dumps([after(one["home"], target, step) for step in one["steps"]]), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
