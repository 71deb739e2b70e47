"""From nothing to a first report: `init`, `doctor`, `config`, `try`, `demo`."""

from __future__ import annotations

from pathlib import Path

import click

from runspend.interfaces.cli.context import Context, with_context
from runspend.interfaces.cli.output import print_json, shown
from runspend.interfaces.cli.steps import DEMO_FOLDER, run_night


@click.command()
@click.option("--full", is_flag=True, help="Write every key with its default and a comment.")
@click.option("--force", is_flag=True, help="Overwrite a runspend.yaml that is there.")
@with_context
def init(context: Context, full: bool, force: bool) -> None:
    """Write a runspend.yaml from what is found here: MLFLOW_TRACKING_URI, ./mlruns, AWS or gcloud settings.

    Example: runspend init && runspend doctor
    """
    from runspend.config.starter import write_starter

    path = context.config or Path("runspend.yaml")
    for line in write_starter(path, full=full, force=force):
        click.echo(line)


@click.command()
@click.option("--quick", is_flag=True, help="Only try the connections; leave out what you would see, which reads the whole bill where no night has run.")
@with_context
def doctor(context: Context, quick: bool) -> None:
    """Try every connection and say what is missing, and what you would see. Nothing is changed, nothing is sent.

    Example: runspend doctor
    """
    from runspend.interfaces.doctor import can_be_tried, diagnose, exit_code, render
    from runspend.interfaces.preview import foresee, outlook_lines, render_outlook

    findings = diagnose(context.settings, now=context.now)
    outlook = None if quick or not can_be_tried(findings) else foresee(context.settings, now=context.now, progress=context.progress)
    context.clear_progress()
    if context.as_json:
        seen = [] if outlook is None else [{"section": "outlook", "name": name, "level": "ok", "text": text} for name, text in outlook_lines(outlook)]
        print_json([*({"section": f.section, "name": f.name, "level": f.level, "text": f.text} for f in findings), *seen])
        raise SystemExit(exit_code(findings))
    click.echo(render(findings))
    if outlook is not None:
        click.echo(f"\n{render_outlook(outlook)}", nl=False)
    raise SystemExit(exit_code(findings))


@click.command()
@click.option("--show", is_flag=True, help="Print the configuration as it is understood, defaults filled in, secrets hidden.")
@click.option("--schema", is_flag=True, help="Print the JSON Schema of runspend.yaml.")
@with_context
def config(context: Context, show: bool, schema: bool) -> None:
    """Show the configuration, or its JSON Schema.

    Example: runspend config --show
    """
    from runspend.config.settings import json_schema, show_settings

    if schema:
        print_json(json_schema())
    elif show:
        click.echo(show_settings(context.settings), nl=False)
    else:
        click.echo(str(context.settings.path))


@click.command()
@click.option("--write", is_flag=True, help="Put the proposed pools into runspend.yaml.")
@with_context
def suggest(context: Context, write: bool) -> None:
    """Propose pools for runs that state no machine.

    Compares the hours that machines were billed with the hours that runs ran, in the newest two
    billing periods of the warehouse, and prints the pools that fit as YAML, with the evidence as
    comments. No figure changes before the pools are in runspend.yaml: --write puts them there and
    leaves everything else in the file as it is.

    Example: runspend suggest --write && runspend nightly
    """
    from runspend.allocation.suggest import add_pools, as_records, header_lines, proposals_yaml, propose_pools
    from runspend.warehouse import open_warehouse

    settings = context.settings
    found = propose_pools(open_warehouse(settings), settings)
    heading = header_lines(found)
    if context.as_json:
        print_json(as_records(found))
    elif found.proposals:
        click.echo(shown("\n".join([*(f"# {line}" for line in heading), proposals_yaml(found)])), nl=False)
    else:
        click.echo(f"# nothing to propose: {found.reason}")
    if write and found.proposals and settings.path is not None:
        add_pools(settings.path, found.proposals, heading)
        click.echo(f"wrote {len(found.proposals)} pools to {settings.path}. Next: runspend nightly", err=True)


@click.command("try")
@click.option("--tracking", required=True, help="Tracking URI of MLflow, e.g. http://mlflow:5000 or sqlite:///mlflow.db.")
@click.option("--bill", required=True, help="A bill in any format that is read: a file, a folder, or a prefix in a store (s3://, gs://, abfss://).")
@click.option("--folder", type=click.Path(path_type=Path), default=Path(".runspend-try"), show_default=True, help="The only folder that is written to.")
@with_context
def try_(context: Context, tracking: str, bill: str, folder: Path) -> None:
    """A report on your own MLflow and bill in minutes. Writes one folder of its own, sends nothing.

    Where runs do not say where they ran, it proposes pools from the hours of runs and machines, accepts
    them in its own folder, and says what is known with and without them. The folder's runspend.yaml
    works with every other command.

    Example: runspend try --tracking http://mlflow:5000 --bill ./last-month.csv.gz
    """
    from runspend.interfaces.trial import begin

    trial = begin(tracking, bill, folder, now=context.now, progress=context.progress)
    context.__dict__["settings"] = Context.loaded = trial.settings
    run_night(context, (), (), trial=trial)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), default=DEMO_FOLDER)
@with_context
def demo(context: Context, folder: Path) -> None:
    """Make a small company's month: MLflow stores, artifacts and bills, and a runspend.yaml that points at them.

    Example: runspend demo && runspend nightly --config .runspend-demo/runspend.yaml
    """
    from runspend.interfaces.demo import make_world

    made = make_world(folder, progress=context.progress)
    context.clear_progress()
    click.echo(f"made {made.config} ({made.runs} runs, {made.machines} machines); its time is {made.now:%Y-%m-%dT%H:%M}")
