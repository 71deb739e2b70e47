"""Runs training scripts in processes that are forked from one that has imported MLflow. The import takes most of a short script's time.

A script ends as in `python -c`: functions of `atexit` run, and those are what reports costs.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path


def run_training(script: str, *arguments: str, cwd: Path, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run `python -c script …` with additional environment variables."""
    server = _server()
    assert server.stdin is not None and server.stdout is not None
    with tempfile.TemporaryDirectory() as folder:
        given = [script, arguments, {**os.environ, **environment}, str(cwd), folder]
        server.stdin.write(json.dumps(given) + "\n")
        server.stdin.flush()
        code = int(server.stdout.readline())
        out, err = (Path(folder, name).read_text(encoding="utf-8") for name in ("out", "err"))
    return subprocess.CompletedProcess(arguments, code, out, err)


@cache
def _server() -> subprocess.Popen[str]:
    """Start one server per test process. It ends with that process."""
    server = subprocess.Popen(
        [sys.executable, "-m", __name__], cwd=Path(__file__).parents[3], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    atexit.register(server.communicate)
    return server


def main() -> None:
    """Fork for each line of standard input. The parent prints the exit code; the child runs the script and returns."""
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401 (imports the rest of MLflow too)

    for line in sys.stdin:
        script, arguments, environment, cwd, folder = json.loads(line)
        if not (child := os.fork()):
            break
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
    else:
        return
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    for descriptor, file in enumerate((os.devnull, f"{folder}/out", f"{folder}/err")):
        os.dup2(os.open(file, os.O_RDWR | os.O_CREAT, 0o600), descriptor)
    sys.argv[1:] = arguments
    exec(compile(script, "<script>", "exec"), {"__name__": "__main__"})


if __name__ == "__main__":
    main()
