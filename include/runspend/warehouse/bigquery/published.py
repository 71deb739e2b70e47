"""Read the state of all published units in BigQuery, and the rows of one unit."""

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
    """The content of the table `published` at one moment. `number` is the number of publishes so far."""

    number: int
    extra: Mapping[str, Any]
    units: Mapping[Unit, UnitState]
    publish_ids: Mapping[Unit, str]


def read_head(jobs: Jobs, places: Places) -> Head:
    """Return the current state of all published units. Lists the rows of a small table, which costs nothing if they fit on one page.

    Raises ConfigError if a newer version of Runspend wrote the warehouse.
    """
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
    if is_more:  # two pages may show two different states of the table, but one query shows one state
        rows = jobs.ask(published_rows(places), dataset=places.internal, labels=READING).to_pylist()
    return head_of(rows, jobs.place)


def published_rows(places: Places) -> Statement:
    """Return the query for the state of all units."""
    return Statement(f"select {column_names(PUBLISHED)} from {quoted(places.published)}")


def _is_there(jobs: Jobs, places: Places) -> bool:
    """Whether the project lists the internal dataset.

    For a dataset that does not exist, BigQuery may answer that the account has no access. The list tells the two cases apart.
    """
    internal = places.internal.rpartition(".")[2]
    with jobs.translate_errors():
        return any(item.dataset_id == internal for item in jobs.client.list_datasets())


def head_of(rows: Sequence[Mapping[str, Any]], warehouse: str) -> Head:
    """Return the head from the rows of `published`. Raises ConfigError if a newer version of Runspend wrote the warehouse."""
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
    """Return the query for the rows of one unit, in the sort order of the table."""
    table = TABLES[unit.table]
    where, parameters = rows_of(unit)
    order = f" order by {', '.join(table.sort)}" if table.sort else ""
    return Statement(f"select {column_names(table)} from {quoted(places.table(table))} where {where}{order}", parameters)


def fetch_rows(jobs: Jobs, places: Places, unit: Unit, folder: Path, *, session: str | None = None) -> Path:
    """Copy the rows of one unit to a new Parquet file in `folder` and return it. The file belongs to the caller."""
    own, schema = folder / f"{uuid.uuid4().hex}.parquet", TABLES[unit.table].arrow_schema()
    with pq.ParquetWriter(own, schema, compression="zstd") as file:
        for batch in jobs.stream(unit_rows(places, unit), dataset=places.internal, labels=READING, session=session):
            file.write_table(pa.Table.from_batches([batch]).cast(schema))
    return own
