"""Writes the rows of one billing period as `billing_lines`: one sorted Parquet file.

Belongs here: how lines are chosen, ordered and written. Their content is already complete.
"""

from __future__ import annotations

import os
import sys
from array import array
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runspend.core.ahead import Ahead
from runspend.core.service_kinds import ACCELERATED_METERS, ACCELERATED_TYPES
from runspend.core.sql_quoting import sql_text
from runspend.ingest.billing import columns
from runspend.ingest.billing.columns import combine_chunks
from runspend.ingest.billing.staging import LINE_ID, Staged
from runspend.ingest.billing.totals import CHOSEN, choose
from runspend.schema.rows import first_day
from runspend.schema.tables import BILLING_LINES

if TYPE_CHECKING:
    import pyarrow as pa

ROW_GROUP = 122_880
# A text column with more distinct values gets no dictionary, because every row group would contain the whole dictionary.
FEW_VALUES = 4000
SKIPPED_BY = (*BILLING_LINES.sort, "charge_period_end", "charge_date", "billing_period")


def write_lines(
    staged: Staged, source: str, period: str, file_indexes: Sequence[int], load_id: str, path: Path, *, is_scoped: bool
) -> None:
    """Write the `billing_lines` of a period to `path`. Lines that an explicit scope leaves out are replaced with sums."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    is_chosen = _is_chosen(staged, period, file_indexes)
    positions = None if pc.all(is_chosen, min_count=0).as_py() else pc.indices_nonzero(is_chosen)
    lines = _lines(staged, source, load_id)
    if is_scoped:
        choose(staged, period, file_indexes)
        lines = {name: column if positions is None else column.take(positions) for name, column in lines.items()}
        lines, ids = _add_sums(staged, source, load_id, lines, _ids(staged, positions))
        positions = None
        order = _order(lines, ids, positions)
    else:
        ids, order = _ids_and_order(staged, lines, positions)
    table = pa.table(lines)
    staged.release_memory()
    groups = [order.slice(start, ROW_GROUP) for start in range(0, max(len(order), 1), ROW_GROUP)]
    schema = _take(staged, table, ids, positions, order.slice(0, 0)).schema
    taken = map(partial(_take, staged, table, ids, positions), groups)
    with pq.ParquetWriter(path, schema, **_layout(table, schema)) as writer, _reaching_disk(path) as reach_disk, ExitStack() as stack:
        # The next row group is assembled while one is written. If the bill is too large for memory, there is no room for two.
        for group in taken if staged.is_mapped else stack.enter_context(closing(Ahead(taken))):
            writer.write_table(group, row_group_size=ROW_GROUP)
            reach_disk()
            del group


def _is_chosen(staged: Staged, period: str, file_indexes: Sequence[int]) -> pa.Array:
    """Return a boolean array: whether each row becomes a line.

    These are the rows of the files and the period that are not quarantined and not out of scope.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    is_good = pc.and_not(pc.is_null(staged.column("reject_reason")), columns.matching(staged.column("scope"), "^exclude$"))
    of_period = pc.fill_null(pc.equal(staged.column("billing_period"), pa.scalar(first_day(period), pa.date32())), False)
    of_files = pc.is_in(staged.column("file_index"), value_set=pa.array(file_indexes, pa.int32()))
    return pc.and_(is_good, pc.and_(of_period, of_files))


@contextmanager
def _reaching_disk(path: Path) -> Iterator[Callable[[], None]]:
    """Yield a function that starts to flush the file to disk in the background. So publishing does not have to wait for all of the data."""
    descriptor = os.open(path, os.O_RDONLY)
    with ThreadPoolExecutor(1) as beside:
        bringing = [beside.submit(os.fsync, descriptor)]

        def reach_disk() -> None:
            if bringing[0].done():
                bringing[0].result()
                bringing[0] = beside.submit(os.fsync, descriptor)

        try:
            yield reach_disk
            bringing[0].result()
        finally:
            beside.shutdown()
            os.close(descriptor)


def _layout(table: pa.Table, schema: pa.Schema) -> dict[str, Any]:
    """Return the options of the Parquet writer. The Arrow schema is not stored, so readers see plain strings."""
    import pyarrow as pa

    texts = [field.name for field in BILLING_LINES.arrow_schema() if pa.types.is_string(field.type) and field.name != "line_id"]
    # A column with the same value in all rows takes only a few bytes, but compressing it would take as long as compressing a large one.
    paths = [f"{field.name}.list.element" if pa.types.is_list(field.type) else field.name for field in schema]
    packed = [path for path in paths if path not in table.column_names or not _is_same(combine_chunks(table.column(path)))]
    return {
        "use_dictionary": texts,
        "store_schema": False,
        "write_batch_size": ROW_GROUP,  # most columns are small, so batches of a thousand rows would take 5% longer
        # Statistics of all columns would take a third of the writing time. Readers skip row groups only by these columns.
        "write_statistics": list(SKIPPED_BY),
        "compression": {path: "ZSTD" if path in packed else "NONE" for path in paths},
        "compression_level": dict.fromkeys(packed, 1),
    }


def _ids(staged: Staged, positions: pa.Array | None) -> pa.Array:
    """Return the `line_id` of the chosen rows, as LINE_ID defines it."""
    if staged.column("ordinal").null_count == staged.rows.num_rows:
        hashes = staged.column("row_hash")
        return _hex_texts(hashes if positions is None else hashes.take(positions))
    ids = staged.ask_rows(LINE_ID)
    return ids if positions is None else ids.take(positions)


