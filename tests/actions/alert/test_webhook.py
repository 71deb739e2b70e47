"""One webhook beside mail: Slack's and Teams' bodies against a real HTTP server, through the same outbox, its address a secret."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import timedelta
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from runspend.actions import alert
from runspend.actions.alert import operators
from runspend.actions.alert.outbox import recipient_states, send_outbox
from runspend.actions.alert.render import Envelope, Facts, Paragraph, make_mail
from runspend.actions.alert.webhook import MOST_LETTERS, slack_body, teams_body
from runspend.config.settings import Settings, redact, show_settings
from tests.actions.alert.alert_world import NOW, MemoryRecords, budget, cost, source, warehouse
from tests.hostile_names import PAYLOADS
from tests.settings_builder import make_settings

SECRET = "T000/B000/canary-of-the-webhook"


class Chat(BaseHTTPRequestHandler):
    """Keeps what is posted; answers the codes it is told, the last of them forever."""

    posted: list[tuple[str, dict[str, Any]]]
    codes: list[int]
    hangs_up: bool

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        here = type(self)
        here.posted.append((self.path, body))
        code = here.codes.pop(0) if len(here.codes) > 1 else here.codes[0]
        if here.hangs_up:
            self.close_connection = True
            return
        self.send_response(code)
        if 300 <= code < 400:
            self.send_header("Location", "http://127.0.0.1:1/elsewhere")
        self.end_headers()
        self.wfile.write(f"said of /services/{SECRET}".encode())

    def log_message(self, *_: Any) -> None:
        return


@pytest.fixture
def chat() -> Iterator[tuple[type[Chat], str]]:
    """A webhook on this machine and its address."""
    handler = type("Here", (Chat,), {"posted": [], "codes": [200], "hangs_up": False})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield handler, f"http://127.0.0.1:{server.server_port}/services/{SECRET}"
    server.shutdown()
    thread.join()
    server.server_close()


def world(home: Path, address: str, **webhook: Any) -> Settings:
    return make_settings(home, budget(), mail={"webhook": {"url": address, **webhook}})


def spend(home: Path, given: Settings, records: Any, night: int = 0) -> alert.AlertResult:
    with warehouse(home / f"w{night}", cost_daily=[cost("2026-11-05", "5012.38")], sources=[source()]) as reader:
        return alert.run(partial(nullcontext, reader), given, records, NOW + timedelta(days=night))


@pytest.mark.parametrize("kind", ["slack", "teams"])
def test_a_crossing_is_posted_once(tmp_path: Path, chat: tuple[type[Chat], str], kind: str) -> None:
    """Subject, text and Message-ID, once; the mail goes out as well; operators' mails are not posted unless asked for."""
    here, address = chat
    given, records = world(tmp_path, address, kind=kind), MemoryRecords()
    for night in range(2):
        assert spend(tmp_path, given, records, night).errors == []
    operators.notify(given, records, "REFUSED", "aws", NOW, "aws: part 3 of 5 is missing")
    ((path, body),) = here.posted
    assert path == f"/services/{SECRET}"
    words = json.dumps(body, ensure_ascii=False)
    assert "Budget vision: 100.2% of 5,000 USD spent in November" in words
    assert "TOP COSTS" in words
    assert "budget.vision.2026-11.actual.100." in words
    assert len(list((tmp_path / "mail").glob("budget*.eml"))) == 1
    if kind == "slack":
        assert {b["type"] for b in body["blocks"]} == {"header", "section", "context"}
        assert all(len(b["text"]["text"]) <= 3000 for b in body["blocks"] if b["type"] == "section")
    else:
        assert body["attachments"][0]["contentType"] == "application/vnd.microsoft.card.adaptive"


def test_operators_mails_are_posted_where_asked_for(tmp_path: Path, chat: tuple[type[Chat], str]) -> None:
    """`about: [operators]`, and nothing of budgets then."""
    here, address = chat
    given, records = world(tmp_path, address, about=["operators"]), MemoryRecords()
    operators.notify(given, records, "REFUSED", "aws", NOW, "aws: part 3 of 5 is missing")
    spend(tmp_path, given, records)
    assert [body["text"] for _, body in here.posted] == ["[runspend] REFUSED: aws: part 3 of 5 is missing"]


