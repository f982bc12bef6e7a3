#!/usr/bin/env bash
# Build the service's image and run docker-compose.yml under a real Docker engine that this script
# starts for itself and stops again. Nothing is pulled: the base image, Valkey and Prometheus are
# stand-ins made from Debian packages under the tags that the compose file names. Grafana has no
# stand-in and is not started.
#
# Needs root and: apt-get install docker.io mmdebstrap iproute2 iptables; and .venv-dev (make check).
# Stand-ins are kept in $CACHE; the first run takes minutes. Exit code 77: could not be tried here.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

CACHE=${CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/carry-compose-check}
WORK=${WORK:-$(mktemp -d)}
CERTIFICATES=/etc/ssl/certs/ca-certificates.crt
export DOCKER_HOST=unix://$WORK/docker.sock DOCKER_BUILDKIT=1
export COMPOSE=$PWD/.venv-dev/bin/docker-compose DOCKER=/usr/bin/docker
export UP="service valkey prometheus"

skip() { printf 'SKIP compose_check: %s\n' "$1" >&2; exit 77; }

main() {
  [ "$(id -u)" -eq 0 ] || skip "expected root, to start a Docker engine"
  for program in dockerd "$DOCKER" mmdebstrap unshare ip iptables "$COMPOSE"; do
    command -v "$program" >/dev/null || skip "$program is not installed"
  done
  trap 'stop_engine; rm -rf "$WORK"' EXIT
  make_roots
  # Building needs the network of the machine; running needs a bridge, so a namespace of its own.
  start_engine --bridge=none --iptables=false --ip6tables=false --ip-masq=false --ip-forward=false
  import_stand_ins
  $DOCKER build --quiet --network host --file deploy/service.Dockerfile --tag carry-service:local .
  stop_engine
  WORK=$WORK unshare --net --pid --fork --kill-child --mount --mount-proc bash "$0" inside
}

inside() {
  trap stop_engine EXIT
  ip link set lo up
  start_engine
  .venv-dev/bin/python deploy/compose_check.py
}

make_roots() {
  mkdir -p "$CACHE"
  [ -s "$CACHE/python.tar" ] || mmdebstrap --quiet --variant=minbase \
    --include=ca-certificates,python3,python3-venv,python3-pip,python-is-python3 \
    --customize-hook="upload $CERTIFICATES $CERTIFICATES" \
    bookworm "$CACHE/python.tar"
  [ -s "$CACHE/services.tar" ] || mmdebstrap --quiet --variant=minbase \
    --include=ca-certificates,valkey-server,valkey-tools,prometheus,wget \
    --customize-hook='install -d -o 999 -g 1000 "$1/data"' \
    --customize-hook='install -d -o 65534 -g 65534 "$1/prometheus"' \
    trixie "$CACHE/services.tar"
}

import_stand_ins() {
  local valkey prometheus
  valkey=$(awk '/image: valkey/ { print $2 }' docker-compose.yml)
  prometheus=$(awk '/image: prom/ { print $2 }' docker-compose.yml)
  $DOCKER import --change "ENV PIP_CERT=$CERTIFICATES" --change "ENV SSL_CERT_FILE=$CERTIFICATES" \
    "$CACHE/python.tar" python:3.11-slim >/dev/null
  $DOCKER import --change 'VOLUME /data' "$CACHE/services.tar" "$valkey" >/dev/null
  $DOCKER import --change 'ENTRYPOINT ["prometheus"]' "$CACHE/services.tar" "$prometheus" >/dev/null
}

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
