"""Runspend asks MLflow again right before it deletes files. Every sign of use protects them, and so does every unusable answer."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runspend.config.settings import TrackingServer
from runspend.ingest.tracking.in_use import registry as live_registry
from runspend.ingest.tracking.in_use.server import LiveServer
from runspend.ingest.tracking.in_use.snapshot import LastExtract
from runspend.ingest.tracking.protection_tags import holding_tag
from tests.ingest.tracking.mlflow_servers import mlflow_server
from tests.mlflow_store import make_schema
from tests.servers.faulty_proxy import FAULTS, faulty_proxy

NOW = datetime.now(timezone.utc)
READ_AT = NOW - timedelta(hours=3)
OLD = int((NOW - timedelta(days=400)).timestamp() * 1000)
DATABASES: dict[str, Path] = {}  # by the server's URI
JUST_NOW = int((NOW - timedelta(hours=1)).timestamp() * 1000)


@dataclass(frozen=True)
class Owner:
    """The artifact that the archive asks about."""

    owner_kind: str
    owner_id: str
    run_id: str | None = None
    artifact_uri: str | None = None
    action: str = "archive"
    workspace: str = "default"


def looked_up(pairs: Mapping[str, Collection[str]]) -> Callable[[Collection[str]], frozenset[str]]:
    """Return a function that looks keys up in these pairs, as if in the tables."""
    return lambda keys: frozenset(value for key in keys for value in pairs.get(key, ()))


@dataclass
class World:
    """A family of runs on the module's server: a run with a parent, a child and a model, and another run that used the model."""

    client: Any
    experiment: str
    ids: dict[str, str] = field(default_factory=dict)
    used: dict[str, set[str]] = field(default_factory=dict)  # what the tables contain: model -> runs
    made: dict[str, set[str]] = field(default_factory=dict)  # the same: run -> models that it made

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
    def known(self) -> LastExtract:
        return LastExtract(
            READ_AT,
            children_of=lambda run_id: frozenset({self.ids["child"]} if run_id == self.ids["run"] else ()),
            users_of=looked_up(self.used),
            made_by=looked_up(self.made),
            open_runs={"default": frozenset({self.ids["open"]})},
            newest_run={"default": (self.ids["newest"], OLD + 7_200_000)},
            registered_run={"default": self.ids["registered"]},
        )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, Path]]:
    """A server with a world that is created once, and a copy of its database."""
    folder = tmp_path_factory.mktemp("live")
    with mlflow_server(folder, f"sqlite:///{folder / 'mlflow.db'}") as uri:
        DATABASES[uri] = folder / "mlflow.db"
        world = make_world(uri)
        copy_database(DATABASES[uri], folder / "made.db")
        yield world, folder / "made.db"


def copy_database(source: Path, target: Path) -> None:
    """Copy a whole database into one that may be in use."""
    with closing(sqlite3.connect(source)) as there, closing(sqlite3.connect(target, timeout=30)) as here:
        there.backup(here)


def make_world(uri: str) -> World:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModelInput, LoggedModelStatus

    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    world = World(client, client.create_experiment("nets"))
    world.run("parent")
    world.run("run", parent="parent")
    world.run("child", parent="run")
    world.ids["model"] = client.create_logged_model(world.experiment, name="net", source_run_id=world.ids["run"]).model_id
    client.finalize_logged_model(world.ids["model"], LoggedModelStatus.READY)
    world.run("user", ended=False)
    client.log_inputs(world.ids["user"], models=[LoggedModelInput(world.ids["model"])])
    client.set_terminated(world.ids["user"], end_time=OLD + 3_600_000)
    world.used, world.made = {world.ids["model"]: {world.ids["user"]}}, {world.ids["run"]: {world.ids["model"]}}
    world.run("registered")
    world.run("newest", started=OLD + 7_200_000)
    world.run("open", ended=False)
    world.register("others", f"{client.get_run(world.ids['registered']).info.artifact_uri}/model", world.ids["registered"])
    return world


