"""One query job on DuckDB, or several jobs of one session, with statements and transactions.

Part of the tests' BigQuery emulator; its own Python runs this module. Each job has its own connection, so that DuckDB's snapshots match
BigQuery's: a query sees the tables as they were when it began, and a transaction sees them as they were at its `begin transaction`.
`bigquery_changes.py` decides which transaction may change which table. HTTP does not belong here.

Source: Google Cloud "Multi-statement transactions", "Work with sessions".
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import duckdb
import pyarrow as pa
from bqemulator.domain.errors import AlreadyExistsError, InvalidQueryError, UnsupportedFeatureError, ValidationError
from bqemulator.jobs.error_mapper import translate_runtime_error
from bqemulator.scripting.interpreter import _classify_txn_statement
from bqemulator.sql.inner_query import rewrite_and_translate_statement
from bqemulator.sql.table_rewriter import rewrite_table_refs
from bqemulator.sql.translator import SQLTranslator
from bqemulator.storage.engine import _annotate_with_duckdb_types
from sqlglot import exp

from tests.servers import bigquery_catalog as catalog
from tests.servers import bigquery_checks as checks
from tests.servers.bigquery_changes import CHANGES, aborted
from tests.servers.bigquery_sql import (
    DDL,
    DML,
    MUTATIONS,
    Name,
    Place,
    Refused,
    bind,
    duckdb_text,
    narrow_type,
    parse,
    prepare,
    quote,
    read_tree,
    target_of,
)

# The emulator itself translates statements about features that DuckDB does not have.
ITS_OWN = re.compile(
    r"information_schema|_table_suffix|for\s+system_time|materialized\s+view|snapshot\s+table|export\s+data", re.IGNORECASE
)
REASONS = {"invalid": ValidationError, "duplicate": AlreadyExistsError, "notImplemented": UnsupportedFeatureError}
EMPTY = pa.table({})
ANYWHERE = Place("\x01", "\x02")  # a placeholder in cached SQL


def query_text(sql: str, parameters: Sequence[Mapping[str, Any]], place: Place) -> str:
    """Return a query in DuckDB's SQL. Tests repeat the same queries on different datasets, so each query is translated once."""
    if place.dataset is None:
        return duckdb_text(prepare(bind(parse(sql), parameters, {}), place), copy=False)
    text = _query_text(sql, json.dumps(parameters))
    return text.replace(ANYWHERE.project, place.project).replace(str(ANYWHERE.dataset), place.dataset)


@lru_cache(maxsize=512)
def _query_text(sql: str, parameters: str) -> str:
    return duckdb_text(prepare(bind(parse(sql), json.loads(parameters), {}), ANYWHERE), copy=False)


