"""The common part of the warehouse in a folder and in a bucket: what a step reads from them, and what it returns."""

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
    """A unit's new file (until the step is published: its parts, in order), its content and its record."""

    parts: tuple[Path, ...]
    content: Content
    record: dict[str, Any]

    @property
    def file(self) -> Path:
        """The single file that is published."""
        [file] = self.parts
        return file


class Pinned(NamedTuple):
    """The published files of one moment under stable names, their columns, and the guard that refuses damaged ones."""

    files: dict[Unit, Path]
    columns: dict[str, list[str]]
    guard: Guard


class FileWarehouse(Protocol):
    """The place where a step reads published files and puts its own: this folder, or the bucket of `bucket.py`."""

    models: Path
    checks: Path

    def pin(self, folder: Path) -> Pinned:
        """Pin the currently published files under stable names in `folder`."""
        ...

    def replace(
        self, staged: Mapping[Unit, StagedFiles], dropped: set[Unit], inputs: Mapping[Unit, str | None], *, stage: Path, build_id: str
    ) -> bool:
        """Make a step's units visible, all at once. Returns False, with nothing changed, if an input's digest has changed."""
        ...
