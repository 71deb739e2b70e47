"""The interface between a step and a warehouse of files, which is in a folder or in a bucket."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from runspend.warehouse.base import Unit
from runspend.warehouse.parquet.verification import Guard

if TYPE_CHECKING:
    from runspend.warehouse.parquet.engine import Content


@dataclass(frozen=True)
class StagedFiles:
    """The new file of a unit, with its content and its record."""

    parts: tuple[Path, ...]  # files to be joined in this order; a single file once the step is published
    content: Content
    record: dict[str, Any]

    @property
    def file(self) -> Path:
        """The file that is published. Raises ValueError if the parts are not joined yet."""
        [file] = self.parts
        return file


class Pinned(NamedTuple):
    """The published files of one build, their columns, and the guard that refuses damaged files.

    Later publishes do not change the content at these paths.
    """

    files: dict[Unit, Path]
    columns: dict[str, list[str]]
    guard: Guard


class FileWarehouse(Protocol):
    """A warehouse from which a step reads published files and to which it publishes new ones (`warehouse.py` and `bucket.py`)."""

    models: Path
    checks: Path

    def pin(self, folder: Path) -> Pinned:
        """Return the currently published files under names in `folder` that later publishes do not change."""
        ...

    def replace(
        self, staged: Mapping[Unit, StagedFiles], dropped: set[Unit], inputs: Mapping[Unit, str | None], *, stage: Path, build_id: str
    ) -> bool:
        """Make all units of a step visible at once. Returns False, and changes nothing, if the digest of an input has changed."""
        ...
