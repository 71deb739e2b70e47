"""Messages between the caller and its process: whole messages, open files, and objects with callables that run at the other end.

This module defines the transport. `call.py`, `server.py` and `child.py` define who sends what and when.
"""

from __future__ import annotations

import io
import os
import pickle
import re
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Any

HEAD = struct.Struct(">QB")  # bytes of the message, and whether open files precede it
REQUEST = b"R"  # the first byte of a call; an answer that came too late for its call does not have it
PIECE_BYTES = 1 << 20
MAX_FILES = 64
LENT_FILE = re.compile(r"/proc/(\d+|self)/fd/(\d+)")


class Channel:
    """One end of a connected pair of sockets."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def send(self, message: bytes, files: Sequence[int] = (), waiting: Callable[[], None] = lambda: None) -> None:
        """Send a whole message. The other end gets copies of the descriptors `files`. `waiting` as for `receive`."""
        self._write(HEAD.pack(len(message), bool(files)), waiting)
        while files:
            try:
                socket.send_fds(self.sock, [b"f"], list(files))
                break
            except TimeoutError:
                waiting()
        self._write(message, waiting)

    def receive(self, waiting: Callable[[], None] = lambda: None) -> tuple[bytes, list[int]]:
        """Return the next message and its files. Calls `waiting` whenever the socket times out without a byte. Raises EOFError."""
        size, has_files = HEAD.unpack(self._read(HEAD.size, waiting))
        files: list[int] = []
        if has_files:
            flag, files, _, _ = socket.recv_fds(self.sock, 1, MAX_FILES)
            if not flag:
                raise EOFError
        return self._read(size, waiting), files

    def _write(self, message: bytes, waiting: Callable[[], None]) -> None:
        left = memoryview(message)
        while left:
            try:
                left = left[self.sock.send(left[:PIECE_BYTES]) :]
            except TimeoutError:
                waiting()

    def _read(self, size: int, waiting: Callable[[], None]) -> bytes:
        found = bytearray()
        while len(found) < size:
            try:
                piece = self.sock.recv(min(size - len(found), PIECE_BYTES))
            except TimeoutError:
                waiting()
                continue
            if not piece:
                raise EOFError
            found += piece
        return bytes(found)


class Packer(pickle.Pickler):
    """Pickles a call. Callables of the caller become numbers, by which the other end invokes them.

    Files that only this process can open (`/proc/<its id>/fd/7`: keys lent in memory) travel as descriptors.
    """

    def __init__(self, into: io.BytesIO, calls: Sequence[Callable[..., Any]]) -> None:
        super().__init__(into, protocol=pickle.HIGHEST_PROTOCOL)
        self._calls = {id(call): number for number, call in enumerate(calls)}
        self.files: list[int] = []

    def persistent_id(self, thing: Any) -> tuple[str, int] | None:
        if (number := self._calls.get(id(thing))) is not None:
            return "call", number
        if type(thing) is str and (lent := LENT_FILE.fullmatch(thing)) and lent[1] in ("self", str(os.getpid())):
            self.files.append(int(lent[2]))
            return "file", len(self.files) - 1
        return None


def pack(thing: Any, calls: Sequence[Callable[..., Any]]) -> tuple[bytes, list[int]]:
    """Return an object as bytes, with the descriptors that belong to it."""
    into = io.BytesIO()
    packer = Packer(into, calls)
    packer.dump(thing)
    return into.getvalue(), packer.files


class Unpacker(pickle.Unpickler):
    """Unpickles a call: `ask(number, …)` replaces a callable of the caller."""

    def __init__(self, message: bytes, files: Sequence[int], ask: Callable[..., Any]) -> None:
        super().__init__(io.BytesIO(message))
        self._files = files
        self._ask = ask

    def persistent_load(self, known: Any) -> Any:
        kind, number = known
        if kind == "file":
            return f"/proc/{os.getpid()}/fd/{self._files[number]}"
        return lambda *given, **named: self._ask(number, given, named)
