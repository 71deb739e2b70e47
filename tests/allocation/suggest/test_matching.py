"""Find from hours alone which runs ran on which machines, in worlds whose truth is known and in worlds without an answer."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from runspend.allocation.suggest.evidence import Cell, Evidence
from runspend.allocation.suggest.hour_fit import crowding, fit
from runspend.allocation.suggest.matching import Group, Match, find_matches
from runspend.allocation.suggest.proposals import Proposal, _has_machine, _line_selector, evidence_lines, group_words, in_order

DAYS = 30
LENGTH = DAYS * 24


def jobs(dice: random.Random, number: int, hours: float = 6) -> dict[int, float]:
    """Return hour -> hours of jobs that begin at any time."""
    found: dict[int, float] = {}
    for _ in range(number):
        start = dice.randrange(0, LENGTH - int(3 * hours))
        for hour in range(start, start + max(1, int(hours * dice.uniform(0.5, 2)))):
            found[hour] = found.get(hour, 0.0) + 1.0
    return found


def by_day(dice: random.Random, most: int, base: int = 0) -> dict[int, float]:
    """Return hour -> number that work from 8:00 to 18:00, plus `base` all day."""
    return {h: float(base + (dice.randrange(most + 1) if 8 <= h % 24 < 18 else 0)) for h in range(LENGTH)}


def machines(hours: dict[int, float], account: str = "1111", price: float = 1.0, gpus: int = 0, **names: str) -> Cell:
    """Make a group of machines."""
    return Cell(
        {"source": "bill", "account": account, **names},
        {h: v for h, v in hours.items() if v},
        {h: v * price for h, v in hours.items() if v},
        gpus,
    )


def runs(experiment: str, hours: dict[int, float], gpus: int = 0, **names: str) -> Cell:
    """Make the runs of an experiment."""
    return Cell({"tracking": "lab", "experiment": experiment, **names}, {h: v for h, v in hours.items() if v}, gpus=gpus, runs=10)


def found_in(billed: list[Cell], ran: list[Cell], homes: tuple[str, ...] = ()) -> tuple[Match, ...]:
    """Return the matches of this evidence."""
    evidence = Evidence(0, LENGTH, "USD", tuple(billed), tuple(ran), frozenset(homes))
    return find_matches(evidence, set(range(len(billed))), evidence.runs)


def pairs(matches: tuple[Match, ...]) -> set[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Return (names of machines, names of runs) of each match."""
    return {(m.group.values, m.values) for m in matches}


# --- how similar hours are ---------------------------------------------------------------------------------------------------


def test_the_same_hours_score_1_and_others_0() -> None:
    """The score is corrected for chance: over many worlds, the mean score of unrelated hours is 0."""
    dice = random.Random("fit")
    scores = []
    for _ in range(40):
        one, other = ([jobs(dice, 12).get(h, 0.0) for h in range(LENGTH)] for _ in range(2))
        assert fit(one, one).score == pytest.approx(1)
        scores.append(fit(one, other).score)
    assert abs(sum(scores) / len(scores)) < 0.02
    assert max(scores) < 0.3


def test_working_hours_are_not_evidence() -> None:
    """Two that both work by day are similar, but no more than any two days are."""
    dice = random.Random("days")
    one, other = ([by_day(dice, 4).get(h, 0.0) for h in range(LENGTH)] for _ in range(2))
    found = fit(one, other)
    assert found.likeness > 0.5
    assert abs(found.score) < 0.15


def test_a_machine_that_is_always_on_fits_all_runs_equally() -> None:
    """It is therefore no evidence for any run."""
    ran = [min(1.0, jobs(random.Random("on"), 40).get(h, 0.0)) for h in range(LENGTH)]
    assert fit([1.0] * LENGTH, ran).score == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_chance_is_the_mean_over_all_other_slots(seed: int) -> None:
    """A slow sum over the runs of every slot and the machines of every other slot gives the same result."""
    dice = random.Random(seed)
    billed, ran = ([dice.choice((0.0, 0.0, 1.0, dice.random() * 3)) for _ in range(24)] for _ in range(2))
    slow = sum(min(b, r) for i, b in enumerate(billed) for j, r in enumerate(ran) if i != j) / 23
    assert fit(billed, ran, is_daily=True).chance == pytest.approx(2 * slow / (sum(billed) + sum(ran)))


