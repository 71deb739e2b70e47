"""Find the run that a person means: by its id, the beginning of its id, its address in MLflow, or server/workspace/id.

This module reads only the table `runs`. An unknown or ambiguous id raises an error that lists possible runs.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from runspend.actions.explain.figures import Candidate, RunKey
from runspend.config.settings import Settings
from runspend.core.errors import UsageError
from runspend.core.text import without_person
from runspend.warehouse.base import Reader

SQL = Path(__file__).parent / "sql"
SHORTEST = 6
LAST = "\uffff"  # sorts after any character of an id


class UnknownName(UsageError):
    """Raised if the warehouse does not have the name. `candidates` are runs with a similar id or name."""

    def __init__(self, message: str, candidates: Sequence[Candidate] = ()) -> None:
        super().__init__(message)
        self.candidates = tuple(candidates)


class AmbiguousName(UnknownName):
    """Raised if several runs, or several bill lines, match. `candidates` are the matching runs."""


def ask(reader: Reader, name: str, **parameters: Any) -> list[dict[str, Any]]:
    """Run the query `sql/NAME.sql` with these parameters, and return its rows."""
    rows: list[dict[str, Any]] = reader.query((SQL / f"{name}.sql").read_text(encoding="utf-8"), parameters).to_pylist()
    return rows


def find_run(reader: Reader, text: str, settings: Settings) -> Candidate:
    """Return the one run that `text` names.

    Raises UnknownName with similar runs if none matches, AmbiguousName with the matches if several do, and UsageError if the id is too
    short.
    """
    wanted, servers = run_id_in(text, settings)
    server, workspace, run_id = _split(wanted)
    if len(run_id) < SHORTEST:
        raise UsageError(
            f"cannot find run {clean(text)!r}: it is too short. Give at least {SHORTEST} characters of its id, or its address in MLflow."
        )
    rows = ask(reader, "find_runs", first_id=run_id, after_id=run_id + LAST)
    rows = [r for r in rows if server in (None, r["tracking_server"]) and workspace in (None, r["workspace"])]
    rows = [r for r in rows if r["tracking_server"] in servers] or rows
    rows = [r for r in rows if r["run_id"] == run_id] or rows
    found = [_candidate(r) for r in rows]
    hides = settings.mail.people != "show"
    if len(found) > 1:
        raise AmbiguousName(
            f"cannot tell which run {clean(text)!r} is: {len(found)} {'or more ' if len(found) >= 200 else ''}match. Give more of the id, or server/workspace/id:\n{listed(found, hides)}",
            found,
        )
    if not found:
        near = near_runs(reader, run_id)
        hint = (
            f" Did you mean:\n{listed(near, hides)}"
            if near
            else ' List some with: runspend sql "select run_id, run_name from runs limit 20"'
        )
        raise UnknownName(f"cannot find run {clean(text)!r}: no tracking server had it in the last pipeline run.{hint}", near)
    return found[0]


def run_id_in(text: str, settings: Settings) -> tuple[str, frozenset[str]]:
    """Return the run id and the names of the configured servers to which the address in `text` may belong.

    If `text` is not an MLflow address, return the text itself and an empty set.
    """
    text = text.strip()
    found = re.search(r"/runs/([^/?#]+)", text) or re.match(r"runs:/+([^/?#]+)", text)
    if found is None:
        return text, frozenset()
    host = _host(text)
    hosts = {s.name: {_host(u) for u in (s.ui, s.uri) if u} for s in settings.tracking}
    return unquote(found[1]), frozenset(name for name, known in hosts.items() if host and host in known)


def _host(address: str) -> str:
    """Return the host and port of an address, or "" if it has none or cannot be parsed, such as `http://[`."""
    try:
        return urlsplit(address).netloc.rpartition("@")[2]
    except ValueError:
        return ""


def near_runs(reader: Reader, run_id: str) -> list[Candidate]:
    """Return at most five runs whose id has the same first four characters, or whose name contains the text; most similar id first."""
    rows = [_candidate(r) for r in ask(reader, "near_runs", begins=run_id[:4], part=run_id.lower())]
    return sorted(rows, key=lambda c: -difflib.SequenceMatcher(None, run_id, c.key.run_id[: max(len(run_id), 8)]).ratio())[:5]


def listed(candidates: Sequence[Candidate], hides_people: bool = False) -> str:
    """Return the candidates as text, one per line, at most ten. `hides_people` removes the names of people from experiment names."""
    experiments = [(without_person(c.experiment_name) if hides_people else c.experiment_name) or "" for c in candidates]
    shown = [
        f"  {c.key.target_id}  {clean(c.run_name or '')}  {clean(experiment)}  {f'{c.start_time:%Y-%m-%d %H:%M}' if c.start_time else 'no start'}".rstrip()
        for c, experiment in zip(candidates[:10], experiments, strict=False)
    ]
    return "\n".join([*shown, *([f"  … and {len(candidates) - 10} more"] if len(candidates) > 10 else [])])


def clean(text: str) -> str:
    """Return the text with unprintable characters replaced. People choose the names, and such a character could move the cursor."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _split(text: str) -> tuple[str | None, str | None, str]:
    parts = text.split("/")
    return (parts[0], parts[1], parts[2]) if len(parts) == 3 else (None, None, text)


def _candidate(row: dict[str, Any]) -> Candidate:
    key = RunKey(row["tracking_server"], row["workspace"], row["run_id"])
    return Candidate(key, row["start_month"], row["run_name"], row["experiment_name"], row["start_time"])
