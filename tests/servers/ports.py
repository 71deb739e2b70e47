"""Ports for the servers of tests."""

from __future__ import annotations

import os
import random
import socket
from itertools import cycle, islice

# Below 32,768, so that outgoing connections of other tests do not take a port before its server does.
FIRST, WORKERS, PORTS_EACH = 20_000, 16, 750


def _own_ports() -> list[int]:
    """The ports of this worker of pytest, in random order. Some servers take a minute to start, and another worker must not take theirs."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % WORKERS
    first = FIRST + worker * PORTS_EACH
    return random.SystemRandom().sample(range(first, first + PORTS_EACH), PORTS_EACH)


_ports = cycle(_own_ports())


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on now. None comes again before all others of this worker have come."""
    found = list(islice(filter(_is_free, islice(_ports, PORTS_EACH)), count))
    assert len(found) == count, f"{len(found)} of {count} ports are free"
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def free_port() -> int:
    """One of them."""
    return free_ports(1)[0]
