"""When `costs` are new, and every six hours on a clock of its own: budget and stale-data mail.

A decision is made once per budget, threshold and period, and its mail sent until the mail server has it. Nights that stay away
and a warehouse that cannot be opened are told too: that is judged by notes under home.
"""

from airflow.sdk import DAG, AssetOrTimeSchedule, CronTriggerTimetable, task

from runspend import pipeline
from runspend_tasks import COSTS, DAG_OPTIONS, NOW, POOL, run_step

with DAG(
    "runspend_alert",
    schedule=AssetOrTimeSchedule(timetable=CronTriggerTimetable("0 */6 * * *", timezone="UTC"), assets=[COSTS]),
    params={"now": NOW},
    doc_md=__doc__,
    **DAG_OPTIONS,
):

    @task(pool=POOL)
    def alert() -> list[str]:
        """Judges the budgets, writes the decisions down, sends what is waiting."""
        return run_step(pipeline.alert)

    alert()
