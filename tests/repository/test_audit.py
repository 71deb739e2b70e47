"""The audit fails on new findings, and never reports success for packages it could not check."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "requirements"))
import audit  # noqa: E402

UNSAFE = "import subprocess\n\n\ndef run(name):\n    subprocess.run(f'ls {name}', shell=True)\n"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A project with one unsafe file whose findings are accepted."""
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "own.py").write_text(UNSAFE)
    accept(tmp_path, {"B404": 1, "B602": 1})
    return tmp_path


def accept(tree: Path, counts: dict[str, int], reason: str = "only this test's own files are named") -> Path:
    entries = [
        f'[[accepted]]\ntest = "{test}"\nreason = "{reason}"\n[accepted.files]\n"include/own.py" = {n}\n' for test, n in counts.items()
    ]
    (tree / "accepted.toml").write_text("\n".join(entries))
    return tree / "accepted.toml"


def test_accepted_findings_pass(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit.audit_code(tree, tree / "accepted.toml") == 0
    assert "2 findings, all of them accepted" in capsys.readouterr().out


@pytest.mark.parametrize("change", ["one more in the file", "another file", "silenced by a comment", "not there any more"])
def test_anything_else_fails(tree: Path, change: str, capsys: pytest.CaptureFixture[str]) -> None:
    own = tree / "include" / "own.py"
    if change == "one more in the file":
        own.write_text(UNSAFE + "    subprocess.run(f'rm {name}', shell=True)\n")
    elif change == "another file":
        (tree / "include" / "other.py").write_text("import pickle\npickle.loads(b'')\n")
    elif change == "silenced by a comment":
        own.write_text(UNSAFE + "    subprocess.run(f'rm {name}', shell=True)  # nosec\n")
    else:
        own.write_text("import subprocess\n")
    assert audit.audit_code(tree, tree / "accepted.toml") == 1
    message = capsys.readouterr().err
    assert {"one more in the file": "1 new of B602", "another file": "other.py: 1 new of B301", "silenced by a comment": "1 new of B602", "not there any more": "1 accepted findings of B602"}[change] in message  # fmt: skip
    assert "add them to requirements/accepted_findings.toml with the reason" in message


def test_code_that_cannot_be_read_is_not_called_safe(tree: Path) -> None:
    (tree / "include" / "own.py").write_text("def (:\n")
    with pytest.raises(audit.AuditFailed, match="could not read"):
        audit.find_in_code(tree)
    (tree / "include" / "own.py").unlink()
    with pytest.raises(audit.AuditFailed):
        audit.find_in_code(tree)


def test_nothing_is_accepted_without_a_reason(tree: Path) -> None:
    with pytest.raises(audit.AuditFailed, match="no reason"):
        audit.read_accepted(accept(tree, {"B602": 1}, reason="safe"))


def test_each_accepted_file_is_there_and_counted_once() -> None:
    accepted = audit.read_accepted(ROOT / audit.ACCEPTED)
    assert all((ROOT / name).is_file() and count > 0 for (_, name), count in accepted.items())
    assert audit.compare([], Counter()) == []


def pip_audit(folder: Path, *answers: object) -> str:
    """Write a program that answers like pip-audit, with one answer per call. Tests cannot reach its database."""
    (folder / "answers.json").write_text(json.dumps(answers))
    program = folder / "pip-audit"
    program.write_text(
        f"#!{sys.executable}\nimport json, pathlib, sys\nfile = pathlib.Path({str(folder / 'answers.json')!r})\n"
        "answers = json.loads(file.read_text())\nfile.write_text(json.dumps(answers[1:]))\n"
        "if answers[0] is None:\n    sys.exit('ERROR:pip_audit:no route to the database')\n"
        "print(json.dumps({'dependencies': answers[0], 'fixes': []}))\n"
    )
    program.chmod(0o755)
    return str(program)


KNOWN = {"name": "own", "version": "1", "vulns": [{"id": "CVE-2026-1", "fix_versions": ["2"], "aliases": [], "description": ""}]}
FINE = {"name": "other", "version": "1", "vulns": []}
SKIPPED = {"name": "own", "skip_reason": "Dependency not found on PyPI and could not be audited"}


@pytest.mark.parametrize(
    ("answers", "code", "message"),
    [
        (([FINE], [FINE, FINE], [FINE]), 0, "3 packages, 0 with known vulnerabilities, 0 not in"),
        (([FINE], [FINE, KNOWN], [FINE]), 1, "CVE-2026-1, fixed in 2"),
        (([FINE], [FINE, SKIPPED], [FINE]), 0, "1 not in the database"),
        (([SKIPPED],), 0, "NOT audited"),
        ((None,), 0, "NOT audited"),
    ],
    ids=["none", "one", "one unknown", "database not there", "no network"],
)
def test_packages_are_only_called_safe_when_they_were_looked_up(answers: tuple[object, ...], code: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    assert audit.audit_packages(pip_audit(tmp_path, *answers)) == code
    printed = capsys.readouterr()
    assert message in printed.out + printed.err
    assert ("NOT audited" in printed.out) == (len(answers) == 1)


def test_an_audit_that_breaks_off_is_not_a_success(tmp_path: Path) -> None:
    with pytest.raises(audit.AuditFailed, match="no route"):
        audit.audit_packages(pip_audit(tmp_path, [FINE], None))
    with pytest.raises(audit.AuditFailed, match="Run: make audit"):
        audit.audit_packages(str(tmp_path / "nowhere"))
