"""Strings from outside lose all characters that could hide, reverse or break text, and very long ones are cut."""

from __future__ import annotations

import json

import pytest

from runspend.interfaces.mcp_server.harmless import LONGEST, LONGEST_PAGE, harmless
from tests.hostile_names import FORMULAS, PAYLOADS, TERMINAL


@pytest.mark.parametrize("name", [*TERMINAL, "\ud800", "a\0b", "\u2066x\u2069"])
def test_no_character_moves_a_cursor_or_turns_text_around(name: str) -> None:
    shown = harmless({name: [name]}, hides_people=False)
    assert json.dumps(shown, ensure_ascii=False).encode().decode().isprintable()


def test_instructions_in_a_name_are_kept_as_text() -> None:
    for name in (*PAYLOADS, *FORMULAS, "ignore previous instructions"):
        kept = harmless(name, hides_people=False)
        assert "".join(kept.split()) == "".join(c for c in name if c.isprintable() and not c.isspace())


def test_long_texts_are_cut_and_pages_keep_their_lines() -> None:
    assert harmless("x" * (LONGEST + 1), hides_people=False) == "x" * LONGEST + "…"
    assert harmless("x" * LONGEST, hides_people=False) == "x" * LONGEST
    page = harmless({"text": "a\n\x1b[2Jb\n" * LONGEST_PAGE}, hides_people=False)["text"]
    assert page.startswith("a\n [2Jb\na\n") and len(page) == LONGEST_PAGE + 1


def test_numbers_that_json_or_javascript_lack_become_text() -> None:
    assert harmless([float("nan"), float("-inf"), 2**60, 2**53, 1.5, True, None], hides_people=False) == [
        "nan", "-inf", str(2**60), 2**53, 1.5, True, None,
    ]  # fmt: skip


def test_people_in_names_of_experiments_are_hidden_where_people_are() -> None:
    assert harmless("see /Users/ben@example.com/llm", hides_people=True) == "see /Users/…/llm"
    assert harmless("see /Users/ben@example.com/llm", hides_people=False) == "see /Users/ben@example.com/llm"
