"""Start the BigQuery emulator (`bqemulator`), corrected where the product relies on behavior that differs from BigQuery's.

Its own Python runs this module, with the repository and its `include` on the path; `bigquery.py` starts it. Every correction follows
BigQuery's documentation. `tests/warehouse/bigquery/test_emulator.py` tests each of them.

Corrected
* Types. BIGNUMERIC is DECIMAL(38, 22) and NUMERIC is DECIMAL(38, 9): in tables made by API, DDL, query and load, in results, and in
  descriptions. Integers of any width are INT64. REST's names of types (INTEGER, FLOAT) are shown. Required columns refuse nulls, and
  lists in tables are never null. Arrow's BIGNUMERIC has 76 digits.
* GoogleSQL. The product's own translation (`runspend.warehouse.dialect`) replaces the emulator's chain of string replacements. 0.5 is
  FLOAT64. x / 0, div(x, 0) and mod(x, 0) are errors. Dates stay DATE. cast(bignumeric as string) has no trailing zeros. Products, div and
  mod of two bignumeric values are exact (`bigquery_decimals.py`). A WITH hides the table of its name outside of itself. Unnamed results
  are f0_. Refused are two results of one name, an UPDATE or DELETE without WHERE, an unqualified table without a default dataset, and a
  value inserted into a column of another type.
* Parameters. They are typed and work in scripts and DDL too, including nulls, lists and structs.
* Transactions. They are DuckDB's own, with one connection per job: all or nothing, and readers see the state before or after. An
  unhandled error and the end of a script without a commit roll back. If another transaction has changed a table, a second one that
  updates, deletes or merges it fails with BigQuery's message; a single statement waits. DDL within a transaction is refused. In a
  session, a transaction can span several jobs. `assert` and @@row_count work.
* Errors. error('text') fails with its text, and in scripts with "Query error: text at [line:column]".
* Jobs. A query or an upload can be found by its id, with its configuration and its result. A second one with the same id is a 409. A job
  runs outside of the request: the answer comes when it is done, or after five seconds. A resumable upload checks its id at the end.
  Uploads in one request (multipart) work.
* Loads of Parquet. Columns are matched by name. An extra column, another type, a missing required column, or a list without list
  inference is an error. All rows are loaded or none. WRITE_TRUNCATE and WRITE_EMPTY work.
* Datasets and tables. REST creates views and adds columns. Datasets are listed by label, and deleted only if empty or with their
  contents. Expirations are shown. Results of queries are tables that tabledata.list and the Storage API read.
* Bytes. A query reads all rows of the columns it names (of every table, if it has a *), in BigQuery's sizes. maximum_bytes_billed applies
  to each statement, with at least 10 MB per table. A dry run returns bytes, columns and errors.

Still different
* Bytes ignore partitions and clusters, and a column name counts in every table that has it. There are no permissions, quotas or streaming
  buffer.
* A stored BIGNUMERIC has 16 digits before the point and 22 after it; BigQuery has 38 and 38. A decimal other than NUMERIC's (38, 9) is
  shown as BIGNUMERIC, even the product of two NUMERIC. bignumeric / x and avg(bignumeric) are FLOAT64.
* Implicit casts outside of INSERT: DuckDB compares a string with a number and updates one with the other. BigQuery refuses both.
* Functions are DuckDB's under GoogleSQL's names, with the differences that `tests/sql_lint.py` lists.
* The catalog keeps partitions and clusters, but they have no effect. Tables do not expire. There is no time travel, no temporary table,
  no legacy SQL and no cancellation. An EXCEPTION block can only roll back. Locations are remembered, but only jobs.get uses them.
* The emulator itself answers INFORMATION_SCHEMA, wildcard tables and materialized views, without parameters.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
from bqemulator import server
from bqemulator.api.middleware import AccessLogMiddleware, CorrelationIdMiddleware, MetricsMiddleware
from bqemulator.api.routes import datasets, tabledata, tables
from bqemulator.api.routes import jobs as job_routes
from bqemulator.catalog.memory_repository import MemoryCatalogRepository
from bqemulator.config import Settings
from bqemulator.domain.errors import NotFoundError
from bqemulator.jobs import executor
from bqemulator.server import EmulatorServer, run_forever
from bqemulator.storage import arrow_bridge, type_map
from bqemulator.storage.engine import DuckDBEngine
from bqemulator.versioning.snapshots import SnapshotManager
from fastapi import APIRouter, Query, Request

from tests.servers import bigquery_decimals as decimals
from tests.servers import bigquery_jobs as jobs
from tests.servers import bigquery_resources as resources
from tests.servers import bigquery_uploads as uploads
from tests.servers.bigquery_sql import TEXT_OF

_Ctx, _Caller = job_routes._Ctx, job_routes._Caller


# --- types ---


def decimal_name(type_: pa.DataType) -> str:
    """Return BigQuery's name for a decimal type of DuckDB."""
    return "NUMERIC" if (type_.precision, type_.scale) == (38, 9) else "BIGNUMERIC"


