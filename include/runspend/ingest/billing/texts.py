"""Reads the rows of verified files as strings, from CSV, Parquet or JSON.

Belongs here: how files are parsed, with every option of the parser fixed, and the errors for files that cannot be parsed. The formats
know the meaning of the columns. `quick_csv.py` has the fast path for FOCUS.

Columns have the names of the header. A field of a struct or of a JSON object is named with dots (`service.id`). Lists and maps become
JSON strings. A number in a Parquet file becomes the shortest text that reads back as the same number.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runspend.core.errors import SourceRefused
from runspend.core.outside_json import parse_json
from runspend.core.sql_quoting import sql_name, sql_text
from runspend.ingest.billing import columns, parquet_texts
from runspend.ingest.billing.columns import combine_chunks
from runspend.ingest.billing.memory_budget import Room
from runspend.ingest.billing.verify import MAX_COLUMNS, MAX_LINE_BYTES, VerifiedFile, refused
from runspend.ingest.billing.wide_decimals import narrowed

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

BLOCK_BYTES = 4 << 20
DELIMITERS = (",", "|", ";", "\t")
ROW_NUMBER = "row_number"
JSON_PIECES = r'"(?:[^"\\]|\\.)*"|[^"]+'
JSON_NUMBER = "-?[0-9]+(?:[.][0-9]+)?(?:[eE][-+]?[0-9]+)?"


def read_header(source: str, name: str, file: VerifiedFile) -> list[str]:
    """Return a file's column names, without a byte order mark. Raises SourceRefused if they cannot be read, or if there are too many."""
    if file.kind == "parquet":
        try:
            return _checked_width(source, name, list(_parquet_leaves(file.readable)))
        except RecursionError as error:
            raise refused(source, name, "its columns are nested deeper than in any bill. Check the export that wrote it") from error
    if file.kind == "json":
        return _checked_width(source, name, list(_json_leaves(source, name, file.readable)))
    try:
        with file.readable.open(encoding="utf-8-sig", errors="replace", newline="") as opened:
            delimiter = delimiter_of(opened.readline(MAX_LINE_BYTES))
            opened.seek(0)
            return _checked_width(source, name, next(csv.reader(opened, strict=True, delimiter=delimiter), []))
    except csv.Error as error:
        raise refused(source, name, f"its header cannot be read ({error}). Export it as UTF-8 CSV") from error


def _checked_width(source: str, name: str, header: list[str]) -> list[str]:
    """Return the header. Raises SourceRefused if it has more than `MAX_COLUMNS` columns: reading 100,000 columns would take minutes."""
    if len(header) > MAX_COLUMNS:
        raise refused(source, name, f"it has {len(header):,} columns, more than {MAX_COLUMNS:,}. Check the export that wrote it")
    return header


def repeated_in(header: Sequence[str]) -> list[str]:
    """Return the names that are more than once in a header, sorted."""
    return sorted(name for name, count in Counter(header).items() if count > 1)


def delimiter_of(line: str) -> str:
    """Return the delimiter of a header line: the most frequent of `DELIMITERS`. Only the header decides, so no row can change it."""
    return max(DELIMITERS, key=lambda d: (line.count(d), -DELIMITERS.index(d)))


class NotPlain(Exception):
    """The fast path cannot read this file. The file may still be correct."""


def read_quickly(
    con: duckdb.DuckDBPyConnection, file: VerifiedFile, header: Sequence[str], wanted: Sequence[str], room: Room
) -> Iterator[pa.Table]:
    """Yield the wanted columns a batch at a time, as dictionary-coded strings, with null for empty. The last column is `row_number`.

    It reads a CSV in which every record is one line, or a Parquet file of plain columns and maps. Raises NotPlain for other files,
    perhaps after some batches. Then discard these batches, and read the file with `read_slowly`.
    """
    import pyarrow as pa

    rows = 0
    if len(set(header)) != len(header):
        raise NotPlain
    if file.kind == "parquet" and parquet_texts.can_read(file.readable, wanted):
        shares = parquet_texts.read(con, file.readable, wanted, room.share_rows)
    elif file.kind == "csv":
        shares = _read_lines(file, header, wanted, room.part_bytes)
    else:
        raise NotPlain
    for share in shares:
        numbers = pa.arange(rows + 1, rows + len(share[0]) + 1)
        rows += len(numbers)
        yield pa.table([*share, numbers], names=[*wanted, ROW_NUMBER])
    if file.kind == "csv" and (rows != file.lines - 1 - _blank_lines_at_end(file.readable) or not ends_whole(file.readable, len(header))):
        raise NotPlain


