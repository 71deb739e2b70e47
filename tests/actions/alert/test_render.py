"""Mails with hostile names: every mail is written, its headers are exactly the expected ones, and its HTML has no new element."""

from __future__ import annotations

import html
import io
import json
import random
import re
import sys
from datetime import date, datetime, timezone
from decimal import Decimal
from email import message_from_bytes, policy
from email.message import EmailMessage
from functools import cache
from pathlib import Path
from typing import Any

import html5lib
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image

from runspend.actions.alert import chart
from runspend.actions.alert import render as mail_module
from runspend.actions.alert.anomalies import Anomaly
from runspend.actions.alert.bill_coverage import Coverage
from runspend.actions.alert.decisions import decide
from runspend.actions.alert.digest import write_digests
from runspend.actions.alert.figures import Driver, Figures, RunningRun, TopRun
from runspend.actions.alert.judge import Series, judge_budget
from runspend.actions.alert.message import Mail, as_bytes
from runspend.actions.alert.periods import current_period
from runspend.actions.alert.render import WIDTH, Envelope, MailTable, Paragraph, make_mail, render_html, render_text
from runspend.actions.alert.tag_budgets import TagBudget
from runspend.actions.alert.wording import Writer
from runspend.config.settings import Budget, MailSettings
from runspend.config.types import address_of
from runspend.core.amounts import money
from runspend.core.text import clean, cut, width
from tests.settings_builder import make_settings

NOW = datetime(2026, 11, 24, 6, tzinfo=timezone.utc)
HEADERS = [
    "Message-ID", "List-Id", "Subject", "In-Reply-To", "References", "From", "To", "Reply-To", "Date", "X-Runspend-Kind", "Auto-Submitted", "MIME-Version", "Content-Type",
]  # fmt: skip
PIECES = [
    "\r\n", "\n", "\r", "\x00", "\x0b", "\x85", "\u2028", "\u2029", "\ud800", "\udfff", "\u202e", "\u2066", "\ufeff", "\u200b", "\t", "\x1b[31m", "\x7f",
    "Bcc: evil@x.com", "\r\nBcc: evil@x.com\r\n\r\n<b>", "=?utf-8?q?=0D=0ABcc:_evil@x.com?=", "<img src=x onerror=alert(1)>", "</td><script>", "{{ 7*7 }}", "{% raw %}",
    "javascript:alert(1)", "\"'`", "&amp;", "]]>", "<!--", "é", "日本語", "👩‍🔬", "ﷺ", "a" * 300, " ", ".", "\r\n.\r\n", "From ", "\U0010ffff", "ﬀ", "İ", "%s", "\\",
]  # fmt: skip
PAYLOADS = [
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "<svg/onload=alert(1)>", "<a href='javascript:alert(1)'>x</a>", '"><iframe src=//evil>', "'onmouseover='x",
    "<style>@import'//evil'</style>", "<link rel=stylesheet href=//evil>", "<base href=//evil>", "<form action=//evil><input>", "<meta http-equiv=refresh content=0;//evil>",
    "<table background=//evil>", "<div style=background:url(//evil)>", "<!--><img src=x>", "<![CDATA[<b>]]>", "&lt;img src=x&gt;", "&#60;img src=x&#62;", "{{config}}", "{%include 'x'%}",
    "</title><script>x</script>", "</style><b>", "<math><mi xlink:href=//evil>", "<object data=//evil>", "<embed src=//evil>", "<video poster=//evil>", "\u003cimg\u003e", "<IMG SRC=//evil>",
    "<b\x00onclick=x>", "<\nimg src=x>", "< img>",
]  # fmt: skip


def make(
    name: str,
    *,
    experiment: str | None = None,
    user: str = "ana",
    runbook: str = "https://wiki.acme.com/x",
    people: str = "show",
    site: str | None = None,
) -> Mail:
    """Return a budget mail in which run, experiment, user, machine, source and runbook have hostile names."""
    budget = Budget.model_validate(
        {"name": "vision", "amount": "5000", "notify": ["leads@acme.com", "Zoë Ü <zoe@acme.com>"], "owner": "ana@acme.com"}
    ).model_copy(update={"runbook": runbook})  # fmt: skip
    period = current_period("month", NOW.date())
    status = judge_budget(budget, "USD", period, Series({(date(2026, 11, 5), "USD"): Decimal("5012.38")}))
    figures = Figures(
        running=(RunningRun(name, user, name, NOW, Decimal("24.58")),), running_count=1,
        drivers=(Driver(experiment if experiment is not None else name, user, Decimal(5000), Decimal(1)),), others=Driver("2 others", None, Decimal("12.38"), Decimal(0)),
        failed=Decimal(3), by_confidence={"exact": Decimal(5000)}, no_run=Decimal("12.38"), idle_elsewhere=Decimal(7), coverage=(Coverage(name, NOW, None, "ok"),),
        runs=(TopRun("prod", "default", name, name, user, experiment if experiment is not None else name, name, Decimal(4000)),), run_count=1,
        people=((user, 1, Decimal(4000)),), people_count=1,
    )  # fmt: skip
    settings = MailSettings.model_validate({"from": "Runspend <runspend@acme.com>", "people": people})
    return Writer(settings, "runspend.yaml", site).budget_mail(decide([status], {}, NOW)[0], figures, NOW)