def test_simultaneous_runs_share_a_machine() -> None:
    """Four runs at once on one machine have a crowding of 4. With one machine each, it is 1."""
    assert crowding([1.0, 1.0, 0.0], [4.0, 4.0, 1.0]) == 4
    assert crowding([4.0, 4.0], [4.0, 2.0]) == 1


# --- which runs ran where ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_each_team_is_given_its_own_machines(seed: int) -> None:
    """Four groups of machines are rented for the jobs of two experiments each. The truth is found for every seed."""
    dice = random.Random(f"teams {seed}")
    billed, ran, truth = [], [], set()
    for group in range(4):
        names = tuple(f"exp-{group}-{n}" for n in range(2))
        hours: dict[int, float] = {}
        for name in names:
            own = jobs(dice, 8)
            ran.append(runs(name, own))
            for hour, value in own.items():
                hours[hour] = hours.get(hour, 0.0) + value * 1.05
        billed.append(machines(hours, instance_type=f"m5.{group}xlarge"))
        truth.add(((f"m5.{group}xlarge",), names))
    assert pairs(found_in(billed, ran)) == truth


@pytest.mark.parametrize("seed", range(8))
def test_web_servers_are_never_proposed(seed: int) -> None:
    """Machines of another account are always on or work by day, and users train by day.

    Nothing is proposed, though pools could explain all cost.
    """
    dice = random.Random(f"web {seed}")
    billed = [
        machines(dict.fromkeys(range(LENGTH), 2.0), "2222", instance_type="m5.large"),
        machines(by_day(dice, 6, base=2), "2222", instance_type="c5.xlarge"),
        machines(by_day(dice, 5), "2222", instance_type="c5.2xlarge"),
    ]
    ran = [runs(f"exp-{n}", by_day(dice, 1)) for n in range(4)]
    assert found_in(billed, ran) == ()


def test_accelerators_that_are_always_on_get_runs_that_nothing_else_explains() -> None:
    """They are proposed last, by elimination, and the proposal says so. Machines without accelerators are not proposed in that way."""
    dice = random.Random("box")
    spot, rest = jobs(dice, 20), jobs(dice, 40)
    billed = [
        machines(dict.fromkeys(range(LENGTH), 1.0), price=12, gpus=8, instance_type="p4d.24xlarge"),
        machines(dict.fromkeys(range(LENGTH), 1.0), instance_type="m5.large"),
        machines(spot, instance_type="g5.xlarge", gpus=1),
    ]
    first, last = found_in(billed, [runs("sweeps", spot), runs("bert", rest)])
    assert (first.group.values, first.values, first.is_by_elimination) == (("g5.xlarge",), ("sweeps",), False)
    assert (last.group.values, last.values, last.is_by_elimination) == (("p4d.24xlarge",), ("bert",), True)


def test_machines_with_the_same_hours_are_one_pool() -> None:
    """Two accelerators are always on, and their runs share both."""
    dice = random.Random("boxes")
    on = dict.fromkeys(range(LENGTH), 1.0)
    billed = [machines(on, gpus=8, price=12, instance_type="p4d.24xlarge"), machines(on, gpus=4, price=5, instance_type="g5.12xlarge")]
    (match,) = found_in(billed, [runs("bert", jobs(dice, 40)), runs("resnet", jobs(dice, 30))])
    assert (match.group.kind, match.group.values, match.group.cells) == ("accelerators", ("g5.12xlarge", "p4d.24xlarge"), frozenset({0, 1}))


def test_runs_that_ask_for_gpus_come_first_on_accelerators() -> None:
    """If some of the remaining runs ask for GPUs, the others may have run elsewhere, such as on a laptop."""
    dice = random.Random("gpus")
    box = machines(dict.fromkeys(range(LENGTH), 1.0), gpus=8, instance_type="p4d.24xlarge")
    (match,) = found_in([box], [runs("bert", jobs(dice, 30), gpus=1), runs("notebook", jobs(dice, 30))])
    assert match.values == ("bert",)


def test_accelerators_of_another_account_are_not_proposed() -> None:
    """Runs have their machines in the account of the bucket that they write to, if that account is known."""
    dice = random.Random("home")
    on = dict.fromkeys(range(LENGTH), 1.0)
    billed = [machines(on, "1111", gpus=1, instance_type="g5.xlarge"), machines(on, "2222", gpus=1, instance_type="g4dn.xlarge")]
    (match,) = found_in(billed, [runs("bert", jobs(dice, 30))], homes=("1111",))
    assert match.group.account == "1111"


