"""Fixtures of the contract tests. Each kind of outside system has its module; this file only brings them in.

A fixture that test files import each for themselves is made anew for each: servers are brought in here, so that there is one.
"""

from tests.contract.mlflow_servers import mlflow_on_postgres, mlflow_on_sqlite, postgres
from tests.servers.azure import azure_server
from tests.servers.gcs import gcs_server
from tests.servers.s3 import s3_server

__all__ = ["azure_server", "gcs_server", "mlflow_on_postgres", "mlflow_on_sqlite", "postgres", "s3_server"]
