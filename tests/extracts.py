"""For tests: extracts one server. Settings and already published data are keyword arguments."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from runspend.config.settings import DimensionSettings, TrackingServer
from runspend.core.step_result import Progress, ReadJob, silent
from runspend.ingest import tracking
from runspend.ingest.tracking import Extract, PublishedRuns, RowSettings


def extract_server(
    server: TrackingServer,
    dims: DimensionSettings | None = None,
    *,
    now: datetime,
    workdir: Path,
    load_id: str = "load",
    previous: Callable[[str, str], pa.Table | None] = lambda table, period: None,
    known_months: Sequence[str] = (),
    known_trace_months: Sequence[str] = (),
    settings_of: Mapping[str, str | None] | None = None,
    months: Sequence[str] | None = None,
    accept: Collection[str] = (),
    progress: Progress = silent,
    **settings: Any,
) -> Extract:
    """Extract one server. `settings` may be pools, job_keys, selector_keys, measured and links."""
    published = PublishedRuns(previous, known_months, known_trace_months, settings_of or {})
    rows = RowSettings(dims or DimensionSettings(), **settings)
    return tracking.extract_server(server, rows, published, ReadJob(now, load_id, workdir, progress), months=months, accept=accept)
