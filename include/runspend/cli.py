"""The command line: parses, calls one function of the pipeline, prints what it returns, ends with its exit code.

Exit codes: 0 done · 1 a bug · 2 wrong use or configuration · 3 a source was refused or stale, its old data kept ·
4 a check failed, the old tables kept · 5 done in part. The largest that applies wins. No work is done here.
"""

from __future__ import annotations

import functools
import getpass
import json
import re
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import click

from runspend import __version__
from runspend.errors import PartialFailure, RunspendError, UsageError

if TYPE_CHECKING:
    import pyarrow as pa

    from runspend.actions.alert.quiet import QuietKind
    from runspend.config import Settings
    from runspend.outcome import Outcome
    from runspend.query_costs import QueryCosts

MONTH = re.compile(r"\d{4}-(0[1-9]|1[0-2])")
DEMO_FOLDER = Path(".runspend-demo")


@dataclass
class Context:
    """What every command is given: where the configuration is, what time it is, and who is watching."""

    config: Path | None
    now: datetime
    as_json: bool
    quiet: bool
    is_now_given: bool = False
    told_at: float = 0.0
    loaded: ClassVar[Settings | None] = None  # the settings of this process: their secrets are kept out of what is printed

    @cached_property
    def settings(self) -> Settings:
        """The configuration, loaded once; its path is printed."""
        from runspend.config import load_settings

        settings = Context.loaded = load_settings(self.config)
        if not self.quiet and not self.as_json:
            click.echo(f"config {settings.path}", err=True)
        return settings

    def progress(self, text: str) -> None:
        """One line on standard error that overwrites itself, for a person who watches."""
        moment = time.monotonic()
        if not self.quiet and sys.stderr.isatty() and (not text or moment - self.told_at > 0.1):
            self.told_at = moment
            click.echo(f"\r\033[K{text}", nl=False, err=True)

    def clear_progress(self) -> None:
        """Leave a clean line."""
        self.progress("")


def _moment(_: click.Context, __: click.Parameter, value: str | None) -> datetime | None:
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is not a time. Write 2026-11-24 or 2026-11-24T06:00.") from error
    return moment.replace(tzinfo=timezone.utc) if moment.tzinfo is None else moment.astimezone(timezone.utc)


def _day_end(context: click.Context, parameter: click.Parameter, value: str | None) -> datetime | None:
    """The first instant that is not of the day, or of the moment, any more."""
    moment = _moment(context, parameter, value)
    return None if moment is None or value is None else moment + (timedelta(days=1) if len(value) == len("2026-11-24") else timedelta(microseconds=1))


def _months(_: click.Context, __: click.Parameter, value: Any) -> Any:
    for month in value if isinstance(value, tuple) else (value,):
        if month is not None and not MONTH.fullmatch(month):
            raise click.BadParameter(f"{month!r} is not a month. Write YYYY-MM.")
    return value


def with_context(command: Callable[..., None]) -> Callable[..., None]:
    """The four options every command has, as one Context; errors raised on purpose become one line and an exit code."""

    @click.option("--config", type=click.Path(path_type=Path), help="Configuration file. Default: $RUNSPEND_CONFIG, else ./runspend.yaml.")
    @click.option("--now", callback=_moment, help="Pretend it is this time (UTC), e.g. 2026-11-24T06:00. Default: the start of this hour.")
    @click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
    @click.option("--quiet", is_flag=True, help="No progress, no path of the configuration.")
    @functools.wraps(command)
    def wrapped(config: Path | None, now: datetime | None, as_json: bool, quiet: bool, **given: Any) -> None:
        this_hour = datetime.now(timezone.utc).replace(minute=0, second=0, microsecond=0)
        command(Context(config, now or this_hour, as_json, quiet, now is not None), **given)

    return wrapped


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="runspend")
def cli() -> None:
    """What every MLflow run costs, why, and who should know.

    Start with `runspend try --tracking URI --bill FILE`, then `runspend init`, then `runspend nightly`.
    """


