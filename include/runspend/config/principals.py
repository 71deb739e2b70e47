"""Reads files that map IAM principals to dimensions: `dimensions: {team: [{principal: FILE.csv}]}`.

`core/resource_keys.py` compares principals.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from runspend.config.csv_rows import read_csv_rows
from runspend.core.resource_keys import principal_key


def read_principals(paths: Sequence[Path], dimension: str) -> dict[str, str]:
    """Return the dimension's value for each principal key, from CSV files with the columns `principal` and the dimension's name.

    If several files have a principal, the first file counts. Raises ValueError if an entry is not the ARN of an IAM role or user, is
    empty, or contradicts an earlier entry. The error names the file and the line.
    """
    found: dict[str, str] = {}
    for path in paths:
        for key, value in _read_file(path, dimension).items():
            found.setdefault(key, value)
    return found


def _read_file(path: Path, dimension: str) -> dict[str, str]:
    values: dict[str, str] = {}
    for line, row in read_csv_rows(path, ("principal", dimension)):
        arn, value = row["principal"] or "", row[dimension]
        key = principal_key(arn)
        if key is None:
            raise ValueError(
                f"{path}, line {line}: {arn!r} is not the ARN of an IAM role or user. Write one such as arn:aws:iam::111122223333:role/NAME"
            )
        if value is None:
            raise ValueError(f"{path}, line {line}: {dimension} is empty. Write a value, or remove the line")
        if values.setdefault(key, value) != value:
            raise ValueError(f"{path}, line {line}: {arn} has the {dimension} {values[key]!r} in an earlier line. Keep one of them")
    return values
