"""How the report and the screen of a pipeline run show retention policies: planned, announced, due, kept and archived items."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

from bs4 import BeautifulSoup

from runspend.actions.report import PipelineRun, render_summary, summary_lines
from runspend.actions.report.plan import plan_report
from runspend.actions.report.render import render_page
from runspend.config.settings import Settings
from runspend.interfaces.nightly_summary import _archive
from tests.actions.report.report_world import NOVEMBER, NOW, TableReader, month_world

DUE = datetime(2026, 12, 24, tzinfo=timezone.utc)


def row(prefix: str, state: str, **more: Any) -> dict[str, Any]:
    """Return one row of archive_plan."""
    return {
        "month": NOVEMBER,
        "policy": "cold",
        "store": "s3://ml",
        "prefix": prefix,
        "action": "archive",
        "state": state,
        "bytes": 2 * 10**9,
        "currency": "USD",
    } | more


def world() -> dict[str, Any]:
    """Return a month with a plan, and an archive of each kind."""
    tables: dict[str, Any] = month_world()
    tables["artifact_bytes"] = [
        {"month": NOVEMBER, "store": "s3://ml", "owner_kind": "run", "owner_id": "r1", "tracking_server": "prod", "workspace": "default", "experiment_id": "1", "storage_class": "STANDARD",
         "valid_from": NOW, "objects": 1, "bytes": 5, "oldest_at": NOW, "newest_at": NOW, "is_complete": True},
    ]  # fmt: skip
    tables["archive_plan"] = [
        row("a", "planned", monthly_saving=Decimal("1.25")), row("b", "planned", monthly_saving=Decimal("0.25")), row("c", "announced", earliest_at=DUE), row("d", "announced", earliest_at=DUE + timedelta(days=3)),
        row("e", "protected", bytes=None, currency=None), row("f", "due", policy="<script>", action="tier", earliest_at=DUE), row("g", "due", month=NOVEMBER.replace(month=10), policy="old"),
    ]  # fmt: skip
    tables["archives"] = [
        {"month": NOVEMBER, "archive_id": name, "action": "archive", "state": state, "bytes": 10**9, "begun_at": NOW - timedelta(days=1)}
        for name, state in (("1", "archived"), ("2", "archived"), ("3", "deleted"))
    ]
    return tables


def test_the_page_says_what_policies_would_move() -> None:
    """Each policy and state of the newest plan has one row. Names are shown as text."""
    section = BeautifulSoup(render_page(plan_report(TableReader(world()), "2026-11", settings=Settings(), now=NOW)), "html.parser").find(
        id="artifacts"
    )
    assert section is not None
    rows = [
        [" ".join(cell.get_text(" ").split()) for cell in found.find_all("td")]
        for found in section.find_all("table")[-1].find_all("tr")[1:]
    ]
    assert rows == [
        ["<script>", "tier", "due", "1", "2.0 GB", "", "24 Dec 2026"],
        ["cold", "archive", "announced", "2", "4.0 GB", "", "24 Dec 2026"],
        ["cold", "archive", "planned", "2", "4.0 GB", "1.50 USD", ""],
        ["cold", "archive", "protected", "1", "unknown", "", ""],
    ]
    text = " ".join(section.get_text(" ").split())
    assert "2 folders are in the archive: 2.0 GB" in text
    assert "1 folder were deleted" not in text
    assert "1 folder was deleted from the archive: 1.0 GB" in text


def test_the_screen_has_one_line_per_policy() -> None:
    """The line states how many items are in each state, their size and savings, and the first day on which anything happens."""
    reader: Any = TableReader(world())
    lines = _archive(reader)
    assert lines == (
        ("▲", "<script> (tier)  1 due · 2.0 GB · from 24 Dec 2026"),
        ("✓", "cold (archive)  2 announced, 2 planned, 1 protected · 8.0 GB · saves 1.50 USD per month · from 24 Dec 2026"),
    )
    pipeline_run = PipelineRun(NOW, 1, archive=lines)
    assert "ARCHIVE  " in render_summary([], pipeline_run)
    assert f"archive={lines[1][1]}" in summary_lines([], pipeline_run)
    assert "ARCHIVE" not in render_summary([], PipelineRun(NOW, 1))
    nothing: Any = TableReader(month_world())
    assert _archive(nothing) == ()
