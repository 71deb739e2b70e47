"""From planned to due: who gets a notice, when the grace period begins, what ends it, and the effect of a wrong clock. Nothing is moved here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runspend.actions.alert.render import MailTable
from runspend.actions.archive.archive_records import ArchiveRecords, new_archive
from runspend.actions.archive.holds import record_keep
from runspend.actions.archive.notices import (
    CHUNK_ITEMS,
    KIND,
    Received,
    plan_notices,
    read_announcements,
    record_deliveries,
    record_notice,
    withdraw_notices,
)
from runspend.actions.archive.plan import item_of
from runspend.actions.archive.states import LOOKS_KEPT, archives_table, current_plan, plan_states, record_look, witnessed_time
from runspend.actions.archive.why import explain_why
from runspend.config.recipients import find_recipients
from runspend.config.settings import Settings
from runspend.core.errors import UsageError
from runspend.pipeline import archive_planning as archiving
from runspend.schema.tables import TABLES
from runspend.warehouse.base import Reader
from runspend.warehouse.records import Records
from tests.actions.archive.policy_world import (
    AGED,
    NOW,
    OLD,
    experiment,
    given_settings,
    reads,
    run,
    sources,
    stored,
    use,
    version,
    warehouse,
)
from tests.due_items import due_items
from tests.memory_records import MemoryRecords

DAY = timedelta(days=1)
GRACE = timedelta(days=30)
OWNED = {"owner": "ana@acme.com", **AGED}


@contextmanager
def world(root: Path, at: datetime = NOW, **tables: Any) -> Iterator[Reader]:
    """Runs a and b of ana, run c without an owner, their folders, and sources that Runspend read at `at`."""
    runs = [run("a", **OWNED), run("b", **OWNED), run("c", owner=None, user_name="someone", **AGED)]
    month = {"month": at.date().replace(day=1), "valid_from": at.replace(day=1)}
    given_tables = {
        "runs": runs,
        "artifact_bytes": [stored(name, **month) for name in "abc"],
        "experiments": [experiment()],
        "tracking_reads": reads(),
        "sources": sources(at),
    }
    with warehouse(root / f"w{len(list(root.glob('w*')))}", **{**given_tables, **tables}) as reader:
        yield reader


def rows_of(reader: Reader, records: Records, given_: Settings, now: datetime = NOW) -> dict[str, dict[str, Any]]:
    return {row["owner_id"]: row for row in current_plan(reader, records, given_, now).to_pylist()}


def states_of(reader: Reader, records: Records, given_: Settings, now: datetime = NOW) -> dict[str, str]:
    return {owner: row["state"] for owner, row in rows_of(reader, records, given_, now).items()}


def announce(
    reader: Reader,
    records: Records,
    given_: Settings,
    now: datetime = NOW,
    accepted_at: datetime | None = NOW,
    refused: frozenset[str] = frozenset(),
) -> list[Any]:
    """Send all notices as the pipeline does. The mail server accepts them, or refuses some recipients."""
    record_look(records, now)
    plan = current_plan(reader, records, given_, now)
    withdraw_notices(records, plan_states(plan), now)
    notices = plan_notices(plan.to_pylist(), read_announcements(records, find_recipients(given_)), given_)
    for notice in notices:
        record_notice(records, notice, now)
    gone = {notice.notice_id for notice in notices if refused & set(notice.recipients)}
    known = {notice.notice_id for notice in notices}
    record_deliveries(
        records, lambda notice_id: Received(None if notice_id in gone else accepted_at, notice_id in gone) if notice_id in known else None
    )
    return notices


def look_daily(records: Records, since: datetime, days: int) -> datetime:
    """Run the pipeline once a day, and return the time of the last run."""
    for n in range(days + 1):
        record_look(records, since + n * DAY)
    return since + days * DAY


def test_one_mail_an_owner_and_operators_for_the_rest(tmp_path: Path) -> None:
    """One notice has all items of an owner. Items without an address go to operators. No item is announced twice."""
    records, given_ = Records(tmp_path), given_settings(tmp_path, {})
    with world(tmp_path) as reader:
        assert states_of(reader, records, given_) == dict.fromkeys("abc", "planned")
        notices = announce(reader, records, given_)
        assert sorted((n.recipients, [row["owner_id"] for row in n.rows]) for n in notices) == [
            (("ana@acme.com",), ["a", "b"]),
            (("oncall@acme.com",), ["c"]),
        ]
        assert states_of(reader, records, given_) == dict.fromkeys("abc", "announced")
        assert announce(reader, records, given_, NOW + DAY) == []


def test_without_recipients_nothing_is_announced(tmp_path: Path) -> None:
    """Without operators and without an address, the item stays planned."""
    records, given_ = Records(tmp_path), given_settings(tmp_path, {}, mail={"operators": []})
    with world(tmp_path) as reader:
        assert [n.recipients for n in announce(reader, records, given_)] == [("ana@acme.com",)]
        assert states_of(reader, records, given_)["c"] == "planned"


def test_the_grace_period_begins_when_a_mail_server_accepted_the_mail(tmp_path: Path) -> None:
    """The grace period does not begin when the mail is written. While the mail waits, the item has no date, and the wait does not count."""
    records, given_ = Records(tmp_path), given_settings(tmp_path, {})
    with world(tmp_path) as reader:
        (first, *_) = announce(reader, records, given_, accepted_at=None)
        row = rows_of(reader, records, given_)["a"]
        assert (row["state"], row["announced_at"], row["earliest_at"]) == ("planned", None, None)
        assert row["reason"] == "unused for 267 days; its notice is queued for a mail server"
    accepted = look_daily(records, NOW, 60)
    record_deliveries(records, lambda notice_id: Received(accepted, False))
    record_deliveries(records, lambda notice_id: Received(NOW - 400 * DAY, False))  # the first recorded acceptance stays
    with world(tmp_path, accepted) as reader:
        row = rows_of(reader, records, given_, accepted)["a"]
        assert (row["state"], row["announced_at"], row["earliest_at"]) == ("announced", accepted, accepted + GRACE)
        assert row["reason"].endswith(f"due from {accepted + GRACE:%Y-%m-%d}")
        assert due_items(reader, records, given_, accepted) == []
    assert first.notice_id in {value["notice_id"] for value in records.list(KIND).values()}


def test_an_item_is_due_after_the_grace_period_and_not_a_moment_before(tmp_path: Path) -> None:
    """The due items are those of the plan at that time."""
    records, given_ = Records(tmp_path), given_settings(tmp_path, {})
    with world(tmp_path) as reader:
        announce(reader, records, given_)
    look_daily(records, NOW, 29)
    for now, expected in ((NOW + GRACE - timedelta(seconds=1), []), (NOW + GRACE, ["a", "b", "c"])):
        with world(tmp_path, now) as reader:
            assert [item.owner_id for item in due_items(reader, records, given_, now)] == expected
            assert states_of(reader, records, given_, now) == dict.fromkeys("abc", "due" if expected else "announced")


# Changes to a run that protect it, by name. The argument is the run's id.
SIGNALS: dict[str, Callable[[str], dict[str, Any]]] = {
    "registered": lambda a: {"model_versions": [version("fraud", 7, run_id=a)]},
    "aliased": lambda a: {"model_versions": [version("nets", 7, source_uri=f"s3://ml/12/{a}/artifacts/model", aliases='["champion"]')]},
    "kept": lambda a: {"runs": [run(a, experiment_id=a, tags='{"runspend.keep": "1"}', **OWNED)]},
    "held": lambda a: {"runs": [run(a, experiment_id=a, tags='{"runspend.hold": "case"}', **OWNED)]},
    "in production": lambda a: {"experiments": [experiment(experiment_id=a, tags='{"stage": "production"}')]},
    "used again": lambda a: {"artifact_bytes": [stored(a, experiment_id=a, newest_at=NOW + 20 * DAY)]},
    "behind a live model": lambda a: {
        "model_uses": [use(a, "m"), use("z", "m", "input")],
        "model_versions": [version("live", 1, run_id="z")],
    },
    "running again": lambda a: {
        "runs": [run(a, experiment_id=a, owner="ana@acme.com", start_time=OLD, end_time=None, run_status="RUNNING")]
    },
    "hidden": lambda a: {"runs": [run(a, experiment_id=a, purged_at=NOW, **OWNED)]},
    "not selected any more": lambda a: {"runs": [run(a, experiment_id=a, owner="ana@acme.com", start_time=OLD, end_time=NOW)]},
    "unfinished listing": lambda a: {"artifact_bytes": [stored(a, None, experiment_id=a)]},
}


def signalled(signals: Mapping[str, Callable[[str], dict[str, Any]]]) -> dict[str, list[Any]]:
    """Return tables with one run per signal, named after it. A signal replaces rows; other rows stay as they were."""
    tables: dict[str, list[Any]] = {}
    for name, signal in signals.items():
        fresh = {
            "runs": [run(name, experiment_id=name, **OWNED)],
            "artifact_bytes": [stored(name, experiment_id=name)],
            "experiments": [experiment(experiment_id=name)],
        }
        for table, rows in {**fresh, **signal(name)}.items():
            tables.setdefault(table, []).extend(rows)
    return tables


@pytest.mark.parametrize("at_end", [False, True])
def test_protection_during_the_grace_period_prevents_the_move(tmp_path: Path, at_end: bool) -> None:
    """The protection begins during the grace period, or on its last day before the notice is withdrawn."""
    records, given_ = Records(tmp_path), given_settings(tmp_path, {})
    fresh = signalled(dict.fromkeys(SIGNALS, lambda name: {}))
    with world(tmp_path, **fresh) as reader:
        announce(reader, records, given_)
        assert states_of(reader, records, given_) == dict.fromkeys(SIGNALS, "announced")
    now = look_daily(records, NOW, 30 if at_end else 15)
    with world(tmp_path, now, **signalled(SIGNALS)) as reader:
        assert due_items(reader, records, given_, now) == []
        withdraw_notices(records, plan_states(current_plan(reader, records, given_, now)), now)
    later = look_daily(records, now, 16)
    with world(tmp_path, later, **fresh) as reader:  # all signals are gone again
        assert [item.owner_id for item in due_items(reader, records, given_, later)] == ["unfinished listing"]
        new = announce(reader, records, given_, later, accepted_at=later)
        # Owners of folders that were protected in the meantime get a new notice and a full grace period.
        assert {row["owner_id"] for notice in new for row in notice.rows} == SIGNALS.keys() - {"unfinished listing"}
        assert states_of(reader, records, given_, later) == {**dict.fromkeys(SIGNALS, "announced"), "unfinished listing": "due"}


@pytest.mark.parametrize("at_end", [False, True])
def test_nothing_is_due_while_the_registry_cannot_be_read(tmp_path: Path, at_end: bool) -> None:
    """The notice stays valid, so no one gets another one."""
    records, given_ = Records(tmp_path), given_settings(tmp_path, {})
    fresh = {"runs": [run("a", **OWNED)], "artifact_bytes": [stored("a")]}
    with world(tmp_path, **fresh) as reader:
        announce(reader, records, given_)
    now = look_daily(records, NOW, 30 if at_end else 15)
    with world(tmp_path, now, **fresh, tracking_reads=reads(state="unknown")) as reader:
        assert due_items(reader, records, given_, now) == []
        withdraw_notices(records, plan_states(current_plan(reader, records, given_, now)), now)
    later = look_daily(records, now, 16)
    with world(tmp_path, later, **fresh) as reader:
        assert [item.owner_id for item in due_items(reader, records, given_, later)] == ["a"]
        assert announce(reader, records, given_, later, accepted_at=later) == []
        assert states_of(reader, records, given_, later) == {"a": "due"}


@pytest.mark.parametrize(
    ("change", "needs_new"),
    [({"bytes": 1001}, True), ({"objects": 4}, True), ({"bytes": 999}, False), ({"objects": 2}, False), ({}, False)],
)
def test_more_than_was_announced_is_announced_again(tmp_path: Path, change: dict[str, int], needs_new: bool) -> None:
    """More bytes or more files need a new notice. Less does not."""
    records, given_ = Records(tmp_path), given_settings(tmp_path, {})
    with world(tmp_path) as reader:
        announce(reader, records, given_)
    now = look_daily(records, NOW, 30)
    with world(tmp_path, now, artifact_bytes=[stored("a", **change)]) as reader:
        assert [item.owner_id for item in due_items(reader, records, given_, now)] == ([] if needs_new else ["a"])
        assert len(announce(reader, records, given_, now, accepted_at=now)) == needs_new


def test_another_version_of_the_policy_is_announced_again(tmp_path: Path) -> None:
    """A shorter grace period or another action needs its own notice."""
    records, given_ = Records(tmp_path), given_settings(tmp_path, {})
    with world(tmp_path) as reader:
        announce(reader, records, given_)
    now = look_daily(records, NOW, 30)
    changed = given_settings(tmp_path, {"grace": "7d"})
    with world(tmp_path, now) as reader:
        assert due_items(reader, records, changed, now) == []
        assert len(announce(reader, records, changed, now, accepted_at=now)) == 2


def owned_by(owner: str | None, at: datetime = NOW) -> dict[str, Any]:
    """Return tables in which run a has this owner."""
    month = {"month": at.date().replace(day=1), "valid_from": at.replace(day=1)}
    return {"runs": [run("a", **{**OWNED, "owner": owner, "user_name": None})], "artifact_bytes": [stored("a", **month)]}


@pytest.mark.parametrize(
    ("new", "recipient"), [("ben@acme.com", "ben@acme.com"), (None, "oncall@acme.com"), ("someone", "oncall@acme.com")]
)  # fmt: skip
def test_another_owner_is_mailed_and_has_a_grace_period_of_their_own(tmp_path: Path, new: str | None, recipient: str) -> None:
    """If a run's owner changes before it is due, the new owner gets a notice and a full grace period."""
    records, given_ = Records(tmp_path), given_settings(tmp_path, {})
    with world(tmp_path, **owned_by("ana@acme.com")) as reader:
        assert [notice.recipients for notice in announce(reader, records, given_)] == [("ana@acme.com",)]
    changed = look_daily(records, NOW, 20)
    with world(tmp_path, changed, **owned_by(new, changed)) as reader:
        assert states_of(reader, records, given_, changed) == {"a": "planned"}
        (notice,) = announce(reader, records, given_, changed, accepted_at=changed)
        assert notice.recipients == (recipient,)
        assert announce(reader, records, given_, changed + DAY) == []
        assert rows_of(reader, records, given_, changed)["a"]["earliest_at"] == changed + GRACE
    due = look_daily(records, changed, 30)
    for now, expected in ((NOW + GRACE, []), (due - DAY, []), (due, ["a"])):
        with world(tmp_path, now, **owned_by(new, now)) as reader:
            assert [item.owner_id for item in due_items(reader, records, given_, now)] == expected, now


