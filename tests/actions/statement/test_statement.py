"""`runspend statement` writes, numbers, restates and mails statements while a bill is delivered to a warehouse repeatedly."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import sys
from collections.abc import Iterator
from datetime import date, datetime, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from runspend.actions.alert import outbox
from runspend.actions.costs.query import newest_day
from runspend.actions.explore import View, read_figures
from runspend.actions.statement import files, numbering
from runspend.actions.statement.lines import PARTS
from runspend.actions.statement.numbering import team_slug
from runspend.actions.statement.pdf import find_browser
from runspend.config.settings import load_settings
from runspend.core.amounts import add, round_money
from runspend.pipeline import statement as _step  # noqa: F401 (the module is patched by its name)
from runspend.schema.rows import arrow_rows
from runspend.warehouse.factory import open_warehouse
from runspend.warehouse.record_shapes import STATEMENT_PARTS
from tests.actions.statement.statement_world import BILL, NOW, PERIOD, make_world, put_month, restated
from tests.command import run_here
from tests.faults.decoys import make_decoys, seen
from tests.forked import run_forked
from tests.servers.smtp import smtp_server
from tests.settings_builder import smtp_mail

ALL = ("--team", "all", "--period", PERIOD)
TEAMS = ["Speech & Co", "credits", "vision", None]
POINTS = ("statement.written", "statement.recorded", "statement.file", "statement.mail_written", "outbox.sent", "outbox.recorded")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The world before its first statement."""
    folder = tmp_path_factory.mktemp("statement") / "kept"
    make_world(folder)
    return folder


@pytest.fixture
def config(kept: Path, tmp_path: Path) -> Path:
    """A copy of this world for one test."""
    shutil.copytree(kept, tmp_path / "world")
    return tmp_path / "world" / "runspend.yaml"


@pytest.fixture(autouse=True)
def without_browser(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Write no PDF except in tests that need one, because a browser takes two seconds."""
    monkeypatch.setattr("runspend.actions.statement.find_browser", lambda: None)
    return


def make(config: Path, *words: str, code: int = 0, now: str = f"{NOW:%Y-%m-%dT%H:%M}") -> dict[str, Any]:
    """Return the command's JSON output."""
    done = run_here("statement", *words, "--json", "--config", str(config), "--now", now, code=code)
    return dict(json.loads(done.stdout))


def numbers(answer: dict[str, Any]) -> list[str | None]:
    return [one["number"] for one in answer["statements"]]


def texts(config: Path) -> dict[str, bytes]:
    """Return the text of every statement file."""
    folder = config.parent / "home" / "statements" / PERIOD
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())} if folder.is_dir() else {}


def change_settings(config: Path, **more: Any) -> None:
    config.write_text(json.dumps({**json.loads(config.read_text()), **more}), encoding="utf-8")


def test_all_statements_of_a_month_add_up_to_the_ledger(config: Path) -> None:
    """This compares the CSV files, exact and rounded, in each currency."""
    answer = make(config, *ALL)
    assert [one["team"] for one in answer["statements"]] == TEAMS
    assert numbers(answer) == [f"2026-10-{team_slug(team)}-1" for team in TEAMS]
    rows = [row for name, text in texts(config).items() if name.endswith(".csv") for row in csv.DictReader(text.decode().splitlines())]
    for currency in ("USD", "EUR", "JPY"):
        billed = add(Decimal(cost) for *_, code, cost in BILL if code == currency)
        assert add(Decimal(row["cost"]) for row in rows if row["currency"] == currency) == billed
        assert add(Decimal(row["rounded_cost"]) for row in rows if row["currency"] == currency) == round_money(billed)
    vision = {(row["experiment"], row["part"]): Decimal(row["cost"]) for row in rows if row["team"] == "vision"}
    assert vision["", "idle"] == Decimal("5.05")  # the bill's own tag
    assert ("'=cmd()", "direct") in vision and ("", "out of scope") not in vision
    for one in answer["statements"]:
        for total in one["totals"]:
            lines = [line for line in one["lines"] if line["currency"] == total["currency"]]
            assert add(Decimal(line["cost"]) for line in lines) == Decimal(total["cost"])
            assert add(Decimal(line["rounded_cost"]) for line in lines) == Decimal(total["rounded_cost"])
    page = texts(config)["2026-10-vision-1.html"].decode()
    assert "2026-10-vision-1" in page and "vit" in page and "Preliminary" not in page
    assert "no PDF was made" in answer["notes"][0]


