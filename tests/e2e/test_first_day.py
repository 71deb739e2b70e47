"""The first day with a company's own data without tags: `try` allocates most of the cost, and its configuration works the next day."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest

from runspend.config.settings import load_settings
from runspend.warehouse.factory import open_warehouse
from tests.command import run_here
from tests.mixed_world import NOW, MixedWorld, Shape, make_mixed_world, write_mixed_world

OCTOBER = date(2026, 10, 1)
# Several kinds of companies. The code was not tuned to any of them.
SHAPES = {
    "two teams": Shape(seed=21, teams=2, spot_groups=2),
    "four spot groups, shared": Shape(seed=22, spot_groups=4),
    "by user": Shape(seed=23, by="user", spot_groups=2, teams=2),
    "untidy tags on half": Shape(seed=24, tagged=0.5, spot_groups=4, teams=4),
    "nightly jobs": Shape(seed=25, is_nightly=True, spot_groups=2, teams=2),
    "a fifth elsewhere": Shape(seed=26, mixed=0.2, spot_groups=2, teams=2),
    "GPUs stated": Shape(seed=27, has_gpus_stated=True, spot_groups=2, teams=2),
    "node groups of mixed types": Shape(seed=29, is_fleet=True, has_node_groups=True, spot_groups=3, teams=3),
    "web in the same account": Shape(seed=53, one_account=True, spot_groups=2, teams=2),
    "a cheap box": Shape(seed=28, box_type="g5.xlarge", box_price=1.0, runs=200, spot_groups=2, teams=2),
    **{f"seed {seed}": Shape(seed=seed) for seed in range(31, 37)},
}


@dataclass(frozen=True)
class Day:
    """The output of a trial, and the contents of its folder."""

    world: MixedWorld
    folder: Path
    screen: str

    @property
    def config(self) -> Path:
        """The file that the trial left."""
        return self.folder / "runspend.yaml"


def first_day(folder: Path, shape: Shape) -> Day:
    """Run `try` once on a world of this shape."""
    world = make_mixed_world(shape)
    tracking, bill = write_mixed_world(folder / "company", world)
    done = run_here("try", "--tracking", tracking, "--bill", str(bill), "--folder", str(folder / "trial"), "--now", NOW, cwd=folder)
    return Day(world, folder / "trial", done.stdout)


def given(day: Day) -> dict[str, Decimal]:
    """Return the bill's cost by `allocated_to`."""
    with open_warehouse(load_settings(day.config)).reader() as reader:
        rows = reader.query(
            "select allocated_to, sum(effective_cost) as cost from cost_allocations where billing_period = @first group by allocated_to",
            {"first": OCTOBER},
        ).to_pylist()
    return {row["allocated_to"]: row["cost"] for row in rows}


def rightly_given(day: Day) -> Decimal:
    """Return the share of the runs' cost that comes from machines of the group that they really used."""
    groups, of = {m.resource_id: m.group for m in day.world.machines}, day.world.machine_of
    with open_warehouse(load_settings(day.config)).reader() as reader:
        rows = reader.query(
            "with one_lines as (select source, charge_id, min(line_id) as line_id from charge_lines group by source, charge_id)"
            " select a.run_id, b.resource_key, sum(a.effective_cost) as cost from cost_allocations a"
            " left join one_lines o on o.source = a.source and o.charge_id = a.charge_id"
            " join billing_lines b on b.source = a.source and b.line_id = coalesce(o.line_id, a.charge_id)"
            " where a.billing_period = @first and a.allocated_to = 'run' group by a.run_id, b.resource_key",
            {"first": OCTOBER},
        ).to_pylist()
    return sum((r["cost"] for r in rows if groups.get(r["resource_key"]) == of[r["run_id"]]), Decimal(0)) / sum(r["cost"] for r in rows)


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Day:
    """The first day of the simplest company."""
    return first_day(tmp_path_factory.mktemp("first-day"), Shape())


