"""`runspend archive`: plan, announce, move, restore and verify archives, and exclude runs from retention."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path

import click

from runspend.core.errors import PartialFailure, UsageError
from runspend.interfaces.cli.context import Context, InOrder, pasteable, with_context
from runspend.interfaces.cli.output import print_json, print_outcome, print_rows, query


@click.group(cls=InOrder)
def archive() -> None:
    """Move old artifacts, and restore them."""


@archive.command("plan")
@with_context
def archive_plan(context: Context) -> None:
    """Show what retention policies select.

    Shows bytes, savings and costs of each policy, and what is protected. Moves nothing and sends
    nothing.

    \b
    Example:
      runspend archive plan
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
        print_rows(query(context.settings, sql, {"month": context.now.date().replace(day=1)}), is_money=True)
    print_outcome(context, outcome)


@archive.command("notify")
@with_context
def archive_notify(context: Context) -> None:
    """Mail owners about files that will move.

    Plans first, then sends each owner one mail about new items. The grace period begins when a mail
    server accepts that mail.

    \b
    Example:
      runspend archive notify
    """
    from runspend import pipeline
    from runspend.pipeline.monitoring import mailing_what_ends

    with mailing_what_ends(context.settings, "archive notify", context.now):
        outcome = pipeline.archive_notify(context.settings, now=context.now, progress=context.progress)
    print_outcome(context, outcome)


@archive.command("apply")
@with_context
def archive_apply(context: Context) -> None:
    """Move files whose grace period is over.

    Copies each file, reads the copy back, compares it, and checks once more in MLflow that the file is
    not needed. Only then deletes the original. Without the store's `delete_credentials`, deletes
    nothing. If it is interrupted, run it again.

    \b
    Example:
      runspend archive apply
    """
    from runspend import pipeline
    from runspend.pipeline.monitoring import mailing_what_ends

    with mailing_what_ends(context.settings, "archive apply", context.now):
        outcome = pipeline.archive_apply(context.settings, now=context.now, progress=context.progress)
    print_outcome(context, outcome)


@archive.command("restore")
@click.argument("run", metavar="RUN_ID")
@click.option(
    "--to",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Restore to this new folder, from which MLflow can load the files. Default: their original place.",
)
@click.option(
    "--archive",
    "archive_id",
    metavar="ID",
    help="Restore only this archive. Default: the latest one, plus files of earlier ones that were never restored.",
)
@click.option("--partial", is_flag=True, help="Restore the intact files of a damaged archive.")
@with_context
def archive_restore(context: Context, run: str, to: Path | None, archive_id: str | None, partial: bool) -> None:
    """Restore files of a run, model or folder.

    Needs only the archive. Existing files are not overwritten.

    \b
    Example:
      runspend archive restore 3f1c9a7bd2e84c55a1b0c9d8e7f60123 --to ./back
    """
    from runspend.actions.archive.context import Tools
    from runspend.actions.archive.mlflow_tags import tag_restored
    from runspend.actions.archive.restore import restore
    from runspend.warehouse.records import Records

    records = Records(context.settings.home)
    restored = restore(
        run, context.settings, to=to, archive_id=archive_id, take_damaged=partial, records=records, tools=Tools(progress=context.progress)
    )
    if to is None and not restored.problems:
        restored.notes.extend(tag_restored(context.settings, records, restored.owner))
    context.clear_progress()
    if context.as_json:
        print_json(vars(restored))
    else:
        there = f"; {restored.there_already:,} already existed" if restored.there_already else ""
        click.echo(
            f"restored {restored.owner}: {restored.objects:,} objects, {restored.bytes:,} bytes to {', '.join(restored.places)}{there}"
        )
        for label, sentences in (("note", restored.notes), ("problem", restored.problems)):
            for sentence in sentences:
                click.echo(f"{label:9}{pasteable(sentence)}", err=label == "problem")
    raise SystemExit(PartialFailure.exit_code if restored.problems else 0)


@archive.command("verify")
@click.option("--full", is_flag=True, help="Read every file. First shows the bytes and the price, and asks for confirmation.")
@click.option("--yes", is_flag=True, help="Run --full without asking for confirmation.")
@with_context
def archive_verify(context: Context, full: bool, yes: bool) -> None:
    """Compare archives with their manifests.

    Lists every archive, reads a sample of files, and compares their checksums.

    \b
    Example:
      runspend archive verify
    """
    from runspend import pipeline

    if full:
        _agree_to_read(context, yes=yes)
    outcome = pipeline.archive_verify(context.settings, now=context.now, full=full, progress=context.progress)
    print_outcome(context, outcome)


def _agree_to_read(context: Context, *, yes: bool) -> None:
    from runspend.actions.archive.verify import price_of_reading
    from runspend.core.amounts import plain

    reading = price_of_reading(context.settings, now=context.now, progress=context.progress)
    context.clear_progress()
    price = (
        "an unknown price (a storage class has no price in `rates.storage`)"
        if reading.price is None
        else f"{plain(reading.price)} {reading.currency}"
    )
    click.echo(
        f"This reads {reading.objects:,} objects, {reading.bytes:,} bytes. Requests and retrieval cost {price}, plus any traffic out of the cloud.",
        err=True,
    )
    if not yes and not (sys.stdin.isatty() and click.confirm("Read them?", err=True)):
        raise UsageError("cannot read all archives without confirmation, because it may cost money. Add --yes. Nothing was read.")


@archive.command("keep")
@click.argument("what", metavar="RUN_ID|EXPERIMENT")
@click.option(
    "--until", type=click.DateTime(["%Y-%m-%d"]), metavar="YYYY-MM-DD", help="Last day of the exclusion. Default: a year from now."
)
@click.option("--reason", metavar="TEXT", help="Reason to show with the exclusion.")
@with_context
def archive_keep(context: Context, what: str, until: datetime | None, reason: str | None) -> None:
    """Exclude a run or experiment from retention.

    No policy acts on the run, or on any run of the experiment, until that day. A later command
    replaces an earlier one.

    \b
    Example:
      runspend archive keep 3f1c9a7b --until 2027-06-30 --reason "thesis"
    """
    from runspend.actions.archive.holds import record_keep
    from runspend.warehouse.factory import open_warehouse
    from runspend.warehouse.records import Records

    with open_warehouse(context.settings).reader() as reader:
        keep = record_keep(
            reader, Records(context.settings.home), what, until=None if until is None else until.date(), reason=reason, now=context.now
        )
    if context.as_json:
        print_json(vars(keep))
    else:
        click.echo(f"excluded from retention until {keep.until} inclusive: {keep.kind} {keep.id} ({keep.name}) of {keep.tracking_server}")


@archive.command("why")
@click.argument("run")
@with_context
def archive_why(context: Context, run: str) -> None:
    """Show what protects or selects a run.

    Shows what protects its files, which policy selects them and since when, or where they were moved.

    \b
    Example:
      runspend archive why 3f1c9a7b
    """
    from runspend.actions.archive.why import explain_why
    from runspend.warehouse.factory import open_warehouse
    from runspend.warehouse.records import Records

    with open_warehouse(context.settings).reader() as reader:
        found = explain_why(reader, Records(context.settings.home), context.settings, run, context.now)
    if context.as_json:
        print_json(vars(found))
        return
    click.echo(f"run {found.run_id}" + (f" ({found.run_name})" if found.run_name else ""))
    for label, text in found.lines:
        click.echo(f"  {label}: {text}")
