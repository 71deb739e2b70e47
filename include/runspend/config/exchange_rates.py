"""Finds the exchange rate of a currency on a day, and days without a rate.

A rate of a pair is valid from its date until the pair's next rate. It converts in the other direction only with `inverse`, and only on
days before the first direct rate of that pair. This module does not convert amounts; `Reader.in_currency` of the warehouse does, exactly.
Amounts in different currencies are never added without a rate.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from itertools import pairwise

from runspend.config.settings import ExchangeRate
from runspend.core.errors import SourceError
from runspend.core.text import counted

FOREVER = date(9999, 12, 31)


@dataclass(frozen=True)
class Stretch:
    """The rate of `currency` on the days from `first` to before `end`.

    An amount in the target currency is the amount in `currency` x multiplier / divisor. Both are whole numbers below 10^18.
    """

    currency: str
    first: date
    end: date
    multiplier: int
    divisor: int


def stretches(rates: Sequence[ExchangeRate], to: str) -> list[Stretch]:
    """Return the rates to the currency `to`, as consecutive periods that do not overlap, for every other currency that has a rate."""
    found = []
    for currency in sorted({r.from_ for r in rates} | {r.to for r in rates} - {to}):
        direct = [(r.valid_from, r.rate, False) for r in rates if (r.from_, r.to) == (currency, to)]
        first_direct = min((day for day, _, _ in direct), default=FOREVER)
        back = [
            (r.valid_from, r.rate, True) for r in rates if r.inverse and (r.to, r.from_) == (currency, to) and r.valid_from < first_direct
        ]
        dated = sorted([*back, *direct], key=lambda item: item[0])
        for (first, rate, is_inverse), (end, _, _) in pairwise([*dated, (FOREVER, Decimal(1), False)]):
            multiplier, divisor = rate.as_integer_ratio()
            found.append(Stretch(currency, first, end, *((divisor, multiplier) if is_inverse else (multiplier, divisor))))
    return found


def missing_rates(rates: Sequence[Stretch], to: str, days: Iterable[tuple[str, date]]) -> SourceError | None:
    """Return an error if a rate to `to` is missing on one of `days`, otherwise None.

    `days`: pairs of currency and day. The error names each currency without a rate, its first such day, and the fix.
    """
    gaps = _gaps(rates, to, days)
    if not gaps:
        return None
    first_gap = min((min(found), currency) for currency, found in gaps.items())
    return SourceError(
        "rates",
        f"cannot convert to {to}: {_in_words(gaps, to)}. "
        f"Write it under rates.exchange: {{from: {first_gap[1]}, to: {to}, rate: …, date: {first_gap[0]}}}"
        + (f"; or, if your money is {first_gap[1]}, `currency: {first_gap[1]}`." if len(gaps) == 1 and not rates else "."),
    )


def describe_missing_rates(rates: Sequence[Stretch], to: str, days: Iterable[tuple[str, date]]) -> str | None:
    """Return a description of missing rates: "no rate from USD to EUR for 2026-11-02 and 3 other days". None if no rate is missing."""
    return _in_words(_gaps(rates, to, days), to) or None


def _gaps(rates: Sequence[Stretch], to: str, days: Iterable[tuple[str, date]]) -> dict[str, list[date]]:
    """Return the days without a rate, by currency."""
    gaps: dict[str, list[date]] = {}
    for currency, day in days:
        if currency != to and not any(r.currency == currency and r.first <= day < r.end for r in rates):
            gaps.setdefault(currency, []).append(day)
    return gaps


def _in_words(gaps: Mapping[str, Sequence[date]], to: str) -> str:
    sentences = []
    for currency, found in sorted(gaps.items()):
        first, others = min(found), len(set(found)) - 1
        more = f" and {counted(others, 'other day')}" if others else ""
        sentences.append(f"no rate from {currency} to {to} for {first}{more}")
    return "; ".join(sentences)
