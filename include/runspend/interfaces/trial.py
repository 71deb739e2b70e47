"""Run `runspend try`: a trial with one server and one bill in a separate folder. Proposed pools are accepted only in that folder.

The folder has a `runspend.yaml` that works with all other commands. Each trial empties the folder first, and is refused if a person has
changed that file.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from runspend import pipeline
from runspend.actions.report import ReportFigures, write_report
from runspend.allocation.suggest import Proposals, add_pools, as_records, header_lines, propose_pools
from runspend.config.settings import Settings, load_settings, trial_settings
from runspend.config.trial_folder import FILE, MARKER, mark, was_changed
from runspend.core.amounts import add, less, money, percent, places_for, plain
from runspend.core.errors import UsageError
from runspend.core.own_files import write_whole
from runspend.core.redaction import redact_uri
from runspend.core.step_result import Progress, silent
from runspend.interfaces.preview import Money, Outlook, foresee, read_outlook
from runspend.warehouse.factory import open_warehouse

# Variables that replace addresses with a password in runspend.yaml, so that the file contains no secrets.
TRACKING_VARIABLE, BILL_VARIABLE = "MLFLOW_TRACKING_URI", "RUNSPEND_BILL_URI"
UNGIVEN = ("unallocated", "shared", "out of scope")  # cost that no rule allocated to runs or their machines


@dataclass(frozen=True)
class Trial:
    """A trial in progress: its settings, the result without pools, and the proposed pools."""

    settings: Settings
    before: Outlook
    found: Proposals
    notes: tuple[str, ...] = ()  # notes of the first read of both sources: the next pipeline run finds them unchanged
    variables: tuple[str, ...] = ()  # environment variables that replace addresses with a password

    def outlook(self, problems: Sequence[str], *, now: datetime) -> Outlook:
        """Return the preview with the pools. Leaves out `problems`, which were printed already."""
        is_allocated = bool(open_warehouse(self.settings).states("cost_allocations"))
        after = foresee(self.settings, now=now) if is_allocated else self.before
        return replace(after, problems=tuple(problem for problem in after.problems if problem not in problems))

    def words(self, after: Outlook) -> str:
        """Return sentences about the effect of the proposed pools, or about why there are none. Empty if no bill could be allocated."""
        if self.before.period is None:
            return ""
        if not self.found.proposals:
            return f"no pools proposed: {self.reason}\n"
        lines = [line for one in self.results(after) for line in one.lines(len(self.found.proposals))]
        path = self.settings.path
        where = f"the pools and the evidence for each are in {path}. Review them there, then run: runspend nightly --config {shlex.quote(str(path))}"
        return (
            "\n".join([*lines, f"  {where}"])
            + "\n"
            + "".join(f"  set {name} first: the file contains no passwords\n" for name in self.variables)
        )

    def as_record(self, after: Outlook) -> dict[str, Any]:
        """Return the effect of the proposed pools as a JSON object. Costs are exact decimals."""
        return {
            "config": str(self.settings.path),
            "billing_period": after.period,
            "results": [one.as_record() for one in self.results(after)],
            "pools": as_records(self.found),
            "no_pools_because": None if self.found.proposals else self.reason,
            "variables": list(self.variables),
        }

    def add_to_page(self, figures: ReportFigures | None, after: Outlook) -> None:
        """Write the report of the month again, with the effect of the proposed pools in its text about allocation."""
        pools = len(self.found.proposals)
        words = {one.currency: line[:1].upper() + line[1:] for one in self.results(after) for line in one.lines(pools)[:1]} if pools else {}
        if figures is not None and words:
            write_report(replace(figures, trial_results=words), self.settings.home / "reports")

    def results(self, after: Outlook) -> list[Result]:
        """Return the effect of the pools in each currency."""
        return [_result(one, self._of(one.currency)) for one in after.moneys]

    @property
    def reason(self) -> str:
        """Return why no pools are proposed."""
        if self.before.period is None:
            return "no bill could be allocated."
        return self.found.reason

    def _of(self, currency: str) -> Money | None:
        return next((one for one in self.before.moneys if one.currency == currency), None)


@dataclass(frozen=True)
class Result:
    """The cost allocated to runs without and with the proposed pools, in one currency.

    Each share is of the ML platform's cost in the same state, because pools can bring cost into scope.
    """

    currency: str
    cost_today: Decimal
    cost_with_pools: Decimal
    idle_cost: Decimal
    platform_cost_today: Decimal
    platform_cost: Decimal
    bill_cost: Decimal

    @property
    def is_judged(self) -> bool:
        """Return whether the ML platform has cost. Without cost, there are no shares."""
        return self.platform_cost > 0

    def lines(self, pools: int) -> list[str]:
        """Return two lines about the effect of the pools, or none if the ML platform has no cost.

        Example: "allocated to runs: 0.0% today, 71.0% with the 3 proposed pools". The percentages are of the ML platform's cost.
        """
        if not self.is_judged:
            return []
        places = places_for(self.bill_cost)
        named = "the proposed pool" if pools == 1 else f"the {pools} proposed pools"
        today = f"{_percent(self.cost_today, self.platform_cost_today)} today" if self.platform_cost_today > 0 else "nothing in scope today"
        shares = f"{today}, {_percent(self.cost_with_pools, self.platform_cost)} with {named} (medium confidence)"
        added = less(self.platform_cost, [self.platform_cost_today])
        grown = f"; {'it brings' if pools == 1 else 'they bring'} {money(added, places)} {self.currency} into scope" if added > 0 else ""
        whole = f"the ML platform's {money(self.platform_cost, places)} {self.currency}"
        before = f" (today {money(self.cost_today, places)} of {money(self.platform_cost_today, places)})" if added else ""
        part = (
            f". Runs get {_percent(self.cost_with_pools, self.bill_cost)} of the whole bill of {money(self.bill_cost, places)}"
            if self.bill_cost > 0
            else ""
        )
        return [
            f"allocated to runs: {shares}{grown}",
            f"  {money(self.cost_with_pools, places)} of {whole} is allocated to runs{before}, and {money(self.idle_cost, places)} is idle cost of their machines{part}",
        ]

    def as_record(self) -> dict[str, Any]:
        """Return the shares as numbers from 0 to 1 (None if the ML platform has no cost), and the exact costs behind them."""
        return {
            "currency": self.currency,
            "allocated_share_today": _share(self.cost_today, self.platform_cost_today),
            "allocated_share_with_pools": _share(self.cost_with_pools, self.platform_cost),
            "allocated_cost_today": plain(self.cost_today),
            "allocated_cost_with_pools": plain(self.cost_with_pools),
            "idle_cost_with_pools": plain(self.idle_cost),
            "platform_cost_today": plain(self.platform_cost_today),
            "platform_cost": plain(self.platform_cost),
            "bill_cost": plain(self.bill_cost),
        }


def _percent(cost: Decimal, whole: Decimal) -> str:
    return percent(cost * 100 / whole)


def _share(cost: Decimal, whole: Decimal) -> float | None:
    return round(float(cost / whole), 6) if whole > 0 else None


def begin(tracking: str, bill: str, folder: Path, *, now: datetime, progress: Progress = silent) -> Trial:
    """Empty the folder, read both sources, and write the proposed pools to its runspend.yaml. Raises ConfigError or UsageError."""
    made = trial_settings(tracking, bill, folder)
    _empty(folder)
    secrets = {TRACKING_VARIABLE: tracking, BILL_VARIABLE: bill}
    env = {**os.environ, **secrets}
    settings = _write(folder, made, "USD", env)
    read = [step(settings, now=now, progress=progress) for step in (pipeline.extract, pipeline.load)]
    pipeline.allocate(settings, now=now, progress=progress)  # the pipeline run that follows reports all errors
    warehouse = open_warehouse(settings)
    before = read_outlook(warehouse, settings, "")
    if len(before.moneys) == 1 and before.moneys[0].currency != settings.currency:
        settings = _write(folder, made, before.moneys[0].currency, env)
    found = propose_pools(warehouse, settings)
    if found.proposals:
        add_pools(folder / FILE, found.proposals, header_lines(found), env)
        settings = load_settings(folder / FILE, env)
    mark(folder)
    notes = tuple(note for outcome in read for note in outcome.notes)
    return Trial(settings, before, found, notes, tuple(name for name, uri in secrets.items() if redact_uri(uri) != uri))


def _result(after: Money, before: Money | None) -> Result:
    return Result(
        after.currency,
        _given(before) if before is not None else Decimal(0),
        _given(after),
        add(r.idle_cost for r in after.rule_costs),
        before.platform if before is not None else Decimal(0),
        after.platform,
        add(r.effective_cost for r in after.rule_costs),
    )


def _given(one: Money) -> Decimal:
    """Return the cost allocated to runs, without idle time."""
    return add(less(r.effective_cost, [r.idle_cost]) for r in one.rule_costs if r.words not in UNGIVEN)


def _write(folder: Path, made: Settings, currency: str, env: Mapping[str, str]) -> Settings:
    """Write the runspend.yaml of a trial, without pools, and return its settings."""
    server, bill = made.tracking[0], made.billing[0]
    uri = _address(server.uri, TRACKING_VARIABLE)
    text = f"""\
