"""Chats and pagers next to mail, through the same outbox. Real local servers check the documented rules and fail in many ways."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, get_args

import pytest

from runspend.actions import alert
from runspend.actions.alert import channels, operators, outbox, posting
from runspend.actions.alert.outbox import recipient_states, send_outbox
from runspend.actions.alert.pagers import LONGEST_KEY, short_key
from runspend.actions.alert.render import Button, Card, Envelope, Facts, Paragraph, make_mail
from runspend.config.mail import PAGERS, ChannelSettings
from runspend.config.settings import Settings, redact, secret_values, show_settings
from runspend.core.errors import ConfigError
from runspend.pipeline.monitoring import send_test_mail
from runspend.warehouse.records import Records
from tests.actions.alert.alert_world import NOW, budget, cost, in_memory, source
from tests.hostile_names import PAYLOADS
from tests.memory_records import MemoryRecords
from tests.servers.channels import CONNECTOR_SAYS, KEY, SECRET, Fault, Services, channel_services
from tests.settings_builder import make_settings, read_settings

DAY = timedelta(days=1)
CHANNEL_KINDS = get_args(ChannelSettings.model_fields["kind"].annotation)
CHATS = tuple(kind for kind in CHANNEL_KINDS if kind not in PAGERS)
HTTP_KINDS = tuple(kind for kind in CHANNEL_KINDS if kind != "apprise")


class Killed(BaseException):
    """A stand-in for SIGKILL. No code in the library catches it."""


@pytest.fixture(scope="module")
def running() -> Iterator[Services]:
    with channel_services() as services:
        yield services


@pytest.fixture
def services(running: Services, monkeypatch: pytest.MonkeyPatch) -> Services:
    """The servers without a history, and a sender that does not wait between posts."""
    running.clear()
    monkeypatch.setattr(channels, "SECONDS_BETWEEN", 0.0)
    monkeypatch.setattr("apprise.plugins.base.NotifyBase.request_rate_per_sec", 0.0)
    monkeypatch.setattr("apprise.plugins.ntfy.NotifyNtfy.request_rate_per_sec", 0.0)
    return running


def world(home: Path, services: Services, *kinds: str, budgets: Any = None, mail: Any = None, **more: Any) -> Settings:
    """Return settings with a budget, and a channel of each kind about all budgets."""
    entries = [services.channel(kind, **{"about": ["budgets"], **more}) for kind in kinds]
    return make_settings(
        home, *(budgets or [budget()]), mail={"channels": entries, **(mail or {})}, site={"url": "https://runspend.acme.com"}
    )


def spend(given: Settings, records: Any, amount: str = "5012.38", night: int = 0) -> alert.AlertResult:
    reader = in_memory(cost_daily=[cost("2026-11-05", amount)], sources=[source()])
    return alert.run(partial(nullcontext, reader), given, records, NOW + night * DAY)


def queue(
    records: Any,
    number: int = 0,
    *,
    name: str = "vision",
    kind: str = "actual",
    recipients: Sequence[str] = ("leads@acme.com",),
    **more: Any,
) -> str:
    """Queue a decided alert with its mail, as `record` writes it. Return its id."""
    key = f"b{number}.2026-11.{kind}.100.v"
    mail = make_mail(
        Envelope("Runspend <runspend@acme.com>", "budgets", f"budget-{kind}"), local_id=f"budget.{key}", recipients=recipients,
        subject=f"[runspend] Budget {name}: 100.2% spent", now=NOW, thread=f"budget.b{number}.2026-11",
        blocks=[Card((("spent", "5,012.38 USD", "100.2% of 5,000"),)), Paragraph(f"{name} has spent it all."), Button("See the budget", "https://runspend.acme.com/budget/x"), Facts("RUNS", ((name, name),))],
    )  # fmt: skip
    value = {
        "alert_id": key,
        "kind": kind,
        "month": "2026-11-01",
        "budget": f"b{number}",
        "budget_period": "2026-11",
        "spent": "5012.38",
        "amount": "5000",
        "currency": "USD",
        "threshold": "100%",
    }
    value |= {
        "covers": [key],
        "items": [{"alert_id": key, "kind": kind, "threshold": "100%"}],
        "decided_at": NOW.isoformat(),
        "mail": mail.as_record(),
    }
    records.create("alerts", key, value | more)
    return key


def post_states(records: Any) -> set[str]:
    return {state for (_, recipient), state in recipient_states(records).items() if recipient.startswith("channel:")}


def test_a_crossing_and_its_correction_reach_every_channel_once(tmp_path: Path, services: Services) -> None:
    """Every service accepts the posts, the next run posts nothing, and the correction resolves the incident."""
    given, records = world(tmp_path, services, *CHANNEL_KINDS), MemoryRecords()
    for night in range(2):
        assert spend(given, records, night=night).errors == []
    assert services.refused == []
    assert [kind for kind, _ in services.posts] == list(CHANNEL_KINDS)
    for _, body in services.posts:
        words = json.dumps(body, ensure_ascii=False)
        assert "Budget vision: 100.2% of 5,000 USD spent in November" in words
        assert "5,012.38 USD" in words
        assert "https://runspend.acme.com/budget/vision?period=2026-11" in words
        assert "budget.vision.2026-11.actual.100." in words
    slack, card = services.of("slack")[0], services.of("google_chat")[0]["cardsV2"][0]["card"]
    assert [block["type"] for block in slack["blocks"]][:4] == ["header", "section", "section", "actions"]
    assert card["header"]["title"] == "Budget vision: 100.2% of 5,000 USD spent in November"
    (event,), (key, other) = services.of("pagerduty"), [*services.incidents] * (3 - len(services.incidents))
    assert (key, event["payload"]["severity"], event["links"][0]["text"]) == (other, "error", "See the budget")
    assert records.get("alerts", key) is not None
    opsgenie = services.of("opsgenie")[0]
    assert (opsgenie["alias"], opsgenie["priority"]) == (key, "P2")
    assert services.incidents == {key: "open"}
    row = json.loads(spend(given, records, night=1).alerts["recipients"].to_pylist()[-1])
    assert row == {"vision-leads@acme.com": "accepted", **{f"channel:{kind}": "accepted" for kind in CHANNEL_KINDS}}

    services.clear()
    services.incidents[key] = "open"
    assert spend(given, records, "4000", 2).errors == []
    assert services.refused == []
    assert services.of("pagerduty") == [{"routing_key": KEY, "event_action": "resolve", "dedup_key": key}]
    assert "correction" in services.of("slack")[0]["text"]
    assert services.incidents == {key: "resolved"}
    assert len(services.of("opsgenie")) == 1


def test_a_post_that_arrives_with_the_mail_about_another_is_not_a_failure(tmp_path: Path, services: Services) -> None:
    """Slack refuses its post. Teams accepts the alert when the mail about the refusal is sent."""
    given, records = world(tmp_path, services, "slack", "teams"), MemoryRecords()
    services.faults += [Fault(400, "invalid_payload"), Fault(way="unread")]
    (error,) = spend(given, records).errors
    assert "cannot deliver 1 of 4 mails" in str(error) and "channel:slack: refused, 400 invalid_payload" in str(error)
    (mailed,) = [" ".join(path.read_text().split()) for path in (tmp_path / "mail").glob("operators.REFUSED*.eml")]
    assert "Correct the channel in runspend.yaml" in mailed and "Runspend does not send it again" in mailed
    spend(given, records, "100", 1)
    assert "it had reached 80% of budget and 100% of budget, based on" in json.dumps(services.of("slack"))


@pytest.mark.parametrize(
    ("kind", "fault", "state", "is_retried"),
    [
        ("slack", Fault(400, "invalid_payload"), "refused", False),
        ("slack", Fault(403, "action_prohibited"), "refused", True),
        ("slack", Fault(404, "no_service"), "refused", True),
        ("slack", Fault(410, "channel_is_archived"), "refused", True),
        ("slack", Fault(500, "rollup_error"), "waiting", True),
        ("slack", Fault(200, "<html><title>Sign in to the proxy</title>"), "waiting", True),
        ("slack", Fault(302, "", {"Location": "http://127.0.0.1:1/elsewhere"}), "refused", True),
        ("slack", Fault(408, ""), "waiting", True),
        ("teams", Fault(200, CONNECTOR_SAYS), "waiting", True),
        ("teams", Fault(413, '{"error": {"code": "RequestEntityTooLarge"}}'), "refused", False),
        ("teams", Fault(401, '{"error": {"code": "DirectApiAuthorizationRequired"}}'), "refused", True),
        ("teams", Fault(502, '{"error": {"code": "BadGateway"}}'), "waiting", True),
        ("google_chat", Fault(400, '{"error": {"code": 400, "status": "INVALID_ARGUMENT"}}'), "refused", False),
        ("google_chat", Fault(403, '{"error": {"code": 403, "status": "PERMISSION_DENIED"}}'), "refused", True),
        ("google_chat", Fault(429, '{"error": {"code": 429, "status": "RESOURCE_EXHAUSTED"}}'), "waiting", True),
        ("google_chat", Fault(503, '{"error": {"code": 503, "status": "UNAVAILABLE"}}'), "waiting", True),
        ("pagerduty", Fault(400, '{"status": "invalid event", "errors": ["\'payload.summary\' is missing or blank"]}'), "refused", False),
        ("pagerduty", Fault(400, '{"status": "invalid event", "errors": ["\'routing_key\' is invalid"]}'), "refused", True),
        ("pagerduty", Fault(429, '{"status": "throttle exceeded"}'), "waiting", True),
        ("pagerduty", Fault(500, "Internal Server Error"), "waiting", True),
        ("opsgenie", Fault(401, '{"message": "Could not authenticate"}'), "refused", True),
        ("opsgenie", Fault(422, '{"message": "Key format is not valid!"}'), "refused", True),
        ("opsgenie", Fault(422, '{"message": "Message can not be empty."}'), "refused", False),
        ("opsgenie", Fault(429, '{"message": "You are making too many requests!"}'), "waiting", True),
        ("apprise", Fault(403, '{"code": 40301, "http": 403, "error": "forbidden"}'), "refused", True),
        ("apprise", Fault(413, '{"code": 41301, "http": 413, "error": "too large"}'), "refused", False),
        ("apprise", Fault(507, '{"code": 50701, "http": 507, "error": "storage full"}'), "waiting", True),
        *[(kind, Fault(way=way), "waiting", True) for kind in ("slack", "pagerduty", "apprise") for way in ("unread", "drop")],
        *[(kind, Fault(way="cut"), "waiting", True) for kind in ("slack", "opsgenie", "google_chat")],
    ],
)
def test_each_answer_has_its_meaning(tmp_path: Path, services: Services, kind: str, fault: Fault, state: str, is_retried: bool) -> None:
    """Runspend retries unclear answers and wrong keys or addresses with the same bytes, long enough for operators to act. Operators get a mail about every refusal."""
    given, records = world(tmp_path, services, kind), MemoryRecords()
    queue_since(given, records)
    services.faults += [fault] * (2 if state == "refused" else 1)  # the mail about a refusal also sends the waiting posts
    first = [d for d in send_outbox(given, records, NOW) if d.recipient == f"channel:{kind}"]
    operators.tell_refused(given, records, NOW)
    assert [d.outcome.state for d in first] == [state]
    assert len(list((tmp_path / "mail").glob("operators.REFUSED*.eml"))) == (state == "refused")
    again = [d.outcome.state for d in send_outbox(given, records, NOW + DAY) if d.recipient == f"channel:{kind}"]
    assert again == (["accepted"] if is_retried else [])
    assert len(set(services.bodies)) <= 1
    assert services.refused == []
    kept = repr(records.values) + repr(first) + "".join(path.read_text() for path in (tmp_path / "mail").glob("*.eml"))
    assert not any(secret in kept for secret in (SECRET, KEY))


def queue_since(given: Settings, records: Any, count: int = 1) -> list[str]:
    """Queue decisions made after the channels were configured."""
    send_outbox(given, records, NOW - DAY)
    return [queue(records, number) for number in range(count)]


@pytest.mark.parametrize("kind", HTTP_KINDS)
def test_a_service_that_asks_to_wait_is_left_alone_for_that_long(
    tmp_path: Path, services: Services, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runspend waits for a short pause. A long pause ends the channel's turn, also in the next run, and no post is lost."""
    waited = list[float]()
    monkeypatch.setattr(channels, "sleep", waited.append)
    given, records = world(tmp_path, services, kind), MemoryRecords()
    queue_since(given, records, 2)
    services.faults += [Fault(429, "", {"Retry-After": "7"}), Fault(503, "", {"Retry-After": "3"})]
    assert post_states_after(given, records) == ["accepted", "accepted"]
    assert [seconds for seconds in waited if seconds > 1] == [7, 3]
    records = MemoryRecords()
    queue_since(given, records, 2)
    services.clear()
    services.faults.append(Fault(429, "", {"Retry-After": "7200"}))
    assert post_states_after(given, records) == ["waiting", "waiting"]
    assert post_states_after(given, records, timedelta(hours=1)) == ["waiting", "waiting"]
    assert len(services.bodies) == 1
    assert post_states_after(given, records, timedelta(hours=3)) == ["accepted", "accepted"]
    assert len(services.posts) == 2


