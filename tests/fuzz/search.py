"""The search itself: one input under guard, blind or guided mutation for so many seconds, and what was found, once each.

    python -m tests.fuzz [TARGET ...] [--seconds N] [--input FILE] [--found FOLDER] [--blind]

Exit code 0: nothing found. 1: something was, and is named. One process per target: what a target leaves behind is gone with it.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import random
import re
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from tests.fuzz.guard import Finding, TooSlow, guarded
from tests.fuzz.mutations import mutate

CORPUS = Path(__file__).parent / "corpus"
LIBRARY = "/include/runspend/"
MEMORY_MB = 3_000  # of a whole process, after which libFuzzer stops it


def try_input(name: str, data: bytes) -> None:
    """One input in a folder of its own. Raises any exception that the target must not raise."""
    from tests.fuzz.targets import TARGETS

    target = TARGETS[name]
    target.prepare()
    with guarded(seconds=target.seconds, megabytes=target.megabytes) as work, contextlib.suppress(target.expected):
        target.run(data, work)


def corpus_of(name: str) -> Iterator[Path]:
    """The kept inputs of a target."""
    return iter(sorted((CORPUS / name).glob("*")))


class Findings:
    """What was found in this run: one input for each place in the library that failed in one way."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder / name, name
        self.count: dict[str, int] = {}

    def try_input(self, data: bytes) -> None:
        """Try it; keep it if it fails as none before."""
        try:
            try_input(self.name, data)
        except (Exception, TooSlow) as error:  # noqa: BLE001 (whatever it is, it is what is looked for)
            what = describe(error)
            self.count[what] = self.count.get(what, 0) + 1
            if self.count[what] == 1:
                self._keep(what, data, error)

    def _keep(self, what: str, data: bytes, error: BaseException) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        stem = hashlib.sha256(what.encode()).hexdigest()[:12]
        (self.folder / stem).write_bytes(data)
        (self.folder / f"{stem}.txt").write_text(
            "".join(traceback.format_exception(error))[-8000:], encoding="utf-8", errors="backslashreplace"
        )
        print(f"FOUND {self.name} {stem}: {what}", flush=True)


def describe(error: BaseException) -> str:
    """The kind of an error and the innermost line of the library on its way."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if LIBRARY in f.filename]
    at = f"{frames[-1].filename.rpartition(LIBRARY)[2]}:{frames[-1].lineno} {frames[-1].name}" if frames else "its target"
    reason = f": {re.split(r'[^a-zA-Z ]', str(error))[0].strip()}" if isinstance(error, Finding) else ""  # without what differs by input
    return f"{type(error).__name__} at {at}{reason}"


def search_blindly(name: str, seconds: float, found: Findings, seed: int) -> int:
    """Mutations of the corpus, and of what was just mutated, until the time is over. Returns how many inputs were tried."""
    from tests.fuzz.targets import TARGETS

    target, chance, tried = TARGETS[name], random.Random(seed), 0
    pool = [p.read_bytes() for p in corpus_of(name)] or list(target.seeds())
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        data = chance.choice(pool)
        for _ in range(chance.choice((1, 1, 2, 3))):
            data = mutate(target.mutations, data, chance, target.largest)
        found.try_input(data)
        tried += 1
    return tried


def search_guided(name: str, seconds: float, found: Findings, kept: Path) -> None:
    """The same mutations chosen by coverage of the library. New inputs that reach other code go to `kept`. Never returns."""
    import atheris

    with atheris.instrument_imports(include=["runspend"]):
        from tests.fuzz.targets import TARGETS
    target = TARGETS[name]
    target.prepare()  # else it counts as time of the first input
    kept.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds()):
        (kept / f"seed-{number}").write_bytes(seed)

    def mutated(data: bytes, largest: int, seed: int) -> bytes:
        return mutate(target.mutations, data, random.Random(seed), min(largest, target.largest))

    options = [
        f"-max_total_time={int(seconds)}",
        f"-max_len={target.largest}",
        f"-rss_limit_mb={MEMORY_MB}",
        f"-timeout={int(target.seconds * 3)}",
        "-verbosity=0",
        "-detect_leaks=0",
        "-reload=0",
        f"-artifact_prefix={found.folder.parent}/{name}-",
    ]
    found.folder.parent.mkdir(parents=True, exist_ok=True)
    atheris.Setup(
        [sys.argv[0], *options, str(kept), *([str(CORPUS / name)] if (CORPUS / name).exists() else [])],
        found.try_input,
        custom_mutator=mutated,
    )
    atheris.Fuzz()


def has_atheris() -> bool:
    """Whether the search can be guided here."""
    from importlib.util import find_spec

    return find_spec("atheris") is not None


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("targets", nargs="*", help="default: all")
    parser.add_argument("--seconds", type=float, default=60, help="for each target")
    parser.add_argument("--input", type=Path, help="try this one file, with its traceback")
    parser.add_argument("--found", type=Path, default=Path(".fuzz"), help="where what fails is written")
    parser.add_argument("--blind", action="store_true", help="without atheris")
    parser.add_argument("--seed", type=int, default=0, help="of blind mutation")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # a target, in this process
    given = parser.parse_args()
    if given.input:
        try_input(given.targets[0], given.input.read_bytes())
        return 0
    if given.one:
        found = Findings(given.found / "found", given.one)
        if has_atheris() and not given.blind:
            search_guided(given.one, given.seconds, found, given.found / "corpus" / given.one)
        print(f"{given.one}: {search_blindly(given.one, given.seconds, found, given.seed)} inputs tried", flush=True)
        return int(bool(found.count))
    return _run_each(given)


def _run_each(given: argparse.Namespace) -> int:
    from tests.fuzz.targets import TARGETS

    given.found = given.found.absolute()
    for name in given.targets or TARGETS:
        command = [
            sys.executable,
            "-m",
            "tests.fuzz",
            "--one",
            name,
            "--seconds",
            str(given.seconds),
            "--found",
            str(given.found),
            "--seed",
            str(given.seed),
            *(["--blind"] if given.blind else []),
        ]
        print(f"{name}: {given.seconds:g} s", flush=True)
        if (code := subprocess.run(command, check=False).returncode) not in (0, 1):
            print(f"FOUND {name}: its process ended with {code}", flush=True)
            (given.found / "found" / name).mkdir(parents=True, exist_ok=True)
            (given.found / "found" / name / "ended").write_text(json.dumps({"exit": code}))
    found = sorted((given.found / "found").glob("*/*.txt")) + sorted((given.found / "found").glob("*/ended"))
    print(f"{len(found)} kinds of failure in {given.found / 'found'}" if found else "nothing found")
    return int(bool(found))
