"""Mails in a real browser, on a phone and a desktop, in light and dark mode. They fit the screen and load nothing from a network."""

from __future__ import annotations

import base64
from dataclasses import replace
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from bs4 import BeautifulSoup
from playwright.sync_api import Browser, Page

from runspend.actions import alert
from runspend.actions.alert import operators
from runspend.actions.alert.message import Mail
from runspend.actions.alert.outbox import send_outbox
from runspend.actions.alert.render import Envelope, make_mail
from runspend.actions.archive.notices import Notice
from runspend.pipeline.archive_planning import compose_notice
from runspend.warehouse.records import Records
from tests.actions.alert.alert_world import budget, cost, run, source, warehouse
from tests.e2e.served import CHROMIUM
from tests.hostile_names import PAYLOADS
from tests.settings_builder import make_settings

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (apt-get install chromium)")
NOW = datetime(2026, 11, 24, 6, tzinfo=timezone.utc)
SIZES = {"phone": (360, 740), "pane": (600, 800), "desk": (1100, 800)}


def write_mails(home: Path, name: str = "resnet-sweep", run_name: str = "vit-l16-384") -> dict[str, Mail]:
    """Write mails as the alert step does: an exceeded budget with active runs, a stale source, and a digest."""
    rows = [
        cost(f"2026-{11 - n // 30:02d}-{22 - n if n < 22 else 30 - (n - 22) % 28:02d}", f"{180 + 13 * (n % 7)}", experiment_name=name)
        for n in range(50)
    ]
    rows += [cost("2026-11-20", "1406.77", experiment_id="13", experiment_name="vit-pretrain", user_name="ben", confidence="medium")]
    on = {
        "run_status": "RUNNING",
        "end_time": None,
        "last_sign_at": NOW - timedelta(hours=1),
        "num_nodes": 2,
        "instance_type": "p4d.24xlarge",
    }
    runs = [
        run("a", run_name=run_name, start_time=NOW - timedelta(hours=40), **on),
        run("b", run_name="trial-118", start_time=NOW - timedelta(hours=3), **on),
    ]
    many = [budget(f"b{n:02d}", f"{100 + n}", notify=["many@acme.com"], forecast=[], actual=["100%"]) for n in range(12)]
    key = {"tracking_server": "prod", "workspace": "default", "billing_currency": "USD"}
    paid = [
        key | {"run_id": run_id, "charge_date": date(2026, 11, 20), "cost_kind": "compute", "source": "aws",
               "billing_period": date(2026, 11, 1), "effective_cost": Decimal(amount)}
        for run_id, amount in (("a", "812.40"), ("b", "73.74"))
    ]  # fmt: skip
    site = {"url": "https://costs.acme.com/runspend"}
    given = make_settings(home, budget(owner="ana@acme.com", runbook="https://wiki.acme.com/ml-budgets"), *many, site=site)
    records = Records(home)
    with warehouse(home / "w", cost_daily=rows, sources=[source()], runs=runs, run_costs_daily=paid) as reader:
        judgement = alert.judge(reader, given, records, NOW - timedelta(days=60))  # so that it is not the first pipeline run
        alert.record(given, records, judgement, NOW - timedelta(days=60))
        judgement = alert.judge(reader, given, records, NOW)
        alert.record(given, records, judgement, NOW)
    send_outbox(given, records, NOW)
    operators.notify(
        given,
        records,
        "STALE",
        "aws/all",
        NOW,
        "aws has no data for 53 h (limit 36 h). Costs are complete to 22 Nov 01:00 UTC.",
        details=["aws: 403 Forbidden"],
    )
    found = [Mail.from_record(v["mail"]) for kind in ("alerts", "digests", "notices") for v in records.list(kind).values() if v.get("mail")]
    return {
        "budget": next(m for m in found if m.message_id.startswith("<budget.vision.2026-11") and m.picture),
        "digest": next(m for m in found if m.kind == "budget-digest"),
        "operators": next(m for m in found if m.kind == "stale"),
        "archive": archive_notice(home, run_name, name),
    }


