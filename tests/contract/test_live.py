"""Right before bytes go, MLflow is asked once more: each sign that something is in use protects, and so does every answer that is none."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from servers.faulty_proxy import FAULTS, faulty_proxy

from runspend.config import TrackingServer
from runspend.tracking.holds import holding_tag
from runspend.tracking.live import Known, LiveServer
from tests.contract.mlflow_servers import mlflow_server

NOW = datetime.now(timezone.utc)
READ_AT = NOW - timedelta(hours=3)
OLD = int((NOW - timedelta(days=400)).timestamp() * 1000)
DATABASES: dict[str, Path] = {}  # by the URI of the server
JUST_NOW = int((NOW - timedelta(hours=1)).timestamp() * 1000)


@dataclass(frozen=True)
class Owner:
    """What the archive asks about."""

    owner_kind: str
    owner_id: str
    run_id: str | None = None
    artifact_uri: str | None = None
    action: str = "archive"
    workspace: str = "default"


@dataclass
class World:
    """One family of runs on a shared server: a run with a parent, a child and a model, another run that used the model, and somebody registered."""

    client: Any
    experiment: str
    ids: dict[str, str] = field(default_factory=dict)

    def run(self, name: str, *, parent: str | None = None, started: int = OLD, ended: bool = True) -> str:
        tags = {"mlflow.parentRunId": self.ids[parent]} if parent else {}
        self.ids[name] = self.client.create_run(self.experiment, start_time=started, run_name=name, tags=tags).info.run_id
        if ended:
            self.client.set_terminated(self.ids[name], end_time=started + 3_600_000)
        return self.ids[name]

    def register(self, name: str, source: str, run_id: str | None, model_id: str | None = None) -> str:
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        return str(self.client.create_model_version(name, source, run_id, model_id=model_id).version)

    @property
    def run_owner(self) -> Owner:
        run = self.client.get_run(self.ids["run"])
        return Owner("run", self.ids["run"], self.ids["run"], run.info.artifact_uri)

    @property
    def model_owner(self) -> Owner:
        return Owner("logged_model", self.ids["model"], self.ids["run"])

    @property
    def known(self) -> Known:
        return Known(
            READ_AT,
            children_of={self.ids["run"]: frozenset({self.ids["child"]})}.__getitem__,
            users_of={self.ids["model"]: frozenset({self.ids["user"]})}.__getitem__,
            open_runs={"default": frozenset({self.ids["open"]})},
            newest_run={"default": (self.ids["newest"], OLD + 7_200_000)},
            registered_run={"default": self.ids["registered"]},
        )


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("live")
    with mlflow_server(folder, f"sqlite:///{folder / 'mlflow.db'}") as uri:
        DATABASES[uri] = folder / "mlflow.db"
        yield uri


def make_world(uri: str, name: str) -> World:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModelInput, LoggedModelStatus

    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    world = World(client, client.create_experiment(name))
    world.run("parent")
    world.run("run", parent="parent")
    world.run("child", parent="run")
    world.ids["model"] = client.create_logged_model(world.experiment, name="net", source_run_id=world.ids["run"]).model_id
    client.finalize_logged_model(world.ids["model"], LoggedModelStatus.READY)
    world.run("user", ended=False)
    client.log_inputs(world.ids["user"], models=[LoggedModelInput(world.ids["model"])])
    client.set_terminated(world.ids["user"], end_time=OLD + 3_600_000)
    world.run("registered")
    world.run("newest", started=OLD + 7_200_000)
    world.run("open", ended=False)
    world.register("others", f"{client.get_run(world.ids['registered']).info.artifact_uri}/model", world.ids["registered"])
    return world


@pytest.fixture
def world(mlflow: str, request: pytest.FixtureRequest) -> World:
    return make_world(mlflow, request.node.name)


def ask(world: World, owner: Owner, known: Known | None = None, **server: Any) -> str | None:
    settings = TrackingServer.model_validate({"name": "prod", "uri": world.client.tracking_uri, **server})
    return LiveServer(settings, known or world.known, NOW).protects(owner)


def test_what_nobody_needs_is_not_protected(world: World) -> None:
    assert ask(world, world.run_owner) is None
    assert ask(world, world.model_owner) is None
    assert ask(world, Owner("checkpoint", world.ids["run"], world.ids["run"])) is None
    assert ask(world, Owner("orphan", f"1/{'0' * 32}/artifacts")) is None


# Before the signs below are set: each adds to what is asked, and every request is spoiled in turn.
def unnoticed_faults(world: World, asked: Owner, faults: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Every request of a clean round, spoiled in every one of these ways; those where the answer was "nothing protects it" all the same."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1" if "silence" in faults else "20")
    known = world.known
    with faulty_proxy(world.client.tracking_uri) as proxy:
        assert ask(world, asked, known, uri=proxy.uri) is None  # the client remembers a server's version
        proxy.begin()
        assert ask(world, asked, known, uri=proxy.uri) is None
        requests = [(n, request) for n, request in enumerate(proxy.seen) if not request.startswith("GET /version")]
        assert len(requests) >= 8
        unnoticed = []
        for number, request in requests:
            for fault in faults:
                proxy.begin(fault, number)
                if ask(world, asked, known, uri=proxy.uri) is None:
                    unnoticed.append((fault, request))
    return unnoticed


def test_an_error_or_an_empty_page_protects(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    assert unnoticed_faults(world, world.model_owner, ("braces", "500"), monkeypatch) == []


def tag(name: str, key: str, value: str) -> Callable[[World], None]:
    return lambda w: w.client.set_tag(w.ids[name], key, value)


def experiment_tag(key: str, value: str) -> Callable[[World], None]:
    return lambda w: w.client.set_experiment_tag(w.experiment, key, value)


def start_again(name: str) -> Callable[[World], None]:
    return lambda w: w.client.update_run(w.ids[name], status="RUNNING")


def end_now(name: str) -> Callable[[World], None]:
    return lambda w: w.client.set_terminated(w.ids[name], end_time=JUST_NOW)


def restore_in_deleted_experiment(w: World) -> None:
    w.client.delete_experiment(w.experiment)
    w.client.restore_run(w.ids["run"])


def register_run(w: World) -> None:
    w.register("fraud", f"{w.run_owner.artifact_uri}/model", w.ids["run"])


def set_alias(w: World) -> None:
    version = w.register("fraud", f"{w.run_owner.artifact_uri}/model", w.ids["run"])
    w.client.set_registered_model_alias("fraud", f"champion{version}", version)


def register_model(w: World) -> None:
    w.register("nets", f"models:/{w.ids['model']}", w.ids["run"], w.ids["model"])


def register_folder_of_no_run(w: World) -> None:
    w.register("loose", f"s3://bucket/{w.ids['run']}/artifacts/model", None)


def stage_production(w: World) -> None:
    version = w.register("staged", f"{w.run_owner.artifact_uri}/model", w.ids["run"])
    w.client._get_registry_client().store.transition_model_version_stage("staged", version, "Production", False)


def use_model_since(w: World) -> None:
    from mlflow.entities import LoggedModelInput

    w.run("late", started=JUST_NOW, ended=False)
    w.client.log_inputs(w.ids["late"], models=[LoggedModelInput(w.ids["model"])])
    w.client.set_terminated(w.ids["late"], end_time=JUST_NOW + 1)


def use_model_in_old_open_run(w: World) -> None:
    from mlflow.entities import LoggedModelInput

    w.run("slow", ended=False)
    w.client.log_inputs(w.ids["slow"], models=[LoggedModelInput(w.ids["model"])])


def share_folder(w: World) -> None:
    """Clients may name a folder of their own choice: so does the database of a server that was copied or tampered with."""
    other = w.run("sharer")
    _set_artifact_uri(w, other, w.run_owner.artifact_uri or "")


def lie_in_folder(w: World) -> None:
    _set_artifact_uri(w, w.run("inner"), f"{w.run_owner.artifact_uri}/inner/artifacts")


def _set_artifact_uri(w: World, run_id: str, uri: str) -> None:
    with sqlite3.connect(DATABASES[w.client.tracking_uri], timeout=30) as connection:
        connection.execute("update runs set artifact_uri = ? where run_uuid = ?", (uri, run_id))
    connection.close()


RUN_SIGNALS: dict[str, tuple[Callable[[World], None], str]] = {
    "keep": (tag("run", "runspend.keep", "yes"), "its tag runspend.keep"),
    "keep until": (tag("run", "runspend.keep", "2999-12-31"), "its tag runspend.keep"),
    "hold": (tag("run", "runspend.hold", "case 12"), "legal hold: its tag runspend.hold"),
    "production": (tag("run", "stage", "Production"), "its tag stage is production"),
    "experiment keep": (experiment_tag("runspend.keep", ""), "its experiment's tag runspend.keep"),
    "experiment hold": (experiment_tag("runspend.hold", "1"), "legal hold: its experiment's tag runspend.hold"),
    "experiment production": (experiment_tag("stage", "production"), "its experiment's tag stage is production"),
    "running again": (start_again("run"), "it is running"),
    "ended just now": (end_now("run"), "it ended after"),
    "parent running": (start_again("parent"), "its parent run"),
    "parent hold": (tag("parent", "runspend.hold", "x"), "its parent run's tag runspend.hold"),
    "child running": (start_again("child"), "its child run"),
    "child keep": (tag("child", "runspend.keep", "x"), "tag runspend.keep"),
    "restored inside a deleted experiment": (restore_in_deleted_experiment, "restored inside a deleted experiment"),
    "registered": (register_run, "registered as fraud/"),
    "alias": (set_alias, "alias champion"),
    "stage of a version": (stage_production, "in stage Production"),
    "registered without a run": (register_folder_of_no_run, "registered as loose/"),
    "its model registered": (register_model, "registered as nets/"),
    "shared folder": (share_folder, "shares its folder with run"),
    "run inside its folder": (lie_in_folder, "shares its folder with run"),
}
MODEL_SIGNALS: dict[str, tuple[Callable[[World], None], str]] = {
    "registered": (register_model, "registered as nets/"),
    "its run registered from a folder": (register_run, "registered as fraud/"),
    "keep on its run": (tag("run", "runspend.keep", "yes"), "its run's tag runspend.keep"),
    "hold on the experiment": (experiment_tag("runspend.hold", "yes"), "its run's experiment's tag runspend.hold"),
    "keep on the model": (lambda w: w.client.set_logged_model_tags(w.ids["model"], {"runspend.keep": "yes"}), "its tag runspend.keep"),
    "its run runs": (start_again("run"), "its run is running"),
    "a run that uses it runs": (start_again("user"), "which uses it, is running"),
    "a run that uses it ended just now": (end_now("user"), "which uses it, ended after"),
    "used since": (use_model_since, "has used it since"),
    "used by an old run that never ended": (use_model_in_old_open_run, "has used it since"),
    "restored inside a deleted experiment": (restore_in_deleted_experiment, "restored inside a deleted experiment"),
}


@pytest.mark.parametrize("signal", RUN_SIGNALS)
def test_a_sign_set_since_protects_a_run(world: World, signal: str) -> None:
    owner, known = world.run_owner, world.known
    assert ask(world, owner, known) is None
    set_signal, expected = RUN_SIGNALS[signal]
    set_signal(world)
    assert expected in (ask(world, owner, known) or "")


@pytest.mark.parametrize("signal", MODEL_SIGNALS)
def test_a_sign_set_since_protects_a_model(world: World, signal: str) -> None:
    owner, known = world.model_owner, world.known
    assert ask(world, owner, known) is None
    set_signal, expected = MODEL_SIGNALS[signal]
    set_signal(world)
    assert expected in (ask(world, owner, known) or "")


def test_another_models_version_does_not_protect_a_model(world: World) -> None:
    """A run's other model is registered: this one is not, and the run is."""
    other = world.client.create_logged_model(world.experiment, name="other", source_run_id=world.ids["run"]).model_id
    world.register("nets", f"models:/{other}", world.ids["run"], other)
    assert ask(world, world.model_owner) is None
    assert "registered as nets/" in (ask(world, world.run_owner) or "")


