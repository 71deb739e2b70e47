"""Issues the statements of teams for a month, writes them as files, and mails them.

If the step is killed at any point and run again, it makes the same statements with the same numbers. Each mail is sent at least once.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from runspend.config.access import is_own_budget
from runspend.config.recipients import mailed_addresses
from runspend.config.settings import Settings
from runspend.config.types import address_of
from runspend.core.amounts import add, change, money, month_name
from runspend.core.crash_points import crash_point
from runspend.core.errors import PartialFailure, UsageError
from runspend.core.lock_holders import lock_in_time
from runspend.core.own_files import open_lock, own_folder, read_bytes
from runspend.core.step_result import Outcome, Progress, silent
from runspend.core.text import clean
from runspend.pipeline.damage import watching
from runspend.pipeline.monitoring import note_undelivered
from runspend.warehouse.factory import open_warehouse

if TYPE_CHECKING:
    from runspend.actions.alert.message import Attachment
    from runspend.actions.alert.render import Block
    from runspend.actions.statement import Document, Issued, Month
    from runspend.warehouse.records import Records


LOCK_WAIT = 600.0  # seconds to wait for another process that issues statements
MOST_ATTACHED = 5_000_000  # bytes of an attached file
TOP = 10  # experiments in a mail


@dataclass(frozen=True)
class Request:
    """The statements to make.

    `teams`: for these teams. `no_team`: also for costs without a team. `is_all`: for all teams. `prints`: also make PDFs.
    `is_mailed`: mail them to the teams' recipients. `to`: mail them to these addresses instead.
    """

    period: str
    teams: Sequence[str] = ()
    no_team: bool = False
    is_all: bool = False
    prints: bool = True
    is_mailed: bool = False
    to: Sequence[str] = ()


@dataclass(frozen=True)
class Stated:
    """One statement that was made, with its files and the state of its mail by recipient."""

    issued: Issued
    files: tuple[Path, ...]
    mail: dict[str, str]


@watching()
def statement(settings: Settings, request: Request, *, now: datetime, progress: Progress = silent) -> Outcome:
    """Make statements. `Outcome.reported["statements"]` has a `Stated` for each. `Outcome.reported["month"]` has their inputs.

    Raises UsageError if an address must not get mail, or if the month or a team has no allocated cost.
    """
    from runspend.actions import statement as statements
    from runspend.warehouse.records import Records

    outcome, records = Outcome("statement"), Records(settings.home)
    _check_addresses(settings, request.to)
    progress(f"statement {request.period}")
    with _one_at_a_time(settings.home):
        warehouse = open_warehouse(settings)
        if request.period not in (months := sorted({unit.period for unit in warehouse.states("cost_daily")})):
            known = f"Months with costs: {', '.join(months[-12:])}." if months else "Run `runspend nightly` first."
            raise UsageError(f"cannot make a statement of {request.period}: no cost of this month is allocated. {known}")
        with warehouse.reader() as reader:
            month = statements.plan_month(reader, settings, request.period, statements.issued_teams(records, request.period))
        teams = _chosen(month, request)
        made = []
        for team in teams:
            issued = statements.issue(records, month, team, now)
            made.append((issued, statements.write_files(issued, settings.home / "statements" / request.period)))
            label = f"statement {issued.name}"
            (outcome.changed if issued.is_new else outcome.unchanged).append(label)
        printed = _print(made, outcome, progress) if request.prints else {}
    if not month.is_issuable:
        why = ", ".join(month.open_bills) or "no bill of the month has a state yet"
        outcome.notes.append(
            f"{request.period} is not {month.policy.issue_when}: {why}. Preliminary statements have no number: do not book them"
        )
    billed = {bill.source for bill in month.bills}
    if missing := [source.name for source in settings.billing if source.name not in billed]:
        outcome.notes.append(f"no bill of {request.period} from {', '.join(missing)}: the statements are without it")
    if old := statements.outdated(records, month, teams):
        outcome.notes.append(
            f"{len(old)} other statements of {request.period} differ from the bill now: {', '.join(old[:5])}{', …' if len(old) > 5 else ''}. "
            f"Run: runspend statement --team all --period {request.period}"
        )
    outcome.notes += [
        f"{request.period} is closed, and changes since then are not applied: {changes}. To apply them, run: runspend allocate --period {request.period}"
        for changes in sorted({bill.ignored_changes for bill in month.bills if bill.ignored_changes})
    ]
    done = [(issued, (*paths, *printed.get(issued.name, ()))) for issued, paths in made]
    mailed = _mail(settings, records, done, request, outcome, now) if request.is_mailed or request.to else {}
    outcome.reported["month"] = month
    outcome.reported["statements"] = [Stated(issued, files, mailed.get(issued.name, {})) for issued, files in done]
    return outcome


@contextmanager
def _one_at_a_time(home: Path) -> Iterator[None]:
    folder = own_folder(home / "statements")
    with open_lock(folder / ".lock") as lock:  # the kernel releases it when the process dies
        lock_in_time(lock.fileno(), folder / ".lock", "issue statements", LOCK_WAIT)
        yield


def _chosen(month: Month, request: Request) -> list[str | None]:
    """Return the teams to make statements for, without duplicates. Raises UsageError for a team without cost and without a statement."""
    known = [team for team in month.statements if team is not None]
    if request.is_all:
        return list(month.statements)
    for team in request.teams:
        if team not in known:
            listed = ", ".join(known[:20]) or "none"
            raise UsageError(
                f"cannot make a statement of {team} for {request.period}: no cost of that month belongs to this team. Teams with a cost: {listed}."
            )
    return [*dict.fromkeys(request.teams), *([None] if request.no_team else [])]


def _print(made: Sequence[tuple[Issued, list[Path]]], outcome: Outcome, progress: Progress) -> dict[str, tuple[Path, ...]]:
    """Print each page that has no PDF yet. Return the PDFs by the name of the statement."""
    from runspend.actions import statement as statements

    found: dict[str, tuple[Path, ...]] = {}
    browser, failures = statements.find_browser(), list[str]()
    for issued, paths in made:
        page = next(path for path in paths if path.suffix == ".html")
        pdf = page.with_suffix(".pdf")
        if not pdf.is_file() and browser is not None:
            progress(f"print {issued.name}")
            if (why := statements.print_pdf(browser, page, pdf)) is not None:
                failures.append(f"{issued.name}: {why}")
            crash_point("statement.printed")
        if pdf.is_file():
            found[issued.name] = (pdf,)
    if browser is None and len(found) < len(made):
        outcome.notes.append(
            f"no PDF was made: none of {', '.join(statements.BROWSERS)} is on PATH. Page and CSV are written. Install one and run the command "
            "again, or print the page from a browser"
        )
    if failures:
        outcome.fail(
            PartialFailure(f"cannot print {len(failures)} of {len(made)} pages to PDF: {failures[0]}. Page and CSV are written.", failures)
        )
    return found


# --- mail ----------------------------------------------------------------------------------------------------------------


def _check_addresses(settings: Settings, to: Sequence[str]) -> None:
    """Raise UsageError for an address to which this configuration must not send mail."""
    for text in to:
        address = address_of(text)
        if address is None:
            raise UsageError(f"cannot mail to {text!r}: it is not one plain mail address. Nothing was done.")
        if not mailed_addresses(settings, [address]):
            raise UsageError(
                f"cannot mail to {text!r}: runspend.yaml has no address of its domain, or the domain is a public mail host. Add the address to "
                "mail.operators or mail.users, or the domain to mail.domains. Nothing was done."
            )


def _recipients(settings: Settings, team: str | None) -> list[str]:
    """Return the mail recipients of all budgets that select only this team. Without a team, return the operators.

    Statements are never sent to chats or pagers.
    """
    if team is None:
        recipients = list(settings.mail.operators)
    else:
        own = [b for b in settings.budgets if b.for_.keys() == {"team"} and is_own_budget([team], b.for_["team"])]
        recipients = [recipient for budget in own for recipient in budget.all_recipients()]
    return [recipient for recipient in dict.fromkeys(recipients) if not recipient.startswith("channel:")]


def _mail(
    settings: Settings,
    records: Records,
    done: Sequence[tuple[Issued, tuple[Path, ...]]],
    request: Request,
    outcome: Outcome,
    now: datetime,
) -> dict[str, dict[str, str]]:
    """Write each statement's mail into the outbox once, and send queued mail. Return the state of each mail by statement and recipient."""
    from runspend.actions import statement as statements
    from runspend.actions.alert.notices import write_statement_mail
    from runspend.actions.alert.outbox import receipt, send_outbox

    written: dict[str, tuple[str, list[str]]] = {}
    without = list[str | None]()
    for issued, paths in done:
        document = issued.document
        recipients = list(request.to) or _recipients(settings, document.team)
        if not recipients:
            without.append(document.team)
            continue
        mail_id = issued.name if document.number is not None else f"{issued.name}.{issued.digest[:12]}"
        files = _attachments(paths)
        subject, blocks = _compose(document, paths, [file.name for file in files])
        written[issued.name] = (write_statement_mail(settings.mail, records, mail_id, recipients, subject, blocks, files, now), recipients)
        crash_point("statement.mail_written")
    note_undelivered(outcome, send_outbox(settings, records, now))
    for team in without:
        why = "mail.operators is empty" if team is None else "no budget selects this team alone"
        do = "Add operators" if team is None else "Add a budget with `notify`"
        failure = f"cannot mail the statement of {statements.title_of(team)}: {why}. {do}, or give --to."
        outcome.fail(PartialFailure(failure, [failure]))
    return {name: {r: receipt(records, message_id, r).state for r in recipients} for name, (message_id, recipients) in written.items()}


