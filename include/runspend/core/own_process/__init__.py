"""Call a function in a process of its own, with a limit on its memory and its time.

Put here what is the same for every such call: the process that waits, the one it makes, what goes between them, the watch.
Which functions need it, and what people read when one of them fails, belongs to the caller.

    caller ── `run` ──> waiting process (`server.py`: everything imported, one thread) ── fork ──> the call (`child.py`)

The waiting process starts once, beside other work if `prepare` is called early. Each call is a fork of it: clean memory, no lock,
engine or thread of the caller. Arguments, secrets too, go through a socket, never through a
command line or a file. Neither process outlives the caller. It is a wall against crashes and greed, not against hostile code: the
caller unpickles what the call returns.
"""

from __future__ import annotations

from runspend.core.own_process.call import prepare, run
from runspend.core.own_process.watch import Limits, ProcessFailed

__all__ = ["Limits", "ProcessFailed", "prepare", "run"]
