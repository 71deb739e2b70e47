"""No route shows a member of one team a name of another team. Hidden names and unknown names get the same answer."""

from __future__ import annotations

import asyncio
import contextvars
import html
import itertools
import json
import re
import time
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urljoin

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute

from runspend.actions.explore.view import FILTERS, FINE_KEYS, GROUPS, MEASURES, ORDERS, STEPS
from runspend.config.settings import Settings, load_settings
from runspend.interfaces.web import Caller, create_app, groups_of
from runspend.interfaces.web.access import CALLER, headers_guard, settings_of_caller
from runspend.interfaces.web.gate import Gate
from runspend.schema.tables import TABLES
from runspend.warehouse.base import Unit
from runspend.warehouse.parquet.warehouse import ParquetWarehouse
from tests import access_world as w
from tests.allocation.chain import arrow
from tests.interfaces.web.test_app import message_of

RUN, NOT_A_RUN = w.THEIRS, "ffffff0000000000000000000000ffff"
NAMES = (w.OTHER, f"{w.DECOY}-ann", f"{w.DECOY}-boss", f"{w.DECOY}-secret", f"{w.DECOY}-shares", f"{w.DECOY}-service", f"{w.DECOY}-account", f"{w.DECOY}-source", w.DECOY)  # fmt: skip
SQL = [f"select * from {table}" for table in ("cost_daily", "run_costs", "cost_allocations", "billing_lines", "sources", "budget_status")]

# Every route, with its test requests. `{name}` is replaced by each name of the other team.
# Each dimension, and each option, at least once.
OPTIONS = zip(GROUPS, itertools.cycle(MEASURES), itertools.cycle(ORDERS), itertools.cycle(STEPS), strict=False)
BY_ONE = [f"?{urlencode({'by': key, 'measure': measure, 'sort': order, 'every': step})}" for key, measure, order, step in OPTIONS]
BY_TWO = [f"?by={','.join(GROUPS[n : n + 2])}" for n in range(0, len(GROUPS), 2)]  # each dimension once
COSTS = [
    "",
    *BY_ONE,
    *(f"?by=team,{key}" for key in GROUPS if key != "team"),
    *(f"?{key}={w.OTHER}" for key in FILTERS if key not in ("allocated_to", "currency")),
    "?from=2026-10-01&to=2026-10-01&by=server&top=1&compare=none",
    "?where=team={name}&by=user",
    "?currency=USD",
    "?spread=1&by=team",
    "?spread=1&by=machine,run",
]
ROUTES: dict[str, list[str]] = {
    "/": ["/", "/?currency=USD", "/?currency={name}"],
    "/icon.svg": ["/icon.svg"],
    "/icon-dark.svg": ["/icon-dark.svg"],
    "/pages.js": ["/pages.js", "/pages.js?v=1"],
    "/run/{run_id}": [f"/run/{w.MINE}", f"/run/{w.BESIDE}", f"/run/{w.BY_TYPE}", f"/run/{RUN}", f"/run/{RUN}?server=prod&workspace=default", "/run/{name}"],
    "/budget/{name:any}": ["/budget/vision", "/budget/vision?period=2026-10", "/budget/{name}", f"/budget/{w.DECOY}-of-team", f"/budget/{w.DECOY}-of-all"],
    "/explore": [f"/explore{query}" for query in COSTS],
    "/api/v1/costs": [f"/api/v1/costs{query}" for query in ("", *BY_TWO)],
    "/api/v1/costs.csv": [f"/api/v1/costs.csv{query}" for query in ("", *BY_TWO)],
    "/search": ["/search?q={name}", "/search?q=e", f"/search?q={RUN[:8]}"],
    "/api/v1/cost-groups": [
        *(f"/api/v1/cost-groups?by={key}" for key in (*FILTERS, "day", "period")),
        "/api/v1/cost-groups?by=team&where=team={name}",
        "/api/v1/cost-groups?by=service&format=csv",
    ],
    "/api/v1/runs": ["/api/v1/runs", "/api/v1/runs?format=csv", "/api/v1/runs?limit=1&offset=1"],
    "/api/v1/runs/{run_id:path}": [f"/api/v1/runs/{w.MINE}", f"/api/v1/runs/{RUN}", "/api/v1/runs/{name}"],
    "/api/v1/explain/{run_id:path}": [f"/api/v1/explain/{w.MINE}", f"/api/v1/explain/{w.BESIDE}?format=text", f"/api/v1/explain/{w.BY_TYPE}?format=text", f"/api/v1/explain/{w.BY_TYPE}", f"/api/v1/explain/{RUN}", "/api/v1/explain/{name}"],
    "/api/v1/budgets": ["/api/v1/budgets", "/api/v1/budgets?format=csv"],
    "/api/v1/sources": ["/api/v1/sources"],
    "/api/v1/sql": [f"/api/v1/sql?{urlencode({'q': sql})}" for sql in SQL],
    "/api/v1/openapi.json": ["/api/v1/openapi.json"],
    "/health": ["/health"],
    "/metrics": ["/metrics"],
    "/{path:path}": ["/2026-10.html", "/index.html", "/2026-10-runs.csv", "/runspend.yaml", "/nothing"],
    "/machine/{name:any}": ["/machine/m1", "/machine/m1?period=2026-10", "/machine/m7", "/machine/m8", f"/machine/{w.DECOY}-m2", f"/machine/{w.DECOY}-m9", f"/machine/{w.DECOY}-resource_id", f"/machine/{w.DECOY}", "/machine/m", "/machine/{name}"],
    "/line/{name:any}": ["/line/line-0", "/line/line-1?period=2026-10", "/line/line-2", "/line/line-10", "/line/line-20", "/line/line-30", "/line/line-40", "/line/line-41", f"/line/{w.DECOY}-line_id", "/line/line", "/line/{name}"],
    "/model/{name:any}": [f"/model/{w.DECOY}-model_name", "/model/{name}"],
    "/experiment/{name:any}": ["/experiment/exp", "/experiment/exp?metric=acc&best=max", f"/experiment/exp?metric={w.DECOY}-metric&best=max", "/experiment/{name}"],
    **{f"/{key}/{{value:any}}": [f"/{key}/{{name}}"] for key in FILTERS if key not in ("run", "machine", "model", "experiment")},
}  # fmt: skip


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return w.make_two_teams(tmp_path_factory.mktemp("access"))


