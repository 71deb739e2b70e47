"""Measure stores on Google Cloud Storage and Azure.

Real servers show what works, and a misbehaving server shows how a measurement fails. The tests contact no other server.
"""

from __future__ import annotations

import json
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pyarrow as pa
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from runspend.config.settings import ArtifactStore, Settings, redact, show_settings
from runspend.core.errors import MissingExtra, SourceError, SourceRefused, SourceUnreachable
from runspend.core.step_result import ReadJob
from runspend.ingest.artifacts import Measurement, measure_store, probe_store
from tests.ingest.artifacts.owners import run_owners
from tests.servers.azure import AzureServer
from tests.servers.gcs import GcsServer
from tests.servers.odd_store import OddStore, Request, no_waiting, serve_odd_store
from tests.servers.recording import recording_server

__all__ = ["no_waiting"]  # a fixture that every test here uses

NOW = datetime(2026, 10, 14, 2, tzinfo=timezone.utc)
RUN = "0123456789abcdef0123456789abcde"


@dataclass
class Place:
    """A bucket or container for one test: its address, the settings to read it, and a function that writes objects."""

    uri: str
    settings: dict[str, Any]
    put: Callable[[dict[str, bytes]], None]

    def store(self, under: str = "", **settings: Any) -> ArtifactStore:
        return ArtifactStore(uri=f"{self.uri}{under}", **{**self.settings, **settings})


@pytest.fixture(params=["gs", "abfss", "wasbs"])
def place(request: pytest.FixtureRequest) -> Place:
    name = f"b-{uuid.uuid4().hex[:12]}"
    if request.param == "gs":
        google: GcsServer = request.getfixturevalue("gcs_server")
        google.create_bucket(name)
        return Place(f"gs://{name}/", {"endpoint": google.endpoint, "credentials": "anonymous"}, lambda objects: google.put(name, objects))
    azure: AzureServer = request.getfixturevalue("azure_server")
    azure.create_container(name)
    host = f"{azure.account}.{'dfs' if request.param == 'abfss' else 'blob'}.core.windows.net"
    settings = {"endpoint": azure.endpoint, "credentials": azure.sas()}
    return Place(f"{request.param}://{name}@{host}/", settings, lambda objects: azure.put(name, objects))


def measure(store: ArtifactStore, owners: pa.Table, workdir: Path, **more: Any) -> Measurement:
    """Measure the store once, as a pipeline run does."""
    given = {"now": NOW, "previous": lambda _: None, **more}
    return measure_store(store, owners, ReadJob(given.pop("now"), "night", workdir), **given)


def rows(found: Measurement) -> list[dict[str, Any]]:
    return list(found.tables["2026-10"].to_pylist())


def test_every_owner_gets_its_bytes(place: Place, tmp_path: Path) -> None:
    """Every run gets the sizes and times of its own folder, and run10 is not part of run1."""
    runs = [f"{RUN}{n}" for n in range(3)]
    place.put({f"mlflow/1/{run}/artifacts/model/w{n}": b"x" * (n + 1) for run in runs for n in range(4)})
    place.put({f"mlflow/1/{runs[0]}0/artifacts/x": b"xx", "mlflow2/x": b"other", "mlflow-old": b"other"})
    found = measure(place.store("mlflow/"), run_owners(*(f"{place.uri}mlflow/1/{run}/artifacts" for run in runs)), tmp_path)
    assert (found.error, found.objects, found.bytes, found.is_complete) == (None, 13, 32, True)
    got = {r["owner_id"]: r for r in rows(found) if r["owner_kind"] == "run"}
    assert {run: (got[run]["objects"], got[run]["bytes"], got[run]["prefix"]) for run in runs} == {
        run: (4, 10, f"1/{run}/artifacts") for run in runs
    }
    storage_class = "STANDARD" if place.uri.startswith("gs") else "HOT"
    assert {(r["storage_class"], r["noncurrent_bytes"]) for r in got.values()} == {(storage_class, 0)}
    assert all(datetime.now(timezone.utc) - r["newest_at"] < timedelta(hours=1) for r in got.values())
    assert [(r["owner_kind"], r["owner_id"]) for r in rows(found) if r["owner_kind"] not in ("run",)] == [("other", "1")]


def test_owners_with_odd_names_own_their_objects(place: Place, tmp_path: Path) -> None:
    """Names contain blanks, %41 next to A, plus, emoji, quotes and &. Each is its own folder, in keys and in owners' URIs."""
    folders = ["a b", "%41", "A", "a+b", "😀", "it's", "a&b", "\u00fc", "u\u0308", "<x>"]
    place.put({f"{folder}/x/{folder}": b"x" * 2**n for n, folder in enumerate(folders)})
    found = measure(place.store(), run_owners(*(f"{place.uri}{folder}" for folder in folders)), tmp_path)
    assert {r["owner_id"]: r["bytes"] for r in rows(found)} == {folder: 2**n for n, folder in enumerate(folders)}


