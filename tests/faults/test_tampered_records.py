"""Records under home that another user wrote are refused by name, or can reach only the places and addresses in runspend.yaml."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from runspend import pipeline
from runspend.actions.alert.notices import write_archive_notice
from runspend.actions.alert.outbox import send_outbox
from runspend.actions.archive.lease import take_lease
from runspend.allocation.builds import note_report
from runspend.config.settings import Settings
from runspend.core.errors import RecordRefused, RunspendError, UsageError
from runspend.ingest.artifacts.staging import Staging, locked
from runspend.interfaces.demo import make_world
from runspend.interfaces.trial import _empty
from runspend.pipeline.source_status import work_folder
from runspend.storage.listing import Listing
from runspend.warehouse.records import Records
from tests.command import run_here
from tests.faults.decoys import make_decoys, seen
from tests.servers.smtp import smtp_server
from tests.settings_builder import make_settings, smtp_mail

NOW = datetime(2026, 11, 24, 6, tzinfo=timezone.utc)
AT = NOW.isoformat()
SHA = "a" * 64
ID = "b" * 32


@pytest.fixture
def decoys(tmp_path: Path) -> Path:
    return make_decoys(tmp_path / "elsewhere")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


MAIL: dict[str, Any] = {
    "message_id": "<archive.1@acme.com>", "kind": "archive-notice", "sender": "Runspend <runspend@acme.com>", "recipients": ["ana@acme.com"],
    "subject": "[runspend] notice", "date": "Tue, 24 Nov 2026 06:00:00 +0000", "text": "a notice\n", "html": "<p>a notice</p>",
    "list_id": "Runspend archive <archive.runspend.acme.com>", "reply_to": None, "thread": None, "picture": None,
}  # fmt: skip
ITEM = {
    "policy": "old runs", "policy_digest": "0" * 16, "action": "archive", "to": None, "tracking_server": "prod", "workspace": "default", "owner_kind": "run",
    "owner_id": "run1", "experiment_id": "1", "run_id": "run1", "artifact_uri": "file:///store/1/run1/artifacts", "store": "/store",
    "prefix": "1/run1/artifacts", "storage_class": "STANDARD", "objects": 3, "bytes": 100,
}  # fmt: skip
ENTRY = {
    "key": "model/weights", "size": 9, "etag": "1-2-3-4", "version": None, "storage_class": "STANDARD", "modified": AT, "state": "copied", "sha256": SHA,
    "data": f"data/{SHA}", "copy_etag": "5-6-7-8", "told": {"mode": "644"}, "changes": 0, "reason": None,
}  # fmt: skip
GOOD: dict[str, tuple[str, dict[str, Any]]] = {
    "notices": ("archive.1", {"kind": "ARCHIVE NOTICE", "decided_at": AT, "mail": MAIL}),
    "digests": ("digest.1@acme.com", {"recipient": "ana@acme.com", "members": ["<a@acme.com>"], "decided_at": AT, "mail": MAIL}),
    "alerts": (
        "vision.2026-11.actual.80.v1",
        {
            "alert_id": "vision.2026-11.actual.80.v1", "kind": "actual", "month": "2026-11-01", "budget": "vision", "budget_period": "2026-11",
            "spent": "12.50", "amount": "10", "forecast": None, "currency": "USD", "threshold": "80%", "decided_at": AT, "through": "2026-11-20",
            "mail": MAIL, "covers": [], "items": [],
        },
    ),
    "outbox": ("1", {"message_id": "<archive.1@acme.com>", "recipient": "ana@acme.com", "state": "waiting", "reply": "", "at": AT, "backend": "smtp", "attempts": 1}),
    "reads": ("aws", {"kind": "bill", "last_tried_at": AT, "is_good": True, "late_after_seconds": 3600.0, "last_good_at": AT, "covered_until": None}),
    "archives": (
        ID,
        {
            "archive_id": ID, "item": ITEM, "planned_at": AT, "state": "open", "to": "/archive", "chunks": 1, "objects": 1, "bytes": 9, "reason": None,
            "ended_at": None, "restored_at": None, "is_cut": False,
        },
    ),
    "archive_objects": (f"{ID}/000000", {"objects": [ENTRY]}),
    "archive_lease": ("lease", {"number": 3, "until": None}),
    "archive_clock": ("looks", {"looks": [AT]}),
    "archive_keeps": ("k", {"kind": "run", "tracking_server": "prod", "workspace": "default", "id": "run1", "name": None, "until": "2027-01-01", "reason": None, "at": AT}),
    "archive_notices": (
        "n.0000",
        {
            "notice_id": "n", "recipients": ["ana@acme.com"], "decided_at": AT, "is_mailed": True, "is_refused": False, "accepted_at": AT, "withdrawn": {},
            "items": {"c" * 40: {"policy_digest": "0", "owner": "ana@acme.com", "objects": 1, "bytes": 1, "turn": 1}},
        },
    ),
    "heartbeats": ("last", {"night": AT, "at": AT}),
    "damage": ("runs/2026-11/lab 2026-11-24", {"why": "its file is gone", "at": AT}),
    "archive_enclosing": ("d" * 40, {"who": "run run1", "at": AT}),
    "installation": ("first-night", {"at": AT}),
    "statements": (
        "2026-10/vision/1",
        {
            "number": "2026-10-vision-1", "version": 1, "period": "2026-10", "team": "vision", "slug": "vision", "issued_at": AT,
            "policy": {"kind": "showback"}, "hides_people": False, "bills": {"aws": 1}, "inputs": {"bill of aws": None},
            "totals": [{"currency": "USD", "part": "direct", "cost": "1.23", "rounded_cost": "1.23"}], "replaces": None, "reasons": [],
            "digest": SHA, "page_sha256": SHA, "csv_sha256": SHA,
        },
    ),
    "statement_texts": ("2026-10/vision/1", {"number": "2026-10-vision-1", "page": "<html>", "csv": "number\n"}),
}  # fmt: skip

# kind, place in the value, and the value that was written there
TAMPERED: list[tuple[str, str, Any]] = [
    ("notices", "mail.message_id", "<a@acme.com>\r\nBcc: mallory@evil.example"),
    ("notices", "mail.message_id", "../../../../tmp/x"),
    ("notices", "mail.list_id", "x\r\nBcc: mallory@evil.example"),
    ("notices", "mail.thread", "x\r\n\r\nanother body"),
    ("notices", "mail.recipients", "mallory@evil.example"),
    ("notices", "mail.recipients", ["a@acme.com\r\nRCPT TO:<mallory@evil.example>"]),
    ("notices", "mail.recipients", [["mallory@evil.example"]]),
    ("notices", "mail.text", None),
    ("notices", "mail.attach", "/etc/passwd"),
    ("notices", "mail.attachments", [{"name": "a.csv", "type": "text/csv", "path": "/etc/passwd"}]),
    ("notices", "mail.attachments", [{"name": "a.csv\r\nBcc: mallory@evil.example", "type": "text/csv", "content": ""}]),
    ("notices", "mail.attachments", [{"name": "a.exe", "type": "application/x-msdownload", "content": ""}]),
    ("statements", "totals", [{"currency": "USD", "part": "direct", "cost": "NaN", "rounded_cost": "1"}]),
    ("statements", "totals", [{"currency": "USD", "part": "mystery", "cost": "1", "rounded_cost": "1"}]),
    ("statements", "digest", "0"),
    ("statements", "number", "../../../elsewhere/victim"),
    ("statements", "number", "/tmp/2026-10-vision-1"),
    ("statements", "number", "../2026-10-vision-1"),
    ("statements", "number", "2026-10-vision-2"),
    ("statements", "number", "<b>2026-10-vision-1"),
    ("statements", "number", ""),
    ("statements", "slug", "../vision"),
    ("statements", "period", "2026-09"),
    ("statements", "version", 2),
    ("statements", "inputs", {"runs/2026-10": "a"}),
    ("statements", "team", 7),
    ("statement_texts", "page", None),
    ("notices", "decided_at", "yesterday"),
    ("notices", "mail", "a text"),
    ("digests", "members", "all"),
    ("digests", "members", ["*"]),
    ("digests", "recipient", 7),
    ("alerts", "mail.picture", 7),
    ("alerts", "mail.brief", "a text"),
    ("alerts", "mail.brief", {"says": "x", "figures": [["spent", "1"]], "button": None, "details_at": 0}),
    ("alerts", "mail.brief", {"says": "x", "figures": [], "button": ["See the budget", "javascript:alert(1)"], "details_at": 0}),
    ("alerts", "mail.brief", {"says": "x", "figures": [], "button": None, "details_at": -1}),
    ("alerts", "amount", "NaN"),
    ("alerts", "amount", 12.5),
    ("alerts", "kind", "anything"),
    ("alerts", "month", "2026-13-01"),
    ("alerts", "items", [{"alert_id": "x"}]),
    ("outbox", "state", "sent"),
    ("outbox", "attempts", -1),
    ("outbox", "attempts", "many"),
    ("outbox", "at", 0),
    ("outbox", "retried_until", "9999"),
    ("outbox", "not_before", "never"),
    ("reads", "last_good_at", "2026-11-24T06:00:00"),
    ("reads", "late_after_seconds", "x"),
    ("archives", "archive_id", "../../../victim"),
    ("archives", "archive_id", "c" * 32),
    ("archives", "item.prefix", "../../elsewhere"),
    ("archives", "item.prefix", "/etc"),
    ("archives", "item.prefix", ""),
    ("archives", "item.prefix", "a//b"),
    ("archives", "item.action", "remove"),
    ("archives", "item.more", 1),
    ("archives", "state", "verified"),
    ("archives", "chunks", 10**30),
    ("archives", "chunks", -1),
    ("archives", "planned_at", None),
    ("archives", "more", True),
    ("archive_objects", "objects.0.key", "../run2/artifacts/model"),
    ("archive_objects", "objects.0.key", "a/../../b"),
    ("archive_objects", "objects.0.key", "/etc/passwd"),
    ("archive_objects", "objects.0.data", "../../../../etc/passwd"),
    ("archive_objects", "objects.0.data", f"data/{SHA}/../../x"),
    ("archive_objects", "objects.0.state", "verified"),
    ("archive_objects", "objects.0.size", 1.5),
    ("archive_objects", "objects.0.told", {"mode": 0o4755}),
    ("archive_objects", "objects", {}),
    ("archive_lease", "number", "4"),
    ("archive_lease", "number", -1),
    ("archive_lease", "number", True),
    ("archive_lease", "until", "for ever"),
    ("archive_clock", "looks", ["x"]),
    ("archive_keeps", "until", "never"),
    ("archive_keeps", "more", 1),
    ("archive_notices", "accepted_at", "2020"),
    ("archive_notices", "items", []),
    ("archive_notices", "withdrawn", {"x": None}),
    ("heartbeats", "at", {}),
    ("damage", "why", None),
    ("damage", "at", "2026-11-24"),
    ("archive_enclosing", "who", ["x"]),
    ("installation", "at", "yesterday"),
    ("installation", "at", 0),
]


def write(home: Path, kind: str, key: str, value: object) -> Path:
    """Write a record as anyone could."""
    path = Records(home).where(kind, key)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"key": key, "value": value, "nonce": "0"}))
    return path


def changed(value: dict[str, Any], where: str, to: Any) -> dict[str, Any]:
    value = copy.deepcopy(value)
    *above, name = where.split(".")
    place: Any = value
    for part in above:
        place = place[int(part) if part.isdigit() else part]
    place[name] = to
    return value


@pytest.mark.parametrize("kind", GOOD)
def test_records_as_runspend_writes_them_are_believed(home: Path, kind: str) -> None:
    """It shows that the records below are refused only for their changes."""
    key, value = GOOD[kind]
    write(home, kind, key, value)
    assert Records(home).list(kind) == {key: value}


@pytest.mark.parametrize(("kind", "where", "to"), TAMPERED)
def test_a_tampered_record_is_refused_by_name(home: Path, tmp_path: Path, decoys: Path, kind: str, where: str, to: Any) -> None:
    """The record has no effect, and its file stays so that operators can examine it."""
    key, value = GOOD[kind]
    path = write(home, kind, key, changed(value, where, to))
    before = seen(tmp_path)
    for ask in (lambda: Records(home).get(kind, key), lambda: Records(home).list(kind)):
        with pytest.raises(RecordRefused) as error:
            ask()
        assert (error.value.file, error.value.exit_code) == (str(path), 4)
    assert seen(tmp_path) == before


def copied(path: Path, _: Path) -> None:
    path.with_name("another-0123456789abcdef.json").write_bytes(path.read_bytes())


def linked(path: Path, decoys: Path) -> None:
    path.unlink()
    path.symlink_to(decoys / "victim.txt")


def piped(path: Path, _: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def grown(path: Path, _: Path) -> None:
    with path.open("ab") as file:
        file.truncate(1 << 30)


def cut(path: Path, _: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def nested(path: Path, _: Path) -> None:
    path.write_text("[" * 200_000)


def halved(path: Path, _: Path) -> None:
    path.write_text(path.read_text().replace('"night"', '"\\ud800"'))


@pytest.mark.parametrize("change", [copied, linked, piped, grown, cut, nested, halved])
def test_a_file_that_is_not_the_record_of_its_name_is_refused(home: Path, decoys: Path, change: Callable[[Path, Path], None]) -> None:
    """The file is a copy under another name, a link, a pipe, a gigabyte, a fragment, a hundred thousand brackets or half a character."""
    key, value = GOOD["heartbeats"]
    path, before = write(home, "heartbeats", key, value), seen(decoys)
    change(path, decoys)
    with pytest.raises(RecordRefused, match="heartbeats"):
        Records(home).list("heartbeats")
    assert seen(decoys) == before


# --- mails ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def mailbox(home: Path) -> Iterator[tuple[Settings, Any]]:
    with smtp_server() as server:
        yield make_settings(home, mail=smtp_mail(server.port)), server


OUTSIDE = [
    "mallory@evil.example",
    "Ana <ana@acme.com.evil.example>",
    "ana@notacme.com",
    "acme.com@evil.example",
    '"ana@acme.com"@evil.example',
]


def test_no_queued_mail_leaves_for_a_domain_that_the_settings_do_not_name(home: Path, mailbox: tuple[Settings, Any]) -> None:
    """A forged record can make Runspend mail only known recipients, and only in its own name."""
    given, server = mailbox
    for number, recipient in enumerate(OUTSIDE):
        mail = {**MAIL, "message_id": f"<archive.out{number}@acme.com>", "recipients": [recipient, "ana@acme.com"]}
        write(home, "notices", f"archive.out{number}", {"kind": "ARCHIVE NOTICE", "decided_at": AT, "mail": mail})
    forged = {**MAIL, "message_id": "<archive.forged@acme.com>", "sender": "CEO <ceo@bank.example>"}
    write(home, "notices", "archive.forged", {"kind": "ARCHIVE NOTICE", "decided_at": AT, "mail": forged})
    became = {(d.mail.message_id, d.recipient): d.outcome for d in send_outbox(given, Records(home), NOW)}
    assert {r for accepted in server.accepted for r in accepted.recipients} == {"ana@acme.com"}
    assert {accepted.sender for accepted in server.accepted} == {"runspend@acme.com"}
    assert len(server.accepted) == len(OUTSIDE)
    for number, recipient in enumerate(OUTSIDE):
        outcome = became[f"<archive.out{number}@acme.com>", recipient]
        assert (outcome.state, outcome.is_final) == ("refused", True)
    assert send_outbox(given, Records(home), NOW + timedelta(hours=1)) == []


def test_a_tampered_record_keeps_its_own_mail_alone(home: Path, mailbox: tuple[Settings, Any]) -> None:
    """The other mails are sent, and then the error names the record. A mail whose delivery is doubtful is not sent twice."""
    given, server = mailbox
    records = Records(home)
    for name in ("a", "b", "c"):
        write_archive_notice(given.mail, records, name, ["ana@acme.com"], f"notice {name}", [], NOW)
    bad = records.where("notices", "archive.b")
    bad.write_text(bad.read_text().replace('"message_id": "<', '"message_id": "'))
    with pytest.raises(RecordRefused) as error:
        send_outbox(given, records, NOW)
    assert error.value.file == str(bad)
    assert sorted(accepted.message["Subject"] for accepted in server.accepted) == ["[runspend] notice a", "[runspend] notice c"]
    [*_, newest] = sorted((home / "records" / "outbox").glob("*.json"))
    newest.write_text("{")
    for _ in range(3):
        with pytest.raises(RecordRefused):
            send_outbox(given, records, NOW)
    assert len(server.accepted) == 2


# --- the night -----------------------------------------------------------------------------------------------------------


def operators_mails(home: Path) -> list[str]:
    return [path.read_text() for path in sorted((home / "mail").glob("operators.REFUSED*.eml"))]


def test_a_refused_journal_is_mailed_once_and_shown_by_status(tmp_path: Path, home: Path, decoys: Path) -> None:
    """Each pipeline run that finds it ends with 4, and all of them send one mail. `status` and single steps report the same."""
    config = tmp_path / "runspend.yaml"
    config.write_text(json.dumps({"home": "home", "mail": {"backend": "file", "operators": ["oncall@acme.com"]}}))
    journal = home / "warehouse" / "_runspend" / "journal.json"
    journal.parent.mkdir(parents=True)
    (journal.parent / "lock").touch()
    journal.write_text(
        json.dumps({"moves": [[str(decoys / "victim.txt"), str(decoys / "below" / "victim.parquet")]], "removals": [], "build_id": "b"})
    )
    before = seen(decoys)
    for command in (["nightly"], ["nightly"], ["allocate"], ["status"], ["status", "--json"], ["sql", "select 1"], ["costs"]):
        done = run_here(*command, "--config", str(config), "--now", "2026-11-24T06:00", code=4)
        assert "journal.json" in done.stdout + done.stderr
        assert "Traceback" not in done.stdout + done.stderr
        [mail] = operators_mails(home)  # the first run sent it
        assert "journal.json" in mail
    assert seen(decoys) == before
    assert journal.exists()


def test_a_refused_record_does_not_silence_its_own_alarm(home: Path) -> None:
    """Operators get a mail about a notice whose record is refused, although the mail uses the same kind of record."""
    bad = write(home, "notices", "archive.1", changed(GOOD["notices"][1], "mail.message_id", "x"))
    outcome = pipeline.nightly(make_settings(home), now=NOW)
    assert outcome.exit_code == 4
    assert any(str(bad) in problem for problem in outcome.problems)
    [mail] = operators_mails(home)
    assert "archive.1" in mail


# --- the archive's lease -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "until", ["9999-12-31T23:59:59+00:00", (datetime.now(timezone.utc) + timedelta(days=30)).isoformat()], ids=["9999", "a month ahead"]
)
def test_a_lease_without_end_or_holder_is_refused(home: Path, until: str) -> None:
    """It would block every archiver and every restore, so an operator must examine it."""
    path = write(
        home, "archive_lease", "lease", {"number": 3, "until": until, "host": "elsewhere", "process": 1, "machine": "m", "began": "1"}
    )
    with pytest.raises(RecordRefused, match="later than any lease can"):
        take_lease(Records(home))
    write(home, "archive_lease", "lease", {"number": 3, "until": AT})
    with pytest.raises(RecordRefused, match="does not name the process that has the lease"):
        take_lease(Records(home))
    path.unlink()
    take_lease(Records(home)).release()


# --- folders that Runspend empties ---------------------------------------------------------------------------------------


def test_a_listing_removes_only_what_a_listing_makes(home: Path, decoys: Path) -> None:
    """Its folder may contain other users' files, or be a link to them."""
    folder = home / "listing"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    (folder / "000000.parquet").write_text("a part")
    (folder / "state.json").write_text(json.dumps({"parts": -1, "after": None}))
    Staging(folder, Listing(), what={}, now=NOW)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


