"""The report in a real browser: no script runs, no request leaves, and nothing is wider than the screen."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page
from pypdf import PageObject, PdfReader

from runspend.actions.report import ReportFigures, plan_report, write_report
from runspend.config.settings import Settings
from tests.actions.report.report_world import NOW, TableReader, month_world
from tests.e2e.served import CHROMIUM
from tests.e2e.served import served as serve
from tests.hostile_names import PAYLOADS, with_names

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (apt-get install chromium)")


@pytest.fixture(scope="module")
def figures() -> ReportFigures:
    """The small month."""
    settings = Settings.model_validate({"tracking": [{"name": "prod", "uri": "https://mlflow.example.com"}]})
    return plan_report(TableReader(month_world()), "2026-11", settings=settings, now=NOW)


@pytest.fixture(scope="module")
def served(figures: ReportFigures, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Pages on a loopback port with their folder: one plain month and six with hostile names."""
    home = tmp_path_factory.mktemp("home")
    write_report(figures, home / "reports")
    names = cycle(PAYLOADS)
    for month in range(1, 7):
        hostile = with_names(figures, names)
        write_report(type(hostile)(**{**vars(hostile), "period": f"2027-{month:02d}"}), home / "reports")
    with serve(Settings(home=home)) as address:
        yield address, home / "reports"


class Watched:
    """A page, and a record of everything that a report must not do."""

    def __init__(self, page: Page, allowed: str) -> None:
        self.page, self.allowed = page, allowed
        self.faults: list[str] = []
        page.on("dialog", lambda dialog: (self.faults.append(f"dialog {dialog.message}"), dialog.dismiss()))
        page.on(
            "request", lambda request: self.faults.append(f"request {request.url}") if not request.url.startswith(self.allowed) else None
        )
        page.on("console", lambda message: self.faults.append(f"console {message.text}"))
        page.on("pageerror", lambda error: self.faults.append(f"error {error}"))
        page.on("popup", lambda popup: self.faults.append(f"popup {popup.url}"))


def open_page(browser: Browser, address: str, allowed: str, **context: Any) -> Watched:
    """Open a page, watched from before it loads."""
    watched = Watched(browser.new_context(**context).new_page(), allowed)
    watched.page.goto(address)
    return watched


def test_hostile_names_run_nothing_and_ask_for_nothing(browser: Browser, served: tuple[str, Path]) -> None:
    """More than 300 payloads, from disk and from a server, open no dialog, send no request and run no script, with every fold open."""
    address, folder = served
    watched = Watched(browser.new_page(), address)
    for month in range(1, 7):
        for base in (address, folder.as_uri()):
            watched.allowed = f"{base}/2027-{month:02d}.html"
            watched.page.goto(watched.allowed)
            watched.page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
            watched.page.mouse.move(300, 300)
            watched.page.wait_for_timeout(150)
            assert watched.faults == []
            assert watched.page.title() == f"{['January', 'February', 'March', 'April', 'May', 'June'][month - 1]} 2027 · Runspend"
            assert watched.page.evaluate("document.scripts.length") == 0
    watched.page.context.close()


def test_the_policy_stops_a_script_that_got_in(browser: Browser, served: tuple[str, Path]) -> None:
    """A page with an injected script and event handler runs neither. This shows that the watch above works, and the policy too."""
    address, folder = served
    page = (folder / "2026-11.html").read_text(encoding="utf-8")
    (folder / "2030-01.html").write_text(
        page.replace("<main>", "<main><script>alert(1)</script><img src=x onerror=alert(2)>"), encoding="utf-8"
    )
    watched = open_page(browser, f"{address}/2030-01.html", f"{address}/2030-01.html")
    watched.page.wait_for_timeout(150)
    (folder / "2030-01.html").unlink()
    assert watched.page.evaluate("document.scripts.length") == 1
    refused = [f for f in watched.faults if f.startswith("console ") and "Content Security Policy" in f]
    assert len(refused) >= 2, watched.faults
    assert not [f for f in watched.faults if f.startswith(("dialog", "popup"))]
    watched.page.context.close()


