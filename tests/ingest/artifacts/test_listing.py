"""Listings of a real S3 server: interrupted ones continue, noncurrent versions count separately, and duplicate objects are found."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pyarrow as pa
import pytest

from runspend.config.settings import ArtifactStore
from runspend.core.step_result import ReadJob
from runspend.ingest.artifacts import Measurement, measure_store, store_slug
from tests.ingest.artifacts.owners import run_owners
from tests.servers.s3 import S3Server

NOW = datetime(2026, 10, 14, 2, tzinfo=timezone.utc)
HOUR = timedelta(hours=1)


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch, s3_server: S3Server) -> None:
    """Set the server's key, hide the machine's own AWS settings, and use pages of 100 objects."""
    monkeypatch.setattr("runspend.ingest.artifacts.measure._PAGE", 100)
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)


def put(server: S3Server, bucket: str, objects: dict[str, bytes]) -> None:
    client = server.client()
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(client.put_object, Bucket=bucket, Key=key, Body=data) for key, data in objects.items()]:
            done.result()
    client.close()


def runs_of(bucket: str, *names: str) -> pa.Table:
    """Make one run per folder of the bucket."""
    return run_owners(*(f"s3://{bucket}/{name}" for name in names))


def measure(store: ArtifactStore, owners: pa.Table, folder: Path, *, now: datetime = NOW, **more: Any) -> Measurement:
    """Try once to measure the store. A listing that breaks off is kept in `folder` for the next try."""
    return measure_store(store, owners, ReadJob(now, "night", folder / "work"), previous=lambda _: None, kept=folder, **more)


def figures(found: Measurement, *columns: str) -> dict[str, tuple[Any, ...]]:
    """Return the named columns of the rows that are still valid, by owner."""
    return {r["owner_id"]: tuple(r[c] for c in columns) for r in found.tables["2026-10"].to_pylist() if r["valid_to"] is None}


@contextmanager
def proxy(server: S3Server, answers: Callable[[dict[str, list[str]], int], int | None]) -> Iterator[tuple[str, list[dict[str, list[str]]]]]:
    """Run a proxy that counts listings. It sends the status that `answers(query, number)` returns, or else the real server's answer."""
    target = urlsplit(server.endpoint)
    listings: list[dict[str, list[str]]] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            query = parse_qs(urlsplit(self.path).query, keep_blank_values=True)
            status, body = None, b"<Error><Code>ServiceUnavailable</Code><Message>Please try again</Message></Error>"
            if "versioning" not in query:
                listings.append(query)
                status = answers(query, len(listings))
            if status is None:
                upstream = http.client.HTTPConnection(target.hostname or "", target.port)
                upstream.request("GET", self.path, headers=dict(self.headers))
                answer = upstream.getresponse()
                status, body = answer.status, answer.read()
                upstream.close()
            self.send_response(status)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{httpd.server_address[1]}", listings
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()


@pytest.mark.parametrize("keeps_versions", [False, True])
def test_a_listing_that_broke_off_goes_on_where_it_stopped(s3_server: S3Server, bucket: str, tmp_path: Path, keeps_versions: bool) -> None:
    """Page 4 of 5 is refused. An hour later Runspend asks only for pages 4 and 5, and every object counts once."""
    if keeps_versions:
        client = s3_server.client()
        client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
        client.close()
    put(s3_server, bucket, {f"r{n % 3}/{n:05d}": b"x" * (1 + n % 5) for n in range(450)})
    owners, whole = runs_of(bucket, "r0", "r1", "r2"), sum(1 + n % 5 for n in range(450))
    is_down = [True]
    with proxy(s3_server, lambda query, number: 403 if is_down[0] and number == 4 else None) as (endpoint, listings):
        store = ArtifactStore(uri=f"s3://{bucket}", endpoint=endpoint)
        first = measure(store, owners, tmp_path)
        assert (first.is_complete, first.bytes, len(listings)) == (False, None, 4)
        assert first.warnings[-1] == f"s3://{bucket}: the next try within 12 h continues after 300 objects."
        assert set(figures(first, "bytes").values()) == {(None,)}
        is_down[0] = False
        second = measure(store, owners, tmp_path, now=NOW + HOUR)
        assert (second.error, second.objects, second.bytes, second.requests, len(listings)) == (None, 450, whole, 2, 6)
        assert f"s3://{bucket}: 300 objects were listed by an interrupted try; the rest was listed now." in second.warnings
        assert {k: v[0] for k, v in figures(second, "objects").items()} == {"r0": 150, "r1": 150, "r2": 150}
        third = measure(store, owners, tmp_path, now=NOW + 2 * HOUR)
        assert (third.requests, third.bytes) == (5, whole)
    assert [path.name for path in (tmp_path / f"listing-{store_slug(store.uri)}").iterdir()] == [".lock"]


