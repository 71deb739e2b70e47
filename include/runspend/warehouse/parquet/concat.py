"""Join Parquet files without decoding any row: copy the bytes of each file and shift the offsets in the footers.

DuckDB writes one file per shard, but a unit is one file. Writing the rows a second time would take as long as running the models.
A footer is a structure in Thrift's compact protocol (see parquet.thrift of Apache Parquet). This module only changes its offsets, its row
count and the numbers of its row groups.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runspend.core.errors import RunspendError

MAGIC = b"PAR1"
# Thrift compact types.
TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(1, 13)
# Field numbers of parquet.thrift.
NUM_ROWS, SCHEMA, ROW_GROUPS = 3, 2, 4
COLUMNS, GROUP_OFFSET, ORDINAL = 1, 5, 7
CHUNK_OFFSETS, CHUNK_META = (2, 4, 6), 3
META_OFFSETS = (9, 10, 11, 14)  # data page, index page, dictionary page, bloom filter

Struct = dict[int, tuple[int, Any]]  # field number -> (type, value)


def splice(parts: Sequence[Path], target: Path) -> None:
    """Write the row groups of all parts, in order, to one file. Raises RunspendError if the schemas differ. The parts are not deleted."""
    whole: Struct | None = None
    with target.open("wb") as out:
        out.write(MAGIC)
        for part in parts:
            footer, length = _read_footer(part)
            shift = out.tell() - len(MAGIC)
            with part.open("rb") as source:
                source.seek(len(MAGIC))
                _copy(source, out, length - len(MAGIC))
            for group in footer[ROW_GROUPS][1][1]:
                _move(group, shift)
            if whole is None:
                whole = footer
                continue
            if footer[SCHEMA] != whole[SCHEMA]:
                raise RunspendError(f"cannot join {part} to {parts[0]}: their schemas differ.")
            whole[NUM_ROWS] = (I64, whole[NUM_ROWS][1] + footer[NUM_ROWS][1])
            whole[ROW_GROUPS][1][1].extend(footer[ROW_GROUPS][1][1])
        if whole is None:
            raise ValueError("cannot join Parquet files: none given.")
        for number, group in enumerate(whole[ROW_GROUPS][1][1]):
            if ORDINAL in group and number < 2**15:
                group[ORDINAL] = (I16, number)
            elif ORDINAL in group:
                del group[ORDINAL]
        text = bytearray()
        _write_struct(text, whole)
        out.write(text + struct.pack("<I", len(text)) + MAGIC)


def _copy(source: Any, out: Any, length: int) -> None:
    while length:
        block = source.read(min(length, 1 << 22))
        if not block:
            raise RunspendError(f"cannot read {source.name}: the file is shorter than its footer states.")
        out.write(block)
        length -= len(block)


def _move(group: Struct, shift: int) -> None:
    _add(group, GROUP_OFFSET, shift)
    for chunk in group[COLUMNS][1][1]:
        for field in CHUNK_OFFSETS:
            _add(chunk, field, shift)
        for field in META_OFFSETS:
            _add(chunk[CHUNK_META][1], field, shift)


def _add(fields: Struct, number: int, shift: int) -> None:
    if number in fields and fields[number][1] > 0:  # 0 means that the writer omitted a deprecated offset
        fields[number] = (I64, fields[number][1] + shift)


def _read_footer(path: Path) -> tuple[Struct, int]:
    """Return the footer and its offset in the file."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(size - 8)
        length, magic = struct.unpack("<I4s", file.read(8))
        if magic != MAGIC:
            raise RunspendError(f"cannot read {path}: it is not a Parquet file.")
        begin = size - 8 - length
        file.seek(begin)
        return _Footer(file.read(length)).struct(), begin


class _Footer:
    """A reader of Thrift's compact protocol. It keeps all fields, including unknown ones."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def struct(self) -> Struct:
        fields: Struct = {}
        number = 0
        while (head := self._byte()) != 0:
            number = number + (head >> 4) if head >> 4 else self._zigzag()
            kind = head & 15
            fields[number] = (kind, self._value(kind))
        return fields

    def _value(self, kind: int) -> Any:
        if kind in (TRUE, FALSE):
            return kind == TRUE
        if kind in (I16, I32, I64):
            return self._zigzag()
        if kind == BINARY:
            return self._bytes(self._varint())
        if kind == STRUCT:
            return self.struct()
        if kind == BYTE:
            return self._byte()
        if kind == DOUBLE:
            return self._bytes(8)
        if kind in (LIST, SET):
            head = self._byte()
            size = head >> 4 if head >> 4 < 15 else self._varint()
            item = head & 15
            # In a list, each bool is one byte. Outside lists, the type of the field is the value.
            return item, [self._byte() if item in (TRUE, FALSE) else self._value(item) for _ in range(size)]
        raise RunspendError(f"cannot read a Parquet footer: it has a field of Thrift type {kind}.")

    def _byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1]

    def _bytes(self, length: int) -> bytes:
        self._at += length
        return self._data[self._at - length : self._at]

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._data[self._at]
            self._at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7

    def _zigzag(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)


def _write_struct(out: bytearray, fields: Struct) -> None:
    last = 0
    for number, (kind, value) in sorted(fields.items()):
        if kind in (TRUE, FALSE):
            kind = TRUE if value else FALSE
        if number - last <= 15:
            out.append((number - last) << 4 | kind)
        else:
            out.append(kind)
            _write_zigzag(out, number)
        last = number
        _write_value(out, kind, value)
    out.append(0)


def _write_value(out: bytearray, kind: int, value: Any) -> None:
    if kind in (I16, I32, I64):
        _write_zigzag(out, value)
    elif kind == BINARY:
        _write_varint(out, len(value))
        out += value
    elif kind == STRUCT:
        _write_struct(out, value)
    elif kind == BYTE:
        out.append(value)
    elif kind == DOUBLE:
        out += value
    elif kind in (LIST, SET):
        item, members = value
        if len(members) < 15:
            out.append(len(members) << 4 | item)
        else:
            out.append(15 << 4 | item)
            _write_varint(out, len(members))
        for member in members:
            _write_value(out, BYTE if item in (TRUE, FALSE) else item, member)


def _write_varint(out: bytearray, value: int) -> None:
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)


def _write_zigzag(out: bytearray, value: int) -> None:
    _write_varint(out, value << 1 if value >= 0 else (-value << 1) - 1)
