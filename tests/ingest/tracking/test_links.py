"""Models, their uses and their metrics, which decide which artifacts stay.

The API and the databases, SQLite and PostgreSQL, give the same rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from runspend.config.settings import DimensionSettings, Settings, TrackingServer
from runspend.core.errors import SourceUnreachable
from runspend.ingest.tracking import LINK_TABLES, Extract
from runspend.ingest.tracking.in_use.database import DatabaseUses
from runspend.ingest.tracking.links import KINDS, find_links
from runspend.ingest.tracking.links_api import ApiLinks
from runspend.ingest.tracking.settings import LinkSettings
from tests.extracts import extract_server
from tests.ingest.tracking.mlflow_servers import NOW, Served, at, mlflow_server
from tests.mlflow_store import make_schema

WANTED = LinkSettings(KINDS, ("loss", "val acc"))


def write_registry(uri: str) -> dict[str, str]:
    """Register models in every way that MLflow knows, with runs that made and used them, and values logged for them."""
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModelInput, LoggedModelOutput, Metric

    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    experiment = client.create_experiment("fraud")
    ids: dict[str, str] = {"experiment": experiment}

    def run(name: str, day: str, losses: Sequence[tuple[int, float]] = (), ended: bool = True) -> str:
        ids[name] = client.create_run(experiment, start_time=at(day), run_name=name).info.run_id
        client.log_batch(ids[name], metrics=[Metric("loss", value, at(day) + i, step) for i, (step, value) in enumerate(losses)])
        if ended:
            client.set_terminated(ids[name], end_time=at(day, "13:00"))
        return ids[name]

    def model(name: str, run_id: str | None, step: int | None = None) -> str:
        ids[name] = client.create_logged_model(experiment, name=name, source_run_id=run_id).model_id
        if step is not None and run_id is not None:
            client.log_outputs(run_id, [LoggedModelOutput(ids[name], step)])
        return ids[name]

    short = run("short", "2026-11-02", [(0, 0.5), (1, -0.25), (2, float("nan")), (2, 0.125), (2, 0.25), (-1, 9.0)])
    long = run("long", "2026-10-02", [(step, step / 8) for step in (0, 7, 500, 1_500, 2_000)], ended=False)
    last_checkpoint = model("checkpoint", long, 1_500)
    client.set_terminated(long, end_time=at("2026-10-02", "14:00"))
    net = model("net", short)
    judge = run("judge", "2026-11-03", ended=False)
    client.log_inputs(judge, models=[LoggedModelInput(net)])
    client.log_metric(judge, "val acc", 0.75, at("2026-11-03"), step=4, model_id=net)
    client.log_metric(judge, "other", 0.5, at("2026-11-03"), step=4, model_id=net)
    client.log_metric(judge, "val acc", 0.875, at("2026-11-03") + 5, step=4, model_id=net)
    client.set_terminated(judge, end_time=at("2026-11-03", "13:00"))
    gone = model("gone", short)
    client.delete_logged_model(gone)

    client.create_registered_model("fraud βeta")
    registered = {
        "of a model": client.create_model_version("fraud βeta", f"models:/{net}", short, model_id=net),
        "of a folder": client.create_model_version("fraud βeta", f"mlflow-artifacts:/{experiment}/{long}/artifacts/model", long),
        "of no run": client.create_model_version("fraud βeta", "s3://elsewhere/it's"),
    }
    client.create_registered_model("copies")
    client.create_registered_model("m-plain")
    plain = client.create_model_version(
        "m-plain", f"mlflow-artifacts:/{experiment}/models/{last_checkpoint}/artifacts", long, model_id=last_checkpoint
    )
    client.create_model_version("copies", f"models:/m-plain/{plain.version}", long)
    client.set_registered_model_alias("fraud βeta", "champion", registered["of a model"].version)
    client.set_registered_model_alias("fraud βeta", "shadow", registered["of a model"].version)
    client._get_registry_client().store.transition_model_version_stage(
        "m-plain", plain.version, "Production", False
    )  # the client warns about stages
    deleted = client.create_model_version("m-plain", "s3://gone/model", long)
    client.delete_model_version("m-plain", deleted.version)
    client.register_prompt("asks", "Say {{what}}")
    return ids


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def mlflow(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("registry")
    if request.param == "sqlite":
        database = backend = f"sqlite:///{folder / 'mlflow.db'}"
    else:
        import psycopg2

        server: str = request.getfixturevalue("postgres")
        connection = psycopg2.connect(server)
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("create database registry")
        connection.close()
        database = server.replace("/mlflow", "/registry", 1)
        backend = database.replace("postgresql://", "postgresql+psycopg2://")
    with mlflow_server(folder, backend) as uri:
        yield Served(uri, database, write_registry(uri))


class Nights:
    """Extracts of one server, each on top of the tables of the one before."""

    def __init__(self, folder: Path, server: TrackingServer) -> None:
        self.folder, self.server = folder, server
        self.published: dict[tuple[str, str], pa.Table] = {}
        self.settings: dict[str, str | None] = {}

    def extract(self, links: LinkSettings = WANTED) -> Extract:
        workdir = self.folder / str(len(list(self.folder.iterdir())))
        workdir.mkdir()
        result = extract_server(
            self.server, DimensionSettings(), now=NOW, previous=lambda table, period: self.published.get((table, period)), workdir=workdir, load_id="load",
            known_months=sorted(p for t, p in self.published if t == "runs"), settings_of=self.settings, links=links,
        )  # fmt: skip
        self.published |= {unit: pq.read_table(path) for unit, path in result.tables.items()}
        self.settings |= {period: extra["settings"] for (_, period), extra in result.extras.items()}
        return result

    def rows(self, name: str) -> list[dict[str, Any]]:
        return [row for (table, _), rows in sorted(self.published.items()) if table == name for row in rows.to_pylist()]


@pytest.fixture(scope="module")
def both(mlflow: Served, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Nights]:
    """The first extract of a server, read each way. Tests must not change it; the fixture `api` is a copy that they may continue."""
    nights = {}
    for via in ("api", "database"):
        nights[via] = Nights(tmp_path_factory.mktemp(via), mlflow.settings(via))
        nights[via].extract()
    return nights


@pytest.fixture
def api(both: dict[str, Nights], tmp_path: Path) -> Nights:
    nights = Nights(tmp_path, both["api"].server)
    nights.published, nights.settings = dict(both["api"].published), dict(both["api"].settings)
    return nights


def test_both_ways_give_equal_tables(mlflow: Served, both: dict[str, Nights]) -> None:
    assert both["api"].published.keys() == both["database"].published.keys()
    for name in LINK_TABLES:
        assert both["api"].rows(name) == both["database"].rows(name), name
        assert both["api"].rows(name), name


def test_versions_state_their_source(mlflow: Served, both: dict[str, Nights]) -> None:
    ids = mlflow.run_ids
    found = {(r["model_name"], r["model_version"]): r for r in both["database"].rows("model_versions")}
    assert sorted(found) == [("copies", 1), ("fraud βeta", 1), ("fraud βeta", 2), ("fraud βeta", 3), ("m-plain", 1)]
    net = found["fraud βeta", 1]
    assert (net["run_id"], net["model_id"], json.loads(net["aliases"])) == (ids["short"], ids["net"], ["champion", "shadow"])
    assert net["source_uri"] == f"mlflow-artifacts:/{ids['experiment']}/models/{ids['net']}/artifacts"
    folder, elsewhere, plain, copy = found["fraud βeta", 2], found["fraud βeta", 3], found["m-plain", 1], found["copies", 1]
    assert (folder["run_id"], folder["model_id"], folder["source_uri"].rpartition("/")[2]) == (ids["long"], None, "model")
    assert (elsewhere["run_id"], elsewhere["source_uri"]) == (None, "s3://elsewhere/it's")
    assert (plain["stage"], plain["model_id"], plain["version_status"]) == ("Production", ids["checkpoint"], "READY")
    assert (copy["model_id"], copy["source_uri"]) == (ids["checkpoint"], plain["source_uri"])


def test_uses_state_which_runs_made_and_used_a_model(mlflow: Served, both: dict[str, Nights]) -> None:
    ids = mlflow.run_ids
    found = {(r["run_id"], r["model_id"], r["direction"], r["step"]) for r in both["database"].rows("model_uses")}
    assert found == {
        (ids["long"], ids["checkpoint"], "output", 1_500),
        (ids["long"], ids["checkpoint"], "source", None),
        (ids["short"], ids["net"], "source", None),
        (ids["judge"], ids["net"], "input", None),
    }


def test_only_metrics_that_policies_name_are_read(mlflow: Served, both: dict[str, Nights]) -> None:
    ids = mlflow.run_ids
    found = [(r["run_id"], r["model_id"], r["metric"], r["step"], r["value"], r["is_last"]) for r in both["database"].rows("run_metrics")]
    assert sorted(found) == sorted(
        [
            (ids["short"], "", "loss", 0, 0.5, False),
            (ids["short"], "", "loss", 1, -0.25, False),
            (ids["short"], "", "loss", 2, 0.25, True),
            (ids["long"], "", "loss", 0, 0.0, False),
            (ids["long"], "", "loss", 1_500, 187.5, False),
            (ids["long"], "", "loss", 2_000, 250.0, True),
            (ids["judge"], "", "val acc", 4, 0.875, True),
            (ids["judge"], ids["net"], "val acc", 4, 0.875, False),
        ]
    )
    assert {(r["kind"], r["state"], r["reason"]) for r in both["api"].rows("tracking_reads")} == {
        (kind, "ok", None) for kind in LINK_TABLES[:-1]
    }


def test_the_uses_of_an_ended_run_are_read_once(api: Nights, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []
    real = ApiLinks.read_uses

    def read_uses(self: ApiLinks, run_ids: list[str]) -> pa.Table:
        asked.append(list(run_ids))
        return real(self, run_ids)

    monkeypatch.setattr(ApiLinks, "read_uses", read_uses)
    before = {name: api.rows(name) for name in LINK_TABLES}
    api.extract()
    assert asked == [[]]
    assert {name: api.rows(name) for name in LINK_TABLES} == before


def test_unreadable_values_are_unknown_and_asked_again(api: Nights, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows stay and the extract succeeds. One row says that the uses are unknown, and the next extract asks every run."""
    before = {name: api.rows(name) for name in LINK_TABLES}

    def refuse(*_: Any) -> pa.Table:
        raise SourceUnreachable("prod", "cannot read prod: 500")

    with monkeypatch.context() as failing:
        failing.setattr(ApiLinks, "read_uses", refuse)
        failing.setattr(ApiLinks, "read_versions", refuse)
        result = api.extract()
    assert {(r["kind"], r["state"]) for r in api.rows("tracking_reads")} == {(kind, "unknown") for kind in LINK_TABLES[:-1]}
    assert result.run_count > 0
    assert [w for w in result.warnings if "model_versions is unknown, so artifacts it may protect stay: cannot read prod: 500" in w]
    assert {name: api.rows(name) for name in LINK_TABLES[:-1]} == {name: before[name] for name in LINK_TABLES[:-1]}
    api.extract()
    assert {name: api.rows(name) for name in LINK_TABLES} == before


