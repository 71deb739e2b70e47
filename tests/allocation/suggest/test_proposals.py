"""Proposals as text and as JSON."""

from __future__ import annotations

import json

import pytest

from runspend.allocation.suggest.evidence import Cell, Evidence
from runspend.allocation.suggest.hour_fit import Fit
from runspend.allocation.suggest.matching import Group, Match, find_matches
from runspend.allocation.suggest.proposals import Proposal, Proposals, _line_selector, as_records, proposals_yaml


def test_no_figure_is_a_negative_zero() -> None:
    """The fit is that of chance, and the explained cost equals the whole cost except for a rounding error."""
    group = Group("instance_type", "bill", "1111", ("g5.xlarge",), frozenset({0}), 1)
    match = Match(group, "experiment", ("bert",), Fit(100, 80, 75, 0.1 + 0.2, 0.3000000000000001), 0.3, 0.1 + 0.2, 12)
    assert match.fit.score < 0 < match.explained_cost - match.cost
    found = Proposals((Proposal("gpu", {"experiment": ["bert"]}, {"account": ["1111"]}, match, "USD"),), None)
    assert "-0" not in json.dumps(as_records(found)) + proposals_yaml(found)


@pytest.mark.parametrize(
    ("names", "selector"),
    [
        ({"tag.env": "prod"}, {"tag.env": ["prod"], "account": ["1111"], "instance_type": ["nc24ads_a100_v4"]}),
        ({"machine_group": "agentpool|gpu"}, {"tag.agentpool": ["gpu"], "account": ["1111"]}),
    ],
)
def test_a_tag_proposes_machines_only(names: dict[str, str], selector: dict[str, list[str]]) -> None:
    """Buckets and model calls with the same tag prove nothing, and must not become cost of the pool."""
    hours = {day * 24 + hour: 1.0 for day in range(30) for hour in range(day % 7, day % 7 + 5)}
    machine = Cell({"source": "bill", "account": "1111", "instance_type": "nc24ads_a100_v4", **names}, hours, hours, 1)
    ran = Cell({"tracking": "lab", "experiment": "bert"}, hours, runs=30)
    (match,) = find_matches(Evidence(0, 720, "USD", (machine,), (ran,), frozenset()), {0}, (ran,))
    assert _line_selector(match.group) == selector


def test_a_name_proposes_machines_only() -> None:
    """Disks may have a name that begins like those of machines."""
    group = Group("name_prefix", "bill", "1111", ("train-",), frozenset({0}), 1, types=("g5.xlarge", "g5.2xlarge"))
    assert _line_selector(group) == {"tag.Name": ["train-*"], "account": ["1111"], "instance_type": ["g5.xlarge", "g5.2xlarge"]}
