"""BigQuery jobs: queries, loads and scripts, each with a cost limit, labels, and an id where it matters.

Only this module and `tables.py`, which describes tables, know Google's client. If a job's reply is lost, Runspend finds the job by its id
and waits for it. It never sends the job again. `warehouse.py` and its neighbors decide which queries run on which tables.

Sources: BigQuery "Managing jobs" (job ids are unique in a project, a second one of the same id is refused with 409), "Run
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
ATTACH_TRIES = 3  # attempts of a load whose reply was lost before BigQuery knew the job
# BigQuery's messages when two transactions change one table, or when it lacks capacity for a short time: a retry may succeed.
TRANSIENT = ("aborted due to concurrent update", "Could not serialize access", "rateLimitExceeded", "jobRateLimitExceeded", "backendError")


class NotAllowed(ConfigError):
    """BigQuery knows the account and refuses: it may be allowed to read but not to write."""


class AlreadyThere(RunspendError):
    """Another process created a dataset of that name."""


class Changed(RunspendError):
    """Another process changed the object since it was read."""


class NotThere(RunspendError):
    """A dataset, table or job that BigQuery does not know."""


class Statement(NamedTuple):
    """GoogleSQL and its named parameters. Parameters that it does not use are not sent."""

    sql: str
    parameters: Mapping[str, Any] = {}


class Jobs:
    """Jobs of one project and place. Creating the object contacts no service."""

    def __init__(self, settings: WarehouseSettings, project: str) -> None:
        self.place = settings.uri
        self.location = settings.region
        self._settings = settings
        self._project = project
        self._clients: tuple[Any, Any] | None = None

    @property
    def client(self) -> Any:
        """Google's client, for requests that are not jobs: datasets, tables, lists of rows."""
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
        """Return the rows of one query: all of them over the Storage API as Arrow, or with `at_most` the first few without it.

        Money is decimal128(38, 22). Raises SqlRefused when it takes longer than `timeout` seconds, and cancels the job.
        """
        with self.translate_errors():
            rows = self._rows(statement, dataset, labels, session, at_most, timeout)
            return exact(rows.to_arrow(bqstorage_client=self._storage if at_most is None else None, create_bqstorage_client=False))

    def stream(
        self, statement: Statement, *, dataset: str, labels: Mapping[str, str], session: str | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Yield the same rows in batches, as BigQuery sends them."""
        with self.translate_errors():
            for batch in self._rows(statement, dataset, labels, session).to_arrow_iterable(bqstorage_client=self._storage):
                yield from exact(pa.Table.from_batches([batch])).to_batches()

    def run(self, statement: Statement, *, dataset: str, labels: Mapping[str, str]) -> None:
        """Run a statement without rows and wait for it. Running it twice must do no harm."""
        with self.translate_errors():
            self.client.query(statement.sql, job_config=self._config(statement, dataset, labels), location=self.location).result()

    def run_once(self, statement: Statement, job_id: str, *, dataset: str, labels: Mapping[str, str]) -> None:
        """Run a script that must not run twice. The job has an id; if the reply is lost, Runspend waits for the job with that id."""
        config = self._config(statement, dataset, labels)
        with self.translate_errors():
            self.attach(
                job_id, lambda: self.client.query(statement.sql, job_id=job_id, job_config=config, location=self.location, job_retry=None)
            ).result()

    def begin_session(self, *, dataset: str, labels: Mapping[str, str]) -> str:
        """Begin a session in a transaction: all its queries see the tables as they are now. Returns its id."""
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
        """Return the kind of statement, the bytes it would read, and its result columns, by a dry run, which costs nothing."""
        config = self._config(statement, dataset, {})
        config.dry_run, config.use_query_cache = True, False
        with self.translate_errors():
            job = self.client.query(statement.sql, job_config=config, location=self.location)
            return str(job.statement_type), int(job.total_bytes_processed or 0), job.schema

    def load(self, file: Path, table: str, schema: Sequence[Any], job_id: str, labels: Mapping[str, str]) -> None:
        """Load a Parquet file into a table that does not exist yet, and wait for it."""
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
            decimal_target_types=["BIGNUMERIC"],  # otherwise money with more than nine decimals is refused
        )

        def send() -> Any:
            with file.open("rb") as rows:
                return self.client.load_table_from_file(rows, table, job_id=job_id, job_config=config, location=self.location)

        with self.translate_errors():
            self.attach(job_id, send).result()

    def find(self, job_id: str) -> Any | None:
        """Return the job with that id; None if there never was one."""
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
        """Return the description of a table; None if there is none."""
        try:
            with self.translate_errors():
                return self.client.get_table(name)
        except NotThere:
            return None

    def attach(self, job_id: str, send: Callable[[], Any]) -> Any:
        """Send the job with that id, or find it if an earlier request, whose reply was lost, reached BigQuery."""
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
            ):  # not found: Runspend continued an upload that had already ended
                job = self.find(job_id)
                if job is not None:
                    return job
                if number == ATTACH_TRIES:
                    raise
        raise AssertionError("unreachable")

    @contextmanager
    def translate_errors(self) -> Iterator[None]:
        """Translate errors of Google's client to Runspend's, in words."""
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
                    "Set warehouse.credentials to one, or leave it out to take the credentials of the environment."
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
    messages = f"{error} {error.__cause__}"  # Runspend's error omits the reason
    return any(text in messages for text in TRANSIENT)


def _labels(labels: Mapping[str, str]) -> dict[str, str]:
    """Return labels in Google's form: lower-case letters, digits, dashes and underscores."""
    kept = {name: "".join(c if c.isalnum() and c.isascii() else "-" for c in value.lower()) for name, value in labels.items()}
    return {"runspend": "warehouse", **{name: value[:LABEL_LENGTH] for name, value in kept.items()}}


def _first_line(error: Exception) -> str:
    """Return Google's message without the address of its service and without the request."""
    text = str(getattr(error, "message", "") or error).splitlines()[0]
    return text.split("; reason:")[0].rstrip(".")
