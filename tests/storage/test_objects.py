"""What the archive requires of a store's objects. The same tests run on a folder, S3, Azure and Google, and some lose replies."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from google.auth.credentials import AnonymousCredentials
from google.auth.transport.requests import AuthorizedSession
from google.cloud.storage import Blob, Client

from runspend.config.settings import ArtifactStore
from runspend.core.errors import NotDone, OutcomeUnknown, SourceError, SourceRefused
from runspend.storage.factory import open_objects
from runspend.storage.objects import ObjectStore, StoredObject
from tests.servers.azure import AzureServer
from tests.servers.gcs import GcsServer
from tests.servers.gcs_conditions import serve_conditions
from tests.servers.odd_store import OddStore, Request, certificate, no_waiting, serve_identity, serve_odd_store
from tests.servers.s3 import S3Server

__all__ = ["no_waiting"]  # a fixture for every test in this file

ODD_NAMES = ["a b", "a+b", "%41", "😀", "it's", "a&b", "ü", "u\u0308", "<x>", "x;y=z", "a,b", "~$!"]


@dataclass
class Place:
    """A store for one test, and a function that overwrites its objects as another user."""

    store: ArtifactStore
    overwrite: Callable[[str, bytes], object]

    def open(self, purpose: Any = "archive") -> ObjectStore:
        return open_objects(self.store, purpose)


@pytest.fixture(scope="module")
def gcs_with_conditions(gcs_server: GcsServer) -> Iterator[str]:
    with serve_conditions(gcs_server) as endpoint:
        yield endpoint


@pytest.fixture(params=["folder", "s3", "abfss", "gs"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    name = f"b-{uuid.uuid4().hex[:12]}"
    if request.param == "folder":
        (tmp_path / "store").mkdir()
        store = ArtifactStore(uri=str(tmp_path / "store"), delete_credentials="local")
        return Place(store, lambda key, data: (tmp_path / "store" / key).write_bytes(data))
    if request.param == "s3":
        amazon: S3Server = request.getfixturevalue("s3_server")
        for variable in [v for v in os.environ if v.startswith("AWS_")]:
            monkeypatch.delenv(variable)
        for variable, value in amazon.environment().items():
            monkeypatch.setenv(variable, value)
        with closing(amazon.client()) as client:
            client.create_bucket(Bucket=name)

        def put(key: str, data: bytes) -> None:
            with closing(amazon.client()) as client:
                client.put_object(Bucket=name, Key=f"root/{key}", Body=data)

        return Place(ArtifactStore(uri=f"s3://{name}/root", endpoint=amazon.endpoint, delete_credentials="(env)"), put)
    if request.param == "gs":
        google: GcsServer = request.getfixturevalue("gcs_server")
        google.create_bucket(name)
        endpoint = request.getfixturevalue("gcs_with_conditions")
        store = ArtifactStore(uri=f"gs://{name}/root", endpoint=endpoint, credentials="anonymous", delete_credentials="anonymous")
        return Place(store, lambda key, data: google.put(name, {f"root/{key}": data}))
    azure: AzureServer = request.getfixturevalue("azure_server")
    azure.create_container(name)
    uri = f"abfss://{name}@{azure.account}.dfs.core.windows.net/root"
    store = ArtifactStore(uri=uri, endpoint=azure.endpoint, credentials=azure.connection_string, delete_credentials=azure.sas("rwdl"))
    return Place(store, lambda key, data: azure.put(name, {f"root/{key}": data}))


def content(objects: ObjectStore, obj: StoredObject) -> bytes:
    return b"".join(objects.read(obj))


def test_written_bytes_can_be_read(place: Place) -> None:
    """The object is written, looked up, listed and read, with the same result each time."""
    objects = place.open()
    written = objects.write("run1/a/b.bin", iter([b"abc", b"", b"de"]), size=5)
    assert (written.key, written.size) == ("run1/a/b.bin", 5)
    assert datetime.now(timezone.utc) - written.modified < timedelta(minutes=5)
    assert objects.head("run1/a/b.bin") == written == next(iter(objects.list("run1")))
    assert content(objects, written) == b"abcde"
    assert objects.head("run1/a/c.bin") is None


def test_nothing_is_overwritten(place: Place) -> None:
    """Writing to an existing key keeps its content."""
    objects = place.open()
    first = objects.write("x", [b"first"], size=5)
    with pytest.raises(NotDone):
        objects.write("x", [b"other"], size=5)
    assert content(objects, first) == b"first"


@pytest.mark.parametrize("size", [0, 4, 6])
def test_bytes_of_another_number_than_stated_are_not_written(place: Place, size: int) -> None:
    """A copy that is too short or too long leaves no object."""
    objects = place.open()
    with pytest.raises(NotDone):
        objects.write("x", iter([b"ab", b"cde"]), size=size)
    assert objects.head("x") is None


def test_empty_objects_are_objects(place: Place) -> None:
    """An object without bytes still exists."""
    objects = place.open()
    written = objects.write("r/empty", [], size=0)
    assert (written.size, content(objects, written)) == (0, b"")


def test_markers_of_folders_are_objects(place: Place) -> None:
    """A marker is empty and its key ends in a slash. It is listed, read, renewed and conditionally deleted like any other object."""
    objects, deleting = place.open(), place.open("delete")
    objects.write("r/m/x", [b"x"], size=1)
    if place.store.uri.startswith(("s3:", "gs:", "abfss:")):
        for key in ("r/m/", "r/"):
            place.overwrite(key, b"")
        assert sorted(found.key for found in objects.list("r")) == ["r/", "r/m/", "r/m/x"]
    empty = objects.write("r/empty/", [], size=0)
    assert (content(objects, empty), objects.head("r/empty/"), objects.head("r/empty")) == (b"", empty, None)
    are_names = place.store.uri.startswith(
        ("gs:", "abfss:")
    )  # the tests' S3 server turns markers into folders, and keeps those that are not empty
    for key in ("r/empty/", "r/m/", "r/") if are_names else ("r/empty/",):
        marker = objects.head(key)
        assert marker is not None and marker.size == 0
        deleting.delete(objects.renew(marker) if are_names else marker)
        assert objects.head(key) is None
    assert {found.key for found in objects.list("r")} - {"r/", "r/m/"} == {"r/m/x"}


def test_only_the_object_that_was_meant_is_read_or_deleted(place: Place) -> None:
    """Another user overwrites the object with the same size. That new object is neither read nor deleted."""
    objects, deleting = place.open("read"), place.open("delete")
    meant = place.open().write("r/x", [b"mine"], size=4)
    place.overwrite("r/x", b"hers")
    with pytest.raises(NotDone):
        content(objects, meant)
    with pytest.raises(NotDone):
        deleting.delete(meant)
    theirs = objects.head("r/x")
    assert theirs is not None
    assert content(objects, theirs) == b"hers"
    deleting.delete(theirs)
    assert objects.head("r/x") is None
    deleting.delete(theirs)  # the object is already deleted, so the delete succeeds
    with pytest.raises(NotDone):
        content(objects, theirs)


@pytest.mark.parametrize("body", [b"abc", b""])
def test_rewriting_the_same_bytes_makes_a_pending_delete_fail(place: Place, body: bytes) -> None:
    """The object is rewritten in place or after its delete, but not if another user wrote it in the meantime."""
    objects, deleting = place.open(), place.open("delete")
    first = objects.write("r/x", [body], size=len(body))
    second = objects.renew(first)
    assert (content(objects, second), second.size) == (body, len(body))
    for stale in (lambda: deleting.delete(first), lambda: objects.renew(first)):
        with pytest.raises(NotDone):
            stale()
    assert objects.head("r/x") == second
    deleting.delete(second)
    third = objects.write("r/x", [body], size=len(body), unlike=second.etag)
    with pytest.raises(NotDone):
        deleting.delete(second)
    assert content(objects, third) == body
    with pytest.raises(NotDone):
        objects.renew(second)
    fourth = objects.renew(third)
    assert (fourth.etag != third.etag, content(objects, fourth)) == (True, body)


SAYS = {
    "cache-control": "no-store", "content-disposition": "inline", "content-encoding": "gzip", "content-language": "de", "content-type": "text/csv", "meta.made_By": "ana", "mode": "640",
}  # fmt: skip


def as_named(place: Place, name: str) -> str:
    """Return metadata names in the store's spelling: S3 stores them in lower case."""
    return name.lower() if place.store.uri.startswith("s3:") else name


