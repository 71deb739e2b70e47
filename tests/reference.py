"""Google's own reference implementation of GoogleSQL (PyPI `zetasql`, WebAssembly, offline). It determines whether models are correct.

`GoogleSQL().query(sql, tables, parameters)` returns typed rows. It is exact and slow, so use small tables. Comparisons with it do not
belong here.
"""

from __future__ import annotations

import ctypes
import datetime as dt
import decimal
import fcntl
import hashlib
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc)
EPOCH_DATE = dt.date(1970, 1, 1)
EXACT = decimal.Context(prec=100)
# Type in tables.py <-> name of the type in zetasql.
TYPES = {
    "STRING": "TYPE_STRING",
    "INT64": "TYPE_INT64",
    "FLOAT64": "TYPE_DOUBLE",
    "BOOL": "TYPE_BOOL",
    "DATE": "TYPE_DATE",
    "TIMESTAMP": "TYPE_TIMESTAMP",
    "BIGNUMERIC": "TYPE_BIGNUMERIC",
    "NUMERIC": "TYPE_NUMERIC",
    "JSON": "TYPE_JSON",
}
NAMES = {zetasql: name for name, zetasql in TYPES.items()}


@dataclass(frozen=True)
class Result:
    """Rows of a query. `columns` are (name, GoogleSQL type), e.g. ("tags", "ARRAY<STRING>")."""

    columns: list[tuple[str, str]]
    rows: list[tuple[Any, ...]]

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.columns]

    def to_pylist(self) -> list[dict[str, Any]]:
        """Return the rows as dicts, as Arrow tables do."""
        return [dict(zip(self.names, row, strict=True)) for row in self.rows]

    def to_arrow(self) -> pa.Table:
        """Return the rows as a table that can be the next model's input. Money is decimal128(38, 22)."""
        schema = pa.schema([(name, arrow_type(type_)) for name, type_ in self.columns])
        values = [pa.array([_stored(row[i]) for row in self.rows], schema.field(i).type) for i in range(len(schema))]
        return pa.table(values, schema=schema)


