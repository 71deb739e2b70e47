"""A proxy that adds Google's preconditions to fake-gcs-server: `ifGenerationMatch`, `generation`, and those of the source.

It follows "Request preconditions" of the JSON API: 412 if the object has another generation; 0 means that the object must not exist. All
other answers are the real server's.
"""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, urlsplit

from tests.servers.gcs import GcsServer


@contextmanager
def serve_conditions(server: GcsServer) -> Iterator[str]:
    """Start the proxy, and return the address to use instead of the server's own."""
    target = urlsplit(server.endpoint)

    def forward(method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> tuple[int, dict[str, str], bytes]:
        upstream = http.client.HTTPConnection(target.hostname or "", target.port)
        try:
            upstream.request(
                method, path, body or None, {k: v for k, v in (headers or {}).items() if k.lower() not in ("host", "connection")}
            )
            answer = upstream.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            upstream.close()

    def generation(bucket: str, name: str) -> str:
        status, _, body = forward("GET", f"/storage/v1/b/{bucket}/o/{name}")
        return str(json.loads(body)["generation"]) if status == 200 else "0"

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            parts = urlsplit(self.path)
            query = {key: values[0] for key, values in parse_qs(parts.query).items()}
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length)
            if len(body) < length:
                self.close_connection = True  # an upload that ended early leaves no object
                return
            place = parts.path.removeprefix("/upload").removeprefix("/download").split("/")  # "", storage, v1, b, BUCKET, o, NAME, …
            name = quote(query["name"], safe="") if "name" in query else place[6] if len(place) > 6 else ""
            if parts.path.startswith("/upload") and not name and "upload_id" not in query:
                # Google's client sends the name in JSON: in the first part of a multipart body, or as the whole body of a resumable upload.
                given = body[body.index(b"{") :]
                name = quote(json.JSONDecoder().raw_decode(given.split(b"\r\n--", 1)[0].decode())[0]["name"], safe="")
            status, headers, content = 0, {}, b""
            if name:
                there = generation(place[4], name)
                if any(query.get(condition, there) != there for condition in ("ifGenerationMatch", "ifSourceGenerationMatch")):
                    status = 412
                elif query.get("generation", there) != there:
                    status = 404
            if not status:
                status, headers, content = forward(self.command, self.path, body, dict(self.headers))
            self.send_response_only(status)
            for key, value in headers.items():
                if key.lower() not in ("transfer-encoding", "content-length", "connection"):
                    self.send_header(key, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = answer

        def log_message(self, *_: object) -> None: ...

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{httpd.server_address[1]}"
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()
