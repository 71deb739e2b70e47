"""Provides AWS connections as profiles of the AWS configuration, for this process and its child processes.

If apache-airflow-providers-amazon is installed, its hook resolves a connection, including roles, external ids, web identity and SAML. AWS
clients then renew the profile's credentials before they expire. Without the provider, the profile contains the keys and the role of the
connection.
"""

from __future__ import annotations

import configparser
import io
import json
import os
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from airflow.sdk import Connection

from runspend.airflow.lent_files import lend, lend_renewed

AWS_FILE = "AWS_SHARED_CREDENTIALS_FILE"
STATED_LIFE = timedelta(minutes=20)  # clients renew credentials 15 minutes before they expire; the file is renewed every minute


def lend_profiles(connections: Iterable[tuple[str, Connection]]) -> None:
    """Make each connection available as a profile with its name, in a credentials file in memory.

    The file also contains the profiles of the credentials file that it replaces.
    """
    profiles = configparser.ConfigParser(default_section="", interpolation=None)
    for name, found in connections:
        profiles[name] = _profile(name, found)
    if not profiles.sections():
        return
    before = Path(os.environ.get(AWS_FILE, "~/.aws/credentials")).expanduser()
    if before.is_file():
        own = configparser.ConfigParser(default_section="", interpolation=None)
        own.read(before)
        for section in set(own.sections()) - set(profiles.sections()):
            profiles[section] = dict(own[section])
    text = io.StringIO()
    profiles.write(text)
    os.environ[AWS_FILE] = lend("aws-profiles", text.getvalue())


def _profile(name: str, found: Connection) -> dict[str, str]:
    try:
        from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook
    except ImportError:
        return _own_profile(name, found)
    return _hook_profile(found.conn_id, AwsBaseHook(aws_conn_id=found.conn_id, client_type="s3"))


def _hook_profile(conn_id: str, hook: Any) -> dict[str, str]:
    connection = hook.conn_config
    verify = connection.verify
    known = {
        "region": connection.region_name,
        "endpoint_url": connection.get_service_endpoint_url("s3"),
        "ca_bundle": verify if isinstance(verify, str) else None,
    }
    keys = connection.session_kwargs
    if connection.role_arn is None and keys.get("aws_access_key_id"):
        known |= {key: keys.get(key) for key in ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")}
    else:
        path = lend_renewed("aws-credentials", _reader(conn_id, hook))
        # If there are no credentials, the file contains the reason, which the client shows.
        known["credential_process"] = f"/bin/sh -c 'if grep -q AccessKeyId {path}; then cat {path}; else cat {path} >&2; exit 1; fi'"
    return {key: str(value) for key, value in known.items() if value}


def _reader(conn_id: str, hook: Any) -> Callable[[], str]:
    """Return a function that returns credentials in the JSON form of a credential process, or a sentence with the reason if there are none.

    The session refreshes the credentials.
    """
    session: Any = None

    def read() -> str:
        nonlocal session
        try:
            session = session or hook.get_session()
            found = session.get_credentials()
            if found is None:
                return f"connection {conn_id} has no credentials, and the worker has none of its own"
            frozen = found.get_frozen_credentials()
        except Exception as error:  # noqa: BLE001 (any library that the connection needs may raise; the client reports the error)
            return f"connection {conn_id} cannot be used: {error}"
        end = datetime.now(timezone.utc) + STATED_LIFE
        known = {"AccessKeyId": frozen.access_key, "SecretAccessKey": frozen.secret_key, "SessionToken": frozen.token}
        return json.dumps({"Version": 1, "Expiration": end.isoformat()} | {key: value for key, value in known.items() if value})

    return read


def _own_profile(name: str, found: Connection) -> dict[str, str]:
    extra = found.extra_dejson
    known = {
        "aws_access_key_id": found.login,
        "aws_secret_access_key": found.password,
        "aws_session_token": extra.get("aws_session_token"),
        "region": extra.get("region_name"),
        "endpoint_url": extra.get("endpoint_url"),
        "role_arn": extra.get("role_arn"),
        "source_profile": name if extra.get("role_arn") else None,
    }
    return {key: value for key, value in known.items() if value}
