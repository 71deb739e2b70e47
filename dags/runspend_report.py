"""Writes one page and its CSVs for every billing period when `runspend/costs` is new, and at 07:00 UTC in case that event was lost."""

from airflow.sdk import DAG, AssetOrTimeSchedule, CronTriggerTimetable, task

from runspend import pipeline
from runspend_tasks import COSTS, DAG_OPTIONS, NOW, PERIODS, POOL, run_step

with DAG(
    "runspend_report",
    schedule=AssetOrTimeSchedule(timetable=CronTriggerTimetable("0 7 * * *", timezone="UTC"), assets=[COSTS]),
    params={"now": NOW, "periods": PERIODS},
    doc_md=__doc__,
    **DAG_OPTIONS,
):

    @task(pool=POOL)
    def report(params=None) -> list[str]:
        """Read the cost tables and write the reports."""
        return run_step(pipeline.report, periods=params["periods"])

    report()
