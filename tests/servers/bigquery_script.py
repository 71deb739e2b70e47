"""Scripts: several statements in one query, and what is not SQL by itself (declare, if, raise, assert).

Part of the emulator of the tests, run by its own Python. The emulator reads and walks the script; every statement is the job's.
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
    """A multi-statement query. Its end without a commit, and any error without a handler, roll back what is open, outside of a session."""

    def __init__(self, session: Session) -> None:
        super().__init__(session.ctx, session.place.project, caller=session.ctx_caller())
        self.session = session
        self.source, self.at = "", 0

    async def run(self, source: str) -> Any:
        """All statements, one after the other."""
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
            elif found := ASSERT.fullmatch(sql):  # sqlglot knows no assert
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
        """Transactions are DuckDB's: an EXCEPTION block finds its own still open."""

    def _position(self, sql: str) -> str:
        found = self.source.find(sql, self.at)
        self.at = max(found, self.at)
        before = self.source[: self.at]
        return f"[{before.count(chr(10)) + 1}:{self.at - before.rfind(chr(10))}]"


def literal_of(variable: Any) -> exp.Expression:
    """A variable of a script as a literal of its type."""
    name = str(variable.type_name).upper()
    if name not in TYPES:
        raise Refused(f"The emulator takes no variables of type {name}", "notImplemented")
    value = variable.value
    return typed_literal({"type": name}, {"value": None if value is None else str(value)})


@lru_cache(maxsize=512)
def is_script(sql: str) -> bool:
    """Whether a query is more than one statement, or one that is not SQL by itself."""
    statements = parse_script(sql).statements
    return len(statements) != 1 or not isinstance(statements[0], SqlStmt) or bool(ASSERT.fullmatch(sql) or transaction_word(sql))


def statement_type(sql: str) -> str:
    """BigQuery's word for a query."""
    if is_script(sql):
        word = transaction_word(sql.strip())
        return f"{word}_TRANSACTION" if word else "SCRIPT"
    try:
        tree = read_tree(sql)
    except Refused:
        return ""
    return "SELECT" if isinstance(tree, exp.Query) else str(_classify_parsed_tree(tree))
