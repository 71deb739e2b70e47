"""The valid names of units in a warehouse of files, and the valid content of state files, `schema.json` and a bucket's head.

Someone other than Runspend may have written these files. So this module refuses names that `checked_unit` would not accept, and content
that Runspend would not write. The error names the file.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from functools import lru_cache
from typing import Any

from runspend.core.own_files import refused
from runspend.schema.tables import TABLES
from runspend.warehouse.base import Unit, UnitState
from runspend.warehouse.plain_values import SHA256, is_count, is_time

SCHEMA_NAME = "_runspend/schema.json"
_STAGED = re.compile(r"_runspend/stage/[A-Za-z0-9_-][A-Za-z0-9_.-]*/[A-Za-z0-9_-][A-Za-z0-9_.-]*\.(?:parquet|json)", re.ASCII)
_IN_BUCKET = re.compile(r"_runspend/stage/[0-9a-f]{32}/(?:upgrade-[0-9]+/)?[0-9]+\.parquet", re.ASCII)
_WRITER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*", re.ASCII)
_COLUMN = re.compile(r"[a-z][a-z0-9_]{0,99}", re.ASCII)
_TEXTS = ("settings", "bill_digest", "configuration")  # keys of `extra` with strings that later steps use
_TIMES = ("first_start", "last_end")


def checked_unit(table: str, period: str, writer: str) -> Unit:
    """Return the unit with this name. Raises ValueError if a part of the name is not valid, such as one that leaves the table's folder."""
    if table not in TABLES:
        raise ValueError(f"cannot write table {table!r}: it is not in tables.py.")
    dated = TABLES[table].period_column is not None
    if not re.fullmatch(r"\d{4}-(0[1-9]|1[0-2])" if dated else "all", period, re.ASCII):
        raise ValueError(f"cannot write {table} for period {period!r}: the period must be {'YYYY-MM' if dated else 'all'}.")
    if not _WRITER.fullmatch(writer):
        raise ValueError(
            f"cannot write {table} as {writer!r}: a writer's name starts with a letter or digit, and has only letters, digits and ._-"
        )
    return Unit(table, period, writer)


def file_name(unit: Unit) -> str:
    """Return the path of the unit's file below the root."""
    place = "" if TABLES[unit.table].is_public else "_internal/"
    return f"{place}{unit.table}/period={unit.period}/{unit.writer}.parquet"


def state_name(unit: Unit) -> str:
    """Return the path of the unit's state file below the root."""
    return f"_runspend/units/{unit.table}/{unit.period}/{unit.writer}.json"


def state_of(record: Mapping[str, Any]) -> UnitState:
    """Return the public state of a unit."""
    return UnitState(record["digest"], record["rows"], record["build_id"], record["extra"])


def is_unit_name(name: str) -> bool:
    """Whether a path below the root is the name of a unit's file or of its state file."""
    parts = name.split("/")
    try:
        if name.startswith("_runspend/units/") and len(parts) == 5 and name.endswith(".json"):
            return state_name(checked_unit(parts[2], parts[3], parts[4].removesuffix(".json"))) == name
        if len(parts) >= 3 and name.endswith(".parquet"):
            table, period, writer = parts[-3:]
            return file_name(checked_unit(table, period.removeprefix("period="), writer.removesuffix(".parquet"))) == name
    except ValueError:
        return False
    return False


def unit_of_file(name: str) -> Unit:
    """Return the unit whose Parquet file has this path below the root. The caller has checked the path with `is_unit_name`."""
    table, period, writer = name.split("/")[-3:]
    return Unit(table, period.removeprefix("period="), writer.removesuffix(".parquet"))


def is_staged_name(name: str) -> bool:
    """Whether a path below the root can be a finished file in a step's staging folder."""
    return _STAGED.fullmatch(name) is not None


def unit_of_text(text: str, where: object) -> Unit:
    """Return the unit named "table/period/writer". Raises RecordRefused if the name is not valid."""
    parts = text.split("/")
    try:
        if len(parts) == 3:
            return checked_unit(*parts)
    except ValueError as error:
        raise refused(where, f"it names the unit {text!r}: {error}") from error
    raise refused(where, f"it names the unit {text!r}")


