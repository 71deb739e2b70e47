"""The layout of the package: few rooms at its root, each described, and no module that says nothing of itself.

Who may import whom is checked by import-linter (`make lint`, the contracts in pyproject.toml).
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "include" / "runspend"
ROOMS = {"actions", "allocation", "config", "core", "ingest", "interfaces", "pipeline", "schema", "storage", "warehouse"}
MODULES = sorted(path for path in PACKAGE.rglob("*.py"))


def test_the_root_has_the_rooms_of_the_architecture_page_and_no_loose_module() -> None:
    # a checkout that was updated keeps folders with nothing but byte code of modules that moved
    entries = {path.name for path in PACKAGE.iterdir() if path.is_file() or any(f.suffix != ".pyc" for f in path.rglob("*") if f.is_file())}
    assert entries == {*ROOMS, "__init__.py", "py.typed"}
    page = (PACKAGE.parents[1] / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert [room for room in sorted(ROOMS) if f"| `{room}` |" not in page] == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_module_says_what_is_in_it(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
