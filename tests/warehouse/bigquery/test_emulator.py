"""The tests' emulator behaves as BigQuery's documentation says, as far as the product relies on it.

These tests use Google's own client. They do not show that Google's BigQuery follows its documentation.
"""

from __future__ import annotations

import datetime as dt
import io
import threading
import uuid
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.api_core.exceptions import BadRequest, Conflict, GoogleAPIError, InternalServerError, NotFound
from google.cloud import bigquery

from tests.servers.bigquery import PROJECT, BigQueryServer
from tests.warehouse.bigquery.emulated import Dataset, dataset, scalar

__all__ = ["dataset"]

UTC = dt.timezone.utc
AT = dt.datetime(2026, 10, 1, 12, 30, 0, 1, tzinfo=UTC)
DAY = dt.date(2026, 10, 1)


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
ROW = ("a", Decimal("1234567890123456.0000000000000000000001"), Decimal("0.000000001"), AT, DAY, ["x", "y"], 2**62, 0.1, True)
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
    dataset.run("create table narrow as select bignumeric '0.01' as cost, numeric '0.01' as price, 1 as number")
    dataset.run("insert into narrow select cost, price, number from by_api")
    assert dataset.run("select * from narrow where number > 1") == [(ROW[1], ROW[2], ROW[6])]
    dataset.run("create table lists as select cast(null as array<string>) as words, ['a'] as more")
    assert dataset.run("select words, array_length(words), more from lists") == [([], 0, ["a"])]
    rows = dataset.submit("select cost, price, cost + 1 as more, sum(number) as total from by_api group by 1, 2").result()
    assert [f.field_type for f in rows.schema] == ["BIGNUMERIC", "NUMERIC", "BIGNUMERIC", "INTEGER"]


