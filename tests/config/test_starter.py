"""The file that `runspend init` writes is short, loads unchanged, and contains no password."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from runspend.config.settings import BILL_FORMATS, Settings, json_schema, load_settings
from runspend.config.starter import write_starter
from runspend.core.errors import UsageError
from tests.command import run_here


def write(folder: Path, env: dict[str, str] | None = None, *, full: bool = False) -> tuple[Settings, str, list[str]]:
    """Return the loaded settings, the text of the file, and the printed messages."""
    path = folder / "runspend.yaml"
    messages = write_starter(path, full=full, env=env or {}, user_home=folder / "user")
    return load_settings(path, env or {}), path.read_text(encoding="utf-8"), messages


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(
    ("env", "made", "uri"),
    [
        ({}, [], "http://mlflow:5000"),
        ({"MLFLOW_TRACKING_URI": "https://mlflow.example.com"}, ["mlruns/"], "https://mlflow.example.com"),
        ({"MLFLOW_TRACKING_URI": "sqlite:////srv/my files/m.db"}, [], "sqlite:////srv/my files/m.db"),
        ({"MLFLOW_TRACKING_URI": "https://u:canary-secret@m"}, [], "https://u:canary-secret@m"),
        ({}, ["mlruns/", "mlartifacts/"], "{base}/mlruns"),
        ({}, ["mlruns/", "mlflow.db"], "sqlite:///{base}/mlflow.db"),
        ({"MLFLOW_TRACKING_URI": "http://m", "MLFLOW_TRACKING_TOKEN": "canary-secret"}, [], "http://m"),
        ({"MLFLOW_TRACKING_URI": "http://m", "MLFLOW_TRACKING_USERNAME": "u", "MLFLOW_TRACKING_PASSWORD": "canary-secret"}, [], "http://m"),
        ({"AWS_PROFILE": "ml"}, [], "http://mlflow:5000"),
        ({"GOOGLE_APPLICATION_CREDENTIALS": "/k.json"}, [], "http://mlflow:5000"),
    ],
)
def test_the_starter_file_loads_unchanged_and_holds_no_secret(
    tmp_path: Path, env: dict[str, str], made: list[str], uri: str, full: bool
) -> None:
    """For each environment, the short and the full file load and use what was found. They name variables instead of copying their values."""
    for name in made:
        (tmp_path / name).mkdir() if name.endswith("/") else (tmp_path / name).touch()
    settings, text, messages = write(tmp_path, env, full=full)
    assert settings.tracking[0].uri == uri.format(base=tmp_path)
    assert "canary-secret" not in text
    assert not any("canary-secret" in line for line in messages)
    server = settings.tracking[0]
    logins = [s.get_secret_value() for s in (server.token, server.password) if s is not None]
    assert logins == [v for k, v in env.items() if k.endswith(("TOKEN", "PASSWORD"))]
    assert len(text.splitlines()) < 40 or full


def test_init_prints_the_file_the_findings_and_the_next_command(tmp_path: Path) -> None:
    path = str(tmp_path / "runspend.yaml")
    answer = json.loads(run_here("init", "--json", "--config", path).stdout)
    assert (answer["file"], answer["next"]) == (path, f"runspend doctor --config {path}") and answer["notes"]
    lines = run_here("init", "--force", "--config", path).stdout.splitlines()
    assert lines == [f"wrote {path}", *answer["notes"], f"next: {answer['next']}"]


def test_artifacts_next_to_mlflow_become_the_store(tmp_path: Path) -> None:
    """`mlartifacts` is where MLflow's server puts files, and `mlruns` where its client does."""
    (tmp_path / "mlruns").mkdir()
    (tmp_path / "mlartifacts").mkdir()
    for full in (False, True):
        settings, _, _ = write(tmp_path, full=full)
        assert [s.uri for s in settings.stores] == [f"{tmp_path}/mlartifacts"]
        (tmp_path / "runspend.yaml").unlink()


def test_the_cloud_that_is_set_up_here_is_named(tmp_path: Path) -> None:
    """The file names the source of that cloud's export in a comment. Uncommented, the bill is valid."""
    (tmp_path / "user" / ".aws").mkdir(parents=True)
    (tmp_path / "user" / ".aws" / "config").write_text("[profile ml]\n")
    settings, text, messages = write(tmp_path)
    assert "AWS Data Export" in text
    assert any("AWS" in line for line in messages)
    assert settings.billing == []
    (tmp_path / "user" / ".aws" / "config").unlink()
    for env, bill in (({"AWS_PROFILE": "ml"}, ("auto", "s3://")), ({"GOOGLE_APPLICATION_CREDENTIALS": "/k.json"}, ("gcp", "bigquery://"))):
        (tmp_path / "runspend.yaml").unlink()
        _, text, _ = write(tmp_path, env)
        (tmp_path / "on.yaml").write_text(
            re.sub(r"^# (?=billing|  - name: cloud|    (format|uri):)", "", text.partition("# budgets:")[0], flags=re.M), encoding="utf-8"
        )
        (source,) = load_settings(tmp_path / "on.yaml", env).billing
        assert (source.format, str(source.uri)[: len(bill[1])]) == bill


def test_a_file_that_is_there_stays(tmp_path: Path) -> None:
    """Only --force overwrites it."""
    path = tmp_path / "runspend.yaml"
    path.write_text("mine")
    with pytest.raises(UsageError, match=r"it already exists\. Use --force to overwrite it\. Nothing was changed"):
        write_starter(path, env={})
    assert path.read_text() == "mine"
    write_starter(path, env={}, force=True)
    assert "tracking:" in path.read_text()
    with pytest.raises(UsageError, match="it is a folder"):
        write_starter(tmp_path, env={})


def test_the_full_file_names_every_bill_format(tmp_path: Path) -> None:
    _, text, _ = write(tmp_path, full=True)
    (names,) = re.findall(r"^# +# (focus \| .*)$", text, re.M)
    assert sorted(names.split(" | ")) == sorted(BILL_FORMATS)


def test_every_line_of_the_full_file_is_right_when_switched_on(tmp_path: Path) -> None:
    """Uncommented, the file is a valid configuration with every section of the schema."""
    write(tmp_path, full=True)
    path = tmp_path / "runspend.yaml"
    lines = path.read_text(encoding="utf-8").splitlines()
    body = lines[next(i for i, line in enumerate(lines) if line.startswith("home:")) :]
    on = [line if line.startswith("# ---") else re.sub("^# ?", "", line) for line in body]
    path.write_text("\n".join(on), encoding="utf-8")
    env = {
        "MLFLOW_TRACKING_TOKEN": "t-canary",
        "MLFLOW_WRITE_TOKEN": "w-canary",
        "MLFLOW_DB_PASSWORD": "p-canary",
        "SMTP_PASSWORD": "s-canary",
        "SLACK_WEBHOOK": "https://hooks.slack.com/services/canary",
        "PAGERDUTY_KEY": "canary",
        "PUBLISH_DB_PASSWORD": "d-canary",
    }
    settings = load_settings(path, env)
    for section in (settings.budgets, settings.retention, settings.scope, settings.billing, settings.stores, settings.tracking[0].token):
        assert section
    named = set(yaml.safe_load(path.read_text(encoding="utf-8")))
    assert named == set(json_schema()["properties"]) - {"artifacts"}
