"""Real MLflow servers for the tests of this folder. A fixture that each file imports for itself starts a server for each of them."""

from tests.ingest.tracking.mlflow_servers import mlflow_on_postgres, mlflow_on_sqlite, postgres

__all__ = ["mlflow_on_postgres", "mlflow_on_sqlite", "postgres"]
