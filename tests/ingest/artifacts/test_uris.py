"""Which URIs are inside a store. Runspend decides this from the text, without a connection."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from runspend.config.settings import ArtifactStore
from runspend.ingest.artifacts import allowed, resolve_artifact_uri, store_slug

S3 = ArtifactStore(uri="s3://ml-artifacts/mlflow/", endpoint="http://127.0.0.1:9")
WHOLE_BUCKET = ArtifactStore(uri="s3://models")
RUN = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Record and refuse every attempt to resolve a name or to connect."""
    seen: list[Any] = []

    def refuse(*args: Any, **kwargs: Any) -> Any:
        seen.append(args)
        raise OSError("no connections in this test")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for name in ("getaddrinfo", "create_connection", "gethostbyname"):
        monkeypatch.setattr(socket, name, refuse)
    return seen


INSIDE = [
    "s3://ml-artifacts/mlflow",
    "s3://ml-artifacts/mlflow/",
    f"s3://ml-artifacts/mlflow/12/{RUN}/artifacts",
    f"s3://ml-artifacts/mlflow/12/{RUN}/artifacts/",
    "s3://ml-artifacts/mlflow/a b/ü/😀/x",
    "s3://ml-artifacts/mlflow/%41/x",
    "s3://ml-artifacts/mlflow/..x/x..",
    "s3://models",
    "s3://models/anything/at/all",
]

OUTSIDE = [
    # other schemes, some of which would make a server send requests
    "http://169.254.169.254/latest/meta-data/",
    "https://169.254.169.254/",
    "http://[fd00:ec2::254]/",
    "http://localhost:5000/mlflow",
    "ftp://10.0.0.5/mlflow",
    "sftp://10.0.0.5/mlflow",
    "hdfs://namenode:8020/mlflow",
    "viewfs://cluster/mlflow",
    "gs://ml-artifacts/mlflow/12",
    "abfss://ml-artifacts@account.dfs.core.windows.net/mlflow",
    "wasbs://ml-artifacts@account.blob.core.windows.net/mlflow",
    "dbfs:/databricks/mlflow-tracking/12",
    "runs:/0123/model",
    "models:/m/1",
    "mlflow-artifacts:/12/x",
    "data:text/plain,x",
    "javascript:alert(1)",
    "gopher://10.0.0.5/_x",
    "dict://10.0.0.5/x",
    "ldap://10.0.0.5/x",
    "r2://ml-artifacts@account.r2.cloudflarestorage.com/mlflow",
    "s3a://ml-artifacts/mlflow/12",
    "s3n://ml-artifacts/mlflow/12",
    "b2://ml-artifacts/mlflow",
    # almost the right scheme
    "S3://ml-artifacts/mlflow/12",
    "s3:/ml-artifacts/mlflow/12",
    "s3:ml-artifacts/mlflow/12",
    "s3:///ml-artifacts/mlflow/12",
    " s3://ml-artifacts/mlflow/12",
    "\ts3://ml-artifacts/mlflow/12",
    "s3+http://ml-artifacts/mlflow/12",
    "//ml-artifacts/mlflow/12",
    "",
    # almost the right bucket
    "s3://ml-artifacts2/mlflow/12",
    "s3://ml-artifact/mlflow/12",
    "s3://ML-ARTIFACTS/mlflow/12",
    "s3://ml-artifacts.evil.example/mlflow/12",
    "s3://user@ml-artifacts/mlflow/12",
    "s3://ml-artifacts@10.0.0.5/mlflow/12",
    "s3://ml-artifacts:80/mlflow/12",
    "s3://10.0.0.5/mlflow/12",
    "s3://ml%2dartifacts/mlflow/12",
    "s3://ml-artifact\u0455/mlflow/12",
    "s3://ml\u2010artifacts/mlflow/12",
    "s3://ml-artifacts\\@evil/mlflow/12",
    "s3://ml-artifacts#@evil/mlflow/12",
    "s3://ml-artifacts?x=/mlflow/12",
    # almost the right prefix
    "s3://ml-artifacts",
    "s3://ml-artifacts/",
    "s3://ml-artifacts/mlflow2/12",
    "s3://ml-artifacts/mlflow-old",
    "s3://ml-artifacts/MLflow/12",
    "s3://ml-artifacts/mlflo",
    "s3://ml-artifacts//mlflow/12",
    "s3://ml-artifacts/mlflow%2f12",
    "s3://ml-artifacts/x/mlflow/12",
    "s3://ml-artifacts/mlf\u006c\u0301ow/12",
    # ways out of the prefix
    "s3://ml-artifacts/mlflow/../secret",
    "s3://ml-artifacts/mlflow/12/..",
    "s3://ml-artifacts/mlflow/./12",
    "s3://ml-artifacts/mlflow/12//x",
    "s3://ml-artifacts/mlflow/%2e%2e/secret",
    "s3://ml-artifacts/mlflow/%2E%2e/secret",
    "s3://ml-artifacts/mlflow/%252e%252e/secret",
    "s3://ml-artifacts/mlflow/%25252e%25252e/secret",
    "s3://ml-artifacts/mlflow/..%2fsecret",
    "s3://ml-artifacts/mlflow/..%5csecret",
    "s3://ml-artifacts/mlflow/..\\secret",
    "s3://ml-artifacts/mlflow\\..\\secret",
    "s3://ml-artifacts/mlflow/12?versionId=1",
    "s3://ml-artifacts/mlflow/12#x",
    "s3://ml-artifacts/mlflow/12%00",
    "s3://ml-artifacts/mlflow/12\x00",
    "s3://ml-artifacts/mlflow/12\n",
    "s3://ml-artifacts/mlflow/\r\nHost: evil",
    "s3://ml-artifacts/mlflow/12%3fx",
    "s3://ml-artifacts/mlflow/12%23x",
    "s3://models/..",
    "s3://models/../ml-artifacts/mlflow",
    # local files, when only buckets are configured
    "file:///etc/passwd",
    "/etc/passwd",
    "file://10.0.0.5/share",
    "\\\\10.0.0.5\\share",
    "C:\\mlflow",
    "./mlruns/0",
    "mlruns/0",
]


