"""Where the tests of the BigQuery warehouse keep theirs: datasets of their own, on the emulator or on Google's BigQuery.

The emulator is the rule. `make test-bigquery PROJECT=… DATASET=…` sets RUNSPEND_BIGQUERY=project/dataset, and then the datasets
are `<dataset>_<random>` in that project, with whatever credentials gcloud has; they are removed at the end, and nothing else is
touched. Tests that only one of the two can judge are marked `only_real` or `only_emulator`.
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
    """A project to make datasets in."""

    project: str
    prefix: str  # of every dataset's name
    endpoint: str | None  # None: Google's
    made: list[str] = field(default_factory=list)

    def settings(self, **more: Any) -> WarehouseSettings:
        """An unused warehouse, in a dataset that is not there yet."""
        name = f"{self.prefix}_{uuid.uuid4().hex[:10]}"
        self.made.append(name)
        emulator = {} if self.endpoint is None else {"endpoint": self.endpoint, "credentials": "anonymous"}
        return WarehouseSettings(uri=f"bigquery://{self.project}/{name}", **{**emulator, **more})

    @property
    def address(self) -> str:
        """Where its API answers."""
        return self.endpoint or GOOGLE

    def remove(self) -> None:
        """Delete what was made: each warehouse's datasets, and no other."""
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
    """The emulator, unless RUNSPEND_BIGQUERY names a dataset of Google's whose name ours begin with."""
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
    """What a client sent."""

    verb: str
    path: str
    body: bytes


@dataclass
class Proxy:
    """A proxy between a client and the server. Of a request that `loses` names, the server's reply is read and thrown away."""

    target: Target
    loses: Callable[[Request], bool]
    endpoint: str = ""
    lost: list[Request] = field(default_factory=list)
    seen: list[Request] = field(default_factory=list)

    def settings(self, settings: WarehouseSettings) -> WarehouseSettings:
        """The same warehouse by way of this proxy."""
        return settings.model_copy(update={"endpoint": self.endpoint})

    def ask(self, request: Request, headers: dict[str, str]) -> tuple[int, list[tuple[str, str]], bytes]:
        """The server's answer."""
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
    """A proxy that loses the reply to the first `times` requests that `loses` names: the server has done the work, and the client gets no answer."""
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
                if name.lower() == "location":  # where an upload goes on
                    value = proxy.endpoint + value.removeprefix(target.address)
                if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                    self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

        def log_message(self, *_: Any) -> None:
            """Nothing."""

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
