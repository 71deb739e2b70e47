"""Reads the sources that split bill lines (`format: opencost`). Each source is read once per pipeline run.

`load.py` uses this module. `ingest/billing/` reads the files of such a source and applies its weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from runspend.config.settings import BillSource, Settings
from runspend.core.errors import SourceError, SourceRefused, bill_named
from runspend.core.step_result import Progress
from runspend.ingest.billing import load_process as loading
from runspend.pipeline.source_status import work_folder

if TYPE_CHECKING:
    from runspend.ingest.billing import Read
    from runspend.ingest.billing.cost_splits import Weights


class Splitters:
    """The weights of all sources that split bill lines. Each source is read when it is first needed."""

    def __init__(self, settings: Settings, progress: Progress) -> None:
        self._settings = settings
        self._progress = progress
        self._read: dict[str, Read | SourceError] = {}

    def read(self, source: BillSource) -> Read:
        """Return the current content of a source. Raises SourceError if it cannot be read, with the same error on every call."""
        if source.name not in self._read:
            try:
                with work_folder(self._settings) as workdir:
                    self._read[source.name] = loading.read_weights(self._settings, source, workdir=workdir, progress=self._progress)
            except SourceError as error:
                self._read[source.name] = error
        found = self._read[source.name]
        if isinstance(found, SourceError):
            raise found
        return found

    def of(self, bill: BillSource) -> list[Weights]:
        """Return the weights that split a bill's lines.

        Raises SourceRefused if any of them cannot be read. Without them, all cost of a machine would move from its pods to the machine, and
        back in the next pipeline run.
        """
        found = []
        for source in self._settings.billing:
            if source.format != "opencost" or (source.splits is not None and bill.name not in source.splits):
                continue
            try:
                found.append(self.read(source).weights)
            except SourceError as error:
                raise SourceRefused(
                    bill.name,
                    f"cannot load {bill_named(bill.name)}: its lines are split by {source.name}, which cannot be read. The bill did not change. {error}",
                ) from error
        return found
