"""Write one billing period as a FOCUS file: the rows of `schema/views/focus.sql`, batch by batch, checked against the bill.

`focus.sql` defines the rows. This module defines the columns of each FOCUS version and the format of values. It checks the totals before the
file gets its name. FOCUS: https://focus.finops.org
"""

from __future__ import annotations

import gzip
import os
import uuid
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from importlib.resources import files
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from runspend.core.amounts import EXACT
from runspend.core.errors import CheckFailed, UsageError
from runspend.core.own_files import check_replaceable
from runspend.core.spreadsheet_text import PATTERN
from runspend.schema.rows import first_day
from runspend.schema.tables import FOCUS_COLUMNS
from runspend.warehouse.base import Reader
from runspend.warehouse.sql_files import expand_macros

COSTS = ("EffectiveCost", "BilledCost", "ListCost", "ContractedCost")
# Columns that are always written, because FOCUS requires them. Other columns are written only if a line of the period has a value.
MANDATORY = (
    "BilledCost", "BillingAccountId", "BillingAccountName", "BillingCurrency", "BillingPeriodEnd", "BillingPeriodStart", "ChargeCategory", "ChargeClass", "ChargeDescription",
    "ChargePeriodEnd", "ChargePeriodStart", "ContractedCost", "EffectiveCost", "HostProviderName", "InvoiceIssuerName", "ListCost", "PricingQuantity", "PricingUnit",
    "ProviderName", "PublisherName", "ServiceCategory", "ServiceName", "ServiceProviderName",
)  # fmt: skip
ALLOCATED = ("AllocatedMethodDetails", "AllocatedMethodId", "AllocatedResourceId", "AllocatedResourceName", "AllocatedTags")
SINCE_1_3 = (*ALLOCATED, "ContractApplied", "HostProviderName", "ServiceProviderName")
SINCE_1_4 = ("CommitmentProgramEligibilityDetails", "InvoiceDetailId")
UNTIL_1_3 = ("ProviderName", "PublisherName")
LEFT_OUT = {"1.2": (*SINCE_1_3, *SINCE_1_4), "1.3": SINCE_1_4, "1.4": UNTIL_1_3}
KINDS = {".csv": "csv", ".csv.gz": "csv.gz", ".parquet": "parquet"}
OWN_COLUMN, LONGEST_HEADER = "x_AllocatedTo", 1 << 20
BATCH_ROWS = 65_536
STRETCH_ROWS = 1_500_000  # rows of lines, parts and charges to read at once, which need about 1 GB of memory


@dataclass(frozen=True)
class Total:
    """The totals of all rows of one bill in one currency."""

    source: str
    currency: str
    effective_cost: Decimal
    billed_cost: Decimal
    list_cost: Decimal
    contracted_cost: Decimal


@dataclass(frozen=True)
class Exported:
    """The written file and its totals."""

    path: Path
    rows: int
    totals: tuple[Total, ...]


class Sink(Protocol):
    """A file to which batches are written."""

    def write(self, batch: pa.RecordBatch) -> None:
        """Write one more batch."""
        ...


def focus_view() -> str:
    """Return the GoogleSQL of the view, with all periods and the columns of all FOCUS versions."""
    return expand_macros(files("runspend.schema").joinpath("views", "focus.sql").read_text(encoding="utf-8"))


