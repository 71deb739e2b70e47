# Two images: Airflow's four processes with Runspend, and the MLflow server. Both have the versions of constraints.txt: the tested ones.
ARG PYTHON_IMAGE
FROM ${PYTHON_IMAGE:-python:3.13.16-slim-trixie@sha256:bf44cdfcb76cd3b41e879bc058fc37ec5872002ccfde7fcb765e218cde0cd79c} AS base

ENV MLFLOW_DISABLE_TELEMETRY=true \
    DO_NOT_TRACK=true \
    UV_COMPILE_BYTECODE=1 \
    UV_CONSTRAINT=/opt/runspend/constraints.txt \
    UV_LINK_MODE=copy \
    UV_SYSTEM_PYTHON=1

RUN --mount=type=cache,target=/root/.cache/pip pip install uv==0.13.9
WORKDIR /opt/runspend
COPY constraints.txt ./


FROM base AS mlflow
RUN useradd --uid 50001 --gid 0 --create-home mlflow
RUN --mount=type=cache,target=/root/.cache/uv uv pip install mlflow boto3 psycopg2-binary
COPY deploy/mlflow.sh deploy/healthy.py ./deploy/
USER mlflow


FROM base AS airflow
ENV AIRFLOW_HOME=/opt/airflow \
    AIRFLOW_CONFIG=/opt/runspend/deploy/airflow.cfg \
    AIRFLOW__CORE__DAGS_FOLDER=/opt/runspend/dags \
    AIRFLOW__CORE__PLUGINS_FOLDER=/opt/runspend/plugins \
    AIRFLOW__CORE__LOAD_EXAMPLES=False \
    AIRFLOW__USAGE_DATA_COLLECTION__ENABLED=False \
    RUNSPEND_CONFIG=/etc/runspend/runspend.yaml

# /opt/airflow is named too: `install` gives its owner only to the last folder of each path.
RUN useradd --uid 50000 --gid 0 --create-home airflow \
 && install --directory --owner=airflow --group=0 \
      /opt/airflow /opt/airflow/logs /opt/airflow/auth /var/lib/runspend /etc/runspend

# First what others wrote: these layers stay while only our own files change.
COPY pyproject.toml ./
RUN --mount=type=cache,target=/root/.cache/uv \
    uv pip install --requirements pyproject.toml --extra pipeline --extra airflow asyncpg psycopg2-binary
COPY README.md LICENSE ./
COPY include ./include
RUN --mount=type=cache,target=/root/.cache/uv uv pip install --no-deps .
COPY dags ./dags
COPY plugins ./plugins
COPY deploy ./deploy

USER airflow
CMD ["airflow", "version"]
