"""Reads one bill, or one source of weights, in a separate process, which is limited by `memory` and `load_timeout`.

Belongs here: the limits of a bill, and the error if its process is killed, crashes or hangs. Only that bill is refused. `pipeline/load.py`
uses this module. Reading is in `ingest/billing/`. Starting and watching processes is in `core/own_process`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar, cast

from runspend.config.settings import BillSource, Settings
from runspend.core import own_process
from runspend.core.errors import SourceRefused, bill_named
from runspend.core.own_process import Limits, ProcessFailed
from runspend.core.step_result import ReadJob

if TYPE_CHECKING:
    from runspend.ingest.billing import Load, Read
    from runspend.ingest.billing.load_context import PublishedBill
    from runspend.ingest.billing.normalize import Rules

Found = TypeVar("Found")
MIB = 1 << 20
LEAST_MARGIN = 256 * MIB
IDLE = timedelta(minutes=20)  # longest time without any work or output; waiting for a network never takes that long
WARM = "runspend.ingest.billing.load_process:warm"


def warm_up(settings: Settings) -> None:
    """Start the process for bills early, if there are bills. It imports the libraries that they need while other work continues."""
    if settings.billing:
        own_process.warm_up(WARM)


def load_bill(settings: Settings, source: BillSource, rules: Rules, published: PublishedBill, job: ReadJob, **given: Any) -> Load:
    """Run `billing.load_source` in a separate process. Raises its errors, and SourceRefused if the process ends without a result."""
    given |= {"rules": rules, "published": published, "job": job, "progress": job.progress}
    found: Load = _read(
        settings, source, "runspend.ingest.billing.load_process:_load_here", f"cannot load {bill_named(source.name)}", **given
    )
    return found


def read_weights(settings: Settings, source: BillSource, **given: Any) -> Read:
    """Run `billing.read_weights` in a separate process. Raises its errors, and SourceRefused if the process ends without a result."""
    found: Read = _read(settings, source, "runspend.ingest.billing.load_process:_read_weights_here", f"cannot read {source.name}", **given)
    return found


def probe_bill(settings: Settings, source: BillSource, **given: Any) -> dict[str, Any]:
    """Run `billing.probe_source` in a separate process. Raises its errors, and SourceRefused if the process ends without a result.

    The work folder is removed even if the process was killed.
    """
    with tempfile.TemporaryDirectory(prefix="runspend-doctor-") as folder:
        found: dict[str, Any] = _read(
            settings,
            source,
            "runspend.ingest.billing.load_process:_probe_here",
            f"cannot look at {bill_named(source.name)}",
            progress=lambda line: None,
            folder=folder,
            **given,
        )
    return found


def limits_of(settings: Settings) -> Limits:
    """Return the limits of a bill's process.

    Its memory limit is `memory` plus a margin: a quarter, at least 256 MiB. The margin is for memory that libraries keep, and for growth
    between two checks.
    """
    memory = allowed_memory(settings)
    return Limits(memory + max(memory // 4, LEAST_MARGIN), settings.load_timeout.total_seconds(), IDLE.total_seconds())


def allowed_memory(settings: Settings) -> int:
    """Return the bytes of memory that loading a bill may use: the setting `memory`, or else a share of the machine's memory."""
    from runspend.ingest.billing.memory_budget import machine_memory

    return settings.memory or machine_memory()


def _read(settings: Settings, source: BillSource, function: str, cannot: str, *, progress: Callable[[str], None], **given: Any) -> Any:
    last = ""

    def note(text: str) -> None:
        nonlocal last
        last = text
        progress(text)

    limits = limits_of(settings)
    try:
        return own_process.run(function, source, before=WARM, limits=limits, progress=note, memory=allowed_memory(settings), **given)
    except ProcessFailed as failed:
        at = f" (its last step: {last})" if last else ""
        raise SourceRefused(source.name, f"{cannot}: {_explain(failed, settings, limits)}{at}. {_advice(failed)}") from failed