def export_focus(
    reader: Reader, period: str, target: Path, *, scope: str = "all", version: str = "1.3", all_columns: bool = False,
    guard_formulas: bool = False, progress: Callable[[str], None] = lambda _: None,
) -> Exported:  # fmt: skip
    """Write a billing period ("YYYY-MM") to a .csv, .csv.gz or .parquet file. Memory use does not grow with the number of rows.

    `all_columns` writes every column of the version, including those without a value in the period. `guard_formulas` puts an apostrophe
    before CSV strings that a spreadsheet would read as a formula. Without it, strings are unchanged.

    The file gets its name only if its sums in all four measures, by bill and currency, equal those of the bill. With `scope` "platform", they
    must equal the ledger's sums without out-of-scope cost. Otherwise, Runspend raises CheckFailed and leaves no file behind. Raises UsageError
    if the period, the file name or an existing file does not allow the export.
    """
    kind = next((k for suffix, k in sorted(KINDS.items(), key=lambda item: -len(item[0])) if target.name.endswith(suffix)), None)
    if kind is None:
        raise UsageError(f"cannot export to {target}: FOCUS files end in {', '.join(KINDS)}. Nothing was written.")
    if guard_formulas and kind == "parquet":
        raise UsageError(
            f"cannot guard formulas in {target}: Parquet stores strings as strings, so no program runs them as formulas. Leave --guard-formulas out, or write a .csv file. Nothing was written."
        )
    first = first_day(period)
    known = reader.query("select distinct billing_period from cost_allocations order by billing_period").column(0).to_pylist()
    if first not in known:
        raise UsageError(
            f"cannot export {period}: it is not allocated. Allocated months are {', '.join(f'{p:%Y-%m}' for p in known) or 'none'}. Nothing was written."
        )
    check_replaceable(target, "export focus", is_focus_export)
    columns = focus_columns(reader, first, version, all_columns)
    where = "x_BillingPeriod = @period and x_ChargeDate between @first_date and @last_date" + (
        "" if scope == "all" else " and not (x_AllocatedTo = 'out_of_scope' and x_MatchMethod = 'none')"
    )
    sql = f"select {', '.join(columns)} from ({focus_view()}) where {where}"
    sums: dict[tuple[str, str], dict[str, Decimal]] = defaultdict(lambda: dict.fromkeys(COSTS, Decimal(0)))
    rows = 0
    with _replacing(target) as temporary:
        with _sink(temporary, kind, guard_formulas) as sink:
            for first_date, last_date in _stretches(reader, first):
                for batch in reader.batches(sql, {"period": first, "first_date": first_date, "last_date": last_date}, rows=BATCH_ROWS):
                    _add(sums, batch)
                    rows += batch.num_rows
                    sink.write(batch)
                    progress(f"export focus {period}: {rows:,} rows")
        _check_totals(reader, first, scope, sums)
    return Exported(target, rows, tuple(Total(*key, *(found[c] for c in COSTS)) for key, found in sorted(sums.items())))


def is_focus_export(file: Path) -> bool:
    """Return whether a file has the column `x_AllocatedTo`, which this export writes and a bill does not have."""
    try:
        if file.name.endswith(".parquet"):
            with pq.ParquetFile(file) as read:
                return OWN_COLUMN in read.schema_arrow.names
        with gzip.open(file) if file.name.endswith(".gz") else file.open("rb") as text:
            return OWN_COLUMN.encode() in text.readline(LONGEST_HEADER)
    except (OSError, ValueError, EOFError, zlib.error):
        return False


def focus_columns(reader: Reader, period: date, version: str, all_columns: bool) -> list[str]:
    """Return the columns of the file: those of the version, then Runspend's own.

    Without `all_columns`, a column of the version that is not mandatory is left out if no line of the period has a value.
    """
    schema = reader.query(f"select * from ({focus_view()}) where false").schema.names
    own = [c for c in schema if c.startswith("x_") and c not in ("x_BillingPeriod", "x_ChargeDate")]
    of_version = [c for c in schema if not c.startswith("x_") and c not in LEFT_OUT[version]]
    if all_columns:
        return of_version + own
    counts = ", ".join(f"count({c.name}) as {c.name}" for c in FOCUS_COLUMNS)
    row: dict[str, int] = reader.query(
        f"select {counts} from billing_lines where billing_period = @period", {"period": period}
    ).to_pylist()[0]
    filled = {"".join(part.capitalize() for part in name.split("_")) for name, count in row.items() if count}
    return [c for c in of_version if c in {*MANDATORY, *ALLOCATED, *filled}] + own


def _stretches(reader: Reader, period: date) -> list[tuple[date, date]]:
    """Split the period's charge days into ranges whose rows fit in memory, as (first day, last day).

    The rows of a charge (its lines and parts) count on its day. Lines of a bucket that form one charge for the month count twice: on their
    own day, and on the first day of the month, which is the day of that charge.
    """
    days = reader.query(
        "select charge_date, sum(row_count) as row_count from ("
        " select charge_date, count(*) as row_count from billing_lines where billing_period = @period group by charge_date"
        " union all select charge_date, count(*) from cost_allocations where billing_period = @period group by charge_date"
        " union all select billing_period, count(*) from charge_lines where billing_period = @period and starts_with(charge_id, 'artifact_bytes|') group by billing_period"
        ") group by charge_date order by charge_date",
        {"period": period},
    ).to_pylist()
    stretches: list[tuple[date, date]] = []
    held = STRETCH_ROWS
    for day in days:
        if held + day["row_count"] > STRETCH_ROWS:
            stretches.append((day["charge_date"], day["charge_date"]))
            held = 0
        stretches[-1] = (stretches[-1][0], day["charge_date"])
        held += day["row_count"]
    return stretches


