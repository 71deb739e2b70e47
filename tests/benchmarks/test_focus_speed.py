"""A FOCUS CSV verified, settled, sorted and published, beside DuckDB's bare typed COPY and pandas on the same file.

Goal: 0.6 of the bare COPY's speed, in the same run.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from runspend.ingest.billing.formats import focus
from tests.benchmarks.ledger_world import MONTH, make_ledger_world
from tests.benchmarks.measured import load_average, run_python, run_runspend, scaled

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]

LINES = 1_500_000
# The 57 columns of a FOCUS 1.2 export; ProviderName and PublisherName are this version's own.
HEADER = """
ProviderName PublisherName InvoiceIssuerName InvoiceId BillingAccountId BillingAccountName BillingAccountType SubAccountId SubAccountName SubAccountType
BillingPeriodStart BillingPeriodEnd ChargePeriodStart ChargePeriodEnd ChargeCategory ChargeClass ChargeDescription ChargeFrequency BilledCost EffectiveCost
ListCost ContractedCost ListUnitPrice ContractedUnitPrice PricingCategory PricingQuantity PricingUnit PricingCurrency PricingCurrencyContractedUnitPrice
PricingCurrencyEffectiveCost PricingCurrencyListUnitPrice BillingCurrency ConsumedQuantity ConsumedUnit ServiceName ServiceCategory ServiceSubcategory SkuId
SkuMeter SkuPriceId SkuPriceDetails ResourceId ResourceName ResourceType RegionId RegionName AvailabilityZone CommitmentDiscountId CommitmentDiscountName
CommitmentDiscountCategory CommitmentDiscountType CommitmentDiscountStatus CommitmentDiscountQuantity CommitmentDiscountUnit CapacityReservationId
CapacityReservationStatus Tags
""".split()
TYPES = {"STRING": "varchar", "BIGNUMERIC": "decimal(38, 22)", "TIMESTAMP": "timestamptz"}

BARE = """
import sys, duckdb
connection = duckdb.connect(config={"threads": 2})
connection.execute("set TimeZone = 'UTC'")
connection.execute(f"copy (select * from read_csv('{sys.argv[1]}', delim = ',', quote = '\\"', escape = '\\"', header = true, auto_detect = false, columns = {sys.argv[2]})) to 'bare.parquet' (format parquet, compression zstd)")
"""
PANDAS = "import sys, pandas; print(len(pandas.read_csv(sys.argv[1])))"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    shutil.rmtree(tmp_path)


def write_focus_csv(folder: Path, lines: int) -> Path:
    """The lines of a ledger world as a provider would deliver them: FOCUS names, no order."""
    make_ledger_world(folder / "world", runs=1000, lines=lines)
    path = folder / "bill" / "focus.csv"
    path.parent.mkdir()
    columns = []
    for name in HEADER:
        known = focus.COLUMNS.get(name)
        if name in ("ProviderName", "PublisherName"):
            columns.append(f"'AWS' as {name}")
        elif known is not None and known.type == "TIMESTAMP":
            columns.append(f"strftime({known.name}, '%Y-%m-%dT%H:%M:%SZ') as {name}")
        elif known is not None and known.type == "BIGNUMERIC":
            columns.append(f"cast({known.name} as decimal(38, 12)) as {name}")
        else:
            assert known is not None, name
            columns.append(f"{known.name} as {name}")
    source = folder / f"world/warehouse/_internal/billing_lines/period={MONTH}/aws.parquet"
    connection = duckdb.connect(config={"memory_limit": "6GB", "temp_directory": str(folder / "spill")})
    connection.execute("set TimeZone = 'UTC'")
    connection.execute(f"copy (select {', '.join(columns)} from '{source}' order by hash(line_id)) to '{path}' (format csv, header)")
    connection.close()
    shutil.rmtree(folder / "world")
    return path


def test_load_reads_a_focus_csv_fast_enough(folder: Path) -> None:
    """One file of one billing period, 57 columns."""
    lines = scaled(LINES)
    path = write_focus_csv(folder, lines)
    types = "{" + ", ".join(f"'{n}': '{TYPES[focus.COLUMNS[n].type] if n in focus.COLUMNS else 'varchar'}'" for n in HEADER) + "}"
    (folder / "runspend.yaml").write_text("home: home\nwarehouse: {uri: warehouse}\nbilling: [{name: aws, uri: bill, late_after: 400d}]\n")

    first = run_python(folder, BARE, str(path), types)
    took = run_runspend(folder, "load", "--now", "2026-11-04T06:00")
    bare = min(first, run_python(folder, BARE, str(path), types), key=lambda m: m.wall)
    pandas = run_python(folder, PANDAS, str(path))

    published = folder / f"warehouse/_internal/billing_lines/period={MONTH}/aws.parquet"
    ours, theirs = (
        duckdb.execute(f"select count(*), sum({c}) from '{file}'").fetchall()[0]
        for file, c in ((published, "billed_cost"), (folder / "bare.parquet", "BilledCost"))
    )
    assert ours == theirs
    print(f"\n  {lines:,} lines, {path.stat().st_size / 2**20:,.0f} MB [{load_average()}]")
    for what, m in (("runspend load", took), ("bare typed COPY", bare), ("pandas read_csv", pandas)):
        print(f"  {what:16} {lines / m.wall:9,.0f} lines/s: {m}")
    print(f"  ratio to the bare COPY: {bare.wall / took.wall:.2f} by the clock, {bare.cpu / took.cpu:.2f} by processor seconds; goal 0.6")
