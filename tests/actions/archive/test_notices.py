"""Plan, notify and wait, with a real mail server and a real warehouse. Each owner gets one mail, even if a process is killed in between.

The grace period begins when the mail server accepts the notice.
"""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from runspend import pipeline
from runspend.config.settings import Settings
from runspend.pipeline import archive_planning as archiving
from runspend.schema.tables import TABLES
from runspend.warehouse.base import Unit
from runspend.warehouse.factory import open_warehouse
from runspend.warehouse.parquet.warehouse import ParquetWarehouse
from runspend.warehouse.records import Records
from tests.actions.archive.policy_world import AGED, NOW, STORES, UTC, experiment, reads, run, sources, stored
from tests.command import run_here
from tests.forked import run_forked
from tests.hostile_names import FORMULAS, PAYLOADS, TERMINAL
from tests.servers.smtp import Script, Server, smtp_server
from tests.settings_builder import MAIL, read_settings, smtp_mail

REPOSITORY = Path(__file__).parents[3]
OTHER_TIME = archiving.OTHER_TIME
OWNED = {"owner": "ana@acme.com", **AGED}
RUNS = [run("a" * 32, run_name="resnet-1", **OWNED), run("b" * 32, run_name="resnet-2", **OWNED), run("c" * 32, owner=None, **AGED)]


