"""The archive over a real S3 server, with conditions, versions and storage classes, and over one with false replies."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from runspend.actions.archive.context import Result, Tools
from runspend.actions.archive.items import NOTE_NAME, Item
from runspend.actions.archive.restore import restore
from runspend.actions.archive.run import StoreTotals, apply
from runspend.actions.archive.verify import verify
from runspend.config.settings import ArtifactStore
from runspend.core.errors import NotDone, OutcomeUnknown, SourceError, SourceRefused
from runspend.storage import s3_objects as objects_s3
from runspend.storage.factory import open_objects
from runspend.storage.objects import KEEPS_VERSIONS, ObjectStore, StoredObject
from runspend.warehouse.records import Records
from tests.archive_world import PREFIX, make_item
from tests.servers.lying_s3 import Asked, LyingS3, Reply, honest, serve_lying_s3
from tests.servers.s3 import S3Server
from tests.settings_builder import make_archive_settings

FILES = {"model/MLmodel": b"flavors: {}\n", "model/weights.bin": b"w" * 300_000, "ünï & co.txt": b"", "plot #1?.png": b"p" * 70_000}


@pytest.fixture
def server(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    return s3_server


@pytest.fixture(scope="module")
def liar(s3_server: S3Server) -> Iterator[LyingS3]:
    with serve_lying_s3(s3_server.endpoint) as liar:
        yield liar


class Buckets:
    """A source and an archive in their own buckets. `endpoint` may be that of the server with false replies."""

    def __init__(self, server: S3Server, endpoint: str, home: Path, *, versions: bool = False, may_delete: bool = True) -> None:
        self.client, self.home = server.client(), home
        self.source, self.archive = f"source-{uuid.uuid4().hex[:12]}", f"archive-{uuid.uuid4().hex[:12]}"
        for bucket in (self.source, self.archive):
            self.client.create_bucket(Bucket=bucket)
            if versions:
                self.client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
        self.settings = make_archive_settings(
            home,
            {"uri": f"s3://{self.source}/", "endpoint": endpoint, **({"delete_credentials": "(env)"} if may_delete else {})},
            {"uri": f"s3://{self.archive}/cold/", "endpoint": endpoint, "delete_credentials": "(env)"},
        )
        # The tests write new files. A margin of zero replaces the days that would have to pass.
        limits = self.settings.archive.model_copy(update={"margin": timedelta(0), "clock_skew": timedelta(minutes=5)})
        self.settings = self.settings.model_copy(update={"archive": limits})
        for name, body in FILES.items():
            self.put(name, body)

    def put(self, name: str, body: bytes, **options: Any) -> None:
        self.client.put_object(Bucket=self.source, Key=f"{PREFIX}/{name}", Body=body, **options)

    def item(self, **changes: Any) -> Item:
        return make_item(store=f"s3://{self.source}/", **changes)

    def apply(self, *items: Item, **options: Any) -> list[Result]:
        own = {name: options.pop(name) for name in ("open_store", "workers", "clock", "progress") if name in options}
        given = {
            "now": datetime.now(timezone.utc) + timedelta(seconds=2),
            "protects": lambda item: None,
            "known": lambda uri: StoreTotals(10**6, 10**9),
            "tools": Tools(**{"workers": 4, **own}),
        }
        return apply(items or [self.item()], self.settings, Records(self.home), **{**given, **options})

    def here(self) -> dict[str, bytes]:
        found = self.client.list_objects_v2(Bucket=self.source, Prefix=f"{PREFIX}/").get("Contents", [])
        names = {f["Key"]: f["Key"][len(PREFIX) + 1 :] for f in found}
        return {
            name: self.client.get_object(Bucket=self.source, Key=key)["Body"].read() for key, name in names.items() if name != NOTE_NAME
        }

    def back(self, server: S3Server) -> dict[str, bytes]:
        """Return what a restore from the real server gives."""
        stores = [store.model_copy(update={"endpoint": server.endpoint}) for store in self.settings.stores]
        there = Path(f"back-{uuid.uuid4().hex}")
        restore("run1", self.settings.model_copy(update={"stores": stores}), to=there)
        return {str(path.relative_to(there)): path.read_bytes() for path in there.rglob("*") if path.is_file()}


# --- the store ----------------------------------------------------------------------------------------------------------


@pytest.fixture(params=[False, True], ids=["plain", "versions"])
def objects(server: S3Server, request: pytest.FixtureRequest) -> tuple[ObjectStore, ObjectStore, Any, str]:
    """Return a store to write with, one to delete with, a client of its own, and the bucket."""
    client, bucket = server.client(), f"objects-{uuid.uuid4().hex[:12]}"
    client.create_bucket(Bucket=bucket)
    if request.param:
        client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    store = ArtifactStore(uri=f"s3://{bucket}/root/", endpoint=server.endpoint, delete_credentials="(env)")
    return open_objects(store, "archive"), open_objects(store, "delete"), client, bucket


def test_writes_only_where_nothing_is(objects: tuple[ObjectStore, ObjectStore, Any, str]) -> None:
    store, _, _, _ = objects
    written = store.write("a/b", [b"hel", b"lo"], size=5)
    assert (written.key, written.size, b"".join(store.read(written))) == ("a/b", 5, b"hello")
    with pytest.raises(NotDone):
        store.write("a/b", [b"other"], size=5)
    for size in (4, 6):
        with pytest.raises(NotDone, match="5 bytes arrived"):
            store.write("a/short", [b"hello"], size=size)
    assert store.head("a/short") is None and [found.key for found in store.list("a")] == ["a/b"]


def test_an_object_is_deleted_only_if_it_is_unchanged(objects: tuple[ObjectStore, ObjectStore, Any, str]) -> None:
    store, deleter, client, bucket = objects
    old = store.write("a", [b"old"], size=3)
    client.put_object(Bucket=bucket, Key="root/a", Body=b"newer")
    with pytest.raises(NotDone):
        deleter.delete(old)
    with pytest.raises(NotDone):
        b"".join(store.read(replace(old, version=None)))
    new = store.head("a")
    assert new is not None and b"".join(store.read(new)) == b"newer"
    deleter.delete(new)
    assert store.head("a") is None and list(store.list("")) == []
    deleter.delete(new)  # it is already deleted, so the delete succeeds
    assert store.write("a", [b"again"], size=5).size == 5


def test_a_version_is_deleted_permanently_and_older_ones_stay_hidden(server: S3Server) -> None:
    client, bucket = server.client(), f"versions-{uuid.uuid4().hex[:12]}"
    client.create_bucket(Bucket=bucket)
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    for body in (b"first", b"second"):
        client.put_object(Bucket=bucket, Key="a", Body=body)
    store = ArtifactStore(uri=f"s3://{bucket}/", endpoint=server.endpoint, delete_credentials="(env)")
    [found] = open_objects(store, "read").list("")
    open_objects(store, "delete").delete(found)
    assert open_objects(store, "read").head("a") is None
    left = client.list_object_versions(Bucket=bucket)
    assert [version["VersionId"] != found.version and version["Size"] for version in left["Versions"]] == [5]


def test_listings_with_many_parts_and_pages_are_read_whole(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    client, bucket = server.client(), f"large-{uuid.uuid4().hex[:12]}"
    client.create_bucket(Bucket=bucket)
    store = open_objects(ArtifactStore(uri=f"s3://{bucket}/", endpoint=server.endpoint), "archive")
    monkeypatch.setattr(objects_s3, "PART_BYTES", 5 << 20)
    body = os.urandom(11 << 20)
    written = store.write("big", [body[at : at + 700_001] for at in range(0, len(body), 700_001)], size=len(body))
    assert hashlib.sha256(b"".join(store.read(written))).digest() == hashlib.sha256(body).digest()
    for wrong in (len(body) - 1, len(body) + 1):
        with pytest.raises(NotDone):
            store.write("other", [body], size=wrong)
    with pytest.raises(NotDone):
        store.write("big", [body], size=len(body))
    assert client.list_multipart_uploads(Bucket=bucket).get("Uploads", []) == [] and store.head("other") is None
    monkeypatch.setattr(objects_s3, "ONE_COPY", 1 << 20)
    monkeypatch.setattr(objects_s3, "COPY_PART", 5 << 20)
    moved = store.set_class(written, "GLACIER_IR")
    assert (moved.size, moved.storage_class) == (len(body), "GLACIER_IR") and b"".join(store.read(moved)) == body
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(client.put_object, Bucket=bucket, Key=f"run1/{number}") for number in range(1_050)]:
            done.result()
    client.put_object(Bucket=bucket, Key="run10/x", Body=b"")
    assert len(list(store.list("run1"))) == 1_050 and sorted(store.folders("")) == ["run1", "run10"]


# --- the archive --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("versions", [False, True])
def test_files_come_back_from_the_archive_unchanged(server: S3Server, tmp_path: Path, versions: bool) -> None:
    buckets = Buckets(server, server.endpoint, tmp_path / "home", versions=versions)
    assert [(result.state, result.reason) for result in buckets.apply()] == [("archived", None)]
    assert buckets.here() == {} and buckets.back(server) == FILES
    assert [result.state for result in buckets.apply()] == ["nothing"]
    assert verify(buckets.settings, Records(tmp_path / "home"), now=datetime.now(timezone.utc)).summary.endswith(
        "each one equals what was archived"
    )
    result = restore("run1", buckets.settings)
    assert buckets.here() == FILES and not result.problems and not result.notes
    if versions:  # a moved object is not billed a second time as an old version
        assert [v["Key"] for v in buckets.client.list_object_versions(Bucket=buckets.source)["Versions"] if not v["IsLatest"]] == []


def test_headers_of_objects_are_restored(server: S3Server, tmp_path: Path) -> None:
    """Each object gets its own headers back, even if equal bytes are stored once. Without its encoding, a packed file could not be read."""
    buckets = Buckets(server, server.endpoint, tmp_path / "home")
    for name, kind in (("a", "text/csv"), ("b", "application/json")):
        buckets.put(name, b"packed", ContentType=kind, ContentEncoding="gzip", Metadata={"who": name})
    assert [result.state for result in buckets.apply()] == ["archived"] and buckets.here() == {}
    assert restore("run1", buckets.settings).problems == []
    heads = [buckets.client.head_object(Bucket=buckets.source, Key=f"{PREFIX}/{name}") for name in ("a", "b")]
    assert [(head["ContentType"], head["ContentEncoding"], head["Metadata"]) for head in heads] == [
        ("text/csv", "gzip", {"who": "a"}), ("application/json", "gzip", {"who": "b"})
    ]  # fmt: skip


@pytest.mark.parametrize("versions", [False, True])
def test_a_pending_delete_does_not_delete_restored_objects(
    server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, versions: bool
) -> None:
    """The archiver stopped right before its deletes and continues after a restore. ETags depend on the bytes, but its deletes match no restored object."""
    monkeypatch.setattr(objects_s3, "PART_BYTES", 5 << 20)
    buckets = Buckets(server, server.endpoint, tmp_path / "home", versions=versions)
    large = os.urandom(6 << 20)
    source = open_objects(buckets.settings.stores[0], "archive")
    source.write(f"{PREFIX}/large", [large], size=len(large))  # in two parts, like a restored object
    meant: list[StoredObject] = []
    delete = objects_s3.S3Objects.delete
    monkeypatch.setattr(objects_s3.S3Objects, "delete", lambda store, obj: (meant.append(obj), delete(store, obj))[1])
    assert [(result.state, result.reason) for result in buckets.apply()] == [("archived", None)]
    monkeypatch.undo()
    monkeypatch.setattr(objects_s3, "PART_BYTES", 5 << 20)
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    assert restore("run1", buckets.settings).problems == []
    back = {**FILES, "large": large}
    assert buckets.here() == back and {obj.key for obj in meant} >= {f"{PREFIX}/{name}" for name in back}
    deleter = open_objects(buckets.settings.stores[0], "delete")
    for obj in meant:
        with suppress(NotDone):
            deleter.delete(obj)
    assert buckets.here() == back


def test_objects_restored_before_their_delete_stay(server: S3Server, tmp_path: Path) -> None:
    """An item is copied but not yet deleted, and then restored. Its objects no longer match the pending deletes."""
    buckets = Buckets(server, server.endpoint, tmp_path / "home", may_delete=False)
    meant = list(open_objects(buckets.settings.stores[0], "read").list(PREFIX))
    assert [result.state for result in buckets.apply()] == ["copied"]
    assert restore("run1", buckets.settings).there_already == len(FILES)
    deleter = open_objects(buckets.settings.stores[0].model_copy(update={"delete_credentials": "(env)"}), "delete")
    for obj in meant:
        with pytest.raises(NotDone):
            deleter.delete(obj)
    assert buckets.here() == FILES


def test_without_delete_credentials_nothing_goes(server: S3Server, tmp_path: Path) -> None:
    buckets = Buckets(server, server.endpoint, tmp_path / "home", may_delete=False)
    assert [result.state for result in buckets.apply()] == ["copied"]
    assert buckets.here() == FILES and buckets.back(server) == FILES


def test_tiering_on_s3_keeps_content_type_and_metadata(server: S3Server, tmp_path: Path) -> None:
    buckets = Buckets(server, server.endpoint, tmp_path / "home")
    buckets.put("tagged", b"t", ContentType="text/x-odd", Metadata={"who": "me"})
    assert [result.state for result in buckets.apply(buckets.item(action="tier", to="GLACIER_IR"))] == ["tiered"]
    found = buckets.client.list_objects_v2(Bucket=buckets.source)["Contents"]
    assert {f["StorageClass"] for f in found} == {"GLACIER_IR"} and buckets.here() == {**FILES, "tagged": b"t"}
    head = buckets.client.head_object(Bucket=buckets.source, Key=f"{PREFIX}/tagged")
    assert (head["ContentType"], head["Metadata"]) == ("text/x-odd", {"who": "me"})
    assert [result.state for result in buckets.apply(buckets.item(action="tier", to="GLACIER_IR"))] == ["nothing"]


def test_a_bucket_with_versions_is_not_tiered_in_place(server: S3Server, tmp_path: Path) -> None:
    buckets = Buckets(server, server.endpoint, tmp_path / "home", versions=True)
    [result] = buckets.apply(buckets.item(action="tier", to="GLACIER_IR"))
    assert (result.state, result.reason) == ("protected", KEEPS_VERSIONS) and "use a lifecycle rule" in KEEPS_VERSIONS
    objects = open_objects(buckets.settings.stores[0], "archive")
    with pytest.raises(NotDone, match="use a lifecycle rule"):
        objects.set_class(next(iter(objects.list(PREFIX))), "GLACIER_IR")
    assert [version["StorageClass"] for version in buckets.client.list_object_versions(Bucket=buckets.source)["Versions"]] == [
        "STANDARD"
    ] * len(FILES)


# --- false replies -------------------------------------------------------------------------------------------------------

XML = {"Content-Type": "application/xml"}


def is_object(asked: Asked, bucket: str, method: str) -> bool:
    return (
        asked.method == method
        and asked.path.startswith(f"{bucket}-")
        and not asked.path.endswith(NOTE_NAME)
        and "/" in asked.path.rstrip("/")
    )


def flip(reply: Reply) -> Reply:
    return replace(reply, body=bytes([reply.body[0] ^ 1]) + reply.body[1:]) if reply.body else reply


def without_checksums(reply: Reply) -> Reply:
    """Remove the checksum from the reply, so that the client itself cannot notice."""
    return replace(reply, headers={name: value for name, value in reply.headers.items() if "checksum" not in name.lower()})


def source_flips(asked: Asked, pass_on: Callable[[], Reply]) -> Reply:
    return flip(without_checksums(pass_on())) if is_object(asked, "source", "GET") and "weights" in asked.path else pass_on()


def archive_flips(asked: Asked, pass_on: Callable[[], Reply]) -> Reply:
    return flip(without_checksums(pass_on())) if is_object(asked, "archive", "GET") else pass_on()


def archive_reads_short(asked: Asked, pass_on: Callable[[], Reply]) -> Reply:
    reply = pass_on()
    return replace(without_checksums(reply), body=reply.body[:-1]) if is_object(asked, "archive", "GET") else reply


def archive_keeps_nothing(asked: Asked, pass_on: Callable[[], Reply]) -> Reply:
    return Reply(200, {"ETag": '"d41d8cd98f00b204e9800998ecf8427e"'}, b"") if is_object(asked, "archive", "PUT") else pass_on()


def deletes_are_claimed(asked: Asked, pass_on: Callable[[], Reply]) -> Reply:
    return Reply(204, {}, b"") if is_object(asked, "source", "DELETE") else pass_on()


def an_error_in_a_200(asked: Asked, pass_on: Callable[[], Reply]) -> Reply:
    body = b"<?xml version='1.0'?><DeleteResult><Error><Key>k</Key><Code>AccessDenied</Code><Message>no</Message></Error></DeleteResult>"
    return Reply(200, XML, body) if is_object(asked, "source", "DELETE") else pass_on()


def one_key_is_denied(asked: Asked, pass_on: Callable[[], Reply]) -> Reply:
    body = b"<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>no</Message></Error>"
    return Reply(403, XML, body) if is_object(asked, "source", "DELETE") and "plot" in asked.path else pass_on()


def a_page_says_more_but_not_where(asked: Asked, pass_on: Callable[[], Reply]) -> Reply:
    reply = pass_on()
    return (
        replace(reply, body=reply.body.replace(b"<IsTruncated>false", b"<IsTruncated>true"))
        if asked.method == "GET" and "list-type" in asked.query
        else reply
    )


def a_page_of_someone_elses(asked: Asked, pass_on: Callable[[], Reply]) -> Reply:
    reply = pass_on()
    return (
        replace(reply, body=reply.body.replace(f"<Key>{PREFIX}/model".encode(), b"<Key>1/run10/artifacts/model"))
        if "list-type" in asked.query
        else reply
    )


def a_page_fails(asked: Asked, pass_on: Callable[[], Reply]) -> Reply:
    return (
        Reply(400, XML, b"<Error><Code>InvalidArgument</Code></Error>")
        if "list-type" in asked.query and asked.path.startswith("source-")
        else pass_on()
    )


def copies_are_denied(asked: Asked, pass_on: Callable[[], Reply]) -> Reply:
    return (
        Reply(403, XML, b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>")
        if is_object(asked, "archive", "PUT")
        else pass_on()
    )


def conditions_are_ignored(asked: Asked, pass_on: Callable[[], Reply]) -> Reply:
    reply = pass_on()
    return Reply(204, {}, b"") if reply.status == 412 and asked.method == "DELETE" else reply


# The fault, the files that stay in the store, and the reported state.
LIES = [
    (source_flips, FILES, "partial"), (archive_flips, FILES, "partial"), (archive_reads_short, FILES, "partial"), (archive_keeps_nothing, FILES, "partial"),
    (deletes_are_claimed, FILES, "partial"), (an_error_in_a_200, FILES, "partial"), (one_key_is_denied, {"plot #1?.png": FILES["plot #1?.png"]}, "partial"),
    (a_page_says_more_but_not_where, FILES, "failed"), (a_page_of_someone_elses, FILES, "failed"), (a_page_fails, FILES, "failed"), (copies_are_denied, FILES, "partial"),
    (conditions_are_ignored, {}, "archived"),  # the server only claims to ignore conditions, and the intended object is deleted
]  # fmt: skip


@pytest.mark.parametrize(("lie", "left", "state"), LIES, ids=[lie.__name__ for lie, _, _ in LIES])
def test_a_false_reply_deletes_no_unverified_object(
    server: S3Server, liar: LyingS3, tmp_path: Path, lie: Callable[[Asked, Callable[[], Reply]], Reply], left: dict[str, bytes], state: str
) -> None:
    buckets = Buckets(server, liar.endpoint, tmp_path / "home")
    liar.lie = lie
    try:
        [result] = buckets.apply()
    finally:
        liar.lie = honest
    assert (result.state, buckets.here()) == (state, left), result.reason
    assert state == "archived" or result.reason
    assert state == "archived" or [result.state for result in buckets.apply()] == ["archived"]
    assert buckets.here() == {} and buckets.back(server) == FILES


def test_a_reply_that_is_lost_after_the_fact(server: S3Server, liar: LyingS3, tmp_path: Path) -> None:
    """The server did the work, but the connection broke. Runspend checks, sees that the work is done, and does nothing twice."""
    buckets = Buckets(server, liar.endpoint, tmp_path / "home")

    def lost(asked: Asked, pass_on: Callable[[], Reply]) -> Reply:
        reply = pass_on()
        if asked.method in ("PUT", "DELETE") and asked.path.startswith(("source-", "archive-")) and reply.status < 300:
            return Reply(500, XML, b"<Error><Code>InternalError</Code></Error>")
        return reply

    liar.lie = lost
    try:
        [result] = buckets.apply()
    finally:
        liar.lie = honest
    assert result.state in ("archived", "partial", "failed")
    assert {**buckets.here(), **(buckets.back(server) if result.state == "archived" else {})} == FILES or FILES.items() <= {
        **buckets.back(server),
        **buckets.here(),
    }.items()
    buckets.apply()
    assert buckets.here() == {} and buckets.back(server) == FILES


def test_a_reply_means_not_done_unknown_or_refused(server: S3Server, liar: LyingS3) -> None:
    """A refused request is NotDone, a missing answer is OutcomeUnknown, and a listing that contradicts itself is refused."""
    client, bucket = server.client(), f"outcomes-{uuid.uuid4().hex[:12]}"
    client.create_bucket(Bucket=bucket)
    store = open_objects(ArtifactStore(uri=f"s3://{bucket}/", endpoint=liar.endpoint), "archive")
    for status, error in ((403, NotDone), (404, NotDone), (412, NotDone), (501, NotDone), (500, OutcomeUnknown), (503, OutcomeUnknown)):
        liar.lie = lambda asked, pass_on, status=status: Reply(status, XML, b"<Error><Code>Odd</Code></Error>")
        try:
            with pytest.raises(error):
                store.write("a", [b"a"], size=1)
        finally:
            liar.lie = honest
    gone = open_objects(ArtifactStore(uri=f"s3://{bucket}/", endpoint="http://127.0.0.1:9"), "archive")
    with pytest.raises(OutcomeUnknown):
        gone.write("a", [b"a"], size=1)
    assert issubclass(SourceRefused, SourceError) and store.head("a") is None
