#!/usr/bin/env bash
# make conformance: PocketBase's own test suites, from its module, on PostgreSQL. Fails when a case
# fails that collections/postgres/conformance/expected.txt does not list, or when a listed one passes.
set -euo pipefail
cd "$(dirname "$0")/../.."
. deploy/dev/lib.sh
need_go
need_postgres
if [ -z "${MAMBA_TEST_POSTGRES:-}" ]; then
  dir=$(mktemp -d /tmp/mamba-postgres.XXXXXX)
  trap 'stop_postgres "$dir"' EXIT
  start_postgres "$dir"
fi
go test -tags conformance -count=1 -timeout 120m -v ./collections/postgres/conformance -run 'TestPocketBaseSuites$'
