"""Monitoring of pipeline runs works without the warehouse and without the step that stopped."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from runspend import pipeline
from runspend.actions.alert.freshness import figures_are_this_old, judge_freshness, note_done
from runspend.config.settings import Settings
from runspend.core.errors import CheckFailed, PartialFailure, RunspendError, WarehouseDamaged
from runspend.core.step_result import Outcome
from runspend.pipeline.monitoring import note_step, ring_heartbeat, send_test_mail
from runspend.warehouse.records import Records
from tests.actions.alert.alert_world import NOW, budget, cost, source, text_of, warehouse
from tests.servers.smtp import smtp_server
from tests.settings_builder import make_settings, smtp_mail

HOUR = timedelta(hours=1)
BILLS = [{"name": "aws", "format": "focus", "uri": "bills", "late_after": "48h"}]
SERVERS = [{"name": "prod", "uri": "http://127.0.0.1:1"}]


class Watcher(BaseHTTPRequestHandler):
    """Counts calls, and returns the answer that the test sets."""

    calls: list[str]
    code: int

    def do_GET(self) -> None:
        type(self).calls.append(self.path)
        self.send_response(type(self).code)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        return


@pytest.fixture
def watcher() -> Iterator[tuple[type[Watcher], str]]:
    """A heartbeat address on this machine."""
    handler = type("Here", (Watcher,), {"calls": [], "code": 200})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield handler, f"http://127.0.0.1:{server.server_port}/canary"
    server.shutdown()
    thread.join()
    server.server_close()


def world(home: Path, **mail: Any) -> Settings:
    """One bill, one server, and a warehouse with a budget's cost."""
    place = home / "warehouse"
    if not place.exists():
        with warehouse(place, cost_daily=[cost("2026-11-05", "100")], sources=[source()]):
            pass
    return make_settings(home, budget(), billing=BILLS, tracking=SERVERS, mail=mail)


def note_night(given: Settings, now: datetime, **more: Any) -> None:
    """Record a good pipeline run: both sources read, the cost tables built."""
    records = Records(given.home)
    note_done(records, "aws", "bill", now, was_done=True, is_good=True, covered_until=now - 5 * HOUR, late_after=48 * HOUR, **more)
    note_done(records, "prod", "tracking", now, was_done=True, is_good=True, covered_until=now, late_after=30 * HOUR)
    note_done(records, "cost tables", "step", now, was_done=True, is_good=True)


def inbox(home: Path) -> list[EmailMessage]:
    found = []
    for path in sorted((home / "mail").glob("*.eml"), key=lambda p: p.stat().st_mtime_ns):
        message = message_from_bytes(path.read_bytes(), policy=policy.default)
        assert isinstance(message, EmailMessage)
        found.append(message)
    return found


def test_loads_that_stop_are_mailed_within_26_hours(tmp_path: Path) -> None:
    """The last run was at 04:00. At 06:00 the next day, 26 hours later, the six-hourly check sends one mail, and then one a day."""
    given, last = world(tmp_path), datetime(2026, 11, 24, 4, tzinfo=timezone.utc)
    note_night(given, last)
    notices = []
    for hours in range(2, 75, 6):
        outcome = pipeline.alert(given, now=last + hours * HOUR)
        notices.append((hours, outcome.exit_code, len(inbox(tmp_path))))
    assert [t for t in notices if t[0] < 26] == [(2, 0, 0), (8, 0, 0), (14, 0, 0), (20, 0, 0)]
    assert notices[4] == (26, 3, 1)
    assert [t[2] for t in notices] == [0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 3, 3]
    first = inbox(tmp_path)[0]
    assert first["Subject"] == "[runspend] STALE: 3 sources or steps are late: aws, cost tables, prod"
    assert first["To"] == "oncall@acme.com"
    assert "aws was not read for 26 h (limit 25 h, last time 24 Nov 04:00 UTC)." in " ".join(text_of(first).split())
    assert "Bill aws is complete to 23 Nov 23:00 UTC, 31 h behind." in " ".join(text_of(first).split())