def _explain(failed: ProcessFailed, settings: Settings, limits: Limits) -> str:
    """Return why a process ended without a result, as half a sentence for the error message."""
    took = f"{_size(failed.peak_bytes)} of memory"
    if failed.why == "memory":
        allowed, configured = limits.memory_bytes or 0, allowed_memory(settings)
        return f"reading it took {took}, and `memory: {_size(configured)}` allows {_size(allowed)} (with a margin of {_size(allowed - configured)})"
    if failed.why == "time":
        return f"it was not read within `load_timeout: {settings.load_timeout.total_seconds() / 3600:g}h`"
    if failed.why == "idle":
        return f"reading it made no progress for {IDLE.total_seconds() / 60:.0f} minutes"
    if failed.why == "start":
        return f"the process that reads it could not be started ({failed.__cause__})"
    if failed.signal == signal.SIGKILL:
        return f"the process that read it was killed at {took}: by the system, which ran out of memory, or by a person"
    if failed.signal is not None:
        return f"the process that read it crashed ({failed.signal.name}) at {took}"
    status = "" if failed.status is None else f" (exit status {os.waitstatus_to_exitcode(failed.status)})"
    return f"the process that read it ended without a result{status}"


def _advice(failed: ProcessFailed) -> str:
    stays = "What was loaded before stays"
    if failed.why == "memory":
        return f"{stays}. Raise `memory` in runspend.yaml, or check the program that exports this bill."
    if failed.why == "time":
        return f"{stays}. Raise `load_timeout` in runspend.yaml, or check the program that exports this bill."
    if failed.signal == signal.SIGKILL:
        return f"{stays}. Lower `memory` in runspend.yaml to what the machine can spare, or give the machine more."
    if failed.why == "start":
        return f"{stays}. Check the machine's limits for processes and memory."
    return f"{stays}. Load it again. If it fails again, check the program that exports this bill."


def _size(count: int) -> str:
    """Format a number of bytes as in the setting `memory`: 600MB, 1.25GB."""
    return f"{count / 1e6:.0f}MB" if count < 1e9 else f"{count / 1e9:.2f}GB"


# --- in the separate process ---------------------------------------------------------------------------------------------


def warm() -> None:
    """Import the libraries that reading bills needs. If one is missing, the error is raised later, when a bill is read."""
    for name in (
        "runspend.ingest.billing",
        "runspend.ingest.billing.formats.focus",
        "duckdb",
        "pyarrow.compute",
        "pyarrow.csv",
        "pyarrow.parquet",
    ):
        with contextlib.suppress(ImportError):
            import_module(name)


def _load_here(source: BillSource, *, job: ReadJob, memory: int, progress: Callable[[str], None], **given: Any) -> Load:
    from runspend.ingest import billing

    if source.format != "databricks":  # the Databricks client needs pandas
        _do_without_pandas()
    return _without_running_out(
        source,
        f"cannot load {bill_named(source.name)}",
        lambda: billing.load_source(source, job=replace(job, progress=progress), memory=memory, **given),
        memory,
    )


def _probe_here(source: BillSource, *, memory: int, folder: str, progress: Callable[[str], None], **given: Any) -> dict[str, Any]:
    from runspend.ingest import billing

    tempfile.tempdir = folder
    if source.format != "databricks":
        _do_without_pandas()
    return _without_running_out(
        source, f"cannot look at {bill_named(source.name)}", lambda: billing.probe_source(source, memory=memory, **given), memory
    )


def _read_weights_here(source: BillSource, *, memory: int, **given: Any) -> Read:
    from runspend.ingest import billing

    _do_without_pandas()
    return _without_running_out(source, f"cannot read {source.name}", lambda: billing.read_weights(source, memory=memory, **given), memory)


class _WithoutPandas:
    """Blocks the import of pandas. Arrow would import it to recognize pandas values, which bills do not have. That takes half a second."""

    def find_spec(self, name: str, *_: object) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("bills are read without pandas", name=name)


def _do_without_pandas() -> None:
    sys.meta_path.insert(0, cast(Any, _WithoutPandas()))


def _without_running_out(source: BillSource, cannot: str, read: Callable[[], Found], memory: int) -> Found:
    """Return the result of `read`. Raises SourceRefused if a library runs out of memory or has an internal error."""
    import duckdb
    import pyarrow as pa

    try:
        return read()
    except (MemoryError, duckdb.OutOfMemoryException, pa.ArrowMemoryError) as error:
        why = f"reading it needs more than `memory: {_size(memory)}` ({str(error).splitlines()[0] if str(error) else 'no memory was left'})"
        raise SourceRefused(source.name, f"{cannot}: {why}. What was loaded before stays. Raise `memory` in runspend.yaml.") from error
    except (duckdb.InternalException, duckdb.FatalException) as error:
        why = f"the engine that reads it failed ({str(error).splitlines()[0]})"
        raise SourceRefused(
            source.name,
            f"{cannot}: {why}. What was loaded before stays. Load it again. If it fails again, check the program that exports this bill.",
        ) from error