@pytest.fixture
def world(made: tuple[World, Path]) -> World:
    """The world in its original state: changes by other tests are undone."""
    first, database = made
    copy_database(database, DATABASES[first.client.tracking_uri])
    return World(first.client, first.experiment, *deepcopy((first.ids, first.used, first.made)))


def ask(world: World, owner: Owner, known: LastExtract | None = None, **server: Any) -> str | None:
    settings = TrackingServer.model_validate({"name": "prod", "uri": world.client.tracking_uri, **server})
    return LiveServer(settings, known or world.known, NOW).protects(owner)


def test_an_unused_run_or_model_is_not_protected(world: World) -> None:
    """The other tests start from this world and add one sign of use."""
    assert ask(world, world.run_owner) is None
    assert ask(world, world.model_owner) is None
    assert ask(world, Owner("checkpoint", world.ids["run"], world.ids["run"])) is None
    assert ask(world, Owner("orphan", f"1/{'0' * 32}/artifacts")) is None


# These tests come before those of the signs, because each sign adds requests and every request is spoiled in turn.
def unnoticed_faults(world: World, asked: Owner, faults: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Spoil every request of a clean round in each of these ways. Return the requests after which the answer was still "nothing protects it"."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    known = world.known
    with faulty_proxy(world.client.tracking_uri) as proxy:
        assert ask(world, asked, known, uri=proxy.uri) is None  # the client caches a server's version
        proxy.begin()
        proxy.answers = {}
        assert ask(world, asked, known, uri=proxy.uri) is None
        requests = Counter(request for request in proxy.seen if not request.startswith("GET /version"))
        assert len(requests) >= 8
        unnoticed = []
        for request, times in requests.items():
            for fault, good in product(faults, range(times)):
                monkeypatch.setenv(
                    "MLFLOW_HTTP_REQUEST_TIMEOUT", "1" if fault == "silence" else "20"
                )  # on a busy machine a shorter limit would cause a timeout
                proxy.begin(fault, request, good)
                answer = ask(world, asked, known, uri=proxy.uri)
                assert proxy.has_spoiled or good, (
                    f"not asked again: {request}"
                )  # the number of second requests depends on how long the round takes
                if answer is None and proxy.has_spoiled:
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
    """Put another run into the same folder. Clients may choose any folder, and so may a copied or tampered database."""
    other = w.run("sharer")
    _set_artifact_uri(w, other, w.run_owner.artifact_uri or "")


def spell_folder(spell: Callable[[str], str]) -> Callable[[World], None]:
    """Give another run the same folder in another spelling."""
    return lambda w: _set_artifact_uri(w, w.run("speller"), spell(w.run_owner.artifact_uri or ""))


def put_inside_folder(w: World) -> None:
    _set_artifact_uri(w, w.run("inner"), f"{w.run_owner.artifact_uri}/inner/artifacts")


def _set_artifact_uri(w: World, run_id: str, uri: str) -> None:
    with sqlite3.connect(DATABASES[w.client.tracking_uri], timeout=30) as connection:
        connection.execute("update runs set artifact_uri = ? where run_uuid = ?", (uri, run_id))
    connection.close()


def make_with(w: World, maker: str, made: str, used: str, *, started: int = OLD, known: bool = True) -> str:
    """Create a run that used one model and made another. Return the model that it made."""
    from mlflow.entities import LoggedModelInput, LoggedModelOutput, LoggedModelStatus

    w.run(maker, started=started, ended=False)
    w.client.log_inputs(w.ids[maker], models=[LoggedModelInput(w.ids[used])])
    w.ids[made] = w.client.create_logged_model(w.experiment, name=made, source_run_id=w.ids[maker]).model_id
    w.client.finalize_logged_model(w.ids[made], LoggedModelStatus.READY)
    w.client.log_outputs(w.ids[maker], [LoggedModelOutput(w.ids[made], 0)])
    w.client.set_terminated(w.ids[maker], end_time=started + 1_000)
    if known:
        w.used.setdefault(w.ids[used], set()).add(w.ids[maker])
        w.made.setdefault(w.ids[maker], set()).add(w.ids[made])
    return w.ids[made]


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
    "run inside its folder": (put_inside_folder, "shares its folder with run"),
    "shared, with doubled slashes": (spell_folder(lambda uri: uri.replace("/artifacts", "//artifacts/")), "shares its folder with run"),
    "shared, with escapes": (spell_folder(lambda uri: uri.replace("artifacts", "%61rtifacts")), "shares its folder with run"),
    "shared, with a host and dots": (
        spell_folder(lambda uri: uri.replace("mlflow-artifacts:/", "mlflow-artifacts://host/x/../")),
        "shares its folder with run",
    ),
}
MODEL_SIGNALS: dict[str, tuple[Callable[[World], None], str]] = {
    "registered": (register_model, "registered as nets/"),
    "its run registered from a folder": (register_run, "registered as fraud/"),
    "keep on its run": (tag("run", "runspend.keep", "yes"), "its run's tag runspend.keep"),
    "hold on the experiment": (experiment_tag("runspend.hold", "yes"), "its experiment's tag runspend.hold"),
    "keep on the model": (lambda w: w.client.set_logged_model_tags(w.ids["model"], {"runspend.keep": "yes"}), "its tag runspend.keep"),
    "its run runs": (start_again("run"), "its run is running"),
    "a run that uses it runs": (start_again("user"), "which uses it, is running"),
    "a run that uses it ended just now": (end_now("user"), "which uses it, ended after"),
    "used since": (use_model_since, "has used it since"),
    "used by an old run that never ended": (use_model_in_old_open_run, "has used it since"),
    "restored inside a deleted experiment": (restore_in_deleted_experiment, "restored inside a deleted experiment"),
}


