"""Errors on a terminal may contain text from outside."""

from __future__ import annotations

from pathlib import Path

import pytest

from runspend.core.errors import SourceRefused
from tests.command import run_here


@pytest.mark.parametrize("hostile", ["\r", "\x07", "\x1b]0;all is well\x07", "\x9b2J", "\u202e", "\u2028"])
def test_an_error_moves_no_cursor(tmp_path: Path, hostile: str) -> None:
    """The error names the file without its control characters."""
    done = run_here("costs", "--config", str(tmp_path / f"a{hostile}b.yaml"), code=2)
    assert "cannot read" in done.stderr and "b.yaml" in done.stderr
    assert not set(hostile) & set("\r\x07\x1b\x9b\u202e\u2028") & set(done.stderr)


def test_an_error_that_names_half_a_character_is_text() -> None:
    """A file whose name is not UTF-8 is refused like any other, and the error can be stored and mailed."""
    assert str(SourceRefused("aws", "cannot load p\udcff.csv")) == "cannot load p\\udcff.csv"
