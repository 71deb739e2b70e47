"""The files that a new machine and CI rely on: the Makefile, the pins, the compose file, and a package that imports quickly."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
OF_DOCKER = ("up", "down", "backup", "restore", "upgrade")
TARGETS = ("bench", "demo", "lint", "nightly", "test", "test-frameworks", "torture", "up-rehearsal", *OF_DOCKER)


def run(*command: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command and capture its output as text."""
    return subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, **options)


@pytest.mark.parametrize("module", ["runspend", "runspend.interfaces.cli", "runspend.pipeline", "runspend.config.settings"])
def test_import_stays_light(module: str) -> None:
    """Training jobs and DAG files import this package, so it must not import packages that take seconds."""
    heavy = "adbc_driver_manager airflow boto3 duckdb fastapi google.cloud jinja2 mlflow azure pandas pyarrow sqlglot uvicorn".split()
    done = run(sys.executable, "-c", f"import sys, {module}; print(*[name for name in {heavy!r} if name in sys.modules])")
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_make_alone_prints_one_line_of_help_for_each_target() -> None:
    """`make` without a target only prints help."""
    done = run("make", "--no-print-directory", cwd=ROOT)
    assert done.returncode == 0
    listed = dict(re.fullmatch(r"  make (\S+)\s+(\S.*)", line).groups() for line in done.stdout.splitlines())  # type: ignore[union-attr]
    assert set(listed) >= set(TARGETS)


@pytest.mark.parametrize("target", [t for t in TARGETS if t not in OF_DOCKER])
def test_every_target_sets_itself_up(tmp_path: Path, target: str) -> None:
    """In a new clone, each target begins by creating .venv. A dry run shows it."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in (
        "pyproject.toml",
        "requirements/lock.txt",
        "requirements/build.txt",
        "requirements/frameworks.txt",
        "requirements/dbt.txt",
        "requirements/superset.txt",
        "tests/servers/bigquery.txt",
        "tests/servers/azurite/package-lock.json",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    done = run("make", "--dry-run", target, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "-m venv .venv" in done.stdout and "pip install" in done.stdout


def test_a_missing_python_is_a_sentence(tmp_path: Path) -> None:
    """Without a suitable Python, make names the suitable versions and what to install."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    empty = tmp_path / "bin"
    empty.mkdir()
    (empty / "sh").symlink_to("/bin/sh")
    done = run(shutil.which("make") or "make", ".venv/bin/python", cwd=tmp_path, env={"PATH": str(empty)})
    assert done.returncode != 0
    assert "no Python from 3.11 to 3.13" in done.stderr and "apt-get install" in done.stderr


