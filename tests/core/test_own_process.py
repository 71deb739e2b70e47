"""A call in its own process: it exchanges arguments, results and errors. A crash, too much memory or silence ends this process and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from runspend.core import own_process
from runspend.core.errors import CheckFailed, SourceRefused
from runspend.core.own_process import Limits, ProcessFailed
from runspend.core.own_process import call as calls

HERE = "tests.core.calls_apart"
MB = 1_000_000


def run(name: str, *given: Any, limits: Limits | None = None, **named: Any) -> Any:
    return own_process.run(f"{HERE}:{name}", *given, before=f"{HERE}:warm", limits=limits or Limits(), **named)


def is_alive(process: int) -> bool:
    """Return whether a process is running or stopped. A zombie counts as dead."""
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(is_so: Callable[[], bool], seconds: float = 20) -> None:
    until = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.02)


def test_arguments_results_and_questions_reach_the_other_process() -> None:
    messages: list[str] = []
    found, process = run("add", 1, 20, ask=lambda number: number * 2, note=messages.append)
    assert (found, messages) == (41, ["adding"])
    assert process != os.getpid()


def test_each_call_has_a_process_of_its_own_and_the_callers_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RUNSPEND_TEST_SECRET", "one")
    monkeypatch.chdir(tmp_path)
    assert run("environment", "RUNSPEND_TEST_SECRET") == ("one", str(tmp_path))
    monkeypatch.delenv("RUNSPEND_TEST_SECRET")
    assert run("environment", "RUNSPEND_TEST_SECRET") == (None, str(tmp_path))
    ask = partial(max, 0)
    assert run("add", 1, 1, ask=ask, note=str)[1] != run("add", 1, 1, ask=ask, note=str)[1]


def test_a_key_lent_in_memory_can_be_read(tmp_path: Path) -> None:
    """Only the caller could open this path, so the call receives its descriptor."""
    descriptor = os.memfd_create("key")
    os.write(descriptor, b"secret")
    assert run("read", f"/proc/{os.getpid()}/fd/{descriptor}") == "secret"
    assert run("read", f"/proc/self/fd/{descriptor}") == "secret"
    os.close(descriptor)


def test_no_secret_is_in_a_command_line(tmp_path: Path) -> None:
    def look(_: str) -> None:
        for server in calls._all:
            line = Path(f"/proc/{server.process.pid}/cmdline").read_bytes()
            assert b"canary" not in line
            assert b"server.py" in line
        raise InterruptedError

    with pytest.raises(InterruptedError):
        run("wait", note=look)


def test_errors_keep_their_types_and_fields() -> None:
    with pytest.raises(SourceRefused, match="cannot load aws: no") as refused:
        run("refuse")
    assert (refused.value.source, refused.value.period, refused.value.exit_code) == ("aws", "2026-10", 3)
    with pytest.raises(CheckFailed) as failed:
        run("fail_check")
    assert (failed.value.check, failed.value.rows) == ("sums", [{"a": 1}])
    with pytest.raises(RuntimeError, match="Odd: what happened") as odd:
        run("be_odd")
    assert "in be_odd" in str(odd.value.__cause__)


def test_warnings_are_the_callers() -> None:
    with pytest.warns(UserWarning, match="look at this"):
        assert run("warn") == "done"


def test_output_of_a_call_is_not_part_of_the_commands_output(capfd: pytest.CaptureFixture[str]) -> None:
    run("print_something")
    assert capfd.readouterr().out == ""


def test_memory_beyond_the_limit_ends_the_call_and_no_other() -> None:
    with pytest.raises(ProcessFailed) as failed:
        run("eat", 3_000, limits=Limits(memory_bytes=200 * MB))
    assert failed.value.why == "memory"
    assert 200 * MB < failed.value.peak_bytes < 400 * MB
    assert run("eat", 50, limits=Limits(memory_bytes=200 * MB)) == 50


def test_address_space_and_mapped_files_are_not_memory(tmp_path: Path) -> None:
    """Libraries reserve much more than they use, and the system takes back pages of files."""
    assert run("reserve", 8, limits=Limits(memory_bytes=200 * MB)) == 8 << 30
    large = tmp_path / "large"
    large.write_bytes(b"\1" * 300 * MB)
    assert run("read_mapped", str(large), limits=Limits(memory_bytes=200 * MB)) == -(-300 * MB // 4096)


@pytest.mark.parametrize(
    ("name", "limits", "why", "signal_number"),
    [
        ("wait", Limits(idle_seconds=0.5), "idle", signal.SIGKILL),
        ("stop_in_the_middle", Limits(idle_seconds=0.5), "idle", signal.SIGKILL),
        ("work", Limits(seconds=0.5, idle_seconds=10), "time", signal.SIGKILL),
        ("crash", Limits(), "ended", signal.SIGSEGV),
        ("leave", Limits(), "ended", None),
    ],
)
def test_a_call_that_blocks_or_crashes_ends(name: str, limits: Limits, why: str, signal_number: int | None) -> None:
    began = time.monotonic()
    with pytest.raises(ProcessFailed) as failed:
        run(name, limits=limits, **({"note": lambda text: None} if name in ("stop_in_the_middle", "work") else {}))
    assert (failed.value.why, failed.value.signal) == (why, signal_number)
    assert time.monotonic() - began < 10


def test_a_waiting_process_that_died_is_replaced() -> None:
    run("environment", "PATH")
    for server in calls._idle:
        server.process.kill()
    assert run("environment", "HOME")[0] == os.environ.get("HOME")


def test_a_process_is_kept_though_others_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """The waiting processes are for another kind of call, or dead. The one that has waited longest makes room."""
    monkeypatch.setattr(calls, "_idle", [])
    for _ in range(calls.MAX_IDLE):
        calls._keep(calls._Server(f"{HERE}:warm_otherwise"))
    first, *others = calls._idle
    first.process.kill()
    run("environment", "PATH")
    assert first not in calls._idle and first.process.returncode == -signal.SIGKILL
    assert [server.before for server in calls._idle] == [*(server.before for server in others), f"{HERE}:warm"]
    for server in calls._idle:
        server.close()


def test_an_error_of_the_caller_ends_the_call() -> None:
    processes: list[int] = []

    def fail(text: str) -> None:
        processes.append(int(text))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run("wait", note=fail)
    wait_until(lambda: not is_alive(processes[0]))


def test_calls_at_once_do_not_know_each_other() -> None:
    found: dict[int, tuple[int, int]] = {}

    def one(number: int) -> None:
        found[number] = run("add", number, number, ask=lambda n: n * 100, note=lambda text: time.sleep(0.2))

    threads = [threading.Thread(target=one, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {number: total for number, (total, _) in found.items()} == {number: number * 101 for number in range(4)}
    assert len({process for _, process in found.values()}) == 4
    assert len(calls._idle) <= calls.MAX_IDLE


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("name", ["wait", "work"])
def test_neither_process_outlives_the_caller(how: int, name: str) -> None:
    """If the caller ends for any reason, the call and the process that started it end too, while working or waiting."""
    script = textwrap.dedent(f"""
        import signal
        from runspend.core import own_process
        from runspend.core.own_process import call
        signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
        def note(text):
            print(text, *(s.process.pid for s in call._all), flush=True)
        own_process.run("{HERE}:{name}", before="{HERE}:warm", limits=own_process.Limits(), note=note)
    """)
    caller = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=Path(__file__).parents[2]
    )
    assert caller.stdout is not None
    processes = [int(number) for number in caller.stdout.readline().split()]
    assert len(processes) == 2
    assert all(is_alive(process) for process in processes)
    caller.send_signal(how)
    caller.wait(20)
    caller.stdout.close()
    wait_until(lambda: not any(is_alive(process) for process in processes))


def test_a_fork_of_the_caller_leaves_its_processes_alone() -> None:
    run("environment", "PATH")
    waiting = [server.process.pid for server in calls._idle if is_alive(server.process.pid)]  # an earlier test may have killed one
    assert waiting
    child = os.fork()
    if child == 0:
        os._exit(0 if not calls._idle else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert all(is_alive(process) for process in waiting)
    assert run("environment", "HOME")[0] == os.environ.get("HOME")


def server_that(folder: Path, does: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Start a foreign waiting process in place of ours. No other process waits."""
    (folder / "server.py").write_text(does)
    monkeypatch.setattr(calls, "SERVER", folder / "server.py")
    monkeypatch.setattr(calls, "_idle", [])


