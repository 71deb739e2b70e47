"""Bills in object stores. Real servers of S3, Google and Azure show what works, and a misbehaving server shows how loading fails."""

from __future__ import annotations

import base64
import json
import traceback
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from runspend.config.settings import BillSource, ScopeSettings, Settings, redact, show_settings
from runspend.core.errors import SourceRefused, SourceUnreachable
from runspend.ingest.billing import file_sources as places
from runspend.ingest.billing import probe_source
from runspend.ingest.billing.file_sources import open_blobs
from runspend.ingest.billing.versions import loads_table
from tests.focus_files import Nights, csv_text, month, nights, only, row
from tests.servers.azure import AzureServer
from tests.servers.gcs import GcsServer
from tests.servers.odd_store import OddStore, Request, certificate, serve_identity, serve_odd_store
from tests.servers.s3 import S3Server


@dataclass
class Store:
    """A bucket for one test: its address, the settings to read it, and a function that writes objects."""

    uri: str
    settings: dict[str, Any]
    put: Callable[[dict[str, bytes]], None]

    def bill(self, tmp_path: Path, under: str = "", **settings: Any) -> Nights:
        return nights(tmp_path, f"{self.uri}{under}", **{**self.settings, **settings})


@pytest.fixture(params=["s3", "gs", "abfss"])
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Store:
    name = f"b-{uuid.uuid4().hex[:12]}"
    if request.param == "s3":
        amazon: S3Server = request.getfixturevalue("s3_server")
        for key, value in amazon.environment().items():
            monkeypatch.setenv(key, value)
        with closing(amazon.client()) as client:
            client.create_bucket(Bucket=name)
        return Store(f"s3://{name}/", {"endpoint": amazon.endpoint, "region": amazon.region}, lambda objects: put_s3(amazon, name, objects))
    if request.param == "gs":
        google: GcsServer = request.getfixturevalue("gcs_server")
        google.create_bucket(name)
        return Store(f"gs://{name}/", {"endpoint": google.endpoint, "credentials": "anonymous"}, lambda objects: google.put(name, objects))
    azure: AzureServer = request.getfixturevalue("azure_server")
    azure.create_container(name)
    uri, secret = f"abfss://{name}@{azure.account}.dfs.core.windows.net/", azure.sas()
    return Store(uri, {"endpoint": azure.endpoint, "credentials": secret}, lambda objects: azure.put(name, objects))


def put_s3(server: S3Server, bucket: str, objects: dict[str, bytes]) -> None:
    with closing(server.client()) as client:
        for key, data in objects.items():
            client.put_object(Bucket=bucket, Key=key, Body=data)


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of files that Runspend fetched from a store, in order."""
    names: list[str] = []
    fetch = places.BucketSource.fetch

    def noted(self: places.BucketSource, entry: places.Entry) -> Path:
        names.append(entry.name)
        return fetch(self, entry)

    monkeypatch.setattr(places.BucketSource, "fetch", noted)
    return names


@pytest.fixture
def odd() -> Iterator[OddStore]:
    with serve_odd_store() as served:
        yield served


def odd_bill(tmp_path: Path, odd: OddStore, **settings: Any) -> Nights:
    given = {"endpoint": odd.endpoint, "credentials": "sv=1&sig=canary-signature", **settings}
    return nights(tmp_path, "abfss://bills@acme.dfs.core.windows.net/focus", **given)


def bill_of(*costs: str, period: str = "2026-10") -> bytes:
    return csv_text([row(cost, **month(period)) for cost in costs]).encode()


# --- a store is read like a folder ------------------------------------------------------------------------------------


def test_only_the_prefix_is_read(tmp_path: Path, store: Store) -> None:
    mine, other = bill_of("1.00"), bill_of("100.00")
    store.put(
        {
            "exports/focus/oct.csv": mine,
            "exports/focus/50% über #1.csv": mine,
            "exports/focus/.hidden.csv": other,
            "exports/focus2/oct.csv": other,
            "oct.csv": other,
        }
    )
    bill = store.bill(tmp_path, "exports/focus")
    outcome = only(bill.load())
    assert (outcome.state, bill.total()) == ("loaded", Decimal(1))
    assert len(outcome.extra["duplicates"]) == 1
    assert only(bill.load()).state == "unchanged"


@pytest.mark.parametrize("secret", ["connection_string", "sas"])
def test_an_az_address_takes_the_account_from_the_connection_string_or_the_endpoint(
    tmp_path: Path, azure_server: AzureServer, secret: str
) -> None:
    """az:// does not name the account. The connection string does, or else the endpoint."""
    azure_server.create_container(name := f"b-{uuid.uuid4().hex[:12]}")
    azure_server.put(name, {"focus/oct.csv": bill_of("1.00")})
    credentials = azure_server.connection_string if secret == "connection_string" else f"?{azure_server.sas()}"
    bill = nights(tmp_path, f"az://{name}/focus", endpoint=azure_server.endpoint, credentials=credentials)
    bill.load()
    assert bill.total() == Decimal(1)