def test_an_owner_who_gets_a_run_back_is_mailed_again(tmp_path: Path) -> None:
    """Each notice has its own id, even within one hour. Otherwise the third notice would count as the first, which was sent."""
    records, given_ = Records(tmp_path), given_settings(tmp_path, {})
    for number, owner in enumerate(("ana@acme.com", "ben@acme.com", "ana@acme.com")):
        with world(tmp_path, **owned_by(owner)) as reader:
            assert [notice.recipients for notice in announce(reader, records, given_)] == [(owner,)]
            assert states_of(reader, records, given_) == {"a": "announced"}
        assert len(records.list(KIND)) == number + 1
    small, grown = (
        {**owned_by("ana@acme.com"), "artifact_bytes": [stored("a", bytes=900)]},
        {**owned_by("ana@acme.com"), "artifact_bytes": [stored("a", bytes=1100)]},
    )
    for tables, notices in ((grown, 1), (small, 0), (grown, 0)):
        with world(tmp_path, **tables) as reader:
            assert len(announce(reader, records, given_)) == notices


def test_an_interrupted_notice_to_another_owner_keeps_its_id(tmp_path: Path) -> None:
    """The process is killed before it writes the mail. The next notice has the same id, and until then no notice counts."""
    records, given_ = Records(tmp_path), given_settings(tmp_path, {})
    with world(tmp_path, **owned_by("ana@acme.com")) as reader:
        announce(reader, records, given_)
    with world(tmp_path, **owned_by("ben@acme.com")) as reader:
        plan = current_plan(reader, records, given_, NOW).to_pylist()
        (before,) = plan_notices(plan, read_announcements(records, find_recipients(given_)), given_)
        record_notice(records, before, NOW)
        assert states_of(reader, records, given_) == {"a": "planned"}
        assert [notice.notice_id for notice in announce(reader, records, given_, NOW + DAY)] == [before.notice_id]
        assert states_of(reader, records, given_) == {"a": "announced"}


