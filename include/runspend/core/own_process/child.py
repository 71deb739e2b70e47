"""The process of one call: takes over the caller's environment, folder and umask, does the work, and sends the result."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import importlib
import os
import pickle
import resource
import signal
import threading
import traceback
import warnings
from pathlib import Path
from typing import Any

from runspend.core.own_process.channel import Channel, Unpacker

PR_SET_PDEATHSIG = 1
FIRST_TO_GO = "1000"  # if the system runs out of memory, it kills this process first


def serve(channel: Channel, message: bytes, files: list[int]) -> None:
    """Run one call and end the process."""
    parent = os.getppid()
    _die_with(parent)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would contain secrets
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(FIRST_TO_GO, encoding="ascii")
    faulthandler.enable()  # a crash reports its place among the messages of the command
    caller = _Caller(channel)
    caller.tell("started", os.getpid())
    try:
        call = Unpacker(message, files, caller.ask).load()
        os.environ.clear()
        os.environ.update(call["environment"])
        os.chdir(call["folder"])
        os.umask(call["umask"])
        warnings.resetwarnings()
        warnings.simplefilter("always")  # the caller's filters decide
        warnings.showwarning = caller.warn  # type: ignore[assignment]
        module, _, name = call["function"].partition(":")
        answer = _pickled("result", getattr(importlib.import_module(module), name)(*call["given"], **call["named"]))
    except BaseException as error:  # noqa: BLE001  # every error belongs to the caller
        answer = _packed_error(error)
    channel.send(answer)
    os._exit(0)


class _Caller:
    """The other end, for the threads of this process."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._one_asks = threading.Lock()

    def tell(self, *things: object) -> None:
        """Send a message."""
        with self._one_asks:
            self._channel.send(_pickled(*things))

    def ask(self, number: int, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Have the caller invoke its callable with this number."""
        with self._one_asks:
            self._channel.send(_pickled("call", number, given, named))
            try:
                return pickle.loads(self._channel.receive()[0])
            except (EOFError, OSError):
                os._exit(71)  # the caller has ended

    def warn(self, message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: object) -> None:
        """Send a warning for the caller to show."""
        self.tell("warning", str(message), category.__module__, category.__qualname__, filename, lineno)


def _pickled(*things: object) -> bytes:
    return pickle.dumps(things, protocol=pickle.HIGHEST_PROTOCOL)


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent ends for any reason."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "prctl"):
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(71)


def _packed_error(error: BaseException) -> bytes:
    """Pickle an exception with its type, or a description of one that cannot be pickled."""
    traceback_text = "".join(traceback.format_exception(error))
    with contextlib.suppress(Exception):  # anything may be raised while pickling
        packed = _pickled("raised", error, traceback_text)
        if type(pickle.loads(packed)[1]) is type(error):
            return packed
    return _pickled("raised", RuntimeError(f"{type(error).__name__}: {error}"), traceback_text)
