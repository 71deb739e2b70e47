"""Runs modules in processes that are forked from one that has imported their dependencies. This takes a third of the time of `python -m`."""

from __future__ import annotations

import atexit
import importlib
import json
import os
import runpy
import subprocess
import sys
import traceback
from functools import cache
from pathlib import Path

# Modules that are otherwise imported late in a run.
NEEDED = (
    "duckdb",
    "pyarrow.parquet",
    "sqlglot",
    "runspend.pipeline",
    "runspend.warehouse.parquet.step",
    "runspend.warehouse.parquet.reader",
)


def run_forked(module: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m module …` with additional environment variables. Return its exit code and its standard output."""
    server = _server()
    assert server.stdin is not None and server.stdout is not None
    server.stdin.write(json.dumps([module, arguments, {**os.environ, **environment}, os.getcwd()]) + "\n")
    server.stdin.flush()
    code, out = json.loads(server.stdout.readline())
    return subprocess.CompletedProcess([module, *arguments], code, out)


@cache
def _server() -> subprocess.Popen[str]:
    """Start one server per test process. It ends with that process."""
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.forked"], cwd=Path(__file__).parents[1], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    atexit.register(server.communicate)
    return server


def _run(module: str, arguments: list[str], environment: dict[str, str], folder: str) -> tuple[int, str]:
    importlib.import_module(module)  # each child runs the module again, but not its imports
    reading, writing = os.pipe()
    if not (child := os.fork()):
        code = 1
        try:
            os.dup2(writing, 1)
            os.close(reading)
            os.chdir(folder)
            os.environ.clear()
            os.environ.update(environment)
            sys.argv[1:] = arguments
            del sys.modules[module]
            runpy.run_module(module, run_name="__main__", alter_sys=True)
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        except Exception:  # noqa: BLE001 (as the interpreter would)
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as answer:
        out = answer.read()
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), out


def main() -> None:
    for name in NEEDED:
        importlib.import_module(name)
    for line in sys.stdin:
        print(json.dumps(_run(*json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
