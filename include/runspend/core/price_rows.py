"""The rule that chooses a machine's price from a list: the same type, and no other region or purchase option.

Training processes use it too (`interfaces/identify`): standard library only, Python 3.10.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any


def choose_price(prices: Iterable[Mapping[str, Any]], kind: str, region: str, purchase_option: str) -> Mapping[str, Any] | None:
    """Return the row for a machine of this type, or None. Rows have `instance_type`, `region`, `purchase_option` and `machine_hours`.

    An empty region or option of a row fits every machine; an exact one has priority. A machine without a region gets the region with
    the most machine hours. A machine that does not state spot counts as on demand.
    """
    wanted = "spot" if purchase_option == "spot" else "on_demand"
    kind, region = kind.lower(), region.lower()
    found = [
        row
        for row in prices
        if kind
        and str(row.get("instance_type", "")).lower() == kind
        and (not region or (row.get("region") or "") in ("", region))
        and (row.get("purchase_option") or "") in ("", wanted)
    ]
    exact = [row for row in found if region and row.get("region") == region] or found
    exact = [row for row in exact if row.get("purchase_option") == wanted] or exact
    return max(exact, key=lambda row: number(row.get("machine_hours")), default=None)


def number(value: object) -> float:
    """Return the value if it is a number that is not negative, otherwise 0."""
    try:
        found = float(str(value if value is not None else 0))
    except ValueError:
        return 0.0
    return found if 0 <= found < math.inf else 0.0
