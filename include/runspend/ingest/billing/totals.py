"""Counts and sums staged rows: periods, accounts, totals per currency, sums per day, and quarantined rows.

Belongs here: queries of staged rows that return few values. `billing_lines.py` writes the rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any, TypeAlias

from runspend.core.amounts import EXACT
from runspend.ingest.billing.staging import LINE_ID, SecondConnection, Staged

# SQL for the time until which a bill has charges. A line of a whole month (a DNS zone, a license) does not show which days the bill covers,
# because it ends in the future. It counts only if the bill has no shorter lines. A line of a whole day (a bucket) shows only that its day
# has begun. So its start counts if the bill also has lines of less than a day. Otherwise its end counts.
USAGE = "charge_category = 'Usage' and reject_reason is null"
SPAN = "charge_period_end - charge_period_start"
REACH = (
    f"coalesce(case when count(*) filter ({USAGE} and {SPAN} < interval 23 hours) > 0 then "
    f"max(case when {SPAN} < interval 23 hours then charge_period_end else charge_period_start end) filter ({USAGE} and {SPAN} <= interval 25 hours) end, "
    f"max(charge_period_end) filter ({USAGE} and {SPAN} <= interval 25 hours), max(charge_period_end) filter ({USAGE}))"
)
DaySums: TypeAlias = dict[tuple[Any, str, str, str], tuple[Decimal, ...]]
COSTS = ("list_cost", "contracted_cost", "effective_cost", "billed_cost")


def choose(staged: Staged | SecondConnection, period: str, file_indexes: Sequence[int]) -> None:
    """Set the rows that `CHOSEN` selects on this connection: the rows of a period in these files."""
    staged.con.execute(f"set variable period = date '{period}-01'")
    staged.con.execute("create or replace temp table chosen_files as select unnest(?)::integer as file_index", [list(file_indexes)])


CHOSEN = "billing_period = getvariable('period') and file_index in (select file_index from chosen_files)"


@dataclass(frozen=True)
class Totals:
    """The sums of one currency in one period."""

    currency: str
    row_count: int
    costs: tuple[Decimal, Decimal, Decimal, Decimal]  # in the order of COSTS
    null_list_count: int
    null_contracted_count: int
    null_effective_count: int
    covered_until: datetime | None
    is_invoiced: bool
    rounded_cost: Decimal


def read_totals(staged: Staged, period: str, file_indexes: Sequence[int]) -> list[Totals]:
    """Return the totals, per currency, of the rows that `write_lines` writes for the same arguments, as lines or in sums."""
    choose(staged, period, file_indexes)
    sums = ", ".join(f"coalesce(sum({c}), 0)::decimal(38, 22)" for c in COSTS)
    rows = staged.con.execute(
        f"select billing_currency, count(*), {sums}, count(*) - count(list_cost), count(*) - count(contracted_cost), count(*) - count(effective_cost), "
        f"{REACH}, count(invoice_id) = count(*) "
        f"from staged where reject_reason is null and {CHOSEN} group by 1 order by 1"
    ).fetchall()
    rounded = _rounded(staged) if staged.has("long_billed_cost") else {}
    return [Totals(r[0], r[1], (r[2], r[3], r[4], r[5]), r[6], r[7], r[8], r[9], r[10], rounded.get(r[0], Decimal(0))) for r in rows]


def _rounded(staged: Staged) -> dict[str, Decimal]:
    """Return the amount that loading rounded off, per currency: the exact sum of delivered minus loaded BilledCost.

    Only values with more than 22 decimals are rounded.
    """
    sums: dict[str, Decimal] = {}
    for currency, text, loaded, rows in staged.con.execute(
        "select billing_currency, long_billed_cost, billed_cost, count(*) from staged "
        f"where reject_reason is null and long_billed_cost is not null and {CHOSEN} group by all"
    ).fetchall():
        delivered = Decimal(text.strip())
        exponent = delivered.as_tuple().exponent
        if isinstance(exponent, int) and exponent < -22:
            rest = EXACT.multiply(EXACT.subtract(delivered, loaded), Decimal(rows))
            sums[currency] = EXACT.add(sums.get(currency, Decimal(0)), rest)
    return sums


@dataclass(frozen=True)
class FedPeriod:
    """The rows and the cost that one file has for one period, billing account and currency."""

    file_index: int
    period: str
    account: str
    currency: str
    rows: int
    quarantined: int
    billed: Decimal


def read_fed_periods(staged: Staged) -> list[FedPeriod]:
    """Return the number of rows and the billed cost of each file by period, billing account and currency."""
    rows = staged.con.execute(
        "select file_index, strftime(billing_period, '%Y-%m'), coalesce(billing_account_id, ''), coalesce(billing_currency, ''), "
        "count(*) filter (reject_reason is null), count(*) filter (reject_reason is not null), coalesce(sum(billed_cost) filter (reject_reason is null), 0)::decimal(38, 22) "
        "from staged where billing_period is not null group by all order by all"
    ).fetchall()
    return [FedPeriod(*row) for row in rows]


def read_periods(staged: Staged) -> set[str]:
    """Return the billing periods of all rows, such as "2026-10"."""
    import pyarrow.compute as pc

    months = pc.strftime(staged.rows.column("billing_period").unique().drop_null(), format="%Y-%m")
    return set(months.to_pylist())


def read_evidence(staged: Staged) -> dict[str, Any]:
    """Return counts that show how well runs can be found: usage rows, how many of them name a resource, a run or a job; and accounts."""
    [(usage, resources, runs, jobs)] = staged.con.execute(
        "select count(*), count(resource_key), count(run_tag), count(job_key) from staged where reject_reason is null and charge_category = 'Usage'"
    ).fetchall()
    accounts = staged.con.execute(
        "select distinct billing_account_id, coalesce(sub_account_id, ''), strftime(billing_period, '%Y-%m') from staged "
        "where reject_reason is null and billing_account_id is not null"
    ).fetchall()
    return {"usage_rows": usage, "with_resource": resources, "with_run": runs, "with_job": jobs, "accounts": set(accounts)}


def read_quarantine(staged: Staged, period: str, file_indexes: Sequence[int]) -> list[dict[str, Any]]:
    """Return the quarantined rows of a period, with all delivered values in `raw`."""
    if not staged.has("reject_reason"):
        return []
    choose(staged, period, file_indexes)
    result = staged.con.execute(
        f"select {LINE_ID} as line_id, file_index, row_number, reject_reason as reason, "
        "case when not starts_with(reject_reason, 'BilledCost') then billed_cost end as billed_cost, raw "
        f"from staged where reject_reason is not null and {CHOSEN} order by 1"
    )
    names = [d[0] for d in result.description or ()]
    return [dict(zip(names, row, strict=True)) for row in result.fetchall()]


def read_day_sums(staged: Staged | SecondConnection) -> DaySums:
    """Return (charge date, service, sub-account, currency) -> the sums of the four costs of the chosen rows, in the order of COSTS."""
    sums = ", ".join(f"coalesce(sum({c}), 0)::decimal(38, 22)" for c in COSTS)
    rows = staged.con.execute(
        f"select day_of(charge_period_start), coalesce(service_name, ''), coalesce(sub_account_id, ''), billing_currency, {sums} "
        f"from staged where reject_reason is null and {CHOSEN} group by all"
    ).fetchall()
    return {(r[0], r[1], r[2], r[3]): tuple(r[4:]) for r in rows}


def find_overlap(staged: Staged, period: str, file_indexes: Sequence[int]) -> tuple[int, int, str, date] | None:
    """Return the first overlap of two files, or None: (file, file, billing account, charge day)."""
    choose(staged, period, file_indexes)
    pairs = staged.con.execute(
        f"select min(file_index), max(file_index), coalesce(billing_account_id, ''), day_of(charge_period_start) from staged where reject_reason is null and {CHOSEN} "
        "group by 3, 4 having count(distinct file_index) > 1 order by 4, 3 limit 1"
    ).fetchall()
    return next(iter(pairs), None)


def find_overlap_of_exports(staged: Staged, period: str, exports: Mapping[int, str]) -> tuple[str, str, str, date] | None:
    """Return the first overlap of two exports, or None: (export, export, account, charge day)."""
    choose(staged, period, list(exports))
    staged.con.execute(
        "create or replace temp table exports as select unnest(?)::integer as file_index, unnest(?) as export",
        [list(exports), list(exports.values())],
    )
    pairs = staged.con.execute(
        # Azure's FOCUS exports state the path of a subscription, its cost exports only the id. So the last part in lower case is compared.
        "select min(export), max(export), lower(regexp_extract(coalesce(sub_account_id, billing_account_id, ''), '[^/]*$')), "
        "day_of(charge_period_start) from staged "
        f"join exports using (file_index) where reject_reason is null and {CHOSEN} "
        "group by 3, 4 having count(distinct export) > 1 order by 4, 3 limit 1"
    ).fetchall()
    return next(iter(pairs), None)


def read_charge_range(staged: Staged | SecondConnection) -> dict[str, str | None]:
    """Return the earliest start and the latest end of the chosen lines, as ISO strings. Only runs in this time can overlap the lines."""
    [(first, last)] = staged.con.execute(
        f"select min(charge_period_start), max(charge_period_end) from staged where reject_reason is null and {CHOSEN}"
    ).fetchall()
    return {"first_charge_start": first and first.isoformat(), "last_charge_end": last and last.isoformat()}


def read_bill_digest(staged: Staged | SecondConnection) -> str:
    """Return a digest of the chosen rows as delivered. It changes only if the bill itself changes.

    It does not depend on the files, their order, the settings, or the weights of other sources that split lines.
    """
    [row] = staged.con.execute(
        f"select coalesce(sum(rows), 0), coalesce(sum(hash_sum), 0), coalesce(bit_xor(hash_xor), 0) from {staged.delivered_rows} where {CHOSEN}"
    ).fetchall()
    return hashlib.sha256(",".join(map(str, row)).encode()).hexdigest()[:32]
