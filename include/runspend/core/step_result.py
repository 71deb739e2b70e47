"""The result of a step: replaced units, sentences about problems, the exit code. Values only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from runspend.core.errors import RunspendError, SourceUnreachable

Progress = Callable[[str], None]


def silent(_: str) -> None:
    """Discard progress messages."""


@dataclass(frozen=True)
class ReadJob:
    """One read of a source: its time, the id under which its rows are published, its work folder, and where progress is reported."""

    now: datetime
    load_id: str
    workdir: Path
    progress: Progress = silent


@dataclass
class Outcome:
    """What a step did: replaced and unchanged units, and sentences about problems. Exit codes as in errors.py."""

    step: str
    _: KW_ONLY
    changed: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    found: list[str] = field(default_factory=list)  # figures to print when the step runs by itself
    reported: dict[str, Any] = field(default_factory=dict)  # billing period -> the figures of its page
    superseded: list[str] = field(default_factory=list)  # notes of builds that were dropped because an input changed meanwhile
    kinds: set[type[RunspendError]] = field(
        default_factory=set
    )  # types of the errors: `exit_code` is the highest, and several types share one code
    exit_code: int = 0
    is_worth_retrying: bool = False  # a source did not answer, but may answer in a minute

    def fail(self, error: RunspendError, text: str | None = None) -> None:
        """Record an error that does not stop the pipeline. `text` replaces its message where that contains a secret."""
        self.problems.append(text or str(error))
        self.kinds.add(type(error))
        self.exit_code = max(self.exit_code, error.exit_code)
        self.is_worth_retrying |= isinstance(error, SourceUnreachable)

    def merge(self, other: Outcome) -> None:
        """Add what another step did; messages that both have appear once."""
        self.changed += other.changed
        self.unchanged += other.unchanged
        self.problems += [problem for problem in other.problems if problem not in self.problems]
        self.notes += other.notes
        self.found += other.found
        self.reported |= other.reported
        self.superseded += other.superseded
        self.kinds |= other.kinds
        self.exit_code = max(self.exit_code, other.exit_code)
        self.is_worth_retrying |= other.is_worth_retrying
