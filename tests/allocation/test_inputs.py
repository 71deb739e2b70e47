"""The version of the models, which decides whether a month is built again."""

from __future__ import annotations

from pathlib import Path

from runspend.allocation.inputs import models_digest

MODEL = "-- one row per run\nselect run_id from runs\n  -- only of the month\nwhere note = '-- text'\n"


def digest_of(folder: Path, text: str) -> str:
    """Write one model and return the version of the folder."""
    folder.joinpath("model.sql").write_text(text)
    return models_digest([folder])


def test_a_changed_comment_builds_no_month_again(tmp_path: Path) -> None:
    """Every word of a statement and every file name counts. Comments on their own lines do not."""
    before = digest_of(tmp_path, MODEL)
    assert digest_of(tmp_path, MODEL.replace("per run", "per run of the month").replace("  -- only of the month\n", "")) == before
    assert digest_of(tmp_path, MODEL.replace("select run_id", "select distinct run_id")) != before
    assert digest_of(tmp_path, MODEL.replace("-- text", "-- other text")) != before
    tmp_path.joinpath("model.sql").rename(tmp_path / "renamed.sql")
    assert models_digest([tmp_path]) != before


def test_every_model_and_check_counts() -> None:
    """The version of the package covers its folders of models and checks."""
    folder = Path(__file__).parents[2] / "include" / "runspend" / "allocation"
    assert models_digest() == models_digest([folder / "models", folder / "checks"])