# --- setting up --------------------------------------------------------------------------------------------------------


@cli.command()
@click.option("--full", is_flag=True, help="Write every key with its default and a comment.")
@click.option("--force", is_flag=True, help="Overwrite a runspend.yaml that is there.")
@with_context
def init(context: Context, full: bool, force: bool) -> None:
    """Write a runspend.yaml from what is found here: MLFLOW_TRACKING_URI, ./mlruns, AWS or gcloud settings.

    Example: runspend init && runspend doctor
    """
    from runspend.starter import write_starter

    path = context.config or Path("runspend.yaml")
    for line in write_starter(path, full=full, force=force):
        click.echo(line)


@cli.command()
@click.option("--quick", is_flag=True, help="Only try the connections; leave out what you would see, which reads the whole bill where no night has run.")
@with_context
def doctor(context: Context, quick: bool) -> None:
    """Try every connection and say what is missing, and what you would see. Nothing is changed, nothing is sent.

    Example: runspend doctor
    """
    from runspend.doctor import can_be_tried, diagnose, exit_code, render
    from runspend.outlook import foresee, outlook_lines, render_outlook

    findings = diagnose(context.settings, now=context.now)
    outlook = None if quick or not can_be_tried(findings) else foresee(context.settings, now=context.now, progress=context.progress)
    context.clear_progress()
    if context.as_json:
        seen = [] if outlook is None else [{"section": "outlook", "name": name, "level": "ok", "text": text} for name, text in outlook_lines(outlook)]
        _print_json([*({"section": f.section, "name": f.name, "level": f.level, "text": f.text} for f in findings), *seen])
        raise SystemExit(exit_code(findings))
    click.echo(render(findings))
    if outlook is not None:
        click.echo(f"\n{render_outlook(outlook)}", nl=False)
    raise SystemExit(exit_code(findings))


@cli.command()
@click.option("--show", is_flag=True, help="Print the configuration as it is understood, defaults filled in, secrets hidden.")
@click.option("--schema", is_flag=True, help="Print the JSON Schema of runspend.yaml.")
@with_context
def config(context: Context, show: bool, schema: bool) -> None:
    """Show the configuration, or its JSON Schema.

    Example: runspend config --show
    """
    from runspend.config import json_schema, show_settings

    if schema:
        _print_json(json_schema())
    elif show:
        click.echo(show_settings(context.settings), nl=False)
    else:
        click.echo(str(context.settings.path))


@cli.command("try")
@click.option("--tracking", required=True, help="Tracking URI of MLflow, e.g. http://mlflow:5000 or sqlite:///mlflow.db.")
@click.option("--bill", required=True, help="A bill in any format that is read: a file, a folder, or a prefix in a store (s3://, gs://, abfss://).")
@click.option("--folder", type=click.Path(path_type=Path), default=Path(".runspend-try"), show_default=True, help="The only folder that is written to.")
@with_context
def try_(context: Context, tracking: str, bill: str, folder: Path) -> None:
    """A report on your own MLflow and bill in minutes. Writes one folder of its own, sends nothing.

    Example: runspend try --tracking http://mlflow:5000 --bill ./last-month.csv.gz
    """
    from runspend.config import trial_settings

    _empty_trial(folder)
    context.__dict__["settings"] = Context.loaded = trial_settings(tracking, bill, folder)
    _night(context, (), (), is_trial=True)


def _empty_trial(folder: Path) -> None:
    """A trial starts from nothing: another bill in the same folder is not a newer version of the last one."""
    marker = folder / ".trial"
    if folder.exists() and any(folder.iterdir()) and not marker.exists():
        raise UsageError(f"cannot use {folder}: it holds something that is not a trial of runspend. Name an empty or a new --folder. Nothing was changed.")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    marker.touch()


