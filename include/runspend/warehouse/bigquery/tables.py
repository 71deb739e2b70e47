"""Create the datasets and tables of a warehouse in BigQuery from `schema/tables.py`, and bring them to a new schema version.

    <dataset>             public tables, and the views of `schema/public_views.py`
    <dataset>_internal    internal tables, views of the public ones, `schema/views/*.sql`, and `published`: the state of every unit
    <dataset>_staging     rows that are being loaded; its tables expire by themselves
    <dataset>_step_<hex>  tables that the models of one step make; deleted at the end of the step, and they expire too

Every table has one column that is not in `schema/tables.py`: the writer of each row. Steps need it to replace the rows of one writer.

For a new schema version, new columns are added, and former names and values (`schema/former_names.py`) are changed in place. Any other
difference is refused. The error contains the SQL statement that would correct it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from runspend.core.errors import ConfigError
from runspend.schema.former_names import RENAMED_COLUMNS, RENAMED_VALUES, VALUE_COLUMNS, VALUES_VERSION
from runspend.schema.public_views import VIEWS
from runspend.schema.tables import SCHEMA_VERSION, TABLES, Column, Table, public_tables
from runspend.warehouse.bigquery.jobs import AlreadyThere, Changed, Jobs, NotAllowed, NotThere, Statement
from runspend.warehouse.googlesql import qualified
from runspend.warehouse.sql_files import expand_macros

ADDRESS = re.compile(r"bigquery://(?P<project>(?:[a-z0-9.-]+:)?[a-z][a-z0-9-]+)[/.](?P<dataset>\w+)/?")
DAY_MS = 24 * 3600 * 1000
WRITER = Column(
    "runspend_writer",
    "STRING",
    "Writer of the rows: a bill, a tracking server, an artifact store, a step, or all. Rows of one writer are replaced together.",
)
LABELS = {"runspend": "warehouse"}
STEP_LABEL = "step"  # marks datasets of steps
CLUSTERED = 4  # BigQuery's maximum number of clustering columns
NO_CLUSTER = ("FLOAT64", "ARRAY<STRING>")

# One row per unit. The head row has an empty table_name and counts publishes. Each publish changes it, so that concurrent ones conflict.
PUBLISHED = Table(
    "published",
    "one row per unit, and one (table_name empty) for all",
    "What is known of every unit without reading it.",
    (
        Column("table_name", "STRING", "Table of the unit; empty for the head row."),
        Column("period", "STRING", "YYYY-MM or all."),
        Column("writer", "STRING", "Writer of the rows."),
        Column("digest", "STRING", "Digest of the content, independent of the order of rows."),
        Column("row_count", "INT64", "Rows of the unit; in the head row: the number of publishes."),
        Column("build_id", "STRING", "The step that wrote it."),
        Column("extra", "STRING", "Metadata of the unit, as a JSON object. In the head row: the schema version."),
        Column("publish_id", "STRING", "The publish that wrote the row."),
    ),
    period_column=None,
)


@dataclass(frozen=True)
class Places:
    """The unquoted names of a warehouse's datasets and tables."""

    project: str
    dataset: str

    @classmethod
    def parse(cls, uri: str) -> Places:
        """Parse an address such as bigquery://project/dataset. Raises ConfigError if it is not one."""
        found = ADDRESS.fullmatch(uri)
        if found is None:
            raise ConfigError(
                f"cannot open warehouse {uri!r}: that is not a BigQuery dataset. Set warehouse.uri to bigquery://project/dataset."
            )
        return cls(found["project"], found["dataset"])

    @property
    def public(self) -> str:
        return f"{self.project}.{self.dataset}"

    @property
    def internal(self) -> str:
        """The dataset in which every table can be queried by its bare name."""
        return f"{self.public}_internal"

    @property
    def staging(self) -> str:
        return f"{self.public}_staging"

    @property
    def published(self) -> str:
        return f"{self.internal}.{PUBLISHED.name}"

    def step(self, token: str) -> str:
        """Return the name of the dataset of one step."""
        return f"{self.public}_step_{token}"

    def table(self, table: Table) -> str:
        """Return the full name of a table."""
        return f"{self.public if table.is_public else self.internal}.{table.name}"


def quoted(name: str) -> str:
    """Return the full name of a table or dataset in backquotes, for SQL."""
    return f"`{name}`"


def column_names(table: Table) -> str:
    """Return the names of a table's columns in `schema/tables.py` as a SQL list."""
    return ", ".join(c.name for c in table.columns)


def type_of(field: Any) -> str:
    """Return the GoogleSQL type of a column that Google's client describes."""
    kind = {"INTEGER": "INT64", "FLOAT": "FLOAT64", "BOOLEAN": "BOOL", "BIGDECIMAL": "BIGNUMERIC", "DECIMAL": "NUMERIC"}.get(
        field.field_type, field.field_type
    )
    return f"ARRAY<{kind}>" if field.mode == "REPEATED" else str(kind)


