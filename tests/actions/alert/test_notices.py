"""Other steps write each notice once under its own id. It is sent with all other mail, and can be looked up afterwards."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from runspend.actions.alert.notices import read_receipts, write_archive_notice
from runspend.actions.alert.outbox import receipt, send_outbox
from runspend.actions.alert.render import Paragraph
from runspend.config.settings import Settings
from runspend.warehouse.records import Records
from tests.actions.alert.alert_world import NOW
from tests.memory_records import MemoryRecords
from tests.servers.smtp import Script, smtp_server
from tests.settings_builder import make_settings, smtp_mail

ANA, BEN = "ana@acme.com", "ben@acme.com"


def write(given: Settings, records: Records, words: str = "412 checkpoints move on 24 December") -> str:
    return write_archive_notice(given.mail, records, "cold-checkpoints.4f1d", [ANA, BEN], words, [Paragraph(words)], NOW)


def test_a_notice_is_asked_about_by_its_id(tmp_path: Path) -> None:
    """At first a notice waits. Later it has the time at which the server accepted it. A refused notice never has one."""
    records = MemoryRecords()
    with smtp_server(Script(rcpt_replies={BEN: "550 no such user"})) as server:
        given = make_settings(tmp_path, mail=smtp_mail(server.port))
        message_id = write(given, records)
        assert {r.state for r in read_receipts(records, "cold-checkpoints.4f1d").values()} == {"waiting"}
        assert write(given, records, "other words") == message_id
        for night in range(2):
            send_outbox(given, records, NOW + timedelta(days=night))
    found = read_receipts(records, "cold-checkpoints.4f1d")
    assert [(r, found[r].state, found[r].accepted_at) for r in found] == [(ANA, "accepted", NOW), (BEN, "refused", None)]
    assert found[ANA] == receipt(records, message_id, ANA)
    assert [(a.message["Subject"], a.message["X-Runspend-Kind"]) for a in server.accepted][:1] == [
        ("[runspend] 412 checkpoints move on 24 December", "archive-notice")
    ]
    assert str(server.accepted[0].message["Message-ID"]) == message_id == "<archive.cold-checkpoints.4f1d@acme.com>"


def test_writing_mail_to_a_file_is_not_an_acceptance(tmp_path: Path) -> None:
    """With `backend: file`, the mail is written to disk but not delivered."""
    records, given = MemoryRecords(), make_settings(tmp_path)
    write(given, records)
    send_outbox(given, records, NOW)
    assert {(r.state, r.accepted_at) for r in read_receipts(records, "cold-checkpoints.4f1d").values()} == {("accepted", None)}
    assert read_receipts(records, "another") == {}
