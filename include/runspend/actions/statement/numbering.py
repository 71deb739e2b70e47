"""Number statements and record each version once. An issued statement never changes.

A version is two records. The first holds its page and CSV (kind "statement_texts"). The second is the statement itself (kind "statements"),
and writing it is the commit. The files in the output folder are copies. If the figures of a team and month are unchanged, the next run
returns the same version. Otherwise it issues the next version, which states the version that it replaces, the differences and the reasons.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Any

from runspend.actions.statement.document import Before, Document
from runspend.actions.statement.lines import PARTS, Line, Sums, Team
from runspend.actions.statement.plan import Month
from runspend.actions.statement.render import render_csv, render_page
from runspend.allocation.builds import describe_inputs
from runspend.allocation.closing import is_bill
from runspend.allocation.inputs import BILL, FINAL_BILLS, parse_unit
from runspend.core.amounts import add, plain
from runspend.core.crash_points import crash_point
from runspend.core.errors import RecordRefused, RunspendError
from runspend.warehouse.records import Records

KIND, TEXTS = "statements", "statement_texts"
NO_TEAM = "no-team"
LONGEST = 40  # limit for the characters of a team in a number


@dataclass(frozen=True)
class Issued:
    """The current statement of a team: an issued version, or a preliminary statement without a number.

    `name` is the name of its files without the extension.
    """

    document: Document
    name: str
    is_new: bool
    page: str
    csv: str

    @property
    def digest(self) -> str:
        """The key of its mails: statements with equal figures are mailed once."""
        return _digest(self.document.month, self.document.lines)


def team_slug(team: Team) -> str:
    """Return a team's name for numbers and files: unique, with lowercase letters, digits and hyphens. Other names get a digest at the end."""
    if team is None:
        return NO_TEAM
    readable = re.sub(r"[^a-z0-9]+", "-", team.casefold()).strip("-")[:LONGEST].strip("-")
    is_itself = readable == team and team != NO_TEAM and not re.search(r"-[0-9a-f]{8}$", team)
    return readable if is_itself else f"{readable}-{hashlib.sha256(team.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}".lstrip("-")


def preliminary_name(period: str, team: Team) -> str:
    """Return the name of the files of a preliminary statement, without the extension."""
    return f"{period}-{team_slug(team)}-preliminary"


def issued_teams(records: Records, period: str) -> list[str]:
    """Return the teams with an issued statement of the month, even if they no longer have a cost."""
    return sorted({value["team"] for value in records.list(KIND).values() if value["period"] == period and value["team"] is not None})


def outdated(records: Records, month: Month, teams: Collection[Team]) -> list[str]:
    """Return the numbers of outdated statements: the latest version of each team not in `teams`, if the team's figures have changed."""
    found = []
    for team in month.statements:
        versions = [] if team in teams else _versions(records, month.period, team_slug(team))
        if versions and versions[-1]["digest"] != _digest(month, month.statements[team]):
            found.append(versions[-1]["number"])
    return found


def issue(records: Records, month: Month, team: Team, now: datetime) -> Issued:
    """Return the team's statement. Records a new version if the month can be issued and the figures differ from the last version.

    Raises RunspendError if another process issues the same version at the same time.
    """
    slug, lines = team_slug(team), month.statements.get(team, ())
    versions = _versions(records, month.period, slug)
    before = versions[-1] if versions else None
    document = Document(month, team, lines, now)
    if before is not None and before["digest"] == _digest(month, lines):
        texts = _texts(records, before)
        kept = _as_issued(month, before, versions[-2] if len(versions) > 1 else None)
        return Issued(kept, before["number"], is_new=False, page=texts["page"], csv=texts["csv"])
    document = _compared(document, before)
    if not month.is_issuable:
        return Issued(document, preliminary_name(month.period, team), is_new=True, page=render_page(document), csv=render_csv(document))
    version = len(versions) + 1
    number = f"{month.policy.number_prefix}{month.period}-{slug}-{version}"
    document = replace(document, number=number, version=version)
    texts = {"number": number, "page": render_page(document), "csv": render_csv(document)}
    key = f"{month.period}/{slug}/{version}"
    _put_texts(records, key, texts)
    crash_point("statement.written")
    if not records.create(KIND, key, _record(document, slug, texts)):
        raise RunspendError(f"cannot issue the statement {number}: another process has issued it meanwhile. Run the command again.")
    crash_point("statement.recorded")
    return Issued(document, number, is_new=True, page=texts["page"], csv=texts["csv"])


