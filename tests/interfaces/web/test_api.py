"""The HTTP API for programs: exact figures of the commands, a document that describes it, and a message in every error."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import re
import threading
from collections.abc import Iterator
from datetime import datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import httpx
import pyarrow as pa
import pytest
from fastapi import FastAPI
from fastapi.openapi.models import OpenAPI
from hypothesis import HealthCheck, example, given
from hypothesis import settings as effort
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

import runspend
from runspend.config.settings import Settings, load_settings
from runspend.interfaces.web import LOOPBACK, api, create_app
from runspend.interfaces.web.metrics import Gauge, metrics_text, read_metrics
from runspend.schema.tables import TABLES
from tests.actions.explain import explain_world as w
from tests.command import run_here
from tests.hostile_names import SCRIPTS
from tests.interfaces.web.test_app import nobody, request

API = "/api/v1"
TABULAR = ("/runs", f"/runs/{w.BIG}", "/cost-groups", "/budgets", "/sources", "/sql?q=select+1+as+one")
ROUTES = (*TABULAR, f"/explain/{w.BIG}", "/costs", "/openapi.json")
HIDDEN = {"mail": {"people": "hide"}}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The warehouse of `explain`, with a budget."""
    folder = tmp_path_factory.mktemp("api")
    w.make_explained(folder / "warehouse")
    settings = {
        "home": ".",
        "tracking": [{"name": "prod", "uri": "https://mlflow.example.com"}],
        "billing": [{"name": "aws", "uri": "bills"}],
        "budgets": [
            {"name": "vision", "for": {"team": "vision"}, "amount": 100, "notify": ["ana@example.com"], "owner": "ana@example.com"}
        ],
        "mail": {"backend": "file"},
    }
    (folder / "runspend.yaml").write_text(json.dumps(settings), encoding="utf-8")  # JSON is YAML
    return folder / "runspend.yaml"


@pytest.fixture(scope="module")
def app(config: Path) -> FastAPI:
    return create_app(load_settings(config))


def ask(app: object, address: str) -> Any:
    """Return the JSON at an address."""
    answer = request(app, f"{API}{address}")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/json"
    return answer.json()


def arrow_of(answer: httpx.Response) -> pa.Table:
    assert answer.status_code == 200, answer.text
    with pa.ipc.open_stream(answer.content) as stream:
        return stream.read_all()


def printed(config: Path, *words: str) -> Any:
    return json.loads(run_here(*words, "--json", "--config", str(config)).stdout)


