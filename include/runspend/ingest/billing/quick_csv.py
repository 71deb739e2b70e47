"""Reads a FOCUS CSV in which every row is valid, the fast way: Arrow's reader dictionary-codes strings while it parses.

Belongs here: the conditions for reading a file this way. A file that does not meet them is not refused. `focus.py` then reads it again
the slow way, keeps invalid rows, and reports what is wrong with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from runspend.ingest.billing import columns, texts
from runspend.ingest.billing.columns import combine_chunks
from runspend.ingest.billing.focus_columns import COLUMNS, EXTRA_COLUMNS, INSTANCE_COLUMNS, NULL_TEXTS, TIMES
from runspend.ingest.billing.staging import Staged, arrow_type, currencies, delivered_fields

if TYPE_CHECKING:
    import pyarrow as pa

FIRST, LAST = datetime(2000, 1, 1, tzinfo=timezone.utc), datetime(2101, 1, 1, tzinfo=timezone.utc)
# Texts that Arrow and the macro `instant` of macros.sql read as the same time. Arrow alone would also accept offsets up to 23:59.
PLAIN_TIME = r"^2[01]\d\d-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d{1,6})?)?(Z|[+-](0\d|1[0-3])(:?[0-5]\d)?|[+-]14(:?00)?)$"
PROVIDERS = ("service_provider_name", "host_provider_name", "publisher_name", "provider_name")


def read(staged: Staged, path: Path, header: Sequence[str], lines: int, file_index: int) -> int | None:
    """Stage the rows and return their number. If any row needs the slow reader, stage nothing and return None."""
    rows = 0
    for part in texts.parts_of(path, staged.room.quick_part_bytes):
        delivered = _parse(part, header)
        table = _complete(staged, delivered, file_index) if delivered is not None and _is_sound(delivered) else None
        if table is None:
            staged.drop(file_index)
            return None
        staged.add(file_index, table)
        rows += table.num_rows
    if rows != lines - 1 or not texts.ends_whole(path, len(header)):
        staged.drop(file_index)
        return None
    return rows


def _parse(part: texts.LineRange, header: Sequence[str]) -> dict[str, pa.Array] | None:
    """Return the columns of a part of the file, under the names of `billing_lines`. Return None if Arrow cannot read it exactly.

    Strings are dictionary-coded. Amounts have up to 22 decimals. Every record must be one line of the file, because that parses a fifth
    faster. A misplaced quote would make Arrow skip lines, because it ignores text after a closing quote. So `read` compares the number of
    rows with the number of lines.
    """
    import pyarrow as pa
    import pyarrow.csv as arrow_csv

    wanted = [h for h in header if h in COLUMNS or h in EXTRA_COLUMNS or h in INSTANCE_COLUMNS]
    times = {h for h in wanted if h in COLUMNS and COLUMNS[h].type == "TIMESTAMP"}
    types = {h: arrow_type("STRING" if h in times or h not in COLUMNS else COLUMNS[h].type) for h in wanted}
    names = {h: COLUMNS[h].name if h in COLUMNS else EXTRA_COLUMNS.get(h, h) for h in wanted}
    if not part.left:
        return {names[h]: pa.nulls(0, arrow_type("TIMESTAMP") if h in times else types[h]) for h in wanted}
    convert = arrow_csv.ConvertOptions(
        column_types=types,
        include_columns=wanted,
        null_values=list(NULL_TEXTS),
        strings_can_be_null=True,
    )
    try:
        table = arrow_csv.read_csv(
            part, read_options=arrow_csv.ReadOptions(block_size=texts.BLOCK_BYTES, column_names=list(header)), convert_options=convert
        )
    except pa.ArrowInvalid:
        return None
    found = {name: table.column(name) for name in wanted}
    del table
    with ThreadPoolExecutor() as several:
        pieces = several.map(lambda h: combine_chunks(found.pop(h)), wanted)
        made = {names[h]: piece for h, piece in zip(wanted, pieces, strict=True)}
    for name in (names[h] for h in times):
        read = _read_times(made[name])
        if read is None:
            return None
        made[name] = read
    return made


def _read_times(column: pa.DictionaryArray) -> pa.Array | None:
    """Return texts as times. Each distinct text is parsed once. Return None if a text does not have the form of PLAIN_TIME."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pc.all(pc.match_substring_regex(column.dictionary, PLAIN_TIME), min_count=0).as_py():
        return None
    try:
        return columns.spread(column.indices, column.dictionary.cast(arrow_type("TIMESTAMP")))
    except pa.ArrowInvalid:
        return None


def _is_sound(delivered: dict[str, pa.Array]) -> bool:
    """Return whether every row is valid: it has a cost, a currency, and four plausible times."""
    import pyarrow.compute as pc

    if any(delivered[name].null_count for name in (*TIMES, "billed_cost", "billing_currency")):
        return False
    bounds = [pc.min_max(delivered[name]).as_py() for name in TIMES]
    return all(b["min"] is None or (b["min"] >= FIRST and b["max"] < LAST) for b in bounds)


def _complete(staged: Staged, delivered: dict[str, pa.Array], file_index: int) -> pa.Table | None:
    """Return the rows in the columns of `delivered_fields`, or None if a currency is unknown.

    Currency, providers, instance type and billing period are computed from the delivered columns.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    rows = len(delivered["billed_cost"])
    nulls = columns.Nulls(rows)
    nothing = nulls.of(columns.text_type())
    currency = delivered["billing_currency"]
    codes = pc.utf8_upper(pc.utf8_trim(currency.dictionary, characters=" "))
    if not pc.all(pc.is_in(codes, value_set=pa.array(currencies())), min_count=0).as_py():
        return None
    providers, distinct = columns.combine([delivered.get(name, nothing) for name in PROVIDERS], PROVIDERS)
    service, host = staged.ask(
        distinct,
        "service_provider(service_provider_name, provider_name, publisher_name)",
        "host_provider(host_provider_name, service_provider_name, provider_name)",
    )
    months = pc.dictionary_encode(delivered["billing_period_start"])
    firsts = pa.array([date(t.year, t.month, 1) for t in months.dictionary.to_pylist()], pa.date32())
    made = {
        "billing_currency": columns.remap(currency, codes),
        "service_provider_name": columns.spread(providers, service),
        "host_provider_name": columns.spread(providers, host),
        "delivered_instance_type": columns.first_of([delivered[name] for name in INSTANCE_COLUMNS if name in delivered] or [nothing]),
        "billing_period": firsts.take(months.indices),
        "file_index": pa.repeat(pa.scalar(file_index, pa.int32()), rows),
    }
    there = delivered | made
    return pa.table({f.name: there[f.name] if f.name in there else nulls.of(f.type) for f in delivered_fields()})
