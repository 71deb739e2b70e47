"""Facts from the warehouse for questions to MLflow: what an answer must contain, and which owners MLflow does not know."""

from __future__ import annotations

from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

from runspend.actions.archive.items import Item
from runspend.actions.archive.protection import open_protection, read_known
from tests.actions.archive.policy_world import AGED, NOW, OLD, experiment, given_settings, run, sources, use, version, warehouse

SCIENCE = {"workspace": "science"}


def test_a_run_is_known_if_the_last_extraction_saw_it(tmp_path: Path) -> None:
    runs = [
        run("parent", **AGED), run("child", **AGED, parent_run_id="parent"), run("lost child", **AGED, parent_run_id="parent", purged_at=NOW), run("gone", **AGED, lifecycle_stage="deleted"),
        run("newest", start_time=NOW - timedelta(hours=1), end_time=NOW), run("of 2106", start_time=NOW.replace(year=2106), end_time=NOW), run("open", start_time=OLD, end_time=None, **SCIENCE),
        run("elsewhere", **AGED, tracking_server="other"),
    ]  # fmt: skip
    versions = [
        version("fraud", 1, run_id="parent"),
        version("loose", 2, source_uri="s3://x/parent/model"),
        version("fraud", 3, run_id="elsewhere", tracking_server="other"),
    ]
    uses = [use("child", "m-1", "input"), use("parent", "m-1", "output"), use("parent", "m-2", "input")]
    experiments = [experiment(), experiment(experiment_id="13", lifecycle_stage="deleted")]
    with warehouse(
        tmp_path, runs=runs, model_versions=versions, model_uses=uses, experiments=experiments, sources=sources(NOW - timedelta(hours=2))
    ) as reader:
        known = read_known(reader, "prod", NOW)
    assert known is not None
    assert (known.read_at, known.deleted_runs, known.purged_runs, known.deleted_experiments) == (
        NOW - timedelta(hours=2),
        {"gone"},
        {"lost child"},
        {"13"},
    )
    assert (known.children_of("parent"), known.children_of("child")) == ({"child"}, frozenset())
    assert [known.users_of(models) for models in (["m-1"], ["m-2"], ["m-3"], ["m-1", "m-2"], [])] == [
        {"child"},
        {"parent"},
        set(),
        {"child", "parent"},
        set(),
    ]
    assert [known.made_by(made) for made in ({"parent"}, {"child"})] == [{"m-1"}, set()]
    assert known.open_runs == {"science": {"open"}}
    assert known.newest_run["default"] == ("newest", int((NOW - timedelta(hours=1)).timestamp() * 1000))
    assert (known.registered_run, known.loose_versions) == (
        {"default": "parent"},
        {"default": (("registered as loose/2", "s3://x/parent/model"),)},
    )


def test_a_server_that_was_never_read_well_is_unknown(tmp_path: Path) -> None:
    with warehouse(tmp_path, sources=[{"source": "prod", "kind": "tracking", "last_good_at": None}]) as reader:
        assert read_known(reader, "prod", NOW) is None


def test_runs_whose_server_cannot_be_asked_are_protected(tmp_path: Path) -> None:
    given = given_settings(tmp_path, {})
    item = Item("cold", "d", "archive", None, "prod", "default", "run", "r", "12", "r", None, "s3://ml", "12/r/artifacts", None, 1, 1)
    gone = Item(**{**vars(item), "tracking_server": "retired"})
    orphan = Item(**{**vars(item), "tracking_server": "", "owner_kind": "orphan", "run_id": None})
    with warehouse(tmp_path) as reader:
        store: Any = type("Warehouse", (), {"reader": lambda self: nullcontext(reader)})()
        protects = open_protection(store, given, NOW)
        assert protects(item) == protects(orphan) == "the runs of prod were never read: run runspend extract"
        assert protects(gone) == "its tracking server retired is not in runspend.yaml, so Runspend cannot ask whether it is in use"
        nobody = open_protection(store, given_settings(tmp_path, {}, tracking=[]), NOW)
        assert nobody(orphan) == "no tracking server is configured, so it may still have an owner"
