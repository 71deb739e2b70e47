"""Read the facts that protect artifacts: registered versions, models that runs made or used, and the metrics of keep-best policies.

The metric that compares the trials of a sweep is read too. Belongs here: what is requested, in which order, and how the answers become
`model_versions`, `model_uses`, `run_metrics` and `tracking_reads`. `links_api.py` and `links_database.py` fetch the rows. Only facts
that some step needs are read, because the API needs one request per new run for the models that it used. Failed reads are recorded, so
that a plan protects the artifacts concerned.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runspend.config.settings import Settings, TrackingServer
from runspend.core.errors import SourceError
from runspend.ingest.tracking import raw
from runspend.ingest.tracking.settings import LinkSettings
from runspend.schema.tables import TABLES

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

    from runspend.ingest.tracking.rows import Rows

KINDS = ("model_versions", "model_uses", "run_metrics")
# A metric with its last step up to this number is read at every step, a longer one only at the steps at which the run logged models.
ALL_STEPS = 1_000


@dataclass
class LinkFiles:
    """The file of each unit, and the reason for each kind of facts that could not be read."""

    tables: dict[tuple[str, str], Path] = field(default_factory=dict)
    unknown: dict[str, str] = field(default_factory=dict)


def find_links(settings: Settings) -> LinkSettings:
    """Return the facts to read: all kinds if there are retention policies, otherwise only those that other settings need.

    `annotate` needs the model versions, and `sweeps` needs the metric that compares trials.
    """
    keys = {policy.keep.by for policy in settings.retention if policy.keep and policy.keep.by}
    of_sweeps = {settings.sweeps.metric} if settings.sweeps else set()
    wanted = {
        "model_versions": any(server.annotate for server in settings.tracking),
        "model_uses": False,
        "run_metrics": settings.sweeps is not None,
    }
    kinds = tuple(kind for kind in KINDS if settings.retention or wanted[kind])
    return LinkSettings(kinds, tuple(sorted(keys | of_sweeps, key=str.encode)), tuple(of_sweeps - keys))


class Links:
    """Build the tables of these facts in the DuckDB database of the extract, after its runs are loaded."""

    def __init__(self, rows: Rows, server: TrackingServer, settings: LinkSettings, load_id: str) -> None:
        self._rows = rows
        self._settings = settings
        self._names = {"server": server.name, "load_id": load_id}

    def read(
        self, reader: raw.LinkReader, owners: pa.Table, months: Sequence[str],
        previous: Callable[[str, str], pa.Table | None], outdated: Collection[str],
    ) -> LinkFiles:  # fmt: skip
        """Read the facts and write the files of these months.

        If one kind of facts cannot be read, its old rows stay, and the other kinds are still read. Without `model_uses`, `run_metrics` is
        not read either.
        """
        found = LinkFiles()
        kinds = self._settings.kinds
        reads_uses = "model_uses" in kinds

        def attempt(kind: str, read: Callable[[], dict[tuple[str, str], Path]]) -> None:
            try:
                found.tables |= read()
            except SourceError as error:
                found.unknown[kind] = str(error)

        with ExitStack() as stack:
            if reads_uses or "run_metrics" in kinds:
                self._find_asked(previous, outdated)
            if reads_uses:
                attempt("model_uses", lambda: self._read_uses(reader, months, previous, stack))
            if "model_uses" in found.unknown:
                found.unknown["run_metrics"] = found.unknown["model_uses"]
            elif "run_metrics" in kinds:
                attempt("run_metrics", lambda: self._read_metrics(reader, months, previous, stack))
            if "model_versions" in kinds:
                attempt("model_versions", lambda: self._read_versions(reader, owners, stack))
        found.tables["tracking_reads", "all"] = self._write_reads(found.unknown)
        return found

    def _find_asked(self, previous: Callable[[str, str], pa.Table | None], outdated: Collection[str]) -> None:
        """Create the table `asked_runs`: the runs that are new, that have not ended, or whose end has changed since the last extract.

        All runs of a month are included if the month is `outdated` or has no file of `model_uses` yet.
        """
        con = self._rows.connection
        con.execute("create or replace table known_runs (run_id varchar)")
        for month in self._rows.months():
            known = None if month in outdated or previous("model_uses", month) is None else previous("runs", month)
            if known is None:
                continue
            with self._shown("previous_runs", known.select(["workspace", "run_id", "end_time"])):
                con.execute(
                    "insert into known_runs select n.run_id from fresh_runs n join previous_runs p using (workspace, run_id) where n.end_time = p.end_time"
                )
        con.execute("create or replace table asked_runs as select run_id, start_time from fresh_runs anti join known_runs using (run_id)")

    def _read_uses(
        self, reader: raw.LinkReader, months: Sequence[str], previous: Callable[[str, str], pa.Table | None], stack: ExitStack
    ) -> dict[tuple[str, str], Path]:
        query = "select run_id from asked_runs order by start_time desc, run_id"
        asked = [run_id for (run_id,) in self._rows.connection.execute(query).fetchall()] if reader.asks_each_run else []
        stack.enter_context(self._shown("raw_uses", reader.read_uses(asked)))
        return {("model_uses", month): self._write("model_uses", month, previous) for month in months}

    def _read_metrics(
        self, reader: raw.LinkReader, months: Sequence[str], previous: Callable[[str, str], pa.Table | None], stack: ExitStack
    ) -> dict[tuple[str, str], Path]:
        metrics, stepped = self._settings.metrics, self._settings.stepped
        empty = raw.point_schema().empty_table()
        stack.enter_context(self._shown("raw_last", reader.read_last(metrics) if metrics else empty))
        parameters = {"all_steps": ALL_STEPS, "stepped": list(stepped)}
        wanted = self._rows.connection.execute(_sql("points_wanted"), parameters).fetchall() if stepped else []
        stack.enter_context(self._shown("raw_points", reader.read_points([raw.UseKey(*row) for row in wanted]) if wanted else empty))
        stack.enter_context(self._shown("raw_model_points", reader.read_model_points(stepped) if stepped else empty))
        return {("run_metrics", month): self._write("run_metrics", month, previous) for month in months}

    def _read_versions(self, reader: raw.LinkReader, owners: pa.Table, stack: ExitStack) -> dict[tuple[str, str], Path]:
        stack.enter_context(self._shown("raw_versions", reader.read_versions()))
        stack.enter_context(self._shown("raw_owners", owners))
        return {("model_versions", "all"): self._rows.write(TABLES["model_versions"], "all", _sql("model_versions"), self._names)}

    def _write(self, table: str, month: str, previous: Callable[[str, str], pa.Table | None]) -> Path:
        known = previous(table, month)
        with self._shown("previous_links", TABLES[table].arrow_schema().empty_table() if known is None else known):
            parameters: dict[str, Any] = {**self._names, "month": f"{month}-01"}
            if table == "run_metrics":
                parameters["metrics"] = list(self._settings.metrics)
            return self._rows.write(TABLES[table], month, _sql(table), parameters)

    def _write_reads(self, unknown: dict[str, str]) -> Path:
        kinds = self._settings.kinds
        parameters = {**self._names, "kinds": list(kinds), "reasons": [unknown.get(kind) for kind in kinds]}
        return self._rows.write(TABLES["tracking_reads"], "all", _sql("tracking_reads"), parameters)

    @contextmanager
    def _shown(self, name: str, rows: pa.Table) -> Iterator[None]:
        self._rows.connection.register(name, rows)
        try:
            yield
        finally:
            self._rows.connection.unregister(name)


def _sql(name: str) -> str:
    return resources.files("runspend.ingest.tracking").joinpath(f"{name}.sql").read_text(encoding="utf-8")