def _read_lines(file: VerifiedFile, header: Sequence[str], wanted: Sequence[str], part_bytes: int) -> Iterator[list[pa.Array]]:
    """Yield the wanted columns of a CSV, parsed one part at a time."""
    import pyarrow as pa
    import pyarrow.csv as arrow_csv

    read = arrow_csv.ReadOptions(block_size=BLOCK_BYTES, column_names=list(header))
    parse = arrow_csv.ParseOptions(delimiter=find_delimiter(file.readable))
    convert = arrow_csv.ConvertOptions(
        column_types=dict.fromkeys(wanted, columns.text_type()), include_columns=list(wanted), null_values=[""], strings_can_be_null=True
    )
    for part in parts_of(file.readable, part_bytes):
        with part:
            try:
                table = arrow_csv.read_csv(part, read, parse, convert) if part.left else None
            except pa.ArrowInvalid as error:
                raise NotPlain from error
        if table is not None:
            yield [combine_chunks(column) for column in table.columns]


def read_slowly(
    con: duckdb.DuckDBPyConnection,
    source: str,
    name: str,
    file: VerifiedFile,
    header: Sequence[str],
    wanted: Sequence[str],
    share_rows: int,
) -> Iterator[pa.Table]:
    """Yield the same columns as `read_quickly`, for any file. Raises SourceRefused if the file does not fit its header."""
    import duckdb

    try:
        yield from _shares(con, _relation(con, source, name, file, header, wanted), wanted, share_rows)
    except (duckdb.OutOfMemoryException, duckdb.InternalException):
        raise  # Runspend's failure, not the file's
    except duckdb.Error as error:
        raise _unread(source, name, error) from error


def _unread(source: str, name: str, error: Exception) -> SourceRefused:
    return refused(source, name, f"{explain(str(error))}. Deliver it again, or fix the export that writes it")


def read_whole_rows(con: duckdb.DuckDBPyConnection, source: str, name: str, file: VerifiedFile, numbers: Sequence[int]) -> dict[int, str]:
    """Return a few rows with all their columns: row number -> JSON object. Quarantined rows are kept in this form.

    Raises SourceRefused if the file cannot be read to its end.
    """
    import duckdb

    header = read_header(source, name, file)
    names = list(dict.fromkeys(header))
    try:
        relation = _relation(con, source, name, file, header, names)
        found = con.execute(f"select * from ({relation}) where {ROW_NUMBER} in (select unnest(?))", [list(numbers)]).fetchall()
    except (duckdb.OutOfMemoryException, duckdb.InternalException):
        raise  # Runspend's failure, not the file's
    except duckdb.Error as error:
        raise _unread(source, name, error) from error
    rows = [dict(zip([*names, ROW_NUMBER], row, strict=True)) for row in found]
    return {row.pop(ROW_NUMBER): json.dumps(row, ensure_ascii=False) for row in rows}


# --- CSV ---------------------------------------------------------------------------------------------------------------


class LineRange(io.RawIOBase):
    """A readable range of complete lines of a file, from byte `start` to byte `end`."""

    def __init__(self, path: Path, start: int, end: int) -> None:
        self._file = path.open("rb", buffering=0)
        self._file.seek(start)
        self.left = end - start

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        found = self._file.read(self.left if size < 0 else min(size, self.left)) or b""
        self.left -= len(found)
        return found

    def close(self) -> None:
        self._file.close()
        super().close()


