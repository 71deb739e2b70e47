"""Start `live_costs.py` if RUNSPEND_PRICES is set. Otherwise, the process does not even import it."""

from __future__ import annotations

import os

from runspend.interfaces.identify.environment import PRICES


def start_live_costs() -> None:
    """Start counting the cost of the runs of this process, if RUNSPEND_PRICES is set."""
    if os.environ.get(PRICES, "").strip():
        from runspend.interfaces.identify import live_costs

        live_costs.start()
