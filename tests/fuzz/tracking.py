"""What an MLflow server answers: extracted, or refused as a source. One small HTTP server gives the answers of one input."""

from __future__ import annotations

import atexit
import functools
import json
import platform
import re
import threading
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from runspend.config.settings import DimensionSettings, TrackingServer
from runspend.ingest.tracking.settings import LinkSettings
from tests.extracts import extract_server
from tests.fuzz.mutations import as_json

NOW = datetime(2026, 11, 25, 6, tzinfo=timezone.utc)


class _Answers(BaseHTTPRequestHandler):
    """Answers by the last two parts of the path; a string goes out as it is, anything else as JSON."""

    answers: dict[str, Any] = {}  # noqa: RUF012 (one input at a time)
    is_honest = True  # whether it answers what was asked for, as far as times go
    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        asked = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        key = "/".join(urlsplit(self.path).path.strip("/").split("/")[-2:])
        reply = self.answers.get(key)
        if (bound := re.search(r">= (\d+)", asked)) and isinstance(reply, dict) and self.is_honest:
            reply = {k: [item for item in v if _begin(item) >= int(bound[1])] if isinstance(v, list) else v for k, v in reply.items()}
        body = reply.encode("utf-8", "surrogatepass") if isinstance(reply, str) else json.dumps({} if reply is None else reply).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = answer

    def log_message(self, *args: Any) -> None:
        """Quiet."""


@functools.cache
def _server() -> str:
    """The address of the one server of this process."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Answers)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    atexit.register(server.shutdown)
    return f"http://127.0.0.1:{server.server_port}"


def answers(data: bytes, work: Path) -> None:
    """A JSON object of answers by path: every one of them may be anything."""
    reply = as_json(data)
    _Answers.answers = reply if isinstance(reply, dict) else {}
    _Answers.is_honest = _Answers.answers.get("honest") is not False
    server = TrackingServer(name="prod", uri=_server())
    (work / "extract").mkdir()
    extract_server(
        server,
        DimensionSettings(),
        now=NOW,
        previous=lambda table, period: None,
        workdir=work / "extract",
        load_id="load",
        selector_keys=("tag.team",),
        links=LinkSettings(),
    )


def _begin(item: Any) -> float:
    """When a run or trace of an answer began, in milliseconds; what has no such time is in every answer."""
    info = item.get("info") if isinstance(item, dict) else None
    start = info.get("start_time") if isinstance(info, dict) else BEGAN if isinstance(item, dict) and "trace_id" in item else None
    return start if isinstance(start, int) else float("inf")


def prepare() -> None:
    """Import what reading a server imports, and ask the system for what MLflow's client asks of it."""
    import mlflow.data
    import mlflow.store.model_registry.rest_store
    import mlflow.store.tracking.rest_store
    import mlflow.store.workspace.rest_store  # noqa: F401

    platform.processor()


BEGAN = 1_793_600_000_000  # 2 November 2026
RUN = {
    "info": {
        "run_id": "0" * 31 + "1", "run_uuid": "0" * 31 + "1", "run_name": "a", "experiment_id": "1", "user_id": "ana", "status": "FINISHED", "start_time": BEGAN, "end_time": BEGAN + 3_600_000,
        "artifact_uri": "s3://b/art/1/0/artifacts", "lifecycle_stage": "active",
    },
    "data": {
        "metrics": [{"key": "system/gpu_0_utilization_percentage", "value": 50.0, "timestamp": BEGAN, "step": 3}],
        "params": [{"key": "lr", "value": "0.1"}],
        "tags": [{"key": "team", "value": "vision"}, {"key": "runspend.resources", "value": '[{"id": "i-1"}]'}],
    },
    "inputs": {"dataset_inputs": [], "model_inputs": []},
}  # fmt: skip
EXPERIMENT = {
    "experiment_id": "1",
    "name": "e",
    "artifact_location": "s3://b/art/1",
    "lifecycle_stage": "active",
    "creation_time": BEGAN,
    "last_update_time": BEGAN,
    "tags": [{"key": "team", "value": "x"}],
}
TRACE = {
    "trace_id": "tr-1", "trace_location": {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": "1"}}, "request_time": "2026-11-02T10:00:00Z", "execution_duration": "1s", "state": "OK",
    "trace_metadata": {"mlflow.trace.cost": '{"total_cost": 0.1}', "mlflow.trace.tokenUsage": '{"input_tokens": 1, "output_tokens": 2}'}, "tags": {},
}  # fmt: skip
SEED = {
    "version": "3.17.2",
    "experiments/search": {"experiments": [EXPERIMENT]},
    "runs/search": {"runs": [RUN]},
    "logged-models/search": {
        "models": [
            {
                "info": {
                    "experiment_id": "1",
                    "model_id": "m-1",
                    "artifact_uri": "s3://b/art/1/m",
                    "name": "m",
                    "creation_timestamp_ms": BEGAN,
                    "last_updated_timestamp_ms": BEGAN,
                    "status": "LOGGED_MODEL_READY",
                },
                "data": {},
            }
        ]
    },
    "traces/search": {"traces": [TRACE]},
    "registered-models/search": {
        "registered_models": [{"name": "r", "latest_versions": [], "aliases": [{"alias": "champion", "version": "1"}]}]
    },
    "model-versions/search": {
        "model_versions": [
            {
                "name": "r",
                "version": "1",
                "source": "s3://b/art/1/m",
                "run_id": "0" * 31 + "1",
                "creation_timestamp": BEGAN,
                "status": "READY",
            }
        ]
    },
    "metrics/get-history": {"metrics": [{"key": "system/gpu_0_utilization_percentage", "value": 50.0, "timestamp": BEGAN, "step": 0}]},
}