def test_a_mail_leads_to_the_budgets_page_where_there_is_a_site() -> None:
    address = "https://costs.acme.com/runspend/budget/vision?period=2026-11"
    mail = make("run", site="https://costs.acme.com/runspend")
    assert any(line.endswith(address) for line in mail.text.splitlines()) and f'href="{address}"' in mail.html
    assert "/budget/" not in make("run").text


def test_top_runs_and_users_are_named_as_people_may_be() -> None:
    """The mail shows the budget's most expensive runs and users, with a pseudonym for each name, or without names and table."""
    shown, hidden, others = (make("vit-l16", experiment="/Users/ana@acme.com/llm", people=p).text for p in ("show", "hide", "pseudonym"))
    for text in (shown, hidden, others):
        assert re.search(r"vit-l16 .* 4,000.00", text[text.index("TOP RUNS") :])
    assert "ana@acme.com" in shown[shown.index("TOP RUNS") : shown.index("TOP USERS")]
    assert re.search(r"TOP USERS .*\n  ana +1  80%  4,000.00", shown)
    assert "TOP USERS" not in hidden and "ana" not in hidden[hidden.index("TOP COSTS") : hidden.index("CONFIDENCE")]
    between = others[others.index("TOP COSTS") : others.index("CONFIDENCE")]
    assert "TOP USERS" in between and re.search(r"person-[0-9a-f]{6}", between) and "ana" not in between


def mails_of_a_hidden_person(people: str, **selector: str) -> list[Mail]:
    """Return every kind of mail about a budget in the tag of a person's experiment, or about one that selects by `selector`."""
    named = {"name": "tag.12.abcd1234", "amount": "5000", "notify": ["leads@acme.com"], "owner": "boss@acme.com"}
    budget = (
        Budget.model_validate(named | {"for": selector})
        if selector
        else TagBudget.model_validate(named | {"experiment": "/Users/ana@acme.com/llm"})
    )
    given = make_settings(Path(), mail={"people": people})
    status = judge_budget(budget, "USD", current_period("month", NOW.date()), Series({(date(2026, 11, 5), "USD"): Decimal("5012.38")}))
    figures = Figures(
        running=(), running_count=0, drivers=(), others=None, failed=None, by_confidence={}, no_run=Decimal(0), idle_elsewhere=Decimal(0), coverage=(),
    )  # fmt: skip
    decision, writer = decide([status], {}, NOW)[0], Writer(given.mail, "runspend.yaml", "https://costs.acme.com")
    anomaly = Anomaly(date(2026, 11, 5), Decimal(5000), Decimal(100))
    budget_mail = writer.budget_mail(decision, figures, NOW)
    alert = {
        "alert_id": "x", "budget": budget.name, "title": budget.title, "budget_period": "2026-11", "kind": "actual", "threshold": "100%", "spent": "5012.38",
        "amount": "5000", "currency": "USD", "mail": budget_mail.as_record(),
    }  # fmt: skip
    return [
        budget_mail,
        writer.short_mail(decision, (), NOW),
        writer.correction_mail(decision, (), (), NOW),
        writer.anomaly_mail(decision, anomaly, ((), 0), (), NOW),
        writer.first_run_mail("leads@acme.com", [alert], [status], NOW),
        *(mail for mail, _ in write_digests(given, "leads@acme.com", [alert], NOW, None)),
    ]


