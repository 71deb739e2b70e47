"""The questions of the FOCUS use case library, answered from what `runspend export focus` writes over the demo.

`docs/focus-use-cases.sql` has Runspend's own query for each use case that reads Cost and Usage. The library's own strings are not in this
repository. If the samples contain them (`focus_use_cases/VERSION-NAME.sql`, one query per file), they run too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest
import sqlglot

from runspend.actions.export import export_focus
from runspend.warehouse.factory import open_warehouse
from tests.allocation.chain import total
from tests.conftest import ROOT

PERIODS = ("2026-10", "2026-11")
ABOUT_CONTRACTS = {"Track contract commitment burn-down over time", "Report on initial contract commitments"}  # the demo has no contract
# Functions in the library's strings that DuckDB lacks or names differently.
MACROS = """
create macro json_unquote(j) as j ->> '$';
create macro json_contains_path(j, mode, a) as json_exists(to_json(j), a), (j, mode, a, b) as json_exists(j, a) and json_exists(j, b);
"""
# A placeholder gets its value from the column that it is compared with.
PARAMETERS = {
    "ChargePeriodStart": "timestamptz '2026-10-01 00:00+00'", "ChargePeriodEnd": "timestamptz '2026-12-02 00:00+00'",
    "BillingPeriodStart": "timestamptz '2026-10-01 00:00+00'", "BillingPeriodEnd": "timestamptz '2026-12-02 00:00+00'",
    "ProviderName": "'AWS'", "ServiceProviderName": "'AWS'", "SubAccountId": "'111122223333'", "ServiceName": "'Amazon EC2'",
    "PricingCurrency": "'Credits'", "PricingUnit": "'Credits'", "ResourceId": "(select any_value(ResourceId) from focus_data_table)",
    'Tags["Application"]': "'vision'",
}  # fmt: skip
# What a user of the library must replace: names of own tags and programs, and mistakes in the strings.
REPLACED = (
    ("Tags[\"ApplicationId\"]", "Tags['team']"),
    ("Tags[\"Application\"]", "Tags['team']"),
    ("'$.?'", "'$.team'"),
    ("'Flexible Spend Plan', 'Resource Reservation'", "'Compute Savings Plan', 'Database Savings Plan'"),
    ("'Advance Resource Commitment', 'Zonal Resource Commitment'", "'Capacity Reservation'"),
    ("ChargeClass != 'Correction'", "ChargeClass is distinct from 'Correction'"),  # every other charge has null in this column
    (" AS StartDay", ""),  # an alias is not allowed inside GROUP BY
    (" AS UNSIGNED)", " AS UBIGINT)"),
    # A column that is neither grouped nor aggregated.
    ("SUM(EffectiveCost), BillingPeriodStart DESC", "SUM(EffectiveCost), ANY_VALUE(BillingPeriodStart) DESC"),
    ("CommitmentDiscountStatus,\n  SUM(BilledCost)", "ANY_VALUE(CommitmentDiscountStatus),\n  SUM(BilledCost)"),
)  # fmt: skip


def export_months(night: Path, folder: Path, version: str) -> str:
    """Export both months of the demo with all columns of this FOCUS version. Return the pattern of the files."""
    folder.mkdir(exist_ok=True)
    with open_warehouse(str(night.parent / "warehouse")).reader() as reader:
        for period in PERIODS:
            export_focus(reader, period, folder / f"{period}.parquet", version=version, all_columns=True)
    return f"{folder}/*.parquet"


@pytest.fixture(scope="module")
def files(made_night: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The pattern of the months in FOCUS 1.4."""
    return export_months(made_night, tmp_path_factory.mktemp("focus"), "1.4")


@pytest.fixture(scope="module")
def focus(files: str) -> Iterator[duckdb.DuckDBPyConnection]:
    """A view that the page's queries read."""
    with duckdb.connect() as con:
        con.execute(f"create view focus as select * from read_parquet('{files}')")
        yield con


def own_queries() -> dict[str, str]:
    """Return title and text of each query on the page."""
    text = (ROOT / "docs" / "focus-use-cases.sql").read_text(encoding="utf-8")
    return dict(re.findall(r"^-- title: (.+)\n((?:(?!-- title:).*\n)+)", text, re.MULTILINE))


def table() -> dict[str, str]:
    """Return title and last cell of each row of the page's table."""
    text = (ROOT / "docs" / "focus-use-cases.md").read_text(encoding="utf-8")
    return dict(re.findall(r"^\| \[(.+)\]\(https://focus\.finops\.org/use-case/[a-z0-9-]+/\) \| 1\.\d \| (.+) \|$", text, re.MULTILINE))


