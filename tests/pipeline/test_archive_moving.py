"""The output of `archive apply` states each fact once, and gives a reason if there is nothing to do."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import pyarrow as pa
import pytest

from runspend.actions.archive.archive_records import new_archive
from runspend.actions.archive.context import Result
from runspend.actions.archive.mlflow_tags import Pruned
from runspend.actions.archive.selection import policy_digest
from runspend.config.settings import Settings
from runspend.core.errors import CapPassed, LeaseLost, RunspendError, SourceRefused
from runspend.core.step_result import Outcome, silent
from runspend.pipeline import archive_moving as moving
from runspend.pipeline.archive_moving import tell_results, why_nothing_is_due
from runspend.schema.tables import TABLES
from runspend.warehouse.factory import open_warehouse
from runspend.warehouse.records import Records
from tests.actions.archive.policy_world import stored
from tests.archive_world import ARCHIVE, PREFIX, SOURCE, make_item

NOW = datetime(2026, 11, 25, tzinfo=timezone.utc)


def result(number: int, state: str, reason: str) -> Result:
    return Result(new_archive(make_item(owner_id=f"run{number}", prefix=f"1/run{number}/artifacts"), ARCHIVE, NOW), state, reason)


def test_items_with_the_same_reason_to_wait_are_reported_once() -> None:
    outcome = Outcome("archive apply")
    waiting = [result(n, "copied", "it has no `delete_credentials`") for n in range(18)]
    tell_results(
        [*waiting, result(18, "protected", "alias champion on fraud/7"), result(19, "protected", "its tag runspend.keep")], outcome
    )
    policy = waiting[0].archive.item.policy
    assert outcome.notes == [
        f"copied, not deleted: 18 items ({policy}): it has no `delete_credentials`",
        f"kept: run run18 ({policy}): alias champion on fraud/7",
        f"kept: run run19 ({policy}): its tag runspend.keep",
    ]


def test_a_step_with_nothing_due_says_why() -> None:
    def row(state: str, reason: str) -> dict[str, str]:
        return {"state": state, "reason": reason}

    assert why_nothing_is_due([]) == "archive: nothing is due, because no policy selects anything"
    rows = [
        row("planned", "unused for 90 days"),
        row("announced", "unused for 91 days; due from 2027-01-01"),
        row("announced", "unused for 99 days; due from 2026-12-25"),
    ]
    assert why_nothing_is_due(rows) == (
        "archive: nothing is due: 2 announced (due from 2026-12-25), 1 planned (no notice was delivered to a mail server, so no grace period has begun. Run: runspend archive notify)"
    )


@pytest.mark.parametrize(
    "error", [CapPassed("too many", wanted=2, allowed=1), LeaseLost("another"), SourceRefused("s3://b", "the clocks differ")]
)
def test_an_error_that_stops_archiving_stops_pruning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: RunspendError) -> None:
    def refuse(*_: object, **__: object) -> list[Result]:
        raise error

    def prune(*_: object, **__: object) -> list[Pruned]:
        raise AssertionError("something was deleted in MLflow")

    settings = Settings.model_validate({"home": str(tmp_path)})
    monkeypatch.setattr(moving, "apply", refuse)
    monkeypatch.setattr(moving, "prune", prune)
    outcome = Outcome("archive apply")
    moving.apply_due(open_warehouse(settings), settings, Records(tmp_path), outcome, datetime.now(timezone.utc), silent)
    assert outcome.problems == [str(error)] and outcome.exit_code == error.exit_code


def test_items_done_before_the_lease_was_lost_are_in_the_outcome(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Another archiver took over in the middle. Finished items and failures of this one are still reported."""

    def lose(*_: object, tell: Callable[[Result], None], **__: object) -> list[Result]:
        for state, reason in (
            ("archived", ""),
            ("partial", "1 of 2 objects are still in their original place."),
            ("protected", "alias champion on fraud/7"),
        ):
            tell(result(1, state, reason))
        raise LeaseLost("cannot continue archiving: another archiver has taken over.")

    settings = Settings.model_validate({"home": str(tmp_path)})
    monkeypatch.setattr(moving, "apply", lose)
    outcome = Outcome("archive apply")
    moving.apply_due(open_warehouse(settings), settings, Records(tmp_path), outcome, datetime.now(timezone.utc), silent)
    assert [line.split(" to ")[0] for line in outcome.changed] == ["archived run run1 (old runs): 0 objects, 0 bytes"]
    assert outcome.notes[0] == "kept: run run1 (old runs): alias champion on fraud/7"
    assert outcome.problems[1:] == [
        "run run1 (old runs): 1 of 2 objects are still in their original place.",
        "cannot continue archiving: another archiver has taken over.",
    ]
    assert outcome.exit_code == 5


@pytest.mark.parametrize("state", ["planned", "announced"])
def test_an_interrupted_item_that_was_restored_needs_a_new_notice(tmp_path: Path, state: str) -> None:
    settings = Settings.model_validate({"home": str(tmp_path)})
    item = make_item()
    protects = moving._protection(open_warehouse(settings), settings, Records(tmp_path), {item.key: (state, "unused for 90 days")}, NOW)
    assert protects(item) == "it needs a new notice and a new grace period: unused for 90 days"


@pytest.mark.parametrize(
    ("change", "select", "objects", "is_kept"),
    [
        ({}, {}, 3, True),
        ({}, {}, 1, False),
        ({}, {}, None, False),
        ({}, {"larger_than": "1GB"}, 3, False),
        ({"action": "delete"}, {"larger_than": "1GB"}, None, True),
    ],
)
def test_an_interrupted_item_that_is_no_longer_selected_is_not_finished(
    tmp_path: Path, change: dict[str, str], select: dict[str, str], objects: int | None, is_kept: bool
) -> None:
    """The move was interrupted, then the run was used again, and its notice was withdrawn.

    If only the note or half of the objects is left, the archive finishes the move.
    """
    policy = {"name": "cold", "select": {"unused_for": "90d", **select}, "action": change.get("action", "archive")}
    settings = Settings.model_validate(
        {"home": str(tmp_path), "retention": [policy], "stores": [{"uri": SOURCE}, {"uri": ARCHIVE}], "archive": {"to": ARCHIVE}}
    )
    warehouse = open_warehouse(settings)
    rows = [] if objects is None else [stored("run1", store=SOURCE, prefix=PREFIX, objects=objects)]
    with warehouse.step("measure", "b1") as step:
        step.put("artifact_bytes", "2026-11", "test", pa.Table.from_pylist(rows, schema=TABLES["artifact_bytes"].arrow_schema()))
        step.publish()
    item = make_item(policy="cold", policy_digest=policy_digest(settings.retention[0], settings), **change)
    protects = moving._protection(warehouse, settings, Records(tmp_path), {}, NOW)
    expected = (
        "the retention policy 'cold' no longer selects it"
        if is_kept
        else "its tracking server prod is not in runspend.yaml, so Runspend cannot ask whether it is in use"
    )
    assert protects(item) == expected
