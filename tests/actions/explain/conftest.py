"""The world of `explain` in a warehouse, and a reader."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from runspend.warehouse.base import Reader
from runspend.warehouse.parquet.warehouse import ParquetWarehouse
from tests.actions.explain import explain_world as w


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with only the world's warehouse."""
    home = tmp_path_factory.mktemp("home")
    w.make_explained(home / "warehouse")
    return home


@pytest.fixture(scope="module")
def warehouse(home: Path) -> ParquetWarehouse:
    return ParquetWarehouse(home / "warehouse")


@pytest.fixture(scope="module")
def reader(warehouse: ParquetWarehouse) -> Iterator[Reader]:
    """One reader for all tests of a file."""
    with warehouse.reader() as reader:
        yield reader
