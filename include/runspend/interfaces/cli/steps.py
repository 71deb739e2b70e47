"""The whole pipeline and its single steps: `nightly`, `extract`, `load`, `allocate` and the others."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runspend.core.errors import MissingExtra, UsageError, WarehouseDamaged
from runspend.interfaces.cli.context import Context, months, pasteable, shown, with_context
from runspend.interfaces.cli.output import print_outcome, print_query_costs

if TYPE_CHECKING:
    from runspend.config.settings import Settings
    from runspend.core.step_result import Outcome
    from runspend.interfaces.preview import Outlook
    from runspend.interfaces.trial import Trial

DEMO_FOLDER = Path(".runspend-demo")


@click.command()
@click.option(
    "--period",
    "periods",
    multiple=True,
    callback=months,
    metavar="YYYY-MM",
    help="Build this billing period even if its inputs are unchanged. Repeatable.",
)
@click.option(
    "--since", callback=months, metavar="YYYY-MM", help="Build all billing periods from this one on, even if their inputs are unchanged."
)
@click.option("--accept", multiple=True, metavar="SOURCE:YYYY-MM", help="Accept a month that was refused because it lost data. Repeatable.")
@click.option(
    "--dags",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Run the Airflow DAGs of this folder instead of the steps.",
)
@partial(with_context, shows_now=True)
def nightly(context: Context, periods: tuple[str, ...], since: str | None, accept: tuple[str, ...], dags: Path | None) -> None:
    """Run the whole pipeline.

    Extracts runs, measures artifact stores, loads bills, allocates and checks costs, sends alerts,
    plans the archive, and writes reports. Without a runspend.yaml, creates a demo company in
    .runspend-demo and runs on that.

    \b
    Example:
      runspend nightly --config /etc/runspend/runspend.yaml
    """
    from runspend.config.settings import find_settings

    if find_settings(context.config) is None:
        _use_demo(context)
    if since is not None:
        periods = (*periods, *_loaded_since(context.settings, since))
    run_nightly(context, periods, accept, dags, since)


def _step(name: str, help_text: str, *, what: str | None, options: Sequence[Callable[[Any], Any]] = ()) -> click.Command:
    """Return the command for one step of the pipeline. `what` is the kind of its arguments, such as a server. None: no arguments."""

    def command(context: Context, **given: Any) -> None:
        from runspend import pipeline
        from runspend.pipeline.monitoring import mailing_what_ends

        names = given.pop("names", ())
        arguments: tuple[Any, ...] = (context.settings, names or None) if what else (context.settings,)
        remove = given.pop("remove", False)
        step = pipeline.settle if name == "allocate" else pipeline.remove_annotations if remove else getattr(pipeline, name)
        if "periods" in given:
            given["periods"] = given["periods"] or None
        if given.pop("explain_cost", False):
            found = pipeline.foresee_queries(context.settings, progress=context.progress, **given)
            context.clear_progress()
            print_query_costs(context, found)
            return
        if (address := given.pop("test_mail", None)) is not None:
            from runspend.pipeline.monitoring import send_test_mail

            print_outcome(context, send_test_mail(context.settings, address, context.now))
            return
        with mailing_what_ends(context.settings, name, context.now):
            outcome = step(*arguments, now=context.now, progress=context.progress, **given)
        print_outcome(context, outcome)

    command.__doc__ = help_text
    command.__name__ = name
    decorated: Any = with_context(command)
    if what:
        decorated = click.argument("names", nargs=-1, metavar=f"[{what.upper()}]...")(decorated)
    for option in options:
        decorated = option(decorated)
    made: click.Command = click.command(name)(decorated)
    return made


def _period_option(help_text: str) -> Callable[[Any], Any]:
    return click.option("--period", "periods", multiple=True, callback=months, metavar="YYYY-MM", help=f"{help_text} Repeatable.")


STEPS = (
    _step(
        "extract",
        """Read runs and experiments from MLflow.

    Reads the tracking servers that you name. Default: all.

    \b
    Example:
      runspend extract prod""",
        what="server",
        options=[
            click.option(
                "--accept",
                multiple=True,
                metavar="SERVER:YYYY-MM",
                help="Accept a month that was refused because runs are missing. SERVER:experiments accepts missing experiments. Repeatable.",
            )
        ],
    ),
    _step(
        "measure",
        """Measure artifact stores.

    Lists the stores that you name, by URI. Default: all.

    \b
    Example:
      runspend measure""",
        what="store",
    ),
    _step(
        "load",
        """Load bills into the warehouse.

    Loads the bills that you name. Default: all.

    \b
    Example:
      runspend load aws --accept aws:2026-10""",
        what="bill",
        options=[
            click.option(
                "--accept",
                multiple=True,
                metavar="BILL:YYYY-MM",
                help="Accept a billing period that was refused because its total fell. Repeatable.",
            )
        ],
    ),
    _step(
        "allocate",
        """Allocate costs to runs.

    Builds and checks the cost tables whose inputs changed.

    \b
    Example:
      runspend allocate --period 2026-10""",
        what=None,
        options=[
            click.option(
                "--explain-cost",
                is_flag=True,
                help="Only estimate what each query would read and cost (BigQuery). Default: the newest billing period.",
            ),
            _period_option("Build only this billing period, even if its inputs are unchanged."),
        ],
    ),
    _step(
        "check",
        """Check the cost tables.

    Runs every check over the published tables. Exit code 4 if one fails.

    \b
    Example:
      runspend check""",
        what=None,
        options=[_period_option("Check only this billing period.")],
    ),
    _step(
        "report",
        """Write a page and CSV files for each month.

    Writes the newest billing period, and others that changed since their report.

    \b
    Example:
      runspend report --period 2026-10""",
        what=None,
        options=[_period_option("Write only this billing period's report, even if its costs are unchanged.")],
    ),
    _step(
        "alert",
        """Judge budgets and send alerts.

    \b
    Examples:
      runspend alert
      runspend alert --test-mail me@example.com
      runspend alert --test-mail channel:slack""",
        what=None,
        options=[click.option("--test-mail", metavar="ADDRESS", help="Only send a test to this address or channel.")],
    ),
    _step(
        "publish",
        """Copy the public tables to other tools.

    Replaces the tables in the databases and files of `publish` in runspend.yaml: PostgreSQL, a DuckDB
    file, Iceberg tables. A target that already has this build is not changed.

    \b
    Examples:
      runspend publish
      runspend publish --target grafana""",
        what=None,
        options=[
            click.option(
                "--target", "targets", multiple=True, metavar="NAME", help="Publish only to this target. Repeatable. Default: all."
            )
        ],
    ),
    _step(
        "annotate",
        """Write costs to MLflow.

    Makes MLflow show the cost of runs (the metric cost_usd), experiments and model versions, on the
    tracking servers that you name. Default: all that have `annotate: true`. Writes only what changed.

    \b
    Examples:
      runspend annotate prod
      runspend annotate --remove""",
        what="server",
        options=[click.option("--remove", is_flag=True, help="Remove the costs from MLflow.")],
    ),
)

verify = _step(
    "verify",
    """Find damaged files in the warehouse.

    Compares sizes, state files and the index, and hashes every file that changed since it was last
    verified. Every pipeline run does the same. --full also finds damage in files that did not
    change. BigQuery verifies its own data. Exit code 4 if something is damaged: Runspend then
    publishes nothing that depends on it.

    \b
    Examples:
      runspend verify --full
      runspend verify --drop billing_lines/2026-10/aws""",
    what=None,
    options=(
        click.option("--full", is_flag=True, help="Hash every file, including unchanged ones."),
        click.option("--drop", multiple=True, metavar="TABLE/MONTH/WRITER", help="Delete a damaged unit. Repeatable."),
    ),
)


def _use_demo(context: Context) -> None:
    from runspend.config.settings import load_settings
    from runspend.core.extras import EXTRA_OF
    from runspend.interfaces.demo import make_world

    if find_spec("adbc_driver_manager") is None:  # fail before the demo is created
        raise MissingExtra(*EXTRA_OF["adbc_driver_manager"])
    made = make_world(DEMO_FOLDER, progress=context.progress)
    context.clear_progress()
    click.echo(f"No runspend.yaml here: using the demo company in {DEMO_FOLDER} ({made.runs} runs, {made.machines} machines).", err=True)
    context.__dict__["settings"] = Context.loaded = load_settings(made.config)
    Context.given = made.config
    if not context.is_now_given:
        context.now = made.now


def _loaded_since(settings: Settings, since: str) -> list[str]:
    from runspend.warehouse.factory import open_warehouse

    return sorted({u.period for u in open_warehouse(settings).states("billing_lines") if u.period >= since})


def run_nightly(
    context: Context,
    periods: Sequence[str],
    accept: Sequence[str],
    dags: Path | None = None,
    since: str | None = None,
    trial: Trial | None = None,
) -> None:
    """Run the pipeline, through the DAGs of `dags` if given, and print its summary. Ends the process with the exit code."""
    from runspend import pipeline
    from runspend.interfaces.nightly_summary import summarize_pipeline_run
    from runspend.pipeline.monitoring import mailing_what_ends

    began = time.monotonic()
    if dags is None:
        with mailing_what_ends(context.settings, "nightly", context.now):
            outcome = pipeline.nightly(context.settings, now=context.now, periods=periods or None, accept=accept, progress=context.progress)
    elif accept:
        raise UsageError("cannot use --accept with --dags. Run `runspend load --accept …` first, then this command without --accept.")
    else:
        from runspend.interfaces.airflow_runner import run_dags

        outcome = run_dags(context.settings, dags, now=context.now, periods=periods)
    context.clear_progress()
    if trial is not None:
        outcome.notes = list(dict.fromkeys([*trial.notes, *outcome.notes]))
    if since is not None and not _loaded_since(context.settings, since):
        loaded = _loaded_since(context.settings, "")
        outcome.fail(
            UsageError(
                f"cannot build since {since}: no bill is loaded for that month or a later one. The newest is {loaded[-1] if loaded else 'none'}."
            )
        )
    seconds = time.monotonic() - began
    if context.as_json:
        print_outcome(context, outcome, **_as_record(context, outcome, trial))
    try:
        text = summarize_pipeline_run(context.settings, outcome, now=context.now, seconds=seconds, is_watched=sys.stdout.isatty())
        click.echo(pasteable(text), nl=False)
    except WarehouseDamaged as error:
        outcome.fail(error)
        print_outcome(context, outcome)
    if trial is not None:
        from runspend.interfaces.preview import render_outlook

        after = _finish(context, outcome, trial)
        click.echo(pasteable(f"\n{render_outlook(after)}\n{shown(trial.words(after))}"), nl=False)
    raise SystemExit(outcome.exit_code)


def _finish(context: Context, outcome: Outcome, trial: Trial) -> Outlook:
    """Return the result of a trial, and add its effect to the page of the month."""
    after = trial.outlook(outcome.problems, now=context.now)
    trial.add_to_page(outcome.reported.get(after.period or ""), after)
    return after


def _as_record(context: Context, outcome: Outcome, trial: Trial | None) -> dict[str, Any]:
    """Return the keys that a trial adds to the JSON of its outcome."""
    if trial is None:
        return {}
    try:
        return {"trial": trial.as_record(_finish(context, outcome, trial))}
    except WarehouseDamaged as error:
        outcome.fail(error)
        return {"trial": None}
