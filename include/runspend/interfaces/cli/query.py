"""Queries of published tables: `costs`, `forecast`, `explain`, `export`, `sql`, `status`, `serve`, `mcp`. They change nothing."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, datetime, timezone
from functools import partial
from pathlib import Path

import click

from runspend.core.errors import RecordRefused, UsageError
from runspend.core.text import counted
from runspend.interfaces.cli.context import Context, InOrder, day_end, day_or_month, months, pasteable, shown, with_context
from runspend.interfaces.cli.output import form_of, format_option, print_json, print_rows, write_file

GRACE = 5.0  # seconds after the timeout for the engine to stop by itself


@click.command()
@click.option("--by", metavar="KEYS", help="Dimensions to group by, separated by commas. Default: experiment.")
@click.option("--period", callback=months, metavar="YYYY-MM", help="Show only this billing period. Default: charges of the newest month.")
@click.option("--since", callback=day_or_month, metavar="DAY|MONTH", help="Show charges since this day or month.")
@click.option("--until", callback=day_or_month, metavar="DAY|MONTH", help="Show charges up to this day or month, inclusive.")
@click.option(
    "--where",
    multiple=True,
    metavar="KEY=VALUE",
    help="Show only charges with this value. KEY= means charges without a value. Repeatable: a key given twice matches either value.",
)
@click.option(
    "--as-of",
    callback=day_end,
    metavar="DATE",
    help="Show the bill as it was known on that day. Works only with --by source, period, service, account or day.",
)
@click.option("--top", type=click.IntRange(1), default=20, show_default=True, metavar="ROWS", help="Number of rows to show.")
@click.option(
    "--measure",
    type=click.Choice(["effective", "billed", "contracted", "list"]),
    default="effective",
    show_default=True,
    help="Cost measure of FOCUS.",
)
@click.option(
    "--each-currency", is_flag=True, help="Show each currency as billed. Default: all in `currency`, at the rates of `rates.exchange`."
)
@format_option
@with_context
def costs(
    context: Context,
    by: str | None,
    period: str | None,
    since: tuple[date, date] | None,
    until: tuple[date, date] | None,
    where: tuple[str, ...],
    as_of: datetime | None,
    top: int,
    measure: str,
    each_currency: bool,
    form: str | None,
) -> None:
    """Show costs by team, experiment and more.

    The largest come first. Dimensions are team, project, cost_center, owner, experiment, user,
    server, kind, allocated_to, source, service, account, region, provider, confidence, currency,
    day and period.

    \b
    Examples:
      runspend costs --by team,experiment --period 2026-10
      runspend costs --where team=vision --since 2026-11-01 --until 2026-11-15
      runspend costs --by team --format csv
    """
    from runspend.actions.costs.as_of import DEFAULT_KEYS, bill_as_of
    from runspend.actions.costs.query import Selection, coverage_footer, no_charges
    from runspend.actions.costs.query import costs as ask_costs
    from runspend.warehouse.factory import open_warehouse

    form = form_of(context, form)
    chosen = Selection.of(period=period, since=since and since[0], until=until and until[1], where=where)
    if as_of is not None:
        with open_warehouse(context.settings).reader() as reader:
            rows = bill_as_of(reader, as_of, by.split(",") if by else DEFAULT_KEYS, chosen, top=top, measure=measure)
    else:
        rows = ask_costs(
            context.settings, (by or "experiment").split(","), chosen, top=top, measure=measure, is_exchanged=not each_currency
        )
    print_rows(rows, form, is_money=True)
    if rows.num_rows == 0:
        click.echo(pasteable(no_charges(context.settings)), err=True)
    elif by and as_of is None and not where and form == "table":
        for line in coverage_footer(context.settings, by.split(","), chosen):
            click.echo(line)


@click.command()
@click.argument("run", required=False, default="")
@click.option("--experiment", "-e", default="", metavar="NAME", help="Show only runs of this experiment.")
@with_context
def live(context: Context, run: str, experiment: str) -> None:
    """Show what active runs have cost so far.

    RUN is a name, an id, or the start of an id. Default: all runs that were active when MLflow was
    last read. The cost is approximate: hours that no bill has yet are priced as in the last 30 billed
    days, including hours since the last pipeline run.

    \b
    Examples:
      runspend live
      runspend live 3f1c9a7b
    """
    from runspend.actions.costs.running import find_running, running_as_json, say_nothing_runs, say_what_runs
    from runspend.warehouse.factory import open_warehouse

    with open_warehouse(context.settings).reader() as reader:
        now = context.now if context.is_now_given else datetime.now(timezone.utc)  # exact, not the start of the hour
        found = find_running(reader, now, run=run, experiment=experiment)
        lines = list(say_what_runs(found) if found else say_nothing_runs(reader, run=run, experiment=experiment))
    if context.as_json:
        print_json(running_as_json(found))
    else:
        for line in lines:
            click.echo(shown(pasteable(line)))


@click.command()
@click.option("--experiment", "-e", required=True, metavar="NAME", help="Experiment of the past runs.")
@click.option("--param", "params", multiple=True, metavar="KEY=VALUE", help="Use only runs with this parameter. Repeatable.")
@with_context
def forecast(context: Context, experiment: str, params: tuple[str, ...]) -> None:
    """Show what similar past runs cost.

    Shows the median cost, and the range of the middle 80%, of the runs of this experiment that ended in
    the last year. The cost of a run includes its nested runs.

    \b
    Example:
      runspend forecast --experiment vit-pretrain --param model=large
    """
    from runspend.actions.costs.runs_like import as_json, find_runs_like, say_what_it_costs
    from runspend.warehouse.factory import open_warehouse

    wanted = {}
    for text in params:
        key, has_value, value = text.partition("=")
        if not has_value:
            raise UsageError(f"cannot read --param {text}: write KEY=VALUE.")
        wanted[key] = value
    with open_warehouse(context.settings).reader() as reader:
        found = find_runs_like(reader, experiment, wanted, context.now)
    if context.as_json:
        print_json(as_json(found))
    else:
        click.echo("\n".join(say_what_it_costs(experiment, found)))


@click.command()
@click.argument("run", required=False)
@click.option("--resource", metavar="ID", help="Explain a machine or another resource of a bill, hour by hour.")
@click.option("--line", metavar="ID", help="Explain a charge, by its id or at least the first or last six characters of it.")
@click.option(
    "--period",
    callback=months,
    metavar="YYYY-MM",
    help="Explain only this billing period. Default: all periods of a run, the newest of a resource.",
)
@click.option("--history", is_flag=True, help="Also show what later versions of the bill changed for the run.")
@click.option("--full", is_flag=True, help="Show every hour, even if there are many.")
@with_context
def explain(
    context: Context, run: str | None, resource: str | None, line: str | None, period: str | None, history: bool, full: bool
) -> None:
    """Explain what a run, machine or charge costs.

    Shows every charge, the run's share of it, the allocation rule, and the other runs that share it.
    RUN is a run id, its first six or more characters, or its address in MLflow.

    \b
    Examples:
      runspend explain 3f1c9a7b
      runspend explain --resource i-0b7f3a9d
    """
    from runspend.actions import explain as explanations
    from runspend.warehouse.factory import open_warehouse

    if sum(given is not None for given in (run, resource, line)) != 1:
        raise UsageError("cannot explain: give exactly one of RUN, --resource ID and --line ID. Example: runspend explain 3f1c9a7b")
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
        click.echo(pasteable(text), nl=False)


@click.group(cls=InOrder)
def export() -> None:
    """Export costs for other tools."""


@export.command("prices")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="A JSON file. Default: standard output.")
@with_context
def export_prices(context: Context, out: Path | None) -> None:
    """Export prices for training jobs.

    Writes what an hour of each machine type cost in the last 30 days, and what finished runs of each
    experiment cost. Put the file where training jobs can read it, and set RUNSPEND_PRICES in the jobs
    to its path or address. Runs then show their cost while they train.

    \b
    Example:
      runspend export prices --out /srv/www/prices.json
    """
    import json

    from runspend.actions.costs.prices import is_price_list, list_prices
    from runspend.warehouse.factory import open_warehouse

    with open_warehouse(context.settings).reader() as reader:
        found = list_prices(reader, context.now)
    text = json.dumps(found, indent=1) + "\n"
    if out is None:
        click.echo(text, nl=False)
    else:
        write_file(out, text.encode(), "export prices", is_price_list)
        click.echo(f"{counted(len(found['prices']), 'price')} in {out}")


@export.command("focus")
@click.option("--period", required=True, callback=months, metavar="YYYY-MM", help="Billing period to export.")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="A .csv, .csv.gz or .parquet file. Default: runspend-focus-YYYY-MM.csv.",
)
@click.option(
    "--scope",
    type=click.Choice(["all", "platform"]),
    default="all",
    show_default=True,
    help="Export the whole bill (all), or leave out out-of-scope charges (platform).",
)
@click.option("--focus-version", type=click.Choice(["1.3", "1.4", "1.2"]), default="1.3", show_default=True, help="Version of FOCUS.")
@click.option("--all-columns", is_flag=True, help="Write all columns of the version, even empty ones.")
@click.option("--guard-formulas", is_flag=True, help="Keep spreadsheets from running names in the CSV as formulas.")
@with_context
def export_focus(
    context: Context, period: str, out: Path | None, scope: str, focus_version: str, all_columns: bool, guard_formulas: bool
) -> None:
    """Export costs as a FOCUS dataset.

    Writes FOCUS Cost and Usage data with one row per charge and run, including the Allocated columns. Columns without a value in the
    period are left out, as FOCUS requires. Add --all-columns for queries that name them.

    \b
    Examples:
      runspend export focus --period 2026-10 --out october.parquet
      runspend export focus --period 2026-10 --out october.parquet --focus-version 1.4 --all-columns
    """
    from runspend.actions.export import export_focus as write_focus
    from runspend.core.amounts import plain
    from runspend.warehouse.factory import open_warehouse

    target = out or Path(f"runspend-focus-{period}.csv")
    with open_warehouse(context.settings).reader() as reader:
        written = write_focus(
            reader,
            period,
            target,
            scope=scope,
            version=focus_version,
            all_columns=all_columns,
            guard_formulas=guard_formulas,
            progress=context.progress,
        )
    context.clear_progress()
    if context.as_json:
        totals = [{name: value if isinstance(value, str) else plain(value) for name, value in vars(t).items()} for t in written.totals]
        print_json({"file": str(written.path), "rows": written.rows, "totals": totals})
        return
    for total in written.totals:
        click.echo(
            f"{total.source}: effective {plain(total.effective_cost)} {total.currency}, billed {plain(total.billed_cost)}{' = the bill' if scope == 'all' else ''}"
        )
    click.echo(f"{written.path}: {written.rows:,} rows, FOCUS {focus_version}")


@export.command("dbt")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="A YAML file. Default: standard output.")
def export_dbt(out: Path | None) -> None:
    """Export the tables as sources for dbt.

    Writes the tables of `runspend publish` with their columns, descriptions and tests. Needs neither
    data nor a configuration.

    \b
    Example:
      runspend export dbt --out models/runspend_sources.yml
    """
    from runspend.actions.export.dbt_sources import dbt_sources, is_dbt_sources

    if out is None:
        click.echo(dbt_sources(), nl=False)
    else:
        write_file(out, dbt_sources().encode(), "export dbt", is_dbt_sources)
        click.echo(f"{out}: written")


@export.command("hyper")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    default=Path("runspend.hyper"),
    show_default=True,
    help="A .hyper file, or a .twbx file that includes a workbook.",
)
@with_context
def export_hyper(context: Context, out: Path) -> None:
    """Export costs as a Tableau extract.

    Writes the public tables and `costs_for_dashboards`. A .hyper file also gets two data sources
    (.tds) and a workbook (.twb) next to it. Files that you changed in Tableau are kept.

    \b
    Examples:
      runspend export hyper --out /srv/shared/runspend.hyper
      runspend export hyper --out runspend.twbx
    """
    from runspend.actions.export.hyper import export_hyper as write_extract
    from runspend.actions.publish import open_content
    from runspend.warehouse.factory import open_warehouse

    with open_content(open_warehouse(context.settings)) as content:
        written = write_extract(content, out, context.now, context.progress)
    context.clear_progress()
    if context.as_json:
        beside = {"written": [str(path) for path in written.written], "kept": [str(path) for path in written.kept]}
        print_json({"file": str(written.path), "build_id": written.build_id, "rows": written.rows, **beside})
        return
    tables = ", ".join(f"{name} {count:,}" for name, count in written.rows.items())
    click.echo(f"{written.path}: build {written.build_id}, {f'rows of {tables}' if tables else 'unchanged'}")
    for path in written.written:
        click.echo(f"{path}: written")
    for path in written.kept:
        click.echo(f"{path}: kept, because it was changed. Delete it to get a new one.")


@export.command("superset")
@click.option(
    "--uri",
    default="",
    metavar="URI",
    help="Address of the PostgreSQL database. Default: that of the first PostgreSQL target in `publish`, with the login `superset`.",
)
@click.option("--schema", default="", metavar="NAME", help="Schema of the tables in the database. Default: the schema of that target.")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    default=Path("runspend-superset.zip"),
    show_default=True,
    help="A ZIP file.",
)
@with_context
def export_superset(context: Context, uri: str, schema: str, out: Path) -> None:
    """Export a dashboard for Superset.

    Writes a ZIP that Superset imports: the database, two datasets, five charts, one dashboard. It
    contains no password: Superset asks for it at import.

    \b
    Example:
      runspend export superset --uri postgresql://superset@db:5432/costs
    """
    from runspend.actions.export.superset_files import as_reader, database_uri, is_superset_zip, superset_zip
    from runspend.config.publish import PostgresTarget

    target = next((target for target in context.settings.publish if isinstance(target, PostgresTarget)), None)
    if not uri:
        if target is None:
            raise UsageError("cannot export for Superset: there is no target of `publish` with `kind: postgres`. Add one, or give --uri.")
        uri = as_reader(target.uri.get_secret_value())
    write_file(out, superset_zip(uri, schema or (target.schema_name if target else "runspend")), "export superset", is_superset_zip)
    if context.as_json:
        print_json({"file": str(out), "database": database_uri(uri)})
    else:
        click.echo(f"{out}: written, for the database {database_uri(uri)}")


@click.command()
@click.argument("statement", required=False)
@click.option(
    "-f",
    "--file",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path),
    metavar="FILE",
    help="Read the statement from a file. - means standard input.",
)
@click.option("--tables", is_flag=True, help="List the tables, or the columns of one table.")
@click.option("--native", is_flag=True, help="Use the SQL of the warehouse's engine instead of GoogleSQL.")
@click.option("--explain-cost", is_flag=True, help="Only estimate what the query would read and cost (BigQuery).")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=300,
    show_default=True,
    metavar="SECONDS",
    help="Stop a query after this time.",
)
@format_option
@with_context
def sql(
    context: Context,
    statement: str | None,
    file: Path | None,
    tables: bool,
    native: bool,
    explain_cost: bool,
    timeout: float,
    form: str | None,
) -> None:
    """Query the tables with SQL.

    Runs one read-only SELECT. All tables are as of the same pipeline run. Without a statement, lists
    the tables.

    \b
    Examples:
      runspend sql "select team, sum(effective_cost) as cost from cost_daily group by team"
      runspend sql -f costs.sql --format csv > costs.csv
      runspend sql --tables run_costs
    """
    form = form_of(context, form)
    statement = _statement_of(statement, file)
    if tables or statement is None:
        from runspend.actions.costs.query import tables_rows, tables_text

        if form == "table":
            click.echo(pasteable(tables_text(statement)), nl=False)
        else:
            print_rows(tables_rows(statement), form)
        return
    if explain_cost:
        from runspend.warehouse.bigquery.dry_run import question_bytes, size_words

        size = question_bytes(context.settings, statement)
        if form == "json":
            print_json({"bytes": size})
        else:
            click.echo(f"would read {size_words(size)}; nothing was run")
        return
    from runspend.config.access_log import log_statement
    from runspend.warehouse.factory import open_warehouse

    try:
        with _ended_after(
            timeout + GRACE, timeout, partial(log_statement, context.settings, statement, native=native, rows=None, error="SqlRefused")
        ):
            rows = open_warehouse(context.settings).answer(statement, native=native, timeout=timeout)
    except BaseException as error:  # log the statement even after a bug or Ctrl-C
        log_statement(context.settings, statement, native=native, rows=None, error=type(error).__name__)
        raise
    log_statement(context.settings, statement, native=native, rows=rows.num_rows)
    print_rows(rows, form)


def _statement_of(statement: str | None, file: Path | None) -> str | None:
    """Return the statement from the argument, a file, or standard input (`-`). None if none of them is given.

    Raises UsageError if both the argument and a file are given, or if the text is empty or cannot be read.
    """
    if statement is not None and file is not None:
        raise UsageError("cannot answer: STATEMENT and --file are both given. Give only one.")
    if statement == "-":
        file = Path("-")
    if file is None:
        return statement
    is_stdin = str(file) == "-"
    name = "standard input" if is_stdin else str(file)
    try:
        written: bytes = sys.stdin.buffer.read() if is_stdin else file.read_bytes()
        text = written.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise UsageError(f"cannot read {name}: {why}. Give a file with one SELECT.") from None
    if not text.strip():
        raise UsageError(f"cannot answer: {name} is empty. Give one SELECT.")
    return text


@contextmanager
def _ended_after(seconds: float, timeout: float, note: Callable[[], None]) -> Iterator[None]:
    """End the process if the block still runs after `seconds`. `note` is called first, and the message names `timeout`.

    An engine checks for interrupts only between pieces of work, and one piece may take minutes.
    """

    def end() -> None:
        note()
        click.echo(
            f"error: cannot answer: it took longer than {timeout:g} s and was stopped. Nothing was changed. Query less, or raise --timeout.",
            err=True,
        )
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
    """Show whether every source is up to date.

    Prints one line for monitors. Exit code 3: a source is late, refused or was never read. Exit
    code 4: a file of Runspend is malformed.

    \b
    Example:
      runspend status
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
@click.option("--port", type=click.IntRange(0, 65535), default=8321, show_default=True, help="Port to listen on. 0 picks a free one.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on. Change it only behind a reverse proxy.")
@partial(with_context, has_json=False)
def serve(context: Context, port: int, host: str) -> None:
    """Serve the reports and the cost explorer here.

    The address is http://127.0.0.1:PORT; /explore groups, filters and compares costs. Pages are
    read-only, and other machines cannot reach them. --host opens them to a reverse proxy that `access`
    in runspend.yaml names.

    \b
    Example:
      runspend serve
    """
    from runspend.interfaces.web.serve import check_access, serve_on, take_port

    settings = context.settings
    check_access(settings, host)
    with take_port(port, host) as taken:
        shown = f"[{host}]" if ":" in host else host
        click.echo(f"http://{shown}:{taken.getsockname()[1]}/  (Ctrl-C ends it)")
        serve_on(taken, settings)


