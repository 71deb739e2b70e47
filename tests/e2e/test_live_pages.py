"""Every kind of page in a real browser: axe finds no violation, and the script sorts, filters and shows the values of charts."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page

from tests.actions.explain import explain_world as w
from tests.allocation.chain import arrow
from tests.e2e.served import CHROMIUM, served

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (apt-get install chromium)")
WIDTHS = {"desk": 1280, "phone": 390}


@pytest.fixture(scope="module")
def address(made_night: Path) -> Iterator[str]:
    """The address of the pages over the demo after a pipeline run."""
    with served(made_night) as address:
        yield address


@pytest.fixture(scope="module")
def paths(browser: Browser, address: str) -> dict[str, str]:
    """A page of each kind."""
    page = browser.new_page()

    def first_link(path: str, start: str) -> str:
        page.goto(f"{address}/{path}")
        return (page.locator(f"main a[href*='{start}']").first.get_attribute("href") or "").removeprefix("../")

    run = first_link("explore", "run/")
    found = {
        "home": "",
        "explore": "explore?by=team,experiment",
        "search": "search?q=vit",
        "budget": "budget/vision",
        "machine": first_link("explore?by=machine", "machine/"),
        "experiment": "experiment/resnet-sweep",
        "run": run,
        "line": first_link(run, "line/"),
        "error": "explore?by=nothing",
        "month": "2026-11.html",
        "audit": "2026-11-audit.html",
        "months": "index.html",
    }
    page.close()
    return found


MORE_KINDS = {"model": "model/net", "sweep": "experiment/exp?metric=accuracy&best=max"}
KINDS = ("home", "explore", "search", "budget", "machine", "experiment", "run", "line", "error", "month", "audit", "months", *MORE_KINDS)  # fmt: skip


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of pages over the world of `explain`, with a metric of three runs and a registered model, which the demo lacks."""
    home = tmp_path_factory.mktemp("sweep")
    warehouse = w.make_explained(home / "warehouse")
    own = {"tracking_server": "prod", "workspace": "default", "load_id": "x"}
    metric = {**own, "start_month": dt.date(2026, 10, 1), "model_id": "", "metric": "accuracy", "step": 3, "is_last": True}
    at = dt.datetime(2026, 10, 5, tzinfo=dt.timezone.utc)
    version = {**own, "model_name": "net", "stage": "None", "creation_time": at, "run_id": w.BIG, "aliases": "[]"}
    with warehouse.step("extract", "sweep") as step:
        values = ((w.BIG, 0.5), (w.SMALL, 0.75), (w.LONG, 0.9))
        step.put(
            "run_metrics", "2026-10", "prod", arrow("run_metrics", [{**metric, "run_id": run, "value": value} for run, value in values])
        )
        step.put("model_versions", "all", "prod", arrow("model_versions", [{**version, "model_version": n} for n in (1, 2)]))
        assert step.publish()
    (home / "runspend.yaml").write_text("home: .\n", encoding="utf-8")
    with served(home / "runspend.yaml") as address:
        yield address


def visited(browser: Browser, address: str, *, width: int = 1280, scheme: str = "light", script: bool = True) -> Page:
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme, java_script_enabled=script)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(address)
    return page


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        pytest.param(WIDTHS["desk"], "light", id="desk-light"),
        pytest.param(WIDTHS["phone"], "dark", id="phone-dark"),
        pytest.param(WIDTHS["desk"], "dark", id="desk-dark", marks=pytest.mark.torture),
        pytest.param(WIDTHS["phone"], "light", id="phone-light", marks=pytest.mark.torture),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_axe_finds_no_violation(
    kind: str, width: int, scheme: str, browser: Browser, address: str, sweep: str, paths: dict[str, str]
) -> None:
    """This also holds with every fold open. Nothing is wider than the window."""
    place = f"{sweep}/{MORE_KINDS[kind]}" if kind in MORE_KINDS else f"{address}/{paths[kind]}"
    page = visited(browser, place, width=width, scheme=scheme)
    assert ("Cannot show" in page.locator("body").inner_text()) is (kind == "error")
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
    violations = Axe().run(page).response["violations"]
    assert [(found["id"], node["html"][:200]) for found in violations for node in found["nodes"]] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.context.close()


