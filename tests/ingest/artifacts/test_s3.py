"""Measure a real S3 server: pages, storage classes, odd names, and all ways in which a listing fails."""

from __future__ import annotations

import http.client
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pytest

from runspend.config.settings import ArtifactStore
from runspend.core.errors import SourceRefused, SourceUnreachable
from runspend.core.step_result import ReadJob
from runspend.ingest.artifacts import Measurement, allowed, measure_store, probe_store, resolve_artifact_uri
from tests.ingest.artifacts.owners import OWNER_SCHEMA, run_owners
from tests.mlflow_store import make_schema
from tests.servers.mlflow_client import mlflow_client
from tests.servers.s3 import S3Server

UTC = timezone.utc
NOW = datetime(2026, 10, 14, 2, tzinfo=UTC)
RUN = "0123456789abcdef0123456789abcde"


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch, s3_server: S3Server) -> None:
    """Set the server's key in the environment, and hide the machine's own AWS settings."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)


def put(server: S3Server, bucket: str, objects: dict[str, int], **more: Any) -> None:
    """Put objects of these sizes."""
    client = server.client()
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(client.put_object, Bucket=bucket, Key=k, Body=b"x" * n, **more) for k, n in objects.items()]:
            done.result()
    client.close()


def measure(
    store: ArtifactStore, owners: pa.Table, workdir: Path, *, now: datetime = NOW, months: dict[str, pa.Table] | None = None
) -> Measurement:
    """Measure once, as a pipeline run does."""
    previous: Callable[[str], pa.Table | None] = (months or {}).get
    return measure_store(store, owners, ReadJob(now, "night", workdir), previous=previous)


def rows(found: Measurement, month: str = "2026-10") -> list[dict[str, Any]]:
    return list(found.tables[month].to_pylist())


def test_a_listing_costs_one_request_per_thousand_objects(s3_server: S3Server, bucket: str, tmp_path: Path) -> None:
    """2,500 objects in 500 folders take three requests. Every object counts once, and run1 is not confused with run10."""
    names = [f"{RUN}{n % 10}{'0' if n >= 10 else ''}" for n in range(20)]
    put(s3_server, bucket, {f"mlflow/1/{names[n % 20]}/artifacts/{n % 500}/f{n}": 1 + n % 7 for n in range(2500)})
    put(s3_server, bucket, {"mlflow2/x": 1, "mlflow": 1, "mlflow-old/x": 1})
    store = ArtifactStore(uri=f"s3://{bucket}/mlflow/", endpoint=s3_server.endpoint)
    found = measure(store, run_owners(*(f"s3://{bucket}/mlflow/1/{name}/artifacts" for name in names)), tmp_path)
    assert (found.error, found.requests, found.objects, found.bytes) == (None, 3, 2500, sum(1 + n % 7 for n in range(2500)))
    assert {r["owner_id"]: (r["objects"], r["bytes"]) for r in rows(found)} == {
        name: (125, sum(1 + n % 7 for n in range(2500) if n % 20 == i)) for i, name in enumerate(names)
    }
    assert {(r["owner_kind"], r["storage_class"], r["is_complete"], r["store"]) for r in rows(found)} == {
        ("run", "STANDARD", True, store.uri)
    }


def test_storage_classes_are_apart(s3_server: S3Server, bucket: str, tmp_path: Path) -> None:
    """A run has one row per storage class. A move to another class closes one row and opens another."""
    uri, key = f"s3://{bucket}/1/{RUN}0/artifacts", f"1/{RUN}0/artifacts"
    put(s3_server, bucket, {f"{key}/a": 1, f"{key}/b": 20})
    put(s3_server, bucket, {f"{key}/c": 300}, StorageClass="GLACIER")
    put(s3_server, bucket, {f"{key}/d": 4000}, StorageClass="STANDARD_IA")
    store, months = ArtifactStore(uri=f"s3://{bucket}", endpoint=s3_server.endpoint), {}
    found = measure(store, run_owners(uri), tmp_path)
    assert {r["storage_class"]: r["bytes"] for r in rows(found)} == {"STANDARD": 21, "GLACIER": 300, "STANDARD_IA": 4000}
    months |= found.tables
    put(s3_server, bucket, {f"{key}/d": 4000}, StorageClass="GLACIER")
    found = measure(store, run_owners(uri), tmp_path, now=NOW + timedelta(days=1), months=months)
    assert {(r["storage_class"], r["bytes"], r["valid_to"]) for r in rows(found)} == {
        ("STANDARD", 21, None),
        ("GLACIER", 300, NOW + timedelta(days=1)),
        ("GLACIER", 4300, None),
        ("STANDARD_IA", 4000, NOW + timedelta(days=1)),
    }


def test_owners_with_odd_names_own_their_objects(s3_server: S3Server, bucket: str, tmp_path: Path) -> None:
    """Names have blanks, #, %41 next to A, plus, emoji, quotes and &. Each is its own folder, in keys and in owners' URIs."""
    folders = ["a b", "%41", "A", "a+b", "😀", "it's", 'q"q', "a&b", "\u00fc", "u\u0308", "<x>"]
    put(s3_server, bucket, {f"{folder}/x/{folder}": 2**n for n, folder in enumerate(folders)} | {"a#b/x": 1, "a?b/x": 1})
    store = ArtifactStore(uri=f"s3://{bucket}", endpoint=s3_server.endpoint)
    found = measure(
        store, run_owners(*(f"s3://{bucket}/{folder}" for folder in folders), f"s3://{bucket}/a#b", f"s3://{bucket}/a?b"), tmp_path
    )
    assert {r["owner_id"]: r["bytes"] for r in rows(found) if r["owner_kind"] == "run"} == {
        folder: 2**n for n, folder in enumerate(folders)
    }
    assert {r["owner_id"] for r in rows(found) if r["owner_kind"] == "other"} == {"a#b", "a?b"}
    assert found.warnings == [f"2 artifact URIs are ambiguous and own nothing, e.g. 's3://{bucket}/a#b'."]


