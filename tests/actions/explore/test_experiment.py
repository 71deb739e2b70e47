"""What the cost of an experiment bought: its best trials for the money, the most expensive trial, and the metric that compares them."""

from __future__ import annotations

import datetime as dt
import re
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runspend.actions.explain.figures import RunKey
from runspend.actions.explore import experiment_as_page, read_experiment
from runspend.actions.explore.experiment_page import Experiment, Trial
from runspend.config.settings import Settings
from runspend.core.errors import UsageError
from runspend.interfaces.web import create_app
from runspend.warehouse.factory import open_warehouse
from tests.actions.alert.alert_world import warehouse
from tests.actions.explain import explain_world as w
from tests.allocation.chain import arrow
from tests.hostile_names import SCRIPTS
from tests.interfaces.web.test_app import request
from tests.interfaces.web.test_explore import Tags, settings_of


def experiment(trials: list[tuple[int, float]], best: str, name: str = "sweep") -> Experiment:
    made = tuple(
        Trial(RunKey("prod", "default", f"{n:032x}"), name, "FINISHED", Decimal(cost), value) for n, (cost, value) in enumerate(trials)
    )
    return Experiment(name, False, "USD", (), Decimal(1), len(made), 0, Decimal(0), made, name, best, (name,))


@given(st.lists(st.tuples(st.integers(-2, 8), st.integers(-4, 4).map(float)), max_size=12), st.sampled_from(["min", "max"]))
def test_the_front_has_the_trials_that_no_other_beats(trials: list[tuple[int, float]], best: str) -> None:
    found = experiment(trials, best)
    sign = 1 if best == "max" else -1

    def beats(one: Trial, other: Trial) -> bool:
        assert one.value is not None and other.value is not None
        mine, theirs = (-one.cost, sign * one.value), (-other.cost, sign * other.value)
        is_as_good = mine[0] >= theirs[0] and mine[1] >= theirs[1]
        return is_as_good and (mine != theirs or one.key.run_id < other.key.run_id)

    expected = {trial.key for trial in found.trials if not any(beats(other, trial) for other in found.trials if other is not trial)}
    assert {trial.key for trial in found.front} == expected
    nothing = found.bought_nothing()
    beside = [trial for trial in found.trials if trial.cost > 0 and trial.key not in expected]
    assert (nothing is None) is (not beside)
    if nothing is not None:
        assert nothing[0].cost == max(trial.cost for trial in beside)
        assert nothing[1] in found.front and beats(nothing[1], nothing[0])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the warehouse of `explain`, where four runs have an accuracy and two a loss."""
    home = tmp_path_factory.mktemp("experiment")
    explained = w.make_explained(home / "warehouse")
    row = {"tracking_server": "prod", "workspace": "default", "start_month": dt.date(2026, 10, 1), "model_id": "", "metric": "accuracy", "step": 3, "is_last": True, "load_id": "x"}  # fmt: skip
    values = {w.BIG: 0.5, w.SMALL: 0.75, w.TAGGED: 0.75, w.LONG: 0.9}
    rows = [{**row, "run_id": run, "value": value} for run, value in values.items()]
    rows += [{**row, "run_id": run, "value": value, "metric": "val/loss"} for run, value in ((w.BIG, 0.1), (w.TAGGED, 0.2))]
    rows += [
        {**row, "run_id": w.BIG, "value": 0.99, "step": 2, "is_last": False},
        {**row, "run_id": w.SMALL, "value": 0.99, "model_id": "m-1"},
    ]
    with explained.step("extract", "metrics") as step:
        step.put("run_metrics", "2026-10", "prod", arrow("run_metrics", rows))
        assert step.publish()
    return home


def read(settings: Settings, *, metric: str | None = None, best: str | None = None) -> Experiment:
    with open_warehouse(settings).reader() as reader:
        [name] = reader.query("select experiment_name from run_costs where run_id = @run", {"run": w.BIG})["experiment_name"].to_pylist()
        found = read_experiment(reader, settings, name, metric=metric, best=best)
    assert found is not None
    return found


def test_trials_have_the_last_value_and_the_cost_of_the_ledger(home: Path) -> None:
    found = read(settings_of(home))
    assert (found.metric, found.best, found.metrics) == ("accuracy", "max", ("accuracy", "val/loss"))
    values = {trial.key.run_id: trial.value for trial in found.trials}
    assert {run: values[run] for run in (w.BIG, w.SMALL, w.TAGGED, w.LONG, w.LOST)} == {
        w.BIG: 0.5, w.SMALL: 0.75, w.TAGGED: 0.75, w.LONG: 0.9, w.LOST: None,
    }  # fmt: skip
    with open_warehouse(settings_of(home)).reader() as reader:
        whole = reader.query(
            "select sum(effective_cost) as cost, count(*) as runs from run_costs where billing_currency <> ''"
        ).to_pylist()[0]
    assert (found.total, found.runs) == (whole["cost"], whole["runs"])
    nothing = found.bought_nothing()
    assert nothing is not None
    assert nothing[0].key.run_id == w.BIG


def test_the_configuration_says_what_to_compare_by(home: Path) -> None:
    found = read(settings_of(home, sweeps={"metric": "val/loss", "best": "max"}))
    assert (found.metric, found.best) == ("val/loss", "max")
    assert (read(settings_of(home), metric="val/loss").best, read(settings_of(home), best="min").best) == ("min", "min")
    with pytest.raises(UsageError, match=r"cannot compare by 'none'.*accuracy, val/loss"):
        read(settings_of(home), metric="none")
    with pytest.raises(UsageError, match="allowed values are min, max"):
        read(settings_of(home), best="most")


def test_the_page_names_the_trial_that_bought_nothing(home: Path) -> None:
    name = read(settings_of(home)).name
    answer = request(create_app(settings_of(home)), f"/experiment/{name}")
    assert answer.status_code == 200
    tags = Tags()
    tags.feed(answer.text)
    assert answer.text.count("<script") == 1
    assert f"../run/{w.BIG}?server=prod&workspace=default" in tags.targets
    assert re.search(r'The most expensive trial without a benefit is <a href="[^"]*">vit-l16-224</a>', answer.text)
    assert answer.text.count("<circle") == 2 * 4  # once for wide screens, and once for phones
    assert request(create_app(settings_of(home)), f"/experiment/{name}?metric=val%2Floss&best=min").text.count("<circle") == 2 * 2
    for address, status in ((f"{name}?metric=x", 400), (f"{name}?best=x", 400), (f"{name}?by=x", 400), ("none", 404), ("", 404)):
        assert request(create_app(settings_of(home)), f"/experiment/{address}").status_code == status


@pytest.mark.parametrize("payload", SCRIPTS)
def test_names_are_text(payload: str) -> None:
    page = experiment_as_page(experiment([(1, 0.5), (2, 0.25), (3, 0.75)], "max", payload), up="../")
    tags, plain = Tags(), Tags()
    tags.feed(page)
    plain.feed(experiment_as_page(experiment([(1, 0.5), (2, 0.25), (3, 0.75)], "max", "x"), up="../"))
    assert (tags.tags, tags.attributes) == (plain.tags, plain.attributes)


def drawn(page: str) -> list[float]:
    """Return all coordinates of the page's charts."""
    found = re.findall(r' (?:cx|cy|x|y|x1|x2|y1|y2|points)="([^"]*)"', page)
    return [float(number) for text in found for number in re.split("[ ,]", text)]