def put_types_right() -> None:
    """Make BIGNUMERIC DECIMAL(38, 22) everywhere, and only NUMERIC DECIMAL(38, 9)."""
    type_map._BQ_TO_DUCKDB |= {"BIGNUMERIC": "DECIMAL(38, 22)", "BIGDECIMAL": "DECIMAL(38, 22)", "DECIMAL": "DECIMAL(38, 9)"}
    known = type_map.duckdb_to_bq

    def duckdb_to_bq(duckdb_type: str) -> str:
        if re.fullmatch(r"DECIMAL\([^)]*\)", duckdb_type.strip(), re.IGNORECASE):
            return "NUMERIC" if type_map._parse_decimal_params(duckdb_type.upper()) == (38, 9) else "BIGNUMERIC"
        return str(known(duckdb_type))

    type_map.duckdb_to_bq = duckdb_to_bq

    executor._ARROW_TO_BQ_RULES = tuple(
        (test, decimal_name if test is pa.types.is_decimal else name) for test, name in executor._ARROW_TO_BQ_RULES
    )
    named = arrow_bridge.arrow_type_to_bq_type_name
    arrow_bridge.arrow_type_to_bq_type_name = lambda type_: decimal_name(type_) if pa.types.is_decimal(type_) else named(type_)
    to_arrow = tabledata._bq_type_to_arrow
    tabledata._bq_type_to_arrow = lambda name: pa.decimal128(38, 22) if name.upper() in ("BIGNUMERIC", "BIGDECIMAL") else to_arrow(name)


# --- one connection a statement ---


class Shared(dict[Any, Any]):
    """A dict that one thread may read while another changes it."""

    def __iter__(self) -> Iterator[Any]:
        return iter(list(self.keys()))

    def items(self) -> Any:
        """Return a copy of the current items."""
        return list(super().items())

    def values(self) -> Any:
        """Return a copy of the current values."""
        return list(super().values())


def put_connections_right() -> None:
    """Give each statement its own connection, and make Arrow's BIGNUMERIC as wide as BigQuery's.

    Two statements on one connection would take each other's rows.
    """

    def execute(self: DuckDBEngine, sql: str, parameters: list[Any] | None = None) -> Any:
        # only the emulator's first connection sees the rows that it registers under its own names
        cursor = self.connection if "_bqemu_" in sql else self.connection.cursor()
        return cursor.execute(sql, parameters) if parameters is not None else cursor.execute(sql)

    def set_zone(self: DuckDBEngine) -> None:
        self.connection.execute("set global TimeZone = 'UTC'")
        self.connection.create_function(decimals.FUNCTION, decimals.compute, ["VARCHAR", "VARCHAR[]"], "VARCHAR", null_handling="special")
        self.connection.execute(
            f"create macro {TEXT_OF}(x) as case when starts_with(typeof(x), 'DECIMAL') and contains(x::varchar, '.') "
            "then rtrim(rtrim(x::varchar, '0'), '.') else x::varchar end"
        )

    fetched = DuckDBEngine.fetch_arrow

    def fetch_arrow(self: DuckDBEngine, sql: str, parameters: list[Any] | None = None) -> pa.Table:
        rows = fetched(self, sql, parameters)
        for index, field in enumerate(rows.schema):
            if pa.types.is_decimal(field.type) and decimal_name(field.type) == "BIGNUMERIC":
                wide = field.with_type(pa.decimal256(76, 38))
                rows = rows.set_column(index, wide, rows.column(index).cast(wide.type))
        return rows

    made = MemoryCatalogRepository.__init__

    def make(self: MemoryCatalogRepository, engine: Any = None) -> None:
        made(self, engine)
        self._datasets, self._tables, self._jobs = Shared(), Shared(), Shared()

    DuckDBEngine.execute, DuckDBEngine.fetch_arrow, MemoryCatalogRepository.__init__ = execute, fetch_arrow, make
    DuckDBEngine._apply_session_pragmas = set_zone
    SnapshotManager.capture = lambda *_, **__: None  # it would copy every table at every change, for time travel


# --- jobs ---


async def insert_job(project_id: str, request: Request, ctx: _Ctx, caller: _Caller) -> dict[str, Any]:  # type: ignore[valid-type]
    """jobs.insert: start a query, load, copy or extract job under its id."""
    body = await request.json()
    return await jobs.submit(ctx, project_id, body.get("jobReference") or {}, body.get("configuration") or {})


async def query(project_id: str, request: Request, ctx: _Ctx, caller: _Caller) -> dict[str, Any]:  # type: ignore[valid-type]
    """jobs.query: run a query job and wait for its rows."""
    body = await request.json()
    names = ("query", "defaultDataset", "queryParameters", "parameterMode", "useLegacySql", "maximumBytesBilled")
    configuration = {
        "query": {name: body[name] for name in names if name in body},
        "labels": body.get("labels") or {},
        "dryRun": bool(body.get("dryRun")),
    }
    made = await jobs.submit(ctx, project_id, {"location": body.get("location")}, configuration)
    if configuration["dryRun"]:
        statistics = made["statistics"]["query"]
        return {
            "jobComplete": True,
            "jobReference": {"projectId": project_id},
            "schema": statistics["schema"],
            "totalRows": "0",
            "totalBytesProcessed": "0",
        }
    return await results(
        ctx, project_id, made["jobReference"]["jobId"], int(body.get("maxResults") or 10000), 0, int(body.get("timeoutMs") or 10000)
    )


