"""The page of an experiment: the cost of its runs, and the cost of each trial against the metric that compares trials.

A trial is on the front if no other trial costs the same or less and has an equal or better value. All trials count, even those with a
cost of zero or below (more credits than charges). A trial that is not on the front has no benefit: another trial was at least as good for
the same cost or less. Values of metrics come from `run_metrics`, which has the metrics that `sweeps` and keep-best policies name.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

from markupsafe import Markup

from runspend.actions.costs.query import NoRate, Selection, in_one_currency
from runspend.actions.explain.figures import RunKey
from runspend.actions.explore.page import render_page, run_address
from runspend.actions.explore.view import EARLIEST
from runspend.actions.report import charts
from runspend.actions.report import render as report
from runspend.config.settings import Settings
from runspend.core import amounts
from runspend.core.errors import UsageError
from runspend.core.text import without_person
from runspend.warehouse.base import Reader
from runspend.warehouse.sql_files import read_sql

MOST_ROWS = 50
MOST_POINTS = 2000  # in the chart
LESS_IS_BETTER = ("loss", "error", "err", "mse", "mae", "rmse", "perplexity", "wer", "cer", "fid")  # parts of a metric's name
LARGEST = Fraction(sys.float_info.max)
HEIGHT, LEFT, RIGHT, HEAD, FOOT = 280.0, 58.0, 12.0, 14.0, 40.0


@dataclass(frozen=True)
class Trial:
    """A run of the experiment. `value` is the last value of the metric, or None if the run has none."""

    key: RunKey
    run_name: str | None
    status: str | None
    cost: Decimal
    value: float | None

    @property
    def name(self) -> str:
        """MLflow's name of the run, otherwise the start of its ID."""
        return self.run_name or self.key.run_id[:8]


@dataclass(frozen=True)
class Experiment:
    """An experiment in the currency in which it cost the most. `trials`: most expensive first.

    `metric`: the metric that compares trials, or None if no metric has values. `best`: min or max. `metrics`: all metrics that have values.
    `is_converted`: whether amounts in other currencies are converted at exchange rates.
    """

    name: str
    is_masked: bool
    currency: str
    other_currencies: tuple[str, ...]
    total: Decimal
    runs: int
    failed_runs: int
    failed_cost: Decimal
    trials: tuple[Trial, ...]
    metric: str | None
    best: str
    metrics: tuple[str, ...]
    is_converted: bool = False

    @cached_property
    def measured(self) -> list[Trial]:
        """The trials that have a value, cheapest first. Of trials with the same cost, the best comes first."""
        sign = 1 if self.best == "min" else -1
        return sorted((t for t in self.trials if t.value is not None), key=lambda t: (t.cost, sign * (t.value or 0), t.key.run_id))

    @cached_property
    def front(self) -> list[Trial]:
        """The Pareto front, cheapest first: the trials for which no other trial is as cheap and as good. The last one has the best value."""
        found: list[Trial] = []
        for trial in self.measured:
            if not found or self._is_better(trial, found[-1]):
                found.append(trial)
        return found

    def bought_nothing(self) -> tuple[Trial, Trial] | None:
        """Return the most expensive trial without a benefit, and the cheapest trial that is at least as good.

        None if every trial without a benefit cost nothing.
        """
        front = set(self.front)
        worst = next((trial for trial in reversed(self.measured) if trial.cost > 0 and trial not in front), None)
        if worst is None:
            return None
        return worst, next(trial for trial in self.front if not self._is_better(worst, trial))

    def _is_better(self, one: Trial, other: Trial) -> bool:
        return (
            one.value is not None
            and other.value is not None
            and (one.value < other.value if self.best == "min" else one.value > other.value)
        )


