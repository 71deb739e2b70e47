"""The page of a registered model: its total cost by training, failed attempts, storage and tokens, and its versions.

Each run counts once, even if several versions came from it. `model_runs.sql` defines which runs count.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from runspend.actions.costs.query import NoRate, Selection, in_one_currency
from runspend.actions.explain.figures import RunKey
from runspend.actions.explore.page import render_page
from runspend.actions.explore.view import EARLIEST
from runspend.config.settings import Settings
from runspend.core import amounts
from runspend.core.text import without_person
from runspend.warehouse.base import Reader
from runspend.warehouse.sql_files import read_sql

MOST_RUNS = 50
ROLES = {"made": "made a version", "nested": "nested below it", "failed": "failed attempt"}
PARTS = ("training", "failed attempts", "storage", "tokens")


@dataclass(frozen=True)
class Version:
    """A registered version, and the run that it came from, if MLflow knows it."""

    tracking_server: str
    number: int
    stage: str | None
    aliases: tuple[str, ...]
    created: datetime | None
    run: RunKey | None
    run_name: str | None


@dataclass(frozen=True)
class ModelRun:
    """A run whose cost belongs to the model. `role`: made, nested or failed."""

    role: str
    key: RunKey
    name: str | None
    experiment: str | None
    status: str | None
    cost: Decimal


@dataclass(frozen=True)
class ModelCosts:
    """The cost of the model in one currency by PARTS, and its runs, most expensive first."""

    currency: str
    parts: Mapping[str, Decimal]
    runs: tuple[ModelRun, ...]

    @property
    def total(self) -> Decimal:
        """The total cost."""
        return amounts.add(self.parts.values())


@dataclass(frozen=True)
class Model:
    """A registered model and its costs by currency, which are empty if no charge belongs to it.

    `is_converted`: whether amounts in other currencies are converted at exchange rates.
    """

    name: str
    versions: tuple[Version, ...]
    costs: tuple[ModelCosts, ...]
    is_converted: bool = False


def read_model(reader: Reader, settings: Settings, name: str, *, hides_people: bool = False) -> Model | None:
    """Return the cost of a registered model over all its versions. None if the warehouse has no version of it."""
    versions = reader.query(read_sql(Path(__file__).parent, "model_versions"), {"model": name}).to_pylist()
    if not versions:
        return None
    billed = reader
    with suppress(NoRate):  # without an exchange rate, each currency is shown separately
        reader = in_one_currency(reader, settings, Selection(since=EARLIEST))
    rows = reader.query(read_sql(Path(__file__).parent, "model_runs"), {"model": name}).to_pylist()
    if hides_people:
        rows = [{**row, "experiment_name": without_person(row["experiment_name"])} for row in rows]
    currencies = sorted({row["billing_currency"] for row in rows})
    return Model(
        name,
        tuple(_version(row) for row in versions),
        tuple(_costs(currency, [row for row in rows if row["billing_currency"] == currency]) for currency in currencies),
        reader is not billed,
    )


def _version(row: Mapping[str, Any]) -> Version:
    run = None if row["run_id"] is None else RunKey(row["tracking_server"], row["workspace"], row["run_id"])
    aliases = tuple(json.loads(row["aliases"] or "[]"))
    stage = row["stage"] if row["stage"] not in (None, "None") else None
    return Version(row["tracking_server"], row["model_version"], stage, aliases, row["creation_time"], run, row["run_name"])


def _costs(currency: str, rows: Sequence[Mapping[str, Any]]) -> ModelCosts:
    trained = [row for row in rows if row["role"] != "failed"]
    rest = {id(row): amounts.add([row["effective_cost"], -row["storage_cost"], -row["llm_cost"]]) for row in rows}
    parts = (
        amounts.add(rest[id(row)] for row in trained),
        amounts.add(rest[id(row)] for row in rows if row["role"] == "failed"),
        amounts.add(row["storage_cost"] for row in rows),
        amounts.add(row["llm_cost"] for row in rows),
    )
    runs = tuple(
        ModelRun(
            row["role"],
            RunKey(row["tracking_server"], row["workspace"], row["run_id"]),
            row["run_name"],
            row["experiment_name"],
            row["run_status"],
            row["effective_cost"] or Decimal(0),
        )
        for row in rows
        if row["role"] in ROLES
    )
    return ModelCosts(currency, dict(zip(PARTS, parts, strict=True)), runs)


def model_as_page(model: Model, *, up: str) -> str:
    """Return one self-contained HTML page. `up` is the relative path from its address to the home page."""
    return render_page("model.html.j2", model=model, roles=ROLES, most_runs=MOST_RUNS, places_for=amounts.places_for, up=up)
