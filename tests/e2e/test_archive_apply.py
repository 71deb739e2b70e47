"""From a policy to the archive and back on a real MLflow, by commands: announced, due a month later, applied, verified and restored."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from runspend import pipeline
from runspend.actions.archive.items import NOTE_NAME
from runspend.config.settings import Settings
from runspend.pipeline import archive_planning as archiving
from runspend.warehouse.factory import open_warehouse
from runspend.warehouse.records import Records
from tests.command import run_here, run_process
from tests.e2e.test_archive_night import planned, read, write_mlflow
from tests.servers.mlflow_client import mlflow_client
from tests.servers.smtp import smtp_server
from tests.settings_builder import read_settings, smtp_mail

NOW = datetime.now(timezone.utc)  # Runspend never acts on a future notice, so the notice is forty days old instead


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def finish_models(uri: str, ids: dict[str, str]) -> None:
    """Finish the models, because the archive does not touch a model that is still being logged."""
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModelStatus

    for name in ("m-base", "m-best", "m-other"):
        MlflowClient(tracking_uri=uri, registry_uri=uri).finalize_logged_model(ids[name], LoggedModelStatus.READY)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Settings, dict[str, str], Path]]:
    """A world whose owners got a notice forty days ago, with a plan that was checked several times since."""
    folder = tmp_path_factory.mktemp("apply") / "world"
    folder.mkdir()
    ids = write_mlflow(folder)
    finish_models(f"sqlite:///{folder}/mlflow.db", ids)
    (folder / "archive").mkdir()
    with smtp_server() as server, pytest.MonkeyPatch.context() as patch:
        patch.setattr(archiving, "OTHER_TIME", timedelta(days=100_000))
        data: dict[str, Any] = {
            "home": "home", "tracking": [{"name": "prod", "uri": f"sqlite:///{folder}/mlflow.db"}],
            "stores": [{"uri": "artifacts", "delete_credentials": "local"}, {"uri": "archive", "measure": "none"}], "archive": {"to": "archive"},
            "retention": [{"name": "old", "select": {"unused_for": "90d", "kind": ["run", "model"]}, "action": "archive"}],
            "mail": smtp_mail(server.port, operators=["oncall@acme.com"]),
        }  # fmt: skip
        settings = read_settings(folder, data)
        read(settings, NOW - timedelta(days=40))
        assert pipeline.archive_notify(settings, now=NOW - timedelta(days=40)).exit_code == 0
        for days in (30, 20, 10):
            pipeline.archive_plan(settings, now=NOW - timedelta(days=days))
        read(settings, NOW)
        shutil.copytree(folder, folder.with_name("as announced"))
        yield settings, ids, folder


@pytest.fixture
def announced(world: tuple[Settings, dict[str, str], Path]) -> tuple[Settings, dict[str, str], Path]:
    """The world in its original state, in the same place."""
    folder = world[2]
    for name in ("home", "artifacts", "archive"):
        shutil.rmtree(folder / name)
    shutil.copytree(folder.with_name("as announced"), folder, dirs_exist_ok=True)  # the database is the same file, which MLflow has open
    return world


def command(settings: Settings, *arguments: str, run: Callable[..., subprocess.CompletedProcess[str]] = run_here) -> tuple[int, Any]:
    """Run a command of `runspend archive`. Return its exit code and its JSON."""
    done = run("archive", *arguments, "--config", str(settings.path), "--json", code=None)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_due_runs_are_archived_and_can_be_restored(announced: tuple[Settings, dict[str, str], Path]) -> None:
    settings, ids, folder = announced
    before = files(folder / "artifacts")
    outcome = pipeline.archive_apply(settings, now=NOW)
    assert outcome.exit_code == 0, outcome.problems
    assert len(outcome.changed) == 2 and all(line.startswith("archived ") for line in outcome.changed), (outcome.changed, outcome.notes)
    after = files(folder / "artifacts")
    gone = {name for name in before if name not in after}
    free = Path(urlsplit(f"{folder}/artifacts/1/{ids['free']}/artifacts").path)
    assert gone == {f"1/{ids['free']}/artifacts/model/weights.bin", f"1/models/{ids['m-other']}/artifacts/model/weights.bin"}
    assert (free / NOTE_NAME).read_text().startswith("Archived by Runspend.")
    found = planned(settings, ids, NOW)
    assert {name for name, state in found.items() if state == "archived"} == {"free", "m-other"}
    with open_warehouse(settings).reader() as reader:
        rows = reader.query("select key, state from archive_objects").to_pylist()
    assert rows == [{"key": "model/weights.bin", "state": "deleted"}] * 2

    assert pipeline.archive_apply(settings, now=NOW).changed == []
    assert files(folder / "artifacts") == after
    code, printed = command(settings, "verify")
    assert code == 0 and "2 archives, 2 objects" in printed["notes"][0]
    assert len(pipeline.archive_verify_monthly(settings, now=datetime.now(timezone.utc)).unchanged) == 1  # this month is already checked
    assert "2 archives, 2 objects" in pipeline.archive_verify_monthly(settings, now=NOW + timedelta(days=32)).notes[0]
    code, printed = command(settings, "verify", "--full", "--yes")
    assert code == 0 and printed["notes"][0].endswith("2 objects read: each one equals what was archived")
    code, printed = command(settings, "restore", ids["free"], "--to", str(folder / "back"))
    assert (
        code == 0
        and printed["objects"] == 1
        and files(folder / "back") == {"model/weights.bin": before[f"1/{ids['free']}/artifacts/model/weights.bin"]}
    )
    assert command(settings, "restore", ids["free"])[0] == 0
    pipeline.archive_plan(settings, now=NOW)
    assert planned(settings, ids, NOW)["free"].startswith("restored on ")  # the folder has one file, as it had with the note
    assert command(settings, "restore", ids["trained"])[0] == 0  # the model is in an archive of the run that made it
    assert files(folder / "artifacts") == before


def test_registrations_and_tags_made_in_mlflow_on_the_last_day_protect(announced: tuple[Settings, dict[str, str], Path]) -> None:
    """The run is registered or tagged after everything was read. MLflow's answer right before the deletes shows this."""
    settings, ids, folder = announced
    before = files(folder / "artifacts")
    with mlflow_client(settings.tracking[0].uri) as client:
        client.create_model_version("fraud", f"models:/{ids['m-other']}", ids["trained"], model_id=ids["m-other"])
        client.set_tag(ids["free"], "runspend.keep", "yes")
    outcome = pipeline.archive_apply(settings, now=NOW)
    assert outcome.changed == [] and len(outcome.notes) == 2, outcome
    assert any("registered as fraud/3" in note for note in outcome.notes) and any("runspend.keep" in note for note in outcome.notes)
    assert files(folder / "artifacts") == before


