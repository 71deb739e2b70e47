"""A small company's 45 days, made when nothing is configured: two MLflow stores, their artifacts, two bills that fit.

    plan.py    who ran what on which machine, from a seed; nothing is written
    stores.py  the runs, through MLflow's own client
    bills.py   the FOCUS files the clouds would have sent

Everything lies in one folder of its own, so that its dollars never meet real ones.
"""

from runspend.interfaces.demo.world import World, make_world

__all__ = ["World", "make_world"]
