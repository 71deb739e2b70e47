"""A server on 127.0.0.1 that speaks BigQuery's REST API (`bqemulator`, over DuckDB). Tests show how an emulator behaves, not Google's service.

It needs its own virtual environment, because it pins an older sqlglot and DuckDB. `make test` creates it in `.venv/bigquery` with the
versions of `bigquery.txt`. `bigquery_launcher.py` starts the server and documents what it corrects and what still differs. Without the
environment, pytest skips the tests that request the fixture.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.reaper import make_folder, marked

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv" / "bigquery" / "bin" / "python"
PROJECT = "billing-project"


@dataclass(frozen=True)
class BigQueryServer:
    """The server's addresses: REST, and gRPC for the Storage API."""

    endpoint: str
    storage_endpoint: str

    def client(self) -> Any:
        """Return a client without credentials."""
        from google.auth.credentials import AnonymousCredentials
        from google.cloud import bigquery

        return bigquery.Client(project=PROJECT, credentials=AnonymousCredentials(), client_options={"api_endpoint": self.endpoint})

    def storage(self) -> Any:
        """Return a client of the Storage API, which fetches rows as Arrow."""
        import grpc
        from google.cloud.bigquery_storage import BigQueryReadClient
        from google.cloud.bigquery_storage_v1.services.big_query_read.transports import BigQueryReadGrpcTransport

        return BigQueryReadClient(transport=BigQueryReadGrpcTransport(channel=grpc.insecure_channel(self.storage_endpoint)))


@contextmanager
def serve_bigquery() -> Iterator[BigQueryServer]:
    """Start the server with its own home, and stop it at the end. DuckDB finds its extension in that home and downloads nothing."""
    home = make_folder("bigquery")
    for extension in (PYTHON.parents[1] / "lib").glob("python*/site-packages/duckdb_extension_spatial/extensions/*/*.duckdb_extension"):
        into = home / ".duckdb" / "extensions" / extension.parent.name / "linux_amd64"
        into.mkdir(parents=True)
        shutil.copy(extension, into)
    log = home / "bigquery.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [str(PYTHON), "-m", "tests.servers.bigquery_launcher", "0", "0"],
            cwd=home,
            env={"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": f"{ROOT}:{ROOT / 'include'}", **marked()},
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        rest, storage = _wait_for_ports(process, log)
        yield BigQueryServer(f"http://127.0.0.1:{rest}", f"127.0.0.1:{storage}")
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(20)
        shutil.rmtree(home, ignore_errors=True)


@contextmanager
def serve_tests() -> Iterator[BigQueryServer]:
    """Provide the fixture `bigquery_server`. Skip the tests that request it if the emulator is not installed."""
    if not PYTHON.exists():
        pytest.skip(f"no emulator of BigQuery in {PYTHON.parents[1]}: see tests/servers/bigquery.py for how to have it")
    with serve_bigquery() as server:
        yield server


def _wait_for_ports(process: subprocess.Popen[bytes], log: Path) -> tuple[int, int]:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and process.poll() is None:
        if found := re.search(r"^ports (\d+) (\d+)$", log.read_text(errors="replace"), re.MULTILINE):
            return int(found[1]), int(found[2])
        time.sleep(0.2)
    raise RuntimeError(f"the emulator of BigQuery did not start: {log.read_text(errors='replace')[-2000:]}")