@pytest.mark.parametrize("uri", INSIDE)
def test_a_uri_under_a_root_belongs_to_its_store(uri: str, connections: list[Any]) -> None:
    """The URI has the scheme, bucket and folder of the store. It is allowed, and no connection is made."""
    store = allowed(uri, [S3, WHOLE_BUCKET])
    assert store is (WHOLE_BUCKET if uri.startswith("s3://models") else S3)
    assert connections == []


@pytest.mark.parametrize("uri", OUTSIDE, ids=lambda uri: repr(uri)[:60])
def test_a_uri_that_is_not_plainly_under_a_root_is_outside(uri: str, connections: list[Any]) -> None:
    """Other schemes, similar buckets, and every way out of a prefix are refused without a connection."""
    assert allowed(uri, [S3, WHOLE_BUCKET]) is None
    assert connections == []


def test_the_corpus_is_large_enough() -> None:
    """Duplicates do not count."""
    assert len(set(OUTSIDE)) >= 80


def test_no_uri_and_no_store_allow_nothing() -> None:
    """The run has no artifact URI, or no store is configured."""
    assert allowed(None, [S3]) is None
    assert allowed("s3://ml-artifacts/mlflow/12", []) is None


def test_a_store_of_a_kind_this_version_cannot_read_allows_nothing() -> None:
    """An hdfs:// store does not allow hdfs:// URIs, and does not affect the other stores."""
    stores = [ArtifactStore(uri="hdfs://ml-artifacts"), S3]
    assert allowed("hdfs://ml-artifacts/12", stores) is None
    assert allowed("s3://ml-artifacts/mlflow/12", stores) is S3


def test_names_that_only_look_equal_are_different_folders() -> None:
    """Names differ in Unicode form (one character, or a letter and an accent) or in case.

    Object stores keep them apart, and so does Runspend.
    """
    store = ArtifactStore(uri="s3://b/\u00fcber")
    assert allowed("s3://b/\u00fcber/1", [store]) is store
    assert allowed("s3://b/u\u0308ber/1", [store]) is None
    assert allowed("s3://b/\u00dcber/1", [store]) is None


def test_the_innermost_of_nested_stores_wins() -> None:
    """A part of a bucket may have its own credentials."""
    outer, inner = ArtifactStore(uri="s3://b/"), ArtifactStore(uri="s3://b/mlflow/prod")
    assert allowed("s3://b/mlflow/prod/1", [outer, inner]) is inner
    assert allowed("s3://b/mlflow/production/1", [outer, inner]) is outer