@pytest.mark.parametrize(
    ("later", "change"), [(timedelta(hours=13), {}), (-HOUR, {}), (HOUR, {"region": "eu-west-1", "endpoint": "other"})], ids=str
)
def test_a_listing_that_is_too_old_or_of_another_store_starts_again(
    s3_server: S3Server, bucket: str, tmp_path: Path, later: timedelta, change: dict[str, str]
) -> None:
    """The listing starts from the beginning a day later, at an earlier `now`, and on another endpoint of the same name."""
    put(s3_server, bucket, {f"r/{n:05d}": b"x" for n in range(250)})
    with proxy(s3_server, lambda query, number: 403 if number == 2 else None) as (endpoint, _listings):
        store = ArtifactStore(uri=f"s3://{bucket}", endpoint=endpoint)
        assert not measure(store, runs_of(bucket, "r"), tmp_path).is_complete
        again = store.model_copy(update={"endpoint": s3_server.endpoint} if change else {})
        found = measure(again, runs_of(bucket, "r"), tmp_path, now=NOW + later)
        assert (found.error, found.objects, found.requests) == (None, 250, 3)


@pytest.mark.parametrize("damage", ["state", "part", "extra"])
def test_files_of_a_broken_try_that_cannot_be_trusted_are_not_used(s3_server: S3Server, bucket: str, tmp_path: Path, damage: str) -> None:
    """If the state is not JSON, or a file that it names is gone, the listing starts again. A file that it does not name is not counted."""
    put(s3_server, bucket, {f"r/{n:05d}": b"x" for n in range(250)})
    folder = tmp_path / f"listing-{store_slug(f's3://{bucket}')}"
    with proxy(s3_server, lambda query, number: 403 if number == 3 else None) as (endpoint, _):
        store = ArtifactStore(uri=f"s3://{bucket}", endpoint=endpoint)
        assert not measure(store, runs_of(bucket, "r"), tmp_path).is_complete
        if damage == "state":
            (folder / "state.json").write_text("{")
        elif damage == "part":
            (folder / "000000.parquet").unlink()
        else:
            (folder / "000001.parquet").write_bytes((folder / "000000.parquet").read_bytes())
        found = measure(store, runs_of(bucket, "r"), tmp_path, now=NOW + HOUR)
    assert (found.error, found.objects, found.requests) == (None, 250, 1 if damage == "extra" else 3)
    assert figures(found, "bytes") == {"r": (250,)}


KILLED = """
import sys
from datetime import datetime, timezone
from pathlib import Path
import pyarrow as pa
from runspend.core.step_result import ReadJob
from runspend.ingest.artifacts import measure_store
from runspend.config.settings import ArtifactStore
import runspend.ingest.artifacts.staging as staging
import runspend.ingest.artifacts.measure as measuring
staging._PART_ROWS = measuring._PAGE = 100
uri, endpoint, folder, owners = sys.argv[1:]
measure_store(ArtifactStore(uri=uri, endpoint=endpoint), pa.ipc.open_file(owners).read_all(), ReadJob(datetime(2026, 10, 14, 2, tzinfo=timezone.utc), "night", Path(folder) / "work"),
              previous=lambda _: None, kept=Path(folder))
"""


