"""DDL statements: what they change in DuckDB, and what the emulator then reports about tables, views and datasets.

Part of the tests' BigQuery emulator; its own Python runs this module. The columns, descriptions, labels, month partitions and clusters of
a table come from its DDL. Types are BigQuery's. Queries and HTTP do not belong here.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from bqemulator.catalog.etag import generate_etag
from bqemulator.catalog.models import Clustering, DatasetMeta, TableFieldSchema, TableMeta, TableSchema, TimePartitioning
from bqemulator.domain.errors import NotFoundError
from bqemulator.storage.type_map import duckdb_type_to_bq_field
from sqlglot import exp

from tests.servers.bigquery_sql import Name, Place, Refused, duckdb_text, narrow_type, prepare, quote, set_options, target_of

if TYPE_CHECKING:
    from tests.servers.bigquery_session import Session


MAKING = threading.Lock()
EXPIRES: dict[Name, int] = {}  # milliseconds since 1970

VIEW_PLACES: dict[Name, Place] = {}  # the place in which a view resolves unqualified names


def set_expiration(ctx: Any, name: Name, stated: str | None = None) -> None:
    """Set the stated time at which a table expires, otherwise its dataset's default for new tables. The emulator never deletes expired tables."""
    EXPIRES.pop(name, None)
    default = require_dataset(ctx, name).default_table_expiration_ms
    if stated:
        EXPIRES[name] = int(stated)
    elif default:
        EXPIRES[name] = int(ctx.clock.now().timestamp() * 1000) + int(default)


def fields_of(columns: list[tuple[str, str, bool]]) -> TableSchema:
    """Return BigQuery's schema of columns. A column is its name, DuckDB's type, and whether it is required."""
    return TableSchema(
        fields=tuple(
            _field(duckdb_type_to_bq_field(name, narrow_type(type_), mode="REQUIRED" if required else "NULLABLE"))
            for name, type_, required in columns
        )
    )


def _field(rest: dict[str, Any]) -> TableFieldSchema:
    return TableFieldSchema(
        name=rest["name"], type=rest["type"], mode=rest.get("mode", "NULLABLE"), fields=tuple(_field(f) for f in rest.get("fields", []))
    )


def columns_of(ctx: Any, name: Name) -> list[tuple[str, str, bool]]:
    """Return the columns of a table or view in DuckDB."""
    return [(row[0], row[1], row[2] == "NO") for row in ctx.engine.execute(f"describe {name.quoted}").fetchall()]


def require_table(ctx: Any, name: Name) -> TableMeta:
    """Return a table's entry in the catalog, or raise BigQuery's error if there is none."""
    found = ctx.catalog.get_table(name.project, name.dataset, name.table)
    if found is None:
        require_dataset(ctx, name)
        raise NotFoundError(f"Not found: Table {name} was not found in location US")
    return found


def require_dataset(ctx: Any, name: Name) -> DatasetMeta:
    """Return the catalog's entry for the dataset of a table, or raise BigQuery's error."""
    found = ctx.catalog.get_dataset(name.project, name.dataset)
    if found is None:
        raise NotFoundError(f"Not found: Dataset {name.project}:{name.dataset} was not found in location US")
    return found


def count_rows(ctx: Any, name: Name) -> None:
    """Update the number of rows that `get_table` reports."""
    meta = ctx.catalog.get_table(name.project, name.dataset, name.table)
    if meta is not None:
        [rows] = ctx.engine.execute(f"select count(*) from {name.quoted}").fetchone()
        ctx.catalog.update_table(meta.model_copy(update={"num_rows": rows, "last_modified_time": ctx.clock.now()}))


def remember(ctx: Any, name: Name, kind: str = "TABLE", **known: Any) -> TableMeta:
    """Add a table or view of DuckDB to the catalog. It replaces an earlier entry of that name."""
    now = ctx.clock.now()
    meta = TableMeta(
        project_id=name.project,
        dataset_id=name.dataset,
        table_id=name.table,
        table_type=kind,
        creation_time=now,
        last_modified_time=now,
        etag=generate_etag(name.project, name.dataset, name.table, str(now)),
        **{"schema": fields_of(columns_of(ctx, name)), **known},
    )
    ctx.catalog.delete_table(name.project, name.dataset, name.table, not_found_ok=True)
    ctx.catalog.create_table(meta)
    if kind == "TABLE":
        count_rows(ctx, name)
        set_expiration(ctx, name)
    return meta


