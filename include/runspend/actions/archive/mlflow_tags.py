"""Write the archive's results to MLflow: tags for moved and restored artifacts, and the deletion of pruned runs and experiments.

This module chooses the items to report and the wording. `ingest/tracking/mlflow_writer.py` writes to MLflow. Every call can be
repeated. A failed write becomes a note and not an error, because the artifacts and their records do not depend on it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from runspend.actions.archive.archive_records import NOT_TAGGED, TAGGED, Archive, ArchiveRecords
from runspend.actions.archive.items import Item
from runspend.config.settings import Settings
from runspend.core.crash_points import crash_point
from runspend.core.errors import CapPassed
from runspend.core.step_result import Progress, silent
from runspend.ingest.tracking.mlflow_writer import MlflowWriter
from runspend.warehouse.base import Reader
from runspend.warehouse.records import Records


@dataclass(frozen=True)
class Pruned:
    """The outcome for a run or experiment that was due. `state` is pruned, protected or failed; `reason` explains the last two."""

    item: Item
    state: str
    reason: str | None = None


def tag_archived(settings: Settings, records: Records) -> list[str]:
    """Tag owners in MLflow: archived artifacts with their new location, restored ones with the date of the restore.

    Tags that an earlier call wrote are skipped. Failed writes are retried on each call. Returns a note on each item whose write
    failed, but only the first time.
    """
    writers, reasons = _MlflowWriters(settings), list[str | None]()
    for archive in _newest(ArchiveRecords(records).all()):
        if archive.item.owner_kind != "orphan" and records.get(TAGGED, archive.tagged_key) is None:
            reason = writers.of(archive.item, partial(_write_place, archive))
            crash_point("archive.tagged")
            reasons.append(_note_once(records, archive, reason))
    return _counted(reasons)


def tag_restored(settings: Settings, records: Records, owner: str) -> list[str]:
    """Tag a restored run or model in MLflow as restored, and undelete the run if MLflow still has it.

    Returns notes on failed writes. `tag_archived` retries the tags.
    """
    writers, reasons = _MlflowWriters(settings), list[str | None]()
    for archive in _newest(ArchiveRecords(records).all()):
        item = archive.item
        if archive.restored_at is None or owner not in (item.owner_id, item.run_id):
            continue
        if item.run_id is not None:
            reasons.append(writers.of(item, lambda writer, run: writer.restore_run(run)))
        reasons.append(_note_once(records, archive, writers.of(item, partial(_write_place, archive))))
    return _counted(list(dict.fromkeys(reasons)))


def _newest(archives: Sequence[Archive]) -> list[Archive]:
    """Return the newest complete archive of each owner. It determines where the owner's artifacts are."""
    return list(
        {
            (a.item.tracking_server, a.item.workspace, a.item.owner_kind, a.item.owner_id): a
            for a in archives
            if a.state == "archived" and a.item.action == "archive" and a.objects
        }.values()
    )


def _write_place(archive: Archive, writer: MlflowWriter, owner: Item) -> str | None:
    if archive.restored_at is not None:
        return writer.restored(owner, f"restored to its original place on {archive.restored_at[:10]}")
    where = f"{(archive.to or '').rstrip('/')}/{archive.folder} since {(archive.ended_at or archive.planned_at)[:10]}"
    return writer.archived(owner, f"{where}; to bring it back: runspend archive restore {owner.run_id or owner.owner_id}")


def _note_once(records: Records, archive: Archive, reason: str | None) -> str | None:
    """Record the outcome of a write. Return the reason of a failed write the first time, otherwise None."""
    if reason is None:
        records.create(TAGGED, archive.tagged_key, {"owner": archive.item.name})
        return None
    return reason if records.create(NOT_TAGGED, archive.tagged_key, {"owner": archive.item.name, "reason": reason}) else None


def prune(
    items: Sequence[Item],
    settings: Settings,
    *,
    protects: Callable[[Item], str | None],
    active: Mapping[str, int],
    progress: Progress = silent,
) -> list[Pruned]:
    """Soft-delete the runs and experiments that are due, runs first. Return one outcome per item.

    `active` has the number of active runs and experiments per server; `archive.max_percent` is a percentage of it. Raises CapPassed
    before anything is deleted. An item that cannot be deleted does not stop the others.
    """
    due = sorted(
        (item for item in items if item.action == "prune"),
        key=lambda item: (item.owner_kind == "experiment", item.tracking_server, item.prefix),
    )
    _check_caps(due, settings, active)
    writers = _MlflowWriters(settings)
    done = []
    for item in due:
        progress(f"{item.name}: delete in MLflow")
        if (reason := protects(item)) is not None:
            done.append(Pruned(item, "protected", reason))
            continue
        crash_point("archive.before_prune")
        why = f"policy {item.policy}; to bring it back: restore it in MLflow"
        failed = writers.of(
            item,
            lambda writer, owner: (
                writer.prune_run(owner, why)  # noqa: B023 (called at once)
                if owner.owner_kind == "run"
                else writer.prune_experiment(owner.workspace, owner.owner_id)
            ),
        )
        done.append(Pruned(item, "pruned" if failed is None else "failed", failed))
        crash_point("archive.pruned")
    return done


def count_active(reader: Reader) -> dict[str, int]:
    """Return the number of active runs and experiments of each tracking server, as last read."""
    rows = reader.query(
        "select tracking_server, count(*) as held from (select tracking_server from runs where lifecycle_stage = 'active' and purged_at is null"
        " union all select tracking_server from experiments where lifecycle_stage = 'active') as everything group by tracking_server"
    )
    return {row["tracking_server"]: row["held"] for row in rows.to_pylist()}


def _check_caps(due: Sequence[Item], settings: Settings, active: Mapping[str, int]) -> None:
    caps = settings.archive
    for server in sorted({item.tracking_server for item in due}):
        wanted = sum(item.tracking_server == server for item in due)
        allowed = min(caps.max_objects, int(active.get(server, 0) * caps.max_percent))
        if wanted > allowed:
            raise CapPassed(
                f"cannot delete {wanted:,} of the {active.get(server, 0):,} runs and experiments in {server}: `archive.max_percent` and `archive.max_objects` allow"
                f" {allowed:,}. `runspend archive plan` shows what is due. If this is intended, raise the limit. Nothing was deleted.",
                wanted=wanted,
                allowed=allowed,
            )


class _MlflowWriters:
    """One writer per server, opened when first needed."""

    def __init__(self, settings: Settings) -> None:
        self._servers = {server.name: server for server in settings.tracking}
        self._opened: dict[str, MlflowWriter] = {}

    def of(self, item: Item, say: Callable[[MlflowWriter, Item], str | None]) -> str | None:
        name = item.tracking_server
        if name not in self._servers:
            return f"{name}: cannot write to MLflow for {item.name}, because the server is not in runspend.yaml"
        if name not in self._opened:
            self._opened[name] = MlflowWriter(self._servers[name])
        return say(self._opened[name], item)


def _counted(found: Sequence[str | None]) -> list[str]:
    """Return the first three reasons, and a line with the number of the others."""
    reasons = [text for text in found if text is not None]
    return [*reasons[:3], *([f"and {len(reasons) - 3:,} more that MLflow does not show"] if len(reasons) > 3 else [])]
