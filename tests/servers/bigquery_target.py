"""Where the tests of the BigQuery warehouse keep their datasets: on the emulator, or on Google's BigQuery.

The default is the emulator. `make test-bigquery PROJECT=… DATASET=…` sets RUNSPEND_BIGQUERY=project/dataset. The datasets are then
`<dataset>_<random>` in that project, created with gcloud's current credentials. The tests remove them at the end and touch nothing else.
Tests that make sense on only one of the two are marked `only_real` or `only_emulator`.
"""

from __future__ import annotations

import http.client
import os
import ssl
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import pytest

from runspend.config.settings import WarehouseSettings
from runspend.warehouse.bigquery.jobs import Jobs
from tests.servers.bigquery import PROJECT

__all__ = ["Request", "Target", "losing_replies", "only_emulator", "only_real", "target_of_tests"]

REAL = os.environ.get("RUNSPEND_BIGQUERY", "")
GOOGLE = "https://bigquery.googleapis.com"

only_real = pytest.mark.skipif(not REAL, reason="the emulator has none of it: make test-bigquery PROJECT=… DATASET=…")
only_emulator = pytest.mark.skipif(bool(REAL), reason="the emulator stands for what cannot be had of Google's")


@dataclass
class Target:
    """A project in which tests create datasets."""

    project: str
    prefix: str  # the beginning of every dataset's name
    endpoint: str | None  # None: Google's BigQuery
    made: list[str] = field(default_factory=list)

    def settings(self, **more: Any) -> WarehouseSettings:
        """Return settings of an unused warehouse, in a dataset that does not exist yet."""
        name = f"{self.prefix}_{uuid.uuid4().hex[:10]}"
        self.made.append(name)
        emulator = {} if self.endpoint is None else {"endpoint": self.endpoint, "credentials": "anonymous"}
        return WarehouseSettings(uri=f"bigquery://{self.project}/{name}", **{**emulator, **more})

    @property
    def address(self) -> str:
        """The address of its API."""
        return self.endpoint or GOOGLE

    def remove(self) -> None:
        """Delete the datasets of all warehouses that the tests created, and no others."""
        if not self.made:
            return
        settings = self.settings()
        client = Jobs(settings, self.project).client
        for item in list(client.list_datasets()):
            name = item.dataset_id
            if any(name == own or name.startswith(f"{own}_") for own in self.made):
                client.delete_dataset(item.reference, delete_contents=True, not_found_ok=True)
        client.close()


@contextmanager
def target_of_tests(request: pytest.FixtureRequest) -> Iterator[Target]:
    """Provide the emulator, or Google's BigQuery if RUNSPEND_BIGQUERY names a project and the beginning of our datasets' names."""
    if REAL:
        project, _, dataset = REAL.partition("/")
        target = Target(project, dataset, None)
    else:
        target = Target(PROJECT, "test", request.getfixturevalue("bigquery_server").endpoint)
    yield target
    target.remove()


# --- replies that are lost ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Request:
    """A client's request."""

    verb: str
    path: str
    body: bytes


@dataclass
class Proxy:
    """A proxy between a client and the server. It reads the server's reply to each request that `loses` names, and drops it."""

    target: Target
    loses: Callable[[Request], bool]
    endpoint: str = ""
    lost: list[Request] = field(default_factory=list)
    seen: list[Request] = field(default_factory=list)

    def settings(self, settings: WarehouseSettings) -> WarehouseSettings:
        """Return settings of the same warehouse through this proxy."""
        return settings.model_copy(update={"endpoint": self.endpoint})

    def ask(self, request: Request, headers: dict[str, str]) -> tuple[int, list[tuple[str, str]], bytes]:
        """Send a request and return the server's answer."""
        there = urlsplit(self.target.address)
        assert there.hostname is not None
        if there.scheme == "https":
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                there.hostname, timeout=120, context=ssl.create_default_context()
            )
        else:
            connection = http.client.HTTPConnection(there.hostname, there.port, timeout=120)
        try:
            connection.request(request.verb, request.path, request.body, {**headers, "host": there.netloc, "accept-encoding": "identity"})
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()


@contextmanager
def losing_replies(target: Target, loses: Callable[[Request], bool], *, times: int = 1) -> Iterator[Proxy]:
    """Start a proxy that drops the replies to the first `times` requests that `loses` names.

    The server has done the work, but the client gets no answer.
    """
    proxy, lock = Proxy(target, loses), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            request = Request(self.command, self.path, self.rfile.read(int(self.headers.get("content-length") or 0)))
            kept = {
                name: value
                for name, value in self.headers.items()
                if name.lower() not in ("host", "connection", "accept-encoding", "content-length")
            }
            status, headers, body = proxy.ask(request, kept)
            with lock:
                proxy.seen.append(request)
                is_lost = len(proxy.lost) < times and proxy.loses(request)
                if is_lost:
                    proxy.lost.append(request)
            if is_lost:
                self.close_connection = True
                return
            self.send_response(status)
            for name, value in headers:
                if name.lower() == "location":  # the address at which an upload continues
                    value = proxy.endpoint + value.removeprefix(target.address)
                if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                    self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

        def log_message(self, *_: Any) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    proxy.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
