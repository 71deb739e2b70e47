"""The demo: 45 days of a small company, made if nothing is configured: two MLflow stores, their artifacts, two matching bills.

    plan.py    which runs ran on which machine, from a seed; writes nothing
    stores.py  the runs, through MLflow's own client
    bills.py   the FOCUS files the clouds would have sent

Everything is in one separate folder, so that demo costs never mix with real ones.
"""

from runspend.interfaces.demo.world import World, make_world

__all__ = ["World", "make_world"]
