"""Reads `runspend.yaml` for tasks, and replaces Airflow connections in it by their values.

Nothing here runs when a DAG file is parsed. `runspend.config.settings` defines the settings. The file is `$RUNSPEND_CONFIG`, otherwise the
option `config`, otherwise `runspend.yaml` in the working folder. These values may be connections:

- `connection:ID` for a tracking server's `uri`, `token`, `username`, `password` or `database`, and for the `uri` of a PostgreSQL target.
- `connection:ID` in `mail` for `host`, `username`, `password`, `webhook.url`, `channels[].url`, `channels[].key` or `heartbeat`.
- `mail.connection: ID` for all settings of the mail server.
- `credentials: ID` of a bill, a store or a warehouse in S3, and `delete_credentials: ID` of a store, for an AWS connection. If there is no
  such connection, ID is a profile of the AWS configuration, as outside Airflow.
- `credentials: connection:ID` of a warehouse or bill in BigQuery, or of a bill or store in gs://, for a Google connection.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from airflow.sdk import Connection
from airflow.sdk.exceptions import AirflowNotFoundException

from runspend.airflow.aws import lend_profiles
from runspend.airflow.google import lend_credentials
from runspend.airflow.options import config_path
from runspend.config.publish import PostgresTarget
from runspend.config.settings import MailSettings, Settings, TrackingServer, load_settings

PREFIX = "connection:"
GOOGLE = ("gs://", "bigquery://")  # addresses whose credentials are files
ELSEWHERE = (*GOOGLE, "abfs://", "abfss://", "az://", "wasbs://")  # addresses that do not use AWS profiles
CREDENTIALS = ("credentials", "delete_credentials")


def read_settings() -> Settings:
    """Return the settings. Raises ConfigError if the file is wrong, AirflowNotFoundException if a connection is missing."""
    settings = load_settings(config_path())
    lend_profiles(_aws_connections(settings))
    resolved = {
        "tracking": [_resolve_server(server) for server in settings.tracking],
        "billing": [_resolve_google(source) for source in settings.billing],
        "stores": [_resolve_google(store) for store in settings.stores],
        "warehouse": _resolve_google(settings.warehouse),
        "mail": _resolve_mail(settings.mail),
        "publish": [_replace(t, uri=_database_uri) if isinstance(t, PostgresTarget) else t for t in settings.publish],
    }
    return settings.model_copy(update=resolved)


def read_mail_settings() -> Settings:
    """Return the settings with only the connections of `mail` resolved, so that mail about a failed connection can still be sent."""
    settings = load_settings(config_path())
    return settings.model_copy(update={"mail": _resolve_mail(settings.mail)})


def _aws_connections(settings: Settings) -> Iterator[tuple[str, Connection]]:
    """Yield each profile in runspend.yaml that is an AWS connection, with its name. boto3 reports profiles that do not exist."""
    places: list[Any] = [*settings.billing, *settings.stores, settings.warehouse]
    named = [getattr(place, key, None) for place in places if not (place.uri or "").startswith(ELSEWHERE) for key in CREDENTIALS]
    for name in sorted({name for name in named if isinstance(name, str)}):
        try:
            found = Connection.get(name.removeprefix(PREFIX))
        except AirflowNotFoundException:
            continue
        if found.conn_type == "aws":
            yield name, found


def _resolve_server(server: TrackingServer) -> TrackingServer:
    return _replace(server, uri=_address, token=_password, username=_login, password=_password, database=_database_uri)


def _resolve_google(place: Any) -> Any:
    """Return a bill, store or warehouse with its Google connections replaced by credentials."""
    keys = [key for key in CREDENTIALS if hasattr(place, key)]
    return _replace(place, **dict.fromkeys(keys, lend_credentials)) if (place.uri or "").startswith(GOOGLE) else place


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
    """Return the model with every `connection:ID` replaced by a value from that connection. The result is validated again.

    `readers`: for each key, a function that returns the value from a connection.
    """
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
    """Return the address of a webhook or heartbeat.

    The password is the whole address, or the path of an address whose host is in `host`, as in connections of Slack's provider.
    """
    secret = found.password or ""
    return secret if "://" in secret else f"{(found.host or '').rstrip('/')}/{secret}"


def _login(found: Connection) -> str | None:
    return found.login


def _password(found: Connection) -> str | None:
    return found.password


def _is_true(value: Any) -> bool:
    return str(value).lower() in ("true", "1", "yes")
