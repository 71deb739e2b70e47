"""What a real MLflow store shows after successive annotations."""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import signal
import time
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_DOES_NOT_EXIST

from runspend.actions.annotate import write
from runspend.actions.annotate.installation import read_installation_id
from runspend.actions.annotate.shown import read_shown, write_shown
from runspend.actions.annotate.wanted import RUN_COSTS, OwnerCosts
from runspend.actions.annotate.write import MOST_BROKEN, WRITERS, Written, remove_costs, write_costs
from runspend.config.settings import TrackingServer
from runspend.core.cost_keys import FIRST_STEP
from runspend.core.errors import RecordRefused, SourceError
from runspend.ingest.tracking import cost_annotations
from runspend.ingest.tracking.cost_annotations import CostAnnotations
from tests.mlflow_store import make_schema

AS_OF = {"cost_as_of": "2026-11-29T06:00Z"}
Cost = float | None


class Lab:
    """An MLflow store with runs `a` to `c`, and an installation that annotates it."""

    def __init__(self, folder: Path, database: Path | None = None, name: str = "lab") -> None:
        self.home = folder / "home"
        self.uri = f"sqlite:///{database or make_schema(folder / 'mlflow.db')}"
        settings = {"name": name, "uri": self.uri, "write_token": "anonymous", "annotate": True}
        self.server = CostAnnotations(TrackingServer.model_validate(settings), 100_000)
        self.store: Any = self.server._client.store
        self.ids: dict[str, str] = {}

    def create(self, *names: str) -> None:
        experiment = self.store.create_experiment(f"experiment of {names[0]}")
        for name in names:
            self.ids[name] = self.store.create_run(experiment, "ann", 1_000, [], name).info.run_id

    def costs(self, **costs: float) -> pa.Table:
        rows = [
            {"workspace": "default", "experiment_id": self.store.get_run(self.ids[name]).info.experiment_id, "run_id": self.ids[name]}
            | {"currency": "usd", "cost": Decimal(f"{cost:.2f}"), "state": 1, "match": 1, "site": ""}
            for name, cost in costs.items()
        ]
        return pa.Table.from_pylist(rows, schema=RUN_COSTS)

    def annotate(self, **costs: float) -> Written:
        return write_costs(self.server, self.costs(**costs), [], [], AS_OF, self.home)

    def remove(self) -> Written:
        return remove_costs(self.server, self.home)

    def forget(self) -> None:
        shutil.rmtree(self.home / "annotated")

    def shown(self, name: str) -> Cost:
        value = self.store.get_run(self.ids[name]).data.metrics.get("cost_usd")
        return None if value is None or math.isnan(value) else float(value)

    def tags(self, name: str) -> dict[str, str]:
        return dict(self.store.get_run(self.ids[name]).data.tags)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    made = Lab(tmp_path)
    made.create("a", "b", "c")
    return made


@pytest.mark.parametrize("step", [7, 3_000_000_000, 2**63 - 1])
@pytest.mark.parametrize(("key", "value"), [("cost_usd", 0.25), ("cost_val", 0.25), ("cost_usd", math.nan)])
def test_metrics_of_a_training_that_counts_tokens_stay(lab: Lab, key: str, value: float, step: int) -> None:
    from mlflow.entities import Metric

    theirs = Metric(key, value, 5, step)
    lab.store.log_batch(lab.ids["a"], [theirs], [], [])
    is_in_the_way = key == "cost_usd" and (step > FIRST_STEP or not math.isnan(value))
    for _ in range(2):
        assert len(lab.annotate(a=1, b=2).foreign) == is_in_the_way
        assert lab.shown("b") == 2
        assert lab.shown("a") == (1 if not is_in_the_way else None if math.isnan(value) else value)
    lab.remove()
    assert len(lab.store.get_metric_history(lab.ids["a"], key)) == (1 if is_in_the_way or key == "cost_val" else 3)


def test_a_run_that_starts_before_1970_gets_its_cost(lab: Lab) -> None:
    experiment = lab.store.get_run(lab.ids["a"]).info.experiment_id
    lab.ids["old"] = lab.store.create_run(experiment, "ann", -5, [], "old").info.run_id
    assert lab.annotate(old=1).runs == 1
    assert lab.shown("old") == 1


