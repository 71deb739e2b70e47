"""The report's charts: small SVG drawings. The page's style sheet colors them for light mode, dark mode and print.

Every chart function returns one `<svg>` from sums that are already computed. Floats are only for drawing: a table next to each chart has the
exact figures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from decimal import Decimal
from typing import NamedTuple

from markupsafe import Markup

from runspend.actions.report.figures import IdleDay
from runspend.config.budgets import percent_used
from runspend.core.amounts import add, day, money, percent
from runspend.core.text import counted

PART_CLASS = {
    "allocated to runs": "run",
    "idle": "idle",
    "unallocated": "unallocated",
    "shared": "shared",
    "orphaned": "orphan",
    "out of scope": "scope",
}


def coordinate(value: float) -> str:
    """Format a coordinate with at most one decimal."""
    return f"{value:.1f}".rstrip("0").rstrip(".")


def rect(x: float, y: float, width: float, height: float, css: str, title: str = "", extra: str = "") -> Markup:
    """Draw a rectangle. `title` is the text that is shown when a pointer is over it."""
    inner = Markup("<title>{}</title>").format(title) if title else Markup()
    return Markup('<rect x="{}" y="{}" width="{}" height="{}" class="{}"{}>{}</rect>').format(
        coordinate(x), coordinate(y), coordinate(max(width, 0)), coordinate(max(height, 0)), css, Markup(extra), inner
    )


def text_at(x: float, y: float, text: str, css: str = "t", anchor: str = "start") -> Markup:
    """Draw text at a point."""
    return Markup('<text x="{}" y="{}" class="{}" text-anchor="{}">{}</text>').format(coordinate(x), coordinate(y), css, anchor, text)


def svg(width: float, height: float, label: str, body: Sequence[Markup], css: str, role: str = "img") -> Markup:
    """Return a complete drawing. `label` is its name for screen readers. `role` is "group" if parts of it can be focused."""
    return Markup('<svg viewBox="0 0 {} {}" role="{}" aria-label="{}" class="{}">{}</svg>').format(
        coordinate(width), coordinate(height), role, label, css, Markup("").join(body)
    )


def tipped(shapes: Sequence[Markup], shown: str, words: str, at: tuple[float, float], width: float) -> Markup:
    """Group shapes with the text `shown`, which appears while a pointer or the keyboard focus is on them.

    `words` is the text for screen readers.
    """
    x, y = at
    anchor, x = ("start", max(x, 2)) if x < width * 0.35 else ("end", min(x, width - 2)) if x > width * 0.65 else ("middle", x)
    return Markup('<g tabindex="0" role="img" aria-label="{}" class="tip">{}{}</g>').format(
        words, Markup("").join(shapes), text_at(x, y, shown, "t tell", anchor)
    )


def stacked_bar(parts: Sequence[tuple[str, Decimal, str, str]], width: int, css: str, label: str) -> Markup:
    """Draw one horizontal bar of (name, amount, color class, share as the table prints it).

    A piece has its name above it if it is wide enough. Negative amounts (credits) cannot be drawn in a stack, but the table has them.
    """
    drawn = [(name, float(amount), color, share) for name, amount, color, share in parts if amount > 0]
    whole = sum(amount for _, amount, _, _ in drawn)
    body: list[Markup] = []
    x = 0.0
    free_from = 0.0
    for name, amount, color, share in drawn:
        piece = amount / whole * width
        words = f"{name} {share}".strip()
        shapes = [rect(x, 22, max(piece - 1, 0.6), 34, color)]
        needed = 7.2 * len(name) + 8
        if piece >= needed and x >= free_from:
            body.append(text_at(x, 15, name))
            free_from = x + needed
        if share and piece >= 54:
            shapes.append(text_at(x + 7, 44, share, f"t in in-{color}"))
        body.append(tipped(shapes, words, words, (x, 70), width))
        x += piece
    if not drawn:
        body.append(rect(0, 22, width, 34, "track"))
    return svg(width, 74, label, body, css, "group")


def ticks(top: float) -> list[float]:
    """Return round marks (1, 2 or 5 times a power of ten) from 0 up to `top`, in at most five steps."""
    power = 10.0 ** math.floor(math.log10(top / 5))
    step = next(m * power for m in (1, 2, 5, 10) if top / (m * power) <= 5)
    return [i * step for i in range(int(top / step + 1e-9) + 1)]


def axis_mark(value: float) -> str:
    """Format an axis mark: 1,500 or 0.05."""
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.3g}"


class MonthDays(NamedTuple):
    """The days of a chart: the first day, the number of days, and the number of billed days."""

    first: date
    length: int
    billed_days: int


def day_columns(
    days: Sequence[tuple[date, Mapping[str, Decimal]]],
    previous: Sequence[tuple[date, Decimal]],
    estimated: Mapping[date, Decimal],
    month: MonthDays,
    width: int,
    css: str,
    label: str,
) -> Markup:
    """Draw one stacked column per day, with credits below zero.

    The previous month is a thin line. Days that no bill covers yet are shaded. Estimates are dashed and on top of the columns.
    """
    first, length, billed_days = month
    by_day = dict(days)
    before = {d.day: float(v) for d, v in previous}
    order = [p for p in PART_CLASS if p != "out of scope"]
    ups = [sum(max(float(v), 0) for p, v in parts.items() if p in order) for parts in by_day.values()]
    downs = [sum(min(float(v), 0) for p, v in parts.items() if p in order) for parts in by_day.values()]
    guesses = {when: float(cost) for when, cost in estimated.items() if cost > 0}
    stacked = dict(zip(by_day, ups, strict=True))
    top = max([*ups, *(stacked.get(when, 0.0) + cost for when, cost in guesses.items()), *before.values(), 0.0]) or 1.0
    bottom = min([*downs, *before.values(), 0.0])
    height, left, head, foot = 250.0, 52.0, 20.0, 24.0
    plot = height - head - foot
    scale = plot / (top - bottom)
    zero = head + top * scale
    slot = (width - left) / length
    body: list[Markup] = []
    for tick in ticks(top):
        y = zero - tick * scale
        body.append(
            Markup('<line x1="{}" x2="{}" y1="{}" y2="{}" class="grid"/>').format(coordinate(left), width, coordinate(y), coordinate(y))
        )
        body.append(text_at(left - 8, y + 4, axis_mark(tick), "t", "end"))
    if billed_days < length:
        x = left + billed_days * slot
        body.append(rect(x, head, width - x, plot, "unbilled", "not billed yet"))
        if width - x > 96:
            body.append(text_at(x + 8, head + 16, "not billed yet"))
    for offset in range(length):
        when = first + timedelta(days=offset)
        x = left + offset * slot
        up = down = zero
        shapes: list[Markup] = []
        descriptions: list[str] = []
        for part in order:
            amount = by_day.get(when, {}).get(part, Decimal(0))
            value = float(amount)
            size = abs(value) * scale
            if size < 0.05:
                continue
            descriptions.append(f"{part} {money(amount)}")
            if value > 0:
                up -= size
                shapes.append(rect(x + slot * 0.12, up, slot * 0.76, size, PART_CLASS[part]))
            else:
                shapes.append(rect(x + slot * 0.12, down, slot * 0.76, size, PART_CLASS[part]))
                down += size
        if when in guesses:
            size = guesses[when] * scale
            descriptions.append(f"estimated, not billed {money(estimated[when])}")
            shapes.append(rect(x + slot * 0.12, up - size, slot * 0.76, size, "guess"))
        if shapes:
            whole = add(cost for part, cost in by_day.get(when, {}).items() if part in order)
            short = f"{day(when)}: {money(whole)}"
            words = f"{short} ({', '.join(descriptions)})"
            body.append(tipped(shapes, words if width > 600 else short, words, (x + slot / 2, 12), width))
        if offset == 0 or (offset + 1) % 5 == 0:
            body.append(text_at(x + slot / 2, height - 6, str(offset + 1), "t", "middle"))
    points = [(left + (d - 0.5) * slot, zero - v * scale) for d, v in sorted(before.items()) if d <= length]
    if len(points) > 1:
        path = " ".join(f"{coordinate(x)},{coordinate(y)}" for x, y in points)
        body.append(Markup('<polyline points="{}" class="before"/>').format(path))
    return svg(width, height, label, body, css, "group")


def bar(value: Decimal, largest: Decimal, css: str, second: Decimal | None = None) -> Markup:
    """Draw a bar for a table cell. `second` is a thin bar below it, on the same scale."""
    scale = float(largest) or 1.0
    body = [rect(0, 3 if second is not None else 5, max(float(value), 0) / scale * 120, 9, css)]
    if second is not None:
        body.append(rect(0, 14, max(float(second), 0) / scale * 120, 3, "thin"))
    return Markup('<svg viewBox="0 0 120 19" class="cell" aria-hidden="true">{}</svg>').format(Markup("").join(body))


def bullet(spent: Decimal, amount: Decimal, low: Decimal | None = None, high: Decimal | None = None) -> Markup:
    """Draw the spend against a budget: a bar, a mark at the budget, and a thin line from the low to the high end of the forecast."""
    limit = float(amount) or 1.0
    ratio = float(spent) / limit
    scale = 200 / max(1.25, ratio * 1.05, min(3.0, float(high or 0) / limit * 1.05))
    body = [
        rect(0, 6, 200, 12, "track"),
        rect(0, 6, max(ratio, 0) * scale, 12, "over" if ratio >= 1 else "near" if ratio >= 0.8 else "fine"),
        rect(scale - 1.25, 1, 2.5, 22, "mark", "the budget"),
    ]
    if low is not None and high is not None:
        left, right = float(low) / limit * scale, min(199.0, float(high) / limit * scale)
        body += [
            rect(left, 11.25, max(right - left, 0), 1.5, "thin", "the forecast"),
            rect(left, 8, 1.5, 8, "thin"),
            rect(right, 8, 1.5, 8, "thin"),
        ]
    return svg(200, 24, f"{percent(percent_used(spent, amount)) if amount else '–'} of the budget", body, "bullet")


def heat_map(machines: Sequence[tuple[str, Sequence[IdleDay]]], length: int, width: int, css: str, label: str) -> Markup:
    """Draw a grid of machines and days. A stronger color means more idle cost on that day. Outlined days were billed and fully used."""
    left = 168.0 if width > 600 else 112.0
    fits = int((left - 10) / 6.9)
    slot = (width - left) / length
    line, head = 20.0, 18.0
    largest = float(most_idle(machines)) or 1.0
    body: list[Markup] = []
    for row, (name, days) in enumerate(machines):
        y = head + row * line
        shown = name if len(name) <= fits else "…" + name[-fits + 1 :]
        shapes = [text_at(left - 8, y + 14, shown, "t", "end")]
        descriptions = []
        for one in days:
            x = left + (one.day.day - 1) * slot
            words = f"{day(one.day)}: {money(one.idle_cost)} idle, {percent(one.used_share * 100, 0)} used"
            descriptions.append(words)
            strength = f' fill-opacity="{_strength(float(one.idle_cost) / largest):.2f}"' if one.idle_cost > 0 else ""
            shapes.append(rect(x + 0.75, y + 1, slot - 1.5, line - 3, "idle-day" if strength else "empty", f"{name}, {words}", strength))
        whole = f"{name if width > 600 else shown}: {money(add(one.idle_cost for one in days))} idle in {counted(len(days), 'day')}"
        body.append(tipped(shapes, whole, f"{whole}; {'; '.join(descriptions)}", (width - 2, 12), width))
    bottom = head + len(machines) * line
    for number in (1, *range(5, length + 1, 5)):
        body.append(text_at(left + (number - 0.5) * slot, bottom + 14, str(number), "t", "middle"))
    return svg(width, bottom + 20, label, body, css, "group")


def _strength(share: float) -> float:
    """Return the opacity for a share of the largest amount. It grows with the square root, so that small amounts can be distinguished."""
    return 0.12 + 0.88 * math.sqrt(share)


def most_idle(machines: Sequence[tuple[str, Sequence[IdleDay]]]) -> Decimal:
    """Return the largest idle cost of a machine on one day."""
    return max((one.idle_cost for _, days in machines for one in days), default=Decimal(0))


def month_columns(
    months: Sequence[tuple[date, Sequence[tuple[str, int]]]], classes: Sequence[str], width: int, css: str, label: str
) -> Markup:
    """Draw the bytes at the end of each month, stacked by storage class in the order of `classes`, darkest first."""
    tops = [sum(b for _, b in held) for _, held in months]
    scale = 120 / (max(tops) or 1)
    slot = min(width / len(months), 90.0)
    body: list[Markup] = []
    for column, (month, held) in enumerate(months):
        y = 130.0
        for storage_class, count in sorted(held, key=lambda item: classes.index(item[0])):
            y -= count * scale
            body.append(
                rect(
                    column * slot + 3,
                    y,
                    slot - 6,
                    count * scale,
                    f"c{min(classes.index(storage_class), 4)}",
                    f"{month:%b %Y} {storage_class}",
                )
            )
        body.append(text_at(column * slot + slot / 2, 146, f"{month:%b}", "t", "middle"))
    return svg(width, 150, label, body, css)


def swatch(css: str, strength: float = 1) -> Markup:
    """Draw the color sample of a table row or a legend."""
    faded = Markup(' fill-opacity="{}"').format(strength) if strength < 1 else Markup()
    return Markup('<svg viewBox="0 0 10 10" class="sw" aria-hidden="true"><rect width="10" height="10" rx="2" class="{}"{}/></svg>').format(
        css, faded
    )
