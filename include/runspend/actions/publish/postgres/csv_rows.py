"""Write rows as the CSV that PostgreSQL's COPY reads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

ROWS_PER_PIECE = 8_192


class ByteStream:
    """Pieces of bytes as the file that COPY reads. `error`: the error that stopped reading, if any."""

    def __init__(self, pieces: Iterator[memoryview]) -> None:
        self._pieces = pieces
        self._left = memoryview(b"")
        self.error: BaseException | None = None

    def read(self, size: int) -> bytes:
        try:
            while not self._left:
                piece = next(self._pieces, None)
                if piece is None:
                    return b""
                self._left = piece
        except BaseException as error:
            self.error = error
            raise
        given, self._left = self._left[:size], self._left[size:]
        return bytes(given)


def write_csv(rows: Any) -> Iterator[memoryview]:
    """Yield rows in PostgreSQL's CSV format: null is an empty field, an empty string is `""`, a list is an array literal."""
    import pyarrow as pa
    import pyarrow.csv

    for index, field in enumerate(rows.schema):
        if pa.types.is_list(field.type):
            rows = rows.set_column(index, field.name, _array_literals(rows.column(index).combine_chunks()))
    rows = _without_nul(rows)
    for first in range(0, rows.num_rows, ROWS_PER_PIECE):
        target = pa.BufferOutputStream()
        pyarrow.csv.write_csv(
            rows.slice(first, ROWS_PER_PIECE), target, pyarrow.csv.WriteOptions(include_header=False, batch_size=ROWS_PER_PIECE)
        )
        yield memoryview(target.getvalue())


def _array_literals(lists: Any) -> Any:
    """Return lists of strings as literals such as `{"a","b"}`. Source: PostgreSQL "Arrays", Array Input and Output Syntax."""
    import pyarrow as pa
    import pyarrow.compute as pc

    texts = pc.replace_substring(pc.replace_substring(lists.flatten(), "\\", "\\\\"), '"', '\\"')
    quoted = pc.fill_null(pc.binary_join_element_wise('"', texts, '"', ""), "NULL")
    lengths = pc.fill_null(pc.list_value_length(lists), 0)
    offsets = pa.concat_arrays([pa.array([0], pa.int64()), pc.cumulative_sum(lengths.cast(pa.int64()))]).cast(pa.int32())
    joined = pc.binary_join_element_wise("{", pc.binary_join(pa.ListArray.from_arrays(offsets, quoted), ","), "}", "")
    return pc.if_else(lists.is_valid(), joined, None)


def _without_nul(rows: Any) -> Any:
    """Return the rows without NUL characters. Names in MLflow may contain them, but strings in PostgreSQL may not."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for index, field in enumerate(rows.schema):
        if pa.types.is_string(field.type) and pc.any(pc.match_substring(rows.column(index), "\0")).as_py():
            rows = rows.set_column(index, field, pc.replace_substring(rows.column(index), "\0", ""))
    return rows
