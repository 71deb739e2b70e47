"""`runspend sources rename OLD NEW` keeps the rows of a renamed server or bill in one publish. Closed months keep every figure."""

from __future__ import annotations

import json
import shutil
import signal
from datetime import datetime, timezone
from pathlib import Path

import pytest

from runspend import pipeline
from runspend.config.settings import Settings, load_settings
from runspend.core.errors import ConfigError
from runspend.pipeline.rename import rename
from runspend.schema.tables import TABLES
from runspend.warehouse.base import Unit
from runspend.warehouse.factory import open_warehouse
from runspend.warehouse.parquet.warehouse import ParquetWarehouse
from runspend.warehouse.records import Records
from tests.command import run_here
from tests.e2e.conftest import ask
from tests.faults.torture import torn_files
from tests.forked import run_forked
from tests.kept_world import KeptWorld
from tests.tiny_world import NOW, make_tiny_world

FINAL, CLOSED, LATER = (datetime(*day, 6, tzinfo=timezone.utc) for day in ((2026, 12, 20), (2027, 2, 20), (2027, 2, 21)))
BILLS = {"bill": 24, "other": 5}
RENAMES = (("tracking", "lab", "zoo"), ("billing", "bill", "aws"))
POINTS = (
    "publish.staged",
    "publish.before_journal",
    "publish.after_journal",
    "publish.after_first_move",
    "publish.after_moves",
    "publish.after_journal_dropped",
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, store: Path) -> KeptWorld:
    """A tiny world with two bills, after its first pipeline run and after its month was closed."""
    world = KeptWorld(tmp_path_factory.mktemp("world"), store, BILLS)
    settings = load_settings(world.config)
    night(settings)
    world.keep("first")
    for now in (FINAL, CLOSED):
        night(settings, now)
    world.keep("closed")
    return world


@pytest.fixture
def config(world: KeptWorld) -> Path:
    """The configuration after the first pipeline run."""
    return world.put_back("first")


@pytest.fixture
def closed(world: KeptWorld) -> Path:
    """The configuration when its month is closed."""
    return world.put_back("closed")


def night(settings: Settings, now: datetime = NOW) -> list[str]:
    """Run the pipeline up to the cost tables, and return its notes."""
    notes = []
    for step in (pipeline.extract, pipeline.measure, pipeline.load, pipeline.allocate):
        outcome = step(settings, now=now)
        assert outcome.problems == []
        notes += outcome.notes
    return notes


def name(config: Path, key: str, old: str, new: str) -> Settings:
    """Return the settings after a user changed a name in the file."""
    data = json.loads(config.read_text())
    data[key] = [{**entry, "name": new if entry["name"] == old else entry["name"]} for entry in data[key]]
    config.write_text(json.dumps(data))
    return load_settings(config)


def digests(settings: Settings) -> dict[Unit, str]:
    """Return the content digest of every unit."""
    return {unit: state.digest for unit, state in open_warehouse(settings).states().items()}


def mentions(settings: Settings, text: str) -> set[str]:
    """Return the tables with a cell that equals this text, or begins with it and a slash."""
    found = set()
    warehouse = open_warehouse(settings)
    with warehouse.reader() as reader:
        for table in [TABLES[name] for name in {unit.table for unit in warehouse.states()}]:
            columns = [c.name for c in table.columns if c.type == "STRING" and c.name not in ("inputs", "files", "service_name", "kind")]
            test = " or ".join(f"{c} = @text or starts_with({c}, concat(@text, '/'))" for c in columns)
            if columns and reader.query(f"select 1 as found from {table.name} where {test} limit 1", {"text": text}).num_rows:
                found.add(table.name)
    return found


def rename_both(config: Path, now: datetime) -> Settings:
    """Rename a server and then a bill. Return the settings afterwards."""
    settings = load_settings(config)
    for number, (key, old, new) in enumerate(RENAMES, 1):
        settings = name(config, key, old, new)
        assert rename(settings, old, new, now=now).changed
        assert {(r["old"], r["new"]) for r in Records(settings.home).list("renames").values()} == {
            (o, n) for _, o, n in RENAMES[:number]
        }  # tests/actions/alert/test_renamed_sources.py tests budgets
    return settings


