"""Commands on the way to a first report: `init`, `doctor`, `config`, `suggest`, `try`, `demo`, `identify`."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from runspend.interfaces.cli.context import Context, pasteable, shown, with_context
from runspend.interfaces.cli.output import print_json
from runspend.interfaces.cli.steps import DEMO_FOLDER, run_nightly


@click.command()
@click.option("--full", is_flag=True, help="Write every key, with its default and a comment.")
@click.option("--force", is_flag=True, help="Overwrite an existing runspend.yaml.")
@with_context
def init(context: Context, full: bool, force: bool) -> None:
    """Write a starter runspend.yaml.

    Fills in what it finds here: MLFLOW_TRACKING_URI, ./mlruns, ./mlflow.db, AWS or gcloud settings.

    \b
    Example:
      runspend init && runspend doctor
    """
    from runspend.config.starter import write_starter

    path = context.config or Path("runspend.yaml")
    notes = write_starter(path, full=full, force=force)
    following = f"runspend doctor --config {shlex.quote(str(path))}"
    if context.as_json:
        print_json({"file": str(path), "notes": notes, "next": following})
    else:
        click.echo("\n".join([f"wrote {path}", *notes, f"next: {following}"]))


@click.command()
@click.option(
    "--quick", is_flag=True, help="Only check connections. Before the first pipeline run, the preview of costs reads the whole bill."
)
@with_context
def doctor(context: Context, quick: bool) -> None:
    """Check connections and configuration.

    Also previews how costs are allocated. Changes nothing and sends nothing.

    \b
    Example:
      runspend doctor
    """
    from runspend.interfaces.doctor import can_be_tried, diagnose, exit_code, render, with_idle_pools
    from runspend.interfaces.preview import foresee, outlook_lines, render_outlook

    findings = diagnose(context.settings, now=context.now)
    outlook = None if quick or not can_be_tried(findings) else foresee(context.settings, now=context.now, progress=context.progress)
    context.clear_progress()
    findings = with_idle_pools(findings, () if outlook is None else outlook.idle_pools)
    if context.as_json:
        seen = (
            []
            if outlook is None
            else [{"section": "outlook", "name": name, "level": "ok", "text": text} for name, text in outlook_lines(outlook)]
        )
        print_json([*({"section": f.section, "name": f.name, "level": f.level, "text": f.text} for f in findings), *seen])
        raise SystemExit(exit_code(findings))
    click.echo(pasteable(render(findings)))
    if outlook is not None:
        click.echo(pasteable(f"\n{render_outlook(outlook)}"), nl=False)
    raise SystemExit(exit_code(findings))


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def identify(as_json: bool) -> None:
    """Show how runs identify themselves here.

    Prints the tags that MLflow runs started in this environment get, where each value comes from,
    and what each metadata service answered. Contacts only the metadata service of this machine's
    cloud, and changes nothing.

    \b
    Example:
      runspend identify
    """
    from runspend.interfaces.identify.identity import SWITCH, find_complete_identity, is_off, say_of_services

    found = [] if is_off() else find_complete_identity(seconds=10)
    if as_json:
        print_json([{"key": one.key, "value": one.value, "origin": one.origin} for one in found])
        return
    if is_off():
        click.echo(f"Runs here do not identify themselves: {SWITCH} is off.")
        return
    if not found:
        click.echo("Nothing here identifies this machine.")
    else:
        rows = [("TAG", "VALUE", "FROM"), *((one.key, one.value, one.origin) for one in found)]
        widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
        for key, value, origin in rows:
            click.echo(f"{key:{widths[0]}}  {value:{widths[1]}}  {origin}")
    click.echo("\nMetadata services:")
    for name, answer in say_of_services().items():
        click.echo(f"  {name}: {answer}")


@click.command()
@click.option("--schema", is_flag=True, help="Print the JSON Schema of runspend.yaml instead.")
@with_context
def config(context: Context, schema: bool) -> None:
    """Show the configuration.

    Defaults are filled in and marked. Secrets are hidden.

    \b
    Examples:
      runspend config
      runspend config --schema > runspend.schema.json
    """
    from runspend.config.settings import json_schema, show_settings

    if schema:
        print_json(json_schema())
        return
    text = show_settings(context.settings)
    if context.as_json:
        import yaml

        print_json(yaml.safe_load(text))
    else:
        click.echo(text, nl=False)


@click.command()
@click.option("--write", is_flag=True, help="Write the proposed pools into runspend.yaml.")
@with_context
def suggest(context: Context, write: bool) -> None:
    """Propose pools for runs without a machine.

    Compares the hours that machines were billed with the hours that runs ran, in the two newest
    billing periods of the warehouse. Prints the pools that fit as YAML, with the evidence as
    comments. Costs stay as they are until the pools are in runspend.yaml. --write adds them and
    leaves the rest of the file as it is.

    \b
    Example:
      runspend suggest --write && runspend nightly
    """
    from runspend.allocation.suggest import add_pools, as_records, header_lines, proposals_yaml, propose_pools
    from runspend.warehouse.factory import open_warehouse

    settings = context.settings
    found = propose_pools(open_warehouse(settings), settings)
    heading = header_lines(found)
    if context.as_json:
        print_json(as_records(found))
    elif found.proposals:
        click.echo(shown("\n".join([*(f"# {line}" for line in heading), proposals_yaml(found)])), nl=False)
    else:
        click.echo(pasteable(f"# no pools proposed: {found.reason}"))
    if write and found.proposals and settings.path is not None:
        add_pools(settings.path, found.proposals, heading)
        click.echo(pasteable(f"wrote {len(found.proposals)} pools to {settings.path}. Next: runspend nightly"), err=True)


@click.command("try")
@click.option("--tracking", required=True, metavar="URI", help="Tracking URI of MLflow, such as http://mlflow:5000 or sqlite:///mlflow.db.")
@click.option(
    "--bill", required=True, metavar="PLACE", help="Bill in any supported format: a file, a folder, or a prefix (s3://, gs://, abfss://)."
)
@click.option(
    "--folder",
    type=click.Path(path_type=Path),
    default=Path(".runspend-try"),
    show_default=True,
    help="Folder for everything this command writes.",
)
@with_context
def try_(context: Context, tracking: str, bill: str, folder: Path) -> None:
    """Report on your MLflow and bill in minutes.

    Writes to one folder only and sends nothing. If runs do not state where they ran, proposes pools
    from the hours of runs and machines, and shows the result with and without them. All other
    commands work with the runspend.yaml in that folder.

    \b
    Example:
      runspend try --tracking http://mlflow:5000 --bill ./last-month.csv.gz
    """
    from runspend.interfaces.trial import begin

    trial = begin(tracking, bill, folder, now=context.now, progress=context.progress)
    context.__dict__["settings"] = Context.loaded = trial.settings
    Context.given = trial.settings.path
    run_nightly(context, (), (), trial=trial)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), default=DEMO_FOLDER)
@with_context
def demo(context: Context, folder: Path) -> None:
    """Create a demo company to explore.

    Writes one month of MLflow runs, artifacts and bills, and a runspend.yaml that names them.

    \b
    Example:
      runspend demo && runspend nightly --config .runspend-demo/runspend.yaml
    """
    from runspend.interfaces.demo import make_world

    made = make_world(folder, progress=context.progress)
    context.clear_progress()
    if context.as_json:
        print_json({"config": str(made.config), "runs": made.runs, "machines": made.machines, "now": made.now.isoformat()})
        return
    click.echo(f"wrote {made.config} ({made.runs} runs, {made.machines} machines), as of {made.now:%Y-%m-%dT%H:%M} UTC")
