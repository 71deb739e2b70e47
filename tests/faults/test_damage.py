"""Damage in the warehouse. The next pipeline run finds every flipped bit and every cut, lost or exchanged file, mails it and repairs it.

Until then, readers refuse the damaged files.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from runspend.schema.tables import TABLES
from runspend.warehouse.base import Unit
from runspend.warehouse.parquet.warehouse import ParquetWarehouse
from tests.command import run_here
from tests.faults.damaged_world import NOW, Flip, choose_flips, copy_of, digests, unit_of
from tests.tiny_world import tiny_night


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the tiny world after one pipeline run, in which a pipeline run found no damage, so it knows the files by their time and size."""
    path = copy_of(tiny_night() / "world", tmp_path / "world")
    monkeypatch.chdir(path.parent)
    run_here("verify", "--full", "--config", str(path))
    return path


def root_of(config: Path) -> Path:
    return config.parent / "home" / "warehouse"


def mails(config: Path) -> list[str]:
    """Return the text of the mails about damage."""
    return [text for path in (config.parent / "home" / "mail").glob("*.eml") if "DAMAGED" in (text := path.read_text())]


def assert_found_and_mended(config: Path, damaged: set[Unit], wanted: dict[Unit, str]) -> None:
    """Check that the next pipeline run names each damage, ends with 4, mails once and restores the files. The run after it reports nothing."""
    done = run_here("nightly", "--config", str(config), "--now", NOW, "--json", code=4)
    printed = json.dumps(json.loads(done.stdout.partition("\n}\n")[0] + "\n}"), ensure_ascii=False)
    missed = [unit for unit in damaged if " ".join(unit) not in printed]
    problems = json.loads(done.stdout.partition("\n}\n")[0] + "\n}")["problems"]
    assert len(mails(config)) == 1, problems
    listed = mails(config)[0].replace("=\n", "")
    assert missed == [] or all(" ".join(unit) in listed for unit in missed)
    assert run_here("verify", "--full", "--config", str(config)).returncode == 0
    found = digests(root_of(config))
    assert {unit: (wanted.get(unit), found.get(unit)) for unit in wanted.keys() | found.keys() if wanted.get(unit) != found.get(unit)} == {}
    run_here("nightly", "--config", str(config), "--now", NOW)


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.torture) for seed in (2, 17))])
def test_each_of_twelve_flipped_bits_is_found_and_mended_by_the_next_pipeline_run(config: Path, seed: int) -> None:
    wanted = digests(root_of(config))
    flips = choose_flips(root_of(config), 12, seed)
    for flip in flips:
        flip.make()
    assert_found_and_mended(config, {unit_of(root_of(config), flip.path) for flip in flips}, wanted)


@pytest.mark.torture
@pytest.mark.timeout(5400)
@pytest.mark.parametrize("seed", range(10, 22))
def test_each_of_many_flipped_bits_is_found_and_mended_by_the_next_pipeline_run(config: Path, seed: int) -> None:
    test_each_of_twelve_flipped_bits_is_found_and_mended_by_the_next_pipeline_run(config, seed)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def lose(path: Path) -> None:
    path.unlink()


def lose_both(path: Path) -> None:
    """Remove the file and its state file, so that only the index has the unit."""
    root = next(parent for parent in path.parents if parent.name == "warehouse")
    ParquetWarehouse(root).state_path(unit_of(root, path)).unlink()
    path.unlink()


def lose_state(path: Path) -> None:
    root = next(parent for parent in path.parents if parent.name == "warehouse")
    ParquetWarehouse(root).state_path(unit_of(root, path)).unlink()


def exchange(path: Path) -> None:
    """Put another unit's file and state, as they were published, under this unit's name."""
    root = next(parent for parent in path.parents if parent.name == "warehouse")
    warehouse = ParquetWarehouse(root)
    unit = unit_of(root, path)
    strangers = [Unit("experiments", "all", "lab"), Unit("artifact_owners", "all", "lab")]
    other = next(u for u in [*warehouse.states(unit.table), *strangers] if u != unit)
    shutil.copy2(warehouse.path(other), path)
    shutil.copy2(warehouse.state_path(other), warehouse.state_path(unit))


LINES, RUNS, DAILY = Unit("billing_lines", "2026-11", "bill"), Unit("runs", "2026-11", "lab"), Unit("cost_daily", "2026-11", "all")
ASK = {LINES: "select sum(billed_cost) as c from billing_lines", DAILY: "select sum(billed_cost) as c from cost_daily"}