# Written by `runspend try`. Paths are relative to this file. Every key: runspend init --full
home: .
currency: {currency}

tracking:
  - name: {server.name}
    uri: {uri}

billing:
  - name: {bill.name}
    uri: {_address(bill.uri or "", BILL_VARIABLE)}
    late_after: 3650d          # a trial accepts an old bill. Remove this line in production

mail:
  backend: none
"""
    write_whole(folder / FILE, text.encode())
    return load_settings(folder / FILE, env)


def _address(uri: str, variable: str) -> str:
    return json.dumps(uri, ensure_ascii=False).replace("${", "$${") if redact_uri(uri) == uri else f"${{{variable}}}"


def _empty(folder: Path) -> None:
    """Empty the folder, because another bill in the same folder is not a newer version of the last one.

    The marker is an empty file until the trial is complete. If the process is killed before that, the folder contains nothing worth
    keeping. Raises UsageError if the folder is a link, contains other files, or has a changed runspend.yaml.
    """
    marker = folder / MARKER
    if folder.is_symlink():
        raise UsageError(
            f"cannot use {folder}: it is a link, and a trial empties its folder first. Give the path of the folder itself. Nothing was changed."
        )
    if folder.exists() and any(folder.iterdir()) and not marker.exists():
        raise UsageError(
            f"cannot use {folder}: it contains files that are not from a trial. Give an empty or new --folder. Nothing was changed."
        )
    if was_changed(folder):
        raise UsageError(
            f"cannot use {folder}: {folder / FILE} was changed since the trial, and a trial empties its folder first. Move the file, or name a new --folder. Nothing was changed."
        )
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    marker.touch()
