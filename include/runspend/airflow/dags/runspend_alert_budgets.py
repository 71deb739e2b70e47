"""Sends mail about budgets and stale data whenever `runspend/costs` is updated, and every six hours by default.

Each threshold of a budget causes one alert per period. The mail is sent again until the mail server accepts it. Operators also get
mail about missing pipeline runs and about a warehouse that cannot be opened. Neither needs the warehouse: the records are under `home`.
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
        """Evaluate the budgets, record the decisions, and send queued mail."""
        return run_step(pipeline.alert)

    alert()