@pytest.fixture(autouse=True)
def _any_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allow any time as now in this process."""
    monkeypatch.setattr(archiving, "OTHER_TIME", timedelta(days=100_000))


@pytest.fixture
def server() -> Iterator[Server]:
    """A mail server that accepts everything unless a test changes that."""
    with smtp_server() as found:
        yield found


def settings_of(home: Path, port: int, **more: Any) -> Settings:
    """Return a runspend.yaml with a policy and a mail server."""
    data = {
        "home": ".", "stores": STORES, "archive": {"to": "s3://cold"}, "tracking": [{"name": "prod", "uri": "http://mlflow"}],
        "mail": smtp_mail(port, **MAIL),
        "retention": [{"name": "cold", "select": {"unused_for": "90d"}, "action": "archive"}],
    } | more  # fmt: skip
    return read_settings(home, data)


def fill(settings: Settings, at: datetime = NOW, **tables: Any) -> None:
    """Fill the warehouse as a pipeline run at that time would."""
    month = {"month": at.date().replace(day=1), "valid_from": at.replace(day=1)}
    given = {
        "runs": RUNS, "artifact_bytes": [stored(row["run_id"], **month) for row in tables.get("runs", RUNS)], "experiments": [experiment()], "tracking_reads": reads(), "sources": sources(at),
    }  # fmt: skip
    warehouse = open_warehouse(settings)
    assert isinstance(warehouse, ParquetWarehouse)
    with warehouse.step("test", f"b{at:%Y%m%d}") as step:
        for name, rows in {**given, **tables}.items():
            table = TABLES[name]
            by_period: dict[str, list[dict[str, Any]]] = {}
            for row in rows:
                by_period.setdefault(f"{row[table.period_column]:%Y-%m}" if table.period_column else "all", []).append(row)
            for period, part in by_period.items():
                step.put(name, period, "test", pa.Table.from_pylist(part, schema=table.arrow_schema()))
        step.publish()


def published(settings: Settings, now: datetime = NOW) -> dict[str, dict[str, Any]]:
    """Return the published rows of the plan, by owner."""
    rows = open_warehouse(settings).read(Unit("archive_plan", f"{now:%Y-%m}", "all"))
    assert rows is not None
    return {row["owner_id"][0]: row for row in rows.to_pylist()}


def mails(server: Server) -> Counter[tuple[str, str]]:
    """Return how often each recipient got each mail."""
    return Counter((str(mail.message["Message-ID"]), recipient) for mail in server.accepted for recipient in mail.recipients)


def test_owners_get_one_mail_with_all_that_is_theirs(tmp_path: Path, server: Server) -> None:
    """Text and HTML have the same content. The plan then has the date, and a second notify sends nothing."""
    settings = settings_of(tmp_path, server.port)
    fill(settings)
    assert pipeline.archive_plan(settings, now=NOW).exit_code == 0
    assert not server.accepted
    assert {row["state"] for row in published(settings).values()} == {"planned"}
    outcome = pipeline.archive_notify(settings, now=NOW)
    assert outcome.exit_code == 0, outcome.problems
    assert outcome.changed[-1] == "archive_plan 2026-11: 3 announced"
    assert sorted(sorted(mail.recipients) for mail in server.accepted) == [["ana@acme.com", "oncall@acme.com"], ["oncall@acme.com"]]
    for row in published(settings).values():
        assert (row["state"], row["announced_at"], row["earliest_at"]) == ("announced", NOW, NOW + timedelta(days=30))
    (mail,) = [mail.message for mail in server.accepted if "ana@acme.com" in mail.recipients]
    assert (mail["To"], mail["Cc"]) == ("ana@acme.com", "oncall@acme.com")
    assert mail["Subject"] == "[runspend] Archive from 24 Dec: 2 folders of artifacts (2.0 kB)"
    plain, html = (mail.get_body((kind,)) for kind in ("plain", "html"))
    assert plain is not None and html is not None
    for text in (
        "resnet-1",
        "resnet-2",
        f"runspend archive keep {'a' * 32}",
        "runspend.keep",
        "s3://cold",
        "on 24 December 2026 at the earliest",
    ):
        for body in (plain, html):
            assert " ".join(text.split()) in " ".join(body.get_content().replace("&#39;", "'").split()), text
    assert max(len(line) for line in plain.get_content().splitlines() if "runspend archive" not in line) <= 72
    assert pipeline.archive_notify(settings, now=NOW + timedelta(days=1)).exit_code == 0
    assert set(mails(server).values()) == {1}
    assert len(server.accepted) == 2


def test_a_queued_mail_starts_no_grace_period(tmp_path: Path, server: Server) -> None:
    """The server is busy, so the exit code is 5 and there is no date. The nightly alert sends the mail later, and the date is of that day."""
    settings = settings_of(tmp_path, server.port)
    fill(settings)
    server.script_handler.script = Script(data_reply="451 try again")
    outcome = pipeline.archive_notify(settings, now=NOW)
    assert outcome.exit_code == 5
    assert "No grace period begins" in outcome.problems[0]
    assert {(row["state"], row["earliest_at"]) for row in published(settings).values()} == {("planned", None)}
    server.script_handler.script = Script()
    later = NOW + timedelta(days=3)
    assert pipeline.alert(settings, now=later).exit_code == 0
    fill(settings, later)
    assert pipeline.archive_plan(settings, now=later).exit_code == 0
    assert {(row["state"], row["announced_at"]) for row in published(settings, later).values()} == {("announced", later)}


@pytest.mark.parametrize(
    "accepted_at", [NOW, NOW + timedelta(days=39, hours=20), NOW + timedelta(days=400)], ids=["past", "today", "future"]
)
def test_a_mail_sent_with_another_now_keeps_the_date_of_its_record(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, accepted_at: datetime
) -> None:
    """An alert step with another `--now` sends queued mail. Its `--now` does not become the date of the notice."""
    settings = settings_of(tmp_path, server.port)
    fill(settings)
    server.script_handler.script = Script(data_reply="451 try again")
    assert pipeline.archive_notify(settings, now=NOW).exit_code == 5
    server.script_handler.script = Script()
    later = NOW + timedelta(days=40)
    fill(settings, later)
    monkeypatch.setattr(archiving, "OTHER_TIME", timedelta(days=1))
    monkeypatch.setattr(archiving, "wall_clock", lambda: later)
    assert pipeline.alert(settings, now=accepted_at).exit_code == 0 and server.accepted
    assert pipeline.archive_plan(settings, now=NOW).exit_code == 0  # a query, which records nothing
    assert {row["state"] for row in published(settings).values()} == {"planned"}
    assert pipeline.archive_plan(settings, now=later).exit_code == 0
    assert {(row["state"], row["announced_at"]) for row in published(settings, later).values()} == {("announced", later)}


def test_a_dead_address_is_reported_to_operators(tmp_path: Path, server: Server) -> None:
    """The owner's server refuses permanently. Operators get the next notice, and their grace period begins with it."""
    settings = settings_of(tmp_path, server.port)
    fill(settings)
    server.script_handler.script = Script(rcpt_replies={"ana@acme.com": "550 5.1.1 no such person"})
    assert pipeline.archive_notify(settings, now=NOW).exit_code == 5
    assert {name: row["state"] for name, row in published(settings).items()} == {"a": "planned", "b": "planned", "c": "announced"}
    later = NOW + timedelta(days=1)
    assert pipeline.archive_notify(settings, now=later).exit_code == 0
    assert published(settings)["a"]["announced_at"] == later
    assert [mail.recipients for mail in server.accepted] == [["oncall@acme.com"]] * 3, (
        "a copy, what has no owner, and what the owner never got"
    )
    assert "refused the last notice" in " ".join(server.accepted[-1].message.get_body(("plain",)).get_content().split())