def test_equal_figures_give_the_same_version_byte_for_byte_and_others_the_next(config: Path) -> None:
    first = make(config, *ALL)
    before = texts(config)
    for name in ("2026-10-vision-1.html", "2026-10-vision-1.csv"):  # these are only copies
        (config.parent / "home" / "statements" / PERIOD / name).unlink()
    again = make(config, *ALL, now="2027-02-21T06:00")
    assert numbers(again) == numbers(first) and texts(config) == before
    assert [one["is_new"] for one in again["statements"]] == [False] * 4
    put_month(load_settings(config), restated(), version=2, inputs={"runs/2026-10/lab": "r2"})
    alone = make(config, "--team", "vision", "--period", PERIOD, now="2027-02-22T06:00")
    assert numbers(alone) == ["2026-10-vision-2"]
    assert "2 other statements of 2026-10 differ" in alone["notes"][1]
    answer = make(config, *ALL, now="2027-02-22T06:00")
    versions = {"credits": 1}  # its figures have not changed
    assert numbers(answer) == [f"2026-10-{team_slug(team)}-{versions.get(str(team), 2)}" for team in TEAMS]
    assert {name: text for name, text in texts(config).items() if name in before} == before  # issued versions do not change
    found = {one["team"]: one for one in answer["statements"]}
    gone = found["Speech & Co"]  # a team whose runs now belong to another team is restated to nothing
    assert gone["lines"] == [] and {total["cost"] for total in gone["totals"]} == {"0"}
    vision = found["vision"]["replaces"]
    assert vision["number"] == "2026-10-vision-1"
    assert vision["reasons"] == [
        "the bill aws was restated: version 2 replaced version 1",
        "the month was allocated again after a change of: runs of lab",
    ]
    old = {team["team"]: {total["currency"]: Decimal(total["cost"]) for total in team["totals"]} for team in first["statements"]}
    for one in answer["statements"]:
        for total in one["totals"] if one["replaces"] else ():
            moved = add(Decimal(row["cost"]) for row in one["replaces"]["differences"] if row["currency"] == total["currency"])
            assert moved == Decimal(total["cost"]) - old[one["team"]].get(total["currency"], Decimal(0))
    assert "Replaces 2026-10-vision-1" in texts(config)["2026-10-vision-2.html"].decode()
    put_month(load_settings(config))  # the bill is the original one again, but this is still a new version
    assert numbers(make(config, "--team", "vision", "--period", PERIOD)) == ["2026-10-vision-3"]


def test_another_policy_is_another_version_that_says_so(config: Path) -> None:
    make(config, *ALL)
    change_settings(config, statements={"idle": "separate", "kind": "chargeback", "measure": "billed_cost", "number_prefix": "FIN-"})
    answer = make(config, *ALL)
    [vision] = [one for one in answer["statements"] if one["team"] == "vision"]
    assert (vision["number"], vision["replaces"]["number"]) == ("FIN-2026-10-vision-2", "2026-10-vision-1")
    assert vision["replaces"]["reasons"] == [
        "statements.kind changed from showback to chargeback",
        "statements.measure changed from effective_cost to billed_cost",
        "statements.idle changed from spread to separate",
    ]
    assert {(line["part"], line["experiment"]) for line in vision["lines"] if line["part"] == "idle"} == {("idle", None)}
    assert "Chargeback statement" in texts(config)["FIN-2026-10-vision-2.html"].decode()


