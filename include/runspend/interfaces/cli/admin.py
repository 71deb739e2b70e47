"""Commands to remove or rename a source, and to copy a warehouse: `sources forget`, `sources rename`, `warehouse copy`."""

from __future__ import annotations

import click

from runspend.interfaces.cli.context import Context, InOrder, with_context
from runspend.interfaces.cli.output import print_outcome


@click.group(cls=InOrder)
def sources() -> None:
    """Forget or rename a server, bill or store."""


@sources.command()
@click.argument("name")
@with_context
def forget(context: Context, name: str) -> None:
    """Remove the rows of an unconfigured source.

    Remove the server, bill or store from runspend.yaml first. The next pipeline run builds the cost
    tables without it.

    \b
    Example:
      runspend sources forget old-server
    """
    from runspend import pipeline

    print_outcome(context, pipeline.forget(context.settings, name, now=context.now))


@sources.command()
@click.argument("old")
@click.argument("new")
@with_context
def rename(context: Context, old: str, new: str) -> None:
    """Keep the rows of a renamed server or bill.

    Write the new name into runspend.yaml first. Either all rows change or none.

    \b
    Example:
      runspend sources rename old-prod prod
    """
    from runspend.pipeline import rename as renaming

    print_outcome(context, renaming.rename(context.settings, old, new, now=context.now))


@click.group()
def warehouse() -> None:
    """Copy a warehouse to another place."""


@warehouse.command("copy")
@click.option(
    "--from",
    "source",
    required=True,
    metavar="WAREHOUSE",
    help="Warehouse to copy from: its address (a folder, s3://… or bigquery://…) or a runspend.yaml that configures it.",
)
@click.option(
    "--to",
    "target",
    required=True,
    metavar="WAREHOUSE",
    help="Warehouse to copy to, written the same way. It must be empty, or contain an unfinished copy.",
)
@with_context
def copy_(context: Context, source: str, target: str) -> None:
    """Copy all tables to another warehouse.

    At the end, compares both warehouses. If the copy is interrupted, run the command again to continue
    it.

    \b
    Example:
      runspend warehouse copy --from .runspend/warehouse --to bigquery://acme-ml/runspend
    """
    from runspend.pipeline.copy import copy, warehouse_at

    outcome = copy(warehouse_at(source), warehouse_at(target), progress=context.progress)
    print_outcome(context, outcome)