def test_a_store_of_many_pages_is_listed_whole(gcs_server: GcsServer, tmp_path: Path) -> None:
    """The store has 2,500 objects, and each counts once."""
    name = f"b-{uuid.uuid4().hex[:12]}"
    gcs_server.create_bucket(name)
    gcs_server.put(name, {f"r{n % 7}/{n:05d}": b"xyz" for n in range(2500)})
    store = ArtifactStore(uri=f"gs://{name}", endpoint=gcs_server.endpoint, credentials="anonymous")
    found = measure(store, run_owners(*(f"gs://{name}/r{n}" for n in range(7))), tmp_path)
    assert (found.error, found.objects, found.bytes) == (None, 2500, 7500)
    assert sum(r["objects"] for r in rows(found)) == 2500


def test_the_probe_names_the_server_that_answers(place: Place) -> None:
    """`doctor` shows one line per store: whether it answers, and whether it is empty."""
    assert probe_store(place.store()).endswith("answers and is empty")
    place.put({"x": b"x"})
    assert probe_store(place.store()).endswith(" answers")


def test_a_missing_bucket_is_unreachable(place: Place, tmp_path: Path) -> None:
    """The error names the bucket and what to correct. Its owners' bytes are unknown, never 0."""
    uri = place.uri.replace("://", "://no-such-")
    found = measure(ArtifactStore(uri=uri, **place.settings), run_owners(f"{uri}1/{RUN}0/artifacts"), tmp_path)
    assert isinstance(found.error, SourceUnreachable)
    assert "no-such-" in str(found.error)
    assert "Check stores[].uri" in str(found.error)
    assert [(r["bytes"], r["is_complete"]) for r in rows(found)] == [(None, False)]


def test_a_wrong_token_is_refused_and_never_shown(azure_server: AzureServer, tmp_path: Path) -> None:
    """The token is signed with another key. The error describes the store's refusal, and the secret appears nowhere."""
    name = f"b-{uuid.uuid4().hex[:12]}"
    azure_server.create_container(name)
    secret = f"{azure_server.sas()[:-6]}AAAAAA"
    uri = f"abfss://{name}@{azure_server.account}.dfs.core.windows.net/"
    store = ArtifactStore(uri=uri, endpoint=azure_server.endpoint, credentials=secret)
    found = measure(store, run_owners(), tmp_path)
    assert isinstance(found.error, SourceRefused)
    assert "lack the rights to read it (403" in str(found.error)
    settings = Settings(home=tmp_path, stores=[store])
    for text in (str(found.error), repr(store), repr(settings), show_settings(settings), redact(f"said {secret}", settings)):
        assert secret not in text


@pytest.mark.parametrize("credentials", ["key.json", "missing.json"])
def test_an_invalid_key_file_is_refused_before_any_request(tmp_path: Path, credentials: str) -> None:
    """The file is not JSON, or it does not exist."""
    (tmp_path / "key.json").write_text("-----BEGIN")
    store = ArtifactStore(uri="gs://b", credentials=str(tmp_path / credentials))
    found = measure(store, run_owners(), tmp_path / "work")
    assert isinstance(found.error, SourceRefused)
    assert "not a Google key file" in str(found.error)
    assert "Set stores[].credentials to one" in str(found.error)


def odd(store: OddStore, **settings: Any) -> ArtifactStore:
    return ArtifactStore(uri="abfss://c@acme.dfs.core.windows.net/m", endpoint=store.endpoint, credentials="anonymous", **settings)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirects_are_not_followed_out_of_the_store(tmp_path: Path, status: int) -> None:
    """The store's server redirects to another address, which gets no request."""

    def elsewhere(request: Request) -> bool:
        request.answer(status, b"", Location=f"http://{sink}/c?comp=list")
        return True

    with recording_server("127.0.0.2") as (sink, seen), serve_odd_store() as store:
        store.oddity = elsewhere
        found = measure(odd(store), run_owners(), tmp_path)
        assert found.error is not None
    assert seen == []


def test_a_page_that_fails_half_way_leaves_bytes_unknown(tmp_path: Path) -> None:
    """Page 2 answers 403. The objects of page 1 do not count, and the owners' bytes are unknown."""

    def fails(request: Request) -> bool:
        if "marker=" in request.handler.path:
            request.answer(403, b"<Error><Code>AuthorizationFailure</Code></Error>")
            return True
        return False

    with serve_odd_store() as store:
        store.objects, store.page_size, store.oddity = {f"m/r/{n}": b"x" for n in range(5)}, 3, fails
        found = measure(odd(store), run_owners("abfss://c@acme.dfs.core.windows.net/m/r"), tmp_path)
    assert (found.is_complete, found.bytes, [r["bytes"] for r in rows(found)]) == (False, None, [None])