@pytest.fixture
def composed(tmp_path: Path) -> dict[str, Any]:
    """Return docker-compose.yaml as docker-compose reads it, with the .env that `make up` writes."""
    if shutil.which("docker-compose") is None:
        pytest.skip("docker-compose is not installed (Debian: apt-get install docker-compose)")
    assert make_env(tmp_path / ".env").returncode == 0
    done = run("docker-compose", "--env-file", str(tmp_path / ".env"), "config", "--format", "json", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_compose_is_complete(composed: dict[str, Any]) -> None:
    """Each service has a health check, images are pinned, and no port is open beyond this machine."""
    services = composed["services"]
    assert set(services) == {
        "api-server",
        "scheduler",
        "dag-processor",
        "triggerer",
        "postgres",
        "mlflow",
        "s3",
        "store",
        "mail",
        "grafana",
        "init",
    }
    for name, service in services.items():
        image = service["image"]
        pinned = r":\d+(\.\d+)+$" if image.startswith("runspend") else r":v?\d+(\.\d+)+[\w.-]*@sha256:[0-9a-f]{64}$"
        assert re.search(pinned, image), image
        assert all(port["host_ip"] == "127.0.0.1" for port in service.get("ports", []))
        if name != "init":
            assert service["healthcheck"]["test"] and service["restart"] == "unless-stopped"
    airflow = [services[name]["environment"] for name in ("api-server", "scheduler", "dag-processor", "triggerer", "init")]
    for key in ("AIRFLOW__API_AUTH__JWT_SECRET", "AIRFLOW__API__SECRET_KEY", "AIRFLOW__CORE__FERNET_KEY"):
        assert len({environment[key] for environment in airflow}) == 1  # tasks fail if these differ between services
    assert len({environment["RUNSPEND_POOL"] for environment in airflow}) == 1
    assert services["init"]["environment"]["RUNSPEND_POOL_SLOTS"] == "4"  # tasks wait forever if the pool is missing
    assert 'airflow pools set "$RUNSPEND_POOL" "$RUNSPEND_POOL_SLOTS"' in (ROOT / "deploy" / "init.sh").read_text()


def test_compose_locks_every_service(composed: dict[str, Any]) -> None:
    """Services have no capabilities, no new privileges, a read-only root, a memory limit and a bounded log. The test names all exceptions."""
    writable_roots = {"store"}
    with_capabilities = {"store"}
    for name, service in composed["services"].items():
        assert service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges:true"], name
        assert bool(service.get("cap_add")) is (name in with_capabilities), name
        assert bool(service.get("read_only")) is (name not in writable_roots), name
        assert service["logging"]["options"] == {"max-file": "3", "max-size": "10m"}, name
        assert int(service.get("mem_limit", 0)) > 0 or name == "init", name
        for volume in service.get("volumes", []):
            if volume["type"] == "bind":
                assert Path(volume["source"]).is_dir() and volume["read_only"] and not volume["bind"].get("create_host_path"), name


def test_each_service_knows_only_the_secrets_it_needs(composed: dict[str, Any], tmp_path: Path) -> None:
    """Tasks may read the store and MLflow's database. Airflow's other processes have no key of either. Only `init` has all rights."""
    secrets = dict(line.split("=", 1) for line in (tmp_path / ".env").read_text().splitlines())
    known: dict[str, set[str]] = {name: set() for name in secrets}
    for service, definition in composed["services"].items():
        for value in definition.get("environment", {}).values():
            for name in secrets:
                if secrets[name] in str(value):
                    known[name].add(service)
    airflow = {"api-server", "scheduler", "dag-processor", "triggerer", "init"}
    tasks = {"scheduler", "dag-processor"}
    assert known == {
        "AIRFLOW_ADMIN_PASSWORD": {"init"},
        "AIRFLOW_DB_PASSWORD": {*airflow, "postgres"},
        "AIRFLOW_FERNET_KEY": airflow,
        "AIRFLOW_JWT_SECRET": airflow,
        "AIRFLOW_SECRET_KEY": airflow,
        "COSTS_DB_PASSWORD": {*tasks, "init"},
        "GRAFANA_ADMIN_PASSWORD": {"grafana"},
        "GRAFANA_DB_PASSWORD": {"grafana", "init"},
        "MLFLOW_DB_PASSWORD": {"mlflow", "postgres"},
        "MLFLOW_READER_PASSWORD": {*tasks, "postgres"},
        "POSTGRES_PASSWORD": {"init", "postgres"},
        "S3_ACCESS_KEY": {"init"},
        "S3_SECRET_KEY": {"init"},
        "S3_MLFLOW_ACCESS_KEY": {"mlflow"},
        "S3_MLFLOW_SECRET_KEY": {"mlflow"},
        "S3_READER_ACCESS_KEY": tasks,
        "S3_READER_SECRET_KEY": tasks,
    }


def test_one_service_builds_each_image(composed: dict[str, Any]) -> None:
    """If several services built the same tag, each build would make a new image, and each `make up` would restart everything."""
    builders = {service["image"]: [] for service in composed["services"].values() if service["image"].startswith("runspend")}
    for name, service in composed["services"].items():
        if "build" in service:
            builders[service["image"]].append(name)
    assert sorted(builders.values()) == [["init"], ["mlflow"]]


def test_other_services_reach_only_the_s3_port_of_the_store(composed: dict[str, Any]) -> None:
    """SeaweedFS's master, volume server, filer and gRPC ports need no key. So its network contains only the forwarder of its S3 port."""
    services = composed["services"]
    networks = {network: {name for name, service in services.items() if network in service["networks"]} for network in ("store", "storage")}
    assert networks == {"store": {"s3", "store"}, "storage": {"s3", "mlflow", "init", "scheduler", "dag-processor"}}
    assert services["s3"]["command"][-3:] == ["8333", "store", "8333"] and "ports" not in services["store"]
    assert {"-ip.bind=127.0.0.1", "-s3.port.iceberg=0", "-s3.port.lance=0"} <= set(services["store"]["command"])
    assert composed["networks"]["database"]["internal"] is composed["networks"]["store"]["internal"] is True


def test_the_forwarder_passes_bytes_on_both_ways_and_ends_with_its_ends() -> None:
    """100 connections each send 1 MB both ways. The forwarder closes a connection whose far end is gone."""
    with socket.create_server(("127.0.0.1", 0)) as far, socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
        probe.close()
        script = str(ROOT / "deploy" / "forward.py")
        process = subprocess.Popen([sys.executable, script, str(port), "127.0.0.1", str(far.getsockname()[1])])
        try:
            threading.Thread(target=echo_connections, args=(far,), daemon=True).start()
            wait_for_port(port)
            with ThreadPoolExecutor(20) as pool:
                sent = [os.urandom(1_000_000) for _ in range(100)]
                assert list(pool.map(lambda data: ask_echo(port, data), sent)) == sent
            far.shutdown(socket.SHUT_RDWR)  # ends the waiting accept()
            far.close()
            assert ask_echo(port, b"anybody?") == b""
        finally:
            process.terminate()
            assert process.wait(20) == 0


def echo_connections(server: socket.socket) -> None:
    """Answer each connection with what it sent, until the server is closed."""

    def answer(connection: socket.socket) -> None:
        with connection:
            while data := connection.recv(65_536):
                connection.sendall(data)

    with contextlib.suppress(OSError):
        while True:
            threading.Thread(target=answer, args=(server.accept()[0],), daemon=True).start()


def wait_for_port(port: int) -> None:
    """Wait until a server listens."""
    for _ in range(600):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.1)