def app_for(settings: Settings, *groups: str, name: str | None = "ben") -> FastAPI:
    return create_app(settings, lambda: Caller(name, groups))


@pytest.fixture(scope="module")
def vision(settings: Settings) -> FastAPI:
    """The pages as a member of vision sees them."""
    return app_for(settings, "vision-devs")


def ask(
    app: FastAPI, *paths: str, client: tuple[str, int] = ("127.0.0.1", 1), headers: Sequence[tuple[str, str]] = ()
) -> list[httpx.Response]:
    """Return the answers to several requests, in order."""

    async def send() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app=app, client=client)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", timeout=120) as browser:
            return [await browser.get(path, headers=[(k.encode(), v.encode("latin-1")) for k, v in headers]) for path in paths]

    return asyncio.run(send())


def one(app: FastAPI, path: str, **more: Any) -> httpx.Response:
    (answer,) = ask(app, path, **more)
    return answer


def shown(answer: httpx.Response, asked: str) -> str:
    """Return the text of an answer without the names in its address, because the reader already knows them."""
    text = html.unescape(f"{answer.text} {dict(answer.headers)}")
    for name in sorted({*NAMES, RUN, f"{w.DECOY}-of-team", f"{w.DECOY}-of-all"}, key=len, reverse=True):
        if name in asked or quote(name) in asked:
            text = text.replace(name, "").replace(quote(name), "")
    return text


def test_every_route_is_asked(vision: FastAPI) -> None:
    """A new route fails here until someone adds its test requests."""
    assert {route.path for route in vision.routes if isinstance(route, APIRoute)} == ROUTES.keys()


