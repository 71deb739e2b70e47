"""`explain` and `export focus` on the command line after a pipeline run, and the run's page in a real browser."""

from __future__ import annotations

import csv
import json
import re
import shutil
import threading
import time
from collections.abc import Iterator
from decimal import Decimal
from itertools import cycle
from pathlib import Path

import pytest
import uvicorn

from runspend.config.settings import load_settings
from runspend.interfaces.web import LOOPBACK, create_app
from runspend.warehouse.parquet.warehouse import ParquetWarehouse
from tests.allocation.chain import arrow, total
from tests.e2e.conftest import Runspend
from tests.faults.damaged_world import copy_of
from tests.hostile_names import PAYLOADS
from tests.tiny_world import NIGHT_BILLS, tiny_night

CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny world after its pipeline run."""
    return copy_of(tiny_night() / "world", tmp_path_factory.mktemp("tiny") / "world")


def run_ids(config: Path) -> list[str]:
    """Return the ids of the two runs, with the three-hour run first."""
    with ParquetWarehouse(config.parent / "home" / "warehouse").reader() as reader:
        ids: list[str] = reader.query("select run_id from runs order by start_time").column(0).to_pylist()
    return ids


def test_the_command_line_explains_a_run_a_resource_and_a_line(config: Path, runspend: Runspend) -> None:
    """The text has the run's sum with a check mark, JSON has the same digits, and each printed line can be explained too."""
    first, second = run_ids(config)
    here = ("--config", str(config), "--now", "2026-11-04T06:00")
    text = runspend("explain", first[:8], *here).stdout
    assert re.search(r"100\.0000   = run_costs\.effective_cost  ✓", text)
    assert re.search(rf"02:00 +…\w{{6}} +40\.0000 +60:00 +0\.5000 +20\.0000   {second[:8]}", text)
    made = json.loads(runspend("explain", first, "--json", *here).stdout)
    parts = [p for c in made["currencies"] for b in c["blocks"] for p in b["parts"]]
    assert total(Decimal(p["costs"]["effective_cost"]) for p in parts) == Decimal(made["currencies"][0]["stated"]["effective_cost"]) == 100
    line = re.search(r"…(\w{6})", text)
    assert line is not None
    assert "= the charge  ✓" in runspend("explain", "--line", line[0], *here).stdout
    assert "idle" in runspend("explain", "--resource", "i-0a1b2c3d4e5f60718", *here).stdout
    assert runspend("explain", "--period", "2026-11", first, *here).stdout.count("= run_costs_daily.effective_cost  ✓") == 1


def test_an_unknown_or_missing_name_is_wrong_use(config: Path, runspend: Runspend) -> None:
    """The exit code is 2, with one sentence, for no name, two names, an unknown run, or a machine that no bill has."""
    here = ("--config", str(config))
    for arguments, words in (
        ((), "exactly one of RUN"),
        (("abcdefgh", "--line", "x"), "exactly one of RUN"),
        (("abcdefgh12",), "cannot find run 'abcdefgh12'"),
        (("--resource", "i-unknown"), "cannot find resource 'i-unknown'"),
        (("abcdefgh", "--period", "November"), "is not a month"),
    ):
        done = runspend("explain", *arguments, *here, code=2)
        assert words in done.stderr and done.stdout == "", arguments


def test_export_writes_the_bill(config: Path, runspend: Runspend, tmp_path: Path) -> None:
    """The export has one row per charge and target, and its sum is the bill's. A wrong month or file ending writes nothing."""
    out = tmp_path / "november.csv"
    done = runspend("export", "focus", "--period", "2026-11", "--out", str(out), "--config", str(config))
    assert "rows, FOCUS 1.3" in done.stdout and "= the bill" in done.stdout
    rows = list(csv.DictReader(out.read_text(encoding="utf-8").splitlines()))
    assert total(Decimal(r["EffectiveCost"]) for r in rows) == 24 * 40 + NIGHT_BILLS["other"] * Decimal("0.01")
    runs = [r for r in rows if r["AllocatedResourceId"]]
    assert {r["x_RunId"] for r in runs} == set(run_ids(config))
    assert total(Decimal(r["EffectiveCost"]) for r in runs) == 160
    for arguments, words in (
        (("2026-10", "x.csv"), "it is not allocated. Allocated months are 2026-11"),
        (("2026-11", "x.txt"), "FOCUS files end in"),
    ):
        refused = runspend(
            "export", "focus", "--period", arguments[0], "--out", str(tmp_path / arguments[1]), "--config", str(config), code=2
        )
        assert words in refused.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["november.csv"]


@pytest.fixture
def served(config: Path, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """The application on a loopback port over a copy of the warehouse whose runs have hostile names, and a run's id."""
    shutil.copytree(config.parent, tmp_path / "world", symlinks=True)
    warehouse = ParquetWarehouse(tmp_path / "world" / "home" / "warehouse")
    names = cycle(PAYLOADS)
    with warehouse.step("extract", "hostile") as step:
        for unit in warehouse.states("runs"):
            rows = warehouse.read(unit)
            assert rows is not None
            chosen = [
                {**r, "run_name": next(names) * 3, "experiment_name": next(names), "team": next(names), "user_name": next(names)}
                for r in rows.to_pylist()
            ]
            step.put(*unit, arrow("runs", chosen))
        assert step.publish()
    settings = load_settings(tmp_path / "world" / "runspend.yaml")
    server = uvicorn.Server(uvicorn.Config(create_app(settings, hosts=LOOPBACK), host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.02)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", run_ids(config)[0]
    server.should_exit = True
    thread.join()


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed (apt-get install chromium)")
def test_the_run_page_works_in_a_browser(served: tuple[str, str], tmp_path: Path) -> None:
    """No script runs, no request leaves, the page fits, and the timeline is visible, on a phone and a desktop, in light and dark mode."""
    from playwright.sync_api import sync_playwright

    address, run_id = served
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for width, scheme in ((390, "light"), (1280, "light"), (1280, "dark")):
            faults: list[str] = []
            page = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme).new_page()
            page.on("dialog", lambda dialog, faults=faults: (faults.append(f"dialog {dialog.message}"), dialog.dismiss()))
            page.on(
                "request",
                lambda request, faults=faults: (
                    faults.append(request.url) if not request.url.startswith((f"{address}/run/", f"{address}/pages.js?")) else None
                ),
            )
            page.on("console", lambda message, faults=faults: faults.append(f"console {message.text}"))
            page.on("pageerror", lambda error, faults=faults: faults.append(f"error {error}"))
            page.goto(f"{address}/run/{run_id}")
            page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
            page.wait_for_timeout(150)
            assert faults == []
            assert page.evaluate("document.scripts.length") == 1
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            strip = page.locator("svg.chart.wide" if width > 660 else "svg.chart.narrow")
            assert strip.is_visible() and strip.bounding_box()["height"] > 30
            assert (page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 22, 28)") == (scheme == "dark")
            assert "= run_costs.effective_cost" in page.inner_text("main")
            page.screenshot(path=tmp_path / f"{width}-{scheme}.png", full_page=True)
            page.context.close()
        browser.close()
