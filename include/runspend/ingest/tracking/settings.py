"""The settings that an extract's rows depend on, in addition to the server's own."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from runspend.config.settings import DimensionSettings, Pool
from runspend.core.resource_keys import RUN_JOB_KEYS


@dataclass(frozen=True)
class LinkSettings:
    """The facts that `links.py` reads: their `kinds` (of `links.KINDS`), and the `metrics`, sorted.

    The metrics are those by which policies compare runs or models, and the metric of `sweeps`. For the metrics in `only_last`, only the
    last value of each run is needed.
    """

    kinds: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    only_last: tuple[str, ...] = ()

    @property
    def stepped(self) -> tuple[str, ...]:
        """The metrics whose values at earlier steps are needed too."""
        return tuple(metric for metric in self.metrics if metric not in self.only_last)


@dataclass(frozen=True)
class MeasuredMachines:
    """The resource ids of machines whose bill depends on measured watts, and for each pool the machines that its runs may use."""

    resource_ids: tuple[str, ...] = ()
    of_pool: tuple[tuple[str, tuple[str, ...]], ...] = ()


@dataclass(frozen=True)
class RowSettings:
    """The settings that the rows of runs depend on, in addition to the server's own."""

    dimensions: DimensionSettings
    pools: Sequence[Pool] = ()
    job_keys: Sequence[str] = RUN_JOB_KEYS
    selector_keys: Collection[str] = ()
    measured: MeasuredMachines = MeasuredMachines()
    links: LinkSettings = LinkSettings()
