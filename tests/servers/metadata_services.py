"""Metadata services of AWS, Google Cloud and Azure on loopback, as documented. They can also misbehave."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

TOKEN = "AQAEABCD=="
EC2_DOCUMENT = {
    "accountId": "123456789012", "architecture": "x86_64", "availabilityZone": "us-east-1c", "billingProducts": None, "imageId": "ami-0abc",
    "instanceId": "i-0123456789abcdef0", "instanceType": "g5.2xlarge", "kernelId": None, "pendingTime": "2026-11-01T00:00:00Z",
    "privateIp": "10.0.0.7", "region": "us-east-1", "version": "2017-09-30",
}  # fmt: skip
GOOGLE_MACHINE = {
    "id": 7417415098172356107, "name": "trainer", "zone": "projects/55555/zones/europe-west4-a", "machineType": "projects/55555/machineTypes/a2-highgpu-1g",
    "scheduling": {"automaticRestart": "FALSE", "onHostMaintenance": "TERMINATE", "preemptible": "TRUE"},
}  # fmt: skip
AZURE_ID = "/subscriptions/0a1b2c3d-0000-4000-8000-123456789abc/resourceGroups/ml/providers/Microsoft.Compute/virtualMachines/trainer"
AZURE_MACHINE = {
    "compute": {
        "location": "westeurope", "name": "trainer", "priority": "Spot", "resourceId": AZURE_ID, "subscriptionId": AZURE_ID.split("/")[2],
        "vmSize": "Standard_NC24ads_A100_v4", "zone": "2",
    },
    "network": {},
}  # fmt: skip
ECS_TASK = {
    "Cluster": "default", "TaskARN": "arn:aws:ecs:eu-west-1:123456789012:task/default/158d1c8083dd49d6b527399fd6414f5c", "LaunchType": "FARGATE",
    "AvailabilityZone": "eu-west-1b",
}  # fmt: skip

HANGING_SECONDS = 20
WRONGS = ("hangs", "closes", "500", "lies", "other words", "endless", "drips", "redirects", "no json", "null")


class _Handler(BaseHTTPRequestHandler):
    """`wrong` is what the service does instead of answering. `asked` lists the requests that it received."""

    wrong: str | None = None
    asked: list[str]
    life = "spot"

    def do_PUT(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, *given: Any) -> None:
        pass

    def _answer(self) -> None:
        self.asked.append(f"{self.command} {self.path}")
        if self.wrong == "hangs":
            time.sleep(HANGING_SECONDS)
        elif self.wrong == "closes":
            self.connection.shutdown(socket.SHUT_RDWR)
        elif self.wrong == "500":
            self._send("<h1>Sorry</h1>", 500)
        elif self.wrong == "lies":
            self._send("<html>Welcome to the hotel's network</html>")
        elif self.wrong == "other words":
            self._send(json.dumps({"instanceId": "$(reboot)", "compute": {"resourceId": ["x"]}, "id": {}, "TaskARN": "arn:aws:x"}))
        elif self.wrong == "no json":
            self._send('{"instanceId": ')
        elif self.wrong == "null":
            self._send("null")
        elif self.wrong == "redirects":
            self._send("", 302, {"Location": "http://example.com/"})
        elif self.wrong in ("endless", "drips"):
            self.send_response(200)
            self.end_headers()
            while self.wrong:
                try:
                    self.wfile.write(b"i" * (65_536 if self.wrong == "endless" else 1))
                except OSError:
                    return
                time.sleep(0 if self.wrong == "endless" else 0.3)
        else:
            self._tell()

    def _tell(self) -> None:
        path, given = self.path.partition("?")[0], self.headers
        if self.command == "PUT" and path == "/latest/api/token" and given.get("X-aws-ec2-metadata-token-ttl-seconds"):
            self._send(TOKEN)
        elif path.startswith("/latest/"):
            if given.get("X-aws-ec2-metadata-token") != TOKEN:
                self._send("", 401)
            elif path == "/latest/dynamic/instance-identity/document":
                self._send(json.dumps(EC2_DOCUMENT, indent=2))
            else:
                self._send(self.life if path == "/latest/meta-data/instance-life-cycle" else "", 200 if self.life else 404)
        elif path.startswith("/computeMetadata/v1/") and given.get("Metadata-Flavor") == "Google":
            is_project = path.endswith("/project/project-id")
            self._send(
                "ml-prod" if is_project else json.dumps(GOOGLE_MACHINE),
                200,
                {"Metadata-Flavor": "Google", "Server": "Metadata Server for VM"},
            )
        elif path == "/metadata/instance" and given.get("Metadata") == "true" and "api-version=" in self.path:
            self._send(json.dumps(AZURE_MACHINE))
        elif path == "/v4/abc/task":
            self._send(json.dumps(ECS_TASK))
        else:
            self._send("", 404)

    def _send(self, body: str, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body.encode())))
        self.end_headers()
        self.wfile.write(body.encode())


@contextmanager
def serve_metadata(wrong: str | None = None, life: str = "spot") -> Iterator[tuple[str, list[str]]]:
    """Yield the address of a metadata service of every cloud, and the requests that it received."""
    asked: list[str] = []
    handler = type("Handler", (_Handler,), {"wrong": wrong, "asked": asked, "life": life})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}", asked
    finally:
        handler.wrong = None  # type: ignore[attr-defined]
        server.shutdown()
        server.server_close()