def read_experiment(
    reader: Reader, settings: Settings, name: str, *, metric: str | None = None, best: str | None = None, hides_people: bool = False
) -> Experiment | None:
    """Return the cost and the metric values of an experiment's runs. None if none of its runs has a cost.

    `metric`: the metric to compare by, if several have values. `best`: min or max. Raises UsageError if one of them is not valid.
    """
    billed = reader
    with suppress(NoRate):  # without an exchange rate, each currency is shown separately
        reader = in_one_currency(reader, settings, Selection(since=EARLIEST))
    found = reader.query(read_sql(Path(__file__).parent, "experiment_runs"), {"experiment": name})
    if not found.num_rows:
        return None
    first = found.slice(0, 1).to_pylist()[0]
    rows = found.drop_columns(["runs", "total", "failed_runs", "failed_cost"]).to_pylist()
    values: dict[str, dict[RunKey, float]] = {}
    for row in reader.query(read_sql(Path(__file__).parent, "experiment_metrics"), {"experiment": name}).to_pylist():
        if math.isfinite(row["value"]):
            values.setdefault(row["metric"], {})[_key(row)] = row["value"]
    chosen = _metric(settings, values, metric)
    if best is not None and best not in ("min", "max"):
        raise UsageError(f"cannot read best={best[:40]!r}: allowed values are min, max.")
    known = values.get(chosen or "", {})
    shown = (without_person(name) or "") if hides_people else name
    return Experiment(
        name=shown,
        is_masked=shown != name,
        currency=first["billing_currency"],
        other_currencies=tuple(sorted({row["billing_currency"] for row in rows} - {first["billing_currency"]})),
        total=first["total"] or Decimal(0),
        runs=first["runs"],
        failed_runs=int(first["failed_runs"] or 0),
        failed_cost=first["failed_cost"] or Decimal(0),
        trials=tuple(
            Trial(_key(row), row["run_name"], row["run_status"], row["effective_cost"] or Decimal(0), known.get(_key(row)))
            for row in rows
            if row["billing_currency"] == first["billing_currency"]
        ),
        metric=chosen,
        best=best or _best(settings, chosen),
        metrics=tuple(sorted(values)),
        is_converted=reader is not billed,
    )


def _key(row: Mapping[str, Any]) -> RunKey:
    return RunKey(row["tracking_server"], row["workspace"], row["run_id"])


def _metric(settings: Settings, values: Mapping[str, Mapping[RunKey, float]], wanted: str | None) -> str | None:
    """Return the metric to compare by: `wanted` if given, otherwise that of `sweeps`, otherwise the one that most runs have.

    None if no metric has values. Raises UsageError if the wanted metric has no values.
    """
    if wanted is not None:
        if wanted not in values:
            raise UsageError(f"cannot compare by {wanted[:60]!r}: metrics with values are {', '.join(sorted(values)) or 'none'}.")
        return wanted
    if settings.sweeps is not None and settings.sweeps.metric in values:
        return settings.sweeps.metric
    return min(values, key=lambda metric: (-len(values[metric]), metric), default=None)


def _best(settings: Settings, metric: str | None) -> str:
    """Return "min" or "max" for a metric whose lowest or highest value is best: as configured, otherwise guessed from its name."""
    if settings.sweeps is not None and settings.sweeps.metric == metric:
        return settings.sweeps.best
    for policy in settings.retention:
        if policy.keep and policy.keep.by == metric and policy.keep.order:
            return policy.keep.order
    words = (metric or "").lower().replace("-", "_").replace("/", "_").replace(" ", "_").split("_")
    return "min" if any(word in LESS_IS_BETTER for word in words) else "max"


