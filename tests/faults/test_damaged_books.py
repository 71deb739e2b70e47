"""Notes next to the tables are missing, tampered with or locked. Runspend repeats the work that they would save, and no figure is wrong."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from functools import partial
from pathlib import Path

import pytest

from runspend.core.errors import WarehouseDamaged
from runspend.warehouse.base import Unit
from runspend.warehouse.parquet import verification
from runspend.warehouse.parquet.warehouse import ParquetWarehouse
from tests.command import run_here
from tests.faults.damaged_world import NOW, Flip, copy_of, digests
from tests.faults.test_damage import config, mails, root_of

__all__ = ["config"]  # a fixture

DAILY = Unit("cost_daily", "2026-11", "all")
SUM = "select sum(effective_cost) as cost from cost_daily"


def test_tables_whose_state_files_are_all_gone_are_damaged_not_empty(config: Path) -> None:
    """The next pipeline run builds everything again."""
    root = root_of(config)
    wanted = digests(root)
    shutil.rmtree(root / "_runspend")
    assert "cost_daily 2026-11 all: its state file is gone" in run_here("sql", SUM, "--config", str(config), code=4).stderr
    run_here("verify", "--config", str(config), code=4)
    run_here("nightly", "--config", str(config), "--now", NOW, code=4)
    found = digests(root)
    assert {unit for unit in wanted if found.get(unit) != wanted[unit]} <= {
        unit for unit in wanted if unit.table in ("builds", "sources", "period_states")
    }


@pytest.mark.parametrize(
    "harm",
    [
        Path.unlink,
        *(
            partial(Path.write_text, data=text)
            for text in (
                "{}",
                json.dumps(verification.seal({"units": ["../../x"]})),
                json.dumps(verification.seal({"units": [1]}), sort_keys=True),
            )
        ),
    ],
)
def test_a_month_is_not_forgotten_with_the_index(config: Path, harm: object) -> None:
    """A state file and the index are lost, but the Parquet file still shows that the unit exists."""
    warehouse = ParquetWarehouse(root_of(config))
    harm(root_of(config) / "_runspend" / "index.json")  # type: ignore[operator]
    warehouse.state_path(DAILY).unlink()
    assert " ".join(DAILY) in run_here("sql", SUM, "--config", str(config), code=4).stderr
    assert DAILY in warehouse.find_damage()


def test_looking_at_files_is_not_hashing_them(config: Path) -> None:
    """A verification that only looks at files does not keep a later one from hashing them."""
    warehouse = ParquetWarehouse(root_of(config))
    Flip(warehouse.path(DAILY), 300, 2, is_silent=True).make()
    began = time.time()
    assert warehouse.find_damage(since=0.0) == {}
    assert warehouse.find_damage(since=began).keys() == {DAILY}


def test_records_verified_in_the_future_are_verified_again(config: Path) -> None:
    """A wrong clock, or one bit in the notes, changes 1795… s to 9795… s."""
    warehouse = ParquetWarehouse(root_of(config))
    notes = root_of(config) / "_runspend" / "verified.json"
    value = json.loads(notes.read_text())
    value["whole"]["/".join(DAILY)][2] += 8e9
    notes.write_text(json.dumps(value))
    Flip(warehouse.path(DAILY), 300, 2, is_silent=True).make()
    assert warehouse.find_damage(since=time.time()).keys() == {DAILY}


@pytest.mark.parametrize("kind", ["deep", "pipe", "device"])
def test_unreadable_notes_count_as_missing(config: Path, kind: str) -> None:
    notes = root_of(config) / "_runspend" / "verified.json"
    notes.unlink()
    if kind == "deep":
        notes.write_text("[" * 100_000)
    elif kind == "pipe":
        os.mkfifo(notes)
    else:
        notes.symlink_to("/dev/zero")
    run_here("sql", SUM, "--config", str(config))


def test_a_pipe_in_the_place_of_a_unit_is_refused_not_waited_for(config: Path) -> None:
    warehouse = ParquetWarehouse(root_of(config))
    warehouse.path(DAILY).unlink()
    os.mkfifo(warehouse.path(DAILY))
    with pytest.raises(WarehouseDamaged, match="cost_daily 2026-11 all: its file has 0 bytes"), warehouse.reader() as reader:
        reader.query(SUM)


def test_a_lock_of_notes_that_is_held_or_a_link_does_not_block(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(verification, "NOTE_WAIT", 0.1)
    warehouse = ParquetWarehouse(root_of(config))
    lock = root_of(config) / "_runspend" / "verified.lock"
    descriptor = os.open(lock, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        assert warehouse.find_damage() == {}
    finally:
        os.close(descriptor)
    assert f"another process has held {lock}" in caplog.text
    lock.unlink()
    lock.symlink_to(tmp_path / "decoy")
    assert warehouse.find_damage() == {}
    assert not (tmp_path / "decoy").exists()


def test_damage_is_mended_and_mailed_even_if_a_record_is_refused(config: Path) -> None:
    """Damage is mailed even if a record is malformed. A well-formed record can prevent the mail, see docs/security.md."""
    warehouse, wanted = ParquetWarehouse(root_of(config)), digests(root_of(config))
    home = config.parent / "home"
    run_here("verify", "--config", str(config))
    Flip(warehouse.path(DAILY), 300, 2, is_silent=True).make()
    trial = copy_of(config.parent, config.parent.parent / "trial")
    run_here("nightly", "--config", str(trial), "--now", NOW, code=4)
    [record] = (trial.parent / "home" / "records" / "damage").glob("*.json")
    (home / "records" / "damage").mkdir(parents=True)
    (home / "records" / "damage" / record.name).write_text("[]")
    done = run_here("nightly", "--config", str(config), "--now", NOW, code=4)
    assert str(record.name) in done.stdout + done.stderr
    assert len(mails(config)) == 1
    assert digests(root_of(config))[DAILY] == wanted[DAILY]
    run_here("verify", "--full", "--config", str(config))


def test_states_without_a_checksum_get_one_also_after_something_else_was_published(config: Path) -> None:
    """This holds for every first command of a newer version: `forget` publishes without reading the books."""
    warehouse = ParquetWarehouse(root_of(config))
    state = warehouse.state_path(DAILY)
    value = json.loads(state.read_text())
    del value["check"]
    state.write_text(json.dumps(value, ensure_ascii=False, sort_keys=True))
    run_here("verify", "--config", str(config))
    assert "check" in json.loads(state.read_text())