def test_a_source_that_never_arrived_is_mailed_too(tmp_path: Path) -> None:
    """A DAG that stays paused from the first day counts from the first check."""
    given = world(tmp_path)
    assert [pipeline.alert(given, now=NOW + hours * HOUR).exit_code for hours in (0, 24, 25)] == [0, 0, 3]
    assert "never so far" in text_of(inbox(tmp_path)[0])


def test_a_source_that_fails_in_every_run_has_its_own_mail_alone(tmp_path: Path) -> None:
    """One REFUSED mail per pipeline run is enough. A STALE mail follows when the source's figures are too old, or when it is no longer read at all."""
    given, records = world(tmp_path), Records(tmp_path)
    note_night(given, NOW)
    for night in (1, 2):
        note_night(given, NOW + night * 24 * HOUR)
        note_done(records, "prod", "tracking", NOW + night * 24 * HOUR, was_done=False, is_good=False)
    value, token = records.get("reads", "prod") or ({}, "")
    records.replace("reads", "prod", {**value, "last_good_at": NOW.isoformat(), "covered_until": None}, token)
    assert judge_freshness(given, records, NOW + 49 * HOUR) == []
    assert [s.name for s in judge_freshness(given, records, NOW + 74 * HOUR)] == ["aws", "cost tables", "prod"]


def test_a_bill_that_ends_too_early_is_stale_although_it_is_read(tmp_path: Path) -> None:
    """Runspend knows the bill's `late_after` from the note alone."""
    given, records = world(tmp_path), Records(tmp_path)
    note_night(given, NOW)
    note_done(records, "aws", "bill", NOW, was_done=True, is_good=True, covered_until=NOW - 53 * HOUR, late_after=48 * HOUR)
    assert [s.text for s in judge_freshness(given, records, NOW)] == [
        "aws has no data for 53 h (limit 48 h). Costs are complete to 22 Nov 01:00 UTC."
    ]


def test_a_source_that_is_no_longer_configured_is_not_missed(tmp_path: Path) -> None:
    """A bill that is removed from runspend.yaml raises no alarm, and neither does a pipeline run with a `--now` in the past."""
    given, records = world(tmp_path), Records(tmp_path)
    note_night(given, NOW)
    note_done(records, "old", "bill", NOW - 900 * HOUR, was_done=True, is_good=True)
    note_done(records, "aws", "bill", NOW - 400 * HOUR, was_done=True, is_good=True, covered_until=NOW - 5 * HOUR, late_after=48 * HOUR)
    assert judge_freshness(given, records, NOW + 20 * HOUR) == []


def test_a_warehouse_that_cannot_be_read_is_mailed_once(tmp_path: Path) -> None:
    """Another file replaces the warehouse's files. No budget is judged, and operators get one mail that names the files."""
    given = world(tmp_path)
    note_night(given, NOW)
    for path in (tmp_path / "warehouse" / "cost_daily").rglob("*.parquet"):
        path.write_bytes(b"no parquet")
    for _ in range(2):
        assert pipeline.alert(given, now=NOW).exit_code == 4
    (mail,) = inbox(tmp_path)
    assert mail["Subject"].startswith("[runspend] DAMAGED: cost_daily 2026-11 test: its file has 10 bytes")
    assert "DATA FRESHNESS" in text_of(mail)


def test_every_mail_says_how_old_the_figures_are(tmp_path: Path) -> None:
    """Mails state how far each bill reaches and when the tables were built. Before the first pipeline run, they state neither."""
    given, records = world(tmp_path), Records(tmp_path)
    assert figures_are_this_old(records, NOW) is None
    note_night(given, NOW - 10 * HOUR)
    facts = figures_are_this_old(records, NOW)
    assert facts is not None
    assert [value for _, value in facts.facts] == [
        "Bill aws is complete to 23 Nov 15:00 UTC, 15 h behind.",
        "The cost tables were last built on 23 Nov 20:00 UTC, 10 h ago.",
    ]


