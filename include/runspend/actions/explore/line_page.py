"""The page of a bill line, or of a charge of several lines: the provider's values, and the runs and parts of the bill that pay for it."""

from __future__ import annotations

from runspend.actions.explain.figures import LineExplanation
from runspend.actions.explore.page import PART_WORDS, render_page
from runspend.core import amounts

# The columns that the page shows first. The other columns are folded.
FIRST = (
    "ChargeDescription",
    "ServiceName",
    "ResourceId",
    "ChargePeriodStart",
    "ChargePeriodEnd",
    "ChargeCategory",
    "SubAccountId",
    "RegionId",
)
# Columns that may name a person.
OF_PEOPLE = ("Tags", "AllocatedTags", "line_owner", "ResourceName", "group_keys")


def line_as_page(e: LineExplanation, *, up: str, hides_people: bool = False) -> str:
    """Return one self-contained HTML page. `up` is the relative path from its address to the home page.

    `hides_people`: leave out the columns that may name a person, such as tags and owners.
    """
    facts = [(name, value) for name, value in e.facts if not hides_people or name not in OF_PEOPLE]
    settled = [(name, value) for name, value in e.settled if not hides_people or name not in OF_PEOPLE]
    known = dict(facts)
    return render_page(
        "line.html.j2",
        e=e,
        title=known.get("ChargeDescription") or known.get("ServiceName") or "Bill line",
        month=amounts.month_name(e.period),
        first=[(name, known[name]) for name in FIRST if name in known],
        others=[(name, value) for name, value in facts if name not in FIRST] + settled,
        words=PART_WORDS,
        places=max(amounts.places_for(e.summed.effective_cost), 4),
        up=up,
    )