def test_an_owner_whose_address_is_dead_is_not_asked_for_another(tmp_path: Path) -> None:
    """Operators got the notice instead of ana. The new owner ben has a valid address."""
    records, given_ = Records(tmp_path), given_settings(tmp_path, {})
    with world(tmp_path, **owned_by("ana@acme.com")) as reader:
        announce(reader, records, given_, refused=frozenset({"ana@acme.com"}))
    with world(tmp_path, **owned_by("ben@acme.com")) as reader:
        assert [notice.recipients for notice in announce(reader, records, given_)] == [("ben@acme.com",)]


def test_a_notice_from_before_owners_were_recorded_is_sent_again(tmp_path: Path) -> None:
    """The notice does not state who owned the run at that time."""
    records, given_ = Records(tmp_path), given_settings(tmp_path, {})
    with world(tmp_path, **owned_by("ana@acme.com")) as reader:
        announce(reader, records, given_)
        for key, value in records.list(KIND).items():
            found = records.get(KIND, key)
            assert found is not None
            items = {
                item: {name: signal[name] for name in ("policy_digest", "objects", "bytes")} for item, signal in value["items"].items()
            }
            assert records.replace(KIND, key, {**value, "items": items}, found[1])
        assert len(announce(reader, records, given_)) == 1


def test_a_refused_mail_goes_to_operators(tmp_path: Path) -> None:
    """A refused mail starts no grace period. Operators get one mail instead."""
    records, given_ = Records(tmp_path), given_settings(tmp_path, {})
    with world(tmp_path) as reader:
        announce(reader, records, given_, refused=frozenset({"ana@acme.com"}))
        assert states_of(reader, records, given_) == {"a": "planned", "b": "planned", "c": "announced"}
        (again,) = announce(reader, records, given_, NOW + DAY, accepted_at=NOW + DAY)
        assert (again.recipients, [row["owner_id"] for row in again.rows]) == (("oncall@acme.com",), ["a", "b"])
        assert announce(reader, records, given_, NOW + 2 * DAY) == []
        assert rows_of(reader, records, given_)["a"]["announced_at"] == NOW + DAY