def define(session: Session, tree: exp.Expression, sql: str) -> tuple[str, Name | None]:
    """Run one DDL statement. Return what it did (BigQuery's ddlOperationPerformed), and to which table."""
    if isinstance(tree, exp.Create) and tree.kind in ("TABLE", "VIEW"):
        return _create(session, tree)
    if isinstance(tree, exp.Drop) and tree.args["kind"] in ("TABLE", "VIEW"):
        return _drop(session, tree)
    if isinstance(tree, exp.Alter) and tree.args["kind"] == "TABLE":
        return _alter(session, tree)
    if isinstance(tree, (exp.Create, exp.Drop)) and tree.args["kind"] == "SCHEMA":
        return _schema(session, tree), None
    raise Refused(f"The emulator cannot run this DDL: {sql[:80]}", "notImplemented")


def _exists(session: Session, name: Name) -> bool:
    return session.ctx.catalog.get_table(name.project, name.dataset, name.table) is not None


def _create(session: Session, tree: exp.Create) -> tuple[str, Name]:
    name, exists, kind = target_of(tree, session.place), tree.args.get("exists"), tree.kind
    require_dataset(session.ctx, name)
    was_there = _exists(session, name)
    if was_there and exists:
        return "SKIP", name
    if was_there and not tree.args.get("replace"):
        raise Refused(f"Already Exists: Table {name}", "duplicate")
    properties = tree.args.get("properties")
    if properties is not None and properties.find(exp.TemporaryProperty):
        raise Refused("The emulator has no temporary tables", "notImplemented")
    known = _known(properties)
    source = tree.expression
    declared = tree.this.expressions if isinstance(tree.this, exp.Schema) else []
    if kind == "VIEW":
        if source is None:
            raise Refused("Syntax error: a view needs a query")
        known["view_query"] = source.sql(dialect="bigquery")
        VIEW_PLACES[name] = session.place
    what = _columns(session, source, declared, is_view=kind == "VIEW")
    held = session.ctx.catalog.get_table(name.project, name.dataset, name.table)
    if held is not None and held.table_type != kind:
        raise Refused(f"{name} is not allowed for this operation because it is currently a {held.table_type}.", "invalid")
    session.cursor.execute(f"create or replace {kind} {name.quoted} {what}")
    _describe_columns(remember(session.ctx, name, kind, **known), declared, session)
    return ("REPLACE" if was_there else "CREATE"), name


def _columns(session: Session, source: exp.Expression | None, declared: list[exp.Expression], *, is_view: bool) -> str:
    """Return what follows the table's name: columns, or a query in BigQuery's types."""
    definitions = [d for d in declared if isinstance(d, exp.ColumnDef)]
    if source is None:
        return f"({', '.join(_definition(d) for d in definitions)})"
    sql, columns = session.typed(duckdb_text(prepare(source, session.place), copy=False), stored=not is_view)
    if not declared or is_view:
        names = [d.name for d in declared] or columns
        return f"{'(' + ', '.join(map(quote, names)) + ') ' if is_view else ''}as {sql}"
    shown = [f"cast({quote(old)} as {duckdb_text(d.args['kind'])}) as {quote(d.name)}" for old, d in zip(columns, definitions, strict=True)]
    return f"as select {', '.join(shown)} from ({sql})"


def _definition(column: exp.ColumnDef) -> str:
    kind = column.args["kind"]
    mode = " not null" if column.find(exp.NotNullColumnConstraint) else " default []" if kind.this == exp.DType.ARRAY else ""
    return f"{quote(column.name)} {duckdb_text(kind)}{mode}"


def _known(properties: exp.Expression | None) -> dict[str, Any]:
    """Return partitions, clusters and options of a DDL statement, as the catalog stores them."""
    options = set_options(properties)
    known: dict[str, Any] = {"description": options.get("description"), "labels": dict(options.get("labels") or [])}
    if properties is None:
        return known
    for node in properties.find_all(exp.PartitionedByProperty):
        part = node.this
        unit = part.text("unit").strip("'").upper() if isinstance(part, (exp.DateTrunc, exp.TimestampTrunc)) else "DAY"
        column = part.find(exp.Column)
        field = column.name if column is not None else part.name
        known["time_partitioning"] = TimePartitioning(type=unit, field=None if field.lower() == "_partitiondate" else field)
    for node in properties.find_all(exp.Cluster):
        known["clustering"] = Clustering(fields=tuple(e.name for e in node.expressions))
    return known


def _describe_columns(meta: TableMeta, declared: list[exp.Expression], session: Session) -> None:
    descriptions = {d.name: set_options(d).get("description") for d in declared if isinstance(d, exp.ColumnDef)}
    if any(descriptions.values()):
        fields = tuple(f.model_copy(update={"description": descriptions.get(f.name) or f.description}) for f in meta.schema_.fields)
        held = require_table(session.ctx, Name(meta.project_id, meta.dataset_id, meta.table_id))
        session.ctx.catalog.update_table(held.model_copy(update={"schema_": TableSchema(fields=fields)}))


