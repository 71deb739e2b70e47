"""Estimate the bytes that queries on BigQuery would read, and their on-demand price. Querying a folder costs nothing.

The estimate comes from dry runs, which are free. Price: Google "BigQuery pricing", on-demand compute, 6.25 USD per TiB in the US. The first
TiB of a month is free. Other regions and editions have other prices. At least 10 MiB are billed per table that a query reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from runspend.config.settings import Settings
from runspend.core.errors import UsageError
from runspend.warehouse.base import Model, Step
from runspend.warehouse.factory import open_warehouse

USD_PER_TIB = Decimal("6.25")
LEAST_BYTES = 10 * 2**20
TIB = 2**40


@dataclass(frozen=True)
class QueryCosts:
    """The estimated bytes of queries: (period, model, bytes)."""

    sizes: list[tuple[str, str, int]]

    def lines(self) -> list[str]:
        """Return the lines to print: one per query, the largest first, then the total."""
        width = max((len(name) for _, name, _ in self.sizes), default=0)
        largest = sorted(self.sizes, key=lambda item: (-item[2], item[:2]))
        found = [f"{period}  {name:<{width}}  {size_words(size)}" for period, name, size in largest if size]
        total = sum(max(size, LEAST_BYTES) for _, _, size in self.sizes)
        return [
            *found,
            f"{len(self.sizes)} models would read at least {size_words(total)} of the published tables; nothing was built.",
            "Models also read tables of other models, and their size cannot be estimated. docs/scale.md states their share.",
        ]


def models_cost(step: Step, models: Sequence[Model], parameters: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Yield each model's name and the bytes that it would read from the published tables.

    Raises UsageError if the warehouse is not in BigQuery.
    """
    from runspend.warehouse.bigquery.step import BigQueryStep

    if not isinstance(step, BigQueryStep):
        raise _costs_nothing()
    yield from step.cost_of(models, parameters)


def question_bytes(settings: Settings, sql: str) -> int:
    """Return the bytes that one query would read. Raises UsageError if the warehouse is not in BigQuery."""
    from runspend.warehouse.bigquery.warehouse import BigQueryWarehouse

    warehouse = open_warehouse(settings)
    if not isinstance(warehouse, BigQueryWarehouse):
        raise _costs_nothing()
    return warehouse.cost_of(sql)


def size_words(size: int) -> str:
    """Return a number of bytes as text, such as "1.5 GiB", with its on-demand price."""
    amount = next(
        (f"{size / 2**power:,.1f} {unit}" for power, unit in ((40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")) if size >= 2**power),
        f"{size} bytes",
    )
    return f"{amount}, {size * USD_PER_TIB / TIB:,.4f} USD on demand"


def _costs_nothing() -> UsageError:
    return UsageError("cannot explain costs: the warehouse is not in BigQuery, so its queries cost nothing. Leave --explain-cost out.")
