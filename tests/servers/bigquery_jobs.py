"""Jobs: queries and loads with their own ids. A job runs once, and clients can ask for it afterwards.

Part of the tests' BigQuery emulator; its own Python runs this module. `bigquery_launcher.py` has their HTTP requests and answers.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pyarrow as pa
from bqemulator.api.routes.jobs import _build_job_response, _domain_error_to_error_result
from bqemulator.catalog.etag import generate_etag
from bqemulator.catalog.models import JobMeta
from bqemulator.domain.errors import (
    AlreadyExistsError,
    DomainError,
    InvalidQueryError,
    NotFoundError,
    UnsupportedFeatureError,
    ValidationError,
)
from bqemulator.jobs.executor import (
    JOB_RESULTS,
    JOB_SCHEMAS,
    _build_query_statistics,
    build_response_schema,
    execute_copy_job,
    execute_extract_job,
    execute_load_job,
)
from sqlglot import exp

from tests.servers import bigquery_catalog as catalog
from tests.servers.bigquery_checks import check_bytes, check_insert
from tests.servers.bigquery_load import load_parquet
from tests.servers.bigquery_script import Script, is_script, statement_type
from tests.servers.bigquery_session import EMPTY, Session
from tests.servers.bigquery_sql import DDL, DML, Name, Place, Refused, bind, duckdb_text, narrow_type, parse, prepare, target_of

WORKERS = ThreadPoolExecutor(32, thread_name_prefix="job")
PATIENCE = 5.0  # the answer to jobs.insert waits this many seconds for the job
CHANGED = ("INSERT", "UPDATE", "DELETE", "MERGE", "TRUNCATE_TABLE")
ABORT = re.compile(r"\s*call\s+bq\.abort_session\(\s*(?:'(\w+)')?\s*\)\s*;?\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Job:
    """A job that was accepted."""

    ctx: Any
    project: str
    id: str
    location: str
    configuration: dict[str, Any]


SESSIONS: dict[str, Session] = {}
RUNNING: dict[tuple[str, str], asyncio.Task[None]] = {}
LOCATIONS: dict[tuple[str, str], str] = {}


async def submit(ctx: Any, project: str, reference: dict[str, Any], configuration: dict[str, Any]) -> dict[str, Any]:
    """Accept a job and start it. Return the job; a quick one is already done. An id that was used before is refused."""
    job_id = reference.get("jobId") or f"bqemu_{uuid4().hex[:12]}"
    job = Job(ctx, project, job_id, reference.get("location") or _location(ctx, project, configuration), configuration)
    work = _work(job)
    if configuration.get("dryRun"):
        done = await asyncio.get_running_loop().run_in_executor(WORKERS, dry_run, job)
        return _build_job_response(project, job_id, done, configuration)
    if ctx.catalog.get_job(project, job_id) is not None:
        raise AlreadyExistsError(f"Already Exists: Job {project}:{job.location}.{job_id}")
    LOCATIONS[project, job_id] = job.location
    ctx.catalog.upsert_job(_meta(job, "RUNNING", {}))
    RUNNING[project, job_id] = task = asyncio.create_task(_run(job, work))
    await asyncio.wait([task], timeout=PATIENCE)
    return resource(ctx, project, job_id)


def resource(ctx: Any, project: str, job_id: str) -> dict[str, Any]:
    """Return a job in the form of jobs.get."""
    meta = ctx.catalog.get_job(project, job_id)
    if meta is None:
        raise NotFoundError(f"Not found: Job {project}:{job_id}")
    shown: dict[str, Any] = _build_job_response(project, job_id, meta, meta.configuration)
    shown["jobReference"]["location"] = LOCATIONS.get((project, job_id), "US")
    shown["configuration"] = {"jobType": meta.job_type, **shown["configuration"]}
    return shown


async def _run(job: Job, work: Callable[[Job], JobMeta]) -> None:
    try:
        meta = await asyncio.get_running_loop().run_in_executor(WORKERS, work, job)
    except DomainError as error:
        meta = _meta(job, "DONE", {}, error_result=_domain_error_to_error_result(error))
    except Exception as error:  # noqa: BLE001 - a job that fails is a failed job, for every reason
        meta = _meta(job, "DONE", {}, error_result={"reason": "internalError", "message": f"{type(error).__name__}: {error}"})
    started = job.ctx.catalog.get_job(job.project, job.id)
    job.ctx.catalog.upsert_job(meta.model_copy(update={"creation_time": started.creation_time, "start_time": started.creation_time}))
    RUNNING.pop((job.project, job.id), None)


def _meta(job: Job, state: str, statistics: dict[str, Any], **more: Any) -> JobMeta:
    now = job.ctx.clock.now()
    kind = next((k.upper() for k in ("query", "load", "extract", "copy") if k in job.configuration), "QUERY")
    return JobMeta(
        project_id=job.project,
        job_id=job.id,
        job_type=kind,
        state=state,
        configuration=job.configuration,
        statistics=statistics,
        creation_time=now,
        start_time=now,
        end_time=now if state == "DONE" else None,
        etag=generate_etag(job.project, job.id, str(now)),
        **more,
    )


def _location(ctx: Any, project: str, configuration: dict[str, Any]) -> str:
    """Return where a job runs that names no location: in its dataset's."""
    stated = configuration.get("query", {}).get("defaultDataset") or configuration.get("load", {}).get("destinationTable") or {}
    dataset = ctx.catalog.get_dataset(stated.get("projectId", project), stated.get("datasetId", ""))
    return str(dataset.location) if dataset is not None else "US"


