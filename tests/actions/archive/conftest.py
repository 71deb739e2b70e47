"""Two stores in memory for the tests of this folder. A file that needs objects in them makes its own `world` from this one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.archive_world import World


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()