@pytest.mark.parametrize("signal", RUN_SIGNALS)
def test_a_sign_that_is_set_after_the_extract_protects_a_run(world: World, signal: str) -> None:
    owner, known = world.run_owner, world.known
    set_signal, expected = RUN_SIGNALS[signal]
    set_signal(world)
    assert expected in (ask(world, owner, known) or "")


@pytest.mark.parametrize("signal", MODEL_SIGNALS)
def test_a_sign_that_is_set_after_the_extract_protects_a_model(world: World, signal: str) -> None:
    owner, known = world.model_owner, world.known
    set_signal, expected = MODEL_SIGNALS[signal]
    set_signal(world)
    assert expected in (ask(world, owner, known) or "")


WAYS = ["api", "database", "both"]  # only HTTP, the database as the tracking URI, and HTTP together with `database:`


def asked(world: World, owner: Owner, way: str, known: LastExtract | None = None) -> str | None:
    """Return the answer for one of `WAYS`."""
    database = f"sqlite:///{DATABASES[world.client.tracking_uri]}"
    return ask(world, owner, known, **{"api": {}, "database": {"uri": database}, "both": {"database": database}}[way])


def asked_each_way(world: World, owner: Owner, known: LastExtract | None = None) -> set[str | None]:
    """Return the set of answers of all `WAYS`. If they agree, it has one element."""
    return {asked(world, owner, way, known) for way in WAYS}


def is_free(world: World, owner: Owner, known: LastExtract) -> bool:
    """Return True if nothing protects it. "both" asks the API and the database, and a reason from either protects it."""
    return asked(world, owner, "both", known) is None


