"""Rounded numbers for people add up as printed, and machines get exact numbers."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Context, Decimal

from hypothesis import given
from hypothesis import strategies as st

from runspend.core.amounts import add, change, less, money, percent, places_for, plain, round_parts, share_of, size

MONEY = st.decimals(min_value=-(10**12), max_value=10**12, places=22, allow_nan=False, allow_infinity=False)
EXACT = Context(prec=76)


@given(st.lists(MONEY, min_size=1, max_size=12), st.integers(0, 6))
def test_printed_parts_add_up_to_the_printed_total(parts: list[Decimal], places: int) -> None:
    """The rounded parts sum to the rounded total, and none is a whole unit of the last place off."""
    rounded = round_parts(parts, places)
    unit = Decimal(1).scaleb(-places)
    assert add(rounded) == add(parts).quantize(unit, ROUND_HALF_UP, context=EXACT)
    for part, shown in zip(parts, rounded, strict=True):
        assert abs(EXACT.subtract(part, shown)) <= unit
        assert shown == part or abs(EXACT.subtract(part, shown)) < unit


def test_a_difference_keeps_every_digit() -> None:
    large = Decimal("12345678901.0123456789012345678901")
    assert less(large, [large.copy_negate(), Decimal("1e-22"), None]) == Decimal("24691357802.0246913578024691357801")


@given(MONEY)
def test_plain_numbers_keep_every_digit(value: Decimal) -> None:
    """Text for machines reads back as the same number, without exponents or separators."""
    assert Decimal(plain(value)) == value
    assert not set(plain(value)) - set("-0123456789.")


def test_money_rounds_half_up_with_a_real_minus() -> None:
    """0.125 becomes 0.13, 0.135 becomes 0.14, and credits round away from zero like charges. No amount prints as minus zero."""
    shown = {
        "0.125": "0.13",
        "0.135": "0.14",
        "-0.125": "−0.13",
        "5012.385": "5,012.39",
        "-1234.5": "−1,234.50",
        "-0.001": "0.00",
        "1e-30": "0.00",
    }
    assert {text: money(Decimal(text)) for text in shown} == shown
    assert money(Decimal(f"{10**28}.125")) == f"{10**28:,}.13"
    assert (money(None), change(Decimal("412.9")), change(Decimal("-1"))) == ("–", "+412.90", "−1.00")


def test_each_share_is_rounded_on_its_own_and_half_up() -> None:
    """Three thirds print as 33.3 each, and half a tenth rounds up. A bill of credits has no shares."""
    assert [percent(share_of(Decimal(1), Decimal(3)))] * 3 == ["33.3%", "33.3%", "33.3%"]
    assert [percent(share_of(Decimal(part), Decimal(1000))) for part in ("684.5", "685.5", "-0.1")] == ["68.5%", "68.6%", "0.0%"]
    assert share_of(Decimal(-5), Decimal(-5)) is None


def test_sizes_and_small_bills_read_well() -> None:
    """Bytes in decimal units; unknown sizes are shown as such; small bills get more decimals."""
    assert [size(n) for n in (0, 999, 14_200_000_000_000, 4_100, None)] == ["0 B", "999 B", "14.2 TB", "4.1 kB", "unknown"]
    assert [places_for(Decimal(v)) for v in ("18432.17", "20.52", "0.0004", "-150")] == [2, 4, 6, 2]