@pytest.mark.parametrize("large", [False, True])
def test_metadata_of_an_object_is_read_back_as_written(place: Place, monkeypatch: pytest.MonkeyPatch, large: bool) -> None:
    """`head` returns the metadata after every kind of write. Folders have only modes, and the other stores have none."""
    monkeypatch.setattr("runspend.storage.google.PIECE_BYTES", 1 << 18)
    monkeypatch.setattr("runspend.storage.azure_objects.BLOCK_BYTES", 1000 if large else 10**6)
    monkeypatch.setattr("runspend.storage.s3_objects.PART_BYTES", 5 << 20)
    objects, body = place.open(), bytes(range(256)) * (LARGE.get(place.store.uri[:3], 8) if large else 8)
    written = objects.write("r/x", [body], size=len(body), metadata=SAYS)
    is_folder = place.store.uri.startswith("/")
    assert dict(written.metadata) == {as_named(place, name): value for name, value in SAYS.items() if (name == "mode") is is_folder}
    found = objects.head("r/x")
    assert found is not None and found.metadata == written.metadata and content(objects, found) == body
    assert objects.renew(found).metadata == written.metadata


LARGE = {"s3:": 24_000, "gs:": 40_000}  # sizes, in 256 bytes, that need several parts; Google's client sends up to 8 MiB in one request

