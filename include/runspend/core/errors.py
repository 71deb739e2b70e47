"""Every exception Runspend raises on purpose, and the exit code each one ends a command with.

    RunspendError                 1  a bug, if nothing below fits
    ├── UsageError                2  wrong before anything ran: the command line
    │   ├── SqlRefused            2  … a statement: it does not only read, its engine refuses it, or it takes too long
    │   ├── ConfigError           2  … the configuration: names the file, the line, the key, the value, what is allowed
    │   └── MissingExtra          2  … a package that is not installed: names the extra that brings it
    ├── SourceError               3  one source of the night; the others go on, its last good data stay
    │   ├── SourceUnreachable     3  … did not answer
    │   ├── SourceRefused         3  … answered with something that must not be believed
    │   ├── NotDone               3  … refused to change an object, or it is another by now: nothing happened
    │   └── OutcomeUnknown        3  … was to change an object and did not say whether it did
    ├── CheckFailed               4  a check returned rows: the tables in place stay
    ├── WarehouseDamaged          4  files of the warehouse are not what was published: they are not read
    ├── ArchiveDamaged            4  a copy in the archive is not what was archived
    ├── RecordRefused             4  a file of Runspend's own says what Runspend never writes: nothing of it was done
    ├── CapPassed                 4  more would be changed than the settings allow: nothing was
    ├── LeaseLost                 5  somebody else is doing the same work, or has taken it over
    ├── PartialFailure            5  some of a list was done, the rest is listed
    └── MachineFailed             6  the machine: a disk is full, read-only or broken, or a folder may not be written

Messages follow one form: "cannot X: why. Do Y." Put a new exception here only if somebody catches it by its name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class RunspendError(Exception):
    """The root. `exit_code` is what the command line ends with when this reaches it."""

    exit_code = 1

    def __reduce__(self) -> tuple[Any, ...]:
        """As it is, not made again from its message: so it comes whole out of another process."""
        return _copied, (type(self), self.args, self.__dict__)


def _copied(kind: type[RunspendError], args: tuple[Any, ...], known: dict[str, Any]) -> RunspendError:
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(known)
    return error


class UsageError(RunspendError):
    """The command cannot run as it was typed."""

    exit_code = 2


class SqlRefused(UsageError):
    """A statement was not answered: it does more than read, the engine does not accept it, or it took longer than it was given."""


class ConfigError(UsageError):
    """The configuration cannot be used. The message names file, line, key, value and what is allowed."""


class MissingExtra(UsageError):
    """A command needs packages of an extra that is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f'cannot import {package}: it is not installed. Run: pip install "runspend[{extra}]"')
        self.package = package
        self.extra = extra


class SourceError(RunspendError):
    """A tracking server, bill or store could not be used in this pipeline run. Its last good data stay in place."""

    exit_code = 3

    def __init__(self, source: str, message: str, *, period: str | None = None) -> None:
        super().__init__(message)
        self.source = source
        self.period = period


class SourceUnreachable(SourceError):
    """The source did not answer, or not in time."""


class SourceRefused(SourceError):
    """The source answered with data that must not replace what is there."""


class NotDone(SourceError):
    """A store refused to act on an object, or the object is not the one that was meant. Nothing happened."""


class OutcomeUnknown(SourceError):
    """A store gave no reply, or a broken one, to a request that may have been carried out. Look before acting again."""


class CheckFailed(RunspendError):
    """A check of `allocation/checks/*.sql` returned rows. Nothing was published."""

    exit_code = 4

    def __init__(self, check: str, rows: Sequence[Mapping[str, Any]], *, period: str | None = None) -> None:
        shown = "; ".join(", ".join(f"{k}={v}" for k, v in row.items()) for row in list(rows)[:3])
        more = f" and {len(rows) - 3} more rows" if len(rows) > 3 else ""
        super().__init__(f"check {check} failed for {period or 'all periods'}: {shown}{more}. The tables in place were kept.")
        self.check = check
        self.rows = list(rows)
        self.period = period


class WarehouseDamaged(RunspendError):
    """Units of the warehouse are not what was published. Nothing was read from them. `units`: each by its name, and what is wrong with it."""

    exit_code = 4

    def __init__(self, units: Mapping[str, str], then: str = "") -> None:
        shown = "; ".join(f"{unit}: {why}" for unit, why in list(units.items())[:3])
        more = f"; and {len(units) - 3} more" if len(units) > 3 else ""
        then = then or "No figure was made from it. Run: runspend nightly (reads or builds it again where its sources are there). See all: runspend verify --full"
        super().__init__(f"cannot read damaged data: {shown}{more}. {then}")
        self.units = dict(units)


class MachineFailed(RunspendError):
    """The machine failed, not Runspend: a disk is full, read-only or broken, or a folder may not be written. What was published stays."""

    exit_code = 6


class ArchiveDamaged(RunspendError):
    """A copy in an archive is missing, or is not what was archived. The message says all that is known of it."""

    exit_code = 4


class RecordRefused(RunspendError):
    """A journal, record or state file of Runspend's own says what Runspend never writes. Nothing of it was done."""

    exit_code = 4

    def __init__(self, file: object, message: str) -> None:
        super().__init__(message)
        self.file = str(file)


class CapPassed(RunspendError):
    """More objects, bytes or percent of a store would be changed than the settings allow. Nothing was changed."""

    exit_code = 4

    def __init__(self, message: str, *, wanted: int, allowed: int) -> None:
        super().__init__(message)
        self.wanted = wanted
        self.allowed = allowed


class LeaseLost(RunspendError):
    """Somebody else holds the lease of this work: nothing more is changed by whoever does not."""

    exit_code = 5


class PartialFailure(RunspendError):
    """Some of the work was done; `failures` lists the rest, one sentence each."""

    exit_code = 5

    def __init__(self, message: str, failures: Sequence[str]) -> None:
        super().__init__(message)
        self.failures = list(failures)
