"""The settings that an extract's rows depend on, in addition to the server's own."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from runspend.config.settings import DimensionSettings, Pool
from runspend.core.resource_keys import RUN_JOB_KEYS


@dataclass(frozen=True)
class LinkSettings:
    """What to read about models (`links.KINDS`), and the metrics of runs, sorted: those by which policies keep the best, and that of sweeps.

    Of `only_last`, the last value of each run is enough.
    """

    kinds: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    only_last: tuple[str, ...] = ()

    @property
    def stepped(self) -> tuple[str, ...]:
        """The metrics whose values at earlier steps count too."""
        return tuple(metric for metric in self.metrics if metric not in self.only_last)


@dataclass(frozen=True)
class MeasuredMachines:
    """Machines whose bill depends on measured watts, as the bill lists them, and for each pool the machines that its runs may use."""

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
