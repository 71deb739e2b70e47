"""Runspend's DAGs for Airflow. Copy this file anywhere into your DAGs folder. docs/airflow.md shows how to do without it."""

from runspend.airflow.dags import *  # noqa: F403
