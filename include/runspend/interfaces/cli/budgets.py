"""`runspend budgets`: list budgets, and mute or resume their alerts."""

from __future__ import annotations

import getpass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from runspend.interfaces.cli.context import Context, InOrder, with_context
from runspend.interfaces.cli.output import print_columns, print_json

if TYPE_CHECKING:
    from runspend.actions.alert.snooze import QuietKind


@click.group(cls=InOrder, invoke_without_command=True)
@with_context
def budgets(context: Context) -> None:
    """List budgets and mute their alerts.

    Without a command, lists all budgets as of the last alert step. Sends nothing.

    \b
    Examples:
      runspend budgets
      runspend budgets ack vision --until 2026-12-01
    """
    if click.get_current_context().invoked_subcommand is None:
        _list_budgets(context)


@budgets.command("list")
@with_context
def budgets_list(context: Context) -> None:
    """List budgets, spend and forecasts.

    \b
    Example:
      runspend budgets list --json
    """
    _list_budgets(context)


def _list_budgets(context: Context) -> None:
    from runspend.actions.alert.overview import budget_lines, list_budgets
    from runspend.warehouse.factory import open_warehouse
    from runspend.warehouse.records import Records

    with open_warehouse(context.settings).reader() as reader:
        rows = list_budgets(reader, context.settings, Records(context.settings.home), context.now)
    if context.as_json:
        print_json(rows)
    else:
        print_columns(budget_lines(rows))


def _quiet_command(name: str, kind: QuietKind, help_text: str) -> None:
    """Add the command `ack`, `snooze` or `wake`. Each use is recorded with the budget and the person."""

    def command(context: Context, budget: str, until: datetime | None, by: str | None, note: str | None) -> None:
        from runspend.actions.alert.overview import QuietRequest, say_quiet
        from runspend.warehouse.factory import open_warehouse
        from runspend.warehouse.records import Records

        settings, author = context.settings, by or getpass.getuser()
        day = until.date() if until else None
        with open_warehouse(settings).reader() as reader:
            quiet = say_quiet(reader, settings, Records(settings.home), QuietRequest(budget, kind, day, author, note), context.now)
        if context.as_json:
            print_json(vars(quiet))
        else:
            click.echo(f"{quiet.budget}: {quiet}" if kind != "awake" else f"{quiet.budget}: alerts are on again (by {quiet.by})")

    command.__doc__ = help_text
    decorated: Any = click.argument("budget")(with_context(command))
    decorated = click.option(
        "--until",
        type=click.DateTime(["%Y-%m-%d"]),
        hidden=kind == "awake",
        metavar="YYYY-MM-DD",
        help="First day (UTC) with alerts again. Default: the end of the budget's period.",
    )(decorated)
    decorated = click.option("--by", metavar="NAME", help="Your name. Default: your login name.")(decorated)
    decorated = click.option("--note", metavar="TEXT", help="Reason to show with the budget.")(decorated)
    budgets.command(name)(decorated)


_quiet_command(
    "ack",
    "acknowledged",
    """Acknowledge and mute a budget.

    Sends no mail about this budget until that day. Events before it are recorded and listed, but not
    mailed later.

    \b
    Example:
      runspend budgets ack vision --until 2026-12-01 --note "sweep is planned\"""",
)
_quiet_command(
    "snooze",
    "snoozed",
    """Postpone the alerts of a budget.

    Sends no mail about this budget until that day. Alerts that still apply then are sent.

    \b
    Example:
      runspend budgets snooze vision --until 2026-11-30""",
)
_quiet_command(
    "wake",
    "awake",
    """End an acknowledgement or a snooze.

    \b
    Example:
      runspend budgets wake vision""",
)
