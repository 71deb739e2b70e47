"""Write explanations as JSON for programs: all values, with costs as exact decimal strings and times as ISO 8601 in UTC."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Any

from runspend.actions.explain.figures import CurrencyCost, LineExplanation, ResourceExplanation, RunExplanation
from runspend.core.amounts import iso_utc, plain


def explanation_as_json(e: RunExplanation | ResourceExplanation | LineExplanation) -> dict[str, Any]:
    """Return an explanation as one JSON object.

    Each currency of a run also has `difference`: the sum of its charges minus the total from `run_costs`.
    """
    kinds = {RunExplanation: "run", ResourceExplanation: "resource", LineExplanation: "line"}
    return {"explains": kinds[type(e)], **_plain(e)}


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return plain(value)
    if isinstance(value, datetime):
        return iso_utc(value)
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    if is_dataclass(value) and not isinstance(value, type):
        made = {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
        if isinstance(value, CurrencyCost):
            made["difference"] = _plain(value.difference)
        return made
    return value
