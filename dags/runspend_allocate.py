"""When `runs` and `bills` are both new, and at 06:00 UTC whatever happened: models and checks. Emits `costs`.

Rebuilds every unit whose inputs differ from those its tables were built from, so a wake-up that Airflow loses costs hours,
never money. A failed check keeps the tables in place. The parameter `periods` rebuilds these billing periods in any case.
"""

from airflow.sdk import DAG, AssetOrTimeSchedule, CronTriggerTimetable, task

from runspend import pipeline
from runspend_tasks import BILLS, COSTS, DAG_OPTIONS, NOW, PERIODS, POOL, RUNS, end_with, run_step

with DAG(
    "runspend_allocate",
    schedule=AssetOrTimeSchedule(timetable=CronTriggerTimetable("0 6 * * *", timezone="UTC"), assets=[RUNS, BILLS]),
    params={"now": NOW, "periods": PERIODS},
    doc_md=__doc__,
    **DAG_OPTIONS,
):

    @task(pool=POOL)
    def allocate(params=None) -> list[str]:
        """Every billing period whose bill or runs changed, then the months of the runs they reach, then the hours not billed yet."""
        return run_step(pipeline.settle, periods=params["periods"])

    end_with(COSTS, allocate())