@pytest.mark.parametrize("key", ["m2/x", "elsewhere/x"])
def test_objects_of_another_folder_are_not_believed(tmp_path: Path, key: str) -> None:
    """The server ignores the prefix of the request and lists other objects. The measurement fails."""
    with serve_odd_store() as store:
        store.objects = {key: b"x"}
        found = measure(odd(store), run_owners(), tmp_path)
    assert isinstance(found.error, SourceError)
    assert not found.is_complete


def test_copies_are_found_by_checksum(place: Place, tmp_path: Path) -> None:
    """Two runs have the same bytes, and those of the newer run are duplicates. Other bytes of the same size are not."""
    place.put({"a/model": b"weights!", "c/model": b"weights?"})
    time.sleep(1.1)  # stores report whole seconds
    place.put({"b/model": b"weights!"})
    found = measure(place.store(), run_owners(*(f"{place.uri}{name}" for name in "abc")), tmp_path)
    twice = {r["owner_id"]: r["duplicate_bytes"] for r in rows(found)}
    assert twice == {"a": 0, "b": 8, "c": 0}


VERSIONS = b"""<?xml version="1.0" encoding="utf-8"?><EnumerationResults><Blobs>
<Blob><Name>m/r/x</Name><VersionId>2</VersionId><IsCurrentVersion>true</IsCurrentVersion><Properties><Last-Modified>Wed, 04 Nov 2026 03:00:00 GMT</Last-Modified>
<Etag>0x2</Etag><Content-Length>5</Content-Length><AccessTier>Cool</AccessTier></Properties></Blob>
<Blob><Name>m/r/x</Name><VersionId>1</VersionId><Properties><Etag>0x1</Etag><Content-Length>70</Content-Length><AccessTier>Hot</AccessTier></Properties></Blob>
<Blob><Name>m/r</Name><Properties><Etag>0x1</Etag><Content-Length>0</Content-Length><ResourceType>directory</ResourceType></Properties></Blob>
<Blob><Name Encoded="true">m/r/%EF%BF%BE</Name><Properties><Etag>0x1</Etag><AccessTier>Archive</AccessTier></Properties></Blob>
</Blobs><NextMarker/></EnumerationResults>"""


def test_versions_tiers_and_folders_are_distinguished(tmp_path: Path) -> None:
    """The answer is Azure's listing of an account with versions and folders. A blob without a size is unknown, not 0."""

    def listing(request: Request) -> bool:
        request.answer(200, VERSIONS)
        return True

    with serve_odd_store() as store:
        store.oddity = listing
        found = measure(odd(store), run_owners("abfss://c@acme.dfs.core.windows.net/m/r"), tmp_path)
    got = {
        r["storage_class"]: (r["owner_id"], r["objects"], r["bytes"], r["noncurrent_objects"], r["noncurrent_bytes"]) for r in rows(found)
    }
    assert got == {"COOL": ("r", 1, 5, 0, 0), "HOT": ("r", 0, 0, 1, 70), "ARCHIVE": ("r", 1, None, 0, 0)}


def test_an_account_that_does_not_list_versions_is_listed_without_them(tmp_path: Path) -> None:
    """The bytes of versions are unknown then, and a warning says why."""

    def refuses(request: Request) -> bool:
        if "include=versions" in request.handler.path:
            request.answer(403, x_ms_error_code="AuthorizationPermissionMismatch")
            return True
        return False

    with serve_odd_store() as store:
        store.objects, store.oddity = {"m/r/x": b"abc"}, refuses
        found = measure(odd(store), run_owners("abfss://c@acme.dfs.core.windows.net/m/r"), tmp_path)
    assert [(r["bytes"], r["noncurrent_bytes"]) for r in rows(found)] == [(3, None)]
    assert found.warnings == [
        f"noncurrent versions in {found.found.partition(': ')[0] if found.found else ''} are unknown: 403 AuthorizationPermissionMismatch."
    ]