def test_one_file_may_be_the_address(tmp_path: Path, store: Store) -> None:
    store.put({"focus/oct.csv": bill_of("1.00"), "focus/oct.csv.old/sep.csv": bill_of("9.00")})
    bill = store.bill(tmp_path, "focus/oct.csv")
    bill.load()
    assert bill.total() == Decimal(1)


def test_more_files_than_one_page_of_a_listing(tmp_path: Path, odd: OddStore) -> None:
    odd.objects, odd.page_size = {f"focus/{i}.csv": b"1" for i in range(9)}, 4
    folder = places.open_folder(odd_bill(tmp_path, odd).source, tmp_path)
    assert [e.name for e in folder.entries()] == [f"{i}.csv" for i in range(9)]
    assert len(odd.asked) == 3


def test_a_manifest_names_its_parts_by_full_key(tmp_path: Path, store: Store) -> None:
    data = "exports/ml/20261001-20261031/0f1e"
    manifest = {
        "blobs": [{"blobName": f"{data}/part_0.csv", "byteCount": len(bill_of("1.00", "2.00"))}],
        "runInfo": {"startDate": "2026-10-01"},
    }
    store.put(
        {
            f"{data}/part_0.csv": bill_of("1.00", "2.00"),
            f"{data}/stray.csv": bill_of("9.00"),
            f"{data}/manifest.json": json.dumps(manifest).encode(),
        }
    )
    bill = store.bill(tmp_path, "exports")
    bill.load()
    assert bill.total() == Decimal(3)


def test_doctor_looks_into_a_store(tmp_path: Path, store: Store) -> None:
    store.put({"focus/oct.csv": bill_of("1.00", "2.50")})
    found = probe_source(store.bill(tmp_path, "focus").source)
    assert (found["files"], found["rows"], found["billed"], found["problems"]) == (1, 2, {"USD": Decimal("3.50")}, [])


def test_a_folder_marker_of_azure_is_not_a_file(tmp_path: Path, odd: OddStore) -> None:
    """With a hierarchical namespace, Azure lists folders as empty blobs. Spark writes folders with names like oct.csv."""
    odd.objects = {"focus/oct.csv": b"", "focus/oct.csv/part-0.csv": bill_of("1.00")}
    bill = odd_bill(tmp_path, odd)
    bill.load()
    assert bill.total() == Decimal(1)


# --- a file is copied whole or refused --------------------------------------------------------------------------------


