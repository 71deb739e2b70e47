"""Pages of one machine, bill line or registered model. Their sums equal the ledger, names are text, and unknown ones return 404."""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from urllib.parse import quote

import pytest
from fastapi import Request

from runspend.actions.explain.resource_and_line import explain_line, explain_resource
from runspend.actions.explore import line_as_page, read_machine, read_model
from runspend.actions.explore.machine_page import Machine
from runspend.config.settings import Settings
from runspend.core.amounts import add
from runspend.interfaces.web import create_app
from runspend.interfaces.web.asking import key_of
from runspend.warehouse.factory import open_warehouse
from runspend.warehouse.parquet.warehouse import ParquetWarehouse
from tests.actions.explain import explain_world as w
from tests.allocation.chain import arrow, line, run_on_duckdb
from tests.hostile_names import SCRIPTS
from tests.interfaces.web.test_app import request
from tests.interfaces.web.test_explore import Tags, settings_of

LINE = f"{8:016x}"  # one hour of m1
SEVERAL = (  # charges of m6: two that overlap, one for a month, one for the previous month, one of another kind; a disk; m9 on two servers
    line(800, on="m6", at="26:00..27:00", cost="2.00", instance_type="g5"),
    line(801, on="m6", at="26:30..27:30", cost="1.00", instance_type="g5"),
    line(802, on="m6", at="2026-10-01T00:00..2026-11-01T00:00", cost="300.00", instance_type="g5", charge_category="Purchase"),
    line(803, on="m6", at="2026-09-30T05:00..2026-09-30T06:00", cost="-0.50", charge_class="Correction"),
    line(804, on="m6", at="26:00..27:00", cost="0.25", service_name="Network", service_category="Networking"),
    line(806, on="m9", at="09:00..10:00", cost="2.00"),
    line(805, on="vol-6", at="26:00..27:00", cost="4.00", service_name="EBS", service_category="Storage"),
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the warehouse of `explain`, and a registered model with two versions from one run and one from a sweep."""
    home = tmp_path_factory.mktemp("things")
    warehouse = w.make_explained(home / "warehouse", *SEVERAL)
    at = dt.datetime(2026, 10, 5, tzinfo=dt.timezone.utc)
    version = {"tracking_server": "prod", "workspace": "default", "model_name": "net", "stage": "None", "creation_time": at, "load_id": "x"}
    versions = [
        {**version, "model_version": 1, "run_id": w.BIG, "aliases": '["champion"]'},
        {**version, "model_version": 2, "run_id": w.BIG, "aliases": "[]"},
        {**version, "model_version": 3, "run_id": w.PARENT, "stage": "Production"},
        {**version, "model_version": 1, "model_name": SCRIPTS[0], "run_id": None},
        {**version, "model_version": 1, "model_name": " two\nlines\r\u2028 ", "run_id": None},
    ]
    with warehouse.step("extract", "versions") as step:
        step.put("model_versions", "all", "prod", arrow("model_versions", versions))
        assert step.publish()
    return home


def page(settings: Settings, address: str) -> tuple[int, str, Tags]:
    answer = request(create_app(settings), address)
    tags = Tags()
    tags.feed(answer.text)
    assert answer.text.lower().count("<script") == 1
    return answer.status_code, answer.text, tags


def machine(settings: Settings, name: str, period: str | None = None) -> Machine:
    with open_warehouse(settings).reader() as reader:
        return read_machine(reader, settings, name, period=period)


def test_a_machine_shows_each_day_and_who_paid(home: Path) -> None:
    settings = settings_of(home)
    status, text, tags = page(settings, "/machine/m1")
    assert status == 200
    found = machine(settings, "m1")
    [day] = found.days
    assert (day.hours, day.cost, day.runs) == (6, 6 * Decimal("24.576"), 2)
    assert day.cost == add(day.parts.values()) == found.total
    assert day.hour_cost == Decimal("24.576")
    assert f"{day.cost:,.2f}" in text and f"{day.parts['idle']:,.2f}" in text
    assert f"../run/{w.BIG}?server=prod&workspace=default" in tags.targets
    assert "../explore?from=2026-10-01&to=2026-10-31&by=machine&instance_type=p4d.24xlarge&compare=none" in tags.targets
    [costs] = [target for target in tags.targets if "by=run&machine=m1" in target]
    assert f"{day.cost:,.2f}" in request(create_app(settings), costs.removeprefix("..")).text


@pytest.mark.parametrize("period", ["2026-09", "2026-10"])
def test_a_machine_costs_what_the_explorer_says(home: Path, period: str) -> None:
    settings = settings_of(home)
    [costs] = [target for target in page(settings, f"/machine/m6?period={period}")[2].targets if "by=run&machine=m6" in target]
    explored = request(create_app(settings), f"/api/v1/costs{costs.removeprefix('../explore')}").json()
    assert Decimal(explored["total"]["cost"]) == machine(settings, "m6", period).total


def test_charges_without_hours_of_the_month_have_rows_of_their_own(home: Path) -> None:
    settings = settings_of(home)
    found = machine(settings, "m6")
    [day] = found.days
    assert (day.hours, day.cost) == (Decimal("1.5"), Decimal("3.25"))
    assert day.hour_cost is not None and round(day.hour_cost, 4) == Decimal("2.1667")
    assert {one.kind: one.cost for one in found.beside} == {"long": 300, "other_month": Decimal("-0.50")}
    text = page(settings, "/machine/m6")[1]
    assert "Longer than a day: 1 Oct to 31 Oct" in text and "Of September 2026, in the bill of October 2026: 30 Sep" in text
    before = machine(settings, "m6", "2026-09")
    assert (before.days, before.total, before.whole.hour_cost) == ((), Decimal("-0.50"), None)
    assert "30 Sep, from the bill of October 2026" in page(settings, "/machine/m6?period=2026-09")[1]


def test_a_disk_leads_to_the_costs_of_its_service(home: Path) -> None:
    settings = settings_of(home)
    status, text, tags = page(settings, "/machine/vol-6")
    assert status == 200 and "Resource of EBS in October 2026" in text
    [costs] = [target for target in tags.targets if "explore?from" in target]
    assert "by=account&service=EBS" in costs and "No charges match" not in request(create_app(settings), costs.removeprefix("..")).text


def test_a_search_leads_to_machines_and_models(home: Path) -> None:
    settings = settings_of(home)
    for text, target in (
        ("M1", "machine/m1"),
        ("NE", "model/net"),
        ("script", f"model/{quote(SCRIPTS[0], safe='')}"),
        ("lines", "model/%20two%0Alines%0D%E2%80%A8%20"),
    ):
        status, _, tags = page(settings, f"/search?q={text}")
        assert status == 200 and target in tags.targets
        assert page(settings, f"/{target}")[0] == 200


def test_a_line_shows_everyone_who_pays_it(home: Path) -> None:
    settings = settings_of(home)
    status, text, tags = page(settings, f"/line/{LINE}")
    assert status == 200
    with open_warehouse(settings).reader() as reader:
        found = explain_line(reader, LINE)
    assert found.targets and found.line_costs is not None
    assert found.summed == found.line_costs
    for target in found.targets:
        assert f"{target.costs.effective_cost:,.4f}" in text
        assert target.run is None or f"../run/{target.run.run_id}?server=prod&workspace=default" in tags.targets
    assert "../machine/m1?period=2026-10" in tags.targets
    assert page(settings, f"/line/{LINE[-6:]}?period=2026-10")[0] in (200, 404)


def test_a_model_counts_each_run_once(home: Path) -> None:
    settings = settings_of(home)
    with open_warehouse(settings).reader() as reader:
        model = read_model(reader, settings, "net")
        ids = [w.BIG, w.PARENT, w.CHILD]
        [whole] = reader.query("select sum(effective_cost) as cost from run_costs where run_id in unnest(@ids)", {"ids": ids}).to_pylist()
    assert model is not None
    [costs] = model.costs
    assert costs.total == whole["cost"] > 0  # two versions of one run have its cost only once
    assert {run.key.run_id: run.role for run in costs.runs} == {w.BIG: "made", w.PARENT: "made", w.CHILD: "nested"}
    status, text, tags = page(settings, "/model/net")
    assert status == 200
    assert "champion" in text and "Production" in text and f"{costs.total:,.2f}" in text
    assert f"../run/{w.PARENT}?server=prod&workspace=default" in tags.targets
    assert page(settings, f"/model/{SCRIPTS[0].replace('/', '%2F')}")[0] == 200  # a name is only text


@pytest.mark.parametrize(
    "address",
    ["/machine/none", "/machine/", "/line/ffffffffff", "/line/", "/model/none", "/model/", "/model/a%00b", f"/machine/{'x' * 6000}"],
)
def test_unknown_names_are_not_found(home: Path, address: str) -> None:
    status, text, tags = page(settings_of(home), address)
    assert status == 404, text
    assert any(target.endswith("explore") for target in tags.targets)


@pytest.mark.parametrize(
    "address", ["/machine/m1?period=x", "/machine/m1?day=1", f"/line/{LINE}?period=2026-1", "/line/abc", "/model/net?x=1"]
)
def test_a_wrong_address_is_refused_with_a_sentence(home: Path, address: str) -> None:
    status, text, _ = page(settings_of(home), address)
    assert status == 400
    assert "cannot" in text


def test_tags_and_owners_of_a_line_are_hidden_with_people(home: Path) -> None:
    with open_warehouse(settings_of(home)).reader() as reader:
        found = explain_line(reader, LINE)
    named = {"Tags": '{"owner": "ann"}', "line_owner": "ann", "group_keys": "['owner:ann']"}
    found = replace(found, facts=(*found.facts, ("Tags", named.pop("Tags"))), settled=(*found.settled, *named.items()))
    shown, hidden = line_as_page(found, up=""), line_as_page(found, up="", hides_people=True)
    for text in ("ann&#34;", "<td>ann</td>", "owner:ann"):
        assert text in shown and text not in hidden


def test_the_home_page_leads_to_idle_machines(home: Path) -> None:
    text = request(create_app(settings_of(home)), "/").text
    [address] = re.findall(r'href="(explore[^"]*allocated_to=idle[^"]*)">Idle p4d', text)
    status, _, tags = page(settings_of(home), f"/{address.replace('&amp;', '&')}")
    assert status == 200
    assert "machine/m1" in tags.targets


def test_a_run_leads_to_its_machines_and_lines(home: Path) -> None:
    _, text, tags = page(settings_of(home), f"/run/{w.BIG}")
    assert {"../machine/m1?period=2026-10", f"../line/{LINE}?period=2026-10"} <= tags.targets
    assert '<abbr title="from experiment.tag.team">team vision</abbr>' in text
    assert "times the median of the" in text
    assert ">06:00</text>" in text


def test_an_id_of_two_servers_leads_to_the_runs_of_both(home: Path) -> None:
    settings = settings_of(home)
    _, text, tags = page(settings, "/explore?by=run")
    assert f"{w.TWICE[:8]} (2 runs)" in text and f"run/{w.BIG}?server=prod&workspace=default" in tags.targets
    [both] = [target for target in tags.targets if "by=server" in target and f"run={w.TWICE}" in target]
    rows = request(create_app(settings), f"/api/v1/costs?{both.partition('?')[2]}").json()["rows"]
    assert {(row["server"], row["cost"]) for row in rows} == {("lab", "1"), ("prod", "1")}
    assert f"run/{w.TWICE}?server=lab&workspace=default" in page(settings, "/explore?by=run,server")[2].targets
    status, _, tags = page(settings, f"/run/{w.TWICE}")
    assert status == 404 and {f"../run/{w.TWICE}?server={server}&workspace=default" for server in ("lab", "prod")} <= tags.targets


def test_pages_of_one_thing_convert_as_the_explorer_does(home: Path) -> None:
    rate = {"exchange": [{"from": "USD", "to": "EUR", "rate": 0.5, "date": "2026-01-01"}]}
    settings = settings_of(home, currency="EUR", rates=rate)
    found = machine(settings, "m1")
    assert (found.currency, found.total) == ("EUR", 3 * Decimal("24.576"))
    for address in ("/machine/m1", "/experiment/exp", "/model/net"):
        assert "EUR" in page(settings, address)[1] and "are converted at the configured rates" in page(settings, address)[1]
    assert "In USD, as billed. Other pages convert it to EUR" in page(settings, f"/run/{w.BIG}")[1]
    without = settings_of(home, currency="EUR")
    _, text, tags = page(without, "/machine/m1")
    [costs] = [target for target in tags.targets if "by=run&machine=m1" in target]
    assert f"{6 * Decimal('24.576'):,.2f} <small>USD" in text and request(create_app(without), costs.removeprefix("..")).status_code == 200


def test_a_machine_whose_name_begins_with_a_blank_has_its_page(tmp_path: Path) -> None:
    """An address with a blank by mistake still finds its machine."""
    run_on_duckdb(
        {
            "billing_lines": [line(0, on=" lead", instance_type="g5"), line(1, on="tail", instance_type="g5")],
            "billing_loads": [],
            "runs": [],
            "run_resources": [],
        },
        tmp_path / "warehouse",
        check=False,
    )
    with ParquetWarehouse(tmp_path / "warehouse").reader() as reader:
        for asked, found in ((" lead", " lead"), ("tail ", "tail")):
            assert explain_resource(reader, asked).resource_id == found
    assert page(settings_of(tmp_path), "/machine/%20lead")[0] == 200


def test_an_address_of_raw_bytes_has_a_key() -> None:
    """%2F and / are different addresses. Bytes that are not UTF-8 have one too."""

    def key(path: bytes, query: bytes) -> object:
        scope = {"type": "http", "app": "app", "path": "/a/b", "raw_path": path, "query_string": query, "headers": []}
        return key_of(Request(scope))

    assert len({key(b"/a/b", b"team=\xff"), key(b"/a%2Fb", b"team=\xff"), key(b"/a/b", b"team=x")}) == 3