def test_machines_that_serve_models_are_in_no_pool() -> None:
    """An endpoint that is always on belongs to no run. A selector that also matches the endpoint is not proposed."""
    dice = random.Random("endpoint")
    on = dict.fromkeys(range(LENGTH), 1.0)
    box = machines(on, price=5, gpus=4, instance_type="g5.12xlarge", **{"tag.team": "ml"})
    endpoint = replace(machines(on, price=9, gpus=1, instance_type="ml.g4dn.xlarge", **{"tag.team": "ml"}), is_serving=True)
    job = replace(machines(jobs(dice, 6), price=2, gpus=1, instance_type="ml.g4dn.xlarge"), is_job=True)
    (match,) = found_in([box, endpoint, job], [runs("bert", jobs(dice, 40))])
    assert (match.group.values, match.cost) == (("g5.12xlarge",), pytest.approx(5 * LENGTH))


def test_training_jobs_have_a_pool_of_their_own_beside_an_endpoint_of_their_type() -> None:
    """The selector names the kind of job, so the endpoint's hours and cost stay outside."""
    own = jobs(random.Random("beside an endpoint"), 20)
    typed = {"instance_type": "ml.g5.2xlarge", "gpus": 1, "price": 2.0}
    endpoint = replace(machines(dict.fromkeys(range(LENGTH), 1.0), **typed), is_serving=True)
    training, processing = (
        replace(machines(hours, **typed, job_resource=f":{kind}-job/"), is_job=True)
        for kind, hours in (("training", own), ("processing", {5: 1.0}))
    )
    (match,) = found_in([endpoint, training, processing], [runs("bert", own)])
    assert (match.values, match.group.cells) == (("bert",), frozenset({1}))
    assert _line_selector(match.group) == {"account": ["1111"], "resource": ["*:training-job/*"], "instance_type": ["ml.g5.2xlarge"]}
    assert group_words(match.group) == "training jobs on machines of type ml.g5.2xlarge in account 1111"
    assert [_has_machine(cell, _line_selector(match.group)) for cell in (endpoint, training, processing)] == [False, True, False]
    (alone,) = found_in([training], [runs("bert", own)])
    assert _line_selector(alone.group) == {"account": ["1111"], "instance_type": ["ml.g5.2xlarge"]}


def test_jobs_that_the_bill_does_not_name_have_a_pool_by_service_and_beside_an_endpoint_by_meter() -> None:
    """An endpoint of the service in the same account would be in a pool by service. Machines of other services would not."""
    own = jobs(random.Random("vertex"), 20)
    training = replace(machines(own, service="Vertex AI"), is_job=True)
    endpoint = replace(machines(dict.fromkeys(range(LENGTH), 1.0), service="Vertex AI"), is_serving=True)
    server = machines(dict.fromkeys(range(LENGTH), 1.0), instance_type="m5.large")
    (match,) = found_in([training, server], [runs("bert", own)])
    assert _line_selector(match.group) == {"account": ["1111"], "service": ["Vertex AI"]}
    assert group_words(match.group) == "jobs of Vertex AI in account 1111"
    assert evidence_lines(Proposal("jobs", {}, {}, match, "USD"))[-1].startswith(
        "The bill does not name these jobs or pods. Better: label them"
    )
    (match,) = found_in([training, server, endpoint], [runs("bert", own)])
    assert _line_selector(match.group)["meter"] == ["*training*instance*", "*training*gpu*", "*training*tpu*"]
    assert group_words(match.group) == "jobs of Vertex AI in account 1111"


