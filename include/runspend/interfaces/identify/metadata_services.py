"""Ask the metadata services of AWS, Google Cloud and Azure which machine this is.

Formats: AWS's instance metadata service, version 2 (a token by PUT, then the instance identity document); Google's
`computeMetadata/v1` with the header Metadata-Flavor; Azure's `metadata/instance`, version 2021-02-01; and the task metadata
endpoint of ECS, version 4. Every answer is checked, because a proxy or a captive portal may answer instead.

Only `http.client` is used. It does not use proxies, and requests to these addresses must never go through one.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from threading import Timer
from typing import Any
from urllib.parse import urlsplit

from runspend.core import machine_tags
from runspend.interfaces.identify.environment import Found, as_text

SECONDS = 1.0  # for one service. A caller waits less, and later answers count for the next run
MOST_BYTES = 65_536
PARTITIONS = {"cn-": "aws-cn", "us-gov-": "aws-us-gov", "us-isob-": "aws-iso-b", "us-iso-": "aws-iso", "eusc-": "aws-eusc"}  # by region
HOST = "169.254.169.254"
DMI = Path("/sys/class/dmi/id")
# Vendor names of the clouds' machines, as the firmware states them.
VENDORS = {"ec2": ("amazon", "xen"), "compute engine": ("google",), "azure": ("microsoft",)}
VENDOR_FILES = ("sys_vendor", "board_vendor", "bios_vendor", "product_name")


def possible_services() -> dict[str, Callable[[], list[Found]]]:
    """Return the services that may answer here, by name.

    These are the services whose address is set in the environment, otherwise those of the vendor in the machine's firmware. If the vendor
    cannot be read, all may answer. On a machine of another vendor, the result is empty, so that a laptop does not wait.
    """
    named = [name for name, variable in ADDRESSES.items() if os.environ.get(variable)]
    makers = _makers()
    likely = named or [name for name, vendors in VENDORS.items() if not makers or any(vendor in makers for vendor in vendors)]
    if os.environ.get("AWS_EC2_METADATA_DISABLED", "").strip().lower() == "true":
        likely = [name for name in likely if name != "ec2"]
    return {name: SERVICES[name] for name in (*(("ecs",) if os.environ.get(ECS_ADDRESS) else ()), *likely)}


def why_not_asked(name: str) -> str:
    """Return why `possible_services` leaves a service out."""
    if name == "ecs":
        return f"not asked: {ECS_ADDRESS} is not set"
    if name == "ec2" and os.environ.get("AWS_EC2_METADATA_DISABLED", "").strip().lower() == "true":
        return "switched off by AWS_EC2_METADATA_DISABLED"
    if named := [variable for variable in ADDRESSES.values() if os.environ.get(variable)]:
        return f"not asked: {' and '.join(named)} {'names' if len(named) == 1 else 'name'} another cloud's service"
    return "not asked: the firmware names another vendor of this machine"


# Variables that change the address of a service. Where the clouds' own clients have such a variable, it is the same.
ADDRESSES = {"ec2": "AWS_EC2_METADATA_SERVICE_ENDPOINT", "compute engine": "GCE_METADATA_HOST", "azure": "RUNSPEND_AZURE_METADATA_HOST"}
ECS_ADDRESS = "ECS_CONTAINER_METADATA_URI_V4"  # ECS sets it in every container


def _makers() -> str:
    """Return the vendor texts of the machine's firmware in lower case, or "" if they cannot be read."""
    texts = []
    for name in VENDOR_FILES:
        try:
            texts.append((DMI / name).read_text(encoding="utf-8", errors="replace"))
        except OSError:
            continue
    return " ".join(texts).lower().strip()


