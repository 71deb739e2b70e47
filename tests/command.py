"""Runs the command line as a user types it, in its own process or, for tests that do not need one, in this process."""

from __future__ import annotations

import subprocess
import sys
from contextlib import chdir
from pathlib import Path
from unittest.mock import patch

from click.testing import CliRunner

from runspend.interfaces.cli import main


def run_here(*arguments: str, cwd: Path | None = None, code: int | None = 0) -> subprocess.CompletedProcess[str]:
    """Run `runspend …` in this process, without a terminal. Unless `code` is None, any other exit code fails the test."""
    found = 0
    with CliRunner().isolation() as (out, err, _), chdir(cwd or Path.cwd()), patch.object(sys, "argv", ["runspend", *arguments]):
        try:
            main()
        except SystemExit as end:
            found = int(end.code or 0)
        sys.stdout.flush()
        done = subprocess.CompletedProcess(sys.argv, found, out.getvalue().decode(), err.getvalue().decode())
    return _checked(done, code)


def run_process(*arguments: str, cwd: Path | None = None, code: int | None = 0) -> subprocess.CompletedProcess[str]:
    """Run `runspend …` in its own process."""
    command = [sys.executable, "-m", "runspend.interfaces.cli", *arguments]
    return _checked(
        subprocess.run(command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=500, check=False), code
    )


def _checked(done: subprocess.CompletedProcess[str], code: int | None) -> subprocess.CompletedProcess[str]:
    assert code in (None, done.returncode), f"exit code {done.returncode}, expected {code}\n{done.stdout}\n{done.stderr}"
    return done
