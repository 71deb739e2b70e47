"""Load Parquet as BigQuery's documentation describes it: columns by name, types checked, all rows or none.

Part of the tests' BigQuery emulator; its own Python runs this module.

Source: Google Cloud "Loading Parquet data from Cloud Storage".
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from bqemulator.api.routes import tables
from bqemulator.catalog.models import TableFieldSchema, TableMeta, TableSchema
from bqemulator.domain.errors import AlreadyExistsError, InvalidQueryError, NotFoundError, ValidationError
from bqemulator.jobs.executor import _resolve_uri, _validate_local_path

from tests.servers import bigquery_catalog as catalog
from tests.servers.bigquery_session import Session
from tests.servers.bigquery_sql import Name, Place, quote

# The other types to which a column of the file may be converted.
ALSO = {"NUMERIC": {"BIGNUMERIC"}, "BIGNUMERIC": {"NUMERIC"}, "STRING": {"JSON"}, "INTEGER": set(), "DATE": set()}


def load_parquet(ctx: Any, project: str, load: dict[str, Any]) -> int:
    """Append the files' rows to the table, or replace its rows. Return the number of rows read."""
    stated = load["destinationTable"]
    name = Name(stated.get("projectId") or project, stated["datasetId"], stated["tableId"])
    catalog.require_dataset(ctx, name)
    files = [_resolve_uri(uri, ctx) for uri in load.get("sourceUris", [])]
    for file in files:
        _validate_local_path(file)
    meta = ctx.catalog.get_table(name.project, name.dataset, name.table)
    disposition = load.get("writeDisposition") or "WRITE_APPEND"
    if meta is None and load.get("createDisposition") == "CREATE_NEVER":
        raise NotFoundError(f"Not found: Table {name}")
    if disposition == "WRITE_EMPTY" and meta is not None and meta.num_rows:
        raise AlreadyExistsError(f"Already Exists: Table {name}")
    try:
        found = [_fields_of(pq.read_schema(file), load) for file in files]
    except (pa.ArrowException, OSError) as error:
        raise ValidationError(f"Error while reading data, error message: {error}") from error
    fields = tuple(tables._parse_schema_fields((load.get("schema") or {}).get("fields") or [])) or (
        meta.schema_.fields if meta and disposition != "WRITE_TRUNCATE" else found[0]
    )
    for columns in found:
        _check(name, fields, columns)
    return _write(ctx, name, meta, TableSchema(fields=fields), files, load, is_new=meta is None or disposition == "WRITE_TRUNCATE")


def _write(
    ctx: Any, name: Name, meta: TableMeta | None, schema: TableSchema, files: list[str], load: dict[str, Any], *, is_new: bool
) -> int:
    session, rows = Session(ctx, Place(name.project), []), 0
    with session.errors(f"load {name}"):
        try:
            session.control("BEGIN")
            if is_new:
                session.cursor.execute(f"create or replace table {name.quoted} ({column_definitions(schema)})")
            for file in files:
                there = {column.lower() for column in pq.read_schema(file).names}
                loaded = [field for field in schema.fields if field.name.lower() in there]
                names = ", ".join(quote(field.name) for field in loaded)
                values = ", ".join(
                    f"coalesce({quote(field.name)}, [])" if field.mode == "REPEATED" else quote(field.name) for field in loaded
                )
                found = session.cursor.execute(
                    f"insert into {name.quoted} ({names}) select {values} from read_parquet(?)", [file]
                ).fetchone()
                rows += int(found[0]) if found else 0
            session.control("COMMIT")
        finally:
            session.rollback()
    if is_new:
        kept = {} if meta is None else {"description": meta.description, "labels": meta.labels}
        layout = {
            "time_partitioning": tables._rest_to_time_partitioning(load.get("timePartitioning"), meta),
            "clustering": tables._rest_to_clustering(load.get("clustering"), meta),
        }
        catalog.remember(ctx, name, **{"schema": schema, **kept, **layout})
    else:
        catalog.count_rows(ctx, name)
    return rows


def column_definitions(schema: TableSchema) -> str:
    """Return columns for DuckDB's CREATE TABLE. Required columns refuse nulls."""
    types = tables.bq_schema_to_duckdb_columns([tables._field_to_rest(field) for field in schema.fields])
    return ", ".join(f"{quote(name)} {type_}" for name, type_ in types)


def _check(name: Name, fields: tuple[TableFieldSchema, ...], columns: tuple[TableFieldSchema, ...]) -> None:
    wanted = {field.name.lower(): field for field in fields}
    for column in columns:
        field = wanted.pop(column.name.lower(), None)
        if field is None:
            raise _refusal(name, f"Cannot add fields (field: {column.name})")
        if (field.mode == "REPEATED") != (column.mode == "REPEATED"):
            raise _refusal(name, f"Field {field.name} has changed mode from {field.mode} to {column.mode}")
        kind, other = field.type, column.type
        if kind != other and kind not in ALSO.get(other, set()):
            raise _refusal(name, f"Field {field.name} has changed type from {kind} to {other}")
    for field in wanted.values():
        if field.mode == "REQUIRED":
            raise _refusal(name, f"Field {field.name} is missing in new schema")


def _refusal(name: Name, why: str) -> InvalidQueryError:
    error = ValidationError(f"Provided Schema does not match Table {name}. {why}")
    return InvalidQueryError(error.message)


def _fields_of(schema: pa.Schema, load: dict[str, Any]) -> tuple[TableFieldSchema, ...]:
    infers_lists = bool((load.get("parquetOptions") or {}).get("enableListInference"))
    return tuple(_field(field, infers_lists, load) for field in schema)


def _field(field: pa.Field, infers_lists: bool, load: dict[str, Any]) -> TableFieldSchema:
    type_, mode = field.type, "NULLABLE"
    if pa.types.is_list(type_) or pa.types.is_large_list(type_):
        if not infers_lists:
            return TableFieldSchema(
                name=field.name, type="RECORD", mode="NULLABLE", fields=(TableFieldSchema(name="list", type="RECORD", mode="REPEATED"),)
            )
        type_, mode = type_.value_type, "REPEATED"
    if pa.types.is_struct(type_):
        inner = tuple(_field(type_.field(i), infers_lists, load) for i in range(type_.num_fields))
        return TableFieldSchema(name=field.name, type="RECORD", mode=mode, fields=inner)
    return TableFieldSchema(name=field.name, type=_type_name(type_, field.name, load), mode=mode)


def _type_name(type_: pa.DataType, name: str, load: dict[str, Any]) -> str:
    if pa.types.is_decimal(type_):
        if type_.scale <= 9 and type_.precision - type_.scale <= 29:
            return "NUMERIC"
        return "BIGNUMERIC"
    if pa.types.is_timestamp(type_):
        return "TIMESTAMP" if type_.tz else "DATETIME"
    for is_kind, kind in (
        (pa.types.is_integer, "INTEGER"),
        (pa.types.is_floating, "FLOAT"),
        (pa.types.is_boolean, "BOOLEAN"),
        (pa.types.is_date, "DATE"),
        (pa.types.is_time, "TIME"),
        (lambda t: pa.types.is_string(t) or pa.types.is_large_string(t) or pa.types.is_dictionary(t), "STRING"),
        (lambda t: pa.types.is_binary(t) or pa.types.is_large_binary(t) or pa.types.is_fixed_size_binary(t), "BYTES"),
    ):
        if is_kind(type_):
            return kind
    raise InvalidQueryError(f"Error while reading data, error message: column {name} is of a type BigQuery has not: {type_}")
