"""Represent the content of a statement. The page, CSV, JSON and mail of a statement are all made from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from runspend.actions.statement.lines import PARTS, Line, Sums, Team, sums_of
from runspend.actions.statement.plan import Month


@dataclass(frozen=True)
class Before:
    """The version that a statement replaces, the differences by currency and part (new minus old), and their reasons."""

    number: str
    issued_at: datetime
    differences: Mapping[tuple[str, str], Sums]
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Document:
    """A statement.

    A preliminary statement does not have a number. It is compared with the last issued version, but does not replace it.
    """

    month: Month
    team: Team
    lines: tuple[Line, ...]
    issued_at: datetime
    number: str | None = None
    version: int | None = None
    before: Before | None = None

    @cached_property
    def currencies(self) -> list[str]:
        """The currencies of the lines and of the previous version. If there are none, the currencies of the bill."""
        before = [code for code, _ in self.before.differences] if self.before is not None else []
        return sorted({*before, *(line.currency for line in self.lines)}) or sorted(self.month.whole)

    @cached_property
    def sums(self) -> dict[tuple[str, str], Sums]:
        """The sums of the lines by currency and part."""
        return {
            (code, part): sums_of(found)
            for code in self.currencies
            for part in PARTS
            if (found := [line for line in self.lines if (line.currency, line.part) == (code, part)])
        }

    @cached_property
    def totals(self) -> dict[str, Sums]:
        """The totals of the lines by currency."""
        return {code: sums_of(line for line in self.lines if line.currency == code) for code in self.currencies}
