"""Every test has a clean environment, no network except loopback, no telemetry, and the session's own Airflow home.

Fixtures for the tests of one folder belong in that folder.
"""

from __future__ import annotations

import gc
import ipaddress
import os
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

from tests import reaper
from tests.kept import FOLDER

# Fixtures for several folders. A file that imports one starts its own server.
from tests.servers.azure import azure_server as azure_server
from tests.servers.gcs import gcs_server as gcs_server
from tests.servers.s3 import s3_server as s3_server

if TYPE_CHECKING:
    from tests.reference import GoogleSQL
    from tests.servers.bigquery import BigQueryServer
    from tests.servers.bigquery_target import Target

ROOT = Path(__file__).resolve().parents[1]
SAMPLES = Path(os.environ.get("RUNSPEND_SAMPLES", ROOT.parent / "shared" / "data"))

# Hypothesis sets no deadline for an example. In CI, it tries the same examples every time.
hypothesis.settings.register_profile("runspend", deadline=None, derandomize=bool(os.environ.get("CI")), print_blob=True)
hypothesis.settings.load_profile("runspend")

# Variables of a user's shell that tests must not see.
FOREIGN = (
    "AIRFLOW",
    "ARM_",
    "AWS_",
    "AZURE_",
    "BIGQUERY_",
    "BOTO",
    "CLOUDSDK_",
    "DATABRICKS_",
    "GOOGLE_",
    "MLFLOW_",
    "PG",
    "RUNSPEND_",
    "S3_",
    "SMTP_",
)
# `make test-bigquery` alone: its tests reach Google's, with the credentials of the user who runs it.
WITH_GOOGLE = ("RUNSPEND_BIGQUERY", "GOOGLE_APPLICATION_CREDENTIALS", "CLOUDSDK_CONFIG")
IS_GOOGLE = "RUNSPEND_BIGQUERY" in os.environ
QUIET = {
    "RUNSPEND_IDENTIFY": "off",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "AWS_EC2_METADATA_DISABLED": "true",
    "NO_PROXY": "*",
    "COLUMNS": "120",
}


def pytest_configure(config: pytest.Config) -> None:
    """Clean the environment before any import, because Airflow reads its own only once."""
    # A shell starts background commands with SIGINT ignored, and their children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    gc.disable()  # Importing Airflow, MLflow and 6,000 tests creates many objects and no garbage. Collections took 4 of 12 s.
    if IS_GOOGLE:
        os.environ.setdefault("CLOUDSDK_CONFIG", str(Path.home() / ".config" / "gcloud"))
    kept = ("RUNSPEND_SAMPLES", *(WITH_GOOGLE if IS_GOOGLE else ()))
    for name in [name for name in os.environ if name.startswith(FOREIGN) and name not in kept]:
        del os.environ[name]  # the sample folder stays, because workers need it too
    is_worker = hasattr(config, "workerinput")
    if not is_worker:
        reaper.start()
    home = reaper.make_folder("tests")
    config.add_cleanup(lambda: shutil.rmtree(home, ignore_errors=True))
    if not is_worker:  # workers use the folder of the process that started them
        (home / "kept").mkdir()
        os.environ[FOLDER] = str(home / "kept")
    os.environ.update(QUIET)
    os.environ.update(
        {
            "HOME": str(home),
            "AIRFLOW_HOME": str(home / "airflow"),
            "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "include" / "runspend" / "airflow" / "dags"),
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}",
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        }
    )


# Files that share a server with a slow start. One worker runs them one after the other.
TOGETHER = {
    "airflow": ("airflow/test_dag_files", "airflow/test_dag_runs", "airflow/test_plugin", "airflow/test_settings", "airflow/test_wake_ups"),
    "bigquery": ("warehouse/test_engine_contract", "warehouse/bigquery/test_emulator", "warehouse/bigquery/test_models", "warehouse/bigquery/test_warehouse", "ingest/billing/remote/test_bigquery", "e2e/test_bigquery_night", "faults/test_bigquery_swap"),
    "mlflow": ("ingest/tracking/test_links", "ingest/tracking/test_in_use", "ingest/tracking/test_mlflow_writer", "ingest/tracking/test_extract"),
    "s3": ("actions/archive/test_s3", "ingest/artifacts/test_listing", "ingest/artifacts/test_s3", "ingest/billing/formats/test_focus_s3", "warehouse/parquet/test_bucket"),
}  # fmt: skip
SCOPES = {f"tests/{name}.py": server for server, names in TOGETHER.items() for name in names}


