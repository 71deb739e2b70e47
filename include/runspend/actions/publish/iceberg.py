"""Publish to tables of an Iceberg catalog: one commit per table, which replaces the months that changed.

A catalog cannot commit several tables at once. So during a publish, or after a publish was killed, readers may see tables of two builds.
Each table has its build ID in the property `runspend.build_id`, and in its newest snapshot. Tables with equal IDs are of the same build.
Views are published as tables. A table that Runspend did not make is never changed.

Others may be able to write to the catalog too, and PyIceberg trusts a table. Its properties name Python classes, servers and keys. Its
location is where files are written. Old metadata files that it lists are deleted. So Runspend uses a table only if all of these are as
Runspend made them (`_refuse_redirected`).

Source: Iceberg "Spec", "Optimistic concurrency"; PyIceberg "Python API", "Configuration".
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any
from urllib.parse import unquote

from runspend.actions.publish.content import BUILDS, WHOLE, Content, Found, Part, Published, builds_rows, months
from runspend.config.publish import IcebergTarget
from runspend.core.crash_points import crash_point
from runspend.core.errors import MissingExtra, SourceError, SourceUnreachable
from runspend.core.machine_faults import fault_of
from runspend.core.text import clean
from runspend.schema.tables import Table
from runspend.warehouse.parquet.engine import month_of

BUILD = "runspend.build_id"
PARTS = "runspend.parts"  # JSON: period -> (build ID, number of rows, time of the copy)
ROWS_AT_ONCE = 500_000
LARGEST = 2**63 - 1
# Properties that make PyIceberg import a class, or send Runspend's keys to another server. Only `catalog` in runspend.yaml may set them,
# never a table.
REDIRECTING = re.compile(r"(py-io-impl|write\.py-location-provider\.impl|uri|token|credential)$|(s3|gcs|adls|hdfs|hf|client|auth|rest)\.")
PLACES = ("write.data.path", "write.metadata.path")
METADATA = re.compile(r"[\w.-]+\.metadata\.json")


def publish(target: IcebergTarget, content: Content, now: datetime) -> Published:
    """Update the namespace to the content. Raises SourceError if that fails; each table then has either its old or its new rows."""
    try:
        from pyiceberg.exceptions import CommitFailedException, RESTError
    except ImportError as error:
        raise MissingExtra("pyiceberg", "iceberg") from error
    try:
        catalog = _open_catalog(target)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Delete operation did not match any records")  # that month had no rows
            return _Namespace(catalog, target).fill(content, now)
    except (CommitFailedException, RESTError, ConnectionError, OSError) as error:
        raise SourceUnreachable(target.name, _words(target, error)) from error
    except SourceError:
        raise
    except Exception as error:
        raise SourceError(target.name, _words(target, error)) from error


def probe(target: IcebergTarget) -> Found:
    """Return the build in the namespace. Changes nothing, so it cannot find out whether `publish` may write there.

    Raises SourceError if the catalog cannot be reached.
    """
    try:
        from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError
    except ImportError as error:
        raise MissingExtra("pyiceberg", "iceberg") from error
    try:
        table = _open_catalog(target).load_table(f"{target.namespace}.{BUILDS.name}")
        _refuse_redirected(table, target)
        snapshot = table.current_snapshot()
        at = datetime.fromtimestamp(snapshot.timestamp_ms / 1000, timezone.utc) if snapshot is not None else None
        return Found(table.properties.get(BUILD), at)
    except (NoSuchNamespaceError, NoSuchTableError):
        return Found()
    except SourceError:
        raise
    except Exception as error:
        why = " ".join(str(error).split()) or type(error).__name__
        raise SourceUnreachable(target.name, f"cannot use {target.name}: {why[:500].rstrip('.')}. Check `catalog`.") from error


def _words(target: IcebergTarget, error: Exception) -> str:
    why = fault_of(error) or f"{(' '.join(str(error).split()) or type(error).__name__)[:500].rstrip('.')}."
    return f"cannot publish to {target.name}: {why} Each table of {target.namespace} has its old rows, or the new ones."


def _open_catalog(target: IcebergTarget) -> Any:
    """Open the catalog, and ignore `py-io-impl` in its tables. PyIceberg would import and call the class that this property names."""
    from pyiceberg.catalog import load_catalog

    catalog: Any = load_catalog(target.name, **target.properties)
    load = catalog._load_file_io

    def load_without_class(properties: Mapping[str, Any] | None = None, location: str | None = None) -> Any:
        return load({key: value for key, value in (properties or {}).items() if key != "py-io-impl"}, location)

    catalog._load_file_io = load_without_class
    return catalog


def _refuse_redirected(there: Any, target: IcebergTarget) -> None:
    """Raise SourceError if a table would make PyIceberg use other classes, servers or folders, or delete other files."""
    own, why = there.properties, None
    if wrong := [key for key in own if REDIRECTING.match(key)]:
        why = f"has the property {clean(wrong[0])}, which only `catalog` in runspend.yaml may set"
    elif wrong := [place for place in (there.location(), *(own[key] for key in PLACES if key in own)) if not _is_inside(place, target)]:
        why = f"writes to {clean(wrong[0], 200)}, a folder outside `warehouse`"
    elif own.get("write.metadata.delete-after-commit.enabled", "false").lower() != "false":
        folder = there.metadata_location.rpartition("/")[0]
        files = [entry.metadata_file for entry in there.metadata.metadata_log]
        if wrong := [file for file in files if file.rpartition("/")[0] != folder or not METADATA.fullmatch(file.rpartition("/")[2])]:
            why = f"lists {clean(wrong[0], 200)} as its old metadata, which would be deleted"
    if why is not None:
        raise SourceError(
            target.name,
            f"cannot publish to {target.name}: the table {there.name()[-1]} of the namespace {target.namespace} {why}. Nothing was changed."
            " Find out who changed the table, and drop it without its files: the next `runspend publish` makes it again.",
        )


def _is_inside(place: str, target: IcebergTarget) -> bool:
    """Return whether a path is in the cloud, or in the local folder `warehouse`.

    If `warehouse` is only a name, every path is accepted: the catalog decides where files are.
    """
    warehouse = target.properties.get("warehouse", "")
    if "/" not in warehouse or re.match(r"(?!file:)\w+://", place):
        return True
    folder, inside = (os.path.abspath(unquote(re.sub(r"^file:/*", "/", path))) for path in (warehouse, place))
    return inside.startswith(folder + os.sep)


def _known_parts(noted: str, table: Table) -> dict[str, list[Any]]:
    """Return the parts in a table's property PARTS. Empty if the property is not in the format that `_update` writes."""
    try:
        known: dict[str, list[Any]] = json.loads(noted)
        for period, (build_id, rows, at) in known.items():
            if not isinstance(build_id, str) or type(rows) is not int or not 0 <= rows <= LARGEST:
                return {}
            datetime.fromisoformat(at).astimezone(timezone.utc)
            if table.period_column is not None:
                month_of(period)
            elif period != WHOLE:
                return {}
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        return {}
    return known