LARGEST = 1.7976931348623157e308


@pytest.mark.parametrize("best", ["min", "max"])
@pytest.mark.parametrize(
    "trials",
    [
        [(1, 1.7e308), (2, -1.7e308), (3, 0.5)], [(1, LARGEST), (2, -LARGEST)], [(1, LARGEST), (2, LARGEST)], [(1, -LARGEST), (2, -LARGEST)], [(1, 5e-324), (2, 1e-323)],
        [(0, 0.5), (0, 0.25)], [(-3, 0.5), (-1, 0.75)], [(-500, 0.5), (1000, 0.75), (0, 0.1)], [(10**15, 0.5), (1, 0.25)],
    ],
)  # fmt: skip
def test_any_values_and_costs_are_drawn_within_the_chart(trials: list[tuple[int, float]], best: str) -> None:
    """These include the largest numbers, equal numbers, costs of zero, and credits."""
    page = experiment_as_page(experiment(trials, best), up="")
    assert page.count("<circle") == 2 * len(trials)
    assert all(0 <= number <= 2000 for number in drawn(page))
    assert not re.search(r">-?(nan|inf)<", page)


@pytest.mark.parametrize("best", ["min", "max"])
def test_the_front_has_the_cheapest_of_many_trials(best: str) -> None:
    """There are 2,300 trials, and two of them have no cost or a credit. The chart leaves out the cheap trials behind the front, and reports that."""
    sign = 1 if best == "max" else -1
    rest = [(10 + n, sign * -1.0) for n in range(2296)]
    found = experiment([(-1, sign * 0.25), (0, sign * 0.5), (2, sign * 0.75), (9000, sign * 0.5), *rest], best)
    assert [int(trial.cost) for trial in found.front] == [-1, 0, 2]
    nothing = found.bought_nothing()
    assert nothing is not None
    assert [int(trial.cost) for trial in nothing] == [9000, 0]
    page = experiment_as_page(found, up="")
    assert page.count("<circle") == 2 * 2000
    assert page.count('class="g0"') == 2 * 3
    assert "The chart leaves out 300 of the cheaper trials" in page
    assert "leaves out" not in experiment_as_page(experiment([(1, 0.5), (2, 0.75)], best), up="")


def test_the_warehouse_gives_every_trial(tmp_path: Path) -> None:
    """The best value for the least money is that of the cheapest of 2,100 runs."""
    key = {"tracking_server": "prod", "workspace": "default"}
    costs = [
        {**key, "run_id": f"{n:032x}", "experiment_name": "sweep", "start_month": dt.date(2026, 10, 1), "run_status": "FINISHED", "billing_currency": "USD", "effective_cost": Decimal(n + 1)}
        for n in range(2100)
    ]  # fmt: skip
    metric = {"start_month": dt.date(2026, 10, 1), "model_id": "", "metric": "accuracy", "step": 1, "is_last": True, "load_id": "x"}
    metrics = [{**key, **metric, "run_id": row["run_id"], "value": 0.5 if n else 0.9} for n, row in enumerate(costs)]
    with warehouse(tmp_path, run_costs=costs, run_metrics=metrics) as reader:
        found = read_experiment(reader, settings_of(tmp_path), "sweep")
    assert found is not None
    assert (found.runs, len(found.trials), found.total) == (2100, 2100, Decimal(2100 * 2101 // 2))
    assert [(int(trial.cost), trial.value) for trial in found.front] == [(1, 0.9)]
    nothing = found.bought_nothing()
    assert nothing is not None
    assert [int(trial.cost) for trial in nothing] == [2100, 1]


def test_equal_values_can_be_drawn() -> None:
    assert experiment_as_page(experiment([(1, 0.0), (1, 0.0)], "min"), up="").count("<circle") == 4
    assert "<circle" not in experiment_as_page(experiment([(1, 0.0)], "min"), up="")