class GoogleSQL:
    """The reference implementation, started once per process (0.3 s when its compiled form is cached, 12 s the first time).

    It keeps its answers, because the time of a statement hardly depends on the number of rows and several tests run the same models.
    """

    def __init__(self) -> None:
        self._answers: dict[tuple[object, ...], Result] = {}

    def query(self, sql: str, tables: Mapping[str, pa.Table] | None = None, parameters: Mapping[str, Any] | None = None) -> Result:
        """Return the rows of one statement over these tables. A parameter is a value, or (value, Arrow type) if the value does not show its type."""
        asked = (sql, repr(parameters), *((name, _digest(table)) for name, table in (tables or {}).items()))
        if asked not in self._answers:
            self._answers[asked] = self._query(sql, tables or {}, parameters or {})
        return self._answers[asked]

    def _query(self, sql: str, tables: Mapping[str, pa.Table], parameters: Mapping[str, Any]) -> Result:
        engine = self._engine
        request = engine.messages.EvaluateQueryRequest(sql=sql)
        request.options.CopyFrom(engine.options)
        request.simple_catalog.CopyFrom(engine.catalog)
        for name, table in tables.items():
            self._add_table(request, name, table)
        for name, given in parameters.items():
            value, type_ = given if isinstance(given, tuple) else (given, pa.scalar(given).type)
            declared = request.options.query_parameters.add()
            declared.name = name
            self._set_type(declared.type, type_)
            parameter = request.params.add()
            parameter.name = name
            encoder(type_)(parameter.value, value)
        answer = engine.client.call_grpc_func("ZetaSqlLocalService_EvaluateQuery", request, engine.messages.EvaluateQueryResponse)
        done = engine.messages.UnprepareQueryRequest(prepared_query_id=answer.prepared.prepared_query_id)
        columns = [(column.name, self._type_name(column.type)) for column in answer.prepared.columns]
        rows = [tuple(self._decode(cell) for cell in row.cell) for row in answer.content.table_data.row]
        if answer.prepared.prepared_query_id:
            engine.client.call_grpc_func("ZetaSqlLocalService_UnprepareQuery", done, engine.empty)
        return Result(columns, rows)

    def output_types(
        self, sql: str, schemas: Mapping[str, pa.Schema], parameters: Mapping[str, Any] | None = None
    ) -> list[tuple[str, str]]:
        """Return column names and types of a query over tables of these schemas, without data."""
        return self.query(sql, {name: schema.empty_table() for name, schema in schemas.items()}, parameters).columns

    @cached_property
    def _engine(self) -> _Engine:
        return _start_engine()

    def _kind(self, name: str) -> int:
        return int(getattr(self._engine.types, name))

    def _set_type(self, target: Any, type_: pa.DataType) -> None:
        if pa.types.is_list(type_):
            target.type_kind = self._kind("TYPE_ARRAY")
            self._set_type(target.array_type.element_type, type_.value_type)
        elif pa.types.is_struct(type_):
            target.type_kind = self._kind("TYPE_STRUCT")
            for field in type_:
                member = target.struct_type.field.add()
                member.field_name = field.name
                self._set_type(member.field_type, field.type)
        else:
            target.type_kind = self._kind(TYPES[googlesql_type(type_)])

    def _type_name(self, type_: Any) -> str:
        name = str(self._engine.types.TypeKind.Name(type_.type_kind))
        if name == "TYPE_ARRAY":
            return f"ARRAY<{self._type_name(type_.array_type.element_type)}>"
        return NAMES.get(name, name.removeprefix("TYPE_"))

    def _add_table(self, request: Any, name: str, table: pa.Table) -> None:
        declared = request.simple_catalog.table.add()
        declared.name = name
        for field in table.schema:
            column = declared.column.add()
            column.name = field.name
            self._set_type(column.type, field.type)
        content = request.table_content[name]
        content.table_data.SetInParent()
        encoders = [encoder(field.type) for field in table.schema]
        for row in zip(*(column.to_pylist() for column in table.columns), strict=True):
            cells = content.table_data.row.add().cell
            for encode, value in zip(encoders, row, strict=True):
                encode(cells.add(), value)

    def _decode(self, cell: Any) -> Any:
        kind = cell.WhichOneof("value")
        if kind is None:
            return None
        value = getattr(cell, kind)
        match kind:
            case "date_value":
                return EPOCH_DATE + dt.timedelta(days=value)
            case "timestamp_value":
                return EPOCH + dt.timedelta(seconds=value.seconds, microseconds=value.nanos // 1_000)
            case "bignumeric_value":
                return _bytes_decimal(value, 38)
            case "numeric_value":
                return _bytes_decimal(value, 9)
            case "array_value":
                return [self._decode(element) for element in value.element]
            case "struct_value":
                return tuple(self._decode(field) for field in value.field)
        return value


@dataclass(frozen=True)
class _Engine:
    client: Any
    messages: Any
    types: Any
    empty: Any
    options: Any
    catalog: Any


_started: list[_Engine] = []


def _start_engine() -> _Engine:
    """Start one engine per process, because it holds a compiled WebAssembly module of 7.8 MB."""
    if _started:
        return _started[0]
    import wasmtime
    from google.protobuf import empty_pb2
    from zetasql.api import CatalogBuilder
    from zetasql.core import wasm_client
    from zetasql.core.local_service import ZetaSqlLocalService
    from zetasql.types import AnalyzerOptions, LanguageOptions, ProductMode, ZetaSQLBuiltinFunctionOptions
    from zetasql.wasi._pb2.zetasql.local_service import local_service_pb2
    from zetasql.wasi._pb2.zetasql.public import type_pb2

    folder = Path(tempfile.gettempdir()) / f"runspend-reference-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    settings = folder / "cache.toml"

    class CachingConfig(wasmtime.Config):
        """Keep the compiled module on disk, so that the second start takes 0.3 s instead of 12."""

        def __init__(self) -> None:
            super().__init__()
            self.cache = str(settings)

    wasm_client.Config = CachingConfig
    # The package copies memory byte by byte, which takes minutes for a model's tables.
    wasm_client.WasmClient.write_bytes = _write_bytes
    wasm_client.WasmClient.read_bytes = _read_bytes

    with (folder / "lock").open("w") as lock:  # the first of several processes compiles while the others wait
        fcntl.flock(lock, fcntl.LOCK_EX)
        settings.write_text(f'[cache]\ndirectory = "{folder}"\n', encoding="utf-8")
        client = ZetaSqlLocalService.get_instance().wasm_client

    language = LanguageOptions.maximum_features()
    language.product_mode = ProductMode.PRODUCT_EXTERNAL
    options = AnalyzerOptions(language_options=language).to_proto()
    options.language_options.reserved_keywords.append("QUALIFY")
    options.default_timezone = "UTC"
    functions = ZetaSQLBuiltinFunctionOptions(language_options=language)
    catalog = CatalogBuilder("warehouse").with_builtin_functions(functions).build().to_proto()
    _started.append(_Engine(client, local_service_pb2, type_pb2, empty_pb2.Empty, options, catalog))
    return _started[0]


def _digest(table: pa.Table) -> bytes:
    """Return a digest of a table's columns, types and rows."""
    content = pa.BufferOutputStream()
    with pa.ipc.new_stream(content, table.schema) as stream:
        stream.write_table(table.combine_chunks())
    return hashlib.sha256(content.getvalue()).digest()


def _address(client: Any) -> int:
    return int(ctypes.cast(client.memory.data_ptr(), ctypes.c_void_p).value or 0)


def _write_bytes(client: Any, pointer: int, data: bytes) -> None:
    ctypes.memmove(_address(client) + (pointer & 0xFFFFFFFF), data, len(data))


def _read_bytes(client: Any, pointer: int, size: int) -> bytes:
    return ctypes.string_at(_address(client) + (pointer & 0xFFFFFFFF), size)


def encoder(type_: pa.DataType) -> Callable[[Any, Any], None]:
    """Return a function that puts a value of a type into a message of the service. An empty message is NULL."""
    if pa.types.is_list(type_):
        write = _list_encoder(encoder(type_.value_type))
    elif pa.types.is_struct(type_):
        write = _struct_encoder({field.name: encoder(field.type) for field in type_})
    else:
        write = ENCODERS[googlesql_type(type_)]

    def encode(target: Any, value: Any) -> None:
        if value is not None:
            write(target, value)

    return encode


def _list_encoder(encode: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    def write(target: Any, value: Any) -> None:
        target.array_value.SetInParent()
        for element in value:
            encode(target.array_value.element.add(), element)

    return write


def _struct_encoder(fields: Mapping[str, Callable[[Any, Any], None]]) -> Callable[[Any, Any], None]:
    def write(target: Any, value: Any) -> None:
        target.struct_value.SetInParent()
        for name, encode in fields.items():
            encode(target.struct_value.field.add(), value[name])

    return write


def _set_timestamp(target: Any, value: dt.datetime) -> None:
    since = value - EPOCH
    target.timestamp_value.seconds = since.days * 86_400 + since.seconds
    target.timestamp_value.nanos = since.microseconds * 1_000


def _decimal_bytes(value: decimal.Decimal, scale: int) -> bytes:
    number = int(EXACT.scaleb(value, scale))
    return number.to_bytes(max(1, (number.bit_length() + 8) // 8), "little", signed=True)


ENCODERS: dict[str, Callable[[Any, Any], None]] = {
    "STRING": lambda target, value: setattr(target, "string_value", value),
    "INT64": lambda target, value: setattr(target, "int64_value", value),
    "FLOAT64": lambda target, value: setattr(target, "double_value", value),
    "BOOL": lambda target, value: setattr(target, "bool_value", value),
    "DATE": lambda target, value: setattr(target, "date_value", (value - EPOCH_DATE).days),
    "TIMESTAMP": _set_timestamp,
    "BIGNUMERIC": lambda target, value: setattr(target, "bignumeric_value", _decimal_bytes(value, 38)),
    "NUMERIC": lambda target, value: setattr(target, "numeric_value", _decimal_bytes(value, 9)),
}


def _stored(value: Any) -> Any:
    """Return a decimal with the 22 decimal places that tables keep. More places are an error, because the engines would round them differently."""
    if isinstance(value, decimal.Decimal):
        return value.quantize(decimal.Decimal("1e-22"), context=decimal.Context(prec=60, traps=[decimal.Inexact, decimal.InvalidOperation]))
    return value


def _bytes_decimal(data: bytes, scale: int) -> decimal.Decimal:
    return EXACT.scaleb(decimal.Decimal(int.from_bytes(data, "little", signed=True)), -scale)


def googlesql_type(type_: pa.DataType) -> str:
    """Return the GoogleSQL type of an Arrow type, as in tables.py."""
    tests = {
        "STRING": pa.types.is_string(type_) or pa.types.is_large_string(type_),
        "INT64": pa.types.is_integer(type_),
        "FLOAT64": pa.types.is_floating(type_),
        "BOOL": pa.types.is_boolean(type_),
        "DATE": pa.types.is_date(type_),
        "TIMESTAMP": pa.types.is_timestamp(type_),
        "NUMERIC": pa.types.is_decimal(type_) and type_.scale == 9,
        "BIGNUMERIC": pa.types.is_decimal(type_) and type_.scale != 9,
    }
    for name, fits in tests.items():
        if fits:
            return name
    if pa.types.is_list(type_):
        return f"ARRAY<{googlesql_type(type_.value_type)}>"
    raise TypeError(f"no GoogleSQL type for Arrow's {type_}")


def arrow_type(name: str) -> pa.DataType:
    """Return the Arrow type of a GoogleSQL type."""
    if name.startswith("ARRAY<"):
        return pa.list_(arrow_type(name[6:-1]))
    return {
        "STRING": pa.string(),
        "INT64": pa.int64(),
        "FLOAT64": pa.float64(),
        "BOOL": pa.bool_(),
        "DATE": pa.date32(),
        "TIMESTAMP": pa.timestamp("us", tz="UTC"),
        "BIGNUMERIC": pa.decimal128(38, 22),
        "NUMERIC": pa.decimal128(38, 9),
    }[name]


def exact_value(value: Any) -> Any:
    """Return a value in the form for comparing both engines' answers: decimals without trailing zeros, UTC times, tuples for lists."""
    if isinstance(value, decimal.Decimal):
        return decimal.Decimal(0) if value == 0 else value.normalize(decimal.Context(prec=80))
    if isinstance(value, dt.datetime):
        return value.astimezone(dt.timezone.utc)
    if isinstance(value, list | tuple):
        return tuple(exact_value(item) for item in value)
    return value


def exact_rows(rows: list[tuple[Any, ...]] | list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """Return rows in a fixed order and form, so that equal answers are equal lists."""
    values = [tuple(row.values()) if isinstance(row, dict) else row for row in rows]
    return sorted((tuple(exact_value(v) for v in row) for row in values), key=lambda row: [(v is None, str(v)) for v in row])
