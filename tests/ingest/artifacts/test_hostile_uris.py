"""Artifact URIs that an attacker may write: they climb out of a root, or name hosts that Runspend should not contact.

None resolves outside its root, and no server is contacted.
"""

from __future__ import annotations

import os
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runspend.config.settings import ArtifactStore
from runspend.core.step_result import ReadJob
from runspend.ingest.artifacts import allowed, measure_store, resolve_artifact_uri
from runspend.storage.uris import folder_within, parse_root
from tests.servers.odd_store import serve_odd_store
from tests.servers.recording import recording_server

ACCOUNT = "acmeml.dfs.core.windows.net"
STORES = {
    "s3": ArtifactStore(uri="s3://ml-artifacts/mlflow"),
    "gs": ArtifactStore(uri="gs://ml-artifacts/mlflow"),
    "abfss": ArtifactStore(uri=f"abfss://ml@{ACCOUNT}/mlflow"),
}
ROOTS = {
    "s3": "s3://ml-artifacts/mlflow",
    "gs": "gs://ml-artifacts/mlflow",
    "abfss": f"abfss://ml@{ACCOUNT}/mlflow",
    "wasbs": "wasbs://ml@acmeml.blob.core.windows.net/mlflow",
    "https": "https://acmeml.blob.core.windows.net/ml/mlflow",
    "mlflow-artifacts": "mlflow-artifacts:",
}
# What follows a root: dots, plain and encoded several times; other separators; ends of the path; lookalikes of dots and slashes.
TAILS = [
    "/../secret", "/1/../../secret", "/1/..", "/..", "/.", "/./1", "/1/./x", "/1//x", "//secret", "/1/../x", "/%2e%2e/secret", "/%2E%2E/secret",
    "/.%2e/secret", "/%2e./secret", "/%252e%252e/secret", "/%25252e%25252e/secret", "/%2525252e./secret", "/..%2fsecret", "/..%2Fsecret", "/1%2f..%2f..%2fsecret",
    "/..%252fsecret", "/..%5csecret", "/..%5Csecret", "/..%255csecret", "/..\\secret", "\\..\\secret", "/1\\..\\..\\secret", "/1?versionId=x", "/?x", "/1#x", "/#",
    "/1%3fx", "/1%23x", "/1%253fx", "/1%00", "/1%2500", "/1\x00", "/1\n", "/\r\nHost: evil", "/1\t", "/1\x7f", "/1\x85", "/1\u2028x", "/1\u2029x",
]  # fmt: skip
TWINS = [
    "s3://ml-artifacts/MLflow/1", "s3://ml-artifacts/mlfl\u043ew/1", "s3://ml-artifacts/mlﬂow/1", "s3://ml-artifacts/mlflow\u0301/1", "s3://ml-artifacts/mlflow\u200b/1",
    "s3://ml-artifacts/mlflow2/1", "s3://ml-artifacts/mlflow-old", "s3://ml-artifacts/mlflo", "s3://ML-artifacts/mlflow/1", "s3://ml-artifacts2/mlflow/1",
    "gs://ml-artifacts/mlflow2/1", "gs://ml-artifacts/Mlflow/1", "gs://ml-artifact/mlflow/1", f"abfss://ml2@{ACCOUNT}/mlflow/1", f"abfss://ml@{ACCOUNT}/mlflow2/1",
    f"abfss://ml@evil{ACCOUNT}/mlflow/1", f"abfss://ML@{ACCOUNT}/mlflow/1", f"ABFSS://ml@{ACCOUNT}/mlflow/1", "wasbs://ml@acmeml.blob.core.windows.net/mlflow2",
    "wasbs://ml@acmeml2.blob.core.windows.net/mlflow/1", "https://acmeml.blob.core.windows.net/ml/mlflow2/1", "https://acmeml.blob.core.windows.net/ml2/mlflow/1",
    "https://acmeml.blob.core.windows.net/mlflow/1", "https://acmeml2.blob.core.windows.net/ml/mlflow/1",
]  # fmt: skip
# mlflow-artifacts://secret names a host, which Runspend ignores.
TRAVERSAL = [f"{root}{tail}" for root in ROOTS.values() for tail in TAILS if f"{root}{tail}" != "mlflow-artifacts://secret"] + TWINS

