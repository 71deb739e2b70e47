"""The steps of docker-compose's `init` after `airflow db migrate`: Airflow's user, the two buckets, and the database of published costs.

It may run again at any time.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import boto3
import psycopg2
from psycopg2 import sql

BUCKETS = ("mlflow", "bills")
# `runspend` owns the schema that `runspend publish` fills. `grafana` can read it and nothing else, for a minute per query.
COSTS = """
create schema if not exists runspend authorization runspend;
revoke all on schema public from public;
grant usage on schema runspend to grafana;
grant select on all tables in schema runspend to grafana;
alter default privileges for role runspend in schema runspend grant select on tables to grafana;
"""
RIGHTS = """
revoke all on database costs from public;
grant connect on database costs to grafana;
alter role grafana set default_transaction_read_only = on;
alter role grafana set statement_timeout = '60s';
"""


def write_password() -> None:
    """Write the password file of Airflow's simple login, which must be able to open it for writing."""
    file = Path(os.environ["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE"])
    with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as out:
        json.dump({"admin": os.environ["AIRFLOW_ADMIN_PASSWORD"]}, out)


def make_buckets() -> None:
    """Create one bucket for MLflow's artifacts, and one for the bills that Runspend reads."""
    s3 = boto3.client("s3", endpoint_url=os.environ["S3_ENDPOINT"])
    there = {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}
    for name in BUCKETS:
        if name not in there:
            s3.create_bucket(Bucket=name)


def make_costs_database(server: str, passwords: Mapping[str, str]) -> None:
    """Create the database `costs` and its two logins, and set their passwords, as an administrator of the server."""
    with closing(psycopg2.connect(server)) as connection:
        connection.autocommit = True  # a database cannot be created in a transaction
        with connection.cursor() as cursor:
            for login, password in passwords.items():
                cursor.execute("select 1 from pg_roles where rolname = %s", [login])
                verb = sql.SQL("alter" if cursor.fetchone() else "create")
                cursor.execute(sql.SQL("{} role {} login password {}").format(verb, sql.Identifier(login), sql.Literal(password)))
            cursor.execute("select 1 from pg_database where datname = 'costs'")
            if not cursor.fetchone():
                cursor.execute("create database costs owner runspend")
            cursor.execute(RIGHTS)
    with closing(psycopg2.connect(server, dbname="costs")) as connection, connection, connection.cursor() as cursor:
        cursor.execute(COSTS)


if __name__ == "__main__":
    write_password()
    make_buckets()
    make_costs_database(
        os.environ["POSTGRES_URI"],
        {"runspend": os.environ["COSTS_DB_PASSWORD"], "grafana": os.environ["GRAFANA_DB_PASSWORD"]},
    )
