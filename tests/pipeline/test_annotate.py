"""What the step reports about costs that it did not write."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timezone
from pathlib import Path

from runspend.actions.annotate import Written
from runspend.config.settings import Settings
from runspend.core.step_result import Outcome
from runspend.pipeline.annotate import _report, annotate, remove_annotations

NOW = datetime(2026, 11, 29, tzinfo=timezone.utc)


def test_costs_of_another_installation_are_counted_with_advice(tmp_path: Path) -> None:
    server = {"name": "prod", "uri": "http://127.0.0.1:9", "write_token": "anonymous", "annotate": True}
    settings, outcome = Settings.model_validate({"home": tmp_path, "tracking": [server]}), Outcome("annotate")
    others = Counter({"1" * 16: 1_204, "2" * 16: 0})
    _report(settings, settings.tracking[0], lambda _: Written(others=others), outcome, NOW)
    assert outcome.notes == [
        f"prod: did not change the costs that another Runspend installation ({'1' * 16}) wrote to 1,204 runs, experiments and model versions. "
        f"Let only one installation annotate them. If the other one is gone, write its id to {tmp_path / 'installation'}"
    ]


def test_a_configuration_without_annotated_servers_gets_a_note(tmp_path: Path) -> None:
    settings = Settings.model_validate({"home": tmp_path, "tracking": [{"name": "prod", "uri": "http://127.0.0.1:9"}]})
    for step, key in ((annotate, "`annotate: true`"), (remove_annotations, "a `write_token`")):
        done = step(settings, now=NOW)
        assert (done.notes, done.exit_code) == ([f"no tracking server in runspend.yaml has {key}: nothing was written to MLflow"], 0)
