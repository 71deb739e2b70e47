"""Answer one user's statement in its own process, with limits on memory, time and the size of the answer.

Servers need this (`web/api.py`, `mcp_server/tools.py`). An engine checks its own limits only between two units of work, and one unit
(`generate_array`, `repeat`) may fill the memory of the machine. `core/own_process/` starts and watches the process.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from dataclasses import dataclass
from importlib import import_module

from runspend.config.settings import Settings
from runspend.core import own_process
from runspend.core.errors import RunspendError, SqlRefused
from runspend.core.own_process import Limits, ProcessFailed

MEMORY = 2_000_000_000  # bytes that the process may use
ENGINE_MEMORY = "1GB"  # less than MEMORY, so that sorting and grouping spill to disk
MOST_BYTES = 64_000_000  # most bytes of an answer
GRACE = 3.0  # seconds after the time limit until the process is killed
WARM = "runspend.interfaces.statement_process:warm"


@dataclass(frozen=True)
class Answered:
    """The answer to a statement. `body` has `rows` rows in the requested format. `is_cut` is True if there are more rows."""

    body: bytes
    rows: int
    is_cut: bool


def answer_statement(
    settings: Settings, statement: str, form: str, *, limit: int, timeout: float, most_bytes: int = MOST_BYTES
) -> Answered:
    """Return the first `limit` rows of a statement, written as "json", "csv" or "arrow" (see `rows_as`).

    Raises SqlRefused if the warehouse refuses the statement, if it needs more than `timeout` seconds or MEMORY bytes, or if its engine
    crashes. Raises it too if the answer is larger than `most_bytes`. Other errors of the warehouse are raised unchanged.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="runspend-") as folder:  # removed even if the process was killed
            found: Answered = own_process.run(
                "runspend.interfaces.statement_process:_answer_here",
                settings,
                statement,
                form,
                before=WARM,
                limits=Limits(MEMORY, timeout + GRACE),
                limit=limit,
                timeout=timeout,
                most_bytes=most_bytes,
                folder=folder,
            )
    except ProcessFailed as failed:
        if failed.why == "start":
            raise RunspendError("cannot answer: the process for the statement could not be started.") from failed
        raise SqlRefused(_explain(failed, timeout)) from failed
    return found


def _explain(failed: ProcessFailed, timeout: float) -> str:
    if failed.why == "memory":
        return _TOO_MUCH
    if failed.why == "time":
        return (
            f"cannot answer: it took longer than {timeout:g} s and was stopped. Nothing was changed. Query less, or raise the time limit."
        )
    return (
        "cannot answer: the process of the statement ended without an answer. It needs more memory than there is, or its engine failed."
        " Nothing was changed. Query less."
    )


_TOO_MUCH = f"cannot answer: it needs more than {MEMORY // 10**9} GB of memory and was stopped. Nothing was changed. Query less."


# --- in the separate process -------------------------------------------------------------------------------------------


def warm() -> None:
    """Import the modules that a statement needs, and translate one statement, so that the first answer is fast.

    A missing package is reported only when a statement is answered.
    """
    with contextlib.suppress(ImportError):
        for name in (
            "duckdb",
            "runspend.interfaces.row_formats",
            "runspend.warehouse.factory",
            "runspend.warehouse.parquet.read_only_files",
            "runspend.warehouse.parquet.reader",
            "runspend.warehouse.parquet.warehouse",
        ):
            import_module(name)
        from runspend.warehouse.dialect import duckdb_sql

        duckdb_sql("select team, sum(effective_cost) as cost from cost_daily group by team")


def _answer_here(settings: Settings, statement: str, form: str, *, limit: int, timeout: float, most_bytes: int, folder: str) -> Answered:
    import duckdb
    import pyarrow as pa

    from runspend.actions.costs.query import distinct_names
    from runspend.core.duckdb_pool import limit_engine
    from runspend.interfaces.row_formats import rows_as
    from runspend.warehouse.factory import open_published

    tempfile.tempdir = folder
    limit_engine(max(1, len(os.sched_getaffinity(0)) // 2), ENGINE_MEMORY)  # leave the other processors to pages
    try:
        found = open_published(settings).answer(statement, timeout=timeout, at_most=limit + 1)
        is_cut, found = found.num_rows > limit, found.slice(0, limit)
        body = rows_as(form, found, {"is_cut": is_cut, "limit": limit, "columns": distinct_names(found.column_names)})
    except MemoryError as error:  # also raised by Arrow
        raise SqlRefused(_TOO_MUCH) from error
    except SqlRefused as error:
        if isinstance(error.__cause__, duckdb.OutOfMemoryException):
            raise SqlRefused(_TOO_MUCH) from error
        raise
    except (pa.ArrowException, ArithmeticError, RecursionError, ValueError) as error:
        raise SqlRefused(
            f"cannot answer: its values cannot be written as {form} ({type(error).__name__}). Nothing was changed. Cast them to text."
        ) from error
    if len(body) > most_bytes:
        raise SqlRefused(f"cannot answer: its rows are larger than {most_bytes // 10**6} MB. Nothing was changed. Ask for less.")
    return Answered(body, found.num_rows, is_cut)