def post_states_after(given: Settings, records: Any, later: timedelta = timedelta(0)) -> list[str]:
    return [d.outcome.state for d in send_outbox(given, records, NOW + later) if d.recipient.startswith("channel:")]


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("30", 30), ("0", 0), ("999999", 86400), ("Wed, 21 Oct 2015 07:28:00 GMT", 0), ("Wed, 21 Oct 2099 07:28:00 GMT", 86400), ("", None), ("soon", None), ("-3", None)],
)  # fmt: skip
def test_retry_after_is_seconds_or_a_date(header: str, seconds: float | None) -> None:
    found = posting._wait(header)
    assert (None if found is None else found.total_seconds()) == seconds


@pytest.mark.parametrize("kind", ["teams", "pagerduty", "apprise"])
def test_a_server_that_never_ends_its_answer_is_asked_once_a_run(
    tmp_path: Path, services: Services, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One byte at a time stays within every read timeout. The record shows who has the mail, and other channels continue."""
    monkeypatch.setattr(posting, "DEADLINE_SECONDS", 0.3)
    given, records = world(tmp_path, services, kind, "slack"), MemoryRecords()
    queue_since(given, records, 3)
    services.faults.append(Fault(200, way="stall"))
    send_outbox(given, records, NOW)
    states = recipient_states(records)
    assert {state for (_, to), state in states.items() if to == f"channel:{kind}"} == {"waiting"}
    assert {state for (_, to), state in states.items() if to != f"channel:{kind}"} == {"accepted"}
    assert len(services.bodies) == 1 + 3


def test_a_slow_channel_has_its_turn_and_no_more(tmp_path: Path, services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next run sends the posts that did not fit into the channel's turn."""
    given, records = world(tmp_path, services, "opsgenie"), MemoryRecords()
    queue_since(given, records, 3)
    monkeypatch.setattr(channels, "RUN_SECONDS", -1.0)
    assert post_states_after(given, records) == ["waiting"] * 3
    monkeypatch.setattr(channels, "RUN_SECONDS", 600.0)
    assert post_states_after(given, records, DAY) == ["accepted"] * 3
    assert len(services.posts) == 3


@pytest.mark.parametrize("point", ["outbox.sent", "outbox.recorded"])
def test_a_killed_sender_posts_again_with_the_same_bytes(
    tmp_path: Path, services: Services, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sender is killed between the service's answer and the record of it. The service gets at most two posts, and a pager has one incident."""
    given, records = world(tmp_path, services, *CHANNEL_KINDS), Records(tmp_path)
    send_outbox(given, records, NOW - DAY)
    key = queue(records)
    runs = 0

    def die(reached: str) -> None:
        if reached == point:
            raise Killed(point)

    while runs < 20:
        runs += 1
        with monkeypatch.context() as patched:
            patched.setattr(outbox, "crash_point", die)
            try:
                send_outbox(given, records, NOW + runs * DAY)
            except Killed:
                if point == "outbox.recorded":
                    continue
        send_outbox(given, records, NOW + runs * DAY)
        break
    assert set(recipient_states(records).values()) == {"accepted"}
    assert services.refused == []
    counted = {kind: len(services.of(kind)) for kind in CHANNEL_KINDS}
    assert set(counted) == set(CHANNEL_KINDS) and max(counted.values()) <= 2
    assert len(set(services.bodies)) == len(CHANNEL_KINDS)
    assert services.incidents == {key: "open"}


def test_a_post_whose_record_was_lost_in_a_kill_is_sent_again(tmp_path: Path, services: Services) -> None:
    """A real SIGKILL arrives between the answer and its record. The pager gets the same event twice, which is one incident."""
    text = json.dumps({"mail": {"from": "Runspend <runspend@acme.com>", "channels": [services.channel("pagerduty", about=[])]}})
    given, records = read_settings(tmp_path, text), Records(tmp_path / ".runspend")
    key = queue(records, recipients=["channel:pagerduty"])
    code = (
        "from runspend.actions.alert.outbox import send_outbox; from runspend.config.settings import load_settings; "
        "from runspend.warehouse.records import Records; from datetime import datetime, timezone; given = load_settings(); "
        "send_outbox(given, Records(given.home), datetime(2026, 11, 24, 7, tzinfo=timezone.utc))"
    )
    environment = {**os.environ, "RUNSPEND_CRASH_AT": "outbox.sent", "RUNSPEND_CONFIG": str(tmp_path / "runspend.yaml")}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == -signal.SIGKILL
    assert (services.incidents, recipient_states(records)) == ({key: "open"}, {})
    assert post_states_after(given, records, timedelta(hours=2)) == ["accepted"]
    assert len(services.bodies) == 2 and len(set(services.bodies)) == 1
    assert (services.incidents, services.refused) == ({key: "open"}, [])


def test_a_decision_that_was_taken_back_meanwhile_opens_no_incident(tmp_path: Path, services: Services) -> None:
    """The pager was down from the alert to its correction. If it may have received the alert without answering, its incident is resolved."""
    given, records = world(tmp_path, services, "pagerduty", "opsgenie"), MemoryRecords()
    services.faults += [Fault(way="drop"), Fault(way="unread")]
    spend(given, records)
    opened = dict(services.incidents)
    spend(given, records, "4000", 1)
    assert len(opened) == 1
    assert set(services.incidents.values()) == {"resolved"}
    assert [body["event_action"] for body in services.of("pagerduty")] == ["trigger", "resolve"]
    assert [set(body) for body in services.of("opsgenie")] == [{"source", "note"}]
    assert post_states(records) == {"accepted", "skipped"}


@pytest.mark.parametrize("kind", ["slack", "pagerduty"])
def test_a_channel_gets_only_alerts_that_it_is_about(tmp_path: Path, services: Services, kind: str) -> None:
    """By default, a pager gets exceeded budgets and failures, and a chat gets all budgets. `about` changes that."""
    thresholds = {"actual": ["80%", "100%"], "forecast": []}
    for about, expected in (
        (None, ["80", "REFUSED", "100"] if kind == "slack" else ["REFUSED", "100"]),
        (["budgets"], ["80", "100"]),
        (["exceeded"], ["100"]),
        (["operators"], ["REFUSED"]),
        ([], []),
    ):
        services.clear()
        if about is None and kind == "slack":
            expected = ["80", "100"]
        home = tmp_path / str(about)
        given, records = world(home, services, kind, about=about, budgets=[budget(**thresholds)]), MemoryRecords()
        spend(given, records, "4000")
        operators.notify(given, records, "REFUSED", "aws", NOW, "aws: part 3 of 5 is missing")
        spend(given, records, "5012.38", 1)
        words = [json.dumps(body) for body in services.of(kind)]
        assert len(words) == len(expected)
        assert all(f"actual.{want}." in found or f"operators.{want}." in found for found, want in zip(words, expected, strict=True))


def test_budgets_name_the_channels_of_their_teams_and_levels(tmp_path: Path, services: Services) -> None:
    """`notify` takes `channel:NAME` as well as addresses: here everyone at 80%, and the pager at 100%."""
    notify = {"80%": ["leads@acme.com", "channel:vision"], "100%": ["channel:vision", "channel:pagerduty"]}
    entries = [
        services.channel("slack", name="vision", about=[]),
        services.channel("pagerduty", about=[]),
        services.channel("teams", about=[]),
    ]
    given = make_settings(tmp_path, budget(notify=notify, forecast=[]), mail={"channels": entries})
    records = MemoryRecords()
    spend(given, records, "4000")
    assert [kind for kind, _ in services.posts] == ["slack"]
    spend(given, records, "5012.38", 1)
    assert [kind for kind, _ in services.posts] == ["slack", "slack", "pagerduty"]
    spend(given, records, "4500", 2)
    assert [body["event_action"] for body in services.of("pagerduty")] == ["trigger", "resolve"]
    assert set(services.incidents.values()) == {"resolved"}
    assert len(list((tmp_path / "mail").glob("*.eml"))) == 1


def test_many_alerts_are_few_posts_in_a_chat_and_one_incident_each_in_a_pager(tmp_path: Path, services: Services) -> None:
    """A chat gets one post that lists all alerts. A pager needs an incident per decision, to resolve each by its id."""
    given, records = world(tmp_path, services, "slack", "teams", "google_chat", "pagerduty", "opsgenie"), MemoryRecords()
    assert len(queue_since(given, records, 500)) == 500
    for night in range(2):
        send_outbox(world(tmp_path, services, "teams"), records, NOW + night * DAY)
    assert len(services.of("teams")) == 2  # 400 alerts a post
    assert all(len(path.read_bytes()) < 200_000 for path in (tmp_path / "mail").glob("digest*.eml"))
    services.clear()
    records = MemoryRecords()
    keys = queue_since(given, records, 60)
    for night in range(2):
        send_outbox(given, records, NOW + night * DAY)
    assert services.refused == []
    assert {kind: len(services.of(kind)) for kind in HTTP_KINDS} == {
        "slack": 1,
        "teams": 1,
        "google_chat": 1,
        "pagerduty": 60,
        "opsgenie": 60,
    }
    assert services.incidents == dict.fromkeys(keys, "open")
    assert set(recipient_states(records).values()) == {"accepted"}


def test_the_same_cause_on_the_next_day_is_the_same_incident(tmp_path: Path, services: Services) -> None:
    """Operators without a mail address get only posts in their channel."""
    given, records = world(tmp_path, services, "pagerduty", about=["operators"], mail={"operators": []}), MemoryRecords()
    for night in range(2):
        operators.notify(given, records, "STALE", "aws", NOW + night * DAY, "aws was not read")
    operators.notify(given, records, "DAMAGED", "files", NOW, "a file is damaged")
    assert [body["payload"]["severity"] for body in services.of("pagerduty")] == ["error", "error", "critical"]
    assert len(services.incidents) == 2
    assert not list((tmp_path / "mail").glob("*.eml"))


def test_operators_hear_of_a_channel_that_refuses_through_the_others(tmp_path: Path, services: Services) -> None:
    """The other channel gets one post about each refused post, and no post about those posts."""
    given, records = world(tmp_path, services, "slack", "teams", about=["budgets", "operators"], mail={"operators": []}), MemoryRecords()
    queue_since(given, records)
    services.faults.append(Fault(400, "invalid_payload"))
    for night in range(3):
        send_outbox(given, records, NOW + night * DAY)
        operators.tell_refused(given, records, NOW + night * DAY)
    mailed = [body for body in services.of("teams") if "REFUSED" in json.dumps(body)]
    assert len(mailed) == 1
    assert "post to channel:slack refused: 400 invalid_payload" in json.dumps(mailed[0])


def test_decisions_from_before_a_channel_was_configured_are_not_posted(tmp_path: Path, services: Services) -> None:
    """A channel that is configured later, or again, does not post a year of alerts. Removing it loses no mail."""
    records = MemoryRecords()
    spend(make_settings(tmp_path, budget()), records)
    given = world(tmp_path, services, "slack")
    spend(given, records, night=1)
    send_outbox(make_settings(tmp_path), records, NOW + 2 * DAY)
    queue(records, decided_at=(NOW + 3 * DAY).isoformat())
    send_outbox(make_settings(tmp_path), records, NOW + 3 * DAY)
    send_outbox(given, records, NOW + 4 * DAY)
    assert services.posts == []
    services.faults.append(Fault(500))
    queue(records, 1, decided_at=(NOW + 5 * DAY).isoformat())
    send_outbox(given, records, NOW + 5 * DAY)
    gone = send_outbox(make_settings(tmp_path), records, NOW + 6 * DAY)
    assert gone == []


def test_the_short_form_is_a_channel_named_webhook(tmp_path: Path, services: Services) -> None:
    """`mail.webhook` is such a channel. If an earlier version configured it, its waiting posts are not lost."""
    given, records = make_settings(tmp_path, budget(), mail={"webhook": services.channel("slack")}), MemoryRecords()
    records.create("webhooks", "since", {"since": (NOW - DAY).isoformat()})
    spend(given, records)
    assert len(services.of("slack")) == 1
    assert {to for _, to in recipient_states(records)} == {"webhook", "vision-leads@acme.com"}


@pytest.mark.parametrize("payload", ["<!channel> <!here|x> <@U123> <http://evil|click> <users/all>", "@everyone [x](http://evil) <at>Ana</at>", "``` <!channel> ```", "&lt;!channel&gt;", *PAYLOADS[::24]])  # fmt: skip
def test_hostile_names_stay_text_in_every_post(tmp_path: Path, services: Services, payload: str) -> None:
    """Nothing in a name mentions a user, becomes a link or markup, or ends its block. Every service accepts the post."""
    given, records = world(tmp_path, services, *CHANNEL_KINDS), MemoryRecords()
    send_outbox(given, records, NOW - DAY)
    queue(records, name=payload)
    send_outbox(given, records, NOW)
    assert services.refused == []
    assert services.mentions == []
    assert [kind for kind, _ in services.posts] == list(CHANNEL_KINDS)


@pytest.mark.parametrize("letter", ["x", "&", "<", "ä", "\N{CJK UNIFIED IDEOGRAPH-4E00}", "\N{FIRE}", '"'])
def test_a_post_keeps_to_the_limits_of_each_service(tmp_path: Path, services: Services, letter: str) -> None:
    """This holds for escaped and encoded text, and for one line or many. The post counts what it leaves out, and the mail has it."""
    given, records = world(tmp_path, services, *CHANNEL_KINDS), MemoryRecords()
    send_outbox(given, records, NOW - DAY)
    for number, lines in enumerate((400, 1)):
        mail = make_mail(
            Envelope("Runspend <runspend@acme.com>", "budgets", "budget-actual"), local_id=f"{number}", recipients=["leads@acme.com"], now=NOW,
            subject=f"[runspend] {letter * 3_000}", blocks=[
                Card(((letter * 100, letter * 3_000, letter * 100),) * 4), Paragraph(letter * 9_000), Button(letter * 100, f"https://x.example/{'y' * 3_500}"),
                Facts("RUNS", (("", f"{letter * 50} " * 3),) * lines if lines > 1 else (("", letter * 60_000),)),
            ],
        )  # fmt: skip
        value = {"decided_at": NOW.isoformat(), "mail": mail.as_record(), "kind": "actual", "spent": "2", "amount": "1"}
        records.create("alerts", f"{number}{'k' * 600}", value)
    send_outbox(given, records, NOW)
    assert services.refused == []
    assert {kind: len(services.of(kind)) for kind in CHANNEL_KINDS} == dict.fromkeys(CHANNEL_KINDS, 2)
    for kind in ("slack", "teams", "google_chat"):
        assert "more lines are in the mail" in json.dumps(services.of(kind)[0])
        assert "in the mail" in json.dumps(services.of(kind)[1])


def test_ids_that_are_too_long_stay_different() -> None:
    """A budget's name may be part of two ids whose beginnings, which a pager shows, are equal."""
    first, second = (short_key(f"{'b' * 600}.{end}") for end in "xy")
    assert first != second and max(len(first), len(second)) <= LONGEST_KEY
    assert short_key("vision.2026-11.actual.100.v") == "vision.2026-11.actual.100.v"


def test_no_secret_is_shown_or_logged(tmp_path: Path, services: Services, caplog: pytest.LogCaptureFixture) -> None:
    """Neither settings nor libraries show a secret, even at the most verbose log level, whether the post is accepted or refused."""
    caplog.set_level("DEBUG")
    given, records = world(tmp_path, services, *CHANNEL_KINDS), MemoryRecords()
    spend(given, records)
    services.faults += [Fault(403, f"no access with {KEY if kind in PAGERS else SECRET}") for kind in CHANNEL_KINDS] * 3
    spend(given, records, "4000", 1)
    shown = caplog.text + repr(given) + show_settings(given) + repr(records.values) + str(given.model_dump())
    assert len(services.posts) == len(CHANNEL_KINDS)
    assert not any(secret in shown for secret in (SECRET, KEY))
    assert redact(f"Max retries exceeded with url: /services/T000/B000/{SECRET}, GenieKey {KEY}", given).count("***") >= 2
    assert KEY in secret_values(given)


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ("{kind: slack}", "`kind: slack` needs `url`"),
        ("{kind: pagerduty}", "`kind: pagerduty` needs `key`, the routing key"),
        ("{kind: opsgenie, url: 'https://api.eu.opsgenie.com/v2/alerts'}", "`kind: opsgenie` needs `key`"),
        ("{kind: slack, url: 'https://x.example/canary', key: canary}", "`key` belongs to pagerduty and opsgenie"),
        ("{kind: slack, url: 'http://hooks.slack.com/services/canary'}", "an address that begins with https:// is needed"),
        ("{kind: google_chat, url: 'ntfy://canary/x'}", "an address that begins with https:// is needed"),
        ("{kind: apprise, url: 'canary'}", "an address of Apprise is needed"),
        ("{kind: pagerduty, key: 'canary canary'}", "a key of ASCII letters"),
        ("{kind: discord, url: 'https://x.example/canary'}", "'slack', 'teams', 'google_chat', 'pagerduty', 'opsgenie' or 'apprise'"),
        ("{kind: slack, url: 'https://x.example/canary', about: [everything]}", "'budgets', 'exceeded' or 'operators'"),
        (
            "{kind: slack, url: 'https://x.example/canary'}, {kind: slack, url: 'https://x.example/canary'}",
            "two `channels` have the name 'slack'",
        ),
        ("{kind: slack, name: 'a b', url: 'https://x.example/canary'}", "a name of letters"),
    ],
)
def test_mistakes_in_channels_are_named(tmp_path: Path, entry: str, why: str) -> None:
    """The error names the line and the allowed values, but not the secret."""
    with pytest.raises(ConfigError) as caught:
        read_settings(tmp_path, f"mail:\n  channels: [{entry}]\n")
    assert why in str(caught.value)
    assert "line 2, mail" in str(caught.value) or "line 1, mail" in str(caught.value)
    assert "canary" not in str(caught.value)


