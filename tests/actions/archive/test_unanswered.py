"""If a tracking server does not answer, everything stays, the exit code is 3, and operators get one mail a day."""

from __future__ import annotations

from pathlib import Path

import pytest

from runspend.actions.archive.protection_watch import is_unanswered
from runspend.core.step_result import Outcome
from runspend.pipeline.archive_moving import tell_unanswered
from runspend.warehouse.records import Records
from tests.actions.archive.policy_world import NOW, given_settings
from tests.archive_world import make_item

SILENT = "whether MLflow still needs it is unknown: cannot reach prod: connection refused"


def test_operators_are_mailed_once_a_day_and_the_command_exits_with_3(tmp_path: Path) -> None:
    settings, records = given_settings(tmp_path, {}, mail={"backend": "file", "operators": ["oncall@acme.com"]}), Records(tmp_path)
    for _ in range(2):
        outcome = Outcome("archive apply")
        tell_unanswered(
            settings,
            records,
            outcome,
            [
                (make_item(), SILENT),
                (make_item(prefix="1/run2/artifacts"), SILENT),
                (make_item(), None),
                (make_item(), "its tag runspend.keep"),
            ],
            NOW,
        )
        assert outcome.exit_code == 3 and outcome.is_worth_retrying
        assert (
            outcome.problems[0].startswith("prod did not answer whether its artifacts are still needed, so 2 due items stay in place")
            and "Nothing was deleted" in outcome.problems[0]
        )
    [mail] = list((tmp_path / "mail").glob("*NOT-ARCHIVED*.eml"))
    assert "connection refused" in " ".join(mail.read_text().split())


def test_servers_that_answer_raise_no_alarm(tmp_path: Path) -> None:
    outcome = Outcome("archive apply")
    tell_unanswered(
        given_settings(tmp_path, {}), Records(tmp_path), outcome, [(make_item(), "its tag runspend.keep"), (make_item(), None)], NOW
    )
    assert outcome.exit_code == 0 and not outcome.problems


@pytest.mark.parametrize(
    ("reason", "is_so"),
    [
        (SILENT, True), ("whether anything protects it is unknown: the answer took 4.0 seconds", True), ("whether anything protects it is unknown: disk", True),
        (f"{SILENT}. 3 of its 9 objects are only in the archive", True), ("excluded from retention until 2027-01-01: whether MLflow still needs it is unknown", False), (None, False), ("it is running", False),
    ],
)  # fmt: skip
def test_only_a_missing_answer_counts(reason: str | None, is_so: bool) -> None:
    assert is_unanswered(reason) is is_so
