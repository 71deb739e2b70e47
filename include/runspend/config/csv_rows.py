"""Reads small CSV files that users maintain and that a setting names, such as rates and prices. Other modules read bills."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

MAX_BYTES = 10_000_000


def read_csv_rows(path: Path, needed: Sequence[str], optional: Sequence[str] = ()) -> list[tuple[int, dict[str, str | None]]]:
    """Return every row as (line number, {column: text}). Empty values are None.

    Raises ValueError if the file cannot be read or has a mistake. The error names the file and, if known, the line.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"{path} has more than {MAX_BYTES} bytes")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror or type(error).__name__}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text") from None
    reader = csv.reader(text.splitlines(), strict=True)
    known = (*needed, *optional)
    rows: list[tuple[int, dict[str, str | None]]] = []
    header: list[str] | None = None
    try:
        for cells in reader:
            values = [cell.strip() for cell in cells]
            if not any(values):
                continue
            if header is None:
                header = _header(path, values, needed, known)
                continue
            if len(values) != len(header):
                raise ValueError(f"{path}, line {reader.line_num}: {len(values)} values for {len(header)} columns")
            rows.append((reader.line_num, {name: value or None for name, value in zip(header, values, strict=True)}))
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: {error}") from None
    if header is None:
        raise ValueError(f"{path} is empty; its first line names the columns {','.join(known)}")
    return rows


def _header(path: Path, names: list[str], needed: Sequence[str], known: Sequence[str]) -> list[str]:
    missing = [name for name in needed if name not in names]
    strange = [name for name in names if name not in known]
    if missing or strange or len(set(names)) < len(names):
        what = f"column {missing[0]} is missing" if missing else f"unknown column {strange[0]!r}" if strange else "a column is given twice"
        raise ValueError(
            f"{path}, line 1: {what}. Columns are {','.join(needed)}" + "".join(f", optionally {n}" for n in known if n not in needed)
        )
    return names