CLASSES = {"s3": "STANDARD_IA", "abfss": "COOL", "gs": "NEARLINE"}


@pytest.mark.parametrize("large", [False, True])
def test_an_object_is_written_in_a_class(place: Place, monkeypatch: pytest.MonkeyPatch, large: bool) -> None:
    """Stores with storage classes write the object in its class, and a folder refuses. (fake-gcs-server keeps the class.)"""
    monkeypatch.setattr("runspend.storage.google.PIECE_BYTES", 1 << 18)
    monkeypatch.setattr("runspend.storage.azure_objects.BLOCK_BYTES", 1000 if large else 10**6)
    monkeypatch.setattr("runspend.storage.s3_objects.PART_BYTES", 5 << 20)
    objects, body = place.open(), bytes(range(256)) * (LARGE.get(place.store.uri[:3], 8) if large else 8)
    storage_class = CLASSES.get(place.store.uri.partition(":")[0])
    if storage_class is None:
        with pytest.raises(NotDone, match="has no storage classes"):
            objects.write("r/x", [body], size=len(body), storage_class="GLACIER_IR")
        return
    sent, request = list[Any](), AuthorizedSession.request
    monkeypatch.setattr(
        AuthorizedSession, "request", lambda self, *a, **k: sent.append(a) or sent.append(k.get("data")) or request(self, *a, **k)
    )
    written = objects.write("r/x", [body], size=len(body), storage_class=storage_class)
    if large and place.store.uri.startswith("gs:"):  # fake-gcs-server loses it for an upload in parts
        assert f'"storageClass": "{storage_class}"' in str(sent[1])
    else:
        assert written.storage_class == storage_class
    assert content(objects, written) == body
    with pytest.raises(NotDone):
        objects.write("r/x", [body], size=len(body), storage_class=storage_class)


def test_a_folder_ends_at_its_slash(place: Place) -> None:
    """A listing of run1 never includes run10 (mlflow#24821)."""
    objects = place.open()
    for key in ("run1/a", "run1/b/c", "run10/a", "run1.bak/a", "other"):
        objects.write(key, [b"x"], size=1)
    assert sorted(o.key for o in objects.list("run1")) == ["run1/a", "run1/b/c"]
    assert sorted(o.key for o in objects.list("")) == ["other", "run1.bak/a", "run1/a", "run1/b/c", "run10/a"]
    assert sorted(objects.folders("")) == ["run1", "run1.bak", "run10"]
    assert sorted(objects.folders("run1")) == ["b"]