def test_a_notice_that_was_never_written_does_not_count(tmp_path: Path) -> None:
    """The process is killed between the record and the mail. The same notice follows under the same id, and only then counts."""
    records, given_ = Records(tmp_path), given_settings(tmp_path, {})
    with world(tmp_path) as reader:
        plan = current_plan(reader, records, given_, NOW).to_pylist()
        before = plan_notices(plan, read_announcements(records, find_recipients(given_)), given_)
        for notice in before:
            record_notice(records, notice, NOW)
        assert states_of(reader, records, given_) == dict.fromkeys("abc", "planned")
        assert {n.notice_id for n in plan_notices(plan, read_announcements(records, find_recipients(given_)), given_)} == {
            n.notice_id for n in before
        }
        assert {n.notice_id for n in announce(reader, records, given_, NOW + DAY)} == {n.notice_id for n in before}
    assert len(records.list(KIND)) == 2


def test_many_items_of_one_owner_are_one_mail_in_small_records(tmp_path: Path) -> None:
    """A record has a limited number of items."""
    records, given_ = Records(tmp_path), given_settings(tmp_path, {})
    with world(tmp_path) as reader:
        row = current_plan(reader, records, given_, NOW).to_pylist()[0]
    rows = [{**row, "item_key": f"{n:040}"} for n in range(CHUNK_ITEMS + 1)]
    (notice,) = plan_notices(rows, {}, given_)
    record_notice(records, notice, NOW)
    assert sorted(len(value["items"]) for value in records.list(KIND).values()) == [1, CHUNK_ITEMS]
    assert len(read_announcements(records, find_recipients(given_))) == CHUNK_ITEMS + 1


