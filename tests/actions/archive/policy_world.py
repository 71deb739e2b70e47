"""Rows and settings for the tests of retention policies: runs, folders, registry and reads, on one server and one bucket."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

from runspend.actions.archive.plan import plan_items
from runspend.config.settings import Settings
from runspend.schema.tables import TABLES
from runspend.warehouse.base import Reader
from tests.actions.alert.alert_world import NOW, UTC, in_memory, run
from tests.settings_builder import make_settings

__all__ = [
    "AGED",
    "NOW",
    "OLD",
    "UTC",
    "experiment",
    "given_settings",
    "model",
    "planned",
    "reads",
    "run",
    "sources",
    "stored",
    "use",
    "version",
    "warehouse",
]

OLD = datetime(2026, 3, 1, 8, tzinfo=UTC)
AGED = {"start_time": OLD, "end_time": OLD + timedelta(hours=2)}
SERVER = {"name": "prod", "uri": "http://mlflow", "artifacts": "s3://ml", "copy": {"tags": ["team"]}}
STORES = [{"uri": "s3://ml"}, {"uri": "s3://cold"}, {"uri": "/srv/files"}]
POLICY = {"name": "cold", "select": {"unused_for": "90d"}, "action": "archive"}
KEY = {"tracking_server": "prod", "workspace": "default"}


@contextmanager
def warehouse(root: Path, **tables: Sequence[Mapping[str, Any]]) -> Iterator[Reader]:
    """Return a reader over only these rows."""
    yield in_memory(**tables)


def given_settings(home: Path, *policies: Mapping[str, Any], **more: Any) -> Settings:
    """Return settings with these policies. By default, they archive data unused for 90 days to s3://cold."""
    given: dict[str, Any] = {
        "retention": [{**POLICY, **policy} for policy in policies],
        "tracking": [SERVER],
        "stores": STORES,
        "archive": {"to": "s3://cold"},
    }
    return make_settings(home, **(given | more))


def stored(owner_id: str, size: int | None = 1000, **more: Any) -> dict[str, Any]:
    """Return one row of artifact_bytes."""
    return {
        "month": date(2026, 11, 1), "store": "s3://ml", "owner_kind": "run", "owner_id": owner_id, **KEY, "experiment_id": "12", "prefix": f"12/{owner_id}/artifacts",
        "storage_class": "STANDARD", "valid_from": datetime(2026, 11, 1, tzinfo=UTC), "valid_to": None, "objects": None if size is None else 3, "bytes": size,
        "oldest_at": OLD, "newest_at": OLD, "is_complete": size is not None,
    } | more  # fmt: skip


def model(model_id: str, size: int = 1000, **more: Any) -> dict[str, Any]:
    """Return the row of a logged model's folder."""
    return stored(model_id, size, owner_kind="logged_model", prefix=f"12/models/{model_id}/artifacts", **more)


def use(run_id: str, model_id: str, direction: str = "output", step: int | None = 0, **more: Any) -> dict[str, Any]:
    """Return one row of model_uses."""
    return {
        **KEY,
        "run_id": run_id,
        "start_month": date(2026, 3, 1),
        "model_id": model_id,
        "direction": direction,
        "step": step if direction == "output" else None,
    } | more


def version(name: str, number: int, **more: Any) -> dict[str, Any]:
    """Return one row of model_versions."""
    return {**KEY, "model_name": name, "model_version": number, "stage": "None", "aliases": "[]", "version_status": "READY"} | more


def experiment(**more: Any) -> dict[str, Any]:
    """Return one row of experiments."""
    return {**KEY, "experiment_id": "12", "experiment_name": "resnet-sweep", "lifecycle_stage": "active", "tags": "{}"} | more


def reads(**more: Any) -> list[dict[str, Any]]:
    """Return rows of tracking_reads: Runspend could read everything that may protect."""
    return [{**KEY, "kind": kind, "state": "ok"} | more for kind in ("model_versions", "model_uses", "run_metrics")]


def sources(at: datetime = NOW) -> list[dict[str, Any]]:
    """Return rows of sources: Runspend has just read the server and the bucket."""
    return [
        {"source": name, "kind": kind, "state": "ok", "last_good_at": at} for kind, name in (("tracking", "prod"), ("store", "s3://ml"))
    ]


def planned(root: Path, given: Settings, **tables: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the plan's rows over these tables."""
    with warehouse(
        root / f"w{len(list(root.glob('w*')))}", **{"experiments": [experiment()], "tracking_reads": reads(), **tables}
    ) as reader:
        plan = plan_items(reader, given, NOW)
    assert plan.schema == TABLES["archive_plan"].arrow_schema()
    return plan.to_pylist()