def _hex_texts(numbers: pa.Array) -> pa.Array:
    """Return 64-bit integers as texts of 16 hexadecimal digits. SQL would take six times as long."""
    import pyarrow as pa

    count = len(numbers)
    swapped = array("Q", bytes(numbers.buffers()[1])[8 * numbers.offset : 8 * (numbers.offset + count)])
    if sys.byteorder == "little":
        swapped.byteswap()
    ends = pa.arange(0, 16 * count + 1, 16).cast(pa.int32())
    return pa.StringArray.from_buffers(count, ends.buffers()[1], pa.py_buffer(swapped.tobytes().hex().encode("ascii")))


def _ids_and_order(staged: Staged, lines: dict[str, pa.Array], positions: pa.Array | None) -> tuple[pa.Array, pa.Array]:
    """Return the ids of the chosen rows, and their order.

    If no two rows are equal, ids sort like the hashes of the rows. Then both results are computed at the same time.
    """
    hashes = staged.column("row_hash")
    if staged.column("ordinal").null_count < len(hashes):
        ids = _ids(staged, positions)
        return ids, _order(lines, ids, positions)
    with ThreadPoolExecutor(1) as beside:
        ordering = beside.submit(_order, lines, hashes if positions is None else hashes.take(positions), positions)
        return _ids(staged, positions), ordering.result()


def _lines(staged: Staged, source: str, load_id: str) -> dict[str, pa.Array]:
    """Return every column of `billing_lines` except `line_id`, for all staged rows, also those that are not chosen."""
    import pyarrow as pa

    rows = staged.rows.num_rows
    made = {
        "source": columns.constant(source, rows),
        "load_id": columns.constant(load_id, rows),
        "charge_date": staged.column("charge_period_start").cast(pa.date32()),
    }
    names = [c.name for c in BILLING_LINES.columns if c.name != "line_id"]
    return {name: made[name] if name in made else staged.column(name) for name in names}


def _add_sums(staged: Staged, source: str, load_id: str, lines: dict[str, pa.Array], ids: pa.Array) -> tuple[dict[str, pa.Array], pa.Array]:
    """Return the lines and their ids, followed by sums of the lines that the scope leaves out."""
    import pyarrow as pa

    staged.con.execute(f"set variable source = {sql_text(source)}")
    staged.con.execute(f"set variable load_id = {sql_text(load_id)}")
    query = files("runspend.ingest.billing").joinpath("out_of_scope.sql").read_text(encoding="utf-8")
    query = query.replace("{chosen}", CHOSEN)
    for name, pattern in (("accelerated_types", ACCELERATED_TYPES), ("accelerated_meters", ACCELERATED_METERS)):
        query = query.replace(f"{{{name}}}", sql_text(pattern.pattern))
    sums = staged.con.sql(query).to_arrow_table()
    found = {}
    for name, column in lines.items():
        if name not in sums.column_names:
            extra = pa.nulls(sums.num_rows, column.type)
        elif pa.types.is_dictionary(column.type):
            extra = combine_chunks(sums.column(name)).cast(pa.string()).dictionary_encode()
        else:
            extra = combine_chunks(sums.column(name)).cast(column.type)
        found[name] = combine_chunks(pa.chunked_array([column, extra]))
    return found, pa.concat_arrays([ids, combine_chunks(sums.column("line_id"))])


def _order(lines: dict[str, pa.Array], ids: pa.Array, positions: pa.Array | None) -> pa.Array:
    """Return the positions of the chosen lines in the order of BILLING_LINES.sort. Nulls are last; strings are sorted by their bytes.

    `ids` are the ids of the lines, or other values that sort like them.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    key = lines["resource_key"]
    ranks = pc.rank(key.dictionary, tiebreaker="min").cast(pa.int32()) if len(key.dictionary) else pa.nulls(0, pa.int32())
    by = {"resource_key": ranks.take(key.indices), "charge_period_start": lines["charge_period_start"]}
    if positions is not None:
        by = {name: column.take(positions) for name, column in by.items()}
    return pc.sort_indices(pa.table({**by, "line_id": ids}), sort_keys=[(name, "ascending") for name in BILLING_LINES.sort])


def _take(staged: Staged, table: pa.Table, ids: pa.Array, positions: pa.Array | None, order: pa.Array) -> pa.Table:
    """Return the chosen lines at the positions `order`. A text column with more than `FEW_VALUES` distinct values loses its dictionary."""
    import pyarrow as pa

    at = order if positions is None else positions.take(order)
    taken = {}
    for name, chunked in zip(table.column_names, table.columns, strict=True):
        column = combine_chunks(chunked)
        is_coded = pa.types.is_dictionary(column.type)
        part = column.slice(0, len(at)) if _is_same(column) else column.take(at)
        taken[name] = part.cast(pa.string()) if is_coded and len(column.dictionary) > FEW_VALUES else part
        staged.drop_pages()
    taken["line_id"] = ids.take(order)
    return pa.table({c.name: taken[c.name] for c in BILLING_LINES.columns})


def _is_same(column: pa.Array) -> bool:
    """Return whether all rows have the same value. Such a column does not have to be sorted or compressed."""
    import pyarrow as pa

    is_coded = pa.types.is_dictionary(column.type)
    return bool(column.null_count == len(column) or (is_coded and len(column.dictionary) == 1 and not column.null_count))
