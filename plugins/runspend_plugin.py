"""Runspend's page in Airflow, for a checkout on PYTHONPATH. An installed package brings it by itself, and needs no file here."""

from importlib.metadata import entry_points

if not entry_points(group="airflow.plugins", name="runspend"):
    from runspend.airflow.plugin import RunspendPlugin as RunspendPlugin
