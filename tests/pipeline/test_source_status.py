"""Messages about the parts of a bill that were not read."""

from __future__ import annotations

from typing import Any

import pytest

from runspend.pipeline.source_status import unread_notes


@pytest.mark.parametrize(
    ("extra", "notes"),
    [
        ({"rows": 9, "quarantined": 1}, ["aws 2026-10: 1 unreadable row is excluded from totals: see billing_quarantine"]),
        ({"rows": 9, "quarantined": 1200}, ["aws 2026-10: 1,200 unreadable rows are excluded from totals: see billing_quarantine"]),
        ({"rows": 9, "unreadable": {"ListCost": 1}}, ["aws 2026-10: ListCost is unreadable in 1 row and counts as null"]),
        ({"rows": 9, "without_effective_cost": 1}, ["aws 2026-10: 1 row has no EffectiveCost and is excluded from its totals"]),
        ({"rows": 0, "quarantined": 2}, []),  # this problem is reported as an error instead
    ],
)
def test_a_note_counts_in_good_grammar(extra: dict[str, Any], notes: list[str]) -> None:
    assert unread_notes("aws", "2026-10", extra) == notes
