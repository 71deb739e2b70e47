"""Staged rows of any format into `billing_lines`: the engine, the checks every bill goes through, the Parquet file.

Put here what is settled once at load, whoever wrote the bill: canonical tags, the run a tag names, the machine behind a
line, billed time, scope. How a format is read belongs to its module; versions of a bill to `versions.py`.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Context, Decimal
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runspend.billing.verify import free_bytes
from runspend.config import ScopeSettings
from runspend.errors import MissingExtra
from runspend.identifiers import RUN_TAG_KEYS, resource_key_sql
from runspend.selectors import Selector, glob_to_regex
from runspend.tables import BILLING_LINES, FOCUS_COLUMNS

if TYPE_CHECKING:
    import duckdb

# Raised when settling changes what it writes for the same files: versions then differ, and every bill is loaded again.
SETTLE_VERSION = 1
EXACT = Context(prec=76)
MEMORY_LIMIT = "3GB"
FEW_VALUES = 4000
COSTS = ("list_cost", "contracted_cost", "effective_cost", "billed_cost")
TYPES = {
    "STRING": "varchar",
    "BIGNUMERIC": "decimal(38, 22)",
    "TIMESTAMP": "timestamptz",
    "DATE": "date",
    "INT64": "bigint",
    "FLOAT64": "double",
}
# FOCUS value lists. Producers vary the case; the lists are the same from 1.0 to 1.4.
ENUMERATIONS = {
    "charge_category": ("Usage", "Purchase", "Tax", "Credit", "Adjustment"),
    "charge_class": ("Correction",),
    "charge_frequency": ("One-Time", "Recurring", "Usage-Based"),
    "pricing_category": ("Standard", "Dynamic", "Committed", "Other"),
    "commitment_discount_category": ("Spend", "Usage"),
    "commitment_discount_status": ("Used", "Unused"),
    "capacity_reservation_status": ("Used", "Unused"),
}
JSON_COLUMNS = (
    "sku_price_details", "allocated_method_details", "allocated_tags", "contract_applied", "commitment_program_eligibility_details",
)  # fmt: skip
SECOND_NS = 1_000_000_000
TIME_UNITS = {
    SECOND_NS: ("s", "sec", "secs", "second", "seconds"),
    60 * SECOND_NS: ("min", "mins", "minute", "minutes"),
    3600 * SECOND_NS: ("h", "hr", "hrs", "hour", "hours"),
    86400 * SECOND_NS: ("d", "day", "days"),
}
# A flat object of texts, as most bills write tags; anything else is read value by value.
PLAIN_TAGS = r'\{\s*("[^"\\\x00-\x1f]*"\s*:\s*"[^"\\\x00-\x1f]*"\s*(,\s*"[^"\\\x00-\x1f]*"\s*:\s*"[^"\\\x00-\x1f]*"\s*)*)?\}'


@dataclass(frozen=True)
class StagedFile:
    """What a format's module tells of one file it staged."""

    focus_version: str
    rows: int
    dropped_columns: tuple[str, ...] = ()
    unreadable: dict[str, int] = field(default_factory=dict)  # column -> values that became null


