"""The smallest world for a pipeline run: one MLflow store, written by MLflow's own client, and FOCUS bills of any size.

Two runs use one machine on 2 November 2026, 00:00 to 03:00 and 02:00 to 04:00. The bill has one line per hour of that machine's day.
"""

from __future__ import annotations

import csv
import json
import shutil
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path

from tests.kept import made_once
from tests.mlflow_store import make_schema, run_script

NOW = datetime(2026, 11, 4, 6, tzinfo=timezone.utc)
DAY = datetime(2026, 11, 2, tzinfo=timezone.utc)
MACHINE = "i-0a1b2c3d4e5f60718"
COLUMNS = (
    "BilledCost", "BillingAccountId", "BillingCurrency", "BillingPeriodEnd", "BillingPeriodStart", "ChargeCategory", "ChargePeriodEnd",
    "ChargePeriodStart", "ContractedCost", "EffectiveCost", "ListCost", "ProviderName", "ResourceId", "ServiceCategory", "ServiceName",
)  # fmt: skip
NIGHT_BILLS = {"bill": 24, "other": 12}
OPERATORS, OWNERS = "operators@example.com", "vision@example.com"

STORE = """
import json, sys
from mlflow import MlflowClient
from mlflow.entities import RunTag
uri, root, machine, begin = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
client, hour = MlflowClient(tracking_uri=uri, registry_uri=uri), 3_600_000
experiment = client.create_experiment("vit", artifact_location=root)
for start, end in ((0, 3), (2, 4)):
    run = client.create_run(experiment, start_time=begin + start * hour, tags={"team": "vision", "runspend.resources": json.dumps([{"id": machine}])})
    client.set_terminated(run.info.run_id, end_time=begin + end * hour)
"""


def make_store(folder: Path, day: datetime = DAY) -> None:
    """Write `mlflow.db` and `artifacts/`. Artifact URIs are in `folder`. Run ids are the same in every store."""
    (folder / "artifacts" / "model").mkdir(parents=True)
    (folder / "artifacts" / "model" / "weights").write_bytes(b"x" * 1000)
    made = made_once("tiny-store", _write_store)
    shutil.copyfile(made / "mlflow.db", folder / "mlflow.db")
    with closing(sqlite3.connect(folder / "mlflow.db")) as db, db:
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
            db.execute(f"update {table} set {column} = replace({column}, ?, ?)", (made.as_uri(), folder.as_uri()))
        later = (day - DAY) // timedelta(milliseconds=1)
        db.execute("update runs set start_time = start_time + ?, end_time = end_time + ?", (later, later))


def _write_store(folder: Path) -> None:
    folder.mkdir()
    begin = int(DAY.timestamp() * 1000)
    make_schema(folder / "mlflow.db")
    run_script(STORE, f"sqlite:///{folder / 'mlflow.db'}", (folder / "artifacts").as_uri(), MACHINE, str(begin), cwd=folder)


def make_tiny_world(folder: Path, store: Path, bills: Mapping[str, int] | None = None, *, day: datetime = DAY) -> Path:
    """Write a copy of the store's database, bills ({name: lines}) and `runspend.yaml`. Return the path of `runspend.yaml`."""
    bills = {"bill": 24} if bills is None else bills
    folder.mkdir()
    shutil.copy(store / "mlflow.db", folder)
    for account, (name, lines) in enumerate(bills.items()):
        write_bill(folder / "bills" / name / "part.csv", lines, account=f"{account:012d}", day=day)
    config = {
        "home": "home",
        "warehouse": {"uri": "home/warehouse"},
        "tracking": [{"name": "lab", "uri": "sqlite:///mlflow.db"}],
        "billing": [{"name": name, "uri": f"bills/{name}", "late_after": "400d"} for name in bills],
        "stores": [{"uri": str(store / "artifacts")}],
        "budgets": [{"name": "vision", "for": {"team": "vision"}, "amount": 100, "notify": [OWNERS]}],
        "mail": {"backend": "file", "operators": [OPERATORS]},
    }
    path = folder / "runspend.yaml"
    path.write_text(json.dumps(config), encoding="utf-8")  # JSON is YAML
    return path


def tiny_night() -> Path:
    """Return a folder with a `store` and a tiny `world` of two bills after its first pipeline run. Read-only: copy it to change it."""

    def make(folder: Path) -> None:
        from tests.command import run_here

        make_store(folder / "store")
        config = make_tiny_world(folder / "world", folder / "store", NIGHT_BILLS)
        run_here("nightly", "--config", str(config), "--now", f"{NOW:%Y-%m-%dT%H:%M}")

    return made_once("tiny-night", make)


def write_bill(path: Path, lines: int, *, account: str = "000000000000", day: datetime = DAY) -> None:
    """Write a FOCUS CSV of this many lines.

    In account 000000000000, the first 24 are the machine's hours at 40 each. All other lines cost one cent.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    month = day.replace(day=1)
    next_month = (month + timedelta(days=32)).replace(day=1)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for number in range(lines):
            is_machine = account == "000000000000" and number < 24
            start = day + timedelta(hours=number % 24)
            cost = "40.0000000000" if is_machine else "0.0100000000"
            row = {
                "BillingAccountId": account, "BillingCurrency": "USD", "BillingPeriodStart": as_text(month),
                "BillingPeriodEnd": as_text(next_month), "ChargeCategory": "Usage", "ChargePeriodStart": as_text(start),
                "ChargePeriodEnd": as_text(start + timedelta(hours=1)), "ProviderName": "AWS", "ServiceName": "Amazon EC2",
                "ServiceCategory": "Compute", "ResourceId": MACHINE if is_machine else f"i-{number:017x}",
            }  # fmt: skip
            writer.writerow(row | dict.fromkeys(("BilledCost", "EffectiveCost", "ListCost", "ContractedCost"), cost))


def as_text(moment: datetime) -> str:
    """Return times in FOCUS's format."""
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"
