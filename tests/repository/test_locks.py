"""Every installation uses a lock with hashes, and the locks contain exactly what pyproject.toml requires."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tomllib
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
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
HASHED = (
    "requirements/lock.txt", "requirements/build.txt", "requirements/audit.txt", "requirements/frameworks.txt", "requirements/dbt.txt", "requirements/superset.txt",
    "tests/servers/bigquery.txt", "tests/actions/export/focus-validator.txt",
    "tests/actions/export/tableau-schema.txt",
)  # fmt: skip
PLAIN = ("requirements/shipped.txt", "constraints.txt")
PIN = re.compile(r"([a-z0-9][a-z0-9-]*)==([0-9][^ ;]*)(?: ; (.+?))?")
MACHINES = [
    {"python_full_version": f"3.{minor}.5", "python_version": f"3.{minor}", "sys_platform": system, "platform_system": name,
     "platform_machine": machine, "os_name": "posix", "implementation_name": "cpython", "platform_python_implementation": "CPython"}
    for minor in (11, 12, 13) for system, name, machine in (("linux", "Linux", "x86_64"), ("linux", "Linux", "aarch64"), ("darwin", "Darwin", "arm64"))
]  # fmt: skip


@cache
def entries(file: str) -> list[tuple[str, tuple[str, ...]]]:
    """Return the packages of a lock, each with its hashes."""
    text = (ROOT / file).read_text(encoding="utf-8").replace(" \\\n", " ")
    found = []
    for line in text.splitlines():
        if not line.startswith("#"):
            pin, *hashes = re.split(r"\s+--hash=", line.partition("  # via ")[0].strip())
            found.append((pin, tuple(hashes)))
    return found


def pinned(file: str, machine: dict[str, str]) -> dict[str, str]:
    """Return the packages that a lock installs on a machine, with their versions."""
    asked = [Requirement(pin) for pin, _ in entries(file)]
    active = [a for a in asked if a.marker is None or a.marker.evaluate(machine)]
    names = [a.name for a in active]
    assert len(names) == len(set(names)), f"{file} pins a package twice on {machine}"
    return {a.name: str(a.specifier).removeprefix("==") for a in active}


@pytest.mark.parametrize("file", HASHED)
def test_every_package_has_a_version_and_sha256_hashes(file: str) -> None:
    for pin, hashes in entries(file):
        assert PIN.fullmatch(pin), f"{file}: {pin}"
        assert hashes and all(re.fullmatch(r"sha256:[0-9a-f]{64}", each) for each in hashes), f"{file}: {pin}"
    assert len(entries(file)) > (0 if file.endswith("tableau-schema.txt") else 5)


@pytest.mark.parametrize("file", [*HASHED, *PLAIN])
def test_no_lock_names_an_address_or_a_local_build(file: str) -> None:
    """Locks contain no index, link, path or option, and no local version such as `+cpu`."""
    text = (ROOT / file).read_text(encoding="utf-8")
    assert "://" not in text and not re.search(r"^ *(-|file:|\.|/)(?!-hash=)", text, re.M) and " @ " not in text
    assert all(PIN.fullmatch(pin) and "+" not in pin for pin, _ in entries(file))


def test_npm_packages_have_hashes_and_no_address() -> None:
    packages = json.loads((ROOT / "tests/servers/azurite/package-lock.json").read_text(encoding="utf-8"))["packages"]
    assert len(packages) > 300
    for name, package in packages.items():
        assert name == "" or re.fullmatch(r"sha512-[A-Za-z0-9+/=]{88}", package["integrity"]), name
        assert "resolved" not in package, name


def closure(extras: tuple[str, ...], machine: dict[str, str]) -> dict[str, set[str]]:
    """Return the requirements of some extras on a machine, from the metadata of installed packages, as names and version ranges."""
    wanted: dict[str, set[str]] = {}
    seen: set[tuple[str, str]] = set()
    queue = [("runspend", extra) for extra in ("", *extras)]
    while queue:
        name, extra = queue.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        for asked in requirements_of(name):
            if asked.marker is None or asked.marker.evaluate({**machine, "extra": extra}):
                needed = canonicalize_name(asked.name)
                if needed != "runspend":
                    wanted.setdefault(needed, set()).add(str(asked.specifier))
                queue += [(needed, each) for each in ("", *asked.extras)]
    return wanted


@cache
def requirements_of(name: str) -> list[Requirement]:
    """Return the requirements of an installed package, or Runspend's own from pyproject.toml."""
    if name == "runspend":
        extras = PROJECT["project"]["optional-dependencies"]
        ours = [Requirement(each) for each in PROJECT["project"]["dependencies"]]
        for extra, asked in extras.items():
            for needed, _, marker in (each.partition(";") for each in asked):
                ours.append(Requirement(f'{needed} ; extra == "{extra}"{f" and ({marker})" if marker else ""}'))
        return ours
    try:
        return [Requirement(each) for each in importlib.metadata.requires(name) or []]
    except importlib.metadata.PackageNotFoundError:
        return []


