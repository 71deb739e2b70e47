"""Identifies versions of a bill, decides whether one may replace the version in place, and computes what it changes.

Belongs here: the rows of `billing_loads` and `bill_changes`, and the rules that refuse a version. Reading and normalizing rows does not
belong here. This module does not open files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import TYPE_CHECKING, Any

from runspend.config.settings import BillSource
from runspend.core.amounts import EXACT, SMALLEST
from runspend.ingest.billing.normalize import NORMALIZE_VERSION, Rules
from runspend.ingest.billing.totals import COSTS, Totals
from runspend.schema.rows import first_day
from runspend.schema.tables import BILL_CHANGES, BILLING_LOADS

if TYPE_CHECKING:
    import pyarrow as pa

ZERO = Decimal(0)


@dataclass(frozen=True)
class FedFile:
    """One file of a version. `state` is read, duplicate (another file has the same bytes) or older (a newer file replaced it).

    A file with the same name and `stamp` is unchanged and is not fetched again. The stamp is None if the object store does not give one
    (`Entry.stamp`). `format` and `label` are those with which the file was read.
    """

    name: str
    bytes: int
    sha256: str
    rows: int
    state: str = "read"
    stamp: str | None = None
    format: str | None = None
    label: str | None = None


@dataclass
class LoadHistory:
    """The rows of `billing_loads` for one period of one bill before this load."""

    source: str
    period: str
    rows: list[dict[str, Any]] = field(default_factory=list)

    @property
    def current(self) -> list[dict[str, Any]]:
        """The rows of the version in place, one per currency. Empty if no version was ever accepted."""
        return [row for row in self.rows if row["state"] == "current"]

    @property
    def version(self) -> str | None:
        return next((row["version"] for row in self.current), None)

    @property
    def files(self) -> list[FedFile]:
        """The files of the version in place."""
        return [FedFile(**item) for item in json.loads(next((row["files"] for row in self.current), None) or "[]")]

    @property
    def refused_digests(self) -> set[str]:
        """The SHA-256 digests of all files of refused versions."""
        return {item["sha256"] for row in self.rows if row["state"] == "refused" for item in json.loads(row["files"] or "[]")}

    @property
    def next_number(self) -> int:
        return max((row["version_number"] for row in self.rows), default=0) + 1


def read_history(source: str, period: str, loads: pa.Table | None) -> LoadHistory:
    """Return the history of a period from its `billing_loads` rows, or an empty one."""
    return LoadHistory(source, period, [] if loads is None else loads.to_pylist())


def settings_key(format_name: str, rules: Rules, source: BillSource) -> str:
    """Return everything but the files that decides the rows, as JSON. It is part of the version, so changed settings change the version."""
    own = source.model_dump(mode="json", include={"only", "currency", "prices", "slurm"}, exclude_none=True)
    return json.dumps([NORMALIZE_VERSION, format_name, rules.fingerprint(), *([own] if own else [])], sort_keys=True)


def version_of(digests: Iterable[str], settings: str) -> str:
    """Return the version of a set of files, computed from their digests and the settings.

    The names and the order of the files do not matter. Two parts with the same bytes count twice.
    """
    return hashlib.sha256("\n".join([*sorted(digests), settings]).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def refusal(
    source: BillSource, history: LoadHistory, delivered_at: datetime, totals: Sequence[Totals], accept: Collection[str]
) -> str | None:
    """Return why a version must not replace the one in place, or None if it may.

    `accept` contains "SOURCE:YYYY-MM" for each refusal that an operator has accepted.
    """
    key = f"{source.name}:{history.period}"
    if not history.current or key in accept:
        return None
    way_out = f"Run: runspend load --accept {key}"
    in_place = max(row["delivered_at"] for row in history.current)
    if delivered_at < in_place:
        return (
            f"it was delivered at {delivered_at:%Y-%m-%d %H:%M:%S} UTC, before the version in place ({in_place:%Y-%m-%d %H:%M:%S} UTC). "
            f"If the older version is the right one, {way_out[0].lower()}{way_out[1:]}"
        )
    new = {t.currency: t.costs[COSTS.index("billed_cost")] for t in totals}
    for row in history.current:
        currency, old = row["billing_currency"], row["billed_cost"]
        fell_to = new.get(currency, ZERO)
        if old > 0 and fell_to < old * (1 - Decimal(str(source.max_drop))):
            return (
                f"its billed total fell from {plain(old)} to {plain(fell_to)} {currency}, by more than max_drop ({source.max_drop:.0%}). "
                f"If that is right, {way_out[0].lower()}{way_out[1:]}"
            )
    return None


@dataclass(frozen=True)
class VersionFacts:
    """One version as `billing_loads` records it."""

    version: str
    delivered_at: datetime
    now: datetime
    load_id: str
    files: Sequence[FedFile] = ()
    totals: Sequence[Totals] = ()
    quarantined: int = 0
    focus_version: str | None = None


def add_version(history: LoadHistory, facts: VersionFacts, reason: str | None) -> list[dict[str, Any]]:
    """Return the rows of the history plus those of this version: refused if there is a `reason`, otherwise current.

    A current version changes the state of the previous one to replaced.
    """
    # A version that comes back after another one gets new rows, so that `--as-of` finds the version of any time.
    kept = [row for row in history.rows if row["version"] != facts.version or row["state"] != "refused"]
    if reason is None:
        kept = [{**row, "state": "replaced"} if row["state"] == "current" else row for row in kept]
    empty = Totals("", 0, (ZERO, ZERO, ZERO, ZERO), 0, 0, 0, None, False, ZERO)
    totals = facts.totals or [empty]
    new = [
        {
            "source": history.source,
            "billing_period": first_day(history.period),
            "version": facts.version,
            "billing_currency": t.currency,
            "version_number": history.next_number,
            "state": "current" if reason is None else "refused",
            "reason": reason,
            "delivered_at": facts.delivered_at,
            "files": files_json(facts.files),
            "row_count": t.row_count,
            # Quarantined rows may have no readable currency, so all of them are counted with the first currency.
            "quarantined_count": facts.quarantined if t is totals[0] else 0,
            **dict(zip(COSTS, t.costs, strict=True)),
            "null_list_count": t.null_list_count,
            "null_contracted_count": t.null_contracted_count,
            "null_effective_count": t.null_effective_count,
            "rounded_cost": t.rounded_cost.quantize(SMALLEST, ROUND_HALF_UP, context=EXACT),
            "focus_version": facts.focus_version,
            "covered_until": t.covered_until,
            "is_invoiced": t.is_invoiced,
            "loaded_at": facts.now,
            "load_id": facts.load_id,
        }
        for t in totals
    ]
    return kept + new


def files_json(files: Sequence[FedFile]) -> str:
    """Return the value of `billing_loads.files`."""
    return json.dumps([{key: value for key, value in vars(f).items() if value is not None} for f in files])


def is_recorded(history: LoadHistory, version: str, reason: str) -> bool:
    """Return whether the history already has this refusal. Then it is not written again."""
    return any(row["version"] == version and row["state"] == "refused" and row["reason"] == reason for row in history.rows)


DaySums = Mapping[tuple[Any, str, str, str], tuple[Decimal, ...]]


def add_changes(
    source: str, period: str, before: pa.Table | None, sums: DaySums, version: str, number: int, load_id: str
) -> list[dict[str, Any]]:
    """Return the rows of `bill_changes` plus the changes of this version. For the first version, the changes are all of its costs.

    So all rows of a period add up to the bill in place. The rows of the versions before a version add up to the bill before it.
    """
    rows = [] if before is None else before.to_pylist()
    in_place: dict[tuple[Any, str, str, str], list[Decimal]] = {}
    for row in rows:
        key = (row["charge_date"], row["service_name"], row["sub_account_id"], row["billing_currency"])
        in_place[key] = [EXACT.add(a, row[c]) for a, c in zip(in_place.get(key, [ZERO] * 4), COSTS, strict=True)]
    for key in sorted({*in_place, *sums}, key=str):
        new, old = sums.get(key, (ZERO,) * 4), in_place.get(key, [ZERO] * 4)
        change = [EXACT.subtract(a, b) for a, b in zip(new, old, strict=True)]
        if not any(change):
            continue
        rows.append(
            {
                "source": source,
                "billing_period": first_day(period),
                "version": version,
                "version_number": number,
                "charge_date": key[0],
                "service_name": key[1],
                "sub_account_id": key[2],
                "billing_currency": key[3],
                **dict(zip(COSTS, change, strict=True)),
                "load_id": load_id,
            }
        )
    return rows


def plain(amount: Decimal) -> str:
    """Format a decimal with at least two decimal places, without an exponent and without further trailing zeros."""
    text = f"{amount:f}"
    whole, _, places = text.partition(".")
    return f"{whole}.{places.rstrip('0').ljust(2, '0')}"


def loads_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Return rows of `billing_loads` as an Arrow table."""
    return _table(BILLING_LOADS.arrow_schema(), rows)


def changes_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Return rows of `bill_changes` as an Arrow table."""
    return _table(BILL_CHANGES.arrow_schema(), rows)


def _table(schema: pa.Schema, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    import pyarrow as pa

    return pa.Table.from_pylist([dict(r) for r in rows], schema=schema)