@pytest.mark.parametrize(
    ("code", "state"),
    [
        (200, "accepted"),
        (202, "accepted"),
        (302, "refused"),
        (400, "refused"),
        (404, "refused"),
        (410, "refused"),
        (408, "waiting"),
        (429, "waiting"),
        (500, "waiting"),
        (503, "waiting"),
    ],
)
def test_what_each_answer_means(tmp_path: Path, chat: tuple[type[Chat], str], code: int, state: str) -> None:
    """Doubt is tried again at the next run, with the same words; a refusal is not, and operators are mailed. The night goes on, and says so."""
    here, address = chat
    here.codes = [code, 200]
    given, records = world(tmp_path, address), MemoryRecords()
    result = spend(tmp_path, given, records)
    assert [d.outcome.state for d in result.deliveries if d.recipient == "webhook"] == [state]
    assert [e.exit_code for e in result.errors] == ([] if state == "accepted" else [5])
    again = spend(tmp_path, given, records, 1)
    assert [d.outcome.state for d in again.deliveries if d.recipient == "webhook"] == (["accepted"] if state == "waiting" else [])
    assert len({json.dumps(body) for _, body in here.posted}) == 1
    assert len(list((tmp_path / "mail").glob("operators.REFUSED*.eml"))) == (state == "refused")
    assert SECRET not in repr(records.kept) + repr(result) + "".join(str(e) for e in result.errors)
    assert not any(SECRET.encode() in path.read_bytes() for path in (tmp_path / "mail").glob("*.eml"))


def test_a_webhook_without_an_answer_does_not_fail_the_pipeline_run(tmp_path: Path, chat: tuple[type[Chat], str]) -> None:
    """A server that hangs up after it has the body gets it again: twice at most, the same id. Nobody there is the same."""
    here, address = chat
    here.hangs_up = True
    given, records = world(tmp_path, address), MemoryRecords()
    assert [d.outcome.state for d in spend(tmp_path, given, records).deliveries if d.recipient == "webhook"] == ["waiting"]
    here.hangs_up = False
    spend(tmp_path, given, records, 1)
    assert len(here.posted) == 2
    assert here.posted[0] == here.posted[1]
    nobody = world(tmp_path / "other", "http://127.0.0.1:1/services/canary")
    assert [d.outcome.reply for d in spend(tmp_path / "other", nobody, MemoryRecords()).deliveries if d.recipient == "webhook"] == [
        "no answer: ConnectionError"
    ]


