"""Writes costs to the tracking servers that have `annotate: true`, whenever `runspend/costs` is updated.

It also runs on a schedule, in case an asset event was lost. The first run may take hours, because `requests_per_second` limits it. A task
that was stopped continues where it ended.
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
        """Read the cost tables, and write changed costs to MLflow."""
        return run_step(pipeline.annotate)

    annotate()
