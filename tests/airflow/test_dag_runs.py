"""Runs each DAG to its end in this process, in its own world, and checks its results, its events and the mails about failures."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from runspend import pipeline
from runspend.airflow.lineage import TABLES_OF
from runspend.config.settings import load_settings
from runspend.core.step_result import Outcome
from runspend.warehouse.factory import open_warehouse
from runspend.warehouse.parquet.warehouse import ParquetWarehouse
from tests.airflow.conftest import subjects
from tests.dag_ids import DAG_IDS
from tests.faults.damaged_world import Flip
from tests.servers.smtp import smtp_server
from tests.tiny_world import NOW

Run = Callable[..., dict[str, str]]
STEPS = {"allocate": ("settle",), "archive": ("archive_plan", "archive_notify", "archive_apply", "archive_verify_monthly")}
ORDER = ("extract", "measure", "load", "allocate", "report", "alert", "archive")


def rows(config: Path, sql: str) -> list[dict[str, Any]]:
    """Return the rows of a query on the world's warehouse."""
    with open_warehouse(load_settings(config).warehouse.uri).reader() as reader:
        found: list[dict[str, Any]] = reader.query(sql).to_pylist()
    return found


def emitted(dag_id: str) -> int:
    """Return how many asset events a DAG has emitted so far."""
    from airflow.models.asset import AssetEvent
    from airflow.utils.session import create_session

    with create_session() as session:
        return session.query(AssetEvent).filter(AssetEvent.source_dag_id == dag_id).count()


def newest_extra(asset: str) -> Any:
    """Return the extra data in the newest event of an asset."""
    from airflow.models.asset import AssetEvent, AssetModel
    from airflow.utils.session import create_session

    with create_session() as session:
        events = session.query(AssetEvent).join(AssetModel, AssetModel.id == AssetEvent.asset_id).filter(AssetModel.name == asset)
        return events.order_by(AssetEvent.id.desc()).first().extra


def states_of(config: Path) -> dict[Any, str]:
    """Return the digest of every unit."""
    return {unit: state.digest for unit, state in open_warehouse(load_settings(config).warehouse.uri).states().items()}


def add_broken_bill(config: Path) -> None:
    """Add a second bill that cannot be read."""
    settings = json.loads(config.read_text())
    settings["billing"].append({"name": "broken", "uri": "bills/broken"})
    config.write_text(json.dumps(settings))
    bad = config.parent / "bills" / "broken" / "part.csv.gz"
    bad.parent.mkdir()
    bad.write_bytes(b"not gzip at all")


def test_all_dags_of_a_night_succeed(run_dag: Run, config: Path) -> None:
    """The DAGs run in the order in which their assets wake them, and write the ledger, the report and the budget's mail.

    Events contain totals. A DAG writes only tables that its lineage names.
    """
    for name in ORDER:
        before, units = emitted(DAG_IDS[name]), states_of(config)
        states = run_dag(name, now=NOW.isoformat())
        assert states.pop("dag") == "success"
        watcher = states.pop("watcher", None)
        assert set(states.values()) == {"success"}
        assert (watcher, emitted(DAG_IDS[name]) - before) == (("skipped", 1) if "published" in states else (None, 0))
        written = {unit.table for unit, _ in states_of(config).items() - units.items()}
        assert written <= {table for step in STEPS.get(name, (name,)) for table in TABLES_OF[step][1]}, name
    assert rows(config, "select allocated_to, sum(effective_cost) as cost from cost_allocations group by 1 order by 1") == [
        {"allocated_to": "idle", "cost": Decimal(800)},  # 20 of 24 hours
        {"allocated_to": "run", "cost": Decimal(160)},  # 4 hours, one of them shared by both
    ]
    assert newest_extra("runspend/runs") == {"totals": [{"period": "2026-11", "tracking_server": "lab", "runs": 2}]}
    assert newest_extra("runspend/costs") == {
        "totals": [
            {"period": "2026-11", "billing_currency": "USD", "allocated_to": "idle", "effective_cost": "800"},
            {"period": "2026-11", "billing_currency": "USD", "allocated_to": "run", "effective_cost": "160"},
        ]
    }
    (bill,) = newest_extra("runspend/bills")["totals"]
    assert (bill["bill_lines"], bill["effective_cost"], newest_extra("runspend/artifact_bytes")["totals"][0]["bytes"]) == (24, "960", 1000)
    home = config.parent / "home"
    assert (home / "reports" / "2026-11.html").exists()
    assert [subject for subject in subjects(home) if "vision" in subject]


