"""Chats and pagers on this machine: Slack, Teams, Google Chat, PagerDuty, Opsgenie and ntfy, as documented.

Each service checks posts by its documented rules (fields, types, lengths, sizes) and answers with the real codes and bodies. It also
keeps what people would see: posts, mentions and open incidents. `faults` make services fail in the ways of networks and proxies.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

SECRET = "canary-of-the-channel"
KEY = "c4nary0of0the0pager0with32digits"
PLACES = {
    "slack": f"/services/T000/B000/{SECRET}",
    "teams": f"/workflows/{SECRET}/triggers/manual/paths/invoke?api-version=1&sig={SECRET}",
    "google_chat": f"/v1/spaces/AAA/messages?key=k&token={SECRET}",
    "pagerduty": "/v2/enqueue",
    "opsgenie": "/v2/alerts",
    "apprise": f"/{SECRET}",
}
CONNECTOR_SAYS = "Webhook message delivery failed with error: Microsoft Teams endpoint returned HTTP error 429 with ContextId tcid=0"
GOOGLE_WIDGETS: dict[str, set[str]] = {
    "decoratedText": {"topLabel", "text", "bottomLabel"}, "textParagraph": {"text"}, "buttonList": {"buttons"},
}  # fmt: skip


class Bad(Exception):
    """A post that breaks a documented rule."""


@dataclass
class Fault:
    """The fault for one request: a code with a body and headers, or a way in which the connection ends."""

    code: int = 0
    body: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    way: str = "answer"  # or unread, drop: closed before or after reading; cut: closed in the middle of the answer; stall: never ended


@dataclass
class Services:
    """The services at one address, and the posts that they received."""

    address: str = ""
    posts: list[tuple[str, Any]] = field(default_factory=list)  # accepted posts: kind and document
    bodies: list[bytes] = field(default_factory=list)  # all requests
    refused: list[str] = field(default_factory=list)
    mentions: list[str] = field(default_factory=list)
    incidents: dict[str, str] = field(default_factory=dict)  # key -> open, resolved
    faults: list[Fault] = field(default_factory=list)  # faults of the next requests, in order
    is_over: threading.Event = field(default_factory=threading.Event)

    def channel(self, kind: str, **more: Any) -> dict[str, Any]:
        """Return the entry of `mail.channels` for a kind of service."""
        if kind == "apprise":
            return {"kind": kind, "url": f"ntfy://{urlsplit(self.address).netloc}/{SECRET}?mode=private", **more}
        key = {"key": KEY} if kind in ("pagerduty", "opsgenie") else {}
        return {"kind": kind, "url": self.address + PLACES[kind], **key, **more}

    def of(self, kind: str) -> list[Any]:
        """Return the documents that a service accepted."""
        return [body for found, body in self.posts if found == kind]

    def clear(self) -> None:
        """Forget all posts."""
        for kept in (self.posts, self.bodies, self.refused, self.mentions, self.incidents, self.faults):
            kept.clear()


@contextmanager
def channel_services() -> Iterator[Services]:
    """Run all services on a free port of this machine."""
    services = Services()
    handler = type("Here", (_Handler,), {"services": services})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    services.address = f"http://127.0.0.1:{server.server_port}"
    yield services
    services.is_over.set()
    server.shutdown()
    thread.join()
    server.server_close()


class _Handler(BaseHTTPRequestHandler):
    services: ClassVar[Services]
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        here = self.services
        fault = here.faults.pop(0) if here.faults else None
        self.close_connection = True
        if fault is not None and fault.way == "unread":
            return
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        here.bodies.append(raw)
        code, answer = (fault.code, fault.body) if fault is not None and fault.code else self._serve(raw)
        if fault is not None and fault.way == "drop":
            return
        if fault is not None and fault.way == "stall":
            self.wfile.write(f"HTTP/1.1 {code} x\r\n".encode())
            while not here.is_over.wait(0.05):
                self.wfile.write(b"x")
            return
        reply = answer.encode()
        self.send_response(code)
        for name, value in (fault.headers if fault is not None else {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(reply) + (fault is not None and fault.way == "cut")))
        self.end_headers()
        self.wfile.write(reply)

    def _serve(self, raw: bytes) -> tuple[int, str]:
        """Answer as the service of this path does."""
        here, split = self.services, urlsplit(self.path)
        kind, serve = next(
            (kind, serve)
            for kind, path, serve in SERVICES
            if split.path == urlsplit(path).path or (kind == "opsgenie" and split.path.startswith(path))
        )
        body = json.loads(raw) if raw else {}
        try:
            code, answer = serve(here, body, len(raw), split, self.headers)
        except Bad as error:
            here.refused.append(f"{kind}: {error}")
            return ERRORS[kind](str(error))
        if 200 <= code < 300:
            here.posts.append((kind, body))
        return code, answer

    def log_message(self, *_: Any) -> None:
        return


def _want(is_right: bool, why: str) -> None:
    if not is_right:
        raise Bad(why)


def _keys(value: Any, allowed: set[str], where: str) -> None:
    _want(isinstance(value, dict) and value.keys() <= allowed, f"{where} has unknown fields: {value}")


def _text(value: Any, most: int, where: str) -> None:
    _want(isinstance(value, str) and 0 < len(value) <= most, f"{where} is not a text of 1 to {most} characters")


# --- Slack: "Incoming webhooks", "Block Kit reference" ----------------------------------------------------------------------


def _slack(here: Services, body: Any, size: int, split: Any, headers: Any) -> tuple[int, str]:
    _want(isinstance(body.get("text"), str) and len(body["text"]) <= 40_000, "no_text")
    _want(len(body["blocks"]) <= 50, "invalid_blocks: more than 50")
    shown = [body["text"]]

    def text(value: Any, kinds: tuple[str, ...], most: int) -> None:
        _keys(value, {"type", "text", "emoji"} if value["type"] == "plain_text" else {"type", "text", "verbatim"}, "text")
        _want(value["type"] in kinds, f"invalid_blocks: {value['type']}")
        _text(value["text"], most, "invalid_blocks: text")
        if value["type"] == "mrkdwn":
            shown.append(value["text"])

    for block in body["blocks"]:
        if block["type"] == "header":
            text(block["text"], ("plain_text",), 150)
        elif block["type"] == "section":
            _want("text" in block or block["fields"], "invalid_blocks: a section is empty")
            if "text" in block:
                text(block["text"], ("plain_text", "mrkdwn"), 3_000)
            _want(len(block.get("fields", [])) <= 10, "invalid_blocks: more than 10 fields")
            for one in block.get("fields", []):
                text(one, ("plain_text", "mrkdwn"), 2_000)
        elif block["type"] == "actions":
            _want(0 < len(block["elements"]) <= 25, "invalid_blocks: elements")
            for button in block["elements"]:
                _keys(button, {"type", "text", "url", "action_id", "style", "value"}, "button")
                text(button["text"], ("plain_text",), 75)
                _want(len(button["url"]) <= 3_000 and bool(re.match("https?://", button["url"])), "invalid_blocks: url")
        elif block["type"] == "context":
            _want(0 < len(block["elements"]) <= 10, "invalid_blocks: elements")
            for one in block["elements"]:
                text(one, ("plain_text", "mrkdwn"), 3_000)
        else:
            raise Bad(f"invalid_blocks: {block['type']}")
    for one in shown:  # the control sequences of "Formatting text"
        here.mentions += re.findall(r"<[^>]*>", one)
        _want(one.count("```") in (0, 2), "a code block ends early")
    return 200, "ok"


# --- Teams: "Create incoming webhooks with Workflows", the schema of Adaptive Cards 1.4 ---------------------------------------


def _teams(here: Services, body: Any, size: int, split: Any, headers: Any) -> tuple[int, str]:
    if size > 28 * 1024:
        return 413, '{"error": {"code": "RequestEntityTooLarge"}}'
    _want(body["type"] == "message", "type")
    for attachment in body["attachments"]:
        _want(attachment["contentType"] == "application/vnd.microsoft.card.adaptive", "contentType")
        card = attachment["content"]
        _keys(card, {"$schema", "type", "version", "body", "actions", "msteams", "fallbackText", "speak", "lang"}, "card")
        _want(card["type"] == "AdaptiveCard" and card["version"] in ("1.0", "1.1", "1.2", "1.3", "1.4", "1.5"), "card")
        for element in card["body"]:
            _teams_element(here, element)
        for action in card.get("actions", []):
            _keys(action, {"type", "title", "url"}, "action")
            _want(action["type"] == "Action.OpenUrl" and bool(re.match("https?://", action["url"])), "action")
    return 202, ""


def _teams_element(here: Services, element: Any) -> None:
    if element["type"] == "RichTextBlock":
        for run in element["inlines"]:
            _keys(run, {"type", "text", "color", "fontType", "isSubtle", "size", "weight", "italic", "highlight", "selectAction"}, "run")
            _want(run["type"] == "TextRun", "inline")
            _text(run["text"], 100_000, "text")
    elif element["type"] == "TextBlock":  # the field supports Markdown
        here.mentions += re.findall(r"\[[^]]*\]\([^)]*\)|<at>", element["text"])
    elif element["type"] == "ColumnSet":
        for column in element["columns"]:
            _want(column["type"] == "Column", "column")
            for item in column["items"]:
                _teams_element(here, item)
    else:
        raise Bad(f"element {element['type']}")


# --- Google Chat: spaces.messages.create, cards v2. Unknown fields are refused, as by every API of Google --------------------


def _google(here: Services, body: Any, size: int, split: Any, headers: Any) -> tuple[int, str]:
    _want(size <= 32_000, "Message is too long: more than 32,000 bytes")
    query = parse_qs(split.query)
    _want(query.keys() <= {"key", "token", "messageReplyOption"} and "token" in query, "query")
    _want(
        query.get("messageReplyOption", ["REPLY_MESSAGE_OR_FAIL"])[0] in ("REPLY_MESSAGE_FALLBACK_TO_NEW_THREAD", "REPLY_MESSAGE_OR_FAIL"),
        "messageReplyOption",
    )
    _keys(body, {"text", "cardsV2", "fallbackText", "thread"}, "message")
    _text(body["thread"]["threadKey"], 4_000, "threadKey")
    for one in body["cardsV2"]:
        _keys(one, {"cardId", "card"}, "cardsV2")
        _keys(one["card"], {"header", "sections", "name"}, "card")
        _keys(one["card"]["header"], {"title", "subtitle"}, "header")
        here.mentions += re.findall(r"<[^>]*>", one["card"]["header"]["title"] + body["fallbackText"])
        for section in one["card"]["sections"]:
            _keys(section, {"header", "widgets", "collapsible", "uncollapsibleWidgetsCount"}, "section")
            _want(bool(section["widgets"]), "a section without widgets")
            for widget in section["widgets"]:
                (name,) = widget
                _keys(widget[name], GOOGLE_WIDGETS[name], name)
                for key, value in widget[name].items():
                    if key != "buttons":
                        here.mentions += [tag for tag in re.findall(r"<[^>]*>", value) if tag not in ("<b>", "</b>", "<i>", "</i>", "<br>")]
                for button in widget[name].get("buttons", []):
                    _want(bool(re.match("https?://", button["onClick"]["openLink"]["url"])), "openLink")
    if "text" in body:
        here.mentions += re.findall(r"<users/[^>]*>|<http[^>]*>", body["text"])
    return 200, json.dumps({"name": "spaces/AAA/messages/x.y", "thread": {"name": "spaces/AAA/threads/x"}, **body})


# --- PagerDuty: "Send an Alert Event", Events API v2 ------------------------------------------------------------------------


def _pagerduty(here: Services, body: Any, size: int, split: Any, headers: Any) -> tuple[int, str]:
    _want(size <= 512 * 1024, "Event is larger than 512 KB")
    _want(
        isinstance(body.get("routing_key"), str) and len(body["routing_key"]) == 32,
        "Length of 'routing_key' is incorrect (should be 32 characters)",
    )
    _want(body["routing_key"] == KEY, "'routing_key' is invalid")
    action = body.get("event_action")
    _want(action in ("trigger", "acknowledge", "resolve"), "'event_action' is invalid")
    _keys(body, {"routing_key", "event_action", "dedup_key", "payload", "client", "client_url", "links", "images"}, "event")
    _want(action == "trigger" or "dedup_key" in body, "'dedup_key' is missing or blank")
    _text(body["dedup_key"], 255, "'dedup_key'")
    if action == "trigger":
        payload = body["payload"]
        _keys(payload, {"summary", "source", "severity", "timestamp", "component", "group", "class", "custom_details"}, "payload")
        _text(payload["summary"], 1_024, "'payload.summary'")
        _text(payload["source"], 1_024, "'payload.source'")
        _want(
            payload["severity"] in ("critical", "error", "warning", "info"),
            "'payload.severity' is invalid (must be one of the following: critical, warning, error or info)",
        )
        _want(bool(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", payload["timestamp"])), "'payload.timestamp'")
        for link in body.get("links", []):
            _keys(link, {"href", "text"}, "link")
            _want(bool(re.match("https?://", link["href"])), "link")
        here.incidents[body["dedup_key"]] = "open"
    elif here.incidents.get(body["dedup_key"]) == "open":
        here.incidents[body["dedup_key"]] = "resolved"  # otherwise the event is accepted without an effect
    return 202, json.dumps({"status": "success", "message": "Event processed", "dedup_key": body["dedup_key"]})


# --- Opsgenie: Alert API, "Create Alert" and "Close Alert" --------------------------------------------------------------------


def _opsgenie(here: Services, body: Any, size: int, split: Any, headers: Any) -> tuple[int, str]:
    if headers.get("Authorization") != f"GenieKey {KEY}":
        return 401, '{"message": "Could not authenticate", "took": 0.1, "requestId": "r"}'
    done = json.dumps({"result": "Request will be processed", "took": 0.302, "requestId": "43a29c5c-3dbf-4fa4-9c26-f4f71023e120"})
    if closed := re.fullmatch(r"/v2/alerts/([^/]+)/close", split.path):
        _want(split.query == "identifierType=alias", "identifierType")
        _keys(body, {"user", "source", "note"}, "close")
        _text(body["source"], 100, "source")
        _want(len(body.get("note", "")) <= 25_000, "note")
        if here.incidents.get(unquote(closed[1])) == "open":
            here.incidents[unquote(closed[1])] = "resolved"  # the answer is the same for an unknown alias, which is rejected only later
        return 202, done
    _keys(
        body,
        {
            "message",
            "alias",
            "description",
            "responders",
            "visibleTo",
            "actions",
            "tags",
            "details",
            "entity",
            "source",
            "priority",
            "user",
            "note",
        },
        "alert",
    )
    _text(body["message"], 130, "Message")
    _text(body["alias"], 512, "alias")
    _want(len(body["description"]) <= 15_000 and len(body["source"]) <= 100, "description or source")
    _want(len(body["tags"]) <= 20 and all(len(tag) <= 50 for tag in body["tags"]), "tags")
    _want(all(isinstance(v, str) for v in body["details"].values()) and sum(map(len, body["details"].values())) <= 8_000, "details")
    _want(body["priority"] in ("P1", "P2", "P3", "P4", "P5"), "priority")
    here.incidents[body["alias"]] = "open"
    return 202, done


# --- ntfy: "Publish as JSON" ------------------------------------------------------------------------------------------------


def _ntfy(here: Services, body: Any, size: int, split: Any, headers: Any) -> tuple[int, str]:
    _want(size <= 8_000, "message too large")
    _text(body["topic"], 64, "topic")
    _want(0 < len(body["message"].encode()) <= 4_096, "message")
    return 200, json.dumps({"id": "x", "time": int(time.time()), "event": "message", "topic": body["topic"], "message": body["message"]})


ERRORS = {
    "slack": lambda why: (400, why.partition(":")[0]),
    "teams": lambda why: (400, json.dumps({"error": {"code": "InvalidRequestContent", "message": why}})),
    "google_chat": lambda why: (400, json.dumps({"error": {"code": 400, "message": why, "status": "INVALID_ARGUMENT"}})),
    "pagerduty": lambda why: (400, json.dumps({"status": "invalid event", "message": "Event object is invalid", "errors": [why]})),
    "opsgenie": lambda why: (422, json.dumps({"message": f"Request body is not processable: {why}", "took": 0.1, "requestId": "r"})),
    "apprise": lambda why: (400, json.dumps({"code": 40000, "http": 400, "error": why})),
}
SERVICES = [
    ("slack", PLACES["slack"], _slack), ("teams", PLACES["teams"], _teams), ("google_chat", PLACES["google_chat"], _google),
    ("pagerduty", PLACES["pagerduty"], _pagerduty), ("opsgenie", PLACES["opsgenie"], _opsgenie), ("apprise", "/", _ntfy), ("apprise", "", _ntfy),
]  # fmt: skip
