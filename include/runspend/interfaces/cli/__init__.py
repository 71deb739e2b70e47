"""The command line. A command parses its options, calls one function, prints the result and ends with its exit code.

The exit codes are in docs/operations.md.
"""

from __future__ import annotations

import atexit
import gc
import os
import traceback

import click

from runspend import __version__
from runspend.core.ctrl_c import watch_for_ctrl_c
from runspend.core.errors import RunspendError, UsageError
from runspend.core.extras import missing_extra
from runspend.core.machine_faults import machine_failed
from runspend.core.own_files import private_umask
from runspend.interfaces.cli.admin import sources, warehouse
from runspend.interfaces.cli.archive import archive
from runspend.interfaces.cli.budgets import budgets
from runspend.interfaces.cli.context import Context, pasteable, shown
from runspend.interfaces.cli.query import costs, explain, export, forecast, live, mcp, serve, sql, status
from runspend.interfaces.cli.setup import config, demo, doctor, identify, init, suggest, try_
from runspend.interfaces.cli.statement import statement
from runspend.interfaces.cli.steps import STEPS, nightly, verify

__all__ = ["cli", "main"]


# The commands in the order in which users need them.
SECTIONS: dict[str, tuple[click.Command, ...]] = {
    "Start": (try_, demo, init, config, identify, doctor, suggest),
    "Run the pipeline, or one step": (nightly, *STEPS),
    "Ask": (status, costs, live, forecast, explain, sql, serve, mcp, export),
    "Act": (budgets, statement, archive),
    "Maintain": (verify, sources, warehouse),
}


class Sections(click.Group):
    """A group whose help lists its commands by section."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one list per section. The column of names has the same width in all lists."""
        width = max(map(len, self.commands))
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(str(command.name).ljust(width), command.get_short_help_str(formatter.width)) for command in commands])


@click.group(cls=Sections, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="runspend", help="Show the version.")
def cli() -> None:
    """What every MLflow run costs, why, and who should know.

    \b
    First steps:
      runspend try --tracking URI --bill FILE
      runspend init
      runspend nightly
    """


for section in SECTIONS.values():
    for command in section:
        cli.add_command(command)
Context.root = cli


def main() -> None:
    """Run the command line.

    An expected error prints one line and sets its exit code. A bug prints a traceback and sets exit code 1. Secrets are hidden in both.
    """
    private_umask()
    # By default, DuckDB frees memory at once and soon needs it again. That takes a sixteenth of the time of `allocate` on a large bill.
    os.environ.setdefault("DUCKDB_JE_MALLOC_CONF", "dirty_decay_ms:20000")
    gc.set_threshold(100_000)  # imported objects stay in memory: scanning them again and again takes a tenth of the startup time
    atexit.register(gc.freeze)  # the same at the end, which saves a sixth of a second
    try:
        with watch_for_ctrl_c():
            cli.main(standalone_mode=False)
    except (click.exceptions.Abort, KeyboardInterrupt):
        click.echo("Stopped. Finished steps stay published. Run the command again to do the rest.", err=True)
        raise SystemExit(130) from None
    except click.ClickException as error:
        error.show()
        raise SystemExit(UsageError.exit_code) from None
    except RunspendError as error:
        click.echo(f"error: {_without_secrets(str(error))}", err=True)
        raise SystemExit(error.exit_code) from None
    except Exception as error:  # noqa: BLE001 (any error must be printed without secrets)
        if (failed := missing_extra(error) or machine_failed(error)) is not None:
            click.echo(f"error: {_without_secrets(str(failed))}", err=True)
            raise SystemExit(failed.exit_code) from None
        click.echo(_without_secrets(traceback.format_exc()), nl=False, err=True)
        click.echo("This is a bug in Runspend. No partial result was published.", err=True)
        raise SystemExit(RunspendError.exit_code) from None


def _without_secrets(text: str) -> str:
    from runspend.config.settings import redact

    return shown(pasteable(redact(text, Context.loaded)))
