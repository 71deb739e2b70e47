"""`runspend.yaml` as a task sees it, with Airflow connections resolved. The only place that knows Airflow Connections.

Nothing here runs when a DAG file is parsed. What a setting means belongs in the library (`runspend.config`).
The file is found as everywhere else: `$RUNSPEND_CONFIG`, else `runspend.yaml` in the working folder.

In the file `connection:ID` may stand for a tracking server's `uri`, `token`, `username`, `password` or `database`, and for
the mail's `host`, `username` or `password`; `mail.connection: ID` fills in all of the mail at once; `credentials: ID` of a
bill or a store may be an AWS connection (otherwise it is a profile of the AWS configuration, as outside Airflow).
"""

from __future__ import annotations

import configparser
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

from airflow.sdk import Connection
from airflow.sdk.exceptions import AirflowNotFoundException

from runspend.config import ArtifactStore, BillSource, MailSettings, Settings, TrackingServer, load_settings

PREFIX = "connection:"
AWS_FILE = "AWS_SHARED_CREDENTIALS_FILE"


def read_settings() -> Settings:
    """The settings of this night. Raises ConfigError if the file is wrong, AirflowNotFoundException if a connection is missing."""
    settings = load_settings()
    lend_aws_profiles([*settings.billing, *settings.stores])
    tracking = [_resolve_server(server) for server in settings.tracking]
    return settings.model_copy(update={"tracking": tracking, "mail": _resolve_mail(settings.mail)})


def _resolve_server(server: TrackingServer) -> TrackingServer:
    return _replace(server, uri=_address, token=_password, username=_login, password=_password, database=_database_uri)


def _resolve_mail(mail: MailSettings) -> MailSettings:
    mail = _replace(mail, host=lambda c: c.host, username=_login, password=_password)
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
    """The same model with every `connection:ID` replaced by what its reader takes from that connection; validated again."""
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


def _login(found: Connection) -> str | None:
    return found.login


def _password(found: Connection) -> str | None:
    return found.password


def _is_true(value: Any) -> bool:
    return str(value).lower() in ("true", "1", "yes")


def lend_aws_profiles(sources: list[BillSource | ArtifactStore]) -> None:
    """Make each AWS connection named as `credentials` a profile of the same name, for this process and its children.

    The profiles are kept in memory (a file descriptor without a name), next to those of the file they replace.
    """
    profiles = configparser.ConfigParser(default_section="", interpolation=None)
    elsewhere = ("gs://", "abfs://", "abfss://", "az://")  # their credentials are key files and tokens
    for name in sorted({s.credentials for s in sources if isinstance(s.credentials, str) and not (s.uri or "").startswith(elsewhere)}):
        try:
            found = Connection.get(name.removeprefix(PREFIX))
        except AirflowNotFoundException:
            continue  # a profile of the AWS configuration; boto3 says so if it is not
        if found.conn_type == "aws":
            profiles[name] = _aws_profile(name, found)
    if not profiles.sections():
        return
    before = Path(os.environ.get(AWS_FILE, "~/.aws/credentials")).expanduser()
    descriptor = os.memfd_create("aws-profiles")
    with open(descriptor, "w", encoding="utf-8", closefd=False) as lent:
        if before.is_file():
            own = configparser.ConfigParser(default_section="", interpolation=None)
            own.read(before)
            for section in set(own.sections()) - set(profiles.sections()):
                profiles[section] = dict(own[section])
        profiles.write(lent)
    os.environ[AWS_FILE] = f"/proc/{os.getpid()}/fd/{descriptor}"


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
