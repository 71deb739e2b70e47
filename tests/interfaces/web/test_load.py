"""With many requests at once or damaged data, a real server still answers other requests, and explains what it cannot do."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, HTTPException

from runspend.config.settings import Settings
from runspend.core import duckdb_pool as engines
from runspend.interfaces.web import create_app
from runspend.interfaces.web.gate import AT_ONCE, MOST_WAITING, Gate
from tests.actions.explain import explain_world as w
from tests.interfaces.web.test_app import message_of, request
from tests.servers.ports import free_port

SERVER = """
import json, sys
import uvicorn
from fastapi import FastAPI
from runspend.config.settings import Settings
from runspend.interfaces.web import create_app

app = FastAPI()

@app.get("/health")
def health():
    return {"status": "healthy"}  # in the server's own threads, as Airflow's

app.mount("/runspend", create_app(Settings.model_validate(json.loads(sys.argv[1]))))
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="error")
"""


def settings_of(home: Path, **more: Any) -> Settings:
    """Return settings for the world of `explain`."""
    return Settings.model_validate({**plain(home), **more})


def plain(home: Path) -> dict[str, Any]:
    """Return the same settings as JSON."""
    return {"home": str(home), "warehouse": {"uri": str(home / "warehouse")}}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the world's warehouse."""
    home = tmp_path_factory.mktemp("home")
    w.make_explained(home / "warehouse")
    return home


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[str]:
    """Start a real server in another process, and yield its address."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-c", SERVER, json.dumps(plain(home)), str(port)])
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            with contextlib.suppress(httpx.TransportError):
                httpx.get(f"{address}/health")
                break
            time.sleep(0.1)
        yield address
    finally:
        process.kill()
        process.wait()


async def storm(
    address: str, path: str, health: str, count: int, headers: dict[str, str] | None = None
) -> tuple[list[httpx.Response], list[float]]:
    """Return the answers to this many simultaneous requests, and the durations of health checks during that time."""
    async with httpx.AsyncClient(base_url=address, timeout=120, limits=httpx.Limits(max_connections=count + 10), headers=headers) as client:
        pages = [asyncio.create_task(client.get(path)) for _ in range(count)]
        took = []
        while not all(page.done() for page in pages):
            started = time.monotonic()
            assert (await client.get(health)).status_code == 200
            took.append(time.monotonic() - started)
            await asyncio.sleep(0.1)
        return [page.result() for page in pages], took


def test_eighty_run_pages_at_once_are_all_shown(server: str) -> None:
    """Runspend builds the page once for all of them, and the server still answers health checks."""
    assert httpx.get(f"{server}/runspend/run/{w.BIG}", timeout=60).status_code == 200
    answers, took = asyncio.run(storm(server, f"/runspend/run/{w.BIG}", "/health", 80))
    codes = [answer.status_code for answer in answers]
    print(f"pages shown {codes.count(200)}, asked to come back {codes.count(503)}; health checks {len(took)}, slowest {max(took):.2f} s")
    assert set(codes) == {200}
    assert max(took) < 10
    assert httpx.get(f"{server}/runspend/run/{w.BIG}", timeout=60).status_code == 200


def test_requests_are_served_in_the_order_of_arrival() -> None:
    order: list[int] = []

    async def ask() -> None:
        gate = Gate(at_once=1, wait=30)
        tasks = []
        for number in range(6):
            tasks.append(asyncio.create_task(gate.run(lambda n=number: (time.sleep(0.12), order.append(n)))))  # type: ignore[misc]
            await asyncio.sleep(0)
        await asyncio.gather(*tasks)

    asyncio.run(ask())
    assert order == list(range(6))


def test_equal_pages_are_built_once() -> None:
    """A request during the same work gets its result or its error. A request with another key, or a later one, starts new work."""
    built: list[str] = []

    def work(name: str) -> str:
        built.append(name)
        time.sleep(0.5)
        if name == "wrong":
            raise ValueError(name)
        return f"{name} {len(built)}"

    async def ask() -> None:
        gate = Gate(at_once=1, wait=30)
        first = asyncio.create_task(gate.run(lambda: work("a"), key="a"))
        await asyncio.sleep(0.1)
        others = [asyncio.create_task(gate.run(lambda: work("a"), key="a")) for _ in range(20)]
        await asyncio.sleep(0.1)
        first.cancel()  # its browser disconnects, but the others still get the result
        assert await asyncio.gather(*others) == ["a 1"] * 20
        assert await gate.run(lambda: work("b"), key="b") == "b 2"
        assert await gate.run(lambda: work("a"), key="a") == "a 3"
        assert len(await asyncio.gather(*(gate.run(lambda: work("c")) for _ in range(2)))) == 2
        failed = await asyncio.gather(*(gate.run(lambda: work("wrong"), key="wrong") for _ in range(5)), return_exceptions=True)
        assert [repr(f) for f in failed] == ["ValueError('wrong')"] * 5

    asyncio.run(ask())
    assert built == ["a", "b", "a", "c", "c", "wrong"]


def test_too_many_waiting_requests_are_asked_to_come_back() -> None:
    """They are refused immediately instead of waiting first."""

    async def ask() -> None:
        gate = Gate(at_once=1, wait=30)
        tasks = [asyncio.create_task(gate.run(lambda: time.sleep(0.5))) for _ in range(2 * MOST_WAITING)]
        await asyncio.sleep(0.1)
        refused = [task.exception() for task in tasks if task.done()]
        assert len(refused) == MOST_WAITING - 1  # one request is being served
        assert all(isinstance(error, HTTPException) and error.headers == {"Retry-After": "5"} for error in refused)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(ask())


def test_no_more_than_two_requests_are_served_at_once(tmp_path: Path) -> None:
    """A cancelled request keeps its place until its work is done."""
    inside, most, guard = 0, 0, threading.Lock()

    def work() -> None:
        nonlocal inside, most
        with guard:
            inside += 1
            most = max(most, inside)
        time.sleep(0.05)
        with guard:
            inside -= 1

    async def all_at_once() -> list[object]:
        gate = Gate(wait=5)
        tasks = [asyncio.create_task(gate.run(work)) for _ in range(20)]
        await asyncio.sleep(0.02)
        for task in tasks[::3]:
            task.cancel()
        return list(await asyncio.gather(*tasks, return_exceptions=True))

    results = asyncio.run(all_at_once())
    assert most == AT_ONCE and None in results


def test_a_page_that_takes_too_long_is_given_up() -> None:
    """The answer is 503. The place is free again when the work is done."""

    async def ask() -> None:
        gate = Gate(at_once=1, wait=0.1, longest=0.2)
        with pytest.raises(HTTPException) as late:
            await gate.run(lambda: time.sleep(1))
        assert late.value.status_code == 503 and "longer than" in late.value.detail
        with pytest.raises(HTTPException) as full:
            await gate.run(lambda: None)
        assert full.value.headers == {"Retry-After": "5"}
        await asyncio.sleep(1.2)
        assert await gate.run(lambda: 7) == 7

    asyncio.run(ask())


def test_work_that_fails_frees_its_place() -> None:
    """The error reaches its own caller, and the next request is served."""

    async def ask() -> None:
        gate = Gate(at_once=1, wait=0.5)
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                await gate.run(lambda: 1 // 0)

    asyncio.run(ask())


def test_engines_of_pages_have_few_threads_together(tmp_path: Path) -> None:
    """An engine has fewer threads while a page uses it, and its usual number afterwards."""

    def threads() -> int:
        with engines.borrow_connection(
            "test-threads", lambda: __import__("duckdb").connect(":memory:", config={"threads": 4}), tmp_path / "spill", memory="100MB"
        ) as con:
            return int(con.execute("select current_setting('threads')").fetchall()[0][0])

    async def on_a_page() -> int:
        return await Gate().run(threads)

    assert threads() == 4
    assert asyncio.run(on_a_page()) == max(1, len(os.sched_getaffinity(0)) // (2 * AT_ONCE))
    assert threads() == 4


@pytest.mark.parametrize(
    "damage",
    [
        "half a file",
        "no file",
        "rubbish",
        "a record that is no JSON",
        "a record without its keys",
        "schema of the future",
        "not ours to read",
    ],
)
def test_a_damaged_warehouse_is_503_in_a_sentence(tmp_path: Path, home: Path, damage: str) -> None:
    """The answer contains no path of the machine. It names the command that repairs the data, or refers to the server's log."""
    whole, home = home, tmp_path / "a-home-with-a-name"
    root = shutil.copytree(whole / "warehouse", home / "warehouse")
    files = sorted(root.glob("**/cost_allocations/**/*.parquet")) + sorted(root.glob("run*/**/*.parquet"))
    records = sorted((root / "_runspend" / "units").glob("r*/*/*.json")) + sorted((root / "_runspend" / "units").glob("cost*/*/*.json"))
    assert files and records
    for file in files:
        if damage == "half a file":
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        elif damage == "no file":
            file.unlink()
        elif damage == "rubbish":
            file.write_bytes(b"PAR1" + b"x" * 2000 + b"PAR1")
    for record in records:
        if damage == "a record that is no JSON":
            record.write_text("{", encoding="utf-8")
        elif damage == "a record without its keys":
            record.write_text("[]", encoding="utf-8")
    if damage == "schema of the future":
        (root / "_runspend" / "schema.json").write_text(json.dumps({"version": 10**6, "tables": {}}), encoding="utf-8")
    if damage == "not ours to read":
        (root / "_runspend" / "schema.json").unlink()
        (root / "_runspend" / "schema.json").mkdir()
    answer = ask_quietly(create_app(settings_of(home)), f"/run/{w.BIG}")
    assert answer.status_code == 503, answer.text
    if damage in ("schema of the future", "not ours to read"):
        assert message_of(answer).startswith("cannot show this page: ") and "log" in message_of(answer)
    else:
        assert message_of(answer).startswith("cannot read damaged data: ") and "Run: runspend nightly" in message_of(answer)
    assert str(tmp_path) not in answer.text and "a-home-with-a-name" not in answer.text and "/" not in message_of(answer)
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")


def test_a_run_that_is_not_there_is_404(home: Path) -> None:
    answer = request(create_app(settings_of(home)), "/run/ffffffffffff")
    assert answer.status_code == 404 and "ffffffffffff" in answer.text


def ask_quietly(app: FastAPI, path: str) -> httpx.Response:
    """Send one request to a server that logs errors and continues."""

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.get(path)

    return asyncio.run(ask())
