"""Copies tables to the targets of `publish` when `runspend/costs` is new, and half an hour after each judgment of the budgets."""

from airflow.sdk import DAG, AssetOrTimeSchedule, CronTriggerTimetable, task

from runspend import pipeline
from runspend_tasks import COSTS, DAG_OPTIONS, NOW, POOL, run_step

with DAG(
    "runspend_publish",
    schedule=AssetOrTimeSchedule(timetable=CronTriggerTimetable("30 */6 * * *", timezone="UTC"), assets=[COSTS]),
    params={"now": NOW},
    doc_md=__doc__,
    **DAG_OPTIONS,
):

    @task(pool=POOL)
    def publish() -> list[str]:
        """Replace what changed at each target."""
        return run_step(pipeline.publish)

    publish()