@pytest.mark.parametrize("people", ["show", "pseudonym", "hide"])
def test_no_mail_names_the_person_in_whose_folder_an_experiment_is(people: str) -> None:
    """The name is neither in the subject nor in the body. The budget's owner, who gets the replies, is not named either."""
    mails = mails_of_a_hidden_person(people)
    for mail in mails:
        read = f"{mail.subject} {mail.text} {mail.html}"
        assert ("ana@" in read) == (people == "show"), mail.kind
        assert people == "show" or "boss@acme.com" not in read, mail.kind
        assert "experiment /Users/" in read, mail.kind
    assert people == "show" or all("experiment /Users/…/llm" in mail.subject for mail in mails[:4])
    owners = [re.search(r"^ +Owner +(.*)$", mail.text, re.MULTILINE) for mail in mails[:4]]
    wanted = {"show": r"boss@acme\.com", "pseudonym": "person-[0-9a-f]{6}"}.get(people)
    assert all(found is None if wanted is None else found and re.fullmatch(wanted, found[1].strip()) for found in owners)


@pytest.mark.parametrize(
    ("selector", "is_personal"), [({"user": "ana@acme.com"}, True), ({"owner": "ana@acme.com"}, True), ({"experiment": "/Users/ana@acme.com/llm"}, True), ({"team": "vision"}, False)],
)  # fmt: skip
def test_a_command_that_selects_a_hidden_person_is_left_out(selector: dict[str, str], is_personal: bool) -> None:
    """If names are shown, or if the command contains no person, the mail has the command."""
    for people in ("show", "pseudonym", "hide"):
        for mail in mails_of_a_hidden_person(people, **selector)[:4]:
            assert ("See the costs" in mail.text) == (people == "show" or not is_personal), mail.text
            assert ("ana@" in mail.text + mail.html) == (people == "show" and is_personal), mail.text


def charted(local_id: str = "charted") -> Mail:
    """Return a mail with the picture: 22 days of November, and a forecast to its end."""
    drawn = chart.SpendChart(
        date(2026, 11, 1), date(2026, 12, 1), tuple(Decimal("227.8355") * n for n in range(1, 23)), Decimal(5000), "USD",
        tuple(chart.ForecastDay(*(Decimal("5012.381") + (Decimal(end) - Decimal("5012.381")) * n / 8 for end in (6000, 6500, 7000))) for n in range(1, 9)),
    )  # fmt: skip
    return make_mail(
        Envelope("Runspend <runspend@acme.com>", "budgets", "budget-actual"), local_id=local_id, recipients=["ana@acme.com"],
        subject="[runspend] vision is over budget", blocks=[Paragraph("vision is over budget."), drawn], now=NOW, thread="budget.vision.2026-11",
    )  # fmt: skip


CHARTED = charted()


def parsed(mail: Mail) -> EmailMessage:
    message = message_from_bytes(as_bytes(mail), policy=policy.default)
    assert isinstance(message, EmailMessage)
    return message


def shape(document: str) -> list[Any]:
    """Return elements, attribute names and values of style, in document order."""
    tree = html5lib.HTMLParser(strict=False).parse(document)
    return [(element.tag, sorted(element.attrib), element.attrib.get("style"), element.attrib.get("href")) for element in tree.iter()]


@cache
def harmless_shape() -> list[Any]:
    """Return the shape of a mail without a hostile name."""
    return shape(make("x", runbook="x").html)


def parts(message: EmailMessage) -> tuple[str, str]:
    text, markup = message.get_body(("plain",)), message.get_body(("html",))
    assert text is not None
    assert markup is not None
    return str(text.get_content()), str(markup.get_content())


@pytest.mark.parametrize("names", [500, pytest.param(5000, marks=pytest.mark.torture)])
def test_fuzzed_names_make_as_many_mails(names: int) -> None:
    """With newlines, NUL, surrogates, RTL, encoded words and huge names, headers are exactly the expected ones and the body is complete."""
    chance = random.Random(20261124)
    reference = make("x")
    for _ in range(names):
        name = "".join(
            chance.choice(PIECES) if chance.random() < 0.8 else chr(chance.randrange(0x110000)) for _ in range(chance.randrange(1, 9))
        )
        # Other tests fuzz the two renderings, which takes long. Here the name is in every header that could contain one.
        mail = Mail(
            **{
                **reference.__dict__,
                "subject": clean(f"[runspend] {name}", 180),
                "text": render_text([Paragraph(clean(name))]),
                "html": "<p></p>",
                "picture": None,
            }
        )
        message = parsed(mail)
        assert message.keys() == HEADERS
        assert message["Subject"] == mail.subject
        assert (message["To"], message["Message-ID"]) == ("leads@acme.com, Zoë Ü <zoe@acme.com>", reference.message_id)
        assert not message.defects
        assert [p.get_content_type() for p in message.walk()] == ["multipart/alternative", "text/plain", "text/html"]
        assert parts(message)[0].strip() == mail.text.strip()


