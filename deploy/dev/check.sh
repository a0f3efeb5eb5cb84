#!/usr/bin/env bash
# make check: format, vet, lint, import rules and the unit tests that need no Docker.
set -euo pipefail
cd "$(dirname "$0")/../.."
. deploy/dev/lib.sh
need_go
lint=$1
say vet; go vet ./...; go vet -tags bench . # measurements are built here only, and by make bench
say lint
tool=.cache/tools/golangci-lint-${lint##*@}
[ -x "$tool" ] || { mkdir -p .cache/tools; GOBIN=$PWD/.cache/tools go install "$lint"; mv .cache/tools/golangci-lint "$tool"; }
"$tool" run ./... # formatting included
say "unit tests, beside those of the web app where its packages are"
web= log=$(mktemp)
trap 'rm -f "$log"' EXIT
if [ -d pb_public/node_modules ]; then (cd pb_public && npm run --silent check) >"$log" 2>&1 & web=$!; fi
status=0
# -short: a fifth of the cases of the properties, all of which make test runs. Packages that wait for something leave
# the processors to others, so there are more at once than processors.
go test -short -p $(($(nproc) * 2)) $(go list ./... | grep -vE '/mamba$|/wings/(agent|engine.*)$|/deploy/images$') || status=1
if [ -n "$web" ]; then wait "$web" || { tail -60 "$log"; status=1; }; fi
exit "$status"
