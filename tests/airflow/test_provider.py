"""Runspend as an Airflow provider: its entries in Airflow's provider list, configuration and forms, and its connection type in use."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runspend.airflow.bundle import RunspendBundle
from runspend.airflow.hook import RunspendHook
from runspend.airflow.options import OPTIONS, clock, config_path
from runspend.airflow.provider import get_provider_info
from runspend.airflow.tasks import read_now, start_of_hour
from runspend.core.errors import ConfigError
from tests.dag_ids import DAG_IDS

ROOT = Path(__file__).resolve().parents[2]


def test_airflow_knows_the_provider_its_connection_type_and_its_options() -> None:
    """Airflow's own schema and manager find it through the entry points of the installed package."""
    import jsonschema
    from airflow.configuration import conf
    from airflow.providers_manager import ProvidersManager
    from airflow.sdk.providers_manager_runtime import ProvidersManagerTaskRuntime

    schema = json.loads((Path(sys.modules["airflow"].__path__[0]) / "provider_info.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(get_provider_info(), schema)
    assert ProvidersManager().providers["runspend"].data["name"] == "Runspend"
    hook = ProvidersManagerTaskRuntime().hooks["runspend"]
    assert hook is not None and (hook.hook_name, hook.hook_class_name) == ("Runspend", "runspend.airflow.hook.RunspendHook")
    assert {name: conf.get("runspend", name) for name in OPTIONS if name != "config"} == {
        name: option["default"] for name, option in OPTIONS.items() if name != "config"
    }
    assert [found.value for found in entry_points(group="airflow.plugins", name="runspend")] == ["runspend.airflow.plugin:RunspendPlugin"]


def test_the_bundle_is_the_folder_of_the_dags() -> None:
    path = RunspendBundle(name="runspend").path
    assert {file.stem for file in path.glob("runspend_*.py")} == set(DAG_IDS.values())


PARSE = """
from pathlib import Path
import json, sys
from airflow.dag_processing.dagbag import BundleDagBag
bag = BundleDagBag(Path(sys.argv[1]), bundle_path=Path(sys.argv[1]))
assert not bag.import_errors, bag.import_errors
for dag in bag.dags.values():
    clock = getattr(dag.timetable, "timetable", dag.timetable)
    print(json.dumps(["dag", dag.dag_id, dag.relative_fileloc, getattr(clock, "expression", None), str(getattr(clock, "timezone", None))]))
    for task in dag.tasks:
        print(json.dumps(["task", task.pool, task.task_id, task.owner]))
"""


def test_one_file_in_a_subfolder_has_all_dags_as_the_configuration_says(tmp_path: Path) -> None:
    """The options set schedules, time zone, pool and owner. Listing tasks and last tasks stay outside the pool, because they are short and others wait for them."""
    (tmp_path / "team" / "costs").mkdir(parents=True)
    shutil.copy(ROOT / "dags" / "runspend_dags.py", tmp_path / "team" / "costs")
    options = {
        "pool": "few",
        "owner": "platform",
        "timezone": "Europe/Berlin",
        "schedule_load": "30 5 * * 1-5",
        "schedule_report": "none",
        "schedule_measure": "None",
        "schedule_alert": "@hourly",
    }
    environment = {**os.environ} | {f"AIRFLOW__RUNSPEND__{name.upper()}": value for name, value in options.items()}
    done = subprocess.run([sys.executable, "-c", PARSE, str(tmp_path)], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('["')]
    dags = {line[1]: line[2:] for line in lines if line[0] == "dag"}
    assert set(dags) == set(DAG_IDS.values())
    assert {file for file, *_ in dags.values()} == {"team/costs/runspend_dags.py"}
    assert dags["runspend_load_bills"][1:] == ["30 5 * * 1-5", "Europe/Berlin"]
    assert dags["runspend_alert_budgets"][1] in ("@hourly", "0 * * * *")
    assert [dags[f"runspend_{name}"][1] for name in ("report", "measure_artifacts", "publish")] == [None, None, "30 */6 * * *"]
    pools: dict[str, set[str]] = {}
    for _, pool, name, owner in (line for line in lines if line[0] == "task"):
        pools.setdefault(pool, set()).add(name)
        assert owner == "platform"
    assert pools == {
        "few": {*DAG_IDS, "plan", "notify", "apply", "verify"} - {"archive"},
        "default_pool": {"servers", "sources", "stores", "published", "watcher"},
    }


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("schedule_load", "every day", "cannot use schedule_load 'every day' in section [runspend] of Airflow's configuration: it is not a cron expression"),
        ("schedule_load", "0 4 * * * *", "Write one such as '0 4 * * *', or none."),
        ("schedule_load", "@once", "cannot use schedule_load '@once' in section [runspend]"),
        ("timezone", "Mars/Olympus", "cannot use timezone 'Mars/Olympus' in section [runspend]"),
    ],
)  # fmt: skip
def test_a_wrong_schedule_names_the_option(name: str, value: str, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"AIRFLOW__RUNSPEND__{name.upper()}", value)
    with pytest.raises(ConfigError) as caught:
        clock("load")
    assert sentence in str(caught.value)


