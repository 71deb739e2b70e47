"""Queries of published tables: `costs`, `explain`, `export`, `sql`, `status`, `serve`. They change nothing."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path

import click

from runspend.core.errors import RecordRefused, UsageError
from runspend.interfaces.cli.context import Context, day_end, months, with_context
from runspend.interfaces.cli.output import print_json, print_rows

GRACE = 5.0  # seconds that the engine has to stop by itself


@click.command()
@click.option("--by", help="Keys separated by commas; an unknown one is answered with the list of them. Default: experiment.")
@click.option("--since", callback=months, metavar="YYYY-MM", help="Charge dates from this month on. Default: the newest month.")
@click.option("--as-of", callback=day_end, metavar="DATE", help="The bill as it was known then, by source, period, service, account or day.")
@click.option("--top", default=20, show_default=True, help="At most so many rows.")
@click.option("--measure", type=click.Choice(["effective", "billed", "contracted", "list"]), default="effective", show_default=True)
@click.option("--each-currency", is_flag=True, help="Each currency by itself, as billed. Default: all in `currency`, by `rates.exchange`.")
@with_context
def costs(context: Context, by: str | None, since: str | None, as_of: datetime | None, top: int, measure: str, each_currency: bool) -> None:
    """Costs by team, experiment and more, largest first. The rows' sum is the bill's when --top leaves none out.

    Example: runspend costs --by team,experiment --since 2026-10
    """
    from runspend.actions.costs.as_of import DEFAULT_KEYS, bill_as_of
    from runspend.actions.costs.query import costs as ask_costs
    from runspend.actions.costs.query import coverage_footer, nothing_since
    from runspend.warehouse import open_warehouse

    if as_of is not None:
        with open_warehouse(context.settings).reader() as reader:
            rows = bill_as_of(reader, as_of, by.split(",") if by else DEFAULT_KEYS, since=since, top=top, measure=measure)
        print_rows(context, rows)
        return
    rows = ask_costs(context.settings, (by or "experiment").split(","), since=since, top=top, measure=measure, is_exchanged=not each_currency)
    print_rows(context, rows)
    if since is not None and rows.num_rows == 0:
        click.echo(nothing_since(context.settings, since), err=True)
    elif by and not context.as_json:
        for line in coverage_footer(context.settings, by.split(","), since):
            click.echo(line)


@click.command()
@click.argument("run", required=False)
@click.option("--resource", metavar="ID", help="A machine or any other resource of a bill, by hour.")
@click.option("--line", metavar="ID", help="A bill line: its id, or six characters it begins or ends with.")
@click.option("--period", callback=months, metavar="YYYY-MM", help="Only this billing period. Default: the run's whole life; of a resource, its newest.")
@click.option("--history", is_flag=True, help="What later versions of the bill changed for the run's services on its days.")
@click.option("--full", is_flag=True, help="Every hour, where there are too many to read.")
@with_context
def explain(context: Context, run: str | None, resource: str | None, line: str | None, period: str | None, history: bool, full: bool) -> None:
    """Why a run costs what it costs: every charge, its share, the rule, who shared it, and that the sum is right.

    RUN is a run id, its first six or more characters, or its address in MLflow.

    Example: runspend explain 3f1c9a7b
    """
    from runspend.actions import explain as explanations
    from runspend.warehouse import open_warehouse

    if sum(given is not None for given in (run, resource, line)) != 1:
        raise UsageError("cannot explain: name one thing. Write a run, --resource ID or --line ID, e.g. runspend explain 3f1c9a7b")
    with open_warehouse(context.settings).reader() as reader:
        found: explanations.RunExplanation | explanations.ResourceExplanation | explanations.LineExplanation
        if run is not None:
            found = explanations.explain_named(reader, run, context.settings, now=context.now, period=period)
            text = explanations.run_as_text(found, full=full, history=history)
        elif resource is not None:
            found = explanations.explain_resource(reader, resource, period=period)
            text = explanations.resource_as_text(found, full=full)
        else:
            found = explanations.explain_line(reader, line or "", period=period)
            text = explanations.line_as_text(found)
    if context.as_json:
        print_json(explanations.explanation_as_json(found))
    else:
        click.echo(text, nl=False)


@click.group()
def export() -> None:
    """Hand the ledger on to other tools."""


@export.command("focus")
@click.option("--period", required=True, callback=months, metavar="YYYY-MM", help="The billing period.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="A .csv, .csv.gz or .parquet file. Default: runspend-focus-YYYY-MM.csv here.")
@click.option("--scope", type=click.Choice(["all", "platform"]), default="all", show_default=True, help="platform leaves out what is not the ML platform's.")
@click.option("--focus-version", type=click.Choice(["1.3", "1.4", "1.2"]), default="1.3", show_default=True, help="Columns of this version of FOCUS.")
@click.option("--guard-formulas", is_flag=True, help="CSV: let no text run as a formula.")
@with_context
def export_focus(context: Context, period: str, out: Path | None, scope: str, focus_version: str, guard_formulas: bool) -> None:
    """The bill as FOCUS Cost and Usage, split to runs: one row per charge and target, the Allocated columns filled.

    Example: runspend export focus --period 2026-10 --out october.parquet
    """
    from runspend.actions.export import export_focus as write_focus
    from runspend.core.amounts import plain
    from runspend.warehouse import open_warehouse

    target = out or Path(f"runspend-focus-{period}.csv")
    with open_warehouse(context.settings).reader() as reader:
        written = write_focus(reader, period, target, scope=scope, version=focus_version, guard_formulas=guard_formulas, progress=context.progress)
    context.clear_progress()
    if context.as_json:
        totals = [{name: value if isinstance(value, str) else plain(value) for name, value in vars(t).items()} for t in written.totals]
        print_json({"file": str(written.path), "rows": written.rows, "totals": totals})
        return
    for total in written.totals:
        click.echo(f"{total.source}: effective {plain(total.effective_cost)} {total.currency}, billed {plain(total.billed_cost)}{' = the bill' if scope == 'all' else ''}")
    click.echo(f"{written.path}: {written.rows:,} rows, FOCUS {focus_version}")


@click.command()
@click.argument("statement", required=False)
@click.option("--tables", is_flag=True, help="List the tables and their columns.")
@click.option("--native", is_flag=True, help="The engine's own SQL instead of GoogleSQL.")
@click.option("--explain-cost", is_flag=True, help="BigQuery: only say how much it would read, and what that costs.")
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), default=300, show_default=True, metavar="SECONDS", help="Stop what takes longer.")
@with_context
def sql(context: Context, statement: str | None, tables: bool, native: bool, explain_cost: bool, timeout: float) -> None:
    """One SELECT over the warehouse, read-only, of one build.

    Example: runspend sql "select team, sum(effective_cost) as cost from cost_daily group by team order by cost desc"
    """
    if tables or statement is None:
        from runspend.actions.costs.query import tables_text

        click.echo(tables_text(statement), nl=False)
        return
    if explain_cost:
        from runspend.warehouse.bigquery.dry_run import question_cost

        click.echo(question_cost(context.settings, statement))
        return
    from runspend.config.access_log import log_statement
    from runspend.warehouse import open_warehouse

    try:
        with _ended_after(timeout + GRACE, timeout, partial(log_statement, context.settings, statement, native=native, rows=None, error="SqlRefused")):
            rows = open_warehouse(context.settings).answer(statement, native=native, timeout=timeout)
    except BaseException as error:  # also for a bug or Ctrl-C: the question was asked
        log_statement(context.settings, statement, native=native, rows=None, error=type(error).__name__)
        raise
    log_statement(context.settings, statement, native=native, rows=rows.num_rows)
    print_rows(context, rows)


@contextmanager
def _ended_after(seconds: float, timeout: float, note: Callable[[], None]) -> Iterator[None]:
    """End the process if it is still inside after `seconds`: engines check for interrupts only between pieces of work, and one may take minutes."""

    def end() -> None:
        note()
        click.echo(f"error: cannot answer: it took longer than {timeout:g} s and was stopped. Nothing was changed. Ask for less, or give it longer with --timeout.", err=True)
        sys.stderr.flush()
        os._exit(UsageError.exit_code)

    watch = threading.Timer(seconds, end)
    watch.daemon = True
    watch.start()
    try:
        yield
    finally:
        watch.cancel()


@click.command()
@with_context
def status(context: Context) -> None:
    """One line and an exit code, for monitors: 0 all fresh, 3 a source is late, refused or was never read, 4 a file of Runspend's own is refused.

    Example: runspend status
    """
    from runspend.actions.costs.query import status_of

    try:
        code, line, rows = status_of(context.settings, context.now)
    except RecordRefused as error:
        code, line, rows = error.exit_code, str(error), []
    if context.as_json:
        print_json({"exit_code": code, "status": line, "sources": rows})
    else:
        click.echo(line)
    raise SystemExit(code)


@click.command()
@click.option("--port", type=click.IntRange(0, 65535), default=8321, show_default=True, help="0 takes a free one.")
@with_context
def serve(context: Context, port: int) -> None:
    """Show the reports on http://127.0.0.1:PORT. This machine only, read-only.

    Example: runspend serve
    """
    from runspend.interfaces.web.serve import HOST, serve_on, take_port

    settings = context.settings
    with take_port(port) as taken:
        click.echo(f"http://{HOST}:{taken.getsockname()[1]}/  (ends with Ctrl-C)")
        serve_on(taken, settings)
