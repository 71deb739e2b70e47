"""Write every lock anew: `make lock` for what pyproject.toml asks now, `make lock ARGS=--upgrade` for the newest versions.

A lock names every package of a set-up with its version and the hashes of its files, for Python 3.11 to 3.13 on any platform. It
holds no address of an index: where the files come from is the business of whoever installs, what they are is not.
"""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import tomllib

ROOT = Path(__file__).resolve().parents[1]
LOCK = "requirements/lock.txt"
SHIPPED = "requirements/shipped.txt"
# Left alone, the resolver takes an older Airflow for the sake of newer packages.
KEEP = ("apache-airflow==3.3.2",)
UV = "uv==0.13.9"
SHIPPED_EXTRAS = ("pipeline", "demo", "airflow", "bigquery", "postgres", "mlflow-server")


@dataclass(frozen=True)
class Lock:
    """One lock: where it is, what it is for, and what it is compiled from."""

    file: str
    use: str
    extras: tuple[str, ...] = ()  # of pyproject.toml
    asks: tuple[str, ...] = ()  # or these requirements
    python: str = "3.11"
    as_locked: bool = True  # the versions of lock.txt: both are installed into one environment
    with_hashes: bool = True  # otherwise with the names of those that need it
    with_dependencies: bool = True
    built: str = ""  # the package without a wheel, which is built from source; what builds it is in the lock too


def build_backend() -> tuple[str, ...]:
    """What pyproject.toml builds with."""
    return tuple(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["requires"])


LOCKS = (
    Lock(LOCK, "whatever pyproject.toml asks: `make nightly`, `make test`, the images", extras=("dev",)),
    Lock(SHIPPED, "the SBOM: what is shipped, and what needs it. Hashes are in lock.txt", extras=SHIPPED_EXTRAS, with_hashes=False),
    Lock("requirements/build.txt", "what installs and builds: first in every environment", asks=(UV, *build_backend(), "editables>=0.3")),
    Lock("requirements/audit.txt", "`make audit`: an environment of its own", asks=("pip-audit",), as_locked=False),
    Lock(
        "tests/servers/bigquery.txt",
        "the emulator of BigQuery in the tests: an environment of its own",
        asks=("bqemulator==1.4.0", "duckdb-extension-spatial==1.5.5", "numpy==2.4.6"),
        as_locked=False,
    ),
    Lock(
        "tests/contract/focus-validator.txt",
        "test_focus_export.py: an environment of its own, installed with --no-deps. focus-validator pins numpy<2, for which Python 3.13\n"
        "# has no wheel; the rules' results are the same with numpy 2. ddt and pandasql are pinned by it and never imported",
        python="3.12",
        as_locked=False,
        with_dependencies=False,
        built="focus-validator",
    ),
)


def pins(file: Path) -> list[str]:
    """The lines `name==version ; marker` of a lock, without hashes and comments."""
    lines = file.read_text(encoding="utf-8").splitlines()
    return [line.partition("#")[0].strip().removesuffix(" \\") for line in lines if re.match(r"[a-z0-9]", line)]


def compile_lock(lock: Lock, options: list[str]) -> None:
    """Resolve one lock. What is pinned in it stays, unless `--upgrade` is among the options or something asks for another version."""
    file = ROOT / lock.file
    command = [str(Path(sys.executable).parent / "uv"), "pip", "compile", "--quiet", "--universal", "--python-version", lock.python]
    command += ["--only-binary", ":all:", "--no-header", "--no-emit-index-url", "--no-emit-find-links"]
    command += ["--no-binary", lock.built] if lock.built else []
    command += options if lock.with_dependencies else ["--no-deps"]
    command += ["--generate-hashes", "--no-annotate"] if lock.with_hashes else ["--annotation-style", "line"]
    command += ["--constraint", LOCK] if lock.as_locked and lock.file != LOCK else []
    command += [word for extra in lock.extras for word in ("--extra", extra)] + ["--output-file", lock.file]
    command += ["pyproject.toml"] if lock.extras else ["-"]
    asks = lock.asks if lock.with_dependencies else pins(file)
    if lock.extras:
        command[-1:] = ["--constraint", "-", "pyproject.toml"]
        asks = KEEP
    subprocess.run(command, cwd=ROOT, input="\n".join(asks), text=True, check=True)
    text = re.sub(rf"-c {LOCK}, |, -c {LOCK}", "", file.read_text(encoding="utf-8")).replace("runspend (pyproject.toml)", "runspend")
    file.write_text(f"# Compiled by `make lock`, for {lock.use}.\n{text}", encoding="utf-8")
    print(f"{lock.file}: {len(pins(file))} packages")


def main(options: list[str]) -> None:
    """Write all locks, and constraints.txt: the versions of lock.txt for people who install with pip into an environment of theirs."""
    for lock in LOCKS:
        compile_lock(lock, options)
    versions = "\n".join(pins(ROOT / LOCK))
    head = "# Every version that is tested together, for Python 3.11 to 3.13. Written by `make lock`; with hashes: requirements/.\n"
    (ROOT / "constraints.txt").write_text(f"{head}{versions}\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