@cli.command()
@click.argument("folder", type=click.Path(path_type=Path), default=DEMO_FOLDER)
@with_context
def demo(context: Context, folder: Path) -> None:
    """Make a small company's month: MLflow stores, artifacts and bills, and a runspend.yaml that points at them.

    Example: runspend demo && runspend nightly --config .runspend-demo/runspend.yaml
    """
    from runspend.demo import make_world

    made = make_world(folder, progress=context.progress)
    context.clear_progress()
    click.echo(f"made {made.config} ({made.runs} runs, {made.machines} machines); its time is {made.now:%Y-%m-%dT%H:%M}")


# --- the night ---------------------------------------------------------------------------------------------------------


@cli.command()
@click.option("--period", "periods", multiple=True, callback=_months, metavar="YYYY-MM", help="Rebuild this billing period whatever its inputs. May be repeated.")
@click.option("--since", callback=_months, metavar="YYYY-MM", help="Rebuild every billing period from this one on.")
@click.option("--accept", multiple=True, metavar="SOURCE:YYYY-MM", help="Take this although it was refused for what it lost. May be repeated.")
@click.option("--dags", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Run the Airflow DAGs of this folder, in asset order, instead of calling the steps.")
@with_context
def nightly(context: Context, periods: tuple[str, ...], since: str | None, accept: tuple[str, ...], dags: Path | None) -> None:
    """The whole line: extract, measure, load, allocate, check, alert, plan the archive, report.

    Without a runspend.yaml it makes the demo world in .runspend-demo first, and runs on that.

    Example: runspend nightly --config /etc/runspend/runspend.yaml
    """
    from runspend.config import find_settings

    if find_settings(context.config) is None:
        _use_demo(context)
    if since is not None:
        periods = (*periods, *_loaded_since(context.settings, since))
    _night(context, periods, accept, dags, since)


def _step(name: str, help_text: str, *, what: str | None, options: Sequence[Callable[[Any], Any]] = ()) -> None:
    """A verb: one step of the line by itself."""

    def command(context: Context, **given: Any) -> None:
        from runspend import pipeline

        names = given.pop("names", ())
        arguments: tuple[Any, ...] = (context.settings, names or None) if what else (context.settings,)
        step = pipeline.settle if name == "allocate" else getattr(pipeline, name)
        if "periods" in given:
            given["periods"] = given["periods"] or None
        if given.pop("explain_cost", False):
            found = pipeline.foresee_queries(context.settings, progress=context.progress, **given)
            context.clear_progress()
            _print_query_costs(context, found)
            return
        if (address := given.pop("test_mail", None)) is not None:
            from runspend.nights import send_test_mail

            _print_outcome(context, send_test_mail(context.settings, address, context.now))
            return
        outcome = step(*arguments, now=context.now, progress=context.progress, **given)
        context.clear_progress()
        _print_outcome(context, outcome)

    command.__doc__ = help_text
    command.__name__ = name
    decorated: Any = with_context(command)
    if what:
        decorated = click.argument("names", nargs=-1, metavar=f"[{what.upper()}]...")(decorated)
    for option in options:
        decorated = option(decorated)
    cli.command(name)(decorated)


ACCEPT_RUNS_OPTION = click.option(
    "--accept", multiple=True, metavar="SERVER:YYYY-MM", help="Take this month although runs vanished from it (SERVER:experiments: fewer experiments)."
)
PERIOD_OPTION = click.option("--period", "periods", multiple=True, callback=_months, metavar="YYYY-MM", help="Only this billing period, whatever its inputs.")
EXPLAIN_COST_OPTION = click.option("--explain-cost", is_flag=True, help="BigQuery: only say what each model would read, and what that costs; the newest period if none is named.")
TEST_MAIL_OPTION = click.option("--test-mail", metavar="ADDRESS", help="Only send one mail to this address, to see that mail arrives. Nothing is judged.")
ACCEPT_OPTION = click.option("--accept", multiple=True, metavar="SOURCE:YYYY-MM", help="Load this period although it was refused for what it lost.")

_step("extract", "Read runs and experiments of the tracking servers named (default: all).\n\nExample: runspend extract prod", what="server", options=[ACCEPT_RUNS_OPTION])
_step("measure", "Take the inventory of the artifact stores named (default: all).\n\nExample: runspend measure", what="store")
_step("load", "Load the bills named (default: all).\n\nExample: runspend load aws --accept aws:2026-10", what="bill", options=[ACCEPT_OPTION])
_step("allocate", "Build and check the cost tables whose inputs changed.\n\nExample: runspend allocate --period 2026-10", what=None, options=[EXPLAIN_COST_OPTION, PERIOD_OPTION])
_step("check", "Run every check over the tables as they stand.\n\nExample: runspend check", what=None, options=[PERIOD_OPTION])
_step("report", "Write the pages and CSVs of every billing period.\n\nExample: runspend report --period 2026-10", what=None, options=[PERIOD_OPTION])
_step("alert", "Judge the budgets of the current period and send what is due.\n\nExample: runspend alert", what=None, options=[TEST_MAIL_OPTION])


@cli.group()
def archive() -> None:
    """Old artifacts: what policies would move, who is told, who objected, and what keeps a run's bytes where they are."""


@archive.command("plan")
@with_context
def archive_plan(context: Context) -> None:
    """Say which artifacts the policies select, what protects them, how many bytes, what it saves and costs. Nothing is moved, nobody is told.

    Example: runspend archive plan
    """
    from runspend import pipeline

    outcome = pipeline.archive_plan(context.settings, now=context.now, progress=context.progress)
    context.clear_progress()
    if not context.as_json:
        sql = (
            "select policy, action, state, count(*) as folders, sum(objects) as objects, sum(bytes) as bytes, sum(monthly_saving) as monthly_saving,"
            " sum(action_cost) as action_cost, min(currency) as currency, min(earliest_at) as earliest_at"
            " from archive_plan where month = @month group by policy, action, state order by policy, state"
        )
        _print_rows(context, _query(context.settings, sql, {"month": context.now.date().replace(day=1)}))
    _print_outcome(context, outcome)


@archive.command("notify")
@with_context
def archive_notify(context: Context) -> None:
    """Plan, and tell each owner in one mail of what is new in it. The grace period begins when a mail server took the mail.

    Example: runspend archive notify
    """
    from runspend import pipeline

    outcome = pipeline.archive_notify(context.settings, now=context.now, progress=context.progress)
    context.clear_progress()
    _print_outcome(context, outcome)


@archive.command("apply")
@with_context
def archive_apply(context: Context) -> None:
    """Move what is due: copied, read back and compared, asked about once more, then deleted from its place and noted there.

    Without `delete_credentials` of the store everything up to the delete is done. Killed or refused anywhere, run it again.

    Example: runspend archive apply
    """
    from runspend import pipeline

    outcome = pipeline.archive_apply(context.settings, now=context.now, progress=context.progress)
    context.clear_progress()
    _print_outcome(context, outcome)


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
    from runspend.actions.archive.restore import restore
    from runspend.telling import tell_restored
    from runspend.warehouse.records import Records

    records = Records(context.settings.home)
    restored = restore(run, context.settings, to=to, archive_id=archive_id, take_damaged=partial, records=records, now=context.now, progress=context.progress)
    if to is None and not restored.problems:
        restored.notes.extend(tell_restored(context.settings, records, restored.owner))
    context.clear_progress()
    if context.as_json:
        _print_json(vars(restored))
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
    _print_outcome(context, outcome)


def _agree_to_read(context: Context, *, yes: bool) -> None:
    from runspend.actions.archive.verify import price_of_reading
    from runspend.actions.report.amounts import plain

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
    from runspend.actions.archive.keeps import record_keep
    from runspend.warehouse import open_warehouse
    from runspend.warehouse.records import Records

    with open_warehouse(context.settings).reader() as reader:
        keep = record_keep(reader, Records(context.settings.home), what, until=None if until is None else until.date(), reason=reason, now=context.now)
    if context.as_json:
        _print_json(vars(keep))
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
        _print_json(vars(found))
        return
    click.echo(f"run {found.run_id}" + (f" ({found.run_name})" if found.run_name else ""))
    for label, text in found.lines:
        click.echo(f"  {label}: {text}")


@cli.group(invoke_without_command=True)
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
        _print_json(rows)
    else:
        _print_columns(budget_lines(rows))


def _quiet_command(name: str, kind: QuietKind, help_text: str) -> None:
    """`ack`, `snooze` and `wake`: who says so about which budget, recorded."""

    def command(context: Context, budget: str, until: datetime | None, by: str | None, note: str | None) -> None:
        from runspend.actions.alert.overview import say_quiet
        from runspend.warehouse import open_warehouse
        from runspend.warehouse.records import Records

        settings, said_by = context.settings, by or getpass.getuser()
        day = until.date() if until else None
        with open_warehouse(settings).reader() as reader:
            quiet = say_quiet(reader, settings, Records(settings.home), budget, kind, day, said_by, note, context.now)
        if context.as_json:
            _print_json(vars(quiet))
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


@cli.command()
@click.argument("name")
@with_context
def forget(context: Context, name: str) -> None:
    """Remove every row of a server, bill or store that is no longer configured. The next night builds without it.

    Example: runspend forget old-server
    """
    from runspend import pipeline

    _print_outcome(context, pipeline.forget(context.settings, name, now=context.now))


@cli.command()
@click.argument("old")
@click.argument("new")
@with_context
def rename(context: Context, old: str, new: str) -> None:
    """Give the rows of a server or bill that runspend.yaml calls NEW now to its new name. One publish: all of it or nothing.

    Example: runspend rename old-prod prod
    """
    from runspend import renaming

    _print_outcome(context, renaming.rename(context.settings, old, new, now=context.now))


@cli.command("copy")
@click.option("--from", "source", required=True, metavar="WAREHOUSE", help="Its address (a folder, bigquery://project/dataset), or the runspend.yaml that has it.")
@click.option("--to", "target", required=True, metavar="WAREHOUSE", help="The same, of an empty one or of one that a copy was begun in.")
@with_context
def copy_(context: Context, source: str, target: str) -> None:
    """Carry a warehouse to another place, such as from a folder to BigQuery. Begun again, it goes on; at the end both are compared.

    Example: runspend copy --from .runspend/warehouse --to bigquery://acme-ml/runspend
    """
    from runspend.copying import copy, warehouse_at

    outcome = copy(warehouse_at(source), warehouse_at(target), progress=context.progress)
    context.clear_progress()
    _print_outcome(context, outcome)


# --- asking ------------------------------------------------------------------------------------------------------------


@cli.command()
@click.option("--by", help="Keys separated by commas; an unknown one is answered with the list of them. Default: experiment.")
@click.option("--since", callback=_months, metavar="YYYY-MM", help="Charge dates from this month on. Default: the newest month.")
@click.option("--as-of", callback=_day_end, metavar="DATE", help="The bill as it was known then, by source, period, service, account or day.")
@click.option("--top", default=20, show_default=True, help="At most so many rows.")
@click.option("--measure", type=click.Choice(["effective", "billed", "contracted", "list"]), default="effective", show_default=True)
@click.option("--each-currency", is_flag=True, help="Each currency by itself, as billed. Default: all in `currency`, by `rates.exchange`.")
@with_context
def costs(context: Context, by: str | None, since: str | None, as_of: datetime | None, top: int, measure: str, each_currency: bool) -> None:
    """Costs by team, experiment and more, largest first. The rows' sum is the bill's when --top leaves none out.

    Example: runspend costs --by team,experiment --since 2026-10
    """
    from runspend.history import DEFAULT_KEYS, bill_as_of
    from runspend.questions import costs as ask_costs
    from runspend.questions import coverage_footer, nothing_since
    from runspend.warehouse import open_warehouse

    if as_of is not None:
        with open_warehouse(context.settings).reader() as reader:
            rows = bill_as_of(reader, as_of, by.split(",") if by else DEFAULT_KEYS, since=since, top=top, measure=measure)
        _print_rows(context, rows)
        return
    rows = ask_costs(context.settings, (by or "experiment").split(","), since=since, top=top, measure=measure, is_exchanged=not each_currency)
    _print_rows(context, rows)
    if since is not None and rows.num_rows == 0:
        click.echo(nothing_since(context.settings, since), err=True)
    elif by and not context.as_json:
        for line in coverage_footer(context.settings, by.split(","), since):
            click.echo(line)


@cli.command()
@click.argument("run", required=False)
@click.option("--resource", metavar="ID", help="A machine or any other resource of a bill, by hour.")
@click.option("--line", metavar="ID", help="A bill line: its id, or six characters it begins or ends with.")
@click.option("--period", callback=_months, metavar="YYYY-MM", help="Only this billing period. Default: the run's whole life; of a resource, its newest.")
@click.option("--history", is_flag=True, help="What later versions of the bill changed for the run's services on its days.")
@click.option("--full", is_flag=True, help="Every hour, where there are too many to read.")
@with_context
def explain(context: Context, run: str | None, resource: str | None, line: str | None, period: str | None, history: bool, full: bool) -> None:
    """Why a run costs what it costs: every charge, its share, the rule, who shared it, and that the sum is right.

    RUN is a run id, its first six or more characters, or its address in MLflow.

    Example: runspend explain 3f1c9a7b
    """
    from runspend import explain as explanations
    from runspend.warehouse import open_warehouse

    if sum(given is not None for given in (run, resource, line)) != 1:
        raise UsageError("cannot explain: name one thing. Write a run, --resource ID or --line ID, e.g. runspend explain 3f1c9a7b")
    with open_warehouse(context.settings).reader() as reader:
        found: explanations.RunExplanation | explanations.ResourceExplanation | explanations.LineExplanation
        if run is not None:
            found = explanations.explain_run(reader, run, context.settings, now=context.now, period=period)
            text = explanations.run_as_text(found, full=full, history=history)
        elif resource is not None:
            found = explanations.explain_resource(reader, resource, period=period)
            text = explanations.resource_as_text(found, full=full)
        else:
            found = explanations.explain_line(reader, line or "", period=period)
            text = explanations.line_as_text(found)
    if context.as_json:
        _print_json(explanations.explanation_as_json(found))
    else:
        click.echo(text, nl=False)


@cli.group()
def export() -> None:
    """Hand the ledger on to other tools."""


@export.command("focus")
@click.option("--period", required=True, callback=_months, metavar="YYYY-MM", help="The billing period.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="A .csv, .csv.gz or .parquet file. Default: runspend-focus-YYYY-MM.csv here.")
@click.option("--scope", type=click.Choice(["all", "platform"]), default="all", show_default=True, help="platform leaves out what is not the ML platform's.")
@click.option("--focus-version", type=click.Choice(["1.3", "1.4", "1.2"]), default="1.3", show_default=True, help="Columns of this version of FOCUS.")
@with_context
def export_focus(context: Context, period: str, out: Path | None, scope: str, focus_version: str) -> None:
    """The bill as FOCUS Cost and Usage, split to runs: one row per charge and target, the Allocated columns filled.

    Example: runspend export focus --period 2026-10 --out october.parquet
    """
    from runspend.actions.export import export_focus as write_focus
    from runspend.actions.report.amounts import plain
    from runspend.warehouse import open_warehouse

    target = out or Path(f"runspend-focus-{period}.csv")
    with open_warehouse(context.settings).reader() as reader:
        written = write_focus(reader, period, target, scope=scope, version=focus_version, progress=context.progress)
    context.clear_progress()
    if context.as_json:
        totals = [{name: value if isinstance(value, str) else plain(value) for name, value in vars(t).items()} for t in written.totals]
        _print_json({"file": str(written.path), "rows": written.rows, "totals": totals})
        return
    for total in written.totals:
        click.echo(f"{total.source}: effective {plain(total.effective_cost)} {total.currency}, billed {plain(total.billed_cost)}{' = the bill' if scope == 'all' else ''}")
    click.echo(f"{written.path}: {written.rows:,} rows, FOCUS {focus_version}")


@cli.command()
@click.argument("statement", required=False)
@click.option("--tables", is_flag=True, help="List the tables and their columns.")
@click.option("--native", is_flag=True, help="The engine's own SQL instead of GoogleSQL.")
@click.option("--explain-cost", is_flag=True, help="BigQuery: only say how much it would read, and what that costs.")
@with_context
def sql(context: Context, statement: str | None, tables: bool, native: bool, explain_cost: bool) -> None:
    """One SELECT over the warehouse, read-only, of one build.

    Example: runspend sql "select team, sum(effective_cost) as cost from cost_daily group by team order by cost desc"
    """
    if tables or statement is None:
        from runspend.questions import tables_text

        click.echo(tables_text(statement), nl=False)
        return
    if explain_cost:
        from runspend.query_costs import question_cost

        click.echo(question_cost(context.settings, statement))
        return
    _print_rows(context, _query(context.settings, statement, None, native=native))


@cli.command()
@with_context
def status(context: Context) -> None:
    """One line and an exit code, for monitors: 0 all fresh, 3 a source is late, refused or was never read.

    Example: runspend status
    """
    from runspend.questions import status_of

    code, line, rows = status_of(context.settings, context.now)
    if context.as_json:
        _print_json({"exit_code": code, "status": line, "sources": rows})
    else:
        click.echo(line)
    raise SystemExit(code)


@cli.command()
@click.option("--port", default=8321, show_default=True)
@with_context
def serve(context: Context, port: int) -> None:
    """Show the reports on http://127.0.0.1:PORT. This machine only, read-only.

    Example: runspend serve
    """
    import uvicorn

    from runspend.web import LOOPBACK, create_app

    click.echo(f"http://127.0.0.1:{port}/  (ends with Ctrl-C)")
    uvicorn.run(create_app(context.settings, hosts=LOOPBACK), host="127.0.0.1", port=port, log_level="warning")


# --- how a night is run and shown ----------------------------------------------------------------------------------------


def _use_demo(context: Context) -> None:
    from runspend.config import load_settings
    from runspend.demo import make_world

    made = make_world(DEMO_FOLDER, progress=context.progress)
    context.clear_progress()
    click.echo(f"No runspend.yaml here: using the demo world in {DEMO_FOLDER} ({made.runs} runs, {made.machines} machines).", err=True)
    context.__dict__["settings"] = Context.loaded = load_settings(made.config)
    if not context.is_now_given:
        context.now = made.now


def _loaded_since(settings: Settings, since: str) -> list[str]:
    from runspend.warehouse import open_warehouse

    return sorted({u.period for u in open_warehouse(settings).states("billing_lines") if u.period >= since})


def _night(context: Context, periods: Sequence[str], accept: Sequence[str], dags: Path | None = None, since: str | None = None, is_trial: bool = False) -> None:
    from runspend import pipeline
    from runspend.doctor import check_not_built
    from runspend.summary import summarize_night

    began = time.monotonic()
    if dags is None:
        outcome = pipeline.nightly(context.settings, now=context.now, periods=periods or None, accept=accept, progress=context.progress)
    elif accept:
        raise UsageError("cannot pass --accept through the DAGs. Run `runspend load --accept …` first; the night then finds the period loaded.")
    else:
        from runspend.airflow_night import run_dags

        outcome = run_dags(context.settings, dags, now=context.now, periods=periods)
    context.clear_progress()
    if since is not None and not _loaded_since(context.settings, since):
        loaded = _loaded_since(context.settings, "")
        outcome.fail(UsageError(f"cannot rebuild since {since}: no bill was loaded for it or a later month. The newest is {loaded[-1] if loaded else 'none'}."))
    outcome.notes += [f"{found.name}: {found.text}" for found in check_not_built(context.settings)]
    seconds = time.monotonic() - began
    if context.as_json:
        _print_outcome(context, outcome)
    click.echo(summarize_night(context.settings, outcome, now=context.now, seconds=seconds, is_watched=sys.stdout.isatty()), nl=False)
    if is_trial:
        from runspend.outlook import foresee, render_outlook

        click.echo(f"\n{render_outlook(foresee(context.settings, now=context.now))}", nl=False)
    raise SystemExit(outcome.exit_code)


def _query(settings: Settings, sql: str, parameters: dict[str, Any] | None, *, native: bool = False) -> pa.Table:
    from runspend.warehouse import open_warehouse

    with open_warehouse(settings).reader() as reader:
        return reader.query(sql, parameters, native=native)


def _print_query_costs(context: Context, found: QueryCosts) -> None:
    if context.as_json:
        _print_json([{"period": period, "model": model, "bytes": size} for period, model, size in found.sizes])
    else:
        click.echo("\n".join(found.lines()))


def _print_outcome(context: Context, outcome: Outcome) -> None:
    if context.as_json:
        _print_json({"step": outcome.step, "exit_code": outcome.exit_code, "changed": outcome.changed, "unchanged": outcome.unchanged, "problems": outcome.problems, "notes": outcome.notes, "found": outcome.found})
        raise SystemExit(outcome.exit_code)
    for label, lines in (("changed", outcome.changed), ("found", outcome.found), ("note", outcome.notes), ("problem", outcome.problems)):
        for line in lines:
            click.echo(f"{label:9}{line}", err=label == "problem")
    click.echo(f"{outcome.step}: {len(outcome.changed)} changed, {len(outcome.unchanged)} unchanged, {len(outcome.problems)} problems")
    raise SystemExit(outcome.exit_code)


def _print_rows(context: Context, rows: pa.Table) -> None:
    if context.as_json:
        _print_json(rows.to_pylist())
        return
    from runspend.questions import table_text

    click.echo(table_text(rows), nl=False)


def _print_columns(lines: Sequence[tuple[str, ...]]) -> None:
    """Cells as aligned text; nothing in a name may move the cursor."""
    shown = [["".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in cell) for cell in line] for line in lines]
    widths = [max(len(cell) for cell in column) for column in zip(*shown, strict=True)]
    for line in shown:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2, default=str, ensure_ascii=False))


def main() -> None:
    """Run the command line. Errors raised on purpose are one line and an exit code; a bug is a traceback and exit code 1; neither shows a secret."""
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Abort:
        click.echo("stopped. What was published stays; the next command completes the rest.", err=True)
        raise SystemExit(130) from None
    except click.ClickException as error:
        error.show()
        raise SystemExit(UsageError.exit_code) from None
    except RunspendError as error:
        click.echo(f"error: {_without_secrets(str(error))}", err=True)
        raise SystemExit(error.exit_code) from None
    except Exception:  # noqa: BLE001 (the last line of defence: whatever it is, it is shown, without secrets)
        click.echo(_without_secrets(traceback.format_exc()), nl=False, err=True)
        click.echo("This is a bug in runspend. Nothing half-done was published.", err=True)
        raise SystemExit(RunspendError.exit_code) from None


def _without_secrets(text: str) -> str:
    from runspend.config import redact

    return redact(text, Context.loaded)


if __name__ == "__main__":
    main()
