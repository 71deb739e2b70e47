"""Write the `.env` of docker-compose.yaml, with fresh secrets for all its variables. Existing lines stay as they are.

Usage: python deploy/make_env.py .env
"""

from __future__ import annotations

import base64
import os
import secrets
import shutil
import subprocess
import sys
from pathlib import Path

# Bytes of each secret. `make up` adds the names that an older .env lacks.
SIZES = {
    "AIRFLOW_ADMIN_PASSWORD": 12,
    "AIRFLOW_DB_PASSWORD": 24,
    "AIRFLOW_FERNET_KEY": 32,
    "AIRFLOW_JWT_SECRET": 32,
    "AIRFLOW_SECRET_KEY": 32,
    "COSTS_DB_PASSWORD": 24,
    "GRAFANA_ADMIN_PASSWORD": 12,
    "GRAFANA_DB_PASSWORD": 24,
    "MLFLOW_DB_PASSWORD": 24,
    "MLFLOW_READER_PASSWORD": 24,
    "POSTGRES_PASSWORD": 24,
    "S3_ACCESS_KEY": 10,
    "S3_SECRET_KEY": 24,
    "S3_MLFLOW_ACCESS_KEY": 10,
    "S3_MLFLOW_SECRET_KEY": 24,
    "S3_READER_ACCESS_KEY": 10,
    "S3_READER_SECRET_KEY": 24,
}
# PostgreSQL's volume was made with these secrets. New ones could neither open the databases nor decrypt Airflow's values.
KEPT_BY_VOLUMES = ("POSTGRES_PASSWORD", "AIRFLOW_DB_PASSWORD", "AIRFLOW_FERNET_KEY", "MLFLOW_DB_PASSWORD", "MLFLOW_READER_PASSWORD")


def main(target: Path) -> int:
    """Create the file for its owner only, or add missing names. Returns the exit code."""
    before = target.read_text(encoding="utf-8") if target.exists() else ""
    known = {line.partition("=")[0].strip().removeprefix("export ").strip() for line in before.splitlines()}
    missing = [name for name in SIZES if name not in known]
    if not missing:
        return 0
    kept = [name for name in KEPT_BY_VOLUMES if name in missing]
    try:
        volumes = volumes_of_the_stack() if kept else []
    except RuntimeError as error:
        print(
            f"cannot write {target}: {', '.join(kept)} would be new, and Docker does not say whether this stack has volumes that were made "
            f"with other passwords ({error}). Start Docker, or run this as a user who may use it. Nothing was changed.",
            file=sys.stderr,
        )
        return 2
    if volumes:
        print(
            f"cannot write {target}: {', '.join(kept)} would be new, but the volumes of this stack were made with other passwords "
            f"({', '.join(volumes)}). Put the lost .env back (`make backup` keeps a copy in each backup), or delete all data of the stack: "
            f"docker volume rm {' '.join(volumes)}. Nothing was changed.",
            file=sys.stderr,
        )
        return 2
    separator = "" if not before or before.endswith("\n") else "\n"
    write_whole(target, before + separator + "".join(f"{name}={new_secret(name)}\n" for name in missing))
    if before:
        print(f"added to {target}: {', '.join(missing)}")
    else:
        print(f"wrote {target} with new secrets; the passwords of the user admin are in it: AIRFLOW_ADMIN_PASSWORD, GRAFANA_ADMIN_PASSWORD")
    return 0


def new_secret(name: str) -> str:
    """Return a new random secret: base64 for Airflow's Fernet key, otherwise hexadecimal, which no file format quotes."""
    if name == "AIRFLOW_FERNET_KEY":
        return base64.urlsafe_b64encode(os.urandom(SIZES[name])).decode()
    return secrets.token_hex(SIZES[name])


def volumes_of_the_stack() -> list[str]:
    """Return the volumes of this Compose project in Docker; none if Docker is not installed, since then nothing ever ran here.

    Raises RuntimeError with Docker's message if Docker is installed but does not answer: then the volumes are unknown.
    """
    if shutil.which("docker") is None:
        return []
    project = os.environ.get("COMPOSE_PROJECT_NAME") or "runspend"
    try:
        done = subprocess.run(
            ["docker", "volume", "ls", "--quiet", "--filter", f"label=com.docker.compose.project={project}"],
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError as error:
        raise RuntimeError(str(error)) from error
    if done.returncode:
        raise RuntimeError(done.stderr.strip() or f"docker ended with {done.returncode}")
    return done.stdout.split()


def write_whole(target: Path, text: str) -> None:
    """Replace the file in one step. If the process is killed meanwhile, the old file stays."""
    new = target.with_name(f"{target.name}.new")
    new.unlink(missing_ok=True)
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.replace(target)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
