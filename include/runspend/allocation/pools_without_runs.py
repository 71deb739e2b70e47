"""Finds configured pools without runs. Without a warning, the idle cost of their machines would go unnoticed."""

from __future__ import annotations

from runspend.allocation.remedies import PLACEHOLDER
from runspend.config.settings import Pool, Settings
from runspend.core.selectors import selector_yaml
from runspend.warehouse.base import Reader

# A pool key is `gpu` or `gpu|team=vision`. Runs without a pool are counted too, because no pool is reported if there are no runs at all.
RUNS_IN_POOLS = """
select coalesce(regexp_extract(pool_key, r'^[^|]*'), '') as pool, count(*) as runs
from runs
group by coalesce(regexp_extract(pool_key, r'^[^|]*'), '')
"""


def pools_without_runs(reader: Reader, settings: Settings) -> list[str]:
    """Return a message about each pool without runs. The table `runs` must have been extracted with these settings."""
    if not settings.pools:
        return []
    counted = {row["pool"] for row in reader.query(RUNS_IN_POOLS).to_pylist()}
    return [_sentence(pool, number) for number, pool in enumerate(settings.pools) if counted and pool.name not in counted]


def _sentence(pool: Pool, number: int) -> str:
    why = f"no run matches its `runs`, {selector_yaml(pool.runs)}"
    why += ", or earlier pools have those runs" if number else ""
    why += f", or they have no {' or '.join(pool.equal)}" if pool.equal else ""
    is_unedited = any(PLACEHOLDER in values for values in pool.runs.values())
    fix = f"Replace {PLACEHOLDER} with the name of an experiment" if is_unedited else "Correct `runs`"
    return f"pool {pool.name}: {why}. Time of its machines that no run claims stays idle. {fix}."
