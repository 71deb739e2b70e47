"""`runspend.yaml` for tasks, with Airflow connections resolved. The only module that knows Airflow connections.

Nothing here runs when a DAG file is parsed. `runspend.config.settings` defines the settings. The file is found as everywhere else:
`$RUNSPEND_CONFIG`, otherwise `runspend.yaml` in the working folder.

In the file, `connection:ID` is allowed for a tracking server's `uri`, `token`, `username`, `password` or `database`, a PostgreSQL target's `uri`, and for the
mail's `host`, `username`, `password`, `webhook.url`, `channels[].url`, `channels[].key` or `heartbeat`. `mail.connection: ID` fills in the whole mail server.
`credentials: ID` of a bill, a store or a warehouse in S3, and a store's `delete_credentials`, may be an AWS connection; otherwise
it is a profile of the AWS configuration, as outside Airflow. `credentials: connection:ID` of a warehouse or bill in BigQuery, or of
a bill or store in gs://, is a Google connection.
"""

from __future__ import annotations

import configparser
import io
import json
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

from airflow.sdk import Connection
from airflow.sdk.exceptions import AirflowNotFoundException
from airflow.sdk.log import mask_secret

from runspend.config.publish import PostgresTarget
from runspend.config.settings import ArtifactStore, BillSource, MailSettings, Settings, TrackingServer, WarehouseSettings, load_settings
from runspend.core.errors import ConfigError
from runspend.core.outside_json import parse_json

PREFIX = "connection:"
AWS_FILE = "AWS_SHARED_CREDENTIALS_FILE"
GOOGLE = ("gs://", "bigquery://")  # their credentials are key files
CREDENTIALS = ("credentials", "delete_credentials")
# Fields of a Google connection that identify the caller in another way.
NOT_FOLLOWED = ("key_secret_name", "credential_config_file", "impersonation_chain", "idp_issuer_url")
KEYS_OF_A_KEY = ("private_key", "private_key_id", "refresh_token", "client_secret")


def read_settings() -> Settings:
    """Return the settings. Raises ConfigError if the file is wrong, AirflowNotFoundException if a connection is missing."""
    settings = load_settings()
    lend_aws_profiles([*settings.billing, *settings.stores, settings.warehouse])
    resolved = {
        "tracking": [_resolve_server(server) for server in settings.tracking],
        "billing": [_resolve_google(source) for source in settings.billing],
        "stores": [_resolve_google(store) for store in settings.stores],
        "warehouse": _resolve_google(settings.warehouse),
        "mail": _resolve_mail(settings.mail),
        "publish": [_replace(t, uri=_database_uri) if isinstance(t, PostgresTarget) else t for t in settings.publish],
    }
    return settings.model_copy(update=resolved)


def _resolve_server(server: TrackingServer) -> TrackingServer:
    return _replace(server, uri=_address, token=_password, username=_login, password=_password, database=_database_uri)


def _resolve_google(place: Any) -> Any:
    """Return a Google bill, store or warehouse with its key files."""
    keys = [key for key in CREDENTIALS if hasattr(place, key)]
    return _replace(place, **dict.fromkeys(keys, _google_key_file)) if (place.uri or "").startswith(GOOGLE) else place


def _resolve_mail(mail: MailSettings) -> MailSettings:
    mail = _replace(mail, host=lambda c: c.host, username=_login, password=_password, heartbeat=_hidden_address)
    channels = [_replace(channel, url=_hidden_address, key=_password) for channel in mail.channels]
    webhook = None if mail.webhook is None else _replace(mail.webhook, url=_hidden_address)
    mail = mail.model_copy(update={"webhook": webhook, "channels": channels})
    if mail.connection is None:
        return mail
    found = Connection.get(mail.connection.removeprefix(PREFIX))
    extra = found.extra_dejson
    tls = (
        "implicit" if not _is_true(extra.get("disable_ssl", False)) else "none" if _is_true(extra.get("disable_tls", False)) else "starttls"
    )
    known = {
        "host": found.host,
        "port": found.port,
        "username": found.login,
        "password": found.password,
        "from": extra.get("from_email"),
        "tls": tls,
    }
    written = mail.model_dump(by_alias=True, exclude={"connection", "password"})
    return MailSettings.model_validate(written | {key: value for key, value in known.items() if value is not None})


