"""The next commands in the summary can be pasted into a shell."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from runspend.config.settings import load_settings
from runspend.interfaces import nightly_summary


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder and a file with spaces in their names."""
    folder = tmp_path / "try out"
    folder.mkdir()
    (folder / "my runspend.yaml").write_text("home: here\n")
    return folder


def test_names_with_spaces_are_quoted(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home.parent)
    monkeypatch.setattr("shutil.which", lambda _: "/usr/bin/runspend")
    first, second = nightly_summary.next_commands(load_settings(home / "my runspend.yaml"))
    assert shlex.split(first) == ["runspend", "costs", "--by", "experiment", "--config", "try out/my runspend.yaml"]
    assert shlex.split(second) == ["runspend", "sql", "--tables", "--config", "try out/my runspend.yaml"]


def test_a_module_is_called_as_a_module(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runspend was started with `python -m`, and its file alone is not executable."""
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.setattr(sys, "argv", ["/somewhere/runspend/interfaces/cli/__main__.py"])
    command = nightly_summary.next_commands(load_settings(home / "my runspend.yaml"))[1]
    found = subprocess.run([*shlex.split(command)[:-4], "--help"], capture_output=True, text=True, check=True)
    assert "costs" in found.stdout


def test_another_program_keeps_its_path(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.setattr(sys, "argv", [str(home / "my env" / "runspend")])
    assert shlex.split(nightly_summary.next_commands(load_settings(home / "my runspend.yaml"))[1])[0] == "my env/runspend"
