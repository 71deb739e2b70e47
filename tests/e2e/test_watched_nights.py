"""Monitoring of whole pipeline runs: a heartbeat after a good run, silence and mail after any other, and a test mail by command."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from runspend import pipeline
from runspend.config.settings import Settings, load_settings
from runspend.interfaces.cli import cli
from tests.tiny_world import NOW, OPERATORS, make_store, make_tiny_world


@pytest.fixture
def calls() -> Iterator[tuple[list[str], str]]:
    """A heartbeat address on this machine, and the calls that it received."""
    seen: list[str] = []

    class Here(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Here)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield seen, f"http://127.0.0.1:{server.server_port}/beat"
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_heartbeat_follows_a_good_pipeline_run_and_no_other(tmp_path: Path, calls: tuple[list[str], str]) -> None:
    """The heartbeat is called once for each good run, not while a bill is missing, and again when it is back. A mail reports when runs stop."""
    seen, address = calls
    store = tmp_path / "store"
    store.mkdir()
    make_store(store)
    config = make_tiny_world(tmp_path / "tiny", store)
    text = json.loads(config.read_text())
    config.write_text(json.dumps({**text, "mail": {**text["mail"], "heartbeat": address}}))
    settings: Settings = load_settings(config)
    assert pipeline.nightly(settings, now=NOW).exit_code == 0
    assert seen == ["/beat"]
    pipeline.alert(settings, now=NOW + timedelta(hours=6))
    assert seen == ["/beat"]
    bills = tmp_path / "tiny" / "bills"
    bills.rename(tmp_path / "away")
    outcome = pipeline.nightly(settings, now=NOW + timedelta(days=1))
    assert (outcome.exit_code, seen) == (3, ["/beat"])
    assert len(outcome.problems) == len(set(outcome.problems))
    (tmp_path / "away").rename(bills)
    assert pipeline.nightly(settings, now=NOW + timedelta(days=2)).exit_code == 0
    assert seen == ["/beat"] * 2
    assert pipeline.alert(settings, now=NOW + timedelta(days=2, hours=26)).exit_code == 3
    mails = [path.read_text() for path in (settings.home / "mail").glob("operators.STALE*")]
    assert len(mails) == 1
    assert f"To: {OPERATORS}" in mails[0]
    assert "cost tables" in mails[0]


def test_the_command_sends_one_test_mail_and_prints_its_outcome(tmp_path: Path) -> None:
    """The command sends one mail to the given address and prints its outcome. Anything but an address is wrong use."""
    config = tmp_path / "runspend.yaml"
    config.write_text("home: home\nmail: {backend: file}\n")
    done = CliRunner().invoke(cli, ["alert", "--config", str(config), "--test-mail", "ana@example.com"])
    assert done.exit_code == 0, done.output
    (mail,) = (tmp_path / "home" / "mail").glob("*.eml")
    assert "To: ana@example.com" in mail.read_text()
    assert not (tmp_path / "home" / "records").exists()
    refused = CliRunner().invoke(cli, ["alert", "--config", str(config), "--test-mail", "ana"])
    assert refused.exit_code != 0
    assert len(list((tmp_path / "home" / "mail").glob("*.eml"))) == 1
