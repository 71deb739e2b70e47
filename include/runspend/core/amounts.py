"""Exact sums, and numbers as text: money, percentages, bytes, hours, dates.

Sums are exact (76 digits: the default 28 lose cents from seven-digit totals with 22 decimals). Money is rounded here and only for
display: half up, as invoices do. Each amount and percentage is its exact value, rounded once, so it reads the same in the report, a mail
and on the screen. Rounded parts can differ from their rounded total by a unit of the last place. `round_parts` is for two documents that
a reader adds up line by line: statements and explanations.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date, datetime, timezone
from decimal import ROUND_FLOOR, ROUND_HALF_UP, Context, Decimal, localcontext

EXACT = Context(prec=76)
SMALLEST = Decimal("1E-22")  # the smallest amount that a money column holds
MINUS = "\N{MINUS SIGN}"


def add(values: Iterable[Decimal | None]) -> Decimal:
    """Return the exact sum; None counts as 0."""
    with localcontext(EXACT):
        return sum((v for v in values if v is not None), Decimal(0))


def less(value: Decimal, others: Iterable[Decimal | None]) -> Decimal:
    """Return the value minus the sum of the others, exactly. The operator `-` would round to 28 digits."""
    return EXACT.subtract(value, add(others))


def places_for(total: Decimal) -> int:
    """Return the number of decimals to print on a page whose bill is `total`. Small bills need more."""
    size = abs(total)
    return 2 if size >= 100 else 4 if size >= 1 else 6


def round_parts(parts: Sequence[Decimal], places: int, total: Decimal | None = None) -> list[Decimal]:
    """Round the parts so that the printed parts add up to the printed total.

    Each part is rounded down. Then the parts that lost the most get one unit of the last place, until the sum equals the rounded total
    (half up). Every printed part is less than one unit away from its exact value. `total`: the rounded total, if the total is itself a part
    of a rounded sum. It is less than one unit away from the exact total.
    """
    unit = Decimal(1).scaleb(-places)
    with localcontext(EXACT):
        total = round_money(sum(parts, Decimal(0)), places) if total is None else total
        floors = [p.quantize(unit, rounding=ROUND_FLOOR) for p in parts]
        missing = int((total - sum(floors, Decimal(0))) / unit)
        order = sorted(range(len(parts)), key=lambda i: (floors[i] - parts[i], i))
        for i in order[: max(missing, 0)]:
            floors[i] += unit
    return floors


def share_of(part: Decimal, whole: Decimal) -> Decimal | None:
    """Return the part as a percentage of `whole`, not rounded. None if the whole is not positive."""
    return EXACT.divide(EXACT.multiply(part, Decimal(100)), whole) if whole > 0 else None


def round_money(value: Decimal, places: int = 2) -> Decimal:
    """Round for display: 0.125 is 0.13, and a credit of -0.125 is -0.13."""
    return value.quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP, EXACT)


def money(value: Decimal | None, places: int = 2, *, short: bool = False) -> str:
    """Format as 1,234.50, with a real minus sign; an en dash for None. `short` leaves out .00."""
    if value is None:
        return "–"
    text = f"{round_money(value, places):,f}"
    text = text.replace("-", MINUS) if text.strip("-0.,") else text.replace("-", "")
    return text.removesuffix(".00") if short else text


def small_money(value: Decimal) -> str:
    """Format a cost that may be below a cent: with four decimals below 0.1."""
    return money(value, 4 if 0 < abs(value) < Decimal("0.1") else 2)


def rough_money(value: Decimal) -> str:
    """Format a forecast without cents, because it is not that precise. Amounts below 100 keep them."""
    return money(value, 2 if value < 100 else 0)


def change(value: Decimal | None, places: int = 2) -> str:
    """Format money with its sign, for differences."""
    text = money(value, places)
    return f"+{text}" if value is not None and value > 0 else text


def percent(value: Decimal | float | None, places: int = 1) -> str:
    """Format as 68.6%; the number is already a percentage. Rounds half up, like money."""
    return "–" if value is None else f"{money(Decimal(value), places)}%"


def growth(difference: Decimal, before: Decimal) -> str:
    """Format a change as a percentage of the amount before: +12%. Empty without a cost before."""
    value = share_of(difference, before)
    return "" if value is None else f"{'+' if value > 0 else ''}{percent(value, 0 if abs(value) >= 10 else 1)}"


def plain(value: Decimal) -> str:
    """Format the exact number for machines: no exponent, no trailing zeros, no thousands separator."""
    with localcontext(EXACT):
        text = f"{value:f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text in ("-0", "") else text


def size(count: int | None) -> str:
    """Format as 14.2 TB, in decimal units as stores bill them."""
    if count is None:
        return "unknown"
    value = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB", "PB"):
        if abs(value) < 1000 or unit == "PB":
            break
        value /= 1000
    return f"{value:,.0f} {unit}" if unit == "B" or value >= 100 else f"{value:,.1f} {unit}"


def hours(seconds: float | None) -> str:
    """Format seconds as hours."""
    if seconds is None:
        return "–"
    value = seconds / 3600
    return f"{value:,.0f}" if value >= 100 else f"{value:,.1f}" if value >= 1 else f"{value:,.2f}"


def day(value: date | datetime | None) -> str:
    """Format as 22 Nov."""
    return "–" if value is None else f"{value.day} {value:%b}"


def iso_utc(moment: datetime) -> str:
    """Format a time for programs, as ISO 8601 in UTC: "2026-11-01T05:00:00Z"."""
    return moment.astimezone(timezone.utc).isoformat().replace("+00:00", "Z")


def instant(value: datetime | None) -> str:
    """Format as 22 Nov 23:00 UTC."""
    return "–" if value is None else f"{value.day} {value:%b} {value:%H:%M} UTC"


def month_name(period: str) -> str:
    """Format 2026-11 as November 2026."""
    return f"{date.fromisoformat(period + '-01'):%B %Y}"
