"""Runs the models and checks whenever `runspend/runs` or `runspend/bills` is updated, and once a day. Emits `runspend/costs`.

Either asset is enough. If both were required, a bill that is reloaded by itself would wait for the next extraction of runs.
A unit is rebuilt if its inputs changed since its tables were built. It therefore does not matter which event started the DAG, or
whether Airflow merged several events. If a check fails, the old tables stay in place. The parameter `periods` rebuilds these billing
periods even if their inputs are unchanged.
"""

from typing import Any

from airflow.sdk import DAG

from runspend import pipeline
from runspend.airflow.tasks import BILLS, COSTS, DAG_OPTIONS, NOW, PERIODS, RUNS, end_with, run_step, schedule, step

with DAG(
    "runspend_allocate_costs",
    schedule=schedule("allocate", RUNS | BILLS),
    params={"now": NOW, "periods": PERIODS},
    doc_md=__doc__,
    **DAG_OPTIONS,
) as dag:

    @step
    def allocate(params: Any = None) -> list[str]:
        """Build every billing period whose bill or runs changed, then the months of their runs, then estimates for unbilled hours."""
        return run_step(pipeline.settle, periods=params["periods"])

    end_with(COSTS, allocate())
