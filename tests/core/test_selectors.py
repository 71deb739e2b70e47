"""The selector language: which keys it takes, what its globs match, and that SQL and Python agree on it."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runspend.core.selectors import BUDGET_KEYS, LINE_KEYS, LINE_MAPS, RUN_KEYS, RUN_MAPS, glob_to_regex, matches, parse_selector


def test_values_become_lists_of_texts() -> None:
    """A string, a number and a list all become lists of patterns."""
    raw = {"tracking": "prod", "experiment": ["a", "b*"], "param.batch": 32, "tag.team": "vision"}
    assert parse_selector(raw, RUN_KEYS, RUN_MAPS) == {
        "tracking": ["prod"],
        "experiment": ["a", "b*"],
        "param.batch": ["32"],
        "tag.team": ["vision"],
    }


def test_a_tag_key_keeps_its_dots_and_colons() -> None:
    """Everything after the first dot is the key as the cloud wrote it."""
    assert parse_selector({"tag.aws:eks:cluster.name": "ml-*"}, LINE_KEYS, LINE_MAPS) == {"tag.aws:eks:cluster.name": ["ml-*"]}


@pytest.mark.parametrize(
    "raw",
    [
        None,
        "prod",
        [],
        {},
        {"tracking": []},
        {"tracking": ""},
        {"tracking": "  "},
        {"tracking": [""]},
        {"tracking": None},
        {"tracking": True},
        {"tracking": {"a": "b"}},
    ],
)
def test_a_selector_without_a_pattern_is_refused(raw: object) -> None:
    """No pattern that could mean "everything" is accepted."""
    with pytest.raises(ValueError, match="selector"):
        parse_selector(raw, RUN_KEYS, RUN_MAPS)


@pytest.mark.parametrize("key", ["trackin", "tag", "tag.", "account", "TAG.team", "experiment.tag"])
def test_an_unknown_key_is_named_with_those_allowed(key: str) -> None:
    """The message contains the key and the allowed keys."""
    with pytest.raises(ValueError, match=f"unknown selector key '{re.escape(key)}'; allowed keys are tracking, .*experiment_tag.KEY"):
        parse_selector({key: "x"}, RUN_KEYS, RUN_MAPS)


def test_budgets_have_keys_and_no_maps() -> None:
    """`for` accepts the columns of cost_daily by which teams own cost."""
    assert parse_selector(dict.fromkeys(BUDGET_KEYS, "x"), BUDGET_KEYS, ()) == {key: ["x"] for key in BUDGET_KEYS}
    with pytest.raises(ValueError, match=r"tag\.team"):
        parse_selector({"tag.team": "x"}, BUDGET_KEYS, ())


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("gpu-*", "gpu-a100", True),
        ("gpu-*", "gpu-", True),
        ("gpu-*", "xgpu-a", False),
        ("gpu-?", "gpu-1", True),
        ("gpu-?", "gpu-", False),
        ("run1", "run10", False),
        ("a.c", "abc", False),
        ("[ab]", "a", False),
        ("*", "", True),
        ("a*b", "a\nb", True),
        ("a", "a\n", False),
        ("a", None, False),
        ("*", None, False),
    ],
)
def test_a_glob_matches_the_whole_text(pattern: str, text: str | None, expected: bool) -> None:
    """`*` and `?` are the only special characters. A glob must match the whole string, and never matches a missing value."""
    assert matches(pattern, text) is expected


@settings(deadline=None)
@given(st.text(alphabet="ab*?.\n[]\\^$(", max_size=8), st.text(alphabet="ab.\n[]\\^$(", max_size=8))
def test_duckdb_and_python_match_the_same_names(pattern: str, text: str) -> None:
    """The regular expression means the same to RE2 and to Python, so a report and a model choose the same rows."""
    import duckdb

    found = duckdb.execute("select regexp_matches(?, ?)", [text, glob_to_regex(pattern)]).fetchall()
    assert found == [(matches(pattern, text),)]
