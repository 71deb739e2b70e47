"""The price list for training jobs: what an hour of each instance type cost recently, and what runs of each experiment cost.

Training jobs read it with `interfaces/identify/live_costs.py`.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from runspend.actions.costs.runs_like import DAYS, ENOUGH
from runspend.core.amounts import round_money
from runspend.warehouse.base import Reader
from runspend.warehouse.sql_files import read_sql

PRICE_DAYS = 30


def is_price_list(file: Path) -> bool:
    """Whether a file is a price list of any version."""
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and {"version", "as_of", "prices", "experiments"} <= found.keys()


def list_prices(reader: Reader, now: datetime) -> dict[str, Any]:
    """Return the price list as values for JSON. Amounts are strings: the cost of an hour with four decimals, that of a run with two."""
    folder = Path(__file__).parent
    prices = reader.query(read_sql(folder, "hour_prices"), {"since": now - timedelta(days=PRICE_DAYS), "now": now}).to_pylist()
    typical = reader.query(
        read_sql(folder, "typical_costs"), {"since": now - timedelta(days=DAYS), "now": now, "enough": ENOUGH}
    ).to_pylist()
    return {
        "version": 1,
        "as_of": now.isoformat(),
        "prices": [{**row, "hour_cost": f"{row['hour_cost']:.4f}", "machine_hours": round(row["machine_hours"], 2)} for row in prices],
        "experiments": [{**row, "low": f"{round_money(row['low']):f}", "high": f"{round_money(row['high']):f}"} for row in typical],
    }
