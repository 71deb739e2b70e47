"""Find the changes that MLflow needs for one run, experiment or model version, and which existing values Runspend wrote.

A metric is Runspend's if its step has one of Runspend's numbers (`core/cost_keys.py`). A tag is Runspend's if its value is in the record:
the tag `runspend.costs` of the same run. The record holds the current and the previous value of each tag. If someone deleted the record of
a run that has a metric of Runspend, tags in the form that Runspend writes count as Runspend's. Any other value under the same names is
foreign and is not changed.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from runspend.actions.annotate.installation import is_installation_id
from runspend.actions.annotate.wanted import STATES
from runspend.core.cost_keys import AS_OF, COST_TAGS, MATCH, NOTE, RECORD, STATUS, STEPS_END, is_cost_tag, is_run_note
from runspend.ingest.tracking.cost_annotations import AnnotatedRun
from runspend.schema.tables import CONFIDENCES

_OWN_VALUES = {
    STATUS: re.compile("|".join(STATES)),
    MATCH: re.compile("|".join(CONFIDENCES)),
    AS_OF: re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\dZ"),
}
BY = "by"  # key of a record: [name of the tracking server in runspend.yaml, id of the installation]


@dataclass(frozen=True)
class Writer:
    """The tracking server to annotate, by its name in runspend.yaml, and the id of this installation.

    `other_servers` are all other tracking servers in runspend.yaml. Their costs are not changed.
    """

    server: str
    installation: str
    other_servers: frozenset[str] = frozenset()


@dataclass(frozen=True)
class RunCost:
    """The cost of a run by metric, one metric per currency. `costs` is empty if MLflow should not show a cost."""

    workspace: str
    experiment_id: str
    run_id: str
    costs: Mapping[str, float] = field(default_factory=dict)
    state: int = 1
    match: int = 1
    note: str | None = None


@dataclass(frozen=True)
class Changes:
    """Metrics to write, tags to set and tags to delete. They are applied in this order."""

    costs: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    deleted: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.costs or self.tags or self.deleted)


def find_other_installation(shown: Mapping[str, str], by: Writer) -> str | None:
    """Return the id of another installation that wrote costs to the owner of these tags, or None. Such costs must not be changed."""
    _, installation = _read_record(shown).get(BY, ("", by.installation))
    return installation if installation != by.installation else None


def find_other_server(shown: Mapping[str, str], by: Writer) -> str | None:
    """Return the other tracking server of runspend.yaml that wrote costs to the owner of these tags, or None.

    A name that is no longer in runspend.yaml counts as a former name of this server.
    """
    server, installation = _read_record(shown).get(BY, (by.server, by.installation))
    return server if installation == by.installation and server in by.other_servers else None


def find_changes(shown: AnnotatedRun, run: RunCost, as_of: Mapping[str, str], by: Writer) -> Changes | None:
    """Return the changes after which MLflow shows the run's cost; empty if it already does. None if a foreign value has one of the names."""
    record = _read_record(shown.tags)
    own_tags = [tag for tag in COST_TAGS if shown.tags.get(tag) in record.get(tag, ())]
    if RECORD not in shown.tags and any(cost.is_ours for cost in shown.costs.values()):  # only the record was deleted
        own_tags = [tag for tag in COST_TAGS if _OWN_VALUES[tag].fullmatch(shown.tags.get(tag, ""))]
    values = {key: cost.value for key, cost in shown.costs.items() if not math.isnan(cost.value)}
    own = {key for key in values if shown.costs[key].is_ours}
    theirs = {key for key, cost in shown.costs.items() if not cost.is_ours and (key in values or cost.step >= STEPS_END)}
    withdrawn = dict.fromkeys(sorted(own - run.costs.keys()), math.nan)
    note = shown.tags.get(NOTE, "").strip()
    if not run.costs:
        if find_other_server(shown.tags, by) is not None:
            return Changes()  # the cost belongs to that server, which uses the same MLflow
        ours = [tag for tag, is_ours in ((NOTE, is_run_note(note)), (RECORD, BY in record)) if is_ours]
        return Changes(withdrawn, {}, (*own_tags, *ours))  # the record is deleted last: an interrupted removal finds the run by it
    if theirs & run.costs.keys() or any(tag in shown.tags and tag not in own_tags for tag in COST_TAGS):
        return None
    costs = {key: value for key, value in run.costs.items() if values.get(key) != value} | withdrawn
    tags = {STATUS: STATES[run.state - 1], MATCH: CONFIDENCES[run.match - 1]}
    changed = {key: value for key, value in tags.items() if shown.tags.get(key) != value}
    if costs or changed or AS_OF not in shown.tags:
        changed |= as_of
        changed = {RECORD: _write_record(shown.tags, own_tags, {**tags, **as_of}, by), **changed}
    if run.note is not None and note != run.note and (not note or is_run_note(note)):
        changed[NOTE] = run.note
    return Changes(costs, changed)


def find_owner_changes(
    shown: Mapping[str, str], wanted: Mapping[str, str], as_of: Mapping[str, str], by: Writer
) -> dict[str, str | None] | None:
    """Return the tags to set on an experiment or a model version, in this order. Tags to delete have the value None.

    Returns None if a foreign tag has one of the names.
    """
    record = _read_record(shown)
    own = [key for key, value in shown.items() if key != RECORD and is_cost_tag(key) and value in record.get(key, ())]
    if not wanted:
        if BY not in record or find_other_server(shown, by) is not None:
            return {}
        return dict.fromkeys([*sorted(own), RECORD])
    if any(key in shown and key not in own for key in (*wanted, AS_OF)):
        return None
    changed = {key: value for key, value in wanted.items() if shown.get(key) != value}
    stale: dict[str, str | None] = dict.fromkeys(sorted(set(own) - wanted.keys() - as_of.keys()))
    if not changed and not stale:
        return {}
    return {RECORD: _write_record(shown, own, {**wanted, **as_of}, by), **as_of, **changed, **stale}


def _write_record(shown: Mapping[str, str], own: list[str], new: Mapping[str, str], by: Writer) -> str:
    """Return the record as JSON. It is written before the tags, so it holds the current and the new value of each tag."""
    keys = sorted({*own, *new})
    values = {key: list(dict.fromkeys([*([shown[key]] if key in own else []), *([new[key]] if key in new else [])])) for key in keys}
    return json.dumps({BY: [by.server, by.installation], **values}, separators=(",", ":"))


def _read_record(tags: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the record as a mapping from tag to the values that Runspend wrote. Empty if the record is missing or malformed."""
    try:
        found: Any = json.loads(tags.get(RECORD, "{}"))
    except (ValueError, RecursionError):
        return {}
    if not isinstance(found, dict) or not _is_writer(found.get(BY)):
        return {}
    return {key: value for key, value in found.items() if isinstance(value, list) and (key == BY or is_cost_tag(key))}


def _is_writer(by: Any) -> bool:
    return isinstance(by, list) and len(by) == 2 and isinstance(by[0], str) and is_installation_id(by[1])
