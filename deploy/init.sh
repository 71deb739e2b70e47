#!/bin/sh
# The steps of docker-compose's `init` before anything else starts. It may run again at any time.
set -eu
airflow db migrate
airflow pools set "$RUNSPEND_POOL" "$RUNSPEND_POOL_SLOTS" "tasks that ask the warehouse"
exec python /opt/runspend/deploy/init.py