# Hosts that an attacker would have Runspend contact: metadata services, internal networks, lookalikes of a store's host, other schemes.
LURES = [
    "http://169.254.169.254/latest/meta-data/", "https://169.254.169.254/", "http://[fd00:ec2::254]/latest/", "http://[::ffff:169.254.169.254]/", "http://2852039166/", "http://0xA9FEA9FE/",
    "http://0251.0376.0251.0376/", "http://169.254.169.254.nip.io/", "http://metadata.google.internal/computeMetadata/v1/", "http://metadata/", "http://100.100.100.200/latest/",
    "http://192.0.0.192/latest/", "http://localhost:5000/api", "http://127.0.0.1:22/", "http://127.1/", "http://0/", "http://[::1]/", "http://localtest.me/", "http://rebind.example/mlflow",
    "https://acmeml.blob.core.windows.net@10.0.0.5/ml/mlflow/1", "https://acmeml.blob.core.windows.net:80@10.0.0.5/ml/mlflow", "https://10.0.0.5/ml/mlflow/1",
    "https://acmeml.blob.core.windows.net.evil.example/ml/mlflow/1", "https://evil.example/acmeml.blob.core.windows.net/ml/mlflow", "https://acmeml.blob.core.windows.net:8443/ml/mlflow",
    "https://acmeml.blob.core.windows.net\\@10.0.0.5/ml/mlflow", "https://acmeml.blob.core.windows.net#@10.0.0.5/ml/mlflow", "https://user:pw@acmeml.blob.core.windows.net/ml/mlflow",
    "http://acmeml.blob.core.windows.net/ml/mlflow/1", "https://acmeml.privatelink.blob.core.windows.net/ml/mlflow", "abfss://ml@10.0.0.5/mlflow/1", "abfss://ml@acmeml.dfs.core.windows.net.evil.example/mlflow",
    "abfss://ml@acmeml.dfs.core.windows.net:10000/mlflow", "abfss://ml@acmeml.dfs.core.windows.net@10.0.0.5/mlflow", "abfss://ml@evil@acmeml.dfs.core.windows.net/mlflow", "abfss://acmeml.dfs.core.windows.net/mlflow",
    "abfss://ml:x@acmeml.dfs.core.windows.net/mlflow", "wasbs://ml@169.254.169.254/mlflow", "wasb://ml@acmeml.blob.core.windows.net/mlflow", "abfs://ml@acmeml.dfs.core.windows.net/mlflow",
    "az://ml/mlflow/1", "adl://acmeml.azuredatalakestore.net/mlflow", "gs://10.0.0.5/mlflow", "gs://ml-artifacts@10.0.0.5/mlflow", "gs://ml-artifacts:80/mlflow", "gs://user:pw@ml-artifacts/mlflow",
    "s3://169.254.169.254/mlflow", "s3://ml-artifacts@10.0.0.5/mlflow", "s3://ml-artifacts:80/mlflow/1", "s3://ml-artifacts.s3.evil.example/mlflow", "s3a://ml-artifacts/mlflow", "r2://ml-artifacts@acct.r2.cloudflarestorage.com/m",
    "ftp://10.0.0.5/mlflow", "ftps://10.0.0.5/mlflow", "sftp://10.0.0.5/mlflow", "hdfs://10.0.0.5:8020/mlflow", "viewfs://nn/mlflow", "dbfs:/mnt/x", "gopher://10.0.0.5:6379/_x", "dict://10.0.0.5/x", "ldap://10.0.0.5/x",
    "tftp://10.0.0.5/x", "smb://10.0.0.5/share", "//10.0.0.5/share", "\\\\10.0.0.5\\share", "file://10.0.0.5/share", "file:////10.0.0.5/share", "jar:http://10.0.0.5!/x", "data:text/plain,x", "runs:/1/x", "models:/m/1",
]  # fmt: skip


def test_the_corpora_are_as_large_as_promised() -> None:
    """Duplicates do not count."""
    assert len(set(TRAVERSAL)) >= 120
    assert len(set(LURES)) >= 60


@pytest.mark.parametrize("uri", TRAVERSAL, ids=lambda uri: repr(uri)[:80])
def test_no_way_leads_out_of_a_root(uri: str) -> None:
    """The URIs climb out of the root, also encoded, or spell it in another alphabet or case. None belongs to a store."""
    resolved = resolve_artifact_uri(uri, STORES["s3"].uri)
    assert allowed(resolved, STORES.values()) is None


@pytest.mark.parametrize("spelling", ["abfss", "wasbs", "https"])
def test_azures_three_spellings_are_one_place(spelling: str) -> None:
    """MLflow writes the first two and people write the third. The store may be configured with either of the first two."""
    uri = f"{ROOTS[spelling]}/12/run/artifacts"
    for store in (STORES["abfss"], ArtifactStore(uri=ROOTS["wasbs"])):
        assert allowed(uri, [store]) is store
        assert folder_within(uri, parse_root(store)) == "12/run/artifacts"


@pytest.mark.parametrize("root", ["s3", "gs", "abfss", "wasbs", "https"])
def test_odd_names_inside_stay_inside(root: str) -> None:
    """Blanks, %41, emoji and dots within a name do not put a URI outside its root."""
    for tail in ("/a b/ü/😀", "/%41", "/..x/x..", "/...", "/a+b", "/1/"):
        assert allowed(f"{ROOTS[root]}{tail}", STORES.values()) is not None


