"""Sends mail about budgets and stale data when `runspend/costs` is new, and every six hours by default.

A decision is made once per budget, threshold and period. Its mail is sent until the mail server accepts it. Mail also reports
pipeline runs that did not happen and a warehouse that cannot be opened: records under `home` show both.
"""

from airflow.sdk import DAG

from runspend import pipeline
from runspend.airflow.tasks import COSTS, DAG_OPTIONS, NOW, run_step, schedule, step

with DAG(
    "runspend_alert_budgets",
    schedule=schedule("alert", [COSTS]),
    params={"now": NOW},
    doc_md=__doc__,
    **DAG_OPTIONS,
) as dag:

    @step
    def alert() -> list[str]:
        """Judge the budgets, record the decisions, and send waiting mail."""
        return run_step(pipeline.alert)

    alert()
