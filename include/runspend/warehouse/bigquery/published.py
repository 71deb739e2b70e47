"""Reads what is published in BigQuery: the state of every unit, and the rows of one."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from runspend.core.errors import ConfigError
from runspend.schema.tables import SCHEMA_VERSION, TABLES
from runspend.warehouse.base import Unit, UnitState
from runspend.warehouse.bigquery.jobs import Jobs, NotAllowed, NotThere, Statement
from runspend.warehouse.bigquery.tables import PUBLISHED, Places, column_names, quoted
from runspend.warehouse.bigquery.units import rows_of

READING = {"step": "read"}
PAGE = 50_000  # rows of `published` per request


@dataclass(frozen=True)
class Head:
    """The content of `published` at one moment. `number` counts the publishes so far."""

    number: int
    extra: Mapping[str, Any]
    units: Mapping[Unit, UnitState]
    publish_ids: Mapping[Unit, str]


def read_head(jobs: Jobs, places: Places) -> Head:
    """Return what is published now: one free read of a small table. Refuses a warehouse newer than this version."""
    try:
        with jobs.translate_errors():
            pages = iter(jobs.client.list_rows(places.published, page_size=PAGE).pages)
            rows = [dict(row.items()) for row in next(pages, ())]
            is_more = next(pages, None) is not None
    except NotThere:
        return head_of([], jobs.place)
    except NotAllowed as error:
        if "may not exist" not in str(error) or _is_there(jobs, places):
            raise
        return head_of([], jobs.place)
    if is_more:  # pages may show different times
        rows = jobs.ask(published_rows(places), dataset=places.internal, labels=READING).to_pylist()
    return head_of(rows, jobs.place)


def published_rows(places: Places) -> Statement:
    """Return the query for the state of all units."""
    return Statement(f"select {column_names(PUBLISHED)} from {quoted(places.published)}")


def _is_there(jobs: Jobs, places: Places) -> bool:
    """Whether the project has the dataset, for accounts that may not request it by name before it exists."""
    internal = places.internal.rpartition(".")[2]
    with jobs.translate_errors():
        return any(item.dataset_id == internal for item in jobs.client.list_datasets())


def head_of(rows: Sequence[Mapping[str, Any]], warehouse: str) -> Head:
    """Return the head from the rows of `published`. Raises ConfigError for a warehouse newer than this version."""
    heads = [row for row in rows if not row["table_name"]]
    extra = json.loads(heads[0]["extra"]) if heads else {}
    if extra.get("schema_version", 0) > SCHEMA_VERSION:
        raise ConfigError(
            f"cannot use warehouse {warehouse}: it has schema version {extra['schema_version']}, this runspend knows {SCHEMA_VERSION}. "
            "Install the newer runspend. Nothing was changed."
        )
    known = {Unit(row["table_name"], row["period"], row["writer"]): row for row in rows if row["table_name"] in TABLES}
    return Head(
        number=max((row["row_count"] for row in heads), default=0),
        extra=extra,
        units={unit: UnitState(row["digest"], row["row_count"], row["build_id"], json.loads(row["extra"])) for unit, row in known.items()},
        publish_ids={unit: row["publish_id"] for unit, row in known.items()},
    )


def unit_rows(places: Places, unit: Unit) -> Statement:
    """Return the query for the rows of one unit, in the table's order."""
    table = TABLES[unit.table]
    where, parameters = rows_of(unit)
    order = f" order by {', '.join(table.sort)}" if table.sort else ""
    return Statement(f"select {column_names(table)} from {quoted(places.table(table))} where {where}{order}", parameters)


def fetch_rows(jobs: Jobs, places: Places, unit: Unit, folder: Path, *, session: str | None = None) -> Path:
    """Copy the rows of one unit to a new Parquet file in `folder`, which the caller keeps."""
    own, schema = folder / f"{uuid.uuid4().hex}.parquet", TABLES[unit.table].arrow_schema()
    with pq.ParquetWriter(own, schema, compression="zstd") as file:
        for batch in jobs.stream(unit_rows(places, unit), dataset=places.internal, labels=READING, session=session):
            file.write_table(pa.Table.from_batches([batch]).cast(schema))
    return own
