"""Hostile names in every place of every kind of mail, sent to a real server.

Each mail arrives, and its headers and HTML match those of a mail with a harmless name. `make test` sends some of these mails. The torture
tests send all: 5,000 fuzzed names and every payload.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from datetime import timedelta
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from runspend.actions.alert import operators
from runspend.actions.alert.freshness import note_done
from runspend.actions.alert.notices import write_archive_notice
from runspend.actions.alert.outbox import send_outbox
from runspend.actions.alert.render import Facts, Paragraph
from runspend.config.settings import Settings
from tests.actions.alert.alert_world import NOW
from tests.actions.alert.test_render import HEADERS, PIECES, make, parts, shape
from tests.hostile_names import FORMULAS, PAYLOADS, TERMINAL
from tests.memory_records import MemoryRecords
from tests.servers.smtp import smtp_server
from tests.settings_builder import make_settings, smtp_mail

NAMES = [*PAYLOADS, *FORMULAS, *TERMINAL]


def fuzzed(count: int) -> list[str]:
    """Return names of random letters and of sequences that break mails."""
    chance = random.Random(20261124)
    letters = lambda: chance.choice(PIECES) if chance.random() < 0.8 else chr(chance.randrange(0x110000))  # noqa: E731  # one expression
    return ["".join(letters() for _ in range(chance.randrange(1, 9))) for _ in range(count)]


def queue(records: MemoryRecords, number: int, name: str) -> None:
    """Queue a budget's mail in which this name replaces everything that outsiders can name, including the subject."""
    written = make(name, experiment=name, user=name, runbook=name).as_record()
    mail = {**written, "message_id": f"<{number}@acme.com>", "recipients": ["ana@acme.com"]}
    records.create("alerts", str(number), {"decided_at": NOW.isoformat(), "mail": mail, "budget": "vision"})


def send_all(home: Path, names: Iterable[str]) -> dict[int, EmailMessage]:
    """Send a mail for each name, and return the mails that arrive, by number."""
    with smtp_server() as server:
        given = make_settings(home, mail=smtp_mail(server.port))
        for number, name in enumerate(names):
            records = MemoryRecords()  # One mail at a time, because Runspend would combine several into one.
            queue(records, number, name)
            assert [d.outcome.state for d in send_outbox(given, records, NOW)] == ["accepted"]
    return {int(str(a.message["Message-ID"]).strip("<>").partition("@")[0]): a.message for a in server.accepted}


def check(home: Path, names: list[str]) -> None:
    """Check that all mails arrive, with the headers, parts and HTML elements of a harmless mail."""
    arrived = send_all(home, ["x", *names])
    assert sorted(arrived) == list(range(len(names) + 1))
    markup = parts(arrived[0])[1]
    wanted = [element for element in shape(markup) if not str(element[0]).endswith("}a")]  # the name decides whether it becomes a link
    types = [part.get_content_type() for part in arrived[0].walk()]
    for number, name in enumerate(names, 1):
        message = arrived[number]
        assert message.keys() == HEADERS, (name, message.keys())
        assert not message.defects, name
        assert [part.get_content_type() for part in message.walk()] == types, name
        found = shape(parts(message)[1])
        links = [element for element in found if element[3]]
        assert all(str(element[3]).startswith(("http://", "https://")) for element in links), name
        assert [element for element in found if not str(element[0]).endswith("}a")] == wanted, name


def test_some_hostile_names(tmp_path: Path) -> None:
    """The test sends every ninth payload and sixty fuzzed names."""
    check(tmp_path, [*NAMES[::9], *fuzzed(60)])


@pytest.mark.torture
@pytest.mark.timeout(3600)
def test_all_hostile_names(tmp_path: Path) -> None:
    """The test sends 5,000 fuzzed names and every payload."""
    assert len(NAMES) >= 300
    check(tmp_path, [*NAMES, *fuzzed(5000)])


@pytest.mark.parametrize("every", [15, pytest.param(1, marks=pytest.mark.torture)])
def test_no_text_from_outside_changes_headers_or_elements_of_operators_mails(tmp_path: Path, every: int) -> None:
    """Hostile text in a source, an error, a headline, a detail or a store adds no header and no element."""

    def write(given: Settings, name: str) -> MemoryRecords:
        records = MemoryRecords()
        note_done(records, name, "bill", NOW - timedelta(hours=9), was_done=True, is_good=True, covered_until=NOW)
        operators.notify(given, records, "REFUSED", name, NOW, name, details=[name, name], advice=operators.Advice(do=[(name, name)]))
        write_archive_notice(given.mail, records, "n1", ["ana@acme.com"], name, [Paragraph(name), Facts(name, ((name, name),))], NOW)
        send_outbox(given, records, NOW)
        return records

    with smtp_server() as server:
        given = make_settings(tmp_path, mail=smtp_mail(server.port))
        names = ["x", *NAMES[::every], *fuzzed(300 // every)]
        for name in names:
            write(given, name)
    assert len(server.accepted) == 2 * len(names)
    wanted: list[Any] = [None, None]
    for number, taken in enumerate(server.accepted):
        message, which = taken.message, number % 2
        found = [e for e in shape(parts(message)[1]) if not str(e[0]).endswith("}a")]
        wanted[which] = wanted[which] or (message.keys(), found)
        assert (message.keys(), found) == wanted[which], names[number // 2]
