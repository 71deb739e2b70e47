"""A run's page shows the same as the terminal, for any run name. The guard decides before it shows anything."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from itertools import count, cycle
from pathlib import Path
from typing import Any

import html5lib
import pytest

from runspend.actions.explain import explain_run, run_as_page, run_as_text
from runspend.actions.explain.layout import currency_views
from runspend.config.settings import Settings
from runspend.interfaces.web import LOOPBACK, create_app
from runspend.warehouse.base import Reader
from tests.actions.explain import explain_world as w
from tests.hostile_names import PAYLOADS, TERMINAL
from tests.interfaces.web.test_app import nobody, request

# Strings that outsiders can choose: in MLflow, in a bill or in a store.
CHOSEN_BY_PEOPLE = {
    "run_name", "experiment_name", "user_name", "value", "came_from", "asked_for", "asked", "resource_id", "resource_key", "pool_key", "service_name", "description",
    "parent_run_id", "where", "storage_class", "charge_id", "sub_account_id",
}  # fmt: skip


@pytest.fixture(scope="module")
def settings(home: Path) -> Settings:
    """Settings for that home."""
    return Settings.model_validate(
        {
            **w.SETTINGS.model_dump(include={"tracking", "billing"}, exclude_defaults=True),
            "home": home,
            "warehouse": {"uri": str(home / "warehouse")},
        }
    )


def shape(page: str) -> list[tuple[str, tuple[str, ...]]]:
    """Return the elements of a page with the names of their attributes, in order."""
    tree = html5lib.parse(page, namespaceHTMLElements=False)
    return [(str(e.tag), tuple(sorted(e.attrib))) for e in tree.iter() if isinstance(e.tag, str)]


@pytest.mark.parametrize("run_id", [w.BIG, w.SMALL, w.TAGGED, w.LONG, w.LOST, w.NOWHERE])
def test_the_page_has_what_the_terminal_has(reader: Reader, run_id: str) -> None:
    """Every amount, share and neighbor in the text is on the page, with the sum and its check mark."""
    found = explain_run(reader, run_id, w.SETTINGS, now=w.NOW)
    text = html5lib.parse(run_as_page(found), namespaceHTMLElements=False)
    words = " ".join("".join(text.itertext()).split())
    for view in currency_views(found):
        for cell in [
            view.total,
            view.check,
            view.idle,
            *(v for b in view.blocks for r in b.rows for v in (r.line, r.line_cost, r.ran, r.share, r.effective, r.shared)),
        ]:
            assert " ".join(cell.split()) in words
    if found.no_cost is not None:
        assert found.no_cost.why in words and found.no_cost.advice in words


def test_the_strip_has_a_piece_for_every_use(reader: Reader) -> None:
    """The strip shows who used the machine in each hour. Titles contain the numbers of the ledger."""
    page = run_as_page(explain_run(reader, w.BIG, w.SETTINGS, now=w.NOW))
    titles = re.findall(r"<title>(\d+ \w+ \d\d:\d\d · [^<]+)</title>", page)
    assert len(titles) == 2 * 9  # six hours of the run, one shared and two partly idle; for wide screens and for phones
    assert "1 Oct 11:00 · e77b01aa eval-vit · 0.1111" in titles and "1 Oct 08:00 · idle · 0.2361" in titles
    assert "<svg" not in run_as_page(explain_run(reader, w.NOWHERE, w.SETTINGS, now=w.NOW))


def renamed(value: Any, names: Iterator[str], given: dict[str, str], chosen: bool = False) -> Any:
    """Return the explanation with each string that outsiders can choose replaced. Equal strings stay equal."""
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: renamed(getattr(value, f.name), names, given, f.name in CHOSEN_BY_PEOPLE) for f in fields(value)})
    if isinstance(value, tuple):
        return tuple(renamed(v, names, given) for v in value)
    if isinstance(value, str) and chosen:
        if value not in given:
            given[value] = next(names)
        return given[value]
    return value


def test_hostile_names_change_nothing_but_text(reader: Reader) -> None:
    """For 300 payloads as names, the page has the same elements and attributes. In a terminal, nothing moves the cursor."""
    found = explain_run(reader, w.BIG, w.SETTINGS, now=w.NOW)
    numbers = (f"x{n}" for n in count())
    plain = renamed(found, numbers, {})
    names, seen = cycle(PAYLOADS), dict[str, str]()
    for _ in range(40):
        given: dict[str, str] = {}
        page = run_as_page(renamed(found, names, given))
        seen |= dict.fromkeys(given.values(), "")
        assert sorted(shape(page)) == sorted(shape(run_as_page(plain)))
    assert seen.keys() == set(PAYLOADS)
    text = run_as_text(renamed(found, cycle([*TERMINAL, *PAYLOADS]), {}), history=True)
    assert not [c for c in text if not c.isprintable() and c != "\n"]
    assert len(text.splitlines()) == len(run_as_text(plain, history=True).splitlines())


def test_the_page_is_served_under_the_policy_it_was_made_for(settings: Settings) -> None:
    """A prefix of the id is enough. The header has the page's own policy. Unknown runs return a message, and no name is executed."""
    app = create_app(settings, hosts=LOOPBACK)
    answer = request(app, f"/run/{w.BIG[:8]}")
    assert answer.status_code == 200 and answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-") and "unsafe" not in policy
    assert policy.removesuffix("; frame-ancestors 'self'") in answer.text.replace("&#39;", "'")
    assert answer.headers["cache-control"] == "private, no-store"
    unknown = request(app, "/run/3f1c9b7be2")
    assert (unknown.status_code, unknown.headers["content-type"]) == (404, "text/html; charset=utf-8")
    assert "Did you mean" in unknown.text
    for path in ("/run/", "/run/..%2f..%2fsecret", "/run/%27%3b%20drop%20table%20runs", "/run/<script>alert(1)<%2fscript>", "/run/a/b"):
        assert request(app, path).status_code == 404
    assert request(app, f"/run/{w.BIG}", "POST").status_code == 405
    assert request(app, f"/run/{w.BIG}", host="evil.example").status_code == 403


@pytest.mark.parametrize("path", [f"/run/{w.BIG}", "/run/unknown", "/run/"])
def test_a_run_asks_the_guard_first(settings: Settings, path: str) -> None:
    """Without a login the answer is 401 and does not reveal which runs exist."""
    answer = request(create_app(settings, guard=nobody), path)
    assert (answer.status_code, answer.text) == (401, "who are you?")
