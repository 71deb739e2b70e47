"""docs/tables.md matches `schema/tables.py` and the example queries."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from runspend.schema.tables import TABLES, public_tables

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "tables.md"


def sections(page: str) -> dict[str, str]:
    """Return the text under each third-level heading."""
    return {found[1]: found[2] for found in re.finditer(r"^### (.+)\n((?:(?!^##).*\n?)*)", page, re.MULTILINE)}


def test_the_page_is_up_to_date() -> None:
    """The command writes exactly the file in the repository."""
    written = subprocess.run(
        [sys.executable, ROOT / "docs" / "generate_tables.py"], check=True, capture_output=True, text=True, encoding="utf-8"
    ).stdout
    assert PAGE.read_text(encoding="utf-8") == written, "run: python docs/generate_tables.py > docs/tables.md"


def test_every_column_of_every_table_is_explained() -> None:
    """Public tables come first. Each table has one line per column, in order, with type, meaning and marks."""
    found = sections(PAGE.read_text(encoding="utf-8"))
    tables = [name for name in found if name in TABLES]
    assert sorted(tables) == sorted(TABLES)
    assert tables[: len(list(public_tables()))] == [t.name for t in public_tables()]
    for table in TABLES.values():
        lines = [line for line in found[table.name].splitlines() if line.startswith("| `")]
        assert [re.findall(r"`(\w+)`", line)[0] for line in lines] == [c.name for c in table.columns]
        for column, line in zip(table.columns, lines, strict=True):
            assert f"| {column.type} |" in line
            assert column.meaning.replace("|", "\\|") in line
            assert ("*key*" in line, "*bookkeeping*" in line) == (column.is_key, column.bookkeeping)
        assert table.grain in found[table.name]


def test_every_meaning_is_a_sentence() -> None:
    """Every column has a meaning, and every table says what it is for."""
    for table in TABLES.values():
        assert table.meaning.endswith("."), table.name
        assert [c.name for c in table.columns if not c.meaning.endswith((".", ".)"))] == []