def _work(job: Job) -> Callable[[Job], JobMeta]:
    kind = next((k for k in ("query", "load", "extract", "copy") if k in job.configuration), None)
    if kind is None:
        raise InvalidQueryError("Job configuration must contain one of: query, load, extract, copy")
    if kind == "query" and job.configuration["query"].get("useLegacySql"):
        raise UnsupportedFeatureError("The emulator has no legacy SQL")
    return {"query": run_query, "load": run_load, "extract": _run_extract, "copy": _run_copy}[kind]


def _run_extract(job: Job) -> JobMeta:
    return asyncio.run(execute_extract_job(job.project, job.id, job.configuration, job.ctx))


def _run_copy(job: Job) -> JobMeta:
    return asyncio.run(execute_copy_job(job.project, job.id, job.configuration, job.ctx))


# --- queries ---


def _place(job: Job) -> Place:
    default = job.configuration["query"].get("defaultDataset") or {}
    return Place(default.get("projectId") or job.project, default.get("datasetId"))


def _session(job: Job) -> Session:
    """Return the session that the job names, or a new one for this job."""
    query = job.configuration["query"]
    for stated in query.get("connectionProperties") or []:
        if stated.get("key") == "session_id":
            if stated["value"] not in SESSIONS:
                raise ValidationError("Invalid input session id.")
            return SESSIONS[stated["value"]]
    session = Session(job.ctx, _place(job), query.get("queryParameters") or [])
    if query.get("createSession"):
        session.id = uuid4().hex
        SESSIONS[session.id] = session
    return session


def run_query(job: Job) -> JobMeta:
    """Run a query's statement or script, and keep its rows for getQueryResults."""
    sql = job.configuration["query"].get("query", "")
    if not sql.strip():
        raise InvalidQueryError("Empty query")
    session = _session(job)
    with session.lock:
        return _run_query(job, session, sql)