def test_without_a_mail_server_no_grace_period_starts(tmp_path: Path, server: Server) -> None:
    """Writing a mail to a file does not count as a notice, and the step reports this."""
    settings = settings_of(tmp_path, server.port, mail={"backend": "file", "operators": ["oncall@acme.com"]})
    fill(settings)
    outcome = pipeline.archive_notify(settings, now=NOW)
    assert outcome.exit_code == 0
    assert any("no grace period begins" in note for note in outcome.notes)
    assert {row["state"] for row in published(settings).values()} == {"planned"}
    assert len(list((tmp_path / "mail").glob("archive.*.eml"))) == 2


def test_hostile_names_reach_people_as_names(tmp_path: Path, server: Server) -> None:
    """Names of runs, experiments and owners contain headers, markup and commands. One mail arrives, with the usual parts."""
    names = [*PAYLOADS[::5], *FORMULAS, *TERMINAL]
    runs = [
        run(f"{n:032x}", run_name=name, experiment_name=name, owner="ana@acme.com" if n % 2 else name, **AGED)
        for n, name in enumerate(names)
    ]
    settings = settings_of(tmp_path, server.port)
    fill(settings, runs=runs)
    assert pipeline.archive_notify(settings, now=NOW).exit_code == 0
    assert sorted(mail.recipients for mail in server.accepted) == [["ana@acme.com", "oncall@acme.com"], ["oncall@acme.com"]]
    for mail in server.accepted:
        html = mail.message.get_body(("html",))
        assert html is not None
        assert "<script" not in html.get_content().lower() and "<img" not in html.get_content().lower()
        assert mail.message["Bcc"] is None


EVIL = [
    "mallory@evil.example", "Mallory <mallory@evil.example>", "ana@acme.com.evil.example", "ana@evil-acme.com", "ana@mail.acme.com", "ana@\u0430cme.com", "ana@acme.com, mallory@evil.example",
    "ana@acme.com <mallory@evil.example>", '"ana@acme.com"@evil.example', "mallory%evil.example@acme.com", "evil.example!mallory@acme.com", "ana@acme.com\nBcc: mallory@evil.example", "ana", "(" * 900, "x" * 9_000,
]  # fmt: skip


def test_owners_outside_the_allowed_domains_are_replaced_by_operators(tmp_path: Path, server: Server) -> None:
    """Owners outside the allowed domains get no mail. Operators get one that says why, and it begins the grace period."""
    settings = settings_of(tmp_path, server.port)
    fill(settings, runs=[run(f"{n:032x}", owner=owner, **AGED) for n, owner in enumerate(EVIL)])
    outcome = pipeline.archive_notify(settings, now=NOW)
    assert outcome.exit_code == 0, outcome.problems
    assert [mail.recipients for mail in server.accepted] == [["oncall@acme.com"]]
    text = " ".join(server.accepted[0].message.get_body(("plain",)).get_content().split())
    assert "mallory@evil.example" in text and "not in an allowed domain (acme.com)" in text and "mail.users" in text
    assert (
        "evil" not in str(server.accepted[0].message["Cc"]) + str(server.accepted[0].message["To"])
        and server.accepted[0].message["Bcc"] is None
    )
    assert {row["state"] for row in open_warehouse(settings).read(Unit("archive_plan", f"{NOW:%Y-%m}", "all")).to_pylist()} == {"announced"}  # type: ignore[union-attr]


def test_names_have_addresses_in_the_configuration(tmp_path: Path, server: Server) -> None:
    """An address in `mail.users` may have any domain. Other addresses of that domain are still refused."""
    mail = {
        "backend": "smtp",
        "host": "127.0.0.1",
        "port": server.port,
        "tls": "none",
        "from": "runspend@acme.com",
        "operators": ["oncall@acme.com"],
        "users": {"ana": "Ana <ana@partner.example>"},
    }
    settings = settings_of(tmp_path, server.port, mail=mail)
    fill(
        settings,
        runs=[
            run("a" * 32, owner="ANA", **AGED),
            run("b" * 32, owner="eve@partner.example", **AGED),
            run("c" * 32, owner=None, user_name="ana", **AGED),
        ],
    )
    assert pipeline.archive_notify(settings, now=NOW).exit_code == 0
    assert sorted(sorted(mail.recipients) for mail in server.accepted) == [["ana@partner.example", "oncall@acme.com"], ["oncall@acme.com"]]


