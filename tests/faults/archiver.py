"""One run of the archive as a process of its own, over two folders: `python -m tests.faults.archiver FOLDER [STOP_AT]`.

With STOP_AT the process stops (SIGSTOP) right before the lease is asked for the nth time, and holds it for two seconds only.
Prints the state of each item; exit code 5 when the lease was lost.
"""

from __future__ import annotations

import os
import signal
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

from runspend.actions.archive import lease
from runspend.actions.archive.context import Tools
from runspend.actions.archive.items import Item
from runspend.actions.archive.lease import Lease
from runspend.actions.archive.run import StoreTotals, apply
from runspend.config.settings import Settings
from runspend.core.errors import LeaseLost
from runspend.warehouse.records import Records
from tests.archive_world import PREFIX, make_item
from tests.settings_builder import make_archive_settings

FILES = {"model/MLmodel": b"flavors: {}\n", "model/weights.bin": b"w" * 300_000, "ünï.txt": b"", "copy.bin": b"w" * 300_000}


def settings_of(folder: Path) -> Settings:
    """Return settings with `source` and `archive` as stores. `home` has the records."""
    stores = ({"uri": str(folder / name), "delete_credentials": "local"} for name in ("source", "archive"))
    return make_archive_settings(folder / "home", *stores)


def item_of(folder: Path) -> Item:
    """Return the item of the only run."""
    return make_item(store=str(folder / "source"), artifact_uri=str(folder / "source" / PREFIX))


def make(folder: Path) -> None:
    """Create the stores and the run's files, old enough for the archive."""
    for name, body in FILES.items():
        path = folder / "source" / PREFIX / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
        os.utime(path, (1.7e9, 1.7e9))
    (folder / "archive").mkdir()
    (folder / "home").mkdir()


def run(folder: Path) -> list[str]:
    """Run the archive once, and return the state of the item."""
    now = datetime.now(timezone.utc)
    results = apply(
        [item_of(folder)],
        settings_of(folder),
        Records(folder / "home"),
        now=now,
        protects=lambda item: None,
        known=lambda uri: StoreTotals(1_000, 10**9),
        tools=Tools(workers=1),
    )
    return [result.state for result in results]


def stop_at(number: int) -> None:
    """Let the lease last two seconds, and stop the process before it asks for the lease the nth time."""
    lease.LASTS = timedelta(seconds=2)  # type: ignore[misc]
    asked = 0
    check = Lease.check

    def checked(self: Lease) -> None:
        nonlocal asked
        asked += 1
        if asked == number:
            os.kill(os.getpid(), signal.SIGSTOP)
        check(self)

    Lease.check = checked  # type: ignore[method-assign]


if __name__ == "__main__":
    if len(sys.argv) > 2:
        stop_at(int(sys.argv[2]))
    try:
        print(*run(Path(sys.argv[1])))
    except LeaseLost as error:
        print(error)
        raise SystemExit(error.exit_code) from None
