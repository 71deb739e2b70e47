"""Writes a page and CSV files for the newest billing period and for periods whose costs changed, whenever `runspend/costs` is updated.

It also runs on a schedule, in case an asset event was lost.
"""

from typing import Any

from airflow.sdk import DAG

from runspend import pipeline
from runspend.airflow.tasks import COSTS, DAG_OPTIONS, NOW, PERIODS, run_step, schedule, step

with DAG(
    "runspend_report",
    schedule=schedule("report", [COSTS]),
    params={"now": NOW, "periods": PERIODS},
    doc_md=__doc__,
    **DAG_OPTIONS,
) as dag:

    @step
    def report(params: Any = None) -> list[str]:
        """Read the cost tables and write the reports."""
        return run_step(pipeline.report, periods=params["periods"])

    report()