def test_runs_and_models_behind_a_live_model_are_kept(world: World) -> None:
    """The tables contain three runs, each of which used the model of the one before.

    The last model was registered after the tables were read.
    """
    for number, used in enumerate(("model", "tuned0", "tuned1")):
        make_with(world, f"tuner{number}", f"tuned{number}", used)
    gone = f"m-{'c' * 32}"  # MLflow no longer has it, but its files still exist
    world.used[gone] = {world.ids["tuner1"]}
    owners, known = (world.model_owner, world.run_owner, Owner("orphan", f"7/models/{gone}/artifacts")), world.known
    assert [is_free(world, owner, known) for owner in owners] == [True, True, True]
    version = world.register("judge", f"models:/{world.ids['tuned2']}", None, world.ids["tuned2"])
    label = f"registered as judge/{version}"
    behind = f"used by a run that led to a live model: {label}"
    assert [asked_each_way(world, owner, known) for owner in owners] == [
        {behind},
        {f"a run that led to a live model used its output: {label}"},
        {behind},
    ]
    unrelated = Owner("run", world.ids["newest"], world.ids["newest"], world.client.get_run(world.ids["newest"]).info.artifact_uri)
    assert is_free(world, unrelated, known)
    world.client.set_registered_model_alias("judge", "champion", version)
    assert asked_each_way(world, world.model_owner, known) == {f"used by a run that led to a live model: alias champion on judge/{version}"}


@pytest.mark.parametrize("registered", ["run", "folder", "before"])
def test_a_live_model_made_after_the_extract_keeps_what_it_was_made_with(world: World, registered: str) -> None:
    """The tables contain only that `tuner` used the model. Another run used `tuner`'s model later.

    The version that this run made is also newer than the tables, or it is known and names the run.
    """
    make_with(world, "tuner", "tuned", "model")
    made = make_with(world, "late", "made", "tuned", started=JUST_NOW, known=False)
    known = world.known
    assert is_free(world, world.model_owner, known)
    source, run_id = ("s3://elsewhere/x", world.ids["late"]) if registered != "folder" else (f"s3://bucket/1/models/{made}/artifacts", None)
    version = world.register(f"late-{registered}", source, run_id)
    if registered == "before":  # as if it was registered before the tables were read: Runspend finds it through the run that it names
        known = replace(known, read_at=NOW + timedelta(hours=3))
    label = f"registered as late-{registered}/{version}"
    assert asked_each_way(world, world.model_owner, known) == {f"used by a run that led to a live model: {label}"}
    assert asked_each_way(world, world.run_owner, known) == {f"a run that led to a live model used its output: {label}"}


def use_model_long_after_it_ended(w: World) -> None:
    """Add an input to a run that ended years ago. MLflow allows that and changes nothing else in the run."""
    from mlflow.entities import LoggedModelInput

    w.client.log_inputs(w.ids["child"], models=[LoggedModelInput(w.ids["model"])])


def use_model_in_a_run_with_an_old_date(w: World) -> None:
    """Use the model in a run with an old date, as a copy from another server would have."""
    from mlflow.entities import LoggedModelInput

    w.run("copied", ended=False)
    w.client.log_inputs(w.ids["copied"], models=[LoggedModelInput(w.ids["model"])])
    w.client.set_terminated(w.ids["copied"], end_time=OLD + 1)


@pytest.mark.parametrize(
    "use", [use_model_since, use_model_in_old_open_run, use_model_long_after_it_ended, use_model_in_a_run_with_an_old_date]
)
def test_the_database_reports_every_use(world: World, use: Callable[[World], None]) -> None:
    """The API shows the last two uses only to a client that reads every run, as docs/archive.md explains."""
    owner, known = world.model_owner, world.known
    assert is_free(world, owner, known)
    use(world)
    for way in ("database", "both"):
        assert "has used it since the tables were read" in (asked(world, owner, way, known) or ""), way


SPOILT = {
    "not there": None, "empty": "drop table alembic_version", "of another MLflow, or behind": "delete from runs where run_uuid = '{newest}'", "half upgraded": "drop table inputs",
    "of a version to come": "update alembic_version set version_num = 'ffff'", "in an upgrade": "insert into alembic_version values ('ffff')",
}  # fmt: skip


