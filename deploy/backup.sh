#!/bin/sh
# `make backup`: everything that cannot be recreated, in one new folder below backups/ (or TO).
# Services that write are stopped meanwhile, so that databases, S3 store and warehouse have the same state. The same containers always
# start again: a newer checkout (after git pull) changes nothing until `make upgrade` or `make up`.
set -eu
umask 077
to=${TO:-backups}
stamp=$(date -u +%Y-%m-%dT%H%M%SZ)
new=$to/.unfinished-$stamp
writers="scheduler triggerer dag-processor api-server mlflow s3 store"

fail() { echo "cannot back up: $*" >&2; exit 2; }
[ -f .env ] || fail "there is no .env, so no stack was started here. Run make up first."
[ ! -e .restore-unfinished ] || fail "a restore was interrupted. Run make restore FROM=$(cat .restore-unfinished) first."
[ -n "$(docker compose ps --quiet --status running postgres)" ] || fail "PostgreSQL does not run. Run make up first."
if command -v flock >/dev/null; then
  exec 9<. # of this checkout; the lock ends with this script in any case
  flock --nonblock 9 || fail "another backup of this stack runs. Wait for it. Nothing was stopped."
fi
there=$(docker compose ps --all --orphans=false --services | grep -vx volumes)
mkdir -p "$to"
rm -rf "$to"/.unfinished-* # of a backup that was killed
mkdir "$new"

start_what_was_there() {
  docker compose start $there || return
  while docker compose ps --format '{{.Health}}' $there | grep -qx starting; do sleep 2; done
  ! docker compose ps --format '{{.Health}}' $there | grep -qx unhealthy
}

start_again() {
  code=$?
  trap - EXIT INT TERM
  rm -rf "$new"
  if [ -z "${LEAVE_STOPPED:-}" ] || [ "$code" != 0 ]; then
    start_what_was_there || { echo "the stack did not start again as it was. See docker compose ps --all, then run make up." >&2; code=1; }
  fi
  exit $code
}
trap start_again EXIT
trap 'exit 130' INT TERM

docker compose stop $writers
for database in airflow mlflow; do
  docker compose exec -T postgres pg_dump --username postgres --format custom "$database" >"$new/$database.dump"
done
for volume in home s3; do
  docker compose run --rm -T --no-deps volumes tar --create --numeric-owner --file - "$volume" >"$new/$volume.tar"
done
cp .env "$new/env"
(cd "$new" && sha256sum airflow.dump mlflow.dump home.tar s3.tar env >SHA256SUMS)
sync
mv "$new" "$to/$stamp"
echo "wrote $to/$stamp ($(du -sh "$to/$stamp" | cut -f1)): both databases, S3 store, warehouse and .env. It holds passwords: keep it as safe as .env."
