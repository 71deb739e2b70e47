"""Reads a billing export directly from BigQuery, as if it were a folder with one Parquet file per billing month.

Belongs here: the queries to BigQuery, and how their rows become a file. The formats know the meaning of the columns. Tests replace
`connect`: they use an emulator, or a fake if the emulator lacks a feature.

Google appends rows, even weeks later, but never changes a row. So a month is unchanged as long as it has the same number of rows and the
same newest `export_time`. Each load checks both with a query of two columns, and reads a whole month only if one of them changed.

BigQuery stores costs as doubles. They stay doubles in the file, also in lists, so that all of them are read through their shortest text.
So a credit that cancels its cost leaves exactly zero.

Sources: Google Cloud "Understand the Cloud Billing data tables in BigQuery", BigQuery "Query partitioned tables", "Control costs".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from runspend.config.settings import BillSource
from runspend.core.errors import ConfigError, MissingExtra, SourceRefused, SourceUnreachable, bill_named
from runspend.ingest.billing.file_sources import Entry
from runspend.storage.google_clients import bigquery_clients, read_credentials

SCHEME = "bigquery://"
ADDRESS = re.compile(r"(?P<project>(?:[a-z0-9.-]+:)?[a-z][a-z0-9-]+)[/.](?P<dataset>\w+)[/.](?P<table>[\w-]+)")
# BigQuery refuses a query that would read more bytes, before it costs anything. A month of a very large account has a tenth of this.
MAX_BYTES_BILLED = 1 << 40
RETRY_SECONDS = 120
JOB_LABELS = {"runspend": "bill"}

MONTHS = "select {month} as month, count(*) as row_count, max({exported}) as exported_at{partitions} from `{table}` group by 1"
ROWS = "select {columns} from `{table}` where {month} is not distinct from @month and {exported} <= @until{partitions}"
# Of a table that is partitioned by the day of arrival, only the days with rows of the month are read. The newest rows may not be in a
# partition yet.
PARTITIONS_OF_MONTH = ", min(_partitiontime) as first_partition, max(_partitiontime) as last_partition"
PARTITIONS_READ = " and (_partitiontime between @first and @last or _partitiontime is null)"


@dataclass(frozen=True)
class Export:
    """How a format reads its table.

    `month` is SQL for the month of the invoice ("202610"). `exported` is the column with the time at which a row was exported. `columns`
    are the top-level columns that are read.
    """

    month: str
    exported: str
    columns: Sequence[str]


@dataclass(frozen=True)
class Month:
    """A billing month in the table, with its number of rows and its newest export time."""

    month: str | None
    row_count: int
    exported_at: datetime
    first_partition: datetime | None = None
    last_partition: datetime | None = None


def open_table(source: BillSource, workdir: Path, export: Export) -> BigQueryTable | None:
    """Return the table at an address such as bigquery://project/dataset/table, or None for other addresses.

    Raises ConfigError if the address does not name a table.
    """
    uri = source.uri or ""
    if not uri.startswith(SCHEME):
        return None
    found = ADDRESS.fullmatch(uri.removeprefix(SCHEME))
    if not found:
        raise ConfigError(
            f"cannot load {bill_named(source.name)} from {uri}: that is not a BigQuery table. "
            "Set billing[].uri to bigquery://project/dataset/table, the table of the billing export."
        )
    return BigQueryTable(source, ".".join(found.groups()), workdir / "fetched", export)


def connect(source: BillSource, project: str) -> tuple[Any, Any]:
    """Return (BigQuery client, Storage API client). The second is None if the source has an endpoint of its own.

    With a key file, queries run in the project of the key.
    """
    try:
        credentials, own_project = read_credentials(str(source.credentials) if source.credentials else None)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"cannot load {bill_named(source.name)}: {source.credentials} is not the key file of a service account ({type(error).__name__}). "
            "Set billing[].credentials to one, or leave it out to use the credentials of the environment."
        ) from error
    return bigquery_clients(credentials, own_project or project, endpoint=source.endpoint)


class BigQueryTable:
    """A `FileSource` with the months of a table as files. It sends only `select` queries."""

    def __init__(self, source: BillSource, table: str, into: Path, export: Export) -> None:
        self._source, self._table, self._into, self._export = source, table, into, export
        self._connected: tuple[Any, Any] | None = None
        self._described: Any = None
        self._months: dict[str, Month] = {}

    def entries(self) -> list[Entry]:
        """Return one file per month. The stamp is the row count and the newest export time. The size is 0, because it is not known yet."""
        with self._errors():
            self._months = {self._file_name(found): found for found in self._list_months()}
        return [
            Entry(name, 0, found.exported_at, f"{found.row_count} rows until {found.exported_at.isoformat()}")
            for name, found in sorted(self._months.items())
        ]

    def fetch(self, entry: Entry) -> Path:
        """Fetch the rows that a month had when the months were listed. Raises SourceRefused if their number has changed."""
        month = self._months[entry.name]
        path = self._into / entry.name
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._errors():
            rows = self._write_rows(month, path)
        if rows != month.row_count:
            raise SourceRefused(
                self._source.name,
                f"cannot load {entry.name} of {bill_named(self._source.name)}: it has {rows} rows where {month.row_count} were counted, so it changed "
                "while it was read. Run the load again.",
            )
        return path

    def _file_name(self, found: Month) -> str:
        month = found.month or ""
        is_month = re.fullmatch(r"\d{4}(0[1-9]|1[0-2])", month)
        return f"billing_period={month[:4]}-{month[4:]}/rows.parquet" if is_month else "no-invoice-month/rows.parquet"

    def _list_months(self) -> list[Month]:
        sql = MONTHS.format(
            month=self._export.month,
            exported=self._export.exported,
            table=self._table,
            partitions=PARTITIONS_OF_MONTH if self._is_by_arrival() else "",
        )
        return [Month(**dict(row.items())) for row in self._ask(sql, {})]

    def _write_rows(self, month: Month, path: Path) -> int:
        """Write the month's rows as Parquet and return their number."""
        import pyarrow.parquet as pq

        parameters: dict[str, tuple[str, Any]] = {"month": ("STRING", month.month), "until": ("TIMESTAMP", month.exported_at)}
        if is_by_arrival := self._is_by_arrival():
            parameters |= {"first": ("TIMESTAMP", month.first_partition), "last": ("TIMESTAMP", month.last_partition)}
        sql = ROWS.format(
            columns=", ".join(self._columns()),
            month=self._export.month,
            exported=self._export.exported,
            table=self._table,
            partitions=PARTITIONS_READ if is_by_arrival else "",
        )
        writer, rows = None, 0
        for batch in self._ask(sql, parameters).to_arrow_iterable(bqstorage_client=self._clients()[1]):
            writer = writer or pq.ParquetWriter(path, batch.schema)
            writer.write_batch(batch)
            rows += batch.num_rows
        if writer:
            writer.close()
        return rows

    def _columns(self) -> list[str]:
        """Return SQL for the columns of the export that the table has. Types that Parquet does not have are read as strings."""
        there = {field.name: field.field_type for field in self._description().schema}
        wanted = [name for name in self._export.columns if name in there]
        return [f"cast({name} as string) as {name}" if there[name] in ("BIGNUMERIC", "BIGDECIMAL") else name for name in wanted]

    def _is_by_arrival(self) -> bool:
        partitioning = self._description().time_partitioning
        return partitioning is not None and partitioning.field is None

    def _description(self) -> Any:
        if self._described is None:
            from google.cloud.bigquery import DEFAULT_RETRY

            client, _ = self._clients()
            self._described = client.get_table(self._table, retry=DEFAULT_RETRY.with_timeout(RETRY_SECONDS))
        return self._described

    def _ask(self, sql: str, parameters: dict[str, tuple[str, Any]]) -> Any:
        """Run a query and return its rows. It has a limit of bytes, and a label that identifies it on the next bill."""
        from google.cloud.bigquery import DEFAULT_RETRY, QueryJobConfig, ScalarQueryParameter

        client, _ = self._clients()
        config = QueryJobConfig(
            labels=JOB_LABELS,
            maximum_bytes_billed=MAX_BYTES_BILLED,
            query_parameters=[ScalarQueryParameter(name, kind, value) for name, (kind, value) in parameters.items()],
        )
        retry = DEFAULT_RETRY.with_timeout(RETRY_SECONDS)
        return client.query(sql, job_config=config, location=self._description().location, retry=retry).result(retry=retry)

    def _clients(self) -> tuple[Any, Any]:
        if self._connected is None:
            self._connected = connect(self._source, self._table.split(".")[0])
        return self._connected

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Raise errors of Google's clients as SourceUnreachable. Their messages contain no secret keys."""
        try:
            from google.api_core.exceptions import GoogleAPIError
            from google.auth.exceptions import GoogleAuthError
            from requests.exceptions import RequestException
        except ImportError as error:
            raise MissingExtra("google-cloud-bigquery", "bigquery") from error
        try:
            yield
        except (GoogleAPIError, GoogleAuthError, RequestException) as error:
            raise SourceUnreachable(
                self._source.name,
                f"cannot read {self._source.uri} of {bill_named(self._source.name)}: {str(error).splitlines()[0]}. Check the address, the credentials and "
                "their rights: BigQuery Data Viewer on the dataset, BigQuery Job User and BigQuery Read Session User on the project.",
            ) from error