def test_a_budget_can_name_only_a_channel_that_is_there(tmp_path: Path) -> None:
    """Keys come from the environment, and addresses default to the services' own."""
    text = "mail: {channels: [{kind: pagerduty, name: oncall, key: '${PAGER_KEY}'}]}\nbudgets: [{name: a, amount: 1, notify: [NAME]}]\n"
    given = read_settings(tmp_path, text.replace("NAME", "'channel:oncall'"), {"PAGER_KEY": KEY})
    (channel,) = given.mail.channels
    assert (channel.address, channel.secret_key, channel.subjects) == (
        "https://events.pagerduty.com/v2/enqueue",
        KEY,
        ["exceeded", "operators"],
    )
    with pytest.raises(
        ConfigError, match=r"budgets\[0\]\.notify: 'channel:pager' is not in `mail\.channels`\. Channels are channel:oncall"
    ):
        read_settings(tmp_path, text.replace("NAME", "'channel:pager'"), {"PAGER_KEY": KEY})


def test_each_channel_takes_a_test(tmp_path: Path, services: Services) -> None:
    """A pager's test incident has the lowest severity and is resolved at once. Tests make no record, and an unknown channel is named."""
    given = world(tmp_path, services, *CHANNEL_KINDS)
    for kind in CHANNEL_KINDS:
        outcome = send_test_mail(given, f"channel:{kind}", NOW)
        assert (outcome.exit_code, len(outcome.changed)) == (0, 1)
    assert services.refused == []
    assert list(services.incidents.values()) == ["resolved", "resolved"]
    assert services.of("pagerduty")[0]["payload"]["severity"] == "info"
    assert "TEST: mail delivery" in json.dumps(services.of("slack"))
    assert not (tmp_path / "records").exists()
    with pytest.raises(Exception, match=r"or a channel of mail\.channels \(channel:slack, channel:teams"):
        send_test_mail(given, "channel:other", NOW)
    services.faults.append(Fault(404, "no_service"))
    assert send_test_mail(given, "channel:slack", NOW).exit_code == 5


def test_without_apprise_installed_the_post_waits_and_says_how(tmp_path: Path, services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    given, records = world(tmp_path, services, "apprise"), MemoryRecords()
    queue_since(given, records)
    with monkeypatch.context() as patched:
        patched.setitem(__import__("sys").modules, "apprise", None)
        (found,) = [d for d in send_outbox(given, records, NOW) if d.recipient == "channel:apprise"]
    assert (found.outcome.state, "pip install 'runspend[apprise]'" in found.outcome.reply) == ("waiting", True)
    assert post_states_after(given, records, DAY) == ["accepted"]


def test_an_airflow_connection_outside_a_task_waits_for_one(tmp_path: Path, services: Services) -> None:
    given = make_settings(tmp_path, mail={"channels": [{"kind": "pagerduty", "key": "connection:pager", "about": ["budgets"]}]})
    records = MemoryRecords()
    queue_since(given, records)
    assert post_states_after(given, records) == ["waiting"]
    assert services.bodies == []
