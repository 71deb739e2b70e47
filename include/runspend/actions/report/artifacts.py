"""Compute the figures of the artifact section: bytes by month, owner and store, and each store's monthly cost at the bill's rate."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from datetime import date
from decimal import Decimal
from typing import Any

from runspend.actions.report.figures import ArtifactFigures, Held, PolicyState, StoredClass
from runspend.allocation.storage_prices import BilledRate

Row = dict[str, Any]


def artifact_figures(
    ask: Callable[..., list[Row]], costs: list[Row], rates: Mapping[tuple[str, str], BilledRate], currency: str, show: Callable[[str], str]
) -> ArtifactFigures:
    """Return the contents of the artifact stores at the end of the month.

    `costs` has storage charges by experiment. `show` returns a name in the form that may be shown.
    """
    by_month: dict[date, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for r in ask("artifact_months"):
        if r["owner_kind"] != "other" and r["bytes"] is not None:
            by_month[r["month"]][r["storage_class"]] += int(r["bytes"])
    paid: dict[tuple[Any, ...], list[tuple[str, Decimal]]] = defaultdict(list)
    for r in costs:
        paid[r["tracking_server"], r["workspace"], r["experiment_id"]].append((r["billing_currency"], r["effective_cost"]))
    return ArtifactFigures(
        tuple((m, tuple(sorted(classes.items()))) for m, classes in sorted(by_month.items())),
        tuple(
            Held(
                r["owner"],
                show(r["experiment_name"] or r["experiment_id"] or r["store"] or "(no experiment)"),
                _count(r["bytes"]),
                _count(r["objects"]),
                r["oldest_at"],
                r["newest_at"],
                bool(r["unknown_owners"]),
                tuple(paid.get((r["tracking_server"], r["workspace"], r["experiment_id"]), ())) if r["owner"] == "experiment" else (),
            )
            for r in ask("artifact_owners")
        ),
        tuple(_stored(r, rates.get((r["store"], r["storage_class"]))) for r in ask("artifact_stores")),
        tuple((r["store"], r["owner_kind"], int(r["owners"]), _count(r["had_bytes"])) for r in ask("dangling")),
        currency,
        tuple(PolicyState(**{**r, "policy": show(r["policy"]), "bytes": _count(r["bytes"])}) for r in ask("archive_plans")),
        tuple((r["action"], r["state"], int(r["folders"]), int(r["bytes"] or 0)) for r in ask("archives")),
    )


def _stored(r: Row, rate: BilledRate | None) -> StoredClass:
    return StoredClass(
        store=r["store"],
        storage_class=r["storage_class"],
        objects=_count(r["objects"]),
        bytes=_count(r["bytes"]),
        noncurrent_bytes=_count(r["noncurrent_bytes"]),
        duplicate_bytes=_count(r["duplicate_bytes"]),
        orphaned_bytes=int(r["orphaned_bytes"] or 0),
        unconfirmed_bytes=int(r["unconfirmed_bytes"] or 0),
        oldest_at=r["oldest_at"],
        newest_at=r["newest_at"],
        rate=rate,
    )


def _count(value: Any) -> int | None:
    return None if value is None else int(value)