def sql_text(text: str) -> str:
    """A text as a SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def open_engine(workdir: Path) -> duckdb.DuckDBPyConnection:
    """A DuckDB in memory that spills into the work folder, with the empty `staged` table and the macros of the SQL files."""
    try:
        import duckdb
    except ImportError as error:
        raise MissingExtra("duckdb", "pipeline") from error
    workdir.mkdir(parents=True, exist_ok=True)
    con = duckdb.connect(":memory:", config={"allow_unsigned_extensions": "false", "autoinstall_known_extensions": "false"})
    con.execute("set TimeZone = 'UTC'")
    con.execute(f"set memory_limit = '{MEMORY_LIMIT}'")
    con.execute(f"set temp_directory = {sql_text(str(workdir / 'spill'))}")
    con.execute(f"set max_temp_directory_size = '{max(free_bytes(workdir) // 2, 1 << 30)}B'")
    con.execute("set preserve_insertion_order = false")
    columns = ", ".join(f"{c.name} {TYPES[c.type]}" for c in FOCUS_COLUMNS)
    con.execute(
        f"create temp table staged ({columns}, delivered_instance_type varchar, machine_key ubigint, row_hash ubigint, billing_period date, "
        "trouble varchar, raw varchar, long_billed_cost varchar, row_number bigint, file_index integer, scope varchar)"
    )
    con.execute("create temp table currencies as select unnest(?) as code", [currencies()])
    con.execute(
        "create temp macro unreadable(name, found, allowed) as "
        "name || ' is ' || coalesce('''' || found || '''', 'empty') || ', which is not ' || allowed"
    )
    con.execute(
        "create temp macro provider_family(name) as case "
        "when lower(name) similar to '.*(amazon|aws).*' then 'aws' when lower(name) similar to '.*(microsoft|azure).*' then 'azure' "
        "when lower(name) like '%google%' then 'google' when lower(name) like '%oracle%' then 'oracle' else lower(name) end"
    )
    # DuckDB asks ICU's calendar for every part of a TIMESTAMPTZ, a microsecond each; through the epoch it is arithmetic.
    con.execute("create temp macro utc(t) as make_timestamp(epoch_us(t))")
    con.execute("create temp macro day_of(t) as cast(utc(t) as date)")
    con.execute("create temp macro month_of(t) as cast(date_trunc('month', utc(t)) as date)")
    con.execute(
        "create temp macro is_plausible(t) as coalesce(t >= timestamptz '2000-01-01 00:00:00+00' and t < timestamptz '2101-01-01 00:00:00+00', false)"
    )
    con.execute(f"create temp macro resource_key(id) as {resource_key_sql('id')}")
    return con


def settle_rows(con: duckdb.DuckDBPyConnection, source: str, scope: ScopeSettings | None) -> dict[str, Any]:
    """Bring all staged rows into one form and find what their lines say. Returns what was changed, by kind, as counts."""
    found: dict[str, Any] = {}
    _settle_enumerations(con, found)
    _settle_tags(con, found)
    _settle_json(con, found)
    _find_machines(con)
    _find_units(con)
    _find_repeats(con)
    _settle_scope(con, source, scope)
    _find_few_valued(con)
    negative = _count(con, "select count(*) from staged where list_unit_price < 0 or contracted_unit_price < 0")
    if negative:
        found["negative_unit_prices"] = negative
    return found


def _settle_enumerations(con: duckdb.DuckDBPyConnection, found: dict[str, Any]) -> None:
    for column, allowed in ENUMERATIONS.items():
        spelled = {value.lower(): value for value in allowed}
        for value, rows in con.execute(
            f"select {column}, count(*) from staged where {column} is not null group by all order by 1"
        ).fetchall():
            if value in allowed:
                continue
            known = spelled.get(str(value).strip().lower())
            if known:
                con.execute(f"update staged set {column} = ? where {column} = ?", [known, value])
            kind = "respelled_values" if known else "unknown_values"
            found.setdefault(kind, {})[f"{column}: {value}"] = rows


def _settle_tags(con: duckdb.DuckDBPyConnection, found: dict[str, Any]) -> None:
    """Tags become a JSON object of texts or null; `tag_facts` says which run they name."""
    # A table, not a subquery: the optimizer would run the filters below on every row instead of every distinct text.
    con.execute(
        "create or replace temp table distinct_tags as select tags, count(*) as rows from staged where tags is not null group by all"
    )
    odd = con.execute(
        f"select tags, rows from distinct_tags where case when not regexp_full_match(tags, {sql_text(PLAIN_TAGS)}) then true "
        "else len(json_keys(tags)) <> len(list_distinct(json_keys(tags))) end order by tags"
    ).fetchall()
    respelled = []
    for text, rows in odd:
        canonical = canonical_tags(text)
        if canonical is None:
            found["unreadable_tags"] = found.get("unreadable_tags", 0) + rows
        if canonical != text:
            respelled.append((text, canonical))
    if respelled:
        con.execute("create or replace temp table respelled_tags (delivered varchar, tags varchar)")
        _insert_rows(con, "respelled_tags", respelled)
        con.execute("update staged set tags = r.tags from respelled_tags r where staged.tags = r.delivered")
    paths = [f'$."{key}"' for key in RUN_TAG_KEYS]
    texts = ", ".join(f"nullif(trim(json_extract_string(tags, {sql_text(path)})), '')" for path in paths)
    con.execute("create or replace temp table distinct_tags as select distinct tags from staged where contains(tags, 'mlflow')")
    con.execute(
        "create or replace temp table tag_facts as "
        f"select * from (select tags, coalesce({texts}) as run_tag from distinct_tags) where run_tag is not null"
    )


def canonical_tags(text: str) -> str | None:
    """Tags as a flat JSON object of texts and nulls; None when they are not one (nested, a key twice, no JSON).

    A tag without a value is `true` in FOCUS and stays the text "true"; numbers keep their digits.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        if len(set(keys)) != len(keys):
            raise ValueError("a key twice")
        return dict(pairs)

    try:
        tags = json.loads(text, object_pairs_hook=unique, parse_float=str, parse_int=str, parse_constant=str)
    except (ValueError, RecursionError):
        return None
    if not isinstance(tags, dict) or any(isinstance(v, (dict, list)) for v in tags.values()):
        return None
    if any("\ud800" <= c <= "\udfff" or c == "\0" for pair in tags.items() for part in pair if isinstance(part, str) for c in part):
        return None  # half a character, or one no database keeps
    return json.dumps(
        {k: ("true" if v else "false") if isinstance(v, bool) else v for k, v in tags.items()}, ensure_ascii=False, separators=(",", ":")
    )


