"""Fixtures of the contract tests. Each kind of outside system has its module; this file only brings them in."""

from tests.contract.mlflow_servers import mlflow_on_postgres, mlflow_on_sqlite, postgres

__all__ = ["mlflow_on_postgres", "mlflow_on_sqlite", "postgres"]
