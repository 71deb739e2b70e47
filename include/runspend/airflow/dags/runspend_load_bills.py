"""Loads the cloud bills once a day, one mapped task per source. Emits `runspend/bills`.

If a bill is refused, only its own task fails. The last good version of its billing periods stays in place.
"""

from airflow.sdk import DAG, task

from runspend import pipeline
from runspend.airflow.connections import read_settings
from runspend.airflow.tasks import BILLS, DAG_OPTIONS, NOW, end_with, one_each, run_step, schedule

with DAG("runspend_load_bills", schedule=schedule("load"), params={"now": NOW}, doc_md=__doc__, **DAG_OPTIONS) as dag:

    @task
    def sources() -> list[str]:
        """Return the names of the bills in `runspend.yaml`."""
        return [source.name for source in read_settings().billing]

    @one_each
    def load(name: str) -> list[str]:
        """Load one bill into the warehouse, one billing period at a time."""
        return run_step(pipeline.load, [name])

    end_with(BILLS, load.expand(name=sources()))
