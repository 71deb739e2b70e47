"""The archive plan: which runs' artifacts retention policies would move, why, and what that saves. Nothing is touched.

`plan` reads and returns rows of `archive_plan`; the deciding is in `plan.py`. The same tables and now give the same rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from runspend.actions.archive.plan import (
    Rates,
    Selection,
    judge_run,
    last_use,
    monthly_saving,
    parse_select,
    rates_of,
    selection_sql,
)
from runspend.config import RetentionPolicy, Settings
from runspend.tables import ARCHIVE_PLAN
from runspend.warehouse import Reader

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["PROTECTION_KEYS", "plan", "plan_notes"]

# Tags that protect. The extract must copy them out of MLflow whenever there are policies, whatever `copy` says.
PROTECTION_KEYS = ("tag.runspend.keep", "tag.stage", "experiment_tag.runspend.keep", "experiment_tag.stage")

# Rows turned into Python values at a time: a policy may select a million runs.
BATCH_ROWS = 20_000


def plan(reader: Reader, settings: Settings, now: datetime) -> pa.Table:
    """Rows of `archive_plan` for the month of `now`, all policies; raises ConfigError for a policy that cannot be read."""
    import pyarrow as pa

    schema = ARCHIVE_PLAN.arrow_schema()
    selections = [(policy, parse_select(policy)) for policy in settings.retention]
    if not selections:
        return schema.empty_table()
    since = (now.date().replace(day=1) - timedelta(days=62)).replace(day=1)
    costs = reader.query(_sql("rates"), {"since": since}).to_pylist()
    stored = reader.query(_sql("stored"), {"since": since, "now": now}).to_pylist()
    rates = rates_of(costs, stored, settings.currency, now)
    batches = []
    for policy, selection in selections:
        announced = _announced(reader, policy, now)
        condition, parameters = selection_sql(selection)
        candidates = reader.query(_sql("plan").replace("{selector}", condition), parameters)
        for batch in candidates.to_batches(max_chunksize=BATCH_ROWS):
            rows = list(_rows(policy, selection, batch.to_pylist(), rates, announced, now))
            batches.append(pa.Table.from_pylist(rows, schema=schema))
    return pa.concat_tables(batches) if batches else schema.empty_table()


def plan_notes(settings: Settings) -> list[str]:
    """What the plan cannot know yet, one sentence each; for the summary."""
    notes = [
        f"retention policy {policy.name}: nothing is planned, not decidable yet: {waits}"
        for policy in settings.retention
        if (waits := parse_select(policy).undecidable)
    ]
    if settings.retention:
        notes.append(
            "archive plan: the model registry is not read yet, so registered models protect nothing in it; nothing was moved or deleted"
        )
    return notes


def _rows(
    policy: RetentionPolicy, selection: Selection, runs: Sequence[Mapping[str, Any]], rates: Rates,
    announced: Mapping[tuple[str, str, str, str], datetime], now: datetime,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    for run in runs:
        verdict = judge_run(selection, run, now)
        if verdict is None:
            continue
        is_planned = verdict.state == "planned"
        used_at = last_use(run)
        saving = monthly_saving(policy, run, rates) if is_planned else None
        key = (run["tracking_server"], run["workspace"], run["run_id"], run["storage_class"])
        earliest_at = min(announced.get(key, now + policy.grace), now + policy.grace)
        yield {
            **{c.name: run[c.name] for c in ARCHIVE_PLAN.columns if c.name in run},
            "month": now.date().replace(day=1),
            "policy": policy.name,
            "action": policy.action,
            "state": verdict.state,
            "reason": verdict.reason,
            "unused_days": None if used_at is None else max(0, (now - used_at) // timedelta(days=1)),
            "monthly_saving": saving,
            "currency": rates.currency if saving is not None else None,
            "earliest_at": earliest_at if is_planned else None,
            "planned_at": now,
        }


def _announced(reader: Reader, policy: RetentionPolicy, now: datetime) -> dict[tuple[str, str, str, str], datetime]:
    """Since when each run has been planned without a break, as the earliest time that was announced for it."""
    until = now.date().replace(day=1)
    rows = reader.query(_sql("before"), {"since": _month_before(until), "until": until, "policy": policy.name}).to_pylist()
    newest = max((row["month"] for row in rows), default=None)
    return {
        (row["tracking_server"], row["workspace"], row["run_id"], row["storage_class"]): row["earliest_at"]
        for row in rows
        if row["month"] == newest and row["state"] == "planned" and row["earliest_at"] is not None
    }


def _month_before(first: date) -> date:
    return (first - timedelta(days=1)).replace(day=1)


def _sql(name: str) -> str:
    return files(__package__).joinpath(f"{name}.sql").read_text(encoding="utf-8")
