"""The emulator the tests take for BigQuery does what BigQuery's documentation says, as far as the product relies on it.

Asked through Google's own client. That the documentation is true of Google's BigQuery is not shown here.
"""

from __future__ import annotations

import datetime as dt
import io
import uuid
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.api_core.exceptions import BadRequest, Conflict, GoogleAPIError, NotFound
from google.cloud import bigquery

from tests.servers.bigquery import PROJECT, BigQueryServer, bigquery_server

__all__ = ["bigquery_server"]

UTC = dt.timezone.utc
AT = dt.datetime(2026, 10, 1, 12, 30, 0, 1, tzinfo=UTC)
DAY = dt.date(2026, 10, 1)


class Dataset:
    """A dataset of its own, and how a test talks to it."""

    def __init__(self, client: Any, name: str) -> None:
        self.client, self.name = client, name

    def submit(self, sql: str, *parameters: Any, **more: Any) -> Any:
        """A query job with this dataset as its default."""
        job_id = more.pop("job_id", None)
        config = bigquery.QueryJobConfig(default_dataset=f"{PROJECT}.{self.name}", query_parameters=list(parameters), **more)
        return self.client.query(sql, job_config=config, job_id=job_id, retry=None, job_retry=None)

    def run(self, sql: str, *parameters: Any, **more: Any) -> list[tuple[Any, ...]]:
        """Its rows."""
        return [tuple(row.values()) for row in self.submit(sql, *parameters, **more).result(retry=None, job_retry=None, timeout=60)]

    def types(self, table: str) -> dict[str, str]:
        """Columns and types of a table, as get_table shows them."""
        return {field.name: field.field_type for field in self.client.get_table(f"{self.name}.{table}").schema}

    def load(self, table: str, rows: pa.Table, *, job_id: str | None = None, size: int | None = None, **more: Any) -> Any:
        """Upload a Parquet file; without a size it is a resumable upload."""
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


# --- types -------------------------------------------------------------------------------------------------------------

SMALL = Decimal("0.0000000000000000000001")
SCHEMA = [
    bigquery.SchemaField("name", "STRING", mode="REQUIRED"),
    bigquery.SchemaField("cost", "BIGNUMERIC"),
    bigquery.SchemaField("price", "NUMERIC"),
    bigquery.SchemaField("at", "TIMESTAMP"),
    bigquery.SchemaField("day", "DATE"),
    bigquery.SchemaField("words", "STRING", mode="REPEATED"),
    bigquery.SchemaField("number", "INT64"),
    bigquery.SchemaField("share", "FLOAT64"),
    bigquery.SchemaField("is_it", "BOOL"),
]
TYPES = {"name": "STRING", "cost": "BIGNUMERIC", "price": "NUMERIC", "at": "TIMESTAMP", "day": "DATE", "words": "STRING", "number": "INTEGER", "share": "FLOAT", "is_it": "BOOLEAN"}  # fmt: skip
FILE = pa.schema(
    [
        ("name", pa.string()),
        ("cost", pa.decimal128(38, 22)),
        ("price", pa.decimal128(38, 9)),
        ("at", pa.timestamp("us", "UTC")),
        ("day", pa.date32()),
        ("words", pa.list_(pa.string())),
        ("number", pa.int64()),
        ("share", pa.float64()),
        ("is_it", pa.bool_()),
    ]
)
ROW = ("a", Decimal("1234567890123456") + SMALL, Decimal("0.000000001"), AT, DAY, ["x", "y"], 2**62, 0.1, True)
DDL = "name string not null, cost bignumeric, price numeric, `at` timestamp, day date, words array<string>, number int64, share float64, is_it bool"


def file_of(*rows: Sequence[Any], schema: pa.Schema = FILE) -> pa.Table:
    return pa.Table.from_pylist([dict(zip(schema.names, row, strict=True)) for row in rows], schema=schema)


