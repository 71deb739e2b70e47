"""Ports for the servers of tests."""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on now, below 32,768 so that outgoing connections of other tests do not take them first."""
    with ExitStack() as stack:
        ports: list[int] = []
        while len(ports) < count:
            probe = stack.enter_context(socket.socket())
            try:
                probe.bind(("127.0.0.1", random.SystemRandom().randint(20_000, 32_000)))
            except OSError:
                continue
            ports.append(probe.getsockname()[1])
        return ports


def free_port() -> int:
    """One of them."""
    return free_ports(1)[0]
