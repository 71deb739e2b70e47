"""The caller's side: start the waiting process, send it a call, answer its questions, watch it, and take the result or the failure."""

from __future__ import annotations

import atexit
import contextlib
import importlib
import os
import pickle
import socket
import subprocess
import sys
import threading
import warnings
import weakref
from collections.abc import Callable
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

from runspend.core.own_process.channel import REQUEST, Channel, pack
from runspend.core.own_process.limits import ENDS_WITHIN, LOOK_SECONDS, Limits, ProcessFailed, ProcessWatch

SERVER = Path(__file__).with_name("server.py")
MAX_IDLE = 2  # waiting processes that are kept


class CallTraceback(Exception):
    """Where a call failed in its own process, as text. It is the cause of the exception that came back."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


class _Server:
    """One waiting process, used by one call at a time."""

    def __init__(self, before: str) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, str(SERVER), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # output of a library must not end up in a command's JSON
                pass_fds=[theirs.fileno()],
                # OpenBLAS starts no threads before the fork. DuckDB returns freed memory at once, because calls have a memory limit.
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "DUCKDB_JE_MALLOC_CONF": ""},
            )
        self.before = before
        self.channel = Channel(ours)
        _all.add(self)
        first = pickle.dumps((list(sys.path), before))
        try:
            ours.sendall(len(first).to_bytes(8, "big") + first)
        except BaseException:
            self.close()
            raise
        ours.settimeout(LOOK_SECONDS)

    def close(self) -> None:
        """End the process and a call it is running; kill it if it does not end by itself."""
        self.channel.sock.close()
        try:
            self.process.wait(ENDS_WITHIN)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def forget(self) -> None:
        """Drop the process in a fork of the caller: it belongs to the caller."""
        self.channel.sock.close()
        self.process.returncode = 0


_all: weakref.WeakSet[_Server] = weakref.WeakSet()
_idle: list[_Server] = []
_taking = threading.Lock()


def warm_up(before: str) -> None:
    """Start a waiting process now if none waits, so that `run` finds it ready.

    `before` ("module:function") is what the process calls first, for its imports.
    """
    with contextlib.suppress(OSError):  # `run` tries again, and reports the reason
        with _taking:
            is_there = any(server.before == before for server in _idle)
        if not is_there:
            _keep(_Server(before))


def _keep(server: _Server) -> None:
    """Keep a process for the next call; end the one that has waited longest if enough are waiting."""
    with _taking:
        _idle.append(server)
        ending = _idle.pop(0) if len(_idle) > MAX_IDLE else None
    if ending is not None:
        ending.close()


def run(function: str, *given: Any, before: str, limits: Limits, **named: Any) -> Any:
    """Call `function` ("module:name") in its own process; return its result or raise its exception.

    Arguments and results are pickled. Callables among the named arguments and in their dataclasses stay here and run here, each time the call invokes them.
    Their exceptions end the call and are raised. Warnings are shown here. Raises ProcessFailed if the process ends without a result
    or exceeds a limit; then nothing that the call started is still running.
    """
    for is_last in (False, True):
        watch = ProcessWatch(limits)
        try:
            message = _run_in(_take(before, watch), function, given, named, watch)
            break
        except ProcessFailed:
            if watch.has_begun or is_last:
                raise  # otherwise the waiting process has died before the call began, and a new one is started
    if message[0] == "raised":
        _, error, traceback_text = message
        if error.__cause__ is None:
            error.__cause__ = CallTraceback(traceback_text)
        raise error
    return message[1]


def _take(before: str, watch: ProcessWatch) -> _Server:
    """Return a waiting process, or a new one."""
    with _taking:
        server = next((server for server in _idle if server.before == before), None)
        if server is not None:
            _idle.remove(server)
    if server is not None:
        if server.process.poll() is None:
            return server
        server.close()  # the process died while waiting
    try:
        return _Server(before)
    except OSError as error:
        raise ProcessFailed("start", 0, watch.seconds) from error


def _run_in(server: _Server, function: str, given: tuple[Any, ...], named: dict[str, Any], watch: ProcessWatch) -> tuple[Any, ...]:
    """Run one call in a waiting process; keep the process for the next call if it still waits afterwards."""
    is_over, message = False, None
    try:
        message, status = _converse(server, function, given, named, watch)
        is_over = True
    except (EOFError, ConnectionError) as error:
        raise ProcessFailed(watch.broken or "ended", watch.peak_bytes, watch.seconds) from error
    finally:
        if not is_over:
            watch.kill()
        watch.end()
        # After a killed call the socket may hold an unread answer, which the next call would take for its own.
        if is_over and message is not None:
            _keep(server)
        else:
            server.close()
    if message is None:
        raise ProcessFailed(watch.broken or "ended", watch.peak_bytes, watch.seconds, status)
    return message


def _callables(named: dict[str, Any]) -> list[Callable[..., Any]]:
    """Return the callables among the named arguments, and in those that are dataclasses."""
    parts = [part for thing in named.values() if is_dataclass(thing) for part in vars(thing).values()]
    return [thing for thing in (*named.values(), *parts) if callable(thing)]


def _umask() -> int:
    """Return the umask of this process. Linux lists it; elsewhere it is known only by setting it, for a moment to the narrowest."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        return next(int(line.split()[1], 8) for line in lines if line.startswith("Umask:"))
    except (OSError, StopIteration):
        umask = os.umask(0o077)
        os.umask(umask)
        return umask


def _converse(
    server: _Server, function: str, given: tuple[Any, ...], named: dict[str, Any], watch: ProcessWatch
) -> tuple[tuple[Any, ...] | None, int]:
    """Send the call and answer it until it ends. Returns the message with its result or exception, if any, and its exit status."""
    channel, calls = server.channel, _callables(named)
    request = {
        "function": function,
        "given": given,
        "named": named,
        "environment": dict(os.environ),
        "folder": str(Path.cwd()),
        "umask": _umask(),
    }
    message, files = pack(request, calls)
    channel.send(REQUEST + message, files, watch.look)
    final: tuple[Any, ...] | None = None
    shown: dict[Any, Any] = {}
    while True:
        found = pickle.loads(channel.receive(watch.look)[0])
        watch.heard()
        watch.look()
        if found[0] == "started":
            watch.begin(found[1])
        elif found[0] == "call":
            answer = calls[found[1]](*found[2], **found[3])
            channel.send(pickle.dumps(answer), waiting=watch.look)
        elif found[0] == "warning":
            _show(shown, *found[1:])
        elif found[0] == "ended":
            return final, found[1]
        else:
            final = found


def _show(shown: dict[Any, Any], text: str, module: str, name: str, filename: str, lineno: int) -> None:
    """Show a warning of the call, under the filters of this process."""
    category: Any = Warning
    with contextlib.suppress(ImportError, AttributeError):
        category = getattr(importlib.import_module(module), name)
    warnings.warn_explicit(text, category, filename, lineno, registry=shown)


def _close_all() -> None:
    with _taking:
        waiting = _idle[:]
        _idle.clear()
    for server in waiting:
        server.close()


def _forget_all() -> None:
    global _taking
    _taking = threading.Lock()  # another thread of the caller may have held it, and nothing would release it here
    for server in list(_all):
        server.forget()
    _idle.clear()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_forget_all)