def test_columns_keep_their_types_however_a_table_came_to_be(dataset: Dataset) -> None:
    dataset.client.create_table(bigquery.Table(f"{PROJECT}.{dataset.name}.by_api", schema=SCHEMA))
    dataset.run(f"create table by_ddl ({DDL})")
    for table in ("by_api", "by_ddl"):
        dataset.load(table, file_of(ROW)).result()
    dataset.load("by_load", file_of(ROW), schema=SCHEMA).result()
    dataset.load("by_file", file_of(ROW), decimal_target_types=["NUMERIC", "BIGNUMERIC"]).result()
    dataset.run("create table by_query as select * from by_api")
    dataset.run("create or replace view by_view as select * from by_api")
    for table in ("by_api", "by_ddl", "by_load", "by_query", "by_view", "by_file"):
        assert dataset.types(table) == TYPES, table
        assert dataset.run(f"select * from {table}") == [ROW], table
    rows = dataset.submit("select cost, price, cost + 1 as more, sum(number) as total from by_api group by 1, 2").result()
    assert [f.field_type for f in rows.schema] == ["BIGNUMERIC", "NUMERIC", "BIGNUMERIC", "INTEGER"]


@pytest.mark.parametrize(
    ("sql", "value"),
    [
        ("cast(9000000000000000 as int64) * bignumeric '0.000000000000000001'", Decimal("0.009")),
        ("cast(2 as bignumeric) - bignumeric '0.0000000000000000000001'", 2 - SMALL),
        ("countif(x > 9)", 0),
        ("sum(x)", 3),
        ("3 * div(x + 4, 2)", 9),
        ("timestamp_diff(timestamp '2026-10-01 00:00:01', timestamp '2026-10-01', microsecond)", 1_000_000),
        ("date_trunc(date '2026-10-05', month)", DAY),
        ("date_add(date '2026-09-30', interval 1 day)", DAY),
        ("timestamp_micros(1790857800000001)", AT),
        ("0.1 + 0.2", 0.1 + 0.2),
        ("x / 2", 1.5),
        ("if(x = 3, 1, error('never'))", 1),
    ],
)
def test_an_expression_has_the_value_and_the_type_bigquery_gives_it(dataset: Dataset, sql: str, value: Any) -> None:
    dataset.run(
        f"create table t as select {sql} as v from (select 3 as x){' group by x' if 'countif' not in sql and 'sum' not in sql else ''}"
    )
    [[found]] = dataset.run("select v from t")
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("select 1 / (x - x) from (select 1 as x)", "division by zero"),
        ("select div(1, x - x) from (select 1 as x)", "division by zero"),
        ("select if(x = 1, error('one is too many'), 0) from (select 1 as x)", "one is too many"),
        ("select error('never')", "never"),
        ("update t set a = 1", "UPDATE must have a WHERE clause"),
        ("select a, a from (select 1 as a)", "Duplicate column names"),
        ("select @missing", "Query parameter 'missing' not found"),
        ("selekt 1", "Syntax error"),
    ],
)
def test_what_bigquery_refuses_fails_with_its_words(dataset: Dataset, sql: str, said: str) -> None:
    with pytest.raises(BadRequest, match=said) as caught:
        dataset.run(sql)
    assert [error["reason"] for error in caught.value.errors] == ["invalidQuery"]


def test_a_table_that_is_not_there_is_not_found(dataset: Dataset) -> None:
    for sql in ("select * from nothing", "delete from nothing where true", "create view v as select * from nothing"):
        with pytest.raises(NotFound, match="Not found: Table"):
            dataset.run(sql)


# --- parameters --------------------------------------------------------------------------------------------------------

VALUES = {"STRING": "it's\n\"ä\\", "INT64": -(2**62), "BOOL": True, "DATE": DAY, "TIMESTAMP": AT, "BIGNUMERIC": Decimal("12.5") + SMALL, "NUMERIC": Decimal("0.000000001"), "FLOAT64": 0.1}  # fmt: skip