def test_a_busy_azure_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Azure answers 503 twice and then sends the page."""
    monkeypatch.setattr("runspend.storage.azure.RETRIES", 2)
    monkeypatch.setattr("runspend.storage.azure.RETRY_SECONDS", 0)

    def busy(request: Request) -> bool:
        if len(store.asked) <= 2:
            request.answer(503)
            return True
        return False

    with serve_odd_store() as store:
        store.objects, store.oddity = {"m/r/x": b"abc"}, busy
        found = measure(odd(store), run_owners("abfss://c@acme.dfs.core.windows.net/m/r"), tmp_path)
        assert (found.error, found.bytes, len(store.asked)) == (None, 3, 3)


def test_azure_goes_on_where_a_listing_broke_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Page 3 of 4 is refused. An hour later Runspend asks only for pages 3 and 4."""
    monkeypatch.setattr("runspend.ingest.artifacts.measure._PAGE", 10)
    is_down = [True]

    def fails(request: Request) -> bool:
        if is_down[0] and "marker=20" in request.handler.path:
            request.answer(503)
            return True
        return False

    with serve_odd_store() as store:
        store.objects, store.page_size, store.oddity = {f"m/r/{n:03}": b"xy" for n in range(35)}, 10, fails
        owners = run_owners("abfss://c@acme.dfs.core.windows.net/m/r")
        first = measure(odd(store), owners, tmp_path / "w", kept=tmp_path)
        assert (first.is_complete, len(store.asked)) == (False, 3)
        is_down[0] = False
        second = measure(odd(store), owners, tmp_path / "w", kept=tmp_path, now=NOW + timedelta(hours=1))
        assert (second.error, second.objects, second.bytes, second.requests, len(store.asked)) == (None, 35, 70, 2, 5)


def test_without_the_clouds_client_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No server is contacted."""
    monkeypatch.setitem(sys.modules, "google.cloud.storage", None)
    with pytest.raises(MissingExtra, match=r"runspend\[gcs\]"):
        measure(ArtifactStore(uri="gs://b", credentials="anonymous"), run_owners(), tmp_path)


GOOGLES = {
    "": {
        "items": [{"name": "m/r/a", "size": "5", "storageClass": "COLDLINE", "updated": "2026-11-04T03:00:00.123Z"}],
        "nextPageToken": "p2",
    },
    "p2": {
        "items": [
            {
                "name": "m/r/a",
                "size": "70",
                "storageClass": "STANDARD",
                "updated": "2026-11-03T03:00:00Z",
                "timeDeleted": "2026-11-04T03:00:00Z",
            },
            {"name": "m/r/composite", "size": "7", "storageClass": "COLDLINE", "updated": "2026-11-04T03:00:00Z"},
        ]
    },
}


@pytest.mark.parametrize("is_down", [False, True], ids=["at once", "in two tries"])
def test_google_lists_classes_and_versions_page_by_page(tmp_path: Path, is_down: bool) -> None:
    """Google lists a bucket with versions.

    Each page takes one request, with the token of the page before. A second try continues after the first page.
    """
    tries = [is_down]

    def listing(request: Request) -> bool:
        query = parse_qs(urlsplit(request.handler.path).query)
        token = query.get("pageToken", [""])[0]
        assert (query["versions"], query["prefix"]) == (["True"], ["m/"])
        if token and tries[0]:
            request.answer(503)
        else:
            request.answer(200, json.dumps(GOOGLES[token]).encode())
        return True

    with serve_odd_store() as server:
        server.oddity = listing
        store = ArtifactStore(uri="gs://b/m", endpoint=server.endpoint, credentials="anonymous")
        if is_down:
            assert not measure(store, run_owners("gs://b/m/r"), tmp_path / "w", kept=tmp_path).is_complete
            tries[0] = False
        found = measure(store, run_owners("gs://b/m/r"), tmp_path / "w", kept=tmp_path, now=NOW + timedelta(hours=1))
        assert (found.requests, len(server.asked)) == ((1, 3) if is_down else (2, 2))
    got = {r["storage_class"]: (r["objects"], r["bytes"], r["noncurrent_objects"], r["noncurrent_bytes"]) for r in rows(found)}
    assert got == {"COLDLINE": (2, 12, 0, 0), "STANDARD": (0, 0, 1, 70)}


def test_a_key_file_of_google_makes_the_token(tmp_path: Path) -> None:
    """Runspend makes one token for many pages, and sends it only to the store."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()
    (tmp_path / "key.json").write_text(
        json.dumps(
            {"type": "service_account", "private_key": pem, "client_email": "a@acme.example", "token_uri": "http://127.0.0.1:9/token"}
        )
    )
    answers: list[str | None] = []

    def listing(request: Request) -> bool:
        answers.append(request.headers.get("authorization"))
        body = json.dumps(GOOGLES[parse_qs(urlsplit(request.handler.path).query).get("pageToken", [""])[0]]).encode()
        request.answer(200, body, Content_Type="application/json")
        return True

    with serve_odd_store() as server:
        server.oddity = listing
        store = ArtifactStore(uri="gs://b/m", endpoint=server.endpoint, credentials=str(tmp_path / "key.json"))
        assert measure(store, run_owners(), tmp_path / "w").error is None
    assert len(answers) == 2 and len(set(answers)) == 1
    assert str(answers[0]).startswith("Bearer ey")
