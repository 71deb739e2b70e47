"""`action: prune`: which runs and experiments a policy would delete in MLflow, what protects them, and the limit per run."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from runspend.actions.archive.items import Item
from runspend.actions.archive.mlflow_tags import prune, tag_archived
from runspend.core.errors import CapPassed
from runspend.warehouse.records import Records
from tests.actions.archive.policy_world import AGED, KEY, NOW, OLD, experiment, given_settings, planned, run, stored, use, version

POLICY = {"name": "old", "action": "prune", "select": {"unused_for": "90d"}}


def states(root: Path, *policies: dict[str, Any], **tables: Any) -> dict[str, tuple[str, str]]:
    rows = planned(root, given_settings(root, *policies), **tables)
    assert all((row["objects"], row["bytes"], row["monthly_saving"], row["store"]) == (0, 0, None, "mlflow:prod") for row in rows)
    return {row["owner_id"]: (row["state"], row["reason"]) for row in rows}


def test_old_runs_are_planned_whether_they_have_bytes_or_not(tmp_path: Path) -> None:
    runs = [
        run("with", **AGED), run("without", **AGED), run("young", start_time=NOW - timedelta(days=3), end_time=NOW - timedelta(days=2)),
        run("gone", **AGED, lifecycle_stage="deleted"), run("purged", **AGED, purged_at=NOW), run("open", start_time=OLD, end_time=None, run_status="RUNNING"),
    ]  # fmt: skip
    found = states(tmp_path, POLICY, runs=runs, artifact_bytes=[stored("with")])
    assert {owner: state for owner, (state, _) in found.items()} == {"with": "planned", "without": "planned", "open": "protected"}
    assert found["with"][1] == "unused for 267 days"


def test_protections_of_a_runs_bytes_protect_the_run(tmp_path: Path) -> None:
    runs = [run("kept", **AGED, tags='{"runspend.keep": "yes"}'), run("maker", **AGED), run("plain", **AGED)]
    found = states(
        tmp_path,
        POLICY,
        runs=runs,
        model_uses=[use("maker", "m-1")],
        model_versions=[version("fraud", 7, model_id="m-1", run_id="maker", aliases='["champion"]')],
    )
    assert {owner: state for owner, (state, _) in found.items()} == {"kept": "protected", "maker": "protected", "plain": "planned"}
    assert "alias champion on fraud/7" in found["maker"][1]


def test_an_experiment_is_planned_once_it_has_no_active_run_and_no_trace(tmp_path: Path) -> None:
    policy = {**POLICY, "select": {"unused_for": "90d", "kind": "experiment"}}
    aged = {"creation_time": OLD, "last_update_time": OLD}
    experiments = [
        experiment(**aged),
        experiment(experiment_id="13", experiment_name="empty", **aged),
        experiment(experiment_id="0", experiment_name="Default", **aged),
    ]
    experiments += [
        experiment(experiment_id="14", experiment_name="emptied lately", **aged),
        experiment(experiment_id="15", lifecycle_stage="deleted", **aged),
    ]
    experiments += [experiment(experiment_id="16", experiment_name="held", tags='{"runspend.hold": "1"}', **aged)]
    runs = [
        run("active", **AGED),
        run("late", experiment_id="14", start_time=OLD, end_time=NOW - timedelta(days=10), lifecycle_stage="deleted"),
    ]
    experiments += [experiment(experiment_id="17", experiment_name="chats", **aged)]
    traces = [{**KEY, "owner_kind": "trace", "owner_id": "tr-1", "experiment_id": "17", "uri": "s3://ml/17/traces/tr-1/artifacts"}]
    found = states(tmp_path, policy, runs=runs, experiments=experiments, artifact_owners=traces)
    assert {owner: state for owner, (state, _) in found.items()} == {"13": "planned", "16": "protected"}


@pytest.mark.parametrize(
    "given",
    [
        {"to": "GLACIER"},
        {"select": {"larger_than": "1GB"}},
        {"select": {"unused_for": "90d", "kind": "model"}},
        {"select": {"unused_for": ""}},
        {"select": {"kind": "run"}},
        {"select": {}},
    ],
)
def test_a_prune_that_makes_no_sense_is_refused(tmp_path: Path, given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        given_settings(tmp_path, {**POLICY, **given})


def test_experiments_are_for_prunes_alone(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="belongs to `action: prune`"):
        given_settings(tmp_path, {"select": {"unused_for": "90d", "kind": "experiment"}})


def item(owner_id: str, kind: Any = "run", server: str = "prod") -> Item:
    return Item(
        "old",
        "d",
        "prune",
        None,
        server,
        "default",
        kind,
        owner_id,
        "12",
        owner_id,
        None,
        f"mlflow:{server}",
        f"default/{owner_id}",
        None,
        0,
        0,
    )


def test_a_cap_stops_before_the_first(tmp_path: Path) -> None:
    given = given_settings(tmp_path, POLICY)
    asked: list[str] = []
    with pytest.raises(CapPassed, match="cannot delete 3 of the 10 runs and experiments in prod:"):
        prune([item(str(i)) for i in range(3)], given, protects=lambda i: asked.append(i.owner_id), active={"prod": 10})
    assert asked == []


def test_runs_that_are_protected_or_read_only_stay(tmp_path: Path) -> None:
    """Without a `write_token` for the server, Runspend deletes nothing and reports that."""
    given = given_settings(tmp_path, POLICY)
    done = prune(
        [item("a"), item("b")], given, protects=lambda i: "its tag runspend.keep" if i.owner_id == "a" else None, active={"prod": 10}
    )
    assert [(p.item.owner_id, p.state) for p in done] == [("a", "protected"), ("b", "failed")]
    assert done[1].reason == "prod: cannot write to MLflow for run b, because the server has no `write_token` in runspend.yaml"
    assert tag_archived(given, Records(given.home)) == []
