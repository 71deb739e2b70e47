"""Reads columns of a Parquet file as dictionary-coded strings. A value becomes a string once, not once per row.

Belongs here: the types whose distinct values can be found before they become strings: strings, numbers, times, and maps of strings. If a
wanted column has another type, `texts.read_slowly` reads the file instead. It returns the same strings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from runspend.ingest.billing import columns
from runspend.ingest.billing.columns import combine_chunks

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa
    import pyarrow.parquet as pq


def can_read(path: Path, wanted: Sequence[str]) -> bool:
    """Return whether this module can read every wanted column."""
    import pyarrow.parquet as pq

    kinds = {field.name: field.type for field in pq.read_schema(path)}
    return all(name in kinds and _is_known(kinds[name]) for name in wanted)


def read(con: duckdb.DuckDBPyConnection, path: Path, wanted: Sequence[str], share: int) -> Iterator[list[pa.Array]]:
    """Yield the wanted columns in batches of about `share` rows. Empty strings become null."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {field.name: field.type for field in pq.read_schema(path)}
    strings = [name for name in wanted if pa.types.is_string(kinds[name])]
    with pq.ParquetFile(path, read_dictionary=strings, page_checksum_verification=True) as opened:
        batches: list[pa.RecordBatch] = []
        left = opened.metadata.num_rows
        for batch in _batches(opened, list(dict.fromkeys(wanted)), share):
            held = sum(each.num_rows for each in batches)
            # A small rest is added to the batch before it, because planning the SQL of a batch takes as long as running it for 50,000 rows.
            if held + batch.num_rows > share and (left - held) * 4 > share:
                yield _columns_of(con, batches, wanted)
                batches, left = [], left - held
            batches.append(batch)
        if batches:
            yield _columns_of(con, batches, wanted)


def _batches(opened: pq.ParquetFile, wanted: Sequence[str], share: int) -> Iterator[pa.RecordBatch]:
    """Yield the batches of each row group separately. A reader of several groups would keep all strings of earlier groups in memory."""
    for group in range(opened.num_row_groups):
        yield from opened.iter_batches(batch_size=share, columns=wanted, row_groups=[group])


def _columns_of(con: duckdb.DuckDBPyConnection, batches: Sequence[pa.RecordBatch], wanted: Sequence[str]) -> list[pa.Array]:
    import pyarrow as pa

    table = pa.Table.from_batches(batches)

    def texts_of(name: str) -> pa.DictionaryArray:
        with con.cursor() as own:
            return _texts_of(own, combine_chunks(table.column(name)))

    with ThreadPoolExecutor(2) as several:  # not more, because each column in progress takes memory
        return list(several.map(texts_of, wanted))


def _is_known(kind: pa.DataType) -> bool:
    import pyarrow as pa

    if pa.types.is_map(kind):
        return bool(pa.types.is_string(kind.key_type) and pa.types.is_string(kind.item_type))
    known = (pa.types.is_string, pa.types.is_floating, pa.types.is_integer, pa.types.is_decimal128, pa.types.is_timestamp, pa.types.is_date)
    return any(is_kind(kind) for is_kind in known)


def _texts_of(con: duckdb.DuckDBPyConnection, column: pa.Array) -> pa.DictionaryArray:
    """Return one column as a dictionary-coded text column."""
    import pyarrow as pa

    if column.null_count == len(column):
        return pa.nulls(len(column), columns.text_type())
    if pa.types.is_map(column.type):
        return _objects(con, column)
    coded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    if pa.types.is_string(coded.dictionary.type):
        if not columns.has_any(coded, ("",)):
            return coded
        return columns.remap(coded, _ask(con, pa.table({"v": coded.dictionary}), "nullif(v, '')"))
    return columns.remap(coded, _ask(con, pa.table({"v": coded.dictionary}), "cast(v as varchar)"))


def _objects(con: duckdb.DuckDBPyConnection, column: pa.MapArray) -> pa.DictionaryArray:
    """Return a column of maps as JSON objects, and build each distinct object once.

    Each distinct pair of key and value gets a code. Then rows with the same codes for all of their pairs share one object.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    starts = column.offsets[:-1]
    lengths = pc.if_else(pc.is_valid(column), pc.subtract(column.offsets[1:], starts), 0)
    pairs, distinct = columns.combine([column.keys.dictionary_encode(), column.items.dictionary_encode()], ["k", "v"])
    written = _ask(con, distinct, "cast(to_json(k) as varchar) || ':' || coalesce(cast(to_json(v) as varchar), 'null')")
    coded = pa.DictionaryArray.from_arrays(pairs, written)
    most = pc.max(lengths).as_py()
    nth = [coded.take(pc.if_else(pc.greater(lengths, n), pc.add(starts, n), pa.scalar(None, starts.type))) for n in range(most)]
    is_there = pc.if_else(pc.is_valid(column), pa.scalar(0, pa.int32()), pa.scalar(None, pa.int32()))
    there = pa.DictionaryArray.from_arrays(is_there, pa.array(["{"]))
    names = ["v0", *(f"v{n + 1}" for n in range(most))]
    codes, rows = columns.combine([there, *nth], names)
    inside = f"concat_ws(',', {', '.join(names[1:])})" if most else "''"
    return columns.spread(codes, _ask(con, rows, f"v0 || {inside} || '}}'"))


def _ask(con: duckdb.DuckDBPyConnection, distinct: pa.Table, expression: str) -> pa.Array:
    """Run a SQL expression over a table of distinct values, and return the results as strings."""
    import pyarrow as pa

    con.register("distinct_values", distinct)
    answer = con.sql(f"select {expression} as answer from distinct_values").to_arrow_table()
    con.unregister("distinct_values")
    return combine_chunks(answer.column(0)).cast(pa.string())