def _settle_json(con: duckdb.DuckDBPyConnection, found: dict[str, Any]) -> None:
    """The other JSON columns keep their text; what is no JSON object becomes null and is counted."""
    for column in JSON_COLUMNS:
        bad = _count(
            con, f"select count(*) from staged where {column} is not null and not (json_valid({column}) and json_type({column}) = 'OBJECT')"
        )
        if bad:
            con.execute(
                f"update staged set {column} = null where {column} is not null and not (json_valid({column}) and json_type({column}) = 'OBJECT')"
            )
            found.setdefault("unreadable_json", {})[column] = bad


def _find_machines(con: duckdb.DuckDBPyConnection) -> None:
    """`machine_facts`: instance type, GPUs, vCPUs and memory of every distinct description, which many lines share."""
    known = instance_types()
    rows = con.execute(
        "select machine_key, any_value(sku_price_details), any_value(resource_type), any_value(delivered_instance_type) from staged "
        "where sku_price_details is not null or resource_type is not null or delivered_instance_type is not null group by machine_key"
    ).fetchall()
    con.execute(
        "create or replace temp table machine_facts "
        "(machine_key ubigint, instance_type varchar, machine_gpus bigint, machine_cpus bigint, machine_memory_gb double)"
    )
    facts = [(key, *describe_machine(details, kind, stated, known)) for key, details, kind, stated in rows]
    _insert_rows(con, "machine_facts", [f for f in facts if any(value is not None for value in f[1:])])


def currencies() -> list[str]:
    """ISO 4217 codes of national currencies and funds in use, and those replaced since 2020 that old bills still carry."""
    return files("runspend.billing").joinpath("currencies.csv").read_text(encoding="utf-8").split()[1:]


Machine = tuple[str | None, int | None, int | None, float | None]