@pytest.mark.parametrize("route", ROUTES)
def test_no_route_says_a_name_of_another_team(route: str, vision: FastAPI) -> None:
    """The requests use dimensions, filters, formats, and the other team's runs and budgets."""
    paths = [path.replace("{name}", quote(name)) for path in ROUTES[route] for name in (NAMES if "{name}" in path else NAMES[:1])]
    answers = ask(vision, *paths)
    for path, answer in zip(paths, answers, strict=True):
        assert answer.status_code in (200, 307, 400, 403, 404), (path, answer.text)
        assert w.DECOY not in shown(answer, path), path
    if not route.startswith(("/metrics", "/api/v1/sources", "/{path", "/model")) and "{value" not in route:
        assert answers[0].status_code == 200, answers[0].text


def test_damaged_data_of_others_has_no_name(tmp_path: Path) -> None:
    """The name of a unit contains its bill or tracking server."""
    settings = w.make_two_teams(tmp_path)
    warehouse = ParquetWarehouse(tmp_path / "warehouse")
    with warehouse.step("extract", "theirs") as step:
        step.put("runs", "2026-10", f"{w.DECOY}-server", arrow("runs", [w.decoy(TABLES["runs"])]))
        assert step.publish()
    warehouse.path(Unit("runs", "2026-10", f"{w.DECOY}-server")).unlink()
    paths = (
        "/",
        "/explore",
        f"/run/{w.MINE}",
        "/search?q=v",
        "/api/v1/runs",
        f"/api/v1/sql?{urlencode({'q': 'select count(*) from runs'})}",
    )
    answers = ask(app_for(settings, "vision-devs"), *paths)
    assert 503 in {answer.status_code for answer in answers}
    for path, answer in zip(paths, answers, strict=True):
        assert answer.status_code in (200, 503) and w.DECOY not in answer.text, path
    assert f"{w.DECOY}-server" in one(app_for(settings, "finance"), paths[-1]).text


def test_those_who_see_all_are_answered_with_every_name(settings: Settings) -> None:
    """The same requests find the marks, which shows that the test above can fail."""
    finance = app_for(settings, "vision-devs", "finance")
    for path in ("/", "/explore?by=experiment", "/api/v1/runs", f"/run/{RUN}", "/api/v1/budgets", "/api/v1/sources", "/metrics", "/2026-10.html", f"/api/v1/sql?{urlencode({'q': SQL[0]})}"):  # fmt: skip
        answer = one(finance, path)
        assert answer.status_code == 200 and w.DECOY in answer.text, path


def test_a_run_of_others_is_answered_like_one_that_does_not_exist(vision: FastAPI) -> None:
    """Apart from the requested id, both answers are identical."""
    for path in (
        "/run/{}",
        "/api/v1/runs/{}",
        "/api/v1/explain/{}",
        "/run/{}?server=prod&workspace=default",
        "/api/v1/explain/{}?period=2026-10",
    ):
        theirs, nobodys = ask(vision, path.format(RUN), path.format(NOT_A_RUN))
        assert theirs.status_code == nobodys.status_code == 404
        assert theirs.text.replace(RUN, NOT_A_RUN) == nobodys.text
    for begin in (6, 8, 31):
        theirs, nobodys = ask(vision, f"/run/{RUN[:begin]}", f"/run/{NOT_A_RUN[:begin]}")
        assert theirs.text.replace(RUN[:begin], NOT_A_RUN[:begin]) == nobodys.text


def test_a_budget_of_others_is_answered_like_one_that_does_not_exist(vision: FastAPI) -> None:
    theirs, nobodys = ask(vision, f"/budget/{w.DECOY}-of-team", "/budget/nothing-at-all")
    assert theirs.status_code == nobodys.status_code == 404
    assert message_of(theirs).replace(f"{w.DECOY}-of-team", "nothing-at-all") == message_of(nobodys)
    rows = one(vision, "/api/v1/budgets").json()["rows"]
    assert [row["budget"] for row in rows] == ["vision"]


