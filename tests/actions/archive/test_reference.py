"""Every query of the archive plan gives the same rows on DuckDB and on Google's reference implementation."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from runspend.actions.archive.holds import record_keep
from runspend.actions.archive.mlflow_tags import count_active
from runspend.actions.archive.protection import read_known
from runspend.actions.archive.states import current_plan
from runspend.actions.archive.why import explain_why
from runspend.schema.tables import TABLES
from runspend.warehouse.dialect import table_names
from runspend.warehouse.records import Records
from tests.actions.alert.test_reference import Listening, plain
from tests.actions.archive.policy_world import (
    AGED,
    KEY,
    NOW,
    OLD,
    UTC,
    experiment,
    given_settings,
    model,
    reads,
    run,
    sources,
    stored,
    use,
    version,
    warehouse,
)
from tests.reference import GoogleSQL

PLACE = "s3://ml/12"
RUNS = [
    run("a" * 32, artifact_uri=f"{PLACE}/a/artifacts", tags='{"team": "it\'s", "runspend.keep": "2026-11-20"}', **AGED),
    run("twin", artifact_uri="mlflow-artifacts:/12/a/artifacts", tags='{"runspend.hold": "x"}', **AGED),
    run("base", artifact_uri=f"{PLACE}/base/artifacts", params='{"k": "2"}', **AGED),
    run("tuned", artifact_uri=f"{PLACE}/tuned", parent_run_id="live", **AGED),
    run("live", start_time=OLD, end_time=None, run_status="RUNNING", parent_run_id="base"),
    run("free", **AGED),
    run("odd", user_name=None, team=None, start_time=OLD, end_time=OLD, purged_at=NOW, artifact_uri="file:///srv/files/x/"),
]
FOLDERS = [
    stored("a" * 32, prefix="12/a/artifacts"), stored("a" * 32, 77, prefix="12/a/artifacts", storage_class="GLACIER_IR"), stored("base", None), stored("tuned", prefix="12/tuned"), stored("live"),
    stored("odd", store="/srv/files", prefix="x", storage_class="LOCAL"), model("m-base"), model("m-tuned", newest_at=NOW - timedelta(days=3)), model("m-2", 10**15),
    stored("9/o", owner_kind="orphan", tracking_server=None, workspace=None, experiment_id="9", prefix="9/o", confirmed_at=None), stored("tr", owner_kind="trace", prefix="12/traces/tr"), stored("free"),
]  # fmt: skip
METRIC = {**KEY, "start_month": date(2026, 3, 1), "metric": "loss", "is_last": True}
TABLES_GIVEN: dict[str, Any] = {
    "runs": RUNS,
    "artifact_bytes": FOLDERS,
    "experiments": [experiment(tags='{"stage": "dev"}'), experiment(experiment_id="9", tags=None, creation_time=OLD, last_update_time=OLD)],
    "model_uses": [use("base", "m-base"), use("tuned", "m-base", "input"), use("tuned", "m-tuned", step=3), use("tuned", "m-2", step=9), use("live", "m-2", "input"), use("tuned", "m-2", "source")],
    "model_versions": [version("fraud", 7, model_id="m-tuned", aliases='["champion","eu"]', stage="Production"), version("old", 1, source_uri=f"{PLACE}/base/artifacts/model")],
    "run_metrics": [METRIC | {"run_id": "tuned", "model_id": m, "step": s, "value": v} for m, s, v in (("m-tuned", 3, 0.5), ("", 9, 0.25), ("", 3, 9.0))],
    "tracking_reads": [*reads(), *reads(workspace="other", state="unknown", reason="403")],
    "artifact_owners": [{**KEY, "owner_kind": "logged_model", "owner_id": "m-2", "experiment_id": "12", "uri": f"{PLACE}/models/m-2/artifacts"}],
    "archives": [
        {**KEY, "month": date(2025, 1, 1), "archive_id": "1", "action": "archive", "state": "archived", "target": "s3://cold", "folder": "runspend-archive/v1/x/1", "owner_kind": "run", "owner_id": "base",
         "run_id": "base", "experiment_id": "12", "objects": 1, "bytes": 5, "ended_at": datetime(2025, 1, 1, tzinfo=UTC)},
    ],
    "sources": sources(),
    "billing_lines": [
        {"source": "aws", "billing_period": date(2026, 10, 1), "line_id": "1", "service_category": "Storage", "charge_category": "Usage", "resource_key": "ml", "charge_date": date(2026, 10, 3),
         "charge_period_start": NOW, "charge_period_end": NOW + timedelta(hours=1), "billing_currency": "USD", "effective_cost": Decimal("31.0000000000000000000001"), "consumed_unit": "GB-Mo"},
    ],
}  # fmt: skip
POLICIES = [
    {"name": "one", "select": {"unused_for": "90d", "kind": ["run", "trace", "orphan"], "tag.team": ["it's", "x*"], "not_param.k": "1"}},
    {
        "name": "two",
        "select": {"older_than": "30d", "larger_than": "1kB", "kind": ["checkpoint", "model"], "not_team": "n?p"},
        "keep": {"best": 1, "by": "loss", "order": "max", "last": 1},
    },
    {"name": "three", "select": {"experiment": "resnet*", "kind": "run"}, "action": "tier", "to": "GLACIER_IR"},
    {"name": "four", "select": {"unused_for": "90d"}, "action": "delete"},
    {"name": "five", "select": {"unused_for": "90d"}, "action": "prune"},
    {"name": "six", "select": {"unused_for": "90d", "kind": "experiment"}, "action": "prune"},
]


class BatchListening(Listening):
    """A recording reader that also records queries in batches."""

    def batches(self, sql: str, parameters: Any = None, *, rows: int) -> Any:
        return self.query(sql, parameters).to_batches(max_chunksize=rows)


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, dict[str, Any], pa.Table]]:
    """Return every query of the plan, of `why` and of `keep`, with DuckDB's answer."""
    home = tmp_path_factory.mktemp("home")
    given = given_settings(home, *POLICIES)
    with warehouse(home / "w", **TABLES_GIVEN) as reader:
        listening: Any = BatchListening(reader)
        plan = current_plan(listening, Records(home), given, NOW)
        assert {row["state"] for row in plan.to_pylist()} == {"planned", "protected"}
        explain_why(listening, Records(home), given, "tuned", NOW)
        assert read_known(listening, "prod", NOW) is not None
        assert count_active(listening) == {"prod": 8}
        record_keep(listening, Records(home), "aaaaaa", until=None, reason=None, now=NOW)
    found: list[tuple[str, dict[str, Any], pa.Table]] = listening.asked
    return found


def test_both_engines_give_the_same_rows(asked: list[tuple[str, dict[str, Any], pa.Table]]) -> None:
    """Names, values and nulls are equal. At least ten queries return rows."""
    arrow = {name: pa.Table.from_pylist([dict(r) for r in rows], schema=TABLES[name].arrow_schema()) for name, rows in TABLES_GIVEN.items()}
    judge = GoogleSQL()
    assert sum(rows.num_rows > 0 for _, _, rows in asked) >= 10
    for sql, parameters, rows in asked:
        tables = {name: arrow[name] if name in arrow else TABLES[name].arrow_schema().empty_table() for name in table_names(sql)}
        used = {name: value for name, value in parameters.items() if f"@{name}" in sql}
        want = judge.query(sql, tables, used)
        assert want.names == rows.column_names
        assert sorted(map(repr, plain(rows.to_pylist()))) == sorted(map(repr, plain(want.to_pylist())))
