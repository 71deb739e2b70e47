"""Writes the `runspend.yaml` of `runspend init`: under 40 lines with values found on this machine, or every key with a comment.

It reads the environment and files, but contacts no server. It never copies a secret: a token in the environment becomes
`${MLFLOW_TRACKING_TOKEN}`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

from runspend.core.errors import UsageError
from runspend.core.redaction import redact_uri


def write_starter(
    path: Path, *, full: bool = False, force: bool = False, env: Mapping[str, str] | None = None, user_home: Path | None = None
) -> list[str]:
    """Write the file, and return a note about each finding. Raises UsageError if the file exists and `force` is not set."""
    if path.is_dir():
        raise UsageError(f"cannot write {path}: it is a folder. Give --config the name of a file in it.")
    if path.exists() and not force:
        raise UsageError(f"cannot write {path}: it already exists. Use --force to overwrite it. Nothing was changed.")
    found = look_around(path.absolute().parent, os.environ if env is None else env, user_home or Path.home())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(full_text(found) if full else short_text(found), encoding="utf-8")
    return found.notes


class Findings:
    """Values for the file that were found on this machine, and notes about them."""

    def __init__(self) -> None:
        self.tracking = "http://mlflow:5000"
        self.tracking_is_found = False
        self.login: list[str] = []
        self.artifacts: str | None = None
        self.bill_format = "auto             # found by the header: FOCUS, AWS CUR, Google Cloud, Azure, Databricks"
        self.bill_hint = "s3://BUCKET/PREFIX/    # or a folder of files"
        self.notes: list[str] = []


def look_around(folder: Path, env: Mapping[str, str], user_home: Path) -> Findings:
    """Return what is found on this machine: MLFLOW_TRACKING_URI, ./mlruns, ./mlflow.db, and settings of AWS and gcloud."""
    found = Findings()
    _look_for_mlflow(found, folder, env)
    if (
        env.get("AWS_PROFILE")
        or env.get("AWS_ACCESS_KEY_ID")
        or (user_home / ".aws" / "config").is_file()
        or (user_home / ".aws" / "credentials").is_file()
    ):
        found.bill_hint = "s3://BUCKET/PREFIX/EXPORT/    # an AWS Data Export: CUR 2.0 with resource ids"
        found.notes.append(
            "found AWS settings: export CUR 2.0 with resource ids by AWS Data Exports, and put its s3:// prefix under billing"
        )
    elif env.get("GOOGLE_APPLICATION_CREDENTIALS") or (user_home / ".config" / "gcloud").is_dir():
        found.bill_format = "gcp              # the detailed usage cost export"
        found.bill_hint = "bigquery://PROJECT/DATASET/TABLE"
        found.notes.append("found gcloud settings: turn on the detailed usage cost export to BigQuery, and put its table under billing")
    return found


def _look_for_mlflow(found: Findings, folder: Path, env: Mapping[str, str]) -> None:
    uri = env.get("MLFLOW_TRACKING_URI", "")
    if uri:
        # A password in the URI must not be copied into the file, so the file names the variable instead.
        found.tracking = uri if redact_uri(uri) == uri else "${MLFLOW_TRACKING_URI}"
        found.notes.append(f"found MLFLOW_TRACKING_URI={redact_uri(uri)}")
    elif (folder / "mlflow.db").is_file():
        found.tracking = "sqlite:///mlflow.db"
        found.notes.append("found ./mlflow.db")
    elif (folder / "mlruns").is_dir():
        found.tracking = "./mlruns"
        found.notes.append("found ./mlruns")
    else:
        found.notes.append("found no MLflow: set tracking[0].uri")
        return
    found.tracking_is_found = True
    if env.get("MLFLOW_TRACKING_TOKEN"):
        found.login = ["token: ${MLFLOW_TRACKING_TOKEN}"]
    elif env.get("MLFLOW_TRACKING_USERNAME") and env.get("MLFLOW_TRACKING_PASSWORD"):
        found.login = ["username: ${MLFLOW_TRACKING_USERNAME}", "password: ${MLFLOW_TRACKING_PASSWORD}"]
    for name in ("mlartifacts", "mlruns"):
        if (folder / name).is_dir() and found.artifacts is None:
            found.artifacts = f"./{name}"


def quote_value(text: str) -> str:
    """Return a value for YAML: plain if that is safe, otherwise in double quotes."""
    return (
        text
        if re.fullmatch(r"[A-Za-z0-9./$][A-Za-z0-9_./${}:@+-]*", text) and not text.endswith(":")
        else json.dumps(text, ensure_ascii=False)
    )


def short_text(found: Findings) -> str:
    """Return the short file. It contains only basic keys; all others have defaults."""
    hint = "" if found.tracking_is_found else "    # your MLflow: http://…, sqlite:///mlflow.db, ./mlruns"
    server = [f"  - name: mlflow\n    uri: {quote_value(found.tracking)}{hint}", *(f"    {line}" for line in found.login)]
    stores = [
        "stores:                        # the only places where Runspend counts files",
        f"  - uri: {found.artifacts or 's3://BUCKET/mlflow/'}",
    ]
    if found.artifacts is None:
        stores = [f"# {line}" for line in stores]
    return _SHORT.format(server="\n".join(server), stores="\n".join(stores), bill=found.bill_hint, bill_format=found.bill_format)


_SHORT = """\
# Runspend. Paths are relative to this file. ${{VAR}} reads the environment. Every key: runspend init --full
home: .runspend                # folder of warehouse, reports and mail
currency: USD                  # of reports and budgets

tracking:
{server}

{stores}

# billing:                     # without a bill, reports show runs and bytes, but no costs
#   - name: cloud
#     format: {bill_format}
#     uri: {bill}

# budgets:
#   - name: ml-platform
#     amount: 30000
#     every: month
#     notify: [ml-platform@example.com]

mail:
  backend: file                # .eml files under home; smtp in production
"""


def full_text(found: Findings) -> str:
    """Return the file with every key. Only basic keys are active; all others are commented out."""
    text = (Path(__file__).with_name("starter.yaml")).read_text(encoding="utf-8")
    login = "".join(f"    {line}\n" for line in found.login)
    text = text.replace("    uri: http://mlflow:5000\n", f"    uri: {quote_value(found.tracking)}\n{login}", 1)
    if found.artifacts:
        text = text.replace("# stores:\n#   - uri: s3://acme-mlflow/\n", f"stores:\n  - uri: {found.artifacts}\n", 1)
    return text
