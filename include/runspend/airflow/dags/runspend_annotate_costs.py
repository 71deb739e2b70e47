"""Writes costs to the tracking servers that have `annotate: true` when `runspend/costs` is new, and by the clock in case that event was
lost.

The first time may take hours, because `requests_per_second` bounds it. A stopped task continues where it ended.
"""

from airflow.sdk import DAG

from runspend import pipeline
from runspend.airflow.tasks import COSTS, DAG_OPTIONS, NOW, run_step, schedule, step

with DAG(
    "runspend_annotate_costs",
    schedule=schedule("annotate", [COSTS]),
    params={"now": NOW},
    doc_md=__doc__,
    **DAG_OPTIONS,
) as dag:

    @step
    def annotate() -> list[str]:
        """Read the cost tables, and write to MLflow what changed."""
        return run_step(pipeline.annotate)

    annotate()
