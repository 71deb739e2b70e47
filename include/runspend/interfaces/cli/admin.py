"""Commands for names and places that change: `forget`, `rename`, `copy`."""

from __future__ import annotations

import click

from runspend.interfaces.cli.context import Context, with_context
from runspend.interfaces.cli.output import print_outcome


@click.command()
@click.argument("name")
@with_context
def forget(context: Context, name: str) -> None:
    """Remove every row of a server, bill or store that is no longer configured. The next night builds without it.

    Example: runspend forget old-server
    """
    from runspend import pipeline

    print_outcome(context, pipeline.forget(context.settings, name, now=context.now))


@click.command()
@click.argument("old")
@click.argument("new")
@with_context
def rename(context: Context, old: str, new: str) -> None:
    """Give the rows of a server or bill that runspend.yaml calls NEW now to its new name. One publish: all of it or nothing.

    Example: runspend rename old-prod prod
    """
    from runspend.pipeline import rename as renaming

    print_outcome(context, renaming.rename(context.settings, old, new, now=context.now))


@click.command("copy")
@click.option("--from", "source", required=True, metavar="WAREHOUSE", help="Its address (a folder, bigquery://project/dataset), or the runspend.yaml that has it.")
@click.option("--to", "target", required=True, metavar="WAREHOUSE", help="The same, of an empty one or of one that a copy was begun in.")
@with_context
def copy_(context: Context, source: str, target: str) -> None:
    """Carry a warehouse to another place, such as from a folder to BigQuery. Begun again, it goes on; at the end both are compared.

    Example: runspend copy --from .runspend/warehouse --to bigquery://acme-ml/runspend
    """
    from runspend.pipeline.copy import copy, warehouse_at

    outcome = copy(warehouse_at(source), warehouse_at(target), progress=context.progress)
    context.clear_progress()
    print_outcome(context, outcome)
