"""Runs the models and checks when `runspend/runs` or `runspend/bills` is new, and once a day in any case. Emits `runspend/costs`.

Either asset is enough. If both were required, a bill that is reloaded on its own would wait for the next extraction of runs.
Every unit is rebuilt whose inputs differ from those its tables were built from. So it does not matter which event started the
DAG, or whether Airflow merged several into one. A failed check keeps the tables in place. The parameter `periods` rebuilds these
billing periods even if their inputs are unchanged.
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
