"""Add Runspend's page to Airflow if Runspend is a checkout on PYTHONPATH. An installed package adds the page without this file."""

from importlib.metadata import entry_points

if not entry_points(group="airflow.plugins", name="runspend"):
    from runspend.airflow.plugin import RunspendPlugin as RunspendPlugin
