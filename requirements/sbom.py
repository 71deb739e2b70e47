"""Write the SBOM of what is shipped, as CycloneDX 1.6 in JSON, and check it against the lock: `make sbom`.

    sbom.py FILE            write FILE
    sbom.py --check FILE    compare a written one with the lock

The same locks make the same bytes: the serial number is derived from the contents, and there is a timestamp only if SOURCE_DATE_EPOCH
is set. One SBOM covers all Pythons and systems; packages that only some of them get have a property with the environment marker.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import sys
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomllib

ROOT = Path(__file__).resolve().parents[1]
PIN = re.compile(r"(?P<name>[a-z0-9][a-z0-9-]*)==(?P<version>[^ ;#\\]+)(?: ; (?P<marker>[^#\\]*[^#\\ ]))?[ \\]*(?:# via (?P<via>.*))?")
NAMESPACE = uuid.UUID("6f1d0c0e-2a52-5d0b-9f5b-6b1d6f8f2c11")  # of our serial numbers; any other would do
MARKER = "runspend:environment-marker"


@dataclass
class Package:
    """One line of a lock."""

    name: str
    version: str
    marker: str
    via: tuple[str, ...]  # what needs it, where the lock says so
    hashes: list[str] = field(default_factory=list)

    @property
    def purl(self) -> str:
        return f"pkg:pypi/{self.name}@{self.version}"


def read_lock(file: Path) -> list[Package]:
    """The packages of a lock, in its order. Raises ValueError at a line it does not understand."""
    found: list[Package] = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if match := PIN.fullmatch(line):
            via = tuple((match["via"] or "").split(", ")) if match["via"] else ()
            found.append(Package(match["name"], match["version"], match["marker"] or "", via))
        elif match := re.fullmatch(r" +--hash=sha256:([0-9a-f]{64})[ \\]*", line):
            found[-1].hashes.append(match[1])
        elif not line.startswith("#"):
            raise ValueError(f"{file.name}:{number} is neither a pinned package nor a SHA-256: {line}")
    return found


def shipped() -> list[Package]:
    """What is shipped, with the hashes that installation accepts. Raises ValueError where the lock has none."""
    locked = {(p.name, p.version, p.marker): p.hashes for p in read_lock(ROOT / "requirements" / "lock.txt")}
    packages = read_lock(ROOT / "requirements" / "shipped.txt")
    for package in packages:
        package.hashes = locked.get((package.name, package.version, package.marker), [])
        if not package.hashes:
            raise ValueError(f"{package.name}=={package.version} is shipped and has no hash in requirements/lock.txt. Run: make lock")
    return packages


def component(package: Package) -> dict[str, Any]:
    """A package: any one of the files with these hashes is what is installed, depending on Python and system."""
    files = [{"alg": "SHA-256", "content": value} for value in sorted(package.hashes)]
    made: dict[str, Any] = {
        "type": "library",
        "bom-ref": package.purl,
        "name": package.name,
        "version": package.version,
        "purl": package.purl,
        "externalReferences": [{"type": "distribution", "url": package.purl, "hashes": files}],
    }
    if package.marker:
        made["properties"] = [{"name": MARKER, "value": package.marker}]
    return made


def dependencies(root: str, packages: list[Package]) -> list[dict[str, Any]]:
    """Who needs whom. Of a package with several versions, each may be the one that is needed."""
    refs: dict[str, list[str]] = {"runspend": [root]}
    for package in packages:
        refs.setdefault(package.name, []).append(package.purl)
    needs: dict[str, set[str]] = {ref: set() for each in refs.values() for ref in each}
    for package in packages:
        for name in package.via:
            for ref in refs[name]:
                needs[ref].add(package.purl)
    return [{"ref": ref, "dependsOn": sorted(needs[ref])} for ref in sorted(needs)]


def make_sbom() -> dict[str, Any]:
    """The whole document."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    root = f"pkg:pypi/{project['name']}@{project['version']}"
    packages = sorted(shipped(), key=lambda p: p.purl)
    metadata: dict[str, Any] = {
        "component": {
            "type": "application",
            "bom-ref": root,
            "name": project["name"],
            "version": project["version"],
            "purl": root,
            "licenses": [{"license": {"id": project["license"]}}],
        },
        "lifecycles": [{"phase": "pre-build"}],
    }
    if epoch := os.environ.get("SOURCE_DATE_EPOCH"):
        metadata["timestamp"] = dt.datetime.fromtimestamp(int(epoch), dt.timezone.utc).isoformat()
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": metadata,
        "components": [component(package) for package in packages],
        "dependencies": dependencies(root, packages),
    }
    return document | {"serialNumber": f"urn:uuid:{uuid.uuid5(NAMESPACE, json.dumps(document, sort_keys=True))}"}


def differences(document: dict[str, Any]) -> list[str]:
    """Where an SBOM is not the lock: packages that are missing or too much, other versions, other hashes."""
    found = {}
    for each in document.get("components", []):
        hashes = [
            h["content"] for reference in each.get("externalReferences", []) for h in reference.get("hashes", []) if h["alg"] == "SHA-256"
        ]
        found[f"pkg:pypi/{each.get('name')}@{each.get('version')}", each.get("purl")] = sorted(hashes)
    wanted = {(package.purl, package.purl): sorted(package.hashes) for package in shipped()}
    found_differences = [f"{names[0]} is in the lock and not in the SBOM" for names in sorted(wanted.keys() - found.keys())]
    found_differences += [
        f"{names[0]} ({names[1]}) is in the SBOM and not in the lock" for names in sorted(found.keys() - wanted.keys(), key=str)
    ]
    found_differences += [
        f"{names[0]} has other hashes than in the lock" for names in sorted(wanted.keys() & found.keys()) if found[names] != wanted[names]
    ]
    if len(found) != len(document.get("components", [])):
        found_differences.append("a package is listed twice in the SBOM")
    return found_differences


def main(arguments: list[str]) -> int:
    """Write, or only check; 0 if the file is the lock, 1 if it is not, 2 for wrong use."""
    if not arguments or arguments == ["--check"]:
        print("cannot write an SBOM: no file is named. Run: make sbom", file=sys.stderr)
        return 2
    file = Path(arguments[-1])
    if arguments[0] != "--check":
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(make_sbom(), indent=1, sort_keys=True) + "\n", encoding="utf-8")
    document = json.loads(file.read_text(encoding="utf-8"))
    for difference in (found := differences(document)):
        print(f"{file}: {difference}", file=sys.stderr)
    if not found:
        print(f"{file}: CycloneDX {document['specVersion']}, {len(document['components'])} packages, the same as in requirements/")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
