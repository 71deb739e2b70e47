"""Damage in the warehouse: every flipped bit, cut, lost or exchanged file is found by the next pipeline run, mailed, refused by readers, and mended."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runspend.warehouse import Unit
from tests.command import run_here
from tests.faults.damaged_world import NOW, choose_flips, copy_of, digests, unit_of
from tests.kept import made_once
from tests.tiny_world import make_store, make_tiny_world


def _make(folder: Path) -> None:
    folder.mkdir()
    store = folder / "store"
    store.mkdir()
    make_store(store)
    config = make_tiny_world(folder / "world", store, {"bill": 48, "other": 12})
    run_here("nightly", "--config", str(config), "--now", NOW)


@pytest.fixture(scope="session")
def made() -> Path:
    """A world whose pipeline ran once. Read-only."""
    return made_once("damaged-world", _make)


@pytest.fixture
def config(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, in which a pipeline run found all well: so that its files are known by how they look."""
    path = copy_of(made / "world", tmp_path / "world")
    monkeypatch.chdir(path.parent)
    run_here("verify", "--full", "--config", str(path))
    return path


def root_of(config: Path) -> Path:
    return config.parent / "home" / "warehouse"


def mails(config: Path) -> list[str]:
    """Texts of the mails about damage."""
    return [text for path in (config.parent / "home" / "mail").glob("*.eml") if "DAMAGED" in (text := path.read_text())]


def assert_found_and_mended(config: Path, damaged: set[Unit], wanted: dict[Unit, str]) -> None:
    """The next pipeline run names every one, ends with 4, mails once, and leaves what was there before; the one after has nothing to say."""
    done = run_here("nightly", "--config", str(config), "--now", NOW, "--json", code=4)
    said = json.dumps(json.loads(done.stdout.partition("\n}\n")[0] + "\n}"), ensure_ascii=False)
    missed = [unit for unit in damaged if " ".join(unit) not in said]
    problems = json.loads(done.stdout.partition("\n}\n")[0] + "\n}")["problems"]
    assert len(mails(config)) == 1, problems
    listed = mails(config)[0].replace("=\n", "")
    assert missed == [] or all(" ".join(unit) in listed for unit in missed)
    assert run_here("verify", "--full", "--config", str(config)).returncode == 0
    found = digests(root_of(config))
    assert {unit: (wanted.get(unit), found.get(unit)) for unit in wanted.keys() | found.keys() if wanted.get(unit) != found.get(unit)} == {}
    run_here("nightly", "--config", str(config), "--now", NOW)


@pytest.mark.parametrize("seed", [1, 2])
def test_each_of_twelve_flipped_bits_is_found_and_mended_by_the_next_pipeline_run(config: Path, seed: int) -> None:
    wanted = digests(root_of(config))
    flips = choose_flips(root_of(config), 12, seed)
    for flip in flips:
        flip.make()
    assert_found_and_mended(config, {unit_of(root_of(config), flip.path) for flip in flips}, wanted)