STATES = [
    "[]",
    "null",
    "{",
    '{"parts": "1"}',
    '{"parts": 1e99}',
    '{"parts": 0, "after": "x", "objects": 0, "bytes": 0, "began_at": "2026-11-24T05:00:00+00:00"}',
]
STATES += [
    '{"parts": 0, "after": {}, "objects": -5, "bytes": 0, "began_at": "2026-11-24T05:00:00+00:00"}',
    '{"parts": 0, "after": {}, "objects": 0, "bytes": 0, "began_at": 5}',
]


@pytest.mark.parametrize("text", STATES)
def test_a_listings_state_that_is_not_ours_begins_it_again(home: Path, text: str) -> None:
    """Objects that were not listed are not counted."""
    (home / "state.json").write_text(text)
    staging = Staging(home, listing := Listing(), what={}, now=NOW)
    assert (staging.parts, staging.after, listing.objects) == (0, None, 0)


def test_a_work_folder_that_is_a_link_is_not_swept(home: Path, decoys: Path) -> None:
    """Runspend removes folders of killed processes only in its own folder."""
    (decoys / "work-abcdefgh").mkdir()
    (decoys / "work-abcdefgh" / "thesis.txt").write_text("mine")
    before = seen(decoys)
    (home / "work").symlink_to(decoys, target_is_directory=True)
    with pytest.raises(RecordRefused, match="is a link"), work_folder(make_settings(home)):
        pass
    (home / "work").unlink()
    (home / "work").mkdir()
    (home / "work" / "work-abcdefgh").symlink_to(decoys, target_is_directory=True)
    with work_folder(make_settings(home)):
        pass
    assert seen(decoys) == before


