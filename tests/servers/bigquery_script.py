"""Scripts: several statements in one query, and statements that exist only in scripts (declare, if, raise, assert).

Part of the tests' BigQuery emulator; its own Python runs this module. The emulator parses and steps through the script; the job runs
every statement.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import pyarrow as pa
from bqemulator.domain.errors import DomainError, InvalidQueryError
from bqemulator.jobs.executor import _classify_parsed_tree
from bqemulator.scripting.ast import SqlStmt
from bqemulator.scripting.exceptions import ReturnSignal, ScriptRaise
from bqemulator.scripting.interpreter import ScriptInterpreter
from bqemulator.scripting.parser import parse_script
from sqlglot import exp

from tests.servers.bigquery_session import EMPTY, Session, transaction_word
from tests.servers.bigquery_sql import TYPES, Refused, read_tree, typed_literal

ASSERT = re.compile(
    r"\s*assert\b(?P<condition>.*?)(?:\bas\s+(?P<text>'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")\s*)?", re.IGNORECASE | re.DOTALL
)


class Script(ScriptInterpreter):  # type: ignore[misc]  # without types
    """A multi-statement query. Outside of a session, an unhandled error or an end without a commit rolls back the open transaction."""

    def __init__(self, session: Session) -> None:
        super().__init__(session.ctx, session.place.project, caller=session.ctx_caller())
        self.session = session
        self.source, self.at = "", 0

    async def run(self, source: str) -> Any:
        """Run all statements in order."""
        self.source = source
        try:
            for statement in parse_script(source).statements:
                await self._exec_statement(statement)
        except ReturnSignal:
            pass
        except ScriptRaise as raised:
            raise raised.error from raised
        finally:
            if self.session.id is None:
                self.session.rollback()
        return self._final_table

    async def _exec_sql(self, sql: str) -> None:
        where = self._position(sql)
        try:
            operation = transaction_word(sql)
            if operation:
                self.session.control(operation)
                self._final_table = None
            elif found := ASSERT.fullmatch(sql):  # sqlglot does not parse assert
                await self._assert(found["condition"], found["text"])
            else:
                rows = await self._run_query(sql)
                self._final_table = None if rows is EMPTY else rows
        except DomainError as error:
            error.message = f"Query error: {error.message} at {where}"
            raise

    async def _assert(self, condition: str, text: str | None) -> None:
        if await self._eval_expr_scalar(f"({condition})") is not True:
            reason = text[1:-1] if text else condition.strip()
            raise InvalidQueryError(f"Assertion failed: {reason}", location="query")
        self._final_table = None

    async def _run_query(self, bq_sql: str) -> pa.Table:
        self.session.variables |= {name.lower(): literal_of(variable) for name, variable in self._frames.all_visible().items()}
        return self.session.run(bq_sql)

    async def _drop_txn_snapshots(self) -> None:
        """Keep DuckDB's own transactions, so that an EXCEPTION block finds its transaction still open."""

    def _position(self, sql: str) -> str:
        found = self.source.find(sql, self.at)
        self.at = max(found, self.at)
        before = self.source[: self.at]
        return f"[{before.count(chr(10)) + 1}:{self.at - before.rfind(chr(10))}]"


def literal_of(variable: Any) -> exp.Expression:
    """Return a variable of a script as a literal of its type."""
    name = str(variable.type_name).upper()
    if name not in TYPES:
        raise Refused(f"The emulator takes no variables of type {name}", "notImplemented")
    value = variable.value
    return typed_literal({"type": name}, {"value": None if value is None else str(value)})


@lru_cache(maxsize=512)
def is_script(sql: str) -> bool:
    """True if a query has several statements, or one that exists only in scripts."""
    statements = parse_script(sql).statements
    return len(statements) != 1 or not isinstance(statements[0], SqlStmt) or bool(ASSERT.fullmatch(sql) or transaction_word(sql))


def statement_type(sql: str) -> str:
    """Return BigQuery's name for the kind of a query."""
    if is_script(sql):
        word = transaction_word(sql.strip())
        return f"{word}_TRANSACTION" if word else "SCRIPT"
    try:
        tree = read_tree(sql)
    except Refused:
        return ""
    return "SELECT" if isinstance(tree, exp.Query) else str(_classify_parsed_tree(tree))
