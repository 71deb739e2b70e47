"""What MLflow lacks, of one run or one experiment or model version; and whose values stand there.

A value is Runspend's if the tag `runspend.costs` beside it records exactly this value. Anything else under the same names is somebody
else's, and stays.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from runspend.actions.annotate.wanted import MATCHES, STATES
from runspend.core.cost_keys import AS_OF, COST_TAGS, MATCH, NOTE, RECORD, STATUS, is_cost_metric, is_cost_tag, is_run_note
from runspend.ingest.tracking.cost_annotations import AnnotatedRun, ShownCost

__all__ = ["Changes", "RunCost", "find_changes", "find_owner_changes"]


@dataclass(frozen=True)
class RunCost:
    """The cost of a run in all its currencies, by metric; none if MLflow should show no cost of it."""

    workspace: str
    experiment_id: str
    run_id: str
    costs: Mapping[str, float] = field(default_factory=dict)
    state: int = 1
    match: int = 1
    note: str | None = None


@dataclass(frozen=True)
class Changes:
    """Metrics to write, tags to set and tags to delete, in this order."""

    costs: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    deleted: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.costs or self.tags or self.deleted)


def find_changes(shown: AnnotatedRun, run: RunCost, as_of: Mapping[str, str]) -> Changes | None:
    """Return what makes MLflow show the run's cost, empty if it does. None if a value of somebody else is in the way."""
    record = _read_record(shown.tags)
    own = {key for key, cost in shown.costs.items() if record.get(key) == [_mark(cost)]}
    in_the_way = {key for key, cost in shown.costs.items() if key not in own and not math.isnan(cost.value)}
    # MLflow writes metrics before tags: if it stopped in between, the value is there, and its record is not.
    in_the_way -= {key for key in in_the_way if shown.costs[key].has_own_time and shown.costs[key].value == run.costs.get(key)}
    own_tags = [tag for tag in COST_TAGS if tag in shown.tags and record.get(tag) == [shown.tags[tag]]]
    withdrawn = {key: math.nan for key in sorted(own - run.costs.keys()) if not math.isnan(shown.costs[key].value)}
    note = shown.tags.get(NOTE, "").strip()
    if not run.costs:
        ours = [tag for tag, is_ours in ((NOTE, is_run_note(note)), (RECORD, True)) if is_ours and tag in shown.tags]
        return Changes(withdrawn, {}, (*own_tags, *ours))  # the record last: it is how an interrupted removal finds the run again
    if in_the_way & run.costs.keys() or any(tag in shown.tags and tag not in own_tags for tag in COST_TAGS):
        return None
    costs = {key: value for key, value in run.costs.items() if key not in shown.costs or shown.costs[key].value != value} | withdrawn
    tags = {STATUS: STATES[run.state - 1], MATCH: MATCHES[run.match - 1]}
    changed = {key: value for key, value in tags.items() if shown.tags.get(key) != value}
    if costs or changed or not own >= run.costs.keys() or len(own_tags) < len(COST_TAGS):
        changed |= as_of
        marks = {key: _mark(shown.costs[key]) for key in run.costs if key not in costs}
        marks |= {key: _mark(ShownCost(value, shown.next_step(key), True)) for key, value in costs.items() if key in run.costs}
        changed[RECORD] = _write_record({key: [value] for key, value in {**marks, **tags, **as_of}.items()})
    if run.note is not None and note != run.note and (not note or is_run_note(note)):
        changed[NOTE] = run.note
    return Changes(costs, changed)


def find_owner_changes(shown: Mapping[str, str], wanted: Mapping[str, str], as_of: Mapping[str, str]) -> dict[str, str | None] | None:
    """Return the tags of an experiment or a model version to set, in this order, and those to delete (None). None if somebody else's are in the way.

    The tags are set one by one, so the record comes first, and has the old and the new value of each.
    """
    record = _read_record(shown)
    own = {key for key, value in shown.items() if value in record.get(key, ()) and is_cost_tag(key) and key != RECORD}
    stale: dict[str, str | None] = dict.fromkeys(sorted(own - wanted.keys() - as_of.keys()))
    if not wanted:
        return {**stale, **dict.fromkeys(key for key in as_of if key in own), **({RECORD: None} if RECORD in shown else {})}
    if any(key in shown and key not in own for key in (*wanted, AS_OF)):
        return None
    changed = {key: value for key, value in wanted.items() if shown.get(key) != value}
    if not changed and not stale:
        return {}
    both = {key: list(dict.fromkeys([*([shown[key]] if key in own else []), value])) for key, value in {**wanted, **as_of}.items()}
    both |= {key: [shown[key]] for key in stale}
    return {RECORD: _write_record(both), **as_of, **changed, **stale}


def _mark(cost: ShownCost) -> str:
    return f"{cost.value!r}@{cost.step}"


def _write_record(values: Mapping[str, list[str]]) -> str:
    return json.dumps(values, sort_keys=True, separators=(",", ":"))


def _read_record(tags: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the values that Runspend wrote, by metric and tag. Anything but such a record counts as none."""
    try:
        found: Any = json.loads(tags.get(RECORD, "{}"))
    except (ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {key: value for key, value in found.items() if isinstance(value, list) and (is_cost_metric(key) or is_cost_tag(key))}
