"""Add pools to an existing `runspend.yaml`: only lines are added, a repetition changes nothing, and impossible changes are refused."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from runspend.allocation.suggest.hour_fit import Fit
from runspend.allocation.suggest.matching import Group, Match
from runspend.allocation.suggest.proposals import Proposal, Proposals, proposals_yaml
from runspend.allocation.suggest.settings_file import add_pools
from runspend.config.settings import load_settings
from runspend.core.errors import ConfigError, UsageError

BASE = "tracking:\n  - {name: lab, uri: ./mlruns}   # ours\n"


def proposal(name: str = "gpu", **runs: str) -> Proposal:
    """Make a pool that the hours support."""
    group = Group("instance_type", "bill", "1111", ("g5.xlarge",), frozenset({0}), 1)
    match = Match(group, "experiment", ("bert",), Fit(100, 80, 75, 0.83, 0.1), 120.0, 90.0, 12)
    return Proposal(
        name,
        {k: [v] for k, v in (runs or {"experiment": "bert"}).items()},
        {"account": ["1111"], "instance_type": ["g5.xlarge"]},
        match,
        "USD",
    )


def add(tmp_path: Path, text: str, *proposals: Proposal) -> str:
    """Add the pools, and return the file. Everything that was in it is still there, in its order."""
    path = tmp_path / "runspend.yaml"
    path.write_bytes(text.encode())
    before = load_settings(path)
    add_pools(path, proposals, ["looked at 31 days"])
    after = path.read_bytes().decode()
    left = iter(after)
    assert all(sign in left for sign in text)
    settings = load_settings(path)
    assert settings.pools == [*before.pools, *(p.pool for p in proposals)]
    assert settings.tracking == before.tracking
    return after


@pytest.mark.parametrize(
    "text",
    [
        BASE,
        BASE.rstrip("\n"),
        BASE + "\n# the end\n",
        "\ufeff" + BASE,
        BASE.replace("\n", "\r\n"),
        "# first\n---\n" + BASE,
        BASE + "...\n",
        BASE + "pools:\n  - name: old\n    runs: {experiment: a}\n    lines: {account: '1'}\n",
        BASE
        + "pools:\n- name: old\n  runs: {experiment: a}\n  lines:\n    account: '1'   # theirs\n\n# mail comes next\nmail: {backend: none}\n",
        BASE + "pools:\n    - {name: old, runs: {experiment: a}, lines: {account: '1'}}  # old one\nmail: {backend: none}",
        BASE
        + "pools:\n  - name: old\n    runs: {experiment: a}\n    lines:\n      account: >-\n        one\n        two\n\n\nmail: {backend: none}\n",
        BASE + "mail:\n  backend: none\n  operators:\n    - a@example.com\n\n\n",
    ],
)
def test_lines_are_added_and_all_else_stays(tmp_path: Path, text: str) -> None:
    """The file's comments, blank lines, line ends and indentation stay as they are."""
    after = add(tmp_path, text, proposal("one"), proposal("two", user="ana"))
    assert after.count("# looked at 31 days") == 1
    assert ("\r\n" in after) == ("\r\n" in text) and after.count("\r") in (0, after.count("\n"))


@pytest.mark.parametrize(
    "value",
    [
        "${HOME}",
        "$${x}",
        'a "b" c',
        "it's",
        "a: b",
        "# no comment",
        "- x",
        "null",
        "yes",
        "1e3",
        "0123",
        "{a}",
        "[a]",
        "&a",
        "*",
        "!x",
        "a\nb",
        "tab\there",
        "ä\u2028b",
        "",
        "%",
        "@x",
        "`x`",
        "\\",
        "?",
    ],
)
def test_any_name_is_written_as_it_is(tmp_path: Path, value: str) -> None:
    """Users choose the names of experiments. A name cannot end a value, a comment or a line, or read the environment."""
    if not value:
        return
    made = proposal("gpu", experiment=value)
    add(tmp_path, BASE, made)
    path = tmp_path / "printed.yaml"
    path.write_text(BASE + proposals_yaml(Proposals((made,), None)))
    assert load_settings(path).pools == [made.pool]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"tracking": [{"name": "lab", "uri": "./mlruns"}]}', "in braces"),
        (BASE + "pools: []\n", "in brackets"),
        (BASE + "pools: [{name: old, runs: {experiment: a}, lines: {account: '1'}}]\n", "in brackets"),
        (BASE + "pools:\n  - name: GPU\n    runs: {experiment: a}\n    lines: {account: '1'}\n", "already taken"),
        ("  tracking:\n    - {name: lab, uri: ./mlruns}\n", "indented"),
        (BASE + "pools:\n", "should be a list"),
    ],
)
def test_a_file_that_cannot_be_changed_is_refused_and_stays_as_it_is(tmp_path: Path, text: str, why: str) -> None:
    """The error says that nothing was changed, or what to correct."""
    path = tmp_path / "runspend.yaml"
    path.write_text(text)
    with pytest.raises((UsageError, ConfigError), match=why) as raised:
        add_pools(path, [proposal()], [])
    assert "Nothing was changed" in str(raised.value) or isinstance(raised.value, ConfigError)
    assert path.read_text() == text
    assert [p.name for p in tmp_path.iterdir()] == ["runspend.yaml"]


def test_the_file_keeps_its_mode_and_a_link_stays_a_link(tmp_path: Path) -> None:
    """Runspend's own files are private, but this file belongs to the user."""
    real = tmp_path / "real.yaml"
    real.write_text(BASE)
    os.chmod(real, 0o664)
    (tmp_path / "runspend.yaml").symlink_to(real)
    add_pools(tmp_path / "runspend.yaml", [proposal()], [])
    assert (tmp_path / "runspend.yaml").is_symlink()
    assert stat.S_IMODE(real.stat().st_mode) == 0o664
    assert len(load_settings(tmp_path / "runspend.yaml").pools) == 1


def test_a_killed_process_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is the old one or the new one, never a part of it."""
    path = tmp_path / "runspend.yaml"
    path.write_text(BASE)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        add_pools(path, [proposal()], [])
    assert path.read_text() == BASE


def test_a_change_made_meanwhile_is_not_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An editor saves the file while Runspend checks the pools."""
    from runspend.allocation.suggest import settings_file

    path = tmp_path / "runspend.yaml"
    path.write_text(BASE)
    checked = settings_file._check

    def meddle(*given: object) -> None:
        checked(*given)  # type: ignore[arg-type]
        path.write_text(BASE + "currency: EUR\n")

    monkeypatch.setattr(settings_file, "_check", meddle)
    with pytest.raises(UsageError, match="the file was changed meanwhile"):
        add_pools(path, [proposal()], [])
    assert path.read_text() == BASE + "currency: EUR\n"
