"""Twelve ways in which deleting old runs destroys other data: `mlflow gc` and Runspend's archive, side by side.

Each scenario makes a small MLflow with an old run that is not needed, and something that must survive. `mlflow gc` gets what an operator
would give it; Runspend gets a policy, sends its notice, waits, and acts. The table that is printed says what became of both.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from runspend import pipeline
from runspend.actions.archive.context import Result, Tools
from runspend.actions.archive.protection import open_protection
from runspend.actions.archive.run import StoreTotals, apply
from runspend.config.settings import Settings
from runspend.warehouse.factory import open_warehouse
from runspend.warehouse.records import Records
from tests.faults.old_runs import NOW, OLD, SMTP_PORT, Place
from tests.servers.s3 import S3Server, serve_s3
from tests.servers.smtp import smtp_server

pytestmark = pytest.mark.torture

TABLE: list[tuple[str, str, str]] = []


@pytest.fixture
def places(tmp_path: Path) -> Callable[..., Place]:
    return lambda name, **options: Place(tmp_path / name, **options)


@pytest.fixture(scope="module", autouse=True)
def table(request: pytest.FixtureRequest) -> Iterator[None]:
    with smtp_server() as server:
        SMTP_PORT.append(server.port)
        yield
    capture = request.config.pluginmanager.getplugin("capturemanager")
    widths = [max(len(row[i]) for row in [("scenario", "mlflow gc", "runspend"), *TABLE]) for i in range(3)]
    with capture.global_and_fixture_disabled():
        print()
        for row in [("scenario", "mlflow gc", "runspend"), *TABLE]:
            print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def compare(scenario: str, gc: str, ours: str) -> None:
    TABLE.append((scenario, gc, ours))


def why(results: dict[str, Result], run_id: str) -> str:
    return (results[run_id].reason or results[run_id].state) if run_id in results else "not due"


def test_runs_of_an_unrelated_deleted_experiment_stay(places: Callable[..., Place]) -> None:
    def build(name: str) -> tuple[Place, str, str]:
        place = places(name)
        other = place.make_experiment("other")
        victim = place.run("victim", experiment=other)
        place.client.delete_experiment(other)
        return place, victim, place.uri_of(victim)

    place, victim, uri = build("gc")
    place.client.delete_run(place.plain)
    code, _ = place.gc("--run-ids", place.plain)
    gc = "lost: erased another experiment's run and its files" if not place.has_run(victim) and not place.there(victim, uri) else "survived"
    place, victim, uri = build("ours")
    place.policy = {"select": {"unused_for": "90d", "experiment": "fraud"}}
    plain = place.uri_of(place.plain)
    results = place.archive()
    assert place.is_archived(results, place.plain, plain)
    assert place.there(victim, uri) and place.has_run(victim)
    compare("V1 unrelated soft-deleted experiment", f"{gc} (exit {code})", "survived; the plan's run archived")


def test_an_age_from_an_unset_variable_deletes_nothing(places: Callable[..., Place]) -> None:
    place = places("gc")
    victim = place.run("victim", moment=NOW - timedelta(hours=1))
    uri = place.uri_of(victim)
    place.client.delete_run(victim)
    code, _ = place.gc("--older-than", "")
    gc = "lost: deleted what was deleted a moment ago" if not place.there(victim, uri) else "survived"
    place = places("ours")
    victim = place.run("victim", moment=NOW - timedelta(hours=1))
    refused = []
    for age in ("", "0d", "-1d", "all"):
        place.policy = {"select": {"unused_for": age}}
        with pytest.raises(ValueError, match=r"unused_for|length of time|select") as error:
            place.given()
        refused.append(str(error.value))
    assert place.there(victim, place.uri_of(victim)) and len(refused) == 4
    compare("V2 empty age", f"{gc} (exit {code})", "refused when the file is read")


def test_a_run_restored_in_a_deleted_experiment_stays(places: Callable[..., Place]) -> None:
    def restore(place: Place, victim: str, other: str) -> None:
        place.client.delete_experiment(other)
        place.client.restore_run(victim)

    place = places("gc")
    other = place.make_experiment("other")
    victim = place.run("victim", experiment=other)
    restore(place, victim, other)
    code, _ = place.gc()
    gc = "lost: erased the restored run, its files are orphans" if not place.has_run(victim) else "survived"
    place = places("ours")
    other = place.make_experiment("other")
    victim = place.run("victim", experiment=other)
    uri, plain = place.uri_of(victim), place.uri_of(place.plain)
    results = place.archive(lambda: restore(place, victim, other))
    assert place.is_archived(results, place.plain, plain)
    assert place.there(victim, uri) and place.has_run(victim)
    assert why(results, victim) == "it was restored inside a deleted experiment"
    compare("V3 restored run, deleted experiment", f"{gc} (exit {code})", f"survived: {why(results, victim)}")


def test_the_champion_of_the_registry_stays(places: Callable[..., Place]) -> None:
    def register(place: Place, victim: str) -> None:
        place.client.create_registered_model("fraud")
        version = place.client.create_model_version("fraud", place.uri_of(victim), victim).version
        place.client.set_registered_model_alias("fraud", "champion", version)

    place = places("gc")
    victim = place.run("victim")
    uri = place.uri_of(victim)
    register(place, victim)
    place.client.delete_run(victim)
    code, _ = place.gc("--run-ids", victim)
    gc = "lost: the champion's files; the registry points at nothing" if not place.there(victim, uri) else "survived"
    place = places("ours")
    victim = place.run("victim")
    uri, plain = place.uri_of(victim), place.uri_of(place.plain)
    results = place.archive(lambda: register(place, victim))
    assert place.is_archived(results, place.plain, plain) and place.there(victim, uri)
    assert why(results, victim) == "alias champion on fraud/1"
    compare("V4 registered model with alias champion", f"{gc} (exit {code})", f"survived: {why(results, victim)}")


@contextmanager
def refusing_deletes(server: S3Server) -> Iterator[S3Server]:
    """The same S3 server, but it denies every delete of an object: DeleteObjects in a 200 reply, as in S3."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, content, headers = self._decide(body)
            self.send_response(status)
            for name, value in headers:
                if name.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                    self.send_header(name, value)
            self.send_header(
                "Content-Length",
                {k.lower(): v for k, v in headers}.get("content-length", "0") if self.command == "HEAD" else str(len(content)),
            )
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def _decide(self, body: bytes) -> tuple[int, bytes, list[tuple[str, str]]]:
            xml = [("Content-Type", "application/xml")]
            if self.command == "POST" and "delete" in self.path.partition("?")[2].split("&"):
                return (
                    200,
                    b"<DeleteResult><Error><Key>model.bin</Key><Code>AccessDenied</Code><Message>no</Message></Error></DeleteResult>",
                    xml,
                )
            if self.command == "DELETE" and self.path.partition("?")[0].endswith("model.bin"):
                return 403, b"<Error><Code>AccessDenied</Code><Message>no</Message></Error>", xml
            request = urllib.request.Request(
                server.endpoint + self.path, data=body or None, headers=dict(self.headers.items()), method=self.command
            )
            try:
                with urllib.request.urlopen(request, timeout=30) as reply:
                    return reply.status, reply.read(), list(reply.headers.items())
            except urllib.error.HTTPError as error:
                with error:
                    return error.code, error.read(), list(error.headers.items())

        do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = answer

        def log_message(self, *args: Any) -> None:
            """Log nothing."""

    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    proxy.daemon_threads = True
    thread = threading.Thread(target=proxy.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield S3Server(f"http://127.0.0.1:{proxy.server_port}")
    finally:
        proxy.shutdown()
        thread.join()
        proxy.server_close()


def test_deletes_that_are_denied_in_a_good_reply_are_reported(
    places: Callable[..., Place], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    credentials = tmp_path / "credentials"
    with serve_s3() as server, refusing_deletes(server) as denied:
        credentials.write_text(f"[s3]\naws_access_key_id = {server.access_key}\naws_secret_access_key = {server.secret_key}\n")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        server.client().create_bucket(Bucket="of-gc")
        place = places("gc", bucket="of-gc", server=denied)
        uri = place.uri_of(place.plain)
        place.client.delete_run(place.plain)
        code, _ = place.gc("--run-ids", place.plain)
        gc = (
            "lost: the run is erased, its file an orphan"
            if not place.has_run(place.plain) and place.there(place.plain, uri)
            else "survived"
        )
        server.client().create_bucket(Bucket="of-ours")
        place = places("ours", bucket="of-ours", server=denied)
        place.settings = {"archive": {"to": str(place.folder / "cold"), "max_percent": "90%", "margin": "1d"}}
        uri = place.uri_of(place.plain)
        settings = place.given()
        monkeypatch.setattr(
            "runspend.actions.archive.context.Work.cutoff", property(lambda work: datetime.now(timezone.utc) + timedelta(days=1))
        )  # S3 sets today's date
        place.night(settings, NOW)
        result = _act_on(place, settings, place.plain)
    assert not result.is_whole and result.state in ("partial", "failed"), result
    assert place.has_run(place.plain)
    compare("V5 per-key errors in a 200 reply", f"{gc} (exit {code})", f"survived, told as {result.state}: {(result.reason or '')[:60]}")


def _act_on(place: Place, settings: Settings, run_id: str) -> Result:
    """Act on one run as if its notice were old, because no object on S3 can be older than today."""
    from runspend.actions.archive.items import Item

    uri = place.uri_of(run_id)
    item = Item(
        "old", "digest", "archive", None, "prod", "default", "run", run_id, place.experiment, run_id, uri,
        f"s3://{place.bucket}", uri.removeprefix(f"s3://{place.bucket}/"), None, 1, 500,
    )  # fmt: skip
    protects = open_protection(open_warehouse(settings), settings, NOW)
    [result] = apply(
        [item],
        settings,
        Records(settings.home),
        now=NOW,
        protects=protects,
        known=lambda store: StoreTotals(10**6, 10**12),
        tools=Tools(workers=1),
    )
    return result


def test_one_run_that_cannot_be_reached_does_not_stop_the_others(places: Callable[..., Place]) -> None:
    def poison(place: Place) -> list[str]:
        good = [place.plain, *(place.run(f"good {i}") for i in range(4))]
        for i in range(3):
            bad = place.run(f"bad {i}")
            place.sql("update runs set artifact_uri = ? where run_uuid = ?", f"foo://{i}/x", bad)
            place.client.delete_run(bad)
        return good

    place = places("gc")
    good = poison(place)
    for run_id in good:
        place.client.delete_run(run_id)
    code, _ = place.gc()
    undone = sum(place.has_run(run_id) for run_id in good)
    gc = f"aborted: {undone} of {len(good)} reachable runs untouched" if code != 0 else "survived"
    place = places("ours")
    good = poison(place)
    uris = {run_id: place.uri_of(run_id) for run_id in good}
    results = place.archive()
    assert all(place.is_archived(results, run_id, uri) for run_id, uri in uris.items()), results
    compare("V6 a run with an unknown scheme", f"{gc} (exit {code})", f"survived: all {len(good)} others archived")


def test_a_path_that_leads_out_of_the_store_is_not_followed(places: Callable[..., Place]) -> None:
    def tamper(place: Place) -> tuple[str, Path]:
        precious = place.folder / "precious"
        precious.mkdir()
        (precious / "thesis.txt").write_text("three years")
        os.utime(precious / "thesis.txt", (OLD.timestamp(), OLD.timestamp()))
        victim = place.run("victim")
        place.sql("update runs set artifact_uri = ? where run_uuid = ?", f"{place.art}/fraud/../../precious", victim)
        return victim, precious / "thesis.txt"

    place = places("gc")
    victim, thesis = tamper(place)
    place.client.delete_run(victim)
    code, _ = place.gc("--run-ids", victim)
    gc = "lost: a folder outside of MLflow's" if not thesis.exists() else "survived"
    place = places("ours")
    victim, thesis = tamper(place)
    plain = place.uri_of(place.plain)
    results = place.archive()
    assert thesis.exists() and place.is_archived(results, place.plain, plain)
    compare("V7 `..` in an artifact URI", f"{gc} (exit {code})", "survived: outside every store")


def test_owners_have_time_to_object(places: Callable[..., Place]) -> None:
    place = places("gc")
    uri = place.uri_of(place.plain)
    place.client.delete_run(place.plain)
    code, _ = place.gc()
    gc = "lost at once: no notice, no wait, no dry run" if not place.there(place.plain, uri) else "survived"
    place = places("ours")
    for grace in ("0d", "1d", ""):
        place.policy = {"grace": grace}
        with pytest.raises(ValueError, match=r"grace|length of time"):
            place.given()
    place.policy = {}
    for percent in ("0%", "100%", "unlimited"):
        place.settings = {"archive": {"to": str(place.folder / "cold"), "max_percent": percent}}
        with pytest.raises(ValueError, match="percent"):
            place.given()
    place.settings = {}
    uri = place.uri_of(place.plain)
    settings = place.given()
    place.night(settings, NOW)
    pipeline.archive_notify(settings, now=NOW)
    assert place.act(settings) == {} and place.there(place.plain, uri)
    compare("V8 grace of nothing, limit of nothing", f"{gc} (exit {code})", "survived: announced, due in 7 days; 0 is refused")


def test_a_folder_that_two_runs_share_stays(places: Callable[..., Place]) -> None:
    def share(place: Place) -> tuple[str, str, str]:
        first, second = place.run("first"), place.run("second", moment=NOW - timedelta(days=2))
        uri = place.uri_of(first)
        place.sql("update runs set artifact_uri = ? where run_uuid = ?", uri, second)
        return first, second, uri

    place = places("gc")
    first, second, uri = share(place)
    place.client.delete_run(first)
    code, _ = place.gc("--run-ids", first)
    gc = "lost: the other run's files" if not place.there(second, uri) else "survived"
    place = places("ours")
    first, second, uri = share(place)
    plain = place.uri_of(place.plain)
    results = place.archive()
    assert place.is_archived(results, place.plain, plain) and place.there(second, uri)
    compare("R9 two runs, one folder", f"{gc} (exit {code})", "survived: kept while another run has it")


def test_a_tag_set_during_the_grace_period_protects(places: Callable[..., Place]) -> None:
    place = places("gc")
    victim = place.run("victim")
    uri = place.uri_of(victim)
    place.client.set_tag(victim, "runspend.keep", "for the paper")
    place.client.set_tag(victim, "stage", "production")
    place.client.delete_run(victim)
    code, _ = place.gc("--run-ids", victim)
    gc = "lost: tags are not looked at" if not place.there(victim, uri) else "survived"
    place = places("ours")
    victim = place.run("victim")
    uri, plain = place.uri_of(victim), place.uri_of(place.plain)
    results = place.archive(lambda: place.client.set_tag(victim, "runspend.keep", "for the paper"))
    assert place.is_archived(results, place.plain, plain) and place.there(victim, uri)
    assert why(results, victim) == "its tag runspend.keep"
    compare("R4 kept by a tag during the wait", f"{gc} (exit {code})", f"survived: {why(results, victim)}")


def test_a_registry_that_does_not_answer_protects(places: Callable[..., Place]) -> None:
    """The registry is on another server, which is down. If Runspend cannot ask whether a model is needed, it does not delete it."""
    place = places("gc")
    victim = place.run("victim")
    uri = place.uri_of(victim)
    place.client.delete_run(victim)
    code, _ = place.gc("--run-ids", victim)
    gc = "lost: no registry is ever asked" if not place.there(victim, uri) else "survived"
    place = places("ours")
    victim = place.run("victim")
    uri = place.uri_of(victim)
    elsewhere = place.folder / "registry.db"
    from mlflow import MlflowClient

    registry = MlflowClient(tracking_uri=f"sqlite:///{elsewhere}", registry_uri=f"sqlite:///{elsewhere}")
    registry.create_registered_model("fraud")
    place.settings = {"tracking": [{"name": "prod", "uri": place.uri, "registry": f"sqlite:///{elsewhere}"}]}

    def go_down() -> None:
        place.settings = {"tracking": [{"name": "prod", "uri": place.uri, "registry": "http://127.0.0.1:1"}]}

    settings = place.given()
    place.announce(settings)
    go_down()
    started = time.monotonic()
    results = place.act(place.given())
    assert time.monotonic() - started < 120
    assert place.there(victim, uri) and {r.state for r in results.values()} == {"protected"}, results
    assert "is unknown" in why(results, victim)
    compare("R5 registry down", f"{gc} (exit {code})", "survived: whether MLflow needs it is unknown")


def test_a_file_written_meanwhile_stays(places: Callable[..., Place]) -> None:
    place = places("gc")
    victim = place.run("victim")
    uri = place.uri_of(victim)
    place.client.delete_run(victim)
    place.write(victim, "checkpoint.bin", b"new", NOW)
    code, _ = place.gc("--run-ids", victim)
    gc = "lost: the file of a minute ago" if not place.there(victim, uri, "checkpoint.bin") else "survived"
    place = places("ours")
    victim = place.run("victim")
    uri, plain = place.uri_of(victim), place.uri_of(place.plain)
    results = place.archive(lambda: place.write(victim, "checkpoint.bin", b"new", NOW))
    assert place.is_archived(results, place.plain, plain)
    assert place.there(victim, uri, "checkpoint.bin") and place.there(victim, uri)
    compare("R3 new files in an old folder", f"{gc} (exit {code})", "survived: younger than the margin")


def test_every_scenario_was_played_and_gc_is_unchanged(tmp_path: Path) -> None:
    """This test runs last: there are twelve rows, and in each `mlflow gc` did what its row states.

    If MLflow fixes gc, this test fails, and the documentation should say so.
    """
    if len(TABLE) < 12:
        pytest.skip("only some of the scenarios were played")
    assert [row for row in TABLE if not row[1].startswith(("lost", "aborted"))] == []
    assert all("survived" in row[2] or "refused" in row[2] for row in TABLE)
    shutil.rmtree(tmp_path)
