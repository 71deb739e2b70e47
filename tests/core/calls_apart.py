"""Calls that tests of `own_process` make in another process."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runspend.core.errors import CheckFailed, SourceRefused


def warm() -> None:
    """Import nothing."""


def warm_otherwise() -> None:
    """Import nothing, for another kind of call."""


def add(one: int, other: int, *, ask: Callable[[int], int], note: Callable[[str], None]) -> tuple[int, int]:
    note("adding")
    return one + ask(other), os.getpid()


def environment(name: str) -> tuple[str | None, str]:
    return os.environ.get(name), str(Path.cwd())


def read(path: str) -> str:
    return Path(path).read_text(encoding="utf-8")


def refuse() -> None:
    raise SourceRefused("aws", "cannot load aws: no.", period="2026-10")


def fail_check() -> None:
    raise CheckFailed("sums", [{"a": 1}], period="2026-10")


class Odd(Exception):
    """Cannot be pickled."""

    def __init__(self, one: str, other: object) -> None:
        super().__init__(one)
        self.other = other


def be_odd() -> None:
    raise Odd("what happened", lambda: None)


def warn() -> str:
    warnings.warn("look at this", UserWarning, stacklevel=1)
    return "done"


def eat(megabytes: int) -> int:
    held = []
    for _ in range(megabytes):
        held.append(b"x" * 1_000_000)
        time.sleep(0.001)
    return len(held)


def reserve(gigabytes: int) -> int:
    import mmap

    with mmap.mmap(-1, gigabytes << 30) as space:
        return len(space)


def read_mapped(path: str) -> int:
    """Read every page of a mapped file."""
    import mmap

    with Path(path).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        found = sum(mapped[at] for at in range(0, len(mapped), 4096))
        time.sleep(0.1)
        return found


def wait(note: Callable[[str], None] | None = None) -> None:
    if note is not None:
        note(str(os.getpid()))
    time.sleep(600)


def work(*, note: Callable[[str], None]) -> None:
    note(str(os.getpid()))
    while True:
        pass


def crash() -> None:
    ctypes.string_at(0)


def leave() -> None:
    os._exit(3)


def stop_in_the_middle(*, note: Callable[[str], None]) -> Any:
    note(str(os.getpid()))
    os.kill(os.getpid(), signal.SIGSTOP)


def print_something() -> None:
    sys.stdout.write("on the command's output")
    sys.stdout.flush()
    os.write(1, b"and below it")
