"""`runspend serve`, in processes of its own: an address is printed only when it answers."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command import run_here


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "runspend.yaml"
    path.write_text("home: .\n", encoding="utf-8")
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "2026-11.html").write_text("<p>November</p>", encoding="utf-8")
    return path


@pytest.fixture
def server(config: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "runspend.interfaces.cli", "serve", "--port", "0", "--config", str(config)],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    with process:
        yield process
        process.kill()


def test_the_address_answers_from_the_moment_it_is_printed(server: subprocess.Popen[str]) -> None:
    """On a free port, where one is asked for; Ctrl-C ends it."""
    assert server.stdout is not None
    told = re.match(r"(http://127\.0\.0\.1:\d+/)  \(Ctrl-C ends it\)", server.stdout.readline())
    assert told is not None
    with urllib.request.urlopen(told[1], timeout=60) as answer:
        assert b"November" in answer.read()
    server.send_signal(signal.SIGINT)
    assert server.wait(60) in (0, 130, -signal.SIGINT)


def test_a_port_in_use_is_refused_before_any_address_is_printed(config: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        refused = run_here("serve", "--port", str(port), "--config", str(config), code=2)
    assert refused.stdout == ""
    assert (
        f"error: cannot serve on port {port}: another program uses it. Choose another one with --port. No page is shown." in refused.stderr
    )


def test_json_is_not_offered(config: Path) -> None:
    assert "No such option" in run_here("serve", "--json", "--config", str(config), code=2).stderr


@pytest.mark.parametrize("port", ["-1", "65536", "http"])
def test_what_is_not_a_port_is_refused(config: Path, port: str) -> None:
    assert run_here("serve", "--port", port, "--config", str(config), code=2).stdout == ""
