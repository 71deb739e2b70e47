"""Starts `live_costs.py` if a price list is named. Without one, the process does not even import it."""

from __future__ import annotations

import os

from runspend.interfaces.identify.environment import PRICES


def start_live_costs() -> None:
    """Begin to count what the runs of this process cost, if RUNSPEND_PRICES names a price list."""
    if os.environ.get(PRICES, "").strip():
        from runspend.interfaces.identify import live_costs

        live_costs.start()
