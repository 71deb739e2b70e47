"""Forward TCP connections to one port of one host, and nothing else. It shields a server that opens more ports than it should.

Usage: python forward.py LISTEN_PORT HOST PORT
"""

from __future__ import annotations

import asyncio
import signal
import sys

CHUNK = 1 << 18


async def forward(port: int, host: str, to: int) -> None:
    """Serve until SIGTERM."""

    running: set[asyncio.Task[None] | None] = set()  # asyncio itself forgets a connection that only waits

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        running.add(asyncio.current_task())
        try:
            far_reader, far_writer = await asyncio.open_connection(host, to, limit=CHUNK)
            await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer))
        except OSError:
            pass  # the other end does not answer: the caller sees a closed connection and tries again
        finally:
            writer.close()
            running.discard(asyncio.current_task())

    server = await asyncio.start_server(serve, "0.0.0.0", port, limit=CHUNK)
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()
    server.close()


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy one direction of a connection to its end. An end of input is passed on; a lost connection also ends the other direction."""
    try:
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except OSError:
        writer.close()


if __name__ == "__main__":
    asyncio.run(forward(int(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