def test_pods_have_a_pool_by_namespace_apart_from_machines_with_the_same_tag() -> None:
    """The last namespace is not named by its cluster, which also has a fee. The selector of pods has no machine, and the other way round."""
    dice = random.Random("pods")
    hours = [jobs(dice, 15) for _ in range(3)]
    cluster = {"service": "Kubernetes Engine", "machine_group": "goog-k8s-cluster-name|c", "tag.env": "ml"}
    billed = [machines(own, **cluster, **{"tag.k8s-namespace": space}) for own, space in zip(hours[:2], "ab", strict=True)]
    billed.append(machines(hours[2], instance_type="n2-standard-8", **{"tag.env": "ml"}))
    found = found_in(billed, [runs(f"exp-{n}", own) for n, own in enumerate(hours)])
    selectors = {match.values: _line_selector(match.group) for match in found}
    pods = {"account": ["1111"], "service": ["Kubernetes Engine"]}
    assert selectors == {
        ("exp-0",): {"tag.k8s-namespace": ["a"], **pods},
        ("exp-1",): {"tag.k8s-namespace": ["b"], **pods},
        ("exp-2",): {"tag.env": ["ml"], "account": ["1111"], "instance_type": ["n2-standard-8"]},
    }
    (match,) = found_in(
        [machines(hours[0], service="Kubernetes Engine", machine_group="goog-k8s-cluster-name|c")], [runs("exp-0", hours[0])]
    )
    assert _line_selector(match.group) == {"tag.goog-k8s-cluster-name": ["c"], **pods}


def test_training_jobs_are_matched_only_by_their_hours() -> None:
    """Runs of managed jobs can state their job, so the remaining jobs are never given to runs by elimination."""
    dice = random.Random("training jobs")
    own, others = jobs(dice, 20), jobs(dice, 20)
    job = replace(machines(own, price=2, gpus=1, instance_type="ml.g5.2xlarge"), is_job=True)
    (match,) = found_in([job], [runs("bert", own), runs("churn", others)])
    assert (match.group.values, match.values) == (("ml.g5.2xlarge",), ("bert",))
    words = evidence_lines(Proposal("jobs", {"experiment": ["bert"]}, {"instance_type": ["ml.g5.2xlarge"]}, match, "USD"))
    assert "explains about 288 of 288.00 USD, about 0.00 stays idle." in words[0]  # runs may overlap within an hour
    assert words[-1].startswith("Machines of managed jobs are in this pool. Better: runs that state their job match it exactly")
    assert found_in([job], [runs("churn", others)]) == ()


def test_simultaneous_runs_are_explained_as_a_pool_splits_them() -> None:
    """Every third busy hour has three runs at once, and the others have one. The machine is used in all of them."""
    hours = {h: 3.0 if h % 3 == 0 else 1.0 for h in range(0, LENGTH, 2)}
    (match,) = found_in([machines(dict.fromkeys(range(LENGTH), 1.0), price=2, gpus=1, instance_type="g5.xlarge")], [runs("bert", hours)])
    assert match.explained_cost == pytest.approx(2 * len(hours))
    assert (match.used_hours, match.met_hours, match.run_hours) == (len(hours), sum(hours.values()), sum(hours.values()))


def test_a_pool_whose_selector_matches_machines_of_another_comes_after_it() -> None:
    """The first pool that matches a line gets it.

    Ordered by cost, the machines named train-* would come first and take those of one type.
    """
    dice = random.Random("order")
    own, others = jobs(dice, 20), jobs(dice, 20)
    typed = machines(own, price=3, instance_type="c6i.8xlarge", name_prefix="train-")
    named = [
        machines(
            {h: v for h, v in others.items() if h % 2 == part}, price=9, gpus=1, instance_type=f"g5.{part}xlarge", name_prefix="train-"
        )
        for part in range(2)
    ]
    billed = (typed, *named)
    evidence = Evidence(0, LENGTH, "USD", billed, (), frozenset())
    one = Match(
        Group("instance_type", "bill", "1111", ("c6i.8xlarge",), frozenset({0})), "experiment", ("a",), fit([1.0], [1.0]), 30, 30, 1
    )
    two = Match(Group("name_prefix", "bill", "1111", ("train-",), frozenset({1, 2}), 1), "experiment", ("b",), fit([1.0], [1.0]), 90, 90, 1)
    apart = replace(two, group=replace(two.group, kind="machines", values=("g5.0xlarge", "g5.1xlarge")))
    assert in_order((one, two), evidence) == (one, two)
    assert list(in_order((one, apart), evidence)) == [apart, one]


def test_accelerators_next_to_machines_of_runs_come_before_more_expensive_ones() -> None:
    """No bucket shows which account belongs to the runs. The inference machines of another account cost more, and serve no runs."""
    dice = random.Random("beside")
    on, spot = dict.fromkeys(range(LENGTH), 1.0), jobs(dice, 20)
    billed = [
        machines(on, "2222", price=40, gpus=8, instance_type="p5.48xlarge"),
        machines(on, "1111", price=5, gpus=4, instance_type="g5.12xlarge"),
        machines(spot, "1111", instance_type="m5.large"),
    ]
    matches = found_in(billed, [runs("churn", spot), runs("bert", jobs(dice, 40))])
    assert [(m.group.account, m.values) for m in matches] == [("1111", ("churn",)), ("1111", ("bert",))]
    everyone = [*billed, machines(on, "3333", price=60, gpus=8, instance_type="p6.48xlarge")]
    assert {m.group.account for m in found_in(everyone, [runs("churn", spot), runs("bert", jobs(dice, 40))])} == {"1111"}


