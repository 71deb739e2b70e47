"""The context and the options that all commands share. Queries and output belong in other modules."""

from __future__ import annotations

import functools
import logging
import re
import shlex
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import click

if TYPE_CHECKING:
    from runspend.config.settings import Settings

# Commands print the problems of their steps. Without a handler, Python would print them a second time.
logging.getLogger("runspend.pipeline.step_log").addHandler(logging.NullHandler())

MONTH = re.compile(r"(?!0000)[0-9]{4}-(0[1-9]|1[0-2])")


class InOrder(click.Group):
    """A group whose help lists its commands in the order in which they were added."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands in the order in which they were added."""
        return list(self.commands)


@dataclass
class Context:
    """The context of a command: the path of the configuration, the time, and the form of the output."""

    config: Path | None
    now: datetime
    as_json: bool
    quiet: bool
    is_now_given: bool = False
    reported_at: float = 0.0
    loaded: ClassVar[Settings | None] = None  # the settings of this process, whose secrets are hidden in all output
    root: ClassVar[click.Group]  # the group of all commands
    given: ClassVar[Path | None] = None  # the `--config` of this command, which is added to commands in messages

    @cached_property
    def settings(self) -> Settings:
        """Return the configuration. The first call loads it and prints its path."""
        from runspend.config.file_modes import use_file_modes
        from runspend.config.settings import load_settings

        settings = Context.loaded = load_settings(self.config)
        use_file_modes(settings)
        if not self.quiet and not self.as_json:
            click.echo(f"config {settings.path}", err=True)
        return settings

    def progress(self, text: str) -> None:
        """Print a line on standard error that replaces the previous one. Prints only on a terminal, at most ten times per second."""
        moment = time.monotonic()
        if not self.quiet and sys.stderr.isatty() and (not text or moment - self.reported_at > 0.1):
            self.reported_at = moment
            click.echo(f"\r\033[K{text}", nl=False, err=True)

    def clear_progress(self) -> None:
        """Clear the progress line."""
        self.progress("")


def _moment(_: click.Context, __: click.Parameter, value: str | None) -> datetime | None:
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(value)
        return moment.replace(tzinfo=timezone.utc) if moment.tzinfo is None else moment.astimezone(timezone.utc)
    except (ValueError, OverflowError) as error:
        raise click.BadParameter(f"{value!r} is not a time. Write 2026-11-24 or 2026-11-24T06:00.") from error


def day_end(context: click.Context, parameter: click.Parameter, value: str | None) -> datetime | None:
    """Return the first moment after the given day, or after the given time."""
    moment = _moment(context, parameter, value)
    if moment is None or value is None:
        return None
    try:
        return moment + (timedelta(days=1) if len(value) == len("2026-11-24") else timedelta(microseconds=1))
    except OverflowError as error:
        raise click.BadParameter(f"{value!r} is too late. Write an earlier day.") from error


def day_or_month(_: click.Context, __: click.Parameter, value: str | None) -> tuple[date, date] | None:
    """Return the first day of YYYY-MM-DD or YYYY-MM, and the day after its last day."""
    from runspend.actions.costs import runs
    from runspend.core.errors import UsageError

    try:
        return None if value is None else runs.day_or_month(value)
    except UsageError:
        raise click.BadParameter(f"{value!r} is not a day or month. Write YYYY-MM-DD or YYYY-MM.") from None


def months(_: click.Context, __: click.Parameter, value: Any) -> Any:
    """Check that the value, or each of several values, is a month (YYYY-MM), and return it unchanged."""
    for month in value if isinstance(value, tuple) else (value,):
        if month is not None and not MONTH.fullmatch(month):
            raise click.BadParameter(f"{month!r} is not a month. Write YYYY-MM.")
    return value


def shown(text: str) -> str:
    """Return text that is safe on a terminal. Control characters are replaced, so names cannot move the cursor."""
    return "".join("\ufffd" if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") and c not in "\n\t" else c for c in text)


def pasteable(text: str) -> str:
    """Return `text` with the `--config` of this command added to each Runspend command in it. Without `--config`, nothing changes."""
    if Context.given is None:
        return text
    option = f" --config {shlex.quote(str(Context.given))}"
    return _commands().sub(lambda found: found[0] + option, text)


@functools.cache
def _commands() -> re.Pattern[str]:
    """Return a pattern for a Runspend command that has the option `--config`.

    It does not match if the option already follows, or if the text only mentions the command.
    """
    names = sorted(_names(Context.root, ""), reverse=True)  # longer names first
    return re.compile(rf"(?<!that `)(?<!in `)\brunspend (?:{'|'.join(map(re.escape, names))})(?![\w-])(?![^`\n]*--config)")


def _names(group: click.Group, before: str) -> Iterator[str]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from _names(command, f"{before}{name} ")
        elif any("--config" in option.opts for option in command.params):
            yield before + name


class _WithoutSecrets(logging.Formatter):
    """Formats log lines with times in UTC, and hides secrets of the configuration."""

    converter = staticmethod(time.gmtime)

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        from runspend.config.settings import redact

        return shown(redact(super().format(record), Context.loaded))


def _log_to_stderr() -> None:
    """Show the library's log at level INFO on standard error."""
    handler = logging.StreamHandler()
    handler.setFormatter(_WithoutSecrets("%(asctime)s %(levelname)s %(message)s", datefmt="%Y-%m-%dT%H:%M:%SZ"))
    logger = logging.getLogger("runspend")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)


def _without_option(command: Callable[..., None]) -> Callable[..., None]:
    return command


def with_context(command: Callable[..., None], *, shows_now: bool = False, has_json: bool = True) -> Callable[..., None]:
    """Add the options that all commands have, and pass them to the command as one Context.

    `--now` is for tests, so help shows it only with `shows_now`. Without `has_json`, there is no `--json`: such a command prints no answer.
    """
    json_option: Callable[[Callable[..., None]], Callable[..., None]] = (
        click.option("--json", "as_json", is_flag=True, help="Print JSON.") if has_json else _without_option
    )

    @click.option(
        "--config",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Configuration file. Default: $RUNSPEND_CONFIG, else ./runspend.yaml.",
    )
    @click.option(
        "--now",
        callback=_moment,
        metavar="TIME",
        hidden=not shows_now,
        help="Run as of this time (UTC), such as 2026-11-24T06:00. Default: the start of this hour.",
    )
    @json_option
    @click.option("--quiet", is_flag=True, help="Hide progress and the path of the configuration.")
    @click.option("-v", "--verbose", is_flag=True, help="Log what each step reads, skips and builds, and how long it takes.")
    @functools.wraps(command)
    def wrapped(config: Path | None, now: datetime | None, quiet: bool, verbose: bool, as_json: bool = False, **given: Any) -> None:
        if verbose:
            _log_to_stderr()
        this_hour = datetime.now(timezone.utc).replace(minute=0, second=0, microsecond=0)
        Context.given = config
        command(Context(config, now or this_hour, as_json, quiet, now is not None), **given)

    return wrapped
