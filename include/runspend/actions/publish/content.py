"""Read the content to publish: the tables of `schema/published.py` at one moment, in parts. A part has the rows of a table for one month.

Each part has a build ID: a digest of the warehouse's rows and of the columns. If a target already has a part with the same build ID, it is
not copied again. The build ID of the whole content is a digest of the build IDs of its parts.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runspend.core.sql_quoting import sql_text
from runspend.schema.public_views import COST_DAILY_AT_POSTGRES, COSTS_FOR_DASHBOARDS, ROUNDED, View
from runspend.schema.published import PUBLISHED_TABLES
from runspend.schema.tables import COST_DAILY, Column, Table
from runspend.warehouse.base import Unit, UnitState, Warehouse
from runspend.warehouse.dialect import duckdb_sql
from runspend.warehouse.parquet.engine import empty_engine, file_list, month_of

if TYPE_CHECKING:
    from decimal import Decimal


ROWS_PER_FILE = 500_000  # of a file with rounded costs, which has whole days
FIRST_DAY = "0001-01-01"
AFTER_ALL_DAYS = "infinity"
WHOLE = "all"  # the table name and the period of the row for the whole content
BUILDS = Table(
    "runspend_builds",
    "one row per published table and month, and one (all) for everything",
    "What `runspend publish` copied here. Two copies with the same build_id have the same rows.",
    (
        Column("table_name", "STRING", "Name of the table; all for everything."),
        Column("period", "STRING", "YYYY-MM, or all for a table that has no months."),
        Column("build_id", "STRING", "Digest of what was copied: of builds, rows and columns."),
        Column("row_count", "INT64", "Number of rows."),
        Column("published_at", "TIMESTAMP", "The `now` of the pipeline run that copied it."),
        Column("site_url", "STRING", "The address of `runspend serve` (`site.url`), in the row for everything; null without one."),
    ),
    is_public=True,
    period_column=None,
)


@dataclass(frozen=True)
class Part:
    """The rows of a table for one month (or "all"), replaced together."""

    table: Table
    period: str
    build_id: str
    units: tuple[Unit, ...]  # the units of the tables from which its rows come

    @property
    def key(self) -> tuple[str, str]:
        """The table name and the period, by which targets identify the part."""
        return self.table.name, self.period

    @property
    def rounded(self) -> Part:
        """The same month of cost_daily with rounded costs, as PostgreSQL stores it. For parts of cost_daily and costs_for_dashboards."""
        return replace(self, table=COST_DAILY_AT_POSTGRES)


@dataclass(frozen=True)
class Rounding:
    """The largest differences between the rounded effective cost of costs_for_dashboards and the ledger.

    `period` is for the billing period, `day` for a day of a bill, and `team` for a team.
    """

    month: str
    currency: str
    period: Decimal
    day: Decimal
    team: Decimal


@dataclass(frozen=True)
class Found:
    """The build at a target and its time, or None if nothing was published there yet. `problem`: why publishing would fail."""

    build_id: str | None = None
    published_at: datetime | None = None
    problem: str | None = None


@dataclass
class Published:
    """The result of a publish. `rows`: the number of copied rows by table. `is_new`: whether the target had another build, or none.

    `notes`: messages for the owner of the target.
    """

    build_id: str
    rows: dict[str, int] = field(default_factory=dict)
    is_new: bool = True
    notes: list[str] = field(default_factory=list)

    def add(self, part: Part, rows: int) -> None:
        """Count the rows of a part that was copied."""
        self.rows[part.table.name] = self.rows.get(part.table.name, 0) + rows


@dataclass(frozen=True)
class _Rounded:
    """A month of cost_daily with rounded costs. The worker computes its files in this order and writes them to `folder`."""

    folder: Path
    files: list[Future[Path]]


@dataclass
class Content:
    """The parts of `tables`, and their rows as Parquet files in `folder`. `worker` computes rounded costs."""

    warehouse: Warehouse
    folder: Path
    states: Mapping[Unit, UnitState]
    worker: ThreadPoolExecutor
    site_url: str | None = None
    tables: tuple[Table, ...] = PUBLISHED_TABLES
    _begun: dict[str, _Rounded] = field(default_factory=dict)  # by period; the files of the newest month are kept for all targets

    def of(self, names: Sequence[str] | None) -> Content:
        """Return the content with only these tables. None selects all tables."""
        return self if names is None else replace(self, tables=tuple(table for table in self.tables if table.name in names))

    @cached_property
    def parts(self) -> list[Part]:
        """All parts, in the order of tables and months."""
        found = []
        for table in self.tables:
            over = table.over if isinstance(table, View) else (table.name,)
            units = [unit for unit in self.states if unit.table in over]
            for period in sorted({unit.period for unit in units}):
                of_period = tuple(sorted(unit for unit in units if unit.period == period))
                found.append(Part(table, period, self._build_id(table, of_period), of_period))
        return found

    @cached_property
    def build_id(self) -> str:
        """The build ID of the whole content."""
        return _digest(*(f"{part.key} {part.build_id}" for part in self.parts), BUILDS, self.site_url)

    def _build_id(self, table: Table, units: tuple[Unit, ...]) -> str:
        states = (f"{unit} {self.states[unit].digest} {self.states[unit].build_id}" for unit in units)
        computed_by = table.sql if isinstance(table, View) else COSTS_FOR_DASHBOARDS.rounding_sql if table is COST_DAILY else ""
        return _digest(*states, [(c.name, c.type) for c in table.columns], computed_by)

    def compute_ahead(self, parts: Iterable[Part]) -> None:
        """Start to compute the first two of `parts` that have rounded costs. The worker computes them while other parts are copied."""
        for part in islice((part for part in parts if part.table is COST_DAILY_AT_POSTGRES), 2):
            self._rounded(part)

    @contextmanager
    def files(self, part: Part) -> Iterator[Iterator[Path]]:
        """Yield an iterator over Parquet files with the rows of a part, in the columns of its table. The files are removed afterwards.

        Files with rounded costs are computed one by one, each while the previous file is copied. Files of the newest month are kept for the
        next target, unless one of them could not be computed.
        """
        if part.table is COST_DAILY_AT_POSTGRES:
            rounded = self._rounded(part)
            try:
                yield (file.result() for file in rounded.files)
            finally:
                if not self._is_newest(part) or any(file.done() and file.exception() for file in rounded.files):
                    del self._begun[part.period]
                    wait([file for file in rounded.files if not file.cancel()])
                    shutil.rmtree(rounded.folder)
            return
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            if isinstance(part.table, View):
                with self.files(part.rounded) as files:
                    yield iter([_query_file(part.table.labels_sql, ROUNDED, list(files), Path(folder))])
            else:
                yield iter(self._fetched(part, Path(folder)))

    def _is_newest(self, part: Part) -> bool:
        return part.period == max(unit.period for unit in self.states if unit.table == COST_DAILY.name)

    def _rounded(self, part: Part) -> _Rounded:
        """Start to compute a part with rounded costs, some days per file. This thread fetches the input, because it has the snapshot open.

        Parts and files can be computed separately: no rounded sum spans two months, and the query computes each day on its own.
        """
        if part.period not in self._begun:
            folder = Path(tempfile.mkdtemp(dir=self.folder))
            rows = self._fetched(part, folder)
            starts = _file_starts(rows, folder)
            self._begun[part.period] = _Rounded(
                folder,
                [
                    self.worker.submit(_rounded_file, rows, folder / first, first, after)
                    for first, after in zip(starts, [*starts[1:], AFTER_ALL_DAYS], strict=True)
                ],
            )
        return self._begun[part.period]

    def _fetched(self, part: Part, folder: Path) -> list[Path]:
        return [file for unit in part.units if (file := self.warehouse.fetch(unit, folder)) is not None]

    def rounding(self) -> list[Rounding]:
        """Return the difference between rounded costs and the ledger in the newest billing period, by currency."""
        parts = [part for part in self.parts if part.table is COSTS_FOR_DASHBOARDS]
        if not parts:
            return []
        with self.files(parts[-1].rounded) as files, empty_engine(self.folder / "spill") as connection:
            connection.execute(f"create temp view {ROUNDED} as from read_parquet({file_list(files)}, hive_partitioning = false)")
            connection.execute(f"create temp view rows as {duckdb_sql(COSTS_FOR_DASHBOARDS.labels_sql)}")
            found = connection.execute(
                "with sums as (select billing_currency, source, charge_date, team,"
                " sum(effective_cost) - sum(cast(effective_cost_rounded as decimal(18, 2))) as difference from rows group by all),"
                " days as (select billing_currency, abs(sum(difference)) as difference from sums group by billing_currency, source, charge_date),"
                " teams as (select billing_currency, abs(sum(difference)) as difference from sums group by billing_currency, team)"
                " select billing_currency, abs(sum(difference)), (select max(difference) from days d where d.billing_currency = s.billing_currency),"
                " (select max(difference) from teams t where t.billing_currency = s.billing_currency)"
                " from sums s group by billing_currency order by billing_currency"
            ).fetchall()
        return [Rounding(parts[-1].period, *row) for row in found]


def _file_starts(files: list[Path], folder: Path) -> list[str]:
    """Return the first day of each file of cost_daily, so that a file has about ROWS_PER_FILE rows."""
    import pyarrow.parquet as pq

    if sum(pq.read_metadata(file).num_rows for file in files) <= ROWS_PER_FILE:
        return [FIRST_DAY]
    with empty_engine(folder / "spill") as connection:
        found = connection.execute(
            f"with days as (select charge_date, (sum(count(*)) over (order by charge_date) - count(*)) // {ROWS_PER_FILE} as number"
            f" from read_parquet({file_list(files)}, hive_partitioning = false) group by charge_date)"
            " select min(charge_date)::varchar from days group by number order by 1"
        ).fetchall()
    return [FIRST_DAY, *(day for (day,) in found[1:])]


def _rounded_file(files: list[Path], folder: Path, first: str, after: str) -> Path:
    """Write the rows of cost_daily with rounded costs, from the day `first` to the day before `after`. Return the file."""
    folder.mkdir()
    days = f"charge_date >= date '{first}' and charge_date < date '{after}'"
    return _query_file(f"select * from ({COSTS_FOR_DASHBOARDS.rounding_sql}) as r where {days}", COST_DAILY.name, files, folder)


def _query_file(sql: str, table: str, files: list[Path], folder: Path) -> Path:
    """Write the result of a query over one table, whose rows are in `files`. Return the file."""
    target = folder / "rows.parquet"
    with empty_engine(folder / "spill") as connection:
        connection.execute(f"create temp view {table} as from read_parquet({file_list(files)}, hive_partitioning = false)")
        connection.execute(f"copy ({duckdb_sql(sql)}) to {sql_text(target)} (format parquet, compression snappy)")
    return target


@contextmanager
def open_content(warehouse: Warehouse, site_url: str | None = None) -> Iterator[Content]:
    """Open the content as it is now. Later changes of the warehouse do not change it."""
    names = {name for table in PUBLISHED_TABLES for name in (table.over if isinstance(table, View) else (table.name,))}
    with tempfile.TemporaryDirectory(prefix="runspend-") as folder, warehouse.reader(), ThreadPoolExecutor(1) as worker:
        try:
            yield Content(warehouse, Path(folder), warehouse.states(*sorted(names)), worker, site_url)
        finally:
            worker.shutdown(cancel_futures=True)


def builds_rows(content: Content, counts: Mapping[tuple[str, str], tuple[int, datetime]], now: datetime) -> list[dict[str, Any]]:
    """Return the rows of BUILDS. `counts`: the number of rows of each part, and the time when it was copied."""
    rows = [
        {
            "table_name": p.table.name,
            "period": p.period,
            "build_id": p.build_id,
            "row_count": counts[p.key][0],
            "published_at": counts[p.key][1],
            "site_url": None,
        }
        for p in content.parts
    ]
    total = sum(count for count, _ in counts.values())
    whole = {"table_name": WHOLE, "period": WHOLE, "build_id": content.build_id, "row_count": total, "published_at": now}
    return [*rows, whole | {"site_url": content.site_url}]


def months(part: Part) -> tuple[str, str] | None:
    """Return the first day of the part's month and of the next month, in ISO 8601. None for a table without months."""
    if part.table.period_column is None:
        return None
    first, after = month_of(part.period)
    return f"{first}", f"{after}"


def _digest(*texts: object) -> str:
    return hashlib.sha256("\n".join(map(str, texts)).encode()).hexdigest()[:16]
