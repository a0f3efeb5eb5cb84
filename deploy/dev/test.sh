#!/usr/bin/env bash
# make test: the whole suite on real parts. Starts a Docker Engine of its own, builds the game images,
# runs the Go tests, the web app's unit tests and the browser journeys, and cleans up after itself.
# The last line says how many passed and failed.
set -euo pipefail
cd "$(dirname "$0")/../.."
. deploy/dev/lib.sh
need_go
need_packages dockerd=docker.io docker=docker.io iptables=iptables chromium=chromium busybox=busybox-static ip=iproute2 curl=curl xz=xz-utils sqlite3=sqlite3
need_node
need_postgres
work=$(mktemp -d /tmp/mamba-test.XXXXXX)
netns=mamba-test-$$ # the engine, its ports and whoever talks to them are in a network of their own
postgres=$(mktemp -d /tmp/mamba-postgres.XXXXXX) # a socket: reached from any network
results=$PWD/test-results
rm -rf "$results"; mkdir -p "$results"
passed=0 failed=0
cleanup() {
  trap '' INT TERM
  trap - EXIT
  set +e # no fault of one part keeps the next
  stop_dockerd "$work/docker" "$netns"
  stop_postgres "$postgres"
  rm -rf "$work" || true
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# tally NAME PASSED FAILED adds a suite to the sum and says how it went.
tally() { passed=$((passed + $2)); failed=$((failed + $3)); printf '%-28s %5d passed %5d failed\n' "$1" "$2" "$3"; }

say "starting a Docker Engine for the tests"
start_dockerd "$work/docker" "$netns"
export MAMBA_TEST_DOCKER_HOST=$DOCKER_HOST
say "starting a PostgreSQL for the tests"
start_postgres "$postgres"

say "building the web app and the binaries"
deploy/dev/web.sh
make --no-print-directory go
export MAMBA_TEST_BIN=$PWD/bin

say "building the game images"
deploy/images/luanti.sh
deploy/images/minecraft-standin.sh

say "Go tests"
sum=$PWD/.cache/tools/gotestsum-v1.13.0
[ -x "$sum" ] || { mkdir -p .cache/tools; GOBIN=$PWD/.cache/tools go install gotest.tools/gotestsum@v1.13.0; mv .cache/tools/gotestsum "$sum"; }
go mod download # the network of the tests leads nowhere
longest=25m # of a package
[ -z "${MAMBA_NIGHTLY:-}" ] || longest=3h
# go_tests NAME FILE PACKAGE... runs the tests of the packages and adds them to the sum.
go_tests() {
  local name=$1 file=$2 status failures; shift 2
  set +e
  in_netns "$netns" "$sum" --format pkgname --jsonfile "$results/$file.json" --junitfile "$results/$file.xml" -- -timeout "$longest" "$@" | tee "$results/$file.txt"
  status=${PIPESTATUS[0]}
  set -e
  count() { { grep -c "\"Action\":\"$1\",\"Package\":\"[^\"]*\",\"Test\"" "$results/$file.json" || true; }; }
  failures=$(count fail)
  [ "$status" -eq 0 ] || [ "$failures" -gt 0 ] || failures=1 # a package that does not build has no test
  tally "$name" "$(count pass)" "$failures"
}
go_tests "Go" go ./...

say "the rooms on PostgreSQL"
rooms=$(grep -rl --include='*_test.go' collections/collectionstest collections hooks | xargs -n1 dirname | sort -u | sed 's|^|./|')
export MAMBA_TEST_DB=postgres
go_tests "rooms on PostgreSQL" postgres $rooms
# A panel is restored from a copy of SQLite's file; what is restored on PostgreSQL is the server's own.
[ -z "${MAMBA_NIGHTLY:-}" ] || go_tests "panels on PostgreSQL" panels-postgres -skip '^TestAPanelRestoredFromABackupDeletesNothing$' .
unset MAMBA_TEST_DB

say "web app"
set +e
(cd pb_public && npm run --silent check:static && npx vitest run --reporter=json --outputFile="$results/web.json") >"$results/web.txt" 2>&1
status=$?
set -e
[ "$status" -eq 0 ] || tail -40 "$results/web.txt"
read -r p f < <(node -e 'try{const r=require(process.argv[1]);console.log(r.numPassedTests,r.numFailedTests+(r.numTotalTests?0:1))}catch{console.log(0,1)}' "$results/web.json")
[ "$status" -eq 0 ] || [ "$f" -gt 0 ] || f=1
tally "web app" "$p" "$f"

# browser_tests NAME FILE [postgres] walks the journeys and adds them to the sum.
browser_tests() {
  local name=$1 file=$2 status p f; shift 2
  set +e
  in_netns "$netns" deploy/dev/browser.sh "$work" "$results" "$@"
  status=$?
  set -e
  read -r p f < <(awk '/^# pass /{p+=$3} /^# fail /{f+=$3} END{print p+0, f+0}' "$results/$file.txt") || { p=0 f=1; } # it ended before the first
  [ "$status" -eq 0 ] || [ "$f" -gt 0 ] || f=1
  tally "$name" "$p" "$f"
}
say "browser journeys"
browser_tests "browser" browser
say "the main journey on PostgreSQL"
browser_tests "browser on PostgreSQL" browser-postgres postgres

if [ -n "${MAMBA_NIGHTLY:-}" ]; then
  say "PocketBase's own suites on PostgreSQL"
  if deploy/dev/conformance.sh 2>&1 | tee "$results/conformance.txt"; then tally "conformance" 1 0; else tally "conformance" 0 1; fi
  say "make bench, in small: that it runs"
  if deploy/dev/bench.sh --small --pairs 1 >"$results/bench.txt" 2>&1; then tally "bench" 1 0; else tail -40 "$results/bench.txt"; tally "bench" 0 1; fi
fi

left=$(docker ps -aq --filter label=host.mamba.server | wc -l)
[ "$left" -eq 0 ] || { echo "left behind: $left containers"; failed=$((failed + 1)); }
printf '%d passed, %d failed\n' "$passed" "$failed" | tee "$results/sum.txt"
[ "$failed" -eq 0 ]
