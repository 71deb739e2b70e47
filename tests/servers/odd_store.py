"""An object store on 127.0.0.1 that misbehaves on purpose. Otherwise it lists and reads as Azure does ("List Blobs", "Get Blob").

Tests of well-behaved stores use the real servers.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

MODIFIED = "Wed, 04 Nov 2026 03:00:00 GMT"


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make clients retry failed pages without waiting. It applies to every test of a file that imports this fixture."""
    monkeypatch.setattr("runspend.storage.azure.RETRIES", 0)
    monkeypatch.setattr("runspend.storage.google.RETRY_SECONDS", 0)


@dataclass
class Request:
    """A client's request. `answer` sends status, headers and body. If the body is shorter than `length`, the connection breaks off."""

    handler: BaseHTTPRequestHandler
    key: str  # "" for a listing request
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
    """A store of `objects`. `oddity` may answer a request in its own way, and then returns True."""

    endpoint: str
    objects: dict[str, bytes] = field(default_factory=dict)
    oddity: Callable[[Request], bool] = lambda request: False
    page_size: int = 5000
    asked: list[str] = field(default_factory=list)  # paths with their queries, and Range if the request has one

    def etag(self, key: str) -> str:
        return f"0x{hash(self.objects[key]) & 0xFFFFFFFF:08X}"

    def respond(self, handler: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(handler.path)
        key = unquote("/".join(parts.path.split("/")[3:])) if "comp" not in parse_qs(parts.query) else ""
        request = Request(handler, key, {name.lower(): value for name, value in handler.headers.items()})
        self.asked.append(f"{handler.path} {request.headers.get('range') or request.headers.get('x-ms-range', '')}".strip())
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
        """Send the object from the requested position on. Cut it off after `stop_after` bytes, if given."""
        wanted = request.headers.get("range") or request.headers.get("x-ms-range", "")
        first, _, last = (wanted or "bytes=0-").removeprefix("bytes=").partition("-")
        start = int(first)
        body = data[start : int(last) + 1 if last else None]
        headers = {"ETag": f'"{etag or self.etag(request.key)}"', "Last_Modified": MODIFIED, "x_ms_blob_type": "BlockBlob"}
        if is_part := bool(wanted):
            headers["Content_Range"] = f"bytes {start}-{start + len(body) - 1}/{len(data)}"
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
def serve_odd_store(host: str = "127.0.0.1", *, tls: Path | None = None) -> Iterator[OddStore]:
    """Start the store with the account `acme` in its address, and stop it at the end.

    `tls` is a `certificate`, for clients that send tokens only over TLS.
    """
    store = OddStore("")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            store.respond(self)

        do_HEAD = do_POST = do_DELETE = do_GET

        def log_message(self, *values: object) -> None: ...

    server = ThreadingHTTPServer((host, 0), Handler)
    server.daemon_threads = True
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    store.endpoint = f"http{'s' if tls else ''}://{host}:{server.server_port}/acme"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield store
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def certificate(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a certificate with its key for 127.0.0.1. Python's HTTP clients trust it from now on."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "tests")])
    now = datetime.now(timezone.utc)
    builder = x509.CertificateBuilder(
        name, name, key.public_key(), x509.random_serial_number(), now - timedelta(days=1), now + timedelta(days=1)
    )
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = folder / "tls.pem"
    path.write_bytes(pem + builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(path))
    return path


@contextmanager
def serve_identity(monkeypatch: pytest.MonkeyPatch) -> Iterator[OddStore]:
    """Hand out tokens as Azure's App Service does to its applications ("Managed identities")."""
    token = b'{"access_token": "a-token", "token_type": "Bearer", "expires_in": 3600, "expires_on": "9999999999"}'
    for name in ("AZURE_CLIENT_ID", "AZURE_TENANT_ID", "AZURE_CLIENT_SECRET", "AZURE_FEDERATED_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    with serve_odd_store("127.0.0.2") as login:
        login.oddity = lambda request: request.answer(200, token, Content_Type="application/json") is None
        monkeypatch.setenv("IDENTITY_ENDPOINT", f"{login.endpoint.removesuffix('/acme')}/identity")
        monkeypatch.setenv("IDENTITY_HEADER", "canary")
        yield login
