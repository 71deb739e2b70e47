"""Print answers: outcomes, rows, columns and JSON. The answers are computed in other modules."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runspend.core.errors import UsageError
from runspend.core.text import counted
from runspend.interfaces.cli.context import Context, pasteable, shown

if TYPE_CHECKING:
    import pyarrow as pa

    from runspend.config.settings import Settings
    from runspend.core.step_result import Outcome
    from runspend.warehouse.bigquery.dry_run import QueryCosts


format_option = click.option(
    "--format", "form", type=click.Choice(["table", "csv", "json"]), help="Output format. CSV and JSON have exact values. Default: table."
)


def form_of(context: Context, form: str | None) -> str:
    """Return the format that `--format` and `--json` together request."""
    if context.as_json and form not in (None, "json"):
        raise UsageError(f"cannot print {form} and JSON: --format {form} and --json are both given. Give only one.")
    return "json" if context.as_json else form or "table"


def write_file(out: Path, content: bytes, command: str, is_ours: Callable[[Path], bool]) -> None:
    """Write the file that `--out` names, completely or not at all.

    Raises UsageError if its folder does not exist, or if it would replace a file of another kind.
    """
    from runspend.core.own_files import check_replaceable, write_whole

    check_replaceable(out, command, is_ours)
    write_whole(out, content)


def query(settings: Settings, sql: str, parameters: dict[str, Any]) -> pa.Table:
    """Return the rows of one query of the warehouse."""
    from runspend.warehouse.factory import open_warehouse

    with open_warehouse(settings).reader() as reader:
        return reader.query(sql, parameters)


def print_query_costs(context: Context, found: QueryCosts) -> None:
    """Print how many bytes each model would read, and what that would cost."""
    if context.as_json:
        print_json([{"period": period, "model": model, "bytes": size} for period, model, size in found.sizes])
    else:
        click.echo("\n".join(found.lines()))


def print_outcome(context: Context, outcome: Outcome, **more: Any) -> None:
    """Print the outcome of a step and end the process with its exit code. In JSON, `more` adds keys."""
    context.clear_progress()
    if context.as_json:
        print_json(
            {
                "step": outcome.step,
                "exit_code": outcome.exit_code,
                "changed": outcome.changed,
                "unchanged": outcome.unchanged,
                "problems": outcome.problems,
                "notes": outcome.notes,
                "found": outcome.found,
                **more,
            }
        )
        raise SystemExit(outcome.exit_code)
    for label, lines in (("changed", outcome.changed), ("found", outcome.found), ("note", outcome.notes), ("problem", outcome.problems)):
        for line in lines:
            click.echo(f"{label:9}{shown(pasteable(line))}", err=label == "problem")
    click.echo(
        f"{outcome.step}: {len(outcome.changed)} changed, {len(outcome.unchanged)} unchanged, {counted(len(outcome.problems), 'problem')}"
    )
    raise SystemExit(outcome.exit_code)


def print_rows(rows: pa.Table, form: str = "table", *, is_money: bool = False) -> None:
    """Print rows as a table, CSV or JSON. In a table, amounts are rounded if `is_money`; CSV and JSON have exact values."""
    from runspend.actions.costs.query import as_values, csv_text, table_text

    if form == "json":
        print_json(as_values(rows))
    elif form == "csv":
        text = csv_text(rows)
        click.echo(shown(text) if sys.stdout.isatty() else text, nl=False)
    else:
        click.echo(table_text(rows, is_money=is_money), nl=False)


def print_columns(lines: Sequence[tuple[str, ...]]) -> None:
    """Print cells in aligned columns. Characters that could move the cursor are replaced."""
    shown = [["".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in cell) for cell in line] for line in lines]
    widths = [max(len(cell) for cell in column) for column in zip(*shown, strict=True)]
    for line in shown:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def print_json(value: Any) -> None:
    """Print one JSON value. Values that JSON does not have become text."""
    click.echo(json.dumps(value, indent=2, default=str, ensure_ascii=False))