def test_a_restored_run_protects_what_was_planned_while_it_was_deleted(world: World) -> None:
    known = replace(world.known, deleted_runs=frozenset({world.ids["run"]}))
    owner = world.run_owner
    world.client.delete_run(world.ids["run"])
    assert ask(world, owner, known) is None
    world.client.restore_run(world.ids["run"])
    assert ask(world, owner, known) == "it was restored after the tables were read"


def test_a_restored_experiment_protects_too(world: World) -> None:
    owner = world.run_owner
    known = replace(world.known, deleted_experiments=frozenset({world.experiment}))
    world.client.delete_experiment(world.experiment)
    assert ask(world, owner, known) is None
    world.client.restore_experiment(world.experiment)
    assert ask(world, owner, known) == "its experiment was restored after the tables were read"


def test_what_mlflow_no_longer_shows_is_protected_but_in_the_archive(world: World) -> None:
    gone = Owner("run", "f" * 32, "f" * 32)
    assert ask(world, gone) == f"MLflow no longer shows run {'f' * 32}: it may only be hidden"
    assert ask(world, replace(gone, action="delete")) is None
    assert "cannot be told" in (ask(world, Owner("logged_model", f"m-{'f' * 32}", world.ids["run"])) or "")


def test_a_run_whose_artifacts_lie_elsewhere_by_now_is_protected(world: World) -> None:
    assert "its artifacts lie in" in (ask(world, replace(world.run_owner, artifact_uri="s3://bucket/elsewhere")) or "")


