#!/usr/bin/env bash
# make run: installs what is missing, builds, and starts panel, node and demo on this machine.
# Ctrl-C ends what this started and nothing else. Data stays in mamba_data.
set -euo pipefail
cd "$(dirname "$0")/../.."
. deploy/dev/lib.sh
need_go
need_packages curl=curl make=make
data=${MAMBA_DATA:-$PWD/mamba_data}
mkdir -p "$data"
own_engine=
cleanup() {
  trap - EXIT INT TERM
  [ -n "${panel:-}" ] && { kill -TERM "$panel" 2>/dev/null; wait "$panel" 2>/dev/null; }
  stop_games
  [ -n "$own_engine" ] && stop_engine
  say "stopped; the data is in ${data/#$PWD\//}, 'make run' goes on from there"
}
# The games of this run end with it; their containers stay, so that the next run starts them again.
stop_games() {
  local node ids
  [ -f "$data/wings/identity.json" ] || return 0
  node=$(sed -n 's/.*"node_id": *"\([a-z0-9]*\)".*/\1/p' "$data/wings/identity.json")
  [ -n "$node" ] || return 0
  ids=$(docker ps -q --filter "label=host.mamba.node=$node" 2>/dev/null)
  [ -n "$ids" ] && { say "stopping the games"; docker stop -t 10 $ids >/dev/null; }
  return 0
}
stop_engine() {
  as_root kill "$(cat "$data/docker/docker.pid")" 2>/dev/null || true
  wait "$DOCKERD_JOB" 2>/dev/null || true
  awk -v d="$data/docker/" 'index($2, d) == 1 {print $2}' /proc/mounts | sort -r | while read -r m; do as_root umount "$m" 2>/dev/null || true; done
}
trap cleanup EXIT
trap 'exit 130' INT TERM

if ! docker_answers; then
  need_packages dockerd=docker.io iptables=iptables docker=docker.io
  if ! docker_answers && [ -d /run/systemd/system ]; then as_root systemctl start docker || true; fi
  if ! docker_answers; then
    say "starting a Docker Engine for this run"
    own_engine=yes
    start_dockerd "$data/docker"
  fi
fi
deploy/dev/web.sh
say "building mambahost and wings"
make --no-print-directory go
say "starting"
bin/mambahost serve --dir "$data/pb_data" --local-node --demo "$@" &
panel=$!
wait "$panel"