def ask_ec2() -> list[Found]:
    """Return the tags of this EC2 instance. Its id is the ARN, as on the bill."""
    service = _Service("ec2")
    token = service.text("PUT", "/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"})
    if not re.fullmatch(r"[A-Za-z0-9+/=_-]{1,256}", token):
        raise ValueError("not a token")
    given = {"X-aws-ec2-metadata-token": token}
    document = service.json("/latest/dynamic/instance-identity/document", given)
    instance, region = (
        _match(document, "instanceId", r"i-[0-9a-f]{8,32}"),
        _match(document, "region", r"[a-z]{2,5}(-[a-z]{2,12}){1,3}-[0-9]"),
    )
    account = _match(document, "accountId", r"[0-9]{12}")
    partition = next((name for start, name in PARTITIONS.items() if region.startswith(start)), "aws")
    found = {
        machine_tags.ID: f"arn:{partition}:ec2:{region}:{account}:instance/{instance}",
        machine_tags.TYPE: _optional(document, "instanceType", r"[a-z0-9.-]{3,40}"),
        machine_tags.ACCOUNT: account,
        machine_tags.REGION: region,
        machine_tags.ZONE: _optional(document, "availabilityZone", r"[a-z0-9-]{5,40}"),
    }
    try:
        life = service.text("GET", "/latest/meta-data/instance-life-cycle", given)
    except (OSError, ValueError, http.client.HTTPException):
        life = ""
    if life in ("spot", "on-demand", "capacity-block", "scheduled"):
        found[machine_tags.PURCHASE_OPTION] = "spot" if life == "spot" else "on-demand"
    return _as_found(found, "EC2's metadata service")


def ask_compute_engine() -> list[Found]:
    """Return the tags of this Compute Engine instance. Its id is the full resource name with the instance number, as on the bill."""
    service = _Service("compute engine")
    given = {"Metadata-Flavor": "Google"}
    machine = service.json("/computeMetadata/v1/instance/?recursive=true", given)
    project = service.text("GET", "/computeMetadata/v1/project/project-id", given)
    if service.flavor != "Google" or not re.fullmatch(r"[a-z0-9][a-z0-9.:-]{2,80}", project):
        raise ValueError("not Compute Engine")
    zone = _match(machine, "zone", r"projects/[a-z0-9.:-]{1,80}/zones/[a-z0-9-]{3,40}").rsplit("/", 1)[1]
    number = str(machine.get("id"))
    if not re.fullmatch(r"[0-9]{1,20}", number):
        raise ValueError("not an id")
    found = {
        machine_tags.ID: f"//compute.googleapis.com/projects/{project}/zones/{zone}/instances/{number}",
        machine_tags.TYPE: _optional(machine, "machineType", r"projects/[a-z0-9.:-]{1,80}/machineTypes/[a-z0-9-]{3,60}").rsplit("/", 1)[-1],
        machine_tags.ACCOUNT: project,
        machine_tags.REGION: zone.rsplit("-", 1)[0],
        machine_tags.ZONE: zone,
    }
    scheduling = machine.get("scheduling")
    if isinstance(scheduling, Mapping) and str(scheduling.get("preemptible")).upper() in ("TRUE", "FALSE"):
        is_spot = str(scheduling["preemptible"]).upper() == "TRUE"
        found[machine_tags.PURCHASE_OPTION] = "spot" if is_spot else "on-demand"
    return _as_found(found, "Compute Engine's metadata service")


def ask_azure() -> list[Found]:
    """Return the tags of this Azure virtual machine. Its id is the resource id, as on the bill."""
    service = _Service("azure")
    machine = service.json("/metadata/instance?api-version=2021-02-01", {"Metadata": "true"}).get("compute")
    if not isinstance(machine, Mapping):
        raise ValueError("not Azure")
    found = {
        machine_tags.ID: _match(
            machine, "resourceId", r"(?i)/subscriptions/[0-9a-f-]{36}/resourceGroups/[^\s/]{1,100}/providers/Microsoft\.Compute/\S{1,300}"
        ),
        machine_tags.TYPE: _optional(machine, "vmSize", r"[A-Za-z0-9_-]{3,60}"),
        machine_tags.ACCOUNT: _optional(machine, "subscriptionId", r"[0-9a-fA-F-]{36}"),
        machine_tags.REGION: _optional(machine, "location", r"[A-Za-z0-9 ]{3,40}"),
        machine_tags.PURCHASE_OPTION: "spot" if str(machine.get("priority")).lower() in ("spot", "low") else "on-demand",
    }
    return _as_found(found, "Azure's metadata service")


