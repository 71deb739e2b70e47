#!/bin/sh
# The MLflow server: first it upgrades its database's schema, which a newer MLflow may have changed.
set -eu
mlflow db upgrade "$MLFLOW_BACKEND_STORE_URI"
set -- mlflow server --host=0.0.0.0 --port=5000 --workers=2 --artifacts-destination=s3://mlflow \
  --allowed-hosts="mlflow:5000,localhost:5000,127.0.0.1:5000${MLFLOW_ALSO_HOSTS:+,$MLFLOW_ALSO_HOSTS}" \
  --uvicorn-opts="--timeout-worker-healthcheck 60" # with the default of 5 s, a busy host kills the workers over and over
if [ -n "${MLFLOW_ALSO_ORIGINS:-}" ]; then set -- "$@" --cors-allowed-origins="$MLFLOW_ALSO_ORIGINS"; fi
exec "$@"