@pytest.mark.parametrize("name", ["2026-11.html", "2026-11-audit.html", "2027-01.html", "2027-01-audit.html", "index.html"])
def test_pages_fit_at_any_width(browser: Browser, served: tuple[str, Path], name: str) -> None:
    """With folds open, there is no horizontal scrolling, the style sheet applies, and text is visible on its background."""
    address, _ = served
    watched = open_page(browser, f"{address}/{name}", f"{address}/{name}")
    watched.page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
    for width in (390, 768, 1280):
        watched.page.set_viewport_size({"width": width, "height": 844})
        assert watched.page.evaluate("innerWidth") == width
        assert watched.page.evaluate("document.documentElement.scrollWidth") <= width
        for scheme in ("light", "dark"):
            watched.page.emulate_media(color_scheme=scheme)
            dark = watched.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 22, 28)"
            assert dark == (scheme == "dark")
    assert watched.faults == []
    watched.page.context.close()


def test_phone_and_desktop_have_a_chart_each(browser: Browser, served: tuple[str, Path]) -> None:
    """Wide charts are for desktops and narrow ones for phones, so that their letters stay readable."""
    address, _ = served
    for width, shown, hidden in ((390, "narrow", "wide"), (1280, "wide", "narrow")):
        page = open_page(browser, f"{address}/2026-11.html", f"{address}/2026-11.html", viewport={"width": width, "height": 844}).page
        assert page.locator(f"svg.{shown}").first.is_visible()
        assert not page.locator(f"svg.{hidden}").first.is_visible()
        size = page.evaluate(
            f"(() => {{ const t = document.querySelector('svg.{shown} text').getBoundingClientRect(); return t.height }})()"
        )
        assert size > 9
        page.context.close()


def test_folded_sections_are_open_in_print(browser: Browser, served: tuple[str, Path]) -> None:
    """A printed page shows the experiments without a click, in black on white even in dark mode."""
    address, _ = served
    page = open_page(browser, f"{address}/2026-11.html", f"{address}/2026-11.html", color_scheme="dark").page
    row = page.locator("tr.exp", has_text="vit-pretrain").first
    assert not row.evaluate("row => row.checkVisibility()")
    page.emulate_media(media="print", color_scheme="dark")
    assert row.evaluate("row => row.checkVisibility()")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(27, 36, 48)"
    assert page.pdf(format="A4").startswith(b"%PDF")
    page.context.close()


def test_a_phone_shows_headings_and_opens_what_is_asked_for(browser: Browser, served: tuple[str, Path]) -> None:
    """All sections except the first are folded. The bar of links stays visible and opens them. On a desktop, all sections are open."""
    address, _ = served
    phone: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "reduced_motion": "reduce"}
    page = open_page(browser, f"{address}/2026-11.html", address, **phone).page
    assert page.evaluate("document.documentElement.scrollHeight") < 4000
    table = page.locator("#idle table.stack").first
    assert page.locator("#teams table").first.is_visible() and not table.is_visible()
    page.locator("nav.toc >> text=Idle").click()
    assert table.is_visible()
    bar, section = (page.evaluate(f"document.querySelector('{css}').getBoundingClientRect().toJSON()") for css in ("nav.toc", "#idle"))
    assert (bar["y"], bar["height"] < section["y"] < 150) == (0, True)
    page.context.close()
    from_elsewhere = open_page(browser, f"{address}/2026-11.html#unallocated", address, **phone).page
    assert from_elsewhere.locator("#unallocated table").first.is_visible()
    from_elsewhere.context.close()
    desk = open_page(browser, f"{address}/2026-11.html", address, viewport={"width": 1280, "height": 844}).page
    assert desk.locator("#idle table.stack").first.is_visible() and desk.locator("#artifacts table.stack").first.is_visible()
    desk.context.close()


def test_drawings_tell_their_numbers_to_the_keyboard(browser: Browser, served: tuple[str, Path]) -> None:
    """Tab reaches the parts of a chart. The part with the focus shows its numbers, and screen readers read them."""
    address, _ = served
    page = open_page(browser, f"{address}/2026-11.html", address, viewport={"width": 1280, "height": 900}).page
    page.locator("nav.toc >> text=Days").focus()
    seen: dict[str, list[str]] = {}
    for _ in range(400):
        page.keyboard.press("Tab")
        found = page.evaluate(
            """() => { const g = document.activeElement, tell = g && g.querySelector('.tell');
            return g && g.closest('svg.chart') ? [g.closest("[id]")?.id ?? "head", g.getAttribute('aria-label'), getComputedStyle(tell).display, tell.textContent] : null }"""
        )
        if found:
            place, words, display, text = found
            assert display == "block" and text.split(" (")[0].split(":")[0] in words
            seen.setdefault(place, []).append(words)
    assert all("idle" in words for words in seen["idle"])
    assert any(words.startswith("21 Nov: 758.34 (allocated to runs 575.74, idle 74.00") for words in seen["days"])
    page.context.close()


