"""`runspend sql`, as it is typed: answers whose columns share a name lose none of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.command import run_here


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "runspend.yaml"
    path.write_text("home: .\n", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("statement", "row"),
    [
        ("select 1 as a, 2 as a", {"a": 1, "a_1": 2}),
        ("select 1 as a, 2 as a, 3 as a_1, 4 as a", {"a": 1, "a_2": 2, "a_1": 3, "a_3": 4}),
        ("select 1 as a_1, 2 as a, 3 as a", {"a_1": 1, "a": 2, "a_2": 3}),
        ("select 1 as a, 2 as b", {"a": 1, "b": 2}),
    ],
)
@pytest.mark.parametrize("native", [(), ("--native",)])
def test_columns_of_one_name_are_all_answered(config: Path, statement: str, row: dict[str, int], native: tuple[str, ...]) -> None:
    answered = json.loads(run_here("sql", statement, *native, "--json", "--config", str(config)).stdout)
    assert answered == [row]
    header, values = run_here("sql", statement, *native, "--quiet", "--config", str(config)).stdout.splitlines()
    assert len(header.split()) == len(values.split()) == len(row)
