"""Datasets and tables over REST, where the emulator's answers differ from BigQuery's.

Part of the tests' BigQuery emulator; its own Python runs this module.
"""

from __future__ import annotations

from typing import Any

from bqemulator.api.routes import datasets, tables
from bqemulator.domain.errors import ResourceInUseError, ResourceRef
from bqemulator.storage.type_map import bq_schema_to_duckdb_columns
from fastapi import Query, Request, Response

from tests.servers import bigquery_catalog as catalog
from tests.servers.bigquery_session import Session
from tests.servers.bigquery_sql import Name, Place, quote

_Ctx = tables._Ctx
SHOWN = {"INT64": "INTEGER", "FLOAT64": "FLOAT", "BOOL": "BOOLEAN", "STRUCT": "RECORD", "BIGDECIMAL": "BIGNUMERIC", "DECIMAL": "NUMERIC"}
MODES = {"REQUIRED": " not null", "REPEATED": " default []"}  # tables of BigQuery have no null lists


def put_schemas_right() -> None:
    """Show schemas with REST's names of types, even if they were written with other names. Required columns refuse nulls."""
    read, show = tables._parse_schema_fields, tables._table_to_rest

    def parse_schema_fields(fields: list[dict[str, Any]]) -> Any:
        return read(
            [{**field, "type": SHOWN.get(field.get("type", "STRING").upper(), field.get("type", "STRING").upper())} for field in fields]
        )

    def columns(fields: list[dict[str, Any]]) -> list[tuple[str, str]]:
        typed = zip(bq_schema_to_duckdb_columns(fields), fields, strict=True)
        return [(name, type_ + MODES.get(field.get("mode") or "", "")) for (name, type_), field in typed]

    def table_to_rest(meta: Any) -> dict[str, Any]:
        shown = dict(show(meta))
        expires = catalog.EXPIRES.get(Name(meta.project_id, meta.dataset_id, meta.table_id))
        shown |= {"expirationTime": str(expires)} if expires else {}
        shown |= {"view": {"query": meta.view_query, "useLegacySql": False}} if meta.view_query else {}
        return shown

    def words(self: ResourceRef) -> str:
        names = ".".join(part for part in (self.dataset_id, self.resource_id) if part)
        return f"{self.kind.capitalize()} {self.project_id}:{names}"

    tables._parse_schema_fields, tables.bq_schema_to_duckdb_columns, tables._table_to_rest = parse_schema_fields, columns, table_to_rest
    ResourceRef.format = words


async def insert_table(project_id: str, dataset_id: str, request: Request, ctx: _Ctx) -> dict[str, Any]:  # type: ignore[valid-type]
    """tables.insert: create a table or a view."""
    body = await request.json()
    name = Name(project_id, dataset_id, body["tableReference"]["tableId"])
    catalog.require_dataset(ctx, name)
    if "view" in body:
        session = Session(ctx, Place(project_id), [])
        session.run(f"create view `{project_id}.{dataset_id}.{name.table}` as {body['view']['query']}")
        held = catalog.require_table(ctx, name)
        ctx.catalog.update_table(held.model_copy(update={"labels": body.get("labels") or {}, "description": body.get("description")}))
    else:
        await tables.insert_table(project_id, dataset_id, request, ctx)
        catalog.set_expiration(ctx, name, body.get("expirationTime"))
    return dict(tables._table_to_rest(catalog.require_table(ctx, name)))


async def patch_table(project_id: str, dataset_id: str, table_id: str, request: Request, ctx: _Ctx) -> dict[str, Any]:  # type: ignore[valid-type]
    """tables.patch and tables.update: add the columns that are new in the schema."""
    body, name = await request.json(), Name(project_id, dataset_id, table_id)
    there = (
        {column.lower() for column, _, _ in catalog.columns_of(ctx, name)}
        if ctx.catalog.get_table(project_id, dataset_id, table_id)
        else set()
    )
    await tables.patch_table(project_id, dataset_id, table_id, request, ctx)
    fields = (body.get("schema") or {}).get("fields") or []
    for column, type_ in bq_schema_to_duckdb_columns(fields):
        if column.lower() not in there:
            ctx.engine.execute(
                f"alter table {name.quoted} add column {quote(column)} {type_}{' default []' if type_.endswith('[]') else ''}"
            )
    if "expirationTime" in body:
        catalog.set_expiration(ctx, name, body["expirationTime"])
    return dict(tables._table_to_rest(catalog.require_table(ctx, name)))


async def delete_table(project_id: str, dataset_id: str, table_id: str, ctx: _Ctx) -> Response:  # type: ignore[valid-type]
    """tables.delete: delete a table or a view."""
    name = Name(project_id, dataset_id, table_id)
    kind = catalog.require_table(ctx, name).table_type
    ctx.engine.execute(f"drop {'view' if kind == 'VIEW' else 'table'} {name.quoted}")
    ctx.catalog.delete_table(project_id, dataset_id, table_id)
    return Response(status_code=204)


def list_datasets(
    project_id: str,
    ctx: _Ctx,  # type: ignore[valid-type]
    filter: str = Query(default=""),
    maxResults: int = Query(default=1000),
    pageToken: str = Query(default="0"),
) -> dict[str, Any]:
    """datasets.list: list datasets. A filter is labels.key or labels.key:value; a dataset must match all of several filters."""
    wanted = [part.removeprefix("labels.").partition(":") for part in filter.split()]
    found = [
        ds
        for ds in ctx.catalog.list_datasets(project_id)
        if all(key in ds.labels and (not colon or ds.labels[key] == value) for key, colon, value in wanted)
    ]
    first = int(pageToken)
    shown = {"kind": "bigquery#datasetList", "datasets": [datasets._dataset_to_rest(ds) for ds in found[first : first + maxResults]]}
    return shown | ({"nextPageToken": str(first + maxResults)} if first + maxResults < len(found) else {})


def list_tables(
    project_id: str,
    dataset_id: str,
    ctx: _Ctx,  # type: ignore[valid-type]
    maxResults: int = Query(default=1000),
    pageToken: str = Query(default="0"),
) -> dict[str, Any]:
    """tables.list: list tables."""
    catalog.require_dataset(ctx, Name(project_id, dataset_id, ""))
    found, first = ctx.catalog.list_tables(project_id, dataset_id), int(pageToken)
    shown = {
        "kind": "bigquery#tableList",
        "tables": [tables._table_to_list_item(t) for t in found[first : first + maxResults]],
        "totalItems": len(found),
    }
    return shown | ({"nextPageToken": str(first + maxResults)} if first + maxResults < len(found) else {})


async def delete_dataset(project_id: str, dataset_id: str, ctx: _Ctx, deleteContents: bool = Query(default=False)) -> Response:  # type: ignore[valid-type]
    """datasets.delete: delete a dataset, and its contents only if the request asks for that."""
    catalog.require_dataset(ctx, Name(project_id, dataset_id, ""))
    if ctx.catalog.list_tables(project_id, dataset_id) and not deleteContents:
        raise ResourceInUseError(f"Dataset {project_id}:{dataset_id} is still in use")
    ctx.engine.execute(f'drop schema if exists "{project_id}__{dataset_id}" cascade')
    ctx.catalog.delete_dataset(project_id, dataset_id, delete_contents=True)
    return Response(status_code=204)
