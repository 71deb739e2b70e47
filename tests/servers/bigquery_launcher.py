"""The emulator of BigQuery (`bqemulator`), corrected where the product relies on what it does otherwise than BigQuery.

Run by the emulator's own Python, with the repository and its `include` on the path; `bigquery.py` does so. It is an emulator, so
it is bent towards what BigQuery's documentation says and nowhere else; `tests/warehouse/bigquery/test_emulator.py` asks for each of these.

Corrected
* Types. BIGNUMERIC is DECIMAL(38, 22) and NUMERIC DECIMAL(38, 9), in tables by API, DDL, query and load, in results and in
  their description; integers of any width are INT64; REST's names of types (INTEGER, FLOAT) are shown; required columns refuse
  nulls, and lists in tables are never null. Arrow's BIGNUMERIC has 76 digits.
* GoogleSQL. The product's own translation (`runspend.warehouse.dialect`) in place of the emulator's chain of rewritten strings;
  0.5 is FLOAT64; x / 0, div(x, 0) and mod(x, 0) are errors; dates stay DATE; cast(bignumeric as string) has no zeros at its end;
  bignumeric x bignumeric, div and mod of them are exact (`bigquery_decimals.py`); a WITH hides the table of its name outside of
  itself; results without a name are f0_. Refused are two results of one name, an UPDATE or DELETE without WHERE, an unqualified
  table without a default dataset, a value inserted into a column of another type.
* Parameters. In scripts and DDL too, typed, nulls, lists and structs among them.
* Transactions. DuckDB's own, a connection a job: all or nothing, and readers see before or after. An error without a handler, and
  the end of a script without a commit, roll back. A second transaction that updates, deletes or merges a table another one has
  changed fails with BigQuery's words; a single statement waits. DDL within a transaction is refused. Sessions keep a transaction
  over several jobs. `assert` and @@row_count are known.
* Errors. error('text') fails with its text, in scripts as "Query error: text at [line:column]".
* Jobs. The id of a query or an upload is known afterwards with what was asked and how it ended; a second of the same id is a 409.
  A job runs outside of the request: the answer comes when it is done, after five seconds at the latest. Resumable uploads find
  out about the id at their end. Uploads in one request (multipart) are read at all.
* Loads of Parquet. Columns by name; a column too much, another type, a required one missing or a list without list inference is
  an error; all rows or none; WRITE_TRUNCATE and WRITE_EMPTY.
* Datasets and tables. Views by REST; columns added by REST; datasets listed by label, deleted only when empty or with contents;
  expirations are shown; results of queries are tables that tabledata.list and the Storage API read.
* Bytes. A query reads all rows of the columns it names (of every table, if it says *), in BigQuery's sizes; maximum_bytes_billed
  holds, for each statement, with 10 MB a table at least. A dry run says bytes, columns and errors.

Different still
* Bytes know no partitions and no clusters; a name counts in every table that has it. No rights, no quotas, no streaming buffer.
* 16 digits before the point of a stored BIGNUMERIC, where BigQuery has 38; 22 behind it, where it has 38. A decimal that is not
  NUMERIC's (38, 9) is shown as BIGNUMERIC, a product of two NUMERIC too. bignumeric / x and avg(bignumeric) are FLOAT64.
* Implicit casts outside of INSERT: DuckDB compares a string with a number and updates one by the other, BigQuery refuses it.
* Functions are those of DuckDB under GoogleSQL's names, with the faults `runspend.warehouse.dialect.lint` lists.
* Partitions and clusters are kept in the catalogue and change nothing; tables do not expire; no time travel, no temporary tables,
  no legacy SQL, no cancelling; an EXCEPTION block can roll back only. Locations are remembered, not obeyed, but by jobs.get.
* INFORMATION_SCHEMA, wildcard tables and materialized views are left to the emulator as it is, without parameters.
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
    """What BigQuery calls a decimal of DuckDB."""
    return "NUMERIC" if (type_.precision, type_.scale) == (38, 9) else "BIGNUMERIC"


def put_types_right() -> None:
    """BIGNUMERIC is DECIMAL(38, 22) everywhere, and NUMERIC alone is DECIMAL(38, 9)."""
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
    """A dict that one thread may look through while another changes it."""

    def __iter__(self) -> Iterator[Any]:
        return iter(list(self.keys()))

    def items(self) -> Any:
        """As they are now."""
        return list(super().items())

    def values(self) -> Any:
        """As they are now."""
        return list(super().values())


def put_connections_right() -> None:
    """Each statement has a connection, where two on one would take each other's rows; BIGNUMERIC in Arrow is as wide as BigQuery's."""

    def execute(self: DuckDBEngine, sql: str, parameters: list[Any] | None = None) -> Any:
        # rows the emulator registers under a name of its own are seen on its first connection only
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
    SnapshotManager.capture = lambda *_, **__: None  # a copy of every table at every change, for time travel, which no test uses


# --- jobs ---


async def insert_job(project_id: str, request: Request, ctx: _Ctx, caller: _Caller) -> dict[str, Any]:  # type: ignore[valid-type]
    """jobs.insert: a query, load, copy or extract job under its id."""
    body = await request.json()
    return await jobs.submit(ctx, project_id, body.get("jobReference") or {}, body.get("configuration") or {})


async def query(project_id: str, request: Request, ctx: _Ctx, caller: _Caller) -> dict[str, Any]:  # type: ignore[valid-type]
    """jobs.query: a query job that waits for its rows."""
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
    """jobs.getQueryResults: a page of rows, or the job's error, or that it still runs."""
    return await results(ctx, project_id, job_id, maxResults, int(pageToken) if pageToken else startIndex, timeoutMs)


async def results(ctx: Any, project: str, job_id: str, limit: int, offset: int, timeout_ms: int) -> dict[str, Any]:
    """A page of a query's rows once it is done."""
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
    """jobs.get. A job is found in its own location only, if one is named."""
    found = jobs.resource(ctx, project_id, job_id)
    if location and location.lower() != found["jobReference"]["location"].lower():
        raise NotFoundError(f"Not found: Job {project_id}:{location}.{job_id}")
    return found


def put_speed_right() -> None:
    """No metrics, no access log, no ids in logs: they took an eighth of its time in the tests."""
    create = server.create_app

    def create_app(context: Any) -> Any:
        app = create(context)
        app.user_middleware = [
            each for each in app.user_middleware if each.cls not in (MetricsMiddleware, AccessLogMiddleware, CorrelationIdMiddleware)
        ]
        return app

    server.create_app = create_app


def replace_route(router: APIRouter, name: str, endpoint: Any) -> None:
    """Answer a route of the emulator by ourselves."""
    [route] = [r for r in router.routes if r.name == name]
    place = router.routes.index(route)
    router.add_api_route(
        route.path.removeprefix(router.prefix), endpoint, methods=list(route.methods), name=name, status_code=route.status_code
    )
    router.routes[place] = router.routes.pop()


def main() -> None:
    """Put it right and run it: REST port and gRPC port as arguments, 0 for any."""
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
