"""Shared code of the steps that read a source: its row in `sources`, its work folder, its last good rows.

`extract.py`, `measure.py` and `load.py` use it. Reading a source does not belong here.
"""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, TypeVar

from runspend.config.settings import Settings, redact
from runspend.core.amounts import instant
from runspend.core.errors import ConfigError, PartialFailure, SourceError, SourceRefused
from runspend.core.lock_holders import lock_in_time
from runspend.core.own_files import open_lock, own_folder
from runspend.core.selectors import RUN_MAPS
from runspend.core.step_result import Outcome
from runspend.core.text import counted
from runspend.pipeline.step_log import log, timed
from runspend.schema.rows import arrow_rows, make_load_id
from runspend.warehouse.base import Step, Unit, UnitState, Warehouse

if TYPE_CHECKING:
    import pyarrow as pa

    from runspend.actions.alert import operators
    from runspend.ingest.artifacts import Readings

Source = TypeVar("Source")
LAGS_KEPT = 30
GATE_WAIT = 300.0  # seconds; much longer than it takes to create a folder or to remove folders of killed processes


@dataclass
class SourceReport:
    """Writes the row of one source to `sources`, whether the source was read or failed. `writer`: the unit's writer; default: `name`."""

    warehouse: Warehouse
    settings: Settings
    outcome: Outcome
    name: str
    kind: str
    late_after: timedelta
    now: datetime
    writer: str = ""
    _covered_until: datetime | None = field(default=None, init=False)
    _was_read: bool = field(default=False, init=False)
    _is_good: bool = field(default=True, init=False)

    @contextmanager
    def reading(self) -> Iterator[SourceReport]:
        """Wrap the reading of the source. A SourceError is reported and does not stop other sources."""
        with timed(f"{self.outcome.step}: {self.kind} {self.name}"):
            try:
                yield self
            except SourceError as error:
                self.bad(error)
            self.note()

    def good(self, step: Step, *, covered_until: datetime | None, rows: int, experiments: int | None = None) -> None:
        """Stage the row of a successful read together with the rows that were read.

        If the data are older than `late_after`, the source counts as late, and operators are notified.
        """
        before = self._before()
        lags = dict(before["lags"])
        if covered_until is not None:
            lags[self.now.isoformat()] = (self.now - covered_until).total_seconds()
        lags = dict(sorted(lags.items())[-LAGS_KEPT:])
        is_late = covered_until is not None and self.now - covered_until > self.late_after
        row = {
            **self._row(),
            "state": "late" if is_late else "ok",
            "covered_until": covered_until,
            "usual_lag_seconds": float(median(lags.values())) if lags else None,
            "row_count": rows,
            "experiment_count": experiments,
            "last_good_at": self.now,
        }
        step.put("sources", "all", self.writer or self.name, arrow_rows("sources", [row]), extra={"lags": lags})
        log.info("%s: %s %s has %d rows, complete to %s", self.outcome.step, self.kind, self.name, rows, covered_until or "an unknown time")
        self._covered_until, self._was_read = covered_until, True
        self._is_good &= not is_late
        if is_late and covered_until is not None:
            hours = int((self.now - covered_until).total_seconds() // 3600)
            limit = int(self.late_after.total_seconds() // 3600)
            text = f"{self.name} has no data for {hours} h (limit {limit} h). Costs are complete to {instant(covered_until)}."
            self.outcome.fail(SourceError(self.name, text))
            self._tell("STALE", text)

    def bad(self, error: SourceError) -> None:
        """Record the error of the source and notify operators. The figures of its last good read stay."""
        text = redact(str(error), self.settings)
        self._is_good = False
        before = self._before()["row"]
        was_read = before.get("last_good_at") is not None
        if self.kind == "tracking":
            text += " Its last good data stay." if was_read else " It was never read, so none of its runs are known."
        is_refused = isinstance(error, SourceRefused)
        row = {**before, **self._row(), "state": "refused" if is_refused else "unreachable", "last_error": text}
        with self.warehouse.step("sources", make_load_id(self.name, self.now)) as step:
            step.put("sources", "all", self.writer or self.name, arrow_rows("sources", [row]), extra={"lags": self._before()["lags"]})
            step.publish()
        self.outcome.fail(error, text)
        self._tell(
            "REFUSED" if is_refused else "UNREACHABLE",
            f"{self.name}{f' {error.period}' if error.period else ''}: {text}",
            error.period,
            was_read,
        )

    def note(self) -> None:
        """Record under `home` that the source was tried, and the result. Freshness can then be judged even without the warehouse."""
        from runspend.actions.alert.freshness import note_done
        from runspend.warehouse.records import Records

        note_done(
            Records(self.settings.home), self.name, self.kind, self.now,
            was_done=self._was_read, is_good=self._is_good, covered_until=self._covered_until, late_after=self.late_after,
        )  # fmt: skip

    def _row(self) -> dict[str, Any]:
        late_after = self.late_after.total_seconds()
        return {"source": self.name, "kind": self.kind, "last_error": None, "late_after_seconds": late_after, "last_tried_at": self.now}

    def _before(self) -> dict[str, Any]:
        unit = Unit("sources", "all", self.writer or self.name)
        state = self.warehouse.states("sources").get(unit)
        if state is None:
            return {"row": {}, "lags": {}}
        published = self.warehouse.read(unit)
        return {"row": published.to_pylist()[0] if published else {}, "lags": state.extra.get("lags", {})}

    def _tell(self, kind: operators.NoticeKind, text: str, period: str | None = None, was_read: bool = True) -> None:
        tell_operators(self.settings, self.outcome, kind, f"{self.name}/{period or 'all'}", text, self.now, was_read)


def tell_operators(
    settings: Settings, outcome: Outcome, kind: operators.NoticeKind, cause: str, text: str, now: datetime, was_read: bool = True
) -> None:
    """Mail `mail.operators` about a technical problem, once per cause and day. An undelivered mail is reported as a separate problem.

    `was_read`: whether data from an earlier read exist.
    """
    from runspend.actions.alert import operators
    from runspend.warehouse.records import Records

    advice = operators.Advice() if was_read else operators.Advice(still_works="All other steps of the pipeline run continued.")
    deliveries = operators.notify(settings, Records(settings.home), kind, cause, now, text, advice=advice)
    if failures := [failure for d in deliveries if (failure := d.failure) is not None]:
        outcome.fail(
            PartialFailure(
                f"cannot deliver {counted(len(failures), 'mail')} to operators: {failures[0]}. Fix mail in runspend.yaml.", failures
            )
        )


@contextmanager
def work_folder(settings: Settings) -> Iterator[Path]:
    """Yield a folder under `home` for temporary files, on the disk of the warehouse. It is removed afterward."""
    root = own_folder(settings.home / "work")
    with open_lock(root / ".lock") as gate:
        # While this lock is held, no other process can remove the new folder before it is locked.
        lock_in_time(gate.fileno(), root / ".lock", f"make a folder in {root}", GATE_WAIT)
        _sweep(root)
        folder = Path(tempfile.mkdtemp(prefix="work-", dir=root))
        lock = open_lock(root / f"{folder.name}.lock")
        fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)
        (root / f"{folder.name}.lock").unlink()
        lock.close()


def _sweep(root: Path) -> None:
    """Remove folders of killed processes. No process holds the lock of such a folder. Symbolic links are ignored.

    A folder may contain a copy of MLflow's database, so only its account can read it. Folders of other accounts are not removed.
    """
    for folder in (path for path in root.glob("work-*") if path.is_dir() and not path.is_symlink()):
        with suppress(PermissionError), open_lock(root / f"{folder.name}.lock") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            shutil.rmtree(folder)
            (root / f"{folder.name}.lock").unlink()


def chosen(sources: Mapping[str, Source], names: Sequence[str] | None, what: str) -> list[Source]:
    """Return the named sources. Without names, return all. Raises ConfigError for an unknown name."""
    for name in names or ():
        if name not in sources:
            raise ConfigError(
                f"cannot find {what} {name!r}: it is not in the configuration. Known names are {', '.join(sources) or 'none'}."
            )
    return [source for name, source in sources.items() if names is None or name in names]


def own_units(warehouse: Warehouse, writer: str, *tables: str) -> dict[Unit, UnitState]:
    """Return the published units of one writer."""
    return {u: s for u, s in warehouse.states(*tables).items() if u.writer == writer}


def published(warehouse: Warehouse, writer: str) -> Callable[[str, str], pa.Table | None]:
    """Return a function that returns the published rows of a writer for a table and period, or None."""
    return lambda table, period: warehouse.read(Unit(table, period, writer))


def publish_read(step: Step, kept: Mapping[Unit, UnitState], units: Sequence[Unit], outcome: Outcome, *, only: str | None = None) -> bool:
    """Publish the rows that were read, and report which units changed. Return whether they were published.

    If another process replaced the same units since `kept` was read, nothing is published or reported, because its rows may be newer.
    `only`: the only table whose changes are reported.
    """
    states = {unit: step.state(unit) for unit in units}
    if not step.publish({unit: kept[unit].digest if unit in kept else None for unit in units}):
        return False
    for unit, state in states.items():
        if only is None or unit.table == only:
            is_same = unit in kept and kept[unit].digest == state.digest
            (outcome.unchanged if is_same else outcome.changed).append(" ".join(unit))
    return True


def note_superseded(outcome: Outcome, what: str, then: str = "their rows stay") -> None:
    """Add a note that `publish_read` published nothing, and the consequence (`then`)."""
    outcome.notes.append(f"superseded: {what} was read by another process in the meantime; {then}")


def rebuilt_months(warehouse: Warehouse, server: str) -> list[str]:
    """Return the billing periods whose bill was loaded since the last good read of the server. Their runs must be read again."""
    with warehouse.reader() as reader:
        rows = reader.query(
            "select distinct l.billing_period from billing_loads l cross join (select max(last_good_at) as last_good_at from sources where source = @server) s"
            " where l.state = 'current' and (s.last_good_at is null or l.loaded_at >= s.last_good_at)",
            {"server": server},
        )
    return sorted(f"{period:%Y-%m}" for period in rows.column("billing_period").to_pylist())


def unread_notes(source: str, period: str, extra: Mapping[str, Any]) -> list[str]:
    """Return notes about unreadable parts of a bill: excluded rows, and values that count as null."""
    notes = []
    if extra.get("quarantined") and extra.get("rows"):  # if there are no other rows, the bill has an error instead
        rows = counted(extra["quarantined"], "unreadable row is", "unreadable rows are")
        notes.append(f"{source} {period}: {rows} excluded from totals: see billing_quarantine")
    for column, count in (extra.get("unreadable") or {}).items():
        notes.append(f"{source} {period}: {column} is unreadable in {counted(count, 'row')} and counts as null")
    if extra.get("without_effective_cost"):
        rows = counted(extra["without_effective_cost"], "row has no EffectiveCost and is", "rows have no EffectiveCost and are")
        notes.append(f"{source} {period}: {rows} excluded from its totals")
    return notes


def read_owners(warehouse: Warehouse, settings: Settings) -> tuple[pa.Table, Readings]:
    """Return everything that may own artifacts, and the time since which all tracking servers were read.

    Columns: owner_kind, owner_id, tracking_server, workspace, experiment_id, is_purged, uri. The time is the oldest among the servers' last
    good reads. It is None if any server was never read successfully.
    """
    import pyarrow as pa

    from runspend.ingest.artifacts import Readings, resolve_artifact_uri

    with warehouse.reader() as reader:
        rows = reader.query(
            "select 'run' as owner_kind, run_id as owner_id, tracking_server, workspace, experiment_id, purged_at is not null as is_purged,"
            " artifact_uri as uri from runs where artifact_uri is not null"
            " union all select owner_kind, owner_id, tracking_server, workspace, experiment_id, false, uri from artifact_owners where uri is not null"
        )
        tries = reader.query("select source, last_good_at from sources where kind = 'tracking' and last_good_at is not null").to_pylist()
    behind = {server.name: server.artifacts for server in settings.tracking}
    resolved = [
        resolve_artifact_uri(uri, behind.get(server))
        for uri, server in zip(rows["uri"].to_pylist(), rows["tracking_server"].to_pylist(), strict=True)
    ]
    rows = rows.set_column(rows.schema.get_field_index("uri"), "uri", pa.array(resolved, pa.string()))
    read = [row["last_good_at"] for row in tries if row["source"] in behind]
    readings = Readings(min(read) if read and len(read) == len(behind) else None, len(behind))
    return rows.filter(rows["uri"].is_valid()), readings


def selector_keys(settings: Settings) -> set[str]:
    """Return the keys of tags and params, such as "tag.K", that pools, policies, budgets or protection use.

    Their values must be copied from MLflow.
    """
    keys = {key for pool in settings.pools for key in pool.runs}
    keys |= {key.removeprefix("not_") for policy in settings.retention for key in policy.select}
    if settings.retention:
        from runspend.actions.archive import PROTECTION_KEYS

        keys |= set(PROTECTION_KEYS)
    keys |= {key for budget in settings.budgets for key in budget.for_}
    keys |= {"tag.model", "param.model"} if "model" in keys else set()
    if settings.tag_budgets:
        from runspend.actions.alert import TAG_KEYS

        keys |= set(TAG_KEYS)
    return {key for key in keys if key.partition(".")[0] in RUN_MAPS and "." in key}
