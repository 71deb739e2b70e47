"""The Python function `runspend.forecast`: the cost of similar past runs, for a notebook or a program that starts runs."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from runspend.actions.costs.runs_like import as_json, find_runs_like
from runspend.config.settings import load_settings
from runspend.warehouse.factory import open_warehouse


def forecast_costs(
    experiment: str, params: Mapping[str, object] | None, config: str | Path | None, now: datetime | None
) -> list[dict[str, Any]]:
    """Return one dict per server, currency and outcome, as `runspend forecast --json` prints. Raises RunspendError if it cannot."""
    wanted = {key: str(value) for key, value in (params or {}).items()}
    with open_warehouse(load_settings(None if config is None else Path(config))).reader() as reader:
        return as_json(find_runs_like(reader, experiment, wanted, now or datetime.now(timezone.utc)))
