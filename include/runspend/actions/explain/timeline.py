"""Draw the timeline of a run's machines by hour (by day for a long run), with all targets of their cost.

It is one `<svg>`; the page's style sheet colors it. Only the drawing uses floats: the page's tables have the exact numbers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta

from markupsafe import Markup

from runspend.actions.explain.figures import RunExplanation, RunKey, Use
from runspend.actions.explain.find import clean
from runspend.actions.report.charts import coordinate

MOST_MACHINES = 12
MOST_HOURS = 96
ROW, BAR, TOP = 46, 26, 18
OTHERS = ("c2", "c3", "c4")


def machine_strip(e: RunExplanation, width: int, css: str) -> Markup:
    """Return the drawing of the run's machines, from the first day of its charges to the last. Empty if no machine is known.

    The run has a color of its own. `width` is in pixels; `css` is the class of the `<svg>`.
    """
    if not e.uses:
        return Markup()
    begin = min(u.starts_at for u in e.uses).replace(hour=0, minute=0, second=0, microsecond=0)
    end = (max(u.ends_at for u in e.uses) - timedelta(microseconds=1)).replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(
        days=1
    )
    step = timedelta(hours=1) if end - begin <= timedelta(hours=MOST_HOURS) else timedelta(days=1)
    machines: dict[str, list[Use]] = defaultdict(list)
    for use in e.uses:
        machines[use.resource_id].append(use)
    shown = sorted(machines)[:MOST_MACHINES]
    body = [_axis(begin, end, width, TOP + ROW * len(shown))]
    for number, machine in enumerate(shown):
        body.append(_text(0, TOP + ROW * number + 12, _fitting(clean(machine), width)))
        body.append(_machine(machines[machine], e.key, begin, end, step, width, TOP + ROW * number + 16))
    height = TOP + ROW * len(shown) + 4
    if len(machines) > len(shown):
        body.append(_text(0, height + 10, f"and {len(machines) - len(shown)} more machines"))
        height += 16
    label = "The run's machines by hour, with the runs that used them; the tables below have the numbers"
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}" class="{}">{}</svg>').format(
        width, height, label, css, Markup("").join(body)
    )


def _fitting(text: str, width: int) -> str:
    most = int(width / 7)
    return text if len(text) <= most else f"…{text[1 - most :]}"


def _axis(begin: datetime, end: datetime, width: int, bottom: float) -> Markup:
    """Draw a line and a date at the start of each day, or of every few days if they do not all fit. Short spans also show hours."""
    days = round((end - begin) / timedelta(days=1))
    hours = next((n for n in (1, 2, 3, 6, 12) if days * 24 / n * 44 <= width), 24)  # the shortest distance of marks that fit
    if hours < 24:
        return _hour_axis(begin, days, hours, width, bottom)
    every = max(1, -(-days * 60 // width))
    marks = []
    for number in range(0, days, every):
        x = number * width / days
        day = begin + timedelta(days=number)
        marks.append(Markup('<line x1="{0}" x2="{0}" y1="{1}" y2="{2}" class="grid"/>').format(coordinate(x), TOP - 4, coordinate(bottom)))
        marks.append(_text(x + 3, 10, f"{day.day} {day:%b}"))
    return Markup("").join(marks)


def _hour_axis(begin: datetime, days: int, hours: int, width: int, bottom: float) -> Markup:
    """Draw a line and the time (UTC) every few hours. At midnight, draw the date instead of the time."""
    marks = []
    for number in range(0, days * 24, hours):
        x, at = number * width / (days * 24), begin + timedelta(hours=number)
        marks.append(Markup('<line x1="{0}" x2="{0}" y1="{1}" y2="{2}" class="grid"/>').format(coordinate(x), TOP - 4, coordinate(bottom)))
        marks.append(_text(x + 3, 10, f"{at:%H:%M}" if at.hour else f"{at.day} {at:%b}"))
    return Markup("").join(marks)


def _machine(uses: Sequence[Use], me: RunKey, begin: datetime, end: datetime, step: timedelta, width: int, top: float) -> Markup:
    """Draw one machine: a column for each hour (or day), with the shares of its targets stacked. Hours without a charge stay empty."""
    colors = {
        key: OTHERS[i % len(OTHERS)]
        for i, key in enumerate(sorted({u.run for u in uses if u.run is not None and u.run != me}, key=lambda k: k.target_id))
    }
    columns: dict[datetime, dict[tuple[str, RunKey | None], list[Use]]] = defaultdict(lambda: defaultdict(list))
    for use in uses:
        slot = begin + ((use.starts_at - begin) // step) * step
        columns[slot][use.allocated_to, use.run].append(use)
    pieces = []
    for slot, targets in sorted(columns.items()):
        windows = len({u.starts_at for found in targets.values() for u in found})
        length = step if step >= timedelta(days=1) else max(max(u.ends_at - u.starts_at for found in targets.values() for u in found), step)
        x = (slot - begin) / (end - begin) * width
        wide = max(length / (end - begin) * width - 1, 0.6)
        y = top + BAR
        for (kind, run), found in sorted(targets.items(), key=lambda item: (item[0][1] != me, item[0][1] is None, str(item[0]))):
            share = sum(u.ratio for u in found) / windows
            height = share * BAR
            y -= height
            css = "run" if run == me else colors[run] if run is not None else kind if kind in ("idle", "unallocated", "shared") else "scope"
            who = f"{run.run_id[:8]} {clean(found[0].run_name or '')}".strip() if run is not None else kind.replace("_", " ")
            when = f"{slot.day} {slot:%b %H:%M}" if step < timedelta(days=1) else f"{slot.day} {slot:%b}"
            pieces.append(
                Markup('<rect x="{}" y="{}" width="{}" height="{}" class="{}"><title>{}</title></rect>').format(
                    coordinate(x), coordinate(y), coordinate(wide), coordinate(max(height, 0)), css, f"{when} · {who} · {share:.4f}"
                )
            )
    track = Markup('<rect x="0" y="{}" width="{}" height="{}" class="track"/>').format(coordinate(top), width, BAR)
    return track + Markup("").join(pieces)


def _text(x: float, y: float, text: str) -> Markup:
    return Markup('<text x="{}" y="{}" class="t">{}</text>').format(coordinate(x), coordinate(y), text)