def _add(sums: dict[tuple[str, str], dict[str, Decimal]], batch: pa.RecordBatch) -> None:
    """Add the exact sums of the batch to `sums`, by bill and currency."""
    table = pa.Table.from_batches([batch]).select(["x_Source", "BillingCurrency", *COSTS])
    grouped = table.group_by(["x_Source", "BillingCurrency"]).aggregate([(c, "sum") for c in COSTS])
    for row in grouped.to_pylist():
        found = sums[row["x_Source"], row["BillingCurrency"]]
        for cost in COSTS:
            found[cost] = EXACT.add(found[cost], row[f"{cost}_sum"] or Decimal(0))


def _check_totals(reader: Reader, period: date, scope: str, sums: dict[tuple[str, str], dict[str, Decimal]]) -> None:
    costs = "sum(effective_cost) as EffectiveCost, sum(billed_cost) as BilledCost, sum(list_cost) as ListCost, sum(contracted_cost) as ContractedCost"
    table = "billing_lines" if scope == "all" else "cost_allocations"
    inside = "" if scope == "all" else " and not (allocated_to = 'out_of_scope' and match_method = 'none')"
    rows = reader.query(
        f"select source, billing_currency, {costs} from {table} where billing_period = @period{inside} group by source, billing_currency order by source, billing_currency",
        {"period": period},
    ).to_pylist()
    wanted = {(r["source"], r["billing_currency"]): {c: r[c] or Decimal(0) for c in COSTS} for r in rows}
    wrong: list[dict[str, Any]] = [
        {
            "source": key[0],
            "currency": key[1],
            "measure": cost,
            "exported": sums[key][cost],
            "bill": wanted.get(key, {}).get(cost, Decimal(0)),
        }
        for key in sorted({*wanted, *sums})
        for cost in COSTS
        if sums[key][cost] != wanted.get(key, {}).get(cost, Decimal(0))
    ]
    if wrong:
        raise CheckFailed("focus_export_equals_bill", wrong, period=f"{period:%Y-%m}")


@contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """Yield a temporary file next to the target. It replaces the target on success, and is removed after an error."""
    temporary = target.with_name(f".runspend-export-{uuid.uuid4().hex}")
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
    try:
        yield temporary
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _sink(path: Path, kind: str, guard_formulas: bool) -> Iterator[Sink]:
    if kind == "parquet":
        parquet = _Parquet(path)
        try:
            yield parquet
        finally:
            parquet.close()
        return
    with gzip.open(path, "wb", compresslevel=6) if kind == "csv.gz" else path.open("wb") as file:
        text = _Csv(file, guard_formulas)
        try:
            yield text
        finally:
            text.close()


class _Parquet:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: Any = None

    def write(self, batch: pa.RecordBatch) -> None:
        """Write one more batch. All columns are nullable."""
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._path, batch.schema, compression="zstd")
        self._writer.write_batch(batch)

    def close(self) -> None:
        """Write the footer."""
        if self._writer is not None:
            self._writer.close()


class _Csv:
    def __init__(self, file: Any, guard_formulas: bool) -> None:
        self._file = file
        self._make_text = _guarded if guard_formulas else _text
        self._writer: Any = None

    def write(self, batch: pa.RecordBatch) -> None:
        """Write one more batch. Times have the FOCUS format, decimals have all digits and no exponent, and null is empty."""
        texts = pa.RecordBatch.from_arrays([self._make_text(column) for column in batch.columns], names=batch.schema.names)
        if self._writer is None:
            self._writer = pacsv.CSVWriter(self._file, texts.schema)
        self._writer.write_batch(texts)

    def close(self) -> None:
        """Write the remaining rows."""
        if self._writer is not None:
            self._writer.close()


def _guarded(column: pa.Array) -> pa.Array:
    """Return what `_text` returns, with an apostrophe before strings that a spreadsheet would run. Numbers and times are unchanged."""
    text = _text(column)
    if not pa.types.is_string(column.type):
        return text
    return pc.if_else(pc.match_substring_regex(text, PATTERN), pc.binary_join_element_wise("'", text, ""), text)


def _text(column: pa.Array) -> pa.Array:
    if pa.types.is_timestamp(column.type):
        return pc.strftime(column.cast(pa.timestamp("s", tz="UTC")), format="%Y-%m-%dT%H:%M:%SZ")
    if pa.types.is_decimal(column.type):
        # Arrow writes values below 1e-6 with an exponent, so Python formats the batches that have one.
        plain = pc.cast(column, pa.string())
        if pc.any(pc.match_substring(plain, "E")).as_py():
            plain = pa.array([None if v is None else f"{v:f}" for v in column.to_pylist()], pa.string())
        trimmed = pc.utf8_rtrim(pc.utf8_rtrim(plain, "0"), ".")
        return pc.if_else(pc.equal(trimmed, ""), "0", trimmed)
    return column
