"""What tests of several warehouses use."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from runspend.warehouse.bigquery.warehouse import BigQueryWarehouse
    from tests.servers.bigquery_target import Target

MONTHS = (f"{year}-{month:02}" for year in itertools.count(2001) for month in range(1, 13))


@pytest.fixture
def month() -> str:
    """A month no other test has rows in."""
    return next(MONTHS)


@pytest.fixture
def sql(tmp_path: Path) -> Path:
    """A folder for models and checks of the test's own."""
    (tmp_path / "sql").mkdir()
    return tmp_path / "sql"


@pytest.fixture(scope="session")
def bigquery_warehouse(bigquery_target: Target) -> BigQueryWarehouse:
    """The warehouse that tests share: on Google's, tables take a minute to make."""
    from runspend.warehouse.bigquery.warehouse import BigQueryWarehouse

    return BigQueryWarehouse(bigquery_target.settings())
