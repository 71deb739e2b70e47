"""The waiting process: imports what calls need, then forks itself for each call. `call.py` runs it as a script.

It has one thread and opens nothing, so that its forks are clean. It ends as soon as the caller ends, together with its call.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import pickle
import select
import signal
import socket
import sys
import warnings


def main() -> None:
    """Serve the caller at the other end of the socket whose number is the first argument."""
    sock = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the caller decides
    size = int.from_bytes(_read(sock, 8), "big")
    sys.path[:], before = pickle.loads(_read(sock, size))  # first, because the caller's package cannot be imported before
    from runspend.core.own_process.channel import REQUEST, Channel

    module, _, function = before.partition(":")
    getattr(importlib.import_module(module), function)()
    gc.collect()
    gc.freeze()  # a fork's garbage collection does not touch these objects
    awake, wake = socket.socketpair()
    for end in (awake, wake):
        end.setblocking(False)
    channel = Channel(sock)
    warnings.simplefilter("ignore")  # Python's warning about forks: Arrow's allocator has a thread, and supports them
    while True:
        try:
            message, files = channel.receive()
        except (EOFError, OSError):
            return
        if not message.startswith(REQUEST):
            continue
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake.fileno())
        child = os.fork()
        if child == 0:
            _become_the_call(channel, message[len(REQUEST) :], files)
        del message
        for file in files:
            os.close(file)
        status = _wait(child, sock, awake)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        with contextlib.suppress(OSError):
            channel.send(pickle.dumps(("ended", status)))


def _become_the_call(channel: object, message: bytes, files: list[int]) -> None:
    """Run the call in the fork; never returns."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    from runspend.core.own_process.child import serve

    try:
        serve(channel, message, files)  # type: ignore[arg-type]
    finally:
        os._exit(70)


def _wait(child: int, sock: socket.socket, awake: socket.socket) -> int:
    """Return the exit status of the call. If the caller ends first, end the call and this process."""
    events = select.poll()
    events.register(awake, select.POLLIN)
    events.register(sock, 0)  # hang-ups are always reported
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return status
        if any(number == sock.fileno() for number, _ in events.poll()):
            os.kill(child, signal.SIGKILL)
            os._exit(0)
        with contextlib.suppress(BlockingIOError):
            awake.recv(4096)


def _read(sock: socket.socket, size: int) -> bytes:
    found = b""
    while len(found) < size:
        piece = sock.recv(size - len(found))
        if not piece:
            os._exit(0)
        found += piece
    return found


if __name__ == "__main__":
    main()
