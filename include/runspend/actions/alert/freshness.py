"""Find stale data from small records under home. The check works even if the warehouse or a pipeline step has failed.

Belongs here: the record that each step writes when it ends, and the check of these records. There is one record per source, and one per
pipeline step without a source. `operators.py` writes the mail about stale data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from runspend.actions.alert.render import Facts
from runspend.config.settings import Settings
from runspend.core.text import clean, short_place
from runspend.warehouse.records import Records

KIND = "reads"
HOUR = timedelta(hours=1)


@dataclass(frozen=True)
class Stale:
    """A stale source or step: a sentence about it, the same as a short phrase, and its figures as (name, value, note)."""

    name: str
    text: str
    phrase: str
    figures: tuple[tuple[str, str, str], ...]


def note_done(
    records: Records,
    name: str,
    kind: str,
    now: datetime,
    *,
    was_done: bool,
    is_good: bool,
    covered_until: datetime | None = None,
    late_after: timedelta | None = None,
) -> None:
    """Record an attempt to read a source, or the end of a pipeline step. A failed attempt keeps the times of the last success.

    `was_done`: the read or step was completed. `is_good`: there was no problem to report. A completed read can have a problem, for example if
    a part of the data was refused.
    """
    while True:
        found = records.get(KIND, name)
        before = found[0] if found else {}
        value = {**before, "kind": kind, "last_tried_at": now.isoformat(), "is_good": is_good}
        if late_after is not None:
            value["late_after_seconds"] = late_after.total_seconds()
        if was_done:
            value["last_good_at"] = max(now, _time(before, "last_good_at") or now).isoformat()
            value["covered_until"] = covered_until.isoformat() if covered_until else None
        if records.replace(KIND, name, value, found[1]) if found else records.create(KIND, name, value):
            return


def judge_freshness(settings: Settings, records: Records, now: datetime) -> list[Stale]:
    """Return each source and step without a success for at least `mail.silent_after`, and each source further behind than its `late_after`.

    For a configured source that was never read, the time counts from the first check by this function.
    """
    limit = settings.mail.silent_after
    for name, kind in _configured(settings).items():
        records.create(KIND, name, {"kind": kind, "first_missed_at": now.isoformat()})
    stale = []
    for name, value in _current(settings, records).items():
        shown = short_place(name)
        last, tried = _time(value, "last_good_at"), _time(value, "last_tried_at")
        if tried is not None and tried != last and now - tried < limit:
            continue  # the recent attempts failed, which the step itself reports in every pipeline run
        since = last or _time(value, "first_missed_at") or _time(value, "last_tried_at")
        reaches, late_after = _time(value, "covered_until"), timedelta(seconds=value.get("late_after_seconds", 0))
        if since is not None and now - since >= limit:
            never = f"last time {last.day} {last:%b %H:%M} UTC" if last else "never so far"
            figures = (
                ("late by", f"{_hours(now - since)} h", f"limit {_hours(limit)} h"),
                ("last time", f"{last.day} {last:%b %H:%M}" if last else "never", "UTC" if last else ""),
            )
            phrase = f"{shown} not {_verb(value)} for {_hours(now - since)} h"
            stale.append(
                Stale(
                    name, f"{shown} was not {_verb(value)} for {_hours(now - since)} h (limit {_hours(limit)} h, {never}).", phrase, figures
                )
            )
        elif reaches is not None and late_after and now - reaches > late_after:
            until = f"Costs are complete to {reaches.day} {reaches:%b %H:%M} UTC."
            figures = (
                ("behind", f"{_hours(now - reaches)} h", f"limit {_hours(late_after)} h"),
                ("complete to", f"{reaches.day} {reaches:%b %H:%M}", "UTC"),
            )
            text = f"{shown} has no data for {_hours(now - reaches)} h (limit {_hours(late_after)} h). {until}"
            stale.append(Stale(name, text, f"{shown} without data for {_hours(now - reaches)} h", figures))
    return stale


def last_good_pipeline_run(settings: Settings, records: Records) -> str | None:
    """Return the time (ISO) of the last build of the cost tables, as an id of that pipeline run. None if any record reports a problem.

    It does not check for stale data: see `judge_freshness`.
    """
    found = _current(settings, records)
    newest = found.get("cost tables")
    if newest is None or not all(value.get("is_good", False) for value in found.values()):
        return None
    return str(newest["last_good_at"])


def all_good_since(settings: Settings, records: Records) -> datetime | None:
    """Return the time since which every source and step has succeeded: the oldest of their last successes.

    Returns None if one of them never succeeded, or if the cost tables were never built.
    """
    found = _current(settings, records)
    ends = [_time(value, "last_good_at") for value in found.values()]
    known = [end for end in ends if end is not None]
    return min(known) if "cost tables" in found and len(known) == len(ends) else None


def figures_are_this_old(records: Records, now: datetime) -> Facts | None:
    """Return facts for mails: how far each bill reaches, and when the cost tables were built. None before the first pipeline run."""
    facts = []
    for name, value in sorted(records.list(KIND, []).items()):  # records that cannot be trusted are left out and do not prevent the mail
        reaches, good = _time(value, "covered_until"), _time(value, "last_good_at")
        if value["kind"] == "bill" and reaches is not None:
            facts.append(("", f"Bill {clean(name)} is complete to {reaches.day} {reaches:%b %H:%M} UTC, {_hours(now - reaches)} h behind."))
        elif value["kind"] == "bill":
            facts.append(
                (
                    "",
                    f"Bill {clean(name)} has not been read successfully yet."
                    if good is None
                    else f"Bill {clean(name)} has no known end of coverage.",
                )
            )
        elif name == "cost tables" and good is not None:
            facts.append(("", f"The cost tables were last built on {good.day} {good:%b %H:%M} UTC, {_hours(now - good)} h ago."))
    return Facts("DATA FRESHNESS", tuple(facts)) if facts else None


def _configured(settings: Settings) -> dict[str, str]:
    """Return the sources that every pipeline run must read, as a mapping from name to kind."""
    return {source.name: "bill" for source in settings.billing} | {server.name: "tracking" for server in settings.tracking}


def _current(settings: Settings, records: Records) -> dict[str, dict[str, Any]]:
    """Return the records by name, without those of sources that are no longer configured."""
    wanted = {*_configured(settings), *(store.uri for store in settings.stores)}
    return {name: value for name, value in sorted(records.list(KIND).items()) if value["kind"] == "step" or name in wanted}


def _verb(value: Mapping[str, Any]) -> str:
    return {"step": "completed"}.get(value["kind"], "read")


def _time(value: Mapping[str, Any], key: str) -> datetime | None:
    text = value.get(key)
    return datetime.fromisoformat(text) if text else None


def _hours(span: timedelta) -> int:
    return max(0, span // HOUR)