def test_the_heartbeat_is_called_once_after_a_good_run_and_after_no_other(tmp_path: Path, watcher: tuple[type[Watcher], str]) -> None:
    """Silence is the alarm: a failed source, stale notes, waiting mail and an address without an answer all prevent the call."""
    here, address = watcher
    given = world(tmp_path, heartbeat=address)
    ring_heartbeat(given, Outcome("alert"), NOW)
    assert here.calls == []  # before the first pipeline run
    note_night(given, NOW)
    more = given.model_copy(update={"billing": [*given.billing, given.billing[0].model_copy(update={"name": "new"})]})
    assert pipeline.alert(more, now=NOW).exit_code == 0
    assert here.calls == []  # a bill that no pipeline run has read yet
    for _ in range(2):
        assert pipeline.alert(given, now=NOW).exit_code == 0
    assert here.calls == ["/canary"]
    note_night(given, NOW + 24 * HOUR)
    note_done(Records(tmp_path), "prod", "tracking", NOW + 24 * HOUR, was_done=False, is_good=False)
    pipeline.alert(given, now=NOW + 24 * HOUR)
    assert here.calls == ["/canary"]
    note_night(given, NOW + 48 * HOUR)
    ring_heartbeat(given, Outcome("alert", exit_code=5), NOW + 48 * HOUR)
    pipeline.alert(given, now=NOW + 80 * HOUR)
    assert here.calls == ["/canary"]
    note_night(given, NOW + 96 * HOUR)
    here.code = 503
    outcome = pipeline.alert(given, now=NOW + 96 * HOUR)
    assert (outcome.exit_code, len(here.calls)) == (5, 2)
    assert "cannot call mail.heartbeat: 503" in outcome.problems[0]
    assert "canary" not in "".join(outcome.problems)
    here.code = 200
    assert pipeline.alert(given, now=NOW + 97 * HOUR).exit_code == 0
    assert len(here.calls) == 3


def test_a_mail_server_that_is_down_shows_in_exit_code_and_silence(tmp_path: Path, watcher: tuple[type[Watcher], str]) -> None:
    """A mail server that is down shows as exit code 5 and a missing heartbeat. When it is back, the mail is sent and the heartbeat is called."""
    here, address = watcher
    with smtp_server() as server:
        port = server.port
    down = smtp_mail(port, heartbeat=address)
    given = world(tmp_path, **down)
    given = given.model_copy(update={"budget_entries": [b.model_copy(update={"amount": b.amount / 1000}) for b in given.budgets]})
    note_night(given, NOW)
    outcome = pipeline.alert(given, now=NOW)
    assert (outcome.exit_code, here.calls) == (5, [])
    with smtp_server() as server:
        back = world(tmp_path, **{**down, "port": server.port})
        assert pipeline.alert(back, now=NOW + HOUR).exit_code == 0
    assert [a.recipients for a in server.accepted] == [["vision-leads@acme.com"]]
    assert here.calls == ["/canary"]


def test_a_test_mail_reaches_one_address_and_leaves_no_trace(tmp_path: Path) -> None:
    """The mail says that it is a test and has a picture. No record of it is made."""
    with smtp_server() as server:
        given = make_settings(tmp_path, mail=smtp_mail(server.port))
        outcome = send_test_mail(given, "ana@acme.com", NOW)
    (taken,) = server.accepted
    assert (outcome.exit_code, taken.recipients, taken.message["Subject"]) == (0, ["ana@acme.com"], "[runspend] TEST: mail delivery")
    assert "image/png" in [part.get_content_type() for part in taken.message.walk()]
    assert not (tmp_path / "records").exists()
    assert send_test_mail(given, "ana@acme.com", NOW).exit_code == 5  # the server no longer runs


@pytest.mark.parametrize(("errors", "was_done"), [
    ([CheckFailed("sums", [])], False), ([CheckFailed("sums", []), PartialFailure("cannot deliver", ["x"])], False),
    ([WarehouseDamaged({"billing_lines 2025-01 aws": "its file is gone"})], True), ([], True),
])  # fmt: skip
def test_a_step_with_a_failed_check_is_not_done_even_if_more_failed(tmp_path: Path, errors: list[RunspendError], was_done: bool) -> None:
    """A higher exit code hides the check's code. Damage has the same code as a failed check, but is not one."""
    outcome = Outcome("settle")
    for error in errors:
        outcome.fail(error)
    both = Outcome("nightly")
    both.merge(outcome)
    given = Settings.model_validate({"home": tmp_path})
    note_step(given, "cost tables", both, NOW)
    [value] = Records(tmp_path).list("reads").values()
    assert ("last_good_at" in value) is was_done
