"""The package has few rooms at its root, and every room and module describes itself.

import-linter checks which room may import which (`make lint`, the contracts in pyproject.toml). These tests check import cycles, because
import-linter finds only those between layers.
"""

from __future__ import annotations

import ast
from collections.abc import Collection
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "include" / "runspend"
ROOMS = {"actions", "airflow", "allocation", "config", "core", "ingest", "interfaces", "pipeline", "schema", "storage", "warehouse"}
MOST_ARGUMENTS = 8
MODULES = sorted(path for path in PACKAGE.rglob("*.py"))


def test_the_root_has_the_rooms_of_the_architecture_page_and_no_loose_module() -> None:
    # after an update, a checkout still has folders with only the byte code of moved modules
    entries = {path.name for path in PACKAGE.iterdir() if path.is_file() or any(f.suffix != ".pyc" for f in path.rglob("*") if f.is_file())}
    assert entries == {*ROOMS, "__init__.py", "py.typed"}
    page = (PACKAGE.parents[1] / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert [room for room in sorted(ROOMS) if f"| `{room}` |" not in page] == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_module_has_a_docstring_about_its_content(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


def test_the_tests_mirror_the_package() -> None:
    """The tests of each room are in the folder with its name. Tests that span rooms are in folders of their own."""
    tests = PACKAGE.parents[1] / "tests"
    beside = {"benchmarks", "e2e", "faults", "fuzz", "repository"}
    folders = {path.parent.relative_to(tests) for path in tests.rglob("test_*.py")}
    assert {folder.parts[0] if folder.parts else "." for folder in folders} <= ROOMS | beside
    assert [str(folder) for folder in sorted(folders) if folder.parts[0] in ROOMS and not (PACKAGE / folder).is_dir()] == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Imports inside functions and for type checking count, because a reader must read such modules together."""
    sources = {module_name(path): path.read_text(encoding="utf-8") for path in MODULES}
    try:
        TopologicalSorter({name: imports_of(name, source, sources.keys()) for name, source in sources.items()}).prepare()
    except CycleError as error:
        pytest.fail("modules import each other in a circle: " + " ← ".join(error.args[1]))


def test_functions_take_at_most_eight_arguments() -> None:
    """A function with more arguments needs a value that groups them. Commands are exempt, because Click passes each option as an argument."""
    wide = []
    for path in MODULES:
        if path.parent == PACKAGE / "interfaces" / "cli":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                names = [
                    arg.arg for arg in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs) if arg.arg not in ("self", "cls")
                ]
                if len(names) > MOST_ARGUMENTS:
                    wide.append(f"{module_name(path)}.{node.name} has {len(names)}: {', '.join(names)}")
    assert wide == []


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(name: str, source: str, modules: Collection[str]) -> set[str]:
    """Return the modules that this one imports anywhere. A name imported from a package may itself be a module."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} has a relative import in line {node.lineno}"
            members = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {member if member in modules else str(node.module) for member in members}
    return (found & set(modules)) - {name}