@hypothesis_settings(max_examples=60, deadline=None)
@given(
    st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=20)), max_size=6).map("".join), st.text(max_size=30), st.text(max_size=30)
)
def test_any_name_gives_the_same_structure(name: str, experiment: str, user: str) -> None:
    """The HTML has only the elements of a harmless mail. The text is at most 72 wide without control characters, and headers are exact."""
    mail = make(name, experiment=experiment, user=user or "ana", runbook=name or "x")
    assert shape(mail.html) == harmless_shape()
    assert parsed(mail).keys() == HEADERS
    assert not re.search(
        r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]", mail.text + mail.html.replace("\n", "")
    )


@pytest.mark.parametrize("payload", PAYLOADS)
def test_markup_in_names_stays_text(payload: str) -> None:
    """Known payloads in ten places each add no element, attribute or address, and nothing is fetched."""
    found = shape(make(payload, experiment=payload, user=payload, runbook=payload).html)
    assert found == harmless_shape()
    tags = {str(element[0]).rpartition("}")[2] for element in found}
    assert tags <= {"html", "head", "meta", "title", "style", "body", "div", "p", "img", "table", "tbody", "tr", "th", "td", "h2"}
    assert "url(" not in "".join(str(element[2]) for element in found)


def test_only_an_http_runbook_is_a_link() -> None:
    """An https address can be clicked. Addresses with javascript:, data: or a quote are shown as text."""
    assert [e[3] for e in shape(make("x").html) if e[3]] == ["https://wiki.acme.com/x"]
    for text in ("javascript:alert(1)", "data:text/html,x", 'https://x/"onclick=x', "https://x y", "//evil"):
        assert [e[3] for e in shape(make("x", runbook=text).html) if e[3]] == []


def test_text_and_html_say_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both parts have the same words. Without a picture, both have its table."""
    monkeypatch.setattr(mail_module, "draw", lambda _: None)
    text, markup = parts(parsed(make("vit-l16-384")))
    from_html = html.unescape(re.sub(r"<[^>]+>", " ", re.sub(r"(?s)<head>.*?</head>", "", markup)))
    words = lambda value: sorted(value.split())  # noqa: E731  # one expression
    assert words(text) == words(from_html)


def test_nothing_is_fetched_from_elsewhere() -> None:
    """The mail has no image except its own, and no style sheet, font or script."""
    markup = re.sub(r'<img src="cid:picture"', "", CHARTED.html + make("x").html)
    assert not re.search(r"(?i)<(img|link|script|iframe|object|embed|video|audio|source|picture)\b|@import|url\(|src=|background=", markup)


def test_the_chart_is_inside_the_mail() -> None:
    """The chart is a PNG part that the HTML part refers to. The text part has its numbers as a table."""
    message = parsed(CHARTED)
    types = [part.get_content_type() for part in message.walk()]
    assert types == ["multipart/alternative", "text/plain", "multipart/related", "text/html", "image/png"]
    (picture,) = [part for part in message.walk() if part.get_content_type() == "image/png"]
    assert (picture["Content-ID"], picture.get_content_disposition()) == ("<picture>", "inline")
    assert Image.open(io.BytesIO(picture.get_content())).size == (2 * chart.WIDTH, 2 * chart.HEIGHT)
    text, markup = parts(message)
    (image,) = [e for e in html5lib.HTMLParser().parse(markup).iter() if str(e.tag).endswith("}img")]
    assert image.attrib["src"] == "cid:picture"
    rows = [line.split("  ") for line in text.splitlines() if line.startswith("  ") and "%" in line]
    cells = " ".join(cell.strip() for row in rows for cell in row if cell.strip())
    assert re.findall(r"[\d,]+", cells) == re.findall(r"[\d,]+", image.attrib["alt"].partition(". ")[2])
    assert "5,012" in cells and "30 Nov, forecast (6,000–7,000) 6,500 130%" in cells
    assert as_bytes(Mail.from_record(json.loads(json.dumps(CHARTED.as_record())))) == as_bytes(CHARTED)


def test_without_a_way_to_draw_the_html_has_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Pillow, there is no picture, not even a broken one, and the table has every figure."""
    monkeypatch.setitem(sys.modules, "PIL", None)
    mail = charted()
    assert mail.picture is None
    assert "<img" not in mail.html
    assert "5,012" in mail.html and "6,000–7,000" in mail.html
    assert "multipart/related" not in [part.get_content_type() for part in parsed(mail).walk()]