def test_an_earlier_notice_to_another_address_does_not_count(tmp_path: Path, server: Server) -> None:
    """An older version mailed any address in a tag. Accepted notices start again with operators, and queued ones are never sent."""
    open_to_all = {
        "backend": "smtp",
        "host": "127.0.0.1",
        "port": server.port,
        "tls": "none",
        "from": "Runspend <runspend@acme.com>",
        "operators": ["oncall@acme.com"],
        "domains": ["acme.com", "evil.example"],
    }
    runs = [run("a" * 32, owner="mallory@evil.example", **AGED), run("b" * 32, owner="ana@acme.com", **AGED)]
    settings = settings_of(tmp_path, server.port, mail=open_to_all)
    fill(settings, runs=runs)
    assert pipeline.archive_notify(settings, now=NOW).exit_code == 0
    assert {name: row["state"] for name, row in published(settings).items()} == {"a": "announced", "b": "announced"}
    server.accepted.clear()
    settings, later = settings_of(tmp_path, server.port), NOW + timedelta(days=20)
    fill(settings, later, runs=runs)
    assert pipeline.archive_plan(settings, now=later).exit_code == 0
    assert {name: row["state"] for name, row in published(settings, later).items()} == {"a": "planned", "b": "announced"}
    assert pipeline.archive_notify(settings, now=later).exit_code == 0
    assert [mail.recipients for mail in server.accepted] == [["oncall@acme.com"]]
    assert {name: row["announced_at"] for name, row in published(settings, later).items()} == {"a": later, "b": NOW}


def test_a_notice_that_waits_for_another_place_is_not_sent(tmp_path: Path, server: Server) -> None:
    """The notice was written under settings that allowed its address, but not delivered. The settings at delivery count."""
    open_to_all = {
        "backend": "smtp",
        "host": "127.0.0.1",
        "port": server.port,
        "tls": "none",
        "from": "runspend@acme.com",
        "operators": ["oncall@acme.com"],
        "domains": ["evil.example"],
    }
    settings = settings_of(tmp_path, server.port, mail=open_to_all)
    fill(settings, runs=[run("a" * 32, owner="mallory@evil.example", **AGED)])
    server.script_handler.script = Script(data_reply="451 try again")
    assert pipeline.archive_notify(settings, now=NOW).exit_code == 5
    server.script_handler.script = Script()
    settings = settings_of(tmp_path, server.port)
    assert pipeline.archive_notify(settings, now=NOW + timedelta(days=1)).exit_code == 5
    assert {recipient for mail in server.accepted for recipient in mail.recipients} == {"oncall@acme.com"}


def test_the_owner_of_a_folder_around_all_others_is_named(tmp_path: Path, server: Server) -> None:
    """The plan's notes, `archive why` and one mail to operators name the owner, even if the plan is made again."""
    settings = settings_of(tmp_path, server.port)
    around = run("e" * 32, run_name="oops", experiment_name="vision", artifact_uri="s3://ml", **AGED)
    fill(settings, runs=[*RUNS, around], artifact_bytes=[stored(row["run_id"]) for row in RUNS])
    for _ in range(2):
        outcome = pipeline.archive_notify(settings, now=NOW)
    [note] = [note for note in pipeline.archive_plan(settings, now=NOW).notes if "owns a folder" in note]
    why = command(tmp_path, "archive", "why", "a" * 32).stdout
    [mail] = [mail.message for mail in server.accepted if "NOT ARCHIVED" in str(mail.message["Subject"])]
    assert outcome.exit_code == 0 and mail["To"] == "oncall@acme.com"
    for text in (note, why, mail.get_body(("plain",)).get_content()):
        sentence = " ".join(text.split())
        assert all(
            word in sentence for word in ("e" * 32, "'oops'", "'vision'", "s3://ml", "mlflow gc", "correct it in MLflow's database")
        ), sentence
    assert "3 selected items" in note


def test_an_accepted_copy_starts_no_grace_period(tmp_path: Path, server: Server) -> None:
    """The owner's server defers the mail while operators get their copy. No grace period begins."""
    settings = settings_of(tmp_path, server.port)
    fill(settings, runs=[run("a" * 32, owner="ana@acme.com", **AGED)])
    server.script_handler.script = Script(rcpt_replies={"ana@acme.com": "450 try again"})
    assert pipeline.archive_notify(settings, now=NOW).exit_code == 5
    assert [mail.recipients for mail in server.accepted] == [["oncall@acme.com"]]
    assert published(settings)["a"]["state"] == "planned"


def this_hour() -> datetime:
    """Return the time that commands use as now."""
    return datetime.now(UTC).replace(minute=0, second=0, microsecond=0)


