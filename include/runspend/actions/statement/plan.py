"""Read a month's bill and its state, and return the figures of all statements of the month.

All queries use one reader, so they read the same state of the warehouse. Numbers and versions are in `numbering.py`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Any

from runspend.actions.statement.lines import Line, Sums, Team, distribute, sums_of
from runspend.config.settings import Settings
from runspend.config.statements import StatementSettings
from runspend.core.amounts import add
from runspend.core.errors import RunspendError
from runspend.core.text import without_person
from runspend.schema.rows import first_day
from runspend.warehouse.base import Reader
from runspend.warehouse.sql_files import read_every_sql

SPREADABLE = ("idle", "shared", "unallocated")


@dataclass(frozen=True)
class Bill:
    """One bill of the month. `version_number` is None if no version is current."""

    source: str
    state: str
    version_number: int | None
    ignored_changes: str | None


@dataclass(frozen=True)
class Month:
    """All statements of a month, with their inputs.

    `inputs` maps the inputs of the cost tables to their digests. `missing` are the configured sources without a bill for this month that have
    one for an earlier month.
    """

    period: str
    policy: StatementSettings
    hides_people: bool
    bills: tuple[Bill, ...]
    inputs: Mapping[str, str | None]
    statements: Mapping[Team, tuple[Line, ...]]
    missing: tuple[str, ...] = ()

    @property
    def is_issuable(self) -> bool:
        """Whether statements of the month can get a number: all bills exist and have the state that `statements.issue_when` requires."""
        return bool(self.bills) and not self.open_bills

    @property
    def open_bills(self) -> list[str]:
        """The bills that prevent statements from getting a number, each as text with its state."""
        enough = ("closed",) if self.policy.issue_when == "closed" else ("final", "closed")
        return [
            *(f"{bill.source} is {bill.state}" for bill in self.bills if bill.state not in enough),
            *(f"{source} has no bill" for source in self.missing),
        ]

    @cached_property
    def whole(self) -> dict[str, Sums]:
        """The whole bill by currency: the sums of all statements."""
        every = [line for lines in self.statements.values() for line in lines]
        return {code: sums_of(line for line in every if line.currency == code) for code in sorted({line.currency for line in every})}


def plan_month(reader: Reader, settings: Settings, period: str, teams: Collection[str] = ()) -> Month:
    """Return the statements of a billing period. `teams` get a statement even if they no longer have a cost.

    Raises RunspendError if the statements do not add up to the bill.
    """
    sql, first = read_every_sql(Path(__file__).parent / "sql"), first_day(period)
    rows = reader.query(sql["costs"], {"first": first}).to_pylist()
    bills = tuple(
        Bill(row["source"], row["state"], row["version_number"], row["ignored_changes"])
        for row in reader.query(sql["bills"], {"first": first}).to_pylist()
    )
    billed_before = {row["source"] for row in reader.query(sql["billed_before"], {"first": first}).to_pylist()}
    inputs = reader.query(sql["inputs"], {"first": first}).to_pylist()
    policy, hides = settings.statements, settings.mail.people != "show"
    shown = [{**row, "experiment_name": without_person(row["experiment_name"])} for row in rows] if hides else rows
    spread = [part for part in SPREADABLE if getattr(policy, part) == "spread"]
    statements = distribute(shown, policy.measure, spread, teams)
    missing = tuple(sorted(billed_before & {source.name for source in settings.billing} - {bill.source for bill in bills}))
    month = Month(period, policy, hides, bills, json.loads(inputs[0]["inputs"]) if inputs else {}, statements, missing)
    _check(rows, month)
    return month


def _check(rows: list[dict[str, Any]], month: Month) -> None:
    """Raise RunspendError if the statements do not add up to the bill."""
    whole: dict[str, list[Decimal | None]] = {}
    for row in rows:
        whole.setdefault(row["billing_currency"], []).append(row[month.policy.measure])
    billed, stated = {code: add(costs) for code, costs in whole.items()}, month.whole
    for code, cost in billed.items():
        if stated[code].cost != cost if code in stated else cost:
            raise RunspendError(f"cannot make statements of {month.period}: they do not add up to the bill in {code}. Nothing was written.")