def test_a_bill_that_fails_fails_alone(run_dag: Run, config: Path) -> None:
    """Runspend loads the other bill, emits the asset event and fails the DAG run. The step itself sends operators one mail."""
    add_broken_bill(config)
    before = emitted("runspend_load_bills")
    for _ in range(2):
        states = run_dag("load", now=NOW.isoformat())
        assert states == {
            "sources": "success",
            "load[bill]": "success",
            "load[broken]": "failed",
            "published": "success",
            "watcher": "failed",
            "dag": "failed",
        }
    assert emitted("runspend_load_bills") == before + 2
    assert len(rows(config, "select * from billing_lines")) == 24
    assert [subject.split(":")[0] for subject in subjects(config.parent / "home")] == ["[runspend] REFUSED"]


def test_only_a_source_that_does_not_answer_is_tried_again(dag_bag: Any, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing folder may be mounted a minute later, but a broken file stays broken. Operators get one mail about each."""
    settings = json.loads(config.read_text())
    settings["billing"] += [{"name": "broken", "uri": "bills/broken"}, {"name": "gone", "uri": "bills/gone"}]
    config.write_text(json.dumps(settings))
    bad = config.parent / "bills" / "broken" / "part.csv.gz"
    bad.parent.mkdir()
    bad.write_bytes(b"not gzip at all")
    dag = dag_bag.dags["runspend_load_bills"]
    monkeypatch.setattr(dag.get_task("load"), "retries", 1)
    monkeypatch.setattr(dag.get_task("load"), "retry_delay", timedelta(0))
    done = dag.test(logical_date=None, run_conf={"now": NOW.isoformat()})
    tries = {ti.rendered_map_index: (str(ti.state), ti.try_number) for ti in done.get_task_instances() if ti.task_id == "load"}
    assert tries == {"bill": ("success", 1), "broken": ("failed", 1), "gone": ("failed", 2)}
    assert sorted(subject.split(":")[0] for subject in subjects(config.parent / "home")) == ["[runspend] REFUSED", "[runspend] UNREACHABLE"]


def test_a_failing_task_is_mailed_once_a_day(run_dag: Run, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Airflow's own callback mails an unexpected error to operators, with the name of the task. It does not need the warehouse."""

    def explode(*_: Any, **__: Any) -> None:
        raise RuntimeError("the disk is on fire")

    monkeypatch.setattr(pipeline, "report", explode)
    for _ in range(2):
        assert run_dag("report", now=NOW.isoformat()) == {"report": "failed", "dag": "failed"}
    home = config.parent / "home"
    assert len(subjects(home)) == 1 and subjects(home)[0].startswith("[runspend] DAG FAILED: runspend_report.report")
    assert b"the disk is on fire" in next((home / "mail").rglob("*.eml")).read_bytes()
    assert not (home / "warehouse").exists()


def test_a_superseded_allocation_is_tried_again(dag_bag: Any, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No event follows, so the task itself tries again, and builds the tables at its second try. Operators get no mail about it."""
    outcomes = [Outcome("allocate", superseded=["allocate 2026-11: superseded"]), Outcome("allocate", changed=["allocate 2026-11"])]
    monkeypatch.setattr(pipeline, "settle", lambda *_, **__: outcomes.pop(0))
    dag = dag_bag.dags["runspend_allocate_costs"]
    monkeypatch.setattr(dag.get_task("allocate"), "retries", 1)
    monkeypatch.setattr(dag.get_task("allocate"), "retry_delay", timedelta(0))
    done = dag.test(logical_date=None, run_conf={"now": NOW.isoformat()})
    assert {ti.task_id: (str(ti.state), ti.try_number) for ti in done.get_task_instances() if ti.task_id == "allocate"} == {
        "allocate": ("success", 2)
    }
    assert outcomes == [] and not (config.parent / "home" / "mail").exists()


def test_a_refused_journal_is_mailed_once_and_not_tried_again(run_dag: Run, config: Path) -> None:
    """Every task that finds it fails immediately. Operators get one mail that names the file, and only the account can read Runspend's files."""
    journal = config.parent / "home" / "warehouse" / "_runspend" / "journal.json"
    journal.parent.mkdir(parents=True)
    (journal.parent / "lock").touch()
    journal.write_text(json.dumps({"moves": [["/etc/hostname", "../victim"]], "removals": [], "build_id": "b"}))
    for name, task in (("report", "report"), ("allocate", "allocate"), ("report", "report")):
        assert run_dag(name, now=NOW.isoformat())[task] == "failed"
    home = config.parent / "home"
    assert [subject.partition(": cannot use")[0] for subject in subjects(home)] == ["[runspend] REFUSED"]
    [mail] = (home / "mail").rglob("*.eml")
    assert "journal.json" in mail.read_text()
    assert mail.stat().st_mode & 0o077 == 0


def test_unknown_parameters_are_refused(run_dag: Run, config: Path) -> None:
    """A misspelled parameter must not be silently replaced by its default. A wrong value prevents all tasks."""
    from airflow.sdk.exceptions import ParamValidationError

    assert run_dag("allocate", period=["2026-11"]) == {"allocate": "failed", "published": "success", "watcher": "failed", "dag": "failed"}
    assert not (config.parent / "home" / "warehouse").exists()
    for wrong in ({"periods": "2026-11"}, {"periods": ["2026-13"]}, {"periods": ["{{ ds }}"]}, {"now": 7}):
        with pytest.raises(ParamValidationError):
            run_dag("allocate", **wrong)


def test_the_archive_takes_no_scope_from_parameters(run_dag: Run, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the configuration decides policies, stores and grace periods, and notices cannot be backdated."""
    settings = json.loads(config.read_text())
    settings["retention"] = [{"name": "cold", "select": {"unused_for": "90d"}, "action": "tier", "to": "GLACIER_IR"}]
    config.write_text(json.dumps(settings))
    called: list[str] = []

    def note(step: str) -> Callable[..., Outcome]:
        return lambda *_, **__: (called.append(step), Outcome(step))[1]

    for step in ("archive_plan", "archive_apply"):
        monkeypatch.setattr(pipeline, step, note(step), raising=False)
    for scope in (
        {"policy": "all"},
        {"select": {}},
        {"stores": ["s3://other"]},
        {"grace": "0d"},
        {"apply": True},
        {"settings": "{{ dag_run.conf }}"},
    ):
        states = run_dag("archive", **scope)
        assert states["plan"] == "failed"
        assert "success" not in states.values()
    assert called == []
    states = run_dag("archive", now="2020-01-01T00:00:00+00:00")
    assert (states["plan"], states["notify"]) == ("success", "failed")
    assert called == ["archive_plan"]


def test_nothing_configured_is_not_a_failure(run_dag: Run, config: Path) -> None:
    """Without a server, a bill and a store, there is nothing to map over, but the DAGs emit all assets."""
    config.write_text("home: home\nwarehouse: {uri: home/warehouse}\n")
    for name, first in (("extract", "servers"), ("load", "sources"), ("measure", "stores")):
        assert run_dag(name, now=NOW.isoformat()) == {
            first: "success",
            name: "skipped",
            "published": "success",
            "watcher": "skipped",
            "dag": "success",
        }


def test_a_wrong_configuration_is_not_tried_again(run_dag: Run, config: Path) -> None:
    """The task fails immediately, and the log has the error's message."""
    config.write_text("hoem: nowhere\n")
    assert run_dag("report") == {"report": "failed", "dag": "failed"}


def test_the_whole_pipeline_in_a_process_of_its_own_equals_one_without_airflow(config: Path) -> None:
    """With a broken bill, tables, problems and exit code are the same with and without Airflow. Airflow's database does not remain."""
    add_broken_bill(config)
    settings = load_settings(config)
    expected = pipeline.nightly(settings, now=NOW)
    digests = {unit: state.digest for unit, state in open_warehouse(settings.warehouse.uri).states().items()}
    assert expected.exit_code == 3 and len(expected.problems) == 1 and "broken" in expected.problems[0]
    assert "cost_allocations" in {unit.table for unit in digests}

    home, result = config.parent / "home", config.parent / "outcome.json"
    # the command that `runspend nightly --dags dags` runs
    command = [
        sys.executable,
        "-m",
        "runspend.airflow.run_pipeline",
        "--dags",
        str(Path(__file__).resolve().parents[2] / "dags"),
        "--config",
        str(config),
        "--home",
        str(home),
        "--now",
        NOW.isoformat(),
        "--result",
        str(result),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    assert result.exists(), done.stderr
    outcome = json.loads(result.read_text())
    assert (done.returncode, outcome["exit_code"], outcome["problems"]) == (3, 3, expected.problems)
    after = {unit: state.digest for unit, state in open_warehouse(settings.warehouse.uri).states().items()}
    assert {unit: digest for unit, digest in after.items() if unit.table != "archive_plan"} == {
        u: d for u, d in digests.items() if u.table != "archive_plan"
    }
    assert not list((home / "airflow").glob("*.db*"))


def test_damage_fails_the_task_mails_once_and_is_mended(run_dag: Run, config: Path) -> None:
    """Each DAG first checks the tables that it replaces. The next DAG runs report nothing."""
    for name in ("extract", "load", "allocate"):
        assert run_dag(name, now=NOW.isoformat())["dag"] == "success"
    settings = load_settings(config)
    warehouse = ParquetWarehouse(Path(settings.warehouse.uri))
    before = {unit: state.digest for unit, state in warehouse.states("runs", "billing_lines", "cost_daily").items()}
    for unit in before:
        Flip(warehouse.path(unit), warehouse.path(unit).stat().st_size // 2, 1, is_silent=True).make()
    for name, table in (("extract", "runs"), ("load", "billing_lines"), ("allocate", "cost_daily")):
        assert run_dag(name, now=NOW.isoformat())["dag"] == "failed"
        assert [subject for subject in subjects(settings.home) if "DAMAGED" in subject and table in subject] != []
    assert len([subject for subject in subjects(settings.home) if "DAMAGED" in subject]) == 3
    assert not [subject for subject in subjects(settings.home) if "DAG FAILED" in subject]
    assert {unit: state.digest for unit, state in warehouse.states("runs", "billing_lines", "cost_daily").items()} == before
    for name in ("extract", "load", "allocate"):
        assert run_dag(name, now=NOW.isoformat())["dag"] == "success"


def test_a_read_only_disk_fails_the_task_with_a_sentence_and_it_is_retried(run_dag: Run, config: Path, tmp_path: Path) -> None:
    """The mail goes directly to the mail server, because its record would need the disk. When the disk is writable again, the task succeeds."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "runspend-test", str(place)], capture_output=True, check=False).returncode:
        pytest.skip("cannot test a read-only disk: mounting a tmpfs is refused here")
    try:
        with smtp_server() as server:
            settings = json.loads(config.read_text()) | {"home": str(place / "home"), "warehouse": {"uri": str(place / "warehouse")}}
            settings["mail"] = {
                "backend": "smtp",
                "host": "127.0.0.1",
                "port": server.port,
                "tls": "none",
                "operators": ["operators@example.com"],
            }
            config.write_text(json.dumps(settings))
            assert run_dag("load", now=NOW.isoformat())["dag"] == "success"
            subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
            assert run_dag("load", now=NOW.isoformat())["dag"] == "failed"
            [accepted] = server.accepted
            assert "MACHINE FAILED" in accepted.message["Subject"]
            subprocess.run(["mount", "-o", "remount,rw", str(place)], check=True)
            assert run_dag("load", now=NOW.isoformat())["dag"] == "success"
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)
