"""The part of `rehearse.py` inside its namespaces: whole rehearsals of the stack, one after the other, each with its own volumes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NoReturn

from engine import FOLDER, ROOT, engine, make_base_images, remove_leftovers, run, wait_for_network
from night import Night

BIND = "127.0.0.9"
LOG = FOLDER / "rehearsal.log"
COPIED = ("Dockerfile", ".dockerignore", "LICENSE", "Makefile", "README.md", "docker-compose.yaml", "pyproject.toml")
COPIED_FOLDERS = ("dags", "deploy", "include", "plugins", "requirements")
BUDGET = "budgets: [{name: vision, for: {team: vision}, amount: 100, notify: [vision@example.com]}]\n"
STATE_OF_AIRFLOW = """
select dag_id, run_type, state, queued_at::time(0), start_date::time(0), end_date::time(0) from dag_run order by queued_at;
select dag_id, task_id, state, try_number, start_date::time(1), end_date::time(1) from task_instance order by start_date;
select a.name, e.timestamp::time(1), e.source_dag_id from asset_event e join asset a on a.id = e.asset_id order by e.timestamp;
select q.target_dag_id, a.name, q.created_at::time(1) from asset_dag_run_queue q join asset a on a.id = q.asset_id;
"""


class Clock:
    """Prints each step with the seconds it took."""

    def __init__(self) -> None:
        self.began = self.last = time.monotonic()

    def done(self, what: str) -> None:
        """Print that a step has ended."""
        now = time.monotonic()
        print(f"  {now - self.began:5.0f} s  {what} ({now - self.last:.0f} s)")
        self.last = now


def main(count: int) -> int:
    """Run the rehearsals; the first failure ends them with its traceback. Returns the exit code."""
    signal.signal(signal.SIGTERM, interrupted)
    LOG.unlink(missing_ok=True)
    wait_for_network()
    clock = Clock()
    with engine():
        clock.done(f"engine {run('docker', 'info', '--format', '{{.ServerVersion}} {{.Driver}}').strip()}")
        images = make_base_images(LOG)
        clock.done("base images")
        for number in range(1, count + 1):
            print(f"rehearsal {number} of {count}")
            clock = Clock()
            checkout = make_checkout(images)
            try:
                rehearse(Night(BIND, checkout, compose, clock.done), checkout, clock.done)
            except Exception:
                write_state()
                print(f"  FAILED after {time.monotonic() - clock.began:.0f} s: see {FOLDER}/failed.txt and {LOG}")
                raise
            finally:
                remove_leftovers()
            print(f"  passed in {time.monotonic() - clock.began:.0f} s; {disk_used()} MB in {FOLDER}")
    return 0


def interrupted(*_: int | FrameType | None) -> NoReturn:
    """Handle SIGTERM from `rehearse.py`: leave everything in order."""
    raise SystemExit(130)


def rehearse(night: Night, checkout: Path, done: Callable[[str], None]) -> None:
    """Run one whole rehearsal from an empty stack. Raises the first error."""
    make("up")
    done("make up")
    night.play()
    check_second_up()
    done("a second make up recreates no container")
    night.kill_parts()
    done("PostgreSQL and the scheduler killed: healthy again")
    before = night.figures()
    check_backup()
    night.wait_for_health()
    done("a whole backup, after which the same containers run")
    kill_in_the_middle("backup", until=lambda: any((checkout / "backups").glob(".unfinished-*/airflow.dump")))
    make("upgrade")
    done("a backup killed; make upgrade, which makes a whole one")
    night.wait_for_health()
    compose("down", "--volumes", "--timeout", "60")
    (checkout / ".env").unlink()
    restore = ("restore", f"FROM={newest_backup(checkout)}")
    kill_in_the_middle(*restore, until=postgres_runs)
    check_half_restored()
    done("all volumes and .env deleted; a restore killed: make up refuses")
    make(*restore)
    night.check_restored(before)
    done("the backup restored: the same figures and runs")


def make(*arguments: str) -> str:
    """Run the make command of an operator in the checkout."""
    return run("make", "--no-print-directory", *arguments, log=LOG)


def compose(*arguments: str) -> str:
    """Run Docker Compose in the checkout."""
    return run("docker", "compose", *arguments, log=LOG)


def make_checkout(images: dict[str, str]) -> Path:
    """Copy this checkout, so that `.env`, backups and settings of this checkout stay as they are, and go there."""
    checkout = FOLDER / "checkout"
    shutil.rmtree(checkout, ignore_errors=True)
    checkout.mkdir()
    for name in COPIED:
        shutil.copy2(ROOT / name, checkout / name)
    for name in COPIED_FOLDERS:
        shutil.copytree(ROOT / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    (checkout / ".venv" / "bin").mkdir(parents=True)
    (checkout / ".venv" / "bin" / "python").symlink_to(sys.executable)  # `make up` needs only a Python
    settings = (ROOT / "deploy" / "config" / "runspend.yaml").read_text()
    (checkout / "config").mkdir()
    (checkout / "config" / "runspend.yaml").write_text(settings + BUDGET)
    os.chdir(checkout)
    os.environ |= images | {"BIND": BIND, "COMPOSE_PROJECT_NAME": "rehearsal", "RUNSPEND_DIR": str(checkout / "config")}
    os.environ |= {"MLFLOW_ALSO_HOSTS": f"{BIND}:5000,mlflow.example.com", "MLFLOW_ALSO_ORIGINS": "https://mlflow.example.com"}
    for name in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "COUNT"):  # of the make that started this
        os.environ.pop(name, None)
    return checkout


def check_second_up() -> None:
    """Check that `make up` without changes leaves every container as it is."""
    before = compose("ps", "--quiet")
    make("up")
    after = compose("ps", "--quiet")
    assert sorted(before.split()) == sorted(after.split()), "a second make up recreated containers"


def check_backup() -> None:
    """Check that `make backup` stops the containers for a minute, then starts the same ones again."""
    before = compose("ps", "--quiet")
    make("backup")
    after = compose("ps", "--quiet")
    assert sorted(before.split()) == sorted(after.split()), "a backup recreated containers"


def kill_in_the_middle(*arguments: str, until: Callable[[], bool]) -> None:
    """Start a make target, and kill it with all its processes once something is seen."""
    command = ["make", "--no-print-directory", *arguments]
    nowhere = subprocess.DEVNULL
    process = subprocess.Popen(command, stdin=nowhere, stdout=nowhere, stderr=nowhere, start_new_session=True)
    while process.poll() is None and not until():
        time.sleep(0.2)
    assert process.poll() is None, f"{' '.join(arguments)} ended before it could be killed"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def postgres_runs() -> bool:
    """Whether PostgreSQL runs, by the engine: Compose answers nothing without a `.env`."""
    return bool(run("docker", "ps", "--quiet", "--filter", "label=com.docker.compose.service=postgres").strip())


def check_half_restored() -> None:
    """Check that a half-restored stack does not start."""
    message = "nothing"
    try:
        make("up")
    except RuntimeError as error:
        message = str(error)
    assert "a restore was interrupted" in message, f"make up of a stack that was restored by half says {message}"


def newest_backup(checkout: Path) -> str:
    """Return the folder of the newest backup, as an operator would name it."""
    found = sorted((checkout / "backups").glob("2*"))
    assert len(found) == 2, f"two backups are expected, one of them the upgrade's: {found}"
    return f"backups/{found[-1].name}"


def write_state() -> None:
    """Write the facts needed for debugging into failed.txt."""
    database = ["exec", "-T", "postgres", "psql", "-U", "postgres", "airflow", "-c", STATE_OF_AIRFLOW]
    with (FOLDER / "failed.txt").open("w") as file:
        for command in (["ps", "--all"], database, ["logs", "--no-color"]):
            try:
                file.write(compose(*command))
            except RuntimeError as error:
                file.write(f"{error}\n")


def disk_used() -> int:
    """Return the MB of everything that a rehearsal keeps."""
    return int(subprocess.run(["du", "-sxm", str(FOLDER)], capture_output=True, text=True, check=False).stdout.split()[0])


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
