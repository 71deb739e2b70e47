"""A small MLflow with old runs on it, for tests of what deletes them: `mlflow gc` on one side, Runspend's policies on the other.

Belongs here: how such a place is made and how each side is set to work. What is expected of them belongs to the tests.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from unittest.mock import patch

from runspend import pipeline
from runspend.actions.archive.context import Result, Tools
from runspend.actions.archive.protection import open_protection
from runspend.actions.archive.run import StoreTotals, apply
from runspend.config.settings import Settings
from runspend.warehouse.factory import open_warehouse
from runspend.warehouse.records import Records
from tests.due_items import due_items
from tests.mlflow_store import make_schema
from tests.servers.s3 import S3Server
from tests.settings_builder import smtp_mail

NOW = datetime.now(timezone.utc).replace(microsecond=0)
OLD = NOW - timedelta(days=400)
POLICY = {"name": "old", "select": {"unused_for": "90d"}, "action": "archive", "grace": "7d"}
SMTP_PORT: list[int] = []


def milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


@dataclass
class Place:
    """An MLflow on SQLite with a folder of artifacts, and the settings of a Runspend for it."""

    folder: Path
    bucket: str | None = None
    server: S3Server | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    policy: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        from mlflow import MlflowClient

        self.folder.mkdir(parents=True)
        self.uri = f"sqlite:///{make_schema(self.folder / 'mlflow.db')}"
        self.client: Any = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
        self.art = self.folder / "art"
        self.experiment = self.make_experiment("fraud")
        self.plain = self.run("plain")
        self.young = self.run("young", moment=NOW - timedelta(days=1), size=100_000)  # makes the store large enough

    def make_experiment(self, name: str) -> str:
        location = f"s3://{self.bucket}/{name}" if self.bucket else str(self.art / name)
        return str(self.client.create_experiment(name, artifact_location=location))

    def run(self, name: str, *, experiment: str | None = None, moment: datetime = OLD, size: int = 100) -> str:
        run_id = str(self.client.create_run(experiment or self.experiment, start_time=milliseconds(moment), run_name=name).info.run_id)
        self.client.set_terminated(run_id, end_time=milliseconds(moment))
        self.write(run_id, "model.bin", name.encode() * size, moment)
        return run_id

    def uri_of(self, run_id: str) -> str:
        return str(self.client.get_run(run_id).info.artifact_uri)

    def write(self, run_id: str, name: str, content: bytes, moment: datetime = OLD) -> None:
        uri = self.uri_of(run_id)
        if self.bucket is not None and self.server is not None:
            self.server.client().put_object(Bucket=self.bucket, Key=f"{uri.removeprefix(f's3://{self.bucket}/')}/{name}", Body=content)
            return
        path = Path(uri) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        os.utime(path, (moment.timestamp(), moment.timestamp()))

    def there(self, run_id: str, uri: str, name: str = "model.bin") -> bool:
        if self.bucket is not None and self.server is not None:
            found = self.server.client().list_objects_v2(Bucket=self.bucket, Prefix=f"{uri.removeprefix(f's3://{self.bucket}/')}/{name}")
            return bool(found.get("KeyCount"))
        return (Path(uri) / name).is_file()

    def has_run(self, run_id: str) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            self.client.get_run(run_id)
        except MlflowException:
            return False
        return True

    def sql(self, statement: str, *values: Any) -> None:
        with sqlite3.connect(self.folder / "mlflow.db") as connection:
            connection.execute(statement, values)
        connection.close()

    # --- mlflow gc -------------------------------------------------------------------------------------------------------

    def gc(self, *options: str) -> tuple[int, str]:
        """Run the commands that an operator types after deleting the runs on MLflow's page."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")} | {
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "true",
        }
        environment |= self.server.environment() if self.server else {}
        command = [
            sys.executable,
            "-W",
            "ignore",
            "-m",
            "mlflow",
            "gc",
            "--backend-store-uri",
            self.uri,
            "--tracking-uri",
            self.uri,
            *options,
        ]
        done = subprocess.run(command, env=environment, cwd=self.folder, capture_output=True, text=True, timeout=300)
        return done.returncode, done.stdout + done.stderr

    # --- Runspend --------------------------------------------------------------------------------------------------------

    def given(self) -> Settings:
        store: dict[str, Any] = {"uri": str(self.art), "delete_credentials": "local"}
        cold: dict[str, Any] = {"uri": str(self.folder / "cold")}
        (self.folder / "cold").mkdir(exist_ok=True)
        if self.bucket is not None and self.server is not None:
            store = {
                "uri": f"s3://{self.bucket}",
                "endpoint": self.server.endpoint,
                "region": self.server.region,
                "credentials": "s3",
                "delete_credentials": "s3",
            }
        data = {
            "home": str(self.folder / "home"),
            "tracking": [{"name": "prod", "uri": self.uri}],
            "stores": [store, cold],
            "archive": {"to": cold["uri"], "max_percent": "90%", "margin": "1d"},
            "retention": [POLICY | self.policy],
            "mail": smtp_mail(SMTP_PORT[0], **{"from": "runspend@example.com"}, operators=["ops@example.com"]),
        }
        return Settings.model_validate(data | self.settings)

    def night(self, settings: Settings, now: datetime) -> None:
        pipeline.extract(settings, now=now)
        pipeline.measure(settings, now=now)

    def announce(self, settings: Settings) -> None:
        """Send the notice nine days ago, and check every three days since, so that the seven days of the grace period are over."""
        for days in (9, 6, 3, 0):
            moment = NOW - timedelta(days=days)
            self.night(settings, moment)
            with patch("runspend.pipeline.archive_planning.wall_clock", lambda: moment):  # noqa: B023 (called at once)
                (pipeline.archive_notify if days == 9 else pipeline.archive_plan)(settings, now=moment)

    def act(self, settings: Settings) -> dict[str, Result]:
        """Move what is due now, and return it by owner."""
        warehouse, records = open_warehouse(settings), Records(settings.home)
        with warehouse.reader() as reader:
            items = due_items(reader, records, settings, NOW)
        results = apply(
            items,
            settings,
            records,
            now=NOW,
            protects=open_protection(warehouse, settings, NOW),
            known=lambda store: StoreTotals(10**6, 10**12),
            tools=Tools(workers=1),
        )
        return {result.archive.item.owner_id: result for result in results}

    def archive(self, before_acting: Callable[[], None] = lambda: None) -> dict[str, Result]:
        settings = self.given()
        self.announce(settings)
        before_acting()
        return self.act(settings)

    def is_archived(self, results: dict[str, Result], run_id: str, uri: str) -> bool:
        """Return whether the run was archived completely: its bytes are in the archive, and no longer in their old place."""
        return run_id in results and results[run_id].state == "archived" and not self.there(run_id, uri)
