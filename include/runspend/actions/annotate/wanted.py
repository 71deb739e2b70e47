"""Read from the warehouse the costs that MLflow should show, as flat tables that can be compared with joins.

Costs have four decimals, because short runs cost less than a cent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from runspend.core.amounts import round_money
from runspend.core.cost_keys import AS_OF, cost_key
from runspend.warehouse.base import Reader
from runspend.warehouse.sql_files import read_sql

STATES = ("final", "provisional", "estimated")
PLACES = 4
# One row per run and currency. `site` is the address that the run's note links to, or empty. For `state` and `match`, see
# `run_costs_shown.sql`.
RUN_COSTS = pa.schema(
    [
        ("workspace", pa.string()),
        ("experiment_id", pa.string()),
        ("run_id", pa.string()),
        ("currency", pa.string()),
        ("cost", pa.decimal128(38, PLACES)),
        ("state", pa.int64()),
        ("match", pa.int64()),
        ("site", pa.string()),
    ]
)


@dataclass(frozen=True)
class OwnerCosts:
    """The cost tags of an experiment or a model version. `names` is (experiment id,) or (model name, version)."""

    workspace: str
    names: tuple[str, ...]
    tags: Mapping[str, str]


def wanted_runs(reader: Reader, server: str, site: str) -> pa.Table:
    """Return the costs of active runs as RUN_COSTS."""
    found = reader.query(read_sql(Path(__file__).parent, "run_costs_shown"), {"server": server})
    cost = pc.round(found["cost"], PLACES, "half_towards_infinity").cast(pa.decimal128(38, PLACES))  # as `round_money`
    found = found.set_column(found.schema.get_field_index("cost"), "cost", cost).append_column("site", pa.repeat(site, found.num_rows))
    return found.select(RUN_COSTS.names).cast(RUN_COSTS)


def wanted_experiments(reader: Reader, server: str, now: datetime) -> list[OwnerCosts]:
    """Return the total cost and the cost of the month to date of each active experiment, as tags."""
    rows = reader.query(read_sql(Path(__file__).parent, "experiment_costs_shown"), {"server": server, "now": now}).to_pylist()
    found: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows:
        tags = found.setdefault((row["workspace"], row["experiment_id"]), {})
        tags |= _amounts(row["currency"], {part: row[part] for part in ("total", "month_to_date")})
    return [OwnerCosts(workspace, (experiment,), tags) for (workspace, experiment), tags in found.items()]


def wanted_models(reader: Reader, server: str) -> list[OwnerCosts]:
    """Return the cost of training, failed attempts and storage of each registered model version, as tags."""
    rows = reader.query(read_sql(Path(__file__).parent, "model_costs_shown"), {"server": server}).to_pylist()
    found: dict[tuple[str, str, str], dict[str, str]] = {}
    for row in rows:
        tags = found.setdefault((row["workspace"], row["model_name"], row["model_version"]), {})
        tags |= _amounts(row["currency"], {part: row[part] for part in ("training", "failed_attempts", "storage")})
    return [OwnerCosts(workspace, names, tags) for (workspace, *names_), tags in found.items() for names in [tuple(names_)]]


def are_versions_read(reader: Reader, server: str) -> bool:
    """Return whether Runspend has read the server's registered model versions. It reads them only if a step needs them."""
    return bool(reader.query(read_sql(Path(__file__).parent, "versions_read"), {"server": server}).to_pylist()[0]["is_read"])


def as_of_text(now: datetime) -> dict[str, str]:
    """Return the tag with the UTC time of the annotation."""
    return {AS_OF: f"{now:%Y-%m-%dT%H:%MZ}"}


def _amounts(currency: str, parts: Mapping[str, Decimal]) -> dict[str, str]:
    return {cost_key(currency, part): f"{round_money(amount, PLACES) + 0:f}" for part, amount in parts.items()}
