"""Which metrics and tags MLflow lacks, and which another installation or a person wrote."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest

from runspend.actions.annotate.changes import Changes, RunCost, Writer, find_changes, find_owner_changes
from runspend.core.cost_keys import FIRST_STEP
from runspend.ingest.tracking.cost_annotations import AnnotatedRun, ShownCost

BY = Writer("prod", "0" * 16, frozenset({"other"}))
OTHER = Writer("other", "0" * 16, frozenset({"prod"}))
AS_OF = {"cost_as_of": "2026-11-29T06:00Z"}
NOTE = "Cost of this run, line by line: https://runspend.example.com/run/r1"
WANTED = RunCost("default", "1", "r1", {"cost_usd": 41.2}, state=1, match=2)
EMPTY = AnnotatedRun("r1", "1", 1_000, {}, {})


def written(shown: AnnotatedRun, changes: Changes | None) -> AnnotatedRun:
    """Return the run as MLflow shows it after these changes."""
    assert changes is not None
    costs = {key: ShownCost(value, shown.next_step(key), is_ours=True) for key, value in changes.costs.items()}
    tags = {key: value for key, value in {**shown.tags, **changes.tags}.items() if key not in changes.deleted}
    return replace(shown, costs={**shown.costs, **costs}, tags=tags)


def change(shown: AnnotatedRun, wanted: RunCost) -> AnnotatedRun:
    after = written(shown, find_changes(shown, wanted, AS_OF, BY))
    assert not find_changes(after, wanted, {"cost_as_of": "2026-12-01T06:00Z"}, BY), "the second time, nothing is written"
    return after


SHOWN = change(EMPTY, WANTED)


def with_metric(value: float, key: str = "cost_usd", *, run: AnnotatedRun = EMPTY, step: int = 0, is_ours: bool = False) -> AnnotatedRun:
    return replace(run, costs={**run.costs, key: ShownCost(value, step, is_ours)})


def shows(run: AnnotatedRun) -> dict[str, Any]:
    """Return the metrics with a value, and the tags except for the record."""
    tags = {key: value for key, value in run.tags.items() if key != "runspend.costs"}
    return {key: cost.value for key, cost in run.costs.items() if not math.isnan(cost.value)} | tags


def test_a_run_gets_its_cost_and_the_next_one_a_step_of_its_own() -> None:
    assert shows(SHOWN) == {"cost_usd": 41.2, "cost_status": "final", "cost_match": "high", **AS_OF}
    less = change(SHOWN, replace(WANTED, costs={"cost_usd": 40.0}))
    assert (less.costs["cost_usd"].value, less.costs["cost_usd"].step) == (40.0, FIRST_STEP + 1)
    assert shows(change(less, replace(WANTED, costs={"cost_usd": 40.0}, state=2)))["cost_status"] == "provisional"


def test_a_currency_that_vanishes_is_withdrawn_and_so_is_a_whole_cost() -> None:
    both = change(SHOWN, replace(WANTED, costs={"cost_usd": 41.2, "cost_eur": 1.0}))
    assert shows(change(both, replace(WANTED, costs={"cost_eur": 1.0}))) == {
        key: value for key, value in shows(both).items() if key != "cost_usd"
    }
    nothing = change(both, replace(WANTED, costs={}))
    assert shows(nothing) == {} and "runspend.costs" not in nothing.tags
    again = change(replace(nothing, time_ms=2_000), WANTED)  # the run has continued in the meantime
    assert (shows(again)["cost_usd"], again.costs["cost_usd"].step) == (41.2, FIRST_STEP + 2)


def test_a_description_is_written_only_where_there_is_none() -> None:
    wanted = replace(WANTED, note=NOTE)
    assert shows(change(SHOWN, wanted))["mlflow.note.content"] == NOTE
    moved = change(change(SHOWN, replace(WANTED, note=NOTE.replace("runspend.", "old."))), wanted)
    assert shows(moved)["mlflow.note.content"] == NOTE
    for text in ("mine", f"{NOTE} and mine"):
        described = replace(SHOWN, tags={**SHOWN.tags, "mlflow.note.content": text})
        assert shows(change(described, wanted))["mlflow.note.content"] == text
        assert shows(change(described, replace(wanted, costs={}))) == {"mlflow.note.content": text}
    assert shows(change(moved, replace(wanted, costs={}))) == {}


@pytest.mark.parametrize(
    "shown",
    [
        with_metric(0.37),
        with_metric(0.11, run=SHOWN, step=7),  # a run that was copied with its tags and then logged its own metrics
        replace(EMPTY, tags={"cost_status": "cheap"}),
        replace(EMPTY, tags={"cost_as_of": "2024 budget"}),
        replace(SHOWN, tags={**SHOWN.tags, "cost_match": "mine"}),
        replace(SHOWN, tags={**SHOWN.tags, "runspend.costs": "[" * 9_000}),
        with_metric(0.2, "cost_eur", run=SHOWN),
    ],
)
def test_a_value_of_someone_else_stays(shown: AnnotatedRun) -> None:
    wanted = replace(WANTED, costs={"cost_usd": 41.2, "cost_eur": 1.0})
    assert find_changes(shown, wanted, AS_OF, BY) is None
    removed = written(shown, find_changes(shown, replace(WANTED, costs={}), {}, BY))
    theirs = {key: value for key, value in shows(shown).items() if shows(SHOWN).get(key) != value}
    assert theirs.items() <= shows(removed).items()


def test_other_metrics_of_a_person_do_not_matter() -> None:
    assert shows(change(with_metric(0.2, "cost_eur"), WANTED))["cost_eur"] == 0.2


def test_a_metric_without_its_tags_is_completed() -> None:
    """MLflow writes metrics before tags, and may stop in between. The cost may change before the next annotation."""
    half = with_metric(12.0, is_ours=True, step=FIRST_STEP)
    assert shows(change(half, WANTED)) == shows(SHOWN)
    assert shows(change(with_metric(12.0, run=SHOWN, is_ours=True, step=FIRST_STEP + 1), WANTED)) == shows(SHOWN)


def test_values_that_another_configured_server_wrote_belong_to_it() -> None:
    """Two entries of `tracking` may name the same MLflow server or the same registry."""
    nothing = replace(WANTED, costs={})
    assert find_changes(SHOWN, nothing, {}, OTHER) == Changes() and find_changes(SHOWN, nothing, {}, BY)
    ours = apply({}, list((find_owner_changes({}, {"cost_usd_total": "1.00"}, AS_OF, BY) or {}).items()))
    assert find_owner_changes(ours, {}, {}, OTHER) == {} and find_owner_changes(ours, {}, {}, BY)


def test_values_written_under_a_name_that_is_no_longer_configured_can_be_removed() -> None:
    """`sources rename` renames the server in runspend.yaml, and MLflow keeps the former name in its records."""
    renamed = Writer("new", BY.installation, BY.other_servers)
    assert shows(written(SHOWN, find_changes(SHOWN, replace(WANTED, costs={}), {}, renamed))) == {}
    ours = apply({}, list((find_owner_changes({}, {"cost_usd_total": "1.00"}, AS_OF, BY) or {}).items()))
    assert apply(ours, list((find_owner_changes(ours, {}, {}, renamed) or {}).items())) == {}


def test_tags_of_an_experiment_are_set_one_by_one_and_may_be_interrupted_anywhere() -> None:
    wanted = {"cost_usd_total": "160.00", "cost_usd_month_to_date": "60.00"}
    for first in ({}, {"cost_usd_total": "100.00", "cost_eur_total": "1.00"}):
        before: dict[str, str] = {"team": "vision"}
        if first:
            before |= {key: value for key, value in (find_owner_changes(before, first, AS_OF, BY) or {}).items() if value is not None}
        later = {"cost_as_of": "2026-11-30T06:00Z"}
        steps = list((find_owner_changes(before, wanted, later, BY) or {}).items())
        for done in range(len(steps) + 1):
            shown = apply(before, steps[:done])
            shown = apply(shown, list((find_owner_changes(shown, wanted, later, BY) or {}).items()))
            assert {key: value for key, value in shown.items() if key != "runspend.costs"} == {"team": "vision", **wanted, **later}
            assert find_owner_changes(shown, wanted, {"cost_as_of": "2027"}, BY) == {}
            removed = list((find_owner_changes(shown, {}, {}, BY) or {}).items())
            for undone in range(len(removed) + 1):
                left = apply(shown, removed[:undone])
                assert apply(left, list((find_owner_changes(left, {}, {}, BY) or {}).items())) == {"team": "vision"}


def apply(shown: dict[str, str], steps: list[tuple[str, str | None]]) -> dict[str, str]:
    after: dict[str, str | None] = {**shown, **dict(steps)}
    return {key: value for key, value in after.items() if value is not None}


@pytest.mark.parametrize("theirs", [{"cost_usd_total": "mine"}, {"cost_as_of": "mine"}])
def test_tags_of_someone_else_stay(theirs: dict[str, str]) -> None:
    wanted = {"cost_usd_total": "160.00"}
    assert find_owner_changes(theirs, wanted, AS_OF, BY) is None
    ours = apply({}, list((find_owner_changes({}, wanted, AS_OF, BY) or {}).items()))
    changed = ours | theirs
    assert find_owner_changes(changed, {"cost_usd_total": "170.00"}, AS_OF, BY) is None
    assert theirs.items() <= apply(changed, list((find_owner_changes(changed, {}, {}, BY) or {}).items())).items()
    assert json.loads(ours["runspend.costs"]) == {
        "by": ["prod", "0" * 16],
        "cost_as_of": [AS_OF["cost_as_of"]],
        "cost_usd_total": ["160.00"],
    }
