"""Files that assign IAM principals to teams and owners: how the configuration reads them, and the error for every mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from runspend.allocation.model_order import ledger_parameters
from runspend.config.settings import Settings
from runspend.core.errors import ConfigError
from runspend.ingest.tracking.dimension_sources import DimensionSources
from runspend.ingest.tracking.settings import RowSettings
from tests.settings_builder import read_settings

ANN = "arn:aws:iam::111122223333:user/ann"


def configured(folder: Path, text: str, more: str = "") -> Settings:
    (folder / "teams.csv").write_text(text)
    return read_settings(folder, "dimensions: {team: [run.tag.team, {principal: teams.csv}, run.param.team" + more + "]}\n")


def test_a_file_is_read_with_the_configuration(tmp_path: Path) -> None:
    """The path is relative to the configuration. All spellings of one principal are equal."""
    text = f"principal,team\n{ANN},nlp\narn:aws:sts::111122223333:assumed-role/Trainer/eve,vision\narn:aws:iam::111122223333:role/ml/Trainer,platform\n"
    settings = configured(tmp_path, text)
    assert settings.dimensions.principals == {
        "team": {
            "aws:111122223333:user/ann": "nlp",
            "aws:111122223333:role/trainer/eve": "vision",
            "aws:111122223333:role/trainer": "platform",
        }
    }
    assert Settings().dimensions.principals == {}


def test_the_first_file_counts(tmp_path: Path) -> None:
    (tmp_path / "more.csv").write_text(f"principal,team\n{ANN},late\narn:aws:iam::111122223333:user/bob,bob's\n")
    settings = configured(tmp_path, f"principal,team\n{ANN},nlp\n", ", {principal: more.csv}")
    assert settings.dimensions.principals["team"] == {"aws:111122223333:user/ann": "nlp", "aws:111122223333:user/bob": "bob's"}


def test_a_principal_file_does_not_apply_to_runs(tmp_path: Path) -> None:
    """Only bill lines have a principal. A run's own values count more if they come before the file in the list, and less if they come after it."""
    settings = configured(tmp_path, f"principal,team\n{ANN},nlp\n")
    names = DimensionSources(RowSettings(settings.dimensions)).names
    assert {"run.tag.team", "run.param.team", "run.user"} <= set(names) and "principal" not in " ".join(names)
    assert ledger_parameters(settings)["team_before_bill"] == "|run.tag.team|"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "principal,team\nann,nlp\n",
            "teams.csv, line 2: 'ann' is not the ARN of an IAM role or user. Write one such as arn:aws:iam::111122223333:role/NAME",
        ),
        ("principal,team\narn:aws:iam::123:user/ann,nlp\n", "line 2: 'arn:aws:iam::123:user/ann' is not the ARN"),
        (f"principal,team\n{ANN},\n", "line 2: team is empty. Write a value, or remove the line"),
        (
            f"principal,team\n{ANN},nlp\n\n{ANN.replace('ann', 'ANN')},vision\n",
            "line 4: arn:aws:iam::111122223333:user/ANN has the team 'nlp' in an earlier line",
        ),
        (f"principal,owner\n{ANN},nlp\n", "line 1: column team is missing"),
        (f"principal,team\n{ANN}\n", "line 2: 1 values for 2 columns"),
        ("", "is empty"),
    ],
)
def test_a_mistake_is_reported_with_the_file_and_its_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError) as raised:
        configured(tmp_path, text)
    assert words in str(raised.value) and "teams.csv" in str(raised.value)


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*gone\.csv"):
        read_settings(tmp_path, "dimensions: {owner: [{principal: gone.csv}]}\n")