def ask_echo(port: int, data: bytes) -> bytes:
    """Send all data, close the sending side, and return the whole answer."""
    with socket.create_connection(("127.0.0.1", port)) as connection:

        def send() -> None:
            with contextlib.suppress(OSError):
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        found = b""
        with contextlib.suppress(ConnectionResetError):
            while received := connection.recv(65_536):
                found += received
        sender.join()
        return found


@pytest.mark.parametrize("name", sorted(set(re.findall(r"\$\{(\w+):\?", (ROOT / "docker-compose.yaml").read_text()))))
def test_compose_has_no_default_password(composed: dict[str, Any], tmp_path: Path, name: str) -> None:
    """If one secret is missing, nothing starts."""
    env = tmp_path / ".env"
    env.write_text("".join(line for line in env.read_text().splitlines(keepends=True) if not line.startswith(f"{name}=")))
    done = run("docker-compose", "--env-file", str(env), "config", "--quiet", cwd=ROOT)
    assert done.returncode != 0 and name in done.stderr


def make_env(target: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run deploy/make_env.py without Docker, unless PATH is given."""
    return run(sys.executable, str(ROOT / "deploy" / "make_env.py"), str(target), env={"PATH": "/nowhere", **environment})


def test_make_env_makes_secrets_of_its_own(tmp_path: Path) -> None:
    """Two files never have a secret in common, and only the owner can read a file."""
    first, second = tmp_path / "a", tmp_path / "b"
    assert make_env(first).returncode == make_env(second).returncode == 0
    values = [line.split("=", 1)[1] for file in (first, second) for line in file.read_text().splitlines()]
    assert len(values) == len(set(values)) and min(map(len, values)) >= 20
    assert first.stat().st_mode & 0o077 == 0


def test_make_env_adds_what_an_older_file_lacks_and_changes_nothing(tmp_path: Path) -> None:
    """A new version may need a new secret. The operator's lines and comments stay, even if the file does not end with a newline."""
    env = tmp_path / ".env"
    assert make_env(env).returncode == 0
    whole = env.read_text()
    assert make_env(env).returncode == 0 and env.read_text() == whole
    before = "# mine\n" + "".join(line for line in whole.splitlines(keepends=True) if not line.startswith("S3_READER")) + "BIND=10.0.0.1"
    env.write_text(before)
    done = make_env(env)
    assert done.returncode == 0 and "S3_READER_ACCESS_KEY, S3_READER_SECRET_KEY" in done.stdout
    assert env.read_text().startswith(before + "\nS3_READER_ACCESS_KEY=") and env.stat().st_mode & 0o077 == 0
    assert len(env.read_text().splitlines()) == len(before.splitlines()) + 2
    env.write_text("".join(f"export {line}" for line in whole.splitlines(keepends=True)))
    assert make_env(env).stdout == ""


def test_a_lost_env_is_not_replaced_while_the_volumes_are_there(tmp_path: Path) -> None:
    """New passwords would not open the databases. The command reports this, names the volumes, and writes nothing."""
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text("#!/bin/sh\necho runspend_home\necho runspend_postgres\n")
    docker.chmod(0o755)
    env = tmp_path / ".env"
    done = make_env(env, PATH=str(docker.parent))
    assert done.returncode == 2 and not env.exists()
    assert "volumes of this stack were made with other passwords (runspend_home, runspend_postgres)" in done.stderr
    # a secret that no volume contains may still be added
    assert make_env(env).returncode == 0
    env.write_text("".join(line for line in env.read_text().splitlines(keepends=True) if not line.startswith("S3_MLFLOW")))
    assert make_env(env, PATH=str(docker.parent)).returncode == 0


@pytest.mark.parametrize("message", ["Cannot connect to the Docker daemon at unix:///var/run/docker.sock", "permission denied", ""])
def test_a_lost_env_is_not_replaced_while_docker_does_not_answer(tmp_path: Path, message: str) -> None:
    """Without Docker's answer, it is unknown whether volumes exist. The command repeats Docker's message and writes nothing."""
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text(f"#!/bin/sh\necho '{message}' >&2\nexit 1\n")
    docker.chmod(0o755)
    env = tmp_path / ".env"
    done = make_env(env, PATH=str(docker.parent))
    assert done.returncode == 2 and not env.exists()
    assert f"({message or 'docker ended with 1'})" in done.stderr and done.stderr.endswith("Nothing was changed.\n")
    # no answer is needed for a complete file, or for one that lacks only secrets that no volume contains
    assert make_env(env).returncode == 0
    assert make_env(env, PATH=str(docker.parent)).returncode == 0
    env.write_text("".join(line for line in env.read_text().splitlines(keepends=True) if not line.startswith("S3_MLFLOW")))
    assert make_env(env, PATH=str(docker.parent)).returncode == 0 and "S3_MLFLOW" in env.read_text()


def test_a_lost_env_is_not_replaced_where_docker_cannot_be_run(tmp_path: Path) -> None:
    """`docker` is a file that is not a program."""
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text("not a program")
    docker.chmod(0o755)
    done = make_env(tmp_path / ".env", PATH=str(docker.parent))
    assert done.returncode == 2 and not (tmp_path / ".env").exists() and "Nothing was changed." in done.stderr


@pytest.fixture
def stack(tmp_path: Path) -> Path:
    """A checkout in which no stack was started, with a `docker` that logs each call and fails with 99."""
    shutil.copytree(ROOT / "deploy", tmp_path / "deploy")
    shutil.copy(ROOT / "Makefile", tmp_path)
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text('#!/bin/sh\necho "$@" >>asked\nexit 99\n')
    docker.chmod(0o755)
    return tmp_path


def make(stack: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make with the `docker` of the fixture."""
    return run("make", "--no-print-directory", *arguments, cwd=stack, env={"PATH": f"{stack / 'bin'}:/usr/bin:/bin"})


def test_a_backup_needs_a_stack(stack: Path) -> None:
    """Without `.env`, no stack was started here. Without a running PostgreSQL, the backup stops nothing and writes nothing."""
    assert "there is no .env" in make(stack, "backup").stderr
    (stack / ".env").write_text("A=1\n")
    done = make(stack, "backup")
    assert done.returncode != 0 and "PostgreSQL does not run" in done.stderr
    assert not (stack / "backups").exists() and "stop" not in (stack / "asked").read_text()


ANSWERS = """#!/bin/sh
echo "$@" >>asked
case "$*" in
*--services*) printf 'init\\npostgres\\nscheduler\\nvolumes\\n' ;;
*"--status running"*) echo 1 ;;
*Health*) [ -e looked ] && echo "$HEALTH" || { touch looked; echo starting; } ;;
esac
"""


@pytest.mark.parametrize("health", ["healthy", "unhealthy"])
def test_a_backup_restarts_the_old_containers_and_creates_none(stack: Path, health: str) -> None:
    """The backup starts this stack's containers again. It builds, pulls and creates nothing, even if the checkout has changed."""
    (stack / ".env").write_text("A=1\n")
    (stack / "bin" / "docker").write_text(ANSWERS.replace("$HEALTH", health))
    done = make(stack, "backup")
    assert done.returncode == (0 if health == "healthy" else 2), done.stderr
    assert ("the stack did not start again as it was" in done.stderr) is (health == "unhealthy")
    asked = (stack / "asked").read_text().splitlines()
    assert "compose start init postgres scheduler" in asked[asked.index(next(line for line in asked if "stop" in line)) :]
    assert not [line for line in asked if " up" in line or "build" in line or "pull" in line]
    assert len(list((stack / "backups").glob("2*"))) == 1