def parts_of(path: Path, part_bytes: int) -> Iterator[LineRange]:
    """Yield the lines after the header in parts of at most `part_bytes` plus one line, so that each part fits into memory."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        file.readline()
        start = file.tell()
        while True:
            file.seek(min(start + part_bytes, size))
            file.readline()
            end = file.tell()
            with LineRange(path, start, end) as part:
                yield part
            if end == size:
                return
            start = end


def ends_whole(path: Path, width: int) -> bool:
    """Return whether the last line is a complete record of `width` fields. It is not if the file was cut inside a quoted field."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - MAX_LINE_BYTES))
        tail = file.read().rstrip(b"\r\n")
    last = tail[tail.rfind(b"\n") + 1 :].decode("utf-8-sig", errors="replace")
    try:
        [fields] = csv.reader([last], strict=True, delimiter=find_delimiter(path))
    except (csv.Error, ValueError):
        return False
    return len(fields) == width


def _blank_lines_at_end(path: Path) -> int:
    """Count the empty lines after the last record, which some exports write. A file with an empty line elsewhere is read slowly."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - BLOCK_BYTES))
        tail = file.read()
    return max(0, tail[len(tail.rstrip(b"\r\n")) :].count(b"\n") - 1)


def csv_sql(path: Path, types: Sequence[str], nulls: Sequence[str], delimiter: str = ",") -> str:
    """Return SQL for DuckDB's CSV reader with every option fixed.

    Automatic detection is off: it once read a file with rows of different lengths as one column, without an error.
    """
    named = ", ".join(f"'c{i}': '{t}'" for i, t in enumerate(types))
    return (
        f"read_csv({sql_text(str(path))}, auto_detect = false, header = true, delim = {sql_text(delimiter)}, quote = '\"', escape = '\"', "
        f"columns = {{{named}}}, nullstr = [{', '.join(sql_text(t) for t in nulls)}], max_line_size = {MAX_LINE_BYTES}, "
        "null_padding = false, ignore_errors = false)"
    )


def even_row_ends(path: Path, width: int, folder: Path) -> Path | None:
    """Write a copy of the file to `folder`, in which every row ends in a line feed. Return None if it is not CSV with `width` columns.

    Rows may end in one kind of line break and contain the other kind inside quotes. Such files are valid CSV, and Python's own writer
    makes them, but DuckDB 2.0 refuses to read them. A stray carriage return makes a short row, so the result is None.
    """
    target = folder / f"{path.name}.even"
    csv.field_size_limit(MAX_LINE_BYTES)
    with path.open(encoding="utf-8-sig", newline="") as source, target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_MINIMAL)
        try:
            for fields in csv.reader(source, strict=True):
                if len(fields) not in (0, width):
                    return None
                if fields:
                    writer.writerow([field.replace("\r\n", "\n") for field in fields])
        except (csv.Error, UnicodeDecodeError):
            return None
    return target


def check_row_ends(con: duckdb.DuckDBPyConnection, source: str, name: str, path: Path, width: int, delimiter: str) -> None:
    """Raise SourceRefused if a row has too many fields, even if the last one is empty.

    DuckDB silently drops one extra empty field at the end of a row, even if a stray delimiter shifted the fields before it. A query first
    counts the delimiters of lines that end in one. If a line has too many, Python's CSV module, which is slow and exact, decides.
    """
    [row] = con.execute(
        "select count(*) from (select regexp_replace(line, '\"[^\"]*\"', '', 'g') as line from read_csv("
        f"{sql_text(str(path))}, auto_detect = false, header = true, delim = '\x01', quote = '', escape = '', columns = {{'line': 'varchar'}}, "
        f"max_line_size = {MAX_LINE_BYTES}) where ends_with(line, {sql_text(delimiter)})) where length(line) - length(replace(line, {sql_text(delimiter)}, '')) >= {width}"
    ).fetchall()
    if not row[0]:
        return
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        csv.field_size_limit(MAX_LINE_BYTES)
        reader = csv.reader(file, strict=True, delimiter=delimiter)
        try:
            for fields in reader:
                if len(fields) > width:
                    raise refused(
                        source, name, f"line {reader.line_num}: it has {len(fields)} fields, but the header has {width}. Deliver it again"
                    )
        except csv.Error as error:
            raise refused(source, name, f"line {reader.line_num}: its quotes do not match ({error}). Deliver it again") from error


def find_delimiter(path: Path) -> str:
    """Return the delimiter of a CSV file, found in its header line."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as opened:
        return delimiter_of(opened.readline(MAX_LINE_BYTES))


