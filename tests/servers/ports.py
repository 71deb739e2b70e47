"""Free ports for the tests' servers."""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
from itertools import cycle, islice
from pathlib import Path

# Below 32,768, so that no outgoing connection of another test takes a port before its server does.
PORTS = range(20_000, 32_000)

# Some servers take a minute to start. Until this process ends, no other test process on this machine takes its ports, because this process
# locks one byte of this file per port.
_claims = os.open(Path(tempfile.gettempdir(), f"runspend-test-ports-{os.getuid()}"), os.O_WRONLY | os.O_CREAT, 0o600)
_ports = cycle(random.SystemRandom().sample(PORTS, len(PORTS)))


def free_ports(count: int) -> list[int]:
    """Return ports that are free and that no other test process has taken. A port is reused only after all others were used."""
    found = list(islice(filter(is_free, islice(_ports, len(PORTS))), count))
    assert len(found) == count, f"{len(found)} of {count} ports are free"
    return found


def is_free(port: int) -> bool:
    """True if the port can be used. It then belongs to this process."""
    try:
        fcntl.lockf(_claims, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except OSError:
        return False
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def free_port() -> int:
    """Return one such port."""
    return free_ports(1)[0]
