"""Copies tables to the targets of `publish` whenever `runspend/costs` is updated, and on a schedule, after budgets were evaluated."""

from airflow.sdk import DAG

from runspend import pipeline
from runspend.airflow.tasks import COSTS, DAG_OPTIONS, NOW, run_step, schedule, step

with DAG(
    "runspend_publish",
    schedule=schedule("publish", [COSTS]),
    params={"now": NOW},
    doc_md=__doc__,
    **DAG_OPTIONS,
) as dag:

    @step
    def publish() -> list[str]:
        """Replace the tables that changed at each target."""
        return run_step(pipeline.publish)

    publish()
