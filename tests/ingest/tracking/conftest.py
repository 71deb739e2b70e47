"""Real MLflow servers for the tests of this folder. If a file imported these fixtures itself, it would start its own servers."""

from tests.ingest.tracking.mlflow_servers import mlflow_on_postgres, mlflow_on_sqlite, postgres

__all__ = ["mlflow_on_postgres", "mlflow_on_sqlite", "postgres"]