def test_a_large_file_is_fetched_in_pieces_with_progress(tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    data = csv_text([row(f"{i}.00", ResourceId="i-" + "x" * 20_000) for i in range(1000)]).encode()
    assert len(data) > 20_000_000
    monkeypatch.setattr(places, "TELL_EACH_BYTES", 8_000_000)
    store.put({"focus/oct.csv": data})
    bill = store.bill(tmp_path, "focus")
    folder = places.open_folder(bill.source, tmp_path, bill.progress.append)
    [entry] = folder.entries()
    assert folder.fetch(entry).read_bytes() == data
    first, second = (int(line.partition(", ")[2].partition("%")[0]) for line in bill.progress)
    assert 8_000_000 * 100 // len(data) <= first < 16_000_000 * 100 // len(data) <= second < 100
    assert bill.progress[0] == f"bill: fetching oct.csv, {first}% of {len(data):,} bytes"


def test_an_interrupted_copy_continues_where_it_stopped(tmp_path: Path, odd: OddStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """It continues at the piece that broke off. A piece that the store ends early without an error does not count as whole."""
    monkeypatch.setattr("runspend.storage.azure.PIECE_BYTES", 50_000)
    odd.objects = {"focus/oct.csv": bill_of(*[f"{i}.00" for i in range(2000)])}
    cuts = iter([5000, None, 7000])

    def cut(request: Request) -> bool:
        after = next(cuts, None) if request.key else None
        if after is not None:
            odd.send(request, odd.objects[request.key], stop_after=after)
        return after is not None

    odd.oddity = cut
    bill = odd_bill(tmp_path, odd)
    bill.load()
    assert bill.total() == Decimal(sum(range(2000)))
    starts = [asked.partition("bytes=")[2].partition("-")[0] for asked in odd.asked if "comp=list" not in asked]
    assert starts[:5] == ["0", "0", "50000", "50000", "100000"]


def test_a_store_that_keeps_breaking_off_is_unreachable(tmp_path: Path, odd: OddStore) -> None:
    odd.objects = {"focus/oct.csv": bill_of("1.00")}

    def cut(request: Request) -> bool:
        if request.key:
            odd.send(request, odd.objects[request.key], stop_after=0)
        return bool(request.key)

    odd.oddity = cut
    with pytest.raises(SourceUnreachable, match=r"cannot read abfss://.*: the store ended the transfer early in oct.csv each time"):
        odd_bill(tmp_path, odd).load()


def test_an_interrupted_answer_of_s3_continues_where_it_stopped(tmp_path: Path, odd: OddStore, monkeypatch: pytest.MonkeyPatch) -> None:
    data = bill_of(*[f"{i}.00" for i in range(2000)])
    odd.objects = {"focus/oct.csv": data}
    cuts = iter([5000, 70_000])

    def cut(request: Request) -> bool:
        after = next(cuts, None)
        odd.send(request, data, stop_after=after)
        return True

    odd.oddity = cut
    for name, value in S3Server(odd.endpoint).environment().items():
        monkeypatch.setenv(name, value)
    source = BillSource(name="bill", uri="s3://acme/bills/focus", endpoint=odd.endpoint.removesuffix("/acme"), region="us-east-1")
    bucket = places.S3Prefix(source, "s3://acme/bills/focus", tmp_path, print)
    bucket._keys["oct.csv"] = "bills/focus/oct.csv"
    entry = places.Entry("oct.csv", len(data), datetime.now(timezone.utc), odd.etag("focus/oct.csv"))
    assert bucket.fetch(entry).read_bytes() == data
    assert [asked.partition("bytes=")[2] for asked in odd.asked] == ["", "5000-", "75000-"]


@pytest.mark.parametrize(("stamp", "starts"), [("same", [0, 4, 8]), (None, [0, 0, 0])])
def test_without_a_version_stamp_an_interrupted_copy_starts_again(tmp_path: Path, stamp: str | None, starts: list[int]) -> None:
    """After the interruption, the rest could be from another file. Runspend gives up after the fourth interruption."""
    asked: list[int] = []

    class Breaking(places.BucketSource):
        def list_objects(self) -> Iterator[tuple[str, int, datetime, str | None]]:
            raise AssertionError("nothing is listed here")

        def read_object(self, key: str, stamp: str | None, start: int) -> Iterator[bytes]:
            asked.append(start)
            yield b"0123456789ab"[start : start + 4] if len(asked) < 3 else b"0123456789ab"[start:]
            if len(asked) < 3 or key == "never":
                raise places.Interrupted(SourceUnreachable("bill", "broke off"))

    bucket = Breaking(BillSource(name="bill", uri="s3://b/"), "", tmp_path / "into", print)
    bucket._keys = {"a": "a", "never": "never"}
    assert bucket.fetch(places.Entry("a", 12, datetime.now(timezone.utc), stamp)).read_bytes() == b"0123456789ab"
    assert asked == starts
    asked.clear()
    with pytest.raises(SourceUnreachable, match="broke off"):
        bucket.fetch(places.Entry("never", 1000, datetime.now(timezone.utc), stamp))
    assert len(asked) == 1 + places.MAX_RESUMES


def test_a_file_that_changes_after_it_was_listed_is_refused(tmp_path: Path, store: Store) -> None:
    store.put({"focus/oct.csv": bill_of("1.00")})
    folder = places.open_folder(store.bill(tmp_path, "focus").source, tmp_path)
    [entry] = folder.entries()
    store.put({"focus/oct.csv": bill_of("2.00")})
    with pytest.raises(SourceRefused, match=r"cannot load oct\.csv of the bill: it changed while it was copied"):
        folder.fetch(entry)


@pytest.mark.parametrize("way", ["condition", "no condition", "gone", "shorter"])
def test_a_file_that_changes_while_it_is_copied_is_refused(tmp_path: Path, odd: OddStore, way: str) -> None:
    """This holds for stores that check If-Match and for those that ignore it."""
    before, after = bill_of("1.00"), bill_of("2.00")
    odd.objects = {"focus/BILLING_PERIOD=2026-10/oct.csv": before}

    def swap(request: Request) -> bool:
        if not request.key:
            return False
        if way == "gone":
            odd.objects.clear()
            return False
        if way == "shorter":
            odd.send(request, before[:-5])
            return True
        odd.objects[request.key] = after
        if way == "no condition":
            odd.send(request, after)
            return True
        return False

    odd.oddity = swap
    outcome = only(odd_bill(tmp_path, odd).load())
    assert outcome.state == "refused"
    assert "oct.csv of the bill: it changed while it was copied. Run the load again." in str(outcome.error)


# --- errors are one sentence without secrets --------------------------------------------------------------------------


def refusal_of(bill: Nights) -> str:
    """Return the error's sentence. A printed traceback contains nothing from the store's client library."""
    with pytest.raises(SourceUnreachable) as caught:
        bill.load()
    printed = "".join(traceback.format_exception(caught.value)) + repr(bill.source)
    assert "canary" not in printed
    assert "Debug source" not in printed
    text = str(caught.value)
    assert text.startswith(f"cannot read {bill.source.uri} of the bill: ")
    assert "\n" not in text
    return text


def test_a_missing_container_is_named(tmp_path: Path, azure_server: AzureServer) -> None:
    bill = nights(
        tmp_path,
        f"abfss://gone@{azure_server.account}.dfs.core.windows.net/x",
        endpoint=azure_server.endpoint,
        credentials=azure_server.sas(),
    )
    assert "there is no container gone in account acmebilling (404 ContainerNotFound)" in refusal_of(bill)


@pytest.mark.parametrize(
    ("credentials", "answer"),
    [
        ("sv=2021-08-06&ss=b&srt=sco&sp=rl&se=2099-01-01T00%3A00%3A00Z&sig=canary", "403 AuthorizationFailure"),
        ("DefaultEndpointsProtocol=https;AccountName=acmebilling;AccountKey=Y2FuYXJ5LWNhbmFyeQ==", "403 AuthorizationFailure"),
        ("anonymous", "403"),
    ],
)
def test_credentials_without_rights_are_refused(tmp_path: Path, azure_server: AzureServer, credentials: str, answer: str) -> None:
    azure_server.create_container(name := f"b-{uuid.uuid4().hex[:12]}")
    uri = f"abfss://{name}@{azure_server.account}.dfs.core.windows.net/x"
    text = refusal_of(nights(tmp_path, uri, endpoint=azure_server.endpoint, credentials=credentials))
    assert f"the credentials lack the rights to read it ({answer}" in text
    assert "Storage Blob Data Reader" in text


@pytest.mark.parametrize("scheme", ["gs", "abfss"])
def test_an_unreachable_server_is_reported_with_a_fix(tmp_path: Path, scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runspend.storage.google.RETRY_SECONDS", 0)
    uri = {"gs": "gs://bills/x", "abfss": "abfss://bills@acme.dfs.core.windows.net/x"}[scheme]
    text = refusal_of(nights(tmp_path, uri, endpoint="http://127.0.0.1:9/acme", credentials="anonymous"))
    assert "did not answer. Check the network, endpoint and credentials." in text


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (404, b'{"error": {"code": 404, "errors": [{"reason": "notFound"}]}}', "there is no bucket bills (404 notFound)"),
        (403, b'{"error": {"code": 403, "errors": [{"reason": "forbidden"}]}}', "(403 forbidden). Check the credentials"),
        (400, b'{"error": {"code": 400, "message": "canary", "errors": [{"reason": "invalid"}]}}', "the store answered 400 invalid"),
        (502, b"<html>canary</html>", "the store answered 502"),
        (200, b"<html>canary</html>", "not in the form of this kind of store"),
    ],
)
def test_errors_of_google_are_explained(
    tmp_path: Path, odd: OddStore, monkeypatch: pytest.MonkeyPatch, status: int, body: bytes, message: str
) -> None:
    monkeypatch.setattr("runspend.storage.google.RETRY_SECONDS", 0)
    odd.oddity = lambda request: request.answer(status, body, Content_Type="application/json") is None
    assert message in refusal_of(nights(tmp_path, "gs://bills/x", endpoint=odd.endpoint, credentials="anonymous"))


@pytest.mark.parametrize(
    ("held", "message"),
    [
        (None, "are not a Google key file"),
        ("{", "are not a Google key file"),
        ('{"type": "external_account"}', "are of type 'external_account'"),
        (
            '{"type": "service_account", "private_key": "canary", "client_email": "a", "private_key_id": "1"}',
            "its credentials cannot be used",
        ),
    ],
)
def test_an_invalid_key_file_is_refused(tmp_path: Path, held: str | None, message: str) -> None:
    key = tmp_path / "key.json"
    if held is not None:
        key.write_text(held)
    assert message in refusal_of(nights(tmp_path, "gs://bills/x", endpoint="http://127.0.0.1:9", credentials=str(key)))


def test_an_address_without_an_account_is_refused(tmp_path: Path) -> None:
    assert "no storage account is named" in refusal_of(nights(tmp_path, "az://bills/x", credentials="sv=1&sig=canary"))


def test_without_credentials_the_azure_identity_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[str | None] = set()

    def look(request: Request) -> bool:
        seen.add(request.headers.get("authorization"))
        return False

    with serve_identity(monkeypatch) as login, serve_odd_store(tls=certificate(tmp_path, monkeypatch)) as odd:
        odd.objects, odd.oddity = {"focus/oct.csv": bill_of("1.00")}, look
        bill = odd_bill(tmp_path, odd, credentials=None)
        bill.load()
        assert bill.total() == Decimal(1)
        assert seen == {"Bearer a-token"}
        assert all(asked.startswith("/identity?") for asked in login.asked)


@pytest.mark.parametrize(("variable", "message"), [("AZURE_STORAGE_SAS_TOKEN", "sig=canary"), ("AZURE_STORAGE_ACCOUNT_KEY", "sig=")])
def test_a_key_in_the_environment_is_used(
    tmp_path: Path, odd: OddStore, monkeypatch: pytest.MonkeyPatch, variable: str, message: str
) -> None:
    monkeypatch.setenv(variable, {"sig=": "Y2FuYXJ5"}.get(message, f"?sv=1&{message}"))
    odd.objects = {"focus/oct.csv": bill_of("1.00")}
    bill = odd_bill(tmp_path, odd, credentials=None)
    bill.load()
    assert bill.total() == Decimal(1)
    assert all(message in asked for asked in odd.asked)


def test_an_identitys_token_is_not_sent_without_tls(tmp_path: Path, odd: OddStore, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve_identity(monkeypatch):
        assert "did not answer" in refusal_of(odd_bill(tmp_path, odd, credentials=None))
    assert odd.asked == []


def test_a_key_file_of_google_signs_requests(tmp_path: Path, odd: OddStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests have the account's own signature, and no token server is asked. Another key file in the environment is ignored."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()
    held = {"type": "service_account", "private_key": pem, "private_key_id": "1", "client_email": "reader@acme.example"}
    held["token_uri"] = "http://127.0.0.1:9/nobody-is-asked-for-a-token"
    (tmp_path / "key.json").write_text(json.dumps(held))
    (tmp_path / "other.json").write_text(json.dumps({**held, "client_email": "other@acme.example"}))
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", str(tmp_path / "other.json"))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "other.json"))
    seen: list[str] = []

    def look(request: Request) -> bool:
        seen.append(request.headers["authorization"])
        request.answer(200, b"{}", Content_Type="application/json")
        return True

    odd.oddity = look
    source = BillSource(name="bill", uri="gs://bills", endpoint=odd.endpoint, credentials=str(tmp_path / "key.json"))
    assert places.open_folder(source, tmp_path).entries() == []
    claims = seen[0].removeprefix("Bearer ").split(".")[1]
    assert json.loads(base64.urlsafe_b64decode(claims + "=="))["iss"] == "reader@acme.example"


def test_a_proxy_in_the_environment_is_used(tmp_path: Path, odd: OddStore, monkeypatch: pytest.MonkeyPatch) -> None:
    odd.objects = {"focus/oct.csv": bill_of("1.00")}
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("HTTP_PROXY", odd.endpoint.removesuffix("/acme"))
    monkeypatch.setenv("http_proxy", odd.endpoint.removesuffix("/acme"))
    bill = odd_bill(tmp_path, odd, endpoint="http://store.invalid/acme")
    bill.load()
    assert bill.total() == Decimal(1)
    assert odd.asked[0].startswith("http://store.invalid/acme/bills?")


@pytest.mark.parametrize("credentials", ["sv=1&sig=canary-signature", "anonymous"])
def test_redirects_of_a_store_are_not_followed(tmp_path: Path, odd: OddStore, credentials: str) -> None:
    """A request to the other server would show it the address with the SAS token."""
    odd.objects = {"focus/oct.csv": bill_of("1.00")}
    with serve_odd_store("127.0.0.2") as other:
        other.objects = odd.objects
        for location in (other.endpoint, other.endpoint.replace("http:", "https:")):
            odd.oddity = lambda request, to=location: request.answer(307, Location=f"{to}/bills?comp=list") is None
            refusal_of(odd_bill(tmp_path, odd, credentials=credentials))
        assert other.asked == []


def test_a_secret_is_in_no_text_of_the_settings(tmp_path: Path, azure_server: AzureServer) -> None:
    for secret in (azure_server.connection_string, azure_server.sas()):
        settings = Settings(billing=[BillSource(name="a", uri=(uri := "abfss://bills@acme.dfs.core.windows.net/x"), credentials=secret)])
        folder = open_blobs(settings.billing[0], uri, tmp_path, print)
        signature = secret.partition("sig=")[2] or azure_server.key
        for text in (
            repr(settings),
            show_settings(settings),
            settings.model_dump_json(),
            repr(folder),
            redact(f"at {secret} it", settings),
        ):
            assert signature not in text


def test_variables_of_the_environment_do_not_change_the_stores_address(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put({"focus/oct.csv": bill_of("1.00")})
    for name, value in {
        "AZURE_STORAGE_ENDPOINT": "http://127.0.0.1:9",
        "AZURE_STORAGE_ACCOUNT_KEY": "Y2FuYXJ5",
        "AZURE_STORAGE_USE_EMULATOR": "true",
        "AZURE_CONTAINER_NAME": "other",
        "STORAGE_EMULATOR_HOST": "http://127.0.0.1:9",
        "API_ENDPOINT_OVERRIDE": "http://127.0.0.1:9",
        "GOOGLE_CLOUD_PROJECT": "other",
    }.items():
        monkeypatch.setenv(name, value)
    bill = store.bill(tmp_path, "focus")
    bill.load()
    assert bill.total() == Decimal(1)


# --- files that were loaded before are not fetched again --------------------------------------------------------------


def loaded(bill: Nights, fetched: list[str], **rules: Any) -> tuple[dict[str, str], list[str]]:
    """Load once. Return the state of each period and the names of fetched files."""
    fetched.clear()
    return {p.period: p.state for p in bill.load(**rules).periods}, sorted(fetched)


def test_a_load_without_new_files_fetches_nothing(tmp_path: Path, store: Store, fetched: list[str]) -> None:
    store.put({"focus/sep.csv": bill_of("5.00", period="2026-09"), "focus/oct.csv": bill_of("1.00"), "focus/oct copy.csv": bill_of("1.00")})
    bill = store.bill(tmp_path, "focus")
    assert loaded(bill, fetched) == ({"2026-09": "loaded", "2026-10": "loaded"}, ["oct copy.csv", "oct.csv", "sep.csv"])
    before = (bill.lines(), bill.rows("billing_loads"))
    for _ in range(2):
        assert loaded(bill, fetched) == ({"2026-09": "unchanged", "2026-10": "unchanged"}, [])
    assert (bill.lines(), bill.rows("billing_loads")) == before
    assert "bill: sep.csv has not changed since its last load, and is not fetched" in bill.progress


def test_only_the_month_of_a_new_file_is_fetched(tmp_path: Path, store: Store, fetched: list[str]) -> None:
    store.put({"focus/sep.csv": bill_of("5.00", period="2026-09"), "focus/oct-1.csv": bill_of("1.00"), "focus/oct-2.csv": bill_of("2.00")})
    bill = store.bill(tmp_path, "focus", delivery="parts")
    loaded(bill, fetched)
    store.put({"focus/oct-3.csv": bill_of("4.00")})
    assert loaded(bill, fetched) == ({"2026-09": "unchanged", "2026-10": "loaded"}, ["oct-1.csv", "oct-2.csv", "oct-3.csv"])
    assert bill.total() == Decimal(7)
    assert loaded(bill, fetched)[1] == []


def test_a_changed_file_of_the_same_size_is_fetched(tmp_path: Path, store: Store, fetched: list[str]) -> None:
    store.put({"focus/oct.csv": bill_of("1.00")})
    bill = store.bill(tmp_path, "focus")
    loaded(bill, fetched)
    store.put({"focus/oct.csv": bill_of("2.00")})
    assert loaded(bill, fetched) == ({"2026-10": "loaded"}, ["oct.csv"])
    assert bill.total() == Decimal(2)


def test_a_file_that_is_written_again_is_fetched_once(tmp_path: Path, store: Store, fetched: list[str]) -> None:
    """Writing a file again changes its ETag on Azure, but not on S3 or Google."""
    store.put({"focus/oct.csv": bill_of("1.00")})
    bill = store.bill(tmp_path, "focus")
    loaded(bill, fetched)
    store.put({"focus/oct.csv": bill_of("1.00")})
    state, names = loaded(bill, fetched)
    assert (state, names) == ({"2026-10": "unchanged"}, ["oct.csv"] if store.uri.startswith("a") else [])
    assert loaded(bill, fetched) == ({"2026-10": "unchanged"}, [])


def test_other_settings_fetch_what_they_need(tmp_path: Path, store: Store, fetched: list[str]) -> None:
    store.put({"focus/oct.csv": bill_of("1.00"), "focus/sep.csv": bill_of("5.00", period="2026-09")})
    bill = store.bill(tmp_path, "focus")
    loaded(bill, fetched)
    scope = ScopeSettings(exclude=[{"service": "Compute"}])
    assert loaded(bill, fetched, scope=scope) == ({"2026-09": "loaded", "2026-10": "loaded"}, ["oct.csv", "sep.csv"])
    assert loaded(bill, fetched, scope=scope) == ({"2026-09": "unchanged", "2026-10": "unchanged"}, [])
    assert {line["scope"] for line in bill.lines()} == {"exclude"}


def test_a_refused_version_is_fetched_and_reported_by_each_load(tmp_path: Path, store: Store, fetched: list[str]) -> None:
    store.put({"focus/oct.csv": bill_of("9.00")})
    bill = store.bill(tmp_path, "focus")
    loaded(bill, fetched)
    store.put({"focus/oct.csv": bill_of("1.00")})
    for _ in range(2):
        assert loaded(bill, fetched) == ({"2026-10": "refused"}, ["oct.csv"])
    assert loaded(bill, fetched, accept=["bill:2026-10"]) == ({"2026-10": "loaded"}, ["oct.csv"])
    assert loaded(bill, fetched) == ({"2026-10": "unchanged"}, [])


def test_a_deleted_file_is_noticed(tmp_path: Path, odd: OddStore, fetched: list[str]) -> None:
    odd.objects = {f"focus/oct-{i}.csv": bill_of(f"{i}.00") for i in (1, 2, 3)}
    bill = odd_bill(tmp_path, odd, delivery="parts")
    loaded(bill, fetched)
    del odd.objects["focus/oct-1.csv"]
    assert loaded(bill, fetched) == ({"2026-10": "loaded"}, ["oct-2.csv", "oct-3.csv"])
    assert bill.total() == Decimal(5)
    odd.objects.clear()
    assert loaded(bill, fetched) == ({"2026-10": "refused"}, [])
    assert bill.total() == Decimal(5)


def test_only_the_manifest_of_a_month_in_place_is_fetched(tmp_path: Path, store: Store, fetched: list[str]) -> None:
    data = "exports/ml/data/BILLING_PERIOD=2026-10"
    manifest = {"dataFiles": [f"{data}/ml-1.csv", f"{data}/ml-2.csv"]}
    store.put({f"{data}/ml-1.csv": bill_of("1.00"), f"{data}/ml-2.csv": bill_of("2.00")})
    store.put({"exports/ml/metadata/BILLING_PERIOD=2026-10/ml-Manifest.json": json.dumps(manifest).encode()})
    bill = store.bill(tmp_path, "exports")
    assert loaded(bill, fetched)[0] == {"2026-10": "loaded"}
    state, names = loaded(bill, fetched)
    assert (state, [name.rpartition("/")[2] for name in names]) == ({"2026-10": "unchanged"}, ["ml-Manifest.json"])
    scope = ScopeSettings(exclude=[{"service": "Compute"}])
    assert (loaded(bill, fetched, scope=scope)[0], len(fetched)) == ({"2026-10": "loaded"}, 3)
    assert bill.total() == Decimal(3)


def test_loads_without_version_stamps_gain_them(tmp_path: Path, store: Store, fetched: list[str]) -> None:
    """An older Runspend stored no version stamps. The files are fetched once more, and nothing else changes."""
    store.put({"focus/oct.csv": bill_of("1.00")})
    bill = store.bill(tmp_path, "focus")
    loaded(bill, fetched)
    rows = bill.rows("billing_loads")
    old = [{key: item[key] for key in ("name", "bytes", "sha256", "rows", "state")} for item in json.loads(rows[0]["files"])]
    bill.store["billing_loads", "2026-10"] = loads_table([{**rows[0], "files": json.dumps(old)}])
    assert loaded(bill, fetched) == ({"2026-10": "unchanged"}, ["oct.csv"])
    assert bill.rows("billing_loads") == rows
    assert loaded(bill, fetched) == ({"2026-10": "unchanged"}, [])


def test_another_format_fetches_every_file(tmp_path: Path, store: Store, fetched: list[str]) -> None:
    store.put({"focus/oct.csv": bill_of("1.00")})
    bill = store.bill(tmp_path, "focus")
    loaded(bill, fetched)
    assert loaded(bill, fetched, source=bill.source.model_copy(update={"format": "focus"})) == ({"2026-10": "unchanged"}, [])
    assert loaded(bill, fetched, source=bill.source.model_copy(update={"format": "azure"})) == ({"2026-10": "loaded"}, ["oct.csv"])
    assert loaded(bill, fetched, source=bill.source.model_copy(update={"format": "azure"})) == ({"2026-10": "unchanged"}, [])


def test_wrong_version_stamps_are_found_when_the_file_is_needed(tmp_path: Path, odd: OddStore, fetched: list[str]) -> None:
    odd.objects = {"focus/oct.csv": bill_of("1.00")}
    stamp = odd.etag("focus/oct.csv")
    odd.etag = lambda key: stamp  # type: ignore[method-assign]
    bill = odd_bill(tmp_path, odd)
    loaded(bill, fetched)
    odd.objects = {"focus/oct.csv": bill_of("2.00")}
    assert loaded(bill, fetched) == ({"2026-10": "unchanged"}, [])
    scope = ScopeSettings(exclude=[{"service": "Other"}])
    assert loaded(bill, fetched, scope=scope) == ({"2026-10": "loaded"}, ["oct.csv"])
    assert bill.total() == Decimal(2)
    assert loaded(bill, fetched, scope=scope) == ({"2026-10": "unchanged"}, [])


@pytest.mark.parametrize("etag", ['W/"abc"', ""])
def test_a_weak_or_empty_etag_saves_no_fetch(tmp_path: Path, odd: OddStore, fetched: list[str], etag: str) -> None:
    odd.objects = {"focus/oct.csv": bill_of("1.00")}
    odd.etag = lambda key: etag  # type: ignore[method-assign]
    bill = odd_bill(tmp_path, odd)
    loaded(bill, fetched)
    assert loaded(bill, fetched) == ({"2026-10": "unchanged"}, ["oct.csv"])
    assert "stamp" not in bill.rows("billing_loads")[0]["files"]


def test_a_local_folder_is_verified_by_each_load(tmp_path: Path) -> None:
    """The size and time of a file do not prove that its bytes are the same."""
    (tmp_path / "bills").mkdir()
    (tmp_path / "bills/oct.csv").write_bytes(bill_of("1.00"))
    bill = nights(tmp_path, tmp_path / "bills")
    for _ in range(2):
        bill.progress.clear()
        bill.load()
        assert any("verifying oct.csv" in line for line in bill.progress)
    assert "stamp" not in bill.rows("billing_loads")[0]["files"]
