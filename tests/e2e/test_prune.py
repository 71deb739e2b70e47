"""Runs and experiments that are no longer needed are deleted in MLflow after a notice and a grace period. They can be restored, with their bytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from runspend import pipeline
from runspend.actions.archive.archive_records import ArchiveRecords, new_archive
from runspend.actions.archive.items import Item
from runspend.actions.archive.mlflow_tags import prune, tag_archived, tag_restored
from runspend.actions.archive.restore import restore
from runspend.core.step_result import Outcome
from runspend.warehouse.records import Records
from tests.faults.old_runs import NOW, SMTP_PORT, Place
from tests.servers.smtp import smtp_server


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with smtp_server() as server:
        SMTP_PORT[:] = [server.port]
        place = Place(tmp_path / "place")
        place.settings = {"tracking": [{"name": "prod", "uri": place.uri, "write_token": "anonymous"}]}
        place.policy = {"action": "prune"}
        yield place
    SMTP_PORT.clear()


def prune_due(place: Place) -> Outcome:
    return pipeline.archive_apply(place.given(), now=datetime.now(timezone.utc))


def test_old_runs_are_deleted_softly_and_nothing_else_is(place: Place) -> None:
    kept, champion = place.run("kept"), place.run("champion")
    uri = place.uri_of(place.plain)
    settings = place.given()
    place.announce(settings)
    place.client.set_tag(kept, "runspend.keep", "yes")
    place.client.create_registered_model("fraud")
    version = place.client.create_model_version("fraud", place.uri_of(champion), champion).version
    place.client.set_registered_model_alias("fraud", "champion", version)
    outcome = prune_due(place)
    assert outcome.changed == [f"deleted run {place.plain} (old) in MLflow, where it can be restored"], outcome
    kept_notes = {note for note in outcome.notes if note.startswith("kept: ")}
    assert kept_notes == {f"kept: run {kept} (old): its tag runspend.keep", f"kept: run {champion} (old): alias champion on fraud/1"}
    stages = {run_id: place.client.get_run(run_id).info.lifecycle_stage for run_id in (place.plain, kept, champion, place.young)}
    assert stages == {place.plain: "deleted", kept: "active", champion: "active", place.young: "active"}
    assert place.there(place.plain, uri)
    again = prune_due(place)  # the tables are not updated yet, and nothing is left to do
    assert (again.exit_code, place.client.get_run(place.plain).info.lifecycle_stage) == (0, "deleted")

    place.night(settings, NOW)  # the plan no longer contains it, and a restored run needs its own notice
    pipeline.archive_plan(settings, now=NOW)
    place.client.restore_run(place.plain)
    place.night(settings, NOW + timedelta(minutes=1))
    pipeline.archive_plan(settings, now=NOW + timedelta(minutes=1))
    assert prune_due(place).changed == []
    assert place.client.get_run(place.plain).info.lifecycle_stage == "active"


def test_an_archived_run_says_where_its_artifacts_went(place: Place) -> None:
    place.policy = {}
    uri = place.uri_of(place.plain)
    results = place.archive()
    assert place.is_archived(results, place.plain, uri)
    settings = place.given()
    for _ in range(2):
        assert tag_archived(settings, Records(settings.home)) == []
    tag = place.client.get_run(place.plain).data.tags["runspend.archived"]
    archive = results[place.plain].archive
    assert tag.startswith(f"{archive.to}/{archive.folder} since ") and tag.endswith(f"runspend archive restore {place.plain}")
    assert Path(tag.split(" since ")[0], "manifest.jsonl").is_file()
    place.client.delete_run(place.plain)
    records = Records(settings.home)
    restore(place.plain, settings, records=records, now=NOW)
    assert tag_restored(settings, records, place.plain) == []
    run = place.client.get_run(place.plain)
    assert run.info.lifecycle_stage == "active"
    assert (run.data.tags.get("runspend.archived"), run.data.tags["runspend.restored"]) == (
        None,
        f"restored to its original place on {NOW:%Y-%m-%d}",
    )
    place.client.delete_tag(place.plain, "runspend.restored")
    assert tag_archived(settings, records) == []
    assert "runspend.restored" not in place.client.get_run(place.plain).data.tags  # it is tagged only once


class KilledError(BaseException):
    """A stand-in for the end of the process."""


def test_a_prune_may_be_killed_at_every_point(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs and their experiment are due, and an archive must be tagged. The process is killed once at each point, and everything is done in the end."""
    settings, records = place.given(), Records(place.folder / "home")
    empty = place.make_experiment("empty")
    runs = [place.plain, place.run("second")]
    items = [_item("run", run_id) for run_id in runs] + [_item("experiment", empty)]
    archived = place.run("archived")
    archive_records = ArchiveRecords(records)
    archive = new_archive(replace(_item("run", archived), action="archive"), "s3://cold", NOW)
    archive_records.save(replace(archive, state="archived", objects=1, ended_at=NOW.isoformat()))
    killed: set[tuple[str, int]] = set()

    def work() -> list[str]:
        passed: dict[str, int] = {}

        def crash(name: str) -> None:
            passed[name] = passed.get(name, 0) + 1
            if (name, passed[name]) not in killed:
                killed.add((name, passed[name]))
                raise KilledError(name)

        monkeypatch.setattr("runspend.actions.archive.mlflow_tags.crash_point", crash)
        assert tag_archived(settings, records) == []
        return [p.state for p in prune(items, settings, protects=lambda item: None, active={"prod": 100})]

    for _ in range(12):
        try:
            states = work()
            break
        except KilledError:
            continue
    assert states == ["pruned"] * 3
    assert {name for name, _ in killed} == {"archive.tagged", "archive.before_prune", "archive.pruned"}
    assert [place.client.get_run(run_id).info.lifecycle_stage for run_id in (*runs, archived)] == ["deleted", "deleted", "active"]
    assert place.client.get_experiment(empty).lifecycle_stage == "deleted"
    assert place.client.get_run(archived).data.tags["runspend.archived"].startswith(f"s3://cold/{archive.folder} since ")


def _item(kind: Any, owner_id: str) -> Item:
    run_id = owner_id if kind == "run" else None
    return Item(
        "old", "d", "prune", None, "prod", "default", kind, owner_id, "1", run_id, None, "mlflow:prod", f"default/{owner_id}", None, 0, 0
    )
