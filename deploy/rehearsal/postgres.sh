#!/bin/bash
# Stand-in for the entry point of the PostgreSQL image, as its documentation describes it: a new cluster for POSTGRES_USER with
# POSTGRES_PASSWORD, the scripts of /docker-entrypoint-initdb.d against a server that listens on its socket only, then the server.
set -Eeuo pipefail

if [ ! -s "$PGDATA/PG_VERSION" ]; then
  initdb --username="$POSTGRES_USER" --pwfile=<(printf '%s\n' "$POSTGRES_PASSWORD")
  printf '\nhost all all all scram-sha-256\n' >>"$PGDATA/pg_hba.conf"
  pg_ctl -D "$PGDATA" -o "-c listen_addresses=''" -w start
  for script in /docker-entrypoint-initdb.d/*.sh; do
    echo "running $script"
    PGPASSWORD=$POSTGRES_PASSWORD "$script"
  done
  pg_ctl -D "$PGDATA" -m fast -w stop
fi
exec "$@" -c listen_addresses='*'
