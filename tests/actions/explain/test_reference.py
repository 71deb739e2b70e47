"""The queries of `explain` and the FOCUS view give the same rows on DuckDB and on Google's reference implementation."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from runspend.actions import explain
from runspend.actions.explain import explain_line, explain_resource, explain_run
from runspend.actions.export import focus_view
from runspend.schema.tables import TABLES
from runspend.warehouse.base import Reader
from runspend.warehouse.dialect import table_names
from runspend.warehouse.parquet.warehouse import ParquetWarehouse
from tests.actions.explain import explain_world as w
from tests.reference import GoogleSQL
from tests.sql_lint import lint

QUESTIONS = sorted((Path(explain.__file__).parent / "sql").glob("*.sql"))


class ReferenceReader:
    """A `warehouse.Reader` that runs the text unchanged over the tables of a warehouse."""

    def __init__(self, warehouse: ParquetWarehouse) -> None:
        self._engine = GoogleSQL()
        with warehouse.reader() as reader:
            self._tables = {name: reader.query(f"select * from {name}") for name in TABLES}

    def query(self, sql: str, parameters: Mapping[str, Any] | None = None, *, native: bool = False) -> pa.Table:
        """Return the rows of one GoogleSQL statement."""
        named = {name: self._tables[name] for name in table_names(sql)}
        return self._engine.query(sql, named, parameters).to_arrow()


@pytest.fixture(scope="module")
def reference(warehouse: ParquetWarehouse) -> Any:
    """Return a reader that uses Google's reference implementation."""
    return ReferenceReader(warehouse)


@pytest.mark.parametrize("path", QUESTIONS, ids=lambda p: p.stem)
def test_a_question_has_nothing_that_differs_between_the_engines(path: Path) -> None:
    """The linter accepts it, and its first line states its grain."""
    text = path.read_text(encoding="utf-8")
    assert lint(text) == []
    assert text.startswith(("-- One row", "-- The line"))


@pytest.mark.parametrize("run_id", [w.BIG, w.TAGGED, w.LOST, w.PARENT, w.NOWHERE, w.LATE, w.ELSEWHERE, w.EXCLUDED])
def test_both_engines_explain_a_run_equally(reader: Reader, reference: Any, run_id: str) -> None:
    """Every value is equal to the last decimal, and so is the reason for a missing cost."""
    assert explain_run(reader, run_id[:8], w.SETTINGS, now=w.NOW) == explain_run(reference, run_id[:8], w.SETTINGS, now=w.NOW)


def test_both_engines_explain_a_machine_and_a_line_equally(reader: Reader, reference: Any) -> None:
    """Hours, users and parts are equal."""
    assert explain_resource(reader, "m1") == explain_resource(reference, "m1")
    assert explain_line(reader, "…00000b") == explain_line(reference, "…00000b")


def test_both_engines_have_the_same_focus_rows(reader: Reader, reference: Any) -> None:
    """All columns of all rows are equal, except for trailing zeros of quantities."""
    sql = f"select * from ({focus_view()}) order by x_OriginChargeId, x_AllocatedTo, x_RunId, x_ChargeDate"
    rows, others = (engine.query(sql).to_pylist() for engine in (reader, reference))
    assert len(rows) > 80
    assert rows == others
    assert sum((r["EffectiveCost"] for r in rows), Decimal(0)) > 0
