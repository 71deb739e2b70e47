"""An untidy October in a warehouse: three teams and runs without one, two currencies, 22 decimals, credits, and cost that only tags give to a team.

The cost tables are written directly, without a pipeline, so that restating a bill takes no time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

from runspend.config.settings import Settings, load_settings
from runspend.schema.rows import arrow_rows
from runspend.warehouse.factory import open_warehouse

PERIOD, FIRST = "2026-10", date(2026, 10, 1)
NOW = datetime(2027, 2, 20, 6, tzinfo=timezone.utc)
CONFIG: dict[str, Any] = {
    "home": "home",
    "budgets": [
        {"name": "vision", "for": {"team": "vision"}, "amount": 100, "notify": ["leads@acme.com"], "owner": "ana@acme.com"},
        {"name": "everyone", "for": {"team": ["vision", "Speech & Co"]}, "amount": 100, "notify": ["all@acme.com"]},
    ],
    "mail": {"from": "Runspend <runspend@acme.com>", "operators": ["oncall@acme.com"]},
}
# team, experiment, cost center, allocated to, currency, cost
BILL: tuple[tuple[str | None, str | None, str | None, str, str, str], ...] = (
    ("vision", "vit", "CC-7", "run", "USD", "100.0000000000000000000001"),
    ("vision", "resnet", None, "run", "USD", "33.3333333333333333333333"),
    ("vision", "=cmd()", None, "run", "USD", "0.0049999999999999999999"),
    ("Speech & Co", "asr", None, "run", "USD", "66.6666666666666666666667"),
    ("Speech & Co", "asr", None, "run", "EUR", "12.3456789012345678901234"),
    ("credits", "refund", None, "run", "USD", "-7.7700000000000000000001"),
    (None, "scratch", None, "run", "USD", "9.9999999999999999999999"),
    (None, None, None, "idle", "USD", "41.4141414141414141414141"),
    (None, None, None, "idle", "EUR", "1"),
    ("vision", None, None, "idle", "USD", "5.05"),  # line.tag.team
    (None, None, None, "shared", "USD", "-3.3333333333333333333331"),
    (None, None, None, "unallocated", "USD", "17.1717171717171717171717"),
    (None, None, None, "orphan", "USD", "0.12"),
    (None, None, None, "out_of_scope", "USD", "1000.0000000000000000000009"),
    ("vision", None, None, "out_of_scope", "USD", "2"),
    (None, None, None, "shared", "JPY", "500"),  # no team has a direct cost in this currency
)


def make_world(folder: Path, **more: Any) -> Path:
    """Write `runspend.yaml` and a closed October, and return the path of `runspend.yaml`."""
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "runspend.yaml"
    config.write_text(json.dumps({**CONFIG, **more}), encoding="utf-8")  # JSON is YAML
    put_month(load_settings(config))
    return config


def put_month(
    settings: Settings,
    bill: Sequence[tuple[str | None, str | None, str | None, str, str, str]] = BILL,
    *,
    version: int = 1,
    state: str = "closed",
    inputs: Mapping[str, str] | None = None,
) -> None:
    """Replace the month: its cost, and the state and version of its only bill."""
    build = {"bill of aws": f"v{version}", "billing_lines/2026-10/aws": f"v{version}", "runs/2026-10/lab": "r1", **(inputs or {})}
    rows = [
        {
            "source": "aws", "billing_period": FIRST, "charge_date": date(2026, 10, 1 + number), "team": team, "experiment_name": experiment,
            "cost_center": cost_center, "allocated_to": target, "billing_currency": currency, "effective_cost": Decimal(cost),
            "billed_cost": Decimal(cost) * 2, "contracted_cost": Decimal(cost), "list_cost": Decimal(cost), "is_spread": False,
            "cost_status": "final", "build_id": "b",
        }
        for number, (team, experiment, cost_center, target, currency, cost) in enumerate(bill)
    ]  # fmt: skip
    moment = datetime(2026, 11, 5, tzinfo=timezone.utc)
    period = {
        "source": "aws", "billing_period": FIRST, "state": state, "bill_digest": f"v{version}", "is_invoiced": True, "unchanged_since": moment,
        "final_since": moment, "closed_since": moment if state == "closed" else None, "build_id": "b",
    }  # fmt: skip
    zero = dict.fromkeys(("list_cost", "contracted_cost", "effective_cost", "billed_cost"), Decimal(0))
    load = {
        "source": "aws", "billing_period": FIRST, "version": f"v{version}", "billing_currency": "USD", "version_number": version,
        "state": "current", "row_count": len(rows), "files": "[]", "loaded_at": moment, "load_id": "l", **zero,
    }  # fmt: skip
    built = {
        "step": "allocate", "month": FIRST, "build_id": "b", "inputs": json.dumps(build), "outputs": "{}", "now": moment, "built_at": moment,
    }  # fmt: skip
    with open_warehouse(settings).step("load", f"v{version}") as step:
        step.put("cost_daily", PERIOD, "all", arrow_rows("cost_daily", rows))
        step.put("period_states", PERIOD, "all", arrow_rows("period_states", [period]))
        step.put("billing_loads", PERIOD, "aws", arrow_rows("billing_loads", [load]))
        step.put("builds", PERIOD, "allocate", arrow_rows("builds", [built]))
        assert step.publish()


def restated() -> list[tuple[str | None, str | None, str | None, str, str, str]]:
    """Return the bill with a higher cost of `vit`, and with the runs of `Speech & Co` moved to vision."""
    bill = [("vision" if row[0] == "Speech & Co" else row[0], *row[1:]) for row in BILL]
    return [(*row[:5], "110.5") if row[1] == "vit" else row for row in bill]
