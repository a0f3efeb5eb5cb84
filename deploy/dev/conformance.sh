#!/usr/bin/env bash
# make conformance: PocketBase's own test suites, from its module, on PostgreSQL. Fails when a case
# fails that collections/postgres/conformance/expected.txt does not list, when a listed one passes, and when
# a suite breaks off. The outputs of the failing cases are in test-results/conformance.
set -euo pipefail
cd "$(dirname "$0")/../.."
. deploy/dev/lib.sh
need_go
need_postgres
if [ -z "${MAMBA_TEST_POSTGRES:-}" ]; then
  # In memory where there is enough: some 1,400 databases of 300 files each are made and dropped.
  parent=/tmp
  [ "$(df --output=avail -BG /dev/shm 2>/dev/null | tr -dc '0-9')" -ge 4 ] 2>/dev/null && parent=/dev/shm
  dir=$(mktemp -d "$parent/mamba-postgres.XXXXXX")
  trap 'stop_postgres "$dir"' EXIT
  start_postgres "$dir"
fi
go test -tags conformance -count=1 -timeout 120m -v ./collections/postgres/conformance -run 'TestPocketBaseSuites$'
