"""AWS connections that are more than two keys. Amazon's own hook resolves them, and renews the profile's credentials while a task runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runspend.airflow import aws, connections, lent_files
from tests.servers.token_services import TokenServices, serve_tokens

ROLE = "arn:aws:iam::123456789012:role/reader"
# The code of a task's child process: each bill is loaded in its own process.
CHILD = """
import boto3
session = boto3.session.Session(profile_name="store")
found = session.get_credentials().get_frozen_credentials()
print(found.access_key, found.secret_key, found.token, session.region_name, session.client("s3").meta.endpoint_url)
"""


@pytest.fixture
def sts() -> Iterator[TokenServices]:
    with serve_tokens() as services:
        yield services


@pytest.fixture
def read(sts: TokenServices, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that reads the settings of a bill whose connection assumes a role. Its arguments are the connection's extras."""

    def read(**extra: Any) -> None:
        (tmp_path / "runspend.yaml").write_text('billing: [{name: b, uri: "s3://bills/", credentials: store}]', encoding="utf-8")
        services = {"sts": {"endpoint_url": sts.address}, "s3": {"endpoint_url": "http://127.0.0.1:9"}}
        extra = {"role_arn": ROLE, "region_name": "eu-west-1", "service_config": services} | extra
        connection = {"conn_type": "aws", "login": "AKIA", "password": "own-secret", "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_STORE", json.dumps(connection))
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
        monkeypatch.setenv("RUNSPEND_CONFIG", str(tmp_path / "runspend.yaml"))
        connections.read_settings()

    return read


def child() -> subprocess.CompletedProcess[str]:
    """Run a child process that uses the profile."""
    return subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=False)


def test_a_role_is_assumed_as_the_connection_has_it(read: Callable[..., None], sts: TokenServices) -> None:
    """The hook passes on an external id, which Runspend's own profile cannot express. The child has the role's credentials, not the connection's keys."""
    read(assume_role_kwargs={"ExternalId": "acme"})
    (asked,) = sts.asked
    assert (asked["Action"], asked["RoleArn"], asked["ExternalId"]) == ("AssumeRole", ROLE, "acme")
    done = child()
    assert done.stdout.split() == ["ASIA000000000001", "secret-1", "session-1", "eu-west-1", "http://127.0.0.1:9"], done.stderr
    assert "own-secret" not in Path(os.environ["AWS_SHARED_CREDENTIALS_FILE"]).read_text()


def test_credentials_are_renewed_while_a_task_runs(read: Callable[..., None], sts: TokenServices, monkeypatch: pytest.MonkeyPatch) -> None:
    """A role's credentials expire after an hour, and a first load may take longer."""
    import boto3

    monkeypatch.setattr(lent_files, "RENEW_SECONDS", 0.05)
    from datetime import timedelta

    sts.life = timedelta(minutes=9)  # botocore refreshes such short-lived credentials immediately
    read()
    deadline = time.monotonic() + 30
    while len(sts.asked) < 4 and time.monotonic() < deadline:
        time.sleep(0.05)
    session = boto3.session.Session(profile_name="store")
    assert int(session.get_credentials().get_frozen_credentials().access_key.removeprefix("ASIA")) >= 3


def test_a_refused_role_fails_only_the_bill_that_uses_it(read: Callable[..., None], sts: TokenServices) -> None:
    """Other tasks read the same settings. Only the bill that needs the connection fails, with the message from STS."""
    sts.refuses = True
    read()
    done = child()
    assert done.returncode != 0
    assert "connection store cannot be used" in done.stderr and "not authorized to perform: sts:AssumeRole" in done.stderr


def test_without_the_provider_the_profile_assumes_the_role(
    read: Callable[..., None], sts: TokenServices, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "airflow.providers.amazon.aws.hooks.base_aws", None)
    read()
    text = Path(os.environ["AWS_SHARED_CREDENTIALS_FILE"]).read_text()
    assert f"role_arn = {ROLE}" in text and "source_profile = store" in text and sts.asked == []


def test_keys_in_a_connection_reach_the_store(s3_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a real S3 server, Runspend uses the connection's keys, region and endpoint."""
    from runspend.config.settings import load_settings
    from runspend.storage.factory import open_objects

    with_key = {"aws_access_key_id": s3_server.access_key, "endpoint_url": s3_server.endpoint, "region_name": s3_server.region}
    monkeypatch.setenv(
        "AIRFLOW_CONN_STORE",
        json.dumps({"conn_type": "aws", "password": s3_server.secret_key, "extra": with_key, "login": s3_server.access_key}),
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    s3_server.client().create_bucket(Bucket="of-airflow")
    s3_server.client().put_object(Bucket="of-airflow", Key="a/b", Body=b"12345")
    (tmp_path / "runspend.yaml").write_text('stores: [{uri: "s3://of-airflow/", credentials: store}]', encoding="utf-8")
    monkeypatch.setenv("RUNSPEND_CONFIG", str(tmp_path / "runspend.yaml"))
    settings = connections.read_settings()
    assert load_settings().stores[0].credentials == "store" and aws.AWS_FILE in os.environ
    assert (found := open_objects(settings.stores[0], "read").head("a/b")) and found.size == 5
