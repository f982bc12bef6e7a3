#!/usr/bin/env bash
# Put the sessions of a backup in the place of all that Valkey holds: deploy/restore.sh FILE
# The replicas are stopped meanwhile, since they keep records in memory.
set -euo pipefail
file=$(realpath "${1:?expected: deploy/restore.sh FILE}")
cd "$(dirname "${BASH_SOURCE[0]}")/.."
read -ra compose <<<"${COMPOSE:-docker compose}"

"${compose[@]}" stop service valkey
# A server with a log reads its log alone: so one without is given the file, and then told to write one.
"${compose[@]}" run --rm --no-deps -T --entrypoint sh valkey -euc '
  rm -rf /data/appendonlydir
  cat >/data/dump.rdb
  valkey-server --dir /data --appendonly no --save "" --port 0 --unixsocket /tmp/v.sock &
  ask() { valkey-cli -s /tmp/v.sock "$@"; }
  until ask ping 2>/dev/null | grep -q PONG; do sleep 0.2; done
  ask config set appendonly yes
  until ask info persistence | grep -q "aof_rewrite_in_progress:0"; do sleep 0.2; done
  ask info persistence | grep -q "aof_last_bgrewrite_status:ok"
  ask shutdown nosave
  wait || true
  rm /data/dump.rdb
  test -d /data/appendonlydir' <"$file"
"${compose[@]}" up --detach --no-build --wait valkey service
printf 'restore: done; clients whose sessions are at an earlier step now are told so\n'
