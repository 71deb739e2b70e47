"""Runspend's DAGs, for Airflow: one file in any folder of your DAGs folder. Without a file: docs/airflow.md."""

from runspend.airflow.dags import *  # noqa: F403
