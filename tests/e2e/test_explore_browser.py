"""The cost explorer in a real browser, from a team to a run and back.

The tests use links and the form, with and without script, on a phone and a desktop.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from runspend.config.settings import Settings
from tests.actions.explain import explain_world as w
from tests.e2e.served import CHROMIUM, served

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (apt-get install chromium)")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the pages over the world of `explain`, on a loopback port."""
    home = tmp_path_factory.mktemp("home")
    w.make_explained(home / "warehouse")
    with served(Settings(home=home)) as address:
        yield address


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("has_script", [True, False])
def test_a_person_clicks_from_a_team_to_a_run_and_back(browser: Browser, address: str, width: int, has_script: bool) -> None:
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme="dark", java_script_enabled=has_script)
    page = context.new_page()
    messages: list[str] = []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(f"{error}"))
    page.goto(f"{address}/explore")
    page.get_by_role("link", name="vision", exact=True).click()
    assert page.url.endswith("by=experiment&team=vision&allocated_to=run")
    page.fill("input[name=where]", "user=ben")
    page.select_option("select[name=by]", "team,user")
    page.get_by_role("button", name="Show").click()
    assert "ben" in page.locator("#groups").inner_text()
    page.get_by_role("link", name="Remove the filter user: ben").click()
    assert page.url.endswith("by=team,user&team=vision&allocated_to=run")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    order = page.get_by_role("navigation", name="Order") if width == 390 else page.locator("#groups thead")
    order.get_by_role("link", name="cost").click()
    assert "sort=cost" in page.url
    page.go_back()
    page.locator("#runs a", has_text="vit-l16-224").click()
    assert page.url.startswith(f"{address}/run/{w.BIG}?")
    page.get_by_role("link", name="team vision").click()
    assert "vit-l16-224" in page.locator("#runs").inner_text()
    assert messages == []
    context.close()


@pytest.mark.parametrize("width", [390, 1280])
def test_a_person_reaches_a_team_and_a_run_from_home_in_three_clicks(browser: Browser, address: str, width: int) -> None:
    page = browser.new_context(viewport={"width": width, "height": 844}).new_page()
    page.goto(address)
    assert page.locator("h1").inner_text().endswith(" USD")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.locator("#teams").get_by_role("link", name="vision", exact=True).click()
    page.get_by_role("link", name="vit-l16-224").first.click()
    assert page.url.startswith(f"{address}/run/{w.BIG}?")
    page.goto(f"{address}/team/vision")
    assert "/explore?by=experiment&team=vision" in page.url
    page.get_by_role("link", name="Home", exact=True).click()
    assert page.url == f"{address}/"
    page.context.close()


def test_a_wrong_address_has_a_way_back(browser: Browser, address: str) -> None:
    page = browser.new_page()
    page.goto(f"{address}/explore?by=nothing")
    assert "allowed values are team" in page.locator("main").inner_text()
    page.get_by_role("link", name="All costs of the newest month").click()
    assert page.locator("h1").inner_text().endswith(" USD")
    page.close()