def test_a_local_root_is_not_left_by_any_tail(tmp_path: Path) -> None:
    """The tails are added to a folder and to links in it. The file system shows that every allowed path is inside the root."""
    root = tmp_path / "mlruns"
    (root / "1").mkdir(parents=True)
    (tmp_path / "secret").mkdir()
    (root / "out").symlink_to(tmp_path / "secret")
    (root / "loop").symlink_to(root / "loop")
    store = ArtifactStore(uri=str(root))
    for beginning in (str(root), f"file://{root}", f"file:{root}", f"{root}/out", f"{root}/loop", f"file://localhost{root}"):
        for tail in ("", *TAILS):
            if allowed(f"{beginning}{tail}", [store]) is not None:
                folder = folder_within(f"{beginning}{tail}", parse_root(store))
                assert Path(os.path.realpath(root / str(folder))).is_relative_to(root), (beginning, tail)
    assert allowed(f"{root}/out/x", [store]) is None


PIECES = st.sampled_from(
    [
        "..",
        ".",
        "",
        "%2e%2e",
        "%2f",
        "\\",
        "mlflow",
        "ml-artifacts",
        "ml",
        "@",
        ":",
        "//",
        "/",
        "?",
        "#",
        "secret",
        "\u2028",
        "a",
        "%00",
        "s3",
        "gs",
        "://",
        ACCOUNT,
    ]
)


@given(st.lists(PIECES, max_size=12).map("".join), st.sampled_from(list(ROOTS.values())))
@settings(max_examples=500, deadline=None)
def test_every_allowed_uri_is_under_a_root(tail: str, root: str) -> None:
    """The tail is any string of separators, dots and names. A URI is allowed only as the root or as whole folder names below it."""
    uri = resolve_artifact_uri(f"{root}{tail}", STORES["s3"].uri)
    store = allowed(uri, STORES.values())
    if store is not None:
        folder = folder_within(uri, parse_root(store))
        assert folder is not None
        assert all(part not in ("", ".", "..") and not set(part) & set("\\?#\x00") for part in folder.split("/")) or folder == ""


def hostile_owners() -> pa.Table:
    rows: list[dict[str, Any]] = [
        {"owner_kind": "run", "owner_id": f"{n:032x}", "tracking_server": "prod", "workspace": "default", "experiment_id": "1", "uri": uri}
        for n, uri in enumerate([*LURES, *(uri for uri in TRAVERSAL if "\x00" not in uri)])
    ]
    schema = pa.schema([(n, pa.string()) for n in rows[0]] + [("is_purged", pa.bool_())])
    return pa.Table.from_pylist(rows, schema)


@pytest.mark.parametrize("kind", ["folder", "s3", "gs", "abfss"])
def test_lures_cause_no_connection(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs claim all these URIs while Runspend measures a store. It contacts only the store, and none of the runs owns a byte."""
    monkeypatch.setattr("runspend.storage.azure.RETRIES", 0)
    monkeypatch.setattr("runspend.storage.google.RETRY_SECONDS", 0)
    with recording_server() as (proxy, seen), serve_odd_store() as server:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, f"http://{proxy}")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
        server.objects = {"mlflow/1/x": b"abc"}
        if kind == "folder":
            (tmp_path / "mlruns").mkdir()
            (tmp_path / "mlruns" / "x").write_bytes(b"abc")
            store = ArtifactStore(uri=str(tmp_path / "mlruns"))
        else:
            secret = {} if kind == "s3" else {"credentials": "anonymous"}
            store = ArtifactStore(uri=STORES[kind].uri, endpoint=server.endpoint, **secret)
        found = measure_store(
            store,
            hostile_owners(),
            ReadJob(datetime(2026, 10, 14, tzinfo=timezone.utc), "x", tmp_path / "w"),
            previous=lambda _: None,
        )
    assert seen == []
    assert [r["owner_id"] for r in found.tables["2026-10"].to_pylist() if r["owner_kind"] == "run" and r["bytes"]] == []
    if kind in ("folder", "abfss"):  # the misbehaving server speaks Azure's protocol
        assert (found.error, found.bytes) == (None, 3)


def test_the_recording_proxy_records(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Runspend contacts a remote store through the proxy, so the test above can fail."""
    with recording_server() as (proxy, seen):
        monkeypatch.setenv("HTTPS_PROXY", f"http://{proxy}")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        store = ArtifactStore(uri=STORES["abfss"].uri, credentials="anonymous")
        monkeypatch.setattr("runspend.storage.azure.RETRIES", 0)
        measure_store(store, hostile_owners(), ReadJob(datetime(2026, 10, 14, tzinfo=timezone.utc), "x", tmp_path), previous=lambda _: None)
    assert seen
    assert seen[0].startswith(b"CONNECT acmeml.blob.core.windows.net:443")