def ask_ecs() -> list[Found]:
    """Return the tags of this container's ECS task if it runs on Fargate, where the task is billed. Otherwise, return an empty list."""
    uri = urlsplit(os.environ.get(ECS_ADDRESS, ""))
    if uri.scheme != "http" or not uri.hostname:
        raise ValueError("not an address")
    service = _Service("ecs", uri.netloc)
    task = service.json(f"{uri.path.rstrip('/')}/task", {})
    if str(task.get("LaunchType")).upper() != "FARGATE":
        return []
    arn = _match(task, "TaskARN", r"arn:aws[a-z-]*:ecs:[a-z0-9-]+:[0-9]{12}:task/\S{1,300}")
    parts = arn.split(":")
    found = {machine_tags.ID: arn, machine_tags.ACCOUNT: parts[4], machine_tags.REGION: parts[3]}
    found[machine_tags.ZONE] = _optional(task, "AvailabilityZone", r"[a-z0-9-]{5,40}")
    return _as_found(found, "ECS's task metadata endpoint")


SERVICES: dict[str, Callable[[], list[Found]]] = {
    "ec2": ask_ec2,
    "compute engine": ask_compute_engine,
    "azure": ask_azure,
    "ecs": ask_ecs,
}


class _Service:
    """One metadata service. Its methods raise OSError, HTTPException or ValueError if the answer is late or not as documented."""

    def __init__(self, name: str, address: str | None = None) -> None:
        named = address or os.environ.get(ADDRESSES.get(name, ""), "") or HOST
        self._address = urlsplit(named if "//" in named else f"//{named}")
        if self._address.scheme not in ("", "http") or not self._address.hostname:
            raise ValueError("not an address")
        self._until = time.monotonic() + SECONDS
        self._is_over = False
        self.flavor: str | None = None

    def text(self, method: str, path: str, headers: Mapping[str, str]) -> str:
        """Return the body of an answer with status 200 as text."""
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        connection = http.client.HTTPConnection(str(self._address.hostname), self._address.port or 80, timeout=left)
        clock = Timer(left, self._hang_up, [connection])  # a socket's own timeout starts again with every byte
        clock.daemon = True
        try:
            clock.start()
            connection.request(method, path, headers=dict(headers))
            answer = connection.getresponse()
            if answer.status != 200:
                raise ValueError(f"status {answer.status}")
            self.flavor = answer.getheader("Metadata-Flavor")
            body = b"".join(self._chunks(answer))
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise (TimeoutError() if self._is_over else error) from None
        finally:
            clock.cancel()
            connection.close()
        return body.decode("utf-8").strip()

    def _hang_up(self, connection: http.client.HTTPConnection) -> None:
        self._is_over = True
        with suppress(OSError, AttributeError):  # the connection was closed meanwhile
            connection.sock.shutdown(socket.SHUT_RDWR)

    def json(self, path: str, headers: Mapping[str, str]) -> dict[str, Any]:
        """Return an answer that is a JSON object."""
        found = json.loads(self.text("GET", path, headers))
        if not isinstance(found, dict):
            raise ValueError("not an object")
        return found

    def _chunks(self, answer: http.client.HTTPResponse) -> Iterator[bytes]:
        """Yield the body in chunks. Raises ValueError if it is too long or arrives too slowly."""
        size = 0
        while chunk := answer.read1(8192):
            size += len(chunk)
            if size > MOST_BYTES or time.monotonic() > self._until:
                raise ValueError("an endless answer")
            yield chunk


def _match(found: Mapping[str, Any], key: str, pattern: str) -> str:
    value = found.get(key)
    if not isinstance(value, str) or not re.fullmatch(pattern, value):
        raise ValueError(f"{key} differs from its documentation")
    return value


def _optional(found: Mapping[str, Any], key: str, pattern: str) -> str:
    """Return a value that is not needed to name the machine, or "" if it is missing or differs from its documentation."""
    value = found.get(key)
    return value if isinstance(value, str) and re.fullmatch(pattern, value) else ""


def _as_found(found: Mapping[str, str], origin: str) -> list[Found]:
    """Return the tags that have a value.

    Raises ValueError if MLflow might refuse a value, because a refusal would end the training job.
    """
    if not all(as_text(value) == value for value in found.values()):
        raise ValueError("a value is too long or not printable")
    return [Found(key, value, origin) for key, value in found.items() if value]
