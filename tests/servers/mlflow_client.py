"""MLflow's own client over a database in this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import mlflow
from mlflow import MlflowClient


@contextmanager
def mlflow_client(uri: str) -> Iterator[MlflowClient]:
    """Yield a client of `uri`. Until the end, `uri` is also MLflow's global address: a version made from `models:/…` looks only there."""
    mlflow.set_tracking_uri(uri)
    try:
        yield MlflowClient(tracking_uri=uri, registry_uri=uri)
    finally:
        mlflow.set_tracking_uri(None)
