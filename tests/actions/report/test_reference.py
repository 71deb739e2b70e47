"""The report's queries give the same rows on DuckDB and on Google's reference implementation of GoogleSQL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pyarrow as pa

from runspend.actions.report import plan_report
from runspend.config.settings import Settings
from runspend.schema.tables import TABLES
from tests.actions.report.report_world import NOVEMBER, NOW, TableReader, month_world
from tests.reference import GoogleSQL


class ReferenceReader:
    """A `warehouse.Reader` that runs the text unchanged."""

    def __init__(self, rows: Mapping[str, list[dict[str, Any]]]) -> None:
        self._engine = GoogleSQL()
        self._tables = {
            name: pa.Table.from_pylist([{c: r.get(c) for c in t.arrow_schema().names} for r in rows[name]], schema=t.arrow_schema())
            for name, t in TABLES.items()
        }

    def query(self, sql: str, parameters: Mapping[str, Any] | None = None, *, native: bool = False) -> pa.Table:
        """Return the rows of one GoogleSQL statement."""
        named = {name: table for name, table in self._tables.items() if name in sql}
        return self._engine.query(sql, named, parameters).to_arrow()


def test_both_engines_give_the_same_figures() -> None:
    """Every figure of a small month is equal to the last decimal."""
    world = month_world()
    days = {NOVEMBER + timedelta(days=d) for d in range(4)} | {NOVEMBER - timedelta(days=d) for d in (29, 30, 31)}
    for name in ("cost_daily", "cost_allocations", "run_costs_daily"):
        world[name] = [r for r in world[name] if r["charge_date"] in days]
    kept = {r["run_id"] for r in world["run_costs_daily"]}
    world["runs"] = [r for r in world["runs"] if r["run_id"] in kept]
    world["billing_lines"] = world["billing_lines"][-50:]
    ours = plan_report(TableReader(world), "2026-11", settings=Settings(), now=NOW)
    reference = plan_report(ReferenceReader(world), "2026-11", settings=Settings(), now=NOW)
    assert ours.currencies[0].runs
    assert replace(ours, snapshot="") == replace(reference, snapshot="")