def check_state(value: Any, where: object, unit: Unit | None = None) -> dict[str, Any]:
    """Return a unit's state after checking that it is of this unit and that its fields have the form that a step writes.

    Raises RecordRefused otherwise.
    """
    if not isinstance(value, dict):
        raise refused(where, "it is not the state of a unit")
    if unit is not None and value.get("unit") != list(unit):
        raise refused(where, f"it is the state of another unit: {value.get('unit')!r}")
    for name in ("digest", "build_id"):
        if not _is_text(value.get(name)):
            raise refused(where, f"{name} is {value.get(name)!r}")
    for name in ("rows", "bytes"):
        if not is_count(value.get(name)):
            raise refused(where, f"{name} is {value.get(name)!r}")
    sha256 = value.get("sha256")
    if not isinstance(sha256, str) or not SHA256.fullmatch(sha256):
        raise refused(where, f"sha256 is {sha256!r}")
    if "why" in value:  # only `lost` adds this key; a forged reason would be shown to people, also in mails
        raise refused(where, "it states a reason for damage, which a state file never contains")
    if not _are_columns(value.get("columns", [])):
        raise refused(where, "its columns are not names")
    _check_extra(value.get("extra"), where)
    return value


def _check_extra(extra: Any, where: object) -> None:
    """Check the types of those values in `extra` that later steps use. Raises RecordRefused if one is wrong."""
    if not isinstance(extra, dict):
        raise refused(where, f"extra is {extra!r}")
    for name in (*_TEXTS, *_TIMES):
        stored = extra.get(name)
        if stored is not None and not (isinstance(stored, str) and (name in _TEXTS or is_time(stored))):
            raise refused(where, f"{name} of extra is {stored!r}")
    if not isinstance(extra.get("lags", {}), dict):
        raise refused(where, f"lags of extra is {extra['lags']!r}")


def check_schema(value: Any, where: object) -> dict[str, Any]:
    """Return the content of `schema.json` after checking its version and its columns. Raises RecordRefused if they are not valid."""
    if not isinstance(value, dict) or not is_count(value.get("version")) or not isinstance(value.get("tables"), dict):
        raise refused(where, "it is not a version and its tables")
    for table, columns in value["tables"].items():
        if not _are_columns(columns):
            raise refused(where, f"the columns of {table!r} are not names")
    return value


def check_copies(value: Any, units: Collection[Unit], where: object) -> tuple[tuple[str, str, int], ...]:
    """Return the copies in a bucket's head after checking them.

    Each copy must be from an object in the stage to the name of a unit in the head. Raises RecordRefused otherwise.
    """
    found = value if isinstance(value, list) else [value]
    targets = {file_name(unit) for unit in units}
    for copy in found:
        if (
            not isinstance(copy, list)
            or len(copy) != 3
            or not isinstance(copy[0], str)
            or not isinstance(copy[1], str)
            or not is_count(copy[2])
        ):
            raise refused(where, f"{copy!r} is not a copy")
        if not _IN_BUCKET.fullmatch(copy[0]) or copy[1] not in targets:
            raise refused(where, f"it copies {copy[0]!r} to {copy[1]!r}, but copies may only go from the stage to the name of a unit")
    if len({source for source, _, _ in found}) < len(found) or len({target for _, target, _ in found}) < len(found):
        raise refused(where, "it copies an object twice")
    return tuple((source, target, size) for source, target, size in found)


def check_removals(value: Any, units: Collection[Unit], where: object) -> tuple[tuple[str, str], ...]:
    """Return the removals in a bucket's head after checking them.

    Each removal must name a unit that is no longer in the head. Raises RecordRefused otherwise.
    """
    kept = {file_name(unit) for unit in units}
    for removal in value if isinstance(value, list) else [value]:
        if not isinstance(removal, list) or len(removal) != 2 or not all(isinstance(text, str) and text for text in removal):
            raise refused(where, f"{removal!r} is not a removal")
        if not is_unit_name(removal[0]) or not removal[0].endswith(".parquet") or removal[0] in kept:
            raise refused(where, f"it removes {removal[0]!r}, which is not the name of a removed unit")
    return tuple((key, etag) for key, etag in value)


def _are_columns(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value) and _are_names(tuple(value))


@lru_cache(maxsize=1024)
def _are_names(names: tuple[str, ...]) -> bool:
    """Whether these are valid column names without duplicates. Cached, because every read checks the columns of all tables."""
    return all(_COLUMN.fullmatch(name) for name in names) and len(set(names)) == len(names)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= 1000