def test_odd_names_are_distinct_keys(place: Place) -> None:
    """Each key refers only to its own object."""
    objects = place.open()
    for n, name in enumerate(ODD_NAMES):
        objects.write(f"{name}/{name}", [name.encode()], size=len(name.encode()))
        found = objects.head(f"{name}/{name}")
        assert found is not None, n
        assert content(objects, found).decode() == name
    assert {o.key for o in objects.list("")} == {f"{name}/{name}" for name in ODD_NAMES}
    for name in ODD_NAMES:
        assert [o.key for o in objects.list(name)] == [f"{name}/{name}"]


@pytest.mark.parametrize("key", ["../x", "a/../../x", "a//x", "./x", "a/.", ""])
def test_keys_that_lead_elsewhere_are_not_written(place: Place, key: str) -> None:
    """S3 accepts such keys as names, so the archive never creates one. Folders and Azure refuse them."""
    if place.store.uri.startswith("s3://"):
        pytest.skip("to S3 they are names like others")
    with pytest.raises(NotDone):
        place.open().write(key, [b"x"], size=1)


def test_the_clock_is_the_stores(place: Place) -> None:
    assert abs(datetime.now(timezone.utc) - place.open().clock()) < timedelta(minutes=5)


def test_nothing_is_deleted_without_credentials_for_it(place: Place) -> None:
    """By default, a store has no such credentials."""
    with pytest.raises(NotDone, match="delete_credentials"):
        open_objects(place.store.model_copy(update={"delete_credentials": None}), "delete")


def test_a_class_is_set_on_condition_of_the_generation(gcs_server: GcsServer, gcs_with_conditions: str) -> None:
    """Google rewrites the object in place. An object that has changed in the meantime is left alone. (fake-gcs-server keeps the class.)"""
    name = f"b-{uuid.uuid4().hex[:12]}"
    gcs_server.create_bucket(name)
    objects = open_objects(ArtifactStore(uri=f"gs://{name}/root", endpoint=gcs_with_conditions, credentials="anonymous"), "archive")
    before = objects.write("r/x", [b"abc"], size=3)
    after = objects.set_class(before, "COLDLINE")
    assert content(objects, after) == b"abc"
    assert after.etag != before.etag
    with pytest.raises(NotDone):
        objects.set_class(before, "COLDLINE")
    assert objects.head("r/x") == after


