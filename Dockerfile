# One image for Airflow's four processes and for the MLflow server, with the versions of constraints.txt: the tested ones.
FROM python:3.12.12-slim

ENV AIRFLOW_HOME=/opt/airflow \
    AIRFLOW__CORE__DAGS_FOLDER=/opt/runspend/dags \
    AIRFLOW__CORE__PLUGINS_FOLDER=/opt/runspend/plugins \
    AIRFLOW__CORE__LOAD_EXAMPLES=False \
    AIRFLOW__USAGE_DATA_COLLECTION__ENABLED=False \
    MLFLOW_DISABLE_TELEMETRY=true \
    DO_NOT_TRACK=true \
    RUNSPEND_CONFIG=/etc/runspend/runspend.yaml

RUN useradd --uid 50000 --gid 0 --create-home airflow \
 && install --directory --owner=airflow --group=0 /opt/airflow/logs /opt/airflow/auth /var/lib/runspend /etc/runspend

WORKDIR /opt/runspend
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY include ./include
RUN pip install --no-cache-dir uv==0.13.9 \
 && uv pip install --system --no-cache --compile-bytecode --constraint constraints.txt \
      ".[pipeline,demo,airflow]" asyncpg psycopg2-binary
COPY dags ./dags
COPY plugins ./plugins
COPY deploy ./deploy

USER airflow
CMD ["airflow", "version"]
