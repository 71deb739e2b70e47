"""`runspend nightly --dags`: what the DAGs' own process reports is what the command ends with."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from runspend.config.settings import load_settings
from runspend.core.errors import RunspendError
from runspend.interfaces.airflow_runner import run_dags

NOW = datetime(2026, 11, 25, 6, tzinfo=timezone.utc)
DONE = {"step": "nightly", "changed": ["load aws"], "unchanged": ["extract prod"], "problems": [], "notes": ["a note"], "exit_code": 0}
REFUSED = {**DONE, "problems": ["source REFUSED"], "exit_code": 3}


def dags_that_report(folder: Path, result: dict[str, Any] | None, exit_code: int) -> Path:
    """A folder of DAGs whose script only reports."""
    write = f"given[given.index('--result') + 1]; pathlib.Path(path).write_text({json.dumps(result)!r})" if result is not None else "''"
    folder.mkdir()
    (folder / "run_pipeline.py").write_text(f"import pathlib, sys\ngiven = sys.argv\npath = {write}\nsys.exit({exit_code})\n")
    return folder


def run(tmp_path: Path, result: dict[str, Any] | None, exit_code: int) -> Any:
    config = tmp_path / "runspend.yaml"
    config.write_text("home: .\n")
    return run_dags(load_settings(config), dags_that_report(tmp_path / "dags", result, exit_code), now=NOW, periods=["2026-11"])


@pytest.mark.parametrize("result", [DONE, REFUSED])
def test_the_exit_code_and_the_problems_of_the_tasks_are_those_of_the_command(tmp_path: Path, result: dict[str, Any]) -> None:
    outcome = run(tmp_path, result, result["exit_code"])
    assert {key: getattr(outcome, key) for key in result} == result
    assert outcome.found == []


def test_dags_that_leave_no_result_are_an_error_with_the_log_to_read(tmp_path: Path) -> None:
    with pytest.raises(RunspendError, match=r"ended with 1 and left no result\. See .*pipeline\.log"):
        run(tmp_path, None, 1)


def test_steps_without_settings_are_skipped(tmp_path: Path) -> None:
    """They would only say that there is nothing to do."""
    config = tmp_path / "runspend.yaml"
    config.write_text("home: .\npublish:\n  - {name: laptop, kind: duckdb, file: costs.duckdb}\n")
    folder = tmp_path / "dags"
    folder.mkdir()
    (folder / "run_pipeline.py").write_text(
        "import json, pathlib, sys\n"
        f"result = {{**json.loads({json.dumps(DONE)!r}), 'notes': sys.argv[1:]}}\n"
        "pathlib.Path(sys.argv[sys.argv.index('--result') + 1]).write_text(json.dumps(result))\n"
    )
    given = run_dags(load_settings(config), folder, now=NOW, periods=[]).notes
    assert given[-2:] == ["--skip", "annotate"] and "publish" not in given
