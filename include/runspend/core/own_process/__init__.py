"""Call a function in its own process, with limits on its memory and time.

This package has what all such calls share: the waiting process, its forks, the messages between them, the watch. The caller decides
which functions need it, and the message when one fails.

    caller ── `run` ──> waiting process (`server.py`: everything imported, one thread) ── fork ──> the call (`child.py`)

The waiting process starts once, in parallel with other work if `warm_up` is called early. Each call is a fork of it, with clean
memory and without the caller's locks, engines and threads. Arguments, including secrets, travel through a socket, never on a
command line or in a file. Neither process outlives the caller. This protects against crashes and excessive use, not against hostile
code: the caller unpickles the result.
"""

from __future__ import annotations

from runspend.core.own_process.call import run, warm_up
from runspend.core.own_process.limits import Limits, ProcessFailed

__all__ = ["Limits", "ProcessFailed", "run", "warm_up"]