@pytest.mark.parametrize("type_", VALUES)
def test_a_parameter_has_its_type_in_a_script_and_in_a_statement(dataset: Dataset, type_: str) -> None:
    given, none = scalar("given", type_, VALUES[type_]), scalar("none", type_, None)
    dataset.run("create or replace table t as select @given as given, @none as none", given, none)
    dataset.run(
        "begin transaction; insert into t select @given, @none; delete from t where given is null; commit transaction;", given, none
    )
    assert (
        dataset.run("select * from t where given = @given and none is not distinct from @none", given, none) == [(VALUES[type_], None)] * 2
    )
    names = {"INT64": "INTEGER", "BOOL": "BOOLEAN", "FLOAT64": "FLOAT"}
    assert dataset.types("t") == dict.fromkeys(("given", "none"), names.get(type_, type_))


def test_a_parameter_may_be_a_list_of_texts(dataset: Dataset) -> None:
    many, none = (bigquery.ArrayQueryParameter(name, "STRING", words) for name, words in (("many", ["a", "b'"]), ("none", [])))
    dataset.run("create table t as select word from unnest(@many) as word", many)
    dataset.run("begin transaction; delete from t where word in unnest(@none); insert into t select 'c'; commit transaction;", many, none)
    assert dataset.run("select word, word in unnest(@many), array_length(@none) from t order by 1", many, none) == [
        ("a", True, 0),
        ("b'", True, 0),
        ("c", False, 0),
    ]


def test_the_words_of_a_parameter_are_not_sql(dataset: Dataset) -> None:
    [[found]] = dataset.run("select @word", scalar("word", "STRING", "@other'); drop table t --"))
    assert found == "@other'); drop table t --"


# --- scripts -----------------------------------------------------------------------------------------------------------

SWAP = """
begin transaction;
-- the head says who is first; its number is read before
update head set number = @next where number = @next - 1;
select if(@@row_count = 1, 1, error('somebody else was first'));
delete from facts where day >= @first and runspend_writer = @writer;
insert into facts (day, value, runspend_writer) select day, value + 1, @writer from staged;
{more}
commit transaction;
"""


@pytest.fixture
def swap(dataset: Dataset) -> Dataset:
    dataset.run("create table head (number int64)")
    dataset.run("insert into head values (0)")
    dataset.run("create table facts (day date, value int64, runspend_writer string)")
    dataset.run("insert into facts values (date '2026-10-01', 1, 'w'), (date '2026-10-01', 1, 'other'), (date '2026-09-01', 1, 'w')")
    dataset.run("create table staged as select date '2026-10-02' as day, 1 as value union all select date '2026-10-03', 10")
    return dataset


def parameters_of(number: int) -> list[Any]:
    return [scalar("next", "INT64", number), scalar("first", "DATE", DAY), scalar("writer", "STRING", "w")]


OLD = [(dt.date(2026, 9, 1), 1, "w"), (DAY, 1, "other"), (DAY, 1, "w")]
NEW = [(dt.date(2026, 9, 1), 1, "w"), (DAY, 1, "other"), (dt.date(2026, 10, 2), 2, "w"), (dt.date(2026, 10, 3), 11, "w")]
FACTS = "select * from facts order by day, runspend_writer"


def test_a_transaction_of_a_script_is_there_as_a_whole(swap: Dataset) -> None:
    swap.run(SWAP.format(more=""), *parameters_of(1))
    assert (swap.run(FACTS), swap.run("select * from head")) == (NEW, [(1,)])
    assert swap.client.get_table(f"{swap.name}.facts").num_rows == 4
    assert [tuple(row.values()) for row in swap.client.list_rows(f"{swap.name}.head")] == [(1,)]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("select error('too bad');", "too bad"),
        ("select if((select count(*) from facts) = 4, error('four are too many'), 0);", "four are too many"),
        ("insert into facts select 1 / (value - value), value, 'x' from staged;", "division by zero|mismatch|cast"),
        ("insert into nothing values (1);", "Not found: Table"),
        ("select no_such_column from facts;", "no_such_column"),
        ("assert (select count(*) from facts) = 3 as 'three it should be';", "Assertion failed: three it should be"),
        ("if (select max(value) from facts) > 10 then raise using message = 'more than ten'; end if;", "more than ten"),
        ("rollback transaction; select error('after all');", "after all"),
        ("create or replace table other as select 1 as a;", "not supported in a transaction"),
    ],
)
def test_a_failing_statement_takes_the_whole_transaction_back(swap: Dataset, more: str, said: str) -> None:
    with pytest.raises(GoogleAPIError, match=said):
        swap.run(SWAP.format(more=more), *parameters_of(1))
    assert (swap.run(FACTS), swap.run("select * from head")) == (OLD, [(0,)])
    swap.run(SWAP.format(more=""), *parameters_of(1))
    assert swap.run(FACTS) == NEW


