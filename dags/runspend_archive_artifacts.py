"""Plans what retention policies would move, tells the owners, and moves what was announced long enough ago, once a week. Paused when created.

Once a month it also verifies the archives. No task waits: the date is in `archive_plan`, and each weekly run finds what is due.
Without `delete_credentials` in `stores`, nothing is deleted. Only runspend.yaml decides what is moved, not the parameters.
"""

from airflow.sdk import DAG, CronTriggerTimetable, task

from runspend import pipeline
from runspend_tasks import DAG_OPTIONS, NOW, POOL, run_step

with DAG(
    "runspend_archive_artifacts",
    schedule=CronTriggerTimetable("0 8 * * 1", timezone="UTC"),
    is_paused_upon_creation=True,
    params={"now": NOW},
    doc_md=__doc__,
    **DAG_OPTIONS,
):

    @task(pool=POOL)
    def plan() -> list[str]:
        """What policies select, what protects it, what it saves and costs, into `archive_plan`."""
        return run_step(pipeline.archive_plan)

    @task(pool=POOL)
    def notify() -> list[str]:
        """One mail to each owner of what is new in the plan."""
        return run_step(pipeline.archive_notify)

    @task(pool=POOL)
    def apply() -> list[str]:
        """What is due, moved with proof; what is not finished is gone on with next week, or by `runspend archive apply`."""
        return run_step(pipeline.archive_apply)

    @task(pool=POOL)
    def verify() -> list[str]:
        """Whether what was archived is still there, once a month."""
        return run_step(pipeline.archive_verify_monthly)

    plan() >> notify() >> apply()
    verify()