@pytest.mark.parametrize(
    ("sql", "value"),
    [
        ("cast(9000000000000000 as int64) * bignumeric '0.000000000000000001'", Decimal("0.009")),
        ("cast(x as bignumeric) * bignumeric '0.5'", Decimal("1.5")),
        (
            "div(cast(x as bignumeric) * bignumeric '10000000000000000000000', bignumeric '7') * bignumeric '0.0000000000000000000001'",
            Decimal("0.4285714285714285714285"),
        ),
        ("mod(cast(-x as bignumeric) * bignumeric '10000000000000000000000', cast(x + 4 as bignumeric))", Decimal(-5)),
        ("sign(cast(x as bignumeric) * bignumeric '100000000000000000') * cast(null as bignumeric)", None),
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
    ("sql", "message"),
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
def test_statements_that_bigquery_refuses_fail_with_the_same_message(dataset: Dataset, sql: str, message: str) -> None:
    with pytest.raises(BadRequest, match=message) as caught:
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
select if(@@row_count = 1, 1, error('someone else was first'));
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
    ("more", "message"),
    [
        ("select error('too bad');", "too bad"),
        ("select if((select count(*) from facts) = 4, error('four are too many'), 0);", "four are too many"),
        ("insert into facts select day, div(value, value - value), 'x' from staged;", "division by zero"),
        ("insert into nothing values (1);", "Not found: Table"),
        ("select no_such_column from facts;", "no_such_column"),
        ("assert (select count(*) from facts) = 3 as 'three it should be';", "Assertion failed: three it should be"),
        ("if (select max(value) from facts) > 10 then raise using message = 'more than ten'; end if;", "more than ten"),
        ("rollback transaction; select error('after all');", "after all"),
        ("create or replace table other as select 1 as a;", "not supported in a transaction"),
    ],
)
def test_a_failing_statement_takes_the_whole_transaction_back(swap: Dataset, more: str, message: str) -> None:
    with pytest.raises(GoogleAPIError, match=message):
        swap.run(SWAP.format(more=more), *parameters_of(1))
    assert (swap.run(FACTS), swap.run("select * from head")) == (OLD, [(0,)])
    swap.run(SWAP.format(more=""), *parameters_of(1))
    assert swap.run(FACTS) == NEW


def test_a_script_that_ends_without_a_commit_leaves_nothing(swap: Dataset) -> None:
    swap.run("begin transaction; delete from facts where true; select count(*) from facts;")
    assert swap.run(FACTS) == OLD


def test_the_second_of_two_swaps_of_a_number_finds_that_it_is_late(swap: Dataset) -> None:
    swap.run(SWAP.format(more=""), *parameters_of(1))
    with pytest.raises(BadRequest, match=r"Query error: someone else was first at \[5:1\]"):
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


def test_a_query_may_be_asked_in_one_request(dataset: Dataset) -> None:
    config = bigquery.QueryJobConfig(default_dataset=f"{PROJECT}.{dataset.name}", query_parameters=[scalar("n", "INT64", 5)])
    dataset.run("create table t as select n from unnest(generate_array(1, 25)) as n")
    asked = dataset.client.query_and_wait(
        "select n from t where n > @n order by n", job_config=config, page_size=7, retry=None, job_retry=None
    )
    assert [row.n for row in asked] == list(range(6, 26))
    with pytest.raises(BadRequest, match="on purpose"):
        dataset.client.query_and_wait("select error('on purpose')", retry=None, job_retry=None)


def test_jobs_run_side_by_side(dataset: Dataset) -> None:
    """Many threads run queries, create tables and list them at the same time."""
    failed: list[Exception] = []

    def work(number: int) -> None:
        try:
            for turn in range(4):
                dataset.run(f"create or replace table t{number} as select {turn} as turn")
                assert dataset.run(f"select turn from t{number}") == [(turn,)]
                assert len(list(dataset.client.list_tables(dataset.name))) >= 1
        except (GoogleAPIError, AssertionError) as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


def test_a_job_is_where_its_dataset_is(dataset: Dataset) -> None:
    made = bigquery.Dataset(f"{PROJECT}.{dataset.name}_eu")
    made.location = "EU"
    dataset.client.create_dataset(made)
    there = Dataset(dataset.client, made.dataset_id)
    for job in (there.load("t", file_of(ROW), schema=SCHEMA), there.submit("select name from t")):
        job.result()
        assert (job.location, dataset.client.get_job(job.job_id, location="EU").state) == ("EU", "DONE")
        with pytest.raises(NotFound):
            dataset.client.get_job(job.job_id, location="US")
    dataset.client.delete_dataset(made, delete_contents=True)


def test_a_job_that_was_not_submitted_is_not_found(dataset: Dataset) -> None:
    with pytest.raises(NotFound, match="Not found: Job"):
        dataset.client.get_job("runspend-nobody", retry=None)


# --- transactions side by side -----------------------------------------------------------------------------------------


def test_of_two_transactions_that_change_one_table_the_second_fails(swap: Dataset) -> None:
    first, second = (Conversation(swap) for _ in range(2))
    first.run("update head set number = 1 where true")
    with pytest.raises(BadRequest) as caught:
        second.run("update head set number = 2 where true")
    message = f"Transaction is aborted due to concurrent update against table {PROJECT}:{swap.name}.head. Transaction ID: "
    assert message in str(caught.value) and caught.value.errors[0]["reason"] == "invalidQuery"
    first.run("commit transaction")
    second.run("rollback transaction")
    assert swap.run("select number from head") == [(1,)]


def test_a_transaction_cannot_change_what_was_changed_after_it_began(swap: Dataset) -> None:
    transaction = Conversation(swap)
    swap.run("update head set number = 1 where true")
    assert transaction.run("select number from head") == [(0,)]
    with pytest.raises(BadRequest, match="aborted due to concurrent update"):
        transaction.run("delete from head where true")
    assert swap.run("select number from head") == [(1,)]


def test_transactions_that_only_insert_go_side_by_side(swap: Dataset) -> None:
    first, second = (Conversation(swap) for _ in range(2))
    for number, transaction in enumerate((first, second), 1):
        transaction.run(f"insert into head values ({number})")
    for transaction in (first, second):
        transaction.run("commit transaction")
    assert swap.run("select number from head order by 1") == [(0,), (1,), (2,)]


def test_a_statement_by_itself_waits_for_the_transaction(swap: Dataset) -> None:
    transaction = Conversation(swap)
    transaction.run("update head set number = 5 where true")
    waiting = threading.Thread(target=swap.run, args=("update head set number = number + 1 where true",))
    waiting.start()
    waiting.join(0.5)
    assert waiting.is_alive()
    transaction.run("commit transaction")
    waiting.join(30)
    assert swap.run("select number from head") == [(6,)]


def test_swaps_at_once_never_mix_and_readers_see_all_or_nothing(swap: Dataset) -> None:
    swap.run("create table copy as select * from facts")
    stop, seen, failed = threading.Event(), [], []

    def publish(writer: str) -> None:
        for number in range(6):
            sql = "; ".join(
                ["begin transaction"]
                + [
                    f"delete from {table} where runspend_writer = @writer; insert into {table} select day, @number, @writer from staged"
                    for table in ("facts", "copy")
                ]
                + ["commit transaction;"]
            )
            try:
                swap.run(sql, scalar("writer", "STRING", writer), scalar("number", "INT64", number))
            except BadRequest as error:
                failed.append(str(error))

    def read() -> None:
        while not stop.is_set():
            seen.extend(swap.run("select (select string_agg(concat(runspend_writer, cast(value as string)), ',' order by runspend_writer, day) from facts) = "
                                 "(select string_agg(concat(runspend_writer, cast(value as string)), ',' order by runspend_writer, day) from copy)"))  # fmt: skip

    reader, writers = threading.Thread(target=read), [threading.Thread(target=publish, args=(name,)) for name in ("w", "v")]
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    reader.join()
    assert seen and set(seen) == {(True,)} and all("aborted due to concurrent update" in message for message in failed)
    for table in ("facts", "copy"):
        counts = dict(swap.run(f"select runspend_writer, count(*) from {table} where runspend_writer <> 'other' group by 1"))
        assert set(counts.values()) == {2}, (counts, failed)


class Conversation:
    """A session with an open transaction."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        job = dataset.submit("begin transaction", create_session=True)
        job.result()
        self.id = job.session_info.session_id

    def run(self, sql: str) -> list[tuple[Any, ...]]:
        return self.dataset.run(sql, connection_properties=[bigquery.ConnectionProperty("session_id", self.id)])


def test_a_session_sees_the_tables_of_the_moment_its_transaction_began(swap: Dataset) -> None:
    session = Conversation(swap)
    swap.run(SWAP.format(more=""), *parameters_of(1))
    swap.run("create or replace table staged as select 1 as other")
    assert session.run(FACTS) == OLD
    assert session.run("select count(*) from staged") == [(2,)]
    session.run("rollback transaction")
    assert session.run(FACTS) == swap.run(FACTS) == NEW
    session.run("call bq.abort_session()")
    with pytest.raises(GoogleAPIError, match="Invalid input session id"):
        session.run("select 1")


# --- datasets, tables, views -------------------------------------------------------------------------------------------


def test_views_look_into_other_datasets_by_bare_names(dataset: Dataset) -> None:
    other = f"{dataset.name}_other"
    dataset.client.create_dataset(other)
    dataset.run(f"create table {other}.t as select 1 as a, 'it''s' as b")
    many = " union all ".join([f"select a, b from `{PROJECT}.{other}.t` where not (b = 'x')"] + [f"select {n}, 'n'" for n in range(60)])
    for _ in range(2):
        dataset.run(f"create or replace view `{PROJECT}.{dataset.name}.v` as {many}")
    dataset.run("create or replace table v2 as with t as (select * from v) select count(*) as n, sum(a) as total from t")
    assert dataset.run("select n, total from v2") == [(61, 1 + sum(range(60)))]
    dataset.run(f"update {other}.t set a = 100 where true")
    assert dataset.run("select max(a) from v") == [(100,)]
    dataset.run(f"create or replace table {other}.t as select 7 as a, 'z' as b, 1.5 as c")
    assert dataset.run("select a from v where b = 'z'") == [(7,)]
    view = bigquery.Table(f"{PROJECT}.{dataset.name}.by_api")
    view.view_query = f"select a from `{PROJECT}.{other}.t`"
    dataset.client.create_table(view)
    assert (dataset.run("select * from by_api"), dataset.client.get_table(view).table_type) == ([(7,)], "VIEW")
    dataset.client.delete_table(view)
    with pytest.raises(NotFound):
        dataset.run("select * from by_api")
    dataset.client.delete_dataset(other, delete_contents=True)


def test_tables_are_made_widened_and_dropped(dataset: Dataset) -> None:
    name = f"{PROJECT}.{dataset.name}.t"
    table = bigquery.Table(name, schema=SCHEMA[:2])
    table.time_partitioning = bigquery.TimePartitioning(type_="MONTH", field="day")
    table.schema = SCHEMA
    table.clustering_fields, table.labels, table.description = ["name"], {"runspend": "table"}, "what it is"
    dataset.client.create_table(table)
    with pytest.raises(Conflict):
        dataset.client.create_table(table)
    dataset.run(
        "alter table t add column if not exists more bignumeric options(description = 'more of it'), add column if not exists name string"
    )
    found = dataset.client.get_table(name)
    assert (
        [f.name for f in found.schema] == [*TYPES, "more"]
        and found.schema[-1].description == "more of it"
        and found.schema[0].mode == "REQUIRED"
    )
    assert (found.time_partitioning.field, found.clustering_fields, found.labels, found.description) == (
        "day",
        ["name"],
        {"runspend": "table"},
        "what it is",
    )
    found.schema = [*found.schema, bigquery.SchemaField("last", "FLOAT64")]
    dataset.client.update_table(found, ["schema"])
    dataset.load("t", file_of(ROW)).result()
    assert dataset.run("select name, more, last from t") == [("a", None, None)]
    with pytest.raises(BadRequest, match="Required field name cannot be null"):
        dataset.run("insert into t (name) select cast(null as string)")
    dataset.run("drop table if exists t")
    dataset.run("drop table if exists t")
    with pytest.raises(NotFound):
        dataset.client.get_table(name)


def test_datasets_are_found_by_their_labels_and_deleted_with_their_tables(dataset: Dataset) -> None:
    made = bigquery.Dataset(f"{PROJECT}.{dataset.name}_step")
    made.labels, made.default_table_expiration_ms, made.location = {"runspend": dataset.name, "step": "allocate"}, 86_400_000, "EU"
    dataset.client.create_dataset(made)
    dataset.run(f"create table {made.dataset_id}.t as select 1 as a")
    expires = dataset.client.get_table(f"{made.dataset_id}.t").expires - dt.datetime.now(UTC)
    assert dt.timedelta(hours=23) < expires < dt.timedelta(hours=25)
    assert dataset.client.get_dataset(made.reference).default_table_expiration_ms == 86_400_000
    assert [d.dataset_id for d in dataset.client.list_datasets(filter=f"labels.runspend:{dataset.name}")] == [made.dataset_id]
    with pytest.raises(BadRequest, match="still in use"):
        dataset.client.delete_dataset(made)
    dataset.client.delete_dataset(made, delete_contents=True)
    with pytest.raises(NotFound, match="Not found: Dataset"):
        dataset.client.get_dataset(made.reference)
    with pytest.raises(NotFound):
        dataset.run(f"select * from {made.dataset_id}.t")


def test_rows_are_listed_as_they_are_after_dml_and_after_a_query(dataset: Dataset) -> None:
    dataset.run("create table t as select n from unnest(generate_array(1, 25)) as n")
    dataset.run("delete from t where n > 20")
    dataset.run("insert into t values (100)")
    assert sorted(row.n for row in dataset.client.list_rows(f"{dataset.name}.t", page_size=7)) == [*range(1, 21), 100]
    job = dataset.submit("select n from t order by n desc limit 3")
    assert [row.n for row in job.result(page_size=2)] == [100, 20, 19]
    assert sorted(row.n for row in dataset.client.list_rows(job.destination)) == [19, 20, 100]
    assert dataset.client.get_table(job.destination).num_rows == 3
    assert [d.dataset_id for d in dataset.client.list_datasets() if d.dataset_id.startswith("_")] == []


@pytest.mark.filterwarnings("ignore:Retrieving Arrow record batches")  # Google's client requires pandas-gbq
def test_the_storage_api_brings_tables_and_results_of_queries(dataset: Dataset, bigquery_server: BigQueryServer) -> None:
    dataset.load("t", file_of(ROW, *[("b", *ROW[1:])] * 3), schema=SCHEMA).result()
    storage = bigquery_server.storage()
    for rows in (dataset.client.list_rows(f"{dataset.name}.t"), dataset.submit("select * from t order by name").result(page_size=1)):
        found = rows.to_arrow(bqstorage_client=storage, create_bqstorage_client=False)
        assert found.slice(0, 1).to_pylist() == [dict(zip(FILE.names, ROW, strict=True))]
        assert (found.num_rows, found.schema.field("cost").type) == (4, pa.decimal256(76, 38))


def test_a_dry_run_returns_columns_and_errors_and_does_nothing(dataset: Dataset) -> None:
    dataset.run("create table t (a bignumeric, d date)")
    job = dataset.submit("select sum(a) as total, d from t group by d", dry_run=True)
    assert ([(f.name, f.field_type) for f in job.schema], job.statement_type, job.total_bytes_processed) == (
        [("total", "BIGNUMERIC"), ("d", "DATE")],
        "SELECT",
        0,
    )
    assert dataset.submit("insert into t (a) values (@a)", scalar("a", "INT64", 1), dry_run=True).statement_type == "INSERT"
    assert [f.name for f in dataset.submit("create table t2 as select d as day from t", dry_run=True).schema] == ["day"]
    for sql in ("select nothing from t", "insert into t (nothing) values (1)", "create table t3 as select nothing from t"):
        with pytest.raises(BadRequest, match="nothing"):
            dataset.submit(sql, dry_run=True)
    assert dataset.run("select * from t") == [] and [t.table_id for t in dataset.client.list_tables(dataset.name)] == ["t"]


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        (
            "insert into t (number) select cast(null as string)",
            "Query column 1 has type STRING which cannot be inserted into column number, which has type INT64",
        ),
        ("insert into t (number) values (@none)", "Value has type STRING which cannot be inserted into column number"),
        ("insert into t (cost) select 0.1 + 1", "has type FLOAT64 which cannot be inserted into column cost, which has type BIGNUMERIC"),
        ("insert into t (cost, number) select 1", "wrong column count"),
        ("insert into t (nothing) select 1", "Column nothing is not present"),
    ],
)
def test_a_value_of_another_type_is_not_inserted(dataset: Dataset, sql: str, message: str) -> None:
    dataset.run(f"create table t ({DDL})")
    with pytest.raises(BadRequest, match=message):
        dataset.run(sql, scalar("none", "STRING", None))
    day = scalar("day", "STRING", "2026-10-01")
    dataset.run("insert into t (name, cost, price, share, day, `at`) values ('a', 1, 0.5, 2, @day, '2026-10-01 12:30:00.000001+00')", day)
    dataset.run("insert into t (name, cost, words) select name, price, null from t")
    assert dataset.run("select name, cost, share, day, `at` from t where share is not null") == [("a", Decimal(1), 2.0, DAY, AT)]


def test_a_query_has_its_bytes_and_a_limit(dataset: Dataset) -> None:
    dataset.run("create table t as select n, cast(n as bignumeric) as cost, 'abc' as word from unnest(generate_array(1, 1000)) as n")
    dataset.run("create view v as select n, cost, word from t")
    for sql, size in (
        ("select n from t", 8000),
        ("select sum(cost) as c, max(word) as w from v", 37000),
        ("select * from t", 45000),
        ("select 1", 0),
    ):
        assert dataset.submit(sql, dry_run=True).total_bytes_processed == size, sql
        job = dataset.submit(sql)
        job.result()
        assert job.total_bytes_processed == size, sql
    dataset.run("select n from t", maximum_bytes_billed=10 << 20)
    with pytest.raises(InternalServerError, match=r"Query exceeded limit for bytes billed: 1\. 10485760 or higher required") as caught:
        dataset.run("select n from t", maximum_bytes_billed=1)
    assert caught.value.errors[0]["reason"] == "bytesBilledLimitExceeded"


# --- loads -------------------------------------------------------------------------------------------------------------


def test_a_load_goes_by_the_names_of_columns_and_checks_their_types(dataset: Dataset) -> None:
    dataset.client.create_table(bigquery.Table(f"{PROJECT}.{dataset.name}.t", schema=SCHEMA))
    dataset.load("t", file_of(ROW).select(list(reversed(FILE.names)))).result()
    dataset.load("t", file_of(ROW).select(["name"])).result()
    assert dataset.run("select * from t order by number nulls last") == [ROW, ("a", None, None, None, None, [], None, None, None)]
    for rows, message in (
        (file_of(ROW).append_column("more", pa.array([1])), r"Cannot add fields \(field: more\)"),
        (file_of(ROW).select(["cost"]), "Field name is missing"),
        (file_of(ROW).set_column(6, "number", pa.array(["1"])), "Field number has changed type from INTEGER to STRING"),
        (file_of(ROW).set_column(1, "cost", pa.array([1.5])), "Field cost has changed type from BIGNUMERIC to FLOAT"),
    ):
        with pytest.raises(BadRequest, match=message):
            dataset.load("t", rows).result()
    config = bigquery.LoadJobConfig(source_format="PARQUET")
    file = io.BytesIO()
    pq.write_table(file_of(ROW), file)
    with pytest.raises(BadRequest, match="Field words has changed mode"):
        dataset.client.load_table_from_file(file, f"{dataset.name}.t", rewind=True, job_config=config).result()
    assert dataset.run("select count(*) from t") == [(2,)]


def test_a_load_empties_the_table_or_refuses_one_that_is_not_empty(dataset: Dataset) -> None:
    dataset.load("t", file_of(ROW, ROW), schema=SCHEMA, write_disposition="WRITE_EMPTY").result()
    with pytest.raises(Conflict, match="Already Exists: Table"):
        dataset.load("t", file_of(ROW), write_disposition="WRITE_EMPTY").result()
    dataset.load("t", file_of(ROW), schema=SCHEMA, write_disposition="WRITE_TRUNCATE").result()
    assert dataset.run("select * from t") == [ROW] and dataset.client.get_table(f"{dataset.name}.t").num_rows == 1
    with pytest.raises(NotFound):
        dataset.load("none", file_of(ROW), create_disposition="CREATE_NEVER").result()
