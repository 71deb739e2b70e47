"""A proxy in front of an S3 server. It forwards everything, except for the faults that a test sets.

Faults are replies that are cut short, flipped bytes, deletes that are reported but not done, and errors inside a reply with status 200.
"""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


@dataclass
class Reply:
    """The reply to the client."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Asked:
    """The client's request; `bucket/key` is decoded."""

    method: str
    path: str
    query: str
    body: bytes


Lie = Callable[[Asked, Callable[[], Reply]], Reply]


def honest(asked: Asked, pass_on: Callable[[], Reply]) -> Reply:
    """Forward the request unchanged."""
    return pass_on()


@dataclass
class LyingS3:
    """A proxy in which `lie` answers each request. It may forward the request or not."""

    endpoint: str
    lie: Lie = honest
    asked: list[Asked] = field(default_factory=list)


@contextmanager
def serve_lying_s3(behind: str) -> Iterator[LyingS3]:
    """Start the proxy in front of the server at `behind`, and stop it at the end."""
    target = urlsplit(behind)
    liar = LyingS3("")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = urlsplit(self.path)
            asked = Asked(self.command, unquote(parts.path).lstrip("/"), parts.query, body)
            liar.asked.append(asked)
            reply = liar.lie(asked, lambda: self.pass_on(body))
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(name, value)
            is_head = self.command == "HEAD"
            self.send_header("Content-Length", reply.headers.get("Content-Length", "0") if is_head else str(len(reply.body)))
            self.end_headers()
            if not is_head:
                self.wfile.write(reply.body)

        def pass_on(self, body: bytes) -> Reply:
            connection = http.client.HTTPConnection(target.hostname or "", target.port, timeout=60)
            try:
                connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():  # the signature covers Host too
                    connection.putheader(name, value)
                connection.endheaders(body)
                found = connection.getresponse()
                return Reply(found.status, dict(found.getheaders()), found.read())
            finally:
                connection.close()

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer

        def log_message(self, *values: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    liar.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield liar
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
