"""Find the runs that used a logged model, and the models that a run logged, in MLflow's database right before bytes are deleted.

Each question opens its own connection and reads a few rows by index. Nothing is copied or stored. The database reader of an extract is in
`ingest/tracking/database.py`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from typing import Any, Protocol
from urllib.parse import quote

from runspend.core.errors import SourceError, SourceUnreachable
from runspend.core.redaction import redact_error, uri_secrets
from runspend.ingest.tracking import revisions
from runspend.ingest.tracking.connections import load_drivers
from runspend.ingest.tracking.database import open_server, sqlite_path
from runspend.ingest.tracking.dialects import SQLITE, dialect_of, literal

IDS_ASKED = 500  # ids per query
WAIT_SECONDS = 5.0  # how long to wait at most while another process writes to a SQLite file
USERS = "select source_id from inputs where source_type = 'RUN_INPUT' and destination_type = 'MODEL_INPUT' and destination_id in ({ids})"
OUTPUTS = (
    "select destination_id from inputs where source_type = 'RUN_OUTPUT' and destination_type = 'MODEL_OUTPUT' and source_id in ({ids})"
)
SOURCES = "select model_id from logged_models where source_run_id in ({ids})"


class _Connection(Protocol):
    def scalars(self, sql: str) -> list[Any]: ...
    def close(self) -> None: ...


class _Sqlite:
    def __init__(self, uri: str) -> None:
        self._connection = sqlite3.connect(f"file:{quote(str(sqlite_path(uri)))}?mode=ro", uri=True, timeout=WAIT_SECONDS)

    def scalars(self, sql: str) -> list[Any]:
        return [row[0] for row in self._connection.execute(sql)]

    def close(self) -> None:
        self._connection.close()


class DatabaseUses:
    """Query one database. It must contain `newest`, the newest run of the last extract.

    This check rejects a replica that lags behind, and a wrong database.
    """

    def __init__(self, name: str, uri: str, newest: str | None) -> None:
        self._name, self._uri, self._newest = name, uri, newest

    def users_of(self, model_ids: Collection[str]) -> frozenset[str]:
        """Return the runs that have any of the models as an input. Raises SourceUnreachable if the database cannot be read."""
        return self._ask((USERS,), model_ids)

    def made_by(self, run_ids: Collection[str]) -> frozenset[str]:
        """Return the models that any of the runs logged. Raises SourceUnreachable if the database cannot be read."""
        return self._ask((OUTPUTS, SOURCES), run_ids)

    def _ask(self, queries: Collection[str], ids: Collection[str]) -> frozenset[str]:
        listed = sorted(ids)
        with self._look() as connection:
            if not self._has_models(connection):
                return frozenset()
            return frozenset(
                str(found)
                for query in queries
                for start in range(0, len(listed), IDS_ASKED)
                for found in connection.scalars(query.format(ids=", ".join(literal(text) for text in listed[start : start + IDS_ASKED])))
            )

    def _has_models(self, connection: _Connection) -> bool:
        """Return whether the database's schema has logged models.

        Raises SourceUnreachable if the schema revision is unknown, or if the newest run of the last extract is missing.
        """
        known = [str(found) for found in connection.scalars("select version_num from alembic_version")]
        if len(known) != 1 or known[0] not in revisions.REVISIONS:
            raise SourceUnreachable(
                self._name,
                f"cannot ask the database of {self._name}: its schema revision is {' and '.join(known) or 'none'}, which Runspend does not know.",
            )
        if self._newest is not None and not connection.scalars(f"select run_uuid from runs where run_uuid = {literal(self._newest)}"):
            raise SourceUnreachable(
                self._name, f"cannot ask the database of {self._name}: run {self._newest} is missing, which it had before."
            )
        return revisions.is_at_least(known[0], revisions.LOGGED_MODELS_SINCE)

    @contextmanager
    def _look(self) -> Iterator[_Connection]:
        failures: tuple[type[Exception], ...] = (OSError, sqlite3.Error)
        try:
            dialect = dialect_of(self._uri)
            if dialect is not SQLITE:
                failures = load_drivers(dialect)
            connection: _Connection = _Sqlite(self._uri) if dialect is SQLITE else open_server(self._uri)
            with closing(connection):
                yield connection
        except SourceError:
            raise
        except failures as error:
            shown = redact_error(error, uri_secrets(self._uri))
            raise SourceUnreachable(self._name, f"cannot ask the database of {self._name}: {shown}.") from None