def schema_of(table: Table, *more: Column) -> list[Any]:
    """Return the columns of a table, and the columns `more`, for Google's client. Each has its meaning as description."""
    from google.cloud.bigquery import SchemaField

    def field(column: Column) -> Any:
        repeated = column.type.startswith("ARRAY<")
        kind = column.type.removeprefix("ARRAY<").removesuffix(">")
        return SchemaField(column.name, kind, mode="REPEATED" if repeated else "NULLABLE", description=column.meaning)

    return [field(column) for column in (*table.columns, *more)]


def schema_digest() -> str:
    """Return a digest of everything that `make_tables` creates. If it differs from the stored one, `make_tables` must run."""
    tables = (PUBLISHED, *TABLES.values(), *VIEWS.values())
    texts = [repr((t.name, t.grain, t.meaning, t.columns, t.is_public, t.period_column, t.sort)) for t in tables]
    texts += [expand_macros(path.read_text(encoding="utf-8")) for path in _views()]
    return hashlib.sha256("\n".join([WRITER.meaning, *texts]).encode()).hexdigest()[:16]


def make_tables(jobs: Jobs, places: Places, version: int) -> None:
    """Create missing datasets and tables, add new columns, and replace former names and values.

    `version`: the schema version of the existing tables. Raises ConfigError if a table differs in any other way.
    """
    for name, expires in ((places.public, None), (places.internal, None), (places.staging, DAY_MS)):
        _make_dataset_once(jobs, name, expires)
    for table in (PUBLISHED, *TABLES.values()):
        full = f"{places.internal}.{table.name}" if table is PUBLISHED else places.table(table)
        columns = () if table is PUBLISHED else (WRITER,)
        _make_table(jobs, table, full, schema_of(table, *columns))
    for view in VIEWS.values():
        _make_view(jobs, places, f"{places.table(view)}` {_described(view)}", qualified(view.sql, places.public))
    for table in (*public_tables(), *VIEWS.values()):
        _make_view(jobs, places, f"{places.internal}.{table.name}`", f"select {column_names(table)} from {quoted(places.table(table))}")
    for path in _views():
        if path.stem not in VIEWS:
            text = qualified(expand_macros(path.read_text(encoding="utf-8")), places.internal)
            _make_view(jobs, places, f"{places.internal}.{path.stem}`", text)
    if version < VALUES_VERSION:
        _rename_values(jobs, places)
    _mark(jobs, places)


def _make_view(jobs: Jobs, places: Places, head: str, text: str) -> None:
    """Create or replace a view. `head`: its name, the closing backquote, and its declarations, if any."""
    jobs.run(Statement(f"create or replace view `{head} as\n{text}"), dataset=places.internal, labels={"step": "tables"})


def _described(view: Table) -> str:
    """Return the columns and the description of a view in the syntax of CREATE VIEW."""
    columns = ",\n  ".join(f"{c.name} options (description = {_bigquery_text(c.meaning)})" for c in view.columns)
    return f"(\n  {columns}\n) options (description = {_bigquery_text(view.description)})"


