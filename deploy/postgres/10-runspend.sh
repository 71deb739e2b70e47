#!/bin/sh
# Runs once, when the database is made: one role and database each for Airflow and MLflow, and a role that can only read MLflow's.
set -eu
psql --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres \
  --set airflow="$AIRFLOW_DB_PASSWORD" --set mlflow="$MLFLOW_DB_PASSWORD" --set reader="$MLFLOW_READER_PASSWORD" <<'SQL'
create role airflow login password :'airflow';
create role mlflow login password :'mlflow';
create role runspend_reader login password :'reader';
create database airflow owner airflow;
create database mlflow owner mlflow;
\connect mlflow
grant connect on database mlflow to runspend_reader;
grant usage on schema public to runspend_reader;
alter schema public owner to mlflow;
alter default privileges for role mlflow in schema public grant select on tables to runspend_reader;
SQL
