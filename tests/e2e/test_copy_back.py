"""A copy to an engine with other digests of the same rows: the next pipeline run there still finds nothing to do.

BigQuery computes digests of models' rows in its own way (`warehouse/content_digest.py`). Here, a folder with other digests replaces it.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runspend import pipeline
from runspend.allocation.inputs import digest
from runspend.config.settings import load_settings
from runspend.pipeline.copy import copy
from runspend.warehouse.base import Unit
from runspend.warehouse.parquet.engine import Content
from runspend.warehouse.parquet.warehouse import ParquetWarehouse
from tests.faults.damaged_world import copy_of
from tests.tiny_world import NOW, tiny_night


def test_builds_are_booked_with_the_digests_of_the_new_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Existing inputs and outputs get their names in the new place. Missing ones do not change."""
    settings = load_settings(copy_of(tiny_night() / "world", tmp_path / "world"))
    source = ParquetWarehouse(Path(settings.warehouse.uri))
    theirs = Content.digest.fget
    assert theirs is not None
    monkeypatch.setattr(Content, "digest", property(lambda content: "other " + theirs(content)))
    target = ParquetWarehouse(tmp_path / "target")
    outcome = copy(source, target, progress=lambda _: None)
    states = target.states()
    assert {" ".join(unit) for unit in states} == set(outcome.changed)
    assert all(state.digest.startswith("other ") for state in states.values())
    booked = 0
    for unit in (u for u in states if u.table == "builds"):
        table = target.read(unit)
        assert table is not None
        for row in table.to_pylist():
            inputs, outputs = json.loads(row["inputs"]), json.loads(row["outputs"])
            named = {name: value for name, value in inputs.items() if "/" in name}
            assert named == {name: states[Unit(*name.split("/"))].digest for name in named}
            assert all(value.startswith("other ") for value in outputs.values())
            assert row["build_id"] == digest(inputs)
            booked += len(named) + len(outputs)
    assert booked > 5
    moved = settings.model_copy(update={"warehouse": settings.warehouse.model_copy(update={"uri": str(tmp_path / "target")})})
    again = pipeline.allocate(moved, now=NOW)
    assert (again.changed, again.problems) == ([], [])
    assert len(again.unchanged) == 2
    assert copy(source, target, progress=lambda _: None).problems == []
