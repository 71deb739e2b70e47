"""Every query of the alert and of the archive plan gives the same rows on DuckDB and on Google's reference implementation."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from datetime import date, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from runspend.actions import alert
from runspend.actions.alert.figures import read_day_runs, read_restated
from runspend.schema.tables import TABLES
from runspend.warehouse.base import Reader
from runspend.warehouse.dialect import table_names
from tests.actions.alert.alert_world import NOW, UTC, budget, cost, run, source, warehouse
from tests.memory_records import MemoryRecords
from tests.reference import GoogleSQL
from tests.settings_builder import make_settings


class Listening:
    """A reader that records its queries and answers."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.asked: list[tuple[str, dict[str, Any], pa.Table]] = []

    def query(self, sql: str, parameters: Mapping[str, Any] | None = None, *, native: bool = False) -> pa.Table:
        rows = self.reader.query(sql, parameters, native=native)
        self.asked.append((sql, dict(parameters or {}), rows))
        return rows


def test_queries_agree_with_the_reference(tmp_path: Path) -> None:
    """The rows include globs, quotes and maps, nulls, money with 22 decimals, running, failed and old runs, stored bytes and rates."""
    start = datetime(2026, 11, 22, 20, tzinfo=UTC)
    runs = [
        run("a", run_status="RUNNING", end_time=None, last_sign_at=NOW, start_time=start),
        run(
            "b",
            run_status="FAILED",
            start_time=datetime(2026, 3, 1, tzinfo=UTC),
            end_time=datetime(2026, 3, 2, tzinfo=UTC),
            tags='{"team": "it\'s", "model": "bert"}',
        ),
        run(
            "c",
            user_name=None,
            start_time=datetime(2026, 3, 1, tzinfo=UTC),
            end_time=datetime(2026, 3, 2, tzinfo=UTC),
            tags='{"runspend.keep": "yes", "stage": "x"}',
        ),
    ]
    key = {"tracking_server": "prod", "workspace": "default", "billing_currency": "USD"}
    stored = {
        "month": date(2026, 11, 1), "store": "s3://ml", "owner_kind": "run", "tracking_server": "prod", "workspace": "default", "storage_class": "STANDARD", "is_complete": True,
        "valid_from": datetime(2026, 11, 1, tzinfo=UTC), "valid_to": None, "objects": 3, "newest_at": datetime(2026, 3, 1, tzinfo=UTC),
    }  # fmt: skip
    line = {
        "source": "aws", "billing_period": date(2026, 10, 1), "line_id": "1", "service_category": "Storage", "charge_category": "Usage", "resource_key": "ml",
        "charge_date": date(2026, 10, 3), "charge_period_start": NOW, "charge_period_end": NOW + timedelta(hours=1), "billing_currency": "USD", "effective_cost": Decimal("31"), "consumed_unit": "GB-Mo",
    }  # fmt: skip
    tables: dict[str, Any] = {
        "cost_daily": [
            cost("2026-11-05", "4000.0000000000000000000001"), cost("2026-11-20", "1000.5", team="it's", experiment_id="13", user_name=None), cost("2026-10-03", "640.2"),
            cost("2026-11-22", "900", team=None, allocated_to="idle", experiment_id=None, experiment_name=None, confidence=None), cost("2026-11-22", "7", allocated_to="out_of_scope"),
        ],
        "runs": runs,
        "sources": [source()],
        "run_costs": [key | {"run_id": "a", "start_month": date(2026, 11, 1), "effective_cost": Decimal("73.74")}],
        "run_costs_daily": [key | {"run_id": "b", "charge_date": date(2026, 11, 20), "cost_kind": "compute", "source": "aws", "billing_period": date(2026, 11, 1), "effective_cost": Decimal(50)}],
        "run_estimates": [key | {"run_id": r, "charge_date": date(2026, 11, 23), "cost_kind": k, "source": "aws", "effective_cost": Decimal("1.25")} for r, k in (("a", "compute"), ("a", "llm"), ("c", "compute"))],
        "experiments": [{"tracking_server": "prod", "workspace": "default", "experiment_id": "12", "tags": '{"stage": "dev", "runspend.budget": "5 USD / day", "owner": "ana@acme.com"}', "lifecycle_stage": "active"}],
        "billing_loads": [{"source": "aws", "billing_period": date(2026, 11, 1), "version": "v2", "version_number": 2, "billing_currency": "USD", "loaded_at": NOW}],
        "bill_changes": [{"source": "aws", "billing_period": date(2026, 11, 1), "version": "v2", "version_number": 2, "billing_currency": "USD", "service_name": s, "sub_account_id": "", "charge_date": date(2026, 11, d), "effective_cost": Decimal(c)} for s, d, c in (("", 5, "-100.1"), ("x", 5, "40"), ("", 7, "-1"), ("", 9, "-1"))],
        "artifact_bytes": [stored | {"owner_id": "b", "bytes": 1000}, stored | {"owner_id": "c", "bytes": None, "objects": None, "is_complete": False, "storage_class": "DEEP"}],
        "billing_lines": [line],
        "budget_status": [{"budget": "old", "month": date(2026, 11, 1), "budget_period": "2026-11", "spent": Decimal("0.1")}],
    }  # fmt: skip
    given = make_settings(
        tmp_path,
        budget("one", "10", **{"for": {"team": ["vis*", "it's"], "user": "a?a"}}),
        budget("two", "10", **{"for": {"cost_kind": "compute", "source": "a*", "experiment": "res*"}}),
        budget("all", "10", **{"for": {"provider": "AWS"}}),
        budget("tags", "10", **{"for": {"tag.team": "it's", "experiment_tag.stage": ["d*", "x"], "model": "*", "user": "*"}}),
        budget("params", "10", **{"for": {"param.k'; --": "1"}}),
        {"from": "experiment_tags", "notify": ["owner"]},
        tracking=[{"name": "prod", "uri": "http://mlflow", "copy": {"params": ["k"]}}],
    )
    with warehouse(tmp_path / "w", **tables) as reader:
        listening = Listening(reader)
        judged = alert.judge(listening, given, MemoryRecords(), NOW)
        for status in judged.statuses:
            read_day_runs(listening, status, date(2026, 11, 20))
        assert [
            (r.source, r.first.day, r.last.day)
            for r in read_restated(listening, judged.statuses[0], date(2026, 11, 8), NOW - timedelta(days=1))
        ] == [("aws", 5, 7)]
        alert.run(partial(nullcontext, listening), given, MemoryRecords(), NOW)
    assert {s.budget.name: s.spent for s in judged.statuses}["tags"] == 50
    arrow = {name: pa.Table.from_pylist([dict(r) for r in rows], schema=TABLES[name].arrow_schema()) for name, rows in tables.items()}
    judge = GoogleSQL()
    assert len(listening.asked) > 15
    for sql, parameters, rows in listening.asked:
        used = {name: value for name, value in parameters.items() if f"@{name}" in sql}
        want = judge.query(sql, {name: arrow[name] for name in table_names(sql)}, used)
        assert want.names == rows.column_names
        assert sorted(map(repr, plain(want.to_pylist()))) == sorted(map(repr, plain(rows.to_pylist()))), sql


def plain(rows: list[dict[str, Any]]) -> list[list[Any]]:
    """Return values without differences of spelling: time zones of one instant, and trailing zeros."""

    def value(found: Any) -> Any:
        if isinstance(found, datetime):
            return found.astimezone(UTC).isoformat()
        if isinstance(found, (Decimal, int, float)) and not isinstance(found, bool):
            return f"{Decimal(found).normalize():f}"
        return found

    return [[value(v) for v in row.values()] for row in rows]
