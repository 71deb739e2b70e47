"""An HTTP proxy in front of a real server that spoils the answers to one request.

The client gets an error, an empty or garbled body, silence, or no answer at all.
"""

from __future__ import annotations

import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

FAULTS = ("500", "403", "404", "empty", "braces", "garbage", "cut", "drop", "silence")
SILENT_SECONDS = 1.5


@dataclass
class FaultyProxy:
    """Spoil `request` with `fault`, except for the first `good` times.

    If the server's content does not change, `answers` may be {}: earlier answers are then reused.
    """

    uri: str = ""
    fault: str | None = None
    request: str = ""
    good: int = 0
    seen: list[str] = field(default_factory=list)
    answers: dict[str, tuple[int, bytes, str]] | None = None

    def begin(self, fault: str | None = None, request: str = "", good: int = 0) -> None:
        self.fault, self.request, self.good = fault, request, good
        self.seen.clear()

    @property
    def has_spoiled(self) -> bool:
        """True if the proxy has spoiled an answer."""
        return self.seen.count(self.request) > self.good

    def note(self, request: str) -> str | None:
        """Count this request, and return its fault."""
        self.seen.append(request)
        return self.fault if request == self.request and self.has_spoiled else None


@contextmanager
def faulty_proxy(behind: str) -> Iterator[FaultyProxy]:
    proxy = FaultyProxy()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            asked = f"{self.command} {self.path} {body.decode(errors='replace')}"
            fault = proxy.note(asked)
            if fault == "silence":
                time.sleep(SILENT_SECONDS)
            if fault in ("silence", "drop"):
                self.close_connection = True
                return
            known = proxy.answers
            status, content, kind = known[asked] if known and asked in known else self._pass_on(body)
            if known is not None:
                known[asked] = status, content, kind
            if fault in ("500", "403", "404"):
                status, content = int(fault), b'{"error_code": "INTERNAL_ERROR", "message": "spoiled"}' if fault == "500" else b"spoiled"
            content = {"empty": b"", "braces": b"{}", "garbage": b"<html>hello</html>", "cut": content[: len(content) // 2]}.get(
                fault or "", content
            )
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def _pass_on(self, body: bytes) -> tuple[int, bytes, str]:
            headers = {
                k: v for k, v in self.headers.items() if k.lower() not in ("host", "content-length", "connection", "accept-encoding")
            }
            request = urllib.request.Request(behind + self.path, data=body or None, headers=headers, method=self.command)
            try:
                with urllib.request.urlopen(request, timeout=30) as reply:
                    return reply.status, reply.read(), reply.headers.get("Content-Type", "application/json")
            except urllib.error.HTTPError as error:
                with error:
                    return error.code, error.read(), error.headers.get("Content-Type", "application/json")

        do_GET = do_POST = do_PATCH = do_DELETE = answer

        def log_message(self, *args: Any) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    proxy.uri = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
