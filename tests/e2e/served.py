"""Serves the pages of a home on a loopback port, for tests in a real browser."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from playwright.sync_api import Browser, sync_playwright

from runspend.config.settings import Settings, load_settings
from runspend.interfaces.web import LOOPBACK, create_app

CHROMIUM = shutil.which("chromium")


@contextmanager
def served(of: Path | Settings) -> Iterator[str]:
    """Yield the address of a configuration's pages, without a slash at its end."""
    app = create_app(of if isinstance(of, Settings) else load_settings(of), hosts=LOOPBACK)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.02)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


@contextmanager
def started_chromium() -> Iterator[Browser]:
    """Start Debian's Chromium."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()
