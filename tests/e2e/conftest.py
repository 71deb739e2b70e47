"""The demo world, made once for all end-to-end tests, and the command line as a user types it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Runspend = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def made_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo world as `runspend demo` makes it. Read-only: `world` is a copy to run nights on."""
    folder = tmp_path_factory.mktemp("demo") / "world"
    run_command("demo", str(folder), cwd=folder.parent)
    return folder


@pytest.fixture
def world(made_world: Path, tmp_path: Path) -> Path:
    """A home of its own over the demo's stores and bills; returns its configuration."""
    config = tmp_path / "runspend.yaml"
    text = (made_world / "runspend.yaml").read_text()
    for name in ("prod", "research"):
        text = text.replace(f"sqlite:///{name}/", f"sqlite:///{made_world}/{name}/").replace(f"uri: {name}/artifacts", f"uri: {made_world}/{name}/artifacts")
    shutil.copytree(made_world / "bills", tmp_path / "bills")
    config.write_text(text)
    return config


@pytest.fixture
def runspend() -> Runspend:
    """Run `runspend …` in a process of its own; a failing exit code fails the test unless `code` names it."""
    return run_command


def run_command(*arguments: str, cwd: Path | None = None, code: int = 0) -> subprocess.CompletedProcess[str]:
    """The command, its two outputs as text."""
    done = subprocess.run([sys.executable, "-m", "runspend.cli", *arguments], cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == code, f"exit code {done.returncode}, expected {code}\n{done.stdout}\n{done.stderr}"
    return done
