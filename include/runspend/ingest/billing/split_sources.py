"""Reads sources of weights, which are not bills but decide how lines of bills are split. The result is `Weights` or a refusal.

Belongs here: which files count, and which rows must not count twice. The format reads a file, and `cost_splits.py` uses the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runspend.config.settings import BillSource
from runspend.core.errors import SourceRefused
from runspend.ingest.billing import cost_splits as splits
from runspend.ingest.billing.cost_splits import OWN, WEIGHT_COLUMNS, Weights
from runspend.ingest.billing.file_sources import open_folder
from runspend.ingest.billing.formats import format_module
from runspend.ingest.billing.manifests import Delivered
from runspend.ingest.billing.staging import Staged
from runspend.ingest.billing.verify import verify_file

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Read:
    """The current content of a source of weights. `skip_reasons`: reason why rows are not weights -> number of rows."""

    weights: Weights
    files: int
    rows: int
    clusters: tuple[str, ...]
    machines: int
    has_idle: bool
    first: datetime | None
    covered_until: datetime | None
    skip_reasons: Mapping[str, int]


def read_weights(source: BillSource, *, workdir: Path, progress: Callable[[str], None], memory: int | None = None) -> Read:
    """Read every file of a source of weights. Raises SourceUnreachable, or SourceRefused if a single file cannot be read.

    If some weights were missing, cost would silently move between pods.
    """
    module = format_module(source.format)
    folder = open_folder(source, workdir, progress)
    entries = [e for e in folder.entries() if module.NAMES.search(e.name)]
    if not entries:
        raise SourceRefused(
            source.name,
            f"cannot read {source.name}: {source.uri} has no OpenCost file (.json, .csv, .parquet). Check billing[].uri.",
        )
    skip_reasons: dict[str, int] = {}
    seen: dict[str, str] = {}
    with Staged(workdir / "engine", memory) as staged:
        for index, entry in enumerate(entries):
            progress(f"{source.name}: reading {entry.name}")
            file = verify_file(
                source.name, entry.name, folder.fetch(entry), stated_bytes=None, unpack_to=workdir / "unpacked" / f"{index:06d}"
            )
            if seen.setdefault(file.sha256, entry.name) != entry.name:
                continue  # a file with the same bytes was read before
            staged_file = module.stage(staged, Delivered(source, entry.name, file, index))
            if odd := next((why for why in staged_file.skip_reasons if why.startswith("unreadable")), None):
                raise SourceRefused(
                    source.name, f"cannot read {entry.name} of {source.name}: {odd}: its time or its cost cannot be read. Export it again."
                )
            for why, count in staged_file.skip_reasons.items():
                skip_reasons[why] = skip_reasons.get(why, 0) + count
        if OWN not in staged.aside:
            raise SourceRefused(
                source.name,
                f"cannot read {source.name}: no file in {source.uri} holds an allocation. Ask OpenCost for a step that is over.",
            )
        order = sorted(range(len(entries)), key=lambda i: (entries[i].modified_at, entries[i].name))
        if older := _keep_newest(staged, order):
            skip_reasons["of a step that a newer file holds"] = older
        _check_machines(staged, source, skip_reasons)
        if pair := _overlap(staged):
            raise SourceRefused(source.name, _overlapping(source.name, *pair))
        return _read(staged, source, module.METHOD, len(seen), skip_reasons)


def _keep_newest(staged: Staged, order: list[int]) -> int:
    """Remove the rows of a cluster's step from all files but the newest that has this step. Return the number of removed rows.

    Files without a common machine belong to different clusters with the same name, so both keep their rows. By default, OpenCost gives
    every cluster the same name.
    """
    con = staged.con
    con.execute(
        "create or replace temp table file_order as select unnest(?)::int as file_index, unnest(range(?)) as place", [order, len(order)]
    )
    [(before,)] = con.execute(f"select count(*) from {OWN}").fetchall()
    con.execute(
        f"create or replace temp table steps as select distinct cluster, step_from, step_to from {OWN}; "
        "create or replace temp table files_of_steps as select cluster, step_from, step_to, file_index, any_value(place) as place, "
        "coalesce(list(distinct resource_key(resource)) filter (resource is not null and resource is distinct from resource_name), []) as machines, "
        "coalesce(list(distinct resource_name) filter (resource_name is not null), []) as names "
        f"from {OWN} join file_order using (file_index) group by cluster, step_from, step_to, file_index; "
        f"delete from {OWN} w using files_of_steps o, files_of_steps n where o.cluster is not distinct from n.cluster and o.step_from = n.step_from "
        "and o.step_to = n.step_to and n.place > o.place and case when len(o.machines) > 0 and len(n.machines) > 0 then list_has_any(o.machines, n.machines) "
        "when len(o.names) > 0 and len(n.names) > 0 then list_has_any(o.names, n.names) else true end "
        "and o.cluster is not distinct from w.cluster and o.step_from = w.step_from and o.step_to = w.step_to and o.file_index = w.file_index"
    )
    [(after,)] = con.execute(f"select count(*) from {OWN}").fetchall()
    return int(before - after)


def _check_machines(staged: Staged, source: BillSource, skip_reasons: dict[str, int]) -> None:
    """Raise SourceRefused if pods do not name a machine and the source has no `lines`. Otherwise their share would count as idle cost.

    Rows of idle cost without a machine are removed and counted in `skip_reasons`.
    """
    if source.lines is not None:
        return
    [(nameless, example, idle)] = staged.con.execute(
        f"select count(*) filter (not is_idle), min(part_name) filter (not is_idle), count(*) filter (is_idle) from {OWN} "
        "where skip_reason is null and resource is null"
    ).fetchall()
    if nameless:
        raise SourceRefused(
            source.name,
            f"cannot read {source.name}: {nameless} allocations do not name a machine, such as {example}. Ask OpenCost without `aggregate`, or by `aggregate=node,pod`; "
            "or select the lines of the cluster's machines in billing[].lines: `lines: {tag.aws:eks:cluster-name: ml}`.",
        )
    if idle:
        skip_reasons["idle of a whole cluster (OpenCost states it for each machine with idleByNode=true)"] = idle
        staged.con.execute(f"delete from {OWN} where skip_reason is null and resource is null")


def _overlap(staged: Staged) -> tuple[Any, ...] | None:
    """Return the times of the first two different steps of a cluster that overlap, or None."""
    found = staged.con.execute(
        "select a.step_from, a.step_to, b.step_from, b.step_to from steps a join steps b on a.cluster is not distinct from b.cluster "
        "and a.step_from < b.step_to and b.step_from < a.step_to and (a.step_from, a.step_to) < (b.step_from, b.step_to) order by all limit 1"
    ).fetchall()
    return next(iter(found), None)


def _overlapping(name: str, *times: datetime) -> str:
    first, second = (f"{a:%Y-%m-%d %H:%M:%S} to {b:%Y-%m-%d %H:%M:%S}" for a, b in (times[:2], times[2:]))
    return (
        f"cannot read {name}: its steps {first} and {second} (UTC) overlap, so that pods would count twice. "
        "Ask OpenCost for whole hours or days (window=2026-10-05T00:00:00Z,2026-10-06T00:00:00Z), or remove one of the files."
    )


def _read(staged: Staged, source: BillSource, method: str, files: int, skip_reasons: Mapping[str, int]) -> Read:
    """Return the remaining weights. Their order does not depend on the order of files or rows."""
    names = ", ".join(WEIGHT_COLUMNS)
    rows: pa.Table = staged.con.sql(f"select {names} from {OWN} where skip_reason is null order by all").to_arrow_table()
    staged.con.register("kept", rows)
    [(machines, has_idle, first, covered_until)] = staged.con.execute(
        "select count(distinct resource), coalesce(bool_or(is_idle), false), min(from_time), max(to_time) from kept"
    ).fetchall()
    clusters = staged.con.execute("select distinct cluster from kept where cluster is not null order by 1").fetchall()
    staged.con.unregister("kept")
    weights = Weights(source.name, method, rows, splits.digest_rows(rows), source.lines, source.idle)
    return Read(weights, files, rows.num_rows, tuple(c for (c,) in clusters), machines, has_idle, first, covered_until, skip_reasons)
