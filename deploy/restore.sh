#!/usr/bin/env bash
# Put the sessions of a backup in the place of all that Valkey holds: deploy/restore.sh FILE
# The replicas are stopped meanwhile, since they keep records in memory. Where the file cannot be
# loaded, everything is as it was, they are started again, and this exits 1.
set -euo pipefail
file=$(realpath "${1:?expected: deploy/restore.sh FILE}")
cd "$(dirname "${BASH_SOURCE[0]}")/.."
read -ra compose <<<"${COMPOSE:-docker compose}"

replicas=()
for name in service service-gpu; do
  [ -z "$("${compose[@]}" ps --quiet "$name")" ] || replicas+=("$name")
done
[ "${#replicas[@]}" -gt 0 ] || replicas=(service)

"${compose[@]}" stop valkey "${replicas[@]}"
# A server with a log reads its log alone: so one without is given the file, and then told to write one.
# It does both in a folder of its own: the log that is there goes when the new one is whole.
is_restored=true
"${compose[@]}" run --rm --no-deps -T --entrypoint sh valkey -euc '
  new=/data/restoring
  trap "rm -rf $new" EXIT
  rm -rf $new
  mkdir $new
  cat >$new/dump.rdb
  valkey-server --dir $new --appendonly no --save "" --port 0 --unixsocket /tmp/v.sock &
  server=$!
  ask() { valkey-cli -s /tmp/v.sock "$@"; }
  wait_for() {
    expected=$1
    shift
    until ask "$@" 2>/dev/null | grep -q "$expected"; do
      kill -0 $server 2>/dev/null || exit 1 # it has said why
      sleep 0.2
    done
  }
  wait_for PONG ping
  ask config set appendonly yes
  wait_for aof_rewrite_in_progress:0 info persistence
  ask info persistence | grep -q aof_last_bgrewrite_status:ok
  ask shutdown nosave
  wait $server || true
  test -d $new/appendonlydir
  # Renamed, not removed at first: whatever ends this, one log or the other is there and whole.
  old=/data/replaced
  rm -rf $old
  [ ! -d /data/appendonlydir ] || mv /data/appendonlydir $old
  mv $new/appendonlydir /data/
  rm -rf $old' <"$file" || is_restored=false
$is_restored || printf 'restore: %s could not be loaded; sessions are as they were\n' "$file" >&2
"${compose[@]}" up --detach --no-build --wait valkey "${replicas[@]}"
$is_restored || exit 1
printf 'restore: done; clients whose sessions are at an earlier step now are told so\n'