def test_a_node_group_that_never_shrinks_to_zero_is_matched_by_the_nodes_above() -> None:
    """One node is always on, and each job adds another. With the first node, the hours would hardly be similar."""
    dice = random.Random("least nodes")
    own = jobs(dice, 30, hours=3)
    billed = [
        machines({h: 1.0 + own.get(h, 0.0) for h in range(LENGTH)}, instance_type="m5.4xlarge", machine_group="eks:nodegroup-name|tabular"),
        machines(dict.fromkeys(range(LENGTH), 1.0), price=12, gpus=8, instance_type="p4d.24xlarge"),
    ]
    first, last = found_in(billed, [runs("churn", own), runs("bert", jobs(dice, 40, hours=9))])
    assert (first.group.kind, first.values, first.floor) == ("machine_group", ("churn",), 1.0)
    assert first.billed_hours == sum(billed[0].hours.values())
    starts_late = {hour: value for hour, value in billed[0].hours.items() if 30 < hour < LENGTH - 1}
    (late,) = found_in([replace(billed[0], hours=starts_late)], [runs("churn", own)])
    assert late.floor == 1.0
    words = evidence_lines(Proposal("tabular", {"experiment": ["churn"]}, {"tag.eks:nodegroup-name": ["tabular"]}, first, "USD"))
    assert words[-1].startswith("Apart from 1 machine that is always on, the hours are ")
    assert (last.group.values, last.values) == (("p4d.24xlarge",), ("bert",))


def test_accelerators_of_an_account_without_runs_are_not_proposed() -> None:
    """The web shop has an inference machine in an account without runs. Other runs have machines in another account."""
    dice = random.Random("web shop")
    on = dict.fromkeys(range(LENGTH), 1.0)
    shop, box = machines(on, "2222", gpus=1, instance_type="g4dn.xlarge"), machines(on, "1111", price=9, instance_type="r6i.8xlarge")
    own = machines(on, "", gpus=1, instance_type="a100")
    ran = [runs("bert", jobs(dice, 60))]
    assert found_in([shop, box], ran, homes=("1111",)) == ()
    assert [m.group.account for m in found_in([shop, box, own], ran, homes=("1111",))] == [""]
    assert [m.group.account for m in found_in([shop, box], ran)] == ["2222"]  # no evidence says whose machine it is


def test_accelerators_that_the_left_runs_hardly_used_are_not_proposed() -> None:
    dice = random.Random("hardly")
    box = machines(dict.fromkeys(range(LENGTH), 1.0), price=12, gpus=8, instance_type="p4d.24xlarge")
    assert found_in([box], [runs("smoke-test", jobs(dice, 8, hours=3))]) == ()


def test_runs_are_grouped_by_the_most_telling_property() -> None:
    """Each user has their own machines, and all users share the experiments, so runs are grouped by user."""
    dice = random.Random("users")
    ran, billed = [], []
    for user in ("ana", "ben"):
        hours: dict[int, float] = {}
        for experiment in ("bert", "resnet"):
            own = jobs(dice, 10)
            ran.append(runs(experiment, own, user=user))
            for hour, value in own.items():
                hours[hour] = hours.get(hour, 0.0) + value
        billed.append(machines(hours, instance_type=f"type-{user}"))
    matches = found_in(billed, ran)
    assert {m.kind for m in matches} == {"user"}
    assert pairs(matches) == {(("type-ana",), ("ana",)), (("type-ben",), ("ben",))}


def test_nightly_jobs_are_found() -> None:
    """Machines start at one o'clock every day for runs that do so too. Days are similar, but that is not chance."""
    dice = random.Random("nightly")
    own = {day * 24 + hour: 1.0 for day in range(DAYS) for hour in range(1, dice.randrange(4, 9))}
    (match,) = found_in(
        [machines(own, instance_type="m5.xlarge"), machines(by_day(dice, 5, 2), "2222", instance_type="c5.large")], [runs("nightly", own)]
    )
    assert match.group.values == ("m5.xlarge",)


