"""Every exception that Runspend raises on purpose, and the exit code of a command that ends with it.

    RunspendError                 1  a bug, if nothing below fits
    ├── UsageError                2  wrong before anything ran: the command line
    │   ├── SqlRefused            2  … a statement that does more than read, is not accepted by its engine, or takes too long
    │   ├── ConfigError           2  … the configuration: names the file, the line, the key, the value, what is allowed
    │   └── MissingExtra          2  … a package that is not installed: names its extra
    ├── SourceError               3  one source failed; the others continue, and its last good data stay
    │   ├── SourceUnreachable     3  … did not answer
    │   ├── SourceRefused         3  … sent data that must not be used
    │   ├── NotDone               3  … refused to change an object, or the object has changed: nothing happened
    │   └── OutcomeUnknown        3  … did not say whether it changed an object
    ├── CheckFailed               4  a check returned rows: the published tables stay
    ├── WarehouseDamaged          4  files of the warehouse are not as they were published: they are not read
    ├── ArchiveDamaged            4  a copy in the archive differs from the archived object
    ├── RecordRefused             4  a file of Runspend has content that Runspend never writes: none of it was used
    ├── CapPassed                 4  more would change than the settings allow: nothing was changed
    ├── LeaseLost                 5  another process does the same work, or has taken it over
    ├── PartialFailure            5  some of the work was done, the rest is listed
    └── MachineFailed             6  the machine: a disk is full, read-only or broken, or a folder is not writable

Messages follow one form: "cannot X: why. Do Y." Add an exception here only if some code catches it by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class RunspendError(Exception):
    """The root of all errors of Runspend. `exit_code` is the exit code of a command that ends with this error."""

    exit_code = 1

    def __init__(self, *parts: object) -> None:
        """Bytes of a file's name that are not UTF-8 become \\udcff and the like, so that the message can be stored, mailed and shown."""
        super().__init__(*(part.encode("utf-8", "backslashreplace").decode() if isinstance(part, str) else part for part in parts))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the error with all its attributes, instead of creating it again from its message, so that it crosses processes whole."""
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
    """A statement was not answered: it does more than read, the engine refuses it, or it exceeded its time limit."""


class ConfigError(UsageError):
    """The configuration cannot be used. The message names file, line, key, value and what is allowed."""


class MissingExtra(UsageError):
    """A command needs packages of an extra that is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f'cannot import {package}: it is not installed. Run: pip install "runspend[{extra}]"')
        self.extra = extra


class SourceError(RunspendError):
    """A tracking server, bill or store could not be used in this pipeline run. Its last good data stay in place."""

    exit_code = 3

    def __init__(self, source: str, message: str, *, period: str | None = None) -> None:
        super().__init__(message)
        self.source = source
        self.period = period


def bill_named(name: str) -> str:
    """Return how messages name a bill: "bill aws", or "the bill" if that is its name."""
    return "the bill" if name == "bill" else f"bill {name}"


class SourceUnreachable(SourceError):
    """The source did not answer in time."""


class SourceRefused(SourceError):
    """The source answered with data that must not replace what is there."""


class NotDone(SourceError):
    """A store refused to change an object, or the object is not the expected one. Nothing was changed."""


class OutcomeUnknown(SourceError):
    """A store sent no reply, or a broken one, to a request that may have been carried out. Check the object before you try again."""


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
    """Units of the warehouse are not as they were published. Nothing was read from them. `units`: the problem of each unit, by name."""

    exit_code = 4

    def __init__(self, units: Mapping[str, str], then: str = "") -> None:
        shown = "; ".join(f"{unit}: {why}" for unit, why in list(units.items())[:3])
        more = f"; and {len(units) - 3} more" if len(units) > 3 else ""
        then = (
            then
            or "No figure was computed from it. Run: runspend nightly (loads or builds it again from its sources). See all: runspend verify --full"
        )
        super().__init__(f"cannot read damaged data: {shown}{more}. {then}")
        self.units = dict(units)


class MachineFailed(RunspendError):
    """The machine failed, not Runspend: a disk is full, read-only or broken, or a folder is not writable. Published tables stay in place."""

    exit_code = 6


class ArchiveDamaged(RunspendError):
    """A copy in an archive is missing, or differs from the archived object. The message says everything that is known about it."""

    exit_code = 4


class RecordRefused(RunspendError):
    """A journal, record or state file of Runspend has content that Runspend never writes. None of it was used."""

    exit_code = 4

    def __init__(self, file: object, message: str) -> None:
        super().__init__(message)
        self.file = str(file)


class CapPassed(RunspendError):
    """More objects, bytes or percent of a store would change than the settings allow. Nothing was changed."""

    exit_code = 4

    def __init__(self, message: str, *, wanted: int, allowed: int) -> None:
        super().__init__(message)
        self.wanted = wanted
        self.allowed = allowed


class LeaseLost(RunspendError):
    """Another process holds the lease of this work. This process makes no further changes."""

    exit_code = 5


class PartialFailure(RunspendError):
    """Some of the work was done; `failures` lists the rest, one sentence each."""

    exit_code = 5

    def __init__(self, message: str, failures: Sequence[str]) -> None:
        super().__init__(message)
        self.failures = list(failures)
