"""How a pipeline run treats its sources: late ones, forgotten ones, sources read twice at the same time, and folders of killed runs."""

from __future__ import annotations

import importlib
import json
from datetime import timedelta
from pathlib import Path

import pytest

from runspend import pipeline
from runspend.config.settings import Settings, load_settings
from runspend.core.errors import ConfigError
from runspend.warehouse.base import Unit
from runspend.warehouse.factory import open_warehouse
from tests.tiny_world import NOW, OPERATORS, make_tiny_world


@pytest.fixture
def config(tmp_path: Path, store: Path) -> Path:
    """A tiny world with two bills, before its first pipeline run."""
    return make_tiny_world(tmp_path / "tiny", store, {"bill": 24, "other": 5})


def change(config: Path, **keys: object) -> Settings:
    """Change some keys of the file, and return its settings."""
    config.write_text(json.dumps({**json.loads(config.read_text()), **keys}))
    return load_settings(config)


def test_a_late_bill_is_reported_and_the_command_exits_with_3(config: Path) -> None:
    """The bill is older than `late_after`. The exit code is 3, operators get one mail per pipeline run, and the figures use the available data."""
    billing = [{**bill, "late_after": "24h"} for bill in json.loads(config.read_text())["billing"][:1]]
    settings = change(config, billing=billing)
    outcome = pipeline.nightly(settings, now=NOW)
    assert outcome.exit_code == 3
    assert any("no data for 30 h (limit 24 h)" in problem for problem in outcome.problems)
    pipeline.nightly(settings, now=NOW)
    mails = [path.read_text() for path in (settings.home / "mail").glob("operators.STALE*")]
    assert len(mails) == 1
    assert f"To: {OPERATORS}" in mails[0]
    assert any(unit.table == "run_costs" for unit in open_warehouse(settings.warehouse.uri).states())


def build(settings: Settings) -> None:
    """Run the bill's steps up to the cost tables. A problem fails the test."""
    for step in (pipeline.load, pipeline.allocate):
        assert step(settings, now=NOW).problems == []


def test_forget_removes_a_bill_that_is_no_longer_configured(config: Path) -> None:
    """Runspend keeps and reports the bill until a user forgets it. The ledger then equals that of a home that never had it."""
    settings = load_settings(config)
    pipeline.extract(settings, now=NOW)
    build(settings)
    with pytest.raises(ConfigError, match="it is still configured"):
        pipeline.forget(settings, "other", now=NOW)
    settings = change(config, billing=json.loads(config.read_text())["billing"][:1])
    build(settings)
    warehouse = open_warehouse(settings.warehouse.uri)
    with warehouse.reader() as reader:
        assert set(reader.query("select distinct source from cost_daily")["source"].to_pylist()) == {"bill", "other"}
    assert pipeline.forget(settings, "other", now=NOW).changed
    build(settings)
    with warehouse.reader() as reader:
        assert set(reader.query("select distinct source from cost_daily")["source"].to_pylist()) == {"bill"}
    assert not [unit for unit in warehouse.states() if unit.writer == "other"]
    with pytest.raises(ConfigError, match="has no rows of that name"):
        pipeline.forget(settings, "other", now=NOW)


def test_a_slower_load_does_not_replace_a_newer_one(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two loads of one bill run at once. The one that reads first and publishes last reads again, finds nothing new, and reports it."""
    from runspend.ingest.billing import load_process as loading

    settings = load_settings(config)
    part = config.parent / "bills" / "bill" / "part.csv"
    read = loading.load_bill

    def slow(*arguments: object, **options: object) -> object:
        result = read(*arguments, **options)
        monkeypatch.setattr(loading, "load_bill", read)
        part.write_text(part.read_text().replace("40.0000000000", "41.0000000000"))
        pipeline.load(settings, ["bill"], now=NOW + timedelta(hours=1))
        return result

    monkeypatch.setattr(loading, "load_bill", slow)
    outcome = pipeline.load(settings, ["bill"], now=NOW)
    assert any("superseded" in note for note in outcome.notes)
    assert (outcome.changed, outcome.unchanged) == ([], ["billing_lines 2026-11 bill"])
    rows = open_warehouse(settings.warehouse.uri).read(Unit("billing_lines", "2026-11", "bill"))
    assert {str(cost)[:2] for cost in rows["billed_cost"].to_pylist()} == {"41"}


@pytest.mark.parametrize(
    ("step", "module", "function"), [("extract", "ingest.tracking", "extract_server"), ("measure", "ingest.artifacts", "measure_store")]
)
def test_rows_replaced_by_another_process_are_not_reported_as_changed(
    config: Path, monkeypatch: pytest.MonkeyPatch, step: str, module: str, function: str
) -> None:
    """Two processes read one server or store at once. The slower one drops its rows and reports only a note."""
    settings = load_settings(config)
    owner = importlib.import_module(f"runspend.{module}")
    read, run = getattr(owner, function), getattr(pipeline, step)

    def slow(*arguments: object, **options: object) -> object:
        result = read(*arguments, **options)
        monkeypatch.setattr(owner, function, read)
        assert run(settings, now=NOW).changed
        return result

    monkeypatch.setattr(owner, function, slow)
    outcome = run(settings, now=NOW)
    assert (outcome.exit_code, outcome.changed, outcome.unchanged) == (0, [], [])
    assert any("superseded" in note and "their rows stay" in note for note in outcome.notes)


def test_folders_of_killed_pipeline_runs_are_removed(config: Path) -> None:
    """The next step that needs a work folder removes those whose lock is free."""
    settings = load_settings(config)
    left = settings.home / "work" / "work-killed"
    left.mkdir(parents=True)
    (left / "half.parquet").write_bytes(b"x")
    pipeline.extract(settings, now=NOW)
    assert not left.exists()
    assert [p.name for p in (settings.home / "work").iterdir()] == [".lock"]
