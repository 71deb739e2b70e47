"""Every kept input is read or refused as its target promises. The guard detects each violation, and longer searches find nothing new."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tests.fuzz.guard import Finding, TooSlow, guarded
from tests.fuzz.mutations import KINDS, mutate
from tests.fuzz.search import CORPUS, Findings, corpus_of, try_input
from tests.fuzz.targets import TARGETS

ROOT = Path(__file__).resolve().parents[2]
SECONDS = os.environ.get("FUZZ_SECONDS", "20")  # for each target of `make torture`
LARGEST_CORPUS = 1_000_000  # bytes
KEPT = [pytest.param(name, path, id=f"{name}/{path.name}") for name in TARGETS for path in corpus_of(name)]

pytestmark = pytest.mark.filterwarnings("ignore")  # hostile input makes other packages warn


@pytest.mark.parametrize(("name", "path"), KEPT)
def test_a_kept_input_is_read_or_refused(name: str, path: Path) -> None:
    """As each target promises: in time, in its folder, with no other error than its own."""
    try_input(name, path.read_bytes())


def test_the_corpus_is_small_and_belongs_to_targets() -> None:
    """Each target has inputs, no input lacks a target."""
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)
    assert sum(path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()) < LARGEST_CORPUS


@pytest.mark.parametrize("kind", KINDS)
def test_mutations_are_repeatable_and_bounded(kind: str) -> None:
    """The same seed makes the same input, another seed mostly another."""
    import random

    data = b'a,b\n1,"2"\n'
    made = [mutate(kind, data, random.Random(seed), 100) for seed in range(200)]
    assert made == [mutate(kind, data, random.Random(seed), 100) for seed in range(200)]
    assert all(0 < len(each) <= 100 for each in made)
    assert len(set(made)) > 50


def _write_beside() -> None:
    Path(tempfile.gettempdir()).parent.parent.joinpath("runspend-fuzz-beside").mkdir()
    Path(tempfile.gettempdir()).parent.parent.joinpath("runspend-fuzz-beside").rmdir()


def _write_relative() -> None:
    Path("tests-fuzz-relative").write_text("x")
    Path("tests-fuzz-relative").unlink()


def _start_a_process() -> None:
    subprocess.run([sys.executable, "-c", ""], check=True)


def _connect_elsewhere() -> None:
    sys.audit("socket.connect", None, ("192.0.2.1", 9))  # what a connection raises; the tests' own guard would stop a real one before


def _spin() -> None:
    while True:
        pass


@pytest.mark.parametrize("harm", [_write_beside, _write_relative, _start_a_process, _connect_elsewhere])
def test_the_guard_sees_harm(harm: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Finding, match="touched"), guarded(seconds=20, megabytes=1000):
        harm()  # type: ignore[operator]


def test_the_guard_sees_slow_and_large_calls() -> None:
    with pytest.raises(TooSlow), guarded(seconds=0.1, megabytes=1000):
        time.sleep(30)
    with pytest.raises(TooSlow), guarded(seconds=0.1, megabytes=1000):
        _spin()
    much = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 + 200_000_000
    with pytest.raises(Finding, match="memory"), guarded(seconds=20, megabytes=100):
        bytearray(b"x") * much


def test_the_guard_allows_changes_in_its_own_folder() -> None:
    with guarded(seconds=20, megabytes=1000) as work:
        (work / "a").mkdir()
        (work / "a" / "b").write_text("x")
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "c").write_text("x")


def test_each_failing_input_is_kept_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """An input of a target that breaks its promise is written down with its traceback; the next of its kind is counted."""

    def breaks(data: bytes, work: Path) -> None:
        raise KeyError(data)

    from dataclasses import replace

    monkeypatch.setitem(TARGETS, "values", replace(TARGETS["values"], run=breaks))
    found = Findings(tmp_path, "values")
    found.try_input(b"one")
    found.try_input(b"two")
    assert sum(found.count.values()) == 2
    [kept] = [p for p in (tmp_path / "values").iterdir() if not p.suffix]
    assert kept.read_bytes() == b"one" and "KeyError" in kept.with_suffix(".txt").read_text()
    assert "FOUND values" in capsys.readouterr().out


@pytest.mark.torture
@pytest.mark.parametrize("name", TARGETS)
def test_a_longer_search_finds_nothing(name: str, tmp_path: Path) -> None:
    """FUZZ_SECONDS=600 searches longer. Guided where atheris is installed, blind elsewhere."""
    command = [sys.executable, "-m", "tests.fuzz", name, "--seconds", SECONDS, "--found", str(tmp_path)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=float(SECONDS) * 3 + 120)
    assert ended.returncode == 0, f"{ended.stdout[-3000:]}\n{ended.stderr[-3000:]}"
