"""Costs in MLflow's own tables, on a real MLflow server with partial adoption.

They are written once, one command removes them, and Runspend never mistakes them for a sign of activity.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runspend.config.settings import load_settings
from runspend.core.cost_keys import FIRST_STEP
from runspend.warehouse.factory import open_warehouse
from tests.command import run_here
from tests.ingest.tracking.mlflow_servers import mlflow_server
from tests.servers.faulty_proxy import FaultyProxy, faulty_proxy
from tests.tiny_world import DAY, MACHINE, make_store, make_tiny_world

NOW = "2026-11-04T06:00"
BEGIN, HOUR = int(DAY.timestamp() * 1000), 3_600_000
SITE = "https://runspend.example.com"
WRITES = ("log-batch", "set-tag", "delete-tag", "set-experiment-tag", "delete-experiment-tag", "log-metric")
READ_BACK = (
    "runs",
    "run_resources",
    "experiments",
    "artifact_owners",
    "model_versions",
    "cost_allocations",
    "run_costs",
    "run_costs_daily",
)


@dataclass
class Lab:
    """A company's server with runs of every kind on one billed machine."""

    config: Path
    proxy: FaultyProxy
    client: Any
    ids: dict[str, str]

    def runspend(self, *words: str, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        return run_here(*words, "--config", str(self.config), cwd=self.config.parent, code=code)

    def read_through(self, via: str) -> None:
        """Read the server through its API or its database from now on."""
        settings = json.loads(self.config.read_text(encoding="utf-8"))
        settings["tracking"][0]["via"] = via
        self.config.write_text(json.dumps(settings), encoding="utf-8")

    def run(self, name: str) -> Any:
        return self.client.get_run(self.ids[name])

    def writes(self) -> list[str]:
        return [request.split()[1] for request in self.proxy.seen if any(f"/{kind} " in request for kind in WRITES)]

    def extracts(self) -> list[str]:
        """Return the API searches of an extract. Only an extract searches by the start of runs."""
        return [request for request in self.proxy.seen if "/runs/search " in request and "attributes.start_time >=" in request]

    def owners(self) -> tuple[Any, Any]:
        return self.client.get_experiment(self.run("open").info.experiment_id), self.client.get_model_version("net", "1")

    def digests(self) -> dict[str, str]:
        states = open_warehouse(load_settings(self.config)).states(*READ_BACK)
        return {f"{unit.table}/{unit.period}/{unit.writer}": state.digest for unit, state in states.items()}


def fill(client: Any) -> dict[str, str]:
    """Create users' runs on the day of the bill, and return their ids by name. The two runs of the tiny world already exist."""
    [vit] = client.search_experiments(filter_string="name = 'vit'")
    machine = {"runspend.resources": json.dumps([{"id": MACHINE}])}
    ids = {f"tiny {run.info.end_time}": run.info.run_id for run in client.search_runs([vit.experiment_id])}

    def run(name: str, start: float, end: float | None, status: str = "FINISHED", experiment: str = vit.experiment_id, **tags: str) -> str:
        made = client.create_run(experiment, start_time=int(BEGIN + start * HOUR), tags={**machine, **tags}, run_name=name)
        ids[name] = made.info.run_id
        client.log_param(made.info.run_id, "lr", "0.1")
        for step in range(3):
            client.log_metric(made.info.run_id, "loss", 1 / (step + 1), timestamp=int(BEGIN + (start + 0.1 * step) * HOUR), step=step)
        if end is not None:
            client.set_terminated(made.info.run_id, status, end_time=int(BEGIN + end * HOUR))
        return str(made.info.run_id)

    run("crashed", 5, 6, "FAILED")
    trained = run("trained", 7, 9)
    run("trial", 7, 8, "FAILED", **{"mlflow.parentRunId": trained})
    run("described", 10, 11, **{"mlflow.note.content": "the one for the paper"})
    run("deleted", 12, 13)
    run("open", 20, None)
    priced = run("priced", 14, 15)
    client.log_metric(priced, "cost_usd", 0.37, timestamp=BEGIN + 14 * HOUR + 5, step=0)  # an evaluation that logs its own token cost
    client.delete_run(ids["deleted"])
    client.create_registered_model("net")
    client.create_model_version("net", f"runs:/{trained}/model", run_id=trained)
    return ids


@contextmanager
def lab(folder: Path) -> Iterator[Lab]:
    """A server that Runspend reads through its database."""
    from mlflow import MlflowClient

    make_store(folder / "store")
    config = make_tiny_world(folder / "world", folder / "store")
    with mlflow_server(folder, f"sqlite:///{folder / 'world' / 'mlflow.db'}") as uri, faulty_proxy(uri) as proxy:
        settings = json.loads(config.read_text(encoding="utf-8"))
        server = {"name": "lab", "uri": proxy.uri, "write_token": "anonymous", "annotate": True, "copy": {"tags": "all"}}
        settings["tracking"] = [server | {"database": "sqlite:///mlflow.db"}]
        settings["site"] = {"url": SITE}
        settings["mail"]["operators"] = []
        config.write_text(json.dumps(settings), encoding="utf-8")
        client = MlflowClient(uri)
        yield Lab(config, proxy, client, fill(client))


def test_costs_stand_in_mlflow_and_are_never_read_back(tmp_path: Path) -> None:
    """Runspend reads them back neither from the database nor through the API: the tables stay as they were before any cost was written."""
    with lab(tmp_path) as there:
        summary = there.runspend("nightly", "--now", NOW).stdout
        assert "annotated=lab: wrote costs of 7 runs, 1 experiment, 1 model version\n" in summary
        digests = there.digests()
        check_runs(there)
        check_searches(there)
        check_owners(there)

        there.proxy.begin()
        assert "annotated=lab: no cost changed\n" in there.runspend("nightly", "--now", NOW).stdout
        checked = there.runspend("doctor", "--quick", "--now", NOW, code=None).stdout
        assert "costs are written to MLflow after each pipeline run: `write_token` logs in" in checked
        assert there.writes() == []
        assert there.digests() == digests
        [kept] = (there.config.parent / "home" / "annotated").iterdir()
        kept.write_bytes(kept.read_bytes()[:-9])  # then MLflow itself determines what it shows
        compared = there.runspend("annotate", "--now", "2026-11-05T06:00")
        assert there.writes() == []
        assert "no extract has read them" not in compared.stdout
        assert f"these names already have values that Runspend did not write: run {there.ids['priced']}\n" in compared.stdout

        assert there.extracts() == []
        there.read_through("api")
        assert "annotated=lab: no cost changed\n" in there.runspend("nightly", "--now", NOW).stdout
        assert there.extracts() != [] and there.writes() == []
        assert there.digests() == digests

        check_removal(there)
        there.runspend("nightly", "--now", NOW)
        assert there.digests() == digests
        check_runs(there)  # the costs are written again
        there.read_through("database")
        there.runspend("extract", "--now", NOW)
        assert there.digests() == digests


def check_runs(there: Lab) -> None:
    """The machine costs 40 an hour, and runs at the same time share it."""
    costs = {name: there.run(name).data.metrics.get("cost_usd") for name in there.ids}
    shown = {name: cost for name, cost in costs.items() if not name.startswith("tiny")}
    # The trial ran inside "trained", which does not pay during that time.
    assert shown == {"crashed": 40, "trained": 40, "trial": 40, "described": 40, "deleted": None, "open": 160, "priced": 0.37}
    assert sorted(cost for name, cost in costs.items() if name.startswith("tiny")) == [60, 100]
    trained = there.run("trained")
    assert {key: trained.data.tags[key] for key in ("cost_status", "cost_match", "cost_as_of")} == {
        "cost_status": "provisional", "cost_match": "high", "cost_as_of": "2026-11-04T06:00Z",
    }  # fmt: skip
    assert trained.data.tags["mlflow.note.content"] == f"Cost of this run, line by line: {SITE}/run/{there.ids['trained']}"
    assert there.run("described").data.tags["mlflow.note.content"] == "the one for the paper"
    assert "cost_status" not in there.run("priced").data.tags
    [point] = [p for p in there.client.get_metric_history(there.ids["trained"], "cost_usd") if p.value == p.value][-1:]
    assert point.timestamp == trained.info.end_time
    [point] = [p for p in there.client.get_metric_history(there.ids["open"], "cost_usd") if p.value == p.value][-1:]
    assert point.timestamp == BEGIN + 20 * HOUR  # at its start, because it has no end yet


def check_searches(there: Lab) -> None:
    def names(condition: str, order: str = "metrics.cost_usd DESC") -> list[str]:
        found = there.client.search_runs([there.run("open").info.experiment_id], condition, order_by=[order])
        return [run.info.run_name for run in found if run.info.run_id in set(there.ids.values())]

    assert names("metrics.cost_usd > 50")[0] == "open" and len(names("metrics.cost_usd > 50")) == 3
    assert names("metrics.cost_usd > 39 and tags.cost_match = 'high' and tags.cost_status = 'provisional'")[-1] != "priced"
    assert names("attributes.status = 'FINISHED'", "metrics.cost_usd ASC")[0] == "priced"


def check_owners(there: Lab) -> None:
    """The experiment's total includes the deleted run. The version includes its run's search and the failures before it, but no storage."""
    tags = there.client.get_experiment(there.run("open").info.experiment_id).tags
    assert {key: tags[key] for key in ("cost_usd_total", "cost_usd_month_to_date")} == {
        "cost_usd_total": "560.0000",
        "cost_usd_month_to_date": "560.0000",
    }
    version = there.client.get_model_version("net", "1")
    assert {key: value for key, value in version.tags.items() if key not in ("cost_as_of", "runspend.costs")} == {
        "cost_usd_training": "80.0000", "cost_usd_failed_attempts": "40.0000", "cost_usd_storage": "0.0000",
    }  # fmt: skip


def check_removal(there: Lab) -> None:
    for _ in range(2):
        there.runspend("annotate", "--remove")
        for name in there.ids:
            run = there.run(name)
            if name != "deleted":
                assert math.isnan(run.data.metrics["cost_usd"]) or name == "priced"
            assert not [tag for tag in run.data.tags if tag.startswith("cost_") or tag == "runspend.costs"]
        assert there.run("priced").data.metrics["cost_usd"] == 0.37
        assert there.run("described").data.tags["mlflow.note.content"] == "the one for the paper"
        assert "mlflow.note.content" not in there.run("trained").data.tags
        assert [tag for owner in there.owners() for tag in owner.tags if tag.startswith(("cost_", "runspend.costs"))] == []
        assert there.client.search_runs([there.run("open").info.experiment_id], "metrics.cost_usd > 1") == []


def test_an_annotation_that_fails_or_is_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    with lab(tmp_path) as there:
        for step in ("extract", "load", "allocate"):
            there.runspend(step, "--now", NOW)

        text = there.config.read_text(encoding="utf-8")
        there.config.write_text(text.replace(there.proxy.uri, "http://127.0.0.1:9"), encoding="utf-8")
        assert "cannot write all costs to lab" in there.runspend("annotate", "--now", NOW, code=3).stderr
        there.config.write_text(text, encoding="utf-8")

        command = [sys.executable, "-m", "runspend.interfaces.cli", "annotate", "--config", str(there.config), "--now", NOW]
        environment = {**os.environ, "RUNSPEND_CRASH_AT": "annotate.run"}
        killed = subprocess.run(command, env=environment, capture_output=True, check=False, timeout=300)
        assert killed.returncode == -signal.SIGKILL
        before = there.writes()
        assert 0 < len(before) < 7
        there.proxy.begin()
        there.runspend("annotate", "--now", NOW)
        check_runs(there)
        assert len([write for write in (*before, *there.writes()) if "log-batch" in write]) == 7  # each run is written only once

        # MLflow shows the metric with the highest step, so a smaller cost needs a new step. The ended run now has another time.
        bill = there.config.parent / "bills" / "bill" / "part.csv"
        bill.write_text(bill.read_text(encoding="utf-8").replace("40.0000000000", "10.0000000000"), encoding="utf-8")
        there.client.set_terminated(there.ids["open"], end_time=BEGIN + 22 * HOUR)
        later = "2026-11-05T06:00"
        there.runspend("extract", "--now", later)
        there.runspend("load", "--accept", "bill:2026-11", "--now", later)
        there.runspend("allocate", "--now", later)
        there.runspend("annotate", "--now", later)
        assert there.run("crashed").data.metrics["cost_usd"] == 10
        assert there.run("open").data.metrics["cost_usd"] == 20
        assert there.run("open").data.tags["cost_as_of"] == "2026-11-05T06:00Z"

        # A server restored from a backup does not show the written costs, so Runspend writes them again.
        for name in ("crashed", "trained"):
            for tag in ("cost_status", "cost_match", "cost_as_of", "runspend.costs"):
                there.client.delete_tag(there.ids[name], tag)
            there.client.log_metric(there.ids[name], "cost_usd", float("nan"), timestamp=BEGIN, step=FIRST_STEP + 9)
        there.runspend("annotate", "--now", later)
        assert there.run("crashed").data.metrics["cost_usd"] == 10

        # The machine is no longer on the bill. MLflow shows no cost, and users' values stay.
        bill.write_text(bill.read_text(encoding="utf-8").replace(MACHINE, "i-0bbbbbbbbbbbbbbbb"), encoding="utf-8")
        shutil.rmtree(there.config.parent / "home" / "annotated")
        there.runspend("load", "--now", later)
        there.runspend("allocate", "--now", later)
        there.runspend("annotate", "--now", later)
        costs = {name: there.run(name).data.metrics.get("cost_usd") for name in there.ids}
        assert {name for name, cost in costs.items() if cost == cost} == {"priced", "deleted"} and costs["priced"] == 0.37
        tags = [tag for owner in there.owners() for tag in owner.tags if tag.startswith(("cost_", "runspend.costs"))]
        assert tags == []


def test_missing_settings_are_reported(tmp_path: Path) -> None:
    def run(tracking: dict[str, Any], *words: str, code: int = 2) -> str:
        (tmp_path / "runspend.yaml").write_text(
            json.dumps({"tracking": [{"name": "lab", "uri": "http://127.0.0.1:9", **tracking}]}), encoding="utf-8"
        )
        done = run_here("annotate", *words, cwd=tmp_path, code=code)
        return done.stdout + done.stderr

    assert "`annotate` needs a login that may write. Set `write_token`" in run({"annotate": True})
    assert "cannot write costs to lab: the server has no `annotate: true`" in run({"write_token": "anonymous"}, "lab")
    assert "cannot find tracking server 'other'" in run({"write_token": "anonymous"}, "other")
    assert "requests_per_second" in run({"write_token": "anonymous", "annotate": {"requests_per_second": 0}})
    printed = run({"annotate": True, "write_token": "anonymous"}, code=3)
    assert "lab: model versions show no cost yet, because no extract has read them. Run `runspend extract lab`, then this again" in printed
