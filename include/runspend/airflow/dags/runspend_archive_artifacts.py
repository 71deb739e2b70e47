"""Plans what retention policies would move, notifies the owners, and moves files whose grace period is over, once a week. Paused when
created.

Once a month it also verifies the archives. No task waits: the date is in `archive_plan`, and each weekly run finds what is due.
Without `delete_credentials` in `stores`, nothing is deleted. Only runspend.yaml decides what is moved, not the parameters.
"""

from airflow.sdk import DAG

from runspend import pipeline
from runspend.airflow.tasks import DAG_OPTIONS, NOW, run_step, schedule, step

with DAG(
    "runspend_archive_artifacts",
    schedule=schedule("archive"),
    is_paused_upon_creation=True,
    params={"now": NOW},
    doc_md=__doc__,
    **DAG_OPTIONS,
) as dag:

    @step
    def plan() -> list[str]:
        """Plan what policies select, what protects it, its savings and costs, in `archive_plan`."""
        return run_step(pipeline.archive_plan)

    @step
    def notify() -> list[str]:
        """Send each owner one mail about what is new in the plan."""
        return run_step(pipeline.archive_notify)

    @step
    def apply() -> list[str]:
        """Move what is due, verified. Next week's run, or `runspend archive apply`, continues unfinished work."""
        return run_step(pipeline.archive_apply)

    @step
    def verify() -> list[str]:
        """Verify once a month that archived files still exist."""
        return run_step(pipeline.archive_verify_monthly)

    plan() >> notify() >> apply()
    verify()
