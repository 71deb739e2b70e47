"""`runspend nightly --dags` ends with the exit code and the problems that the DAGs' own process reports."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from runspend.config.settings import load_settings
from runspend.core.errors import RunspendError, UsageError
from runspend.interfaces import airflow_runner

NOW = datetime(2026, 11, 25, 6, tzinfo=timezone.utc)
DONE = {"step": "nightly", "changed": ["load aws"], "unchanged": ["extract prod"], "problems": [], "notes": ["a note"], "exit_code": 0}
REFUSED = {**DONE, "problems": ["source REFUSED"], "exit_code": 3}


def runner_that_reports(script: Path, result: dict[str, Any] | None, exit_code: int) -> tuple[str, str]:
    """A runner of DAGs that only writes a report."""
    write = f"given[given.index('--result') + 1]; pathlib.Path(path).write_text({json.dumps(result)!r})" if result is not None else "''"
    script.write_text(f"import pathlib, sys\ngiven = sys.argv\npath = {write}\nsys.exit({exit_code})\n")
    return sys.executable, str(script)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    def run(result: dict[str, Any] | None, exit_code: int, dags: Path = tmp_path) -> Any:
        config = tmp_path / "runspend.yaml"
        config.write_text("home: .\n")
        monkeypatch.setattr(airflow_runner, "RUNNER", runner_that_reports(tmp_path / "runner.py", result, exit_code))
        return airflow_runner.run_dags(load_settings(config), dags, now=NOW, periods=["2026-11"])

    return run


@pytest.mark.parametrize("result", [DONE, REFUSED])
def test_the_exit_code_and_the_problems_of_the_tasks_are_those_of_the_command(run: Callable[..., Any], result: dict[str, Any]) -> None:
    outcome = run(result, result["exit_code"])
    assert {key: getattr(outcome, key) for key in result} == result
    assert outcome.found == []


def test_dags_that_leave_no_result_are_an_error_with_the_log_to_read(run: Callable[..., Any]) -> None:
    with pytest.raises(RunspendError, match=r"ended with 1 and left no result\. See .*pipeline\.log"):
        run(None, 1)


def test_steps_without_settings_are_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without settings, these steps would only report that there is nothing to do."""
    config = tmp_path / "runspend.yaml"
    config.write_text("home: .\npublish:\n  - {name: laptop, kind: duckdb, file: costs.duckdb}\n")
    script = tmp_path / "runner.py"
    script.write_text(
        "import json, pathlib, sys\n"
        f"result = {{**json.loads({json.dumps(DONE)!r}), 'notes': sys.argv[1:]}}\n"
        "pathlib.Path(sys.argv[sys.argv.index('--result') + 1]).write_text(json.dumps(result))\n"
    )
    monkeypatch.setattr(airflow_runner, "RUNNER", (sys.executable, str(script)))
    given = airflow_runner.run_dags(load_settings(config), tmp_path, now=NOW, periods=[]).notes
    assert given[-2:] == ["--skip", "annotate"] and "publish" not in given


def test_a_folder_that_is_not_there_is_named(run: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot run the DAGs of .*nowhere: it is not a folder"):
        run(DONE, 0, tmp_path / "nowhere")
