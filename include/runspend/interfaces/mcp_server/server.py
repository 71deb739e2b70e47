"""Serve the MCP tools over standard input and output, or over HTTP on this machine. The tools are in `tools.py`."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from typing import Any

from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp.server.transport_security import TransportSecuritySettings
from mcp.types import CallToolRequestParams, CallToolResult, ListToolsResult, TextContent, ToolAnnotations
from mcp.types import Tool as ListedTool
from pydantic import ValidationError

from runspend import __version__
from runspend.config.settings import Settings, redact
from runspend.core.errors import ConfigError, MissingExtra, RunspendError, SqlRefused, UsageError, WarehouseDamaged
from runspend.interfaces.mcp_server.answers import Schema
from runspend.interfaces.mcp_server.harmless import harmless, harmless_text
from runspend.interfaces.mcp_server.tools import DATA, TOOLS, Tool, hides_people

log = logging.getLogger(__name__)

AT_ONCE = 2  # concurrent questions to the warehouse; others wait
LONGEST = 180.0  # seconds after which a question is stopped
MOST_BYTES = 1_000_000  # of an answer
INSTRUCTIONS = (
    "Runspend shows what MLflow runs and the ML platform around them cost, from the cloud's bills. All tools only read. Every answer has the day of the newest "
    f"charge, the measure, the currency and the rule behind its figures: state them with the figures. Amounts are exact decimals, as strings. {DATA}"
)


def make_server(settings: Settings, clock: Callable[[], datetime]) -> Server[Any]:
    """Return a server with all tools. `clock` returns the current time for each question."""
    pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="runspend-mcp")
    tools = {tool.name: tool for tool in TOOLS}

    async def list_tools(_: Any, __: Any) -> ListToolsResult:
        return ListToolsResult(tools=[_listed(tool) for tool in TOOLS])

    async def call_tool(_: Any, asked: CallToolRequestParams) -> CallToolResult:
        try:
            tool = tools.get(asked.name)
            if tool is None:
                raise UsageError(f"there is no tool {asked.name[:60]!r}. Tools are {', '.join(tools)}.")
            arguments = _arguments(tool, asked.arguments or {})
            working = asyncio.get_running_loop().run_in_executor(pool, lambda: tool.ask(settings, arguments, clock()))
            answer = harmless((await asyncio.wait_for(working, LONGEST)).model_dump(mode="json"), hides_people=hides_people(settings))
            text = json.dumps(answer, ensure_ascii=False)
            if len(text) > MOST_BYTES:
                raise UsageError("cannot answer: the answer is too long. Ask for fewer rows or without details.")
        except Exception as error:  # noqa: BLE001 (the server must continue after any error)
            why = harmless_text(_sentence(error, settings), hides_people=hides_people(settings), is_page=True)
            return CallToolResult(content=[TextContent(type="text", text=why)], is_error=True)
        return CallToolResult(content=[TextContent(type="text", text=text)], structured_content=answer)

    return Server(
        "runspend",
        version=__version__,
        title="Runspend",
        instructions=INSTRUCTIONS,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )


def serve_stdio(settings: Settings, clock: Callable[[], datetime]) -> None:
    """Answer on standard input and output until the client closes them. All other output goes to standard error."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # end at once: a thread that waits for input would block a clean end

    async def serve() -> None:
        server = make_server(settings, clock)
        async with stdio_server() as (reading, writing):
            await server.run(reading, writing, server.create_initialization_options())

    asyncio.run(serve())


def serve_http(taken: socket.socket, settings: Settings, clock: Callable[[], datetime]) -> None:
    """Answer at /mcp on this socket until the process is interrupted. Other host names and pages of browsers are refused."""
    import uvicorn

    from runspend.interfaces.web.app import LOOPBACK

    allowed = TransportSecuritySettings(allowed_hosts=[name for host in LOOPBACK for name in (host, f"{host}:*")], allowed_origins=[])
    app = make_server(settings, clock).streamable_http_app(stateless_http=True, json_response=True, transport_security=allowed)
    with suppress(KeyboardInterrupt):
        uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=3)).run(sockets=[taken])


def _listed(tool: Tool) -> ListedTool:
    return ListedTool(
        name=tool.name,
        title=tool.title,
        description=tool.description,
        input_schema=tool.arguments.model_json_schema(schema_generator=Schema),
        output_schema=tool.answer.model_json_schema(schema_generator=Schema, mode="serialization"),
        annotations=ToolAnnotations(
            title=tool.title, read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False
        ),
    )


def _arguments(tool: Tool, given: dict[str, Any]) -> Any:
    """Return the arguments of a tool. Raises UsageError, which names the wrong and the known arguments."""
    try:
        return tool.arguments.model_validate(given)
    except ValidationError as error:
        known = ", ".join(tool.arguments.model_fields) or "none"
        found = error.errors(include_url=False, include_input=False, include_context=False)
        wrong = "; ".join(f"{'.'.join(map(str, one['loc']))[:100]}: {one['msg']}" for one in found[:5])
        raise UsageError(f"cannot use the arguments of {tool.name}: {wrong}. Its arguments are {known}.") from error


def _sentence(error: Exception, settings: Settings) -> str:
    """Return the reason of an error for an assistant. Details that may have paths of the server go only to the log."""
    if isinstance(error, WarehouseDamaged) or (
        isinstance(error, UsageError) and not isinstance(error, (SqlRefused, ConfigError, MissingExtra))
    ):
        return redact(str(error), settings)
    if isinstance(error, (asyncio.TimeoutError, TimeoutError)):
        return f"cannot answer: it took longer than {LONGEST:g} s. Ask for less."
    if isinstance(error, (RunspendError, OSError)):
        log.error("a question failed: %s", redact(str(error), settings))
        return "cannot answer: the warehouse cannot be read. Operators find the reason in the server's log, or run: runspend doctor"
    log.error("a question failed", exc_info=error)
    return "cannot answer: an unexpected error occurred. Operators find the reason in the server's log."