LOCKS = {
    "work/.lock": lambda home: work_folder(make_settings(home)).__enter__(),
    "mail/.lock": lambda home: send_outbox(make_settings(home), Records(home), NOW),
    "records/heartbeats/lock": lambda home: Records(home).replace("heartbeats", "last", GOOD["heartbeats"][1], "token"),
    "listing/.lock": lambda home: locked(home / "listing", home / "otherwise").__enter__(),
}


@pytest.mark.parametrize(("name", "act"), LOCKS.items())
def test_a_lock_that_is_a_link_is_refused(home: Path, decoys: Path, name: str, act: Callable[[Path], object]) -> None:
    """Opening such a lock for writing would empty the link's target."""
    (home / name).parent.mkdir(parents=True)
    for target in (decoys / "victim.txt", decoys / "new.lock"):
        (home / name).symlink_to(target)
        before = seen(decoys)
        with pytest.raises(RecordRefused, match="lock"):
            act(home)
        assert seen(decoys) == before
        (home / name).unlink()


def test_a_pages_marker_that_is_a_link_is_replaced(home: Path, decoys: Path) -> None:
    """The link's target is not overwritten."""
    before = seen(decoys)
    (home / ".builds").mkdir()
    (home / ".builds" / "2026-11").symlink_to(decoys / "victim.txt")
    note_report(home, "2026-11", "b1")
    assert seen(decoys) == before
    assert (home / ".builds" / "2026-11").read_text() == "b1"