HARMS: dict[Unit, Callable[[Path], None]] = {
    Unit("billing_lines", "2026-11", "other"): exchange, RUNS: cut, LINES: lose, DAILY: lose_both, Unit("run_costs", "2026-11", "all"): empty,
    Unit("cost_allocations", "2026-11", "all"): lose_state, Unit("billing_loads", "2026-11", "bill"): lose_both, Unit("run_costs_daily", "2026-11", "all"): exchange,
    Unit("experiments", "all", "lab"): lose, Unit("period_states", "2026-11", "all"): cut, Unit("builds", "2026-11", "allocate"): lose,
}  # fmt: skip


def test_units_cut_emptied_lost_and_exchanged_are_refused_then_replaced(config: Path) -> None:
    """Until the next pipeline run, no reader gets a figure from them. Afterwards everything is as before."""
    warehouse, wanted = ParquetWarehouse(root_of(config)), digests(root_of(config))
    assert wanted.keys() >= HARMS.keys()
    for unit, harm in HARMS.items():
        harm(warehouse.path(unit))
    for unit in HARMS:
        refused = run_here("sql", f"select count(*) as n from {unit.table}", "--config", str(config), code=4)
        assert " ".join(unit) in refused.stderr
        assert refused.stdout == ""
    assert run_here("costs", "--config", str(config), code=4).stdout == ""
    listed = json.loads(run_here("verify", "--json", "--config", str(config), code=4).stdout)
    assert len(listed["problems"]) == len(HARMS)
    assert_found_and_mended(config, set(HARMS), wanted)


@pytest.mark.torture
@pytest.mark.parametrize("harm", [cut, empty, lose, lose_state, lose_both, exchange], ids=lambda harm: harm.__name__)
@pytest.mark.parametrize("seed", range(4))
def test_every_kind_of_harm_to_units_chosen_at_random(config: Path, harm: Callable[[Path], None], seed: int) -> None:
    warehouse, wanted = ParquetWarehouse(root_of(config)), digests(root_of(config))
    chosen = random.Random(seed).sample(sorted(wanted), 8)
    before = {unit: contents(warehouse, unit) for unit in chosen}
    for unit in chosen:
        harm(warehouse.path(unit))
    harmed = {unit for unit in chosen if contents(warehouse, unit) != before[unit]}
    assert len(harmed) >= 6  # two exchanged units have their own files again
    assert_found_and_mended(config, harmed, wanted)


def contents(warehouse: ParquetWarehouse, unit: Unit) -> list[bytes | None]:
    """Return a unit's file and its state, or None if the file is lost."""
    return [path.read_bytes() if path.exists() else None for path in (warehouse.path(unit), warehouse.state_path(unit))]


def test_a_reader_refuses_a_flipped_bit_that_was_written(config: Path) -> None:
    """A reader immediately detects a change that was written through the file system, in every public table and anywhere in the file."""
    warehouse = ParquetWarehouse(root_of(config))
    tried = 0
    for table in (name for name, table in TABLES.items() if table.is_public):
        for unit in sorted(warehouse.states(table))[:1]:
            path, sql = warehouse.path(unit), f"select count(*) as n from {table}"
            for place in (0.1, 0.95):
                flip = Flip(path, int(path.stat().st_size * place), 3, is_silent=False)
                flip.make()
                assert " ".join(unit) in run_here("sql", sql, "--config", str(config), code=4).stderr
                flip.make()  # restore the bytes
                tried += 1
            run_here("sql", sql, "--config", str(config))
    assert tried >= 10


