"""Protection right before a delete: ask MLflow again, and compare its answers with the last extract.

This module reads the data that `ingest/tracking/in_use/server.py` needs from the warehouse. `plan.sql` finds what protects a folder
when the plan is made.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import datetime
from typing import TYPE_CHECKING, Any

from runspend.actions.archive.items import Item
from runspend.config.settings import Settings
from runspend.ingest.tracking.in_use.server import LiveServer
from runspend.ingest.tracking.in_use.snapshot import LastExtract
from runspend.warehouse.base import Reader, Warehouse

if TYPE_CHECKING:
    import pyarrow as pa


OF_SERVER = "tracking_server = @server"


def open_protection(warehouse: Warehouse, settings: Settings, now: datetime) -> Callable[[Item], str | None]:
    """Return a function that returns what protects an item, in words, or None.

    For orphaned artifacts it asks every server. An item of a server that is not configured is protected.
    """
    servers = {server.name: server for server in settings.tracking}
    opened: dict[str, LiveServer | str] = {}

    def open_server(name: str) -> LiveServer | str:
        if name not in servers:
            return f"its tracking server {name} is not in runspend.yaml, so Runspend cannot ask whether it is in use"
        with warehouse.reader() as reader:
            known = read_known(reader, name, now)
        return f"the runs of {name} were never read: run runspend extract" if known is None else LiveServer(servers[name], known, now)

    def protects(item: Item) -> str | None:
        if item.owner_kind == "orphan" and not servers:
            return "no tracking server is configured, so it may still have an owner"
        for name in servers if item.owner_kind == "orphan" else (item.tracking_server,):
            if name not in opened:
                opened[name] = open_server(name)
            server = opened[name]
            reason = server if isinstance(server, str) else server.protects(item)
            if reason is not None:
                return reason
        return None

    return protects


def read_known(reader: Reader, server: str, now: datetime) -> LastExtract | None:
    """Return what the last successful extract read from a server, or None if there was none."""

    def ask(sql: str) -> pa.Table:
        return reader.query(sql, {"server": server} | ({"now": now} if "@now" in sql else {}))

    read = ask("select last_good_at from sources where source = @server and kind = 'tracking' and last_good_at is not null").to_pylist()
    if not read:
        return None
    stages = ask(
        f"select run_id, purged_at is not null as is_purged from runs where {OF_SERVER} and (lifecycle_stage = 'deleted' or purged_at is not null)"
    ).to_pylist()
    deleted = ask(f"select experiment_id from experiments where {OF_SERVER} and lifecycle_stage = 'deleted'")
    still_open = ask(
        f"select workspace, run_id as value from runs where {OF_SERVER} and end_time is null and purged_at is null"
    ).to_pylist()
    newest = ask(
        f"select workspace, run_id, start_time from runs where {OF_SERVER} and purged_at is null and start_time <= @now"
        " qualify row_number() over (partition by workspace order by start_time desc, run_id) = 1"
    ).to_pylist()
    registered = ask(
        f"select workspace, min(run_id) as run_id from model_versions where {OF_SERVER} and run_id is not null group by workspace"
    ).to_pylist()
    loose = ask(
        f"select workspace, concat('registered as ', model_name, '/', cast(model_version as string)) as label, source_uri from model_versions where {OF_SERVER} and run_id is null and source_uri is not null"
    ).to_pylist()
    children = _lookup(
        ask(f"select parent_run_id as key, run_id as value from runs where {OF_SERVER} and parent_run_id is not null and purged_at is null")
    )
    return LastExtract(
        read[0]["last_good_at"],
        deleted_runs=frozenset(row["run_id"] for row in stages if not row["is_purged"]),
        purged_runs=frozenset(row["run_id"] for row in stages if row["is_purged"]),
        deleted_experiments=frozenset(deleted.column("experiment_id").to_pylist()),
        children_of=lambda run_id: children([run_id]),
        users_of=_lookup(ask(f"select model_id as key, run_id as value from model_uses where {OF_SERVER} and direction = 'input'")),
        made_by=_lookup(
            ask(f"select run_id as key, model_id as value from model_uses where {OF_SERVER} and direction in ('source', 'output')")
        ),
        open_runs={workspace: frozenset(row["value"] for row in rows) for workspace, rows in _by_workspace(still_open).items()},
        newest_run={row["workspace"]: (row["run_id"], int(row["start_time"].timestamp() * 1000)) for row in newest},
        registered_run={row["workspace"]: row["run_id"] for row in registered},
        loose_versions={
            workspace: tuple((row["label"], row["source_uri"]) for row in rows) for workspace, rows in _by_workspace(loose).items()
        },
    )


def _by_workspace(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["workspace"], []).append(row)
    return found


def _lookup(pairs: pa.Table) -> Callable[[Collection[str]], frozenset[str]]:
    """Return a function that returns the values of the given keys.

    It searches the columns instead of building a dict, because there may be a million pairs and only a few are needed.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    return lambda keys: frozenset(
        pairs.filter(pc.is_in(pairs["key"], value_set=pa.array(list(keys), pairs["key"].type))).column("value").to_pylist()
    )
