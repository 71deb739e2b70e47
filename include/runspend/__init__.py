"""Runspend: what every MLflow run costs, why, and who should know.

The order of a night is in `pipeline/__init__.py`; the tables it fills are in `schema/tables.py`; this file holds nothing but the version.
"""

__version__ = "0.1.0"
