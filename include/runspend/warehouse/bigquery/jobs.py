"""BigQuery jobs: queries, loads and scripts. All have labels, queries have a cost limit, and jobs that must not run twice have an id.

Only this module and `tables.py`, which describes tables, use Google's client. If the reply to a job with an id is lost, Runspend finds the
job by this id and waits for it, so the job runs only once. `warehouse.py` and the modules next to it decide which queries run on which
tables.

Sources: BigQuery "Managing jobs" (job ids are unique in a project; a second job with the same id is refused with 409), "Run
parameterized queries", "Work with sessions", "Control costs"; google-cloud-bigquery `Client.query`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from runspend.config.settings import WarehouseSettings
from runspend.core.errors import ConfigError, MissingExtra, RunspendError, SourceUnreachable, SqlRefused, UsageError
from runspend.storage.google_clients import bigquery_clients, read_credentials
from runspend.warehouse.bigquery.values import exact, parameter

LABEL_LENGTH = 63
ATTACH_TRIES = 3  # attempts to send a job if the connection fails and BigQuery does not know the job
# Parts of BigQuery's messages if two transactions change one table, or if it lacks capacity for a short time. A retry may succeed.
TRANSIENT = ("aborted due to concurrent update", "Could not serialize access", "rateLimitExceeded", "jobRateLimitExceeded", "backendError")


class NotAllowed(ConfigError):
    """BigQuery refused a request because the account lacks the permission. It may still be allowed to read."""


class AlreadyThere(RunspendError):
    """A dataset or table of this name exists already."""


class Changed(RunspendError):
    """Another process has changed the object since it was read."""


class NotThere(RunspendError):
    """The dataset, table or job does not exist."""


class Statement(NamedTuple):
    """A GoogleSQL statement and its named parameters."""

    sql: str
    parameters: Mapping[str, Any] = {}


class Jobs:
    """Runs jobs of one project in one location. Creating the object sends no request."""

    def __init__(self, settings: WarehouseSettings, project: str) -> None:
        self.place = settings.uri
        self.location = settings.region
        self._settings = settings
        self._project = project
        self._clients: tuple[Any, Any] | None = None

    @property
    def client(self) -> Any:
        """Google's client, for requests that are not jobs, such as creating datasets and tables and listing rows."""
        if self._clients is None:
            self._clients = self._connect()
        return self._clients[0]

    def ask(
        self,
        statement: Statement,
        *,
        dataset: str,
        labels: Mapping[str, str],
        session: str | None = None,
        at_most: int | None = None,
        timeout: float | None = None,
    ) -> pa.Table:
        """Return the rows of one query. With `at_most`, return only the first `at_most` rows.

        All rows come over the Storage API, but a limited number of rows does not. Money is decimal128(38, 22).
        If the query takes longer than `timeout` seconds, its job is canceled and SqlRefused is raised.
        """
        with self.translate_errors():
            rows = self._rows(statement, dataset, labels, session, at_most, timeout)
            return exact(rows.to_arrow(bqstorage_client=self._storage if at_most is None else None, create_bqstorage_client=False))

    def stream(
        self, statement: Statement, *, dataset: str, labels: Mapping[str, str], session: str | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Yield the rows of one query in batches, in the sizes that BigQuery sends."""
        with self.translate_errors():
            for batch in self._rows(statement, dataset, labels, session).to_arrow_iterable(bqstorage_client=self._storage):
                yield from exact(pa.Table.from_batches([batch])).to_batches()

    def run(self, statement: Statement, *, dataset: str, labels: Mapping[str, str]) -> None:
        """Run a statement that returns no rows, and wait for it. It may run twice, so running it twice must do no harm."""
        with self.translate_errors():
            self.client.query(statement.sql, job_config=self._config(statement, dataset, labels), location=self.location).result()

    def run_once(self, statement: Statement, job_id: str, *, dataset: str, labels: Mapping[str, str]) -> None:
        """Run a script that must not run twice, and wait for it. If the reply is lost, Runspend waits for the job with this id."""
        config = self._config(statement, dataset, labels)
        with self.translate_errors():
            self.attach(
                job_id, lambda: self.client.query(statement.sql, job_id=job_id, job_config=config, location=self.location, job_retry=None)
            ).result()

    def begin_session(self, *, dataset: str, labels: Mapping[str, str]) -> str:
        """Begin a session with an open transaction and return its id. All queries in it see the tables as they are now."""
        config = self._config(Statement("begin transaction"), dataset, labels)
        config.create_session = True
        with self.translate_errors():
            job = self.client.query("begin transaction", job_config=config, location=self.location)
            job.result()
            return str(job.session_info.session_id)

    def end_session(self, session: str, *, dataset: str, labels: Mapping[str, str]) -> None:
        """End a session and release its resources."""
        with self.translate_errors():
            self._rows(Statement("call bq.abort_session()"), dataset, labels, session)

    def bytes_of(self, statement: Statement, *, dataset: str) -> tuple[str, int, Any]:
        """Return the type of a statement, the bytes that it would read, and its result columns. Uses a dry run, which costs nothing."""
        config = self._config(statement, dataset, {})
        config.dry_run, config.use_query_cache = True, False
        with self.translate_errors():
            job = self.client.query(statement.sql, job_config=config, location=self.location)
            return str(job.statement_type), int(job.total_bytes_processed or 0), job.schema

    def load(self, file: Path, table: str, schema: Sequence[Any], job_id: str, labels: Mapping[str, str]) -> None:
        """Load a Parquet file into a new table, and wait for it."""
        from google.cloud.bigquery import LoadJobConfig, SourceFormat
        from google.cloud.bigquery.format_options import ParquetOptions

        options = ParquetOptions()  # type: ignore[no-untyped-call]  # Google's, without types
        options.enable_list_inference = True
        config = LoadJobConfig(
            source_format=SourceFormat.PARQUET,
            schema=schema,
            write_disposition="WRITE_EMPTY",
            labels=_labels(labels),
            parquet_options=options,
            decimal_target_types=["BIGNUMERIC"],  # NUMERIC would refuse money with more than nine decimals
        )

        def send() -> Any:
            with file.open("rb") as rows:
                return self.client.load_table_from_file(rows, table, job_id=job_id, job_config=config, location=self.location)

        with self.translate_errors():
            self.attach(job_id, send).result()

    def find(self, job_id: str) -> Any | None:
        """Return the job with this id, or None if it was never sent."""
        try:
            with self.translate_errors():
                return self.client.get_job(job_id, location=self.location)
        except NotThere:
            return None

    def has_failed(self, job: Any) -> bool:
        """Wait for a job and return whether it failed."""
        with self.translate_errors():
            return job.exception() is not None

    def find_table(self, name: str) -> Any | None:
        """Return the description of a table, or None if the table does not exist."""
        try:
            with self.translate_errors():
                return self.client.get_table(name)
        except NotThere:
            return None

    def attach(self, job_id: str, send: Callable[[], Any]) -> Any:
        """Send the job with this id and return it. If an earlier request already reached BigQuery, return the job of that request."""
        from google.api_core.exceptions import Conflict, NotFound, RetryError, ServerError
        from requests.exceptions import ConnectionError as ConnectionLost
        from requests.exceptions import Timeout

        for number in range(1, ATTACH_TRIES + 1):
            try:
                return send()
            except Conflict:
                return self.client.get_job(job_id, location=self.location)
            except (
                ConnectionLost,
                Timeout,
                RetryError,
                ServerError,
                NotFound,
            ):  # NotFound: the client continued an upload that had already ended
                job = self.find(job_id)
                if job is not None:
                    return job
                if number == ATTACH_TRIES:
                    raise
        raise AssertionError("unreachable")

    @contextmanager
    def translate_errors(self) -> Iterator[None]:
        """Translate errors of Google's client to Runspend's errors, with advice."""
        try:
            from google.api_core.exceptions import BadRequest, Conflict, Forbidden, GoogleAPIError, NotFound, PreconditionFailed
            from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError
            from requests.exceptions import RequestException
        except ImportError as error:
            raise MissingExtra("google-cloud-bigquery", "bigquery") from error
        try:
            yield
        except NotFound as error:
            raise NotThere(f"cannot use warehouse {self.place}: {_first_line(error)}.") from error
        except Conflict as error:
            raise AlreadyThere(f"cannot make a dataset or table in warehouse {self.place}: {_first_line(error)}.") from error
        except PreconditionFailed as error:
            raise Changed(f"cannot describe a table in warehouse {self.place}: {_first_line(error)}.") from error
        except Forbidden as error:
            raise NotAllowed(
                f"cannot use warehouse {self.place}: {_first_line(error)}. docs/bigquery.md lists the roles each step needs, and how quotas are raised."
            ) from error
        except BadRequest as error:
            raise self._of_limit(error) or UsageError(f"cannot run the SQL: {_first_line(error)}") from error
        except DefaultCredentialsError as error:
            raise ConfigError(
                f"cannot open warehouse {self.place}: {_first_line(error)}. Set warehouse.credentials to the key file of a service account, "
                "or leave it out and run: gcloud auth application-default login"
            ) from error
        except (GoogleAPIError, GoogleAuthError, RequestException) as error:
            if limit := self._of_limit(error):  # Google's client turns it into a 500
                raise limit from error
            advice = "Check network, credentials and roles, then run again: it continues from there."
            raise SourceUnreachable("warehouse", f"cannot use warehouse {self.place}: {_first_line(error)}. {advice}") from error

    def _of_limit(self, error: Exception) -> ConfigError | None:
        if "bytes billed" not in str(error):
            return None
        return ConfigError(
            f"cannot run the query on {self.place}: {_first_line(error)}. It would read more than warehouse.maximum_bytes_billed "
            f"({self._settings.maximum_bytes_billed.human_readable()}) allows; raise it, or query less."
        )

    def _connect(self) -> tuple[Any, Any]:
        settings = self._settings
        with self.translate_errors():
            try:
                credentials, _ = read_credentials(settings.credentials)
            except (OSError, ValueError) as error:
                raise ConfigError(
                    f"cannot open warehouse {settings.uri}: {settings.credentials} is not the key file of a service account ({type(error).__name__}). "
                    "Set warehouse.credentials to a key file, or leave it out to use the credentials of the environment."
                ) from error
            return bigquery_clients(credentials, self._project, endpoint=settings.endpoint, location=settings.region)

    @property
    def _storage(self) -> Any:
        assert self._clients is not None
        return self._clients[1]

    def _rows(
        self,
        statement: Statement,
        dataset: str,
        labels: Mapping[str, str],
        session: str | None,
        at_most: int | None = None,
        timeout: float | None = None,
    ) -> Any:
        from concurrent.futures import TimeoutError as TookTooLong  # differs from Python's own before 3.11

        from google.cloud.bigquery import ConnectionProperty

        config = self._config(statement, dataset, labels)
        if session is not None:
            config.connection_properties = [ConnectionProperty("session_id", session)]
        job = self.client.query(statement.sql, job_config=config, location=self.location)
        try:
            return job.result(max_results=at_most, **({} if timeout is None else {"timeout": timeout}))
        except TookTooLong as error:
            job.cancel()
            raise SqlRefused(
                f"cannot answer: it took longer than {timeout:g} s and was stopped. Nothing was changed. Query less, or raise the time limit."
            ) from error

    def _config(self, statement: Statement, dataset: str, labels: Mapping[str, str]) -> Any:
        from google.cloud.bigquery import QueryJobConfig

        return QueryJobConfig(
            default_dataset=dataset,
            labels=_labels(labels),
            maximum_bytes_billed=int(self._settings.maximum_bytes_billed),
            query_parameters=[parameter(name, value) for name, value in statement.parameters.items()],
        )


def is_transient(error: Exception) -> bool:
    """Whether the error means that a retry shortly afterwards may succeed."""
    messages = f"{error} {error.__cause__}"  # Runspend's message omits Google's reason, but the cause has it
    return any(text in messages for text in TRANSIENT)


def _labels(labels: Mapping[str, str]) -> dict[str, str]:
    """Return the labels with values that Google accepts: lower-case letters, digits and dashes, at most LABEL_LENGTH characters."""
    kept = {name: "".join(c if c.isalnum() and c.isascii() else "-" for c in value.lower()) for name, value in labels.items()}
    return {"runspend": "warehouse", **{name: value[:LABEL_LENGTH] for name, value in kept.items()}}


def _first_line(error: Exception) -> str:
    """Return the first line of Google's message, without the address of the request and without the reason code."""
    text = str(getattr(error, "message", "") or error).splitlines()[0]
    return text.split("; reason:")[0].rstrip(".")
