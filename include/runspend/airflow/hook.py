"""Defines the connection type `runspend`, which provides costs, SQL and explanations to tasks of your own DAGs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook

from runspend.airflow.options import config_path
from runspend.core.errors import RunspendError

if TYPE_CHECKING:
    from runspend.interfaces.library import Connection
    from runspend.interfaces.server_connection import ServerConnection


class RunspendHook(BaseHook):
    """Provides the result of `runspend.connect` for an Airflow connection.

    The connection's host is the address of a server (`runspend serve`, or Airflow's `…/runspend`). Its password is a token for this server.
    Without a host, the field `config` names a runspend.yaml on the worker. Without both, the hook uses the file of Runspend's DAGs.
    """

    conn_name_attr = "runspend_conn_id"
    default_conn_name = "runspend_default"
    conn_type = "runspend"
    hook_name = "Runspend"

    def __init__(self, runspend_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.runspend_conn_id = runspend_conn_id

    def get_conn(self) -> Connection | ServerConnection:
        """Return a connection with `costs()`, `sql()`, `explain()` and other methods. Raises RunspendError if it cannot be made."""
        from runspend.interfaces.library import connect

        found = self.get_connection(self.runspend_conn_id)
        host = str(found.host or "").rstrip("/")
        if host:
            return connect(_address(host, found.schema, found.port), found.password or None)
        return connect(found.extra_dejson.get("config") or config_path())

    def test_connection(self) -> tuple[bool, str]:
        """Return whether the connection works, and a sentence about it. The test query needs no table."""
        try:
            answer: Any = self.get_conn().sql("select 1 as one")
            return len(answer) == 1, "Runspend answers."
        except RunspendError as error:
            return False, str(error)


def _address(host: str, scheme: str | None, port: int | None) -> str:
    """Return the address of a server, with https unless the connection has another scheme, because a token is sent to it.

    For a server on this machine, the default is http.
    """
    if "://" not in host:
        is_here = host.partition("/")[0].partition(":")[0] in ("localhost", "127.0.0.1")
        host = f"{scheme or ('http' if is_here else 'https')}://{host}"
    before, between, path = host.partition("://")
    place, slash, rest = path.partition("/")
    return f"{before}{between}{place}{f':{port}' if port else ''}{slash}{rest}"
