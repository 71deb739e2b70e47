#!/bin/sh
# Fill the database of the dashboards with the demo, without touching the stack's own warehouse: deploy/grafana/fill_with_demo.sh [FOLDER]
# FOLDER is a demo in which a pipeline ran; by default that of `make nightly`. The stack's next pipeline run replaces it by its own costs.
set -eu
demo=${1:-.runspend-demo}
[ -f "$demo/runspend.yaml" ] || { [ -z "${1:-}" ] && make nightly; } || { echo "cannot fill the database: $demo has no runspend.yaml. Nothing was changed." >&2; exit 2; }
tar --create --file - --directory "$demo" . | docker compose exec -T scheduler sh -c '
  set -eu
  demo=$(mktemp -d)
  trap "rm -rf $demo" EXIT
  tar --extract --file - --no-same-owner --directory "$demo"
  echo "publish: [{name: grafana, kind: postgres, uri: \"\${COSTS_DB_URI}\"}]" >>"$demo/runspend.yaml"
  runspend publish --config "$demo/runspend.yaml"'
