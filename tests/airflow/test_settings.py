"""`connection:ID` in `runspend.yaml` is an Airflow connection that is resolved when a task runs."""

from __future__ import annotations

import configparser
import json
import os
from pathlib import Path
from typing import Any

import pytest

from runspend.config.settings import redact, show_settings


@pytest.fixture
def read(dag_bag: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that reads the settings as a task does. Its arguments are the YAML and the existing connections."""
    from runspend.airflow.connections import read_settings

    def read(text: str, **connections: dict[str, Any]) -> Any:
        file = tmp_path / "runspend.yaml"
        file.write_text(text, encoding="utf-8")
        monkeypatch.setenv("RUNSPEND_CONFIG", str(file))
        for name, values in connections.items():
            monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps(values))
        return read_settings()

    return read


def test_connections_give_address_token_and_database(read: Any) -> None:
    """Address, token and database come from connections, and secrets stay hidden."""
    settings = read(
        'tracking: [{name: a, uri: "connection:mlflow", token: "connection:mlflow", database: "connection:mlflow_db"}]',
        mlflow={"conn_type": "http", "host": "mlflow.example", "schema": "https", "port": 8443, "password": "token-one"},
        mlflow_db={"conn_type": "postgres", "host": "db", "port": 5432, "login": "ro", "password": "p@ss/word", "schema": "mlflow"},
    )
    server = settings.tracking[0]
    assert server.uri == "https://mlflow.example:8443"
    assert server.token.get_secret_value() == "token-one"
    assert server.database.get_secret_value() == "postgresql://ro:p%40ss%2Fword@db:5432/mlflow"
    assert "token-one" not in repr(settings) and "p%40ss" not in repr(settings)


def test_target_of_publish(read: Any) -> None:
    """A connection provides the address of a PostgreSQL target. Its other keys stay as in the file."""
    settings = read(
        'publish: [{name: bi, kind: postgres, uri: "connection:bi", schema: costs}, {name: b, kind: duckdb, file: b.duckdb}]',
        bi={"conn_type": "postgres", "host": "db", "login": "rs", "password": "canary/bi", "schema": "dwh"},
    )
    target, other = settings.publish
    assert (target.uri.get_secret_value(), target.schema_name) == ("postgresql://rs:canary%2Fbi@db/dwh", "costs")
    assert other.file.name == "b.duckdb" and "canary" not in repr(settings)


def test_one_connection_gives_the_whole_mail_server(read: Any) -> None:
    """The connection provides host, port, login and TLS. Other keys stay as in the file."""
    settings = read(
        "mail: {backend: smtp, connection: smtp_out, operators: [a@example.com], from: Costs <costs@example.com>}",
        smtp_out={
            "conn_type": "smtp",
            "host": "mail.example",
            "port": 2525,
            "login": "me",
            "password": "secret-two",
            "extra": {"disable_ssl": True},
        },
    )
    mail = settings.mail
    assert (mail.host, mail.port, mail.username, mail.password.get_secret_value(), mail.tls) == (
        "mail.example",
        2525,
        "me",
        "secret-two",
        "starttls",
    )
    assert (mail.backend, mail.operators, mail.from_) == ("smtp", ["a@example.com"], "Costs <costs@example.com>")


def test_addresses_of_webhook_and_heartbeat_stay_secret(read: Any) -> None:
    """A secret address is a connection's password, or its host with the password as the path. Runspend never shows it."""
    settings = read(
        "mail: {webhook: {url: 'connection:chat'}, channels: [{kind: opsgenie, key: 'connection:pager'}, {kind: teams, url: 'connection:chat'}], "
        "heartbeat: 'connection:watch', backend: smtp, connection: smtp_out}",
        pager={"conn_type": "opsgenie", "password": "canary-three"},
        chat={"conn_type": "slackwebhook", "host": "https://hooks.slack.example/services/", "password": "T0/B0/canary-one"},
        watch={"conn_type": "http", "password": "https://hc.example/canary-two"},
        smtp_out={"conn_type": "smtp", "host": "mail.example"},
    )
    mail = settings.mail
    assert mail.webhook.url.get_secret_value() == "https://hooks.slack.example/services/T0/B0/canary-one"
    assert [mail.channels[0].secret_key, mail.channels[1].address] == [
        "canary-three",
        "https://hooks.slack.example/services/T0/B0/canary-one",
    ]
    assert mail.heartbeat.get_secret_value() == "https://hc.example/canary-two"
    assert "canary" not in repr(settings) + show_settings(settings)
    assert "canary" not in redact("posting to /services/T0/B0/canary-one and hc.example/canary-two failed", settings)


def test_aws_connection_becomes_a_profile_in_memory(read: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """boto3 finds the connection's keys as a profile with its id. The user's own profiles still work, and nothing is written to disk."""
    own = tmp_path / "credentials"
    own.write_text("[mine]\naws_access_key_id = own\naws_secret_access_key = own\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(own))
    text = 'billing: [{name: b, uri: "s3://bills/", credentials: store}, {name: c, uri: "s3://other/", credentials: mine}]'
    read(text, store={"conn_type": "aws", "login": "AKIA", "password": "key%three", "extra": {"region_name": "eu-west-1"}})
    profiles = configparser.ConfigParser(interpolation=None)
    profiles.read(os.environ["AWS_SHARED_CREDENTIALS_FILE"])
    assert dict(profiles["store"]) == {"aws_access_key_id": "AKIA", "aws_secret_access_key": "key%three", "region": "eu-west-1"}
    assert dict(profiles["mine"]) == {"aws_access_key_id": "own", "aws_secret_access_key": "own"}
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and "key%three" in file.read_text(errors="replace")]

    import boto3

    assert boto3.session.Session(profile_name="store").get_credentials().secret_key == "key%three"


def test_only_a_profile_is_looked_up_as_a_connection(read: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Key files and SAS tokens are not ids of connections, so Runspend does not send them to the secrets backend."""
    from runspend.airflow import connections

    asked: list[str] = []

    class Asked:
        @staticmethod
        def get(name: str) -> None:
            asked.append(name)
            raise connections.AirflowNotFoundException(name)

    monkeypatch.setattr(connections, "Connection", Asked)
    places = {
        "gs://a/": "key.json",
        "bigquery://p/d/t": "key.json",
        "az://b/": "anonymous",
        "abfss://c@acme.dfs.core.windows.net/": "sv=1&sig=secret",
        "s3://d/": "profile",
    }
    bills = [f'{{name: n{i}, uri: "{uri}", credentials: "{given}"}}' for i, (uri, given) in enumerate(places.items())]
    read(f"warehouse: {{uri: bigquery://p/d, credentials: key.json}}\nbilling: [{', '.join(bills)}]")
    assert asked == ["profile"]


KEY = {
    "type": "service_account",
    "project_id": "home",
    "private_key_id": "id-of-the-key",
    "private_key": "-----BEGIN PRIVATE KEY-----\nkey-four\n-----END PRIVATE KEY-----\n",
    "client_email": "runspend@home.iam.gserviceaccount.com",
    "token_uri": "https://oauth2.googleapis.com/token",
}
PREFIX = "extra__google_cloud_platform__"
GOOGLE_PLACES = """
warehouse: {uri: "bigquery://acme/costs", credentials: "connection:gcp"}
billing:
  - {name: table, format: gcp, uri: "bigquery://acme/exports/table", credentials: "connection:gcp"}
  - {name: files, uri: "gs://bills/", credentials: "connection:gcp"}
"""


def google(**extra: Any) -> dict[str, Any]:
    """Return a Google connection with these extras."""
    return {"conn_type": "google_cloud_platform", "extra": extra}


@pytest.mark.parametrize("form", ["object", "text", "old spelling"])
def test_google_connection_becomes_a_key_file_in_memory(read: Any, tmp_path: Path, form: str) -> None:
    """Google's warehouse and bills get the key as a file in memory. Airflow's log hides the key from then on."""
    from airflow.sdk.log import redact

    secret = f"-----BEGIN PRIVATE KEY-----\nkey of the form {form}\n-----END PRIVATE KEY-----\n"  # one key per form, because Airflow never unhides a secret
    key = KEY | {"private_key": secret}
    extras = {
        "object": {"keyfile_dict": key},
        "text": {"keyfile_dict": json.dumps(key)},
        "old spelling": {f"{PREFIX}keyfile_dict": json.dumps(key), f"{PREFIX}project": ""},
    }
    settings = read(GOOGLE_PLACES, gcp=google(**extras[form]))
    for place in (settings.warehouse, *settings.billing):
        assert place.credentials.startswith("/proc/") and json.loads(Path(place.credentials).read_text()) == key
    assert [source.name for source in settings.billing] == ["table", "files"]
    assert "key of the form" not in repr(settings)
    assert "key of the form" not in redact(f"cannot use {secret}")
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and "key of the form" in file.read_text(errors="replace")]


def test_a_lent_google_key_is_read_by_those_who_need_it(read: Any) -> None:
    """Google's own libraries for BigQuery and gs:// can open the file, although it has no name."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa
    from google.oauth2.service_account import Credentials

    from runspend.storage.google_clients import storage_credentials

    pem = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    lent = read(GOOGLE_PLACES, gcp=google(keyfile_dict=KEY | {"private_key": pem.decode()}, project="acme")).warehouse.credentials
    assert Credentials.from_service_account_file(lent).project_id == "acme"
    assert storage_credentials(lent, setting="billing[]").project_id == "acme"


def test_a_google_connection_may_have_a_path_or_no_key(read: Any, tmp_path: Path) -> None:
    """A path stays a path. Without a key, workers use their own credentials. The connection's own project replaces the key's."""
    file = tmp_path / "key.json"
    file.write_text(json.dumps(KEY))
    assert read(GOOGLE_PLACES, gcp=google(key_path=str(file))).warehouse.credentials == str(file)
    assert read(GOOGLE_PLACES, gcp=google(**{f"{PREFIX}key_path": str(file)})).billing[0].credentials == str(file)
    assert read(GOOGLE_PLACES, gcp=google(project="acme")).warehouse.credentials is None
    assert read(GOOGLE_PLACES, gcp=google(is_anonymous=True)).warehouse.credentials == "anonymous"
    lent = read(GOOGLE_PLACES, gcp=google(key_path=str(file), project="other")).billing[0].credentials
    assert json.loads(Path(lent).read_text()) == KEY | {"project_id": "other"}


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"keyfile_dict": "not json"}, "its keyfile_dict is not the JSON of a key file"),
        ({"keyfile_dict": "[1]"}, "its keyfile_dict is not the JSON of a key file"),
        ({"key_path": "/nowhere/key.json", "project": "other"}, "its key_path is not the JSON of a key file"),
        ({"key_path": "/nowhere/key.json", "impersonation_chain": "a@b"}, "impersonation_chain needs Google.s provider"),
        ({f"{PREFIX}key_secret_name": "s"}, "key_secret_name needs Google.s provider"),
    ],
)
def test_google_connection_that_cannot_be_used(read: Any, extra: dict[str, Any], words: str) -> None:
    """The error is a message. Runspend never falls back to the workers' own credentials, because they may belong to someone else."""
    from runspend.core.errors import ConfigError

    with pytest.raises(ConfigError, match=f"cannot use connection gcp: .*{words}"):
        read(GOOGLE_PLACES, gcp=google(**extra))


def test_missing_connection_is_named(read: Any) -> None:
    """The error is Airflow's own."""
    from airflow.sdk.exceptions import AirflowNotFoundException

    with pytest.raises(AirflowNotFoundException, match="nowhere"):
        read('tracking: [{name: a, uri: "http://127.0.0.1:1", token: "connection:nowhere"}]')
