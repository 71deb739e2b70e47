"""Describes Runspend as an Airflow provider: its connection type, its options and its bundle of DAGs."""

from __future__ import annotations

from typing import Any

from runspend.airflow.options import OPTIONS, SECTION


def get_provider_info() -> dict[str, Any]:
    """Return the provider's description, in the form of Airflow's schema. The plug-in has a separate entry point."""
    return {
        "package-name": "runspend",
        "name": "Runspend",
        "description": "What every MLflow run costs, why, and who should know.",
        "integrations": [{"integration-name": "Runspend", "tags": ["software"]}],
        "hooks": [{"integration-name": "Runspend", "python-modules": ["runspend.airflow.hook"]}],
        "bundles": [{"integration-name": "Runspend", "python-modules": ["runspend.airflow.bundle"]}],
        "connection-types": [
            {
                "connection-type": "runspend",
                "hook-class-name": "runspend.airflow.hook.RunspendHook",
                "hook-name": "Runspend",
                "conn-fields": {
                    "config": {
                        "label": "Path of runspend.yaml",
                        "schema": {"type": ["string", "null"]},
                        "description": "On the worker. Leave it out if the host is a server, or to use the file of the DAGs.",
                    }
                },
                "ui-field-behaviour": {
                    "hidden-fields": ["schema", "login", "port", "extra"],
                    "relabeling": {"host": "Server", "password": "Token"},
                    "placeholders": {
                        "host": "https://costs.example.com",
                        "password": "a login of Airflow, or none for a server without one",
                    },
                },
            }
        ],
        "config": {SECTION: {"description": "Runspend's DAGs.", "options": {name: dict(option) for name, option in OPTIONS.items()}}},
    }