@dataclass(eq=False)
class Session:
    """A job's connection and its parameters. A session with an id outlives the job, and so does its transaction."""

    ctx: Any
    place: Place
    parameters: list[dict[str, Any]]
    variables: dict[str, exp.Expression] = field(default_factory=dict)
    affected: int | None = None
    ddl: str | None = None
    target: Name | None = None
    schema: list[dict[str, Any]] | None = None
    began: int | None = None
    touched: set[Name] = field(default_factory=set)
    limit: int | None = None  # maximum_bytes_billed
    bytes_read: int = 0
    id: str | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.cursor: duckdb.DuckDBPyConnection = self.ctx.engine.connection.cursor()

    # --- transactions ---

    def control(self, operation: str) -> None:
        """Run BEGIN, COMMIT or ROLLBACK."""
        if operation == "BEGIN":
            if self.began is not None:
                raise InvalidQueryError("Transactions cannot be nested", location="query")
            with CHANGES.begin() as self.began:
                self.cursor.execute("begin transaction")
                self.cursor.execute("select 1 from duckdb_schemas() limit 1").fetchall()  # DuckDB takes its snapshot at the first read
        elif self.began is None:
            raise InvalidQueryError(f"There is no active transaction to {operation.lower()}", location="query")
        elif operation == "ROLLBACK":
            self.rollback()
        else:
            with CHANGES.commit(self):
                self.cursor.execute("commit")
            self.began = None
            CHANGES.release(self)
            self._count_rows()

    def rollback(self) -> None:
        """Roll back the open transaction, if there is one."""
        if self.began is not None:
            with suppress(duckdb.Error):  # a failed commit has already done so
                self.cursor.execute("rollback")
            self.began = None
        self.touched.clear()
        CHANGES.release(self)

    def _count_rows(self) -> None:
        for name in self.touched:
            catalog.count_rows(self.ctx, name)
        self.touched.clear()

    # --- statements ---

    def run(self, sql: str) -> pa.Table:
        """Return the rows of one statement; None unless it is a query."""
        self.affected = self.ddl = self.schema = self.target = None
        with self.errors(sql):
            if ITS_OWN.search(sql):
                return self._run_by_emulator(sql)
            if not self.variables and isinstance(read_tree(sql), exp.Query):
                self.bytes_read += checks.check_bytes(self, read_tree(sql), self.limit)
                return self._fetch(query_text(sql, self.parameters, self.place))
            tree = bind(parse(sql), self.parameters, self.variables)
            self.bytes_read += checks.check_bytes(self, tree, self.limit)
            if isinstance(tree, exp.Query):
                return self._fetch(duckdb_text(prepare(tree, self.place), copy=False))
            if isinstance(tree, DML):
                self._change(tree)
                return EMPTY
            if isinstance(tree, (*DDL, exp.Command)):
                self._define(tree, sql)
                return EMPTY
            raise Refused(f"Statement not supported: {tree.key.upper()}", "notImplemented")

    def describe_any(self, sql: str) -> list[tuple[str, str]]:
        """Return the columns of a query with DuckDB's types."""
        return [(str(row[0]), str(row[1])) for row in self.cursor.execute(f"describe {sql}").fetchall()]

    def describe(self, sql: str) -> list[tuple[str, str]]:
        """Return the columns of a result. It must not have two columns of one name."""
        columns = self.describe_any(sql)
        names = [name for name, _ in columns]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise Refused(f"Duplicate column names in the result are not supported. Found duplicate(s): {', '.join(twice)}")
        return columns

    def typed(self, sql: str, *, stored: bool = False) -> tuple[str, list[str]]:
        """Return the query with every column cast to a type that BigQuery has, and the column names.

        If `stored`, null lists become empty lists, because tables of BigQuery have no null lists.
        """
        columns = self.describe(sql)
        names = [name for name, _ in columns]
        if all(type_ == narrow_type(type_) and not (stored and type_.endswith("[]")) for _, type_ in columns):
            return sql, names
        return f"select {', '.join(_column(name, type_, stored) for name, type_ in columns)} from ({sql})", names

    def _fetch(self, sql: str) -> pa.Table:
        self.cursor.execute(self.typed(sql)[0])
        description = self.cursor.description
        return _annotate_with_duckdb_types(self.cursor.to_arrow_table(), description)

    def _change(self, tree: exp.Expression) -> None:
        name = self.target = target_of(tree, self.place)
        if isinstance(tree, (exp.Update, exp.Delete)) and tree.args.get("where") is None:
            raise Refused(f"{tree.key.upper()} must have a WHERE clause")
        catalog.require_table(self.ctx, name)
        if isinstance(tree, exp.TruncateTable):
            tree = exp.Delete(this=tree.expressions[0].copy())
            mutates = True
        else:
            mutates = isinstance(tree, MUTATIONS)
        tree = prepare(tree, self.place)
        if isinstance(tree, exp.Insert):
            checks.check_insert(self, tree, name)
        sql = duckdb_text(tree, copy=False)
        if self.began is not None:
            self._change_within(name, sql, mutates)
            return
        if mutates:
            CHANGES.wait(name, self)
        try:
            self.control("BEGIN")
            self._change_within(name, sql, mutates)
            self.control("COMMIT")
        finally:
            self.rollback()

    def _change_within(self, name: Name, sql: str, mutates: bool) -> None:
        if mutates and self.began is not None:
            CHANGES.claim(name, self, self.began)
        self.touched.add(name)
        found = self.cursor.execute(sql).fetchone()
        self.affected = int(found[0]) if found else 0
        self.variables["@@row_count"] = exp.Literal.number(self.affected)

    def _define(self, tree: exp.Expression, sql: str) -> None:
        if self.began is not None:
            raise Refused("DDL statements that create or drop permanent entities are not supported in a transaction")
        self.ddl, self.target = catalog.define(self, tree, sql)

    def _run_by_emulator(self, sql: str) -> pa.Table:
        if self.parameters or self.began is not None:
            raise Refused("The emulator takes no parameters and no transaction for this statement", "notImplemented")
        caller = self.ctx_caller()
        translated = asyncio.run(
            rewrite_and_translate_statement(sql, project_id=self.place.project, ctx=self.ctx, caller=caller, translator=SQLTranslator())
        )
        self.cursor.execute(rewrite_table_refs(translated, self.place.project))
        description = self.cursor.description
        return _annotate_with_duckdb_types(self.cursor.to_arrow_table(), description)

    @staticmethod
    def ctx_caller() -> Any:
        """Return an arbitrary caller, because this emulator has no permissions."""
        from bqemulator.row_access.identity import CallerIdentity

        return CallerIdentity(principal="user:anonymous@bqemulator.local", is_authenticated=False)

    @contextmanager
    def errors(self, sql: str) -> Iterator[None]:
        """Raise DuckDB's errors as BigQuery's errors."""
        try:
            yield
        except Refused as refused:
            raise REASONS.get(refused.reason, InvalidQueryError)(refused.message, location="query") from refused
        except duckdb.TransactionException as error:
            raise aborted(self.target) from error
        except duckdb.InvalidInputException as error:  # errors from error('…') and divisions by zero
            raise InvalidQueryError(str(error).removeprefix("Invalid Input Error: "), location="query") from error
        except duckdb.ConstraintException as error:
            column = re.search(r"NOT NULL constraint failed: \w+\.(\w+)", str(error))
            refusal = f"Required field {column[1]} cannot be null" if column else str(error)
            raise InvalidQueryError(refusal, location="query") from error
        except duckdb.Error as error:
            raise translate_runtime_error(error, duckdb_sql=sql) from error


def _column(name: str, type_: str, stored: bool) -> str:
    value = f"coalesce({quote(name)}, [])" if stored and type_.endswith("[]") else quote(name)
    return f"cast({value} as {narrow_type(type_)}) as {quote(name)}"


def transaction_word(sql: str) -> str | None:
    """Return BEGIN, COMMIT or ROLLBACK if the statement is one of them."""
    found: str | None = _classify_txn_statement(sql)
    return found
