"""A real MariaDB server on 127.0.0.1 with a password, in its own folder (Debian: mariadb-server-core and mariadb-client-core)."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.reaper import make_folder
from tests.servers.ports import free_port

PASSWORD = "canary pw/@"  # root's password, which a URI has to quote
PLACES = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"  # Debian's server is not on every user's PATH
# Tests need no durable data, so the server flushes nothing and its log is as small as possible.
QUICK = ("--innodb-flush-method=nosync", "--innodb-log-file-size=8M", "--innodb-buffer-pool-size=64M", "--skip-log-bin")


def quoted(password: str) -> str:
    """Return a password quoted for a URI."""
    from urllib.parse import quote

    return quote(password, safe="")


@contextmanager
def mariadb_server() -> Iterator[str]:
    """Yield the server's URI without a database: `mysql://root:…@127.0.0.1:PORT/`. Skip the test if MariaDB is not installed."""
    install, serve = (shutil.which(name, path=PLACES) for name in ("mariadb-install-db", "mariadbd"))
    if install is None or serve is None or shutil.which("my_print_defaults", path=PLACES) is None:
        pytest.skip("MariaDB is not installed (Debian: apt-get install mariadb-server-core mariadb-client-core)")
    folder = make_folder("mariadb")
    if os.geteuid() == 0:
        as_user = ["--user=root"]
    else:
        as_user = []
    data = [f"--datadir={folder / 'data'}", *QUICK, *as_user]
    try:
        with (folder / "log").open("wb") as log:
            subprocess.run(
                [install, "--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db", *data],
                stdout=log,
                stderr=log,
                check=True,
            )
            start = folder / "start.sql"
            start.write_text(f"alter user root@localhost identified by '{PASSWORD}';\n")
            port = free_port()
            process = subprocess.Popen(
                [
                    serve,
                    "--no-defaults",
                    f"--socket={folder / 'socket'}",
                    "--bind-address=127.0.0.1",
                    f"--port={port}",
                    f"--init-file={start}",
                    *data,
                ],
                stdout=log,
                stderr=log,
            )
            try:
                _wait(process, folder)
                yield f"mysql://root:{quoted(PASSWORD)}@127.0.0.1:{port}/"
            finally:
                for last in (signal.SIGTERM, signal.SIGKILL):
                    process.send_signal(last)
                    try:
                        process.wait(20)
                        break
                    except subprocess.TimeoutExpired:
                        continue
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _wait(process: subprocess.Popen[bytes], folder: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if b"ready for connections" in (folder / "log").read_bytes():
            return
        if process.poll() is not None:
            break
        time.sleep(0.1)
    raise RuntimeError(f"mariadbd did not start: {(folder / 'log').read_text()[-2000:]}")