# --- clocks --------------------------------------------------------------------------------------------------------------


def test_a_mail_that_cannot_list_everything_names_a_query_that_does(tmp_path: Path) -> None:
    """The mail names the largest items, counts the rest, and gives a query that lists them."""
    records, given_ = Records(tmp_path), given_settings(tmp_path, {})
    runs = [run(f"r{number:03}", **OWNED) for number in range(archiving.LISTED + 5)]
    found = [stored(row["run_id"]) for row in runs]
    with world(tmp_path, runs=runs, artifact_bytes=found) as reader:
        [notice] = plan_notices(current_plan(reader, records, given_, NOW).to_pylist(), {}, given_)
        assert len(notice.rows) == len(runs)
        [table] = [block for block in archiving.compose_notice(notice, given_, NOW)[1] if isinstance(block, MailTable)]
        [more, *_] = table.notes
        assert len(table.rows) == archiving.LISTED and more.startswith("and 5 more, 5.0 kB: runspend sql ")
        policy = given_.retention[0].name
        assert f"select * from archive_plan where policy = '{policy}'" in more


@pytest.mark.parametrize(
    ("hours", "is_refused"), [(-25, True), (-23, False), (0, False), (0.9, False), (2, True), (23, True), (8_760, True)]
)
def test_no_given_time_can_end_a_grace_period(monkeypatch: pytest.MonkeyPatch, hours: float, is_refused: bool) -> None:
    """The time may be the start of this hour or a retry from yesterday, but not tomorrow."""
    monkeypatch.setattr(archiving, "wall_clock", lambda: NOW)
    with pytest.raises(UsageError, match="cannot apply as of") if is_refused else nullcontext():
        archiving.refuse_other_times(NOW + timedelta(hours=hours), "apply")


