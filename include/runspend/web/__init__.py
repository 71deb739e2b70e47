"""Read-only pages over the finished reports, for Airflow's plug-in and for `runspend serve`.

Whoever serves the pages decides who may see them (`guard`); nothing here reads the warehouse or writes anything.
"""

from runspend.web.app import LOOPBACK, create_app

__all__ = ["LOOPBACK", "create_app"]