def test_daily_work_in_an_account_without_runs_is_not_evidence() -> None:
    """An import of data starts in the same hours of the night. The account of the runs is known, and has machines that are always on."""
    dice = random.Random("elsewhere")
    own, others = ({day * 24 + hour: 1.0 for day in range(DAYS) for hour in range(1, dice.randrange(7, 10))} for _ in range(2))
    other = machines(others, "2222", instance_type="m5.xlarge")
    box = machines(dict.fromkeys(range(LENGTH), 1.0), price=12.0, gpus=4, instance_type="p3.8xlarge")
    assert pairs(found_in([other, box], [runs("nightly", own)], homes=("1111",))) == {(("p3.8xlarge",), ("nightly",))}
    assert pairs(found_in([other], [runs("nightly", own)])) == {(("m5.xlarge",), ("nightly",))}


def test_runs_that_ask_for_gpus_are_not_on_machines_without_while_some_have_gpus() -> None:
    """A job without GPUs has the same hours. If no machine with GPUs is left, the hours count."""
    own = jobs(random.Random("asking"), 40)
    plain, box = (
        machines(own, instance_type="m5.xlarge"),
        machines(dict.fromkeys(range(LENGTH), 1.0), price=12.0, gpus=4, instance_type="p3.8xlarge"),
    )
    assert pairs(found_in([plain, box], [runs("bert", own, gpus=1)])) == {(("p3.8xlarge",), ("bert",))}
    assert pairs(found_in([plain], [runs("bert", own, gpus=1)])) == {(("m5.xlarge",), ("bert",))}


