"""Keep the alerts of a budget when a tracking server or bill in its selector is renamed.

Belongs here: changes to the records of such budgets, which are their versions, alerts, acknowledgments and snoozes. `runspend sources rename`
records the new name. The other records are changed as soon as the cost tables use the new name. Until then, budgets select by the old one.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Literal, NamedTuple

from runspend.actions.alert.decisions import slug
from runspend.actions.alert.judge import budget_version, rules_of, series_version, with_rules
from runspend.actions.alert.tag_budgets import OF_EXPERIMENT, tag_name
from runspend.config.settings import Budget
from runspend.core.selectors import matches
from runspend.warehouse.base import Reader
from runspend.warehouse.records import Records

KIND = "renames"
# Kind of renamed source -> its key in selectors, and its column in the cost tables.
SELECTED_BY = {"tracking": ("tracking", "tracking_server"), "bill": ("source", "source")}


class Unfinished(NamedTuple):
    """A rename that only some months of the cost tables use. Neither name alone selects all costs of a budget."""

    key: str  # key in selectors
    old: str
    new: str

    def why_not_judged(self, budget: Budget) -> str | None:
        """Return the reason why a budget cannot be judged yet. None if it selects both names or neither."""
        patterns = budget.for_.get(self.key, ())
        is_by_old, is_by_new = (any(matches(pattern, name) for pattern in patterns) for name in (self.old, self.new))
        if is_by_old == is_by_new:
            return None
        return f"the cost tables of open months still use the old name {self.old} for {self.new}: the next pipeline run or `runspend allocate` rebuilds them"


def note_rename(records: Records, kind: Literal["tracking", "bill"], old: str, new: str) -> None:
    """Record that a tracking server or bill has a new name. A rename that is recorded again is also settled again.

    An earlier rename to `old` that is not settled yet is replaced by a rename to `new`, because renames are not settled in a fixed order.
    """
    _note(records, kind, old, new)
    for key, value in records.list(KIND).items():
        if (value["kind"], value["new"], value["is_settled"]) == (kind, old, False):
            if value["old"] != new:
                _note(records, kind, value["old"], new)
            _change(records, KIND, key, {"is_settled": True})


def finish_renames(reader: Reader, records: Records, currency: str) -> list[Unfinished]:
    """Update the records for each rename that the cost tables use. Return the renames that only some months of the tables use.

    If the process is killed at any point, the next call continues the work.
    """
    unfinished = []
    for key, value in records.list(KIND).items():
        if value["is_settled"]:
            continue
        name, column = SELECTED_BY[value["kind"]]
        query = f"select distinct {column} as name from cost_daily where {column} in (@old, @new)"
        found = set(reader.query(query, {"old": value["old"], "new": value["new"]})["name"].to_pylist())
        if value["old"] in found:
            unfinished += [Unfinished(name, value["old"], value["new"])] if value["new"] in found else []
            continue
        for version in records.list("budgets").values():
            _follow(records, version, name, value["old"], value["new"], currency)
        _change(records, KIND, key, {"is_settled": True})
    return unfinished


def _note(records: Records, kind: str, old: str, new: str) -> None:
    key, value = f"{kind} {old} {new}", {"kind": kind, "old": old, "new": new, "is_settled": False}
    if not records.create(KIND, key, value):
        _change(records, KIND, key, value)


def _follow(records: Records, value: Mapping[str, Any], name: str, old: str, new: str, currency: str) -> None:
    """Change one version of a budget and its alerts to the new name if it selects by the old name. `value` is the version's record."""
    if not value.get("rules") or old not in value["rules"]["for_"].get(name, ()):
        return
    before = with_rules(Budget.model_construct(name=value["budget"], amount=Decimal(0), notify=[]), value["rules"])
    if budget_version(before, currency) != value["version"]:
        return
    after = before.model_copy(update={"for_": {**before.for_, name: [new if pattern == old else pattern for pattern in before.for_[name]]}})
    if set(before.for_) == OF_EXPERIMENT and before.name == _name_in_tag(before):
        after = after.model_copy(update={"name": _name_in_tag(after)})
    version = budget_version(after, currency)
    moved = {**value, "budget": after.name, "version": version, "rules": rules_of(after)}
    key = f"{after.name}.{version}"
    # The version may already exist, because it was judged under the new name or the source is renamed back. Then it counts as never reverted.
    while not records.create("budgets", key, moved):
        there = records.get("budgets", key)
        since = value["first_judged_at"] if there is None else min(value["first_judged_at"], there[0]["first_judged_at"])
        if there is not None and records.replace("budgets", key, {**moved, "first_judged_at": since}, there[1]):
            break
    _move_alerts(records, (before, value["version"]), (after, version), currency)
    for key, quiet in records.list("quiet").items():
        if quiet["budget"] == before.name:
            _change(records, "quiet", key, {"budget": after.name})
    # Without its rules, the old version is no longer judged. It would find no costs, which would cause a false correction.
    _change(records, "budgets", f"{before.name}.{value['version']}", {"rules": None})


def _move_alerts(records: Records, before: tuple[Budget, str], after: tuple[Budget, str], currency: str) -> None:
    old_series, new_series = (series_version(budget, currency) for budget, _ in (before, after))

    def renamed(alert_id: str) -> str:
        rest, _, version = alert_id.removeprefix(slug(before[0].name)).rpartition(".")
        return f"{slug(after[0].name)}{rest}.{new_series if version == old_series else after[1]}"

    for key, alert in records.list("alerts").items():
        if (alert["budget"], alert.get("budget_version")) != (before[0].name, before[1]):
            continue
        more: dict[str, Any] = {"budget": after[0].name, "budget_version": after[1], "alert_id": renamed(alert["alert_id"])}
        if "items" in alert:
            more["items"] = [{**item, "alert_id": renamed(item["alert_id"])} for item in alert["items"]]
            more["covers"] = [renamed(covered) for covered in alert["covers"]]
        _change(records, "alerts", key, more)  # the record's key does not change


def _name_in_tag(budget: Budget) -> str:
    tracking, workspace, experiment_id = (budget.for_[key][0] for key in ("tracking", "workspace", "experiment_id"))
    return tag_name(tracking, workspace, experiment_id)


def _change(records: Records, kind: str, key: str, more: Mapping[str, Any]) -> None:
    while (found := records.get(kind, key)) is not None and not records.replace(kind, key, {**found[0], **more}, found[1]):
        pass