# --- any kind ----------------------------------------------------------------------------------------------------------


def _relation(
    con: duckdb.DuckDBPyConnection, source: str, name: str, file: VerifiedFile, header: Sequence[str], wanted: Sequence[str]
) -> str:
    """Return SQL that selects the wanted columns as strings, and `row_number`, which starts at 1."""
    if file.kind == "parquet":
        path = narrowed(file.readable, work_folder(con))
        leaves = _parquet_leaves(path)
        relation, number = f"read_parquet({sql_text(str(path))}, file_row_number = true)", "file_row_number + 1"
    elif file.kind == "json":
        leaves = _json_leaves(source, name, file.readable)
        relation, number = exact_json_sql(file.readable), "row_number() over ()"
    else:
        repeated = repeated_in(header)
        if set(repeated) & set(wanted):
            raise refused(source, name, f"its header names {', '.join(repeated)} more than once. Export each column once")
        leaves = {column: f"c{i}" for i, column in enumerate(header)}
        relation, number = _sound_csv(con, source, name, file.readable, len(header)), "row_number() over ()"
    texts = [f"nullif({leaves[column]}, '') as {sql_name(column)}" for column in wanted]
    return f"select {', '.join([*texts, f'cast({number} as bigint) as {ROW_NUMBER}'])} from {relation}"


def work_folder(con: duckdb.DuckDBPyConnection) -> Path:
    """Return the folder that the engine may write to. It never contains a user's files."""
    [(spill,)] = con.execute("select current_setting('temp_directory')").fetchall()
    return Path(spill).parent


def _sound_csv(con: duckdb.DuckDBPyConnection, source: str, name: str, path: Path, width: int) -> str:
    """Return `csv_sql` of the file, or of its copy by `even_row_ends` if DuckDB cannot read the line breaks of the file."""
    import duckdb

    delimiter = find_delimiter(path)
    relation = csv_sql(path, ["varchar"] * width, ("",), delimiter)
    try:
        check_row_ends(con, source, name, path, width, delimiter)
        con.execute(f"select count(*) from {relation}")
    except duckdb.InvalidInputException as error:
        even = even_row_ends(path, width, work_folder(con)) if "state machine" in str(error) and delimiter == "," else None
        if even is None:
            raise
        return csv_sql(even, ["varchar"] * width, ("",))
    return relation


def _shares(con: duckdb.DuckDBPyConnection, query: str, wanted: Sequence[str], share_rows: int) -> Iterator[pa.Table]:
    """Yield the rows of a query a batch at a time, with dictionary-coded strings."""
    import pyarrow as pa

    con.execute(f"create or replace temp table texts as {query}")
    [(rows,)] = con.execute("select count(*) from texts").fetchall()
    for start in range(0, rows, share_rows):
        share = con.sql(f"from texts where rowid >= {start} and rowid < {start + share_rows} order by rowid").to_arrow_table()
        # Columns are read by position, because DuckDB renames columns whose names differ only in case.
        coded = [combine_chunks(column).cast(pa.string()).dictionary_encode() for column in share.columns[:-1]]
        yield pa.table([*coded, combine_chunks(share.column(ROW_NUMBER))], names=[*wanted, ROW_NUMBER])
    con.execute("drop table texts")


