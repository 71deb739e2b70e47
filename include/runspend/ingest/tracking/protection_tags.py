"""Tags that protect artifacts: one rule for runs, experiments, models and traces.

The archive's `plan.sql` has the same rule in SQL.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date

NO = ("false", "no", "0")


def holding_tag(tags: Mapping[str, str], whose: str, today: date) -> str | None:
    """Return which tag protects the artifacts, in words; `whose` is "its" or "its experiment's". A date in runspend.keep is inclusive."""
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