def test_after_the_next_pipeline_run_all_rows_have_the_new_name(config: Path, tmp_path: Path, store: Path) -> None:
    """Rows, records of reads and history get the new name. The cost tables have the digests of a warehouse that never had the old names."""
    tries = "select last_good_at, row_count, covered_until from sources order by row_count, covered_until"
    before = ask(load_settings(config), tries)
    settings = rename_both(config, NOW)
    of_sources = {table.name for table in TABLES.values() if table.writer != "all"}
    for _, old, _ in RENAMES:
        assert mentions(settings, old) & of_sources == set()
    assert ask(settings, tries) == before
    assert night(settings) == []
    fresh = make_tiny_world(tmp_path / "fresh", store, BILLS)
    shutil.rmtree(fresh.parent / "bills")
    shutil.copytree(config.parent / "bills", fresh.parent / "bills")  # including their times of delivery
    for key, old, new in RENAMES:
        assert mentions(settings, old) == set()
        never = name(fresh, key, old, new)
    night(never)
    differing = {u.table for u, d in digests(never).items() if digests(settings).get(u) != d} | {
        u.table for u in digests(settings).keys() - digests(never).keys()
    }
    assert differing == set()


def test_a_closed_month_is_renamed_in_place(closed: Path) -> None:
    """Nothing is built again, no figure changes, and the month does not look changed afterwards."""
    sums = "select allocated_to, charge_date, run_id, sum(effective_cost) as cost from cost_allocations group by allocated_to, charge_date, run_id order by 1, 2, 3"
    before = ask(load_settings(closed), sums)
    settings = rename_both(closed, LATER)
    for _, old, _ in RENAMES:
        assert mentions(settings, old) == set()
    cost_tables = {u: d for u, d in digests(settings).items() if u.table.startswith(("cost_", "run_costs"))}
    assert night(settings, LATER) == []
    assert {u: d for u, d in digests(settings).items() if u.table.startswith(("cost_", "run_costs"))} == cost_tables
    assert ask(settings, sums) == before
    assert pipeline.check(settings, now=LATER).problems == []


def test_names_that_do_not_fit_are_refused(config: Path) -> None:
    """Names that are still configured, not yet configured, without rows, of another kind, or unknown are refused. Nothing changes."""
    settings = load_settings(config)
    before = digests(settings)
    with pytest.raises(ConfigError, match="'lab': it is still configured"):
        rename(settings, "lab", "zoo", now=NOW)
    renamed = name(config, "tracking", "lab", "zoo")
    for old, new, why in (
        ("nobody", "zoo", "has no rows of that name"),
        ("lab", "zebra", "'zebra': it is not configured. Known names are zoo, bill, other"),
        ("lab", "bill", "a tracking server, to 'bill', which is a bill"),
    ):
        with pytest.raises(ConfigError, match=why):
            rename(renamed, old, new, now=NOW)
    assert digests(renamed) == before
    pipeline.extract(renamed, now=NOW)
    with pytest.raises(ConfigError, match="it already has rows"):
        rename(renamed, "lab", "zoo", now=NOW)


def test_a_rename_killed_anywhere_is_done_or_not_begun(config: Path) -> None:
    """The command is killed at each point of the publish. The next command finishes it, and renaming again then says that it is done."""
    settings = name(config, "tracking", "lab", "zoo")
    before = digests(settings)
    home, kept = settings.home, settings.home.with_name("kept")
    shutil.copytree(home, kept)
    rename(settings, "lab", "zoo", now=NOW)
    after = digests(settings)
    assert before != after
    command = ["sources", "rename", "lab", "zoo", "--config", str(config), "--now", f"{NOW:%Y-%m-%dT%H:%M}"]
    for point in POINTS:
        shutil.rmtree(home)
        shutil.copytree(kept, home)
        assert run_forked("runspend.interfaces.cli", *command, RUNSPEND_CRASH_AT=point).returncode == -signal.SIGKILL, point
        assert torn_files(home / "warehouse") == []
        seen = digests(settings)
        assert seen == (before if point in POINTS[:2] else after), point
        assert ParquetWarehouse(home / "warehouse").find_damage() == {}
        run_here(*command, code=0 if seen == before else 2)
        assert digests(settings) == after
