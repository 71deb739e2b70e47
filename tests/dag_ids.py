"""The id of each DAG, by the step that it runs."""

from __future__ import annotations

DAG_IDS = {
    "extract": "runspend_extract_runs",
    "measure": "runspend_measure_artifacts",
    "load": "runspend_load_bills",
    "allocate": "runspend_allocate_costs",
    "report": "runspend_report",
    "alert": "runspend_alert_budgets",
    "archive": "runspend_archive_artifacts",
    "publish": "runspend_publish",
    "annotate": "runspend_annotate_costs",
}