def test_a_bit_that_rotted_is_refused_from_the_verification_on(config: Path) -> None:
    """The disk changed the bit without any sign. Once a verification finds it, readers refuse the file until it is replaced or restored."""
    path = ParquetWarehouse(root_of(config)).path(DAILY)
    flip = Flip(path, path.stat().st_size // 3, 0, is_silent=True)
    flip.make()
    run_here("verify", "--full", "--config", str(config), code=4)
    run_here("sql", ASK[DAILY], "--config", str(config), code=4)
    flip.make()
    run_here("sql", ASK[DAILY], "--config", str(config))
    run_here("verify", "--full", "--config", str(config))


@pytest.mark.parametrize("name", ["schema.json", "index.json"])
def test_books_are_made_again_from_the_files(config: Path, name: str) -> None:
    """Every flipped bit in these files is found. A pipeline run repairs the files, reports it, and changes nothing else."""
    path, wanted = root_of(config) / "_runspend" / name, digests(root_of(config))
    data = path.read_bytes()
    for byte in range(0, len(data), max(1, len(data) // 40)):
        path.write_bytes(bytes([*data[:byte], data[byte] ^ 1, *data[byte + 1 :]]))
        printed = json.loads(run_here("verify", "--json", "--config", str(config), code=4).stdout)
        assert name in printed["problems"][0]
    assert path.read_bytes() == data
    path.write_bytes(data[:-9])
    assert_found_and_mended(config, {Unit("_runspend", "all", name)}, wanted)


def test_a_bill_that_cannot_be_read_again_stays_refused_and_the_rest_goes_on(config: Path) -> None:
    """The other bill's month is built. The damaged bill's message says what to do, and the operator may give the bill up by name."""
    root = root_of(config)
    path = ParquetWarehouse(root).path(LINES)
    cut(path)
    shutil.rmtree(config.parent / "bills" / "bill")
    (config.parent / "bills" / "bill").mkdir()
    before = digests(root)
    done = run_here("nightly", "--config", str(config), "--now", NOW, code=None)
    assert done.returncode == 4
    assert "billing_lines 2026-11 bill" in done.stderr
    assert digests(root)[DAILY] == before[DAILY]
    for now, is_priced in (
        (NOW, False),
        ("2027-06-04T06:00", True),
    ):  # cost of artifacts does not need a bill that is too old to show a rate
        done = json.loads(run_here("allocate", "--json", "--config", str(config), "--now", now, code=4).stdout)
        assert ("artifact_stores all all" in done["changed"] + done["unchanged"]) is is_priced
        assert any("cannot read damaged data" in problem for problem in done["problems"])
    assert run_here("sql", ASK[LINES], "--config", str(config), code=4).stdout == ""
    run_here("sql", ASK[DAILY], "--config", str(config))  # cost tables that were built from it still answer
    assert "cannot drop" in run_here("verify", "--drop", "runs/2026-11/lab", "--config", str(config), code=2).stderr
    assert f"{' '.join(LINES)}: removed" in run_here("verify", "--drop", "/".join(LINES), "--config", str(config)).stdout
    run_here("verify", "--full", "--config", str(config))


def test_a_warehouse_of_a_version_without_checksums_gets_them(config: Path) -> None:
    """It reads as before; a pipeline run gives its state files checksums and makes the index, after which damage of them is found."""
    root = root_of(config)
    warehouse, wanted = ParquetWarehouse(root), digests(root)
    for path in [*(root / "_runspend" / "units").rglob("*.json"), root / "_runspend" / "schema.json"]:
        value = json.loads(path.read_text())
        del value["check"]
        path.write_text(json.dumps(value, ensure_ascii=False, sort_keys=True))
    for name in ("index.json", "verified.json"):
        (root / "_runspend" / name).unlink()
    assert digests(root) == wanted
    run_here("sql", ASK[DAILY], "--config", str(config))
    run_here("verify", "--config", str(config))
    state = warehouse.state_path(DAILY)
    assert "check" in json.loads(state.read_text())
    assert "check" in json.loads((root / "_runspend" / "schema.json").read_text())
    state.write_text(state.read_text().replace('"rows": ', '"rows": 1'))
    assert "cost_daily 2026-11 all" in run_here("sql", ASK[DAILY], "--config", str(config), code=4).stderr


def test_archiving_refuses_tables_that_a_disk_changed(config: Path) -> None:
    """Only the hash shows the change. `archive apply` compares it before it decides."""
    warehouse = ParquetWarehouse(root_of(config))
    path = warehouse.path(RUNS)
    Flip(path, path.stat().st_size // 2, 2, is_silent=True).make()
    refused = run_here("archive", "apply", "--config", str(config), code=4)
    assert "runs 2026-11 lab" in refused.stdout + refused.stderr
    assert len(mails(config)) == 1


@pytest.mark.parametrize("command", ["notify", "apply", "plan"])
def test_damage_of_two_tables_is_one_mail(config: Path, command: str) -> None:
    """A reader names one table at a time, but the mail names both."""
    warehouse = ParquetWarehouse(root_of(config))
    for unit in (RUNS, Unit("artifact_owners", "all", "lab"), Unit("sources", "all", "lab")):
        path = warehouse.path(unit)
        Flip(path, path.stat().st_size // 2, 2, is_silent=True).make()
    run_here("archive", command, "--config", str(config), code=4)
    [mail] = mails(config)
    assert "runs 2026-11 lab" in mail and "sources all lab" in mail
