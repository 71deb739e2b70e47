"""The worked example of `docs/new-format.md`, added to an otherwise unchanged copy of the package, which then loads a bill with it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest

import runspend

PAGE = Path(__file__).resolve().parents[4] / "docs" / "new-format.md"
LOAD = """
import json, sys
from datetime import datetime, timezone
from pathlib import Path
from runspend.core.step_result import ReadJob
from runspend.ingest.billing import load_source, probe_source
from runspend.ingest.billing.load_context import PublishedBill
from runspend.ingest.billing.normalize import Rules
from runspend.config.settings import BillSource

found = {}
for case, format_name in json.loads(sys.argv[1]).items():
    source = BillSource.model_validate({"name": "bill", "format": format_name, "uri": f"{case}/bills"})
    job = ReadJob(datetime(2026, 11, 24, tzinfo=timezone.utc), "one", Path(case, "work"))
    load = load_source(source, Rules.of(source), PublishedBill(lambda table, period: None), job)
    import pyarrow.parquet as pq
    [period] = load.periods
    lines = pq.read_table(period.tables["billing_lines"]).to_pylist()
    found[case] = {"period": period.period, "state": period.state, "quarantined": period.extra["quarantined"], "lines": lines,
                   "set_aside": period.tables["billing_quarantine"].to_pylist(), "format": probe_source(source)["format"]}
print(json.dumps(found, default=str))
"""


def block(language: str, containing: str) -> str:
    found = [text for text in re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S) if containing in text]
    assert len(found) == 1
    return str(found[0])


SPOILT = "2026-13-01,gpu-1,kx-4,24,1.00,spoilt\n2026-10-03,gpu-1,kx-4,24,one,\n"
# The format of each bill, and rows after those of the page. `auto` comes first: no code has read the new format before it looks.
CASES = {"auto": ("auto", ""), "kiesel": ("kiesel", ""), "spoilt": ("kiesel", SPOILT)}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    """Load all bills in one process, which compiles a copy of the package with the page's two files. Return what it loaded."""
    folder = tmp_path_factory.mktemp("kiesel")
    package = folder / "copy" / "runspend"
    shutil.copytree(Path(runspend.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    formats = package / "ingest" / "billing" / "formats"
    (formats / "kiesel.py").write_text(block("python", "KINDS"))
    (formats / "kiesel.sql").write_text(block("sql", "kiesel"))
    for case, (_, rest) in CASES.items():
        (folder / case / "bills").mkdir(parents=True)
        (folder / case / "bills" / "october.csv").write_text(block("csv", "amount_eur") + rest)
    done = subprocess.run(
        [sys.executable, "-c", LOAD, json.dumps({case: format_name for case, (format_name, _) in CASES.items()})],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder / "copy"), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("format_name", ["kiesel", "auto"])
def test_the_example_loads_to_the_sum_the_page_states(loaded: dict[str, dict[str, object]], format_name: str) -> None:
    reported = loaded[format_name]
    lines = reported["lines"]
    assert isinstance(lines, list)
    assert (reported["period"], reported["state"], reported["quarantined"], reported["format"]) == ("2026-10", "loaded", 0, "kiesel")
    assert "161.60 EUR in all" in PAGE.read_text(encoding="utf-8")
    assert sum(Decimal(line["effective_cost"]) for line in lines) == Decimal("161.60")
    vision = next(line for line in lines if line["resource_id"] == "gpu-2")
    assert (vision["tags"], vision["instance_type"], vision["billed_nanoseconds"]) == ('{"team":"vision"}', None, 37_800_000_000_000)
    assert vision["charge_period_end"] == "2026-10-02 00:00:00+00:00"


def test_a_row_that_cannot_be_read_is_set_aside_whole_with_its_number(loaded: dict[str, dict[str, object]]) -> None:
    reported = loaded["spoilt"]
    aside = reported["set_aside"]
    assert isinstance(aside, list)
    by_row = {row["row_number"]: row for row in aside}
    assert set(by_row) == {5, 6}
    assert by_row[5]["reason"] == "day is '2026-13-01', which is not a date such as 2026-10-01"
    assert by_row[6]["reason"] == "BilledCost is 'one', which is not a plain decimal number"
    assert json.loads(by_row[5]["raw"])["note"] == "spoilt"
    assert len(reported["lines"]) == 4  # type: ignore[arg-type]