@pytest.mark.parametrize("key", [key for key in FILTERS if key not in ("allocated_to", "currency", "kind", "confidence", "status")])
def test_a_filter_by_a_hidden_value_finds_nothing(key: str, vision: FastAPI, settings: Settings) -> None:
    """Sums do not reveal whether other teams use a name."""
    known = {row[key] for row in one(app_for(settings, "finance"), f"/api/v1/costs?by={key}").json()["rows"] if w.DECOY in f"{row[key]}"}
    assert known, "those who see all find such a value"
    *answers, nobodys = ask(vision, *(f"/api/v1/costs?{urlencode({key: value})}" for value in (*known, "nobody-has-this")))
    for value, hidden in zip(known, answers, strict=True):
        assert hidden.text.replace(value, "nobody-has-this") == nobodys.text
        assert Decimal(hidden.json()["total"]["cost"]) == 0 and hidden.json()["rows"] == []


def test_no_page_leads_a_team_to_what_it_may_not_see(vision: FastAPI) -> None:
    """Every link on a page works. None leads to the reports, or to a page about other teams' total."""
    pages = (
        "/",
        *(f"/explore?by={key}&compare=none" for key in ("team", "experiment", "run", "machine,run")),
        "/machine/m1",
        "/line/line-0",
        "/nothing",
    )
    shown = ask(vision, *pages)
    links = {urljoin(page, html.unescape(link)) for page, answer in zip(pages, shown, strict=True) for link in re.findall(r'<a href="([^"]*)"', answer.text)}  # fmt: skip
    chosen = sorted(link for link in links if "explore?" not in link) + sorted(link for link in links if "other" in link)
    assert {link: answer.status_code for link, answer in zip(chosen, ask(vision, *chosen), strict=True) if answer.status_code >= 400} == {}
    assert not any("index.html" in link or "other%20teams" in link.partition("/explore")[0] for link in links)
    assert not re.search(r"<a [^>]*>other teams</a>", "".join(answer.text for answer in shown[:2]))


def test_totals_are_those_of_the_bill(vision: FastAPI, settings: Settings) -> None:
    """The month and each of its parts cost the same for everyone. Only names differ."""
    finance = app_for(settings, "finance")

    def totals(answer: dict[str, Any]) -> tuple[Any, Any]:
        return answer["total"], answer["by_allocated_to"]

    for query in ("?by=team", "?by=team&measure=list", "?by=experiment&allocated_to=idle", "?by=machine,team&spread=1"):
        mine, whole = (one(app, f"/api/v1/costs{query}").json() for app in (vision, finance))
        assert totals(mine) == totals(whole), query
    # Each way to read has its total: the daily costs, and single charges. The other team's rows of this world differ in both.
    daily, fine = (one(finance, f"/api/v1/costs?by={key}&compare=none").json() for key in ("team", "run"))
    grouped = {key: one(vision, f"/api/v1/costs?by={key}&compare=none").json() for key in GROUPS}
    for key, answer in grouped.items():
        assert totals(answer) == totals(fine if key in FINE_KEYS else daily), key
    others = [row for row in grouped["team"]["rows"] if row["team"] == "other teams" and row["part"] == "run"]
    theirs = [row for row in daily["rows"] if row["team"] == w.OTHER and row["part"] == "run"]
    assert [(Decimal(row["cost"]), row["runs"]) for row in others] == [(sum(Decimal(row["cost"]) for row in theirs), None)]


def test_an_explanation_shows_the_share_of_others_without_a_name(vision: FastAPI) -> None:
    text = one(vision, f"/api/v1/explain/{w.MINE}?format=text").text
    assert "others 0.5" in text and "vit" in text


def test_a_user_without_a_known_group_sees_nothing(settings: Settings) -> None:
    """The user has an unknown group, a known one with other letter case, or none. Every page with costs returns 403 and a message."""
    for groups in ((), ("nobodys",), ("Finance",), ("vision-devs ",), ("all",)):
        app = app_for(settings, *groups)
        for answer in ask(
            app, "/", "/explore", "/team/vision", f"/run/{w.MINE}", "/api/v1/runs", "/api/v1/sql?q=select+1", "/metrics", "/2026-10.html"
        ):
            assert answer.status_code == 403 and "none of your groups may see them" in answer.text
            assert w.DECOY not in answer.text
        assert one(app, "/health").json() == {"status": "ok"}


