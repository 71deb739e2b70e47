"""Plans what retention policies would move, notifies the owners, and moves files whose grace period has ended, once a week.

The DAG is paused when it is created. Once a month, it also verifies the archives. No task waits for a grace period: due dates are in
`archive_plan`, and each weekly run moves the items that are due. Without `delete_credentials` in `stores`, nothing is deleted. Only
runspend.yaml decides what is moved; parameters of the DAG do not.
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
        """Write the items selected by policies to `archive_plan`, with their protection, savings and costs."""
        return run_step(pipeline.archive_plan)

    @step
    def notify() -> list[str]:
        """Send each owner one mail about new items in the plan."""
        return run_step(pipeline.archive_notify)

    @step
    def apply() -> list[str]:
        """Move due items and verify the copies. Next week's run, or `runspend archive apply`, continues unfinished work."""
        return run_step(pipeline.archive_apply)

    @step
    def verify() -> list[str]:
        """Verify once a month that archived files still exist."""
        return run_step(pipeline.archive_verify_monthly)

    plan() >> notify() >> apply()
    verify()
