"""Put case folders together for one build: the time of a chain of models hardly depends on how much it reads.

`chain.py` keeps the names of the worlds apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from runspend.config.settings import Settings
from tests.allocation.chain import DAY, World, merge_worlds, parameters_of, read_settings, read_world, rows_of

# These cases are built alone: a tag names a job without the prefix of its world, and the number of a job is a number.
BY_ITSELF = {
    "runs_of_a_jobs_tasks_share_the_job",
    "job_runs_of_one_number_in_two_workspaces",
    "a_job_run_of_the_only_workspace",
    "a_late_line_of_one_of_two_job_runs_of_one_number",
}


@dataclass(frozen=True)
class Company:
    """The cases of one build, distinguished by the names of their folders. A single case keeps its own names."""

    folders: list[Path]
    settings: Settings

    @property
    def world(self) -> World:
        """The tables of all cases together."""
        return read_world(self.folders[0]) if self._is_alone else merge_worlds({folder.name: read_world(folder) for folder in self.folders})

    def rows(self, table: pa.Table, folder: Path) -> list[dict[str, Any]]:
        """Return the rows of one case, with its original names."""
        return table.to_pylist() if self._is_alone else rows_of(table, folder.name)

    @property
    def _is_alone(self) -> bool:
        return len(self.folders) == 1


def companies(folders: Sequence[Path]) -> Iterator[Company]:
    """Group cases whose models get the same parameters: equal settings, and equal windows for runs."""
    together: dict[str, list[Path]] = {}
    for folder in folders:
        told = parameters_of(read_world(folder), DAY, read_settings(folder))
        together.setdefault(folder.name if folder.name in BY_ITSELF else repr(sorted(told.items())), []).append(folder)
    for those in together.values():
        yield Company(those, read_settings(those[0]))
