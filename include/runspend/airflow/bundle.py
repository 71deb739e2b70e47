"""Serves the DAGs from the installed package. Airflow needs one setting for it, and no copied file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from airflow.dag_processing.bundles.local import LocalDagBundle


class RunspendBundle(LocalDagBundle):
    """The folder `dags` of this package. It changes when another version is installed."""

    def __init__(self, **options: Any) -> None:
        super().__init__(path=str(Path(__file__).parent / "dags"), **options)