def test_most_of_the_money_finds_its_runs(day: Day) -> None:
    """Most of the ML platform's cost goes to runs. The web account stays out, and no cost is lost."""
    found = given(day)
    assert sum(found.values()) == sum(Decimal(each["line_item_unblended_cost"]) for each in day.world.lines)
    platform = sum(found.values()) - found["out_of_scope"]
    assert found["run"] / platform >= Decimal("0.6")
    assert rightly_given(day) > Decimal("0.9")
    web = sum(Decimal(each["line_item_unblended_cost"]) for each in day.world.lines if each["line_item_usage_account_id"] == "444455556666")
    assert found["out_of_scope"] >= web


def test_both_figures_are_shown(day: Day) -> None:
    """Both shares are shown, without and with the pools, with their confidence."""
    (line,) = [line for line in day.screen.splitlines() if line.startswith("allocated to runs: ")]
    pattern = (
        r"allocated to runs: 0\.0% today, ([0-9.]+)% with the 2 proposed pools \(medium confidence\); they bring ([0-9.,]+) USD into scope"
    )
    found = re.fullmatch(pattern, line)
    assert found
    assert f"then run: runspend nightly --config {day.config}" in day.screen
    money = given(day)
    assert float(found[1]) == pytest.approx(float(money["run"] / (sum(money.values()) - money["out_of_scope"]) * 100), abs=0.06)
    assert f" A{line[1:]}." in (day.folder / "reports" / "2026-10.html").read_text(encoding="utf-8")


def test_the_file_it_leaves_works_with_every_command_it_names(day: Day, tmp_path: Path) -> None:
    """`nightly` and `suggest` find nothing more to do. The commands under "next" can be pasted."""
    config = ("--config", str(day.config), "--now", NOW)
    before = given(day)
    again = run_here("nightly", *config, cwd=tmp_path)
    assert "problem=" not in again.stdout
    assert given(day) == before
    assert "no pools proposed" in run_here("suggest", *config, cwd=tmp_path).stdout
    assert (day.folder / "reports" / "2026-10.html").is_file()
    from runspend.interfaces.nightly_summary import next_commands

    for command in next_commands(load_settings(day.config)):
        _, *words = shlex.split(command)
        assert run_here(*words, "--now", NOW, *(() if "--config" in words else config[:2]), cwd=tmp_path).returncode == 0


def test_a_trial_does_not_throw_away_what_someone_corrected(day: Day, tmp_path: Path) -> None:
    """The next trial empties the folder, unless its file differs from what the trial wrote."""
    text = day.config.read_text()
    try:
        day.config.write_text(text.replace("currency: USD", "currency: USD   # ours"))
        done = run_here("try", "--tracking", "sqlite:///none.db", "--bill", str(tmp_path), "--folder", str(day.folder), code=2)
        assert "no such file" in done.stderr
        tracking, bill = day.folder.parent / "company" / "mlflow.db", day.folder.parent / "company" / "cur.csv.gz"
        done = run_here("try", "--tracking", f"sqlite:///{tracking}", "--bill", str(bill), "--folder", str(day.folder), code=2)
        assert "was changed since the trial" in done.stderr and "Nothing was changed" in done.stderr
        assert "# ours" in day.config.read_text()
    finally:
        day.config.write_text(text)


@pytest.mark.torture
@pytest.mark.parametrize("name", SHAPES)
def test_nearly_all_cost_of_machines_with_runs_gets_runs_in_companies_of_every_kind(tmp_path: Path, name: str) -> None:
    """Runs get the cost of nearly all time in which they used machines, and nearly all of it goes to the right runs.

    They get at least 60% of the ML platform's cost, if they used that much.
    """
    day = first_day(tmp_path, SHAPES[name])
    found = given(day)
    platform = sum(found.values()) - found["out_of_scope"]
    right = rightly_given(day)
    print(
        f"{name}: {found['run'] / platform:.1%} of the platform, {found['run'] / sum(found.values()):.1%} of the bill has runs, {found['idle'] / platform:.1%} idle; {right:.1%} right"
    )
    used = Decimal(day.world.used_cost)
    assert found["run"] >= used * Decimal("0.93")
    assert found["run"] / platform >= min(Decimal("0.6"), used * Decimal("0.98") / platform)
    assert right > (Decimal("0.8") if SHAPES[name].mixed else Decimal("0.93"))