def _parquet_leaves(path: Path) -> dict[str, str]:
    """Return the columns of a Parquet file, with the SQL that reads each one as text."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    leaves: dict[str, str] = {}

    def add(name: str, ref: str, kind: Any) -> None:
        if pa.types.is_struct(kind):
            for index in range(kind.num_fields):
                field = kind.field(index)
                add(f"{name}.{field.name}", f"({ref}).{sql_name(field.name)}", field.type)
        else:
            is_nested = pa.types.is_nested(kind)
            leaves[name] = f"cast(to_json({ref}) as varchar)" if is_nested else f"cast({ref} as varchar)"

    for field in pq.read_schema(path):
        add(field.name, sql_name(field.name), field.type)
    return leaves


def exact_json_sql(path: Path) -> str:
    """Return SQL that reads the objects of a JSON file and keeps every digit of a number.

    DuckDB reads a number with a decimal point or an exponent as a double, which keeps only 15 digits reliably. In an object with a
    longer number, all numbers become strings. All other objects stay unchanged, which is much faster.
    """
    objects = f"read_json_objects({sql_text(str(path))}, maximum_object_size = {MAX_LINE_BYTES})"
    pieces = f"regexp_extract_all(written, {sql_text(JSON_PIECES)})"
    # Most objects have no sequence of 16 digits. The digits of a number are counted only in the others.
    is_long = (
        "case when regexp_matches(written, '[0-9.]{16}') then coalesce(list_max(list_transform("
        "regexp_extract_all(written, '[0-9]+(?:[.][0-9]+)?'), lambda number: length(ltrim(replace(number, '.', ''), '0')))) > 15, false) else false end"
    )
    quoted = f"case when piece[1] = '\"' then piece else regexp_replace(piece, {sql_text(JSON_NUMBER)}, '\"\\0\"', 'g') end"
    return (
        f"(select case when {is_long} "
        f"then cast(array_to_string(list_transform({pieces}, lambda piece: {quoted}), '') as json) else json end as json "
        f"from (select json, cast(json as varchar) as written from {objects}))"
    )


def _json_leaves(source: str, name: str, path: Path) -> dict[str, str]:
    """Return the fields of all objects in a file of JSON lines or of one JSON list, with the SQL that reads each one as text."""
    import duckdb

    # Grouping the structures as JSON would keep the structure of every row in memory. As text, most rows share one of a few.
    query = (
        "select distinct cast(json_structure(json) as varchar), case when len(json_keys(json)) <> len(list_distinct(json_keys(json))) then json_keys(json) end "
        f"from read_json_objects({sql_text(str(path))}, maximum_object_size = {MAX_LINE_BYTES})"
    )
    try:
        with duckdb.connect(":memory:") as con:
            found = con.execute(query).fetchall()
    except duckdb.Error as error:
        raise refused(source, name, f"it is not JSON ({str(error).splitlines()[0]}). Deliver it again") from error
    if repeated := sorted({key for _, keys in found for key in keys or () if keys.count(key) > 1}):
        raise refused(source, name, f"one of its objects names {', '.join(repeated)} more than once. Export each column once")
    leaves: dict[str, str] = {}

    def add(name: str, pointer: str, kind: Any) -> None:
        if isinstance(kind, dict) and kind:
            for key, inner in kind.items():
                add(f"{name}.{key}" if name else key, f"{pointer}/{key.replace('~', '~0').replace('/', '~1')}", inner)
        elif name:
            leaves[name] = f"json_extract_string(json, {sql_text(pointer)})"

    try:
        add("", "", reduce(_merge_structures, [parse_json(text) for text, _ in found], {}))
    except (ValueError, RecursionError) as error:
        raise refused(source, name, "its objects are nested deeper than in any bill. Check the export that wrote it") from error
    return leaves


def _merge_structures(one: Any, other: Any) -> Any:
    """Merge the JSON structures of two objects.

    A field is an object if it is an object in one and null or empty in the other. DuckDB's name for an empty object is JSON.
    """
    if isinstance(one, dict) and isinstance(other, dict):
        return {key: _merge_structures(one.get(key, "NULL"), other.get(key, "NULL")) for key in {**one, **other}}
    if other in ("NULL", "JSON") or one == other:
        return one
    return other if one in ("NULL", "JSON") else "MIXED"


def explain(message: str) -> str:
    """Return the cause of DuckDB's CSV error as half a sentence: the line, and the numbers of fields found and expected."""
    line = re.search(r"on Line: (\d+)", message)
    place = f"line {line[1]}: " if line else ""
    if found := re.search(r"Expected Number of Columns: (\d+) Found: (\d+)", message):
        return f"{place}it has {found[2]} fields, but the header has {found[1]}"
    if "state machine" in message:
        return "it is not CSV as in RFC 4180: it has mixed line ends, or a lone carriage return"
    for known in ("unterminated quote", "Invalid unicode", "Maximum line size"):
        if known in message:
            return f"{place}{known.lower()}"
    return place + message.splitlines()[0]
