"""A dataset of the emulator, which tests use through Google's own client."""

from __future__ import annotations

import io
import uuid
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.cloud import bigquery

from tests.servers.bigquery import PROJECT, BigQueryServer

__all__ = ["Dataset", "dataset", "scalar"]


class Dataset:
    """A test's own dataset."""

    def __init__(self, client: Any, name: str) -> None:
        self.client, self.name = client, name

    def submit(self, sql: str, *parameters: Any, **more: Any) -> Any:
        """Start a query job with this dataset as its default."""
        job_id = more.pop("job_id", None)
        config = bigquery.QueryJobConfig(default_dataset=f"{PROJECT}.{self.name}", query_parameters=list(parameters), **more)
        return self.client.query(sql, job_config=config, job_id=job_id, retry=None, job_retry=None)

    def run(self, sql: str, *parameters: Any, **more: Any) -> list[tuple[Any, ...]]:
        """Run a query and return its rows."""
        return [tuple(row.values()) for row in self.submit(sql, *parameters, **more).result(retry=None, job_retry=None, timeout=60)]

    def types(self, table: str) -> dict[str, str]:
        """Return the columns and types of a table as get_table shows them."""
        return {field.name: field.field_type for field in self.client.get_table(f"{self.name}.{table}").schema}

    def load(self, table: str, rows: pa.Table, *, job_id: str | None = None, size: int | None = None, **more: Any) -> Any:
        """Upload a Parquet file. Without a size, the upload is resumable."""
        file = io.BytesIO()
        pq.write_table(rows, file)
        parquet = bigquery.ParquetOptions()
        parquet.enable_list_inference = True
        config = bigquery.LoadJobConfig(source_format="PARQUET", parquet_options=parquet, **more)
        return self.client.load_table_from_file(file, f"{self.name}.{table}", rewind=True, size=size, job_id=job_id, job_config=config)


@pytest.fixture
def dataset(bigquery_server: BigQueryServer) -> Iterator[Dataset]:
    client = bigquery_server.client()
    name = f"test_{uuid.uuid4().hex[:8]}"
    client.create_dataset(name)
    yield Dataset(client, name)
    client.delete_dataset(name, delete_contents=True)
    client.close()


def scalar(name: str, type_: str, value: Any) -> Any:
    return bigquery.ScalarQueryParameter(name, type_, value)
