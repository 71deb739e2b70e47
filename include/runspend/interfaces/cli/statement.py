"""`runspend statement`: write the costs of a team for one month, for showback or chargeback."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from runspend.core.errors import UsageError
from runspend.interfaces.cli.context import Context, months, pasteable, shown, with_context
from runspend.interfaces.cli.output import print_columns, print_json

if TYPE_CHECKING:
    from runspend.actions.statement import Month
    from runspend.core.step_result import Outcome
    from runspend.pipeline.statement import Stated


@click.command()
@click.option(
    "--team", "teams", multiple=True, metavar="NAME", help="Write the statement of this team. `all` writes those of all teams. Repeatable."
)
@click.option("--no-team", is_flag=True, help="Write the statement of costs without a team. `--team all` includes it.")
@click.option("--period", required=True, callback=months, metavar="YYYY-MM", help="Write the statements of this billing period.")
@click.option(
    "--mail",
    is_flag=True,
    help="Mail each statement to the team's recipients.",
)
@click.option("--to", multiple=True, metavar="ADDRESS", help="Mail to this address instead. Repeatable.")
@click.option("--pdf/--no-pdf", "prints", default=True, help="Also write a PDF, if Chromium or Chrome is installed. Default: yes.")
@with_context
def statement(context: Context, teams: tuple[str, ...], no_team: bool, period: str, mail: bool, to: tuple[str, ...], prints: bool) -> None:
    """Write a team's monthly statement.

    Shows the team's direct cost and its part of idle and shared cost, as `statements` in runspend.yaml
    defines it. All statements of a month add up to the bill. Writes a page, a CSV and a PDF
    under HOME/statements. A statement of a closed month gets a number and never changes: if
    figures change later, a new version states what it replaces, the difference and why.

    \b
    Examples:
      runspend statement --team vision --period 2026-10
      runspend statement --team all --period 2026-10 --mail
    """
    from runspend.pipeline.statement import Request
    from runspend.pipeline.statement import statement as make

    if not teams and not no_team:
        raise UsageError("cannot make a statement: no team is given. Give --team NAME, --team all or --no-team.")
    request = Request(period, [team for team in teams if team != "all"], no_team, "all" in teams, prints, mail, to)
    outcome = make(context.settings, request, now=context.now, progress=context.progress)
    context.clear_progress()
    if context.as_json:
        print_json(
            {
                "exit_code": outcome.exit_code,
                "statements": [_as_json(one) for one in outcome.reported.get("statements", ())],
                "notes": outcome.notes,
                "problems": outcome.problems,
            }
        )
    else:
        _print(outcome, request.is_all)
    raise SystemExit(outcome.exit_code)


def _print(outcome: Outcome, is_all: bool) -> None:
    from runspend.core.amounts import change, money

    made: list[Stated] = outcome.reported.get("statements", [])
    rows = []
    for one in made:
        document = one.issued.document
        state = "preliminary" if document.number is None else "issued" if one.issued.is_new else "unchanged"
        endings = ",".join(path.suffix[1:] for path in one.files)
        for currency, sums in document.totals.items():
            rows.append(
                (one.issued.name, money(sums.rounded).rjust(14), currency, state, f"{_short(one.files[0].with_suffix(''))}.{endings}")
            )
    print_columns(rows)
    for one in made:
        before = one.issued.document.before
        if before is not None and one.issued.is_new:
            amounts = ", ".join(
                f"{part} {change(sums.rounded)} {code}" for (code, part), sums in before.differences.items() if sums.rounded
            )
            verb = "replaces" if one.issued.document.number else "differs from"
            click.echo(
                shown(f"{one.issued.name} {verb} {before.number}: {amounts or 'no amount changed'}. Why: {'; '.join(before.reasons)}")
            )
    if is_all and made:
        month: Month = outcome.reported["month"]
        whole = ", ".join(f"{money(sums.rounded)} {code}" for code, sums in month.whole.items())
        click.echo(f"{len(made)} statements add up to the bill of {month.period}: {whole}")
    for one in made:
        for recipient, state in one.mail.items():
            click.echo(shown(f"mail     {one.issued.name} to {recipient}: {state}"))
    for label, lines in (("note", outcome.notes), ("problem", outcome.problems)):
        for line in lines:
            click.echo(f"{label:9}{shown(pasteable(line))}", err=label == "problem")


def _short(path: Path) -> str:
    """Return the path relative to the working folder if it is inside that folder, otherwise unchanged."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _as_json(one: Stated) -> dict[str, Any]:
    from runspend.core.amounts import plain

    document = one.issued.document
    before = document.before
    return {
        "number": document.number,
        "version": document.version,
        "is_new": one.issued.is_new,
        "period": document.month.period,
        "team": document.team,
        "issued_at": document.issued_at.isoformat(),
        "policy": document.month.policy.model_dump(mode="json"),
        "totals": [
            {"currency": code, "cost": plain(sums.cost), "rounded_cost": f"{sums.rounded:f}"} for code, sums in document.totals.items()
        ],
        "lines": [
            {
                "experiment": line.experiment,
                "cost_center": line.cost_center,
                "part": line.part,
                "cost": plain(line.cost),
                "rounded_cost": f"{line.rounded:f}",
                "currency": line.currency,
            }
            for line in document.lines
        ],
        "replaces": None
        if before is None
        else {
            "number": before.number,
            "differences": [
                {"currency": code, "part": part, "cost": plain(sums.cost), "rounded_cost": plain(sums.rounded)}
                for (code, part), sums in before.differences.items()
            ],
            "reasons": list(before.reasons),
        },
        "files": [str(path) for path in one.files],
        "mail": one.mail,
    }