def describe_machine(details: str | None, resource_type: str | None, stated: str | None, known: dict[str, Machine]) -> Machine:
    """(instance type, GPUs, vCPUs, GiB) by SkuPriceDetails, else the provider's own column, else the type's entry in the list."""
    said: dict[str, Any] = {}
    if details:
        try:
            parsed = json.loads(details)
        except (ValueError, RecursionError):
            parsed = None
        said = parsed if isinstance(parsed, dict) else {}
    instance_type = next((str(said[k]) for k in ("InstanceType", "x_InstanceType") if isinstance(said.get(k), str) and said[k]), None)
    if instance_type is None and stated:
        # AWS writes usage types such as USW2-BoxUsage:p4d.24xlarge; a bare type stands for itself.
        match = re.fullmatch(r"(?:.*(?:Usage|Box|Host)[^:]*:)?([a-z][a-z0-9-]*\.[a-z0-9-]+)", stated)
        instance_type = match[1] if match else stated if stated.lower() in known else None
    if instance_type is None and resource_type and resource_type.lower() in known:
        instance_type = resource_type
    listed = known.get((instance_type or "").lower(), (None, None, None, None))
    cpus, gpus, memory = (_number(said.get(k)) for k in ("CoreCount", "GpuCount", "MemorySize"))
    return (
        instance_type,
        _whole(gpus) if gpus is not None else listed[1],
        _whole(cpus) if cpus is not None else listed[2],
        memory if memory is not None else listed[3],
    )


def _number(value: Any) -> float | None:
    """A number, or the number a text such as "16 GiB" starts with."""
    if isinstance(value, bool) or value is None:
        return None
    match = re.match(r"\s*(\d+(?:\.\d+)?)", str(value))
    return float(match[1]) if match else None


def _whole(value: float) -> int | None:
    return int(value) if value < 1e6 else None


def instance_types() -> dict[str, Machine]:
    """Common machine types of the clouds by lower-cased name, from instance_types.csv (published by the providers)."""
    text = files("runspend.billing").joinpath("instance_types.csv").read_text(encoding="utf-8")
    return {
        row["instance_type"].lower(): (row["instance_type"], int(row["gpus"]), int(row["cpus"]), float(row["memory_gb"]))
        for row in csv.DictReader(text.splitlines())
    }


def _find_units(con: duckdb.DuckDBPyConnection) -> None:
    con.execute("create or replace temp table time_units (consumed_unit varchar, nanoseconds bigint)")
    units = con.execute("select distinct consumed_unit from staged where consumed_unit is not null").fetchall()
    _insert_rows(con, "time_units", [(unit, ns) for (unit,) in units if (ns := plain_time(unit)) is not None])


def plain_time(unit: str) -> int | None:
    """Nanoseconds of a unit that is a plain time ("Hours", "h", "100 Hours"); None for GB-Hours, vCPU-Hours and all others."""
    match = re.fullmatch(r"\s*(?:(\d{1,7})\s+)?([A-Za-z]+)(?:\(s\))?\s*", unit)
    if not match:
        return None
    word = match[2].lower()
    return next((int(match[1] or 1) * ns for ns, words in TIME_UNITS.items() if word in words), None)


def _find_repeats(con: duckdb.DuckDBPyConnection) -> None:
    """`repeats`: rows that another row equals, with their ordinal. Equal rows are equal lines, never one line twice."""
    con.execute(
        "create or replace temp table repeats as with repeated as (select billing_period, row_hash from staged group by all having count(*) > 1) "
        "select s.rowid as row_id, row_number() over (partition by s.billing_period, s.row_hash order by s.file_index, s.rowid) - 1 as ordinal "
        "from staged s join repeated r on r.row_hash = s.row_hash and r.billing_period is not distinct from s.billing_period qualify ordinal > 0"
    )