def test_airflows_option_names_the_configuration_unless_a_variable_does(monkeypatch: pytest.MonkeyPatch) -> None:
    assert config_path() is None
    monkeypatch.setenv("AIRFLOW__RUNSPEND__CONFIG", "/etc/runspend/runspend.yaml")
    assert config_path() == Path("/etc/runspend/runspend.yaml")
    monkeypatch.setenv("RUNSPEND_CONFIG", "other.yaml")
    assert config_path() is None, "load_settings reads the variable"


@pytest.mark.parametrize(
    ("run_type", "conf", "expected"),
    [
        ("backfill", {}, datetime(2026, 10, 3, 4, tzinfo=timezone.utc)),
        ("backfill", {"now": "2026-10-05T06:00"}, datetime(2026, 10, 5, 6, tzinfo=timezone.utc)),
        ("scheduled", {}, None),
        ("manual", {}, None),
    ],
)
def test_the_logical_date_of_a_backfill_is_its_now(run_type: str, conf: dict[str, str], expected: datetime | None) -> None:
    """Manual and scheduled runs use the current time, because bills may have arrived since the planned time."""
    run = SimpleNamespace(run_type=run_type, conf=conf, logical_date=datetime(2026, 10, 3, 4, tzinfo=timezone.utc))
    context = {"dag_run": run, "dag": SimpleNamespace(params={"now": None}), "params": {"now": conf.get("now")}}
    assert read_now(context) == (expected or start_of_hour())


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Callable[..., RunspendHook]:
    """Return a function that creates the hook of a connection. Its arguments are the connection's fields."""

    def connect(config: Path | None = None, **fields: Any) -> RunspendHook:
        extra = {} if config is None else {"config": str(config)}
        monkeypatch.setenv("AIRFLOW_CONN_RUNSPEND_DEFAULT", json.dumps({"conn_type": "runspend", "extra": extra, **fields}))
        return RunspendHook()

    return connect


def test_the_connection_type_asks_a_warehouse(connect: Callable[..., RunspendHook], tmp_path: Path) -> None:
    """The connection uses its own configuration file. If the file is missing, testing the connection returns a message, not an exception."""
    (tmp_path / "home" / "warehouse" / "_runspend").mkdir(parents=True)
    (tmp_path / "costs.yaml").write_text("home: home\nwarehouse: {uri: home/warehouse}\n", encoding="utf-8")
    hook = connect(config=tmp_path / "costs.yaml")
    assert hook.test_connection() == (True, "Runspend answers.")
    assert hook.get_conn().sql("select 1 + 1 as two").to_dicts() == [{"two": 2}]
    answers, sentence = connect(config=tmp_path / "nowhere.yaml").test_connection()
    assert not answers and "nowhere.yaml" in sentence


def test_the_connection_type_asks_a_server(connect: Callable[..., RunspendHook]) -> None:
    for fields in (
        {"host": "http://127.0.0.1:9"},
        {"host": "127.0.0.1", "port": 9},
        {"host": "http://127.0.0.1:9/", "password": "t0ken-of-a-login"},
    ):
        assert repr(connect(**fields).get_conn()) == "<Runspend at http://127.0.0.1:9>"
    elsewhere = connect(host="costs.example.com", port=8443, password="t0ken-of-a-login")  # the token must not be sent there unencrypted
    assert repr(elsewhere.get_conn()) == "<Runspend at https://costs.example.com:8443>"
    answers, sentence = connect(host="http://127.0.0.1:9").test_connection()
    assert not answers and "127.0.0.1:9" in sentence
