#!/usr/bin/env bash
# Replace the replicas of docker-compose.yml one after another: a new one is started and well before an
# old one finishes its requests and goes. Nobody notices but clients whose connection is closed.
#
#   deploy/roll.sh [service | service-gpu]      after `docker compose build`, or a change of settings
#
# Where a new one does not become well it is taken away again, all old ones stay, and this exits 1.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
name=${1:-service}
read -ra compose <<<"${COMPOSE:-docker compose}"
docker=${DOCKER:-docker}
grace_s=30 # stop_grace_period

containers() { "${compose[@]}" ps --quiet "$name" | sort; }

mapfile -t old < <(containers)
[ "${#old[@]}" -gt 0 ] || { printf 'roll: no replica of %s runs: make up\n' "$name" >&2; exit 2; }
for container in "${old[@]}"; do
  before=$(containers)
  if ! "${compose[@]}" up --detach --no-build --no-deps --no-recreate --wait \
    --scale "$name=$((${#old[@]} + 1))" "$name"; then
    comm -13 <(printf '%s\n' "$before") <(containers) | xargs -r "$docker" rm --force >/dev/null
    printf 'roll: the new replica is not well and was removed; the others serve on\n' >&2
    exit 1
  fi
  "$docker" stop --time "$grace_s" "$container" >/dev/null
  "$docker" rm "$container" >/dev/null
  printf 'roll: %.12s is replaced\n' "$container"
done
