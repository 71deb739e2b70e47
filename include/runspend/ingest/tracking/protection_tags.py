"""Find the tags that protect artifacts. The rule is the same for runs, experiments, models and traces.

The archive's `plan.sql` implements the same rule in SQL.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date

NO = ("false", "no", "0")


def holding_tag(tags: Mapping[str, str], whose: str, today: date) -> str | None:
    """Return the tag that protects the artifacts as a phrase, or None. `whose` begins the phrase: "its" or "its experiment's".

    A date in `runspend.keep` protects the artifacts until the end of that day.
    """
    stated = {key: tags[key].strip().lower() for key in ("runspend.hold", "runspend.keep", "stage") if key in tags}
    if stated.get("runspend.hold", "no") not in NO:
        return f"legal hold: {whose} tag runspend.hold"
    if stated.get("runspend.keep", "no") not in NO and not _is_past(stated["runspend.keep"], today):
        return f"{whose} tag runspend.keep"
    if stated.get("stage") == "production":
        return f"{whose} tag stage is production"
    return None


def _is_past(text: str, today: date) -> bool:
    try:
        return date.fromisoformat(text) < today
    except ValueError:
        return False