@pytest.mark.parametrize("seed", range(5))
def test_machines_that_are_billed_by_the_day_are_matched_by_the_day(seed: int) -> None:
    """Such a line states how long the machine ran that day, but not when. By the hour, nothing would fit."""
    dice = random.Random(f"days {seed}")
    own, other = jobs(dice, 9), jobs(dice, 9)
    billed: dict[int, float] = {}
    for hour, value in own.items():
        for each in range(hour // 24 * 24, hour // 24 * 24 + 24):
            billed[each] = billed.get(each, 0.0) + value / 24
    cell = replace(machines(billed, instance_type="standard_nc6s_v3"), is_daily=True, machines=dict.fromkeys(billed, 9.0))
    (match,) = found_in([cell], [runs("bert", own), runs("others", other)])
    assert match.values == ("bert",)
    assert match.fit.both == pytest.approx(sum(own.values()))


def test_runs_of_one_hour_share_the_machines_of_the_day() -> None:
    """Three runs at a time use one machine that is billed by the day.

    The pool gives them the hours in which they ran, not the sum of their hours.
    """
    ran = {hour: 3.0 for day in range(0, DAYS, 2) for hour in range(day * 24 + 8, day * 24 + 14)}
    on = {hour: 0.5 for day in range(0, DAYS, 2) for hour in range(day * 24, day * 24 + 24)}
    cell = replace(machines(on, price=2.0, instance_type="standard_nc6s_v3"), is_daily=True, machines=dict.fromkeys(on, 1.0))
    (match,) = found_in([cell], [runs("bert", ran)])
    days = DAYS // 2
    assert (match.cost, match.explained_cost, match.used_hours) == pytest.approx((24 * days, 12 * days, 6 * days))
    two = replace(cell, machines=dict.fromkeys(on, 2.0))
    assert found_in([two], [runs("bert", ran)])[0].used_hours == pytest.approx(12 * days)


def test_a_name_that_is_a_glob_of_other_names_is_not_proposed() -> None:
    """The selector of an experiment named bert* would also match the runs of bert-large."""
    dice = random.Random("glob")
    own, others = jobs(dice, 20), jobs(dice, 20)
    billed = [machines(own, instance_type="m5.large"), machines(others, instance_type="c5.large")]
    assert all("bert*" not in match.values for match in found_in(billed, [runs("bert*", own), runs("bert-large", others)]))
    assert pairs(found_in(billed[:1], [runs("what works?", own)])) == {(("m5.large",), ("what works?",))}


@pytest.mark.parametrize(("gpus", "expected"), [(8, 1), (0, 0)])
def test_half_of_the_hours_is_not_evidence_for_machines_without_gpus(gpus: int, expected: int) -> None:
    """Batch jobs that train nothing start with the same data as runs do."""
    ran = jobs(random.Random("data"), 12)
    other = jobs(random.Random("batch"), 18)
    assert 0.4 < fit([ran.get(h, 0.0) + other.get(h, 0.0) for h in range(LENGTH)], [ran.get(h, 0.0) for h in range(LENGTH)]).score < 0.55
    batch = machines({h: ran.get(h, 0.0) + other.get(h, 0.0) for h in {*ran, *other}}, gpus=gpus, machine_group="batch")
    assert len(found_in([batch], [runs("train", ran)])) == expected


def test_one_short_overlap_is_not_evidence() -> None:
    """A machine and a run have only one afternoon in common."""
    own = {100: 1.0, 101: 1.0}
    assert found_in([machines(own, instance_type="m5.xlarge")], [runs("once", own)]) == ()


@pytest.mark.parametrize(("hours", "gpus", "expected"), [(13, 8, 1), (11, 8, 0), (13, 0, 0)])
def test_one_long_training_is_evidence_on_machines_with_gpus(hours: int, gpus: int, expected: int) -> None:
    """Two days are enough if nearly all of its many hours are alike. Machines without GPUs may have been on for other work."""
    own = {100 + hour: 1.0 for hour in range(hours)}
    billed = [machines(own, price=32.0, gpus=gpus, instance_type="p4d.24xlarge")]
    assert [m.is_by_elimination for m in found_in(billed, [runs("fine-tuning", own)])].count(False) == expected


def test_machines_of_one_long_training_are_not_in_a_pool_with_cheap_ones() -> None:
    """Otherwise, its runs would pay the mean price of both, and so would all others."""
    often, once = jobs(random.Random("often"), 20), {100 + hour: 1.0 for hour in range(28)}
    billed = [
        machines(often, price=0.5, gpus=1, instance_type="g5.xlarge"),
        machines(once, price=32.0, gpus=8, instance_type="p4d.24xlarge"),
    ]
    ran = [runs("vision", often, gpus=1, user="ann"), runs("fine-tuning", once, gpus=8, user="ann")]
    assert pairs(found_in(billed, ran)) == {(("g5.xlarge",), ("vision",)), (("p4d.24xlarge",), ("fine-tuning",))}


def test_a_pool_of_unlike_prices_says_so() -> None:
    """Two boxes are always on, so only elimination finds their runs. All of them would pay the mean price."""
    on = dict.fromkeys(range(LENGTH), 1.0)
    own = jobs(random.Random("prices"), 60)
    for price, is_said in ((32.0, True), (0.9, False)):
        boxes = [
            machines(on, price=0.5, gpus=1, instance_type="g5.xlarge"),
            machines(on, price=price, gpus=8, instance_type="p4d.24xlarge"),
        ]
        (match,) = found_in(boxes, [runs("vision", {hour: 2 * value for hour, value in own.items()})])
        said = " ".join(evidence_lines(Proposal("pool", {}, {}, match, "USD")))
        assert (f"an hour of these machines costs 0.50 to {price:.2f} USD" in said) == is_said


def test_a_node_group_is_preferred_to_the_types_of_its_machines() -> None:
    """If two names mean the same machines, the more lasting one comes first."""
    own = jobs(random.Random("names"), 15)
    cell = machines(own, instance_type="g5.xlarge", machine_group="eks:nodegroup-name|gpu-spot", name_prefix="node-")
    (match,) = found_in([cell], [runs("bert", own)])
    assert (match.group.kind, match.group.values) == ("machine_group", ("eks:nodegroup-name|gpu-spot",))


def test_without_runs_or_machines_there_is_no_match() -> None:
    """There are no runs, no machines, or neither."""
    own = jobs(random.Random("none"), 5)
    assert found_in([], []) == found_in([machines(own, instance_type="a")], []) == found_in([], [runs("b", own)]) == ()


@pytest.mark.parametrize("seed", range(6))
def test_unrelated_machines_and_runs_are_not_matched(seed: int) -> None:
    """Other jobs of the same size run at the same time as these runs. A chance overlap is not taken for evidence."""
    dice = random.Random(f"strangers {seed}")
    billed = [machines(jobs(dice, 15), instance_type=f"m5.{n}xlarge") for n in range(5)]
    assert found_in(billed, [runs(f"exp-{n}", jobs(dice, 10)) for n in range(8)]) == ()
