"""Reads runs and experiments of every MLflow tracking server once a day, one mapped task per server. Emits `runspend/runs`.

If a server does not answer, only its own task fails. Its last good data stay, and the table `sources` shows their date.
"""

from airflow.sdk import DAG, task

from runspend import pipeline
from runspend.airflow.connections import read_settings
from runspend.airflow.tasks import DAG_OPTIONS, NOW, RUNS, end_with, one_each, run_step, schedule

with DAG("runspend_extract_runs", schedule=schedule("extract"), params={"now": NOW}, doc_md=__doc__, **DAG_OPTIONS) as dag:

    @task
    def servers() -> list[str]:
        """Return the names of the tracking servers in `runspend.yaml`."""
        return [server.name for server in read_settings().tracking]

    @one_each
    def extract(name: str) -> list[str]:
        """Read runs and experiments of one tracking server into the warehouse, one start month at a time."""
        return run_step(pipeline.extract, [name])

    end_with(RUNS, extract.expand(name=servers()))