def _find_few_valued(con: duckdb.DuckDBPyConnection) -> None:
    """An enumeration type `few_COLUMN` for every text column of few values: sorting and writing their numbers instead of
    their texts takes less than half the time, and Parquet holds the same."""
    names = [c.name for c in FOCUS_COLUMNS if c.type == "STRING"]
    counts = (
        con.execute(f"select {', '.join(f'approx_count_distinct({n})' for n in names)} from (from staged limit 50000)").fetchone() or ()
    )
    for name, count in zip(names, counts, strict=True):
        if 0 < count <= FEW_VALUES:
            con.execute(
                f"create or replace type few_{name} as enum (select distinct {name} from staged where {name} is not null order by 1)"
            )


def _settle_scope(con: duckdb.DuckDBPyConnection, source: str, scope: ScopeSettings | None) -> None:
    if scope is None or not (scope.include or scope.exclude):
        return
    included = " or ".join(selector_sql(s, source) for s in scope.include) or "true"
    excluded = " or ".join(selector_sql(s, source) for s in scope.exclude) or "false"
    con.execute(f"update staged set scope = case when ({included}) and not ({excluded}) then 'include' else 'exclude' end")


def selector_sql(selector: Selector, source: str) -> str:
    """DuckDB condition for a line selector: its keys all hold, each for any of its patterns. Null never matches."""
    columns = {
        "source": [sql_text(source)],
        "account": ["sub_account_id", "billing_account_id"],
        "service": ["service_name"],
        "region": ["region_id"],
        "resource": ["resource_id", "resource_key(resource_id)"],
        "category": ["charge_category"],
    }
    terms = []
    for key, patterns in selector.items():
        expressions = columns.get(key) or [f"json_extract_string(tags, {sql_text(json_path(key.partition('.')[2]))})"]
        tests = [
            f"coalesce({e} = {sql_text(p)}, false)"
            if not re.search(r"[*?]", p)
            else f"coalesce(regexp_matches({e}, {sql_text(glob_to_regex(p))}), false)"
            for e in expressions
            for p in patterns
        ]
        terms.append("(" + " or ".join(tests) + ")")
    return "(" + " and ".join(terms) + ")"


def json_path(key: str) -> str:
    """The JSON path of a top-level key, whatever characters it has."""
    return '$."' + key.replace("\\", "\\\\").replace('"', '\\"') + '"'


def write_lines(
    con: duckdb.DuckDBPyConnection, source: str, period: str, file_indexes: Sequence[int], load_id: str, path: Path, *, is_scoped: bool
) -> None:
    """The period's `billing_lines` as one sorted Parquet file."""
    folder = files("runspend.billing")
    settle = folder.joinpath("settle.sql").read_text(encoding="utf-8")
    _choose(con, period, file_indexes)
    con.execute(f"set variable source = {sql_text(source)}")
    con.execute(f"set variable load_id = {sql_text(load_id)}")
    relation = f"({settle})"
    if is_scoped:
        con.execute(f"create or replace temp view settled as {settle}")
        sums = folder.joinpath("out_of_scope.sql").read_text(encoding="utf-8")
        relation = f"(select * from settled where scope is distinct from 'exclude' union all by name {sums})"
    few = {row[0] for row in con.execute("select type_name from duckdb_types() where starts_with(type_name, 'few_')").fetchall()}
    types = {c.name: f"few_{c.name}" if f"few_{c.name}" in few else TYPES[c.type] for c in BILLING_LINES.columns}
    columns = ", ".join(f"cast({name} as {kind}) as {name}" for name, kind in types.items())
    con.execute(
        f"copy (select {columns} from {relation} order by {', '.join(BILLING_LINES.sort)}) "
        f"to {sql_text(str(path))} (format parquet, compression zstd, compression_level 1)"
    )


def _choose(con: duckdb.DuckDBPyConnection, period: str, file_indexes: Sequence[int]) -> None:
    con.execute(f"set variable period = date '{period}-01'")
    con.execute("create or replace temp table chosen_files as select unnest(?)::integer as file_index", [list(file_indexes)])


