"""Once a week, paused until somebody wants it: what the retention policies would move, into `archive_plan`. Nothing is touched."""

from airflow.sdk import DAG, CronTriggerTimetable, task

from runspend import pipeline
from runspend_tasks import DAG_OPTIONS, NOW, POOL, run_step

with DAG(
    "runspend_archive",
    schedule=CronTriggerTimetable("0 8 * * 1", timezone="UTC"),
    is_paused_upon_creation=True,
    params={"now": NOW},
    doc_md=__doc__,
    **DAG_OPTIONS,
):

    @task(pool=POOL)
    def archive() -> list[str]:
        """The plan of the month: runs, why, bytes, money saved."""
        return run_step(pipeline.archive)

    archive()