def test_a_script_that_ends_without_a_commit_leaves_nothing(swap: Dataset) -> None:
    swap.run("begin transaction; delete from facts where true; select count(*) from facts;")
    assert swap.run(FACTS) == OLD


def test_the_second_of_two_swaps_of_a_number_finds_that_it_is_late(swap: Dataset) -> None:
    swap.run(SWAP.format(more=""), *parameters_of(1))
    with pytest.raises(BadRequest, match=r"Query error: somebody else was first at \[5:1\]"):
        swap.run(SWAP.format(more=""), *parameters_of(1))
    assert swap.run(FACTS) == NEW


# --- jobs --------------------------------------------------------------------------------------------------------------


def test_a_query_job_is_known_by_its_id_and_runs_once(dataset: Dataset) -> None:
    dataset.run("create table t (a int64)")
    job_id = f"runspend-{uuid.uuid4().hex}"
    dataset.submit("insert into t values (1)", job_id=job_id, labels={"runspend": "swap"}).result()
    with pytest.raises(Conflict, match=f"Already Exists: Job {PROJECT}:US.{job_id}"):
        dataset.submit("insert into t values (1)", job_id=job_id)
    job = dataset.client.get_job(job_id)
    assert (job.state, job.job_id, job.labels, job.num_dml_affected_rows, job.error_result) == (
        "DONE",
        job_id,
        {"runspend": "swap"},
        1,
        None,
    )
    assert list(job.result()) == [] and dataset.run("select * from t") == [(1,)]


def test_a_failed_job_is_known_with_its_error(dataset: Dataset) -> None:
    job_id = f"runspend-{uuid.uuid4().hex}"
    with pytest.raises(BadRequest, match="on purpose"):
        dataset.submit("select error('on purpose')", job_id=job_id).result(job_retry=None)
    job = dataset.client.get_job(job_id)
    assert (job.state, job.error_result["reason"]) == ("DONE", "invalidQuery")
    with pytest.raises(BadRequest, match="on purpose"):
        job.result()
    with pytest.raises(Conflict):
        dataset.submit("select 1", job_id=job_id)


@pytest.mark.parametrize("size", [None, "all"], ids=["resumable", "multipart"])
def test_an_upload_is_known_by_its_id_and_runs_once(dataset: Dataset, size: str | None) -> None:
    rows = file_of(ROW)
    file = io.BytesIO()
    pq.write_table(rows, file)
    bytes_ = file.tell() if size else None
    job_id = f"runspend-{uuid.uuid4().hex}"
    dataset.load("t", rows, job_id=job_id, size=bytes_, schema=SCHEMA, labels={"step": "load"}).result()
    with pytest.raises(Conflict, match=job_id):
        dataset.load("t", rows, job_id=job_id, size=bytes_, schema=SCHEMA)
    job = dataset.client.get_job(job_id)
    assert (job.state, job.output_rows, job.labels, job.result().error_result) == ("DONE", 1, {"step": "load"}, None)
    assert dataset.run("select * from t") == [ROW]


def test_a_job_nobody_submitted_is_not_found(dataset: Dataset) -> None:
    with pytest.raises(NotFound, match="Not found: Job"):
        dataset.client.get_job("runspend-nobody", retry=None)