@pytest.mark.parametrize("machine", MACHINES, ids=lambda m: f"{m['python_version']}-{m['sys_platform']}-{m['platform_machine']}")
@pytest.mark.parametrize(("file", "extras"), [("requirements/lock.txt", ("dev",)), ("requirements/shipped.txt", SHIPPED_EXTRAS)])
def test_the_lock_has_exactly_the_requirements_of_pyproject(file: str, extras: tuple[str, ...], machine: dict[str, str]) -> None:
    """On each Python and system, no package is missing or superfluous, and each version is in the required range."""
    wanted, found = closure(extras, machine), pinned(file, machine)
    assert len(found) > 150
    assert set(found) == set(wanted)
    for name, version in found.items():
        for specifier in wanted[name]:
            assert Requirement(f"{name}{specifier}").specifier.contains(version, prereleases=True), (
                f"{name} {version}: {specifier} is asked"
            )


@pytest.mark.parametrize("machine", MACHINES[:1])
def test_locks_of_one_environment_agree(machine: dict[str, str]) -> None:
    """Shipped packages, build tools and constraints.txt have the versions of lock.txt. pyproject.toml names the locked build backend."""
    lock = pinned("requirements/lock.txt", machine)
    assert pinned("requirements/shipped.txt", machine).items() <= lock.items()
    assert [pin for pin, _ in entries("constraints.txt")] == [pin for pin, _ in entries("requirements/lock.txt")]
    build = pinned("requirements/build.txt", machine)
    assert {name: lock[name] for name in build if name in lock} == {name: version for name, version in build.items() if name in lock}
    assert [f"hatchling=={build['hatchling']}"] == PROJECT["build-system"]["requires"]
    assert {"uv", "editables", "pluggy", "pathspec"} <= set(build)


def test_installed_packages_equal_the_lock() -> None:
    """The tests run with the locked versions."""
    found = {canonicalize_name(d.name): d.version for d in importlib.metadata.distributions()}
    here = {"python_full_version": sys.version.split()[0], "python_version": f"3.{sys.version_info.minor}", "sys_platform": sys.platform}
    locked = pinned("requirements/lock.txt", here)
    assert {name: found.get(name) for name in locked} == locked