def test_a_run_that_mlflow_refuses_does_not_keep_the_others_of_its_experiment_waiting(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of other experiments do not wait either, even if there are many refused runs."""
    monkeypatch.setattr(write, "MOST_BROKEN", 1)
    first, log_batch = sorted(lab.ids.values())[0], lab.store.log_batch

    def refuse(run_id: str, *given: Any) -> None:
        if run_id == first:
            raise MlflowException("it is odd", INVALID_PARAMETER_VALUE)
        log_batch(run_id, *given)

    monkeypatch.setattr(lab.store, "log_batch", refuse)
    found = lab.annotate(a=1, b=2, c=3)
    assert (found.runs, found.failures.count) == (2, 1)
    assert found.failures.reason == "cannot write costs to lab: it is odd."


def test_a_failing_server_gets_no_further_write(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each write to a server that hangs takes 90 seconds. The first of four threads does not wait for the others."""
    names = [f"n{number}" for number in range(12)]
    lab.create(*names)
    slow, tried = sorted(lab.ids[name] for name in names)[0], []

    def fail(run_id: str, *_: object) -> None:
        tried.append(run_id)
        time.sleep(2 if run_id == slow else 0.5)
        raise MlflowException("timed out")

    monkeypatch.setattr(lab.store, "log_batch", fail)
    assert lab.annotate(**dict.fromkeys(names, 1.0)).failures.count == len(names)
    assert len(tried) == WRITERS


def test_each_page_of_annotated_runs_is_read_once(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.annotate(a=1, b=2, c=3)
    lab.forget()
    monkeypatch.setattr(cost_annotations, "READ_RUNS", 2)
    asked: list[str] = []
    search = lab.store.search_runs
    monkeypatch.setattr(lab.store, "search_runs", lambda *given: (asked.append(given[1]), search(*given))[1])
    assert lab.annotate(a=1, b=2).runs == 1
    assert len([condition for condition in asked if "LIKE" in condition]) == 2
    assert [lab.shown(name) for name in "abc"] == [1, 2, None]
    assert "runspend.costs" not in lab.tags("c")


def test_a_restored_run_gets_the_cost_that_it_has_now(lab: Lab) -> None:
    """While it was deleted, its cost disappeared or changed. An installation that lost its files also looks for deleted runs."""
    for forgets in (False, True):
        lab.annotate(a=1, b=2, c=3)
        for name in "abc":
            lab.store.delete_run(lab.ids[name])
        if forgets:
            lab.forget()
        for _ in range(2):
            assert lab.annotate().runs == 0
        for name in "abc":
            lab.store.restore_run(lab.ids[name])
        lab.annotate(b=20, c=3)
        assert [lab.shown(name) for name in "abc"] == [None, 20, 3]
        assert lab.annotate(b=20, c=3).runs == 0


def test_a_run_that_was_deleted_during_removal_is_cleaned_by_the_next(lab: Lab) -> None:
    lab.annotate(a=1, b=2)
    lab.store.delete_run(lab.ids["a"])
    assert lab.remove().runs == 1
    assert (lab.shown("a"), lab.shown("b")) == (1, None)
    lab.store.restore_run(lab.ids["a"])
    assert lab.remove().runs == 1
    assert lab.shown("a") is None


@pytest.mark.parametrize("theirs", [{"cost_status": "mine"}, {"runspend.costs": "mine"}, {"runspend.costs": "mine", "cost_match": "mine"}])
def test_a_cost_that_vanishes_beside_tags_of_a_person_is_withdrawn(lab: Lab, theirs: dict[str, str]) -> None:
    """This also holds if the installation lost its files and compared the run with MLflow."""
    from mlflow.entities import RunTag

    lab.annotate(a=1, b=2)
    for key, value in theirs.items():
        lab.store.set_tag(lab.ids["a"], RunTag(key, value))
    lab.forget()
    assert lab.annotate(a=1, b=2).foreign == [f"run {lab.ids['a']}"]
    assert lab.shown("a") == 1
    lab.annotate(b=2)
    assert (lab.shown("a"), lab.shown("b")) == (None, 2)
    assert theirs.items() <= lab.tags("a").items()
    assert lab.annotate(b=2).runs == 0


def test_two_installations_leave_each_others_costs_alone(lab: Lab, tmp_path: Path) -> None:
    """Both use the same server name. The first one to annotate a run keeps it, and the other one reports that."""
    other = Lab(tmp_path / "other", tmp_path / "mlflow.db")
    other.ids = lab.ids
    lab.annotate(a=1)
    first = read_installation_id(lab.home)
    assert other.annotate(a=10, b=20).others == {first: 1}
    for _ in range(2):
        assert lab.annotate(a=2, b=2).runs <= 1
        assert other.annotate(a=10, b=30).runs <= 1
        assert (lab.shown("a"), lab.shown("b")) == (2, 30)
    other.forget()
    other.annotate(b=30)  # compares every run with MLflow
    assert other.remove().others == {first: 1}
    assert (lab.shown("a"), lab.shown("b")) == (2, None)

    lab.annotate(a=2, c=3)
    (other.home / "installation").write_text(first, encoding="utf-8")  # this installation takes over
    other.annotate(a=10, b=20)
    assert [lab.shown(name) for name in "abc"] == [10, 20, None]


def test_two_installations_leave_each_others_experiments_alone(lab: Lab, tmp_path: Path) -> None:
    other = Lab(tmp_path / "other", tmp_path / "mlflow.db")
    experiment = lab.store.get_run(lab.ids["a"]).info.experiment_id

    def annotate(whose: Lab, total: str) -> Written:
        wanted = [OwnerCosts("default", (experiment,), {"cost_usd_total": total})]
        return write_costs(whose.server, whose.costs(), wanted, [], AS_OF, whose.home)

    annotate(lab, "1.00")
    assert annotate(other, "2.00").others == {read_installation_id(lab.home): 1}
    assert lab.store.get_experiment(experiment).tags["cost_usd_total"] == "1.00"
    assert +other.annotate().others == {}


def test_a_renamed_server_removes_what_it_wrote_under_its_former_name(lab: Lab, tmp_path: Path) -> None:
    lab.annotate(a=1, b=2, c=3)
    renamed = Lab(tmp_path, tmp_path / "mlflow.db", "renamed")
    renamed.ids = lab.ids
    renamed.annotate(b=2, c=3)
    assert [lab.shown(name) for name in "abc"] == [None, 2, 3]
    assert renamed.remove().runs == 2
    assert [lab.shown(name) for name in "abc"] == [None, None, None]


def test_a_removal_counts_what_it_leaves_to_another_server_of_the_configuration(lab: Lab, tmp_path: Path) -> None:
    lab.annotate(a=1, b=2)
    other = Lab(tmp_path, tmp_path / "mlflow.db", "other")
    removed = remove_costs(other.server, other.home, other_servers=["lab"])
    assert (removed.runs, removed.other_servers) == (0, {"lab": 2})
    assert lab.shown("a") == 1


def test_an_id_that_runspend_did_not_make_is_refused(tmp_path: Path) -> None:
    first = read_installation_id(tmp_path)
    assert read_installation_id(tmp_path) == first != read_installation_id(tmp_path / "other")
    (tmp_path / "installation").write_text("mine", encoding="utf-8")
    with pytest.raises(RecordRefused, match="it is not an id of 16 hexadecimal digits"):
        read_installation_id(tmp_path)


@pytest.mark.parametrize(
    "rows",
    [
        None,
        pa.table({"a": [1]}),
        pa.table([["x"]] * len(RUN_COSTS), RUN_COSTS.names),
        pa.table([pa.nulls(1)] * len(RUN_COSTS), RUN_COSTS.names),
    ],
)
def test_notes_that_someone_else_wrote_count_as_missing(tmp_path: Path, rows: pa.Table | None) -> None:
    """Anyone can compute a digest, so Runspend asks MLflow."""
    write_shown(tmp_path, "lab", RUN_COSTS.empty_table())
    assert read_shown(tmp_path, "lab") is not None
    [path] = (tmp_path / "annotated").iterdir()
    sink = pa.BufferOutputStream()
    if rows is not None:
        pq.write_table(rows, sink)
    content = sink.getvalue().to_pybytes()
    path.write_bytes(hashlib.sha256(content).digest() + content)
    assert read_shown(tmp_path, "lab") is None


def test_a_server_that_fails_everywhere_ends_the_step_and_the_next_one_goes_on(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"n{number}" for number in range(40)]
    for name in names:
        lab.create(name)
    costs = {name: float(number + 1) for number, name in enumerate(names)}
    tried: list[str] = []

    def fail(run_id: str, *_: object) -> None:
        tried.append(run_id)
        time.sleep(0.3)
        raise MlflowException("too many 500 error responses")

    with monkeypatch.context() as patch:
        patch.setattr(lab.store, "log_batch", fail)
        with pytest.raises(SourceError, match="too many 500 error responses"):
            lab.annotate(**costs)
    assert MOST_BROKEN <= len(tried) < len(names)
    assert lab.annotate(**costs).runs == len(names)


@pytest.mark.parametrize(("status", "header"), [(500, {}), (503, {"Retry-After": "3600"})])
def test_a_failing_request_is_tried_three_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, header: dict[str, str]
) -> None:
    """By default, MLflow's client retries for four minutes, and longer if the server asks for it."""
    for variable in cost_annotations.PATIENCE:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            for key, value in header.items():
                self.send_header(key, value)
            self.end_headers()

        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/version" else 404)
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as stub:
        Thread(target=stub.serve_forever, args=(0.01,), daemon=True).start()
        settings = {"name": "lab", "uri": f"http://127.0.0.1:{stub.server_port}", "write_token": "anonymous"}
        server = CostAnnotations(TrackingServer.model_validate(settings), 1_000)
        with pytest.raises(SourceError, match=f"too many {status} error responses"):
            server.read_runs("default", ["1"], ["a"])
        stub.shutdown()
    assert len(asked) == 3


def killed_after_a_write(lab: Lab, **costs: float) -> None:
    """Annotate in another process, which is killed after its first write."""
    pid = os.fork()
    if pid == 0:
        write_run = lab.server.write_run

        def die(*given: Any) -> None:
            write_run(*given)
            os.kill(os.getpid(), signal.SIGKILL)

        lab.server.write_run = die  # type: ignore[method-assign]  # only in this process
        lab.annotate(**costs)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def test_a_cost_that_a_killed_annotation_wrote_is_withdrawn_when_it_vanishes(lab: Lab) -> None:
    lab.annotate(a=1)
    killed_after_a_write(lab, a=1, b=2)
    assert lab.shown("b") == 2
    lab.annotate(a=1)
    assert (lab.shown("a"), lab.shown("b")) == (1, None)


def test_a_cost_that_a_killed_annotation_wrote_is_corrected_even_if_it_is_in_no_sample(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "SAMPLE", 1)
    lab.annotate(a=1, b=1, c=1)
    known = read_shown(lab.home, lab.server.place)
    assert known is not None
    [second] = [name for name in "abc" if lab.ids[name] == known["run_id"][1].as_py()]
    killed_after_a_write(lab, **{name: 1 + (name == second) for name in "abc"})
    assert lab.shown(second) == 2
    lab.annotate(a=1, b=1, c=1)
    assert lab.shown(second) == 1


def test_a_write_that_succeeded_but_returned_an_error_is_checked_again(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    log_batch = lab.store.log_batch

    def fail_after(*given: Any) -> None:
        log_batch(*given)
        raise MlflowException("too many 500 error responses")

    lab.annotate(a=1)
    with monkeypatch.context() as patch:
        patch.setattr(lab.store, "log_batch", fail_after)
        assert lab.annotate(a=1, b=2).failures.count == 1
    lab.annotate(a=1)
    assert (lab.shown("a"), lab.shown("b")) == (1, None)


def test_writes_in_progress_when_the_step_ends_are_checked_again(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first failure of the last server ends the step while other threads still write."""
    log_batch, first, others_write = lab.store.log_batch, sorted(lab.ids[name] for name in "abc")[0], Event()

    def fail_first(run_id: str, *given: Any) -> None:
        if run_id == first:
            others_write.wait(30)
            raise MlflowException("too many 500 error responses")
        others_write.set()
        time.sleep(0.5)
        log_batch(run_id, *given)

    lab.annotate()
    with monkeypatch.context() as patch:
        patch.setattr(write, "MOST_BROKEN", 1)
        patch.setattr(lab.store, "log_batch", fail_first)
        with pytest.raises(SourceError):
            lab.annotate(a=1, b=2, c=3)
    assert any(lab.shown(name) for name in "abc")
    lab.annotate()
    assert [lab.shown(name) for name in "abc"] == [None, None, None]


def test_an_interrupted_comparison_with_mlflow_is_done_again(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The installation lost its file, so it does not know which runs show a cost. It ended before it had checked all of them."""
    lab.annotate(a=1, b=2, c=3)
    lab.forget()
    with monkeypatch.context() as patch:
        patch.setattr(lab.server, "read_runs", interrupt)
        with pytest.raises(KeyboardInterrupt):
            lab.annotate(a=1, b=2, c=3)
    lab.annotate(a=1)
    assert [lab.shown(name) for name in "abc"] == [1, None, None]


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_removal_also_finds_runs_whose_record_a_person_deleted(lab: Lab) -> None:
    """This also holds if the removal is killed and started again."""
    for is_killed in (False, True):
        lab.annotate(a=1, b=2)
        lab.store.delete_tag(lab.ids["a"], "runspend.costs")
        if is_killed:
            killed_after_a_write(lab)
        lab.remove()
        assert (lab.shown("a"), lab.shown("b")) == (None, None)
        assert not any(tag.startswith("cost_") for tag in lab.tags("a"))


def test_a_run_whose_record_a_person_deleted_gets_its_next_cost(lab: Lab) -> None:
    lab.annotate(a=1, b=2)
    lab.store.delete_tag(lab.ids["a"], "runspend.costs")
    assert lab.annotate(a=3, b=2).foreign == []
    assert (lab.shown("a"), "runspend.costs" in lab.tags("a")) == (3, True)


def test_a_cost_in_an_experiment_that_was_deleted_and_restored_is_corrected(lab: Lab) -> None:
    """The installation lost its file in the meantime."""
    lab.annotate(a=1, b=2)
    experiment = lab.store.get_run(lab.ids["a"]).info.experiment_id
    lab.store.delete_experiment(experiment)
    lab.forget()
    lab.annotate()
    lab.store.restore_experiment(experiment)
    lab.annotate()
    assert (lab.shown("a"), lab.shown("b")) == (None, None)


def test_a_tag_that_a_person_deleted_is_written_again(lab: Lab) -> None:
    lab.annotate(a=1, b=2)
    lab.store.delete_tag(lab.ids["a"], "cost_status")
    assert lab.annotate(a=1, b=2).runs == 1
    assert lab.tags("a")["cost_status"] == "final"
    assert lab.annotate(a=1, b=2).runs == 0


def test_an_answer_that_drips_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow's client limits the time for each piece of an answer, not for the whole."""
    monkeypatch.setattr(cost_annotations, "PAUSES", 1)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    stopped = Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "100000")
            self.end_headers()
            while not stopped.wait(0.2):
                self.wfile.write(b" ")

        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/version" else 404)
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as stub:
        Thread(target=stub.serve_forever, args=(0.01,), daemon=True).start()
        settings = {"name": "lab", "uri": f"http://127.0.0.1:{stub.server_port}", "write_token": "anonymous"}
        server = CostAnnotations(TrackingServer.model_validate(settings), 1_000)
        begun = time.monotonic()
        with pytest.raises(SourceError, match="cannot read lab: the answer was not complete after 2 seconds"):
            server.read_runs("default", ["1"], ["a"])
        assert time.monotonic() - begun < 10
        stopped.set()
        stub.shutdown()


def hide_experiment(lab: Lab, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Make searches answer as Databricks does if an experiment no longer exists."""
    gone, search = lab.store.get_run(lab.ids[name]).info.experiment_id, lab.store.search_runs

    def refuse(experiments: list[str], *given: object) -> Any:
        if gone in experiments:
            raise MlflowException(f"Node ID {gone} does not exist.", RESOURCE_DOES_NOT_EXIST)
        return search(experiments, *given)

    monkeypatch.setattr(lab.store, "search_runs", refuse)


def test_an_experiment_that_is_gone_does_not_hide_the_runs_of_others(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.create("d")
    lab.create("e")
    lab.annotate(b=2, d=4, e=5)
    costs = lab.costs(a=1, b=3, d=5, e=6)
    hide_experiment(lab, monkeypatch, "d")
    found = write_costs(lab.server, costs, [], [], AS_OF, lab.home)
    assert (found.runs, found.gone, found.failures.count) == (3, 1, 0)
    assert [lab.shown(name) for name in "abde"] == [1, 3, 4, 6]


def test_an_experiment_that_vanishes_meanwhile_does_not_end_the_step(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def vanish(*_: object) -> None:
        hide_experiment(lab, monkeypatch, "a")
        raise MlflowException("Node ID does not exist.", RESOURCE_DOES_NOT_EXIST)

    costs = lab.costs(a=1)
    monkeypatch.setattr(lab.store, "log_batch", vanish)
    found = write_costs(lab.server, costs, [], [], AS_OF, lab.home)
    assert (found.runs, found.gone, found.failures.count) == (0, 1, 0)
