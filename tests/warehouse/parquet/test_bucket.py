"""A warehouse in a bucket keeps the same promises as one in a folder. The server is SeaweedFS, an emulator of S3.

`python -m tests.warehouse.parquet.test_bucket ENDPOINT BUCKET CACHE VERSION` publishes one version of several tables together.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from botocore.exceptions import ClientError

from runspend.config.settings import Settings, WarehouseSettings, load_settings
from runspend.core.errors import CheckFailed, ConfigError, RecordRefused, RunspendError, SqlRefused, WarehouseDamaged
from runspend.schema import tables
from runspend.schema.tables import TABLES
from runspend.storage.s3_warehouse import Bucket
from runspend.warehouse.base import Model, Unit
from runspend.warehouse.factory import open_warehouse
from runspend.warehouse.parquet.bucket import BucketWarehouse, _record
from runspend.warehouse.parquet.units import file_name
from runspend.warehouse.parquet.verification import seal
from runspend.warehouse.parquet.warehouse import ParquetWarehouse
from tests import former_schema as former
from tests.command import run_here, run_process
from tests.faults.world import PERIOD, TOGETHER, rows_of, with_new_column
from tests.servers.s3 import S3Server
from tests.tiny_world import make_tiny_world

LINES = TABLES["billing_lines"]
UNIT = Unit("billing_lines", PERIOD, "aws")
CHANGES = Unit("bill_changes", PERIOD, "all")
PREFIX = "ml/costs"

Open = Callable[..., BucketWarehouse]


@pytest.fixture
def bucket(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """A test's own bucket, with the server's key in the environment."""
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    name = f"warehouse-{uuid.uuid4().hex[:12]}"
    s3_server.client().create_bucket(Bucket=name)
    return name


@pytest.fixture
def opened(s3_server: S3Server, bucket: str, tmp_path: Path) -> Open:
    """Open the warehouse as a machine of that name does. Without a lease, no machine waits for a killed one."""

    def open_it(machine: str = "here", **options: Any) -> BucketWarehouse:
        return open_bucket(s3_server.endpoint, bucket, tmp_path / machine, **options)

    return open_it


def open_bucket(endpoint: str, bucket: str, cache: Path, **options: Any) -> BucketWarehouse:
    return BucketWarehouse(Bucket(f"s3://{bucket}/{PREFIX}/", endpoint=endpoint), cache, **options)


def fill(warehouse: Any, rows: pa.Table, unit: Unit = UNIT, **options: Any) -> str:
    with warehouse.step("fill", "fill") as step:
        state = step.put(*unit, rows, **options)
        assert step.publish()
    return str(state.digest)


def ask(warehouse: Any, query: str) -> list[dict[str, object]]:
    with warehouse.reader() as reader:
        return list(reader.query(query).to_pylist())


def keys(server: S3Server, bucket: str) -> list[str]:
    pages = server.client().get_paginator("list_objects_v2").paginate(Bucket=bucket)
    return sorted(entry["Key"].removeprefix(f"{PREFIX}/") for page in pages for entry in page.get("Contents", []))


def publish_version(warehouse: BucketWarehouse, version: int) -> None:
    """Replace one unit of each table of TOGETHER by its next version, all together. Version 2 also drops a unit of billing_lines."""
    with warehouse.step("fault", f"build-{version}") as step:
        for name in TOGETHER:
            step.put(name, PERIOD, "all", rows_of(TABLES[name], cost=str(version), build_id=f"build-{version}"))
        if version > 1:
            step.drop("billing_lines", PERIOD, "aws")
        else:
            step.put(*UNIT, rows_of(LINES))
        assert step.publish()


def builds_seen(warehouse: BucketWarehouse) -> set[Any]:
    sql = " union distinct ".join(f"select distinct build_id from {name}" for name in TOGETHER)
    return {row["build_id"] for row in ask(warehouse, sql)}


# --- the same as in a folder ---------------------------------------------------------------------------------------------


def test_layout_states_and_rows(opened: Open, s3_server: S3Server, bucket: str, tmp_path: Path) -> None:
    """Names, digests, states and rows equal the folder's. Only finished files are under a table's name."""
    digests = []
    for warehouse in (opened(), ParquetWarehouse(tmp_path / "folder")):
        assert warehouse.states() == {}
        assert warehouse.read(UNIT) is None
        assert ask(warehouse, "select count(*) as n from runs") == [{"n": 0}]
        with warehouse.step("fill", "b1") as step:
            step.put(*UNIT, rows_of(LINES), extra={"last": "2026-10-31"})
            step.put("runs", PERIOD, "prod", rows_of(TABLES["runs"]))
            step.put("experiments", "all", "prod", rows_of(TABLES["experiments"], period="all"))
            assert step.publish()
        digests.append(warehouse.states())
    assert digests[0] == digests[1]
    assert keys(s3_server, bucket) == [
        "_internal/billing_lines/period=2026-10/aws.parquet",
        "_internal/experiments/period=all/prod.parquet",
        "_runspend/head.json",
        "runs/period=2026-10/prod.parquet",
    ]
    elsewhere = opened("elsewhere")
    assert elsewhere.read(UNIT) == ParquetWarehouse(tmp_path / "folder").read(UNIT)
    assert elsewhere.states("runs").keys() == {Unit("runs", PERIOD, "prod")}
    assert elsewhere.find_damage() == {}


def test_models_and_checks(opened: Open, tmp_path: Path) -> None:
    """Models read rows that another machine published. A failed check publishes nothing."""
    sql = tmp_path / "sql"
    sql.mkdir()
    columns = ", ".join(c.name for c in TABLES["billing_lines"].columns)
    (sql / "lines.sql").write_text(f"select {columns} from billing_lines where line_id != 'line_id 7'")
    (sql / "one_missing.sql").write_text("select count(*) as n from billing_lines where source = 'aws' having count(*) = 49")
    fill(opened(), rows_of(LINES))
    other = opened("other", models=sql, checks=sql)
    with other.step("copy", "b2") as step:
        step.run([Model("lines", (PERIOD, "copy"), fills="billing_lines")], {})
        assert step.state(Unit("billing_lines", PERIOD, "copy")).rows == 49
        assert step.publish()
    assert ask(opened(), "select count(*) as n from billing_lines") == [{"n": 99}]
    with other.step("fill", "b3") as step:
        step.put(*UNIT, rows_of(LINES, count=1))
        step.drop("billing_lines", PERIOD, "copy")
        (sql / "too_few.sql").write_text("select count(*) as n from billing_lines having count(*) < 10")
        with pytest.raises(CheckFailed):
            step.check(["too_few"], {})
    assert ask(opened(), "select count(*) as n from billing_lines") == [{"n": 99}]


def test_superseded_and_dropped(opened: Open, s3_server: S3Server, bucket: str) -> None:
    """If an input changed, nothing is published and no object stays behind. A dropped unit loses its object."""
    digest = fill(opened(), rows_of(LINES))
    with opened().step("late", "b") as step:
        step.put(*CHANGES, rows_of(TABLES["bill_changes"]))
        assert fill(opened("other"), rows_of(LINES, count=51)) != digest
        assert step.publish({UNIT: digest}) is False
    assert opened().states().keys() == {UNIT}
    with opened().step("drop", "b") as step:
        step.drop(*UNIT)
        step.drop("billing_lines", PERIOD, "never-there")
        assert step.publish({CHANGES: None})
    assert opened().states() == {}
    assert keys(s3_server, bucket) == ["_runspend/head.json"]
    with opened().step("nothing", "b") as step:
        assert step.publish()
        with pytest.raises(RunspendError, match="twice"):
            step.publish()


def test_pyarrow_and_polars_read_the_bucket_as_a_folder(opened: Open, s3_server: S3Server, bucket: str) -> None:
    """They read every table alone, with the month from the name."""
    warehouse = opened()
    for version in (1, 2):
        publish_version(warehouse, version)
    with warehouse.step("fill", "b") as step:
        step.put("cost_daily", "2026-11", "all", rows_of(TABLES["cost_daily"], period="2026-11"))
        assert step.publish()
    files = pafs.S3FileSystem(
        access_key=s3_server.access_key, secret_key=s3_server.secret_key, region=s3_server.region,
        endpoint_override=s3_server.endpoint.removeprefix("http://"), scheme="http",
    )  # fmt: skip
    found = ds.dataset(f"{bucket}/{PREFIX}/cost_daily", filesystem=files, format="parquet", partitioning="hive")
    assert found.to_table(filter=ds.field("period") == "2026-10")["build_id"].unique().to_pylist() == ["build-2"]
    assert found.count_rows() == 100
    options = {
        "aws_access_key_id": s3_server.access_key, "aws_secret_access_key": s3_server.secret_key, "aws_region": s3_server.region,
        "aws_endpoint_url": s3_server.endpoint, "aws_allow_http": "true",
    }  # fmt: skip
    frame = pl.read_parquet(f"s3://{bucket}/{PREFIX}/cost_daily/**/*.parquet", storage_options=options, hive_partitioning=True)
    assert frame.height == 100


# --- several at once -----------------------------------------------------------------------------------------------------


def test_writers_of_two_machines_end_in_a_serial_order(opened: Open) -> None:
    """Each machine adds a row to the rows it read, again and again. No row is lost, and the result shows which writers were too late."""
    late: list[str] = []

    def add(machine: str) -> None:
        warehouse = opened(machine)
        done = 0
        while done < 6:
            state, old = warehouse.states("bill_changes").get(CHANGES), warehouse.read(CHANGES)
            new = rows_of(TABLES["bill_changes"], count=1, source=f"{machine}-{done}")
            with warehouse.step("rounds", f"{machine}-{done}") as step:
                step.put(*CHANGES, new if old is None else pa.concat_tables([old, new]))
                if step.publish({CHANGES: None if state is None else state.digest}):
                    done += 1
                else:
                    late.append(machine)

    writers = [threading.Thread(target=add, args=(name,)) for name in ("a", "b", "c")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    rows = opened().read(CHANGES)
    assert rows is not None
    assert sorted(rows["source"].to_pylist()) == sorted(f"{name}-{n}" for name in "abc" for n in range(6))
    assert late
    assert opened().find_damage() == {}


def test_a_reader_never_sees_two_builds(opened: Open) -> None:
    """Another machine publishes version after version. Every reader sees one complete version, and later readers never an older one."""
    publish_version(opened(), 1)
    stop, seen = threading.Event(), []

    def read() -> None:
        warehouse = opened("reader")
        while not stop.is_set():
            seen.append(builds_seen(warehouse))

    reader = threading.Thread(target=read)
    reader.start()
    warehouse = opened("writer")
    for version in range(2, 14):
        publish_version(warehouse, version)
    stop.set()
    reader.join()
    assert all(len(builds) == 1 for builds in seen)
    order = [int(next(iter(builds)).removeprefix("build-")) for builds in seen]
    assert order == sorted(order)
    assert len(set(order)) > 1


@pytest.mark.parametrize("native", [False, True])
def test_sql_from_users_cannot_write(opened: Open, native: bool) -> None:
    """SQL from users reads the cached files and cannot write to them."""
    warehouse = opened()
    with warehouse.step("fill", "b") as step:
        step.put("runs", PERIOD, "prod", rows_of(TABLES["runs"]))
        step.publish()
    assert warehouse.answer("select count(*) as n from runs", native=native, timeout=60).to_pylist() == [{"n": 50}]
    for statement in (
        "with x as (copy (select 1 as a) to 'out.csv') select * from x",
        "select * from read_text('/etc/hostname')",
        "delete from runs",
    ):
        with pytest.raises(SqlRefused):
            warehouse.answer(statement, native=native, timeout=60)
    assert warehouse.find_damage() == {}


def test_states_inside_a_reader_are_the_readers(opened: Open) -> None:
    """A reader keeps its build and its states while another process publishes. Neither waits."""
    digest = fill(opened(), rows_of(LINES))
    warehouse = opened()
    with warehouse.reader() as reader:
        newer = fill(opened("other"), rows_of(LINES, count=3))
        assert warehouse.states()[UNIT].digest == digest
        assert reader.query("select count(*) as n from billing_lines").to_pylist() == [{"n": 50}]
    assert warehouse.states()[UNIT].digest == newer


# --- killed --------------------------------------------------------------------------------------------------------------

BEFORE = ("publish.staged", "publish.before_journal")
AFTER = ("publish.after_journal", "publish.after_first_move", "publish.after_moves", "publish.after_journal_dropped")


def killed_publish(server: S3Server, bucket: str, folder: Path, crash_at: str) -> None:
    """Let another process publish version 2, and kill it at a named point."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.warehouse.parquet.test_bucket", server.endpoint, bucket, str(folder / "killed"), "2"],
        cwd=Path(__file__).parents[3], env={**os.environ, "RUNSPEND_CRASH_AT": crash_at}, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.parametrize(
    "crash_at",
    [
        pytest.param(point, marks=() if point in ("publish.before_journal", "publish.after_first_move") else pytest.mark.torture)
        for point in (*BEFORE, *AFTER)
    ],
)
def test_a_killed_publish(crash_at: str, opened: Open, s3_server: S3Server, bucket: str, tmp_path: Path) -> None:
    """Before the head is written, nothing changes. After it, readers see the whole version at once, and the next opening moves the objects."""
    publish_version(opened(), 1)
    killed_publish(s3_server, bucket, tmp_path, crash_at)
    build = "build-1" if crash_at in BEFORE else "build-2"
    waiting = opened("reader", lease=1e9)
    assert builds_seen(waiting) == {build}
    assert (UNIT in waiting.states()) == (crash_at in BEFORE)
    opened("next", lease=-1)
    for name in TOGETHER:
        place = "" if TABLES[name].is_public else "_internal/"
        body = s3_server.client().get_object(Bucket=bucket, Key=f"{PREFIX}/{place}{name}/period={PERIOD}/all.parquet")["Body"].read()
        assert set(pq.read_table(pa.BufferReader(body))["build_id"].to_pylist()) == {build}
    if crash_at in AFTER:
        assert [k for k in keys(s3_server, bucket) if k.startswith("_runspend/") or "aws" in k] == ["_runspend/head.json"]
    publish_version(opened("third", lease=-1), 3)
    assert builds_seen(opened("reader")) == {"build-3"}
    assert opened().find_damage() == {}


