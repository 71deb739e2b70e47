"""Opening a warehouse removes the files of dead processes, and never files that a living process is just removing."""

from __future__ import annotations

import multiprocessing
import tempfile
from pathlib import Path

import pytest

from runspend.config.settings import Settings
from runspend.pipeline.source_status import work_folder
from runspend.warehouse.parquet.warehouse import ParquetWarehouse
from tests.accounts import without_rights_of_root


def _stage_and_leave(root: Path, rounds: int) -> None:
    warehouse = ParquetWarehouse(root)
    for _ in range(rounds):
        with warehouse.folder.stage("tidy") as stage:
            for number in range(20):
                (stage.path / f"file-{number}").write_bytes(b"x")


def _open(root: Path, rounds: int) -> None:
    for _ in range(rounds):
        ParquetWarehouse(root)


def test_opening_does_not_disturb_a_step_that_ends(tmp_path: Path) -> None:
    """Steps end while the warehouse is opened again and again. Neither finds its files missing, and no file is left."""
    root = tmp_path / "warehouse"
    with ParquetWarehouse(root).step("first", "build") as step:
        step.publish()
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=_stage_and_leave, args=(root, 100)) for _ in range(2)]
    processes += [spawn.Process(target=_open, args=(root, 2_000)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0, 0]
    assert list((root / "_runspend" / "stage").glob("*")) == []


@pytest.mark.parametrize("name", ["work/work-dead", "warehouse/_runspend/stage/dead-1"])
def test_a_closed_folder_of_another_account_does_not_block_the_warehouse(name: str) -> None:
    """A command of another account in the group was killed. Its folder stays until that account removes it, and all others continue."""
    with tempfile.TemporaryDirectory(prefix="runspend-sweep-") as folder:
        home = Path(folder)
        settings = Settings(home=home)
        with work_folder(settings), ParquetWarehouse(home / "warehouse").step("first", "build") as step:
            step.publish()
        dead = home / name
        dead.mkdir(parents=True)
        (dead / "file").touch()
        with without_rights_of_root(home):
            dead.chmod(0)
            try:
                with work_folder(settings) as work, ParquetWarehouse(home / "warehouse").folder.stage("second"):
                    (work / "file").touch()
                assert dead.exists()
            finally:
                dead.chmod(0o700)
            with work_folder(settings), ParquetWarehouse(home / "warehouse").folder.stage("third"):
                assert not dead.exists()