def test_pages_of_runs_are_the_table_run_costs(app: FastAPI, config: Path) -> None:
    """Pages follow the `Link` header. In each format, they have the Python interface's rows in its order, with all digits."""
    expected = runspend.connect(config).run_costs().to_arrow()
    assert expected.num_rows > 10
    texts, sheets, tables = [], [], []
    for form in ("json", "csv", "arrow"):
        address = f"?limit=4&format={form}"
        while address:
            answer = request(app, f"{API}/runs{address}")
            if form == "json":
                texts += answer.json()["rows"]
            elif form == "csv":
                sheets += csv.DictReader(io.StringIO(answer.text))
            else:
                tables.append(arrow_of(answer))
            address = answer.links["next"]["url"] if answer.links else ""
    assert pa.concat_tables(tables).equals(expected)
    assert len(tables) == -(-expected.num_rows // 4)
    for rows in (texts, sheets):
        assert [row["run_id"] for row in rows] == expected["run_id"].to_pylist()
        assert [Decimal(row["effective_cost"]) for row in rows if row["effective_cost"]] == [
            cost for cost in expected["effective_cost"].to_pylist() if cost is not None
        ]
    assert texts[0]["start_time"] == "2026-10-01T00:00:00Z"


def test_runs_are_chosen_by_their_start(app: FastAPI) -> None:
    assert [row["run_id"] for row in ask(app, "/runs?since=2026-10-20&until=2026-10")["rows"]] == [w.LATE]
    assert ask(app, "/runs?since=2026-11")["rows"] == []
    assert ask(app, "/runs?offset=1000") == {"built_at": None, "next_offset": None, "rows": []}


def test_a_run_is_found_as_its_page_is(app: FastAPI) -> None:
    found = ask(app, f"/runs/{w.BIG[:8]}")
    assert (found["run_id"], found["tracking_server"]) == (w.BIG, "prod")
    assert [row["billing_currency"] for row in found["rows"]] == ["USD"]
    for path in ("runs", "explain"):
        twice = request(app, f"{API}/{path}/{w.TWICE}")
        assert twice.status_code == 404 and "2 match" in twice.json()["error"]
        assert request(app, f"{API}/{path}/{w.TWICE}?server=lab&workspace=default").status_code == 200
        assert request(app, f"{API}/{path}/{w.TWICE}?server=lab").status_code == 400
        assert request(app, f"{API}/{path}/ffffffffffff").status_code == 404
        assert request(app, f"{API}/{path}/ff").status_code == 400


def test_an_explanation_is_that_of_the_command(app: FastAPI, config: Path) -> None:
    assert ask(app, f"/explain/{w.BIG}") == printed(config, "explain", w.BIG)
    assert ask(app, f"/explain/{w.BIG}?period=2026-10")["period"] == "2026-10"
    text = request(app, f"{API}/explain/{w.BIG}?format=text")
    assert text.text == run_here("explain", w.BIG, "--config", str(config)).stdout
    assert request(app, f"{API}/explain/{w.BIG}?period=2026-13").status_code == 400


def test_groups_are_those_of_the_command(app: FastAPI, config: Path) -> None:
    words = ("--by", "team,kind", "--since", "2026-10", "--until", "2026-10-02", "--where", "allocated_to=run", "--measure", "list")
    query = urlencode(
        {"by": "team,kind", "since": "2026-10", "until": "2026-10-02", "where": "allocated_to=run", "measure": "list", "top": "2"}
    )
    rows = ask(app, f"/cost-groups?{query}")["rows"]
    expected = printed(config, "costs", *words, "--top", "2")
    assert [(row["team"], Decimal(row["list_cost"])) for row in rows] == [(row["team"], Decimal(row["list_cost"])) for row in expected]
    assert len(rows) == 2
    found = arrow_of(request(app, f"{API}/cost-groups?by=day&format=arrow&top=100000"))
    assert found.equals(runspend.connect(config).costs(by="day").to_arrow())
    for wrong, why in (
        ("by=teem", "cannot group costs by 'teem'"),
        ("where=team", "KEY=VALUE"),
        ("where=x=1", "allowed keys are"),
        ("period=2026-13", "2026-13"),
    ):
        answer = request(app, f"{API}/cost-groups?{wrong}")
        assert answer.status_code == 400 and why in answer.json()["error"], answer.text


def test_budgets_are_those_of_the_command(app: FastAPI, config: Path) -> None:
    [row] = ask(app, "/budgets")["rows"]
    [expected] = printed(config, "budgets", "list")
    assert {key: value for key, value in row.items() if key != "amount"} == {k: v for k, v in expected.items() if k != "amount"}
    assert Decimal(row["amount"]) == Decimal(expected["amount"])
    [sheet] = csv.DictReader(io.StringIO(request(app, f"{API}/budgets?format=csv").text))
    assert (sheet["budget"], sheet["notify"]) == ("vision", '["ana@example.com"]')
    assert arrow_of(request(app, f"{API}/budgets?format=arrow"))["amount"].to_pylist() == [Decimal(100)]


def test_sources_say_how_new_a_bill_is(app: FastAPI) -> None:
    [row] = ask(app, "/sources")["rows"]
    assert (row["source"], row["kind"], row["state"], row["newest_charge_date"], row["quarantined_rows"]) == (
        "aws",
        "bill",
        "ok",
        "2026-10-03",
        0,
    )


def test_sql_gives_the_rows_of_the_command(app: FastAPI, config: Path) -> None:
    statement = "select run_id, effective_cost, start_time, machine_seconds from run_costs order by run_id"
    expected = runspend.connect(config).sql(statement).to_arrow()
    assert arrow_of(request(app, f"{API}/sql?format=arrow&q={quote(statement)}")).equals(expected)
    found = ask(app, f"/sql?limit=3&q={quote(statement)}")
    assert (found["is_cut"], found["limit"], found["columns"]) == (True, 3, expected.column_names)
    assert [row["run_id"] for row in found["rows"]] == expected["run_id"].to_pylist()[:3]
    cut = request(app, f"{API}/sql?limit=3&format=csv&q={quote(statement)}")
    assert (cut.headers["runspend-is-cut"], len(cut.text.splitlines())) == ("true", 4)
    whole = request(app, f"{API}/sql?limit={expected.num_rows}&format=csv&q={quote(statement)}")
    assert (whole.headers["runspend-is-cut"], len(whole.text.splitlines())) == ("false", expected.num_rows + 1)


def test_values_that_json_and_spreadsheets_lack_become_text(app: FastAPI) -> None:
    statement = "select '=1+1' as `=cmd`, -1.5 as amount, cast('nan' as float64) as f, [1, 2] as many, date '2026-10-01' as d, cast(null as string) as n, b'a' as raw"
    [row] = ask(app, f"/sql?q={quote(statement)}")["rows"]
    assert row == {"=cmd": "=1+1", "amount": "-1.5", "f": "nan", "many": [1, 2], "d": "2026-10-01", "n": None, "raw": "YQ=="}
    names, cells = csv.reader(io.StringIO(request(app, f"{API}/sql?format=csv&q={quote(statement)}").text))
    assert names[0] == "'=cmd"
    assert cells[:6] == ["'=1+1", "-1.5", "nan", "[1, 2]", "2026-10-01", ""]


@pytest.mark.parametrize(
    "statement",
    ["delete from runs", "select * from read_csv('/etc/passwd')", "select * from nothing", "select", "select 1; select 2", "select @x"],
)
def test_a_statement_that_is_refused_is_400(app: FastAPI, statement: str) -> None:
    answer = request(app, f"{API}/sql?q={quote(statement)}")
    assert answer.status_code == 400 and answer.json()["error"].startswith("cannot "), answer.text
    assert "--native" not in answer.text


def test_a_statement_cannot_last_or_grow_for_ever(app: FastAPI) -> None:
    many = " cross join ".join(f"cost_daily c{n}" for n in range(9))
    slow = request(app, f"{API}/sql?timeout=1&q={quote(f'select count(*) as n from {many}')}")
    assert slow.status_code == 400 and "took longer than 1 s" in slow.json()["error"]
    assert ask(app, f"/sql?limit=10&q={quote(f'select c0.source from {many}')}")["is_cut"]
    large = request(app, f"{API}/sql?q={quote('select repeat(source, 10000000) as x from cost_daily')}")
    assert large.status_code == 400 and "64 MB" in large.json()["error"]


def test_a_slow_statement_keeps_no_page_waiting(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two statements, the second is asked to come back. Meanwhile, pages and other routes answer."""
    has_begun, may_end, answer_statement = threading.Event(), threading.Event(), api.answer_statement

    def slow(*given: Any, **named: Any) -> Any:
        has_begun.set()
        assert may_end.wait(120)
        return answer_statement(*given, **named)

    monkeypatch.setattr(api, "answer_statement", slow)

    async def ask_all() -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://127.0.0.1", timeout=60) as client:
            statement = asyncio.create_task(client.get(f"{API}/sql?q=select+1+as+one"))
            try:
                assert await asyncio.to_thread(has_begun.wait, 60)
                others = [await client.get(path) for path in (f"{API}/runs", "/health", f"/run/{w.BIG}", "/explore")]
                second = await client.get(f"{API}/sql?q=select+1+as+one")
                assert not statement.done()
            finally:
                may_end.set()
            return [await statement, second, *others]

    first, second, *others = asyncio.run(ask_all())
    assert [answer.status_code for answer in others] == [200] * 4
    assert (first.status_code, second.status_code) == (200, 503)
    assert second.headers["retry-after"] and "busy" in second.json()["error"]


def test_statements_are_logged_without_their_values(config: Path, tmp_path: Path) -> None:
    settings = {
        "home": str(tmp_path),
        "warehouse": {"uri": str(config.parent / "warehouse")},
        "access_log": {"file": str(tmp_path / "log")},
    }

    def vera() -> str:
        return "vera"

    app = create_app(Settings.model_validate(settings), guard=vera)
    assert request(app, f"{API}/sql?q={quote('select run_id from runs where run_name = ' + repr('secret'))}").status_code == 200
    assert request(app, f"{API}/sql?q={quote('delete from runs')}").status_code == 400
    lines = [json.loads(line) for line in (tmp_path / "log").read_text(encoding="ascii").splitlines()]
    assert [(line["who"], line["kind"], line.get("error"), line["rows"]) for line in lines] == [
        ("vera", "sql", None, 0),
        ("vera", "page", None, 0),
        ("vera", "sql", "SqlRefused", None),
        ("vera", "page", None, None),
    ]
    assert lines[0]["what"] == "select run_id from runs where run_name = ?"
    assert lines[1]["what"] == "/api/v1/sql"


@pytest.mark.parametrize("path", [f"{API}{route}" for route in ROUTES] + ["/health", "/metrics", f"{API}/nothing"])
def test_each_path_is_guarded_and_read_only(config: Path, path: str) -> None:
    settings = load_settings(config)
    is_json = path.startswith(API)
    for answer, status in (
        (request(create_app(settings, guard=nobody), path), 401),
        (request(create_app(settings), path, "POST"), 405),
        (request(create_app(settings, hosts=LOOPBACK), path, host="evil.example"), 403),
    ):
        assert answer.status_code == status, answer.text
        assert not is_json or list(answer.json()) == ["error"]


def test_unknown_paths_are_404_as_json(app: FastAPI) -> None:
    for path in (
        "/api/v1/nothing",
        "/api/v1",
        "/api/v1/",
        "/api/",
        "/api/v2/runs",
        "/api/v1/..%2f..%2fetc",
    ):
        answer = request(app, path)
        assert (answer.status_code, answer.json()) == (404, {"error": "no such page."}), path


def test_errors_are_json_below_another_address_too(config: Path) -> None:
    outer = FastAPI()
    outer.mount("/runspend", create_app(load_settings(config)))
    assert request(outer, f"/runspend{API}/nothing").json() == {"error": "no such page."}
    assert request(outer, f"/runspend{API}/sources").status_code == 200
    assert "no such page." in request(outer, "/runspend/nothing").text


HOSTILE = [
    *SCRIPTS[:10], "../../etc/passwd", "%00abcdef", "' or 1=1 --------", "\N{RIGHT-TO-LEFT OVERRIDE}abcdef", "a" * 3000, "\N{PILE OF POO}" * 20, "runs:/abcdef12", "x" * 6 + "\r\nSet-Cookie: a",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_ids_are_data(app: FastAPI, name: str) -> None:
    for path in ("runs", "explain"):
        answer = request(app, f"{API}/{path}/{quote(name, safe='')}")
        assert answer.status_code in (400, 404), answer.text
        assert answer.headers["content-type"] == "application/json"
        assert "set-cookie" not in answer.headers and answer.json()["error"]


WORDS = ["2026-10", "2026-10-01", "0001-01", "9999-12-31", "2026-13", "1", "0", "999999999", "json", "csv", "arrow", "text", "team", "team,day", "kind=compute", "true", "USD", "select 1 as x"]  # fmt: skip
KEYS = ["since", "until", "limit", "offset", "format", "by", "where", "measure", "top", "period", "each_currency", "server", "workspace", "q", "timeout", "x"]  # fmt: skip


@example("/cost-groups", [("period", "0001-01")])
@effort(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["/runs", f"/runs/{w.SMALL}", f"/explain/{w.SMALL}", "/cost-groups", "/budgets", "/sources", "/sql", "/openapi.json"]),
    st.lists(
        st.tuples(st.sampled_from(KEYS), st.sampled_from(WORDS) | st.text(st.characters(exclude_categories=("Cs",)), max_size=8)),
        max_size=4,
    ),
)
def test_no_address_is_an_error_without_a_sentence(app: FastAPI, path: str, query: list[tuple[str, str]]) -> None:
    answer = request(app, f"{API}{path}?" + "&".join(f"{key}={quote(value)}" for key, value in query))
    assert answer.status_code in (200, 400), (path, query, answer.text)
    if answer.status_code == 400:
        assert answer.json()["error"].startswith("cannot "), answer.text


def test_names_of_people_are_hidden_on_every_route(tmp_path: Path) -> None:
    """Users, owners and experiments in a person's folder are hidden. SQL is refused, because it could read them."""
    warehouse = w.make_explained(tmp_path / "warehouse")
    with warehouse.step("test", "test") as step:
        for table in ("run_costs", "cost_daily", "runs"):
            for unit in warehouse.states(table):
                rows = warehouse.read(unit)
                assert rows is not None
                named = {"owner": "ben.jones@acme.example", "user_name": "ben", "experiment_name": "/Users/ben.jones@acme.example/llm"}
                changed = [{**row, **{key: value for key, value in named.items() if key in row}} for row in rows.to_pylist()]
                step.put(*unit, pa.Table.from_pylist(changed, schema=TABLES[table].arrow_schema()))
        assert step.publish()
    config = {
        "home": str(tmp_path),
        "warehouse": {"uri": str(tmp_path / "warehouse")},
        "budgets": [{"name": "v", "amount": 5, "notify": ["ben@acme.example"], "owner": "ben@acme.example"}],
    }
    shown, hidden = create_app(Settings.model_validate(config)), create_app(Settings.model_validate({**config, **HIDDEN}))
    paths = ["/runs", f"/runs/{w.BIG}", f"/runs/{w.TWICE}", f"/runs/{w.BIG[:4]}99", f"/explain/{w.BIG}", f"/explain/{w.BIG}?format=text", "/cost-groups?by=experiment", "/budgets"]  # fmt: skip
    paths += [f"/runs/{w.BIG}?format=csv", "/runs?format=arrow", "/budgets?format=csv"]
    for path in paths:
        assert b"ben" in request(shown, f"{API}{path}").content, path
        assert b"ben" not in request(hidden, f"{API}{path}").content, path
    for path in ("/cost-groups?by=user", "/cost-groups?by=team,owner", "/cost-groups?where=user%3Dben"):
        assert request(hidden, f"{API}{path}").status_code == 400
    assert "/Users/…/llm" in request(hidden, f"/run/{w.BIG}").text and "ben" not in request(hidden, f"/run/{w.BIG}").text
    refused = request(hidden, f"{API}/sql?q=select+1+as+one")
    assert refused.status_code == 403 and "mail.people" in refused.json()["error"]


def test_the_document_describes_each_route_and_its_examples_answer(app: FastAPI) -> None:
    """The document contains every route and parameter of the API. Its example requests return what its schema describes."""
    document = ask(app, "/openapi.json")
    OpenAPI.model_validate(document)
    assert document["openapi"] == "3.1.0"
    page = (Path(__file__).parents[3] / "docs" / "api.md").read_text(encoding="utf-8")
    assert [path for path in document["paths"] if f"`{API}{path}" not in page] == []
    served = {route.path.replace(":path}", "}") for route in app.routes if getattr(route, "path", "").startswith(API)}
    assert served == {f"{API}{path}" for path in document["paths"]}
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    for path, item in document["paths"].items():
        operation = item["get"]
        assert operation["summary"] and operation["description"] and operation["operationId"]
        for parameter in operation["parameters"]:
            assert parameter["description"] and parameter["schema"], (path, parameter)
            Draft202012Validator.check_schema(parameter["schema"])
            if "example" in parameter:
                Draft202012Validator(parameter["schema"]).validate(parameter["example"])
        assert {"200"} < operation["responses"].keys() or path == "/openapi.json"
        for parameters in examples_of(operation["parameters"]):
            ids = {p["name"]: p["example"] for p in operation["parameters"] if p["in"] == "path"}
            answer = request(app, f"{API}{path.format(**ids)}?{urlencode(parameters, doseq=True)}")
            assert answer.status_code == 200, (path, parameters, answer.text)
            media = answer.headers["content-type"].partition(";")[0]
            assert media in operation["responses"]["200"]["content"], (path, parameters, media)
            if media == "application/json":
                Draft202012Validator({**document, "$ref": pointer(path, media)}).validate(answer.json())


def pointer(path: str, media: str) -> str:
    """Return the path of an answer's schema in the document."""
    parts = ("paths", path, "get", "responses", "200", "content", media, "schema")
    return "#/" + "/".join(quote(part.replace("~", "~0").replace("/", "~1"), safe="~") for part in parts)


def examples_of(parameters: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield only the required parameters, then all examples together, then each allowed value."""
    asked = [p for p in parameters if p["in"] == "query"]
    required = {p["name"]: p["example"] for p in asked if p["required"]}
    yield required
    yield {p["name"]: p["example"] for p in asked if "example" in p}
    for parameter in asked:
        for value in parameter["schema"].get("enum", ()):
            yield {**required, parameter["name"]: value}


def test_health_is_cheap_and_says_no_more_than_it_must(app: FastAPI, tmp_path: Path) -> None:
    healthy = request(app, "/health")
    assert (healthy.status_code, healthy.json()) == (200, {"status": "ok"})
    assert request(create_app(Settings(home=tmp_path)), "/health").status_code == 200  # before the first pipeline run
    lost = Settings.model_validate({"home": str(tmp_path), "warehouse": {"uri": "s3://secret-bucket/wh", "endpoint": "http://127.0.0.1:9"}})
    sick = request(create_app(lost), "/health")
    assert (sick.status_code, sick.json()) == (503, {"status": "unavailable"})
    for path in [f"{API}{route}" for route in ROUTES if route != "/openapi.json"] + ["/metrics"]:
        answer = request(create_app(lost), path)
        assert answer.status_code == 503, (path, answer.text)
        assert "secret-bucket" not in answer.text


NUMBER = r"-?[0-9]+(?:\.[0-9]+)?"
SAMPLE = re.compile(rf'([a-z_]+)(?:\{{((?:[a-z_]+="(?:[^"\\\n]|\\["\\n])*",?)*)\}})? ({NUMBER})')


def parse(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], Decimal]:
    """Parse samples in Prometheus's format strictly. Each must follow its HELP and TYPE and occur once, and nothing else is allowed."""
    found: dict[tuple[str, frozenset[tuple[str, str]]], Decimal] = {}
    name, begun = "", []
    assert text.endswith("\n")
    lines = iter(text[:-1].split("\n"))
    for line in lines:
        if line.startswith("# HELP "):
            name = line.split(" ")[2]
            assert name not in begun, "a metric's lines stand together"
            assert next(lines) == f"# TYPE {name} gauge"
            begun.append(name)
            continue
        sample = SAMPLE.fullmatch(line)
        assert sample and sample[1] == name, line
        labels = re.findall(r'([a-z_]+)="((?:[^"\\\n]|\\["\\n])*)"', sample[2] or "")
        key = (name, frozenset((k, re.sub(r"\\(.)", lambda m: {"n": "\n"}.get(m[1], m[1]), v)) for k, v in labels))
        assert key not in found
        found[key] = Decimal(sample[3])
    return found


def test_metrics_are_gauges_of_the_newest_state(config: Path, tmp_path: Path) -> None:
    settings = load_settings(config).model_copy(update={"home": tmp_path})
    run_here("alert", "--config", str(config), "--now", f"{w.NOW:%Y-%m-%dT%H:%M}")
    found = parse(read_metrics(load_settings(config), w.NOW))
    [stored] = runspend.connect(config).sql("select spent from budget_status").to_dicts()
    assert found["runspend_budget_percent", frozenset({("budget", "vision")})] == Decimal(stored["spent"]).quantize(
        Decimal("0.1"), "ROUND_FLOOR"
    )
    assert found["runspend_bill_lag_days", frozenset({("source", "aws")})] == Decimal("0.25")
    [idle] = (
        runspend.connect(config)
        .sql("select sum(effective_cost) as cost from cost_daily where allocated_to = 'idle' and charge_date = '2026-10-03'")
        .to_dicts()
    )
    assert found["runspend_idle_cost", frozenset({("currency", "USD")})] == (idle["cost"] or 0)
    assert found["runspend_newest_charge_timestamp_seconds", frozenset()] == int(datetime(2026, 10, 3, tzinfo=timezone.utc).timestamp())
    assert found["runspend_build_info", frozenset({("version", runspend.__version__)})] == 1
    answer = request(create_app(settings), "/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert ("runspend_build_info", frozenset({("version", runspend.__version__)})) in parse(answer.text)
    assert parse(request(create_app(Settings(home=tmp_path / "new")), "/metrics").text)


def test_the_last_good_run_is_the_oldest_good_end(config: Path) -> None:
    from runspend.actions.alert.freshness import note_done
    from runspend.warehouse.records import Records

    settings, key = load_settings(config), ("runspend_last_good_run_timestamp_seconds", frozenset[tuple[str, str]]())
    records, first, later = Records(settings.home), w.NOW, w.NOW.replace(hour=9)
    assert key not in parse(read_metrics(settings, w.NOW))
    for name, kind in (("cost tables", "step"), ("aws", "bill"), ("prod", "tracking")):
        note_done(records, name, kind, first, was_done=True, is_good=True)
    note_done(records, "cost tables", "step", later, was_done=True, is_good=True)
    note_done(records, "aws", "bill", later, was_done=False, is_good=False)
    note_done(records, "prod", "tracking", later, was_done=True, is_good=True)
    assert parse(read_metrics(settings, later))[key] == int(first.timestamp())


def test_names_are_escaped_in_metrics() -> None:
    names = ['a"} 1', "back\\slash", "two\nlines", *SCRIPTS[:5]]
    text = metrics_text([Gauge("budget_percent", "Of\na budget.", tuple(({"budget": name}, Decimal("1.50")) for name in names))])
    assert {dict(labels)["budget"]: value for (_, labels), value in parse(text).items()} == dict.fromkeys(names, Decimal("1.5"))