def experiment_as_page(e: Experiment, *, up: str, hidden: Sequence[str] = ()) -> str:
    """Return one self-contained HTML page. `up` is the relative path from its address to the home page.

    `hidden`: dimensions that the page does not offer.
    """
    nothing, front = e.bought_nothing(), e.front
    points = _points(e, [*front, *(nothing[:1] if nothing else ())])
    return render_page(
        "experiment.html.j2",
        e=e,
        front=front,
        on_front=set(front),
        nothing=nothing,
        drawing=_drawing(e, points, nothing[0] if nothing else None, up),
        left_out=len(e.measured) - len(points),
        ways=[key for key in ("run", "user", "kind", "machine") if key not in hidden],
        most_rows=MOST_ROWS,
        places=amounts.places_for(e.total),
        number=_number,
        up=up,
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _points(e: Experiment, wanted: Sequence[Trial]) -> list[Trial]:
    """Return the trials to show in the chart, cheapest first. If there are too many, it shows `wanted` and the most expensive ones."""
    if len(e.measured) <= MOST_POINTS:
        return e.measured
    ranked = dict.fromkeys([*reversed(wanted), *reversed(e.measured[-MOST_POINTS:])])
    return sorted([*ranked][:MOST_POINTS], key=lambda trial: trial.cost)


def _drawing(e: Experiment, points: Sequence[Trial], nothing: Trial | None, up: str) -> Markup:
    """Draw cost against the metric, for wide screens and for phones. Empty with fewer than two trials."""
    if len(points) < 2:
        return Markup()
    return Markup("").join(
        _scatter(e, points, nothing, up, width, css) for width, css in ((report.WIDE, "chart wide"), (report.NARROW, "chart narrow"))
    )


@dataclass(frozen=True)
class _Axis:
    """One axis of the chart. Its bounds are exact, because the difference of two values may be larger than the largest float."""

    low: Fraction
    high: Fraction
    start: float
    end: float

    def at(self, value: Fraction) -> float:
        """Return the coordinate of a value."""
        return self.start + float((value - self.low) / (self.high - self.low)) * (self.end - self.start)


def _scatter(e: Experiment, points: Sequence[Trial], nothing: Trial | None, up: str, width: int, css: str) -> Markup:
    right, bottom = width - RIGHT, HEIGHT - FOOT
    values = [trial.value or 0.0 for trial in e.measured]
    low, high = Fraction(min(values)), Fraction(max(values))
    margin = ((high - low) or abs(high) or 1) * Fraction(6, 100)
    ups = _Axis(max(low - margin, -LARGEST), min(high + margin, LARGEST), bottom, HEAD)
    least, most = Fraction(min(e.measured[0].cost, Decimal(0))), Fraction(max(e.measured[-1].cost, Decimal(0)))
    margin = ((most - least) or 1) * Fraction(4, 100)
    across = _Axis(least - margin if least else least, most + margin, LEFT, right)

    def at(trial: Trial) -> tuple[float, float]:
        return across.at(Fraction(trial.cost)), ups.at(Fraction(trial.value or 0.0))

    body: list[Markup] = []
    for n in range(5):
        mark = ups.low + (ups.high - ups.low) * n / 4
        y = ups.at(mark)
        body.append(Markup('<line x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}" class="grid"/>').format(LEFT, right, y, y))
        body.append(charts.text_at(LEFT - 8, y + 4, _number(float(mark)), "t", "end"))
    step = charts.ticks(float(across.high - across.low))[1]
    for tick in (n * step for n in range(math.ceil(float(across.low) / step), int(float(across.high) / step + 1e-9) + 1)):
        body.append(charts.text_at(across.at(Fraction(tick)), bottom + 16, charts.axis_mark(tick), "t", "middle"))
    body.append(charts.text_at(right, HEIGHT - 4, f"cost, {e.currency}", "t", "end"))
    body.append(charts.text_at(LEFT, HEIGHT - 4, e.metric or "", "t"))
    steps: list[str] = []
    front = set(e.front)
    for trial in e.front:  # in steps: for a cost between two trials, the cheaper trial is the best that the money buys
        x, y = at(trial)
        steps += [f"{x:.1f},{steps[-1].partition(',')[2]}"] if steps else []
        steps.append(f"{x:.1f},{y:.1f}")
    body.append(Markup('<polyline points="{}" class="front"/>').format(" ".join(steps)))
    for trial in points:
        x, y = at(trial)
        color = "nothing" if trial == nothing else "g0" if trial in front else "gx"
        title = (
            f"{trial.name}: {e.metric} {_number(trial.value)} for {amounts.money(trial.cost, amounts.places_for(trial.cost))} {e.currency}"
        )
        body.append(
            Markup('<a href="{}" aria-label="{}"><circle cx="{:.1f}" cy="{:.1f}" r="{}" class="{}"><title>{}</title></circle></a>').format(
                f"{up}{run_address(trial.key)}", title, x, y, 5 if color != "gx" else 4, color, title
            )
        )
    label = f"Cost of each trial against {e.metric}; the table has the numbers"
    return charts.svg(width, HEIGHT, label, body, css, "group")
