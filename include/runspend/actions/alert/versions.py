"""Plan which version of each budget is judged, and in which periods.

Belongs here: the effects of an edit, a late bill and a late restatement. Calendar arithmetic is in `periods.py`, judging in `judge.py`.

If someone edits a setting that decisions depend on, the budget gets a new version. A period that ended before the edit is judged by the
version that was valid at its end. After a version has reported a reached threshold, it continues to be judged in that period until CORRECTED
after the period's end. This can only lead to a correction.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from itertools import pairwise
from typing import Any

from runspend.actions.alert.judge import budget_version, rules_of, series_version, with_rules
from runspend.actions.alert.periods import BudgetPeriod, period_named, periods_to_judge
from runspend.config.settings import Budget
from runspend.schema.rows import midnight
from runspend.warehouse.records import Records

# How long after a period's end its alerts can be corrected. Bills are closed long before. Later changes are bookkeeping and need no mail.
CORRECTED = timedelta(days=400)


@dataclass(frozen=True)
class Version:
    """A budget with the rules that were valid from `since` to `until`. `until` is None for the current version."""

    budget: Budget
    version: str
    since: datetime
    until: datetime | None = None


@dataclass(frozen=True)
class Job:
    """A version of a budget and its periods to judge, oldest first. If `is_closed`, only corrections are decided for these periods."""

    budget: Budget
    periods: tuple[BudgetPeriod, ...]
    is_closed: bool = False


def read_versions(records: Records, budgets: Sequence[Budget], currency: str, now: datetime) -> dict[str, list[Version]]:
    """Return the versions of each budget by its name, the current version last.

    Records when a version is judged for the first time, and when an edit was reverted.
    """
    known, versions = records.list("budgets"), dict[str, list[Version]]()
    by_name: dict[str, list[dict[str, Any]]] = {}
    for value in known.values():
        by_name.setdefault(value["budget"], []).append(value)
    for budget in budgets:
        version = budget_version(budget, currency)
        since = _first_judged(records, known.get(f"{budget.name}.{version}"), budget, version, now)
        before = [v for v in by_name.get(budget.name, ()) if v["version"] != version]
        # Reverting an edit restores the earlier version as if it had never ended. Alerts of the edited version can still be corrected.
        taken_back = {v["version"] for v in before if "taken_back_at" in v or _since(v) >= since}
        for value in before:
            if value["version"] in taken_back and "taken_back_at" not in value:
                _change(records, value, {"taken_back_at": now.isoformat()})
        was = [Version(b, v["version"], _since(v)) for v in before if (b := _as_it_was(budget, v, currency))]
        undone = [replace(one, until=one.since) for one in was if one.version in taken_back]
        held = sorted((one for one in was if one.version not in taken_back), key=lambda one: one.since)
        found = [*held, Version(budget, version, since)]
        versions[budget.name] = [*undone, *(replace(one, until=then.since) for one, then in pairwise(found)), found[-1]]
    return versions


def plan_judging(
    versions: Mapping[str, Sequence[Version]],
    alerts: Mapping[str, Mapping[str, Any]],
    judged_on: Mapping[str, Mapping[str, date]],
    covered: date | None,
    now: datetime,
) -> list[Job]:
    """Return the jobs: which version of which budget must be judged in which periods.

    The current versions come first, with the current period and recently ended ones. Jobs that can only lead to corrections come last.
    `alerts` are the records of earlier decisions. `judged_on` and `covered` are as in `periods_to_judge`, `judged_on` by budget name.
    """
    jobs, planned = list[Job](), set[tuple[str, str, str]]()
    for version in sorted((v for found in versions.values() for v in found), key=lambda v: v.until is not None):
        name = version.budget.name
        periods = periods_to_judge(version.budget.every, now, version.since, covered, judged_on.get(name, {}))
        if version.until is not None:
            periods = [p for p in periods if midnight(p.end) <= version.until]
        if periods:
            jobs.append(Job(version.budget, tuple(periods)))
            planned |= {(name, version.version, p.name) for p in periods}
    return [*jobs, *_for_corrections(versions, alerts, planned, now)]


def watched_since(versions: Sequence[Version], currency: str) -> date:
    """Return the date since which this budget's days are checked for unusual spend. An edit of its amount does not change the date."""
    present = series_version(versions[-1].budget, currency)
    return min(v.since for v in versions if series_version(v.budget, currency) == present).date()


def _for_corrections(
    versions: Mapping[str, Sequence[Version]], alerts: Mapping[str, Mapping[str, Any]], planned: set[tuple[str, str, str]], now: datetime
) -> Iterator[Job]:
    by_version = {(name, v.version): v.budget for name, found in versions.items() for v in found}
    alerted = dict[tuple[str, str], set[BudgetPeriod]]()
    for value in alerts.values():
        key = value["budget"], value.get("budget_version", "")
        if value["kind"] != "actual" or not value.get("through") or "acknowledged" in value or key not in by_version:
            continue
        period = period_named(value["budget_period"])
        if (*key, period.name) not in planned and now - midnight(period.end) < CORRECTED:
            alerted.setdefault(key, set()).add(period)
    for key, periods in alerted.items():
        yield Job(by_version[key], tuple(sorted(periods)), is_closed=True)


def _first_judged(records: Records, known: Mapping[str, Any] | None, budget: Budget, version: str, now: datetime) -> datetime:
    if known is None:
        key = f"{budget.name}.{version}"
        value = {"budget": budget.name, "version": version, "first_judged_at": now.isoformat(), "rules": rules_of(budget)}
        made = (value, None) if records.create("budgets", key, value) else records.get("budgets", key)
        assert made is not None, "a record that another process just made"
        known = made[0]
    # The edit to this version was reverted earlier and is now made again. The version did not judge the periods that ended meanwhile.
    if "taken_back_at" in known:
        known = _change(records, known, {"taken_back_at": None, "first_judged_at": now.isoformat()})
    return _since(known)


def _change(records: Records, value: Mapping[str, Any], more: Mapping[str, str | None]) -> Mapping[str, Any]:
    """Change times in the record of a version and return the record. The value None removes a time.

    The result of a concurrent call is not overwritten, because it is the same.
    """
    key = f"{value['budget']}.{value['version']}"
    changed = {k: v for k, v in {**value, **more}.items() if v is not None}
    if (found := records.get("budgets", key)) is not None:
        records.replace("budgets", key, changed, found[1])
    return changed


def _since(value: Mapping[str, Any]) -> datetime:
    return datetime.fromisoformat(value["first_judged_at"])


def _as_it_was(budget: Budget, value: Mapping[str, Any], currency: str) -> Budget | None:
    """Return the budget with the rules of an earlier version. None if they are not recorded, or if their hash is no longer that version."""
    if not value.get("rules"):
        return None
    old = with_rules(budget, value["rules"])
    return old if budget_version(old, currency) == value["version"] else None