def test_two_backups_at_once_are_one(stack: Path) -> None:
    """Otherwise the first would restart the stack while the second copies, and the second would delete the first one's files."""
    (stack / ".env").write_text("A=1\n")
    (stack / "bin" / "docker").write_text(ANSWERS)
    unfinished = stack / "backups" / ".unfinished-x"
    unfinished.mkdir(parents=True)
    folder = os.open(stack, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    done = make(stack, "backup")
    assert done.returncode == 2 and "another backup of this stack runs" in done.stderr
    assert unfinished.exists() and "stop" not in (stack / "asked").read_text()
    os.close(folder)
    assert make(stack, "backup").returncode == 0 and not unfinished.exists()


def test_a_restore_checks_the_backup_before_it_touches_anything(stack: Path) -> None:
    """Without a name or a backup, with a flipped bit, or with another `.env`, it stops with a message and does not call Docker."""
    backup = stack / "backups" / "2026-11-28T020000Z"
    backup.mkdir(parents=True)
    for name in ("airflow.dump", "mlflow.dump", "home.tar", "s3.tar", "env"):
        (backup / name).write_text(f"{name}\n")
    sums = run("sha256sum", "airflow.dump", "mlflow.dump", "home.tar", "s3.tar", "env", cwd=backup).stdout
    refused = {
        "no backup is named": make(stack, "restore"),
        "is not a backup": make(stack, "restore", "FROM=backups/nowhere"),
    }
    (backup / "SHA256SUMS").write_text(sums.replace("a", "b"))
    refused["is damaged"] = make(stack, "restore", f"FROM={backup}")
    (backup / "SHA256SUMS").write_text(sums)
    (stack / ".env").write_text("another\n")
    refused[".env is not that of the backup"] = make(stack, "restore", f"FROM={backup}")
    for words, done in refused.items():
        assert done.returncode != 0 and words in done.stderr and "Nothing was changed." in done.stderr
    assert not (stack / "asked").exists() and not (stack / ".restore-unfinished").exists()


def test_a_half_restored_stack_does_not_start(stack: Path) -> None:
    """The note of an interrupted restore stops `make up` and `make backup`. They name the command to run."""
    (stack / ".restore-unfinished").write_text("backups/x\n")
    (stack / ".venv" / "bin").mkdir(parents=True)
    (stack / ".venv" / "bin" / "python").symlink_to(sys.executable)
    (stack / ".env").write_text("A=1\n")
    for target in ("up", "backup"):
        done = make(stack, target)
        assert done.returncode != 0 and "make restore FROM=backups/x" in done.stderr
    assert not (stack / "asked").exists()


def rehearse(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the rehearsal as `make test` does, with its own folder for earlier results."""
    script = str(ROOT / "deploy" / "rehearsal" / "rehearse.py")
    return run(sys.executable, script, "--if-changed", env={**os.environ, "REHEARSAL": str(folder), **environment})


def test_without_an_engine_the_rehearsal_says_so(tmp_path: Path) -> None:
    """The rehearsal prints one line and exits with 0. It installs and creates nothing."""
    done = rehearse(tmp_path / "rehearsal", PATH="/nowhere")
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 1
    assert done.stdout.startswith("rehearsal of the compose stack: not run, ")
    assert not (tmp_path / "rehearsal").exists()


def test_the_example_configuration_of_compose_is_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compose mounts this file until the user has a runspend.yaml."""
    from runspend.config.settings import load_settings

    monkeypatch.setenv("MLFLOW_READER_URI", "postgresql://reader:secret-reader@postgres/mlflow")
    monkeypatch.setenv("COSTS_DB_URI", "postgresql://runspend:secret-costs@postgres/costs")
    settings = load_settings(ROOT / "deploy" / "config" / "runspend.yaml")
    assert settings.home == Path("/var/lib/runspend") and settings.tracking[0].uri == "http://mlflow:5000"
    assert settings.publish[0].name == "grafana"
    assert "secret-reader" not in repr(settings) and "secret-costs" not in repr(settings)


def test_telemetry_is_off_wherever_we_start_something() -> None:
    """Telemetry of MLflow and Airflow is off in make, in the image, and in the runner of the pipeline."""
    for file in ("Makefile", "Dockerfile", "include/runspend/airflow/run_pipeline.py"):
        text = (ROOT / file).read_text()
        assert "MLFLOW_DISABLE_TELEMETRY" in text and "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED" in text
