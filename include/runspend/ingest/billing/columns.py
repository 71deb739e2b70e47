"""Handles text columns as Arrow dictionaries: an integer code per row, and a list of distinct strings.

Belongs here: operations on codes, which do not know bills. A bill has millions of lines and thousands of distinct strings. So SQL
handles each distinct string or combination once, and the results are spread over the rows by their codes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

LEAST_PLAIN = 50_000  # for fewer values, dictionary coding costs almost nothing
SAMPLE = 20_000  # values that are compared
MOST = 0.98  # share of distinct values in the sample above which nearly all values differ
MOST_NUMBERS = 2**62  # codes are mixed into one 64-bit integer up to this limit


def text_type() -> pa.DataType:
    """Return the type of every text column."""
    import pyarrow as pa

    return pa.dictionary(pa.int32(), pa.string())


class Nulls:
    """Columns of nulls, all with the same number of rows. One column per type is enough, because columns are never changed in place.

    Most columns of a bill are empty, and each new empty column would take as much time and memory as one with values.
    """

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self._made: dict[pa.DataType, pa.Array] = {}

    def of(self, kind: pa.DataType) -> pa.Array:
        """Return the column of nulls of this type."""
        import pyarrow as pa

        if kind not in self._made:
            self._made[kind] = pa.nulls(self.rows, kind)
        return self._made[kind]


def has_any(column: pa.DictionaryArray, texts: Sequence[str]) -> bool:
    """Return whether any of these strings is in the dictionary of a text column."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return bool(pc.any(pc.is_in(column.dictionary, value_set=pa.array(texts, pa.string())), min_count=0).as_py())


def nearly_all_differ(values: pa.Array) -> bool:
    """Return whether a column has too many distinct values for dictionary coding to pay off.

    A sample decides. It is spread irregularly over the column, because equal values may be neighbors. The dictionary of such a column may
    contain a value several times, each with its own code. All functions here allow that.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    count = len(values)
    if count < LEAST_PLAIN:
        return False
    places = pa.array([number * 2_654_435_761 % count for number in range(SAMPLE)], pa.int64())
    sample = values.take(places.unique()).drop_null()
    return len(sample) * 2 > SAMPLE and pc.count_distinct(sample).as_py() > MOST * len(sample)


def end_to_end(pieces: Sequence[pa.DictionaryArray], texts: pa.Array) -> pa.DictionaryArray:
    """Return the columns joined into one. `texts` are their dictionaries, one after the other."""
    import pyarrow as pa
    import pyarrow.compute as pc

    shift, codes = 0, []
    for piece in pieces:
        codes.append(pc.add(piece.indices, pa.scalar(shift, pa.int32())))
        shift += len(piece.dictionary)
    return _coded(pa.concat_arrays(codes), texts)


def combine_chunks(column: pa.ChunkedArray) -> pa.Array:
    """Return a column as one array. A dictionary-coded column gets one dictionary."""
    import pyarrow as pa

    if column.num_chunks == 1:
        return column.chunk(0)
    if column.num_chunks == 0:
        return pa.array([], column.type)
    if pa.types.is_dictionary(column.type):
        if sum(len(piece.dictionary) for piece in column.chunks) * 4 > len(column) * 3:
            texts = pa.concat_arrays([piece.dictionary for piece in column.chunks])
            if nearly_all_differ(texts):
                return end_to_end(column.chunks, texts)
        column = column.unify_dictionaries()
    joined = column.combine_chunks()
    return joined.chunk(0) if isinstance(joined, pa.ChunkedArray) else joined


def constant(value: str | None, rows: int) -> pa.DictionaryArray:
    """Return a text column with the same value, or null, in every row."""
    import pyarrow as pa

    if value is None:
        return pa.nulls(rows, text_type())
    return pa.DictionaryArray.from_arrays(pa.repeat(pa.scalar(0, pa.int32()), rows), pa.array([value], pa.string()))


def matching(column: pa.DictionaryArray, pattern: str) -> pa.Array:
    """Return a boolean array: whether a part of each row's text matches a regular expression. It is false for null."""
    import pyarrow.compute as pc

    return pc.fill_null(spread(column.indices, pc.match_substring_regex(column.dictionary, pattern)), False)


def remap(column: pa.DictionaryArray, values: pa.Array) -> pa.DictionaryArray:
    """Return the column with its dictionary replaced. `values` has one string or null per dictionary value, in order, and may repeat."""
    return spread(column.indices, values)


