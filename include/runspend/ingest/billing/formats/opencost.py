"""Reads OpenCost's allocations: how much pods and containers used of a cluster's machines. These are weights that split lines of a bill.

Belongs here: how the three outputs of OpenCost spell their columns. They are the answers of the API (`/allocation`, saved as JSON), the
CSV export and the Parquet exporter. `opencost.sql` computes the weight of an allocation, and `cost_splits.py` splits the lines.

The API rounds to five decimals, so a pod below 0.000005 per step has no weight. The other two outputs do not round. The CSV names neither
the cluster nor the machine, so the setting `lines` of the source must select the lines of the cluster.

Source: OpenCost, "Allocation API", "CSV export"; opencost-parquet-exporter (its default separator).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.resources import files

from runspend.core.sql_quoting import sql_text
from runspend.ingest.billing import cost_splits as splits
from runspend.ingest.billing import format_spec
from runspend.ingest.billing.format_spec import FileKind
from runspend.ingest.billing.manifests import Delivered
from runspend.ingest.billing.staging import Staged, StagedFile
from runspend.ingest.billing.verify import MAX_LINE_BYTES, refused

METHOD = "opencost"
NAMES = re.compile(r"(?i)\.(csv|json|jsonl|ndjson|parquet)(\.gz)?$")
# Column of the view -> its path in an answer of the API, then its spellings in the exports.
PATHS: dict[str, tuple[str, ...]] = {
    "name": ("name",),
    "cluster": ("properties.cluster",),
    "node": ("properties.node",),
    "provider_id": ("properties.providerID",),
    "namespace": ("properties.namespace", "Namespace"),
    "pod": ("properties.pod", "Pod"),
    "labels": ("properties.labels", "Labels"),
    "window_start": ("window.start",),
    "window_end": ("window.end",),
    "run_start": ("start", "running_start_time"),
    "run_end": ("end", "running_end_time"),
    "cpu_cost": ("cpuCost", "CPUCost"),
    "cpu_adjustment": ("cpuCostAdjustment",),
    "gpu_cost": ("gpuCost", "GPUCost"),
    "gpu_adjustment": ("gpuCostAdjustment",),
    "ram_cost": ("ramCost", "RAMCost"),
    "ram_adjustment": ("ramCostAdjustment",),
    "day": ("Date",),
}
LABELS = {"label_columns": ("properties.labels.", "label.", "Label_")}
KINDS = (
    FileKind("opencost", PATHS, ("name", "window_start", "window_end", "cpu_cost", "ram_cost"), None, LABELS, "opencost.sql"),
    FileKind("opencost", PATHS, ("day", "namespace", "pod", "cpu_cost", "ram_cost"), None, LABELS, "opencost.sql"),
)


def matches(header: Sequence[str]) -> bool:
    """Return whether a header is that of the CSV export or the Parquet exporter."""
    return {"CPUCost", "RAMCost", "Pod"} <= set(header) or {"cpuCost", "ramCost", "window.start"} <= set(header)


def opencost_version(header: Sequence[str]) -> str:
    """Return which export wrote a file with this header."""
    return "CSV export" if "Date" in header else "Parquet exporter"


def stage(staged: Staged, delivered: Delivered) -> StagedFile:
    """Stage the weights in one file. Raises SourceRefused for a file of another kind, and if the source is configured as a bill."""
    source, name = delivered.source, delivered.name
    if source.format != "opencost":
        raise refused(
            source.name,
            name,
            "it has OpenCost allocations, which are not a bill. Put it into its own folder, with `format: opencost`",
        )
    if delivered.file.kind == "json":
        return _stage_answers(staged, delivered)
    return format_spec.stage(staged, delivered, KINDS, version=opencost_version)


def _stage_answers(staged: Staged, delivered: Delivered) -> StagedFile:
    """Stage the weights in answers of the API. The file is one JSON document, or has one document per line.

    The field `data` is a list of steps. Each step is an object with the allocations by name.
    """
    import duckdb

    con, source, name = staged.con, delivered.source.name, delivered.name
    columns = ", ".join(
        f"{text_at(value)} as {column}" if column != "name" else "key as name" for column, (value, *_) in PATHS.items() if column != "day"
    )
    try:
        con.execute(
            "create or replace temp table answers as select json from "
            f"read_json_objects({sql_text(str(delivered.file.readable))}, maximum_object_size = {MAX_LINE_BYTES})"
        )
        odd = con.execute(
            "select json_extract_string(json, '$.message') from answers where json_type(json, '$.data') is distinct from 'ARRAY' limit 1"
        ).fetchall()
        if odd:
            [(message,)] = odd
            raise refused(
                source,
                name,
                f"it is not an answer of OpenCost's /allocation, which has a list `data`{f' ({message})' if message else ''}. Save it again",
            )
        con.execute(
            "create or replace temp view opencost as with steps as (select unnest(json_extract(json, '$.data[*]')) as step from answers), "
            "allocations as (select key, value from steps, json_each(step) where json_type(value) = 'OBJECT') "
            f"select {columns}, null as day, null as label_columns, row_number() over () as row_number from allocations"
        )
        query = files("runspend.ingest.billing.formats").joinpath("opencost.sql").read_text(encoding="utf-8")
        skip_reasons = splits.keep_weights(staged, delivered.index, query)
        [(rows,)] = con.execute("select count(*) from opencost").fetchall()
    except (duckdb.OutOfMemoryException, duckdb.InternalException):
        raise  # Runspend's failure, not the file's
    except duckdb.Error as error:
        raise refused(source, name, f"it is not JSON ({str(error).splitlines()[0]}). Save it again") from error
    con.execute("drop view opencost; drop table answers")
    return StagedFile("API", int(rows), is_aside=True, skip_reasons=skip_reasons)


def text_at(path: str) -> str:
    """Return SQL for the text at a path of an allocation. Empty text becomes null."""
    return f"nullif(json_extract_string(value, {sql_text('$.' + path)}), '')"