def test_metadata_of_an_object_is_sent_again_to_google(
    gcs_server: GcsServer, gcs_with_conditions: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Google keeps only the metadata that a rewrite repeats. fake-gcs-server keeps the rest too, so the test reads the request."""
    name = f"b-{uuid.uuid4().hex[:12]}"
    gcs_server.create_bucket(name)
    objects = open_objects(ArtifactStore(uri=f"gs://{name}/root", endpoint=gcs_with_conditions, credentials="anonymous"), "archive")
    objects.write("r/x", [b"abc"], size=3)
    metadata_sent = list[dict[str, Any]]()
    mine = Client("tests", AnonymousCredentials(), client_options={"api_endpoint": gcs_server.endpoint}).bucket(name).blob("root/r/x")
    mine.content_type, mine.metadata = "text/csv", {"who": "ana"}
    mine.patch()
    rewrite = Blob.rewrite

    def listen(self: Any, *args: Any, **kwargs: Any) -> Any:
        metadata_sent.append({field: value for field, value in self._properties.items() if field not in ("name", "bucket")})
        return rewrite(self, *args, **kwargs)

    monkeypatch.setattr(Blob, "rewrite", listen)
    for change in (lambda obj: objects.set_class(obj, "COLDLINE"), objects.renew):
        before = objects.head("r/x")
        assert before is not None
        change(before)
    assert [one.pop("storageClass") for one in metadata_sent] == ["COLDLINE", before.storage_class]
    assert metadata_sent == [{"contentType": "text/csv", "metadata": {"who": "ana"}}] * 2


def test_a_large_object_is_sent_to_google_as_it_comes(
    gcs_server: GcsServer, gcs_with_conditions: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runspend never holds the whole object in memory. An upload that ends early leaves no object."""
    monkeypatch.setattr("runspend.storage.google.PIECE_BYTES", 1 << 18)
    name = f"b-{uuid.uuid4().hex[:12]}"
    gcs_server.create_bucket(name)
    objects = open_objects(ArtifactStore(uri=f"gs://{name}/root", endpoint=gcs_with_conditions, credentials="anonymous"), "archive")
    data = bytes(range(256)) * 40_000
    written = objects.write("r/large", (data[n : n + 100_000] for n in range(0, len(data), 100_000)), size=len(data))
    assert content(objects, written) == data
    for came, size in ((len(data), len(data) + 1), (10, len(data) + 1), (len(data), len(data) - 100_001)):
        with pytest.raises(NotDone):
            objects.write("r/short", (data[n : min(n + 100_000, came)] for n in range(0, came, 100_000)), size=size)
    assert objects.head("r/short") is None


# --- only Azure ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def azure(azure_server: AzureServer) -> ArtifactStore:
    name = f"b-{uuid.uuid4().hex[:12]}"
    azure_server.create_container(name)
    uri = f"wasbs://{name}@{azure_server.account}.blob.core.windows.net/root"
    return ArtifactStore(
        uri=uri, endpoint=azure_server.endpoint, credentials=azure_server.connection_string, delete_credentials=azure_server.sas("rwdl")
    )


def test_a_large_blob_is_written_in_blocks_on_the_same_condition(azure: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three blocks make one blob. An existing key keeps its content."""
    monkeypatch.setattr("runspend.storage.azure_objects.BLOCK_BYTES", 1000)
    objects = open_objects(azure, "archive")
    data = bytes(range(256)) * 10
    written = objects.write("r/large", (data[n : n + 77] for n in range(0, len(data), 77)), size=len(data))
    assert content(objects, written) == data
    with pytest.raises(NotDone):
        objects.write("r/large", iter([b"x" * 3000]), size=3000)
    with pytest.raises(NotDone):
        objects.write("r/short", iter([b"x" * 2999]), size=3000)
    assert (objects.head("r/large"), objects.head("r/short")) == (written, None)


def test_a_tier_is_set_in_place(azure: ArtifactStore) -> None:
    """The same bytes get another class, unless the object has changed in the meantime."""
    objects = open_objects(azure, "archive")
    hot = objects.write("r/x", [b"abc"], size=3)
    cool = objects.set_class(hot, "COOL")
    assert (hot.storage_class, cool.storage_class, content(objects, cool)) == ("HOT", "COOL", b"abc")
    with pytest.raises(NotDone):
        objects.set_class(StoredObject("r/x", 3, '"0x0"', None, "COOL", cool.modified), "HOT")


def test_a_token_without_the_right_is_refused(azure: ArtifactStore, azure_server: AzureServer) -> None:
    """A token may allow only reads. No error message contains the token."""
    objects = open_objects(azure.model_copy(update={"credentials": azure_server.sas("rl")}), "archive")
    with pytest.raises(NotDone, match="403") as refused:
        objects.write("r/x", [b"abc"], size=3)
    assert "sig=" not in str(refused.value)


def test_an_identity_of_the_machine_deletes_on_a_condition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without credentials in runspend.yaml, the machine's identity signs the request, and the condition is the etag."""
    seen = list[tuple[Any, ...]]()

    def look(request: Request) -> bool:
        seen.append((request.handler.command, request.headers.get("authorization"), request.headers.get("if-match")))
        request.answer(202)
        return True

    with serve_identity(monkeypatch), serve_odd_store(tls=certificate(tmp_path, monkeypatch)) as server:
        server.oddity = look
        store = ArtifactStore(uri="abfss://ccc@acme.dfs.core.windows.net/m", endpoint=server.endpoint, delete_credentials="(env)")
        open_objects(store, "delete").delete(StoredObject("x", 3, '"0x1"', None, "HOT", datetime.now(timezone.utc)))
    assert seen == [("DELETE", "Bearer a-token", '"0x1"')]


@pytest.fixture(params=["abfss", "gs"])
def rude(request: pytest.FixtureRequest) -> Iterator[tuple[OddStore, ObjectStore]]:
    """A store that answers every request as the test specifies."""
    uri = {"abfss": "abfss://ccc@acme.dfs.core.windows.net/m", "gs": "gs://b/m"}[request.param]
    with serve_odd_store() as server:
        store = ArtifactStore(uri=uri, endpoint=server.endpoint, credentials="anonymous", delete_credentials="anonymous")
        yield server, open_objects(store, "delete")


@pytest.fixture
def odd() -> Iterator[tuple[OddStore, ObjectStore]]:
    with serve_odd_store() as server:
        store = ArtifactStore(
            uri="abfss://ccc@acme.dfs.core.windows.net/m", endpoint=server.endpoint, credentials="anonymous", delete_credentials="anonymous"
        )
        yield server, open_objects(store, "delete")


def answers(status: int, body: bytes = b"", length: int | None = None) -> Callable[[Request], bool]:
    def oddity(request: Request) -> bool:
        request.answer(status, body, length)
        return True

    return oddity


@pytest.mark.parametrize(
    ("oddity", "outcome"),
    [
        (answers(503), OutcomeUnknown),
        (answers(500), OutcomeUnknown),
        (answers(403), NotDone),
        (answers(409), NotDone),
        (answers(302), NotDone),
    ],
    ids=["503", "500", "403", "409", "302"],
)
def test_a_call_that_is_not_answered_well_is_refused_or_unknown(
    rude: tuple[OddStore, ObjectStore], oddity: Callable[[Request], bool], outcome: type[SourceError]
) -> None:
    """If the status is unclear, the outcome is unknown. A refused request changes nothing."""
    server, objects = rude
    server.oddity = oddity
    server.objects = {"m/x": b"abc"}
    obj = StoredObject("x", 3, "1", None, "HOT", datetime.now(timezone.utc))
    for call in (
        lambda: objects.head("x"),
        lambda: list(objects.list("")),
        lambda: list(objects.read(obj)),
        lambda: objects.clock(),
        lambda: objects.delete(obj),
    ):
        with pytest.raises(outcome):
            call()


def test_a_delete_is_requested_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that repeated a delete by itself could delete an object that someone has protected in the meantime."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "anybody")
    obj = StoredObject("x", 3, "1", None, "STANDARD", datetime.now(timezone.utc))
    with serve_odd_store() as server:
        server.oddity = answers(503)
        for uri in ("s3://b/m", "gs://b/m", "abfss://ccc@acme.dfs.core.windows.net/m"):
            credentials = "(env)" if uri.startswith("s3") else "anonymous"
            store = ArtifactStore(uri=uri, endpoint=server.endpoint, credentials=credentials, delete_credentials=credentials)
            server.asked.clear()
            with pytest.raises(OutcomeUnknown):
                open_objects(store, "delete").delete(obj)
            assert len(server.asked) == 1, uri


def test_an_interrupted_read_is_not_mistaken_for_a_whole_object(rude: tuple[OddStore, ObjectStore]) -> None:
    """The connection ends after two of three bytes."""
    server, objects = rude
    server.oddity = answers(200, b"ab", 3)
    obj = StoredObject("x", 3, "1", None, "HOT", datetime.now(timezone.utc))
    with pytest.raises(OutcomeUnknown):
        list(objects.read(obj))


def test_a_listing_that_names_other_folders_is_not_believed(odd: tuple[OddStore, ObjectStore]) -> None:
    server, objects = odd
    server.objects = {"elsewhere/x": b"abc"}
    with pytest.raises(SourceRefused):
        list(objects.list(""))


def test_nothing_is_deleted_in_a_store_that_keeps_versions(odd: tuple[OddStore, ObjectStore]) -> None:
    """The store would keep the bytes as an old version, so Runspend sends no delete request."""
    server, objects = odd
    with pytest.raises(NotDone, match="keeps versions"):
        objects.delete(StoredObject("x", 3, '"0x1"', "2026-01-01", "HOT", datetime.now(timezone.utc)))
    assert server.asked == []
