"""A server on this machine that never answers and records each connection."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def recording_server(host: str = "127.0.0.1") -> Iterator[tuple[str, list[bytes]]]:
    """Yield its host and port, and the first bytes of each connection."""
    seen: list[bytes] = []

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            seen.append(self.request.recv(300))

    server = socketserver.ThreadingTCPServer((host, 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"{host}:{server.server_address[1]}", seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
