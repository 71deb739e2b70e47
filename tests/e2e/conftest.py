"""The demo world, created once for all end-to-end tests, and the command line as a user types it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from runspend.config.settings import Settings
from runspend.warehouse.factory import open_warehouse
from tests.command import run_here, run_process
from tests.kept import made_once

if TYPE_CHECKING:
    from playwright.sync_api import Browser

NOW = ("--now", "2026-11-24T06:00")  # the day after the demo's last bill
Runspend = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def made_world() -> Path:
    """The demo world as `runspend demo` creates it. Read-only: pipeline runs use the copy `world`."""
    return made_once("demo", lambda folder: run_process("demo", str(folder), cwd=folder.parent))


@pytest.fixture(scope="session")
def made_night(made_world: Path) -> Path:
    """Return the configuration of a home over the demo after one pipeline run, as cron starts it. Read-only: copy its folder to change it."""

    def make(home: Path) -> None:
        home.mkdir()
        config = copy_world(made_world, home)
        text = config.read_text()  # the plan contains the archive's path, so a copy must use the same path
        config.write_text(text.replace("uri: archive", f"uri: {home}/archive").replace("to: archive", f"to: {home}/archive"))
        run_process("nightly", "--config", str(config), *NOW)

    return made_once("night", make) / "runspend.yaml"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium, started once."""
    from tests.e2e.served import started_chromium

    with started_chromium() as browser:
        yield browser


@pytest.fixture
def world(made_world: Path, tmp_path: Path) -> Path:
    """Return the configuration of a separate home over the demo's stores and bills."""
    return copy_world(made_world, tmp_path)


def ask(settings: Settings, sql: str) -> list[dict[str, Any]]:
    """Return the rows of a query."""
    with open_warehouse(settings).reader() as reader:
        return list(reader.query(sql).to_pylist())


def copy_world(made_world: Path, home: Path) -> Path:
    """Copy the demo's bills, use its stores, and return the configuration."""
    text = (made_world / "runspend.yaml").read_text()
    for name in ("prod", "research"):
        text = text.replace(f"sqlite:///{name}/", f"sqlite:///{made_world}/{name}/").replace(
            f"uri: {name}/artifacts", f"uri: {made_world}/{name}/artifacts"
        )
    shutil.copytree(made_world / "bills", home / "bills", dirs_exist_ok=True)
    (home / "runspend.yaml").write_text(text)
    return home / "runspend.yaml"


@pytest.fixture
def runspend() -> Runspend:
    """Run `runspend …`; a failing exit code fails the test unless `code` names it."""
    return run_here