def _wanted(paths: Sequence[Path]) -> list[Path]:
    has_pdf = any(path.suffix == ".pdf" for path in paths)
    return [path for path in paths if path.suffix != ".html" or not has_pdf]


def _attachments(paths: Sequence[Path]) -> list[Attachment]:
    """Return the CSV and the PDF as attachments. If there is no PDF, return the page instead. Files that are too large are left out.

    Raises RecordRefused for a symbolic link, because the mail would contain the linked file.
    """
    from runspend.actions.alert.message import Attachment

    types = {".csv": "text/csv", ".pdf": "application/pdf", ".html": "text/html"}
    contents = {path: read_bytes(path) for path in _wanted(paths) if path.lstat().st_size <= MOST_ATTACHED}
    return [
        Attachment(path.name, types[path.suffix], base64.b64encode(content).decode("ascii"))
        for path, content in contents.items()
        if content is not None
    ]


def _compose(document: Document, paths: Sequence[Path], attached: Sequence[str]) -> tuple[str, list[Block]]:
    """Return the subject and the content of a statement's mail."""
    from runspend.actions import statement as statements
    from runspend.actions.alert.render import Card, Facts, MailTable, Paragraph

    month, team = document.month, statements.title_of(document.team)
    totals = ", ".join(f"{money(sums.rounded)} {code}" for code, sums in document.totals.items())
    head = f"Statement {document.number}" if document.number else f"Preliminary statement of {team}, {month_name(month.period)}"
    blocks: list[Block] = [Card(tuple(("total", f"{money(sums.rounded)} {code}", "") for code, sums in list(document.totals.items())[:4]))]
    kind = "Chargeback" if month.policy.kind == "chargeback" else "Showback"
    blocks.append(Paragraph(f"{kind} statement of {team} for {month_name(month.period)}."))
    if document.number is None:
        blocks.append(Paragraph("It is preliminary: amounts may still change. Do not book them."))
    if document.before is not None:
        verb = "replaces" if document.number else "differs from"
        amounts = ", ".join(
            f"{change(add(s.rounded for (c, _), s in document.before.differences.items() if c == code))} {code}"
            for code in document.currencies
        )
        why = "; ".join(document.before.reasons)
        blocks.append(Paragraph(f"It {verb} {document.before.number} of {document.before.issued_at:%Y-%m-%d}: {amounts}. Why: {why}."))
    for code in document.currencies:
        parts = [(part, money(sums.rounded)) for (c, part), sums in document.sums.items() if c == code]
        rows = (*parts, ("total", money(document.totals[code].rounded)))
        blocks.append(MailTable(f"PARTS, {code}", ("", code), "lr", rows))
        top = _top(document, code)
        if top:
            blocks.append(MailTable("MOST EXPENSIVE EXPERIMENTS", ("", code), "lr", tuple(top[:TOP])))
    files = [("attached", ", ".join(attached) or "nothing")]
    if left_out := [path.name for path in _wanted(paths) if path.name not in attached]:
        files.append(("too large for mail", f"{', '.join(left_out)}, in statements/{month.period} of Runspend's home"))
    blocks.append(Facts("FILES", (*files, ("policy", "`statements` in runspend.yaml, printed on the statement"))))
    return f"{head}: {totals}", blocks


def _top(document: Document, currency: str) -> list[tuple[str, str]]:
    """Return the experiments with their total cost, in the order of the statement."""
    costs: dict[str, list[object]] = {}
    for line in document.lines:
        if line.currency == currency and line.experiment is not None:
            costs.setdefault(line.experiment, []).append(line.rounded)
    return [(clean(name), money(add(amounts))) for name, amounts in costs.items()]  # type: ignore[arg-type]
