"""Explain where a run's files are, and why: what protects them, which policies select them, and where they were archived.

This uses the query `plan.sql`, limited to one run and without the conditions of a policy.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from runspend.actions.archive.archive_records import NOT_TAGGED, TAGGED, Archive
from runspend.actions.archive.enclosing import find_enclosing
from runspend.actions.archive.holds import keep_of
from runspend.actions.archive.plan import item_of, policy_rows, read_candidates, read_odd_folders, split_reasons
from runspend.actions.archive.selection import Selection, parse_select
from runspend.actions.archive.states import History, judge, read_history
from runspend.config.settings import RetentionPolicy, Settings
from runspend.core.errors import UsageError
from runspend.warehouse.base import Reader
from runspend.warehouse.records import Records

EVERYTHING = Selection(("run", "model", "trace", "orphan"), {}, {}, None, None, None, None)


@dataclass(frozen=True)
class Why:
    """What is known about the files of one run."""

    run_id: str
    run_name: str | None
    lines: list[tuple[str, str]]  # (label, sentence); labels are for example kept, archived, policy, free and unknown


def explain_why(reader: Reader, records: Records, settings: Settings, run: str, now: datetime) -> Why:
    """Return everything that is known about the files of one run. `run` is its id, or a prefix of at least six characters.

    Raises UsageError if no run or several runs match.
    """
    run_id, name = _find_run(reader, run)
    history = read_history(reader, records, settings, now)
    lines = [
        line
        for archive in history.archives.values()
        if archive.item.run_id == run_id
        for line in (*_archived(archive), *_tagged(archive, records))
    ]
    facts = _facts(reader, settings, run_id, now)
    kept = [("kept", f"{_whose(row, run_id)}{reason}") for row in facts for reason in split_reasons(row["reasons"])]
    objections = [keep.sentence for row in facts if (keep := keep_of(history.keeps, row)) is not None]
    kept += [("kept", sentence) for sentence in dict.fromkeys(objections)]
    lines += kept
    lines += [("because", one.sentence) for one in find_enclosing(reader, [row["reasons"] for row in facts])]
    policies = [line for policy in settings.retention for line in _policy_lines(reader, settings, policy, run_id, history, now)]
    lines += policies
    if not facts:
        lines.append(("unknown", "no store in `stores` has artifacts of this run. The run has none, or they were not measured"))
    elif not kept and not policies:
        lines.append(("free", "nothing protects it, and no policy selects it: it stays where it is"))
    return Why(run_id, name, lines)


def _find_run(reader: Reader, run: str) -> tuple[str, str | None]:
    rows = reader.query(
        "select distinct run_id, run_name from runs where run_id = @run or (length(@run) >= 6 and starts_with(run_id, @run)) order by run_id limit 6",
        {"run": run},
    ).to_pylist()
    exact = [row for row in rows if row["run_id"] == run] or rows
    if len(exact) != 1:
        why = f"it may be {', '.join(row['run_id'] for row in exact)}" if exact else "no run that Runspend has read has this id"
        raise UsageError(f"cannot explain run {run!r}: {why}. Give one full run id.")
    return exact[0]["run_id"], exact[0]["run_name"]


def _facts(reader: Reader, settings: Settings, run_id: str, now: datetime) -> list[dict[str, Any]]:
    """Return one row for each folder of the run and its models, with everything that protects it, independent of policies."""
    anything = RetentionPolicy.model_construct(name="", select={}, keep=None, action="archive", to="", grace=timedelta(days=30))
    rows = read_candidates(reader, anything, EVERYTHING, settings, now, read_odd_folders(reader, settings), run_id)
    return list({(row["store"], row["prefix"], row["owner_kind"], row["owner_id"]): row for row in rows}.values())


def _policy_lines(
    reader: Reader, settings: Settings, policy: RetentionPolicy, run_id: str, history: History, now: datetime
) -> list[tuple[str, str]]:
    selected = [
        (row["state"], judge(row, history, now)) for row in policy_rows(reader, settings, policy, parse_select(policy), now, run_id=run_id)
    ]
    found = [
        row for planned, row in selected if "protected" not in (planned, row["state"]) or planned != row["state"]
    ]  # `_facts` lists the protections of the plan already
    return [("policy", f"{policy.name} ({policy.action}) selects {item_of(row).name}: {row['state']}, {row['reason']}") for row in found]


def _archived(archive: Archive) -> list[tuple[str, str]]:
    item = archive.item
    if archive.restored_at is not None:
        return [("restored", f"{item.name}: restored on {archive.restored_at[:10]}. Its archive is kept: {archive.to}, {archive.folder}")]
    if archive.state == "archived" and item.action == "archive":
        return [
            (
                "archived",
                f"{item.name}: on {(archive.ended_at or archive.planned_at)[:10]} to {archive.to}, {archive.folder}. To restore it: runspend archive restore {item.run_id}",
            )
        ]
    return [
        (
            archive.state,
            f"{item.name}: {item.action} started on {archive.planned_at[:10]}" + (f", {archive.reason}" if archive.reason else ""),
        )
    ]


def _tagged(archive: Archive, records: Records) -> list[tuple[str, str]]:
    """Return the reason why MLflow does not have the archive's tag, if that is so. `runspend archive apply` reports it only once."""
    found = None if records.get(TAGGED, archive.tagged_key) else records.get(NOT_TAGGED, archive.tagged_key)
    return [] if found is None else [("not in MLflow", f"{found[0]['reason']}; each `runspend archive apply` tries again")]


def _whose(row: dict[str, Any], run_id: str) -> str:
    return "" if row["owner_id"] == run_id else f"{row['owner_kind'].replace('_', ' ')} {row['owner_id']}: "