def _drop(session: Session, tree: exp.Drop) -> tuple[str, Name]:
    name = target_of(tree, session.place)
    if not _exists(session, name):
        if tree.args.get("exists"):
            return "SKIP", name
        require_table(session.ctx, name)
    session.cursor.execute(f"drop {tree.args['kind']} {name.quoted}")
    session.ctx.catalog.delete_table(name.project, name.dataset, name.table)
    return "DROP", name


def _alter(session: Session, tree: exp.Alter) -> tuple[str, Name]:
    name = target_of(tree, session.place)
    if not _exists(session, name) and tree.args.get("exists"):
        return "SKIP", name
    meta = require_table(session.ctx, name)
    for action in tree.args["actions"]:
        if isinstance(action, exp.ColumnDef):
            unless = "if not exists " if action.args.get("exists") else ""
            session.cursor.execute(f"alter table {name.quoted} add column {unless}{_definition(action)}")
        elif isinstance(action, exp.Drop):
            unless = "if exists " if action.args.get("exists") else ""
            session.cursor.execute(f"alter table {name.quoted} drop column {unless}{quote(action.this.name)}")
        elif isinstance(action, exp.RenameColumn):
            if action.this.name in {f.name for f in meta.schema_.fields} or not action.args.get("exists"):
                session.cursor.execute(
                    f"alter table {name.quoted} rename column {quote(action.this.name)} to {quote(action.args['to'].name)}"
                )
        elif isinstance(action, exp.AlterSet):
            options = set_options(action)
            changed = {key: options[key] for key in ("description",) if key in options} | (
                {"labels": dict(options["labels"])} if "labels" in options else {}
            )
            meta = meta.model_copy(update=changed)
        else:
            raise Refused(f"The emulator cannot {action.key} in ALTER TABLE", "notImplemented")
    descriptions = {f.name: f.description for f in meta.schema_.fields} | {
        a.name: set_options(a).get("description") for a in tree.args["actions"] if isinstance(a, exp.ColumnDef)
    }
    fields = tuple(f.model_copy(update={"description": descriptions.get(f.name)}) for f in fields_of(columns_of(session.ctx, name)).fields)
    session.ctx.catalog.update_table(meta.model_copy(update={"schema_": TableSchema(fields=fields)}))
    return "ALTER", name


def _schema(session: Session, tree: exp.Expression) -> str:
    table = tree.this
    project, dataset = (table.db or session.place.project), table.name
    if "." in dataset:
        project, _, dataset = dataset.partition(".")
    if not dataset:  # sqlglot puts the names one level higher
        project, dataset = (table.catalog or session.place.project), table.db
    ctx, name = session.ctx, Name(project, dataset, "")
    there = ctx.catalog.get_dataset(project, dataset) is not None
    if isinstance(tree, exp.Create):
        if there and tree.args.get("exists"):
            return "SKIP"
        now = ctx.clock.now()
        session.cursor.execute(f'create schema if not exists "{project}__{dataset}"')
        ctx.catalog.create_dataset(
            DatasetMeta(
                project_id=project,
                dataset_id=dataset,
                creation_time=now,
                last_modified_time=now,
                etag=generate_etag(project, dataset, str(now)),
            )
        )
        return "CREATE"
    if not there and tree.args.get("exists"):
        return "SKIP"
    require_dataset(ctx, name)
    if ctx.catalog.list_tables(project, dataset) and not tree.args.get("cascade"):
        raise Refused(f"Dataset {project}:{dataset} is still in use", "invalid")
    session.cursor.execute(f'drop schema "{project}__{dataset}" cascade')
    ctx.catalog.delete_dataset(project, dataset, delete_contents=True)
    return "DROP"


def rest_field(name: str, duckdb_type: str) -> dict[str, Any]:
    """Return a column in REST's form."""
    return dict(duckdb_type_to_bq_field(name, duckdb_type))


def keep_result(ctx: Any, name: Name, rows: Any) -> None:
    """Keep the rows of a query as an anonymous table. tabledata.list and the Storage API read it like any other table."""
    cursor = ctx.engine.connection.cursor()
    with MAKING:  # two at the same time would collide
        cursor.execute(f'create schema if not exists "{name.project}__{name.dataset}"')
    cursor.register("result_rows", rows)
    cursor.execute(f"create table {name.quoted} as select * from result_rows")
    now = ctx.clock.now()
    ctx.catalog._tables[name.project, name.dataset, name.table] = TableMeta(
        project_id=name.project,
        dataset_id=name.dataset,
        table_id=name.table,
        table_type="TABLE",
        schema=fields_of(columns_of(ctx, name)),
        creation_time=now,
        last_modified_time=now,
        num_rows=rows.num_rows,
        etag=generate_etag(name.project, name.dataset, name.table, str(now)),
    )