def test_a_closed_month_without_a_bill_that_used_to_come_is_preliminary(config: Path) -> None:
    """A source does not keep October open if its first bill is later, or if it never had one."""
    change_settings(config, billing=[{"name": name, "uri": f"bills/{name}"} for name in ("aws", "gcp", "oracle")])
    assert numbers(make(config, "--team", "vision", "--period", PERIOD)) == ["2026-10-vision-1"]
    with open_warehouse(load_settings(config)).step("load", "september") as step:
        moment = datetime(2026, 10, 5, tzinfo=timezone.utc)
        state = {"billing_period": date(2026, 9, 1), "state": "open", "is_invoiced": False, "unchanged_since": moment, "build_id": "b"}
        states = [{**state, "source": source, "bill_digest": "v1"} for source in ("aws", "gcp")]
        step.put("period_states", "2026-09", "all", arrow_rows("period_states", states))
        assert step.publish()
    answer = make(config, "--no-team", "--period", PERIOD)
    assert numbers(answer) == [None] and "no bill of 2026-10 from gcp, oracle: the statements are without it" in answer["notes"]
    assert "The month is not closed: gcp has no bill." in texts(config)["2026-10-no-team-preliminary.html"].decode()


def test_a_month_that_is_not_closed_gives_a_preliminary_statement_without_a_number(config: Path) -> None:
    put_month(load_settings(config), state="final")
    answer = make(config, "--team", "vision", "--no-team", "--period", PERIOD)
    assert numbers(answer) == [None, None] and set(texts(config)) == {
        f"2026-10-{slug}-preliminary.{ending}" for slug in ("vision", "no-team") for ending in ("csv", "html")
    }
    assert "The month is not closed: aws is final" in texts(config)["2026-10-vision-preliminary.html"].decode()
    assert any(note.startswith("2026-10 is not closed: aws is final") for note in answer["notes"])
    assert not (config.parent / "home" / "records" / "statements").exists()
    change_settings(config, statements={"issue_when": "final"})
    assert numbers(make(config, "--team", "vision", "--period", PERIOD)) == ["2026-10-vision-1"]
    assert "2026-10-vision-preliminary.html" not in texts(config)
    put_month(load_settings(config), restated(), version=2, state="open")
    [open_again] = make(config, "--team", "vision", "--period", PERIOD)["statements"]
    assert (open_again["number"], open_again["replaces"]["number"]) == (None, "2026-10-vision-1")
    assert "Differs from 2026-10-vision-1" in texts(config)["2026-10-vision-preliminary.html"].decode()


def test_a_statement_has_what_the_explorer_spreads_to_the_last_digit(config: Path) -> None:
    """The comparison leaves out cost that the bill itself gives to a team, because the explorer has no row for it."""
    change_settings(config, statements={"unallocated": "spread"})
    settings = load_settings(config)
    put_month(settings, [row for row in BILL if row[0] is None or row[3] == "run"])
    answer = make(config, *ALL)
    with open_warehouse(settings).reader() as reader:
        newest = newest_day(reader)
        assert newest is not None
        query = [("from", "2026-10-01"), ("by", "team"), ("spread", "1"), ("compare", "none"), ("currency", "USD")]
        figures = read_figures(reader, settings, View.of(query, newest), newest)
    shown = {group.values[0]: group.amount.cost for group in figures.groups if group.values[0]}
    stated = {one["team"]: total["cost"] for one in answer["statements"] for total in one["totals"] if total["currency"] == "USD"}
    assert {team: Decimal(stated[team]) for team in shown} == shown and set(shown) == {"vision", "Speech & Co", "credits"}


class Killed(BaseException):
    """A stand-in for the end of the process. No code catches it."""


