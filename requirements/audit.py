"""Look for unsafe code in ours (bandit) and for known vulnerabilities in what we install (pip-audit): `make audit`.

    audit.py code        our code alone: part of `make lint`
    audit.py packages    the packages of requirements/lock.txt and build.txt

accepted_findings.toml lists the reviewed findings and why each is safe. The audit fails on a finding that is not listed, on one more
finding of a kind in a file than listed, and on a listed finding that no longer exists.
Exit codes: 0 nothing new (the output names packages that could not be checked); 1 something new; 2 the audit did not run.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import tomllib

ROOT = Path(__file__).resolve().parents[1]
ACCEPTED = "requirements/accepted_findings.toml"
CODE = ("include", "dags", "plugins", "deploy", "requirements")
LOCKS = ("requirements/lock.txt", "requirements/build.txt")


class AuditFailed(Exception):
    """The audit did not run. Its result is unknown."""


def find_in_code(root: Path) -> list[dict[str, Any]]:
    """Return all findings of bandit. Comments that would silence it are ignored."""
    folders = [name for name in CODE if (root / name).is_dir()]
    command = [sys.executable, "-m", "bandit", "--quiet", "--ignore-nosec", "--recursive", "--format", "json", *folders]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    try:
        report = json.loads(done.stdout)
    except json.JSONDecodeError:
        raise AuditFailed(f"cannot audit the code: bandit ended with {done.returncode}: {done.stderr.strip()[-500:]}") from None
    if report["errors"] or not report["metrics"]["_totals"]["loc"]:
        raise AuditFailed(f"cannot audit the code: bandit could not read {report['errors'] or folders}. Nothing was accepted.")
    return list(report["results"])


def read_accepted(file: Path) -> Counter[tuple[str, str]]:
    """Return how many findings of each test are accepted in each file. Raises AuditFailed for an entry without a reason."""
    accepted: Counter[tuple[str, str]] = Counter()
    for entry in tomllib.loads(file.read_text(encoding="utf-8"))["accepted"]:
        if len(str(entry.get("reason", "")).split()) < 4:
            raise AuditFailed(f"cannot accept {entry.get('test')}: {file.name} gives no reason for it")
        for name, count in entry["files"].items():
            accepted[entry["test"], name] += int(count)
    return accepted


def compare(findings: list[dict[str, Any]], accepted: Counter[tuple[str, str]]) -> list[str]:
    """Describe new findings, and accepted ones that no longer exist."""
    found = Counter((f["test_id"], f["filename"].removeprefix("./")) for f in findings)
    differences: list[str] = []
    for test, name in sorted(found.keys() | accepted.keys()):
        more = found[test, name] - accepted[test, name]
        if more > 0:
            places = [f for f in findings if (f["test_id"], f["filename"].removeprefix("./")) == (test, name)]
            differences.append(f"{name}: {more} new of {test}, among these ({accepted[test, name]} are accepted):")
            differences += [f"    line {f['line_number']}, {f['issue_severity'].lower()}: {f['issue_text']}" for f in places]
        elif more < 0:
            differences.append(f"{name}: {-more} accepted findings of {test} no longer exist. Lower the count in {ACCEPTED}")
    return differences


def audit_code(root: Path, accepted: Path) -> int:
    """Return 0 if every finding of bandit was accepted before."""
    findings = find_in_code(root)
    differences = compare(findings, read_accepted(accepted))
    for line in differences:
        print(line, file=sys.stderr)
    if differences:
        print(f"Fix the new findings, or add them to {ACCEPTED} with the reason why they are safe.", file=sys.stderr)
        return 1
    print(f"bandit: {len(findings)} findings, all of them accepted before")
    return 0


def ask_packages(lock: Path, pip_audit: str) -> list[dict[str, Any]]:
    """Return the answer of pip-audit for each package of a lock."""
    command = [pip_audit, "--require-hashes", "--disable-pip", "--progress-spinner", "off", "--format", "json", "--requirement", str(lock)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        return list(json.loads(done.stdout)["dependencies"])
    except (json.JSONDecodeError, KeyError):
        raise AuditFailed(done.stderr.strip().rpartition("\n")[2][-300:] or f"pip-audit ended with {done.returncode}") from None


def one_package(lock: Path, folder: str) -> Path:
    """Write a lock with one package, to find out whether the database can be reached at all."""
    blocks = lock.read_text(encoding="utf-8").replace(" \\\n", " ").splitlines()
    probe = Path(folder) / "probe.txt"
    probe.write_text(next(line for line in blocks if not line.startswith("#")) + "\n", encoding="utf-8")
    return probe


def audit_packages(pip_audit: str) -> int:
    """Return 1 if a locked package has a known vulnerability. Without access to the database, return 0 and print that nothing was checked."""
    if not Path(pip_audit).exists():
        raise AuditFailed(f"cannot audit the packages: {pip_audit} does not exist. Run: make audit")
    with tempfile.TemporaryDirectory() as folder:
        try:
            reached = all("skip_reason" not in each for each in ask_packages(one_package(ROOT / LOCKS[0], folder), pip_audit))
        except AuditFailed as error:
            reached = False
            print(f"pip-audit: {error}")
    if not reached:
        print(
            "pip-audit: its database of vulnerabilities cannot be reached from here. Packages were NOT audited; run make audit where it can."
        )
        return 0
    packages = [each for lock in LOCKS for each in ask_packages(ROOT / lock, pip_audit)]
    for each in packages:
        for known in each.get("vulns", ()):
            better = f", fixed in {' and '.join(known['fix_versions'])}" if known["fix_versions"] else ""
            print(f"{each['name']} {each['version']}: {known['id']}{better}", file=sys.stderr)
    skipped = sum("skip_reason" in each for each in packages)
    vulnerable = sum(bool(each.get("vulns")) for each in packages)
    print(f"pip-audit: {len(packages)} packages, {vulnerable} with known vulnerabilities, {skipped} not in the database")
    return 1 if vulnerable else 0


def main(arguments: list[str]) -> int:
    """Run one audit and return the exit code."""
    try:
        if arguments == ["code"]:
            return audit_code(ROOT, ROOT / ACCEPTED)
        if arguments == ["packages"]:
            return audit_packages(str(Path(sys.executable).parents[1] / "audit" / "bin" / "pip-audit"))
        raise AuditFailed("cannot audit: the argument must be code or packages. Run: make audit")
    except AuditFailed as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
