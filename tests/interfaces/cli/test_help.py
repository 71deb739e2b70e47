"""The help of every command: its section, one short sentence, plain options, and examples that can be copied."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click
import pytest

from runspend.interfaces.cli import SECTIONS, cli
from tests.command import run_here

LONGEST = 45
IMPERATIVES = set(
    "Acknowledge Allocate Check Compare Copy Create Do End Exclude Explain Export Forget Judge Keep List Load Mail Measure Move Postpone Propose Query Read Remove "
    "Report Restore Run Serve Show Find Write".split()
)


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        yield " ".join([*path, name]), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


ALL = dict(commands(cli))


def test_help_lists_commands_in_the_order_people_meet_them() -> None:
    lines = run_here("--help").stdout.splitlines()
    heads = [line.removesuffix(":") for line in lines if line.removesuffix(":") in SECTIONS]
    assert heads == list(SECTIONS)
    named = [line.split()[0] for line in lines[lines.index(f"{heads[0]}:") :] if line.startswith("  ")]
    assert named == [command.name for section in SECTIONS.values() for command in section]
    assert sorted(named) == sorted(cli.commands)


@pytest.mark.parametrize("name", ALL)
def test_a_command_is_one_short_imperative_sentence(name: str) -> None:
    first = (ALL[name].help or "").split("\n\n")[0].strip()
    assert first.endswith(".") and len(first) <= LONGEST, first
    assert first.split()[0] in IMPERATIVES, first


@pytest.mark.parametrize("name", ["", *(name for name, command in ALL.items() if isinstance(command, click.Group))])
def test_a_list_of_commands_cuts_nothing_off(name: str) -> None:
    assert "..." not in run_here(*name.split(), "--help").stdout.replace("]...", "")


@pytest.mark.parametrize("name", ALL)
def test_every_option_says_in_a_sentence_what_it_does(name: str) -> None:
    for option in (p for p in ALL[name].params if isinstance(p, click.Option) and not p.hidden):
        assert re.fullmatch(r"([A-Z]|platform:).*\.", option.help or ""), option.opts


def test_period_says_what_it_does_in_each_command() -> None:
    described = {
        name: next((p.help for p in command.params if isinstance(p, click.Option) and "--period" in p.opts), None)
        for name, command in ALL.items()
    }
    helps = [text for text in described.values() if text is not None]
    assert {name for name, text in described.items() if text} == {
        "nightly",
        "allocate",
        "check",
        "report",
        "costs",
        "explain",
        "export focus",
        "statement",
    }
    assert len(set(helps)) == len(helps)


def test_now_is_shown_for_pipeline_runs_only() -> None:
    shown = {
        name for name, command in ALL.items() for p in command.params if isinstance(p, click.Option) and "--now" in p.opts and not p.hidden
    }
    assert shown == {"nightly"}


@pytest.mark.parametrize("name", [name for name, command in ALL.items() if "Example" in (command.help or "")])
def test_examples_keep_their_line_breaks(name: str) -> None:
    shown = run_here(*name.split(), "--help").stdout.splitlines()
    examples = [line.strip() for line in (ALL[name].help or "").splitlines() if line.strip().startswith("runspend ")]
    assert examples and all(f"    {example}" in shown for example in examples)


def test_old_names_are_gone() -> None:
    for words in (("forget", "a"), ("rename", "a", "b"), ("copy",), ("config", "--show")):
        assert re.search("No such (command|option)", run_here(*words, code=2).stderr)
