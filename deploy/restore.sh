#!/bin/sh
# `make restore FROM=backups/…`: restores a backup into a stack without volumes. You may kill it and start it again.
set -eu
umask 077
project=${COMPOSE_PROJECT_NAME:-runspend}
marker=.restore-unfinished

fail() { echo "cannot restore: $* Nothing was changed." >&2; exit 2; }
volumes() { docker volume ls --quiet --filter "label=com.docker.compose.project=$project"; }

[ -n "${FROM:-}" ] || fail "no backup is named. Run make restore FROM=backups/YYYY-MM-DDTHHMMSSZ."
[ -f "$FROM/SHA256SUMS" ] || fail "$FROM is not a backup: it has no SHA256SUMS. Name a folder that make backup wrote."
(cd "$FROM" && sha256sum --quiet --check SHA256SUMS) || fail "$FROM is damaged: the files named above are not those that were written. Use another backup."
if [ -f .env ] && ! cmp -s .env "$FROM/env"; then
  fail ".env is not that of the backup, and the restored databases open with the backup's passwords only. Move .env away first."
fi
if [ -e "$marker" ]; then
  [ "$(cat "$marker")" = "$FROM" ] || fail "a restore of $(cat "$marker") was interrupted. Finish it first: make restore FROM=$(cat "$marker")."
elif [ -n "$(volumes)" ]; then
  fail "volumes of this stack exist, and a restore does not overwrite them. To delete all that is in them: docker compose down --volumes."
fi

echo "$FROM" >"$marker.new" && mv "$marker.new" "$marker"
[ -f .env ] || { cp "$FROM/env" .env.new; mv .env.new .env; }
docker compose down --volumes --remove-orphans # nothing, or the leftovers of an interrupted restore of this backup
docker compose build
for volume in home s3; do
  docker compose run --rm -T --no-deps volumes tar --extract --numeric-owner --file - <"$FROM/$volume.tar"
done
docker compose up --detach --wait postgres
for database in airflow mlflow; do
  docker compose exec -T postgres pg_restore --username postgres --dbname "$database" --exit-on-error --single-transaction <"$FROM/$database.dump"
done
rm "$marker"
docker compose up --detach --wait
echo "restored $FROM: the stack runs as it was at that moment."