def test_no_address_can_say_who_asks(settings: Settings) -> None:
    """This also holds if no proxy is in front of the pages."""
    for query in ("?groups=finance&name=x", "?guard=finance", "?who=finance"):
        assert one(create_app(settings), f"/api/v1/runs{query}").status_code in (400, 403)
        assert one(create_app(settings), f"/{query}").status_code in (400, 403)


def test_reports_are_for_those_who_see_all(vision: FastAPI) -> None:
    """A file is the same for all readers, so Runspend refers a team to the explorer. A missing file gives the same answer."""
    there, gone = ask(vision, "/2026-10.html", "/2020-02.html")
    assert there.status_code == gone.status_code == 403
    assert message_of(there) == message_of(gone) == (
        "cannot show this: reports have the costs of all teams, and you may only see those of vision. Use the home page and the explorer."
    )  # fmt: skip


def test_requests_at_the_same_time_are_not_mixed_up(settings: Settings) -> None:
    """Each request is answered for its own user."""
    app = create_app(settings, headers_guard(lambda: settings))

    async def send() -> list[tuple[str, str]]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://127.0.0.1", timeout=300) as browser:

            async def get(group: str) -> tuple[str, str]:
                while (answer := await browser.get("/api/v1/runs", headers={"X-Groups": group})).status_code == 503:
                    await asyncio.sleep(0.05)
                return group, answer.text

            return list(await asyncio.gather(*(get(group) for group in ("finance", "vision-devs", "nobody") * 6)))

    for group, text in asyncio.run(send()):
        assert (w.DECOY in text) is (group == "finance") and (w.MINE in text) is (group != "nobody"), group


def test_equal_pages_of_different_callers_are_built_for_each(settings: Settings) -> None:
    """Only users who may see the same data share the work for a page."""

    def ask_as(*groups: str) -> asyncio.Task[str]:
        def work() -> str:
            time.sleep(0.3)
            viewer = settings_of_caller(settings).viewer
            return f"{viewer and viewer.teams} {next(built)}"

        context = contextvars.copy_context()
        context.run(CALLER.set, Caller("ann", groups))
        return asyncio.get_running_loop().create_task(gate.run(work, key="page"), context=context)

    async def send() -> list[str]:
        return await asyncio.gather(ask_as("finance"), ask_as("vision-devs"), ask_as("vision-devs"), ask_as("finance", "vision-devs"))

    gate, built = Gate(at_once=2, wait=30), iter(range(9))
    all_of_it, own, own_again, both = asyncio.run(send())
    assert own == own_again and own.startswith("('vision',)")
    assert all_of_it.startswith("None") and both.startswith("None")
    assert next(built) == 3


@pytest.fixture(scope="module")
def proxied(settings: Settings) -> FastAPI:
    """The pages behind a reverse proxy."""
    return create_app(settings, headers_guard(lambda: settings))


@pytest.mark.parametrize(
    ("headers", "sees"),
    [
        ([("X-Groups", "finance")], "all"),
        ([("x-groups", " other , finance,")], "all"),
        ([("X-Groups", "vision-devs,other")], "own"),
        ([("X-Groups", "other")], "nothing"),
        ([("X-Groups", "")], "nothing"),
        ([("X-Groups", ",,")], "nothing"),
        ([("X-Groups", "finance;vision-devs")], "nothing"),
        ([("X-Groups", "finance\xa0")], "nothing"),
        ([("X-Groups", "finance\x85")], "nothing"),
        ([("X-Groups", "Ã©quipe")], "own"),  # HTTP decodes the UTF-8 of équipe this way
        ([("X-Groups", "\xe9quipe")], "own"),
        ([("X-Groups", "finance\tvision-devs")], "nothing"),
        ([], "nothing"),
        ([("X-Forwarded-Groups", "finance")], "nothing"),
        ([("X-User", "finance")], "nothing"),
        ([("X-Groups", "vision-devs"), ("X-Groups", "finance")], "nothing"),
        ([("X-Groups", "finance"), ("X-User", "a"), ("X-User", "b")], "nothing"),
    ],
)
def test_the_proxys_header_decides_which_rows_are_visible(headers: list[tuple[str, str]], sees: str, proxied: FastAPI) -> None:
    """Commas separate groups. Runspend accepts only one header, because a client may have sent the second."""
    answer = one(proxied, "/api/v1/runs", headers=headers)
    assert answer.status_code == (403 if sees == "nothing" else 200)
    assert (w.DECOY in answer.text, w.MINE in answer.text) == (sees == "all", sees != "nothing")


