"""Writes costs to the tracking servers that have `annotate: true` when `runspend/costs` is new, and at 08:00 UTC in case that event was lost.

The first time may take hours, because `requests_per_second` bounds it. A task that is stopped goes on where it was.
"""

from airflow.sdk import DAG, AssetOrTimeSchedule, CronTriggerTimetable, task

from runspend import pipeline
from runspend_tasks import COSTS, DAG_OPTIONS, NOW, POOL, run_step

with DAG(
    "runspend_annotate_costs",
    schedule=AssetOrTimeSchedule(timetable=CronTriggerTimetable("0 8 * * *", timezone="UTC"), assets=[COSTS]),
    params={"now": NOW},
    doc_md=__doc__,
    **DAG_OPTIONS,
):

    @task(pool=POOL)
    def annotate() -> list[str]:
        """Read the cost tables, and write to MLflow what changed."""
        return run_step(pipeline.annotate)

    annotate()
