"""`make up-rehearsal`: start the stack of docker-compose.yaml where no image registry is available, test it, and take it down.

    python deploy/rehearsal/rehearse.py [--count 10] [--if-changed]

It needs Debian and root. The engine runs in its own namespaces (processes, mounts, network). When this process ends in any way, the
kernel ends all its processes, mounts, bridges and firewall rules. Base images, layers and logs are kept for the next time in
REHEARSAL (/var/tmp/runspend-rehearsal). You may delete that folder at any time.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import NoReturn

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
FOLDER = Path(os.environ.get("REHEARSAL", "/var/tmp/runspend-rehearsal"))
CGROUP = "runspend-rehearsal"
# Program: its Debian package.
PROGRAMS = {
    "dockerd": "docker.io",
    "docker": "docker-cli",
    "docker-compose": "docker-compose",
    "iptables": "iptables",
    "mmdebstrap": "mmdebstrap",
    "slirp4netns": "slirp4netns",
    "/usr/libexec/docker/cli-plugins/docker-buildx": "docker-buildx",
}
# The files that a rehearsal depends on. If none has changed since the last successful one, `--if-changed` does nothing.
DEPENDS_ON = ("Dockerfile", "docker-compose.yaml", "Makefile", "pyproject.toml", "requirements", "deploy", "dags", "plugins")
PASSED = FOLDER / "passed"


def main(arguments: list[str]) -> int:
    """Return the exit code: 0 if all rehearsals passed, or if there was nothing to do."""
    parser = argparse.ArgumentParser(description="Start the stack of docker-compose.yaml for real, and try it.")
    parser.add_argument("--count", type=int, default=1, help="how many whole rehearsals, one after the other")
    parser.add_argument("--if-changed", action="store_true", help="only where an engine is installed and what it depends on has changed")
    given = parser.parse_args(arguments)
    digest = digest_of_sources()
    if given.if_changed and (reason := reason_to_skip(digest)):
        print(f"rehearsal of the compose stack: not run, {reason}")
        return 0
    if os.geteuid() != 0:
        print("cannot rehearse: its engine needs root. Where Docker is installed, run make up. Nothing was started.", file=sys.stderr)
        return 2
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if given.if_changed:
                print("rehearsal of the compose stack: not run, another one is running")
                return 0
            print(f"cannot rehearse: another rehearsal runs in {FOLDER}. Wait for it. Nothing was started.", file=sys.stderr)
            return 2
        if missing := install_programs():
            print(f"cannot rehearse: {', '.join(missing)} cannot be installed, see {FOLDER}/apt.log. Nothing was started.", file=sys.stderr)
            return 2
        code = run_in_namespaces(given.count)
    if code == 0:
        PASSED.write_text(digest + "\n")
    return code


def reason_to_skip(digest: str) -> str | None:
    """Return why `--if-changed` skips the rehearsal, in words; None if it does not."""
    if os.geteuid() != 0:
        return "it needs root"
    if absent := [program for program in PROGRAMS if shutil.which(program) is None]:
        return f"no container engine is installed here (missing: {', '.join(Path(name).name for name in absent)}); make up-rehearsal installs one"
    namespaces = subprocess.run(["unshare", "--net", "--mount", "--pid", "--fork", "true"], capture_output=True, check=False)
    if namespaces.returncode or not Path("/dev/net/tun").exists():
        return "this machine does not let it make namespaces"
    if PASSED.is_file() and PASSED.read_text().strip() == digest:
        return "it passed here with these files (make up-rehearsal runs it anyway)"
    return None


def digest_of_sources() -> str:
    """One digest over the names and contents of everything a rehearsal depends on."""
    total = hashlib.sha256()
    for file in sources():
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        total.update(f"{file.relative_to(ROOT)} {file.stat().st_mode & 0o111:o} {content}\n".encode())
    return total.hexdigest()


def sources() -> Iterator[Path]:
    """Yield the files that a rehearsal depends on, in order; without the library, which has its own tests."""
    for name in DEPENDS_ON:
        path = ROOT / name
        found = [path] if path.is_file() else sorted(path.rglob("*"))
        yield from (file for file in found if file.is_file() and "__pycache__" not in file.parts)


def install_programs() -> list[str]:
    """Install missing programs from Debian's packages; return those still missing."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing and shutil.which("apt-get"):
        packages = [PROGRAMS[program] for program in missing]
        print(f"installing {' '.join(packages)}")
        apt = ["apt-get", "-q", "-y", "-o", "DPkg::Lock::Timeout=600"]
        # The package starts its own engine if the system's policy allows it; a rehearsal does not use that one.
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
        with (FOLDER / "apt.log").open("w") as log:
            for command in ([*apt, "update"], [*apt, "install", "--no-install-recommends", *packages]):
                subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False)
    return [program for program in missing if shutil.which(program) is None]


def run_in_namespaces(count: int) -> int:
    """Run `inside.py` with its own processes, mounts and network; return its exit code."""
    signal.signal(signal.SIGTERM, stop)
    command = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "docker-init", "--"]
    environment = {**os.environ, "REHEARSAL": str(FOLDER), "PYTHONUNBUFFERED": "1"}
    inside = subprocess.Popen(
        [*command, sys.executable, str(HERE / "inside.py"), str(count)],
        env=environment,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=die_with_parent,
    )
    network = None
    try:
        first = wait_for_child(inside)
        with (FOLDER / "network.log").open("w") as log:
            network = subprocess.Popen(
                ["slirp4netns", "--configure", "--mtu=65520", "--disable-host-loopback", str(first), "tap0"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent,
            )
        return inside.wait()
    except KeyboardInterrupt:
        print("interrupted: taking the stack down", file=sys.stderr)
        os.kill(first, signal.SIGTERM)
        inside.wait()
        return 130
    finally:
        inside.kill()
        inside.wait()
        if network is not None:
            network.terminate()
            network.wait()
        remove_cgroups()


def stop(*_: int | FrameType | None) -> NoReturn:
    """Handle SIGTERM like Ctrl-C."""
    raise KeyboardInterrupt


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent dies."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def wait_for_child(process: subprocess.Popen[bytes]) -> int:
    """Return the id of the first process in the new namespaces."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while process.poll() is None:
        if found := children.read_text().split():
            return int(found[0])
        time.sleep(0.05)
    raise SystemExit(f"cannot rehearse: unshare ended with {process.returncode}. Nothing was started.")


def remove_cgroups() -> None:
    """Remove the empty control groups that the engine's containers leave, only below its own parent group."""
    for parent in Path("/sys/fs/cgroup").glob(f"**/{CGROUP}"):
        for group in sorted((path for path in parent.rglob("*") if path.is_dir()), reverse=True):
            group.rmdir()
        parent.rmdir()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
