"""Measures the bytes in every artifact store once a day, one mapped task per store. Emits `runspend/artifact_bytes`.

No other DAG waits for this asset. If a store does not answer, only its own task fails. Its last good inventory stays in place.
"""

from airflow.sdk import DAG, task

from runspend import pipeline
from runspend.airflow.connections import read_settings
from runspend.airflow.tasks import ARTIFACT_BYTES, DAG_OPTIONS, NOW, end_with, one_each, run_step, schedule

with DAG(
    "runspend_measure_artifacts",
    schedule=schedule("measure"),
    params={"now": NOW},
    doc_md=__doc__,
    **DAG_OPTIONS,
) as dag:

    @task
    def stores() -> list[str]:
        """Return the artifact stores in `runspend.yaml` that may be listed."""
        from runspend.ingest.artifacts import store_slug

        return [store_slug(store.uri) for store in read_settings().stores if store.measure == "list"]

    @one_each
    def measure(name: str) -> list[str]:
        """Measure objects and bytes of one store, by owner and storage class."""
        return run_step(pipeline.measure, [name])

    end_with(ARTIFACT_BYTES, measure.expand(name=stores()))