def archive_notice(home: Path, run_name: str, experiment: str) -> Mail:
    """Write a notice to operators about the folders of three owners."""
    data: dict[str, Any] = {
        "stores": [{"uri": "/srv/mlflow/artifacts"}, {"uri": "/srv/mlflow/archive/cold", "measure": "none"}],
        "archive": {"to": "/srv/mlflow/archive/cold"}, "site": {"url": "https://costs.acme.com"},
        "retention": [{"name": "old-failures", "select": {"status": ["FAILED"], "unused_for": "14d"}, "action": "archive", "grace": "30d"}],
    }  # fmt: skip
    given = make_settings(home, **data)
    rows = [
        {"item_key": str(n), "policy": "old-failures", "run_id": f"{n}" * 32, "run_name": f"{run_name}-{n}", "owner_id": f"{n}" * 32,
         "owner_kind": "run", "owner": owner, "experiment_name": experiment, "objects": 3, "bytes": n * 10**9, "unused_days": 90 + n,
         "monthly_saving": Decimal(saving), "action_cost": Decimal("0.02"), "store": "/srv/mlflow/artifacts", "prefix": f"{n}/",
         "tracking_server": "prod", "workspace": "default"}
        for n, owner, saving in ((1, "zoe", "2.5"), (2, "ana", "0.25"), (3, "ana", "1.75"), (4, "ben", "0.004"))
    ]  # fmt: skip
    subject, blocks = compose_notice(
        Notice("n", ("oncall@acme.com",), rows, reasons={r["item_key"]: "no address" for r in rows}), given, NOW
    )
    return make_mail(
        Envelope("Runspend <runspend@acme.com>", "archive", "archive-notice"), local_id="archive.n", recipients=["oncall@acme.com"],
        subject=f"[runspend] {subject}", blocks=blocks, now=NOW,
    )  # fmt: skip


@pytest.fixture(scope="module")
def mails(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Mail]:
    """The mails, written once."""
    return write_mails(tmp_path_factory.mktemp("home"))


def open_mail(browser: Browser, mail: Mail, size: str, scheme: Any, faults: list[str]) -> Page:
    """Open the HTML part as a mail program shows it, with its picture, and record everything that a mail must not do."""
    width, height = SIZES[size]
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, device_scale_factor=2, is_mobile=size == "phone"
    )
    page = context.new_page()
    page.on("dialog", lambda dialog: (faults.append(f"dialog {dialog.message}"), dialog.dismiss()))
    page.on("request", lambda request: faults.append(f"request {request.url}") if not request.url.startswith("data:") else None)
    page.on("pageerror", lambda error: faults.append(f"error {error}"))
    page.set_content(mail.html.replace("cid:picture", f"data:image/png;base64,{mail.picture}"))
    page.wait_for_load_state("networkidle")
    return page


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["budget", "digest", "operators", "archive"])
def test_a_mail_fits_and_can_be_read(browser: Browser, mails: dict[str, Mail], name: str, size: str) -> None:
    """There is no horizontal scrolling, letters have at least 12 pixels and enough contrast, and the picture is complete, in light and dark mode."""
    faults: list[str] = []
    page = open_mail(browser, mails[name], size, "light", faults)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert_readable(page, size, scheme)
    assert faults == []
    if name == "budget":
        width = page.evaluate("document.images[0].getBoundingClientRect().width")
        assert (page.evaluate("document.images[0].naturalWidth"), 300 <= width <= SIZES[size][0]) == (1040, True)
    page.context.close()


def assert_readable(page: Page, size: str, scheme: str) -> None:
    """Check the page in its current state."""
    assert page.evaluate("document.documentElement.scrollWidth") <= SIZES[size][0]
    assert (
        page.evaluate("Math.min(...[...document.querySelectorAll('td, th, p, h2, a')].map(e => parseFloat(getComputedStyle(e).fontSize)))")
        >= 12
    )
    brightness = """() => {
        const luminance = text => { const [r, g, b] = text.match(/[\\d.]+/g).map(Number).map(v => v / 255).map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
            return 0.2126 * r + 0.7152 * g + 0.0722 * b };
        const ground = luminance(getComputedStyle(document.body).backgroundColor);
        return [...document.querySelectorAll('td, th, p, h2, a')].filter(e => e.textContent.trim()).map(e => luminance(getComputedStyle(e).color))
            .map(ink => (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05)) }"""
    assert min(page.evaluate(brightness)) >= 4.5
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == (
        "rgb(255, 255, 255)" if scheme == "light" else "rgb(13, 17, 23)"
    )


