"""Read-only pages for Airflow's plug-in and for `runspend serve`: the finished reports, and the explanation of a run.

Whoever serves the pages decides who may see them (`guard`); nothing here writes anything.
"""

from runspend.interfaces.web.app import LOOPBACK, create_app

__all__ = ["LOOPBACK", "create_app"]
