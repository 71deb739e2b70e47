"""Serves the pages on a port of this machine. Takes the port before its address is shown."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import suppress

from runspend.config.settings import Settings
from runspend.core.errors import UsageError
from runspend.interfaces.web.app import LOOPBACK, create_app

HOST = "127.0.0.1"


def take_port(port: int) -> socket.socket:
    """Return a socket that listens on this port of 127.0.0.1; 0 takes a free one. Raises UsageError if the port is not available."""
    taken = socket.socket()
    try:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((HOST, port))
        taken.listen(128)
    except OSError as error:
        taken.close()
        why = {errno.EADDRINUSE: "another program uses it", errno.EACCES: "only root may use ports below 1024"}.get(
            error.errno or 0, os.strerror(error.errno or 0)
        )
        raise UsageError(f"cannot serve on port {port}: {why}. Choose another one with --port. No page is shown.") from error
    return taken


def serve_on(taken: socket.socket, settings: Settings) -> None:
    """Answer on this socket until the process is interrupted."""
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(create_app(settings, hosts=LOOPBACK), log_level="warning"))
    with suppress(KeyboardInterrupt):
        server.run(sockets=[taken])