def test_a_server_that_cannot_be_asked_keeps_everything(announced: tuple[Settings, dict[str, str], Path]) -> None:
    settings, _, folder = announced
    before = files(folder / "artifacts")
    (folder / "mlflow.db").rename(folder / "mlflow.db.away")
    for _ in range(2):
        code, printed = command(settings, "apply", run=run_process)  # in its own process, because this one has the database open
        assert printed["changed"] == [] and files(folder / "artifacts") == before
        assert sum(note.startswith("kept: ") for note in printed["notes"]) == 2, printed
        assert code == 3 and any(
            problem.startswith("prod did not answer whether its artifacts are still needed") for problem in printed["problems"]
        ), printed
    [mail] = [value["mail"] for value in Records(settings.home).list("notices").values() if value["kind"] == "NOT ARCHIVED"]
    assert mail["recipients"] == ["oncall@acme.com"] and "Runspend deletes nothing without an answer" in mail["text"]


def test_a_full_reading_asks_first(announced: tuple[Settings, dict[str, str], Path]) -> None:
    settings, _, _ = announced
    done = run_here("archive", "verify", "--full", "--config", str(settings.path), code=2)
    assert "0 objects, 0 bytes. Requests and retrieval cost 0 USD" in done.stderr and "Nothing was read" in done.stderr


def test_damage_is_a_failed_check(announced: tuple[Settings, dict[str, str], Path]) -> None:
    settings, ids, folder = announced
    assert pipeline.archive_apply(settings, now=NOW).exit_code == 0
    [copy, _] = sorted((folder / "archive").rglob("data/*"))
    copy.write_bytes(b"x" * copy.stat().st_size)
    code, printed = command(settings, "verify")
    assert code == 4 and "has other bytes" in printed["problems"][0]
    owner = ids["free"] if f"/{ids['free']}/" in str(copy) else ids["trained"]
    failed = run_here("archive", "restore", owner, "--to", str(folder / "b"), "--config", str(settings.path), code=3)
    assert "Nothing was restored" in failed.stderr and not (folder / "b").exists()
    assert command(settings, "restore", owner, "--to", str(folder / "b"), "--partial")[0] == 5