def test_every_installation_asks_for_hashes() -> None:
    """Each command in the Makefile and the tests installs from a lock, or installs only Runspend."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"^LOCKED := --quiet --require-hashes --only-binary :all:$", makefile, re.M)
    assert re.search(r"^INSTALL := \$\(UV\) \$\(LOCKED\) --constraint requirements/lock.txt --requirements pyproject.toml$", makefile, re.M)
    assert re.search(r"^INSTALL_US := \$\(UV\) --quiet --no-deps --no-build-isolation --editable \.$", makefile, re.M)
    lines = [
        line for line in makefile.splitlines() if re.search(r"pip install|\$\(UV\)", line) and not line.startswith(("INSTALL", "UV :="))
    ]
    only_us = [line for line in lines if "--no-deps --no-build-isolation --editable ." in line]
    assert len(only_us) == 1 and len(lines) == 7 and all("$(LOCKED)" in line for line in lines if line not in only_us)
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    installs = re.findall(r"\bpip install (.*)", dockerfile)
    assert len(installs) == 4 and installs[-1] == "--no-deps --no-build-isolation ."
    assert all("--require-hashes" in line and "--only-binary :all:" in line for line in installs[:-1])
    assert re.search(r"npm ci\b", makefile) and not re.search(r"npm (i|install)\b", makefile)
    validator = (ROOT / "tests/actions/export/test_focus.py").read_text(encoding="utf-8")
    assert '"--require-hashes"' in validator and '"--require-build-hashes"' in validator


# --- uv refuses files that are not in the lock; small local packages show it ---


def wheel(folder: Path, name: str, *requires: str, code: str = "") -> str:
    """Write a small wheel and return its hash."""
    file = folder / f"{name}-1.0-py3-none-any.whl"
    metadata = "".join([f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", *(f"Requires-Dist: {each}\n" for each in requires)])
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"{name}.py", code)
        archive.writestr(f"{name}-1.0.dist-info/METADATA", metadata)
        archive.writestr(f"{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{name}-1.0.dist-info/RECORD", "")
    return f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"


@pytest.fixture
def decoy(tmp_path: Path) -> dict[str, Any]:
    """A project that needs `decoy`, which needs `deeper`. Returns a folder with both as wheels, and their hashes."""
    (tmp_path / "wheels").mkdir()
    hashes = {"deeper": wheel(tmp_path / "wheels", "deeper"), "decoy": wheel(tmp_path / "wheels", "decoy", "deeper")}
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "needs"\nversion = "1"\ndependencies = ["decoy"]\n')
    return hashes


def install(folder: Path, hashes: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Install as the Makefile does, but from a folder of wheels instead of an index."""
    uv = Path(sys.executable).parent / "uv"
    if not uv.exists():
        pytest.skip("there is no uv beside this Python: `make test` puts one there")
    lock = folder / "lock.txt"
    lock.write_text("".join(f"{name}==1.0 --hash={value}\n" for name, value in hashes.items()))
    command = f"{uv} pip install --offline --no-cache --no-index --find-links wheels --python {sys.executable} --target into"
    command += f" --require-hashes --only-binary :all: --constraint {lock} --requirements pyproject.toml"
    return subprocess.run(command.split(), cwd=folder, capture_output=True, text=True, check=False)


def test_a_locked_package_installs(decoy: dict[str, str], tmp_path: Path) -> None:
    done = install(tmp_path, decoy)
    assert done.returncode == 0, done.stderr
    assert {file.name for file in (tmp_path / "into").glob("*.py")} == {"decoy.py", "deeper.py"}


@pytest.mark.parametrize("name", ["decoy", "deeper"])
@pytest.mark.parametrize("attack", ["another hash", "not in the lock", "changed wheel"])
def test_a_file_that_is_not_in_the_lock_is_refused(decoy: dict[str, str], tmp_path: Path, name: str, attack: str) -> None:
    """This holds for direct and indirect requirements, with changed content, another hash in the lock, or no hash at all."""
    if attack == "another hash":
        decoy[name] = "sha256:" + "0" * 64
    elif attack == "not in the lock":
        del decoy[name]
    else:
        wheel(tmp_path / "wheels", name, *(["deeper"] if name == "decoy" else []), code="print('not what was locked')")
    done = install(tmp_path, decoy)
    assert done.returncode != 0 and "hash" in done.stderr.lower(), done.stderr
    assert not list((tmp_path / "into").glob("*.py")) if (tmp_path / "into").exists() else True


def test_a_source_distribution_is_not_built(decoy: dict[str, str], tmp_path: Path) -> None:
    """A build would run the package's code, with build tools that are not locked."""
    (tmp_path / "wheels" / "deeper-1.0-py3-none-any.whl").unlink()
    source = tmp_path / "deeper-1.0"
    source.mkdir()
    (source / "setup.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    (source / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: deeper\nVersion: 1.0\n")
    packed = shutil.make_archive(str(tmp_path / "wheels" / "deeper-1.0"), "gztar", tmp_path, "deeper-1.0")
    decoy["deeper"] = f"sha256:{hashlib.sha256(Path(packed).read_bytes()).hexdigest()}"
    done = install(tmp_path, decoy)
    assert done.returncode != 0 and "building from source is disabled" in done.stderr, done.stderr
    assert not (tmp_path / "ran").exists()