def test_axe_finds_a_violation_that_is_there(browser: Browser, address: str) -> None:
    """The test above can fail: axe finds a header without text, a button without a name, and text that is too pale."""
    page = visited(browser, f"{address}/")
    page.evaluate(
        """() => {
          document.querySelector('.hid').textContent = '';
          document.querySelector('form button').textContent = '';
          document.querySelector('.lead').style.color = '#ccc';
        }"""
    )
    found = {violation["id"] for violation in Axe().run(page).response["violations"]}
    assert {"empty-table-header", "button-name", "color-contrast"} <= found
    page.context.close()


def column(table: Locator, number: int) -> list[str]:
    """Return the strings of a column, without rows that always stay last."""
    return table.locator(f"tbody tr:not(.sum, .apart) td:nth-child({number})").all_inner_texts()


def number_of(text: str) -> float:
    return float(text.replace("\u2212", "-").replace(",", ""))


def test_a_click_on_a_column_sorts_by_it_and_back(browser: Browser, address: str) -> None:
    """Numbers sort from the largest, then from the smallest. Rows without a value, and sums, stay last."""
    page = visited(browser, f"{address}/explore?by=experiment")
    table, before = page.locator("#groups table"), page.url
    failed = table.get_by_role("button", name="failed")
    at = 1 + table.locator("th").all_inner_texts().index("failed")
    last = table.locator("tbody tr").all_inner_texts()[-4:]
    orders = {}
    for order in ("descending", "ascending"):
        failed.click()
        assert failed.locator("..").get_attribute("aria-sort") == order and table.locator("[aria-sort]").count() == 1
        orders[order] = column(table, at)
        assert table.locator("tbody tr").all_inner_texts()[-4:] == last
    assert {len([text for text in found if text]) for found in orders.values()} == {len([text for text in orders["ascending"] if text])}
    for order, found in orders.items():
        numbers = [number_of(text) for text in found if text]
        assert len(set(numbers)) >= 3 and numbers == sorted(numbers, reverse=order == "descending")
        assert found[len(numbers) :] == [""] * (len(found) - len(numbers))
    assert page.url == before
    table.get_by_role("link", name="cost").click()
    assert "sort=cost" in page.url
    page.context.close()


def test_dates_sort_by_time_and_names_by_letters(browser: Browser, address: str) -> None:
    page = visited(browser, f"{address}/search?q=vit-pretrain")
    table = page.locator("#runs table")
    started = table.get_by_role("button", name="started")
    for order in ("ascending", "descending"):
        started.click()
        times = table.locator("td[data-l=started]").evaluate_all("cells => cells.map(cell => cell.dataset.v)")
        assert len(set(times)) >= 10 and times == sorted(times, reverse=order == "descending")
    table.get_by_role("button", name="run", exact=True).click()
    numbers = [int(re.findall(r"vit-pretrain-(\d+)", name)[0]) for name in column(table, 1)]
    assert len(numbers) >= 10 and numbers == sorted(numbers)
    page.context.close()


def test_a_phone_sorts_by_a_list(browser: Browser, address: str) -> None:
    """Its tables have no header to click on."""
    page = visited(browser, f"{address}/explore?by=experiment", width=390)
    page.locator("#groups").get_by_label("sort rows by").select_option(label="runs")
    runs = [int(text) for text in page.locator("#groups tr:not(.sum, .apart) td[data-l=runs]").all_inner_texts()]
    assert len(set(runs)) >= 3 and runs == sorted(runs, reverse=True)
    page.context.close()


