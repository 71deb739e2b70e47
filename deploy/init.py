"""The steps of docker-compose's `init` after `airflow db migrate`: Airflow's user, and the two buckets. It may run again at any time."""

from __future__ import annotations

import json
import os
from pathlib import Path

import boto3

BUCKETS = ("mlflow", "bills")


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


if __name__ == "__main__":
    write_password()
    make_buckets()
