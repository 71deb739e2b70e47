"""`runspend budgets`: their state, and who muted which budget."""

from __future__ import annotations

import getpass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from runspend.interfaces.cli.context import Context, with_context
from runspend.interfaces.cli.output import print_columns, print_json

if TYPE_CHECKING:
    from runspend.actions.alert.snooze import QuietKind


@click.group(invoke_without_command=True)
@with_context
def budgets(context: Context) -> None:
    """Every budget: how it stood at the last alert step, what it will have spent, its last mail, and who is quiet about it. Sends nothing.

    Examples: runspend budgets · runspend budgets --json · runspend budgets ack vision --until 2026-12-01
    """
    if click.get_current_context().invoked_subcommand is None:
        _list_budgets(context)


@budgets.command("list")
@with_context
def budgets_list(context: Context) -> None:
    """The list: state, spend, percent, forecast, next threshold, last mail, quiet. The same as `runspend budgets`.

    Example: runspend budgets list --json
    """
    _list_budgets(context)


def _list_budgets(context: Context) -> None:
    from runspend.actions.alert.overview import budget_lines, list_budgets
    from runspend.warehouse import open_warehouse
    from runspend.warehouse.records import Records

    with open_warehouse(context.settings).reader() as reader:
        rows = list_budgets(reader, context.settings, Records(context.settings.home), context.now)
    if context.as_json:
        print_json(rows)
    else:
        print_columns(budget_lines(rows))


def _quiet_command(name: str, kind: QuietKind, help_text: str) -> None:
    """Add `ack`, `snooze` or `wake`. Each use is recorded with the person and the budget."""

    def command(context: Context, budget: str, until: datetime | None, by: str | None, note: str | None) -> None:
        from runspend.actions.alert.overview import say_quiet
        from runspend.warehouse import open_warehouse
        from runspend.warehouse.records import Records

        settings, said_by = context.settings, by or getpass.getuser()
        day = until.date() if until else None
        with open_warehouse(settings).reader() as reader:
            quiet = say_quiet(reader, settings, Records(settings.home), budget, kind, day, said_by, note, context.now)
        if context.as_json:
            print_json(vars(quiet))
        else:
            click.echo(f"{quiet.budget}: {quiet}" if kind != "awake" else f"{quiet.budget}: awake, said by {quiet.by}")

    command.__doc__ = help_text
    decorated: Any = click.argument("budget")(with_context(command))
    decorated = click.option("--until", type=click.DateTime(["%Y-%m-%d"]), hidden=kind == "awake", help="First day (UTC) mails come again. Default: the end of the budget's period.")(decorated)
    decorated = click.option("--by", metavar="WHO", help="Who says so. Default: your login name.")(decorated)
    decorated = click.option("--note", help="Why; shown beside the budget.")(decorated)
    budgets.command(name)(decorated)


_quiet_command("ack", "acknowledged", "You know: no mail about this budget until the day given. What happens meanwhile is recorded and listed.\n\nExample: runspend budgets ack vision --until 2026-12-01 --note \"sweep is planned\"")
_quiet_command("snooze", "snoozed", "Not now: no mail about this budget until the day given; what still holds then is told then.\n\nExample: runspend budgets snooze vision --until 2026-11-30")
_quiet_command("wake", "awake", "End an acknowledgement or a snooze.\n\nExample: runspend budgets wake vision")
