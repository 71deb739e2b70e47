"""The nine DAGs. To use them, write `from runspend.airflow.dags import *` in a file of your DAGs folder, or use `runspend.airflow.bundle`.

Airflow reads each module of this package, but not this file (see .airflowignore).
"""

from runspend.airflow.dags.runspend_alert_budgets import dag as alert_budgets
from runspend.airflow.dags.runspend_allocate_costs import dag as allocate_costs
from runspend.airflow.dags.runspend_annotate_costs import dag as annotate_costs
from runspend.airflow.dags.runspend_archive_artifacts import dag as archive_artifacts
from runspend.airflow.dags.runspend_extract_runs import dag as extract_runs
from runspend.airflow.dags.runspend_load_bills import dag as load_bills
from runspend.airflow.dags.runspend_measure_artifacts import dag as measure_artifacts
from runspend.airflow.dags.runspend_publish import dag as publish
from runspend.airflow.dags.runspend_report import dag as report

__all__ = [
    "alert_budgets",
    "allocate_costs",
    "annotate_costs",
    "archive_artifacts",
    "extract_runs",
    "load_bills",
    "measure_artifacts",
    "publish",
    "report",
]