def test_a_long_table_can_be_searched(browser: Browser, address: str, paths: dict[str, str]) -> None:
    """Rows with the text stay with their headings, and sums disappear. Short tables have no search field."""
    page = visited(browser, f"{address}/{paths['run']}")
    section = page.locator("section", has=page.get_by_label("find in this table")).first
    section.get_by_label("find in this table").fill("18:00")
    shown = section.locator("tbody tr:visible")
    texts = shown.all_inner_texts()
    assert len([text for text in texts if text.startswith("18:00")]) >= 2 and section.locator("tbody tr.sum:visible").count() == 0
    assert all("18:00" in text or "instance/" in text for text in texts)
    assert section.get_by_role("status").inner_text().startswith(f"{len([t for t in texts if '18:00' in t])} of ")
    section.get_by_label("find in this table").fill("")
    assert section.locator("tbody tr:visible").count() == section.locator("tbody tr").count()
    page.goto(f"{address}/")
    assert page.locator("main").get_by_role("searchbox").count() == 0
    page.context.close()


def test_a_chart_tells_what_it_shows_by_pointer_and_by_keys(browser: Browser, address: str) -> None:
    """The text appears at once under the pointer. With the focus, arrow keys move between columns and within one, and Escape ends it."""
    page = visited(browser, f"{address}/")
    bubble, chart = page.locator(".bubble"), page.locator("#months svg.wide")
    assert not bubble.is_visible()
    chart.locator("rect[data-tip*='runs']").last.hover()
    assert re.fullmatch(r"Nov 2026 runs [\d,.]+", bubble.inner_text())
    page.mouse.move(5, 5)
    assert not bubble.is_visible()
    chart.focus()
    labels = []
    for key in ("Home", "ArrowUp", "ArrowRight", "ArrowDown", "ArrowRight"):
        page.keyboard.press(key)
        labels.append(re.sub(r" [\d,.]+$", "", bubble.inner_text()))
    assert labels == ["Oct 2026 runs", "Oct 2026 idle", "Nov 2026 idle", "Nov 2026 runs", "Nov 2026 runs"]
    page.keyboard.press("Escape")
    assert not bubble.is_visible()
    assert chart.locator("title").count() == 0
    page.context.close()


def test_a_finger_reads_a_chart(browser: Browser, address: str) -> None:
    """The text stays inside the window after the finger is lifted, until another place is touched."""
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.goto(f"{address}/")
    bubble = page.locator(".bubble")
    page.locator("#months svg.narrow rect[data-tip*='idle']").last.tap()
    assert re.fullmatch(r"Nov 2026 idle [\d,.]+", bubble.inner_text())
    box = bubble.bounding_box()
    assert box is not None and box["x"] >= 0 and box["x"] + box["width"] <= 390
    page.locator("#months h2").tap()
    assert not bubble.is_visible()
    context.close()


def test_a_point_of_a_sweep_says_its_run_when_it_has_the_focus(browser: Browser, sweep: str) -> None:
    """Without the script, the browser shows the same text under the pointer."""
    place = f"{sweep}/{MORE_KINDS['sweep']}"
    page, plain = visited(browser, place), visited(browser, place, script=False)
    points = page.locator("svg.wide a")
    assert points.count() == 3
    for number in range(3):
        points.nth(number).focus()
        assert page.locator(".bubble").inner_text() == plain.locator("svg.wide title").nth(number).text_content()
    assert plain.locator(".tools, .bubble, .sort").count() == 0
    page.context.close()
    plain.context.close()


def test_only_our_script_may_run(browser: Browser, address: str, paths: dict[str, str]) -> None:
    """A script injected into a page does not run, and the report's files contain no script."""
    page = visited(browser, f"{address}/{paths['run']}")
    refused: list[str] = []
    page.on("console", lambda message: refused.append(message.text))
    page.evaluate(
        """() => {
          for (const given of [{ textContent: 'window.ran = 1' }, { src: 'data:text/javascript,window.ran=2' }, { src: 'https://evil.example/x.js' }])
            document.body.append(Object.assign(document.createElement('script'), given));
        }"""
    )
    page.wait_for_timeout(100)
    assert page.evaluate("window.ran === undefined")
    for kind in ("inline script", "data:text/javascript", "https://evil.example/x.js"):
        assert any(kind in text and "Content Security Policy" in text for text in refused), refused
    for kind in ("month", "audit", "months"):
        page.goto(f"{address}/{paths[kind]}")
        assert page.evaluate("document.scripts.length") == 0
    page.context.close()
