"""Lists the OpenLineage datasets that each step reads and writes: bills, MLflow servers, artifact stores, and tables of the warehouse.

Names follow OpenLineage's conventions: `s3://bucket` and a key, `bigquery` and `project.dataset.table`, `file` and a path. They therefore
match the names that other tools use. Names of addresses do not contain user, password and query.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from runspend.config.publish import DuckDBTarget, PostgresTarget, PublishTarget
from runspend.config.settings import Settings, TrackingServer
from runspend.ingest.artifacts import store_slug
from runspend.schema.published import PUBLISHED_TABLES
from runspend.schema.tables import TABLES, Table, public_tables


def _written_by(writer: str) -> tuple[str, ...]:
    return tuple(table.name for table in TABLES.values() if table.writer == writer)


RUNS, BILLS = _written_by("the tracking server"), _written_by("the bill's source")
PUBLIC = tuple(table.name for table in public_tables())
PUBLISHED = tuple(table.name for table in PUBLISHED_TABLES if table.name in TABLES)  # the tables that `publish` reads, without views
PORTS = {"postgresql": 5432, "postgres": 5432, "mysql": 3306, "mariadb": 3306}  # default ports; OpenLineage names include the port
ACTED = ("budget_status", "alerts", "archive_plan", "archives", "archive_objects")
COSTS = tuple(name for name in _written_by("all") if name not in (*ACTED, "artifact_stores"))
ARTIFACTS = ("artifact_bytes", "artifact_stores")
# Step -> the tables it reads and writes. Datasets outside the warehouse are in `_outside`.
TABLES_OF: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "extract": ((), (*RUNS, "sources")),
    "measure": (("artifact_owners",), (*_written_by("the store"), "sources")),
    "load": ((), (*BILLS, "sources")),
    "settle": ((*RUNS, "billing_lines", "billing_loads", "artifact_bytes"), (*COSTS, "artifact_stores", "builds")),
    "alert": (("cost_daily", "run_costs", "run_estimates", "sources"), ("budget_status", "alerts")),
    "archive_plan": (("runs", "model_versions", "model_uses", *ARTIFACTS), ("archive_plan",)),
    "archive_notify": (("archive_plan",), ("archive_plan",)),
    "archive_apply": (("archive_plan",), ("archives", "archive_objects")),
    "archive_verify_monthly": (("archives", "archive_objects"), ("archives",)),
    "report": (PUBLIC, ()),
    "publish": (PUBLISHED, ()),
    "annotate": (("run_costs",), ()),
}


@dataclass(frozen=True)
class Dataset:
    """A dataset that is read or written: its namespace and name in OpenLineage. `table`: its columns, if it is a table of Runspend."""

    namespace: str
    name: str
    table: Table | None = None


@dataclass(frozen=True)
class Lineage:
    """The datasets that one task reads and writes."""

    inputs: tuple[Dataset, ...]
    outputs: tuple[Dataset, ...]

    def facets(self) -> Any:
        """Return the datasets in the form of Airflow's OpenLineage provider. Tables have columns, types and descriptions."""
        from airflow.providers.common.compat.openlineage.facet import Dataset as Described
        from airflow.providers.common.compat.openlineage.facet import (
            DocumentationDatasetFacet,
            SchemaDatasetFacet,
            SchemaDatasetFacetFields,
        )
        from airflow.providers.openlineage.extractors import OperatorLineage

        def described(dataset: Dataset) -> Any:
            facets = {}
            if dataset.table is not None:
                fields = [SchemaDatasetFacetFields(name=c.name, type=c.type, description=c.meaning) for c in dataset.table.columns]
                facets = {
                    "schema": SchemaDatasetFacet(fields=fields),
                    "documentation": DocumentationDatasetFacet(description=dataset.table.meaning),
                }
            return Described(namespace=dataset.namespace, name=dataset.name, facets=facets)

        return OperatorLineage(inputs=[described(d) for d in self.inputs], outputs=[described(d) for d in self.outputs])


def lineage_of(settings: Settings, step: str, names: Sequence[str] | None = None) -> Lineage | None:
    """Return the datasets that a step reads and writes. None for a step that is not in TABLES_OF.

    `names`: the servers, bills or stores of the step; default: all.
    """
    if step not in TABLES_OF:
        return None
    read, written = TABLES_OF[step]
    inputs, outputs = _outside(settings, step, names)
    return Lineage((*inputs, *_tables(settings, read)), (*_tables(settings, written), *outputs))


def _outside(settings: Settings, step: str, names: Sequence[str] | None) -> tuple[list[Dataset], list[Dataset]]:
    """Return the datasets outside the warehouse that a step reads and writes."""
    if step == "extract":
        return [_server(server) for server in settings.tracking if names is None or server.name in names], []
    if step == "load":
        return [dataset_at(bill.uri) for bill in settings.billing if bill.uri and (names is None or bill.name in names)], []
    if step == "measure":
        return [dataset_at(store.uri) for store in settings.stores if names is None or store_slug(store.uri) in names], []
    if step == "report":
        return [], [dataset_at(str(settings.home / "reports"))]
    if step == "publish":
        return [], [published for target in settings.publish for published in _published(target)]
    if step == "annotate":
        return [], [_server(server) for server in settings.tracking if server.annotate]
    return [], []


def _server(server: TrackingServer) -> Dataset:
    found = dataset_at(server.uri)
    return found if found.name != "/" else Dataset(found.namespace, "mlflow")


def _tables(settings: Settings, names: Sequence[str]) -> Iterator[Dataset]:
    place = dataset_at(settings.warehouse.uri or str(settings.home / "warehouse"))
    between = "." if place.namespace == "bigquery" else "/"
    for name in names:
        yield Dataset(
            place.namespace, f"{place.name.rstrip('/')}{between}{name}".removeprefix("" if place.namespace == "file" else "/"), TABLES[name]
        )


def _published(target: PublishTarget) -> Iterator[Dataset]:
    from runspend.actions.publish.content import BUILDS

    if isinstance(target, DuckDBTarget):
        yield dataset_at(str(target.file))
        return
    if isinstance(target, PostgresTarget):
        place = dataset_at(target.uri.get_secret_value())
        namespace, schema = place.namespace, f"{place.name}.{target.schema_name}"
    else:
        catalog = dataset_at(target.properties.get("uri", target.name))
        namespace, schema = (catalog.namespace if catalog.namespace != "file" else f"file:{catalog.name}"), target.namespace
    wanted = [table for table in PUBLISHED_TABLES if target.tables is None or table.name in target.tables]
    for table in (*wanted, BUILDS):
        yield Dataset(namespace, f"{schema}.{table.name}", table)


def dataset_at(uri: str) -> Dataset:
    """Return the dataset at an address or a path."""
    parts = urlsplit(uri)
    if not parts.scheme or "://" not in uri:
        return Dataset("file", str(Path(uri).absolute()))
    scheme, path = parts.scheme.partition("+")[0], parts.path.strip("/")
    if scheme in ("file", "sqlite"):
        return Dataset("file", f"/{path}")
    if scheme == "bigquery":
        return Dataset("bigquery", ".".join(part for part in (parts.netloc, *path.split("/")) if part))
    is_container = scheme in ("abfs", "abfss", "wasb", "wasbs")  # container@account
    place = parts.netloc if is_container else parts.netloc.rpartition("@")[2]
    if scheme in PORTS and place and not re.search(r":[0-9]+$", place):
        place += f":{PORTS[scheme]}"
    return Dataset(f"{'postgres' if scheme == 'postgresql' else scheme}://{place}", path or "/")
