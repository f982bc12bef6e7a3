#!/usr/bin/env bash
# All sessions of the running Valkey as they are at one moment, while it serves: deploy/backup.sh FILE
set -euo pipefail
file=$(realpath "${1:?expected: deploy/backup.sh FILE}")
cd "$(dirname "${BASH_SOURCE[0]}")/.."
read -ra compose <<<"${COMPOSE:-docker compose}"

"${compose[@]}" exec -T valkey sh -euc '
  export REDISCLI_AUTH=$(cat /run/secrets/valkey_password)
  trap "rm -f /data/backup.rdb" EXIT
  valkey-cli --rdb /data/backup.rdb >&2
  cat /data/backup.rdb' >"$file.part"
[ "$(head -c 6 "$file.part")" = VALKEY ] || [ "$(head -c 5 "$file.part")" = REDIS ] || {
  printf "backup: no snapshot came\n" >&2
  exit 1
}
mv "$file.part" "$file"
printf 'backup: %s bytes in %s\n' "$(stat -c %s "$file")" "$file"