@pytest.mark.parametrize(("address", "trusted"), [("127.0.0.1", True), ("::1", True), ("::ffff:127.0.0.1", True), ("127.0.0.2", False), ("10.0.0.9", False), ("", False), ("unix", False)])  # fmt: skip
def test_headers_of_others_than_the_proxy_are_not_believed(address: str, trusted: bool, proxied: FastAPI) -> None:
    """Without the proxy, Runspend shows no page, not even one without costs. X-Forwarded-For has no effect."""
    headers = [("X-Groups", "finance"), ("X-Forwarded-For", "127.0.0.1")]
    for answer in ask(proxied, "/api/v1/runs", "/icon.svg", client=(address, 1), headers=headers):
        assert answer.status_code == (200 if trusted else 403)


def test_a_user_sees_own_rows_and_those_of_their_groups(settings: Settings, tmp_path: Path) -> None:
    data = json.loads((settings.home / "runspend.yaml").read_text(encoding="utf-8"))
    data["home"], data["warehouse"] = str(settings.home), {"uri": str(settings.home / "warehouse")}
    data["access"] = {
        "groups": {"vision-devs": ["vision"]},
        "users": {"cleo": "all", "ben": [w.OTHER]},
        "header": "X-Groups",
        "user_header": "X-User",
    }
    data["access_log"] = {"file": str(tmp_path / "access.jsonl")}
    (tmp_path / "runspend.yaml").write_text(json.dumps(data), encoding="utf-8")
    changed = load_settings(tmp_path / "runspend.yaml")
    app = create_app(changed, headers_guard(lambda: changed))
    seen = {}
    for user, group in (("cleo", ""), ("ben", "vision-devs"), ("dora", "vision-devs"), ("dora", "")):
        answer = one(app, "/api/v1/runs", headers=[("X-User", user), ("X-Groups", group)])
        seen[user, group] = (w.MINE in answer.text, RUN in answer.text)
    assert list(seen.values()) == [(True, True), (True, True), (True, False), (False, False)]
    logged = [json.loads(line) for line in (tmp_path / "access.jsonl").read_text(encoding="ascii").splitlines()]
    assert [(line["who"], line["groups"], line["status"]) for line in logged] == [
        ("cleo", "", 200), ("ben", "vision-devs", 200), ("dora", "vision-devs", 200), ("dora", "", 403),
    ]  # fmt: skip


class Role:
    """A role of Airflow's FAB auth manager."""

    def __init__(self, name: str) -> None:
        self.name = name


class Person:
    """A user of one of Airflow's auth managers."""

    def __init__(self, **known: object) -> None:
        self.__dict__.update(known)


def test_roles_of_airflow_are_groups() -> None:
    """The simple auth manager has one role per user, and others have lists of roles or of names. Users without roles are in no group."""
    assert groups_of(Person(role="viewer")) == ("viewer",)
    assert groups_of(Person(roles=[Role("Vision"), Role("Op")])) == ("Vision", "Op")
    assert groups_of(Person(roles=["Vision"], role=None)) == ("Vision",)
    assert groups_of(Person()) == groups_of(Person(role=None)) == groups_of(Person(roles="Admin")) == ()


def test_without_access_everything_is_as_before(settings: Settings) -> None:
    """Everyone who can open the pages sees all costs."""
    plain = settings.model_copy(update={"access": None})
    answer = one(create_app(plain), "/api/v1/runs")
    assert answer.status_code == 200 and w.DECOY in answer.text
    assert re.search(w.DECOY, one(create_app(plain), "/2026-10.html").text)
