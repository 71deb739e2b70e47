"""Google connections that are more than a key. Google's own hook resolves them, and clients read its tokens from a file that is renewed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from runspend.airflow import connections
from runspend.storage.google_clients import read_credentials, storage_credentials
from tests.servers.token_services import serve_tokens

BILL = 'billing: [{name: files, uri: "gs://bills/", credentials: "connection:gcp"}]'
HOOK = "airflow.providers.google.common.hooks.base_google"


class Token:
    """The credentials that a hook returns. Their token changes with each refresh."""

    valid, token, count = False, "", 0
    expiry: datetime | None = None
    error: Exception | None = None

    def refresh(self, _: Any) -> None:
        if self.error is not None:
            raise self.error
        self.valid, self.count = True, self.count + 1
        self.token = f"token-of-the-hook-{self.count}"
        self.expiry = datetime.now(timezone.utc).replace(tzinfo=None) + timedelta(minutes=5)


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Token:
    """Replace the provider, which needs 90 packages, by a hook that returns this token."""
    found, module = Token(), ModuleType(HOOK)

    class GoogleBaseHook:
        def __init__(self, gcp_conn_id: str) -> None:
            assert gcp_conn_id == "gcp"

        def get_credentials_and_project_id(self) -> tuple[Token, str]:
            return found, "acme"

    module.GoogleBaseHook = GoogleBaseHook  # type: ignore[attr-defined]
    for name in ("airflow.providers.google", "airflow.providers.google.common", "airflow.providers.google.common.hooks"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, HOOK, module)
    return found


@pytest.fixture
def credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Return a function that reads a bill's `credentials` with a connection. Its arguments are the connection's extras."""

    def credentials(**extra: Any) -> str:
        (tmp_path / "runspend.yaml").write_text(BILL, encoding="utf-8")
        monkeypatch.setenv("RUNSPEND_CONFIG", str(tmp_path / "runspend.yaml"))
        monkeypatch.setenv("AIRFLOW_CONN_GCP", json.dumps({"conn_type": "google_cloud_platform", "extra": extra}))
        return str(connections.read_settings().billing[0].credentials)

    return credentials


def test_clients_get_the_token_of_the_hook(hook: Token, credentials: Callable[..., str]) -> None:
    lent = credentials(impersonation_chain="reader@acme.iam.gserviceaccount.com")
    assert lent.startswith("/proc/")
    found, project = read_credentials(lent)
    assert project == "acme"
    for given in (found, storage_credentials(lent, setting="billing[]")):
        given.refresh(None)
        assert (given.token, given.expiry, given.valid) == ("token-of-the-hook-1", hook.expiry, True)


def test_a_refused_connection_fails_only_where_it_is_used(hook: Token, credentials: Callable[..., str]) -> None:
    from google.auth.exceptions import RefreshError

    hook.error = ValueError("no such principal")
    found, _ = read_credentials(credentials(impersonation_chain="nobody@acme.iam.gserviceaccount.com"))
    with pytest.raises(RefreshError, match="connection gcp cannot be used: no such principal"):
        found.refresh(None)


def test_a_connection_without_a_key_stays_the_workers_own(hook: Token, credentials: Callable[..., str]) -> None:
    assert credentials(project="acme") == "None"
    assert credentials(is_anonymous=True) == "anonymous"
    assert hook.count == 0


# The provider's own hook, with a key and an account that the key may impersonate. It prints what a client reads.
IMPERSONATE = """
import sys
import airflow.providers, google.auth.iam
airflow.providers.__path__.append(sys.argv[1] + "/airflow/providers")
google.auth.iam._IAM_ENDPOINT = sys.argv[2] + "/v1/projects/-/serviceAccounts/{}:generateAccessToken"
from runspend.airflow import connections
from runspend.storage.google_clients import read_credentials
found, project = read_credentials(connections.read_settings().billing[0].credentials)
found.refresh(None)
print("found", found.token, project)
"""
# Modules that the hook imports. Its other requirements are clients of services that Runspend does not use.
PACKAGES = (
    "apache-airflow-providers-google", "gcloud-aio-auth", "google-api-python-client", "google-auth-httplib2", "google-cloud-secret-manager",
    "grpc-google-iam-v1", "httplib2", "uritemplate",
)  # fmt: skip


@pytest.mark.torture
def test_the_providers_hook_impersonates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    uv, folder = Path(sys.executable).with_name("uv"), tmp_path / "packages"
    into = [str(uv), "pip", "install", "--quiet", "--no-deps", "--python", sys.executable, "--target", str(folder)]
    subprocess.run([*into, *PACKAGES], check=True)
    pem = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with serve_tokens() as services:
        key = {
            "type": "service_account",
            "project_id": "home",
            "private_key_id": "id",
            "private_key": pem.decode(),
            "client_email": "runspend@home.iam.gserviceaccount.com",
            "token_uri": f"{services.address}/token",
        }
        target = "reader@acme.iam.gserviceaccount.com"
        extra = {"keyfile_dict": key, "impersonation_chain": target, "project": "acme"}
        monkeypatch.setenv("AIRFLOW_CONN_GCP", json.dumps({"conn_type": "google_cloud_platform", "extra": extra}))
        (tmp_path / "runspend.yaml").write_text(BILL, encoding="utf-8")
        environment = {**os.environ, "RUNSPEND_CONFIG": str(tmp_path / "runspend.yaml"), "PYTHONPATH": str(folder)}
        command = [sys.executable, "-c", IMPERSONATE, str(folder), services.address]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert f"found of-the-target-{len(services.asked)} acme" in done.stdout, done.stdout + done.stderr
    assert any(f"{target}:generateAccessToken" in asked.get("path", "") for asked in services.asked)