@pytest.mark.parametrize("point", POINTS)
def test_a_command_killed_anywhere_and_run_again_issues_and_mails_the_same(
    config: Path, kept: Path, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This also holds if the bill changed in between, because unissued statements do not count."""

    def die(reached: str) -> None:
        if reached == point:
            raise Killed

    words = ("statement", "--team", "vision", "--period", PERIOD, "--mail", "--config", str(config), "--now")
    with monkeypatch.context() as patched:
        for module in (numbering, files, outbox, sys.modules["runspend.pipeline.statement"]):
            patched.setattr(module, "crash_point", die)
        with pytest.raises(Killed):
            run_here(*words, "2027-02-20T06:00")
    is_issued = point != "statement.written"
    issued_before = {name: text for name, text in texts(config).items() if "-1." in name}
    run_here(*words, "2027-02-20T07:00")
    assert set(texts(config)) == {"2026-10-vision-1.csv", "2026-10-vision-1.html"}
    assert issued_before.items() <= texts(config).items()
    mails = list((config.parent / "home" / "mail").glob("*.eml"))
    assert len(mails) == 1  # a mail server could accept it twice, with one Message-ID
    if not is_issued:
        shutil.rmtree(config.parent)
        shutil.copytree(kept, config.parent)
        killed = run_forked("runspend.interfaces.cli", *words, "2027-02-20T06:00", RUNSPEND_CRASH_AT=point)
        assert killed.returncode == -signal.SIGKILL
        put_month(load_settings(config), restated(), version=2)
        [one] = make(config, "--team", "vision", "--period", PERIOD)["statements"]
        assert one["number"] == "2026-10-vision-1" and one["replaces"] is None
        assert "110.50" in texts(config)["2026-10-vision-1.html"].decode()


def test_mails_go_to_the_recipients_of_the_team_once_with_csv_and_page(config: Path) -> None:
    """The test uses a real mail server."""
    with smtp_server() as server:
        change_settings(config, mail={**json.loads(config.read_text())["mail"], **smtp_mail(server.port)})
        answer = make(config, "--team", "vision", "--team", "credits", "--no-team", "--period", PERIOD, "--mail", code=5)
        again = make(config, "--team", "vision", "--period", PERIOD, "--mail")
        other = make(config, "--team", "vision", "--period", PERIOD, "--to", "cfo@acme.com")
    assert [one["mail"] for one in answer["statements"]] == [{"leads@acme.com": "accepted"}, {}, {"oncall@acme.com": "accepted"}]
    assert answer["problems"] == [
        "cannot mail the statement of credits: no budget selects this team alone. Add a budget with `notify`, or give --to."
    ]
    assert again["statements"][0]["mail"] == {"leads@acme.com": "accepted"}
    assert other["statements"][0]["mail"] == {"cfo@acme.com": "accepted"}
    assert sorted(one.recipients for one in server.accepted) == [["cfo@acme.com"], ["leads@acme.com"], ["oncall@acme.com"]]
    message = next(one.message for one in server.accepted if one.recipients == ["leads@acme.com"])
    assert str(message["Subject"]).startswith("[runspend] Statement 2026-10-vision-1: ")
    files_sent = {part.get_filename(): part.get_payload(decode=True) for part in message.iter_attachments()}
    assert files_sent == {name: texts(config)[name] for name in ("2026-10-vision-1.html", "2026-10-vision-1.csv")}
    body = message.get_body(("plain",))
    assert body is not None and "Showback statement of vision for October 2026." in body.get_content()


def test_a_statement_goes_to_people_who_own_the_whole_team_and_pages_nobody(config: Path) -> None:
    """A recipient of a budget for one user's runs does not get the team's statement."""
    own = json.loads(config.read_text())["budgets"]
    channels = [{"name": "pager", "kind": "pagerduty", "key": "k" * 32}]
    budgets = [
        {"name": "ben", "for": {"team": "vision", "user": "ben"}, "amount": 9, "notify": ["ben@acme.com"]},
        {"name": "paged", "for": {"team": "vision"}, "amount": 9, "notify": ["channel:pager", "leads@acme.com"]},
    ]
    change_settings(config, budgets=[*own, *budgets], mail={**json.loads(config.read_text())["mail"], "channels": channels})
    [stated] = make(config, "--team", "vision", "--period", PERIOD, "--mail")["statements"]
    assert stated["mail"].keys() == {"leads@acme.com"}


@pytest.mark.skipif(find_browser() is None, reason="no Chromium is installed (apt-get install chromium)")
def test_a_real_browser_prints_the_page_once(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runspend.actions.statement.find_browser", find_browser)
    answer = make(config, "--team", "vision", "--period", PERIOD)
    pdf = texts(config)["2026-10-vision-1.pdf"]
    assert pdf.startswith(b"%PDF-") and b"%%EOF" in pdf[-1024:] and len(pdf) > 10_000
    assert answer["notes"] == [] and [Path(file).suffix for file in answer["statements"][0]["files"]] == [".html", ".csv", ".pdf"]
    make(config, "--team", "vision", "--period", PERIOD, now="2027-02-21T06:00")
    assert texts(config)["2026-10-vision-1.pdf"] == pdf


def test_a_browser_that_fails_leaves_page_and_csv_and_is_reported(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "chromium"
    broken.write_text("#!/bin/sh\necho no display >&2\nexit 7\n", encoding="utf-8")
    broken.chmod(0o755)
    monkeypatch.setattr("runspend.actions.statement.find_browser", lambda: str(broken))
    answer = make(config, "--team", "vision", "--period", PERIOD, code=5)
    assert f"2026-10-vision-1: {broken} ended with code 7 and no PDF: no display" in answer["problems"][0]
    assert set(texts(config)) == {"2026-10-vision-1.csv", "2026-10-vision-1.html"}


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--period", PERIOD), "no team is given. Give --team NAME, --team all or --no-team."),
        (("--team", "visoin", "--period", PERIOD), "no cost of that month belongs to this team. Teams with a cost: Speech & Co, credits, vision."),
        (("--team", "all", "--period", "2026-09"), "no cost of this month is allocated. Months with costs: 2026-10."),
        (("--team", "all", "--period", PERIOD, "--to", "cfo@elsewhere.com"), "runspend.yaml has no address of its domain"),
        (("--team", "all", "--period", PERIOD, "--to", "cfo"), "it is not one plain mail address"),
    ],
)  # fmt: skip
def test_wrong_use_is_refused_before_anything_is_written(kept: Path, words: tuple[str, ...], why: str) -> None:
    done = run_here("statement", *words, "--config", str(kept / "runspend.yaml"), code=2)
    assert why in done.stderr
    assert texts(kept / "runspend.yaml") == {}


def test_a_changed_record_is_refused_and_never_printed(config: Path) -> None:
    make(config, "--team", "vision", "--period", PERIOD)
    [record] = (config.parent / "home" / "records" / "statement_texts").glob("*.json")
    record.write_text(record.read_text().replace("vit", "vjt"), encoding="utf-8")
    done = run_here("statement", "--team", "vision", "--period", PERIOD, "--config", str(config), code=4)
    assert "it differs from statement 2026-10-vision-1 as issued. Restore the file from a backup." in done.stderr


@pytest.mark.parametrize("name", ["", "2026-10-vision-1.html", "2026-10-vision-1.csv", "2026-10-vision-1.pdf"])
def test_links_in_the_folder_of_statements_are_refused_by_name(config: Path, tmp_path: Path, name: str) -> None:
    """Runspend writes nothing to their targets, and mails nothing from them."""
    make(config, "--team", "vision", "--period", PERIOD)
    decoys = make_decoys(tmp_path / "elsewhere")
    place = config.parent / "home" / "statements" / PERIOD / name
    if name:
        place.unlink(missing_ok=True)
        place.symlink_to(decoys / "victim.txt")
    else:
        shutil.rmtree(place)
        place.symlink_to(decoys)
    before = seen(decoys)
    done = run_here(
        "statement", "--team", "vision", "--period", PERIOD, "--mail", "--config", str(config), "--now", f"{NOW:%Y-%m-%dT%H:%M}", code=4
    )
    assert str(place).rstrip("/") in done.stderr and "it is a link" in done.stderr
    assert seen(decoys) == before
    assert not list((config.parent / "home").rglob("*.eml"))


def test_a_record_may_have_each_part_of_a_statement() -> None:
    assert STATEMENT_PARTS == PARTS


def test_numbers_of_teams_with_alike_names_differ() -> None:
    names: list[str | None] = [
        None,
        "no-team",
        "No Team",
        "vision",
        "Vision",
        "vision ",
        "vision-0a1b2c3d",
        "視覚",
        "v" * 50,
        "v" * 51,
        "---",
    ]
    slugs = [team_slug(name) for name in names]
    assert slugs[3] == "vision" and len({slug.casefold() for slug in slugs}) == len(names)
    assert all(len(slug) < 60 and slug.strip("-") == slug and slug.replace("-", "").isalnum() and slug.isascii() for slug in slugs)


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("idle", "even", "statements, idle"),
        ("number_prefix", "../", "statements, number_prefix"),
        ("round", 2, "statements, round"),
    ],
)
def test_a_wrong_policy_is_refused_with_its_key(config: Path, key: str, value: object, why: str) -> None:
    change_settings(config, statements={key: value})
    done = run_here("statement", "--team", "all", "--period", PERIOD, "--config", str(config), code=2)
    assert why.split(", ")[1] in done.stderr and "statements" in done.stderr