def test_who_copies_a_short_name_gets_the_whole(browser: Browser, served: tuple[str, Path], figures: ReportFigures) -> None:
    """A machine shows the last part of its id. Hover and the clipboard have the whole id, and no name takes more than three lines."""
    address, folder = served
    machine = "arn:aws:ec2:eu-west-1:111122223333:instance/i-f508dfdc8d9d790f3"
    (c,) = figures.currencies
    given = replace(c, idle=(replace(c.idle[0], name=machine), *c.idle[1:]), runs=(replace(c.runs[0], name="long-" * 50), *c.runs[1:]))
    stores = (replace(figures.artifacts.stores[0], store="/srv/mlflow/a/long/way/to/the/artifacts", storage_class="LOCAL"),)
    named = replace(figures, period="2028-01", currencies=(given,), artifacts=replace(figures.artifacts, stores=stores))
    write_report(named, folder)
    page = open_page(browser, f"{address}/2028-01.html", address, viewport={"width": 1280, "height": 900}).page
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
    for css, whole, width in (("#idle tbody tr span.nm", machine, 200), ("#artifacts table:nth-of-type(2) span.nm", stores[0].store, 200)):
        name = page.locator(css).first
        assert (name.get_attribute("title"), name.bounding_box()["width"] < width) == (whole, True)
        name.evaluate("e => getSelection().selectAllChildren(e)")
        assert page.evaluate("getSelection().toString()").strip() == whole
    for width in (390, 1280):
        page.set_viewport_size({"width": width, "height": 900})
        lines = page.evaluate(
            "[...document.querySelectorAll('td span.nm')].map(e => new Set([...e.getClientRects()].map(r => r.top)).size)"
        )
        assert max(lines) <= 3
        count = "e => { const r = document.createRange(); r.selectNodeContents(e); return r.getClientRects().length }"
        assert page.locator("td.k").first.evaluate(count) == 1, "LOCAL is one word"
    for path in folder.glob("2028-01*"):
        path.unlink()
    page.context.close()


@pytest.mark.parametrize("name", ["2026-11.html", "2026-11-audit.html"])
@pytest.mark.parametrize("paper", ["A4", "Letter"])
def test_no_heading_is_left_behind_on_paper(browser: Browser, served: tuple[str, Path], name: str, paper: str) -> None:
    """On every printed page, something follows each heading. The last page has more than one line."""
    address, _ = served
    page = open_page(browser, f"{address}/{name}", address).page
    headings = {h.strip() for h in page.locator("h2").all_text_contents()}
    printed = PdfReader(io.BytesIO(page.pdf(format=paper)))
    pages = [lines_of(sheet) for sheet in printed.pages]
    assert headings <= {text for lines in pages for text in lines}, "the reader finds headings"
    for lines in pages:
        after = {text: len(lines) - number - 1 for number, text in enumerate(lines) if text in headings}
        assert min(after.values(), default=9) >= 3, lines[-4:]
    assert len(pages[-1]) >= 4
    page.context.close()


def lines_of(sheet: PageObject) -> list[str]:
    """Return the lines of a printed page."""
    return [line.strip() for line in sheet.extract_text().splitlines() if line.strip()]


def test_links_between_pages_work(browser: Browser, served: tuple[str, Path]) -> None:
    """Links lead from the newest page to its audit page, to the list of months, and back. A CSV is a download."""
    address, _ = served
    page = open_page(browser, f"{address}/2026-11.html", address).page
    page.click("header >> text=audit")
    assert page.url == f"{address}/2026-11-audit.html"
    page.click("header >> text=report")
    page.click("text=all months")
    page.click("text=November 2026")
    assert page.url == f"{address}/2026-11.html"
    with page.expect_download() as download:
        page.click("footer >> text=runs")
    assert download.value.suggested_filename == "2026-11-runs.csv"
    page.context.close()
