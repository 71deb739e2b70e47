"""The demo: 45 days of a small company, created if nothing is configured. It has two MLflow stores with artifacts and two matching bills.

    plan.py    which runs ran on which machine, from a seed; writes nothing
    stores.py  the runs, through MLflow's own client
    bills.py   the FOCUS files that the clouds would send

Everything is in a separate folder, so demo costs never mix with real ones.
"""

from runspend.interfaces.demo.world import World, make_world

__all__ = ["World", "make_world"]