async def get_query_results(
    project_id: str,
    job_id: str,
    ctx: _Ctx,  # type: ignore[valid-type]
    maxResults: int = Query(default=10000),
    startIndex: int = Query(default=0),
    pageToken: str | None = Query(default=None),
    timeoutMs: int = Query(default=10000),
) -> dict[str, Any]:
    """jobs.getQueryResults: return a page of rows or the job's error, or state that the job is still running."""
    return await results(ctx, project_id, job_id, maxResults, int(pageToken) if pageToken else startIndex, timeoutMs)


async def results(ctx: Any, project: str, job_id: str, limit: int, offset: int, timeout_ms: int) -> dict[str, Any]:
    """Return a page of a query's rows once the query is done."""
    if task := jobs.RUNNING.get((project, job_id)):
        await asyncio.wait([task], timeout=min(timeout_ms, 10000) / 1000)
    job = jobs.resource(ctx, project, job_id)
    shown = {"kind": "bigquery#getQueryResultsResponse", "jobReference": job["jobReference"], "totalBytesProcessed": "0"}
    if job["status"]["state"] != "DONE":
        return {**shown, "jobComplete": False}
    if error := job["status"].get("errorResult"):
        raise _error_of(error)
    rows = executor.JOB_RESULTS.get(job_id)
    if rows is None:
        raise NotFoundError(f"Not found: results of Job {project}:{job_id}")
    page = job_routes.arrow_table_to_bq_rows(rows, offset=offset, limit=limit)
    shown |= {
        "jobComplete": True,
        "schema": {"fields": executor.JOB_SCHEMAS[job_id]},
        "rows": page,
        "totalRows": str(rows.num_rows),
        "cacheHit": False,
    }
    shown |= {key: value for key, value in job["statistics"].get("query", {}).items() if key in ("numDmlAffectedRows", "statementType")}
    return {**shown, "pageToken": str(offset + limit)} if offset + limit < rows.num_rows else shown


def _error_of(error: dict[str, Any]) -> Exception:
    kinds = {kind.bq_reason: kind for kind in job_routes._SQL_EXECUTION_DOMAIN_ERRORS}
    return kinds.get(error["reason"], job_routes.InvalidQueryError)(error["message"], location=error.get("location"))


def get_job(project_id: str, job_id: str, ctx: _Ctx, location: str | None = Query(default=None)) -> dict[str, Any]:  # type: ignore[valid-type]
    """jobs.get: return a job. If the request names a location, the job must be in it."""
    found = jobs.resource(ctx, project_id, job_id)
    if location and location.lower() != found["jobReference"]["location"].lower():
        raise NotFoundError(f"Not found: Job {project_id}:{location}.{job_id}")
    return found


def put_speed_right() -> None:
    """Switch off metrics, the access log and ids in logs. In the tests, they took an eighth of its time."""
    create = server.create_app

    def create_app(context: Any) -> Any:
        app = create(context)
        app.user_middleware = [
            each for each in app.user_middleware if each.cls not in (MetricsMiddleware, AccessLogMiddleware, CorrelationIdMiddleware)
        ]
        return app

    server.create_app = create_app


def replace_route(router: APIRouter, name: str, endpoint: Any) -> None:
    """Handle a route of the emulator with our own function."""
    [route] = [r for r in router.routes if r.name == name]
    place = router.routes.index(route)
    router.add_api_route(
        route.path.removeprefix(router.prefix), endpoint, methods=list(route.methods), name=name, status_code=route.status_code
    )
    router.routes[place] = router.routes.pop()


def main() -> None:
    """Apply all corrections and run the emulator. The arguments are the REST port and the gRPC port; 0 takes any."""
    put_types_right()
    resources.put_schemas_right()
    put_connections_right()
    uploads.put_uploads_right()
    put_speed_right()
    ours = (
        (job_routes.router, (insert_job, query, get_query_results, get_job)),
        (tables.router, (resources.insert_table, resources.patch_table, resources.delete_table, resources.list_tables)),
        (datasets.router, (resources.list_datasets, resources.delete_dataset)),
    )
    for router, endpoints in ours:
        for endpoint in endpoints:
            replace_route(router, endpoint.__name__, endpoint)
    replace_route(tables.router, "update_table", resources.patch_table)
    started = EmulatorServer.start

    async def start(self: EmulatorServer) -> None:
        await started(self)
        print(f"ports {self.rest_port} {self.grpc_port}", flush=True)

    EmulatorServer.start = start
    rest, grpc = (int(port) for port in sys.argv[1:3])
    run_forever(Settings(rest_port=rest, grpc_port=grpc))


if __name__ == "__main__":
    main()
