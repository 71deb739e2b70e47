"""Read-only pages and the HTTP API, for Airflow's plug-in and for `runspend serve`.

The server of the pages decides who may see them (`guard`). This package writes nothing.
"""

from runspend.interfaces.web.access import Caller, groups_of
from runspend.interfaces.web.app import LOOPBACK, create_app

__all__ = ["LOOPBACK", "Caller", "create_app", "groups_of"]