def test_the_next_publish_waits_for_the_lease_then_takes_it_over(opened: Open, s3_server: S3Server, bucket: str, tmp_path: Path) -> None:
    """The store's clock decides. Once the lease has expired, the next publish completes the killed one."""
    publish_version(opened(), 1)
    killed_publish(s3_server, bucket, tmp_path, "publish.after_first_move")
    warehouse = opened("next", lease=3)
    fill(warehouse, rows_of(LINES))
    assert builds_seen(warehouse) == {"build-2"}
    assert warehouse.find_damage() == {}


@pytest.mark.parametrize("pause_at", ["copy", "delete"])
def test_a_publisher_that_lost_the_lease_changes_nothing(pause_at: str, opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """A publisher sleeps in the middle.

    Another one completes its work, publishes over it and restores what it drops. When it wakes, it has no effect.
    """
    publish_version(opened(), 1)
    sleeper = opened("sleeper")
    asleep, awake = threading.Event(), threading.Event()
    real = getattr(sleeper.bucket, pause_at)

    def pause(*given: Any, **options: Any) -> Any:
        asleep.set()
        assert awake.wait(60)
        return real(*given, **options)

    monkeypatch.setattr(sleeper.bucket, pause_at, pause)
    thread = threading.Thread(target=publish_version, args=(sleeper, 2))
    thread.start()
    assert asleep.wait(60)
    other = opened("other", lease=-1)
    publish_version(other, 3)
    fill(other, rows_of(LINES, count=9))
    before = other.states()
    awake.set()
    thread.join()
    assert other.states() == before
    assert other.find_damage() == {}
    assert builds_seen(other) == {"build-3"}
    assert ask(other, "select count(*) as n from billing_lines") == [{"n": 9}]


def test_the_store_refuses_a_publisher_that_read_an_older_head(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another writer publishes between reading and replacing the head. The put fails, and the inputs are compared again."""
    digest = fill(opened(), rows_of(LINES))
    slow = opened("slow")
    real = slow._put
    put: list[str] = []

    def interrupted(*heads: Any) -> Any:
        if not put:
            put.append(fill(opened("quick"), rows_of(LINES, count=3)))
        return real(*heads)

    monkeypatch.setattr(slow, "_put", interrupted)
    with slow.step("slow", "b") as step:
        step.put(*UNIT, rows_of(LINES, count=4))
        assert step.publish({UNIT: digest}) is False
    assert slow.states()[UNIT].digest == put[0]


# --- refused -------------------------------------------------------------------------------------------------------------


HEADS: dict[str, Callable[[dict[str, Any]], object]] = {
    "a list": lambda head: [head],
    "no units": lambda head: {name: value for name, value in head.items() if name != "units"},
    "a number that is a text": lambda head: {**head, "number": "7"},
    "a unit that climbs": lambda head: {**head, "units": {"billing_lines/2026-10/../../x": head["units"]["billing_lines/2026-10/aws"]}},
    "a unit of no table": lambda head: {**head, "units": {"secrets/2026-10/aws": head["units"]["billing_lines/2026-10/aws"]}},
    "a file of the cache that climbs": lambda head: {
        **head,
        "units": {"billing_lines/2026-10/aws": {**head["units"]["billing_lines/2026-10/aws"], "sha256": "../../victim"}},
    },
    "a copy from outside the stage": lambda head: {**head, "copies": [["secret.txt", KEY, 1]]},
    "a copy from another prefix": lambda head: {**head, "copies": [["_runspend/stage/../../secret.txt", KEY, 1]]},
    "a copy to outside": lambda head: {**head, "copies": [[f"_runspend/stage/{'a' * 32}/0.parquet", "../other/secret.txt", 1]]},
    "a copy over the head": lambda head: {**head, "copies": [[f"_runspend/stage/{'a' * 32}/0.parquet", "_runspend/head.json", 1]]},
    "a copy of two": lambda head: {**head, "copies": [[f"_runspend/stage/{'a' * 32}/0.parquet", KEY]]},
    "a copy of less than nothing": lambda head: {**head, "copies": [[f"_runspend/stage/{'a' * 32}/0.parquet", KEY, -1]]},
    "copies that are a map": lambda head: {**head, "copies": {KEY: 1}},
    "a removal of someone else's": lambda head: {**head, "removals": [["secret.txt", '"x"']]},
    "a removal of what is published": lambda head: {**head, "removals": [[KEY, '"x"']]},
    "a removal without an etag": lambda head: {**head, "removals": [["runs/period=2026-10/lab.parquet", ""]]},
    "a schema that is a text": lambda head: {**head, "schema": "9"},
    "columns that are SQL": lambda head: {**head, "schema": {"version": 1, "tables": {"runs": ['a" from read_text(1) --']}}},
}
KEY = "_internal/billing_lines/period=2026-10/aws.parquet"


def test_a_tampered_head_is_refused_and_nothing_is_done(opened: Open, s3_server: S3Server, bucket: str, tmp_path: Path) -> None:
    """Anyone who can write to the bucket could have changed it. Every object and every file of the cache stays as it was."""
    warehouse = opened(lease=0.0)
    fill(warehouse, rows_of(LINES), UNIT)
    client, head = s3_server.client(), f"{PREFIX}/_runspend/head.json"
    for name in ("secret.txt", "other/secret.txt"):
        client.put_object(Bucket=bucket, Key=f"{PREFIX}/{name}", Body=b"someone else's")
    (tmp_path / "victim.parquet").write_text("someone else's")
    good = json.loads(client.get_object(Bucket=bucket, Key=head)["Body"].read())
    before = {key: client.get_object(Bucket=bucket, Key=f"{PREFIX}/{key}")["Body"].read() for key in keys(s3_server, bucket)}
    heads = {name: change(good) for name, change in HEADS.items()}
    bodies = {name: json.dumps(value).encode() for name, value in heads.items()}
    bodies |= {f"{name}, with its checksum": json.dumps(seal(value)).encode() for name, value in heads.items() if isinstance(value, dict)}
    bodies |= {"broken off": json.dumps(good).encode()[:-7], "nested deeply": b"[" * 100_000, "nothing": b""}
    for name, body in bodies.items():
        client.put_object(Bucket=bucket, Key=head, Body=body)
        for act in (warehouse.states, lambda: opened("other", lease=0.0), lambda: fill(warehouse, rows_of(LINES), UNIT)):
            with pytest.raises((RecordRefused, WarehouseDamaged), match=r"head\.json") as error:
                act()
            assert error.value.exit_code == 4, name
            assert isinstance(error.value, RecordRefused) or "with its checksum" not in name, name
        client.put_object(Bucket=bucket, Key=head, Body=before["_runspend/head.json"])
        found = {key: client.get_object(Bucket=bucket, Key=f"{PREFIX}/{key}")["Body"].read() for key in keys(s3_server, bucket)}
        assert {key: body for key, body in found.items() if "/stage/" not in key} == before, name
        assert (tmp_path / "victim.parquet").read_text() == "someone else's"
    assert warehouse.find_damage() == {}


def test_a_damaged_object_is_named_to_those_who_need_it(opened: Open, s3_server: S3Server, bucket: str, tmp_path: Path) -> None:
    """Readers never use bytes that differ from the published ones. Readers of other units, and writers of this one, continue."""
    fill(opened(), rows_of(LINES))
    costs = Unit("run_costs", PERIOD, "all")
    fill(opened(), rows_of(TABLES["run_costs"]), costs)
    key = f"{PREFIX}/_internal/billing_lines/period={PERIOD}/aws.parquet"
    s3_server.client().put_object(Bucket=bucket, Key=key, Body=b"something else")
    assert list(opened("other").find_damage()) == [UNIT]
    other = opened("other")
    with pytest.raises(WarehouseDamaged, match=f"billing_lines {PERIOD} aws: its object was changed or removed after it was published"):
        ask(other, "select count(*) as n from billing_lines join run_costs on true")
    for read in (other.read, partial(other.fetch, folder=tmp_path)):
        with pytest.raises(WarehouseDamaged, match="changed or removed after it was published"):
            read(UNIT)
    assert ask(other, "select count(*) as n from run_costs") == [{"n": 50}]
    assert other.answer("select count(*) as n from run_costs").to_pylist() == [{"n": 50}]
    assert other.read(costs) is not None
    fill(other, rows_of(TABLES["run_costs"], cost="2"), costs)
    with other.step("model", "model") as step, pytest.raises(WarehouseDamaged, match="changed or removed after it was published"):
        step.refresh_views(["run_costs", "billing_lines"])
    fill(other.without({UNIT}), rows_of(LINES))
    assert ask(opened("third"), "select count(*) as n from billing_lines") == [{"n": 50}]


def test_a_newer_warehouse_is_refused(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """A warehouse that a newer runspend wrote is not touched."""
    fill(opened(), rows_of(LINES))
    monkeypatch.setattr("runspend.warehouse.parquet.bucket.SCHEMA_VERSION", tables.SCHEMA_VERSION - 1)
    with pytest.raises(ConfigError, match="Install the newer runspend"):
        opened()


def test_a_new_column_is_added_before_the_next_publish(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """Readers see it as null at once. The next publish rewrites the files without it, and old rows keep their digests."""
    unit = Unit("run_costs", PERIOD, "all")
    digest = fill(opened(), rows_of(TABLES["run_costs"]), unit)
    wider = with_new_column(TABLES["run_costs"])
    monkeypatch.setitem(TABLES, "run_costs", wider)
    monkeypatch.setattr("runspend.warehouse.parquet.bucket.SCHEMA_VERSION", tables.SCHEMA_VERSION + 1)
    assert ask(opened(), "select countif(new_cost is null) as n from run_costs") == [{"n": 50}]
    fill(opened(), rows_of(LINES))
    other = opened("other")
    assert other.states()[unit].digest == digest
    assert other.find_damage() == {}
    with other.reader() as reader:
        path = next((other.folder.home / "stage").glob("read-*/pinned/run_costs/*.parquet"))
        assert pq.read_schema(path).equals(wider.arrow_schema())
        assert reader.query("select countif(new_cost is null) as n from run_costs").to_pylist() == [{"n": 50}]


def test_former_names_and_values_are_read_and_the_next_publish_replaces_them(
    opened: Open, s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    """Readers see today's names at once. The next publish rewrites the objects with equal content and digests."""
    for unit in former.UNITS:
        fill(opened(), former.todays_rows(unit), unit)
    before = former.contents(opened().read)
    digests = {unit: state.digest for unit, state in opened().states().items()}

    head, records = opened()._head(), {}
    for unit in former.UNITS:
        file = opened().fetch(unit, tmp_path)
        assert file is not None
        former.rewrite(file, unit.table)
        s3_server.client().put_object(Bucket=bucket, Key=f"{PREFIX}/{file_name(unit)}", Body=file.read_bytes())
        records[unit] = _record(file, head.units[unit])
    older = replace(head, version=former.FORMER_VERSION, columns=former.FORMER_COLUMNS, units={**head.units, **records})
    assert opened()._put(head, older) is not None
    for found in (former.contents(opened("other").read), asked(opened("other"))):
        assert found == before
    fill(opened("other"), rows_of(LINES))
    third = opened("third")
    assert third._head().version == tables.SCHEMA_VERSION
    assert former.contents(third.read) == asked(third) == before
    assert {unit: state.digest for unit, state in third.states().items() if unit in digests} == digests
    assert third.find_damage() == {}
    with third.reader():
        for path in (third.folder.home / "stage").glob("read-*/pinned/*/*.parquet"):
            assert pq.read_schema(path).equals(TABLES[path.parent.name].arrow_schema())
            assert "unmatched" not in str(pq.read_table(path, partitioning=None).to_pylist())


def asked(warehouse: Any) -> dict[Unit, pa.Table]:
    """Return what queries see of the units."""
    with warehouse.reader() as reader:
        return former.contents(lambda unit: reader.query(f"select * from {unit.table}"))


def test_a_damaged_object_does_not_prevent_publishing_new_columns(
    opened: Open, s3_server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The object is refused until it is restored. Then the next publish gives it the columns of its table."""
    good, bad = Unit("run_costs", PERIOD, "all"), Unit("run_costs", PERIOD, "other")
    for unit, cost in ((good, "1"), (bad, "2")):
        fill(opened(), rows_of(TABLES["run_costs"], cost=cost), unit)
    key = f"{PREFIX}/run_costs/period={PERIOD}/other.parquet"
    data = s3_server.client().get_object(Bucket=bucket, Key=key)["Body"].read()
    s3_server.client().put_object(Bucket=bucket, Key=key, Body=data[:-9])
    wider = with_new_column(TABLES["run_costs"])
    monkeypatch.setitem(TABLES, "run_costs", wider)
    monkeypatch.setattr("runspend.warehouse.parquet.bucket.SCHEMA_VERSION", tables.SCHEMA_VERSION + 1)
    fill(opened("other"), rows_of(LINES))
    for body in (data[:-9], data):
        s3_server.client().put_object(Bucket=bucket, Key=key, Body=body)
        with pytest.raises(WarehouseDamaged, match="run_costs 2026-10 other"):
            ask(opened("other"), "select count(*) as n from run_costs")
        fill(opened("other"), rows_of(LINES, cost="2"))
    assert ask(opened("third"), "select count(*) as n, countif(new_cost is null) as empty from run_costs") == [{"n": 100, "empty": 100}]
    assert opened("third").find_damage() == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [({"uri": "s3://no-such-bucket/x"}, "Create the bucket"), ({"endpoint": "http://127.0.0.1:1"}, "Check endpoint and network"),
     ({"endpoint": "nonsense"}, "endpoint"), ({"credentials": "no-such-profile"}, "no-such-profile")],
)  # fmt: skip
def test_a_bucket_that_cannot_be_opened_is_a_sentence(
    change: dict[str, str], message: str, s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    """The error for a wrong bucket, endpoint or profile names it and what to do."""
    place = WarehouseSettings(**{"uri": f"s3://{bucket}", "endpoint": s3_server.endpoint, **change})
    with pytest.raises(RunspendError, match=message):
        open_warehouse(Settings(home=tmp_path, warehouse=place))


@pytest.mark.parametrize("header", ["If-None-Match", "If-Match"])
def test_a_store_without_conditional_puts_is_refused(header: str, s3_server: S3Server, bucket: str, tmp_path: Path) -> None:
    """A store that ignores the condition of a put is detected before anything is published, and nothing is left in it."""
    careless = Bucket(f"s3://{bucket}/{PREFIX}", endpoint=s3_server.endpoint)
    careless._client.meta.events.register("before-sign.s3.PutObject", lambda request, **_: request.headers.__delitem__(header))
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"ignores the conditions of a put .* Set warehouse.uri to a folder"):
            BucketWarehouse(careless, tmp_path / "cache")
    assert keys(s3_server, bucket) == []


def test_an_account_that_may_only_read_can_read(opened: Open, s3_server: S3Server, bucket: str, tmp_path: Path) -> None:
    """A key without write access opens published data, even after a killed publish. It cannot open an empty bucket."""
    reading = Bucket(f"s3://{bucket}/{PREFIX}", endpoint=s3_server.endpoint)

    def deny(**_: Any) -> None:
        raise ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "PutObject")

    for operation in ("PutObject", "CopyObject", "DeleteObject"):
        reading._client.meta.events.register(f"before-call.s3.{operation}", deny)
    with pytest.raises(RunspendError, match="the right to do this"):
        BucketWarehouse(reading, tmp_path / "cache")
    publish_version(opened(), 1)
    killed_publish(s3_server, bucket, tmp_path, "publish.after_first_move")
    warehouse = BucketWarehouse(reading, tmp_path / "cache", lease=-1)
    assert builds_seen(warehouse) == {"build-2"}
    with warehouse.step("fill", "b") as step:
        step.put(*UNIT, rows_of(LINES))
        with pytest.raises(RunspendError, match="the right to do this"):
            step.publish()


# --- damage ------------------------------------------------------------------------------------------------------------


def overwrite(server: S3Server, bucket: str, key: str, change: Callable[[bytes], bytes]) -> None:
    """Change an object behind the warehouse's back."""
    client, name = server.client(), f"{PREFIX}/{key}"
    client.put_object(Bucket=bucket, Key=name, Body=change(client.get_object(Bucket=bucket, Key=name)["Body"].read()))


def flipped(data: bytes) -> bytes:
    return data[:99] + bytes([data[99] ^ 4]) + data[100:]


def test_a_changed_and_a_deleted_object_are_found_and_refused(opened: Open, s3_server: S3Server, bucket: str) -> None:
    """Runspend finds them by their ETag without a download.

    Machines without a copy refuse them, and machines with a copy read the published bytes.
    """
    publish_version(opened(), 1)
    began = time.time()
    assert opened().find_damage() == {}
    overwrite(s3_server, bucket, "_internal/billing_lines/period=2026-10/aws.parquet", flipped)
    s3_server.client().delete_object(Bucket=bucket, Key=f"{PREFIX}/cost_daily/period=2026-10/all.parquet")
    damaged = opened().find_damage(since=began)
    assert {unit.table: why for unit, why in damaged.items()} == {
        "billing_lines": "its bytes are not those that were published",
        "cost_daily": "its object is gone",
    }
    with pytest.raises(WarehouseDamaged, match="billing_lines"):
        ask(opened("elsewhere"), "select count(*) as n from billing_lines")
    elsewhere = opened("elsewhere").without(set(damaged))
    with elsewhere.step("again", "again") as step:
        for unit in damaged:
            step.put(*unit, rows_of(TABLES[unit.table]))
        assert step.publish(dict.fromkeys(damaged))
    assert opened().find_damage() == {}
    assert ask(elsewhere, "select count(*) as n from billing_lines") == [{"n": 50}]


@pytest.mark.parametrize("is_silent", [False, True])
def test_a_damaged_copy_on_the_machine_is_taken_from_the_bucket_again(opened: Open, tmp_path: Path, is_silent: bool) -> None:
    """The next reader notices a write to the copy. The next verification notices a change by the disk."""
    warehouse = opened()
    fill(warehouse, rows_of(LINES))
    [copy] = (tmp_path / "here" / "files").glob("*.parquet")
    before, data = copy.stat(), copy.read_bytes()
    copy.write_bytes(flipped(data))
    if is_silent:
        os.utime(copy, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert opened().find_damage() == {}
    assert ask(opened(), "select count(*) as n from billing_lines") == [{"n": 50}]
    [again] = (tmp_path / "here" / "files").glob("*.parquet")
    assert again.read_bytes() == data


def test_copies_are_hashed_with_their_objects_only(opened: Open, tmp_path: Path) -> None:
    """This happens once per pipeline run, not at each check of ETags. A copy that has disappeared is not an error."""
    warehouse = opened()
    fill(warehouse, rows_of(LINES))
    assert opened().find_damage() == {}
    [copy] = (tmp_path / "here" / "files").glob("*.parquet")
    before, data = copy.stat(), copy.read_bytes()
    copy.write_bytes(flipped(data))
    os.utime(copy, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert opened().find_damage(since=0.0) == {}
    assert copy.exists()
    assert opened().find_damage() == {}
    assert not copy.exists()
    copy.symlink_to(tmp_path / "gone")
    assert opened().find_damage() == {}


def test_every_bit_of_the_head_counts(opened: Open, s3_server: S3Server, bucket: str) -> None:
    fill(opened(), rows_of(LINES))
    body = s3_server.client().get_object(Bucket=bucket, Key=f"{PREFIX}/_runspend/head.json")["Body"].read()
    for place in range(0, len(body), len(body) // 25):
        harmed = body[:place] + bytes([body[place] ^ 1]) + body[place + 1 :]
        s3_server.client().put_object(Bucket=bucket, Key=f"{PREFIX}/_runspend/head.json", Body=harmed)
        with pytest.raises((WarehouseDamaged, ConfigError)):
            opened("reader")
    overwrite(s3_server, bucket, "_runspend/head.json", lambda _: body)
    assert ask(opened("reader"), "select count(*) as n from billing_lines") == [{"n": 50}]


# --- a night -------------------------------------------------------------------------------------------------------------


def test_a_bucket_whose_head_is_gone_is_damaged_not_empty(opened: Open, s3_server: S3Server, bucket: str) -> None:
    """Without head.json, readers and publishers fail, and pages do not name the bucket. Restoring it repairs the warehouse."""
    warehouse = opened()
    publish_version(warehouse, 1)
    client, head = s3_server.client(), f"{PREFIX}/_runspend/head.json"
    body = client.get_object(Bucket=bucket, Key=head)["Body"].read()
    client.delete_object(Bucket=bucket, Key=head)
    acts: list[Callable[[], object]] = [opened, warehouse.states, warehouse.find_damage, lambda: publish_version(warehouse, 2)]
    for act in acts:
        with pytest.raises(WarehouseDamaged, match=r"_runspend/head\.json: the object is missing") as refused:
            act()
        assert bucket not in str(refused.value)
    client.put_object(Bucket=bucket, Key=head, Body=body)
    assert builds_seen(opened()) == builds_seen(warehouse) != set()


def test_a_pipeline_run_in_a_bucket_equals_one_in_a_folder(store: Path, s3_server: S3Server, bucket: str, tmp_path: Path) -> None:
    """`runspend nightly` writes the same content digests into both, and twice into the bucket. SQL and doctor work on the bucket."""
    found = []
    world = make_tiny_world(tmp_path / "world", store)
    for name, nights in (("folder", 1), ("bucket", 2)):
        config = world.with_name(f"{name}.yaml")
        place = {"uri": f"s3://{bucket}/{PREFIX}", "endpoint": s3_server.endpoint} if name == "bucket" else {"uri": "tables"}
        config.write_text(json.dumps({**json.loads(world.read_text()), "home": name, "warehouse": place}))
        for _ in range(nights):
            run_here("nightly", "--config", str(config), "--now", "2026-11-04T06:00")
            states = open_warehouse(load_settings(config)).states()
            found.append({unit: state.digest for unit, state in states.items() if unit.table not in ("sources", "builds")})
    assert found[0] == found[1] == found[2]
    assert len(found[1]) > 5
    total = run_process("sql", "--config", str(config), "select sum(effective_cost) as spent from cost_daily").stdout
    assert "960" in total
    assert "warehouse" in run_here("doctor", "--config", str(config)).stdout


if __name__ == "__main__":
    publish_version(open_bucket(sys.argv[1], sys.argv[2], Path(sys.argv[3])), int(sys.argv[4]))
