"""The figures of a view for programs, as JSON, as a CSV file of its rows, and as an Arrow table. Amounts are exact, never rounded."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from runspend.actions.explore.figures import Amount, Figures, Group
from runspend.core.amounts import plain
from runspend.core.spreadsheet_text import guard_text

if TYPE_CHECKING:
    import pyarrow as pa


def figures_as_json(f: Figures) -> str:
    """Return the view, its total, parts and rows as JSON. Amounts are decimal strings with all their digits, days are ISO 8601."""
    view = f.view
    begin, until = view.previous
    data: dict[str, Any] = {
        "from": f"{view.since}",
        "to": f"{view.last}",
        "by": list(view.by),
        "where": {key: list(values) for key, values in view.where.items()},
        "measure": view.measure,
        "currency": f.currency,
        "newest_charge_date": f"{f.newest}",
        "previous": {"from": f"{begin}", "to": f"{until - timedelta(days=1)}"} if view.is_compared else None,
        "every": view.every,
        "spread": view.is_spread,
        "steps": [f"{step}" for step in f.steps],
        "total": _amount(f, f.total),
        "by_allocated_to": {part: _amount(f, amount) for part, amount in f.parts.items()},
        "rows": [_row(f, group) for group in (*f.groups, *f.without_run)],
        "other_rows": {"rows": f.rest_count, **_amount(f, f.rest)},
        "changes": [
            {
                f.view.by[0]: one.value,
                "part": one.part,
                "change": plain(one.change),
                "mostly": {one.by: one.driver, "change": plain(one.driver_change)},
            }
            for one in f.changes
        ],
        "runs": [
            {
                "tracking_server": run.tracking_server,
                "workspace": run.workspace,
                "run_id": run.run_id,
                "run_name": run.name,
                "experiment": run.experiment,
                "run_status": run.status,
                "start_time": None if run.start_time is None else run.start_time.isoformat(),
                "cost": plain(run.cost),
            }
            for run in f.runs
        ],
        "run_count": f.run_count,
        "failed_run_count": f.failed_count,
    }
    return json.dumps(data, ensure_ascii=False, indent=1) + "\n"


def figures_as_csv(f: Figures) -> str:
    """Return CSV of the groups, the parts without a run, and the sum of the groups that are not shown.

    Text that a spreadsheet would read as a formula gets an apostrophe in front.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        [
            *f.view.by,
            "part",
            "cost",
            *(["previous_cost", "change"] if f.view.is_compared else []),
            "currency",
            "runs",
            "failed_runs",
            "gpu_hours",
            "cost_per_gpu_hour",
        ]
        + (["spread_cost"] if f.view.is_spread else [])
    )
    for group in (*f.groups, *f.without_run):
        counts = ["" if n is None else str(n) for n in _counts(group).values()]
        spread = [plain(group.spread)] if f.view.is_spread else []
        writer.writerow(
            [*(guard_text(v or "") for v in group.values), _part(f, group) or "", *_cells(f, group.amount), f.currency, *counts, *spread]
        )
    if f.rest_count:
        empty = [""] * (5 if f.view.is_spread else 4)
        writer.writerow([*([f"({f.rest_count:,} others)"] + [""] * (len(f.view.by) - 1)), "", *_cells(f, f.rest), f.currency, *empty])
    return text.getvalue()


def rows_as_table(view: Mapping[str, Any]) -> pa.Table:
    """Return the rows of `figures_as_json` as a table, without their course. If rows are not shown, the last row is their sum.

    Money is decimal128(38, 22). The column `currency` has its currency.
    """
    import pyarrow as pa

    rows = list(view["rows"])
    if view["other_rows"]["rows"]:
        rows.append({**view["other_rows"], "runs": None, view["by"][0]: f"({view['other_rows']['rows']:,} others)"})
    money = ["cost", *(("previous_cost", "change") if view["previous"] else ())]
    types: dict[str, pa.DataType] = {key: pa.string() for key in (*view["by"], "part")}
    types |= {key: pa.decimal128(38, 22) for key in money} | {"currency": pa.string(), "runs": pa.int64(), "failed_runs": pa.int64()}
    types |= {"gpu_hours": pa.float64(), "cost_per_gpu_hour": pa.decimal128(38, 22)}
    types |= {"spread_cost": pa.decimal128(38, 22)} if view["spread"] else {}
    return pa.table(
        {
            name: pa.array([_typed({**row, "currency": view["currency"]}.get(name), kind) for row in rows], kind)
            for name, kind in types.items()
        }
    )


def _typed(value: Any, kind: pa.DataType) -> Any:
    import pyarrow as pa

    return Decimal(value) if value is not None and pa.types.is_decimal(kind) else value


def _amount(f: Figures, amount: Amount) -> dict[str, str]:
    found = {"cost": plain(amount.cost)}
    return found | {"previous_cost": plain(amount.previous), "change": plain(amount.change)} if f.view.is_compared else found


def _cells(f: Figures, amount: Amount) -> list[str]:
    return list(_amount(f, amount).values())


def _part(f: Figures, group: Group) -> str | None:
    """Return the part of the bill of a row. None if a row may include several parts."""
    return group.part or ("run" if f.view.splits_parts else None)


def _counts(group: Group) -> dict[str, Any]:
    counts = group.counts
    hour_cost = None if counts is None else counts.gpu_hour_cost
    return {
        "runs": group.runs,
        "failed_runs": group.failed_runs,
        "gpu_hours": None if counts is None else counts.gpu_hours,
        "cost_per_gpu_hour": None if hour_cost is None else plain(hour_cost),
    }


def _row(f: Figures, group: Group) -> dict[str, Any]:
    return {
        **dict(zip(f.view.by, group.values, strict=True)),
        "part": _part(f, group),
        **_amount(f, group.amount),
        **_counts(group),
        **({"spread_cost": plain(group.spread)} if f.view.is_spread else {}),
        "course": [plain(v) for v in group.course],
    }
