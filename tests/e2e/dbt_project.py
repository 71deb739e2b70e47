"""Runs dbt several times in one process, which imports it only once. Each line of standard input is a JSON list of arguments.

.venv/dbt/bin/python tests/e2e/dbt_project.py

It prints one JSON line per run: whether it succeeded, and the names of its nodes by status. This environment does not contain Runspend.
"""

from __future__ import annotations

import contextlib
import json
import sys

from dbt.cli.main import dbtRunner


def main() -> None:
    answers = sys.stdout
    runner = dbtRunner()
    for line in sys.stdin:
        with contextlib.redirect_stdout(sys.stderr):
            done = runner.invoke(json.loads(line))
        if done.exception is not None:
            raise done.exception
        found: dict[str, list[str]] = {}
        for result in getattr(done.result, "results", []):
            found.setdefault(str(result.status), []).append(result.node.name)
        print(json.dumps([done.success, found]), file=answers, flush=True)


if __name__ == "__main__":
    main()