def test_a_clock_that_jumps_a_year_makes_nothing_due(tmp_path: Path) -> None:
    """This holds although all sources were read at the same wrong time. When the clock is correct again, the items become due."""
    records, given_ = Records(tmp_path), given_settings(tmp_path, {})
    with world(tmp_path) as reader:
        announce(reader, records, given_)
    look_daily(records, NOW, 5)
    wrong = NOW + 370 * DAY
    with world(tmp_path, wrong) as reader:
        assert due_items(reader, records, given_, wrong) == []
        assert rows_of(reader, records, given_, wrong)["a"]["reason"].endswith(
            "the clock jumped, or Runspend did not run for a long time: only 20 of the 30 days since the notice count"
        )
        record_look(records, wrong)
        assert due_items(reader, records, given_, wrong + timedelta(hours=5)) == []
    right = look_daily(records, NOW + 6 * DAY, 24)
    with world(tmp_path, right) as reader:
        assert len(due_items(reader, records, given_, right)) == 3


@pytest.mark.parametrize(
    ("stale", "why"),
    [
        ([("tracking", NOW - 60 * DAY), ("store", None)], "prod was last read on"),
        ([("tracking", None), ("store", NOW)], "prod was never read successfully"),
        ([("tracking", NOW), ("store", NOW - 60 * DAY)], "s3://ml was last read on"),
        ([("tracking", NOW + 400 * DAY), ("store", NOW)], "one of the two is wrong"),
    ],
)
def test_sources_read_too_long_ago_or_in_the_future_make_nothing_due(
    tmp_path: Path, stale: list[tuple[str, datetime | None]], why: str
) -> None:
    """Since an old read, a tag in MLflow may protect the run. A read in the future shows that a clock is wrong."""
    records, given_ = Records(tmp_path), given_settings(tmp_path, {})
    with world(tmp_path) as reader:
        announce(reader, records, given_)
    now = look_daily(records, NOW, 30)
    rows = [{**row, "last_good_at": at if at is None else at + 30 * DAY} for row, (_, at) in zip(sources(), stale, strict=True)]
    rows = [{**row, "last_good_at": now} if row["kind"] == "store" and why.startswith("prod") else row for row in rows]
    with world(tmp_path, now, sources=rows) as reader:
        assert due_items(reader, records, given_, now) == []
        assert why in rows_of(reader, records, given_, now)["a"]["reason"]


@settings(deadline=None)
@given(st.lists(st.integers(0, 500), max_size=12), st.integers(7, 60), st.integers(0, 500))
def test_witnessed_time_never_exceeds_elapsed_time(days: list[int], grace_days: int, until: int) -> None:
    """Without a pipeline run in between, at most half of a grace period counts."""
    grace, now = timedelta(days=grace_days), NOW + until * DAY
    looks = [NOW + n * DAY for n in days]
    witnessed = witnessed_time(looks, NOW, now, grace)
    assert timedelta() <= witnessed <= now - NOW
    if not any(NOW < look < now for look in looks):
        assert witnessed <= grace / 2


def test_times_of_pipeline_runs_are_recorded_sparsely() -> None:
    """Runspend records one at most every six hours, and keeps only the last ones."""
    records = MemoryRecords()
    for n in range(LOOKS_KEPT + 5):
        record_look(records, NOW + n * timedelta(hours=6))
    record_look(records, NOW + n * timedelta(hours=6, minutes=10))
    found = records.get("archive_clock", "looks")
    assert found is not None
    assert len(found[0]["looks"]) == LOOKS_KEPT
    assert found[0]["looks"] == sorted(found[0]["looks"])


# --- objections ----------------------------------------------------------------------------------------------------------


def test_an_objection_keeps_a_run_until_its_day_is_over(tmp_path: Path) -> None:
    """The owner need not reply to a mail. After that day, the run is planned again."""
    records, given_ = Records(tmp_path), given_settings(tmp_path, {})
    with world(tmp_path) as reader:
        announce(reader, records, given_)
        keep = record_keep(reader, records, "a", until=date(2027, 1, 31), reason="thesis", now=NOW)
        assert (keep.kind, keep.id, keep.tracking_server) == ("run", "a", "prod")
        row = rows_of(reader, records, given_)["a"]
        assert (row["state"], row["reason"]) == ("kept", "excluded from retention until 2027-01-31: thesis")
    now = look_daily(records, NOW, 68)
    with world(tmp_path, now) as reader:
        assert [item.owner_id for item in due_items(reader, records, given_, now)] == ["b", "c"]
        withdraw_notices(records, plan_states(current_plan(reader, records, given_, now)), now)
    after = now + DAY
    assert after.date() == date(2027, 2, 1)
    with world(tmp_path, after) as reader:
        assert [item.owner_id for item in due_items(reader, records, given_, after)] == ["b", "c"]
        assert states_of(reader, records, given_, after)["a"] == "planned"


