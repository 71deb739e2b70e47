"""Microsoft's Azure Storage emulator (Azurite) on 127.0.0.1. Any test can request the fixture `azure_server`.

It checks keys and SAS tokens and honors If-Match. `make test` installs it with npm in .venv/azurite. Without it, pytest skips these
tests.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import shutil
import subprocess
import sysconfig
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlencode

import pytest

from tests.reaper import make_folder, marked
from tests.servers.gcs import wait_until_it_answers
from tests.servers.ports import free_port
from tests.servers.s3 import _end

ACCOUNT = "acmebilling"
KEY = base64.b64encode(b"not-a-secret-only-for-tests").decode()
VERSION = "2021-08-06"


@dataclass(frozen=True)
class AzureServer:
    """The server's address, and the account that it knows."""

    endpoint: str  # emulators have the account in the path
    account: str = ACCOUNT
    key: str = KEY

    @property
    def connection_string(self) -> str:
        return f"DefaultEndpointsProtocol=http;AccountName={self.account};AccountKey={self.key};BlobEndpoint={self.endpoint};"

    def sas(self, rights: str = "rl", until: str = "2099-01-01T00:00:00Z") -> str:
        """Return an account SAS token for blobs ("Create an account SAS")."""
        signed = "\n".join([self.account, rights, "b", "sco", "", until, "", "", VERSION, "", ""])
        signature = base64.b64encode(hmac.new(base64.b64decode(self.key), signed.encode(), hashlib.sha256).digest()).decode()
        return urlencode({"sv": VERSION, "ss": "b", "srt": "sco", "sp": rights, "se": until, "sig": signature})

    def create_container(self, name: str) -> None:
        self._put(f"/{name}?restype=container&{self.sas('rwlc')}", b"", {})

    def put(self, container: str, objects: dict[str, bytes]) -> None:
        for key, data in objects.items():
            self._put(f"/{container}/{quote(key)}?{self.sas('rwlc')}", data, {"x-ms-blob-type": "BlockBlob"})

    def _put(self, path: str, data: bytes, headers: dict[str, str]) -> None:
        request = urllib.request.Request(self.endpoint + path, data=data, headers={"x-ms-version": VERSION, **headers}, method="PUT")
        with urllib.request.urlopen(request, timeout=30) as answer:
            answer.read()


@pytest.fixture(scope="session")
def azure_server() -> Iterator[AzureServer]:
    """Start one server for all tests of a run. Each test creates its own container."""
    program = Path(sysconfig.get_path("data")) / "azurite/node_modules/azurite/dist/src/blob/main.js"
    node = shutil.which("node", path=os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")]))
    if node is None or not program.exists():
        pytest.skip("no azurite in .venv: `make test` installs it where npm's registry can be reached")
    with serve_azure(node, program) as server:
        yield server


@contextmanager
def serve_azure(node: str, program: Path) -> Iterator[AzureServer]:
    """Start the server in its own folder, and stop it at the end."""
    folder = make_folder("azure")
    port = free_port()
    server = AzureServer(f"http://127.0.0.1:{port}/{ACCOUNT}")
    options = ["--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(folder), "--silent", "--disableTelemetry"]
    environment = {"PATH": os.environ.get("PATH", ""), "AZURITE_ACCOUNTS": f"{ACCOUNT}:{KEY}", **marked()}
    with (folder / "azurite.log").open("wb") as log:
        process = subprocess.Popen(
            [node, str(program), *options], cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            wait_until_it_answers(server.endpoint, process)
            yield server
        finally:
            _end(process)
            shutil.rmtree(folder, ignore_errors=True)