def test_without_policies_no_links_are_read(mlflow: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ApiLinks, "read_uses", None)
    nights = Nights(tmp_path, mlflow.settings("api"))
    nights.extract(LinkSettings())
    assert not {table for table, _ in nights.published} & set(LINK_TABLES)
    nights.extract(LinkSettings(KINDS[:1]))  # as when Runspend only writes costs to MLflow
    assert {table for table, _ in nights.published} & set(LINK_TABLES) == {"model_versions", "tracking_reads"}
    assert {row["kind"] for row in nights.rows("tracking_reads")} == {"model_versions"}


@pytest.mark.parametrize("via", ["api", "database"])
def test_only_the_last_value_of_a_sweeps_metric_is_read(mlflow: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, via: str) -> None:
    """Runspend asks no single run and reads no steps and no registry. If policies need other metrics, those keep their steps."""
    ids = mlflow.run_ids
    nights = Nights(tmp_path, mlflow.settings(via))
    with monkeypatch.context() as alone:
        alone.setattr(ApiLinks, "read_uses", None)
        alone.setattr(ApiLinks, "read_points", None)
        alone.setattr(ApiLinks, "read_versions", None)
        nights.extract(LinkSettings(("run_metrics",), ("loss",), ("loss",)))
    last = [(ids["long"], 2_000, 250.0, True), (ids["short"], 2, 0.25, True)]
    assert sorted((r["run_id"], r["step"], r["value"], r["is_last"]) for r in nights.rows("run_metrics")) == sorted(last)
    assert {table for table, _ in nights.published} & set(LINK_TABLES) == {"run_metrics", "tracking_reads"}
    nights.extract(LinkSettings(KINDS, ("loss", "val acc"), ("loss",)))
    assert sorted(
        (r["run_id"], r["step"], r["value"], r["is_last"]) for r in nights.rows("run_metrics") if r["metric"] == "loss"
    ) == sorted(last)
    assert [r["model_id"] for r in nights.rows("run_metrics") if r["metric"] == "val acc"] == ["", ids["net"]]