def test_a_mail_file_that_is_a_link_is_replaced(home: Path, decoys: Path) -> None:
    """The same holds for the mail's earlier draft."""
    before = seen(decoys)
    (home / "mail").mkdir()
    for name in ("archive.1.eml", ".archive.1.part"):
        (home / "mail" / name).symlink_to(decoys / "victim.txt")
    write(home, "notices", *GOOD["notices"])
    send_outbox(make_settings(home), Records(home), NOW)
    assert seen(decoys) == before
    assert "a notice" in (home / "mail" / "archive.1.eml").read_text()


def test_the_demo_removes_no_bills_of_others(tmp_path: Path) -> None:
    """The demo removes only what a killed attempt left. It refuses a folder with anything else."""
    for name in ("bills", "prod", "research"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.csv").write_text("mine")
    before = seen(tmp_path)
    with pytest.raises(UsageError, match="the folder is not empty"):
        make_world(tmp_path)
    assert seen(tmp_path) == before


def test_a_trial_does_not_empty_the_target_of_a_link(tmp_path: Path, decoys: Path) -> None:
    """This holds even if the target has the marker of a trial."""
    (decoys / ".trial").touch()
    before = seen(decoys)
    (tmp_path / "trial").symlink_to(decoys, target_is_directory=True)
    with pytest.raises(RunspendError, match="it is a link"):
        _empty(tmp_path / "trial")
    assert seen(decoys) == before
