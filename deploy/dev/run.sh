#!/usr/bin/env bash
# make run: installs what is missing, builds, and starts panel, node and demo on this machine.
# Ctrl-C ends what this started and nothing else. Data stays in mamba_data.
# Arguments and MAMBA_* variables go to the panel. MAMBA_DATA is another folder for the data.
set -euo pipefail
cd "$(dirname "$0")/../.."
. deploy/dev/lib.sh
data=$(realpath -m "${MAMBA_DATA:-mamba_data}")
shown=${data/#$PWD\//}
own_engine= up=

# The games of this run end with it; their containers stay, so that the next run starts them again.
stop_games() {
  local node ids
  node=$(sed -n 's/.*"node_id": *"\([a-z0-9]*\)".*/\1/p' "$data/wings/identity.json" 2>/dev/null)
  [ -n "$node" ] && ids=$(docker ps -q --filter "label=host.mamba.node=$node" 2>/dev/null) && [ -n "$ids" ] || return 0
  say "stopping the games"
  docker stop -t 30 $ids >/dev/null
}

# finish ends everything in its order. Nothing may break it off, and no fault of one part keeps the next.
finish() {
  local status=$?
  trap '' INT TERM HUP
  trap - EXIT
  set +e
  [ -n "${panel:-}" ] && { kill -TERM "$panel" 2>/dev/null; wait "$panel" 2>/dev/null; }
  stop_games
  [ -n "$own_engine" ] && end_dockerd "$data/docker"
  [ -n "${catcher:-}" ] && { exec 8>&-; wait "$catcher" 2>/dev/null; }
  [ -z "$up" ] || say "stopped; the data is in $shown, 'make run' goes on from there"
  exit "$status"
}

# mails starts a mail server that keeps what the panel sends and shows it, unless there is one to use.
mails() {
  [ -z "${MAMBA_SMTP:-}" ] || return 0
  rm -f "$data/mail"; mkfifo "$data/mail"
  alone .cache/tools/mailcatch --http 127.0.0.1:8025 <"$data/mail" >"$data/mail.addr" 2>"$data/mail.log" 8>&- 9>&- & catcher=$!
  exec 8>"$data/mail" # it ends when this closes
  rm -f "$data/mail"
  local tries=0
  until [ "$(wc -l <"$data/mail.addr")" -ge 2 ]; do
    kill -0 "$catcher" 2>/dev/null || { cat "$data/mail.log" >&2; die "the mail server ended"; }
    tries=$((tries + 1)); [ $tries -lt 100 ] || die "the mail server did not start within 5 s"
    sleep 0.05
  done
  MAMBA_SMTP=$(sed -n 1p "$data/mail.addr") MAMBA_DEMO_MAIL=$(sed -n 2p "$data/mail.addr")
  export MAMBA_SMTP MAMBA_DEMO_MAIL
}

build() {
  need_go
  need_packages make=make curl=curl
  deploy/dev/web.sh
  say "building mambahost and wings$([ -x bin/mambahost ] || echo " (the first time takes a few minutes)")"
  make --silent --no-print-directory go
  go build -o .cache/tools/mailcatch ./deploy/dev/mailcatch/cmd
}

# engine makes a Docker Engine answer: the one there is, the distribution's service, or one of our own.
engine() {
  docker_answers && return
  [ -z "${DOCKER_HOST:-}" ] || die "no Docker Engine answers at DOCKER_HOST=$DOCKER_HOST; start it, or unset DOCKER_HOST to let us start one"
  need_packages dockerd=docker.io docker=docker.io iptables=iptables
  if [ -d /run/systemd/system ] && ! docker_answers; then systemctl start docker || true; fi
  docker_answers && return
  say "starting a Docker Engine for this run"
  own_engine=yes
  start_dockerd "$data/docker" 9>&-
}

if [ "${1:-}" = --built ]; then shift; else build; fi
if [ "$(id -u)" != 0 ]; then # games run as users of their own, in folders that are theirs: wings needs root for that
  command -v sudo >/dev/null || die "games need root to run, and there is no sudo: run 'make run' as root"
  say "asking for root, which the node daemon and Docker need"
  exec sudo --preserve-env="$(IFS=,; echo "${!MAMBA_*}${DOCKER_HOST:+,DOCKER_HOST}")" deploy/dev/run.sh --built "$@"
fi
mkdir -p "$data"
exec 9>"$data/run.lock"
flock -n 9 || die "'make run' is running already with the data in $shown; stop that one with Ctrl-C first"
trap finish EXIT
trap '[ -n "$up" ] && exit 0; exit 130' INT TERM HUP
engine
mails
say "starting; the log is in $shown/panel.log"
up=yes
alone bin/mambahost serve --dir "$data/pb_data" --local-node --demo "$@" 2>"$data/panel.log" 8>&- 9>&- & panel=$!
if wait "$panel"; then status=0; else status=$?; fi
up=
tail -20 "$data/panel.log" >&2
die "the panel ended (status $status); above is the end of $shown/panel.log"