def test_only_links_that_a_setting_needs_are_read() -> None:
    keep = {"name": "best", "select": {"older_than": "20d"}, "action": "archive", "keep": {"best": 1, "by": "acc", "order": "max"}}
    archive, sweeps = {"to": "archive"}, {"metric": "loss", "best": "min"}
    server = {"name": "prod", "uri": "sqlite:///mlflow.db", "write_token": "anonymous"}
    for settings, expected in (
        ({}, LinkSettings()),
        ({"sweeps": sweeps}, LinkSettings(("run_metrics",), ("loss",), ("loss",))),
        (
            {"sweeps": sweeps, "tracking": [{**server, "annotate": True}]},
            LinkSettings(("model_versions", "run_metrics"), ("loss",), ("loss",)),
        ),
        ({"sweeps": sweeps, "retention": [keep], "archive": archive}, LinkSettings(KINDS, ("acc", "loss"), ("loss",))),
        ({"sweeps": {**sweeps, "metric": "acc"}, "retention": [keep], "archive": archive}, LinkSettings(KINDS, ("acc",))),
    ):
        assert find_links(Settings.model_validate({"stores": [{"uri": "archive", "measure": "none"}], **settings})) == expected


@pytest.mark.parametrize("via", ["api", "database"])
def test_a_separate_registry_is_read(mlflow: Served, tmp_path: Path, via: str) -> None:
    from mlflow import MlflowClient

    elsewhere = f"sqlite:///{make_schema(tmp_path / 'registry.db')}"
    client = MlflowClient(tracking_uri=elsewhere, registry_uri=elsewhere)
    client.create_registered_model("other")
    client.create_model_version("other", "s3://models/other/x", mlflow.run_ids["short"])
    (tmp_path / "nights").mkdir()
    nights = Nights(tmp_path / "nights", mlflow.settings(via, registry=elsewhere))
    nights.extract()
    assert [(r["model_name"], r["run_id"]) for r in nights.rows("model_versions")] == [("other", mlflow.run_ids["short"])]


def test_the_database_is_asked_who_used_and_made_what(mlflow: Served) -> None:
    """Runspend asks this right before it deletes files. A single look answers for any number of ids, even odd ones."""
    ids = mlflow.run_ids
    uses = DatabaseUses("prod", mlflow.database, ids["judge"])
    assert (
        uses.users_of([ids["net"]]) == uses.users_of([*(f"m-{n:032x}" for n in range(1_200)), ids["net"], "it's", "\0"]) == {ids["judge"]}
    )
    assert uses.users_of([ids["checkpoint"]]) == uses.made_by([ids["judge"]]) == frozenset()
    assert uses.made_by([ids["short"], ids["long"]]) == {ids["net"], ids["gone"], ids["checkpoint"]}
    with pytest.raises(SourceUnreachable, match="is missing, which it had before"):
        DatabaseUses("prod", mlflow.database, "f" * 32).users_of([ids["net"]])
    elsewhere = mlflow.database.replace("mlflow.db", "none.db").replace("/registry", "/none")
    with pytest.raises(SourceUnreachable, match="cannot ask the database of prod"):
        DatabaseUses("prod", elsewhere, None).users_of([ids["net"]])
