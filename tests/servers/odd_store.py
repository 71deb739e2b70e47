"""An object store that misbehaves on purpose, on 127.0.0.1: it lists and reads as Azure does ("List Blobs", "Get Blob") but for
what a test has it do instead. What a well-behaved store does is tested against the real servers.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

MODIFIED = "Wed, 04 Nov 2026 03:00:00 GMT"


@dataclass
class Request:
    """What was asked. `answer` sends status, headers and body; a body shorter than `length` breaks off."""

    handler: BaseHTTPRequestHandler
    key: str  # "" for a listing
    headers: Mapping[str, str]

    def answer(self, status: int, body: bytes = b"", length: int | None = None, **headers: str) -> None:
        self.handler.send_response(status)
        for name, value in {"Content-Length": str(len(body) if length is None else length), **headers}.items():
            self.handler.send_header(name.replace("_", "-"), value)
        self.handler.end_headers()
        self.handler.wfile.write(body)
        if length is not None:
            self.handler.wfile.flush()
            self.handler.close_connection = True


@dataclass
class OddStore:
    """`objects` are what it holds; `oddity` may answer a request in its own way and then returns True."""

    endpoint: str
    objects: dict[str, bytes] = field(default_factory=dict)
    oddity: Callable[[Request], bool] = lambda request: False
    page_size: int = 5000
    asked: list[str] = field(default_factory=list)  # paths with their queries, and Range where there is one

    def etag(self, key: str) -> str:
        return f"0x{hash(self.objects[key]) & 0xFFFFFFFF:08X}"

    def respond(self, handler: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(handler.path)
        key = unquote("/".join(parts.path.split("/")[3:])) if "comp" not in parse_qs(parts.query) else ""
        request = Request(handler, key, {name.lower(): value for name, value in handler.headers.items()})
        self.asked.append(f"{handler.path} {request.headers.get('range', '')}".strip())
        if self.oddity(request):
            return
        if not key:
            request.answer(200, self._listing(int(parse_qs(parts.query).get("marker", ["0"])[0])), Content_Type="application/xml")
        elif key not in self.objects:
            request.answer(404, b"<Error><Code>BlobNotFound</Code></Error>")
        elif request.headers.get("if-match", f'"{self.etag(key)}"') != f'"{self.etag(key)}"':
            request.answer(412, b"<Error><Code>ConditionNotMet</Code></Error>")
        else:
            self.send(request, self.objects[key])

    def send(self, request: Request, data: bytes, *, stop_after: int | None = None, etag: str | None = None) -> None:
        """The object, from where the request wants it on; cut off after so many bytes."""
        start = int(request.headers.get("range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        body = data[start:]
        headers = {"ETag": f'"{etag or self.etag(request.key)}"', "Last_Modified": MODIFIED}
        if is_part := "range" in request.headers:
            headers["Content_Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        request.answer(206 if is_part else 200, body[:stop_after], None if stop_after is None else len(body), **headers)

    def _listing(self, first: int) -> bytes:
        after = first + self.page_size
        blobs = "".join(
            f"<Blob><Name>{key}</Name><Properties><Last-Modified>{MODIFIED}</Last-Modified><Etag>{self.etag(key)}</Etag>"
            f"<Content-Length>{len(data)}</Content-Length><Content-Type>text/csv</Content-Type><Content-Encoding/><Content-Language/>"
            f"<BlobType>BlockBlob</BlobType></Properties></Blob>"
            for key, data in list(self.objects.items())[first:after]
        )
        more = str(after) if after < len(self.objects) else ""
        start = '<?xml version="1.0" encoding="utf-8"?><EnumerationResults>'
        return f"{start}<Blobs>{blobs}</Blobs><NextMarker>{more}</NextMarker></EnumerationResults>".encode()


@contextmanager
def serve_odd_store(host: str = "127.0.0.1") -> Iterator[OddStore]:
    """Start it with the account `acme` in its address; end it."""
    store = OddStore("")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            store.respond(self)

        do_HEAD = do_POST = do_DELETE = do_GET

        def log_message(self, *said: object) -> None: ...

    server = ThreadingHTTPServer((host, 0), Handler)
    server.daemon_threads = True
    store.endpoint = f"http://{host}:{server.server_port}/acme"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield store
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