def test_a_mail_begins_with_figures_and_the_way_to_act(mails: dict[str, Mail]) -> None:
    """The figures come first, then one button that leads to the live page.

    Runs and budgets link to their pages. Subjects are phrases, not sentences.
    """
    budget_mail = mails["budget"]
    assert budget_mail.subject == "[runspend] Budget vision: 158.2% of 5,000 USD spent in November"
    assert budget_mail.text.splitlines()[:3] == [
        "  spent           7,911.77 USD  158.2% of 5,000",
        "  over budget by  2,911.77 USD  7 days to go",
        "  forecast           7,998 USD  80% interval: 7,912–9,127",
    ]
    links = {name: [str(a["href"]) for a in BeautifulSoup(mail.html, "html.parser").find_all("a")] for name, mail in mails.items()}
    site = "https://costs.acme.com/runspend"
    assert links["budget"][:3] == [
        f"{site}/budget/vision?period=2026-11",
        f"{site}/run/a?server=prod&workspace=default",
        f"{site}/run/b?server=prod&workspace=default",
    ]
    assert links["digest"][:2] == [f"{site}/#budgets", f"{site}/budget/b00?period=2026-11"]
    assert links["operators"] == [f"{site}/#bills"]
    assert mails["digest"].subject == "[runspend] 24 alerts on 12 budgets: 12 exceeded"
    assert mails["operators"].subject == "[runspend] STALE: aws has no data for 53 h (limit 36 h)"
    for mail in mails.values():
        assert "/srv/" not in mail.text + mail.html + mail.subject


def test_an_archive_notice_says_what_each_run_saves_by_owner(mails: dict[str, Mail]) -> None:
    """It has run ids and pages, owners in order, each owner's largest saving first, and the sum.

    The server's folders are named by their last parts.
    """
    mail = mails["archive"]
    assert mail.subject == "[runspend] Archive from 24 Dec: 4 folders of artifacts (10.0 GB)"
    rows = [line.split() for line in mail.text.splitlines() if line.startswith("  vit-l16-384-")]
    assert [(r[1], r[2], r[-1]) for r in rows] == [
        ("33333333", "ana", "1.75"), ("22222222", "ana", "0.25"), ("44444444", "ben", "0.0040"), ("11111111", "zoe", "2.50")
    ]  # fmt: skip
    assert "saves 4.50 USD per month" in " ".join(mail.text.split())
    assert "copies the files to …/archive/cold" in " ".join(mail.text.split())
    links = [str(a["href"]) for a in BeautifulSoup(mail.html, "html.parser").find_all("a")]
    assert links[:2] == [
        "https://costs.acme.com/2026-11.html#artifacts",
        f"https://costs.acme.com/run/{'3' * 32}?server=prod&workspace=default",
    ]
    assert len(links) == 5


def test_hostile_names_do_nothing(browser: Browser, tmp_path: Path) -> None:
    """Payloads in names of experiments and runs start no script and no request, also on a phone."""
    for number, (first, second) in enumerate(zip(PAYLOADS[::60], PAYLOADS[30::60], strict=False)):
        faults: list[str] = []
        mail = write_mails(tmp_path / str(number), first, second)["budget"]
        page = open_mail(browser, mail, "phone", "light", faults)
        page.mouse.move(180, 300)
        assert faults == []
        assert page.evaluate("document.querySelectorAll('script, iframe, svg, form, link, object, embed').length") == 0
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        page.context.close()


def test_a_picture_is_in_the_mail_or_nowhere(browser: Browser, mails: dict[str, Mail]) -> None:
    """A mail program that shows no pictures shows the alternative text. The picture is a PNG inside the mail."""
    faults: list[str] = []
    page = open_mail(browser, replace(mails["budget"], picture=""), "desk", "light", faults)
    assert "against a budget of 5,000 USD" in page.evaluate("document.images[0].alt")
    picture = mails["budget"].picture
    assert picture is not None
    assert base64.b64decode(picture).startswith(b"\x89PNG")
    page.context.close()
