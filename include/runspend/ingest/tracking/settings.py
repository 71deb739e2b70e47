"""The settings that an extract's rows depend on, in addition to the server's own."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from runspend.config.settings import DimensionSettings, Pool
from runspend.core.resource_keys import RUN_JOB_KEYS

__all__ = ["LinkSettings", "MeasuredMachines", "RowSettings"]


@dataclass(frozen=True)
class LinkSettings:
    """What to read about models (`links.KINDS`), and the metrics by which policies keep the best."""

    kinds: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()


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
