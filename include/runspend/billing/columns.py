"""Text columns as Arrow dictionaries: what is found out once per distinct value, or combination of values, spread over the rows.

Put here the arithmetic of codes, which knows nothing of bills. A bill has millions of lines and thousands of distinct texts:
whatever looks at a text looks at the distinct ones, in SQL, and the rows are touched as whole numbers only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa


def text_type() -> pa.DataType:
    """The type of every text column."""
    import pyarrow as pa

    return pa.dictionary(pa.int32(), pa.string())


class Nulls:
    """Columns without a value, all of so many rows: one for each type, for no column is ever changed in place.

    Most columns of a bill are empty, and each by itself takes as much time and memory as one that says something.
    """

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self._made: dict[pa.DataType, pa.Array] = {}

    def of(self, kind: pa.DataType) -> pa.Array:
        """The column of a type."""
        import pyarrow as pa

        if kind not in self._made:
            self._made[kind] = pa.nulls(self.rows, kind)
        return self._made[kind]


def constant(value: str | None, rows: int) -> pa.DictionaryArray:
    """A text column of one value."""
    import pyarrow as pa

    if value is None:
        return pa.nulls(rows, text_type())
    return pa.DictionaryArray.from_arrays(pa.repeat(pa.scalar(0, pa.int32()), rows), pa.array([value], pa.string()))


def remap(column: pa.DictionaryArray, values: pa.Array) -> pa.DictionaryArray:
    """The column with other texts: `values` has one for every value of its dictionary, in order, and may repeat or be null."""
    return spread(column.indices, values)


def spread(codes: pa.Array, values: pa.Array) -> pa.Array:
    """`values` (of any type), one per code, over the rows that have the codes; texts stay coded."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if values.null_count == len(values):
        return pa.nulls(len(codes), text_type() if pa.types.is_string(values.type) else values.type)
    if not pa.types.is_string(values.type):
        return values.take(codes)
    coded = pc.dictionary_encode(values)
    is_same = len(coded.dictionary) == len(values)
    return pa.DictionaryArray.from_arrays(codes if is_same else coded.indices.take(codes), coded.dictionary)


def first_of(columns: Sequence[pa.DictionaryArray]) -> pa.DictionaryArray:
    """Of several text columns, row by row, the first that has a value."""
    import pyarrow as pa
    import pyarrow.compute as pc

    said = [c for c in columns if c.null_count < len(c)]
    if len(said) < 2:
        return said[0] if said else columns[0]
    shift, codes = 0, []
    for column in said:
        codes.append(pc.add(column.indices, pa.scalar(shift, pa.int32())))
        shift += len(column.dictionary)
    return spread(pc.coalesce(*codes), pa.concat_arrays([c.dictionary for c in said]))


def only_where(kept: pa.Array, column: pa.DictionaryArray) -> pa.DictionaryArray:
    """The text column where `kept` is true, null elsewhere."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return pa.DictionaryArray.from_arrays(pc.if_else(kept, column.indices, pa.scalar(None, pa.int32())), column.dictionary)


def count_values(column: pa.DictionaryArray) -> dict[str, int]:
    """How many rows have each value of the dictionary; 0 for values that no row has any more."""
    import pyarrow.compute as pc

    rows = {pair["values"]: pair["counts"] for pair in pc.value_counts(column.indices).to_pylist()}
    return {value: rows.get(code, 0) for code, value in enumerate(column.dictionary.to_pylist())}


def combine(columns: Sequence[pa.DictionaryArray], names: Sequence[str]) -> tuple[pa.Array, pa.Table]:
    """(the code of every row's combination of values, never null; the distinct combinations, one row per code)."""
    import pyarrow as pa
    import pyarrow.compute as pc

    codes: pa.Array | None = None
    distinct: list[pa.Array] = []  # per column: its own code (null as one too many) for each combination
    for column in columns:
        size = len(column.dictionary) + 1
        own = pc.fill_null(column.indices, pa.scalar(size - 1, pa.int32())).cast(pa.int64())
        mixed = own if codes is None else pc.add(pc.multiply(codes.cast(pa.int64()), pa.scalar(size, pa.int64())), own)
        coded = pc.dictionary_encode(mixed)
        before = pc.divide(coded.dictionary, pa.scalar(size, pa.int64()))
        distinct = [earlier.take(before) for earlier in distinct]
        distinct.append(pc.subtract(coded.dictionary, pc.multiply(before, pa.scalar(size, pa.int64()))))
        codes = coded.indices
    values: list[Any] = []
    for column, own in zip(columns, distinct, strict=True):
        padded = pa.concat_arrays([column.dictionary, pa.nulls(1, pa.string())])
        values.append(padded.take(own))
    return codes, pa.table(values, names=list(names))