@pytest.mark.parametrize(
    ("uri", "is_inside"),
    [
        ("{root}/0/run", True),
        ("file://{root}/0/run", True),
        ("file:{root}/0/run", True),
        ("file://{root}/a%20b", True),
        ("file://{root}/a%2541", True),
        ("{root}", True),
        ("{root}/", True),
        ("{root}2/0", False),
        ("{root}/../other", False),
        ("{root}/0/../../other", False),
        ("file://{root}/%2e%2e/other", False),
        ("file://{root}/0%2f..%2f..%2fother", False),
        ("file://{root}/%252e%252e/other", False),
        ("file://{root}/0%0a", False),
        ("file://{root}/%ff%fe", False),
        ("file://localhost{root}/0", False),
        ("file://10.0.0.5{root}/0", False),
        ("file:///{root}/0", False),
        ("//10.0.0.5{root}/0", False),
        ("{root}/link/x", False),
        ("{root}/inner/x", True),
    ],
)
def test_local_folders_are_held_to_their_root(tmp_path: Path, uri: str, is_inside: bool, connections: list[Any]) -> None:
    """Folders are written in several ways, encoded or not. A link that leads out is outside, even if its own path is inside."""
    root = tmp_path / "mlruns"
    (root / "0").mkdir(parents=True)
    (root / "link").symlink_to(tmp_path)
    (root / "inner").symlink_to(root / "0")
    store = ArtifactStore(uri=str(root))
    assert (allowed(uri.format(root=root), [store]) is store) == is_inside
    assert connections == []


def test_a_root_that_is_a_link_is_known_by_both_of_its_names(tmp_path: Path) -> None:
    """/data is a link to /mnt/disk1, and MLflow may have recorded either path."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "data").symlink_to(tmp_path / "disk")
    store = ArtifactStore(uri=str(tmp_path / "data"))
    assert allowed(str(tmp_path / "data" / "0"), [store]) is store
    assert allowed(str(tmp_path / "disk" / "0"), [store]) is store


@pytest.mark.parametrize(
    ("uri", "server_artifacts", "expected"),
    [
        ("mlflow-artifacts:/1/r/artifacts", "s3://b/mlflow", "s3://b/mlflow/1/r/artifacts"),
        ("mlflow-artifacts:/1/r/artifacts", "s3://b/mlflow/", "s3://b/mlflow/1/r/artifacts"),
        ("mlflow-artifacts:1/r", "s3://b", "s3://b/1/r"),
        ("mlflow-artifacts://mlflow:5000/1/r/artifacts", "/data/mlruns", "/data/mlruns/1/r/artifacts"),
        ("mlflow-artifacts:/workspaces/team/1/r", "s3://b", "s3://b/workspaces/team/1/r"),
        ("mlflow-artifacts:/1/r", None, None),
        ("s3://b/1/r", None, "s3://b/1/r"),
        ("s3://b/1/r", "s3://other", "s3://b/1/r"),
        ("/data/1/r", "s3://other", "/data/1/r"),
        ("", "s3://b", None),
        (None, "s3://b", None),
    ],
)
def test_proxied_uris_are_found_in_the_servers_store(uri: str | None, server_artifacts: str | None, expected: str | None) -> None:
    """An `mlflow-artifacts:` URI means the store behind that server. Every other URI stays as it is."""
    assert resolve_artifact_uri(uri, server_artifacts) == expected


def test_a_proxied_uri_cannot_climb_out_of_the_servers_store() -> None:
    """The resolved URI keeps its dots, and URIs with dots are never allowed."""
    resolved = resolve_artifact_uri("mlflow-artifacts:/../../secret", "s3://ml-artifacts/mlflow")
    assert resolved == "s3://ml-artifacts/mlflow/../../secret"
    assert allowed(resolved, [S3]) is None


def test_slugs_are_stable_safe_and_different() -> None:
    """A slug is a file name: it has no separators, is never too long, and belongs to one store only."""
    uris = [
        "s3://b/",
        "s3://b",
        "s3://B",
        "s3://b/a-b",
        "s3://b/a/b",
        "/data/mlruns",
        "file:///data/mlruns",
        "/",
        "",
        "s3://" + "x" * 300,
        "/ü/😀",
    ]
    slugs = [store_slug(uri) for uri in uris]
    assert len(set(slugs)) == len(uris)
    assert all(slug.replace("-", "").isalnum() and slug.isascii() and len(slug) < 64 for slug in slugs)
    assert store_slug("s3://b/mlflow/") == "s3-b-mlflow-731e46f472"
