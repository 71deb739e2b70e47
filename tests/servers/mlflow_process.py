"""Run MLflow in processes that need not import it, because they are forked from one that has. The import takes 6 s of processor time.

These processes run functions of this module. Nothing here may import pytest.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from unittest.mock import patch

QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


@cache
def context() -> ForkServerContext:
    """Return the process that has imported MLflow. It ends with this process."""
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(["mlflow.server.handlers", "mlflow.cli", "uvicorn", "fastapi", __name__])
    with patch.dict(os.environ, environment(), clear=True):  # MLflow reads them during the import
        forkserver.ensure_running()
    return forks


def environment() -> dict[str, str]:
    """Return this process's environment without the variables that configure MLflow's client."""
    return {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")} | QUIET


def start_server(folder: Path, options: list[str]) -> BaseProcess:
    """Start `mlflow server` with these options, as its own process group. Its output is in `server.log` of the folder."""
    process = context().Process(target=_serve, args=(folder, options, environment()), daemon=True)  # it ends with this process
    process.start()
    return process


def log_traces(uri: str, experiment: str, run_id: str) -> list[str]:
    """Log the world's traces with MLflow's own client, and return their ids. In one process, that client always uses the same server."""
    with ProcessPoolExecutor(1, context()) as pool:
        return pool.submit(_log_traces, uri, experiment, run_id, environment()).result()


def log_unpriced_traces(uri: str, experiment: str, run_id: str, start_ms: int) -> None:
    """Log traces with MLflow's own client: calls with tokens and no cost, among others that have a cost."""
    with ProcessPoolExecutor(1, context()) as pool:
        pool.submit(_log_unpriced_traces, uri, experiment, run_id, start_ms, environment()).result()


def _begin(described: Mapping[str, str]) -> None:
    os.setsid()
    os.environ.clear()
    os.environ.update(described)


