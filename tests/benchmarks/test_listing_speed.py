"""An artifact store of many small objects, listed and summed by owner.

Goal: a million local objects in 30 s.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tests.benchmarks.measured import load_average, run_runspend, scaled

pytestmark = [pytest.mark.bench, pytest.mark.timeout(3600)]

OBJECTS, PER_RUN = 200_000, 20


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    shutil.rmtree(tmp_path)


def test_a_folder_is_listed_fast_enough(folder: Path) -> None:
    """Ten thousand runs, each with twenty files in two folders."""
    objects = scaled(OBJECTS)
    for run in range(objects // PER_RUN):
        artifacts = folder / "mlartifacts" / str(run % 20) / f"{run:032x}" / "artifacts"
        for part in ("model", "plots"):
            (artifacts / part).mkdir(parents=True)
        for number in range(PER_RUN):
            (artifacts / ("model", "plots")[number % 2] / f"{number}.bin").write_bytes(b"x" * number)
    (folder / "runspend.yaml").write_text("home: home\nwarehouse: {uri: warehouse}\nstores: [{uri: mlartifacts}]\n")

    took = run_runspend(folder, "measure", "--now", "2026-11-04T06:00")
    files = list((folder / "warehouse/_internal/artifact_bytes").glob("*/*.parquet"))
    found = pq.read_table(files[0], columns=["objects", "bytes"])
    runs = objects // PER_RUN
    assert len(files) == 1
    assert (pc.sum(found["objects"]).as_py(), pc.sum(found["bytes"]).as_py()) == (runs * PER_RUN, runs * sum(range(PER_RUN)))
    print(f"\n  {objects:,} objects: {objects / took.wall:,.0f} objects/s ({took}) [{load_average()}]; goal 33,333/s")
