"""The cost explorer's page and its data are guarded and read-only. Every error has a message."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as effort
from hypothesis import strategies as st

from runspend.config.settings import Settings
from runspend.interfaces.web import LOOPBACK, create_app
from runspend.schema.tables import TABLES
from runspend.warehouse.parquet.warehouse import ParquetWarehouse
from tests.actions.explain import explain_world as w
from tests.hostile_names import SCRIPTS
from tests.interfaces.web.test_app import nobody, request

PATHS = ("/explore", "/api/v1/costs", "/api/v1/costs.csv")


OWN_TAGS = {
    "html", "head", "meta", "title", "link", "style", "body", "header", "div", "span", "strong", "a", "h1", "p", "b", "main", "nav", "form", "label", "input",
    "select", "option", "button", "ul", "li", "section", "h2", "svg", "rect", "line", "text", "polyline", "table", "thead", "tbody", "tr", "th", "td", "code", "footer", "script",
}  # fmt: skip


class Tags(HTMLParser):
    """Collects a page's tags, their attributes, and the targets of its links and forms."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.targets: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Record one tag."""
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.targets |= {value or "" for name, value in attrs if name in ("href", "src", "action")}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the warehouse of `explain`."""
    home = tmp_path_factory.mktemp("explored")
    w.make_explained(home / "warehouse")
    return home


def settings_of(home: Path, **more: object) -> Settings:
    return Settings.model_validate({"home": str(home), "warehouse": {"uri": str(home / "warehouse")}, **more})


def test_a_page_has_the_figures_of_its_data_and_leads_on(home: Path) -> None:
    app = create_app(settings_of(home))
    page = request(app, "/explore?by=team")
    data = request(app, "/api/v1/costs?by=team").json()
    assert page.status_code == 200
    assert f"{float(data['total']['cost']):,.2f}" in page.text
    assert page.text.count("<script") == 1
    assert page.headers["content-security-policy"].endswith("form-action 'self'; frame-ancestors 'self'")
    assert f'href="run/{w.BIG}?server=prod&amp;workspace=default"' in page.text
    [into] = re.findall(r'href="([^"]*)">vision</a>', page.text)
    vision = request(app, f"/explore{into.replace('&amp;', '&')}")
    assert vision.status_code == 200
    [row] = [row for row in data["rows"] if row["team"] == "vision"]
    assert f"{float(row['cost']):,.2f}" in vision.text
    assert "vit-l16-224" in vision.text


def test_a_missing_name_is_untagged_and_any_other_value_names_its_dimension(home: Path) -> None:
    page = request(create_app(settings_of(home)), "/explore?by=project,user").text
    assert ">untagged</a>" in page and "no user" in page and "no project" not in page


@pytest.mark.parametrize(
    ("address", "leads_to"),
    [
        ("/team/vision", "../explore?by=experiment&team=vision"),
        ("/project/%2FUsers%2Fa%2Fb%20c", "../explore?by=experiment&project=%2FUsers%2Fa%2Fb%20c"),
        ("/project/a/b", "../../explore?by=experiment&project=a%2Fb"),
        ("/user/", "../explore?by=experiment&user="),
        ("/service/%22%3E%3Cscript%3E", "../explore?by=account&service=%22%3E%3Cscript%3E"),
    ],
)
def test_short_addresses_lead_to_the_explorer(home: Path, address: str, leads_to: str) -> None:
    answer = request(create_app(settings_of(home)), address)
    assert (answer.status_code, answer.headers["location"]) == (307, leads_to)
    assert request(create_app(settings_of(home)), f"{address}%0d%0aSet-Cookie:x").status_code in (307, 404)
    assert "set-cookie" not in request(create_app(settings_of(home)), f"{address}%0d%0aSet-Cookie:x").headers


@pytest.mark.parametrize(("path", "up"), [("/nothing", ""), ("/run/ffffffffffff", "../"), ("/a/b/c", "../../"), ("/a%2Fb/c", "../")])
def test_a_page_that_cannot_be_shown_leads_back(home: Path, path: str, up: str) -> None:
    answer = request(create_app(settings_of(home)), path)
    tags = Tags()
    tags.feed(answer.text)
    assert answer.status_code == 404
    assert {f"{up}./", f"{up}explore", f"{up}search", f"{up}index.html"} <= tags.targets


def test_a_budget_has_a_page_at_its_name(home: Path) -> None:
    budget = {"name": "vision.v2", "amount": 10, "every": "month", "for": {"team": "vision"}, "notify": ["a@example.com"]}
    app = create_app(settings_of(home, budgets=[budget]))
    address = "/budget/vision.v2"
    page = request(app, f"{address}?period=2026-10")
    assert page.status_code == 200 and page.text.count("<script") == 1
    assert 'href="../explore' in page.text
    [link] = re.findall(r'href="(budget/[^"]*)"', request(app, "/").text)
    assert re.fullmatch(rf"{re.escape(address)}\?period=\d{{4}}-\d\d", f"/{link}")
    assert request(app, f"/{link}").status_code == 200
    assert request(app, f"{address}?period=never").status_code == 400
    assert request(app, "/budget/none").status_code == 404
    assert request(app, "/budget/").status_code == 404


def test_the_links_of_the_home_page_work_and_its_figures_match(home: Path) -> None:
    app = create_app(settings_of(home))
    page = request(app, "/")
    tags = Tags()
    tags.feed(page.text)
    assert page.status_code == 200 and page.text.count("<script") == 1
    assert tags.tags <= OWN_TAGS | {"footer", "small", "details", "summary", "h3"}
    for target in {one.partition("#")[0] for one in tags.targets} - {"data:,", "2026-10.html", "index.html"}:  # this home has no reports
        assert request(app, f"/{target.removeprefix('./')}").status_code == 200 or target == "search", target
    total = request(app, "/api/v1/costs?from=2026-10-01&to=2026-10-03").json()["total"]["cost"]
    assert f"{float(total):,.2f} USD" in page.text
    assert "bills are in USD" in request(app, "/?currency=EUR").text
    assert request(app, "/?curency=USD").status_code == 400
    without_rate = request(create_app(settings_of(home, currency="EUR")), "/")
    assert without_rate.status_code == 400 and 'href="?currency=USD"' in without_rate.text
    assert request(create_app(settings_of(home, currency="EUR")), "/?currency=USD").status_code == 200
    hidden = request(create_app(settings_of(home, mail={"people": "hide"})), "/")
    assert hidden.status_code == 200 and "ben" not in re.sub(r"<[^>]*>", " ", hidden.text).split()


def test_every_link_of_a_page_answers(home: Path) -> None:
    """Three pages and everything they link to work: ranges, orders, groups, filters and data."""
    app = create_app(settings_of(home))
    for start in (
        "/explore?by=team,experiment&where=kind%3Dcompute",
        "/explore?by=service&sort=name&every=week",
        "/explore?allocated_to=idle&by=account",
    ):
        page = request(app, start)
        assert page.status_code == 200
        links = {link.replace("&amp;", "&") for link in re.findall(r'href="([^"]+)"', page.text)} - {"data:,", "./", "index.html"}
        assert len(links) > 10
        for link in links:
            answer = request(app, f"/explore{link}" if link.startswith("?") else f"/{link}")
            assert answer.status_code == 200, (link, answer.text[:300])


@pytest.mark.parametrize("path", PATHS)
def test_each_path_is_guarded_and_read_only(home: Path, path: str) -> None:
    app = create_app(settings_of(home), guard=nobody)
    assert request(app, path).status_code == 401
    assert request(create_app(settings_of(home)), path, "POST").status_code == 405
    assert request(create_app(settings_of(home), hosts=LOOPBACK), path, host="evil.example").status_code == 403


@pytest.mark.parametrize("path", PATHS)
def test_a_wrong_address_is_400_with_a_sentence(home: Path, path: str) -> None:
    answer = request(create_app(settings_of(home)), f"{path}?by=%3Cscript%3E")
    assert answer.status_code == 400
    assert "allowed values are team, project" in answer.text
    assert "<script>" not in answer.text or path != "/explore"
    if path != "/explore":
        assert answer.json()["error"].startswith("cannot read by=")


@effort(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                [
                    "from",
                    "to",
                    "by",
                    "where",
                    "measure",
                    "compare",
                    "every",
                    "sort",
                    "top",
                    "team",
                    "user",
                    "kind",
                    "currency",
                    "allocated_to",
                    "run",
                    "model",
                    "machine",
                    "instance_type",
                    "spread",
                    "x",
                ]
            ),
            st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
            | st.sampled_from(
                ["2026-10-01", "2026-10-03", "team", "kind,user", "list", "week", "-change", "3", "run", "1", "USD", "EUR", "machine=m1"]
            ),
        ),
        max_size=5,
    )
)
def test_no_address_is_an_error_without_a_sentence(home: Path, query: list[tuple[str, str]]) -> None:
    app = create_app(settings_of(home))
    answer = request(app, "/api/v1/costs?" + "&".join(f"{key}={quote(value)}" for key, value in query))
    assert answer.status_code in (200, 400), (query, answer.text)
    assert answer.json()


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    """Teams, services and filters have scripts as names. The page shows them as text, and contains only its own tags."""
    warehouse = ParquetWarehouse(tmp_path / "warehouse")
    schema = TABLES["cost_daily"].arrow_schema()
    row = {
        "source": "aws", "billing_period": w.NOW.date().replace(day=1), "charge_date": w.NOW.date(), "billing_currency": "USD", "allocated_to": "run",
        "cost_kind": "compute", "is_spread": False, **dict.fromkeys(("list_cost", "contracted_cost", "effective_cost", "billed_cost"), 1),
    }  # fmt: skip
    rows = [{**row, "team": name, "service_name": name} for name in SCRIPTS]
    table = pa.Table.from_pylist([{name: one.get(name) for name in schema.names} for one in rows], schema=schema)
    with warehouse.step("test", "test") as step:
        step.put("cost_daily", f"{w.NOW:%Y-%m}", "all", table)
        assert step.publish()
    app = create_app(settings_of(tmp_path))
    for query in ("by=team,service", f"by=service&team={quote(SCRIPTS[0])}", *(f"team={quote(name)}" for name in SCRIPTS[:8])):
        page = request(app, f"/explore?{query}")
        assert page.status_code == 200
        found = Tags()
        found.feed(page.text)
        assert found.tags <= OWN_TAGS and page.text.lower().count("<script") == 1
        assert not [name for name in found.attributes if name.startswith("on") or name == "style"]
        assert all(
            re.match(r"(\?|run/|explore$|search$|index\.html$|\./$|api/v1/costs|pages\.js\?v=|data:,$)", target) for target in found.targets
        ), found.targets
    sheet = request(app, "/api/v1/costs.csv?by=team").text
    assert len(sheet.splitlines()) >= len(SCRIPTS)


def test_people_are_hidden_where_reports_hide_them(home: Path) -> None:
    app = create_app(settings_of(home, mail={"people": "hide"}))
    page = request(app, "/explore?by=team")
    assert page.status_code == 200
    assert ">ben<" not in page.text
    assert 'value="user"' not in page.text
    for query in ("by=user", "user=ben", "where=owner%3Dben"):
        assert request(app, f"/explore?{query}").status_code == 400
    assert "ben" not in json.dumps(request(app, "/api/v1/costs?by=team").json())


def test_without_a_bill_the_page_says_what_to_run(tmp_path: Path) -> None:
    answer = request(create_app(settings_of(tmp_path)), "/explore")
    assert answer.status_code == 404
    assert "no bill has been loaded yet. Run: runspend nightly" in answer.text


def test_a_run_id_of_two_servers_leads_to_each(home: Path) -> None:
    app = create_app(settings_of(home))
    assert request(app, f"/run/{w.TWICE}").status_code == 404
    for server in ("prod", "lab"):
        answer = request(app, f"/run/{w.TWICE}?server={server}&workspace=default")
        assert answer.status_code == 200
        assert f"<span>{server} · default" in answer.text


def test_a_search_finds_runs_and_names_and_leads_to_their_costs(home: Path) -> None:
    app = create_app(settings_of(home))
    for text, link in (("VIT-L16", w.BIG), (w.BIG[:6], w.BIG), ("vis", "team=vision")):
        page = request(app, f"/search?q={quote(text)}")
        assert page.status_code == 200
        [found] = [link_ for link_ in re.findall(r'href="([^"]*)"', page.text) if link in link_]
        assert request(app, f"/{found.replace('&amp;', '&')}").status_code == 200
    assert "No name contains" in request(app, "/search?q=%3Cscript%3E").text
    assert "<script>" not in request(app, "/search?q=%3Cscript%3E").text
    for wrong in ("", "q=", f"q={'x' * 201}", "q=%00"):
        assert request(app, f"/search?{wrong}").status_code == 400
    assert request(create_app(settings_of(home), guard=nobody), "/search?q=vit").status_code == 401
    hidden = create_app(settings_of(home, mail={"people": "hide"}))
    assert "user=ben" in request(app, "/search?q=ben").text
    assert "user=ben" not in request(hidden, "/search?q=ben").text


def test_experiments_do_not_name_people_where_reports_hide_them(tmp_path: Path) -> None:
    """Databricks puts a user's address into the names of experiments."""
    name = "/Users/anna.smith@acme.example/llm"
    schema = TABLES["cost_daily"].arrow_schema()
    row = {
        "source": "aws", "billing_period": w.NOW.date().replace(day=1), "charge_date": w.NOW.date(), "billing_currency": "USD", "allocated_to": "run",
        "cost_kind": "compute", "is_spread": False, "experiment_name": name, **dict.fromkeys(("list_cost", "contracted_cost", "effective_cost", "billed_cost"), 1),
    }  # fmt: skip
    with ParquetWarehouse(tmp_path / "warehouse").step("test", "test") as step:
        step.put("cost_daily", f"{w.NOW:%Y-%m}", "all", pa.Table.from_pylist([{n: row.get(n) for n in schema.names}], schema=schema))
        assert step.publish()
    shown, hidden = create_app(settings_of(tmp_path)), create_app(settings_of(tmp_path, mail={"people": "pseudonym"}))
    for path in (*(f"{path}?by=experiment" for path in PATHS), "/search?q=llm"):
        assert "anna" in request(shown, path).text, path
        assert "anna" not in request(hidden, path).text, path


def test_an_unreachable_warehouse_is_503_and_names_no_place(tmp_path: Path) -> None:
    app = create_app(
        Settings.model_validate({"home": str(tmp_path), "warehouse": {"uri": "s3://secret-bucket/wh", "endpoint": "http://127.0.0.1:9"}})
    )
    for path in (*PATHS, "/search?q=x", "/run/abcdef12"):
        answer = request(app, path)
        assert answer.status_code == 503, (path, answer.text)
        assert "secret-bucket" not in answer.text