@click.command()
@click.option("--http", is_flag=True, help="Serve on a port of this machine. Default: standard input and output.")
@click.option("--port", type=click.IntRange(0, 65535), default=8322, show_default=True, help="Port for --http. 0 picks a free one.")
@partial(with_context, has_json=False)
def mcp(context: Context, http: bool, port: int) -> None:
    """Serve costs to AI assistants over MCP.

    Serves these tools over the Model Context Protocol: costs, explain, budgets, sql, tables, advice.
    All of them only read. An MCP client starts this command and talks to it over standard input and
    output. With --http, the address is http://127.0.0.1:PORT/mcp, and other machines cannot reach it.

    \b
    Examples:
      runspend mcp --config /srv/runspend/runspend.yaml
      runspend mcp --http
    """
    from runspend.interfaces.mcp_server.server import serve_http, serve_stdio
    from runspend.interfaces.web.serve import HOST, take_port

    settings = context.settings

    def clock() -> datetime:
        return context.now if context.is_now_given else datetime.now(timezone.utc)

    if http:
        if settings.access is not None:
            raise UsageError(
                "cannot serve MCP over HTTP: `access` restricts who sees which costs, and MCP tools cannot identify the user. Use the HTTP API, or MCP on"
                " standard input and output for those who can read the warehouse. Nothing is served."
            )
        with take_port(port) as taken:
            click.echo(f"http://{HOST}:{taken.getsockname()[1]}/mcp  (Ctrl-C ends it)")
            serve_http(taken, settings, clock)
        return
    if sys.stdin.isatty():
        click.echo("waiting for an MCP client on standard input (Ctrl-C ends it)", err=True)
    serve_stdio(settings, clock)
