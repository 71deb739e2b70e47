"""Uploads of files, in one request or in several, as load jobs with their own ids.

Part of the tests' BigQuery emulator; its own Python runs this module.
"""

from __future__ import annotations

import json
from typing import Any

from bqemulator.api.routes import jobs as job_routes
from bqemulator.api.routes import upload

from tests.servers import bigquery_jobs as jobs

REFERENCE = "runspend.jobReference"  # the configuration carries an upload's job id


def put_uploads_right() -> None:
    """Make the job id of an upload the job's id."""
    known = upload._load_configuration_from_envelope

    def configuration_of(envelope: dict[str, Any]) -> dict[str, Any]:
        return {**known(envelope), REFERENCE: envelope.get("jobReference") or {}}

    async def run_load(*, project_id: str, configuration: dict[str, Any], media_path: str, ctx: Any) -> tuple[str, Any]:
        configuration = dict(configuration)
        reference = configuration.pop(REFERENCE, {})
        configuration["load"] = {**configuration["load"], "sourceUris": [f"file://{media_path}"]}
        made = await jobs.submit(ctx, project_id, reference, configuration)
        job_id = made["jobReference"]["jobId"]
        if task := jobs.RUNNING.get((project_id, job_id)):
            await task  # the file is deleted when the upload ends
        return job_id, ctx.catalog.get_job(project_id, job_id)

    def shown(project: str, job_id: str, meta: Any, configuration: dict[str, Any]) -> dict[str, Any]:
        job: dict[str, Any] = job_routes._build_job_response(project, job_id, meta, configuration)
        job["jobReference"]["location"] = jobs.LOCATIONS[project, job_id]
        return job

    def parts_of(content_type: str, body: bytes) -> tuple[dict[str, Any], bytes]:
        mark = b"--" + content_type.partition("boundary=")[2].strip('"').encode()
        _, envelope, media = body.split(mark, 2)
        head, tail = (part.split(b"\r\n\r\n", 1)[1] for part in (envelope, media))
        return json.loads(head), tail[: tail.rindex(b"\r\n" + mark)]

    upload._parse_multipart_related = parts_of  # the emulator's own route refuses the client's content type
    upload._load_configuration_from_envelope = configuration_of
    upload._run_load = run_load
    upload._build_job_response = shown