def test_a_server_that_never_ends_its_answer_does_not_block_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A letter at a time is within every timeout of a read. It is asked once a night, and who has the mail is on record before."""
    monkeypatch.setattr("runspend.actions.alert.webhook.DEADLINE_SECONDS", 0.5)
    is_over, asked = threading.Event(), list[dict[tuple[str, str], str]]()

    class Slow(Chat):
        def do_POST(self) -> None:
            asked.append(dict(recipient_states(records)))
            while not is_over.wait(0.05):
                self.wfile.write(b"H")

    server = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    given, records = (
        world(tmp_path, f"http://127.0.0.1:{server.server_port}/services/{SECRET}", about=["budgets", "operators"]),
        MemoryRecords(),
    )
    for cause in ("a", "b"):
        operators.notify(make_settings(tmp_path), records, "REFUSED", cause, NOW, cause)
    sent = spend(tmp_path, given, records).deliveries
    is_over.set()
    server.shutdown()
    thread.join()
    server.server_close()
    assert {d.outcome.state for d in sent if d.recipient == "webhook"} == {"waiting"}
    assert len(asked) == 1 and "accepted" in asked[0].values()
    assert all(state == "accepted" for (_, recipient), state in recipient_states(records).items() if recipient != "webhook")


def test_the_address_is_not_logged(tmp_path: Path, chat: tuple[type[Chat], str], caplog: pytest.LogCaptureFixture) -> None:
    """Not even by the library that calls it, at the level of everything."""
    caplog.set_level("DEBUG")
    spend(tmp_path, world(tmp_path, chat[1]), MemoryRecords())
    assert len(chat[0].posted) == 1
    assert SECRET not in caplog.text


def test_what_was_decided_before_is_not_posted(tmp_path: Path, chat: tuple[type[Chat], str]) -> None:
    """Switched on later, it does not post a year of crossings; without it nothing is posted."""
    here, address = chat
    records = MemoryRecords()
    spend(tmp_path, make_settings(tmp_path, budget()), records)
    spend(tmp_path, world(tmp_path, address), records, 1)
    assert here.posted == []


def test_what_was_decided_while_it_was_off_is_not_posted(tmp_path: Path, chat: tuple[type[Chat], str]) -> None:
    """Switched on a second time it is as new as the first."""
    here, address = chat
    records = MemoryRecords()
    send_outbox(world(tmp_path, address), records, NOW - timedelta(days=9))
    spend(tmp_path, make_settings(tmp_path, budget()), records)
    spend(tmp_path, world(tmp_path, address), records, 1)
    assert here.posted == []


def test_five_hundred_crossings_are_few_posts(tmp_path: Path, chat: tuple[type[Chat], str]) -> None:
    """Grouped as for any recipient; what a chat cannot take is in the mail, and the post says so."""
    here, address = chat
    records, given = MemoryRecords(), world(tmp_path, address, kind="teams")
    for n in range(500):
        mail = make_mail(
            Envelope("Runspend <runspend@acme.com>", "budgets", "budget-actual"), local_id=f"budget.b{n:03d}", recipients=["leads@acme.com"],
            subject=f"[runspend] b{n:03d} is over budget", blocks=[Paragraph("x")], now=NOW,
        )  # fmt: skip
        value = {
            "budget": f"b{n:03d}",
            "budget_period": "2026-11",
            "spent": f"{500 + n}",
            "amount": "500",
            "currency": "USD",
            "kind": "actual",
            "threshold": "100%",
        }
        records.create("alerts", f"b{n:03d}", {**value, "decided_at": NOW.isoformat(), "mail": mail.as_record()})
    sent = [d for night in range(2) for d in send_outbox(given, records, NOW + timedelta(days=night))]
    assert sorted(d.recipient for d in sent) == ["leads@acme.com"] * 2 + ["webhook"] * 2
    assert set(recipient_states(records).values()) == {"accepted"}
    assert 1 <= len(here.posted) <= 2
    for _, body in here.posted:
        assert len(json.dumps(body).encode()) < 28_000
    files = list((tmp_path / "mail").glob("digest*.eml"))
    listed = "".join(path.read_text() for path in files)
    assert len(files) == 2
    assert all(f"b{n:03d} " in listed for n in range(500))
    assert all(len(d.mail.html.encode()) < 102_000 for d in sent)  # more is cut off by Gmail


@pytest.mark.parametrize(
    "payload",
    [
        "<!channel> <!here|x> <@U123> <http://evil|click>",
        "@everyone [x](http://evil)",
        "``` <!channel> ```",
        "&lt;!channel&gt;",
        *PAYLOADS[::12],
    ],
)
def test_names_stay_names(payload: str) -> None:
    """Nothing in a name mentions anybody, is a link or ends the block it stands in."""
    mail = make_mail(
        Envelope("Runspend <runspend@acme.com>", "budgets", "budget-actual"), local_id="x", recipients=["webhook"],
        subject=f"[runspend] {payload}", blocks=[Paragraph(payload), Facts("RUNS", ((payload, payload),))], now=NOW,
    )  # fmt: skip
    slack = slack_body(mail)
    shown = [slack["text"], *(b["text"]["text"] for b in slack["blocks"] if b["type"] == "section")]
    assert not any("<" in text or ">" in text for text in shown)
    assert all(text.count("```") == 2 for text in shown[1:])
    card = teams_body(mail)["attachments"][0]["content"]
    assert {element["type"] for element in card["body"]} == {"RichTextBlock"}
    assert {run["type"] for element in card["body"] for run in element["inlines"]} == {"TextRun"}


def test_a_long_mail_is_cut_at_a_line(tmp_path: Path) -> None:
    """And says how much is left."""
    mail = make_mail(
        Envelope("Runspend <runspend@acme.com>", "budgets", "budget-actual"), local_id="x", recipients=["webhook"],
        subject="s", blocks=[Paragraph(f"line {n}") for n in range(5000)], now=NOW,
    )  # fmt: skip
    text = teams_body(mail)["attachments"][0]["content"]["body"][1]["inlines"][0]["text"]
    assert MOST_LETTERS - 100 < len(text) < MOST_LETTERS + 60
    assert text.endswith("more lines are in the mail\n")
    assert len(slack_body(mail)["blocks"]) < 50


def test_the_address_is_a_secret(tmp_path: Path) -> None:
    """In no listing of the settings, whole or in part; not even where a library's error repeats its path."""
    given = make_settings(
        tmp_path, mail={"webhook": {"url": f"https://hooks.slack.example/services/{SECRET}"}, "heartbeat": f"https://hc.example/{SECRET}"}
    )
    assert SECRET not in repr(given) + show_settings(given)
    assert SECRET not in redact(f"Max retries exceeded with url: /services/{SECRET}", given)


@pytest.mark.parametrize(
    "address", ["http://hooks.slack.com/services/x", "ftp://x/y", "hooks.slack.com", "https://", "https://u:p@x/y", "https://x y/", ""]
)
def test_an_address_must_be_https(tmp_path: Path, address: str) -> None:
    """A secret does not cross the network in the clear; the error does not repeat it."""
    with pytest.raises(ValueError, match="https://") as caught:
        make_settings(tmp_path, mail={"webhook": {"url": address}})
    assert "services/x" not in str(caught.value)


def test_without_one_nothing_is_called(tmp_path: Path) -> None:
    """Off by default."""
    given = make_settings(tmp_path)
    assert (given.mail.webhook, given.mail.heartbeat) == (None, None)
    assert send_outbox(given, MemoryRecords(), NOW) == []