def _serve(folder: Path, options: list[str], described: Mapping[str, str]) -> None:
    """Serve as the command does, but start uvicorn in this process. The command would start a second process that imports everything again."""
    _begin(described)
    os.chdir(folder)
    log = os.open("server.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    import mlflow.server
    import uvicorn
    from mlflow.cli import cli

    def serve(command: list[str], extra_env: Mapping[str, str], **options: Any) -> None:
        os.environ.update(extra_env)
        uvicorn.main(command[command.index("uvicorn") + 1 :])

    mlflow.server._exec_cmd = serve
    cli(["server", *options])


def _log_traces(uri: str, experiment: str, run_id: str, described: Mapping[str, str]) -> list[str]:
    _begin(described)
    import mlflow
    from mlflow.tracing.trace_manager import InMemoryTraceManager

    mlflow.set_tracking_uri(uri)
    client = mlflow.MlflowClient()

    def price(span: Any, dollars: float) -> None:
        span.set_attribute("mlflow.llm.cost", {"input_cost": dollars / 4, "output_cost": dollars * 3 / 4, "total_cost": dollars})

    def trace(
        start_ms: int, calls: list[tuple[str | None, tuple[int, int] | None, float | None]], own: float | None = None, **metadata: str
    ) -> str:
        start = start_ms * 1_000_000
        root = client.start_trace("chat", experiment_id=experiment, start_time_ns=start)
        if own is not None:
            price(root, own)
        for model, tokens, dollars in calls:
            span = client.start_span("llm", trace_id=root.trace_id, parent_id=root.span_id, start_time_ns=start, span_type="CHAT_MODEL")
            if model is not None:
                span.set_attribute("mlflow.llm.model", model)
            if tokens is not None:
                span.set_attribute(
                    "mlflow.chat.tokenUsage", {"input_tokens": tokens[0], "output_tokens": tokens[1], "total_tokens": sum(tokens)}
                )
            if dollars is not None:
                price(span, dollars)
            client.end_span(root.trace_id, span.span_id, end_time_ns=start + 10**9)
        with InMemoryTraceManager.get_instance().get_trace(root.trace_id) as kept:
            kept.info.trace_metadata.update({"mlflow.user": "root", **metadata})
        client.end_trace(root.trace_id, end_time_ns=start + 2 * 10**9)
        return str(root.trace_id)

    of_run = {"mlflow.sourceRun": run_id, "mlflow.trace.user": "grace 日本"}
    ids = [
        trace(1793577599999, [("gpt-4o", (100, 20), 0.00125)], **of_run),  # the last of 1 November
        trace(1793577600000, [("gpt-4o", (100, 20), 0.1), ("gpt-4o", (1, 2), 0.2)], **of_run),
        trace(1793577600001, [("gpt-4o", (1, 1), 1e-07), ("opus", (10, 10), 0.7)], **{"mlflow.user": "ada"}),
        trace(1793577600002, [("gpt-4o", None, 0.25)], own=0.5),  # the root's cost includes the call's cost
        trace(1793577600003, [("of no known price", (5, 5), None)]),
        trace(1793577600004, []),
        trace(1790812800000, [(None, (3, 4), 3.0)]),  # 1 October
    ]
    mlflow.flush_trace_async_logging()
    return ids


def _log_unpriced_traces(uri: str, experiment: str, run_id: str, start_ms: int, described: Mapping[str, str]) -> None:
    """Log the traces. MLflow prices the models that it knows. It does not know Anthropic's short names, but the price list does."""
    _begin(described)
    import mlflow
    from mlflow.tracing.trace_manager import InMemoryTraceManager

    mlflow.set_tracking_uri(uri)
    client = mlflow.MlflowClient()
    start = start_ms * 1_000_000

    def trace(calls: list[tuple[str | None, str | None, dict[str, int], float | None, int]]) -> None:
        """Log a trace. A call is its model, provider, tokens, cost and depth. Depth 1 is directly below the root."""
        root = client.start_trace("chat", experiment_id=experiment, start_time_ns=start)
        open_spans = [root]
        for model, provider, tokens, dollars, depth in calls:
            while len(open_spans) > depth:
                client.end_span(root.trace_id, open_spans.pop().span_id, end_time_ns=start + 10**9)
            span = client.start_span(
                "llm", trace_id=root.trace_id, parent_id=open_spans[-1].span_id, start_time_ns=start, span_type="CHAT_MODEL"
            )
            for key, value in (("mlflow.llm.model", model), ("mlflow.llm.provider", provider), ("mlflow.chat.tokenUsage", tokens)):
                if value is not None:
                    span.set_attribute(key, value)
            if dollars is not None:
                span.set_attribute("mlflow.llm.cost", {"input_cost": dollars, "output_cost": 0.0, "total_cost": dollars})
            open_spans.append(span)
        while len(open_spans) > 1:
            client.end_span(root.trace_id, open_spans.pop().span_id, end_time_ns=start + 10**9)
        with InMemoryTraceManager.get_instance().get_trace(root.trace_id) as kept:
            kept.info.trace_metadata.update({"mlflow.sourceRun": run_id})
        client.end_trace(root.trace_id, end_time_ns=start + 2 * 10**9)

    def used(given: int, made: int, **more: int) -> dict[str, int]:
        return {"input_tokens": given, "output_tokens": made, "total_tokens": given + made, **more}

    trace([("claude-sonnet-4-0", "anthropic", used(10, 20), None, 1), ("our-own-model", None, used(7, 7), None, 1)])
    trace(
        [("claude-sonnet-4-0", None, used(50, 10), None, 1), ("claude-sonnet-4-0", None, used(50, 10), None, 2)]
    )  # a wrapper with the actual call inside
    trace(
        [
            ("claude-3-7-sonnet-latest", "anthropic", used(1_000, 100, cache_read_input_tokens=800), None, 1),
            ("another", None, used(1, 1), None, 1),
        ]
    )
    trace(
        [
            ("gpt-4o", "openai", used(2_000, 200), 0.5, 1),
            ("our-own-model", None, used(60, 30), None, 1),
            ("claude-sonnet-4-0", "anthropic", used(5, 5), None, 2),
        ]
    )
    mlflow.flush_trace_async_logging()
