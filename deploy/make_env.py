"""Write the `.env` of docker-compose.yaml: fresh secrets for every variable it asks for. Never touches one that exists.

python deploy/make_env.py .env
"""

from __future__ import annotations

import base64
import os
import secrets
import sys
from pathlib import Path


def make_env() -> str:
    """The text of a new `.env`."""
    fernet = base64.urlsafe_b64encode(os.urandom(32)).decode()
    values = {
        "AIRFLOW_ADMIN_PASSWORD": secrets.token_hex(12),
        "AIRFLOW_DB_PASSWORD": secrets.token_hex(24),
        "AIRFLOW_FERNET_KEY": fernet,
        "AIRFLOW_JWT_SECRET": secrets.token_hex(32),
        "AIRFLOW_SECRET_KEY": secrets.token_hex(32),
        "MLFLOW_DB_PASSWORD": secrets.token_hex(24),
        "MLFLOW_READER_PASSWORD": secrets.token_hex(24),
        "POSTGRES_PASSWORD": secrets.token_hex(24),
        "S3_ACCESS_KEY": secrets.token_hex(10),
        "S3_SECRET_KEY": secrets.token_hex(24),
    }
    return "".join(f"{name}={value}\n" for name, value in values.items())


def main(target: Path) -> None:
    """Create the file for its owner only; fails if it is there."""
    with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(make_env())
    print(f"wrote {target} with new secrets; the password of Airflow's user admin is AIRFLOW_ADMIN_PASSWORD in it")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
