"""A small warehouse to publish, and a PostgreSQL server."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests import access_world
from tests.ingest.tracking.mlflow_servers import postgres

__all__ = ["postgres"]


@pytest.fixture(scope="session")
def made_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with rows in every table. Read-only: tests use the copy `home`."""
    folder = tmp_path_factory.mktemp("publish")
    access_world.make_two_teams(folder)
    return folder


@pytest.fixture
def home(made_home: Path, tmp_path: Path) -> Path:
    """A home for one test."""
    return shutil.copytree(made_home, tmp_path / "home")
