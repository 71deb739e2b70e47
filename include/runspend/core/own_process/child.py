"""The process of one call: becomes what the caller is (environment, folder, umask), does the work, and sends what came of it."""

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
FIRST_TO_GO = "1000"  # of all processes, when the system runs out of memory


def serve(channel: Channel, message: bytes, files: list[int]) -> None:
    """Do one call and end the process."""
    parent = os.getppid()
    _die_with(parent)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a picture of memory would hold secrets
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(FIRST_TO_GO, encoding="ascii")
    faulthandler.enable()  # a crash says where, among the messages of the command
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
    except BaseException as error:  # noqa: BLE001  # whatever it is belongs to the caller
        answer = _packed_error(error)
    channel.send(answer)
    os._exit(0)


class _Caller:
    """The other end, for the threads of this process."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._one_asks = threading.Lock()

    def tell(self, *things: object) -> None:
        """Say something."""
        with self._one_asks:
            self._channel.send(_pickled(*things))

    def ask(self, number: int, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Have the caller call what it has under this number."""
        with self._one_asks:
            self._channel.send(_pickled("call", number, given, named))
            try:
                return pickle.loads(self._channel.receive()[0])
            except (EOFError, OSError):
                os._exit(71)  # the caller has ended

    def warn(self, message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: object) -> None:
        """A warning, for the caller to show."""
        self.tell("warning", str(message), category.__module__, category.__qualname__, filename, lineno)


def _pickled(*things: object) -> bytes:
    return pickle.dumps(things, protocol=pickle.HIGHEST_PROTOCOL)


def _die_with(parent: int) -> None:
    """Be killed when the process that made this one ends, however it ends."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "prctl"):
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(71)


def _packed_error(error: BaseException) -> bytes:
    """An exception with its type, or what can be said of one that does not travel."""
    told = "".join(traceback.format_exception(error))
    with contextlib.suppress(Exception):  # raised by what does not travel, of whatever kind
        packed = _pickled("raised", error, told)
        if type(pickle.loads(packed)[1]) is type(error):
            return packed
    return _pickled("raised", RuntimeError(f"{type(error).__name__}: {error}"), told)
