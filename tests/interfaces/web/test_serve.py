"""`runspend serve`, in processes of its own, prints an address only when it answers."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import urllib.error
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
    (tmp_path / "warehouse" / "_runspend").mkdir(parents=True)
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
    """With --port 0, it uses a free port. Ctrl-C ends it."""
    assert server.stdout is not None
    started = re.match(r"(http://127\.0\.0\.1:\d+/)  \(Ctrl-C ends it\)", server.stdout.readline())
    assert started is not None
    with urllib.request.urlopen(started[1], timeout=60) as answer:
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
def test_a_value_that_is_not_a_port_is_refused(config: Path, port: str) -> None:
    assert run_here("serve", "--port", port, "--config", str(config), code=2).stdout == ""


ACCESS = "access: {groups: {finance: all}, header: X-Groups}\n"


@pytest.mark.parametrize(
    ("more", "host", "why"),
    [
        (
            "access: {groups: {finance: all}}\n",
            "127.0.0.1",
            "not the header in which a reverse proxy names the user's groups. Set access.header",
        ),
        ("", "0.0.0.0", "everyone who reaches the port would see all costs"),
        ("", "192.0.2.1", "everyone who reaches the port would see all costs"),
        (ACCESS, "0.0.0.0", "access.proxies is missing, and only the proxy may name the user"),
        (ACCESS, "::", "access.proxies is missing"),
        ("", "localhost", "it is not an address"),
        (ACCESS.replace("}\n", ", proxies: [10.0.0.5]}\n"), "192.0.2.1", "Cannot assign requested address"),
    ],
)
def test_pages_are_not_served_to_those_who_may_not_see_them(config: Path, more: str, host: str, why: str) -> None:
    """Other machines reach the pages only through a proxy that the configuration names."""
    config.write_text(f"home: .\n{more}", encoding="utf-8")
    refused = run_here("serve", "--port", "0", "--host", host, "--config", str(config), code=2)
    assert refused.stdout == "" and why in refused.stderr


def test_mcp_over_http_is_refused_where_access_is_restricted(config: Path) -> None:
    """MCP tools cannot identify the user."""
    config.write_text(f"home: .\n{ACCESS}", encoding="utf-8")
    refused = run_here("mcp", "--http", "--port", "0", "--config", str(config), code=2)
    assert refused.stdout == "" and "cannot serve MCP over HTTP: `access` restricts who sees which costs" in refused.stderr


def test_a_proxy_in_front_says_who_asks(config: Path) -> None:
    """Only the header counts: X-Forwarded-For does not replace the proxy's address. The site's host name is accepted."""
    config.write_text(f"home: .\nsite: {{url: 'https://costs.example.com/x'}}\n{ACCESS}", encoding="utf-8")
    command = [sys.executable, "-u", "-m", "runspend.interfaces.cli", "serve", "--port", "0", "--config", str(config)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().split()[0]
            codes = []
            for headers in (
                {"X-Groups": "finance", "Host": "costs.example.com"},
                {"X-Groups": "finance", "X-Forwarded-For": "203.0.113.9"},
                {"X-Forwarded-For": "127.0.0.1"},
                {"X-Groups": "finance", "Host": "evil.example.com"},
            ):
                try:
                    with urllib.request.urlopen(urllib.request.Request(f"{address}2026-11.html", headers=headers), timeout=60) as answer:
                        codes.append(answer.status)
                except urllib.error.HTTPError as error:
                    codes.append(error.code)
        finally:
            process.kill()
    assert codes == [200, 200, 403, 403]