def _versions(records: Records, period: str, slug: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while (record := records.get(KIND, f"{period}/{slug}/{len(found) + 1}")) is not None:
        found.append(record[0])
    return found


def _put_texts(records: Records, key: str, texts: Mapping[str, str]) -> None:
    """Write the page and CSV of a version that is not issued yet. They replace those of a process that was killed earlier."""
    while not records.create(TEXTS, key, dict(texts)):
        found = records.get(TEXTS, key)
        if found is not None and (found[0] == texts or records.replace(TEXTS, key, dict(texts), found[1])):
            return


def _texts(records: Records, version: Mapping[str, Any]) -> dict[str, str]:
    """Return the page and CSV of an issued version. Raises RecordRefused if they differ from the issued ones."""
    key = f"{version['period']}/{version['slug']}/{version['version']}"
    found = records.get(TEXTS, key)
    if found is None or any(_sha256(found[0][name]) != version[f"{name}_sha256"] for name in ("page", "csv")):
        file = records.where(TEXTS, key)
        raise RecordRefused(
            file, f"cannot use {file}: it differs from statement {version['number']} as issued. Restore the file from a backup."
        )
    return {name: found[0][name] for name in ("page", "csv")}


def _record(document: Document, slug: str, texts: Mapping[str, str]) -> dict[str, Any]:
    month, before = document.month, document.before
    return {
        "number": document.number,
        "version": document.version,
        "period": month.period,
        "team": document.team,
        "slug": slug,
        "issued_at": document.issued_at.isoformat(),
        "policy": month.policy.model_dump(mode="json"),
        "hides_people": month.hides_people,
        "bills": {bill.source: bill.version_number for bill in month.bills},
        "inputs": dict(month.inputs),
        "totals": [
            {"currency": currency, "part": part, "cost": plain(sums.cost), "rounded_cost": plain(sums.rounded)}
            for (currency, part), sums in document.sums.items()
        ],
        "replaces": before.number if before is not None else None,
        "reasons": list(before.reasons) if before is not None else [],
        "digest": _digest(month, document.lines),
        "page_sha256": _sha256(texts["page"]),
        "csv_sha256": _sha256(texts["csv"]),
    }


def _compared(document: Document, before: Mapping[str, Any] | None) -> Document:
    """Return the document with the version that it replaces, the differences and the reasons. Unchanged if it replaces none."""
    if before is None:
        return document
    known = {(row["currency"], row["part"]): Sums(Decimal(row["cost"]), Decimal(row["rounded_cost"])) for row in before["totals"]}
    nothing = Sums(Decimal(0), Decimal(0))
    differences = {}
    for key in sorted({*known, *document.sums}, key=lambda key: (key[0], PARTS.index(key[1]))):
        old, new = known.get(key, nothing), document.sums.get(key, nothing)
        differences[key] = Sums(add([new.cost, -old.cost]), add([new.rounded, -old.rounded]))
    reasons = tuple(_reasons(document, before, is_exact=any(sums.cost for sums in differences.values())))
    return replace(document, before=Before(before["number"], datetime.fromisoformat(before["issued_at"]), differences, reasons))


def _as_issued(month: Month, version: Mapping[str, Any], replaced: Mapping[str, Any] | None) -> Document:
    """Return the document of an issued version whose figures are still those of the month."""
    lines, issued_at = month.statements.get(version["team"], ()), datetime.fromisoformat(version["issued_at"])
    document = _compared(Document(month, version["team"], lines, issued_at, version["number"], version["version"]), replaced)
    if document.before is None:
        return document
    return replace(document, before=replace(document.before, reasons=tuple(version["reasons"])))


def _reasons(document: Document, before: Mapping[str, Any], *, is_exact: bool) -> list[str]:
    """Return the reasons why the figures differ from those of the previous version. At least one."""
    month, found = document.month, []
    changed = {name for name in {*before["inputs"], *month.inputs} if before["inputs"].get(name) != month.inputs.get(name)}
    sources = {name.removeprefix(BILL) for name in changed if is_bill(name)}
    versions = {bill.source: bill.version_number for bill in month.bills}
    for source in sorted(sources):
        old, new = before["bills"].get(source), versions.get(source)
        if old is None or new is None:
            found.append(f"the bill {source} was {'added' if old is None else 'removed'}")
        else:
            found.append(f"the bill {source} was restated: version {new} replaced version {old}")
    if others := {name for name in changed if name != FINAL_BILLS and not is_bill(name) and not _is_of(name, sources)}:
        words = describe_inputs(others) or "other months"
        found.append(f"the month was allocated again after a change of: {words}")
    policy = month.policy.model_dump(mode="json")
    for name in ("kind", "measure", "idle", "shared", "unallocated"):
        if policy[name] != before["policy"].get(name):
            found.append(f"statements.{name} changed from {before['policy'].get(name)} to {policy[name]}")
    if month.hides_people != before["hides_people"]:
        found.append("mail.people changed, which changes the names of experiments")
    if not found and not is_exact:
        found.append("amounts are rounded so that all statements of the month add up to the bill, and another statement changed")
    return found or ["the month was allocated again"]


def _is_of(name: str, sources: Collection[str]) -> bool:
    """Return whether an input is the table of loaded bill lines of one of these bills."""
    return "/" in name and (unit := parse_unit(name)).table == "billing_lines" and unit.writer in sources


def _digest(month: Month, lines: Sequence[Line]) -> str:
    """Return a digest of the kind, the measure and every line. Two statements are equal if their digests are equal."""
    rows = [[x.experiment, x.cost_center, x.part, x.currency, plain(x.cost), plain(x.rounded)] for x in lines]
    return _sha256(json.dumps([month.policy.kind, month.policy.measure, rows], ensure_ascii=True))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