def _replace(settings: Any, **readers: Any) -> Any:
    """Return the model with every `connection:ID` replaced by its reader's value from that connection; validated again."""
    changes = {}
    for key, read in readers.items():
        value = getattr(settings, key)
        text = value.get_secret_value() if hasattr(value, "get_secret_value") else value
        if isinstance(text, str) and text.startswith(PREFIX):
            changes[key] = read(Connection.get(text.removeprefix(PREFIX)))
    if not changes:
        return settings
    kept = {key: getattr(settings, key) for key in type(settings).model_fields if key in settings.model_fields_set}
    return type(settings).model_validate(kept | changes)


def _address(found: Connection) -> str:
    port = f":{found.port}" if found.port else ""
    return (
        f"{found.conn_type if found.conn_type in ('http', 'https') and not found.schema else found.schema or 'http'}://{found.host}{port}"
    )


def _database_uri(found: Connection) -> str:
    kind = {"postgres": "postgresql"}.get(found.conn_type, found.conn_type)
    who = ":".join(quote(part, safe="") for part in (found.login, found.password) if part)
    return f"{kind}://{who}{'@' if who else ''}{found.host or ''}{f':{found.port}' if found.port else ''}/{found.schema or ''}"


def _hidden_address(found: Connection) -> str:
    """Return a webhook's or heartbeat's address: entirely in the password, or the host with the password as its path (as in Slack's provider)."""
    secret = found.password or ""
    return secret if "://" in secret else f"{(found.host or '').rstrip('/')}/{secret}"


def _login(found: Connection) -> str | None:
    return found.login


def _password(found: Connection) -> str | None:
    return found.password


def _is_true(value: Any) -> bool:
    return str(value).lower() in ("true", "1", "yes")


def lend_aws_profiles(sources: list[BillSource | ArtifactStore | WarehouseSettings]) -> None:
    """Make each AWS connection named as `credentials` a profile of the same name, for this process and its children.

    The profiles are kept in memory (a file descriptor without a name), next to those of the file they replace.
    """
    profiles = configparser.ConfigParser(default_section="", interpolation=None)
    elsewhere = (*GOOGLE, "abfs://", "abfss://", "az://", "wasbs://")  # their credentials are key files and tokens
    named = [getattr(s, key, None) for s in sources if not (s.uri or "").startswith(elsewhere) for key in CREDENTIALS]
    for name in sorted({name for name in named if isinstance(name, str)}):
        try:
            found = Connection.get(name.removeprefix(PREFIX))
        except AirflowNotFoundException:
            continue  # a profile of the AWS configuration; boto3 reports it if it is missing
        if found.conn_type == "aws":
            profiles[name] = _aws_profile(name, found)
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
    os.environ[AWS_FILE] = _lend("aws-profiles", text.getvalue())


def _aws_profile(name: str, found: Connection) -> dict[str, str]:
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


def _google_key_file(found: Connection) -> str | None:
    """The key of a connection of type google_cloud_platform, as a file; None for the environment's own credentials.

    Source: "Google Cloud Connection" of apache-airflow-providers-google; the provider itself is not needed.
    """
    extra = {name.removeprefix("extra__google_cloud_platform__"): value for name, value in found.extra_dejson.items() if value}
    if other := [name for name in NOT_FOLLOWED if name in extra]:
        raise ConfigError(
            f"cannot use connection {found.conn_id}: {other[0]} is not supported here. Put the key into keyfile_dict, a path into key_path, or "
            "leave all three out and give the workers credentials of their own."
        )
    if _is_true(extra.get("is_anonymous", False)):
        return "anonymous"
    key, path, project = extra.get("keyfile_dict"), extra.get("key_path") or extra.get("keyfile"), extra.get("project")
    if key is None and (path is None or project is None):
        return None if path is None else str(path)
    try:
        text = Path(str(path)).read_text(encoding="utf-8") if key is None else key
        read = dict(parse_json(text) if isinstance(text, str) else text)
    except (OSError, TypeError, ValueError):
        what = "key_path" if key is None else "keyfile_dict"
        raise ConfigError(
            f"cannot use connection {found.conn_id}: its {what} is not the JSON of a key file. Correct the connection."
        ) from None
    for name in KEYS_OF_A_KEY:
        if isinstance(read.get(name), str):
            mask_secret(read[name])  # Airflow hides known names; it does not know the parts of a key in one text
    return _lend("google-key", json.dumps(read | ({"project_id": project} if project else {})))


def _lend(name: str, text: str) -> str:
    """Return the path of an in-memory file for this process and its children; it has no name on any disk."""
    descriptor = os.memfd_create(name)
    with open(descriptor, "w", encoding="utf-8", closefd=False) as lent:
        lent.write(text)
    return f"/proc/{os.getpid()}/fd/{descriptor}"
