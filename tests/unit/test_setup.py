"""What a fresh machine and CI rely on: the Makefile, the pins, the compose file, and an import that stays light."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
TARGETS = ("bench", "demo", "lint", "nightly", "test", "torture", "up")


def run(*command: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command; its output as text."""
    return subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, **options)


@pytest.mark.parametrize("module", ["runspend", "runspend.cli", "runspend.pipeline", "runspend.config"])
def test_import_stays_light(module: str) -> None:
    """This package goes into training jobs and DAG files: importing it brings in none of the packages that cost seconds."""
    heavy = "adbc_driver_manager airflow boto3 duckdb fastapi google.cloud jinja2 mlflow obstore pandas pyarrow sqlglot uvicorn".split()
    done = run(sys.executable, "-c", f"import sys, {module}; print(*[name for name in {heavy!r} if name in sys.modules])")
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_make_alone_prints_one_line_of_help_for_each_target() -> None:
    """`make` does nothing but say what it can do."""
    done = run("make", "--no-print-directory", cwd=ROOT)
    assert done.returncode == 0
    listed = dict(re.fullmatch(r"  make (\S+)\s+(\S.*)", line).groups() for line in done.stdout.splitlines())  # type: ignore[union-attr]
    assert set(listed) >= set(TARGETS)


@pytest.mark.parametrize("target", [t for t in TARGETS if t != "up"])
def test_every_target_sets_itself_up(tmp_path: Path, target: str) -> None:
    """In a clean clone each target begins by making .venv (shown by a dry run)."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("pyproject.toml", "requirements/lock.txt", "requirements/build.txt", "tests/servers/bigquery.txt", "tests/servers/azurite/package-lock.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    done = run("make", "--dry-run", target, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "-m venv .venv" in done.stdout and "pip install" in done.stdout


def test_no_python_is_said_in_words(tmp_path: Path) -> None:
    """Without a Python that will do, make names the versions that will, and what to install."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    empty = tmp_path / "bin"
    empty.mkdir()
    (empty / "sh").symlink_to("/bin/sh")
    done = run(shutil.which("make") or "make", ".venv/bin/python", cwd=tmp_path, env={"PATH": str(empty)})
    assert done.returncode != 0
    assert "no Python from 3.11 to 3.13" in done.stderr and "apt-get install" in done.stderr


@pytest.fixture
def composed(tmp_path: Path) -> dict[str, Any]:
    """docker-compose.yaml as docker-compose understands it, with the .env that `make up` writes."""
    if shutil.which("docker-compose") is None:
        pytest.skip("docker-compose is not installed (Debian: apt-get install docker-compose)")
    run(sys.executable, str(ROOT / "deploy" / "make_env.py"), str(tmp_path / ".env"))
    done = run("docker-compose", "--env-file", str(tmp_path / ".env"), "config", "--format", "json", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_compose_is_complete(composed: dict[str, Any]) -> None:
    """All parts are there; each has a health check and time to end; images are pinned; nothing listens beyond this machine."""
    services = composed["services"]
    assert set(services) == {"api-server", "scheduler", "dag-processor", "triggerer", "postgres", "mlflow", "s3", "mail", "init"}
    for name, service in services.items():
        assert re.search(r":v?\d+(\.\d+)+", service["image"]), service["image"]
        assert all(port["host_ip"] == "127.0.0.1" for port in service.get("ports", []))
        if name != "init":
            assert service["healthcheck"]["test"] and service["restart"] == "unless-stopped"
    airflow = [services[name]["environment"] for name in ("api-server", "scheduler", "dag-processor", "triggerer", "init")]
    for key in ("AIRFLOW__API_AUTH__JWT_SECRET", "AIRFLOW__API__SECRET_KEY", "AIRFLOW__CORE__FERNET_KEY"):
        assert len({environment[key] for environment in airflow}) == 1  # the same everywhere, or every task fails
    (pool,) = {environment["RUNSPEND_POOL"] for environment in airflow}
    assert f"airflow pools set {pool} 4 " in services["init"]["command"][-1]  # a pool that nobody made lets tasks wait for ever


@pytest.mark.parametrize("name", sorted(set(re.findall(r"\$\{(\w+):\?", (ROOT / "docker-compose.yaml").read_text()))))
def test_compose_has_no_default_password(composed: dict[str, Any], tmp_path: Path, name: str) -> None:
    """Leave one secret out, and nothing starts."""
    env = tmp_path / ".env"
    env.write_text("".join(line for line in env.read_text().splitlines(keepends=True) if not line.startswith(f"{name}=")))
    done = run("docker-compose", "--env-file", str(env), "config", "--quiet", cwd=ROOT)
    assert done.returncode != 0 and name in done.stderr


def test_make_env_never_overwrites(tmp_path: Path) -> None:
    """Two files never share a secret, a file is its owner's only, and one that is there stays as it is."""
    script = str(ROOT / "deploy" / "make_env.py")
    first, second = tmp_path / "a", tmp_path / "b"
    assert run(sys.executable, script, str(first)).returncode == run(sys.executable, script, str(second)).returncode == 0
    values = [line.split("=", 1)[1] for file in (first, second) for line in file.read_text().splitlines()]
    assert len(values) == len(set(values)) and min(map(len, values)) >= 20
    assert first.stat().st_mode & 0o077 == 0
    before = first.read_bytes()
    assert run(sys.executable, script, str(first)).returncode != 0 and first.read_bytes() == before


def test_the_example_configuration_of_compose_is_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    """What compose mounts until somebody has a runspend.yaml of their own."""
    from runspend.config import load_settings

    monkeypatch.setenv("MLFLOW_READER_URI", "postgresql://reader:secret-reader@postgres/mlflow")
    settings = load_settings(ROOT / "deploy" / "runspend.yaml")
    assert settings.home == Path("/var/lib/runspend") and settings.tracking[0].uri == "http://mlflow:5000"
    assert "secret-reader" not in repr(settings)


def test_telemetry_is_off_wherever_we_start_something() -> None:
    """MLflow's and Airflow's: in make, in the image, in the night's runner."""
    for file in ("Makefile", "Dockerfile", "dags/run_night.py"):
        text = (ROOT / file).read_text()
        assert "MLFLOW_DISABLE_TELEMETRY" in text and "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED" in text
