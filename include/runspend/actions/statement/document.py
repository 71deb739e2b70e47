"""A statement as a value: the content of page, CSV, JSON and mail. Their form does not belong here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from runspend.actions.statement.lines import PARTS, Line, Sums, Team, sums_of
from runspend.actions.statement.plan import Month


@dataclass(frozen=True)
class Before:
    """The version that a statement replaces, the difference by currency and part (new minus old), and why they differ."""

    number: str
    issued_at: datetime
    differences: Mapping[tuple[str, str], Sums]
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Document:
    """A statement. A preliminary statement has no number. It is compared with the last version issued, but does not replace it."""

    month: Month
    team: Team
    lines: tuple[Line, ...]
    issued_at: datetime
    number: str | None = None
    version: int | None = None
    before: Before | None = None

    @cached_property
    def currencies(self) -> list[str]:
        """The currencies of its lines and of those of the version before, or of the bill if there are none."""
        before = [code for code, _ in self.before.differences] if self.before is not None else []
        return sorted({*before, *(line.currency for line in self.lines)}) or sorted(self.month.whole)

    @cached_property
    def sums(self) -> dict[tuple[str, str], Sums]:
        """Its sums by currency and part."""
        return {
            (code, part): sums_of(found)
            for code in self.currencies
            for part in PARTS
            if (found := [line for line in self.lines if (line.currency, line.part) == (code, part)])
        }

    @cached_property
    def totals(self) -> dict[str, Sums]:
        """Its totals by currency."""
        return {code: sums_of(line for line in self.lines if line.currency == code) for code in self.currencies}
