"""The waiting process: imports what calls need, then makes a process of itself for each call. Run as a script by `call.py`.

It has one thread of its own and opens nothing, so that a fork of it is clean. It ends as soon as the caller is gone, and its call with it.
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
    sys.path[:], before = pickle.loads(_read(sock, size))  # first of all: only now is the caller's package found
    from runspend.core.own_process.channel import REQUEST, Channel

    module, _, function = before.partition(":")
    getattr(importlib.import_module(module), function)()
    gc.collect()
    gc.freeze()  # what is there now is touched by no collection in a fork
    awake, wake = socket.socketpair()
    for end in (awake, wake):
        end.setblocking(False)
    channel = Channel(sock)
    warnings.simplefilter("ignore")  # of Python about forks: Arrow's allocator has a thread, and is made for them
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
    """In the fork: never returns."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    from runspend.core.own_process.child import serve

    try:
        serve(channel, message, files)  # type: ignore[arg-type]
    finally:
        os._exit(70)


def _wait(child: int, sock: socket.socket, awake: socket.socket) -> int:
    """The exit status of the call; if the caller goes first, both end."""
    events = select.poll()
    events.register(awake, select.POLLIN)
    events.register(sock, 0)  # a hang-up is told unasked
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