@pytest.mark.parametrize("amounts", [(), ("0",), ("0", "0"), ("-5", "-7.5"), ("5000",) * 31, ("1e30", "2e30"), ("0.0000001", "0.0000002")])
def test_any_spend_can_be_drawn(amounts: tuple[str, ...]) -> None:
    """Zero cost, only credits, a budget reached to the cent, and sums of any size give a picture or none, but never an error."""
    spent = tuple(Decimal(a) for a in amounts)
    for forecast in ((), (chart.ForecastDay(Decimal(-1), Decimal(0), Decimal("1e9")),)):
        drawn = chart.SpendChart(date(2026, 11, 1), date(2026, 12, 1), spent, Decimal(5000), "USD", forecast)
        png = chart.draw(drawn)
        assert (png is not None) == drawn.is_worth_drawing
        assert png is None or (Image.open(io.BytesIO(png)).format == "PNG" and len(png) < 20_000)
        assert render_text([drawn]).startswith("SPEND TO DATE")


def test_mails_of_a_budget_and_period_are_one_conversation() -> None:
    """All refer to one id, which no other budget's mails use."""
    assert (parsed(CHARTED)["In-Reply-To"], parsed(CHARTED)["References"]) == ("<budget.vision.2026-11@acme.com>",) * 2
    assert parsed(charted("another"))["References"] == "<budget.vision.2026-11@acme.com>"


def test_the_same_mail_gives_the_same_bytes() -> None:
    """A mail that is written and read back is sent with the same bytes. Its lines are short enough for every server."""
    mail = make("ünï\r\ncode")
    again = Mail.from_record(json.loads(json.dumps(mail.as_record())))
    assert (again, as_bytes(again)) == (mail, as_bytes(mail))
    assert max(len(line) for line in as_bytes(mail).split(b"\r\n")) < 998
    assert b"\n" not in as_bytes(mail).replace(b"\r\n", b"")
    as_bytes(mail).decode("ascii")


@given(st.text(max_size=200), st.integers(2, 80))
def test_clean_is_one_visible_line(text: str, limit: int) -> None:
    """It is never empty, never wider than the limit, and never two lines."""
    cleaned = clean(text, limit)
    assert cleaned == cleaned.strip() != ""
    assert width(cleaned) <= max(limit, len("(no name)"))
    assert len(cleaned.splitlines()) == 1
    cleaned.encode("utf-8")


@hypothesis_settings(deadline=None)
@given(st.lists(st.tuples(st.text(max_size=90), st.text("0123456789,.", max_size=20), st.text(max_size=9)), max_size=4))
def test_tables_fit_the_width(rows: list[tuple[str, str, str]]) -> None:
    """Columns are aligned within 72 characters, wide letters count as two, and the first column is cut."""
    cleaned = tuple((clean(a, 60), b, clean(c, 9)) for a, b, c in rows)
    text = render_text([MailTable("TOP COSTS", ("", "November", "before"), "lrl", cleaned)])
    assert all(width(line) <= WIDTH for line in text.splitlines())
    assert len(text.splitlines()) - len(rows) in (1, 2)
    assert html.unescape(render_html("s", [MailTable("T", ("", "a", "b"), "lrl", cleaned)])).count("<tr>") >= len(rows) + 1


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("ana@acme.com", "ana@acme.com"), ("Ana <ana@acme.com>", "ana@acme.com"), ("ana@bücher.example", "ana@xn--bcher-kva.example"), ("ana", None), ("", None),
        ("ana@acme.com\r\nBcc: x@y.z", None), ("a b@acme.com", None), ("ä@acme.com", None), ("ana@-acme.com", None), ("ana@acme..com", None), ("Smith, Ana <ana@acme.com>", None), ('"Smith, Ana" <ana@acme.com>', "ana@acme.com"),
        ("ana@acme.com, b@acme.com", None), ("x" * 65 + "@acme.com", None),
    ],
)  # fmt: skip
def test_only_addresses_that_plain_smtp_carries_are_taken(text: str, address: str | None) -> None:
    """They can be sent by plain SMTP, and cannot be two recipients or another header."""
    assert address_of(text) == address


def test_money_and_cut() -> None:
    """Round amounts have no .00, and a cut text shows that it was cut."""
    assert (money(Decimal(5000), short=True), money(Decimal("5000.50"), short=True)) == ("5,000", "5,000.50")
    assert (cut("日本語日本語", 7), width(cut("日本語日本語", 7))) == ("日本語…", 7)