def test_an_objection_to_an_experiment_keeps_all_of_it(tmp_path: Path) -> None:
    """The experiment is named by id or by name. Without a day, the objection lasts a year. The newest objection counts."""
    records, given_ = Records(tmp_path), given_settings(tmp_path, {})
    with world(tmp_path) as reader:
        keep = record_keep(reader, records, "resnet-sweep", until=None, reason=None, now=NOW)
        assert (keep.kind, keep.id, keep.until) == ("experiment", "12", date(2027, 11, 24))
        assert states_of(reader, records, given_) == dict.fromkeys("abc", "kept")
        record_keep(reader, records, "12", until=NOW.date(), reason=None, now=NOW)
        assert states_of(reader, records, given_, NOW + DAY) == dict.fromkeys("abc", "planned")


@pytest.mark.parametrize("what", ["", "nobody", "abcd", "abcdef", "*", "%"])
def test_an_objection_to_nothing_in_particular_is_refused(tmp_path: Path, what: str) -> None:
    """For an unknown, short or ambiguous name, nothing is recorded, and the message gives the reason."""
    records = Records(tmp_path)
    runs = [run("abcdef1", **AGED), run("abcdef2", **AGED)]
    with world(tmp_path, runs=runs) as reader, pytest.raises(UsageError, match="Nothing was recorded"):
        record_keep(reader, records, what, until=None, reason=None, now=NOW)
    assert records.list("archive_keeps") == {}


def test_an_objection_that_is_over_already_is_refused(tmp_path: Path) -> None:
    """A mistyped year must not be mistaken for an objection."""
    with world(tmp_path) as reader, pytest.raises(UsageError, match="that day is over"):
        record_keep(reader, Records(tmp_path), "a", until=date(2025, 12, 31), reason=None, now=NOW)


# --- what was moved ------------------------------------------------------------------------------------------------------


def moved(records: Records, row: Mapping[str, Any], at: datetime, state: Any = "archived") -> None:
    """Record a move as the archive does."""
    archive = new_archive(item_of(row), row["target"], at)
    ArchiveRecords(records).save(replace(archive, state=state, objects=3, bytes=1000, ended_at=at.isoformat()))


def test_an_archived_folder_stays_archived_until_something_new_is_in_it(tmp_path: Path) -> None:
    """The archive's note in the folder is not planned again, but new files are."""
    records, given_ = Records(tmp_path), given_settings(tmp_path, {})
    with world(tmp_path) as reader:
        moved(records, rows_of(reader, records, given_)["a"], NOW + timedelta(hours=1))
        assert rows_of(reader, records, given_)["a"]["reason"] == "archived on 2026-11-24"
    later = NOW + 9 * DAY
    for objects, size, expected in (
        (1, 310, "archived"),
        (0, 0, "archived"),
        (1, 1000, "planned"),
        (2, 310, "planned"),
    ):  # left in the folder: the note; nothing; the archived file; more files
        with world(tmp_path, later, artifact_bytes=[stored("a", size, objects=objects)]) as reader:
            assert states_of(reader, records, given_, later) == {"a": expected}
    table = archives_table(records)
    assert table.schema == TABLES["archives"].arrow_schema()
    (row,) = table.to_pylist()
    assert (row["state"], row["owner_id"], row["store"], row["target"], row["objects"]) == ("archived", "a", "s3://ml", "s3://cold", 3)
    assert row["folder"].startswith("runspend-archive/v1/prod/12/a/")


def test_a_restored_folder_is_planned_again_only_after_it_is_measured(tmp_path: Path) -> None:
    """Until its content is measured, it is protected and its notice is withdrawn. Then it is planned like any other folder."""
    records, given_ = Records(tmp_path), given_settings(tmp_path, {})
    with world(tmp_path) as reader:
        announce(reader, records, given_)
        row = rows_of(reader, records, given_)["a"]
        moved(records, row, NOW - timedelta(hours=1))
        [archive] = ArchiveRecords(records).all()
        ArchiveRecords(records).save(replace(archive, restored_at=(NOW + timedelta(hours=1)).isoformat()))
        back = rows_of(reader, records, given_)["a"]
        assert (back["state"], back["reason"]) == ("protected", "restored on 2026-11-24, and its store was not measured since")
        assert explain_why(reader, records, given_, "a", NOW).lines == [
            ("restored", f"run a: restored on 2026-11-24. Its archive is kept: s3://cold, {archive.folder}"),
            ("policy", "cold (archive) selects run a: protected, restored on 2026-11-24, and its store was not measured since"),
        ]
    later = NOW + 9 * DAY
    with world(tmp_path, later, artifact_bytes=[stored("a", objects=1)]) as reader:
        withdraw_notices(records, {row["item_key"]: (back["state"], back["reason"])}, NOW)
        assert states_of(reader, records, given_, later) == {"a": "planned"}