def test_a_configured_database_that_cannot_be_read_protects(world: World, tmp_path: Path) -> None:
    """If a server's database is configured, the API's answer alone is not enough."""
    owners, known = (world.model_owner, world.run_owner), world.known
    for name, spoil in SPOILT.items():
        copy = tmp_path / f"{name}.db"
        if spoil is not None:
            with sqlite3.connect(DATABASES[world.client.tracking_uri]) as here, sqlite3.connect(copy) as there:
                here.backup(there)
                there.execute("pragma foreign_keys = off")
                there.execute(spoil.format(newest=world.ids["newest"]))
            here.close()
            there.close()
        for owner in owners:
            assert "cannot ask the database of prod" in (ask(world, owner, known, database=f"sqlite:///{copy}") or ""), name


def test_a_model_that_thousands_of_runs_used_is_kept(world: World) -> None:
    """Runspend cannot ask about thousands of runs in a few seconds."""
    tuners = frozenset(f"{n:032x}" for n in range(5_001))
    known = replace(world.known, users_of=lambda models: tuners if world.ids["tuned"] in models else looked_up(world.used)(models))
    make_with(world, "tuner", "tuned", "model")
    assert "cannot ask the registry about everything made with" in (ask(world, world.model_owner, known) or "")


@pytest.mark.parametrize("model_id", ["m-7", "", f"M-{'a' * 32}", f"m-{'a' * 32}\n"])
def test_a_model_that_cannot_be_asked_about_is_protected(world: World, model_id: str) -> None:
    for run_id in (None, world.ids["run"]):
        assert "is unknown" in (ask(world, Owner("logged_model", model_id, run_id)) or "")


def test_an_experiment_that_has_only_traces_is_not_deleted(world: World) -> None:
    from mlflow.entities import TraceInfo, TraceLocation, TraceState

    chats = world.client.create_experiment(f"{world.experiment} chats")
    owner = Owner("experiment", chats, action="prune")
    assert ask(world, owner) is None
    info = TraceInfo(f"tr-{'7' * 32}", TraceLocation.from_experiment_id(chats), OLD, TraceState.OK)
    world.client._tracking_client.store.start_trace(info)
    assert ask(world, owner) == "it has traces"


def test_a_hold_on_the_experiment_protects_a_model_without_a_run(world: World) -> None:
    model = world.client.create_logged_model(world.experiment, name="alone").model_id
    world.client.finalize_logged_model(model, "READY")
    assert ask(world, Owner("logged_model", model, None)) is None
    experiment_tag("runspend.hold", "yes")(world)
    assert ask(world, Owner("logged_model", model, None)) == "legal hold: its experiment's tag runspend.hold"


@pytest.mark.parametrize(
    ("source", "may_be"),
    [
        (f"models:/m-{'a' * 32}", True),
        (f"models:/m-{'b' * 32}", False),
        ("models:/m-fraud/1", True),
        ("models:/fraud/1", True),
        (None, True),
    ],
)
def test_a_version_of_a_models_run_protects_the_model_unless_it_names_another(source: str | None, may_be: bool) -> None:
    assert live_registry._may_be(SimpleNamespace(source=source), f"m-{'a' * 32}") is may_be


def test_another_models_version_does_not_protect_a_model(world: World) -> None:
    """Another model of the run is registered. That protects the run, but not this model."""
    other = world.client.create_logged_model(world.experiment, name="other", source_run_id=world.ids["run"]).model_id
    world.register("nets", f"models:/{other}", world.ids["run"], other)
    assert ask(world, world.model_owner) is None
    assert "registered as nets/" in (ask(world, world.run_owner) or "")


def test_a_restored_run_protects_folders_planned_while_it_was_deleted(world: World) -> None:
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


