"""The SBOM is valid CycloneDX, reproducible, and equal to the lock."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rfc3986_validator import validate_rfc3986

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = str(ROOT / "requirements" / "sbom.py")


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the script as `make sbom` does."""
    return subprocess.run(
        [sys.executable, SCRIPT, *arguments], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new SBOM that all tests read."""
    path = tmp_path_factory.mktemp("sbom") / "sbom.json"
    done = run(str(path))
    assert done.returncode == 0, done.stderr
    return path


def test_the_sbom_is_valid_by_the_schema_of_cyclonedx(file: Path) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    validator = JsonStrictValidator(SchemaVersion.V1_6)
    assert validator.validate_str(file.read_text()) is None
    assert validator.validate_str(file.read_text().replace('"type": "library"', '"type": "thing"', 1)) is not None
    # To check addresses, the validator needs a package for which every import of Airflow would compile a grammar. So it skips them.
    addresses = [each["url"] for component in json.loads(file.read_text())["components"] for each in component["externalReferences"]]
    assert addresses and all(validate_rfc3986(address, rule="URI") for address in addresses)
    assert not validate_rfc3986(f"{addresses[0]} x", rule="URI")


def test_every_package_of_the_lock_is_in_the_sbom_with_version_and_hashes(file: Path) -> None:
    """Compares the strings in both files, without code of the script."""
    document = json.loads(file.read_text())
    lock = (ROOT / "requirements" / "lock.txt").read_text()
    shipped = re.findall(r"^([a-z0-9-]+)==([^ ]+)", (ROOT / "requirements" / "shipped.txt").read_text(), re.M)
    assert len(shipped) > 150
    assert sorted((c["name"], c["version"]) for c in document["components"]) == sorted(shipped)
    for each in document["components"]:
        block = re.search(rf"^{re.escape(each['name'])}=={re.escape(each['version'])}[ \\].*?(?=^[a-z0-9])", lock + "\nz", re.M | re.S)
        assert block is not None, each["name"]
        digests = [h["content"] for reference in each["externalReferences"] for h in reference["hashes"]]
        assert sorted(digests) == sorted(re.findall(r"sha256:([0-9a-f]{64})", block[0])) != []
    assert {"apache-airflow", "mlflow", "duckdb", "google-cloud-bigquery", "asyncpg"} <= {c["name"] for c in document["components"]}
    assert not {"pytest", "ruff", "hypothesis", "bandit"} & {c["name"] for c in document["components"]}


def test_every_package_can_be_reached_from_ours(file: Path) -> None:
    """The dependency graph explains each package."""
    document = json.loads(file.read_text())
    needs = {each["ref"]: each["dependsOn"] for each in document["dependencies"]}
    queue = [document["metadata"]["component"]["bom-ref"]]
    reached = set(queue)
    while queue:
        for ref in needs[queue.pop()]:
            if ref not in reached:
                reached.add(ref)
                queue.append(ref)
    assert reached == set(needs) == {c["bom-ref"] for c in document["components"]} | {document["metadata"]["component"]["bom-ref"]}


def test_the_same_locks_make_the_same_bytes(file: Path, tmp_path: Path) -> None:
    """The SBOM has a timestamp only if one is given."""
    assert run(str(tmp_path / "again.json"), PYTHONHASHSEED="7", TZ="Asia/Tokyo").returncode == 0
    assert (tmp_path / "again.json").read_bytes() == file.read_bytes()
    assert "timestamp" not in file.read_text()
    assert run(str(tmp_path / "dated.json"), SOURCE_DATE_EPOCH="1793577600").returncode == 0
    assert json.loads((tmp_path / "dated.json").read_text())["metadata"]["timestamp"] == "2026-11-02T00:00:00+00:00"


TAMPERED: dict[str, Callable[[list[dict[str, Any]]], object]] = {
    "left out": lambda components: components.pop(3),
    "added": lambda components: components.append(components[0] | {"name": "left-pad", "purl": "pkg:pypi/left-pad@1.0"}),
    "twice": lambda components: components.append(components[5]),
    "another version": lambda components: components[7].update(version="0.0.1"),
    "another address": lambda components: components[7].update(purl="pkg:pypi/other@1.0"),
    "another hash": lambda components: components[2]["externalReferences"][0]["hashes"][0].update(content="0" * 64),
    "a hash less": lambda components: components[2]["externalReferences"][0]["hashes"].pop(),
    "no hashes": lambda components: components[2].pop("externalReferences"),
    "nothing": lambda components: components.clear(),
}


def test_the_sbom_of_the_lock_passes_the_check(file: Path) -> None:
    assert run("--check", str(file)).returncode == 0


@pytest.mark.parametrize("tamper", TAMPERED.values(), ids=TAMPERED)
def test_an_sbom_that_is_not_the_lock_fails_the_check(file: Path, tmp_path: Path, tamper: Callable[[list[dict[str, Any]]], object]) -> None:
    document = json.loads(file.read_text())
    tamper(document["components"])
    changed = tmp_path / "sbom.json"
    changed.write_text(json.dumps(document))
    done = run("--check", str(changed))
    assert done.returncode == 1 and str(changed) in done.stderr and "Traceback" not in done.stderr
