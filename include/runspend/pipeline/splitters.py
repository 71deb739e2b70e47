"""Which sources split the lines of which bills, each read once a night.

Belongs to `__init__.py`. How such a source is read and what its weights do is in `ingest/billing/`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from runspend.config.settings import BillSource, Settings
from runspend.core.errors import SourceError, SourceRefused
from runspend.core.step_result import Progress
from runspend.ingest.billing import load_process as loading
from runspend.pipeline.source_status import work_folder

if TYPE_CHECKING:
    from runspend.ingest.billing import Read
    from runspend.ingest.billing.cost_splits import Weights


class Splitters:
    """The weights of every source that is no bill, read when first asked for."""

    def __init__(self, settings: Settings, progress: Progress) -> None:
        self._settings = settings
        self._progress = progress
        self._read: dict[str, Read | SourceError] = {}

    def read(self, source: BillSource) -> Read:
        """What a source holds now. Raises SourceError, the same one to everybody who asks."""
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
        """The weights that split a bill's lines. Raises SourceRefused where some cannot be read: without them all of a machine's
        money would move from its pods to the machine, and back the next night."""
        found = []
        for source in self._settings.billing:
            if source.format != "opencost" or (source.splits is not None and bill.name not in source.splits):
                continue
            try:
                found.append(self.read(source).weights)
            except SourceError as error:
                raise SourceRefused(
                    bill.name,
                    f"cannot load bill {bill.name}: its lines are split by {source.name}, which cannot be read. The bill was left as it was. {error}",
                ) from error
        return found
