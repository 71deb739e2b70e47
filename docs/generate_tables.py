"""Write the page of all tables: `python docs/generate_tables.py > docs/tables.md`. The page is committed; a test compares it with this program.

The layout of the page and its introduction are here. Names, types and meanings are in `tables.py` and `public_views.py` in
`include/runspend/schema`; the example queries are the files of `example_queries` beside this file.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from runspend.schema.public_views import VIEWS, View
from runspend.schema.tables import TABLES, Column, Table, public_tables

QUERIES = Path(__file__).parent / "example_queries"

INTRODUCTION = """\
# Tables

This page is generated from `tables.py` and `public_views.py` in `include/runspend/schema` by `docs/generate_tables.py`; edit it there.

The public tables are the contract with analysts. Internal tables may change with any version. The sum of any of the four costs over
`cost_allocations` or `cost_daily` equals the bill exactly.

* **Times** are UTC. **Dates** are days of UTC. A `billing_period` or `start_month` is the first day of its month.
* **Money** is in the row's `billing_currency`, never added across currencies. It has 22 decimals: `decimal128(38, 22)` in Parquet,
  `BIGNUMERIC` in GoogleSQL. Always group by `billing_currency`. Round only for display.
* **Four costs**: `effective_cost` is the default (commitments are spread over the usage they cover); `billed_cost` reconciles with invoices;
  `contracted_cost` and `list_cost` are the same usage at negotiated and at public prices. Null on the bill stays null and counts as 0.
* **A run** is `tracking_server`, `workspace`, `run_id` together.
* **Units** are in the names: `_seconds`, `_bytes`, `_gb` (GiB), `_cost`, `_at` (time), `_date` (day).
* *key*: never null, and unique together with the table's other keys. In `cost_daily` only all columns before the costs are unique
  together, and some of them may be null.
* *bookkeeping*: the time or the build of the row. Two pipeline runs with the same facts differ only in these columns.
  Rows with equal `build_id` were published together.
"""

READING = """\
## Reading the files

A table is a folder: `<warehouse>/<table>/period=YYYY-MM/<writer>.parquet` (`<warehouse>/_internal/<table>/…` for the internal ones). The
writer is the source of the file's rows: a bill, a tracking server, a store, or `all`. The month is in the folder's name as `period`, for
filters, and in a DATE column of the table.

`runspend sql "SELECT …"` accepts the bare names of tables and always sees one build. Other readers see each file whole, either old or new. A
reader of several tables may see two builds while a pipeline run publishes; `build_id` shows it.

pandas: use `dtype_backend="pyarrow"`. Without it, money becomes Python objects, and pandas' own sum rounds to 28 digits.

```python
import pandas
costs = pandas.read_parquet(f"{warehouse}/cost_daily", dtype_backend="pyarrow", filters=[("period", "=", "2026-10")])
total = costs["effective_cost"].sum()
```

polars:

```python
import polars
costs = polars.scan_parquet(f"{warehouse}/cost_daily", hive_partitioning=True).filter(polars.col("period") == "2026-10")
total = costs.select(polars.col("effective_cost").sum()).collect().item()
```

pyarrow:

```python
import pyarrow.compute, pyarrow.dataset
costs = pyarrow.dataset.dataset(f"{warehouse}/cost_daily", partitioning="hive")
rows = costs.to_table(columns=["effective_cost"], filter=pyarrow.dataset.field("period") == "2026-10")
total = pyarrow.compute.sum(rows["effective_cost"]).as_py()
```

DuckDB:

```python
import duckdb
total = duckdb.sql(f"select sum(effective_cost) from '{warehouse}/cost_daily/**/*.parquet' where period = '2026-10'").fetchall()[0][0]
```

Plain Python: `decimal` keeps 28 digits by default, which is too few for millions with 22 decimals. Add money in a context of 76 digits.

```python
import decimal
import pyarrow.parquet
with decimal.localcontext(decimal.Context(prec=76)):
    rows = pyarrow.parquet.read_table(f"{warehouse}/cost_daily/period=2026-10").to_pylist()
    total = sum(row["effective_cost"] for row in rows)
```

A float never becomes money: `allocated_ratio` is informational; the costs next to it are exact.
"""


def render_tables(queries: Mapping[str, str]) -> str:
    """Return the page in Markdown. `queries` are GoogleSQL strings by name; the comment on a string's first line says what it answers."""
    internal = [t for t in TABLES.values() if not t.is_public]
    parts = [
        INTRODUCTION,
        "## Public tables\n",
        _contents((*public_tables(), *VIEWS.values())),
        *(_render_table(t) for t in public_tables()),
        *(_render_view(v) for v in VIEWS.values()),
        READING,
        "## Example queries\n\nGoogleSQL, as `runspend sql` and BigQuery take it; each is a file in [example_queries](example_queries).\n",
        *(_render_query(name, sql) for name, sql in queries.items()),
        "## Internal tables\n",
        _contents(internal),
        *(_render_table(t) for t in internal),
    ]
    return "\n".join(parts)


def read_queries() -> dict[str, str]:
    """Return the example queries, in the order of their file names."""
    return {path.stem: path.read_text(encoding="utf-8").strip() for path in sorted(QUERIES.glob("*.sql"))}


def _contents(tables: Iterable[Table]) -> str:
    return "".join(f"* [`{t.name}`](#{t.name}): {t.grain}\n" for t in tables)


def _render_table(table: Table) -> str:
    place = table.name if table.is_public else f"_internal/{table.name}"
    period = "all" if table.period_column is None else "YYYY-MM"
    month = "" if table.period_column is None else f", the month of `{table.period_column}`"
    header = f"### {table.name}\n\n{table.meaning} Grain: {table.grain}.\n\nFiles: `{place}/period={period}/<writer>.parquet`{month}; the writer is {_writer(table)}.\n"
    rows = "".join(_render_column(c) for c in table.columns)
    return f"{header}\n| column | type | meaning |\n|---|---|---|\n{rows}"


def _render_view(view: View) -> str:
    over = " and ".join(f"`{name}`" for name in view.over)
    header = f"### {view.name}\n\n{view.meaning} Grain: {view.grain}.\n\nA view over {over}, for `runspend sql`, BigQuery and the targets of `runspend publish`.\n"
    return f"{header}\n| column | type | meaning |\n|---|---|---|\n{''.join(_render_column(c) for c in view.columns)}"


def _writer(table: Table) -> str:
    return "`all`" if table.writer == "all" else table.writer


def _render_column(column: Column) -> str:
    marks = [mark for mark, is_set in (("key", column.is_key), ("bookkeeping", column.bookkeeping)) if is_set]
    meaning = column.meaning.replace("|", "\\|")
    return f"| `{column.name}` | {column.type} | {''.join(f'*{mark}* ' for mark in marks)}{meaning} |\n"


def _render_query(name: str, sql: str) -> str:
    comment, _, text = sql.partition("\n")
    title = name.partition("_")[2].replace("_", " ").capitalize()
    return f"### {title}\n\n{comment.removeprefix('--').strip()}\n\n```sql\n{text}\n```\n"


if __name__ == "__main__":
    sys.stdout.write(render_tables(read_queries()))
