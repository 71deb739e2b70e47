"""`runspend archive`: the plan of the policies, objections, and results."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path

import click

from runspend.core.errors import PartialFailure, UsageError
from runspend.interfaces.cli.context import Context, with_context
from runspend.interfaces.cli.output import print_json, print_outcome, print_rows, query


@click.group()
def archive() -> None:
    """Old artifacts: what policies would move, who is told, who objected, and what keeps a run's bytes where they are."""


@archive.command("plan")
@with_context
def archive_plan(context: Context) -> None:
    """Say which artifacts the policies select, what protects them, how many bytes, what it saves and costs. Nothing is moved, nobody is told.

    Example: runspend archive plan
    """
    from runspend import pipeline
    from runspend.pipeline.monitoring import mailing_what_ends

    with mailing_what_ends(context.settings, "archive plan", context.now):
        outcome = pipeline.archive_plan(context.settings, now=context.now, progress=context.progress)
    context.clear_progress()
    if not context.as_json:
        sql = (
            "select policy, action, state, count(*) as folders, sum(objects) as objects, sum(bytes) as bytes, sum(monthly_saving) as monthly_saving,"
            " sum(action_cost) as action_cost, min(currency) as currency, min(earliest_at) as earliest_at"
            " from archive_plan where month = @month group by policy, action, state order by policy, state"
        )
        print_rows(context, query(context.settings, sql, {"month": context.now.date().replace(day=1)}))
    print_outcome(context, outcome)


@archive.command("notify")
@with_context
def archive_notify(context: Context) -> None:
    """Plan, and tell each owner in one mail of what is new in it. The grace period begins when a mail server took the mail.

    Example: runspend archive notify
    """
    from runspend import pipeline
    from runspend.pipeline.monitoring import mailing_what_ends

    with mailing_what_ends(context.settings, "archive notify", context.now):
        outcome = pipeline.archive_notify(context.settings, now=context.now, progress=context.progress)
    context.clear_progress()
    print_outcome(context, outcome)


@archive.command("apply")
@with_context
def archive_apply(context: Context) -> None:
    """Move what is due: copied, read back and compared, asked about once more, then deleted from its place and noted there.

    Without `delete_credentials` of the store everything up to the delete is done. Killed or refused anywhere, run it again.

    Example: runspend archive apply
    """
    from runspend import pipeline
    from runspend.pipeline.monitoring import mailing_what_ends

    with mailing_what_ends(context.settings, "archive apply", context.now):
        outcome = pipeline.archive_apply(context.settings, now=context.now, progress=context.progress)
    context.clear_progress()
    print_outcome(context, outcome)


@archive.command("restore")
@click.argument("run", metavar="RUN_ID")
@click.option("--to", type=click.Path(file_okay=False, path_type=Path), help="A new folder, which MLflow can load from. Default: the place it came from.")
@click.option("--archive", "archive_id", metavar="ID", help="Only this one of its archives. Default: as it was last archived, with what earlier ones took that never came back.")
@click.option("--partial", is_flag=True, help="Of a damaged archive bring back what is whole.")
@with_context
def archive_restore(context: Context, run: str, to: Path | None, archive_id: str | None, partial: bool) -> None:
    """Bring back the artifacts of a run, model or folder, byte for byte, from the archive alone. What is there is not overwritten.

    Example: runspend archive restore 3f1c9a7bd2e84c55a1b0c9d8e7f60123 --to ./back
    """
    from runspend.actions.archive.mlflow_tags import tell_restored
    from runspend.actions.archive.restore import restore
    from runspend.warehouse.records import Records

    records = Records(context.settings.home)
    restored = restore(run, context.settings, to=to, archive_id=archive_id, take_damaged=partial, records=records, progress=context.progress)
    if to is None and not restored.problems:
        restored.notes.extend(tell_restored(context.settings, records, restored.owner))
    context.clear_progress()
    if context.as_json:
        print_json(vars(restored))
    else:
        there = f", {restored.there_already:,} were there already" if restored.there_already else ""
        click.echo(f"restored {restored.owner}: {restored.objects:,} objects, {restored.bytes:,} bytes to {', '.join(restored.places)}{there}")
        for label, sentences in (("note", restored.notes), ("problem", restored.problems)):
            for sentence in sentences:
                click.echo(f"{label:9}{sentence}", err=label == "problem")
    raise SystemExit(PartialFailure.exit_code if restored.problems else 0)


@archive.command("verify")
@click.option("--full", is_flag=True, help="Read all of it. Says first how many bytes that is and what the store charges for it.")
@click.option("--yes", is_flag=True, help="With --full: do not ask.")
@with_context
def archive_verify(context: Context, full: bool, yes: bool) -> None:
    """List every archive and compare it with its manifest; read a sample, large enough to trust, and compare its checksums.

    Example: runspend archive verify
    """
    from runspend import pipeline

    if full:
        _agree_to_read(context, yes=yes)
    outcome = pipeline.archive_verify(context.settings, now=context.now, full=full, progress=context.progress)
    context.clear_progress()
    print_outcome(context, outcome)


def _agree_to_read(context: Context, *, yes: bool) -> None:
    from runspend.actions.archive.verify import price_of_reading
    from runspend.core.amounts import plain

    reading = price_of_reading(context.settings, now=context.now, progress=context.progress)
    context.clear_progress()
    price = "an unknown price: a storage class has none in `rates.storage`" if reading.price is None else f"{plain(reading.price)} {reading.currency}"
    click.echo(f"to be read: {reading.objects:,} objects, {reading.bytes:,} bytes; requests and retrieval cost {price}; traffic out of a cloud comes on top", err=True)
    if not yes and not (sys.stdin.isatty() and click.confirm("Read them?", err=True)):
        raise UsageError("cannot read all archives unasked: it may cost money. Add --yes. Nothing was read.")


@archive.command("keep")
@click.argument("what", metavar="RUN_ID|EXPERIMENT")
@click.option("--until", type=click.DateTime(["%Y-%m-%d"]), help="Last day of it. Default: a year from now.")
@click.option("--reason", help="Shown beside what is kept.")
@with_context
def archive_keep(context: Context, what: str, until: datetime | None, reason: str | None) -> None:
    """Object: no policy touches this run, or any run of this experiment, until the day given. Written again, the last one counts.

    Example: runspend archive keep 3f1c9a7b --until 2027-06-30 --reason "thesis"
    """
    from runspend.actions.archive.holds import record_keep
    from runspend.warehouse import open_warehouse
    from runspend.warehouse.records import Records

    with open_warehouse(context.settings).reader() as reader:
        keep = record_keep(reader, Records(context.settings.home), what, until=None if until is None else until.date(), reason=reason, now=context.now)
    if context.as_json:
        print_json(vars(keep))
    else:
        click.echo(f"kept: {keep.kind} {keep.id} ({keep.name}) of {keep.tracking_server}, up to and including {keep.until}")


@archive.command("why")
@click.argument("run")
@with_context
def archive_why(context: Context, run: str) -> None:
    """What keeps a run's bytes where they are, which policy is after them since when, or where they went.

    Example: runspend archive why 3f1c9a7b
    """
    from runspend.actions.archive.why import explain_why
    from runspend.warehouse import open_warehouse
    from runspend.warehouse.records import Records

    with open_warehouse(context.settings).reader() as reader:
        found = explain_why(reader, Records(context.settings.home), context.settings, run, context.now)
    if context.as_json:
        print_json(vars(found))
        return
    click.echo(f"run {found.run_id}" + (f" ({found.run_name})" if found.run_name else ""))
    for label, text in found.lines:
        click.echo(f"  {label}: {text}")