def test_a_process_that_ends_before_it_is_spoken_to_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No zombie stays, however often a call is tried."""
    server_that(tmp_path, "", monkeypatch)
    before, children_before = list(calls._all), children_of_this_thread()
    with pytest.raises(OSError, match=r"Broken pipe|reset"):
        calls._Server("x" * (16 << 20))  # more than a socket holds
    assert [server for server in calls._all if server not in before and server.process.returncode is None] == []
    assert all(map(is_alive, children_of_this_thread() - children_before))


def children_of_this_thread() -> set[int]:
    return {int(child) for child in Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split()}


def test_a_process_that_does_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise it would outlive its caller."""
    server_that(tmp_path, "import time\ntime.sleep(300)", monkeypatch)
    monkeypatch.setattr(calls, "ENDS_WITHIN", 0.2)
    server = calls._Server(f"{HERE}:warm")
    server.close()
    assert server.process.returncode == -signal.SIGKILL


def test_no_more_processes_wait_than_are_allowed() -> None:
    """This holds even if many calls end at the same time."""
    threads = [threading.Thread(target=run, args=("environment", "PATH")) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls._idle) <= calls.MAX_IDLE


def test_a_fork_while_another_thread_takes_a_process_can_call() -> None:
    """In the fork, the lock that the other thread held is free."""
    with calls._taking:
        child = os.fork()
        if child == 0:
            signal.alarm(30)
            os._exit(0 if calls._taking.acquire(timeout=5) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
