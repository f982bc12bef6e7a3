#!/usr/bin/env bash
# Build the service's image and run docker-compose.yml under a real Docker engine that this script
# starts for itself and stops again. Nothing is pulled: the base image, nginx, Valkey, Prometheus and the
# exporters are stand-ins made from Debian packages under the tags that the compose file names. Grafana has no
# stand-in and is not started.
#
# Needs root and: apt-get install docker.io mmdebstrap iproute2 iptables; and .venv-dev (make check).
# Stand-ins are kept in $CACHE; the first run takes minutes. Exit code 77: could not be tried here;
# with REQUIRE_ALL=1 that is a failure, 1. With WORK=folder the images stay there, and
# `WORK=folder deploy/compose_check.sh again` tries them again without building.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

CACHE=${CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/carry-compose-check}
MADE=
[ -n "${WORK:-}" ] || MADE=$(mktemp -d)
WORK=${WORK:-$MADE}
PYTHON_ROOT=$CACHE/python-1.tar
SERVICES_ROOT=$CACHE/services-1.tar
NGINX_ROOT=$CACHE/nginx-1.tar
EXPORTERS_ROOT=$CACHE/exporters-1.tar
CERTIFICATES=/etc/ssl/certs/ca-certificates.crt
export DOCKER_HOST=unix://$WORK/docker.sock DOCKER_BUILDKIT=1
export COMPOSE=$PWD/.venv-dev/bin/docker-compose DOCKER=/usr/bin/docker
export UP="front service valkey valkey-exporter node-exporter prometheus"

skip() {
  printf 'SKIP compose_check: %s\n' "$1" >&2
  [ "${REQUIRE_ALL:-}" != 1 ] || exit 1
  exit 77
}

main() {
  [ "$(id -u)" -eq 0 ] || skip "expected root, to start a Docker engine"
  for program in dockerd "$DOCKER" mmdebstrap unshare ip iptables "$COMPOSE"; do
    command -v "$program" >/dev/null || skip "$program is not installed"
  done
  trap 'stop_engine; [ -z "$MADE" ] || rm -rf "$MADE"' EXIT
  make_roots
  # Building needs the network of the machine; running needs a bridge, so a namespace of its own.
  start_engine --bridge=none --iptables=false --ip6tables=false --ip-masq=false --ip-forward=false
  import_stand_ins
  $DOCKER build --quiet --network host --file deploy/service.Dockerfile --tag carry-service:local .
  stop_engine
  again
}

again() {
  WORK=$WORK unshare --net --pid --fork --kill-child --mount --mount-proc bash "$0" inside
}

inside() {
  trap stop_engine EXIT
  [ -s deploy/secrets/valkey-password ] || make deploy/secrets/valkey-password
  ip link set lo up
  start_engine
  .venv-dev/bin/python deploy/compose_check.py
}

# Kept; a change of what one is made of needs a new number in its name.
make_roots() {
  mkdir -p "$CACHE"
  local ca=(--customize-hook="upload $CERTIFICATES $CERTIFICATES") pids=() pid
  make_root "$PYTHON_ROOT" bookworm "${ca[@]}" \
    --include=ca-certificates,python3,python3-venv,python3-pip,python-is-python3 & pids+=($!)
  make_root "$SERVICES_ROOT" trixie --include=valkey-server,valkey-tools,prometheus,wget \
    --customize-hook='install -d -o 999 -g 1000 "$1/data"' \
    --customize-hook='install -d -o 65534 -g 65534 "$1/prometheus"' & pids+=($!)
  make_root "$EXPORTERS_ROOT" trixie --include=prometheus-node-exporter,prometheus-redis-exporter,wget \
    --customize-hook='ln -s /usr/bin/prometheus-redis-exporter "$1/redis_exporter"' & pids+=($!)
  # The stable Debian has no nginx that can look its replicas up again (1.27.3).
  make_root "$NGINX_ROOT" forky --include=nginx-light,wget \
    --aptopt='Acquire::Check-Valid-Until "false"' & pids+=($!)
  for pid in "${pids[@]}"; do wait "$pid"; done
}

make_root() {
  local root=$1 suite=$2
  shift 2
  [ ! -s "$root" ] || return 0
  mmdebstrap --quiet --variant=minbase "$@" "$suite" "$root.part.tar"
  mv "$root.part.tar" "$root"
}

import_stand_ins() {
  $DOCKER import --change "ENV PIP_CERT=$CERTIFICATES" --change "ENV SSL_CERT_FILE=$CERTIFICATES" \
    "$PYTHON_ROOT" python:3.11-slim >/dev/null
  $DOCKER import "$NGINX_ROOT" "$(image nginx)" >/dev/null
  $DOCKER import --change 'VOLUME /data' "$SERVICES_ROOT" "$(image valkey/)" >/dev/null
  $DOCKER import --change 'ENTRYPOINT ["prometheus"]' "$SERVICES_ROOT" "$(image prom/prometheus)" >/dev/null
  $DOCKER import "$EXPORTERS_ROOT" "$(image oliver006/)" >/dev/null
  $DOCKER import --change 'ENTRYPOINT ["prometheus-node-exporter"]' "$EXPORTERS_ROOT" "$(image prom/node)" \
    >/dev/null
}

image() { awk -v name="image: $1" 'index($0, name) { print $2 }' docker-compose.yml; }

start_engine() {
  dockerd --data-root "$WORK/data" --exec-root "$WORK/exec" --pidfile "$WORK/docker.pid" \
    --host "$DOCKER_HOST" "$@" >"$WORK/dockerd.log" 2>&1 &
  for _ in $(seq 100); do
    "$DOCKER" version >/dev/null 2>&1 && return
    sleep 0.2
  done
  tail -n 5 "$WORK/dockerd.log" >&2
  skip "the Docker engine does not start here; its last words are above"
}

stop_engine() {
  [ -s "$WORK/docker.pid" ] || return 0
  local pid
  pid=$(cat "$WORK/docker.pid")
  kill "$pid" 2>/dev/null || return 0
  while kill -0 "$pid" 2>/dev/null; do sleep 0.1; done
}

"${1:-main}"
