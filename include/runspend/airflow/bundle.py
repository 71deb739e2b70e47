"""Serves the DAGs from the installed package. It needs one setting in Airflow, and no copied files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from airflow.dag_processing.bundles.local import LocalDagBundle


class RunspendBundle(LocalDagBundle):
    """A bundle of the folder `dags` in this package. It changes when a different version is installed."""

    def __init__(self, **options: Any) -> None:
        super().__init__(path=str(Path(__file__).parent / "dags"), **options)
