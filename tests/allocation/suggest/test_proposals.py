"""Proposals as text and as JSON."""

from __future__ import annotations

import json

from runspend.allocation.suggest.hour_fit import Fit
from runspend.allocation.suggest.matching import Group, Match
from runspend.allocation.suggest.proposals import Proposal, Proposals, as_records, proposals_yaml


def test_no_figure_is_a_negative_zero() -> None:
    """The fit is that of chance, and the explained cost equals the whole cost except for a rounding error."""
    group = Group("instance_type", "bill", "1111", ("g5.xlarge",), frozenset({0}), 1)
    match = Match(group, "experiment", ("bert",), Fit(100, 80, 75, 0.1 + 0.2, 0.3000000000000001), 0.3, 0.1 + 0.2, 12)
    assert match.fit.score < 0 < match.explained_cost - match.cost
    found = Proposals((Proposal("gpu", {"experiment": ["bert"]}, {"account": ["1111"]}, match, "USD"),), None)
    assert "-0" not in json.dumps(as_records(found)) + proposals_yaml(found)
