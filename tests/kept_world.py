"""A tiny world whose nights several tests begin after: they run once.

What a night wrote names the paths and times of files, so each test finds the world in the same place, put back to a moment.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from tests.tiny_world import make_tiny_world


class KeptWorld:
    """A tiny world in `folder`, and copies of what it was."""

    def __init__(self, folder: Path, store: Path, bills: Mapping[str, int] | None = None) -> None:
        self._folder = folder
        self._place = folder / "tiny"
        self.config = make_tiny_world(self._place, store, bills)

    def keep(self, moment: str) -> None:
        """The world as it is now, by a name."""
        shutil.copytree(self._place, self._folder / moment)

    def put_back(self, moment: str) -> Path:
        """The world as it was; returns its configuration."""
        shutil.rmtree(self._place)
        shutil.copytree(self._folder / moment, self._place)
        return self.config