def test_the_page_says_what_each_query_answers(focus: duckdb.DuckDBPyConnection) -> None:
    """Each use case that reads Cost and Usage has a query. It returns as many rows as the table states, and no column is empty."""
    found, empty = {}, {}
    for title, sql in own_queries().items():
        cursor = focus.execute(sql)
        names = [column[0] for column in cursor.description or []]
        rows = cursor.fetchall()
        found[title] = f"{len(rows):,}"
        empty[title] = [name for index, name in enumerate(names) if rows and all(row[index] is None for row in rows)]
    page = table()
    assert len(page) == 70 and len(found) == 66
    assert {title: rows for title, rows in page.items() if not rows.startswith("needs ")} == found
    assert {title for title, rows in found.items() if rows == "0"} == ABOUT_CONTRACTS
    # No compute of the demo is under a commitment.
    assert {title: names for title, names in empty.items() if names} == {"Report effective cost of compute": ["CommitmentDiscountType"]}


def test_answers_add_up_to_the_ledger(focus: duckdb.DuckDBPyConnection, made_night: Path) -> None:
    """By category, cash and accrual equal the ledger's billed and effective cost. By allocated resource, the sum is the cost of all runs."""
    queries = own_queries()
    with open_warehouse(str(made_night.parent / "warehouse")).reader() as reader:
        (ledger,) = reader.query("select sum(billed_cost) as billed, sum(effective_cost) as effective from cost_allocations").to_pylist()
        (runs,) = reader.query("select sum(effective_cost) as effective from cost_allocations where allocated_to = 'run'").to_pylist()

    def sums(title: str, column: str) -> Decimal:
        cursor = focus.execute(queries[title])
        index = [c[0] for c in cursor.description or []].index(column)
        return total(row[index] for row in cursor.fetchall())

    assert sums("Report costs by service category", "billed") == ledger["billed"]
    assert sums("Cash vs. Accrual Comparison by Billing Period", "cash") == ledger["billed"]
    assert sums("Cash vs. Accrual Comparison by Billing Period", "accrual") == ledger["effective"]
    assert sums("Analyze total cost by allocated resource", "effective") == runs["effective"]
    assert sums("Identify unused commitments", "effective") == Decimal("0.30544") * 12  # two hours on each of six Mondays


def adapted(text: str) -> str:
    """Return a string of the library in DuckDB's dialect, with its placeholders filled and own names replaced."""
    for column, value in PARAMETERS.items():
        text = re.sub(rf"(?<![\w.\"])((?:CU\.)?{re.escape(column)}\s*(?:>=|<=|=|<)\s*)\?", rf"\g<1>{value}", text, flags=re.IGNORECASE)
    text = re.sub(r"((?:Charge|Billing)PeriodStart\s*)< timestamptz '2026-10-01", r"\1< timestamptz '2026-12-02", text)
    for was, becomes in REPLACED:
        text = text.replace(was, becomes)
    text = re.sub(r"\bInvoiceIssuer\b", "InvoiceIssuerName", text)  # its name in FOCUS 1.0
    return sqlglot.transpile(text, read="bigquery", write="duckdb")[0] if "UNNEST" in text else text


def test_the_librarys_own_queries_run(files: str, made_night: Path, samples: Path, tmp_path: Path) -> None:
    """Every text that reads Cost and Usage runs on the export of its version. All except those about contracts return rows."""
    # The join with the dataset Contract Commitment does not only read Cost and Usage.
    texts = [
        path
        for path in sorted((samples / "focus_use_cases").glob("*.sql"))
        if not path.stem.endswith("join_contract_commitment_details_with_usage_charges")
    ]
    if not texts:
        pytest.skip(f"the texts of the FOCUS use case library are not in {samples / 'focus_use_cases'}: nothing was run")
    patterns = {"1.3": export_months(made_night, tmp_path, "1.3"), "1.4": files}
    problems: dict[str, Any] = {}
    for path in texts:
        with duckdb.connect() as con:
            con.execute(MACROS)
            con.execute(
                "create view focus_data_table as select * replace (cast(cast(Tags as json) as map(varchar, varchar)) as Tags)"
                f" from read_parquet('{patterns[path.name[:3]]}')"
            )
            try:
                rows = con.execute(adapted(path.read_text(encoding="utf-8"))).fetchall()
            except duckdb.Error as error:
                problems[path.stem] = str(error)
            else:
                if bool(rows) == ("contract_commitment" in path.stem):
                    problems[path.stem] = rows[:3]
    assert problems == {}
