"""Builds a unit of the cost tables if its inputs have changed, and publishes it with its row in `builds`.

Also finds report pages that are older than the current builds. `pipeline/allocate.py` uses this module. The content of a build and
its inputs do not belong here.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from copy import copy
from dataclasses import astuple, dataclass, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from runspend.allocation.inputs import FINAL_BILLS, digest, json_text, parse_unit, read_builds
from runspend.config.exchange_rates import stretches
from runspend.config.settings import Settings
from runspend.core.errors import CheckFailed
from runspend.core.own_files import read_bytes, write_whole
from runspend.core.step_result import Outcome, Progress
from runspend.schema.rows import arrow_rows, first_day, month_after
from runspend.warehouse.base import Reader, Step, Unit, Warehouse

log = logging.getLogger(__name__)


# Pages show costs by charge date, which may be in a different month than the billing period.
CHARGED_MONTHS = "select distinct cast(date_trunc(charge_date, month) as date) as month, billing_period, billing_currency from cost_daily"


def report_versions(
    warehouse: Warehouse, reader: Reader, settings: Settings, folder: Path, periods: Sequence[str] | None
) -> dict[str, str]:
    """Return the version of the report page for each billing period whose page must be written.

    Without `periods`, these are the newest period and all periods whose stored page has a different version. A version changes if a bill
    with charges in the month or the month before is built again, or if exchange rates of these months change.
    """
    built = {unit.period: state.build_id for unit, state in warehouse.states("cost_daily").items()}
    charged = reader.query(CHARGED_MONTHS).to_pylist()
    rates = stretches(settings.rates.exchange, settings.currency)
    versions = {}
    for period in sorted(built):
        before, after = month_after(first_day(period), -1), month_after(first_day(period), 1)
        rows = [row for row in charged if before <= row["month"] < after]
        bills = {period, *(f"{row['billing_period']:%Y-%m}" for row in rows)}
        foreign = {row["billing_currency"] for row in rows} - {settings.currency}
        used = [
            replace(rate, first=max(rate.first, before), end=min(rate.end, after))
            for rate in rates
            if rate.currency in foreign and rate.first < after and rate.end > before
        ]
        versions[period] = digest([settings.currency, [built[bill] for bill in sorted(bills & built.keys())], list(map(astuple, used))])
    if periods:
        return {period: versions[period] for period in periods if period in versions}
    written = {path.name: read_bytes(path, most_bytes=10_000) for path in (folder / ".builds").glob("????-??")}
    return {period: version for period, version in versions.items() if written.get(period) != version.encode() or period == max(versions)}


def note_report(folder: Path, period: str, version: str) -> None:
    """Record which version of the page was written."""
    (folder / ".builds").mkdir(exist_ok=True)
    write_whole(folder / ".builds" / period, version.encode())


@dataclass
class Builder:
    """One kind of build ("allocate", "summarize" or "estimate") over its periods."""

    warehouse: Warehouse
    outcome: Outcome
    kind: str
    now: datetime
    progress: Progress
    tell: Callable[[str, str], None]  # called with the build that failed a check ("allocate/2026-10") and the error text

    def beside(self, kind: str) -> Builder:
        """Return a builder of another kind. It shares the builds that were already read from the warehouse."""
        other = copy(self)
        other.kind = kind
        return other

    @cached_property
    def built(self) -> dict[tuple[str, str], dict[str, Any]]:
        """Return the current builds in the warehouse. They are read once."""
        return read_builds(self.warehouse)

    def build(
        self, period: str, inputs: Mapping[str, str | None], fill: Callable[[Step], Sequence[str | Unit]], *, forced: bool = False
    ) -> None:
        """Build the tables of one period if its inputs have changed, or if `forced`.

        `fill` returns the units that it filled. A table name means its unit for the period, with writer "all". If a check fails, the old
        tables stay, and operators are notified.
        """
        label = f"{self.kind} {period}"
        build_id = digest(inputs)
        before = self.built.get((self.kind, period))
        if before is not None and before["build_id"] == build_id and not forced:
            self.outcome.unchanged.append(label)
            return
        self.progress(f"{label}: building")
        start = time.monotonic()
        try:
            with self.warehouse.step(self.kind, build_id) as step:
                units = [table if isinstance(table, Unit) else Unit(table, period, "all") for table in fill(step)]
                outputs = {unit.table: step.state(unit).digest for unit in units}
                self._note(step, period, build_id, inputs, outputs)
                is_published = step.publish({parse_unit(name): value for name, value in inputs.items() if "/" in name})
        except CheckFailed as error:
            self.outcome.fail(error)
            self.tell(f"{self.kind}/{period}", str(error))
            return
        if is_published:
            self.outcome.changed.append(label)
            log.info("%s: built and checked %s in %.1f s", label, ", ".join(outputs), time.monotonic() - start)
        else:
            note = f"{label}: superseded; a newer input arrived while it was built. The next allocate builds it."
            self.outcome.notes.append(note)
            self.outcome.superseded.append(note)

    def ignored_changes(self, period: str, inputs: Mapping[str, str | None], is_decisive: Callable[[str], bool]) -> str | None:
        """Describe how the inputs differ from those of the current build. None if the period may be built, or has nothing to build.

        The period may be built if any difference is decisive. An empty text means that the differences do not concern the period.
        """
        before = self.built.get((self.kind, period))
        if before is None or before["build_id"] == digest(inputs):
            return None
        names = {name for name in {*before["inputs"], *inputs} if before["inputs"].get(name) != inputs.get(name)}
        # If nothing else changed, the build changes no figure. It only marks bills as final, so it is allowed.
        return None if names == {FINAL_BILLS} or any(map(is_decisive, names)) else describe_inputs(names)

    def _note(self, step: Step, period: str, build_id: str, inputs: Mapping[str, str | None], outputs: Mapping[str, str]) -> None:
        row = {
            "step": self.kind,
            "month": first_day(period),
            "build_id": build_id,
            "inputs": json_text(inputs),
            "outputs": json_text(outputs),
            "now": self.now,
            "built_at": self.now,
        }
        step.put("builds", period, self.kind, arrow_rows("builds", [row]))


# Inputs of a build, by name or table -> their description for users.
WORDS = {
    "models": "the models (another version of Runspend)",
    "settings": "the configuration",
    "billing_lines": "how its lines are read (configuration)",
    "artifact_bytes": "artifact bytes",
    "trace_costs": "costs of traces",
    FINAL_BILLS: "which bills are final",
}


def describe_inputs(names: Collection[str]) -> str:
    """Return a description of inputs for users: "runs of prod, the configuration".

    Inputs for all months are left out, because they do not concern one month.
    """
    units = [unit for name in names if "/" in name and (unit := parse_unit(name)).period != "all"]
    words = {WORDS.get(name, name) for name in names if "/" not in name}
    words |= {WORDS.get(unit.table, f"runs of {unit.writer}") for unit in units}
    return ", ".join(sorted(words))
