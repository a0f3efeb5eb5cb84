#!/usr/bin/env bash
# make bench: the ratios of docs/performance.md. Starts a Docker Engine and a PostgreSQL of its own, builds
# everything, measures each side in turn, prints the tables, keeps them in test-results/bench.md, and cleans up.
#   --write      put the table into docs/performance.md
#   --small      small numbers of everything: shows that it runs, measures nothing
#   --pairs N    rounds of both sides (10)
#   --only NAME  create, start, memory, console, flood, seeded, ingest, can or databases; or simulation, which
#                is no part of the whole (make simulate; docs/scale.md, table in test-results/simulation.md)
set -euo pipefail
cd "$(dirname "$0")/../.."
. deploy/dev/lib.sh
page=docs/performance.md write= args=() only=
while [ $# -gt 0 ]; do
  case $1 in
    --write) write=yes ;;
    --small) args+=(-small) ;;
    --pairs) [ $# -gt 1 ] || die "--pairs needs a number"; args+=(-pairs "$2"); shift ;;
    --only) [ $# -gt 1 ] || die "--only needs a name"; only=/$2; shift ;;
    *) die "unknown argument $1" ;;
  esac
  shift
done
[ -z "$write" ] || [ -z "$only" ] || die "--write needs a whole run"
need_go
need_packages ps=procps
games= rows= # what the parts need: an engine with images and the web app; a PostgreSQL
case $only in
  "") games=yes rows=yes ;;
  /can | /databases | /simulation) rows=yes ;;
  *) games=yes ;;
esac
if [ -n "$games" ]; then
  need_packages dockerd=docker.io docker=docker.io iptables=iptables busybox=busybox-static ip=iproute2 curl=curl xz=xz-utils
  need_node
fi
[ -z "$rows" ] || need_postgres
work=$(mktemp -d /tmp/mamba-bench.XXXXXX)
mkdir -p test-results
table=$PWD/test-results/bench.md run="^TestBench\$$only"
[ "$only" != /simulation ] || table=$PWD/test-results/simulation.md run='^TestSimulation$'
postgres=$(mktemp -d /tmp/mamba-bench-postgres.XXXXXX) # not in $work, which only we may enter
chmod 0755 "$postgres"
cleanup() {
  trap '' INT TERM
  trap - EXIT
  set +e # no fault of one part keeps the next
  [ -z "$games" ] || stop_dockerd "$work/docker"
  stop_postgres "$postgres"
  rm -rf "$work" || true
}
trap cleanup EXIT
trap 'exit 130' INT TERM

if [ -n "$games" ]; then
  say "starting a Docker Engine for the measurements"
  start_dockerd "$work/docker"
  export MAMBA_TEST_DOCKER_HOST=$DOCKER_HOST
  say "building the web app and the game images"
  deploy/dev/web.sh
  deploy/images/luanti.sh
  deploy/images/minecraft-standin.sh
fi
if [ -n "$rows" ]; then
  say "starting a PostgreSQL that waits for its disk, as in use"
  start_postgres "$postgres" durable
fi
say "building the binaries"
make --no-print-directory go
export MAMBA_TEST_BIN=$PWD/bin
go test -tags bench -c -o "$work/bench.test" .

say "measuring; leave the machine alone meanwhile"
"$work/bench.test" -test.run "$run" -test.v -test.timeout 2h -out "$table" "${args[@]}" >"$work/log" 2>&1 ||
  { tail -60 "$work/log" >&2; die "the measurements broke off; what there is of them is in $table"; }
cat "$table"

# The table goes between the two marks of the page.
if [ -n "$write" ]; then
  awk -v table="$table" '
    /^<!-- bench:begin -->$/ {print; print ""; while ((getline line < table) > 0) print line; print ""; inside = 1; next}
    /^<!-- bench:end -->$/ {inside = 0}
    !inside' "$page" >"$work/page"
  cat "$work/page" >"$page"
  say "wrote $page"
fi