# Workers begin with the files that take minutes and end with those that take seconds, so that no long file runs alone at the end.
FIRST = (
    "tests/e2e/test_standalone.py", "tests/e2e/test_bigquery_night.py", "tests/warehouse/test_queries_on_reference.py", "tests/allocation/test_reference.py",
    "tests/e2e/test_true_costs.py", "tests/interfaces/web/test_access.py", "tests/airflow/", "tests/e2e/", "tests/faults/",
)  # fmt: skip
LAST = ("tests/config/", "tests/core/", "tests/fuzz/", "tests/repository/", "tests/schema/")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Order the files for workers. All workers order them in the same way."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: _turn(item.nodeid))


def _turn(nodeid: str) -> int:
    """Return a test's position in the order: its place in `FIRST`, or after all others if it is in `LAST`."""
    first = next((place for place, name in enumerate(FIRST) if nodeid.startswith(name)), len(FIRST))
    return first + nodeid.startswith(LAST)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each worker whole files, and all files of one server to the same worker."""
    from xdist.scheduler import LoadFileScheduling

    class ByServer(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return SCOPES.get(file, file)

    return ByServer(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_collection_finish() -> None:
    """Exclude all imported objects from garbage collection.

    A process that only distributes tests imports none, and does not call this.
    """
    gc.freeze()  # there is no garbage in it; full collections took 2 % of the tests' time
    gc.set_threshold(10_000, 10, 20)
    gc.enable()


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Start each test in an empty folder with umask 022, and restore the environment and the umask afterwards."""
    before, umask = dict(os.environ), os.umask(0o022)
    monkeypatch.chdir(tmp_path)
    yield
    os.umask(umask)
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session", autouse=True)
def loopback_only() -> Iterator[None]:
    """Fail a test that connects to another machine or looks up its name."""
    if IS_GOOGLE:
        yield
        return
    connect, connect_ex, getaddrinfo = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo

    def refuse(host: Any) -> None:
        if host in (None, "", "localhost", socket.gethostname()):
            return
        text = host.decode() if isinstance(host, bytes) else str(host)
        try:
            inside = ipaddress.ip_address(text.split("%")[0]).is_loopback or text == "0.0.0.0"
        except ValueError:
            inside = text.endswith(".localhost")
        if not inside:
            raise PermissionError(f"a test tried to reach {text}: only this machine may be contacted")

    def is_network(sock: socket.socket) -> bool:
        return sock.family in (socket.AF_INET, socket.AF_INET6)

    def guarded_connect(self: socket.socket, address: Any) -> None:
        if is_network(self):
            refuse(address[0])
        connect(self, address)

    def guarded_connect_ex(self: socket.socket, address: Any) -> int:
        if is_network(self):
            refuse(address[0])
        return connect_ex(self, address)

    def guarded_getaddrinfo(host: Any, *rest: Any, **named: Any) -> Any:
        refuse(host)
        return getaddrinfo(host, *rest, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded_connect)
        patch.setattr(socket.socket, "connect_ex", guarded_connect_ex)
        patch.setattr(socket, "getaddrinfo", guarded_getaddrinfo)
        yield


@pytest.fixture(scope="session")
def samples() -> Path:
    """Real bills from outside this repository: in the folder $RUNSPEND_SAMPLES, or in shared/data next to the repository."""
    if not SAMPLES.is_dir():
        pytest.skip(f"no sample bills in {SAMPLES}: set RUNSPEND_SAMPLES to the folder that has them")
    return SAMPLES


# These import their servers only when a worker's first test asks for one.


@pytest.fixture(scope="session")
def reference() -> GoogleSQL:
    """Google's reference implementation of GoogleSQL, started once per worker."""
    from tests.reference import GoogleSQL

    return GoogleSQL()


@pytest.fixture(scope="session")
def bigquery_server() -> Iterator[BigQueryServer]:
    """Start one BigQuery emulator for all tests of a run. Each test creates its own dataset."""
    from tests.servers.bigquery import serve_tests

    with serve_tests() as server:
        yield server


@pytest.fixture(scope="session")
def bigquery_target(request: pytest.FixtureRequest) -> Iterator[Target]:
    """The project in which tests create warehouses: the emulator's, or a real one in `make test-bigquery`."""
    from tests.servers.bigquery_target import target_of_tests

    with target_of_tests(request) as target:
        yield target


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The MLflow store of all tiny worlds. Read-only: each world has a copy of its database."""
    from tests.tiny_world import make_store

    folder = tmp_path_factory.mktemp("store")
    make_store(folder)
    return folder