def test_a_process_that_was_killed_loses_a_page_at_most(s3_server: S3Server, bucket: str, tmp_path: Path) -> None:
    """SIGKILL ends the process while it asks for page 4. The next try reuses the first pages, and the sums are right."""
    put(s3_server, bucket, {f"r/{n:05d}": b"x" for n in range(450)})
    owners = runs_of(bucket, "r")
    with pa.OSFile(str(tmp_path / "owners.arrow"), "wb") as file, pa.ipc.new_file(file, owners.schema) as writer:
        writer.write_table(owners)
    process: list[subprocess.Popen[bytes]] = []

    def kill(query: dict[str, list[str]], number: int) -> int | None:
        if number == 4:
            process[0].send_signal(signal.SIGKILL)
            return 403
        return None

    with proxy(s3_server, kill) as (endpoint, _listings):
        command = [sys.executable, "-c", KILLED, f"s3://{bucket}", endpoint, str(tmp_path), str(tmp_path / "owners.arrow")]
        process.append(subprocess.Popen(command))
        assert process[0].wait() == -signal.SIGKILL
        found = measure(ArtifactStore(uri=f"s3://{bucket}", endpoint=endpoint), owners, tmp_path, now=NOW + HOUR)
    assert (found.error, found.objects, found.requests) == (None, 450, 2)
    assert figures(found, "objects", "bytes") == {"r": (450, 450)}


def test_versions_that_are_not_current_are_counted_apart(s3_server: S3Server, bucket: str, tmp_path: Path) -> None:
    """Objects are overwritten twice, deleted, or left alone.

    `bytes` is what readers see, and `noncurrent_bytes` is what the bill has in addition.
    """
    client = s3_server.client()
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    for size in (100, 20, 3):
        client.put_object(Bucket=bucket, Key="written/x", Body=b"x" * size)
    client.put_object(Bucket=bucket, Key="deleted/x", Body=b"x" * 50)
    client.delete_object(Bucket=bucket, Key="deleted/x")
    client.put_object(Bucket=bucket, Key="untouched/x", Body=b"x" * 7)
    client.close()
    store = ArtifactStore(uri=f"s3://{bucket}", endpoint=s3_server.endpoint)
    found = measure(store, runs_of(bucket, "written", "deleted", "untouched"), tmp_path)
    assert (found.error, found.objects, found.bytes, found.warnings) == (None, 2, 10, [])
    assert figures(found, "objects", "bytes", "noncurrent_objects", "noncurrent_bytes") == {
        "written": (1, 3, 2, 120),
        "deleted": (0, 0, 1, 50),
        "untouched": (1, 7, 0, 0),
    }
    assert found.dangling is not None
    assert found.dangling.num_rows == 0  # Runspend never saw bytes of the deleted object's run, and a run may have none


def test_a_bucket_without_versioning_has_no_noncurrent_bytes(s3_server: S3Server, bucket: str, tmp_path: Path) -> None:
    """The bytes are 0, not unknown."""
    put(s3_server, bucket, {"r/x": b"x"})
    store = ArtifactStore(uri=f"s3://{bucket}", endpoint=s3_server.endpoint)
    assert figures(measure(store, runs_of(bucket, "r"), tmp_path), "noncurrent_bytes") == {"r": (0,)}


def test_copies_are_found_by_checksum_and_size(s3_server: S3Server, bucket: str, tmp_path: Path) -> None:
    """The oldest object is the original, and each copy counts as a duplicate in its folder.

    Empty files and other bytes of the same size do not.
    """
    put(s3_server, bucket, {"a/model": b"weights!"})
    put(s3_server, bucket, {"c/model": b"weights?", "c/empty": b"", "b/empty": b""})
    client = s3_server.client()
    first = client.head_object(Bucket=bucket, Key="a/model")["LastModified"]
    while (
        client.put_object(Bucket=bucket, Key="b/1", Body=b"weights!")
        and client.head_object(Bucket=bucket, Key="b/1")["LastModified"] == first
    ):
        pass  # the server's clock has whole seconds
    client.close()
    put(s3_server, bucket, {"b/2": b"weights!", "d/deep/er/model": b"weights!"})
    store = ArtifactStore(uri=f"s3://{bucket}", endpoint=s3_server.endpoint)
    found = measure(store, runs_of(bucket, "a", "b", "c", "d"), tmp_path)
    assert figures(found, "bytes", "duplicate_bytes") == {"a": (8, 0), "b": (16, 16), "c": (8, 0), "d": (8, 8)}
