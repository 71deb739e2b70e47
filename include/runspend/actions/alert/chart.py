"""Draw the chart of a budget mail: spend so far, the budget, and the forecast to the period's end. Also describe it as text.

Belongs here: the chart's inputs, its drawing, and the table that replaces it in plain text. `sections.py` chooses the days and sums. Pillow
draws the chart with its built-in font, so neither files nor the network are needed.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import TYPE_CHECKING

from runspend.config.budgets import percent_used
from runspend.core.amounts import MINUS, day, money

if TYPE_CHECKING:
    from PIL import ImageDraw

# Size in a mail program. The picture has SCALE times as many pixels for sharp screens. Labels can still be read at a phone's width of 330.
WIDTH, HEIGHT = 520, 250
SCALE = 2
LEFT, RIGHT, TOP, BOTTOM = 14, 14, 34, 30
ROWS = 5
# The background is not transparent: in dark mode a mail program may put any color behind it, and labels could become unreadable.
GROUND, INK, FAINT, SPENT, UNDER, BAND, LIMIT = "#f3f5f8", "#1b1f24", "#57606a", "#0550ae", "#cfe0f5", "#e3c8f0", "#bc1c28"
FORECAST = "#7a3a99"
Points = list[tuple[float, float]]


@dataclass(frozen=True)
class ForecastDay:
    """Forecast cumulative spend at the end of one day: the expected value and the bounds of the interval."""

    low: Decimal
    middle: Decimal
    high: Decimal


@dataclass(frozen=True)
class SpendChart:
    """Chart of the days [first, end) of a budget's period. All amounts are in `currency`.

    `spent` is the cumulative spend at the end of each day, from `first` to the last day with any spend. Its last entry is equal to the sum in
    the mail's text. `forecast` has one entry per day from the next day on, and may be empty. If the last day of `spent` is not wholly billed
    (`is_last_day_open`), `forecast` begins with that same day.
    """

    first: date
    end: date
    spent: tuple[Decimal, ...]
    budget: Decimal
    currency: str
    forecast: tuple[ForecastDay, ...] = ()
    is_last_day_open: bool = False

    def day(self, number: int) -> date:
        """Return the date of day `number` of the period, counted from 0."""
        return self.first + timedelta(days=number)

    @property
    def forecast_from(self) -> int:
        """The day number of the first entry of `forecast`."""
        return len(self.spent) - self.is_last_day_open

    @property
    def is_worth_drawing(self) -> bool:
        """Whether there are at least two days, the minimum for a line."""
        return len(self.spent) + len(self.forecast) > 1 and bool(self.spent)

    def rows(self) -> tuple[tuple[str, str, str], ...]:
        """Return rows of (day, cumulative spend, share of the budget) for a few evenly spaced days, and one row for the last forecast day."""
        last = len(self.spent) - 1
        chosen = sorted({round(last * n / (ROWS - 1)) for n in range(ROWS)}) if self.spent else []
        rows = [(day(self.day(n)), whole(self.spent[n]), _share(self.spent[n], self.budget)) for n in chosen]
        if self.forecast:
            on, foreseen = self.day(self.forecast_from + len(self.forecast) - 1), self.forecast[-1]
            between = f"{whole(foreseen.low)}–{whole(foreseen.high)}"
            rows.append((f"{day(on)}, forecast ({between})", whole(foreseen.middle), _share(foreseen.middle, self.budget)))
        return tuple(rows)

    def words(self) -> str:
        """Return a short description of the chart for readers who cannot see it."""
        points = "; ".join(f"{on}: {spent} ({share})" for on, spent, share in self.rows())
        return f"Spend since the start of the period, against a budget of {whole(self.budget)} {self.currency}. {points}."


def draw(chart: SpendChart) -> bytes | None:
    """Return the chart as PNG, with SCALE times WIDTH x HEIGHT pixels. The same chart gives the same bytes.

    Returns None if there are not enough days for a line, or if Pillow is not installed.
    """
    try:
        from PIL import Image, ImageDraw
    except ImportError:  # the mail is sent with a table that has the same content
        return None
    if not chart.is_worth_drawing:
        return None
    # Lines are drawn at double size and then reduced, which smooths them. Only fast methods of Pillow are used: 500 mails need 500 charts.
    fine = 2 * SCALE
    image = Image.new("RGB", (WIDTH * fine, HEIGHT * fine), GROUND)
    _draw_lines(ImageDraw.Draw(image), chart, fine)
    image = image.reduce(2)
    _write_labels(ImageDraw.Draw(image), chart)
    written = io.BytesIO()
    image.quantize(48, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(written, "PNG")
    return written.getvalue()


def whole(amount: Decimal) -> str:
    """Return an amount without decimals, because a chart shows only orders of magnitude."""
    return money(amount, 0)


def _draw_lines(drawing: ImageDraw.ImageDraw, chart: SpendChart, scale: int) -> None:
    spent, low, middle, high = _lines(chart, scale)
    floor = _y(chart, Decimal(0), scale)
    drawing.polygon([(spent[0][0], floor), *spent, (spent[-1][0], floor)], fill=UNDER)
    if chart.forecast:
        drawing.polygon([*low, *reversed(high)], fill=BAND)
        _draw_forecast(drawing, middle, 2 * scale, 5 * scale)
    drawing.line([(LEFT * scale, floor), ((WIDTH - RIGHT) * scale, floor)], fill=FAINT, width=scale)
    limit = _y(chart, chart.budget, scale)
    drawing.line([(LEFT * scale, limit), ((WIDTH - RIGHT) * scale, limit)], fill=LIMIT, width=2 * scale)
    drawing.line(spent, fill=SPENT, width=3 * scale, joint="curve")
    x, y = spent[-1]
    drawing.ellipse([x - 5 * scale, y - 5 * scale, x + 5 * scale, y + 5 * scale], fill=SPENT)


def _write_labels(drawing: ImageDraw.ImageDraw, chart: SpendChart) -> None:
    from PIL import ImageFont

    font = ImageFont.load_default(16 * SCALE)

    def write(x: float, y: float, text: str, colour: str, anchor: str) -> None:
        text = text.replace(MINUS, "-")  # the font has no minus sign
        drawing.text((x, y), text, fill=colour, font=font, anchor=anchor, stroke_width=2 * SCALE, stroke_fill=GROUND)

    spent, _, _, high = _lines(chart, SCALE)
    bottom = (HEIGHT - BOTTOM + 6) * SCALE
    write(LEFT * SCALE, bottom, day(chart.first), FAINT, "la")
    write((WIDTH - RIGHT) * SCALE, bottom, day(chart.end - timedelta(days=1)), FAINT, "ra")
    write(LEFT * SCALE, _y(chart, chart.budget, SCALE) - 6 * SCALE, f"budget {whole(chart.budget)} {chart.currency}", LIMIT, "ls")
    limit = _y(chart, chart.budget, SCALE)
    (x, y), text = spent[-1], f"{whole(chart.spent[-1])} by {day(chart.day(len(chart.spent) - 1))}"
    if x + 10 * SCALE + font.getlength(text) < (WIDTH - RIGHT) * SCALE:  # next to the dot and below the forecast, where the space is free
        at, anchor, y = x + 10 * SCALE, "la", y + 6 * SCALE
    else:
        at, anchor, y = x - 4 * SCALE, "ra", y + 40 * SCALE
    if limit - 22 * SCALE < y < limit + 4 * SCALE:
        y = limit + 6 * SCALE
    write(at, min(y, (HEIGHT - BOTTOM - 20) * SCALE), text, SPENT, anchor)
    if chart.forecast:
        x, y = high[-1][0], max(high[-1][1] - 8 * SCALE, 20 * SCALE)
        on_the_line = limit - 4 * SCALE < y < limit + 20 * SCALE
        write(x, limit - 6 * SCALE if on_the_line else y, f"forecast {whole(chart.forecast[-1].middle)}", FORECAST, "rs")


def _lines(chart: SpendChart, scale: int) -> tuple[Points, Points, Points, Points]:
    """Return the points of four lines: spend, and the low, middle and high forecast, which begin at the last point of spend."""
    spent = [(float(LEFT * scale), _y(chart, Decimal(0), scale)), *(_point(chart, n, cost, scale) for n, cost in enumerate(chart.spent))]
    ahead = [
        [spent[-1], *(_point(chart, n, cost, scale) for n, cost in enumerate(costs, chart.forecast_from))]
        for costs in ([o.low for o in chart.forecast], [o.middle for o in chart.forecast], [o.high for o in chart.forecast])
    ]
    return spent, ahead[0], ahead[1], ahead[2]


def _point(chart: SpendChart, number: int, cost: Decimal, scale: int) -> tuple[float, float]:
    days = max(1, (chart.end - chart.first).days)
    return (LEFT + (WIDTH - LEFT - RIGHT) * (number + 1) / days) * scale, _y(chart, cost, scale)


def _y(chart: SpendChart, cost: Decimal, scale: int) -> float:
    """Return the vertical position of an amount. The largest amount of the chart is TOP points below the upper edge."""
    tallest = max(chart.budget, *chart.spent, *(o.high for o in chart.forecast))
    part = float(max(cost, Decimal(0)) / tallest) if tallest > 0 else 0.0  # a position on paper, not money
    return (HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * min(part, 1.0)) * scale


def _draw_forecast(drawing: ImageDraw.ImageDraw, points: Points, width: int, dash: float) -> None:
    """Draw a dashed line through the points. Dashes and gaps are `dash` pixels long."""
    walked = 0.0
    for (x0, y0), (x1, y1) in pairwise(points):
        length = max(((x1 - x0) ** 2 + (y1 - y0) ** 2) ** 0.5, 1e-9)
        at = 0.0
        while at < length:
            step = min(dash - walked % dash, length - at)
            if int(walked / dash) % 2 == 0:
                ends = [(x0 + (x1 - x0) * part / length, y0 + (y1 - y0) * part / length) for part in (at, at + step)]
                drawing.line(ends, fill=FORECAST, width=width)
            at, walked = at + step, walked + max(step, 1e-6)


def _share(part: Decimal, budget: Decimal) -> str:
    return f"{percent_used(part, budget, '1'):f}%" if budget else ""
