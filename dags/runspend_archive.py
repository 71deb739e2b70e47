"""Once a week, paused until somebody wants it: plan what retention policies would move, tell the owners, act on what was announced long enough ago; look once a month whether all archives are whole.

No task waits: the date stands in `archive_plan`, and what is due is found by the run of that week. Without `delete_credentials` in
`stores`, nothing is deleted. The parameters say nothing of what is acted on: that stands in runspend.yaml alone.
"""

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