def _run_query(job: Job, session: Session, sql: str) -> JobMeta:
    query = job.configuration["query"]
    session.place, session.parameters, session.bytes_read = _place(job), query.get("queryParameters") or [], 0
    session.limit = int(query["maximumBytesBilled"]) if query.get("maximumBytesBilled") else None
    if found := ABORT.fullmatch(sql):
        _end(session if found[1] is None else SESSIONS[found[1]])
        rows = EMPTY
    else:
        rows = asyncio.run(Script(session).run(sql)) if is_script(sql) else session.run(sql)
        rows = EMPTY if rows is None else rows
    kind = statement_type(sql)
    JOB_RESULTS[job.id], JOB_SCHEMAS[job.id] = rows, build_response_schema(rows.schema)
    query.setdefault("destinationTable", _destination(job, session, kind, rows))
    affected = session.affected if kind in CHANGED else None
    statistics = _build_query_statistics(
        total_rows=rows.num_rows, statement_type=kind, num_dml_affected_rows=affected, ddl_operation=session.ddl or ""
    )
    if session.id is not None:
        statistics["sessionInfo"] = {"sessionId": session.id}
    return _meta(job, "DONE", _with_bytes(statistics, session.bytes_read))


def _with_bytes(statistics: dict[str, Any], read: int) -> dict[str, Any]:
    statistics["query"]["totalBytesProcessed"] = str(read)
    return {**statistics, "totalBytesProcessed": str(read)}


def _end(session: Session) -> None:
    session.rollback()
    SESSIONS.pop(str(session.id), None)


def _destination(job: Job, session: Session, kind: str, rows: pa.Table) -> dict[str, str]:
    """Return the table for a query's rows: the one it names, or an anonymous one."""
    name = session.target if kind != "SELECT" and session.target else Name(job.project, "_anonymous", f"anon{uuid4().hex}")
    if name.dataset == "_anonymous" and rows.num_columns:
        catalog.keep_result(job.ctx, name, rows)
    return {"projectId": name.project, "datasetId": name.dataset, "tableId": name.table}


def dry_run(job: Job) -> JobMeta:
    """Return what a query would give without running it: its columns, or its error."""
    query = job.configuration["query"]
    session, sql = Session(job.ctx, _place(job), query.get("queryParameters") or []), query.get("query", "")
    fields: list[dict[str, Any]] = []
    with session.errors(sql):
        if not is_script(sql):
            tree = bind(parse(sql), session.parameters, {})
            session.bytes_read = check_bytes(session, tree, None)
            fields = _columns(session, tree)
    statistics = _build_query_statistics(total_rows=0, statement_type=statement_type(sql), num_dml_affected_rows=None, ddl_operation="")
    statistics["query"]["schema"] = {"fields": fields}
    return _meta(job, "DONE", _with_bytes(statistics, session.bytes_read))


def _columns(session: Session, tree: exp.Expression) -> list[dict[str, Any]]:
    query = tree.expression if isinstance(tree, exp.Create) else tree
    if isinstance(query, exp.Query):
        described = session.describe(duckdb_text(prepare(query.copy(), session.place)))
        return [catalog.rest_field(name, narrow_type(type_)) for name, type_ in described]
    if isinstance(tree, DML):
        name, tree = target_of(tree, session.place), prepare(tree, session.place)
        if isinstance(tree, exp.Insert):
            check_insert(session, tree, name)
        session.cursor.execute(f"explain {duckdb_text(tree)}")
    elif not isinstance(tree, DDL):
        raise Refused(f"Statement not supported: {tree.key.upper()}", "notImplemented")
    return []


# --- loads ---


def run_load(job: Job) -> JobMeta:
    """Load files. Parquet columns are matched by name. The emulator itself loads all other formats."""
    load = job.configuration["load"]
    if str(load.get("sourceFormat", "CSV")).upper() != "PARQUET":
        done = asyncio.run(execute_load_job(job.project, job.id, job.configuration, job.ctx))
        return _meta(job, "DONE", done.statistics)
    rows = load_parquet(job.ctx, job.project, load)
    return _meta(job, "DONE", {"load": {"outputRows": str(rows), "inputFiles": str(len(load.get("sourceUris") or [1])), "badRecords": "0"}})
