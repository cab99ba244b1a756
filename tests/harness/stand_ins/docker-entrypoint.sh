#!/usr/bin/env bash
# What the entrypoint of the image `postgres` does with its variables, with this machine's PostgreSQL.
set -eu
bin="$(dirname "$(ls -d /usr/lib/postgresql/*/bin/initdb | sort -V | tail -1)")"
if [ ! -s "$PGDATA/PG_VERSION" ]; then
  # POSTGRES_INITDB_ARGS is a list of words.
  "$bin/initdb" --pgdata="$PGDATA" --username="$POSTGRES_USER" --pwfile=<(printf '%s' "$POSTGRES_PASSWORD") \
    --encoding=UTF8 --locale=C --no-sync --auth-local=trust $POSTGRES_INITDB_ARGS
  echo "host all all all scram-sha-256" >> "$PGDATA/pg_hba.conf"
  "$bin/pg_ctl" --pgdata="$PGDATA" --wait -o "-c listen_addresses=''" start
  "$bin/createdb" --host=/var/run/postgresql --username="$POSTGRES_USER" "$POSTGRES_DB"
  "$bin/pg_ctl" --pgdata="$PGDATA" --wait --mode=fast stop
fi
# What is stored need not outlive this machine, so nothing is synced.
exec "$bin/$1" -D "$PGDATA" -c "listen_addresses=*" -c fsync=off "${@:2}"
