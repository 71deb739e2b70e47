"""Points at which tests kill a process, to see what a crash there leaves behind. In production they do nothing."""

from __future__ import annotations

import os
import signal


def crash_point(name: str) -> None:
    """Kill the process here if RUNSPEND_CRASH_AT names this point."""
    if os.environ.get("RUNSPEND_CRASH_AT") == name:
        os.kill(os.getpid(), signal.SIGKILL)