def spread(codes: pa.Array, values: pa.Array) -> pa.Array:
    """Return the value of each row's code. `values` has one value of any type per code. Strings become a dictionary-coded column."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if values.null_count == len(values):
        return pa.nulls(len(codes), text_type() if pa.types.is_string(values.type) else values.type)
    if not pa.types.is_string(values.type):
        return pc.take(values, codes, boundscheck=False)
    if nearly_all_differ(values):
        valid = pc.is_valid(values)
        places = pc.subtract(pc.cumulative_sum(valid.cast(pa.int32())), pa.scalar(1, pa.int32()))
        own = pc.if_else(valid, places, pa.scalar(None, pa.int32())) if values.null_count else None
        return _coded(codes if own is None else own.take(codes), values.drop_null() if values.null_count else values)
    coded = pc.dictionary_encode(values)
    is_same = len(coded.dictionary) == len(values)
    return _coded(codes if is_same else pc.take(coded.indices, codes, boundscheck=False), coded.dictionary)


def _coded(codes: pa.Array, texts: pa.Array) -> pa.DictionaryArray:
    """Return a text column without checking its codes, which come from checked columns. Checking at each step would take 2% of a load."""
    import pyarrow as pa

    return pa.DictionaryArray.from_arrays(codes, texts, safe=False)


def first_of(columns: Sequence[pa.DictionaryArray]) -> pa.DictionaryArray:
    """Return, for each row, the value of the first of several text columns that has one."""
    import pyarrow as pa
    import pyarrow.compute as pc

    filled = [c for c in columns if c.null_count < len(c)]
    if len(filled) < 2:
        return filled[0] if filled else columns[0]
    shift, codes = 0, []
    for column in filled:
        codes.append(pc.add(column.indices, pa.scalar(shift, pa.int32())))
        shift += len(column.dictionary)
    return spread(pc.coalesce(*codes), pa.concat_arrays([c.dictionary for c in filled]))


def only_where(kept: pa.Array, column: pa.DictionaryArray) -> pa.DictionaryArray:
    """Return the text column with null where `kept` is not true."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return _coded(pc.if_else(kept, column.indices, pa.scalar(None, pa.int32())), column.dictionary)


def count_values(column: pa.DictionaryArray) -> dict[str, int]:
    """Return the number of rows per dictionary value: 0 for values that no row has."""
    import pyarrow.compute as pc

    rows = {pair["values"]: pair["counts"] for pair in pc.value_counts(column.indices).to_pylist()}
    found: dict[str, int] = {}
    for code, value in enumerate(column.dictionary.to_pylist()):
        found[value] = found.get(value, 0) + rows.get(code, 0)
    return found


def combine(columns: Sequence[pa.DictionaryArray], names: Sequence[str]) -> tuple[pa.Array, pa.Table]:
    """Return (the code of every row's combination of values, never null; a table of the distinct combinations, one row per code).

    The codes of a row become the digits of one number. These numbers are encoded only when no further digit fits, so the rows are hashed
    once for many columns.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    mixed, span = pa.repeat(pa.scalar(0, pa.int64()), len(columns[0])), 1
    digits: list[pa.Array] = []  # per encoded column: its code for each combination (null is one past the last code)
    sizes: list[int] = []  # of the columns mixed in since the last encoding
    for column in columns:
        size = len(column.dictionary) + 1
        if span * size > MOST_NUMBERS:
            codes, digits = _tell_apart(mixed, digits, sizes)
            mixed, span, sizes = codes.cast(pa.int64()), len(digits[0]), []
        own = pc.fill_null(column.indices, pa.scalar(size - 1, pa.int32())).cast(pa.int64())
        mixed = pc.add(pc.multiply(mixed, pa.scalar(size, pa.int64())), own)
        span *= size
        sizes.append(size)
    codes, digits = _tell_apart(mixed, digits, sizes)
    values: list[Any] = []
    for column, own in zip(columns, digits, strict=True):
        is_there = pc.less(own, pa.scalar(len(column.dictionary), own.type))
        values.append(column.dictionary.take(pc.if_else(is_there, own, pa.scalar(None, own.type))))
    return codes, pa.table(values, names=list(names))


def _tell_apart(mixed: pa.Array, digits: Sequence[pa.Array], sizes: Sequence[int]) -> tuple[pa.Array, list[pa.Array]]:
    """Encode mixed numbers. Return (the code of every number; for each column, its digit for each code).

    `digits`: the digits of columns that were encoded before. `sizes`: the sizes of the columns that were mixed in since then.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    coded = pc.dictionary_encode(mixed)
    rest, found = coded.dictionary, []
    for size in reversed(sizes):
        before = pc.divide(rest, pa.scalar(size, pa.int64()))
        found.append(pc.subtract(rest, pc.multiply(before, pa.scalar(size, pa.int64()))))
        rest = before
    return coded.indices, [*(digit.take(rest) for digit in digits), *reversed(found)]


def texts(values: Iterable[str | None]) -> pa.Array:
    """Return an Arrow array of plain strings, without a dictionary."""
    import pyarrow as pa

    return pa.array(list(values), pa.string())