def test_a_deleted_archive_is_reported_as_gone(tmp_path: Path) -> None:
    """Its row shows the deletion, and no policy selects it again."""
    records = Records(tmp_path)
    retention = given_settings(tmp_path, {"action": "delete", "name": "gone"})
    with world(tmp_path) as reader:
        moved(records, rows_of(reader, records, given_settings(tmp_path, {}))["a"], NOW - 400 * DAY)
    (archived,) = archives_table(records).to_pylist()
    with world(tmp_path, archives=[archived]) as reader:
        (row,) = rows_of(reader, records, retention).values()
        assert (row["state"], row["prefix"]) == ("planned", archived["folder"])
        moved(records, row, NOW, "deleted")
        assert {found["action"]: found["state"] for found in archives_table(records).to_pylist()} == {
            "archive": "deleted",
            "delete": "deleted",
        }


# --- why -----------------------------------------------------------------------------------------------------------------


def test_why_names_the_protections_of_a_runs_bytes(tmp_path: Path) -> None:
    """It names the alias that protects the run and its models, and an objection, even if no policy selects them."""
    records, given_ = Records(tmp_path), given_settings(tmp_path, {})
    tables = {
        "model_uses": [use("a", "m-1")],
        "model_versions": [version("fraud", 7, model_id="m-1", aliases='["champion"]')],
        "artifact_bytes": [stored("a"), stored("m-1", owner_kind="logged_model", prefix="12/models/m-1/artifacts")],
    }
    with world(tmp_path, **tables) as reader:
        record_keep(reader, records, "12", until=date(2027, 1, 31), reason=None, now=NOW)
        found = explain_why(reader, records, given_, "a", NOW)
    assert found.lines == [
        ("kept", "it made a model: alias champion on fraud/7"), ("kept", "logged model m-1: alias champion on fraud/7"), ("kept", "excluded from retention until 2027-01-31"),
    ]  # fmt: skip


def test_why_says_which_policy_is_after_it_and_since_when(tmp_path: Path) -> None:
    """It shows planned, announced and archived runs, and runs that no policy selects."""
    records, given_ = Records(tmp_path), given_settings(tmp_path, {})
    with world(tmp_path) as reader:
        assert explain_why(reader, records, given_, "a", NOW).lines == [
            ("policy", "cold (archive) selects run a: planned, unused for 267 days")
        ]
        announce(reader, records, given_)
        assert explain_why(reader, records, given_, "a", NOW).lines == [
            ("policy", "cold (archive) selects run a: announced, unused for 267 days; due from 2026-12-24")
        ]
        moved(records, rows_of(reader, records, given_)["a"], NOW + timedelta(hours=1))
        (first, second) = explain_why(reader, records, given_, "a", NOW).lines
        assert first[0] == "archived" and first[1].endswith("To restore it: runspend archive restore a")
        assert second == ("policy", "cold (archive) selects run a: archived, archived on 2026-11-24")
        records.create(
            "archives_not_told",
            ArchiveRecords(records).all()[0].tagged_key,
            {"owner": "run a", "reason": "prod: MLflow was not told of run a: 503"},
        )
        assert explain_why(reader, records, given_, "a", NOW).lines[1] == (
            "not in MLflow",
            "prod: MLflow was not told of run a: 503; each `runspend archive apply` tries again",
        )
        records.create("archives_told", ArchiveRecords(records).all()[0].tagged_key, {"owner": "run a"})
        assert explain_why(reader, records, given_, "a", NOW).lines[1] == second
        assert explain_why(reader, records, given_settings(tmp_path), "b", NOW).lines == [
            ("free", "nothing protects it, and no policy selects it: it stays where it is")
        ]
        with pytest.raises(UsageError, match="no run that Runspend has read has this id"):
            explain_why(reader, records, given_, "zzzzzz", NOW)
    with world(tmp_path, artifact_bytes=[]) as reader:
        assert explain_why(reader, records, given_settings(tmp_path), "b", NOW).lines[0][0] == "unknown"
