"""Mails in a real browser: on a phone and a desk, by day and by night, nothing sticks out, nothing is asked of any network."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from runspend.actions import alert
from runspend.actions.alert import operators
from runspend.actions.alert.message import Mail
from runspend.warehouse.records import Records
from tests.actions.alert.alert_world import budget, cost, run, source, warehouse
from tests.hostile_names import PAYLOADS
from tests.settings_builder import make_settings

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (apt-get install chromium)")
NOW = datetime(2026, 11, 24, 6, tzinfo=timezone.utc)
SIZES = {"phone": (360, 740), "desk": (1100, 800)}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def write_mails(home: Path, name: str = "resnet-sweep", run_name: str = "vit-l16-384") -> dict[str, Mail]:
    """A budget that broke with runs that are on, a stale source, and a digest: as the alert step writes them."""
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
    given = make_settings(home, budget(owner="ana@acme.com", runbook="https://wiki.acme.com/ml-budgets"), *many)
    records = Records(home)
    with warehouse(home / "w", cost_daily=rows, sources=[source()], runs=runs) as reader:
        judgement = alert.judge(reader, given, records, NOW - timedelta(days=60))  # not its first night any more
        alert.record(given, records, judgement, NOW - timedelta(days=60))
        judgement = alert.judge(reader, given, records, NOW)
        alert.record(given, records, judgement, NOW)
    alert.send(given, records, NOW)
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
    }


@pytest.fixture(scope="module")
def mails(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Mail]:
    """Written once."""
    return write_mails(tmp_path_factory.mktemp("home"))


def open_mail(browser: Browser, mail: Mail, size: str, scheme: Any, faults: list[str]) -> Page:
    """The HTML part as a mail program shows it, its picture in place, watched for anything a mail must not do."""
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
@pytest.mark.parametrize("name", ["budget", "digest", "operators"])
def test_a_mail_fits_and_can_be_read(browser: Browser, mails: dict[str, Mail], name: str, size: str) -> None:
    """No sideways scrolling, letters of 12 pixels at least and far enough from their ground in brightness, the picture whole; by day and by night."""
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
    """As it is shown now."""
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


def test_hostile_names_do_nothing(browser: Browser, tmp_path: Path) -> None:
    """Payloads as experiment and run names: nothing runs, nothing is asked for, on a phone either."""
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
    """A mail program that shows no pictures shows the words of it; and the picture is a PNG of the mail's own."""
    faults: list[str] = []
    page = open_mail(browser, replace(mails["budget"], picture=""), "desk", "light", faults)
    assert "against a budget of 5,000 USD" in page.evaluate("document.images[0].alt")
    picture = mails["budget"].picture
    assert picture is not None
    assert base64.b64decode(picture).startswith(b"\x89PNG")
    page.context.close()