def command(home: Path, *words: str, crash_at: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command in this process, or in its own process that is killed."""
    arguments = [*words, "--config", str(home / "runspend.yaml")]
    if not crash_at:
        return run_here(*arguments, cwd=REPOSITORY, code=None)
    return run_forked("runspend.interfaces.cli", *arguments, RUNSPEND_CRASH_AT=crash_at)


@pytest.mark.parametrize("point", ["archive.notice_recorded", "archive.notice_written", "archive.notices_sent"])
def test_killed_anywhere_each_owner_has_one_notice(tmp_path: Path, server: Server, point: str) -> None:
    """SIGKILL hits between record, mail and note. The next run ends with the same mails, and a third run sends nothing."""
    settings = settings_of(tmp_path, server.port)
    today = this_hour()
    fill(settings, today)
    now = ("--now", today.isoformat())
    assert command(tmp_path, "archive", "notify", *now, crash_at=point).returncode == -9
    for _ in range(2):
        done = command(tmp_path, "archive", "notify", *now)
        assert done.returncode == 0, done.stderr
        assert {row["state"] for row in published(settings, today).values()} == {"announced"}
        assert set(mails(server).values()) == {1}
        assert len(mails(server)) == 3


def test_the_archive_is_planned_kept_explained_and_notified_by_commands(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Users run plan, keep, why and notify. A notice can be dated neither back nor forward."""
    monkeypatch.setattr(archiving, "OTHER_TIME", OTHER_TIME)
    settings = settings_of(tmp_path, server.port)
    today = this_hour()
    fill(settings, today)
    now = ("--now", today.isoformat())
    last = f"{today.year + 1}-01-31"
    done = command(tmp_path, "archive", "plan", *now)
    assert done.returncode == 0, done.stderr
    assert "3 planned" in done.stdout and "cold" in done.stdout
    done = command(tmp_path, "archive", "keep", "aaaaaa", "--until", last, "--reason", "thesis", *now)
    assert (done.returncode, done.stdout) == (0, f"excluded from retention until {last} inclusive: run {'a' * 32} (resnet-1) of prod\n"), (
        done.stderr
    )
    done = command(tmp_path, "archive", "keep", "aaaaaa", "--until", "2026-01-31", *now)
    assert done.returncode == 2
    assert "that day is over" in done.stderr
    done = command(tmp_path, "archive", "why", "aaaaaa", *now)
    assert done.stdout.splitlines()[1:] == [
        f"  kept: excluded from retention until {last}: thesis",
        f"  policy: cold (archive) selects run {'a' * 32}: kept, excluded from retention until {last}: thesis",
    ]
    assert command(tmp_path, "archive", "why", "nobody", *now).returncode == 2
    for other in (today - timedelta(days=40), today + timedelta(days=400)):
        done = command(tmp_path, "archive", "notify", "--now", other.isoformat())
        assert done.returncode == 2
        assert "Nothing was done" in done.stderr
    assert not server.accepted
    done = command(tmp_path, "archive", "notify", *now)
    assert done.returncode == 0, done.stderr
    assert published(settings, today)["a"]["state"] == "kept"
    before = [Records(tmp_path).list(kind) for kind in ("archive_notices", "archive_clock")]
    for other in (today - timedelta(days=400), today + timedelta(days=400)):  # an archive plan with another date changes nothing
        assert command(tmp_path, "archive", "plan", "--now", other.isoformat()).returncode == 0
    assert [Records(tmp_path).list(kind) for kind in ("archive_notices", "archive_clock")] == before
    assert len(Records(tmp_path).list("archive_keeps")) == 1
    assert not any("resnet-1" in str(mail.message.get_body(("plain",))) for mail in server.accepted)


def test_an_announced_run_is_due_a_month_later(tmp_path: Path, server: Server) -> None:
    """Each pipeline run reads everything again. Nothing is due a day early, and a protection on the last day prevents the move."""
    settings = settings_of(tmp_path, server.port)
    fill(settings)
    assert pipeline.archive_notify(settings, now=NOW).exit_code == 0
    for day in (10, 20, 29, 30):
        now = NOW + timedelta(days=day)
        fill(settings, now)
        assert pipeline.archive_plan(settings, now=now).exit_code == 0
        assert {row["state"] for row in published(settings, now).values()} == {"due" if day == 30 else "announced"}
    now = NOW + timedelta(days=31)
    fill(settings, now, experiments=[experiment(tags='{"runspend.keep": "1"}')])
    assert pipeline.archive_plan(settings, now=now).exit_code == 0
    assert {row["state"] for row in published(settings, now).values()} == {"protected"}
    assert open_warehouse(settings).read(Unit("archives", "2026-11", "all")) is None
    assert date(2026, 12, 25) == now.date()
