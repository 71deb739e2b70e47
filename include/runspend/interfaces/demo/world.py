"""Create the demo company in a folder. Later calls reuse it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from runspend.core.errors import UsageError
from runspend.interfaces.demo.bills import write_bills
from runspend.interfaces.demo.plan import NOW, TEAMS, Plan, draw_plan
from runspend.interfaces.demo.stores import write_stores

CONFIG = """\
# The demo company. Everything it reads and writes is in this folder. To remove the demo, delete the folder.
home: .
currency: USD

tracking:
  - {name: prod, uri: "sqlite:///prod/mlflow.db", copy: {tags: [stage]}}
  - {name: research, uri: "sqlite:///research/mlflow.db"}

billing:
  - {name: aws, format: focus, uri: bills/aws}
  - {name: gcp, format: focus, uri: bills/gcp}

stores:
  - {uri: prod/artifacts}
  - {uri: research/artifacts}
  - {uri: archive, measure: none}

budgets:
  - {name: vision, for: {team: vision}, amount: 1700, notify: [vision-leads@acme.example], owner: ana@acme.example}
  - {name: nlp, for: {team: nlp}, amount: 950, notify: [nlp-leads@acme.example], owner: dana@acme.example}
  - {name: forecasting, for: {team: forecasting}, amount: 100, notify: [forecasting@acme.example]}
  - {name: recsys, for: {team: recsys}, amount: 700, notify: [recsys@acme.example]}
  - {name: ml-platform, amount: 10000, notify: [ml-platform@acme.example]}

mail:
  backend: file
  from: Runspend <runspend@acme.example>
  operators: [oncall@acme.example]

retention:
  - {name: old-failures, select: {status: [FAILED, KILLED], unused_for: 14d}, action: archive, grace: 30d}

archive: {to: archive}
"""


@dataclass(frozen=True)
class World:
    """The demo: its configuration file, the time at which it is seen, and the number of its runs and machines."""

    config: Path
    now: datetime
    runs: int
    machines: int


def make_world(folder: Path, *, progress: Callable[[str], None] = lambda _: None) -> World:
    """Create the demo in `folder`, or return the existing one. A demo whose creation was interrupted is created again."""
    folder = folder.resolve()
    config = folder / "runspend.yaml"
    plan = draw_plan()
    if not config.exists():
        _begin(folder)
        ids = write_stores_in_place(folder, plan, progress)
        shutil.rmtree(folder / "bills", ignore_errors=True)
        write_bills(folder / "bills", plan, _run_tags(plan, ids))
        (folder / "archive").mkdir(exist_ok=True)
        draft = config.with_suffix(".draft")
        draft.write_text(CONFIG, encoding="utf-8")
        draft.replace(config)
    return World(config, NOW, plan.count_runs(), len(plan.machines))


def _begin(folder: Path) -> None:
    """Mark `folder` as a demo, so that a later call may remove the remains of an interrupted one.

    Raises UsageError if the folder contains other files.
    """
    marker = folder / ".runspend-demo"
    if folder.exists() and any(folder.iterdir()) and not marker.is_file():
        raise UsageError(f"cannot make the demo in {folder}: the folder is not empty. Name a new or empty folder. Nothing was changed.")
    folder.mkdir(parents=True, exist_ok=True)
    marker.touch()


def write_stores_in_place(folder: Path, plan: Plan, progress: Callable[[str], None]) -> dict[int, str]:
    """Write the MLflow stores, and return {id(run): MLflow run id}. First removes the remains of an interrupted call.

    The stores are written directly to their final place, because artifact URIs are absolute.
    """
    for server in ("prod", "research"):
        shutil.rmtree(folder / server, ignore_errors=True)
    teams = {experiment: team.name for team in TEAMS for experiment in team.experiments}
    return write_stores(folder, plan, teams, progress=progress)


def _run_tags(plan: Plan, ids: dict[int, str]) -> dict[str, list[tuple[datetime, datetime, str]]]:
    """Return the run tags of bill lines as {resource id: [(start, end, run id)]}. Only machines rented for one run have such tags."""
    tags: dict[str, list[tuple[datetime, datetime, str]]] = {}
    for run in plan.runs:
        if run.is_tagged_on_bill and run.end is not None:
            for machine in run.machines:
                tags.setdefault(machine.resource_id, []).append((run.start, run.end + timedelta(minutes=1), ids[id(run)]))
    return tags