class _Namespace:
    """A namespace of an open catalog."""

    def __init__(self, catalog: Any, target: IcebergTarget) -> None:
        self._catalog = catalog
        self._target = target

    def fill(self, content: Content, now: datetime) -> Published:
        """Update all tables to the content, each in one commit."""
        self._catalog.create_namespace_if_not_exists(self._target.namespace)
        found = {table.name: self._open(table) for table in (*content.tables, BUILDS)}
        published = Published(content.build_id)
        if all(one.properties.get(BUILD) == content.build_id for one in found.values()):
            published.is_new = False
            return published
        counts: dict[tuple[str, str], tuple[int, datetime]] = {}
        for table in content.tables:
            counts |= self._update(found[table.name], table, content, now, published)
            crash_point(f"publish.iceberg.{table.name}")
        self._update_builds(found[BUILDS.name], content, counts, now)
        return published

    def _open(self, table: Table) -> Any:
        """Return a table with the columns of this version. Create it if it is missing.

        Raises SourceError if Runspend did not make the table.
        """
        from pyiceberg.exceptions import NoSuchTableError

        name = f"{self._target.namespace}.{table.name}"
        schema = table.arrow_schema()
        try:
            found = self._catalog.load_table(name)
        except NoSuchTableError:
            found = self._catalog.create_table(name, schema=schema, properties={PARTS: "{}", "comment": table.description})
        if PARTS not in found.properties:
            raise SourceError(
                self._target.name,
                f"cannot publish to {self._target.name}: the namespace {self._target.namespace} has a table {table.name} that `runspend publish` did"
                " not make. Nothing was changed. Set `namespace` to one that only Runspend writes.",
            )
        _refuse_redirected(found, self._target)
        if set(schema.names) - set(found.schema().column_names):
            with found.update_schema() as changes:
                changes.union_by_name(schema)
        described = {column.name: found.schema().find_field(column.name).doc for column in table.columns}
        if different := [column for column in table.columns if described[column.name] != column.meaning]:
            with found.update_schema() as changes:
                for column in different:
                    changes.update_column(column.name, doc=column.meaning)
        return found

    def _update(
        self, there: Any, table: Table, content: Content, now: datetime, published: Published
    ) -> dict[tuple[str, str], tuple[int, datetime]]:
        """Replace the parts that changed and record the build, in one commit. Return the rows and the time of each part."""
        from pyiceberg.expressions import AlwaysTrue

        known = _known_parts(there.properties[PARTS], table)
        has_rows = there.current_snapshot() is not None
        parts = [part for part in content.parts if part.table.name == table.name]
        noted: dict[str, list[Any]] = {}
        with there.transaction() as transaction:
            if has_rows and not known:
                transaction.delete(AlwaysTrue())
            for part in parts:
                if known.get(part.period, [None])[0] == part.build_id:
                    noted[part.period] = known[part.period]
                    continue
                if has_rows and known:  # also if PARTS does not have this month
                    self._delete(transaction, part)
                rows = self._append(transaction, part, content)
                noted[part.period] = [part.build_id, rows, now.isoformat()]
                published.add(part, rows)
            for period in known.keys() - noted.keys():
                self._delete(transaction, Part(table, period, "", ()))
            transaction.set_properties({PARTS: json.dumps(noted), BUILD: content.build_id, "comment": table.description})
        return {(table.name, period): (rows, datetime.fromisoformat(at)) for period, (_, rows, at) in noted.items()}

    def _delete(self, transaction: Any, part: Part) -> None:
        from pyiceberg.expressions import AlwaysTrue, And, GreaterThanOrEqual, LessThan

        span = months(part)
        column = part.table.period_column or ""
        transaction.delete(AlwaysTrue() if span is None else And(GreaterThanOrEqual(column, span[0]), LessThan(column, span[1])))

    def _append(self, transaction: Any, part: Part, content: Content) -> int:
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema, rows = part.table.arrow_schema(), 0
        with content.files(part) as files:
            for file in files:
                with pq.ParquetFile(file) as read:
                    for batch in read.iter_batches(ROWS_AT_ONCE):
                        piece = pa.Table.from_batches([batch]).select(schema.names).cast(schema)
                        transaction.append(piece, snapshot_properties={BUILD: content.build_id})
                        rows += piece.num_rows
        return rows

    def _update_builds(self, there: Any, content: Content, counts: dict[tuple[str, str], tuple[int, datetime]], now: datetime) -> None:
        import pyarrow as pa

        rows = pa.Table.from_pylist(builds_rows(content, counts, now), schema=BUILDS.arrow_schema())
        with there.transaction() as transaction:
            write = transaction.append if there.current_snapshot() is None else transaction.overwrite
            write(rows, snapshot_properties={BUILD: content.build_id})
            transaction.set_properties(
                {PARTS: json.dumps({WHOLE: [content.build_id]}), BUILD: content.build_id, "comment": BUILDS.description}
            )