CHOSEN = "billing_period = getvariable('period') and file_index in (select file_index from chosen_files)"


@dataclass(frozen=True)
class Totals:
    """What one currency of one period sums to."""

    currency: str
    row_count: int
    costs: tuple[Decimal, Decimal, Decimal, Decimal]  # in the order of COSTS
    null_list_count: int
    null_contracted_count: int
    null_effective_count: int
    covered_until: datetime | None
    is_invoiced: bool
    rounded_cost: Decimal


def read_totals(con: duckdb.DuckDBPyConnection, period: str, file_indexes: Sequence[int]) -> list[Totals]:
    """Totals per currency of what `write_lines` writes for the same arguments."""
    _choose(con, period, file_indexes)
    sums = ", ".join(f"coalesce(sum({c}), 0)::decimal(38, 22)" for c in COSTS)
    rows = con.execute(
        f"select billing_currency, count(*), {sums}, count(*) - count(list_cost), count(*) - count(contracted_cost), count(*) - count(effective_cost), "
        "max(charge_period_end) filter (charge_category = 'Usage'), count(invoice_id) = count(*) "
        f"from staged where trouble is null and {CHOSEN} group by 1 order by 1"
    ).fetchall()
    rounded = _rounded(con)
    return [Totals(r[0], r[1], (r[2], r[3], r[4], r[5]), r[6], r[7], r[8], r[9], r[10], rounded.get(r[0], Decimal(0))) for r in rows]


def _rounded(con: duckdb.DuckDBPyConnection) -> dict[str, Decimal]:
    """Per currency: the sum of delivered minus loaded BilledCost, exactly, over texts with more than 22 decimals."""
    sums: dict[str, Decimal] = {}
    for currency, text, loaded, rows in con.execute(
        "select billing_currency, long_billed_cost, billed_cost, count(*) from staged "
        f"where trouble is null and long_billed_cost is not null and {CHOSEN} group by all"
    ).fetchall():
        delivered = Decimal(text.strip())
        exponent = delivered.as_tuple().exponent
        if isinstance(exponent, int) and exponent < -22:
            rest = EXACT.multiply(EXACT.subtract(delivered, loaded), Decimal(rows))
            sums[currency] = EXACT.add(sums.get(currency, Decimal(0)), rest)
    return sums


@dataclass(frozen=True)
class FedPeriod:
    """What one file holds for one period and billing account."""

    file_index: int
    period: str
    account: str
    currency: str
    rows: int
    quarantined: int
    billed: Decimal
    first_day: date
    last_day: date


def read_census(con: duckdb.DuckDBPyConnection) -> list[FedPeriod]:
    """Which files feed which periods of which accounts, over which charge days, with how much money."""
    rows = con.execute(
        "select file_index, strftime(billing_period, '%Y-%m'), coalesce(billing_account_id, ''), coalesce(billing_currency, ''), "
        "count(*) filter (trouble is null), count(*) filter (trouble is not null), coalesce(sum(billed_cost) filter (trouble is null), 0)::decimal(38, 22), "
        "day_of(min(charge_period_start)), day_of(max(charge_period_start)) from staged where billing_period is not null group by all order by all"
    ).fetchall()
    return [FedPeriod(*row) for row in rows]


def place_unreadable_periods(con: duckdb.DuckDBPyConnection, stated: dict[int, str]) -> list[int]:
    """Give quarantined rows without a readable period the one their file states, else the only one its other rows have,
    else the month of the charge. Returns the files in which that leaves rows without any."""
    for file_index, period in stated.items():
        con.execute(
            "update staged set billing_period = cast(? as date) where billing_period is null and file_index = ?",
            [f"{period}-01", file_index],
        )
    con.execute(
        "update staged set billing_period = null where trouble is not null and not is_plausible(cast(billing_period as timestamptz))"
    )
    con.execute(
        "update staged set billing_period = o.billing_period from (select file_index, mode(billing_period) as billing_period from staged "
        "where trouble is null group by 1) o where staged.billing_period is null and o.file_index = staged.file_index"
    )
    con.execute(
        "update staged set billing_period = month_of(charge_period_start) where billing_period is null and is_plausible(charge_period_start)"
    )
    return [row[0] for row in con.execute("select distinct file_index from staged where billing_period is null order by 1").fetchall()]


