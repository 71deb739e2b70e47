"""Commands in messages can be pasted, because they name the user's configuration."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from runspend.interfaces.cli.context import Context, pasteable
from tests.command import run_here


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Run: runspend load --accept aws:2026-10", "Run: runspend load --config 'my file.yaml' --accept aws:2026-10"),
        ("Run `runspend nightly` first.", "Run `runspend nightly --config 'my file.yaml'` first."),
        ("until you run: runspend sources forget lab", "until you run: runspend sources forget --config 'my file.yaml' lab"),
        ("then run: runspend nightly --config other.yaml", "then run: runspend nightly --config other.yaml"),
        ("a file that `runspend export dbt` wrote", "a file that `runspend export dbt` wrote"),
        ("not available in `runspend sql`", "not available in `runspend sql`"),
        ("every key: runspend identify", "every key: runspend identify"),  # this command reads no configuration
    ],
)
def test_commands_in_messages_name_the_configuration(monkeypatch: pytest.MonkeyPatch, text: str, expected: str) -> None:
    monkeypatch.setattr(Context, "given", Path("my file.yaml"))
    assert pasteable(text) == expected
    monkeypatch.setattr(Context, "given", None)
    assert pasteable(text) == text


def test_the_hint_of_an_error_works_as_it_is_printed(tmp_path: Path) -> None:
    """Without the option, there would be no `runspend.yaml`."""
    config = tmp_path / "ours" / "runspend.yaml"
    config.parent.mkdir()
    config.write_text("home: .\n", encoding="utf-8")
    error = run_here("explain", "aaaaaaaaaa", "--config", str(config), cwd=tmp_path, code=2).stderr
    hint = error.rpartition("List some with: ")[2]
    run_here(*shlex.split(hint)[1:], cwd=tmp_path)
    assert " --config " not in run_here("explain", "aaaaaaaaaa", cwd=config.parent, code=2).stderr
