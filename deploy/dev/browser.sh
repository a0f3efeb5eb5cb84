#!/usr/bin/env bash
# Runs the browser journeys of pb_public/e2e against a real panel with a local node, a real Docker
# Engine and a real SMTP server. usage: browser.sh WORKDIR RESULTS [postgres] ; DOCKER_HOST names the engine.
# With "postgres" the panel is on a new database of the server of MAMBA_TEST_POSTGRES, and only the main
# journey is walked, without axe: the pages are the same.
set -euo pipefail
cd "$(dirname "$0")/../.."
. deploy/dev/lib.sh
name=browser db=() only=() journeys=(pb_public/e2e/*.test.mjs)
if [ "${3:-}" = postgres ]; then
  name=browser-postgres db=(--db "$(fresh_database browser)") only=(--test-name-pattern '^T30 sign up') journeys=(pb_public/e2e/journey.test.mjs)
  export E2E_AXE=0
fi
work=$1/$name results=$2
mkdir -p "$work"
port() { node -e 'const s=require("net").createServer();s.listen(0,"127.0.0.1",()=>{console.log(s.address().port);s.close()})'; }
stop_panel() {
  local ids
  if [ -n "${panel:-}" ]; then kill -TERM "$panel" 2>/dev/null || true; wait "$panel" 2>/dev/null || true; fi
  panel=
  ids=$(docker ps -aq --filter label=host.mamba.server) || true
  [ -z "$ids" ] || docker rm -f $ids >/dev/null || true
}
cleanup() {
  trap '' INT TERM
  trap - EXIT
  set +e # no fault of one part keeps the next
  stop_panel
  exec 8>&- 2>/dev/null || true
  [ -n "${catcher:-}" ] && wait "$catcher" 2>/dev/null
  return 0
}
trap cleanup EXIT

go build -o "$work/mailcatch" ./deploy/dev/mailcatch/cmd
mkfifo "$work/stdin"
"$work/mailcatch" <"$work/stdin" >"$work/mail" & catcher=$!
exec 8>"$work/stdin" # it ends when this closes
until [ "$(wc -l <"$work/mail")" -ge 2 ]; do kill -0 "$catcher" || die "the mail catcher ended"; sleep 0.05; done
smtp=$(sed -n 1p "$work/mail") mail=$(sed -n 2p "$work/mail")

start_panel() { # JOURNEY
  local log=$results/$name-$1.log tries=0
  http=127.0.0.1:$(port) node_port=$(port)
  bin/mambahost serve --dir "$work/$1/pb_data" --http "$http" --node-listen "127.0.0.1:$node_port" --smtp "$smtp" \
    "${db[@]}" --local-node --node-ports 21000-21099 >"$log" 2>&1 & panel=$!
  until curl -fsS "http://$http/api/health" >/dev/null 2>&1; do
    kill -0 "$panel" || { tail -20 "$log" >&2; die "the panel ended"; }
    tries=$((tries + 1)); [ $tries -lt 300 ] || die "the panel did not answer within 60 s"
    sleep 0.2
  done
  [ ${#db[@]} -eq 0 ] || curl -fsS "http://$http/api/v1/status" | grep -q '"kind":"PostgreSQL"' || die "the panel is not on PostgreSQL"
}

# The node's ports are below those that the system gives connections (net.ipv4.ip_local_port_range), so that none of these has one.
# Each journey has a panel of its own: one network makes at most three accounts in an hour (hooks/access/limit.go).
: >"$results/$name.txt"
status=0
for journey in "${journeys[@]}"; do
  part=$(basename "$journey" .test.mjs)
  start_panel "$part"
  E2E_BASE_URL=http://$http E2E_MAIL_URL=$mail E2E_RESULTS=$results E2E_DATA=$work/$part/pb_data \
    node --test --test-reporter=tap "${only[@]}" "$journey" | tee -a "$results/$name.txt" || status=1
  stop_panel
done
exit $status