def read_quarantine(con: duckdb.DuckDBPyConnection, period: str, file_indexes: Sequence[int]) -> list[dict[str, Any]]:
    """The period's rows that could not be read, whole."""
    _choose(con, period, file_indexes)
    result = con.execute(
        "select printf('%016x', s.row_hash) || case when r.ordinal is null then '' else '-' || r.ordinal end as line_id, s.file_index, s.row_number, "
        "s.trouble as reason, case when not starts_with(s.trouble, 'BilledCost') then s.billed_cost end as billed_cost, s.raw "
        f"from staged s left join repeats r on r.row_id = s.rowid where s.trouble is not null and {CHOSEN} order by 1"
    )
    names = [d[0] for d in result.description or ()]
    return [dict(zip(names, row, strict=True)) for row in result.fetchall()]


def read_day_sums(
    con: duckdb.DuckDBPyConnection, period: str, file_indexes: Sequence[int]
) -> dict[tuple[Any, str, str, str], tuple[Decimal, ...]]:
    """(charge date, service, sub-account, currency) -> the four costs, in the order of COSTS."""
    _choose(con, period, file_indexes)
    sums = ", ".join(f"coalesce(sum({c}), 0)::decimal(38, 22)" for c in COSTS)
    rows = con.execute(
        f"select day_of(charge_period_start), coalesce(service_name, ''), coalesce(sub_account_id, ''), billing_currency, {sums} "
        f"from staged where trouble is null and {CHOSEN} group by all"
    ).fetchall()
    return {(r[0], r[1], r[2], r[3]): tuple(r[4:]) for r in rows}


def find_overlap(con: duckdb.DuckDBPyConnection, period: str, file_indexes: Sequence[int]) -> tuple[int, int, str, date] | None:
    """The first (file, file, billing account, charge day) that two files both hold."""
    _choose(con, period, file_indexes)
    row = con.execute(
        f"select min(file_index), max(file_index), coalesce(billing_account_id, ''), day_of(charge_period_start) from staged where trouble is null and {CHOSEN} "
        "group by 3, 4 having count(distinct file_index) > 1 order by 4, 3 limit 1"
    ).fetchone()
    return None if row is None else (row[0], row[1], row[2], row[3])


def read_charge_range(con: duckdb.DuckDBPyConnection, period: str, file_indexes: Sequence[int]) -> dict[str, str | None]:
    """First and last instant that lines of the period charge for, ISO texts: what runs can overlap them."""
    _choose(con, period, file_indexes)
    row = con.execute(f"select min(charge_period_start), max(charge_period_end) from staged where trouble is null and {CHOSEN}").fetchone()
    first, last = row or (None, None)
    return {"first_charge_start": first and first.isoformat(), "last_charge_end": last and last.isoformat()}


def _insert_rows(con: duckdb.DuckDBPyConnection, table: str, rows: list[tuple[Any, ...]]) -> None:
    """Insert many small rows, a column a parameter: `executemany` takes a millisecond a row, Arrow brings in pandas first."""
    if rows:
        columns = [list(column) for column in zip(*rows, strict=True)]
        con.execute(f"insert into {table} select {', '.join('unnest(?)' for _ in columns)}", columns)


def _count(con: duckdb.DuckDBPyConnection, sql: str) -> int:
    row = con.execute(sql).fetchone()
    return int(row[0]) if row else 0
