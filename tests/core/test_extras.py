"""The error for a missing package names the extra that contains it. Other import errors stay as they are."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest
import tomllib

from runspend.core.extras import EXTRA_OF, missing_extra

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# The three packages of the base install, and their dependencies.
BASE = {"click", "pydantic", "pydantic_core", "yaml", "runspend"}


def imported() -> set[str]:
    """Return the top-level modules from outside that runspend imports anywhere."""
    found = set[str]()
    for path in (ROOT / "include" / "runspend").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {name.name.partition(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                found.add(node.module.partition(".")[0])
    return found - set(sys.stdlib_module_names) - BASE


def test_every_imported_package_names_its_extra() -> None:
    assert {name for name in imported() if name not in EXTRA_OF} == set()


@pytest.mark.parametrize(("package", "extra"), sorted(set(EXTRA_OF.values())))
def test_the_extra_named_has_the_package(package: str, extra: str) -> None:
    names = {re.split(r"[\[<>=!~ ]", line)[0] for line in PROJECT["optional-dependencies"][extra]}
    assert package in names


def test_a_module_missing_from_an_installed_package_stays_a_bug() -> None:
    with pytest.raises(ModuleNotFoundError) as caught:
        __import__("duckdb.no_such_module")
    assert missing_extra(caught.value) is None


@pytest.mark.parametrize("error", [ModuleNotFoundError("bare"), ImportError("cannot import name x", name="duckdb"), ValueError("duckdb")])
def test_another_error_is_not_a_missing_extra(error: Exception) -> None:
    assert missing_extra(error) is None


def test_a_module_of_runspend_that_is_missing_stays_a_bug() -> None:
    assert missing_extra(ModuleNotFoundError("no", name="runspend.no_such_module")) is None


@pytest.mark.parametrize("module", ["databricks.sql", "databricks.sql.client"])
def test_a_missing_part_of_a_shared_namespace_names_its_extra(module: str) -> None:
    """Other packages also put modules under `databricks`, so the namespace alone does not name the extra."""
    sentence = 'cannot import databricks-sql-connector: it is not installed. Run: pip install "runspend[databricks]"'
    assert str(missing_extra(ModuleNotFoundError("no", name=module))) == sentence
