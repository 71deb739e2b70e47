# Two images: Airflow's four processes with Runspend, and the MLflow server. Every package in them is one of requirements/lock.txt, checked by its hash.
ARG PYTHON_IMAGE
FROM ${PYTHON_IMAGE:-python:3.13.16-slim-trixie@sha256:bf44cdfcb76cd3b41e879bc058fc37ec5872002ccfde7fcb765e218cde0cd79c} AS base

ENV MLFLOW_DISABLE_TELEMETRY=true \
    DO_NOT_TRACK=true \
    UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy \
    UV_SYSTEM_PYTHON=1

WORKDIR /opt/runspend
COPY pyproject.toml ./
COPY requirements/build.txt requirements/lock.txt ./requirements/
RUN --mount=type=cache,target=/root/.cache/pip pip install --ignore-installed --require-hashes --only-binary :all: --no-deps --requirement requirements/build.txt


FROM base AS mlflow
RUN useradd --uid 50001 --gid 0 --create-home mlflow
RUN --mount=type=cache,target=/root/.cache/uv \
    uv pip install --require-hashes --only-binary :all: --constraint requirements/lock.txt --requirements pyproject.toml --extra mlflow-server
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
RUN --mount=type=cache,target=/root/.cache/uv \
    uv pip install --require-hashes --only-binary :all: --constraint requirements/lock.txt --requirements pyproject.toml \
      --extra pipeline --extra gcs --extra azure --extra apprise --extra airflow --extra postgres
COPY README.md LICENSE ./
COPY include ./include
RUN --mount=type=cache,target=/root/.cache/uv uv pip install --no-deps --no-build-isolation .
COPY dags ./dags
COPY plugins ./plugins
COPY deploy ./deploy

USER airflow
CMD ["airflow", "version"]
