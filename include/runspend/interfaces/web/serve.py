"""Serve the pages on a port of this machine. The port is opened before its address is shown."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from contextlib import suppress
from urllib.parse import urlsplit

from runspend.config.settings import Settings
from runspend.core.errors import UsageError
from runspend.interfaces.web.access import headers_guard
from runspend.interfaces.web.app import LOOPBACK, create_app

HOST = "127.0.0.1"


def take_port(port: int, host: str = HOST) -> socket.socket:
    """Return a socket that listens on this port and address. Port 0 means any free port. Raises UsageError if it is not available."""
    taken = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((host, port))
        taken.listen(128)
    except OSError as error:
        taken.close()
        why = {errno.EADDRINUSE: "another program uses it", errno.EACCES: "only root may use ports below 1024"}.get(
            error.errno or 0, os.strerror(error.errno or 0)
        )
        raise UsageError(f"cannot serve on port {port}: {why}. Choose another one with --port. No page is shown.") from error
    return taken


def check_access(settings: Settings, host: str) -> None:
    """Raise UsageError if the pages would show more than `access` allows, or if clients could reach them without its proxy."""
    access = settings.access
    try:
        is_loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        raise UsageError(f"cannot serve on --host {host}: it is not an address. Give one of this machine, such as 127.0.0.1.") from None
    if access is not None and not access.is_of_headers:
        raise UsageError(
            "cannot serve: `access` is set, but not the header in which a reverse proxy names the user's groups. Set access.header, or use"
            " the pages in Airflow. No page is shown."
        )
    if is_loopback:
        return
    if access is None:
        raise UsageError(
            f"cannot serve on {host}: everyone who reaches the port would see all costs. Set `access` with a header and a reverse proxy, or serve"
            f" on {HOST}. No page is shown."
        )
    if "proxies" not in access.model_fields_set:
        raise UsageError(
            f"cannot serve on {host}: access.proxies is missing, and only the proxy may name the user. Set it to the proxy's address."
            " No page is shown."
        )


def serve_on(taken: socket.socket, settings: Settings) -> None:
    """Answer on this socket until the process is interrupted."""
    import uvicorn

    proxied = [settings.site.url] if settings.access is not None and settings.site is not None else []
    hosts = (*LOOPBACK, *(_host_of(url) for url in proxied))
    app = create_app(settings, headers_guard(lambda: settings), hosts=hosts)
    # The address of the proxy itself decides whether its headers are trusted: X-Forwarded-For must not replace it.
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", proxy_headers=False))
    with suppress(KeyboardInterrupt):
        server.run(sockets=[taken])


def _host_of(url: str) -> str:
    """Return the host of an address as browsers send it: IPv6 in brackets, characters outside ASCII encoded (RFC 5891)."""
    host = urlsplit(url).hostname or ""
    if ":" in host:
        return f"[{host}]"
    try:
        return host.encode("idna").decode("ascii")
    except UnicodeError:  # also raised for an empty or very long part of the name
        return host