def test_oldest_and_newest_are_the_servers_times(s3_server: S3Server, bucket: str, tmp_path: Path) -> None:
    """They are the LastModified of a run's first and last object."""
    client = s3_server.client()
    put(s3_server, bucket, {f"r/{n}": 1 for n in range(5)})
    times = [o["LastModified"] for o in client.list_objects_v2(Bucket=bucket)["Contents"]]
    client.close()
    found = measure(ArtifactStore(uri=f"s3://{bucket}", endpoint=s3_server.endpoint), run_owners(f"s3://{bucket}/r"), tmp_path)
    assert [(r["oldest_at"], r["newest_at"]) for r in rows(found)] == [(min(times), max(times))]


@contextmanager
def http_server(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """Run a server on loopback that answers every GET with `answer`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            answer(self)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def reply(request: BaseHTTPRequestHandler, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
    """Send one answer, and then close the connection."""
    request.send_response(status)
    for name, value in ({"Content-Type": "application/xml", "Connection": "close"} | (headers or {})).items():
        request.send_header(name, value)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body if request.command != "HEAD" else b"")
    request.close_connection = True


@contextmanager
def broken_second_page(server: S3Server) -> Iterator[str]:
    """Run a proxy in front of the real server. It answers 503 to every page except the first."""
    target = urlsplit(server.endpoint)

    def forward(request: BaseHTTPRequestHandler) -> None:
        if "continuation-token" in request.path:
            reply(request, 503, b"<Error><Code>ServiceUnavailable</Code><Message>Please try again</Message></Error>")
            return
        upstream = http.client.HTTPConnection(target.hostname or "", target.port)
        upstream.request("GET", request.path, headers=dict(request.headers))
        answer = upstream.getresponse()
        reply(request, answer.status, answer.read())
        upstream.close()

    with http_server(forward) as endpoint:
        yield endpoint


def test_a_page_that_fails_half_way_leaves_bytes_unknown(
    s3_server: S3Server, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Page 2 of 3 answers 503. Unknown bytes stay unknown, known bytes keep their figures, and the next measurement is right."""
    monkeypatch.setattr("runspend.ingest.artifacts.measure._PAGE", 100)
    put(s3_server, bucket, {f"1/{RUN}{n % 2}/artifacts/{n}": 1 for n in range(201)})
    first, second = (f"s3://{bucket}/1/{RUN}{n}/artifacts" for n in range(2))
    good, months = ArtifactStore(uri=f"s3://{bucket}", endpoint=s3_server.endpoint), {}
    with broken_second_page(s3_server) as endpoint:
        bad = good.model_copy(update={"endpoint": endpoint})
        found = measure(bad, run_owners(first, second), tmp_path)
        assert isinstance(found.error, SourceUnreachable)
        assert "after 1 pages of 1,000: ServiceUnavailable" in str(found.error)
        assert (found.is_complete, found.objects, found.bytes, found.requests) == (False, None, None, 1)
        assert [(r["owner_id"][-1], r["objects"], r["bytes"], r["is_complete"]) for r in rows(found)] == [
            ("0", None, None, False),
            ("1", None, None, False),
        ]
        months |= measure(good, run_owners(first), tmp_path).tables
        before = months["2026-10"].to_pylist()
        found = measure(bad, run_owners(first, second), tmp_path, now=NOW + timedelta(days=1), months=months)
        assert [r for r in rows(found) if r["owner_kind"] != "run" or r["owner_id"][-1] == "0"] == before
        assert [(r["bytes"], r["valid_from"]) for r in rows(found) if r["owner_id"] == f"{RUN}1"] == [(None, NOW + timedelta(days=1))]
        months |= found.tables
    found = measure(good, run_owners(first, second), tmp_path, now=NOW + timedelta(days=2), months=months)
    assert {r["owner_id"][-1]: r["bytes"] for r in rows(found) if r["valid_to"] is None} == {"0": 101, "1": 100}


def test_a_missing_bucket_is_unreachable(s3_server: S3Server, tmp_path: Path) -> None:
    """The message contains the bucket's name and what to correct."""
    store = ArtifactStore(uri="s3://no-such-bucket-anywhere", endpoint=s3_server.endpoint)
    found = measure(store, run_owners(), tmp_path)
    assert isinstance(found.error, SourceUnreachable)
    assert "NoSuchBucket" in str(found.error)
    assert "Correct `stores` in runspend.yaml." in str(found.error)
    with pytest.raises(SourceUnreachable):
        probe_store(store)


@pytest.mark.parametrize(
    ("variable", "code"), [("AWS_ACCESS_KEY_ID", "InvalidAccessKeyId"), ("AWS_SECRET_ACCESS_KEY", "SignatureDoesNotMatch")]
)
def test_a_wrong_key_is_refused(
    s3_server: S3Server, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, code: str
) -> None:
    """The message quotes the server's reason, and never contains the secret."""
    monkeypatch.setenv(variable, "wrong-and-secret")
    found = measure(ArtifactStore(uri=f"s3://{bucket}", endpoint=s3_server.endpoint, credentials="(env)"), run_owners(), tmp_path)
    assert isinstance(found.error, SourceRefused)
    assert code in str(found.error)
    assert "wrong-and-secret" not in str(found.error)


def test_credentials_come_from_the_named_profile(s3_server: S3Server, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runspend uses the profile in ~/.aws instead of the environment's key. If the profile does not exist, the error names it."""
    (tmp_path / "credentials").write_text(
        f"[artifacts]\naws_access_key_id = {s3_server.access_key}\naws_secret_access_key = {s3_server.secret_key}\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    put(s3_server, bucket, {"x": 1})
    store = ArtifactStore(uri=f"s3://{bucket}", endpoint=s3_server.endpoint, credentials="artifacts")
    assert measure(store, run_owners(), tmp_path).bytes == 1
    missing = measure(store.model_copy(update={"credentials": "other"}), run_owners(), tmp_path)
    assert isinstance(missing.error, SourceUnreachable)
    assert "(other)" in str(missing.error)


def test_no_credentials_at_all_are_named(s3_server: S3Server, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is not a traceback of the SDK."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    found = measure(ArtifactStore(uri=f"s3://{bucket}", endpoint=s3_server.endpoint), run_owners(), tmp_path)
    assert isinstance(found.error, SourceUnreachable)
    assert "Unable to locate credentials" in str(found.error)


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:1", "not a url", "http://"])
def test_an_endpoint_that_does_not_answer_is_unreachable(bucket: str, tmp_path: Path, endpoint: str) -> None:
    """No server listens there, or it is not a URL."""
    found = measure(ArtifactStore(uri=f"s3://{bucket}", endpoint=endpoint), run_owners(), tmp_path)
    assert isinstance(found.error, SourceUnreachable)
    assert found.tables["2026-10"].num_rows == 0


PAGE = """<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name>{body}</ListBucketResult>"""
OBJECT = (
    "<Contents><Key>{key}</Key><LastModified>2026-10-01T00:00:00.000Z</LastModified>{size}<StorageClass>STANDARD</StorageClass></Contents>"
)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("<IsTruncated>true</IsTruncated>", "announces another page but does not say where it begins"),
        ("<IsTruncated>false</IsTruncated>" + OBJECT.format(key="elsewhere/x", size="<Size>1</Size>"), "it contains 'elsewhere/x'"),
        (
            "<IsTruncated>true</IsTruncated><NextContinuationToken>same</NextContinuationToken>",
            "page 2 announces another page but does not say where it begins",
        ),
        ("<IsTruncated>false</IsTruncated><Contents>", "cannot list bucket b"),
    ],
)
def test_answers_that_make_no_sense_are_not_believed(tmp_path: Path, body: str, why: str) -> None:
    """A listing without an end, with another folder's objects, with the same page again and again, or without XML gives an error, not figures."""
    with http_server(lambda request: reply(request, 200, PAGE.format(body=body).encode())) as endpoint:
        found = measure(ArtifactStore(uri="s3://b/mlflow", endpoint=endpoint), run_owners("s3://b/mlflow/1"), tmp_path)
    assert why in str(found.error)
    assert [r["bytes"] for r in rows(found)] == [None]


def test_a_size_the_server_does_not_state_is_unknown(tmp_path: Path) -> None:
    """The listing has a null size, so its owner's bytes are unknown. Its neighbor's bytes are known."""
    body = "<IsTruncated>false</IsTruncated>" + "".join(
        OBJECT.format(key=key, size=size) for key, size in (("r1/a", "<Size>1</Size>"), ("r1/b", ""), ("r2/a", "<Size>5</Size>"))
    )
    with http_server(lambda request: reply(request, 200, PAGE.format(body=body).encode())) as endpoint:
        found = measure(ArtifactStore(uri="s3://b", endpoint=endpoint), run_owners("s3://b/r1", "s3://b/r2"), tmp_path)
    assert (found.objects, found.bytes, found.is_complete) == (3, None, True)
    assert {r["owner_id"]: (r["objects"], r["bytes"]) for r in rows(found)} == {"r1": (2, None), "r2": (1, 5)}


@pytest.mark.parametrize(
    ("status", "headers"),
    [(301, {"x-amz-bucket-region": "eu-west-1"}), (302, {}), (307, {}), (308, {}), (400, {"x-amz-bucket-region": "eu-west-1"})],
)
def test_redirects_are_not_followed_out_of_the_store(tmp_path: Path, status: int, headers: dict[str, str]) -> None:
    """The store's server redirects to another address, which gets no request."""
    seen: list[str] = []

    def record(request: BaseHTTPRequestHandler) -> None:
        seen.append(request.path)
        reply(request, 200, PAGE.format(body="<IsTruncated>false</IsTruncated>").encode())

    with http_server(record) as elsewhere:
        answer = f"<Error><Code>PermanentRedirect</Code><Message>go</Message><Endpoint>{elsewhere[7:]}</Endpoint></Error>".encode()
        with http_server(lambda request: reply(request, status, answer, headers | {"Location": f"{elsewhere}/b?list-type=2"})) as endpoint:
            found = measure(ArtifactStore(uri="s3://b", endpoint=endpoint), run_owners(), tmp_path)
    assert found.error is not None
    assert seen == []


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # tables of MLflow and SQLAlchemy
def test_files_that_mlflow_itself_writes_find_their_owner(
    s3_server: S3Server, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow's own client writes a run and a logged model, and the objects match the URIs that it records.

    Owners that Runspend does not know are orphans.
    """
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    import mlflow

    with mlflow_client(f"sqlite:///{make_schema(tmp_path / 'ml.db')}") as client:
        experiment = mlflow.create_experiment("e", artifact_location=f"s3://{bucket}/mlflow/1")
        with mlflow.start_run(experiment_id=experiment) as run:
            mlflow.log_text("hello", "notes/hello.txt")
        model = mlflow.initialize_logged_model("m", experiment_id=experiment)
        (tmp_path / "weights").write_bytes(b"x" * 100)
        client.log_model_artifact(model.model_id, str(tmp_path / "weights"))
        model_uri = mlflow.get_logged_model(model.model_id).artifact_location
    owners = [
        {"owner_kind": "run", "owner_id": run.info.run_id, "uri": run.info.artifact_uri},
        {"owner_kind": "logged_model", "owner_id": model.model_id, "uri": model_uri},
    ]
    store = ArtifactStore(uri=f"s3://{bucket}", endpoint=s3_server.endpoint)
    assert all(allowed(o["uri"], [store]) is store for o in owners)
    known = measure(store, pa.Table.from_pylist(owners, OWNER_SCHEMA), tmp_path / "work")
    assert {(r["owner_kind"], r["owner_id"]): r["bytes"] for r in rows(known)} == {
        ("run", run.info.run_id): 5,
        ("logged_model", model.model_id): 100,
    }
    proxied = [
        o | {"uri": resolve_artifact_uri(o["uri"].replace(f"s3://{bucket}/mlflow", "mlflow-artifacts:"), f"s3://{bucket}/mlflow")}
        for o in owners
    ]
    assert rows(measure(store, pa.Table.from_pylist(proxied, OWNER_SCHEMA), tmp_path / "work")) == rows(known)
    unknown = measure(store, run_owners(), tmp_path / "work")
    assert {(r["owner_kind"], r["owner_id"], r["bytes"]) for r in rows(unknown)} == {
        ("orphan", f"mlflow/1/{run.info.run_id}/artifacts", 5),
        ("orphan", f"mlflow/1/models/{model.model_id}/artifacts", 100),
    }


def test_probe_asks_once(s3_server: S3Server, bucket: str) -> None:
    """`doctor` shows one line per store."""
    store = ArtifactStore(uri=f"s3://{bucket}", endpoint=s3_server.endpoint)
    assert probe_store(store) == f"bucket {bucket} answers and is empty"
    put(s3_server, bucket, {"x": 1})
    assert probe_store(store) == f"bucket {bucket} answers"
    with closing(s3_server.client()) as client:
        client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    assert probe_store(store) == f"bucket {bucket} answers; it keeps versions, so no policy can `tier` in it"
