"""The explorer's charts: costs over time stacked by group, and a small line of one group's cost over time.

The page's style sheet colors them. Floats are only for drawing: the table next to a chart has the exact numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from decimal import Decimal

from markupsafe import Markup

from runspend.actions.report import charts
from runspend.core.amounts import money

HEIGHT, LEFT, HEAD, FOOT = 240.0, 58.0, 10.0, 24.0


def stacked_columns(
    steps: Sequence[date],
    stacks: Sequence[tuple[str, str, Sequence[Decimal]]],
    before: Sequence[Decimal],
    width: int,
    css: str,
    label: str,
    *,
    is_by_month: bool,
) -> Markup:
    """Draw one column per step, stacked from (name, color class, amounts by step). Negative amounts are drawn below zero.

    `before`: amounts by step to draw as a thin line.
    """
    ups = [float(sum((max(amounts[n], Decimal(0)) for _, _, amounts in stacks), Decimal(0))) for n in range(len(steps))]
    downs = [float(sum((min(amounts[n], Decimal(0)) for _, _, amounts in stacks), Decimal(0))) for n in range(len(steps))]
    line = [float(v) for v in before][: len(steps)]
    top = max([*ups, *line, 0.0]) or 1.0
    bottom = min([*downs, *line, 0.0])
    scale = (HEIGHT - HEAD - FOOT) / (top - bottom)
    zero = HEAD + top * scale
    slot = (width - LEFT) / max(len(steps), 1)
    body: list[Markup] = []
    for tick in charts.ticks(top):
        y = zero - tick * scale
        body.append(Markup('<line x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}" class="grid"/>').format(LEFT, width, y, y))
        body.append(charts.text_at(LEFT - 8, y + 4, charts.axis_mark(tick), "t", "end"))
    every = max(1, -(-52 * len(steps) // int(width - LEFT)))
    for n, step in enumerate(steps):
        x, up, down = LEFT + n * slot, zero, zero
        when = f"{step:%b %Y}" if is_by_month else f"{step.day} {step:%b}"
        year = f" {step.year}" if not is_by_month and steps[0].year != steps[-1].year else ""
        for name, color, amounts in stacks:
            size = abs(float(amounts[n])) * scale
            if size < 0.05:
                continue
            title = f"{when}{year} {name} {money(amounts[n])}"
            if amounts[n] > 0:
                up -= size
                body.append(charts.rect(x + slot * 0.1, up, slot * 0.8, size, color, title))
            else:
                body.append(charts.rect(x + slot * 0.1, down, slot * 0.8, size, color, title))
                down += size
        if n % every == 0:
            body.append(charts.text_at(x + slot / 2, HEIGHT - 6, when, "t", "middle"))
    if len(line) > 1:
        points = " ".join(f"{LEFT + (n + 0.5) * slot:.1f},{zero - v * scale:.1f}" for n, v in enumerate(line))
        body.append(Markup('<polyline points="{}" class="before"/>').format(points))
    return charts.svg(width, HEIGHT, label, body, css)


def course(amounts: Sequence[Decimal]) -> Markup:
    """Draw the cost of a group over time as a small line, scaled to its lowest and highest cost. Empty for a single step."""
    if len(amounts) < 2:
        return Markup()
    values = [float(v) for v in amounts]
    low, high = min(0.0, *values), max(values)
    scale = 15 / ((high - low) or 1.0)
    points = " ".join(f"{n * 118 / (len(values) - 1) + 1:.1f},{17 - (v - low) * scale:.1f}" for n, v in enumerate(values))
    return Markup('<svg viewBox="0 0 120 19" class="cell" aria-hidden="true"><polyline points="{}" class="course"/></svg>').format(points)