def test_an_orphan_that_mlflow_knows_is_none(world: World) -> None:
    for name, kind in ((world.ids["run"], "run"), (world.ids["model"], "model")):
        assert ask(world, Owner("orphan", f"7/{name}/artifacts")) == f"it belongs to {kind} {name} of prod"


@pytest.mark.parametrize("name", ["d" * 32, f"m-{'d' * 32}"])
def test_an_orphan_that_a_version_was_registered_from_is_kept(world: World, name: str) -> None:
    """Its run or model is gone for good, its files are not, and somebody registered them since the tables were read."""
    orphan = Owner("orphan", f"7/{name}/artifacts")
    assert ask(world, orphan) is None
    version = world.register(f"saved-{name[:3]}", f"s3://bucket/7/{name}/artifacts/model", None)
    assert ask(world, orphan) == f"registered as saved-{name[:3]}/{version}"


def test_a_server_that_is_not_there_protects(world: World) -> None:
    reason = ask(world, world.run_owner, uri="http://127.0.0.1:1")
    assert reason is not None and reason.startswith("whether MLflow still needs it cannot be told: ")


def test_a_registry_elsewhere_is_asked(world: World, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    elsewhere = f"sqlite:///{tmp_path / 'registry.db'}"
    owner, known = world.run_owner, replace(world.known, registered_run={})
    assert ask(world, owner, known, registry=elsewhere) is None
    client = MlflowClient(tracking_uri=elsewhere, registry_uri=elsewhere)
    client.create_registered_model("other")
    client.create_model_version("other", "s3://bucket/x/model", world.ids["run"])
    assert ask(world, owner, known, registry=elsewhere) == "registered as other/1"
    assert "cannot be told" in (ask(world, owner, known, registry="http://127.0.0.1:1") or "")


@pytest.mark.torture
@pytest.mark.parametrize("owner", ["run_owner", "model_owner"])
def test_every_spoiled_answer_protects(world: World, owner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error, an empty page, a page that is none, half of one, silence."""
    assert unnoticed_faults(world, getattr(world, owner), FAULTS, monkeypatch) == []


@pytest.mark.parametrize(
    ("tags", "holds"),
    [
        ({}, False),
        ({"runspend.keep": "false"}, False),
        ({"runspend.keep": " No "}, False),
        ({"runspend.keep": ""}, True),
        ({"runspend.keep": "2026-11-24"}, False),
        ({"runspend.keep": "2026-11-25"}, True),
        ({"runspend.keep": "2026-13-45"}, True),
        ({"runspend.hold": "2020-01-01"}, True),
        ({"runspend.hold": "0"}, False),
        ({"stage": "PRODUCTION "}, True),
        ({"stage": "staging"}, False),
    ],
)
def test_tags_that_hold(tags: dict[str, str], holds: bool) -> None:
    assert (holding_tag(tags, "its", datetime(2026, 11, 25, tzinfo=timezone.utc).date()) is not None) is holds
