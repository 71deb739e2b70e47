"""README and docs match the code: commands, options, links, make targets, keys, configurations that load, a script that runs."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from runspend.config.settings import load_settings
from runspend.core.resource_keys import JOB_PLACE_KEYS, RUN_JOB_KEYS, RUN_TAG_KEYS
from runspend.ingest.tracking.requested_places import PLACE_KEYS
from runspend.ingest.tracking.rows import PRINCIPAL_KEYS, REQUEST_KEYS, RESOURCE_KEYS
from runspend.interfaces.cli import cli
from runspend.schema.tables import public_tables

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")])
FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.M | re.S)
COMMAND = re.compile(r"(?:^|&& |\| )(?:\.venv/bin/)?(runspend [^|&#]*)")
SECRETS = dict.fromkeys(("MLFLOW_TRACKING_TOKEN", "MLFLOW_DB_PASSWORD", "SMTP_PASSWORD"), "x")


def fences(page: Path, *languages: str) -> list[str]:
    """Return the fenced blocks of a page in these languages."""
    return [body for language, body in FENCE.findall(page.read_text(encoding="utf-8")) if language in languages]


def commands(page: Path) -> Iterator[str]:
    """Yield every `runspend …` that a page asks people to type, in shell blocks and in sentences."""
    for body in fences(page, "sh"):
        for line in body.replace("\\\n", " ").splitlines():
            if found := COMMAND.search(line.strip()):
                yield found[1].strip()
    prose = FENCE.sub("", page.read_text(encoding="utf-8"))
    yield from (code for code in re.findall(r"`(runspend [^`\n]+)`", prose))


TYPED = sorted({(page.name, command) for page in PAGES for command in commands(page)})


def test_the_pages_have_commands_to_type() -> None:
    """`commands` finds the commands that people meet first."""
    typed = [command for name, command in TYPED if name == "README.md"]
    assert {"runspend init", "runspend doctor", "runspend nightly"} <= set(typed)
    assert any(command.startswith("runspend try --tracking") for command in typed)
    assert any(command.startswith("runspend sql --config") for command in typed)


@pytest.mark.parametrize(("page", "command"), TYPED)
def test_every_command_exists_with_its_options(page: str, command: str) -> None:
    """Click itself parses the command without running it, and its `--help` works."""
    words = shlex.split(command.replace("…", ""))[1:]
    group: click.Command = cli
    context = click.Context(cli, info_name="runspend")
    path: list[str] = []
    while isinstance(group, click.Group) and words and not words[0].startswith("-"):
        found = group.get_command(context, words[0])
        assert found is not None, f"{page}: there is no `runspend {' '.join([*path, words[0]])}`"
        path.append(words.pop(0))
        group = found
        context = click.Context(group, info_name=path[-1], parent=context)
    if not isinstance(group, click.Group):
        # Only the parser runs. It recognizes options and surplus words, and does not need files that are missing here.
        _, surplus, _ = group.make_parser(context).parse_args(words)
        assert not surplus, f"{page}: `runspend {' '.join(path)}` takes no {' '.join(surplus)}"
    shown = CliRunner().invoke(cli, [*path, "--help"])
    assert shown.exit_code == 0 and "Usage:" in shown.output


def test_a_made_up_command_or_option_would_be_noticed() -> None:
    """`test_every_command_exists_with_its_options` can fail."""
    for command in (
        "runspend fly",
        "runspend nightly --faster",
        "runspend archive fly",
        "runspend measure --accept prod:2026-10",
        "runspend status now",
    ):
        with pytest.raises((AssertionError, click.UsageError)):
            test_every_command_exists_with_its_options("nowhere", command)


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    heads = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    """Links to files and headings of this repository are valid, and stay inside it."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://|mailto:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists() and file.is_relative_to(ROOT), f"{page.name}: nothing at {target}"
        if anchor:
            assert anchor in anchors(file), f"{page.name}: {file.name} has no heading {anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_make_target_exists(page: Path) -> None:
    """`make X` in a page is a target of the Makefile."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    text = page.read_text(encoding="utf-8")
    named = {*re.findall(r"`make ([a-z]+)`", text), *(t for body in fences(page, "sh") for t in re.findall(r"^make ([a-z]+)", body, re.M))}
    assert named <= targets


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("start-*.md"))], ids=lambda page: page.name)
def test_every_configuration_is_read(page: Path, tmp_path: Path) -> None:
    """Runspend accepts the configurations on start pages unchanged."""
    blocks = fences(page, "yaml")
    assert blocks
    for block in blocks:
        (tmp_path / "runspend.yaml").write_text(block, encoding="utf-8")
        load_settings(tmp_path / "runspend.yaml", SECRETS)


def test_identify_names_every_key_that_is_read_and_no_other() -> None:
    """The page lists exactly the code's keys. A key that Runspend does not read would be a useless tag."""
    text = FENCE.sub("", (ROOT / "docs" / "identify.md").read_text(encoding="utf-8"))
    _, section = text.split("## Every key that is read\n")
    section, _ = section.split("## Several machines")
    runs, bills = section.split("## The exact way")
    columns = {"runs", "job_id", "job_key", "pool_key", "principal_key", "mean_use_percent"}
    settings = {"runspend.yaml", "copy", "pools", "keys.run_job"}
    named = set(re.findall(r"`([A-Za-z][\w.]+)`", runs)) - columns - settings
    assert named == {*RESOURCE_KEYS, *RUN_JOB_KEYS, *REQUEST_KEYS, *JOB_PLACE_KEYS, *PLACE_KEYS, *PRINCIPAL_KEYS}
    listed = next(part for part in bills.split("\n\n") if part.startswith("`"))
    assert tuple(re.findall(r"`([^`]+)`", listed)) == RUN_TAG_KEYS
    order = [runs.index(f"| `{key}` |") for key in RESOURCE_KEYS]
    assert order == sorted(order)


def test_readme_names_the_public_tables() -> None:
    """README lists all public tables, and no internal ones."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## Tables\n")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", section, re.M)) == {table.name for table in public_tables()}


def test_the_box_of_the_start_page_is_the_one_that_is_tested(tmp_path: Path) -> None:
    """tests/e2e/test_one_box.py runs the pipeline with this file."""
    (block,) = fences(ROOT / "docs" / "start-one-box.md", "yaml")
    (tmp_path / "runspend.yaml").write_text(block, encoding="utf-8")
    (tmp_path / "tested.yaml").write_text(
        (ROOT / "tests" / "config" / "examples" / "one-box.yaml").read_text(encoding="utf-8"), encoding="utf-8"
    )
    assert load_settings(tmp_path / "runspend.yaml", {}).model_dump() == load_settings(tmp_path / "tested.yaml", {}).model_dump()
