"""The wheel alone in its own environment: every command works or names the extra that it needs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
UV = Path(sys.executable).with_name("uv")
CONFIG = "tracking:\n  - name: prod\n    uri: sqlite:///mlflow.db\nbilling:\n  - name: aws\n    uri: ./bills/\n"
# Commands that succeed without any extra, because they only read the configuration or find nothing to do.
WORKS_ALONE = {
    "config", "identify", "init", "sql", "measure", "check", "verify",
    "archive restore", "warehouse copy", "sources forget", "suggest", "statement --period",
}  # fmt: skip
NEEDS = re.compile(r'^error: cannot import (\S+): it is not installed\. Run: pip install "runspend\[(pipeline|demo|mcp)\]"$', re.M)

# Each command is a child of one process that has imported the command line, because starting Python 40 times takes most of a minute.
RUN_EVERY_COMMAND = """
import json, os, sys, tempfile
import click
import runspend.config.settings
from runspend.interfaces.cli import cli, main

def commands(group, path):
    for name, command in sorted(group.commands.items()):
        if isinstance(command, click.Group):
            if command.invoke_without_command:
                yield [*path, name]
            yield from commands(command, [*path, name])
        else:
            given = [next(iter(p.opts)) for p in command.params if p.required and isinstance(p, click.Option)]
            values = [part for option in given for part in (option, "2026-01" if option == "--period" else ".")]
            yield [*path, name, *("x" for p in command.params if p.required and isinstance(p, click.Argument)), *values]

found = []
for words in [*commands(cli, []), ["sql", "select 1"], ["sql", "--tables"], ["alert", "--test-mail", "a@example.org"], ["statement", "--team", "all", "--period", "2026-01"]]:
    folder = tempfile.mkdtemp(dir=".")
    os.mkdir(f"{folder}/bills")
    with open(f"{folder}/runspend.yaml", "w") as file:
        file.write(sys.argv[1])
    child = os.fork()
    if child == 0:
        os.chdir(folder)
        out = os.open("said", os.O_WRONLY | os.O_CREAT)
        os.dup2(out, 1), os.dup2(out, 2)
        sys.argv = ["runspend", *words]
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(child, 0)
    found.append({"words": " ".join(words), "code": os.waitstatus_to_exitcode(status), "said": open(f"{folder}/said").read()})
json.dump(found, sys.stdout)
"""


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command and return what it printed. A failure fails the test."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV", "RUNSPEND_CONFIG")}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with the wheel and its locked dependencies."""
    folder = tmp_path_factory.mktemp("base")
    run(
        UV,
        "build",
        "--quiet",
        "--wheel",
        "--no-build-isolation",
        "--python",
        sys.executable,
        "--out-dir",
        folder / "dist",
        ROOT,
        cwd=folder,
    )
    run(UV, "venv", "--quiet", "--python", sys.executable, folder / "venv", cwd=folder)
    made = folder / "venv" / "bin" / "python"
    into = (UV, "pip", "install", "--quiet", "--python", made)
    locked = ("--require-hashes", "--only-binary", ":all:", "--constraint", ROOT / "requirements" / "lock.txt")
    run(*into, *locked, "--requirements", ROOT / "pyproject.toml", cwd=folder)
    run(*into, "--no-deps", *(folder / "dist").glob("*.whl"), cwd=folder)
    run(UV, "pip", "check", "--quiet", "--python", made, cwd=folder)
    return made


@pytest.fixture(scope="module")
def answers(python: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Return each command with its exit code and its output."""
    found: list[dict[str, Any]] = json.loads(run(python, "-c", RUN_EVERY_COMMAND, CONFIG, cwd=tmp_path_factory.mktemp("commands")))
    return found


def test_the_base_install_has_no_package_of_an_extra(python: Path) -> None:
    modules = ("mlflow", "duckdb", "pyarrow", "jinja2", "requests", "uvicorn")
    program = f"from importlib.util import find_spec; print([m for m in {modules!r} if find_spec(m)])"
    assert run(python, "-c", program, cwd=python.parent).strip() == "[]"


def test_every_command_works_or_names_the_extra_to_install(answers: list[dict[str, Any]]) -> None:
    assert len(answers) > 35
    for one in answers:
        assert "Traceback" not in one["said"] and "This is a bug" not in one["said"], one
        if NEEDS.search(one["said"]):
            assert one["code"] == 2, one
        else:
            assert one["words"].startswith(tuple(WORKS_ALONE)), one
            assert one["words"] != "sql select 1", one
            assert one["code"] in (0, 2), one


def test_a_pipeline_run_without_a_configuration_and_without_its_extra_makes_nothing(python: Path, tmp_path: Path) -> None:
    command = [str(python.with_name("runspend")), "nightly"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RUNSPEND_") and key != "PYTHONPATH"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 2 and NEEDS.search(done.stderr), done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_command_that_needs_no_extra_works(answers: list[dict[str, Any]]) -> None:
    codes = {one["words"]: one["code"] for one in answers}
    assert [codes[words] for words in ("config", "sql --tables", "check", "verify", "measure")] == [0] * 5
