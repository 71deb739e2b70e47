"""Defines `publish` of runspend.yaml: external databases and files that get a copy of the public tables. `actions/publish/` writes them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    AliasChoices,
    BeforeValidator,
    Discriminator,
    Field,
    SecretStr,
    Tag,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from runspend.config.types import CONNECTION, Frozen, Name, Secret, absolute, check_database_address
from runspend.core.redaction import uri_secrets
from runspend.schema.public_views import COSTS_FOR_DASHBOARDS
from runspend.schema.published import PUBLISHED_TABLES
from runspend.schema.tables import COST_DAILY

LONGEST_NAME = 63  # bytes of a name in PostgreSQL
RESERVED_SCHEMAS = ("information_schema",)


def _file(raw: object, info: ValidationInfo) -> object:
    if isinstance(raw, str) and ("://" in raw or not raw.strip() or raw.endswith("/")):
        raise ValueError("the path of a file on this machine is needed, such as costs.duckdb")
    return Path(absolute(str(raw), info)) if isinstance(raw, (str, Path)) else raw


def _known_tables(names: list[str]) -> list[str]:
    known = [table.name for table in PUBLISHED_TABLES]
    if wrong := [name for name in names if name not in known]:
        raise ValueError(f"{wrong[0]} is not a published table. Published tables are {', '.join(known)}")
    return names


class _Target(Frozen):
    """Keys of every target. `tables`: the names of tables to publish; default: all of `schema/published.py`."""

    name: Name
    tables: Annotated[list[str], Field(min_length=1), AfterValidator(_known_tables)] | None = None


_PROPERTIES = {"type": "object", "additionalProperties": {"type": ["string", "boolean", "number"]}}
SECRETS = re.compile(r"token|secret|credential|password|key|connection-string|sas", re.IGNORECASE)  # in names of PyIceberg's properties


class PostgresTarget(_Target):
    """A schema of a PostgreSQL database."""

    kind: Literal["postgres"]
    uri: Secret
    # Not named `schema`, because that would hide a method of pydantic models.
    schema_name: Annotated[str, Field(min_length=1)] = Field(
        default="runspend", validation_alias=AliasChoices("schema", "schema_name"), serialization_alias="schema"
    )

    @field_validator("uri")
    @classmethod
    def _uri_is_of_postgresql(cls, uri: SecretStr) -> SecretStr:
        if not re.match(rf"(postgres(ql)?(\+\w+)?://|{CONNECTION})", uri.get_secret_value()):
            raise ValueError("a PostgreSQL address is needed, such as postgresql://user:password@host/database")
        check_database_address(uri.get_secret_value())
        return uri

    @field_validator("tables")
    @classmethod
    def _view_has_its_table(cls, names: list[str] | None) -> list[str] | None:
        """Add cost_daily if costs_for_dashboards is published: in PostgreSQL it is a view over cost_daily."""
        if names is None or COSTS_FOR_DASHBOARDS.name not in names or COST_DAILY.name in names:
            return names
        return [COST_DAILY.name, *names]

    @field_validator("schema_name")
    @classmethod
    def _schema_is_usable(cls, schema: str) -> str:
        if len(schema.encode()) > LONGEST_NAME or schema.startswith("pg_") or schema in RESERVED_SCHEMAS or not schema.isprintable():
            raise ValueError(
                "the name of a schema of at most 63 characters is needed, such as runspend. PostgreSQL reserves names with pg_"
            )
        return schema


class DuckDBTarget(_Target):
    """A DuckDB file on this machine."""

    kind: Literal["duckdb"]
    file: Annotated[Path, BeforeValidator(_file)]


class IcebergTarget(_Target):
    """A namespace of an Iceberg catalog. `catalog` contains properties of PyIceberg: type, uri, warehouse, credentials."""

    kind: Literal["iceberg"]
    catalog: Annotated[dict[str, str | SecretStr], WithJsonSchema(_PROPERTIES)]
    namespace: Annotated[str, Field(pattern=r"^\w+(\.\w+)*$")] = "runspend"

    @field_validator("catalog", mode="before")
    @classmethod
    def _hide_secrets(cls, raw: object) -> object:
        """Convert the properties to strings. Those with the name of a secret, and addresses with a password, become secrets."""
        if not isinstance(raw, Mapping):
            return raw
        texts = {str(key): str(value).lower() if isinstance(value, bool) else value for key, value in raw.items()}
        texts = {key: str(value) if isinstance(value, (int, float)) else value for key, value in texts.items()}
        return {key: SecretStr(v) if isinstance(v, str) and (SECRETS.search(key) or uri_secrets(v)) else v for key, v in texts.items()}

    @property
    def properties(self) -> dict[str, str]:
        """Return the properties for PyIceberg, including secrets in plain text."""
        return {key: value if isinstance(value, str) else value.get_secret_value() for key, value in self.catalog.items()}

    @model_validator(mode="after")
    def _catalog_can_be_found(self) -> IcebergTarget:
        if not {"type", "uri", "py-catalog-impl"} & self.catalog.keys():
            raise ValueError("`catalog` needs `type` (rest, sql, glue, hive, …) or `uri`, as in the configuration of PyIceberg")
        return self


def _kind(raw: object) -> object:
    return raw.get("kind") if isinstance(raw, Mapping) else getattr(raw, "kind", None)


PublishTarget = Annotated[
    Annotated[PostgresTarget, Tag("postgres")] | Annotated[DuckDBTarget, Tag("duckdb")] | Annotated[IcebergTarget, Tag("iceberg")],
    Discriminator(
        _kind,
        custom_error_type="conflict",
        custom_error_message="{why}",
        custom_error_context={"why": "`kind` must be postgres, duckdb or iceberg. Add it, or correct it"},
    ),
]
