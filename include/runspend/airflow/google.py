"""Provides the credentials of Google connections as key files or token files in memory.

If apache-airflow-providers-google is installed, its hook resolves a connection, including impersonation, keys in Secret Manager and
federation. Clients then read tokens from a file, which is renewed before they expire. Without the provider, only keys are supported.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from airflow.sdk import Connection
from airflow.sdk.log import mask_secret

from runspend.airflow.lent_files import lend, lend_renewed
from runspend.core.errors import ConfigError
from runspend.core.outside_json import parse_json
from runspend.storage.google_clients import LENT_TYPE

# Fields of a Google connection that identify the caller without a key in the connection. They need Google's provider.
NOT_FOLLOWED = ("key_secret_name", "credential_config_file", "impersonation_chain", "idp_issuer_url")
KEYS_OF_A_KEY = ("private_key", "private_key_id", "refresh_token", "client_secret")
RENEW_BEFORE = timedelta(minutes=15)


def lend_credentials(found: Connection) -> str | None:
    """Return the value of `credentials` in runspend.yaml for a connection of type google_cloud_platform.

    None means the worker's own credentials. Source of the fields: "Google Cloud Connection" of apache-airflow-providers-google.
    """
    extra = {name.removeprefix("extra__google_cloud_platform__"): value for name, value in found.extra_dejson.items() if value}
    if str(extra.get("is_anonymous", False)).lower() in ("true", "1", "yes"):
        return "anonymous"
    is_of_key = not any(name in extra for name in NOT_FOLLOWED)
    if is_of_key and not {"keyfile_dict", "key_path", "keyfile"} & extra.keys():
        return None
    try:
        from airflow.providers.google.common.hooks.base_google import GoogleBaseHook
    except ImportError:
        return _own_key_file(found.conn_id, extra)
    if is_of_key:
        _own_key_file(found.conn_id, extra)  # reports a key that cannot be read, and hides the parts of the key in logs
    return lend_renewed("google-token", _reader(found.conn_id, GoogleBaseHook(gcp_conn_id=found.conn_id)))


def _reader(conn_id: str, hook: Any) -> Callable[[], str]:
    """Return a function that returns JSON with a token that is valid for some minutes, or with the reason why there is none."""
    from google.auth.transport.requests import Request

    def read() -> str:
        try:
            credentials, project = hook.get_credentials_and_project_id()
            now = datetime.now(timezone.utc).replace(tzinfo=None)  # `expiry` has no time zone
            if not credentials.valid or (credentials.expiry is not None and credentials.expiry - RENEW_BEFORE < now):
                credentials.refresh(Request())
        except Exception as error:  # noqa: BLE001 (any library that the connection needs may raise; the client reports the error)
            return json.dumps({"type": LENT_TYPE, "error": f"connection {conn_id} cannot be used: {error}"})
        mask_secret(credentials.token)
        expiry = credentials.expiry and credentials.expiry.isoformat()
        return json.dumps({"type": LENT_TYPE, "token": credentials.token, "expiry": expiry, "project_id": project})

    return read


def _own_key_file(conn_id: str, extra: dict[str, Any]) -> str | None:
    """Return the path of the connection's key file. None means the environment's own credentials.

    Raises ConfigError if the key is not valid, or the connection has no key but another kind of credentials.
    """
    if other := [name for name in NOT_FOLLOWED if name in extra]:
        raise ConfigError(
            f"cannot use connection {conn_id}: {other[0]} needs Google's provider. Install apache-airflow-providers-google, put the key into "
            "keyfile_dict or a path into key_path, or leave all of them out and give the workers their own credentials."
        )
    key, path, project = extra.get("keyfile_dict"), extra.get("key_path") or extra.get("keyfile"), extra.get("project")
    if key is None and (path is None or project is None):
        return None if path is None else str(path)
    try:
        text = Path(str(path)).read_text(encoding="utf-8") if key is None else key
        read = dict(parse_json(text) if isinstance(text, str) else text)
    except (OSError, TypeError, ValueError):
        what = "key_path" if key is None else "keyfile_dict"
        raise ConfigError(f"cannot use connection {conn_id}: its {what} is not the JSON of a key file. Correct the connection.") from None
    for name in KEYS_OF_A_KEY:
        if isinstance(read.get(name), str):
            mask_secret(read[name])  # Airflow hides fields by their names, but not the parts of a key inside one text
    return lend("google-key", json.dumps(read | ({"project_id": project} if project else {})))
