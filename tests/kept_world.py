"""A tiny world for several tests that all start after the same pipeline runs, which run only once.

A pipeline run writes paths and file times. So each test finds the world in the same place, restored to a kept state.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from tests.tiny_world import make_tiny_world


class KeptWorld:
    """A tiny world in `folder`, and copies of its earlier states."""

    def __init__(self, folder: Path, store: Path, bills: Mapping[str, int] | None = None) -> None:
        self._folder = folder
        self._place = folder / "tiny"
        self.config = make_tiny_world(self._place, store, bills)

    def keep(self, moment: str) -> None:
        """Keep a copy of the current state under a name."""
        shutil.copytree(self._place, self._folder / moment)

    def put_back(self, moment: str) -> Path:
        """Restore the world to a kept state, and return its configuration."""
        shutil.rmtree(self._place)
        shutil.copytree(self._folder / moment, self._place)
        return self.config