def test_a_run_that_mlflow_no_longer_shows_is_protected_except_in_the_archive(world: World) -> None:
    gone = Owner("run", "f" * 32, "f" * 32)
    assert ask(world, gone) == f"MLflow no longer shows run {'f' * 32}: it may only be hidden"
    assert ask(world, replace(gone, action="delete")) is None
    assert "is unknown" in (ask(world, Owner("logged_model", f"m-{'f' * 32}", world.ids["run"])) or "")


def test_a_run_whose_artifacts_have_moved_is_protected(world: World) -> None:
    assert "its artifacts are in" in (ask(world, replace(world.run_owner, artifact_uri="s3://bucket/elsewhere")) or "")


def test_a_folder_of_ones_own_choice_is_found_however_it_is_spelled(world: World) -> None:
    """The folder does not contain the run's id.

    Runspend compares normalized spellings, and a folder whose name only begins the same is different.
    """
    own = world.ids["run"]
    for number, (ours, theirs, is_shared) in enumerate((
        ("s3://ml/team a/nets", "s3a://ML/team%20a//nets/", True), ("s3://ml/team%20a/nets", "s3n://ml/x/../team a/nets/deeper", True), ("/srv/team a/nets", "file:///srv/team%20a/nets", True),
        ("s3://ml/team a/nets", "s3://ml/team a/nets2", False), ("s3://ml/team a/nets", "s3://ml2/team a/nets", False), ("s3://ml/team_a/nets", "s3://ml/teamXa/nets", False),
    )):  # fmt: skip
        other = world.run(f"other{number}")
        _set_artifact_uri(world, own, ours)
        _set_artifact_uri(world, other, theirs)
        assert ask(world, world.run_owner) == (f"shares its folder with run {other}" if is_shared else None), (ours, theirs)
        _set_artifact_uri(world, other, "s3://ml/away")


def test_an_orphan_that_mlflow_knows_is_not_an_orphan(world: World) -> None:
    for name, kind in ((world.ids["run"], "run"), (world.ids["model"], "model")):
        assert ask(world, Owner("orphan", f"7/{name}/artifacts")) == f"it belongs to {kind} {name} of prod"


@pytest.mark.parametrize("name", ["d" * 32, f"m-{'d' * 32}"])
def test_an_orphan_that_a_version_was_registered_from_is_kept(world: World, name: str) -> None:
    """MLflow has permanently deleted its run or model, but its files still exist. A user registered them after the tables were read."""
    orphan = Owner("orphan", f"7/{name}/artifacts")
    assert ask(world, orphan) is None
    version = world.register(f"saved-{name[:3]}", f"s3://bucket/7/{name}/artifacts/model", None)
    assert ask(world, orphan) == f"registered as saved-{name[:3]}/{version}"


def test_an_unreachable_server_protects(world: World) -> None:
    reason = ask(world, world.run_owner, uri="http://127.0.0.1:1")
    assert reason is not None and reason.startswith("whether MLflow still needs it is unknown: ")


def test_a_separate_registry_is_asked(world: World, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    elsewhere = f"sqlite:///{make_schema(tmp_path / 'registry.db')}"
    owner, known = world.run_owner, replace(world.known, registered_run={})
    assert ask(world, owner, known, registry=elsewhere) is None
    client = MlflowClient(tracking_uri=elsewhere, registry_uri=elsewhere)
    client.create_registered_model("other")
    client.create_model_version("other", "s3://bucket/x/model", world.ids["run"])
    assert ask(world, owner, known, registry=elsewhere) == "registered as other/1"
    assert "is unknown" in (ask(world, owner, known, registry="http://127.0.0.1:1") or "")


@pytest.mark.torture
@pytest.mark.parametrize("owner", ["run_owner", "model_owner"])
def test_every_spoiled_answer_protects(world: World, owner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer is an error, an empty page, an invalid page, half a page, or none."""
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