def _bigquery_text(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _rename_values(jobs: Jobs, places: Places) -> None:
    """Replace former values in all tables. Rows without former values do not change, so this may run any number of times."""
    for table, columns in VALUE_COLUMNS.items():
        full = quoted(places.table(TABLES[table]))
        for column in columns:
            for before, now in RENAMED_VALUES.items():
                sql = f"update {full} set {column} = @now where {column} = @before"
                jobs.run(Statement(sql, {"before": before, "now": now}), dataset=places.internal, labels={"step": "tables"})


def _views() -> list[Path]:
    """Return the files with the queries of the views: `schema/views/*.sql`. These have no parameters."""
    return sorted((Path(__file__).parents[2] / "schema" / "views").glob("*.sql"))


def make_dataset(jobs: Jobs, name: str, expires_ms: int | None, **labels: str) -> None:
    """Create a dataset. Raises AlreadyThere if it exists.

    `expires_ms`: lifetime of its tables in milliseconds (None: unlimited).
    """
    from google.cloud import bigquery

    dataset = bigquery.Dataset(name)
    dataset.labels = {**LABELS, **labels}
    if jobs.location is not None:
        dataset.location = jobs.location
    if expires_ms is not None:
        dataset.default_table_expiration_ms = expires_ms
    with jobs.translate_errors():
        jobs.client.create_dataset(dataset)


def _make_dataset_once(jobs: Jobs, name: str, expires_ms: int | None) -> None:
    """Create a dataset unless it exists.

    For a dataset that does not exist, Google may answer that the account has no access, so NotAllowed also leads to an attempt.
    """
    try:
        with jobs.translate_errors():
            jobs.client.get_dataset(name)
    except (NotAllowed, NotThere):
        try:
            make_dataset(jobs, name, expires_ms)
        except AlreadyThere:
            return


def empty_table(name: str, schema: Sequence[Any]) -> Any:
    """Return a table without rows, for Google's client."""
    from google.cloud import bigquery

    return bigquery.Table(name, schema=schema)


def _make_table(jobs: Jobs, table: Table, full: str, schema: list[Any]) -> None:
    from google.cloud import bigquery

    wanted = bigquery.Table(full, schema=schema)
    wanted.description = table.description
    wanted.labels = LABELS
    if table.period_column is not None:
        wanted.time_partitioning = bigquery.TimePartitioning(type_="MONTH", field=table.period_column)
    if clustering := _clustering(table):
        wanted.clustering_fields = clustering
    with jobs.translate_errors():
        found = jobs.client.create_table(wanted, exists_ok=True)
        found = jobs.client.get_table(full)
    for name, former in RENAMED_COLUMNS.get(table.name, {}).items():
        if former in {f.name for f in found.schema}:
            sql = f"alter table {quoted(full)} rename column if exists {former} to {name}"
            jobs.run(Statement(sql), dataset=full.rpartition(".")[0], labels={"step": "tables"})
            with jobs.translate_errors():
                found = jobs.client.get_table(full)
    if lacking := list(_lacking(table, full, found, schema)):
        added = ", ".join(f"add column if not exists {f.name} {type_of(f)}" for f in lacking)
        jobs.run(Statement(f"alter table {quoted(full)} {added}"), dataset=full.rpartition(".")[0], labels={"step": "tables"})
        with jobs.translate_errors():
            found = jobs.client.get_table(full)
    by_name = {f.name: f for f in schema}
    described = [by_name.get(f.name, f) for f in found.schema]
    if described != list(found.schema) or found.description != wanted.description:
        found.schema, found.description = described, wanted.description
        try:
            with jobs.translate_errors():
                jobs.client.update_table(found, ["schema", "description"])
        except Changed:  # another process of the same version has just written the same descriptions
            return


def _clustering(table: Table) -> list[str]:
    """Return the clustering columns: the charge date and the sort columns of the table, because users filter on them."""
    types = {c.name: c.type for c in table.columns}
    wanted = [name for name in ("charge_date", *table.sort) if name in types and types[name] not in NO_CLUSTER]
    return list(dict.fromkeys(wanted))[:CLUSTERED]


def _lacking(table: Table, full: str, found: Any, schema: Sequence[Any]) -> Iterator[Any]:
    """Yield the columns that the existing table lacks. Raises ConfigError if it differs in any other way."""
    there = {f.name: f for f in found.schema}
    for field in schema:
        if field.name not in there:
            yield field
        elif type_of(there[field.name]) != type_of(field):
            raise _differs(
                full,
                f"column {field.name} is {type_of(there[field.name])} and must be {type_of(field)}",
                f"alter table {quoted(full)} alter column {field.name} set data type {type_of(field)}",
            )
    known = {f.name for f in schema}
    for name in there:
        if name not in known:
            raise _differs(
                full, f"it has a column {name} that this version does not know", f"alter table {quoted(full)} drop column {name}"
            )
    partitioned = None if found.time_partitioning is None else found.time_partitioning.field
    if partitioned != table.period_column:
        copy = f"{full}_old"
        raise _differs(
            full,
            f"it is partitioned by {partitioned or 'nothing'} and must be by {table.period_column or 'nothing'}",
            f"alter table {quoted(full)} rename to {copy.rpartition('.')[2]}, and load its rows again",
        )


def _differs(full: str, what: str, statement: str) -> ConfigError:
    return ConfigError(
        f"cannot use table {full}: {what}. Nothing was changed. If no other program needs the table as it is, run: {statement}"
    )


def _mark(jobs: Jobs, places: Places) -> None:
    """Record in the head row that the tables match this version. Creates the head row, which counts publishes, if it does not exist."""
    head = json.dumps({"schema_version": SCHEMA_VERSION, "schema": schema_digest()})
    table, labels = quoted(places.published), {"step": "tables"}
    first = (
        f"insert into {table} (table_name, period, writer, row_count, extra) select '', '', '', 0, @extra"
        f" from (select 1) where not exists (select 1 from {table} where table_name = '')"
    )
    jobs.run(Statement(first, {"extra": head}), dataset=places.internal, labels=labels)
    jobs.run(
        Statement(f"update {table} set extra = @extra where table_name = '' and extra <> @extra", {"extra": head}),
        dataset=places.internal,
        labels=labels,
    )


def sweep_steps(jobs: Jobs, places: Places, older_than: datetime) -> None:
    """Delete the datasets of killed steps that were created before `older_than`. By then, their tables have expired."""
    name = re.compile(re.escape(places.step("").rpartition(".")[2]) + "[0-9a-f]{16}")
    with jobs.translate_errors():
        found = [item.reference for item in jobs.client.list_datasets() if name.fullmatch(item.dataset_id) and STEP_LABEL in item.labels]
    for reference in found:
        try:
            with jobs.translate_errors():
                if jobs.client.get_dataset(reference).created < older_than:
                    jobs.client.delete_dataset(reference, delete_contents=True, not_found_ok=True)
        except (NotAllowed, NotThere):  # it belongs to another account, or another process has just deleted it
            continue
