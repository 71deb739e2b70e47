"""Reads FOCUS Cost and Usage files, versions 1.0 to 1.4, as CSV, Parquet or JSON, and stages their rows.

Belongs here: code that is specific to FOCUS: how its versions are recognized, which columns are required, and how strings become typed
values. The later steps are the same for every bill and are in `normalize.py`. This module does not use `format_spec.py`. FOCUS columns
are the columns of the warehouse, so `quick_csv.py` can read them directly with their types.

Source: FinOps Open Cost and Usage Specification, https://focus.finops.org
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from runspend.core.sql_quoting import sql_name, sql_text
from runspend.ingest.billing import columns, quick_csv, texts
from runspend.ingest.billing.focus_columns import COLUMNS, EXTRA_COLUMNS, INSTANCE_COLUMNS, NULL_TEXTS, TIMES
from runspend.ingest.billing.manifests import Delivered
from runspend.ingest.billing.staging import Staged, StagedFile, delivered_fields
from runspend.ingest.billing.verify import refused
from runspend.ingest.billing.wide_decimals import narrowed

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

REQUIRED = (
    "BilledCost", "EffectiveCost", "ListCost", "ContractedCost", "BillingCurrency", "BillingAccountId", "BillingPeriodStart",
    "BillingPeriodEnd", "ChargePeriodStart", "ChargePeriodEnd", "ChargeCategory", "ServiceName",
)  # fmt: skip
REQUIRED_SPELLINGS = {**{column: (column,) for column in REQUIRED}, "ServiceProviderName": ("ServiceProviderName", "ProviderName")}
# Columns that a version introduced. A file with one of them has at least that version.
VERSION_MARKS = (
    ("1.4", ("InvoiceDetailId", "CommitmentProgramEligibilityDetails")),
    ("1.3", ("ServiceProviderName", "HostProviderName", "ContractApplied", "AllocatedMethodId")),
    ("1.2", ("InvoiceId", "PricingCurrency", "BillingAccountType", "SubAccountType", "PricingCurrencyEffectiveCost")),
    ("1.1", ("SkuMeter", "SkuPriceDetails", "ServiceSubcategory", "CapacityReservationId", "CommitmentDiscountQuantity")),
)


def matches(header: Sequence[str]) -> bool:
    """Return whether a header has more than half of the required FOCUS columns. `stage` checks that it has all of them."""
    return len(set(REQUIRED) & set(header)) * 2 > len(REQUIRED)


def focus_version(header: Sequence[str]) -> str:
    """Return the FOCUS version of a header, such as "1.2". A file with the new provider columns but without the old ones is 1.4."""
    names = set(header)
    if "ServiceProviderName" in names and not {"ProviderName", "PublisherName"} & names:
        return "1.4"
    return next((version for version, marks in VERSION_MARKS if names & set(marks)), "1.0")


def stage(staged: Staged, delivered: Delivered) -> StagedFile:
    """Put the rows of one verified file into `staged`.

    Raises SourceRefused if a required column is missing, or if the file does not fit its header.
    """
    import duckdb

    source, name, file, file_index = delivered.source.name, delivered.name, delivered.file, delivered.index
    path = file.readable
    header = texts.read_header(source, name, file)
    if file.kind == "json":  # a field of an object, such as "Tags.team", belongs to the column "Tags"
        header = list(dict.fromkeys(field.split(".")[0] for field in header))
    _check_header(source, name, header)
    readable = [*COLUMNS, *EXTRA_COLUMNS, *INSTANCE_COLUMNS]
    dropped = tuple(h for h in header if h not in readable)
    unreadable: dict[str, int] = {}
    try:
        if file.kind == "parquet":
            rows, unreadable = _read_parquet(staged, path, file_index)
        elif file.kind == "json":
            with staged.cursor() as con:
                _view_json(con, header, path, file_index)
                rows = _judge(staged, con, file_index)
            unreadable = _count_unreadable(staged.con, _json_refs(header), texts.exact_json_sql(path))
        else:
            quick = quick_csv.read(staged, path, header, file.lines, file_index)
            rows, unreadable = (quick, {}) if quick is not None else _read_any(staged, source, name, path, header, file_index)
    except (duckdb.OutOfMemoryException, duckdb.InternalException):
        raise  # this is not the file's fault
    except duckdb.Error as error:
        raise refused(source, name, f"{texts.explain(str(error))}. Deliver it again, or fix the export that writes it") from error
    return StagedFile(focus_version(header), rows, dropped, unreadable)


def _check_header(source: str, name: str, header: Sequence[str]) -> None:
    if repeated := texts.repeated_in(header):
        raise refused(source, name, f"its header names {', '.join(repeated)} more than once. Export each column once")
    missing = [c for c in REQUIRED if c not in header]
    if not {"ProviderName", "ServiceProviderName"} & set(header):
        missing.append("ServiceProviderName (ProviderName up to 1.2)")
    if missing:
        raise refused(source, name, f"it lacks mandatory FOCUS columns: {', '.join(missing)}. Add them to the export")


def _read_any(staged: Staged, source: str, name: str, path: Path, header: Sequence[str], file_index: int) -> tuple[int, dict[str, int]]:
    """Run `_read_tolerantly` on the file, or on its copy by `even_row_ends` if DuckDB cannot read the line breaks of the file."""
    import duckdb

    try:
        return _read_tolerantly(staged, source, name, path, header, file_index)
    except duckdb.InvalidInputException as error:
        even = texts.even_row_ends(path, len(header), texts.work_folder(staged.con)) if "state machine" in str(error) else None
        if even is None:
            raise
    staged.drop(file_index)
    found = _read_tolerantly(staged, source, name, even, header, file_index)
    even.unlink()
    return found


def _read_tolerantly(
    staged: Staged, source: str, name: str, path: Path, header: Sequence[str], file_index: int
) -> tuple[int, dict[str, int]]:
    """Stage the rows of any CSV. Rows with errors keep their number and text.

    Return (number of rows, column -> number of values that could not be read).
    """
    delimiter = texts.find_delimiter(path)
    texts.check_row_ends(staged.con, source, name, path, len(header), delimiter)
    relation = texts.csv_sql(path, ["varchar"] * len(header), NULL_TEXTS, delimiter)
    with staged.cursor() as con:
        _view_csv(con, header, relation, file_index)
        rows = _judge(staged, con, file_index)
    refs = {name: f"c{i}" for i, name in enumerate(header)}
    return rows, _count_unreadable(staged.con, refs, relation)


def _judge(staged: Staged, con: duckdb.DuckDBPyConnection, file_index: int) -> int:
    """Check each row of the view `delivered`, stage all of them, and return their number.

    The rows are processed in batches. As plain strings, all rows together would take many times the size of the file.
    """
    import pyarrow as pa

    query = files("runspend.ingest.billing.formats").joinpath("focus.sql").read_text(encoding="utf-8")
    rows = 0
    for batch in con.sql(query).to_arrow_reader(2 * staged.room.share_rows):  # FOCUS rows are narrow, so a batch may have more of them
        nulls = columns.Nulls(batch.num_rows)
        coded = {field.name: _coded(batch.column(field.name), field.type, nulls) for field in delivered_fields()}
        staged.add(file_index, pa.table(coded))
        rows += batch.num_rows
    return rows


def _coded(column: pa.Array, kind: pa.DataType, nulls: columns.Nulls) -> pa.Array:
    """Return a column in its staged type. Columns of one type without any value share one array."""
    import pyarrow as pa

    if column.null_count == len(column):
        return nulls.of(kind)
    return column.cast(pa.string()).dictionary_encode() if pa.types.is_dictionary(kind) else column.cast(kind)


def _view_csv(con: duckdb.DuckDBPyConnection, header: Sequence[str], relation: str, file_index: int) -> None:
    """Create the view `delivered` over a CSV. Each value is there as text, and in its type if the text can be parsed."""
    at = {name: f"c{i}" for i, name in enumerate(header)}
    typed = {
        name: ref if COLUMNS[name].type == "STRING" else _typed(ref, COLUMNS[name].type) for name, ref in at.items() if name in COLUMNS
    }
    raw = f"json_object({', '.join(f'{sql_text(n)}, {ref}' for n, ref in at.items())})"
    _create_view(con, relation, at, typed, at, raw, "row_number() over ()", file_index)


def _typed(text: str, kind: str) -> str:
    return f"number({text})" if kind == "BIGNUMERIC" else f"instant({text})"


def _read_parquet(staged: Staged, path: Path, file_index: int) -> tuple[int, dict[str, int]]:
    """Stage the rows of a Parquet file.

    Return (number of rows, column -> number of strings that could not be parsed as a number or time).
    """
    relation = f"read_parquet({sql_text(str(narrowed(path, texts.work_folder(staged.con))))}, file_row_number = true)"
    with staged.cursor() as con:
        as_texts = _view_parquet(con, relation, file_index)
        rows = _judge(staged, con, file_index)
    return rows, _count_unreadable(staged.con, as_texts, relation)


def _view_parquet(con: duckdb.DuckDBPyConnection, relation: str, file_index: int) -> dict[str, str]:
    """Create the view `delivered` over a Parquet file. Return the columns that are strings, with the SQL for their text.

    Numbers are read through their text, because the shortest text of a double is the number that its writer meant.
    """
    kinds = {str(row[0]): str(row[1]).upper() for row in con.execute(f"describe select * from {relation}").fetchall()}
    kinds.pop("file_row_number")
    nulls = ", ".join(sql_text(t) for t in NULL_TEXTS)
    texts, typed = {}, {}
    for name, kind in kinds.items():
        ref = sql_name(name)
        is_nested = kind.startswith(("MAP", "STRUCT")) or kind.endswith("[]")
        text = f"cast(to_json({ref}) as varchar)" if is_nested else f"cast({ref} as varchar)"
        texts[name] = f"case when {text} in ({nulls}) then null else {text} end"
        if column := COLUMNS.get(name):
            is_time = column.type == "TIMESTAMP" and kind.startswith(("TIMESTAMP", "DATE"))
            typed[name] = (
                f"cast({ref} as timestamptz)" if is_time
                else texts[name] if column.type == "STRING"
                else _typed(texts[name], column.type)
            )  # fmt: skip
    raw = f"cast(json_object({', '.join(f'{sql_text(n)}, {t}' for n, t in texts.items())}) as varchar)"
    _create_view(con, relation, texts, typed, texts, raw, "file_row_number + 1", file_index)
    return {name: text for name, text in texts.items() if kinds[name] == "VARCHAR"}


def _json_refs(header: Sequence[str]) -> dict[str, str]:
    """Return the SQL for the text of each column. The text of an object or list is its JSON."""
    nulls = ", ".join(sql_text(t) for t in NULL_TEXTS)
    values = {name: f"json_extract_string(json, {sql_text('/' + name.replace('~', '~0').replace('/', '~1'))})" for name in header}
    return {name: f"case when {value} in ({nulls}) then null else {value} end" for name, value in values.items()}


def _view_json(con: duckdb.DuckDBPyConnection, header: Sequence[str], path: Path, file_index: int) -> None:
    """Create the view `delivered` over a JSON file. Each value is there as text, and in its type if the text can be parsed."""
    refs = _json_refs(header)
    typed = {n: ref if COLUMNS[n].type == "STRING" else _typed(ref, COLUMNS[n].type) for n, ref in refs.items() if n in COLUMNS}
    _create_view(con, texts.exact_json_sql(path), refs, typed, refs, "json", "row_number() over ()", file_index)


def _create_view(
    con: duckdb.DuckDBPyConnection,
    relation: str,
    refs: dict[str, str],
    typed: dict[str, str],
    texts: dict[str, str],
    raw: str,
    row_number: str,
    file_index: int,
) -> None:
    """Create the view `delivered`, which focus.sql reads. It has every FOCUS column; columns that the file lacks are null.

    `refs` is the SQL for each column of the file, `typed` in the type of the column, and `texts` as text.
    """
    select = [f"{typed.get(name, 'null')} as {column.name}" for name, column in COLUMNS.items()]
    select += [f"{refs.get(name, 'null')} as {alias}" for name, alias in EXTRA_COLUMNS.items()]
    for name, column in COLUMNS.items():
        if column.name in TIMES or column.name == "billed_cost":
            select.append(f"cast({texts.get(name, 'null')} as varchar) as {column.name}_text")
    stated = [refs[name] for name in INSTANCE_COLUMNS if name in refs]
    select.append(f"{'coalesce(' + ', '.join(stated) + ')' if stated else 'cast(null as varchar)'} as delivered_instance_type")
    select.append("cast(null as varchar) as iam_principal")
    select += [f"cast({raw} as varchar) as raw", f"cast({row_number} as bigint) as row_number", f"{file_index} as file_index"]
    con.execute(f"create or replace temp view delivered as select {', '.join(select)} from {relation}")


def _count_unreadable(con: duckdb.DuckDBPyConnection, refs: Mapping[str, str], relation: str) -> dict[str, int]:
    """Return the number of values, by column, that could not be parsed as a number or time. They become null and are reported."""
    typed = {
        name: (ref, _typed(ref, COLUMNS[name].type)) for name, ref in refs.items() if name in COLUMNS and COLUMNS[name].type != "STRING"
    }
    counts = ", ".join(f"count(*) filter ({ref} is not null and {value} is null)" for ref, value in typed.values())
    [row] = con.execute(f"select {counts} from {relation}").fetchall() if typed else [()]
    return {name: count for name, count in zip(typed, row, strict=True) if count}
